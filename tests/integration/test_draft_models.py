#!/usr/bin/env python3
"""Draft models on the real platform: inference.draft names a released model that guesses for another; the answers are those without it, its metrics say what it did, and a model whose draft cannot be
used is served all the same. The memory budget holds one model at a time: a draft comes and goes with the model that it guesses for, whether the version of its name is in memory or not.

    tests/integration/test_draft_models.py [BUILD]     BUILD/tests/release_model puts the models into the platform [build]"""
import json
import os
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from tiny_decoder import model  # noqa: E402
from testbed import BIN, EASY_GATES, Client, Platform, Suite, equal, expect, finish, wait_for  # noqa: E402

PROMPTS = ["The lighthouse keeper", "once upon a time", "q" * 60, "1 2 3 4 5 6"]


class Drafts:
    def __init__(self, platform, folder, build):
        self.p, self.folder, self.build = platform, folder, build

    def metric(self, name):
        lines = Client(f"http://{self.p.processes()['inference-1']['admin']}").raw("GET", "/metrics")[2].decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.split(" ")[0] == name)

    def released(self):
        for name, seed, more in (("draft", 1, ()), ("stranger", 3, ("zz",)), ("big", 1, ()), ("odd", 2, ())):
            model(os.path.join(self.folder, name), seed, more)
            subprocess.run([os.path.join(self.build, "tests", "release_model"), self.p.home, os.path.join(self.folder, name), name], check=True)
            wait_for(f"a replica serves {name}", lambda: self.p.client.raw("POST", "/v1/completions", {"model": f"{name}@1", "prompt": "a", "max_tokens": 1})[0] == 200)

    def same_answers(self):
        for name in ("big", "odd"):
            for i, prompt in enumerate(PROMPTS):
                for temperature in (0, 0.8):
                    want = json.loads(self.p.run("run", "--model", os.path.join(self.folder, name), "--kv", "f16", "--prompt", prompt, "--max-tokens", "100", "--temperature", str(temperature), "--seed", str(i), "--ignore-eos", "--json"))
                    got = self.p.client.until(lambda: self.p.client.post("/v1/completions", {"model": f"{name}@1", "prompt": prompt, "max_tokens": 100, "temperature": temperature, "seed": i, "ignore_eos": True}))
                    equal(got["choices"][0]["text"], want["text"].replace("\0", "\ufffd"), f"{name}: the answer to {prompt!r} at {temperature}")

    def ask(self, name):
        body = {"model": f"{name}@1", "prompt": PROMPTS[0], "max_tokens": 100, "temperature": 0, "ignore_eos": True}
        return self.p.client.post("/v1/completions", body, headers={"Cache-Control": "no-cache"})["choices"][0]["text"]

    def guessed_since(self, before):
        """It guesses while that pays, as measured: a machine that is busy with something else may make it think otherwise for a while."""
        self.ask("big")
        return self.metric("genloop_inference_drafted_right_tokens_total") > before

    def guesses(self):
        wait_for("the metrics say so", lambda: self.guessed_since(0))
        drafted, right = (self.metric(f"genloop_inference_drafted{x}_tokens_total") for x in ("", "_right"))
        expect(drafted >= right, f"{right} of {drafted} were right")
        return f"{right:.0f} of {drafted:.0f} were right"

    def budget(self):
        """Out of memory with its draft, and back with it: then it guesses again."""
        want = self.ask("big")
        for name in ("draft", "odd"):
            self.ask(name)
            right = self.metric("genloop_inference_drafted_right_tokens_total")
            equal(self.ask("big"), want, "the answer after it was unloaded")
            wait_for("it guesses again", lambda: self.guessed_since(right))
        unloads = self.metric("genloop_inference_unloads_total")
        expect(unloads >= 6, f"unloads: {unloads}")
        equal(self.metric("genloop_inference_models_asleep"), 3, "models out of memory")
        return f"{unloads:.0f} unloads"

    def command(self):
        def run(*more):
            return json.loads(self.p.run("run", "--model", os.path.join(self.folder, "big"), "--prompt", PROMPTS[0], "--max-tokens", "100", "--temperature", "0", "--ignore-eos", "--json", *more))
        want, got = run(), run("--draft", os.path.join(self.folder, "draft"), "--draft-tokens", "4")
        equal(got["tokens"], want["tokens"], "the tokens with --draft")
        expect(got["drafted"] >= got["drafted_right"] and "drafted" not in want, f"{got['drafted']}")
        refused = subprocess.run([os.path.join(BIN, "genloop"), "run", "--model", os.path.join(self.folder, "big"), "--prompt", "a", "--draft", os.path.join(self.folder, "stranger")], capture_output=True, text=True, check=False)
        expect(refused.returncode != 0 and "vocabulary" in refused.stderr, f"another vocabulary: {refused.stderr}")


def main():
    build = os.path.abspath(sys.argv[1] if len(sys.argv) > 1 else os.path.dirname(BIN))
    suite = Suite()
    config = {"gates": EASY_GATES, "inference": {"draft": "big=draft,odd=stranger@1", "memory_budget": "1MiB", "kv_cache": "4MiB"}}
    with tempfile.TemporaryDirectory(prefix="genloop-drafts-") as folder, Platform(config=config) as p:
        t = Drafts(p, folder, build)
        released = suite.run("released", t.released)
        for check in ("same_answers", "guesses", "budget", "command"):
            suite.run(check, getattr(t, check), needs=[released])
        if suite.failed:
            p.tell_errors()
    finish(suite)


if __name__ == "__main__":
    main()
