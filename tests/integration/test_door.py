#!/usr/bin/env python3
"""The gateway's door as curl meets it: HTTP/1.1 and HTTP/2 on one port, TLS with a certificate that is renewed, mutual TLS, and two gateways behind one address that are restarted under load.

    tests/integration/test_door.py        uses build/bin or $GENLOOP_BIN; about half a minute"""
import http.client
import os
import signal
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from testbed import Platform, Suite, binary, clean_environment, equal, expect, finish, free_port, short, wait_for  # noqa: E402


class Gateway:
    """One more gateway of a platform, beside the supervised one."""

    def __init__(self, platform, name, port, **settings):
        self.port, self.log = port, os.path.join(platform.home, f"{name}.stderr")
        environment = {**clean_environment(platform.home), "GENLOOP_INSTANCE": name, "GENLOOP_GATEWAY_LISTEN": f"127.0.0.1:{port}", **{f"GENLOOP_GATEWAY_{k.upper()}": v for k, v in settings.items()}}
        self.process = subprocess.Popen([binary("genloop-gateway"), "--config", os.path.join(platform.home, "genloop.yaml")], env=environment, stderr=open(self.log, "w"))

    def ready(self, curl):
        wait_for(f"the gateway on {self.port} is ready", lambda: curl("/readyz") == "200", 60, 0.05)

    def end(self, patience_s=60):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(patience_s)

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def curl(*words, check=True):
    done = subprocess.run(["curl", "-sS", "--max-time", "60", *words], capture_output=True, text=True)
    expect(not check or done.returncode == 0, f"curl {' '.join(words)}: {done.stderr}")
    return done.stdout if done.returncode == 0 else None


def openssl(*words):
    done = subprocess.run(["openssl", *words], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    expect(done.returncode == 0, f"openssl {' '.join(words)}: {done.stderr}")
    return done.stdout


class Load:
    """Clients that ask all the time and never repeat a request: some on connections that they keep, some on new ones, one that speaks HTTP/2 (under TLS: Debian 12's curl cannot use a
    connection of prior knowledge twice, whoever the server is)."""

    def __init__(self, port, secure_port, authority):
        self.port, self.secure_port, self.authority, self.stopping, self.lock = port, secure_port, authority, threading.Event(), threading.Lock()
        self.done, self.failed = 0, []
        self.threads = [threading.Thread(target=f) for f in (self.keeping, self.keeping, self.keeping, self.fresh, self.fresh, self.http2)]
        for t in self.threads:
            t.start()

    def note(self, why):
        with self.lock:
            self.done += why is None
            if why is not None:
                self.failed.append(short(why, 200))

    def ask(self, connection):
        try:
            connection.request("GET", "/v1/models")
            answer = connection.getresponse()
            answer.read()
            self.note(None if answer.status == 200 else f"HTTP {answer.status}")
        except Exception as problem:  # each of them is what this counts
            self.note(f"{type(problem).__name__}: {problem}")
            connection.close()

    def keeping(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        while not self.stopping.is_set():
            self.ask(connection)
            time.sleep(0.002)
        connection.close()

    def fresh(self):
        while not self.stopping.is_set():
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
            self.ask(connection)
            connection.close()

    def http2(self):
        urls = [f"https://localhost:{self.secure_port}/v1/models?{i}" for i in range(100)]
        while not self.stopping.is_set():
            done = subprocess.run(["curl", "-sS", "--max-time", "60", "--cacert", self.authority, *[word for url in urls for word in ("-o", "/dev/null", url)], "-w", "%{http_version} %{http_code}\n"], capture_output=True, text=True)
            for line in done.stdout.splitlines():
                self.note(None if line == "2 200" else f"HTTP/2: {line} {done.stderr}")

    def stop(self):
        self.stopping.set()
        for t in self.threads:
            t.join(90)


class Door:
    def __init__(self, platform):
        self.p, self.others = platform, []
        self.file = lambda name: os.path.join(platform.home, name)

    def another(self, name, port, **settings):
        g = Gateway(self.p, name, port, **settings)
        self.others.append(g)
        return g

    def one_port(self):
        said = []
        for words, version in (([], "1.1"), (["--http2-prior-knowledge"], "2"), (["--http1.0"], "1.1"), (["--http2"], "1.1")):  # an answer to 1.0 says 1.1; an Upgrade is not followed
            got = curl(*words, "-o", "/dev/null", "-w", "%{http_version} %{http_code}", f"{self.p.url}/v1/models")
            equal(got, f"{version} 200", f"curl {' '.join(words)}")
            said.append(got)
        refused = curl("--http2-prior-knowledge", "-H", "content-type: application/json", "-d", "{}", "-w", " %{http_version} %{http_code}", f"{self.p.url}/v1/chat/completions")
        expect(refused.endswith(" 2 400") and "invalid_request_error" in refused, refused)
        return "; ".join(said)

    def certificate(self, name, serial):
        """A certificate that the authority signs, each file put in place at once."""
        openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", self.file(f"{name}.key.new"), "-out", self.file(f"{name}.csr"), "-subj", f"/CN={name}")
        with open(self.file("extensions"), "w") as f:
            f.write("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
        openssl("x509", "-req", "-in", self.file(f"{name}.csr"), "-CA", self.file("ca.pem"), "-CAkey", self.file("ca.key"), "-set_serial", str(serial), "-days", "1", "-extfile", self.file("extensions"), "-out", self.file(f"{name}.pem.new"))
        for kind in ("key", "pem"):
            os.rename(self.file(f"{name}.{kind}.new"), self.file(f"{name}.{kind}"))

    def tls(self):
        openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", self.file("ca.key"), "-out", self.file("ca.pem"), "-days", "1", "-subj", "/CN=authority")
        self.certificate("server", 17)
        self.certificate("client", 18)
        self.secure = self.another("gateway-tls", free_port(), tls_certificate=self.file("server.pem"), tls_key=self.file("server.key"))
        url = f"https://localhost:{self.secure.port}"
        ask = lambda *words, check=True: curl("--cacert", self.file("ca.pem"), *words, "-o", "/dev/null", "-w", "%{http_version} %{http_code}", f"{url}/v1/models", check=check)  # noqa: E731
        self.secure.ready(lambda path: curl("-k", "-o", "/dev/null", "-w", "%{http_code}", url + path, check=False))
        equal(ask(), "2 200", "by ALPN")
        equal(ask("--http1.1"), "1.1 200", "HTTP/1.1")
        equal(ask("--tls-max", "1.2"), "2 200", "TLS 1.2")
        equal(ask("--tls-max", "1.1", "--tlsv1.0", check=False), None, "TLS 1.1")
        return "HTTP/2 and HTTP/1.1 with TLS 1.3 and 1.2, 1.1 refused"

    def serial(self):
        said = subprocess.run(["openssl", "s_client", "-connect", f"127.0.0.1:{self.secure.port}"], capture_output=True, text=True, stdin=subprocess.DEVNULL).stdout
        shown = subprocess.run(["openssl", "x509", "-noout", "-serial"], input=said, capture_output=True, text=True).stdout
        return int(shown.strip().partition("=")[2] or "0", 16)

    def renewal(self):
        equal(self.serial(), 17, "before")
        self.certificate("server", 99)
        wait_for("the new certificate is shown", lambda: self.serial() == 99, 60, 0.2)
        expect(self.secure.process.poll() is None, "the gateway has ended")
        return "serial 17, then 99, without a restart"

    def mutual(self):
        g = self.another("gateway-mutual", free_port(), tls_certificate=self.file("server.pem"), tls_key=self.file("server.key"), tls_client_ca=self.file("ca.pem"))
        url = f"https://localhost:{g.port}"
        shown = ["--cert", self.file("client.pem"), "--key", self.file("client.key")]
        g.ready(lambda path: curl("--cacert", self.file("ca.pem"), *shown, "-o", "/dev/null", "-w", "%{http_code}", url + path, check=False))
        equal(curl("--cacert", self.file("ca.pem"), "-o", "/dev/null", "-w", "%{http_code}", url + "/livez", check=False), None, "without a certificate")
        return "who shows none is refused"

    def wrong(self):
        said = []
        for settings, words in (({"tls_certificate": "/nowhere.pem", "tls_key": "/nowhere.key"}, "/nowhere.pem"), ({"tls_certificate": self.file("server.pem")}, "gateway.tls_key"),
                                ({"tls_certificate": self.file("server.pem"), "tls_key": self.file("client.key")}, "client.key"), ({"tls_client_ca": self.file("ca.pem")}, "gateway.tls_certificate")):
            g = self.another("gateway-wrong", free_port(), **settings)
            code = g.process.wait(60)
            with open(g.log) as f:
                text = f.read()
            expect(code != 0 and words in text, f"{settings}: exit {code}, {short(text, 300)}")
            said.append(words)
        return f"each names {', '.join(said)}"

    def restarts(self):
        """The supervised gateway and one beside it on the platform's port, two more on a port with TLS: each is restarted in its turn, and no client fails."""
        files = {"tls_certificate": self.file("server.pem"), "tls_key": self.file("server.key")}
        secure = free_port()
        begin = {name: lambda name=name, port=port, more=more: self.another(name, port, reuse_port="true", **more) for name, port, more in
                 (("gateway-2", self.p.port, {}), ("gateway-3", secure, files), ("gateway-4", secure, files))}

        def both():
            for g in running.values():
                expect(g.process.poll() is None, f"a gateway has ended: {short(open(g.log).read(), 300)}")
            return self.listeners(self.p.port) == 2 and self.listeners(secure) == 2
        running = {name: start() for name, start in begin.items()}
        wait_for("all four listen", both, 60, 0.05)
        time.sleep(1)  # and have caught up with the registry
        load = Load(self.p.port, secure, self.file("ca.pem"))
        try:
            def more(n):
                goal = load.done + n
                wait_for("the clients go on", lambda: load.done >= goal or load.failed, 120, 0.02)
            more(200)
            for _ in range(2):
                for name, start in begin.items():
                    equal(running[name].end(), 0, f"exit of {name}")
                    more(100)
                    running[name] = start()
                    wait_for("all four listen again", both, 60, 0.05)
                    more(100)
            pid = self.p.processes()["gateway"]["pid"]
            os.kill(pid, signal.SIGTERM)  # the supervised one: the supervisor starts it again
            self.p.wait_ready("gateway", not_pid=pid, patience_s=60)
            more(200)
        finally:
            load.stop()
        expect(not load.failed, f"{len(load.failed)} of {load.done + len(load.failed)} failed, e.g. {load.failed[:3]}")
        return f"seven restarts, {load.done} answers, none failed"

    @staticmethod
    def listeners(port):
        wanted = f"0100007F:{port:04X}"
        with open("/proc/net/tcp") as f:
            return sum(line.split()[1] == wanted and line.split()[3] == "0A" for line in f.readlines()[1:])


def main():
    suite = Suite()
    with Platform(config={"gateway": {"reuse_port": True}}) as p:
        t = Door(p)
        try:
            suite.run("one_port", t.one_port)
            tls = suite.run("tls", t.tls)
            suite.run("renewal", t.renewal, needs=[tls])
            suite.run("mutual_tls", t.mutual, needs=[tls])
            suite.run("wrong_files", t.wrong, needs=[tls])
            suite.run("restarts_lose_nothing", t.restarts, needs=[tls])
        finally:
            for g in t.others:
                g.kill()
        if suite.failed:
            p.tell_errors()
    finish(suite)


if __name__ == "__main__":
    main()
