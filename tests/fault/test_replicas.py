#!/usr/bin/env python3
"""Three replicas under sixteen streaming clients: scaling and other people's deaths cost no request.

    tests/fault/test_replicas.py [--clients 16] [--seconds 4]        uses build/bin or $GENLOOP_BIN; about a minute

While the clients ask, each for a stream and for a whole answer in turn, the platform is scaled to one replica and back to three, then each other process is killed (-9), then one replica, then the gateway. A request
fails where it is answered with an error, or where its stream breaks off. None may, but streams that a killed replica had begun (whole answers are given by another), and, when the gateway dies, what was open at that instant.
No client repeats a request."""
import argparse
import http.client
import json
import os
import signal
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from client import Client  # noqa: E402
from testbed import EASY_GATES, Platform, Suite, corpus, equal, expect, finish, short, wait_for  # noqa: E402

MODEL = "steady"


class Streams:
    """Clients that ask, read the answer to its end, and ask again: odd times for a stream. `failed`: (what, replica or None, when, whether it was a stream)."""

    def __init__(self, platform, count):
        self.p, self.lock, self.stopping = platform, threading.Lock(), threading.Event()
        self.done, self.failed, self.by_replica = 0, [], {}
        self.threads = [threading.Thread(target=self._life, args=(i,)) for i in range(count)]
        for t in self.threads:
            t.start()

    def _life(self, number):
        client = Client(self.p.url, timeout=60)
        for i in range(1 << 30):
            if self.stopping.is_set():
                return
            client.answer_headers = {}
            why, stream = None, i % 2 == 1
            body = {"model": MODEL, "prompt": f"The quiet river {number} {i}", "max_tokens": 200, "temperature": 1, "seed": number * 100000 + i, "stream": stream}
            try:
                end = None
                if stream:
                    for data in client.events("/v1/completions", body):
                        end = data
                        if data != "[DONE]" and "error" in json.loads(data):
                            why = data
                    if why is None and end != "[DONE]":
                        why = f"the stream ends with {end!r}"
                else:
                    status, client.answer_headers, answer = client.raw("POST", "/v1/completions", body)
                    if status != 200:
                        why = f"{status}: {answer}"
            except Exception as problem:  # each of them is what this program counts
                why = f"{type(problem).__name__}: {problem}"
            replica = client.answer_headers.get("x-genloop-replica")
            with self.lock:
                self.by_replica[replica] = self.by_replica.get(replica, 0) + 1
                if why is None:
                    self.done += 1
                else:
                    self.failed.append((short(why, 160), replica, time.monotonic(), stream))

    def during(self, what, act, seconds):
        """Runs act(), and lets the clients go on for a while: the failures since, and the answers."""
        with self.lock:
            failed, done, self.by_replica = len(self.failed), self.done, {}
        detail = act() or ""
        time.sleep(seconds)
        goal = self.done + 3 * len(self.threads)
        wait_for(f"answers go on after {what}", lambda: self.done >= goal, 120)
        with self.lock:
            return self.failed[failed:], self.done - done, dict(self.by_replica), detail

    def stop(self):
        self.stopping.set()
        for t in self.threads:
            t.join(90)
            expect(not t.is_alive(), "a client hangs")


class Replicas:
    def __init__(self, platform, arguments):
        self.p, self.c, self.a = platform, platform.client, arguments

    def serve(self):
        for name, body in corpus(40):
            self.c.upload(MODEL, name, body.encode())
        version = self.p.build(MODEL)
        self.p.train(MODEL, f"{MODEL}@{version['version']}", steps=60)
        self.p.release(f"{MODEL}@1")
        self.p.run("scale", "inference=3", "--home", self.p.home)
        self.three()
        self.streams = Streams(self.p, self.a.clients)
        return f"{MODEL}@1, three replicas, {self.a.clients} clients"

    def serving(self):
        return [m["id"] for m in self.c.get("/v1/admin/status")["services"] if m["service"] == "inference" and m["state"] == "ready" and f"{MODEL}@1" in m["load"].get("models", [])]

    def three(self):
        wait_for("three replicas serve", lambda: len(self.serving()) == 3, 60, 0.1)

    def none_fails(self, what, act):
        failed, done, by, detail = self.streams.during(what, act, self.a.seconds)
        expect(not failed, f"{len(failed)} of {done + len(failed)} requests failed, e.g. {failed[:3]}")
        return f"{done} answers, none failed, by {({k: by[k] for k in sorted(by)})}{detail and '; '}{detail}"

    def spread(self):
        failed, done, by, _ = self.streams.during("nothing", lambda: None, self.a.seconds)
        expect(not failed and len(by) == 3, f"{failed[:3]}; answers by replica: {by}")
        return f"{done} answers by {({k: by[k] for k in sorted(by)})}"

    def to_one(self):
        def act():
            self.p.run("scale", "inference=1", "--home", self.p.home)
        detail = self.none_fails("scaling to one", act)
        equal(len([p for p in self.p.processes().values() if p["service"] == "inference" and p["state"] == "ready"]), 1, "replicas that are left")
        return detail

    def to_three(self):
        def act():
            self.p.run("scale", "inference=3", "--home", self.p.home)
            self.three()
        return self.none_fails("scaling to three", act)

    def others_die(self, name):
        def act():
            pid = self.p.kill(name)
            expect(pid, f"{name} did not run")
            return f"ready again after {self.p.wait_ready(name, pid) * 1000:.0f} ms"
        return self.none_fails(f"{name}'s death", act)

    def replica_dies(self):
        killed = {}

        def act():
            name = next(n for n, p in sorted(self.p.processes().items()) if p["service"] == "inference" and p["state"] == "ready")
            killed["name"] = name
            pid = self.p.kill(name)
            self.p.wait_ready(name, pid)
        failed, done, _, _ = self.streams.during("a replica's death", act, self.a.seconds)
        others = [f for f in failed if f[1] != killed["name"] or not f[3]]
        expect(not others, f"{len(others)} requests failed that are no streams that {killed['name']} had begun, e.g. {others[:3]}")
        self.three()
        return f"{killed['name']} took {len(failed)} streams along that it had begun; {done} answers besides"

    def gateway_dies(self):
        judged = []

        def judge():
            n = len(judged)
            self.c.post("/v1/feedback", {"id": f"before-{n}", "request_id": "nobody-knows-it", "kind": "thumb", "value": 1})
            judged.append(f"before-{n}")
        for _ in range(20):
            judge()
        begun = {}

        def act():
            begun["at"] = time.monotonic()
            os.kill(self.p.processes()["gateway"]["pid"], signal.SIGKILL)
            while True:
                try:
                    self.c.get("/v1/models", timeout=5)
                    break
                except (OSError, http.client.HTTPException):
                    expect(time.monotonic() < begun["at"] + 30, "no answer within 30 s")
                    time.sleep(0.005)
            begun["back"] = time.monotonic()
        failed, done, _, _ = self.streams.during("the gateway's death", act, self.a.seconds)
        late = [f for f in failed if f[2] > begun["back"] + 2]
        expect(not late, f"{len(late)} requests failed later than 2 s after it was back, e.g. {late[:3]}")
        have = wait_for("judgements", lambda: {e["id"] for e in self.c.pages("/v1/feedback", "events")}.issuperset(judged), 20)
        expect(have, "judgements are there")
        return f"it answers again after {(begun['back'] - begun['at']) * 1000:.0f} ms; {len(failed)} attempts failed meanwhile; {done} answers; {len(judged)} judgements of before are there"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=4, help="that the clients go on after each event")
    arguments = parser.parse_args()
    suite = Suite()
    with Platform(config={"gates": EASY_GATES}) as p:
        t = Replicas(p, arguments)
        if suite.run("three_replicas_and_their_clients", t.serve):
            try:
                suite.run("the_load_is_spread", t.spread)
                suite.run("scale_to_one", t.to_one)
                suite.run("scale_to_three", t.to_three)
                for name in ("ingest", "trainer", "feedback", "log", "cache"):
                    suite.run(f"{name}_dies", t.others_die, name)
                suite.run("a_replica_dies", t.replica_dies)
                suite.run("the_gateway_dies", t.gateway_dies)
            finally:
                t.streams.stop()
        if suite.failed:
            p.tell_errors()
    finish(suite)


if __name__ == "__main__":
    main()
