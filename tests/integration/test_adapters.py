#!/usr/bin/env python3
"""LoRA adapters on a platform: `genloop import` of a PEFT directory, refused where it is not understood or its base is not here; a candidate where it is, through the gates and a person's approval to answers that are
those of `genloop run --adapter`, beside the base and other adapters, from one copy of the base's weights; and away again while the others go on.

    tests/integration/test_adapters.py        uses build/bin or $GENLOOP_BIN; about 20 s"""
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

PROMPT = "The quiet river walks under seven bridges. "


class Adapters:
    def __init__(self, platform, folder):
        self.p, self.c, self.folder = platform, platform.client, folder
        self.base = os.path.join(folder, "base")

    def dir(self, name):
        return os.path.join(self.folder, name)

    def base_is_served(self):
        for name, body in corpus(60):
            self.c.upload("texts", name, body.encode())
        wait_for("the documents are cleaned", lambda: [d for d in self.c.pages("/v1/documents?dataset=texts", "documents") if d["state"] == "DOCUMENT_STATE_ACCEPTED"][59:], 60)
        version = self.p.build("texts")["version"]
        self.p.train("base", f"texts@{version}", steps=20)
        wait_for("base@1 is registered", lambda: self.p.version("base@1"), 60)
        self.p.model_files("base@1", self.base)
        return ", ".join(sorted(os.listdir(self.base)))

    def refused(self):
        """What is not understood, or has no base here, does not leave this machine."""
        adapter(self.dir("one"), self.base, 1)
        said = []
        for more, change, words in ((["--base", "nobody"], {}, ("nobody",)), ([], {}, ("somebody/elsewhere", "--base")), (["--base", "base@1"], {"use_dora": True}, ("use_dora",)), (["--base", "base@1"], {"bias": "all"}, ("bias",))):
            where = adapter(self.dir("refused"), self.base, 1, base="somebody/elsewhere" if not more else "x", **change)
            done = self.p.run("import", where, "--name", "tuned", *more, check=False)
            expect(done.returncode == 1 and all(w in done.stderr for w in words), f"{more} {change}: {done.returncode}, {done.stderr}")
            said.append(done.stderr.strip())
        done = self.p.run("import", self.dir("one"), "--name", "tuned", "--base", "base@1", "--quantize", "q8_0", check=False)
        expect(done.returncode == 1 and "--quantize" in done.stderr, f"an adapter quantized: {done.stderr}")
        done = self.p.run("import", self.base, "--name", "tuned", "--base", "base@1", check=False)
        expect(done.returncode == 1 and "--base" in done.stderr, f"a model with a base: {done.stderr}")
        status, _, body = self.c.raw("POST", "/v1/admin/jobs", {"model": "x", "kind": "JOB_KIND_IMPORT", "import_spec": {"files": [{"name": "adapter_config.json", "content": {"sha256": "0" * 64, "size_bytes": 3}}]}})
        expect(status == 400 and b"base_model" in body, f"{status} {body}")
        return said[1]

    def other_shapes(self):
        """That it was made for another model only the platform can see: the job says so, and there is no version."""
        other = self.dir("other-base")
        shutil.copytree(self.base, other)
        with open(os.path.join(other, "config.json"), encoding="utf-8") as f:
            config = json.load(f)
        with open(os.path.join(other, "config.json"), "w", encoding="utf-8") as f:
            json.dump({**config, "hidden_size": 2 * config["hidden_size"]}, f)
        done = self.p.run("import", adapter(self.dir("other"), other, 2), "--name", "other", "--base", "base@1", check=False)
        expect(done.returncode == 1 and "shapes" in done.stderr, f"{done.returncode}: {done.stderr}")
        return done.stderr.strip().splitlines()[-1]

    def imported(self):
        answer = self.p.json("import", self.dir("one"), "--name", "one", "--base", "base@1")
        equal(answer["version"], "one@1", "the version")
        version = self.p.version("one@1")["version"]
        equal((version["adapter"], version["lineage"]["base_model"]), (True, "base@1"), "the version's record")
        expect(0 < int(version["parameters"]) < 60000 and version["context"] == 256, f"{version}")
        self.p.release("one@1")  # its base is not released: it is loaded for the adapter alone
        mine = self.answer("one")
        equal(mine, self.wanted("one"), "what the same files answer without a platform")
        status, _, body = self.c.raw("POST", "/v1/completions", {"model": "base@1", "prompt": "a"})
        equal(status, 404, f"the base is not released: {body}")
        metrics = self.metrics()
        equal((metrics["genloop_inference_models"], metrics["genloop_inference_adapters"]), (1, 1), "metrics")
        return repr(mine)

    def answer(self, model, **more):
        return self.c.post("/v1/completions", {"model": model, "prompt": PROMPT, "max_tokens": 12, "temperature": 0, **more}, headers={"Cache-Control": "no-cache"})["choices"][0]["text"]

    def wanted(self, name):
        more = ["--adapter", self.dir(name)] if name != "base" else []
        return json.loads(self.p.run("run", "--model", self.base, "--kv", "f16", *more, "--prompt", PROMPT, "--max-tokens", "12", "--temperature", "0", "--json"))["text"]

    def metrics(self):
        """Of the one replica, those without labels."""
        out, (admin,) = {}, [p["admin"] for p in self.p.processes().values() if p["service"] == "inference"]
        with urllib.request.urlopen(f"http://{admin}/metrics", timeout=20) as f:
            for line in f.read().decode().splitlines():
                if line and line[0] != "#" and "{" not in line:
                    name, value = line.rsplit(" ", 1)
                    out[name] = float(value)
        return out

    def together(self):
        """The base and two adapters in one batch: each answers as it does alone."""
        self.p.release("base@1")
        adapter(self.dir("two"), self.base, 2, rank=7, alpha=21, base="elsewhere/base")
        equal(self.p.json("import", self.dir("two"), "--name", "two")["version"], "two@1", "its configuration names the base")  # by its last name
        self.p.release("two@1")
        names = ["base", "one", "two"]
        wanted = {n: self.wanted(n) for n in names}
        equal(len(set(wanted.values())), 3, f"three models, three answers: {wanted}")
        got, failed = [], []

        def ask(name):
            try:
                got.append((name, self.answer(name)))
            except Exception as why:  # told below
                failed.append(f"{name}: {why}")
        threads = [threading.Thread(target=ask, args=(names[i % 3],)) for i in range(18)]
        for t in threads:
            t.start()
        for t in threads:
            t.join(120)
        expect(not failed and len(got) == 18, f"{failed}")
        for name, text in got:
            equal(text, wanted[name], name)
        expect({m["id"] for m in self.c.get("/v1/models")["data"]} >= {"base", "one", "two"}, "the list of models")
        metrics = self.metrics()
        equal((metrics["genloop_inference_models"], metrics["genloop_inference_adapters"]), (3, 2), "metrics")
        expect(metrics["genloop_inference_adapter_bytes"] > 0, "bytes of adapters")
        return f"{wanted}"

    def rolled_back(self):
        """A second version of an adapter takes over from the first and gives way to it again; the other adapter and the base go on."""
        adapter(self.dir("one-b"), self.base, 5)
        equal(self.p.json("import", self.dir("one-b"), "--name", "one", "--base", "base@1")["version"], "one@2", "the version")
        self.p.release("one@2")
        expected = self.wanted("one-b")
        wait_for("one means one@2", lambda: self.answer("one") == expected, 60)
        self.p.move("one", "rollback")
        before = self.wanted("one")
        wait_for("one means one@1 again", lambda: self.answer("one") == before, 60)
        equal((self.answer("two"), self.answer("base")), (self.wanted("two"), self.wanted("base")), "the others")
        wait_for("one@2 is gone from the replica", lambda: self.metrics()["genloop_inference_adapters"] == 2, 60)
        return expected

    def no_training(self):
        status, _, body = self.c.raw("POST", "/v1/admin/jobs", {"model": "x", "recipe": self.p.tiny_recipe(5, model={"base": "one@1"}), "dataset": "texts"})
        expect(status == 400 and b"adapter" in body, f"{status} {body}")
        return body.decode()[:160]


def main():
    suite = Suite()
    folder = tempfile.mkdtemp(prefix="genloop-adapters-")
    try:
        with Platform(config={"gates": EASY_GATES}) as p:
            t = Adapters(p, folder)
            made = suite.run("a_base", t.base_is_served)
            refused = suite.run("what_is_not_understood_stays_here", t.refused, needs=[made])
            suite.run("an_adapter_of_another_model", t.other_shapes, needs=[made])
            one = suite.run("an_adapter_becomes_a_version_that_answers", t.imported, needs=[refused])
            two = suite.run("several_in_one_batch", t.together, needs=[one])
            suite.run("one_is_rolled_back", t.rolled_back, needs=[two])
            suite.run("training_on_from_one_is_refused", t.no_training, needs=[one])
            if suite.failed:
                p.tell_errors()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    finish(suite)


if __name__ == "__main__":
    main()
