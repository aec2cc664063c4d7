#!/usr/bin/env python3
"""More models than the replica's memory budget holds: each request is answered by the model that it asks for, in turn and at once, whole and streamed, adapters too; none fails.

    tests/integration/test_memory_budget.py        uses build/bin or $GENLOOP_BIN; about 20 s"""
import json
import os
import shutil
import sys
import tempfile
import threading
import urllib.request

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from testbed import EASY_GATES, Platform, Suite, corpus, equal, expect, finish, wait_for  # noqa: E402
from tiny_adapter import adapter  # noqa: E402

MODELS = ("one@1", "two@1")


class Budget:
    def __init__(self, platform):
        self.p, self.c = platform, platform.client
        self.said = {}

    def models(self):
        for name, body in corpus(60):
            self.c.upload("budget", name, body.encode())
        wait_for("the documents are cleaned", lambda: [d for d in self.c.pages("/v1/documents?dataset=budget", "documents") if d["state"] == "DOCUMENT_STATE_ACCEPTED"][59:], 60)
        dataset = self.p.build("budget")
        for i, model in enumerate(MODELS):
            self.p.train(model.split("@")[0], f"budget@{dataset['version']}", steps=20 + 20 * i)
            self.p.release(model)
        return "two models are released"

    def load(self):
        members = [m for m in self.c.get("/v1/admin/status")["services"] if m["service"] == "inference"]
        equal(len(members), 1, "replicas")
        return members[0]["load"], members[0]["admin"]

    def metric(self, name):
        with urllib.request.urlopen(f"http://{self.load()[1]}/metrics", timeout=60) as f:
            return next(float(line.split()[-1]) for line in f.read().decode().splitlines() if line.startswith(name))

    def ask(self, model, stream=False):
        body = {"model": model, "prompt": "The quiet river", "max_tokens": 12, "temperature": 0, "stream": stream, "ignore_eos": True}
        status, headers, data = self.c.raw("POST", "/v1/completions", body, headers={"Cache-Control": "no-cache"})
        equal(status, 200, f"{model}: {data[:300]}")
        equal(headers.get("x-genloop-model"), model, "x-genloop-model")
        if not stream:
            return json.loads(data)["choices"][0]["text"]
        events = [line[6:] for line in data.decode().splitlines() if line.startswith("data: ")]
        equal(events[-1], "[DONE]", "the end of the stream")
        return "".join(c["text"] for e in events[:-1] for c in json.loads(e)["choices"])

    def in_turn(self):
        before = self.metric("genloop_inference_unloads_total")
        for i in range(6):
            model = MODELS[i % 2]
            text = self.ask(model, stream=i > 3)
            equal(text, self.said.setdefault(model, text), f"{model} as before it was unloaded")
        unloads = self.metric("genloop_inference_unloads_total") - before
        expect(unloads >= 5, f"unloads: {unloads}")
        equal(self.metric("genloop_inference_models_asleep"), 1, "models out of memory")
        load = wait_for("the replica says what it has", lambda: (lambda l: l if l.get("models") and l.get("asleep") else None)(self.load()[0]), 60)
        equal(sorted(load["models"] + load["asleep"]), list(MODELS), "what is loaded, and what is not")
        expect(int(load["memory_bytes"]) > 0, f"memory: {load}")
        return f"6 requests, {int(unloads)} unloads"

    def at_once(self, models=MODELS):
        failed = []

        def client(k):
            try:
                for i in range(5):
                    model = models[(k + i // 2) % len(models)]
                    equal(self.ask(model, stream=(k + i) % 3 == 0), self.said[model], model)
            except BaseException as why:  # noqa: BLE001
                failed.append(why)

        threads = [threading.Thread(target=client, args=(k,)) for k in range(8)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        expect(not failed, f"{len(failed)} clients failed, the first: {failed and failed[0]}")
        equal(self.metric("genloop_inference_waiting_calls"), 0, "calls that still wait")
        return f"8 clients, 40 requests, {int(self.metric('genloop_inference_unloads_total'))} unloads in all"

    def who_leaves(self):
        """Tokenizing waits as well; one that has no time gets 504, and holds nobody up."""
        for model in MODELS:
            reply = self.c.post("/v1/tokenize", {"model": model, "prompt": "The quiet river"})
            expect(reply["count"] > 0, f"{reply}")
        asleep = wait_for("one is asleep", lambda: self.load()[0].get("asleep"), 60)[0]
        status, _, data = self.c.raw("POST", "/v1/completions", {"model": asleep, "prompt": "a", "max_tokens": 4}, headers={"x-genloop-timeout-ms": "1", "Cache-Control": "no-cache"})
        expect(status in (200, 504), f"{status}: {data[:200]}")
        equal(self.ask(asleep), self.said[asleep], asleep)
        return f"{status} within a millisecond, and the next is answered"


    def adapters(self):
        """An adapter goes out of memory with its base, and comes back with it, by whichever of the two names it is asked for."""
        folder = tempfile.mkdtemp(prefix="genloop-budget-")
        try:
            self.p.model_files("one@1", os.path.join(folder, "one"))
            adapter(os.path.join(folder, "tuned"), os.path.join(folder, "one"), 1)
            self.p.run("import", os.path.join(folder, "tuned"), "--name", "tuned", "--base", "one@1")
            self.p.release("tuned@1")
        finally:
            shutil.rmtree(folder)
        for model in ("tuned@1", "two@1", "tuned@1", "two@1", "one@1", "tuned@1"):
            text = self.ask(model)
            equal(text, self.said.setdefault(model, text), model)
        expect(self.said["tuned@1"] != self.said["one@1"], f"the adapter changes nothing: {self.said}")
        self.at_once(("one@1", "two@1", "tuned@1"))
        return "three names, two bases, room for one"


def main():
    suite = Suite()
    # A budget below any model: whichever is asked for has the memory for itself.
    with Platform(config={"gates": EASY_GATES, "inference": {"memory_budget": "1MiB", "kv_cache": "4MiB", "kv_type": "int8"}}) as p:
        b = Budget(p)
        models = suite.run("two_models_for_the_room_of_one", b.models)
        in_turn = suite.run("asked_in_turn", b.in_turn, needs=[models])
        suite.run("asked_at_once", b.at_once, needs=[in_turn])
        suite.run("who_has_no_time", b.who_leaves, needs=[in_turn])
        suite.run("adapters_with_their_base", b.adapters, needs=[in_turn])
        if suite.failed:
            p.tell_errors()
    finish(suite)


if __name__ == "__main__":
    main()
