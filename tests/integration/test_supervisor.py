#!/usr/bin/env python3
"""The supervisor on the real platform: up and what is in its way, kills of every child and of the supervisor itself, scaling under load, down in order, a stop in the middle of a start.

    tests/integration/test_supervisor.py    uses build/bin or $GENLOOP_BIN; about 40 s"""
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from testbed import BIN, EASY_GATES, SERVICES, Platform, Suite, clean_environment, corpus, equal, expect, finish, free_port, wait_for  # noqa: E402

READY_WITHIN_S = 2.0
CHILDREN = ("log", "cache", "feedback", "ingest", "trainer", "inference-1", "gateway")
SEED = int(os.environ.get("TEST_SEED", "11"))


def log_lines(p, name):
    with open(os.path.join(p.home, "logs", f"{name}.log"), encoding="utf-8") as f:
        return [json.loads(line) for line in f]


class Up:
    def __init__(self, p):
        self.p = p

    def everything(self):
        states = {name: x["state"] for name, x in self.p.processes().items()}
        equal(states, {name: "ready" for name in CHILDREN}, "states")
        for name, x in self.p.processes().items():
            if name not in ("log", "cache"):
                host, port = x["admin"].rsplit(":", 1)
                with socket.create_connection((host, int(port)), 5) as s:
                    s.sendall(b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                    expect(b"200" in s.recv(100).split(b"\r\n")[0], f"/readyz of {name} at {x['admin']}")
        return f"{len(states)} processes ready, /readyz of each service answers"

    def durable_log(self):
        """The log's Redis is what lib/eventlog demands; the cache's is a cache."""
        def ask(name, key):
            with socket.socket(socket.AF_UNIX) as s:
                s.connect(os.path.join(self.p.home, "run", f"{name}.sock"))
                s.sendall(f"CONFIG GET {key}\r\n".encode())
                return s.recv(4096).split(b"\r\n")[-2].decode()
        equal([ask("log", k) for k in ("appendonly", "appendfsync", "maxmemory-policy", "dir")], ["yes", "always", "noeviction", os.path.join(self.p.home, "log")], "the log's server")
        equal([ask("cache", k) for k in ("appendonly", "save", "maxmemory-policy", "maxmemory")], ["no", "", "allkeys-lru", str(256 << 20)], "the cache's server")
        return "append-only with fsync always, no eviction; no persistence, a limit, LRU"

    def twice(self):
        done = self.p.run("up", "--detach", "--home", self.p.home, check=False)
        equal(done.returncode, 0, "exit code of a second up --detach")
        expect("is up already" in done.stdout and self.p.url in done.stdout, f"a second up says: {done.stdout}")
        done = self.p.run("up", "--home", self.p.home, check=False)
        expect(done.returncode == 1 and "is up already" in done.stderr, f"a second up in the foreground: {done}")
        done = self.p.run("up", "--detach", "--home", self.p.home, "--port", str(free_port()), check=False)
        expect(done.returncode == 1 and self.p.url in done.stderr, f"a second up at another port: {done}")
        return "says so, with the URL"

    def port_in_use(self):
        home = tempfile.mkdtemp(prefix="genloop-test-")
        try:
            done = self.p.run("up", "--detach", "--home", home, "--port", str(self.p.port), check=False)
            equal(done.returncode, 1, "exit code")
            expect(f"127.0.0.1:{self.p.port} is in use" in done.stderr and "--port" in done.stderr, f"it says: {done.stderr}")
            expect(not os.path.exists(os.path.join(home, "run", "supervisor.sock")), "something was started")
        finally:
            shutil.rmtree(home, ignore_errors=True)
        return "named, with the remedy; nothing is started"

    def wrong_configuration(self):
        port = free_port()
        p = Platform(config={"gateway": {"capture": "everything", "listen": f"127.0.0.1:{port}"}}, port=port)
        try:
            done = p.run("up", "--detach", "--home", p.home, check=False)
            equal(done.returncode, 1, "exit code")
            expect("gateway does not start" in done.stderr and "everything" in done.stderr, f"it says: {done.stderr}")
            equal(p.pids(), [], "processes left")
            with open(os.path.join(p.home, "genloop.yaml"), "w", encoding="utf-8") as f:
                f.write(f'gateway: {{listen: "127.0.0.1:{port}"}}\nsupervisor: {{redis_server: /nowhere/redis-server}}\n')
            done = p.run("up", "--detach", "--home", p.home, check=False)
            expect(done.returncode == 1 and "/nowhere/redis-server is not installed" in done.stderr, f"no Redis: {done.stderr}")
            equal(p.pids(), [], "processes left")
            with open(os.path.join(p.home, "genloop.yaml"), "a", encoding="utf-8") as f:
                f.write("nonsense: 1\n")
            done = p.run("up", "--detach", "--home", p.home, check=False)
            expect(done.returncode == 1 and "nonsense" in done.stderr, f"an unknown key: {done.stderr}")
            done = p.run("config", "check", check=False)
            expect(done.returncode == 1 and "nonsense" in done.stderr, f"config check: {done}")
        finally:
            p.close()
        return "the service's own words, exit code 1, nothing left running"

    def wrong_words(self):
        """A word that is none of a setting's: each service's own --check refuses it, and so does `config check`, naming the setting, the value and what there is."""
        cases = [("inference", "weights", "q5", "stored"), ("inference", "activations", "int7", "int16"), ("inference", "kv_type", "f13", "int8"), ("inference", "speculation", "on", "lookup"),
                 ("inference", "draft", "=", "draft"), ("gateway", "capture", "everything", "hashed"), ("gateway", "cors_origins", "example.org", "https://"), ("feedback", "evaluate", "always", "manual"),
                 ("feedback", "trait", "shrill", "numbers"), ("feedback", "registry_key", "secret", "64 hex digits")]
        p = Platform(config={}, port=free_port())
        try:
            for service, key, value, there_is in cases:
                with open(os.path.join(p.home, "genloop.yaml"), "w", encoding="utf-8") as f:
                    f.write(f'{service}: {{{key}: "{value}"}}\n')
                alone = subprocess.run([os.path.join(BIN, f"genloop-{service}"), "--config", os.path.join(p.home, "genloop.yaml"), "--check"], capture_output=True, text=True, timeout=60)
                done = p.run("config", "check", check=False)
                for code, wanted, said in ((alone.returncode, 2, alone.stderr), (done.returncode, 1, done.stderr)):
                    expect(code == wanted and f"{service}.{key}" in said and there_is in said, f"{service}.{key}: {value}: {code} {said}")
                    expect((value in said) == (key != "registry_key"), f"{service}.{key}: {said}")
                expect(not alone.stdout, f"{service}.{key} is shown as in force: {alone.stdout}")
        finally:
            p.close()
        return f"{len(cases)} settings, by each service and by config check"

    def elsewhere(self):
        """For what GENLOOP_REDIS names no server is started."""
        with Platform() as other:
            with Platform(environment={"GENLOOP_REDIS": f"unix:{other.home}/run/cache.sock"}) as p:
                expect("cache" not in p.processes() and "log" in p.processes(), f"processes: {list(p.processes())}")
                expect(not os.path.exists(os.path.join(p.home, "run", "cache.sock")), "a cache was started")
        return "the cache of another is used"


class Kills:
    def __init__(self, p):
        self.p = p

    def once(self, name):
        pid = self.p.kill(name)
        expect(pid, f"{name} was not there")
        return self.p.wait_ready(name, pid)

    def each(self):
        worst = {}
        for name in CHILDREN:
            for _ in range(2):
                worst[name] = max(worst.get(name, 0), self.once(name))
            equal(self.p.processes()[name]["last_end"], "ended by signal 9 (Killed)", "what the supervisor says of it")
        late = {n: round(s, 2) for n, s in worst.items() if s > READY_WITHIN_S}
        expect(not late, f"later than {READY_WITHIN_S} s: {late}")
        return f"ready again within {max(worst.values()) * 1000:.0f} ms"

    def many(self):
        """The same one again and again, and everybody at random: no back-off for who was ready."""
        rng, worst = random.Random(SEED), 0
        for i in range(45):
            worst = max(worst, self.once("ingest" if i < 25 else rng.choice(CHILDREN)))
        expect(worst <= READY_WITHIN_S, f"{worst:.2f} s, seed {SEED}")
        return f"45 kills, ready again within {worst * 1000:.0f} ms, seed {SEED}"

    def together(self):
        pids = {name: self.p.kill(name) for name in CHILDREN}
        took = max(self.p.wait_ready(name, pid) for name, pid in pids.items())
        expect(took <= READY_WITHIN_S, f"{took:.2f} s")
        return f"all seven at once: ready again within {took * 1000:.0f} ms"

    def the_supervisor(self):
        before = self.p.platform()
        os.kill(before["pid"], signal.SIGKILL)
        wait_for("the children die with it", lambda: not self.p.pids(), 5, 0.01)
        self.p.up()
        expect(all(x["state"] == "ready" for x in self.p.processes().values()), "not everything is ready")
        os.kill(self.p.platform()["pid"], signal.SIGKILL)
        self.p.up()  # at once: what is left of the last one has to go first
        expect(len([pid for pid in self.p.pids()]) == len(CHILDREN) + 1, f"{len(self.p.pids())} processes")
        return "its children die with it; the next one starts clean, also at once"

    def redis_loses_nothing(self):
        """What was acknowledged before a kill of the log is there after it."""
        ids = [self.p.client.until(lambda i=i: self.p.client.upload("kills", f"k-{i}", f"{name} {body}".encode()))["document_id"] for i, (name, body) in enumerate(corpus(5, seed=SEED))]
        self.once("log")

        def known():
            found = {d["id"] for d in self.p.client.until(lambda: self.p.client.pages("/v1/documents?dataset=kills", "documents"))}
            return set(ids) <= found
        wait_for("the documents are listed", known, 20)
        return f"{len(ids)} documents"


class Scale:
    def __init__(self, p):
        self.p, self.stop, self.failures, self.answers = p, threading.Event(), [], 0

    def model(self):
        for name, body in corpus(40, seed=3):
            self.p.client.upload("scale", name, body.encode())
        version = self.p.build("scale")
        self.p.train("scale", f"scale@{version['version']}", steps=20)
        self.p.release("scale@1")
        return "scale@1 is served"

    def ask(self):
        from client import Client
        client = Client(self.p.url)
        while not self.stop.is_set():
            try:
                got = client.post("/v1/completions", {"model": "scale@1", "prompt": "The river", "max_tokens": 24, "temperature": 0})
                equal(got["choices"][0]["finish_reason"] in ("length", "stop"), True, "finish_reason")
                self.answers += 1
            except Exception as why:
                self.failures.append(f"{type(why).__name__}: {why}")

    def under_load(self):
        threads = [threading.Thread(target=self.ask) for _ in range(4)]
        for t in threads:
            t.start()
        took = {}
        try:
            for n in (3, 1, 2):
                begun, before = time.monotonic(), self.answers
                equal(self.p.json("scale", f"inference={n}", "--home", self.p.home)["replicas"], n, "replicas")
                took[n] = time.monotonic() - begun
                names = [x for x in self.p.processes() if x.startswith("inference-")]
                equal(sorted(names), [f"inference-{i + 1}" for i in range(n)], "processes")
                if n != 2:
                    wait_for("requests go on", lambda b=before: self.answers > b + 8, 20)
            self.p.json("drain", "inference-1", "--home", self.p.home)  # at once: the gateway may not have heard of the other yet
            before = self.answers
            wait_for("requests go on with the other", lambda: self.answers > before + 8, 20)
        finally:
            self.stop.set()
            for t in threads:
                t.join()
        equal(self.failures, [], f"requests that failed beside {self.answers} answered")
        return f"1→3→1→2 and one drained, {', '.join(f'{n}: {s * 1000:.0f} ms' for n, s in took.items())}; {self.answers} answers, none failed"

    def shares_cores(self):
        """What the replicas compute with together is what the machine has, after each change."""
        cores = len(os.sched_getaffinity(0))
        for n in (2, 1):
            self.p.json("scale", f"inference={n}", "--home", self.p.home)
            names = [f"{x['name']}" for x in self.p.processes().values() if x["service"] == "inference"]

            def shares():
                return {name: [int(v) for k, v in metrics(self.p, name).items() if k.startswith("genloop_inference_threads")] for name in names}
            want = max(1, cores // n)
            wait_for(f"{n} replicas have {want} threads each", lambda: all(v == [want] for v in shares().values()), 20, 0.1)
        return f"{cores} cores over 2 replicas and over 1"

    def kept(self):
        self.p.json("scale", "inference=2", "--home", self.p.home)
        self.p.down()
        self.p.up()
        equal(sorted(x for x in self.p.processes() if x.startswith("inference-")), ["inference-1", "inference-2"], "replicas after down and up")
        done = self.p.run("scale", "inference=1000", "--home", self.p.home, check=False)
        equal(done.returncode, 2, "exit code of inference=1000")
        elsewhere = subprocess.run([self.p.genloop, "scale", "inference=3"], env={**self.p.environment, "GENLOOP_URL": "http://127.0.0.1:9"}, capture_output=True, text=True, timeout=60)
        expect(elsewhere.returncode == 1 and "GENLOOP_URL" in elsewhere.stderr, f"scale with another gateway's URL: {elsewhere}")
        done = self.p.run("drain", "inference-9", "--home", self.p.home, check=False)
        expect(done.returncode == 1 and "inference-9" in done.stderr, f"drain of nobody: {done}")
        self.p.json("scale", "inference=1", "--home", self.p.home)
        return "the number is kept for the next up"


def metrics(p, name):
    host, port = p.processes()[name]["admin"].rsplit(":", 1)
    from client import Client
    text = Client(f"http://{host}:{port}").raw("GET", "/metrics")[2].decode()
    return dict(line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#"))


class Show:
    def __init__(self, p):
        self.p = p

    def status(self):
        # Without the trainer's answer the jobs are null: it may have been killed a moment ago.
        wait_for("the jobs are known", lambda: self.p.json("status", "--home", self.p.home)["jobs"], 20)
        got = self.p.json("status", "--home", self.p.home)
        equal((got["state"], got["gateway"]["reachable"], got["url"]), ("running", True, self.p.url), "status")
        by_name = {s["name"]: s for s in got["services"]}
        equal(sorted(by_name), sorted(CHILDREN), "services")
        for service in SERVICES:
            s = next(s for s in got["services"] if s["service"] == service)
            expect(s["pid"] and s["admin"] and s["lag_events"] is not None and s["resident_bytes"] > 0, f"{service}: {s}")
        expect(any(m["name"] == "scale" for m in got["models"]), "the model is not shown")
        expect(got["jobs"]["jobs"], "the job is not shown")
        text = self.p.run("status", "--home", self.p.home)
        for word in ("gateway", "inference-1", "scale@1", "production", "lag:"):
            expect(word in text, f"{word} is not in {text}")
        return "services, replicas, models, jobs, lag"

    def without_gateway(self):
        pid = self.p.processes()["gateway"]["pid"]
        os.kill(pid, signal.SIGSTOP)
        try:
            got = self.p.json("status", "--home", self.p.home)
            equal(got["gateway"]["reachable"], False, "the gateway")
            equal(sorted(s["name"] for s in got["services"]), sorted(CHILDREN), "services")
            text = self.p.run("status", "--home", self.p.home)
            expect("does not answer" in text and "inference-1" in text, text)
        finally:
            os.kill(pid, signal.SIGCONT)
        return "says that it does not answer, and all else"

    def logs(self):
        text = self.p.run("logs", "--home", self.p.home, "--lines", "100000")
        for word in ("supervisor child.ended", "log redis", "gateway service.ready"):
            expect(word in text, f"{word} is not in the logs")
        lines = [json.loads(x) for x in self.p.run("logs", "ingest", "--home", self.p.home, "--lines", "5", "--json").splitlines()]
        equal((len(lines), {x["service"] for x in lines}), (5, {"ingest"}), "five lines of ingest")
        follow = subprocess.Popen([self.p.genloop, "logs", "supervisor", "-f", "-n", "0", "--home", self.p.home], stdout=subprocess.PIPE, text=True, env=self.p.environment)
        try:
            time.sleep(0.3)
            pid = self.p.kill("cache")
            self.p.wait_ready("cache", pid)
            line = follow.stdout.readline()
            expect("cache" in line and "ended" in line, f"followed: {line}")
        finally:
            follow.kill()
            follow.wait()
            follow.stdout.close()
        done = self.p.run("logs", "nobody", "--home", self.p.home, check=False)
        expect(done.returncode == 1 and "nobody" in done.stderr, f"logs of nobody: {done}")
        return "merged, of one, followed"

    def small(self):
        """Five services without a model beside Redis, and the binaries."""
        with Platform() as p:
            time.sleep(1)
            services = {n: x["resident_bytes"] / 2**20 for n, x in p.processes().items() if x["service"] in SERVICES}
            ready = {}
            for name in services:
                for _ in range(3):
                    p.wait_ready(name, p.kill(name))
                ready[name] = min(int(x["message"].split()[0]) for x in log_lines(p, name) if x["event"] == "service.ready")
        binaries = sum(os.path.getsize(os.path.join(BIN, n)) for n in ("genloop", *(f"genloop-{s}" for s in SERVICES))) / 2**20
        total = sum(services.values())
        with open(os.path.join(BIN, "genloop"), "rb") as f:
            sanitized = total > 500 or b"__asan_init" in f.read()  # a sanitizer's shadow is no memory of ours, nor its code
        busy = os.getloadavg()[0] > len(os.sched_getaffinity(0))  # who waits for a core measures the others
        expect(sanitized or busy or max(ready.values()) <= 100, f"ready after exec, at best, in ms: {ready}")
        expect(sanitized or total <= 80, f"{total:.1f} MiB: {services}")
        expect(sanitized or binaries <= 15, f"binaries have {binaries:.1f} MiB")
        return f"{total:.1f} MiB resident, binaries {binaries:.1f} MiB, ready after exec{' (on a busy machine)' if busy else ''}: {', '.join(f'{n} {ms} ms' for n, ms in sorted(ready.items()))}"


class Down:
    def __init__(self, p):
        self.p = p

    def order(self):
        self.p.down()
        equal(self.p.pids(), [], "processes left")
        stopped = [x["message"].split()[0] for x in log_lines(self.p, "supervisor") if x["event"] == "child.stopped"][-len(CHILDREN):]
        expect(stopped[0] == "gateway" and sorted(stopped[-2:]) == ["cache", "log"], f"they stopped in the order {stopped}")
        bad = [x for x in log_lines(self.p, "supervisor") if x["event"] == "child.kill"]
        equal(bad, [], "children that had to be killed")
        done = self.p.run("down", "--home", self.p.home)
        expect("no platform runs" in done, f"a second down says: {done}")
        equal(self.p.run("status", "--home", self.p.home, check=False).returncode, 1, "exit code of status")
        return " → ".join(stopped)

    def while_it_starts(self):
        """TERM at any moment of a start ends all of it, with exit code 0."""
        for delay_ms in (0, 10, 30, 60, 100, 150, 250):
            up = subprocess.Popen([self.p.genloop, "up", "--home", self.p.home], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=self.p.environment, start_new_session=True)
            wait_for("it has begun", lambda: up.poll() is not None or os.path.exists(os.path.join(self.p.home, "run", "supervisor.sock")), 10, 0.002)
            time.sleep(delay_ms / 1000)
            up.send_signal(signal.SIGTERM)
            try:
                said, _ = up.communicate(timeout=15)
            finally:
                up.kill()
            equal(up.returncode, 0, f"exit code after {delay_ms} ms: {said}")
            expect("genloop is down" in said, f"after {delay_ms} ms it said: {said}")
            equal(self.p.pids(), [], f"processes left after {delay_ms} ms")
        self.p.up()
        return "seven moments, nothing left; the next up is clean"

    def without_home(self):
        """A platform whose home was removed can be reached by nobody: it ends by itself."""
        p = Platform()
        p.up()
        shutil.rmtree(p.home, ignore_errors=True)
        wait_for("it ends", lambda: not p.pids(), 15, 0.1)
        return "it ends by itself"


def main():
    suite = Suite()
    with Platform(config={"gates": EASY_GATES}) as p:
        up, kills, scale, show, down = Up(p), Kills(p), Scale(p), Show(p), Down(p)
        suite.run("up: everything is ready", up.everything)
        suite.run("up: the two servers are what they must be", up.durable_log)
        suite.run("up: a second time", up.twice)
        suite.run("up: a port in use", up.port_in_use)
        suite.run("up: a wrong configuration", up.wrong_configuration)
        suite.run("config check: wrong words", up.wrong_words)
        suite.run("up: servers elsewhere", up.elsewhere)
        suite.run("kill -9: each child", kills.each)
        suite.run("kill -9: again and again", kills.many)
        suite.run("kill -9: all at once", kills.together)
        suite.run("kill -9: the log loses nothing", kills.redis_loses_nothing)
        suite.run("kill -9: the supervisor", kills.the_supervisor)
        model = suite.run("scale: a model to serve", scale.model)
        suite.run("scale: under load", scale.under_load, needs=(model,))
        suite.run("scale: replicas share the cores", scale.shares_cores, needs=(model,))
        suite.run("scale: kept", scale.kept)
        suite.run("status", show.status, needs=(model,))
        suite.run("status: without the gateway", show.without_gateway)
        suite.run("logs", show.logs)
        suite.run("down: in order", down.order)
        suite.run("down: while it starts", down.while_it_starts)
        suite.run("down: the home was removed", down.without_home)
        suite.run("idle: small and quick", show.small)
    finish(suite)


if __name__ == "__main__":
    main()
