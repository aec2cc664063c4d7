#!/usr/bin/env python3
"""Two gateways behind one address: one is restarted again and again under load, and no client notices.

    tests/fault/test_gateways.py [--clients 8] [--restarts 5]        uses build/bin or $GENLOOP_BIN; half a minute

Both listen on one port (gateway.reuse_port: the kernel spreads new connections). One is told to drain by SIGTERM, ends, and is started anew, while clients ask on connections of their own: every
request must be answered, whichever it fell to."""
import argparse
import os
import signal
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from client import Client  # noqa: E402
from testbed import EASY_GATES, Platform, Suite, binary, corpus, equal, expect, finish, short, wait_for  # noqa: E402

MODEL = "steady"


class Clients:
    def __init__(self, url, count):
        self.lock, self.stopping, self.done, self.failed = threading.Lock(), threading.Event(), 0, []
        self.threads = [threading.Thread(target=self._life, args=(url, i)) for i in range(count)]
        for t in self.threads:
            t.start()

    def _life(self, url, number):
        client = Client(url, timeout=60)
        for i in range(1 << 30):
            if self.stopping.is_set():
                return
            why = None
            try:
                body = {"model": MODEL, "prompt": f"The quiet river {number} {i}", "max_tokens": 60, "stream": i % 2 == 1}
                if i % 2:
                    end = [data for data in client.events("/v1/completions", body)][-1]
                    why = None if end == "[DONE]" else end
                else:
                    status, _, answer = client.raw("POST", "/v1/completions", body)
                    why = None if status == 200 else f"{status}: {answer}"
            except Exception as problem:  # each is what this program counts
                why = f"{type(problem).__name__}: {problem}"
            with self.lock:
                if why is None:
                    self.done += 1
                else:
                    self.failed.append(short(why, 160))

    def stop(self):
        self.stopping.set()
        for t in self.threads:
            t.join(90)
            expect(not t.is_alive(), "a client hangs")


class Gateways:
    def __init__(self, platform, arguments):
        self.p, self.c, self.a, self.second = platform, platform.client, arguments, None
        self.starts = 0

    def serve(self):
        for name, body in corpus(40):
            self.c.upload(MODEL, name, body.encode())
        version = self.p.build(MODEL)
        self.p.train(MODEL, f"{MODEL}@{version['version']}", steps=60)
        self.p.release(f"{MODEL}@1")
        return f"{MODEL}@1"

    def start(self):
        """A second gateway of this home, until it is ready: by its own account, since the port is answered by both."""
        environment = {**self.p.environment, "GENLOOP_INSTANCE": "gateway-2"}
        log = open(os.path.join(self.p.home, "logs", "gateway-2.log"), "a", encoding="utf-8")
        begun = time.time() * 1000
        self.starts += 1
        self.second = subprocess.Popen([binary("genloop-gateway"), "--config", os.path.join(self.p.home, "genloop.yaml")], env=environment, stdout=log, stderr=log)
        log.close()

        def ready():
            expect(self.second.poll() is None, f"gateway-2 has ended with {self.second.returncode}: see its log")
            with open(os.path.join(self.p.home, "logs", "gateway-2.log"), encoding="utf-8", errors="replace") as f:
                return sum('"service.ready"' in line for line in f) >= self.starts
        wait_for("gateway-2 is ready", ready, 60, 0.02)
        return time.time() * 1000 - begun

    def end(self):
        self.second.send_signal(signal.SIGTERM)
        equal(self.second.wait(90), 0, "exit code of the gateway that drained")

    def two(self):
        return f"ready after {self.start():.0f} ms"

    def restarts(self):
        clients = Clients(self.p.url, self.a.clients)
        try:
            for i in range(self.a.restarts):
                goal = clients.done + 5 * self.a.clients
                wait_for("answers go on", lambda: clients.done + len(clients.failed) >= goal, 60)
                self.end()
                self.start()
        finally:
            clients.stop()
        expect(not clients.failed, f"{len(clients.failed)} of {clients.done + len(clients.failed)} requests failed, e.g. {clients.failed[:3]}")
        self.end()
        return f"{self.a.restarts} restarts, {clients.done} answers, none failed"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--restarts", type=int, default=5)
    arguments = parser.parse_args()
    suite = Suite()
    with Platform(config={"gates": EASY_GATES, "gateway": {"reuse_port": True}}) as p:
        t = Gateways(p, arguments)
        try:
            served = suite.run("a_model_is_served", t.serve)
            second = suite.run("a_second_gateway", t.two, needs=[served])
            suite.run("restarts_under_load", t.restarts, needs=[second])
        finally:
            if t.second and t.second.poll() is None:
                t.second.kill()
        if suite.failed:
            p.tell_errors()
    finish(suite)


if __name__ == "__main__":
    main()
