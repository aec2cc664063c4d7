#!/usr/bin/env python3
"""Three replicas and prompts that begin alike: they go where their beginning is in the prefix cache, to more replicas when one is too busy, and sessions go before.

    tests/integration/test_prefix_routing.py [BUILD]     BUILD/tests/release_model puts the model into the platform [build]"""
import json
import os
import subprocess
import sys
import tempfile
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from tiny_decoder import model  # noqa: E402
from testbed import BIN, EASY_GATES, Client, Platform, Suite, equal, expect, finish, wait_for  # noqa: E402

REPLICAS, BUSY_CLIENTS = 3, 16


def prompt(what, tail=""):
    """5,000 bytes of their own, and some at the end."""
    return (f"{what} " * 5000)[:5000] + tail


class Prefixes:
    def __init__(self, platform, folder, build):
        self.p, self.folder, self.build = platform, folder, build

    def released(self):
        folder = os.path.join(self.folder, "tiny")
        model(folder, 1, context=8192)
        subprocess.run([os.path.join(self.build, "tests", "release_model"), self.p.home, folder, "tiny"], check=True)

        wait_for("three replicas serve", lambda: len(self.loads()) == REPLICAS)

    def loads(self):
        return [s["load"] for s in self.p.client.get("/v1/admin/status")["services"] if s["service"] == "inference" and s["state"] == "ready" and "tiny@1" in s["load"].get("models", [])]

    def metric(self, result):
        lines = Client(f"http://{self.p.processes()['gateway']['admin']}").raw("GET", "/metrics")[2].decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("genloop_gateway_prefix_calls_total") and f'"{result}"' in line)

    def ask(self, text, session=None, max_tokens=1):
        """(which replica, tokens that it took from its prefix cache)"""
        headers = {"Cache-Control": "no-cache", **({"x-genloop-session": session} if session else {})}
        status, told, data = self.p.client.raw("POST", "/v1/completions", {"model": "tiny@1", "prompt": text, "max_tokens": max_tokens, "ignore_eos": True}, headers=headers)
        equal(status, 200, f"{data[:300]}")
        return told["x-genloop-replica"], json.loads(data)["usage"].get("prompt_tokens_details", {}).get("cached_tokens", 0)

    def spread(self):
        got = [self.ask(prompt(f"different {i}"))[0] for i in range(3 * REPLICAS)]
        equal(len(set(got)), REPLICAS, f"replicas that answered prompts of nothing in common: {got}")

    def together(self):
        hits = self.metric("hit")
        got = [self.ask(prompt("alike", f"and {i}")) for i in range(10)]
        equal(len({r for r, _ in got}), 1, f"replicas that answered prompts that begin alike: {got}")
        expect(all(cached >= 4900 for _, cached in got[1:]), f"tokens from the prefix cache: {got}")
        equal(self.metric("hit") - hits, 9, "hits in the metrics")
        return got[0][0]

    def hot(self):
        """So many at once that one replica would be far behind the others."""
        by, failed = {}, []

        def client(i):
            try:
                r, _ = self.ask(prompt("alike", f"at once {i}"), max_tokens=600)
                by[r] = by.get(r, 0) + 1
            except BaseException as why:  # noqa: BLE001
                failed.append(why)

        def all_at_once():
            threads = [threading.Thread(target=client, args=(i,)) for i in range(BUSY_CLIENTS)]
            for t in threads:
                t.start()
            for t in threads:
                t.join()
            expect(not failed, f"{len(failed)} failed, the first: {failed and failed[0]}")
            return len(by) == REPLICAS
        wait_for("the load spreads", all_at_once)
        expect(self.metric("busy") >= 1, "the metrics say nothing of busy replicas")
        return f"{by}"

    def sessions(self):
        wait_for("nobody has anything to do", lambda: not any(l.get("running") or l.get("queued") for l in self.loads()))
        homes = {}
        for i in range(8):
            homes[i] = {self.ask(prompt("alike", f"in session {k}"), session=f"session-{i}")[0] for k in range(3)}
            equal(len(homes[i]), 1, f"replicas of session {i}: {homes[i]}")
        expect(len(set.union(*homes.values())) > 1, f"all sessions at one replica: {homes}")


def main():
    build = os.path.abspath(sys.argv[1] if len(sys.argv) > 1 else os.path.dirname(BIN))
    suite = Suite()
    with tempfile.TemporaryDirectory(prefix="genloop-prefixes-") as folder, Platform(config={"gates": EASY_GATES, "inference": {"kv_cache": "64MiB", "sequences": 16}}, replicas=REPLICAS) as p:
        t = Prefixes(p, folder, build)
        released = suite.run("released", t.released)
        for check in ("spread", "together", "hot", "sessions"):
            suite.run(check, getattr(t, check), needs=[released])
        if suite.failed:
            p.tell_errors()
    finish(suite)


if __name__ == "__main__":
    main()
