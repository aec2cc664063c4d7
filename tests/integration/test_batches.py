#!/usr/bin/env python3
"""Batches as OpenAI's own Python client does them, on the real platform: every line once, also when ingest, the gateway or the replica is killed in between; refusals with their line, answers that are
errors in the error file, cancel, pages, the same request again, and that who waits for an answer goes first.

    tests/integration/test_batches.py      skips where there is no Python with openai (scripts/test-python makes one; $TEST_PYTHON names another)"""
import json
import os
import shutil
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from testbed import EASY_GATES, Platform, Suite, corpus, equal, expect, finish, test_python, wait_for  # noqa: E402

test_python("openai")
try:
    import openai
except ImportError as missing:
    openai, why_not = None, str(missing)

PATIENCE_S = 180
ENDED = ("completed", "failed", "cancelled", "expired")


class Batches:
    def __init__(self, platform):
        self.p = platform
        self.o = openai.OpenAI(base_url=platform.url + "/v1", api_key="none", max_retries=5, timeout=120)

    def model(self):
        for name, body in corpus(60):
            self.p.client.upload("talk", name, body.encode())
        dataset = self.p.build("talk")
        recipe = self.p.tiny_recipe(20, model={"architecture": "llama", "layers": 2, "width": 64, "heads": 2, "kv_heads": 2, "context": 512, "vocab": 512, "tie_embeddings": True})
        self.p.train("talker", f"talk@{dataset['version']}", recipe=recipe)
        self.p.release("talker@1")
        return "talker@1 in production"

    def line(self, i, **body):
        return {"custom_id": f"line-{i}", "method": "POST", "url": "/v1/completions", "body": {"model": "production", "prompt": f"Once upon a time {i}", "max_tokens": 8, "ignore_eos": True, "seed": i, **body}}

    def upload(self, lines):
        text = "".join(x if isinstance(x, str) else json.dumps(x) + "\n" for x in lines)
        return self.o.files.create(file=("batch.jsonl", text.encode()), purpose="batch")

    def create(self, lines, endpoint="/v1/completions", **more):
        return self.o.batches.create(input_file_id=self.upload(lines).id, endpoint=endpoint, completion_window="24h", **more)

    def ask(self, body):
        return self.p.client.call("POST", "/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json", "Cache-Control": "no-cache"})

    def ended(self, batch):
        def look():
            now = self.o.batches.retrieve(batch.id)
            return now if now.status in ENDED else None
        return wait_for(f"batch {batch.id} comes to its end", look, PATIENCE_S)

    def rows(self, file_id):
        return [json.loads(x) for x in self.o.files.content(file_id).text.splitlines()] if file_id else []

    def completes(self):
        batch = self.create([self.line(i) for i in range(40)], metadata={"who": "a test", "é": "🙂"})
        expect(batch.status in ("validating", "in_progress") and batch.object == "batch", f"a new batch: {batch}")
        done = self.ended(batch)
        equal((done.status, done.request_counts.total, done.request_counts.completed, done.request_counts.failed), ("completed", 40, 40, 0), "how it ended")
        equal(done.metadata, {"who": "a test", "é": "🙂"}, "its metadata")
        expect(done.error_file_id is None and done.completed_at and done.finalizing_at and done.in_progress_at, f"its times and files: {done}")
        rows = self.rows(done.output_file_id)
        equal([r["custom_id"] for r in rows], [f"line-{i}" for i in range(40)], "one answer for each line, in the order of the input")
        expect(len({r["id"] for r in rows}) == 40 and all(r["error"] is None and r["response"]["status_code"] == 200 for r in rows), f"the rows: {rows[0]}")
        alone = self.ask(self.line(7)["body"])
        equal(rows[7]["response"]["body"]["choices"][0]["text"], alone["choices"][0]["text"], "line 7 and the same request alone")
        f = self.o.files.retrieve(done.output_file_id)
        equal(f.purpose, "batch_output", "the output's purpose")
        return "40 of 40, in order, as alone"

    def of_responses(self):
        lines = [{"custom_id": f"r-{i}", "method": "POST", "url": "/v1/responses", "body": {"model": "production", "input": f"Who is number {i}?", "max_output_tokens": 4, "temperature": 0, **({"store": True} if i else {})}} for i in range(2)]
        done = self.ended(self.create(lines, endpoint="/v1/responses"))
        equal((done.status, done.request_counts.completed), ("completed", 2), "how it ended")
        bodies = [r["response"]["body"] for r in self.rows(done.output_file_id)]
        equal([(b["object"], b["store"]) for b in bodies], [("response", False), ("response", True)], "responses, kept where they say so")
        equal(self.o.responses.retrieve(bodies[1]["id"]).output_text, bodies[1]["output"][0]["content"][0]["text"], "the one that is kept")
        return "2 of 2"

    def errors_apart(self):
        batch = self.ended(self.create([self.line(0), self.line(1, temperature=99), self.line(2, model="no-such-model"), "\n", self.line(3)]))
        good, bad = self.rows(batch.output_file_id), self.rows(batch.error_file_id)
        equal((batch.status, [r["custom_id"] for r in good], [r["custom_id"] for r in bad]), ("completed", ["line-0", "line-3"], ["line-1", "line-2"]), "what went where")
        equal([r["response"]["status_code"] for r in bad], [400, 404], "their status")
        expect(bad[0]["response"]["body"]["error"]["param"] == "temperature", f"the error says why: {bad[0]}")
        equal((batch.request_counts.completed, batch.request_counts.failed), (2, 2), "the counts")
        return "400 and 404 in the error file"

    def refusals(self):
        cases = [("the same id twice", [self.line(0), "\n", self.line(0)], "duplicate_custom_id", 3), ("another endpoint", [self.line(0), {**self.line(1), "url": "/v1/embeddings"}], "mismatched_url", 2),
                 ("no custom_id", [{k: v for k, v in self.line(0).items() if k != "custom_id"}], "missing_required_parameter", 1), ("a method", [{**self.line(0), "method": "GET"}], "invalid_method", 1),
                 ("a stream", [self.line(0, stream=True)], "invalid_body", 1)]
        for what, lines, code, line in cases:
            batch = self.ended(self.create(lines))
            expect(batch.status == "failed" and batch.failed_at, f"{what}: {batch}")
            equal((batch.errors.data[0].code, batch.errors.data[0].line), (code, line), what)
        good = self.upload([self.line(0)])
        other = self.o.files.create(file=("a.jsonl", b'{"prompt": "a", "completion": "b"}\n'), purpose="fine-tune")
        for what, more, param in (("a file that is not there", {"input_file_id": "file-none"}, "input_file_id"), ("another purpose", {"input_file_id": other.id}, "input_file_id"),
                                  ("an endpoint", {"endpoint": "/v1/files"}, "endpoint"), ("a window", {"completion_window": "1h"}, "completion_window"), ("metadata", {"metadata": {"a": 1}}, "metadata")):
            try:
                self.o.batches.create(**{"input_file_id": good.id, "endpoint": "/v1/completions", "completion_window": "24h", **more})
            except openai.BadRequestError as why:
                equal(why.param, param, what)
            else:
                raise AssertionError(f"{what} was taken")
        for call in (self.o.batches.retrieve, self.o.batches.cancel):
            try:
                call("batch_none")
            except openai.NotFoundError:
                pass
            else:
                raise AssertionError("a batch that is not there was found")
        return f"{len(cases)} files, 5 requests"

    def pages_and_again(self):
        file = self.upload([self.line(0)])
        made = [self.o.batches.create(input_file_id=file.id, endpoint="/v1/completions", completion_window="24h", extra_headers={"Idempotency-Key": "same"}).id for _ in range(2)]
        equal(made[0], made[1], "the same request again")
        listed = [b.id for b in self.o.batches.list(limit=2)]
        expect(made[0] in listed and len(listed) == len(set(listed)), f"the list, over pages: {listed}")
        return f"{len(listed)} batches"

    def cancelled(self):
        batch = self.create([self.line(i, max_tokens=200) for i in range(600)])
        wait_for("the batch is begun", lambda: self.o.batches.retrieve(batch.id).request_counts.completed > 0, PATIENCE_S)
        expect(self.o.batches.cancel(batch.id).status in ("cancelling", "cancelled"), "cancel does not take")
        done = self.ended(batch)
        good, bad = self.rows(done.output_file_id), self.rows(done.error_file_id)
        expect(done.status == "cancelled" and 0 < len(good) < 600 and done.request_counts.completed == len(good), f"{done.status}, {done.request_counts}, {len(good)} answers")
        equal(sorted(r["custom_id"] for r in good + bad), sorted(f"line-{i}" for i in range(600)), "each line is in one of the files")
        expect({r["error"]["code"] for r in bad} == {"batch_cancelled"}, "why they were not answered")
        try:
            self.o.batches.cancel(batch.id)
        except openai.APIStatusError as why:
            expect(why.status_code in (400, 409), f"cancel again: {why}")
        return f"{len(good)} answered, {len(bad)} not"

    def killed(self):
        """Each service once, while lines are answered."""
        batch = self.create([self.line(i, max_tokens=100) for i in range(500)])
        for name in ("ingest", "gateway", "inference-1", "ingest"):
            before = wait_for("it goes on", lambda: (lambda c: c if c.completed > 0 else None)(self.o.batches.retrieve(batch.id).request_counts), PATIENCE_S).completed
            if before >= 500:
                break
            self.p.wait_ready(name, not_pid=self.p.kill(name))
        done = self.ended(batch)
        rows = self.rows(done.output_file_id)
        equal((done.status, done.request_counts.completed, done.request_counts.failed), ("completed", 500, 0), "how it ended")
        equal([r["custom_id"] for r in rows], [f"line-{i}" for i in range(500)], "each line once, in order")
        return "500 of 500, four kills"

    def behind_others(self):
        """Who waits for an answer goes first: the batch is slowed down, not the client."""
        batch = self.create([self.line(i, max_tokens=300) for i in range(400)])
        wait_for("the batch is begun", lambda: self.o.batches.retrieve(batch.id).status == "in_progress", PATIENCE_S)
        for i in range(10):
            self.ask({"model": "production", "prompt": f"Quick {i}", "max_tokens": 4, "ignore_eos": True})
        self.o.batches.cancel(batch.id)
        self.ended(batch)
        return "10 answers beside a batch"

    def after_restart(self):
        """Without views: the topic has it all."""
        before = {b.id: (b.status, b.output_file_id) for b in self.o.batches.list(limit=100)}
        self.p.down()
        shutil.rmtree(os.path.join(self.p.home, "views"))
        self.p.up()
        self.p.wait_serving("talker@1")
        equal({b.id: (b.status, b.output_file_id) for b in self.o.batches.list(limit=100)}, before, "the batches")
        return f"{len(before)} batches"


def main():
    suite = Suite()
    if openai is None:
        suite.note("skip", "openai", f"{why_not}: scripts/test-python makes a Python that has it")
        finish(suite)
    with Platform(config={"gates": EASY_GATES, "trainer": {"threads": 1}}) as p:
        t = Batches(p)
        model = suite.run("a_model", t.model)
        for check in ("completes", "of_responses", "errors_apart", "refusals", "pages_and_again", "cancelled", "behind_others", "killed", "after_restart"):
            suite.run(check, getattr(t, check), needs=[model])
        if suite.failed:
            p.tell_errors()
    finish(suite)


if __name__ == "__main__":
    main()
