#!/usr/bin/env python3
"""Encoders on the real platform: a tiny BERT that embeds, a cross-encoder and a classifier, each through the doors that are theirs; what they and a decoder's doors refuse; many clients at once,
whose vectors are those that each gets alone; a replica killed in between.

    tests/integration/test_encoders.py [BUILD]     BUILD/tests/release_model puts the models into the platform [build]"""
import base64
import concurrent.futures
import json
import math
import os
import random
import struct
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from tiny_encoder import CONTEXT, WIDTH, WORDS, model  # noqa: E402
from testbed import BIN, EASY_GATES, Client, Platform, Refused, Suite, equal, expect, finish, wait_for  # noqa: E402

def sentence(i):
    chance = random.Random(i)
    return " ".join(chance.choice(WORDS) for _ in range(chance.randrange(2, 30)))


class Encoders:
    def __init__(self, platform, folder, build):
        self.p, self.folder, self.build = platform, folder, build

    def released(self):
        for name, labels, seed in (("embedder", None, 1), ("ranker", ["relevance"], 2), ("judge", ["OK", "rude", "violent"], 3)):
            model(os.path.join(self.folder, name), labels, seed)
            subprocess.run([os.path.join(self.build, "tests", "release_model"), self.p.home, os.path.join(self.folder, name), name], check=True)
        for path, body in (("embeddings", {"model": "embedder@1", "input": "a"}), ("score", {"model": "ranker@1", "text_1": "a", "text_2": "b"}), ("classify", {"model": "judge@1", "input": "a"})):
            wait_for(f"a replica serves {body['model']}", lambda: self.p.client.raw("POST", f"/v1/{path}", body)[0] == 200)
        return "three encoders"

    def post(self, path, **body):
        return self.p.client.until(lambda: self.p.client.post(path, body))

    def refused(self, path, param, code=None, status=400, **body):
        try:
            self.p.client.post(path, body)
        except Refused as why:
            equal((why.status, why.error.get("param")), (status, param), f"{path} {body}: {why}")
            expect(code is None or why.error.get("code") == code, f"{path}: code {why.error.get('code')}")
            return
        raise AssertionError(f"{path} {body} is answered")

    def vectors(self, texts, **more):
        return [d["embedding"] for d in self.post("/v1/embeddings", model="embedder@1", input=texts, **more)["data"]]

    def embeds(self):
        answer = self.post("/v1/embeddings", model="embedder@1", input=["the cat sat on the mat", "red stone"])
        equal((answer["object"], answer["model"], [d["index"] for d in answer["data"]]), ("list", "embedder@1", [0, 1]), "the answer")
        equal(answer["usage"], {"prompt_tokens": 8 + 4, "total_tokens": 12}, "usage: each text between [CLS] and [SEP]")
        vector = answer["data"][0]["embedding"]
        equal(len(vector), WIDTH, "its width")
        expect(abs(math.hypot(*vector) - 1) < 1e-5, "its length")
        alone = json.loads(self.p.run("run", "--model", os.path.join(self.folder, "embedder"), "--task", "embed", "--prompt", "the cat sat on the mat", "--json"))["embedding"]
        equal(vector, alone, "the vector, and that of genloop run")
        packed = self.post("/v1/embeddings", model="embedder@1", input="the cat sat on the mat", encoding_format="base64")["data"][0]["embedding"]
        equal(list(struct.unpack(f"<{WIDTH}f", base64.b64decode(packed))), [struct.unpack("<f", struct.pack("<f", x))[0] for x in vector], "base64")
        short = self.vectors("the cat sat on the mat", dimensions=8)[0]
        length = math.hypot(*vector[:8])
        expect(len(short) == 8 and max(abs(a - b / length) for a, b in zip(short, vector)) < 1e-6, "dimensions: the first, of length 1 again")
        equal(self.vectors([[2, 5, 3], [2, 6, 3]])[1], self.vectors([2, 6, 3])[0], "ids")
        return f"{WIDTH} wide"

    def ranks(self):
        documents = [sentence(i) for i in range(12)]
        full = self.post("/v1/rerank", model="ranker@1", query="big dog", documents=documents)
        scores = [r["relevance_score"] for r in full["results"]]
        equal(sorted(r["index"] for r in full["results"]), list(range(12)), "every document once")
        equal(scores, sorted(scores, reverse=True), "the order")
        expect(all(0 <= s <= 1 for s in scores) and scores[0] > scores[-1], f"scores {scores}")
        equal(full["results"][0]["document"]["text"], documents[full["results"][0]["index"]], "the document")
        best = self.post("/v1/rerank", model="ranker@1", query="big dog", documents=[{"text": d} for d in documents], top_n=3, return_documents=False)
        equal(best["results"], [{"index": r["index"], "relevance_score": r["relevance_score"]} for r in full["results"][:3]], "top_n")
        pairs = self.post("/v1/score", model="ranker@1", text_1="big dog", text_2=documents)["data"]
        equal([p["score"] for p in pairs], [next(r["relevance_score"] for r in full["results"] if r["index"] == i) for i in range(12)], "/v1/score")
        by_vectors = self.post("/v1/score", model="embedder@1", text_1="big dog", text_2=["big dog", "old river"])["data"]
        a, b = self.vectors(["big dog", "old river"])
        expect(abs(by_vectors[0]["score"] - 1) < 1e-5 and abs(by_vectors[1]["score"] - sum(x * y for x, y in zip(a, b))) < 1e-5, f"of a model without a classifier: cosines, not {by_vectors}")
        long = self.post("/v1/rerank", model="ranker@1", query="big dog", documents=["the cat " * 500])
        equal(long["usage"]["prompt_tokens"], CONTEXT, "a document that is too long loses its end")

    def classifies(self):
        answer = self.post("/v1/classify", model="judge@1", input=["the dog runs", "old tree"])["data"]
        for one in answer:
            expect(one["num_classes"] == 3 and abs(sum(one["probs"]) - 1) < 1e-5 and one["label"] == ["OK", "rude", "violent"][one["probs"].index(max(one["probs"]))], f"{one}")
        result = self.post("/v1/moderations", model="judge@1", input="the dog runs")["results"][0]
        equal(sorted(result["category_scores"]), ["rude", "violent"], "the categories")
        expect(abs(result["category_scores"]["rude"] - answer[0]["probs"][1]) < 1e-9 and result["flagged"] == any(result["categories"].values()), f"{result}")

    def refuses(self):
        self.refused("/v1/embeddings", "input", model="embedder@1", input=[])
        self.refused("/v1/embeddings", "dimensions", model="embedder@1", input="a", dimensions=WIDTH + 1)
        self.refused("/v1/embeddings", "input", model="embedder@1", input=[[10 ** 6]])
        self.refused("/v1/embeddings", "input", "context_length_exceeded", model="embedder@1", input="the cat " * 100)
        equal(len(self.vectors("the cat " * 100, truncate=True)), 1, "truncate")
        self.refused("/v1/classify", "model", model="embedder@1", input="a")
        self.refused("/v1/rerank", "model", model="judge@1", query="a", documents=["b"])
        self.refused("/v1/score", "text_1", model="ranker@1", text_1=["a", "b"], text_2=["a", "b", "c"])
        self.refused("/v1/completions", "model", model="embedder@1", prompt="a", max_tokens=1)
        self.refused("/v1/embeddings", "model", "model_not_found", 404, model="nobody", input="a")

    def many_at_once(self):
        texts = [sentence(i) for i in range(64)]
        alone = [self.vectors(t)[0] for t in texts]

        def client(i):
            mine = Client(self.p.url)
            chosen = [texts[(i * 7 + k) % 64] for k in range(1 + i % 9)]
            got = mine.until(lambda: mine.post("/v1/embeddings", {"model": "embedder@1", "input": chosen}))["data"]
            return [d["embedding"] for d in got] == [alone[(i * 7 + k) % 64] for k in range(1 + i % 9)]
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            right = list(pool.map(client, range(200)))
        expect(all(right), f"{right.count(False)} of 200 answers differ from the texts' vectors alone")
        return "200 requests of 16 clients"

    def verbs(self):
        equal([x["embedding"] for x in self.p.json("embed", "--model", "embedder@1", "big dog", "old tree")["data"]], self.vectors(["big dog", "old tree"]), "genloop embed")
        ranked = self.p.run("rerank", "--model", "ranker@1", "--query", "big dog", "old river", "big dog").splitlines()
        equal(len(ranked), 2, "lines of genloop rerank")
        best = self.post("/v1/rerank", model="ranker@1", query="big dog", documents=["old river", "big dog"])["results"][0]
        expect(ranked[0].endswith(best["document"]["text"]), f"the best first: {ranked}")

    def after_a_kill(self):
        before = self.vectors("big dog")
        self.p.wait_ready("inference-1", not_pid=self.p.kill("inference-1"))
        equal(wait_for("it answers again", lambda: self.vectors("big dog")), before, "the vector")


def main():
    build = os.path.abspath(sys.argv[1] if len(sys.argv) > 1 else os.path.dirname(BIN))
    suite = Suite()
    with tempfile.TemporaryDirectory(prefix="genloop-encoders-") as folder, Platform(config={"gates": EASY_GATES}) as p:
        t = Encoders(p, folder, build)
        released = suite.run("released", t.released)
        for check in ("embeds", "ranks", "classifies", "refuses", "many_at_once", "verbs", "after_a_kill"):
            suite.run(check, getattr(t, check), needs=[released])
        if suite.failed:
            p.tell_errors()
    finish(suite)


if __name__ == "__main__":
    main()
