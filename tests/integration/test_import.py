#!/usr/bin/env python3
"""A model from elsewhere: `genloop import` of a model directory, refused where it is broken and a candidate where it is whole, through the gates and a person's approval to an answer; a GGUF file likewise.
On a platform without any data set: the same, measured on the prose that is built in; encoders that embed, rank and classify; an encoder-decoder.

    tests/integration/test_import.py        uses build/bin or $GENLOOP_BIN; about 30 s. $GENLOOP_REAL: the folder with models/smollm2-135m-instruct.gguf; without it that part is skipped"""
import json
import os
import shutil
import sys
import tempfile

for folder in ("support", "conformance"):
    sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", folder))
import t5_models  # noqa: E402
from testbed import EASY_GATES, Platform, Skip, Suite, corpus, equal, expect, finish, wait_for  # noqa: E402
from tiny_encoder import model  # noqa: E402


class Import:
    def __init__(self, platform, folder):
        self.p, self.c, self.folder = platform, platform.client, folder
        self.dir = os.path.join(folder, "elsewhere")

    def made_elsewhere(self):
        for name, body in corpus(60):
            self.c.upload("texts", name, body.encode())
        wait_for("the documents are cleaned", lambda: [d for d in self.c.pages("/v1/documents?dataset=texts", "documents") if d["state"] == "DOCUMENT_STATE_ACCEPTED"][59:], 60)
        version = self.p.build("texts")["version"]
        self.p.train("made", f"texts@{version}", steps=20)
        wait_for("made@1 is registered", lambda: self.p.version("made@1"), 60)
        self.p.model_files("made@1", self.dir)
        return ", ".join(sorted(os.listdir(self.dir)))

    def refused(self):
        """What is broken does not leave this machine: nothing was sent, and no job was made."""
        broken = os.path.join(self.folder, "broken")
        shutil.copytree(self.dir, broken)
        with open(os.path.join(broken, "model.safetensors"), "r+b") as f:
            f.truncate(os.path.getsize(os.path.join(broken, "model.safetensors")) - 8)
        said = self.p.run("import", broken, "--name", "broken", check=False)
        expect(said.returncode == 1 and "model.safetensors" in said.stderr, f"{said.returncode}: {said.stderr}")
        said = self.p.run("import", os.path.join(self.folder, "nowhere"), "--name", "broken", check=False)
        expect(said.returncode == 1 and "nowhere" in said.stderr, f"{said.returncode}: {said.stderr}")
        equal(self.p.run("import", self.dir, check=False).returncode, 2, "without a name")
        expect(not [j for j in self.c.pages("/v1/admin/jobs", "jobs") if j["kind"] == "JOB_KIND_IMPORT"], "a job was made")
        return said.stderr.strip()

    def unknown_file(self):
        """Files that nobody sent are named before a job is made."""
        status, _, body = self.c.raw("POST", "/v1/admin/jobs", {"model": "x", "kind": "JOB_KIND_IMPORT", "import_spec": {"files": [{"name": "config.json", "content": {"sha256": "0" * 64, "size_bytes": 3}}]}})
        expect(status == 404 and b"purpose model" in body, f"{status} {body}")
        status, _, body = self.c.raw("POST", "/v1/admin/jobs", {"model": "x", "kind": "JOB_KIND_IMPORT", "import_spec": {"files": [{"name": "../config.json", "content": {"sha256": "0" * 64, "size_bytes": 3}}]}})
        expect(status == 400 and b"no name of a model's file" in body, f"{status} {body}")
        return "404, 400"

    def imported(self):
        answer = self.p.json("import", self.dir, "--name", "guest")
        equal(answer["version"], "guest@1", "the version")
        equal(answer["job"]["kind"], "JOB_KIND_IMPORT", "kind")
        again = [self.p.json("import", self.dir, "--name", "twice", "--id", "import-twice") for _ in range(2)]
        equal([(a["version"], a["job"]["id"]) for a in again], [("twice@1", "import-twice")] * 2, "asked for twice under one id")
        self.p.release("guest@1")
        body = {"model": "guest", "prompt": "The quiet river", "max_tokens": 8, "temperature": 0}
        mine = self.c.post("/v1/completions", body)
        wanted = json.loads(self.p.run("run", "--model", self.dir, "--kv", "f16", "--prompt", body["prompt"], "--max-tokens", "8", "--temperature", "0", "--json"))
        equal(mine["choices"][0]["text"], wanted["text"], "what the same files answer without a platform")
        return repr(mine["choices"][0]["text"])

    def sampled_as_it_says(self):
        """What a request leaves open is the model's: here one token to draw from, which is the most likely one, until a request says otherwise."""
        path = os.path.join(self.folder, "generation_config.json")
        with open(path, "w") as f:
            f.write('{"do_sample": true, "top_k": 0.5, "temperature": -1}')
        said = self.p.run("import", self.dir, "--name", "narrow", "--generation-config", path, check=False)
        expect(said.returncode == 1 and path in said.stderr and "out of range" in said.stderr, f"{said.returncode}: {said.stderr}")
        with open(path, "w") as f:
            f.write('{"do_sample": true, "top_k": 1}')
        equal(self.p.json("import", self.dir, "--name", "narrow", "--generation-config", path)["version"], "narrow@1", "the version")
        self.p.release("narrow@1")
        body = {"model": "narrow", "prompt": "The quiet river", "max_tokens": 24}
        text = lambda **more: self.c.post("/v1/completions", {**body, **more})["choices"][0]["text"]  # noqa: E731
        likely = text(temperature=0)
        equal([text() for _ in range(3)], [likely] * 3, "drawn as the model says")
        expect(text(top_k=-1, seed=1) != likely, "and among all, where the request says so")
        return repr(likely)

    def quantized(self):
        """With its weights in blocks of 8 bits: what that costs is told and stands in the card; a replica and genloop run read the same."""
        said = self.p.run("import", self.dir, "--name", "packed", "--quantize", "q8_0")
        expect("The weights are q8_0" in said and "same first choice" in said, said)
        job = [j for j in self.c.pages("/v1/admin/jobs", "jobs") if j["kind"] == "JOB_KIND_IMPORT" and j["model"] == "packed"][0]
        figures = {f["name"]: f["value"] for f in job["figures"]}
        expect(0.8 < figures["same_first_choice"] <= 1 and abs(figures["perplexity"] / figures["perplexity_before"] - 1) < 0.05, f"{figures}")
        expect(figures["weights_bytes"] < 0.6 * figures["weights_bytes_before"], f"{figures}")
        expect("Quantized at import" in self.p.run("models", "card", "packed@1"), "the card")
        where = os.path.join(self.folder, "packed")
        files = self.p.model_files("packed@1", where)
        expect("weights.gguf" in files and "model.safetensors" not in files and files["tokenizer.json"], f"{list(files)}")
        self.p.release("packed@1")
        mine = self.c.post("/v1/completions", {"model": "packed", "prompt": "The quiet river", "max_tokens": 8, "temperature": 0})
        wanted = json.loads(self.p.run("run", "--model", where, "--activations", "int8", "--kv", "f16", "--prompt", "The quiet river", "--max-tokens", "8", "--temperature", "0", "--json"))
        equal(mine["choices"][0]["text"], wanted["text"], "what the same files answer without a platform")
        equal(self.p.run("import", self.dir, "--name", "packed", "--quantize", "q3", check=False).returncode, 2, "a type that there is not")
        return said.splitlines()[0]

    def exported(self):
        """A version comes back as the files that went in; as GGUF, which is the same model to whoever reads it, from blocks too; imported back it computes the same logits. Never half of it."""
        plain, gguf = os.path.join(self.folder, "plain"), os.path.join(self.folder, "gguf")
        self.p.run("export", "guest@1", "--out", plain)
        for name in os.listdir(self.dir):
            with open(os.path.join(self.dir, name), "rb") as a, open(os.path.join(plain, name), "rb") as b:
                equal(a.read() == b.read(), True, f"{name}, and what went in")
        self.p.run("export", "guest", "--out", gguf, "--format", "gguf")
        self.p.run("export", "packed@1", "--out", gguf + "-packed", "--format", "gguf")
        self.p.run("export", "packed@1", "--out", plain + "-wide", "--format", "safetensors")
        equal(self.p.json("import", os.path.join(gguf, "model.gguf"), "--name", "back")["version"], "back@1", "what came back")
        back = os.path.join(self.folder, "back")
        self.p.model_files("back@1", back)
        ask = ["--prompt", "The quiet river", "--max-tokens", "12", "--temperature", "0", "--top-logits", "20", "--json"]
        answers = {where: json.loads(self.p.run("run", "--model", where, *ask)) for where in (self.dir, gguf, back, os.path.join(self.folder, "packed"), gguf + "-packed")}
        for one, other in ((self.dir, gguf), (self.dir, back), (os.path.join(self.folder, "packed"), gguf + "-packed")):
            equal((answers[other]["tokens"], answers[other]["top_logits"]), (answers[one]["tokens"], answers[one]["top_logits"]), f"tokens and logits of {os.path.basename(other)}")
        equal(json.loads(self.p.run("run", "--model", plain + "-wide", "--weights", "q8", *ask))["tokens"], answers[gguf + "-packed"]["tokens"], "tokens of the blocks that were widened, in blocks again")
        logits = {kv: {t["id"]: t["logit"] for t in json.loads(self.p.run("run", "--model", gguf, "--kv", kv, *ask))["top_logits"]} for kv in ("f32", "f16", "int8")}
        equal(logits["f32"], {t["id"]: t["logit"] for t in answers[gguf]["top_logits"]}, "keys and values in f32, the default")
        for kv in ("f16", "int8"):
            off = [abs(logits[kv][t] - logits["f32"][t]) for t in logits["f32"] if t in logits[kv]]
            expect(len(off) > 15 and 0 < max(off) < 0.2, f"logits with keys and values in {kv}: {off}")
        rounded = {name: {t["id"]: t["logit"] for t in json.loads(self.p.run("run", "--model", gguf + "-packed", *more, *ask))["top_logits"]}
                   for name, more in (("exact", ("--weights", "f32")), ("int8", ("--activations", "int8")), ("int16", ("--activations", "int16")), ("default", ()))}
        off = {name: max(abs(rounded[name][t] - rounded["exact"][t]) for t in rounded["exact"] if t in rounded[name]) for name in ("int8", "int16")}
        expect(off["int16"] < off["int8"] / 20 and rounded["default"] == rounded["int16"], f"logits of 8 bits, inputs rounded: {off}")
        said = self.p.run("run", "--model", gguf + "-packed", "--activations", "int4", *ask, check=False)
        expect(said.returncode == 2 and "int8|int16" in said.stderr, f"--activations int4: {said.returncode} {said.stderr}")
        said = self.p.run("run", "--model", gguf, "--kv", "q8_0", *ask, check=False)
        expect(said.returncode == 2 and "f32|f16|int8" in said.stderr, f"--kv q8_0: {said.returncode} {said.stderr}")
        for words, says in ((["guest@1", "--out", plain], "exists already"), (["guest@9", "--out", plain + "9"], "guest@9"), (["guest@1", "--out", plain + "9", "--format", "pickle"], "safetensors|gguf")):
            said = self.p.run("export", *words, check=False)
            expect(said.returncode != 0 and says in said.stderr, f"{words}: {said.returncode} {said.stderr}")
        sha256 = json.loads(self.p.object(self.p.version("guest@1")["version"]["directory"]["sha256"]))["files"]["model.safetensors"]["sha256"]
        stored = os.path.join(self.p.home, "store", "objects", sha256[:2], sha256[2:])
        os.chmod(stored, 0o644)
        with open(stored, "r+b") as f:  # one byte of the store goes bad
            f.seek(-1, os.SEEK_END)
            last = f.read(1)
            f.seek(-1, os.SEEK_END)
            f.write(bytes([last[0] ^ 1]))
        said = self.p.run("export", "guest@1", "--out", plain + "9", check=False)
        expect(said.returncode == 1 and "digest" in said.stderr, f"{said.returncode} {said.stderr}")
        equal([n for n in os.listdir(self.folder) if n.startswith("plain9")], [], "what is left of it")
        return ", ".join(sorted(os.listdir(gguf)))

    def gguf(self):
        path = os.path.join(os.environ.get("GENLOOP_REAL", ""), "models", "smollm2-135m-instruct.gguf")
        if not os.path.exists(path):
            raise Skip("$GENLOOP_REAL names no folder with models/smollm2-135m-instruct.gguf")
        answer = json.loads(self.p.run("import", path, "--name", "smol", "--json", timeout=300))
        equal(answer["version"], "smol@1", "the version")
        self.p.release("smol@1", patience_s=400)
        chat = self.c.post("/v1/chat/completions", {"model": "smol", "messages": [{"role": "user", "content": "Write one sentence about the sea."}], "max_tokens": 24, "temperature": 0})
        text = chat["choices"][0]["message"]["content"]
        expect("sea" in text, f"the answer is {text!r}")
        return repr(text)


class Fresh:
    """A platform that nobody has given a text."""

    def __init__(self, platform, folder):
        self.p, self.c, self.folder = platform, platform.client, folder

    def evidence(self, full):
        """The gates of its evaluation by name; what they rest on comes out of the record again."""
        detail = self.p.wait_state(full, "EVALUATED|REJECTED")
        gates = {g["gate"]: g for g in detail["evaluations"][0]["gates"]}
        equal(detail["version"]["state"], "MODEL_STATE_EVALUATED", f"{full} after its gates: {gates}")
        expect("all gates passed; all" in self.p.run("evaluate", full, "--recompute"), "the verdict does not come out of the record again")
        expect("prose that the platform ships" in gates["evidence"]["rule"], gates["evidence"]["rule"])
        return gates

    def decoder(self):
        made = os.path.join(self.folder, "elsewhere")
        equal(self.p.json("import", made, "--name", "guest")["version"], "guest@1", "the version")
        self.evidence("guest@1")
        jobs = [j for j in self.c.pages("/v1/admin/jobs", "jobs") if j["kind"] == "JOB_KIND_EVALUATE"]
        equal(jobs[0]["evaluate"]["held_out"], "builtin:prose@1", "what it was measured on")
        self.p.release("guest@1")
        return jobs[0]["evaluate"]["held_out"]

    def encoders(self):
        said = []
        for name, labels, gates in (("embedder", None, {"evidence", "finite", "distinct", "retrieval", "tokenizer"}), ("ranker", ["relevance"], {"evidence", "finite", "distinct", "retrieval", "tokenizer"}),
                                    ("judge", ["OK", "rude", "violent"], {"evidence", "finite", "distinct", "tokenizer"})):
            where = os.path.join(self.folder, name)
            model(where, labels, 5)
            if not labels:
                os.makedirs(os.path.join(where, "1_Pooling"))
                for file, what in (("modules.json", [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
                                                     {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}]),
                                   ("1_Pooling/config.json", {"word_embedding_dimension": 32, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False})):
                    with open(os.path.join(where, file), "w", encoding="utf-8") as f:
                        json.dump(what, f)
            equal(self.p.json("import", where, "--name", name)["version"], f"{name}@1", "the version")
            equal(set(self.evidence(f"{name}@1")), gates, f"gates of {name}")
            self.p.move(f"{name}@1", "approve")
            if name == "embedder":
                status, _, body = self.c.raw("POST", f"/v1/admin/models/{name}@1/canary", {"reason": "test", "canary_percent": 10})
                expect(status == 409 and b"is an encoder" in body, f"{status} {body}")
            self.p.move(f"{name}@1", "promote")
            said.append(name)
        aliases = {a["alias"]: a["name"] for a in self.p.json("models", "list")["aliases"]}
        equal(aliases, {"production": "guest"}, "what people chat with by the name production")
        ask = {"embedder": ("/v1/embeddings", {"input": "the cat sat on the mat"}), "ranker": ("/v1/rerank", {"query": "big dog", "documents": ["the big dog runs", "old river"]}), "judge": ("/v1/classify", {"input": "red stone"})}
        answers = {}
        for name, (path, body) in ask.items():
            wait_for(f"a replica serves {name}", lambda: self.c.raw("POST", path, {"model": name, **body})[0] == 200, 60)
            answers[name] = self.c.post(path, {"model": name, **body})
        alone = json.loads(self.p.run("run", "--model", os.path.join(self.folder, "embedder"), "--task", "embed", "--prompt", "the cat sat on the mat", "--json"))["embedding"]
        equal(answers["embedder"]["data"][0]["embedding"], alone, "the vector, and that of genloop run")
        equal(len(answers["ranker"]["results"]), 2, "documents ranked")
        expect(answers["judge"]["data"][0]["label"] in ("OK", "rude", "violent"), f"{answers['judge']}")
        return ", ".join(said)

    def encoders_as_gguf(self):
        """Encoders as llama.cpp's file, from here and back: vectors, pooling and the names of labels are those of the files that went out; in blocks of 8 bits the pooling is still said."""
        said = []
        for name, path, body, gates in (("embedder", "/v1/embeddings", {"input": "the cat sat on the mat"}, 5), ("judge", "/v1/classify", {"input": "red stone"}, 4)):
            out = os.path.join(self.folder, f"{name}-gguf")
            self.p.run("export", f"{name}@1", "--out", out, "--format", "gguf")
            equal(self.p.json("import", os.path.join(out, "model.gguf"), "--name", f"{name}-back")["version"], f"{name}-back@1", "the version")
            equal(len(self.evidence(f"{name}-back@1")), gates, "gates")
            self.p.move(f"{name}-back@1", "approve")
            self.p.move(f"{name}-back@1", "promote")
            wait_for(f"a replica serves {name}-back", lambda: self.c.raw("POST", path, {"model": f"{name}-back", **body})[0] == 200, 60)
            equal(self.c.post(path, {"model": f"{name}-back", **body})["data"], self.c.post(path, {"model": name, **body})["data"], f"what {name} answers")
            said.append(name)
        self.p.json("import", os.path.join(self.folder, "embedder-gguf", "model.gguf"), "--name", "small", "--quantize", "q8_0")
        files = self.p.model_files("small@1", os.path.join(self.folder, "small"))
        expect("weights.gguf" in files and "modules.json" in files and "1_Pooling/config.json" in files, f"{list(files)}")
        vectors = [json.loads(self.p.run("run", "--model", os.path.join(self.folder, where), "--task", "embed", "--prompt", "the cat sat on the mat", "--json"))["embedding"] for where in ("embedder", "small")]
        expect(sum(a * b for a, b in zip(*vectors)) > 0.99, "the vector in blocks")
        return ", ".join(said)

    def collapsed(self):
        """For which all texts are one: rejected by the gate that is for it, however easy the others are."""
        where = os.path.join(self.folder, "collapsed")
        model(where, None, 6, flat=True)
        self.p.json("import", where, "--name", "collapsed")
        detail = self.p.wait_state("collapsed@1", "EVALUATED|REJECTED")
        equal(detail["version"]["state"], "MODEL_STATE_REJECTED", "a model that gives one vector for all")
        failed = [g["gate"] for g in detail["evaluations"][0]["gates"] if not g["passed"]]
        expect("distinct" in failed, f"failed: {failed}")
        return ", ".join(failed)


    def encoder_decoder(self):
        """A T5: measured by the second halves of texts, given their first; what a replica answers is what genloop run does."""
        where = os.path.join(self.folder, "t5")
        t5_models.write(where, "flan")
        equal(self.p.json("import", where, "--name", "reader")["version"], "reader@1", "the version")
        gates = self.evidence("reader@1")
        equal(set(gates), {"evidence", "tokenizer", "perplexity", "source", "repetition", "empty", "distinct_3"}, "its gates")
        expect("second halves, given the first" in gates["perplexity"]["rule"], gates["perplexity"]["rule"])
        self.p.release("reader@1")
        ask = {"prompt": t5_models.TEXT, "max_tokens": 12, "temperature": 0}
        mine = self.c.post("/v1/completions", {"model": "reader", **ask})
        wanted = json.loads(self.p.run("run", "--model", where, "--prompt", ask["prompt"], "--kv", "f16", "--max-tokens", "12", "--temperature", "0", "--json"))
        equal((mine["choices"][0]["text"], mine["usage"]["prompt_tokens"]), (wanted["text"], wanted["usage"]["prompt_tokens"]), "what the same files answer without a platform")
        said = self.p.run("import", where, "--name", "reader", "--quantize", "q8_0")  # against reader@1, in production
        expect("The weights are q8_0" in said and "same first choice" in said, said)
        equal(self.p.wait_state("reader@2", "EVALUATED|REJECTED")["version"]["state"], "MODEL_STATE_EVALUATED", "in blocks of 8 bits")
        self.p.release("reader@2")
        packed = os.path.join(self.folder, "t5-packed")
        self.p.model_files("reader@2", packed)
        wanted = json.loads(self.p.run("run", "--model", packed, "--activations", "int8", "--kv", "f16", "--prompt", ask["prompt"], "--max-tokens", "12", "--temperature", "0", "--json"))
        wait_for("a replica serves the blocks", lambda: self.c.post("/v1/completions", {"model": "reader@2", **ask})["choices"][0]["text"] == wanted["text"], 60)
        return repr(mine["choices"][0]["text"])

    def encoder_decoder_as_gguf(self):
        """The same as llama.cpp's file, from here and back: what is answered stays, in floats and in blocks, which go over as they are."""
        ask, said = {"prompt": t5_models.TEXT, "max_tokens": 12, "temperature": 0}, []
        for version, name in (("reader@1", "reader-back"), ("reader@2", "reader-packed")):
            out = os.path.join(self.folder, name)
            self.p.run("export", version, "--out", out, "--format", "gguf")
            equal(self.p.json("import", os.path.join(out, "model.gguf"), "--name", name)["version"], f"{name}@1", "the version")
            expect("source" in self.evidence(f"{name}@1"), "its gates")
            self.p.release(f"{name}@1")
            wanted = json.loads(self.p.run("run", "--model", os.path.join(self.folder, "t5" if version == "reader@1" else "t5-packed"), "--activations", "int8", "--kv", "f16", "--prompt", ask["prompt"], "--max-tokens", "12", "--temperature", "0", "--json"))
            wait_for(f"a replica serves {name}", lambda: self.c.raw("POST", "/v1/completions", {"model": name, **ask})[0] == 200, 60)
            mine = self.c.post("/v1/completions", {"model": name, **ask})
            equal((mine["choices"][0]["text"], mine["usage"]["prompt_tokens"]), (wanted["text"], wanted["usage"]["prompt_tokens"]), f"what {name} answers, and {version}")
            said.append(mine["choices"][0]["text"])
        return repr(said)

    def spoiled(self):
        """Weights that are numbers, and say nothing: the gates refuse them, however easy the others are."""
        where = os.path.join(self.folder, "t5-spoiled")
        t5_models.write(where, "flan", head=60)
        self.p.json("import", where, "--name", "spoiled")
        detail = self.p.wait_state("spoiled@1", "EVALUATED|REJECTED")
        equal(detail["version"]["state"], "MODEL_STATE_REJECTED", "a model whose head is far too loud")
        failed = {g["gate"]: g["rule"] for g in detail["evaluations"][0]["gates"] if not g["passed"]}
        expect("perplexity" in failed, f"failed: {failed}")
        return failed["perplexity"]


def main():
    suite = Suite()
    folder = tempfile.mkdtemp(prefix="genloop-import-")
    try:
        with Platform(config={"gates": EASY_GATES}) as p:
            t = Import(p, folder)
            made = suite.run("a_model_made_elsewhere", t.made_elsewhere)
            suite.run("what_is_broken_stays_here", t.refused, needs=[made])
            suite.run("files_that_nobody_sent", t.unknown_file)
            suite.run("a_directory_becomes_a_version_that_answers", t.imported, needs=[made])
            suite.run("sampled_as_the_model_says", t.sampled_as_it_says, needs=[made])
            suite.run("quantized_on_the_way_in", t.quantized, needs=[made])
            suite.run("exported_and_back", t.exported, needs=[made])
            suite.run("a_published_gguf_file_chats", t.gguf, needs=[made])
            if suite.failed:
                p.tell_errors()
        with Platform(config={"gates": {**EASY_GATES, "encoder_recall_min": 0, "source_min": 0}}) as p:
            t = Fresh(p, folder)
            suite.run("without_a_data_set", t.decoder, needs=[made])
            encoders = suite.run("encoders", t.encoders)
            suite.run("encoders_as_gguf_and_back", t.encoders_as_gguf, needs=[encoders])
            suite.run("an_encoder_that_says_one_thing", t.collapsed)
            reader = suite.run("an_encoder_decoder", t.encoder_decoder)
            suite.run("an_encoder_decoder_as_gguf_and_back", t.encoder_decoder_as_gguf, needs=[reader])
            suite.run("an_encoder_decoder_that_is_spoiled", t.spoiled)
            if suite.failed:
                p.tell_errors()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    finish(suite)


if __name__ == "__main__":
    main()
