#!/usr/bin/env python3
"""Files and fine-tuning as OpenAI's own Python client does them, on the real platform: uploads in both orders of a form, pages, refusals with their line, a large file that nobody holds
whole, jobs from their file to a candidate that only a person releases, events and pages of them, cancel, pause and resume, the same request again, and all of it still there after a
restart without views.

    tests/integration/test_files.py        skips where there is no Python with openai (scripts/test-python makes one; $TEST_PYTHON names another)"""
import json
import os
import shutil
import signal
import sys
import threading
import uuid

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from testbed import EASY_GATES, Platform, Refused, Suite, corpus, equal, expect, finish, test_python, wait_for  # noqa: E402

test_python("openai")
try:
    import openai
except ImportError as missing:
    openai, why_not = None, str(missing)

PATIENCE_S = 120


def chat_lines(n):
    return "".join(json.dumps({"messages": [{"role": "user", "content": f"What comes after {i}?"}, {"role": "assistant", "content": f"{i + 1} comes after {i}."}]}) + "\n" for i in range(n)).encode()


def pair_lines(n):
    return "".join(json.dumps({"input": {"messages": [{"role": "user", "content": f"What comes after {i}?"}], "tools": [], "parallel_tool_calls": True},
                               "preferred_output": [{"role": "assistant", "content": f"{i + 1}."}], "non_preferred_output": [{"role": "assistant", "content": "Nobody knows."}]}) + "\n"
                   for i in range(n)).encode()


def form(parts, boundary="frontier"):
    """multipart/form-data with its parts in this order: (name, file name or None, bytes)."""
    body = b""
    for name, file_name, value in parts:
        body += f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"'.encode() + (f'; filename="{file_name}"'.encode() if file_name else b"") + b"\r\n\r\n" + value + b"\r\n"
    return body + f"--{boundary}--\r\n".encode(), {"Content-Type": f"multipart/form-data; boundary={boundary}"}


def refused(kind, call):
    try:
        call()
    except kind as why:
        return why
    raise AssertionError(f"nothing was refused, wanted {kind.__name__}")


class Files:
    def __init__(self, platform):
        self.p = platform
        self.o = openai.OpenAI(base_url=platform.url + "/v1", api_key="none", max_retries=0, timeout=120)
        self.kept = {}

    def upload(self, content, purpose="fine-tune", name="lines.jsonl"):
        return self.o.files.create(file=(name, content), purpose=purpose)

    def model(self):
        for name, body in corpus(60):
            self.p.client.upload("talk", name, body.encode())
        dataset = self.p.build("talk")
        recipe = self.p.tiny_recipe(60, model={"architecture": "llama", "layers": 2, "width": 64, "heads": 2, "kv_heads": 2, "context": 512, "vocab": 512, "tie_embeddings": True})
        self.p.train("talker", f"talk@{dataset['version']}", recipe=recipe)
        self.p.release("talker@1")
        return "talker@1 in production"

    # ---- files ----

    def lifecycle(self):
        content = '{"custom_id": "1"}\n\n{"x": "é🙂"}\n'.encode()
        f = self.upload(content, "batch", "né w.jsonl")
        equal((f.object, f.bytes, f.purpose, f.filename, f.status), ("file", len(content), "batch", "né w.jsonl", "processed"), "the file")
        equal(self.o.files.retrieve(f.id).filename, "né w.jsonl", "its name")
        equal(self.o.files.content(f.id).read(), content, "its content")
        expect(f.id in [x.id for x in self.o.files.list(purpose="batch")] and f.id not in [x.id for x in self.o.files.list(purpose="fine-tune")], "the list by purpose")
        deleted = self.o.files.delete(f.id)
        equal((deleted.id, deleted.deleted), (f.id, True), "what delete says")
        for call in (self.o.files.retrieve, self.o.files.content, self.o.files.delete):
            refused(openai.NotFoundError, lambda call=call: call(f.id))
        return "there, the same, gone"

    def forms(self):
        """Fields before the file and behind it; documents by a form."""
        for parts in ([("purpose", None, b"batch"), ("file", "/home/x/a.jsonl", b"{}\n")], [("file", "a.jsonl", b"{}\n"), ("purpose", None, b"batch")],
                      [("file", "a.jsonl", b"{}\n"), ("expires_after[anchor]", None, b"created_at"), ("expires_after[seconds]", None, b"3600"), ("purpose", None, b"batch")]):
            body, headers = form(parts)
            f = self.p.client.call("POST", "/v1/files", body, headers)
            equal((f["filename"], f["purpose"], f["bytes"]), ("a.jsonl", "batch", 3), "the file of a form")
            expect(len(parts) < 4 or f["expires_at"] == f["created_at"] + 3600, f"it expires: {f}")
            self.o.files.delete(f["id"])
        text = corpus(1, seed=9)[0][1].encode()
        for path, parts in (("/v1/documents", [("dataset", None, b"forms"), ("file", "a.txt", text)]), ("/v1/documents", [("file", "b.txt", text + b"more\n"), ("dataset", None, b"forms")]),
                            ("/v1/documents?dataset=forms", [("file", "c.txt", text + b"other\n")])):
            body, headers = form(parts)
            d = self.p.client.call("POST", path, body, headers)
            expect(d["document_id"] and not d.get("existed"), f"a document of a form: {d}")
        wait_for("the three documents are listed", lambda: {d["source"] for d in self.p.client.pages("/v1/documents?dataset=forms", "documents")} == {"a.txt", "b.txt", "c.txt"}, PATIENCE_S)
        return "any order, fields in form or query"

    def pages(self):
        ids = [self.upload(b'{"i": %d}\n' % i, "batch").id for i in range(5)]
        for order in ("desc", "asc"):
            listed = [f.id for f in self.o.files.list(limit=2, order=order, purpose="batch")]
            mine = [i for i in listed if i in ids]
            equal(mine, ids if order == "asc" else ids[::-1], f"five over pages of two, {order}")
            expect(len(listed) == len(set(listed)), "a file is listed twice")
        for i in ids:
            self.o.files.delete(i)
        return "both orders, none twice"

    def refusals(self):
        cases = [
            ("purpose", b"{}\n", "assistants", 400, "not built yet"), ("an unknown purpose", b"{}\n", "fun", 400, "is not one of"), ("an output's purpose", b"{}\n", "batch_output", 400, "the platform makes"),
            ("a broken line", b'{"a":1}\n\n{nope\n', "batch", 400, "line 3"), ("no example", b'{"a":1}\n', "fine-tune", 400, "line 1"), ("empty", b"\n", "batch", 400, "empty"),
            ("tools", b'{"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"a"}],"tools":[{"type":"function"}]}\n', "fine-tune", 400, "not built yet"),
        ]
        for name, content, purpose, status, word in cases:
            why = refused(openai.APIStatusError, lambda: self.upload(content, purpose))
            expect(why.status_code == status and word in why.message, f"{name}: {why.status_code} {why.message}")
        good = [("purpose", None, b"batch"), ("file", "a", b"{}\n")]
        for name, body, headers in (("cut off", form(good)[0][:-6], form(good)[1]), ("no file", *form(good[:1])), ("no purpose", *form(good[1:])), ("two files", *form(good + good[1:])),
                                    ("an unknown field", *form(good + [("colour", None, b"red")])), ("no form", b"{}", {"Content-Type": "application/json"}), ("no boundary", b"x", {"Content-Type": "multipart/form-data"}),
                                    ("half of expires_after", *form(good + [("expires_after[seconds]", None, b"3600")])), ("a minute", *form(good + [("expires_after[anchor]", None, b"created_at"), ("expires_after[seconds]", None, b"60")]))):
            status, _, text = self.p.client.raw("POST", "/v1/files", body, headers)
            expect(status == 400 and json.loads(text)["error"]["type"] == "invalid_request_error", f"{name}: {status} {text[:200]}")
        for query in ("limit=0", "limit=10001", "order=up", "after=file-none", "colour=red"):
            equal(self.p.client.raw("GET", f"/v1/files?{query}")[0], 400, query)
        return f"{len(cases)} contents, 9 forms, 5 queries"

    def resident(self, name):
        with open(f"/proc/{self.p.processes()[name]['pid']}/status", encoding="ascii") as f:
            return int(next(line for line in f if line.startswith("VmHWM")).split()[1]) * 1024

    def large(self):
        """192 MiB up and down: neither the gateway nor ingest holds it."""
        line = (json.dumps({"custom_id": "x", "body": "y" * 4000}) + "\n").encode()
        content = line * ((192 << 20) // len(line))
        before = self.resident("gateway")
        f = self.upload(content, "batch", "large.jsonl")
        expect(self.o.files.content(f.id).read() == content, "the content changed")
        grown = self.resident("gateway") - before
        expect(grown < 48 << 20, f"the gateway grew by {grown >> 20} MiB for a file of {len(content) >> 20} MiB")
        self.o.files.delete(f.id)
        return f"{len(content) >> 20} MiB; the gateway's peak grew by {grown >> 20} MiB"

    # ---- fine-tuning ----

    def end(self, job_id):
        return wait_for(f"{job_id} ends", lambda: (lambda j: j if j.status in ("succeeded", "failed", "cancelled") else None)(self.o.fine_tuning.jobs.retrieve(job_id)), PATIENCE_S, 0.2)

    def supervised(self):
        jobs, training, validation = self.o.fine_tuning.jobs, self.upload(chat_lines(40)), self.upload(chat_lines(6))
        job = jobs.create(model="production", training_file=training.id, validation_file=validation.id, suffix="count", seed=7, metadata={"why": "a test"},
                          method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 2, "batch_size": "auto"}}})
        equal((job.object, job.training_file, job.validation_file, job.seed, job.metadata, job.hyperparameters.n_epochs), ("fine_tuning.job", training.id, validation.id, 7, {"why": "a test"}, 2), "the job")
        expect(job.status in ("queued", "running") and job.fine_tuned_model is None, f"{job.status}, {job.fine_tuned_model}")
        job = self.end(job.id)
        expect(job.status == "succeeded" and job.trained_tokens > 0 and job.finished_at, f"{job.status}: {job.error}")
        name = job.fine_tuned_model
        expect(name.startswith("ft:talker:default:count:"), f"the model is {name}")
        events = list(jobs.list_events(job.id, limit=3))  # the client follows the pages
        messages = [e.message for e in events]
        expect(len({e.id for e in events}) == len(events) and messages[-1].startswith("Created fine-tuning job"), f"events: {messages}")
        equal(messages[0], "The job has successfully completed", "the newest event")
        expect(any("candidate and is not served" in m for m in messages) and any(f"New fine-tuned model created: {name}" == m for m in messages), f"events: {messages[:4]}")
        losses = [e.data["train_loss"] for e in events if e.type == "metrics"]
        expect(len(losses) >= 2 and losses[0] < losses[-1], f"the loss falls (newest first): {losses}")
        checkpoints = list(jobs.checkpoints.list(job.id))
        equal([(c.fine_tuned_model_checkpoint, c.step_number > 0, c.metrics.full_valid_loss > 0) for c in checkpoints], [(name, True, True)], "checkpoints")
        equal([j.id for j in jobs.list(metadata={"why": "a test"})], [job.id], "jobs by their metadata")
        expect(job.id in [j.id for j in jobs.list(limit=1)], "the job is in no page of the list")
        results = self.o.files.content(job.result_files[0]).text.splitlines()
        expect(results[0].startswith("step,train_loss,") and len(results) == 1 + checkpoints[0].step_number and results[-1].split(",")[3], f"the results: {results[:2]} … {results[-1:]}")
        equal([f.id for f in self.o.files.list(purpose="fine-tune-results")], job.result_files, "files of results")
        self.kept = {"training": training.id, "job": job.id, "model": name}
        return f"{name}, {len(events)} events, loss {losses[-1]:.2f} to {losses[0]:.2f}"

    def served_only_after_a_person(self):
        name, ask = self.kept["model"], [{"role": "user", "content": "What comes after 3?"}]
        refused(openai.NotFoundError, lambda: self.o.chat.completions.create(model=name, messages=ask, max_tokens=4))
        detail = self.p.wait_state(f"{name}@1", "EVALUATED|REJECTED", PATIENCE_S)
        equal(detail["version"]["state"], "MODEL_STATE_EVALUATED", f"after its gates: {detail.get('evaluations')}")
        ours = self.o.fine_tuning.jobs.retrieve(self.kept["job"]).model_extra["genloop"]
        expect(ours["model_state"] == "evaluated" and not ours["served"] and "waits for a person" in ours["note"], f"{ours}")
        refused(openai.NotFoundError, lambda: self.o.chat.completions.create(model=name, messages=ask, max_tokens=4))
        self.p.release(f"{name}@1")
        answer = self.o.chat.completions.create(model=name, messages=ask, max_tokens=4)
        equal(len(answer.choices), 1, "choices")
        expect(self.o.fine_tuning.jobs.retrieve(self.kept["job"]).model_extra["genloop"]["served"], "the job says that its model is served")
        expect(name in [m.id for m in self.o.models.list()], "the model is listed")
        return "404 as a candidate and as evaluated; approved and promoted it answers"

    def preferences(self):
        job = self.o.fine_tuning.jobs.create(model="talker@1", training_file=self.upload(pair_lines(16)).id, method={"type": "dpo", "dpo": {"hyperparameters": {"n_epochs": 1, "beta": 0.2}}})
        equal((job.method.type, job.method.dpo.hyperparameters.beta), ("dpo", 0.2), "the method")
        job = self.end(job.id)
        expect(job.status == "succeeded" and job.fine_tuned_model.startswith("ft:talker:default::"), f"{job.status} {job.fine_tuned_model}: {job.error}")
        return job.fine_tuned_model

    def cancel_pause_resume(self):
        jobs, training = self.o.fine_tuning.jobs, self.upload(chat_lines(200)).id
        job = jobs.create(model="talker", training_file=training, hyperparameters={"n_epochs": 50, "batch_size": 1})
        wait_for("a step is told", lambda: [e for e in jobs.list_events(job.id) if e.type == "metrics"], PATIENCE_S, 0.2)
        equal(jobs.pause(job.id).status, "paused", "after pause")
        equal(jobs.retrieve(job.id).status, "paused", "the job that waits")
        expect(jobs.resume(job.id).status in ("queued", "running"), "after resume")
        wait_for("it runs again", lambda: jobs.retrieve(job.id).status == "running", PATIENCE_S, 0.2)
        equal(jobs.cancel(job.id).status, "cancelled", "after cancel")
        equal(jobs.cancel(job.id).status, "cancelled", "cancelled again")
        equal(list(jobs.list_events(job.id))[0].message, "The job was cancelled", "the newest event")
        refused(openai.APIStatusError, lambda: jobs.resume(job.id))
        equal(list(jobs.checkpoints.list(job.id)), [], "checkpoints of what did not end")
        return "paused, resumed, cancelled"

    def job_refusals(self):
        jobs, training, batch, pairs = self.o.fine_tuning.jobs, self.upload(chat_lines(3)).id, self.upload(b"{}\n", "batch").id, self.upload(pair_lines(3)).id
        good = {"model": "production", "training_file": training}
        cases = [
            ("no such file", {"training_file": "file-none"}, 400, "training_file"), ("a batch", {"training_file": batch}, 400, "training_file"), ("pairs", {"training_file": pairs}, 400, "training_file"),
            ("examples for dpo", {"method": {"type": "dpo"}}, 400, "training_file"), ("no such validation", {"validation_file": "file-none"}, 400, "validation_file"),
            ("no such model", {"model": "nobody"}, 404, "model"), ("epochs", {"hyperparameters": {"n_epochs": 0}}, 400, "hyperparameters.n_epochs"), ("a word", {"hyperparameters": {"batch_size": "big"}}, 400, None),
            ("reinforcement", {"method": {"type": "reinforcement"}}, 400, "method.type"), ("an unknown method", {"method": {"type": "magic"}}, 400, "method.type"),
            ("beta of supervised", {"method": {"type": "supervised", "supervised": {"hyperparameters": {"beta": 1}}}}, 400, None), ("an integration", {"integrations": [{"type": "wandb"}]}, 400, "integrations"),
            ("a long suffix", {"suffix": "x" * 65}, 400, "suffix"), ("an unknown key", {"colour": "red"}, 400, "colour"),
        ]
        for name, change, status, param in cases:
            try:
                self.p.client.post("/v1/fine_tuning/jobs", {**good, **change})
            except Refused as why:
                expect(why.status == status and (param is None or why.error["param"] == param), f"{name}: {why.status} {why.error}")
            else:
                raise AssertionError(f"{name} was taken")
        for path in ("", "/events", "/checkpoints"):
            for job in ("ftjob-none", "job-talker"):  # the second is a job of another door
                equal(self.p.client.raw("GET", f"/v1/fine_tuning/jobs/{job}{path}")[0], 404, f"{job}{path}")
        equal(self.p.client.raw("POST", "/v1/fine_tuning/jobs/job-talker/cancel", b"")[0], 404, "another door's job is not cancelled here")
        equal(len([j for j in jobs.list() if j.training_file in (training, batch, pairs)]), 0, "jobs that were refused")
        return f"{len(cases)} requests, 7 paths"

    # ---- the same request again ----

    def same_key(self):
        key = {"Idempotency-Key": uuid.uuid4().hex}
        a, b = (self.o.files.create(file=("a.jsonl", b"{}\n"), purpose="batch", extra_headers=key) for _ in range(2))
        equal(a, b, "the same upload under one key")
        why = refused(openai.UnprocessableEntityError, lambda: self.o.files.create(file=("a.jsonl", b'{"other": 1}\n'), purpose="batch", extra_headers=key))
        equal(why.code, "idempotency_key_reused", "another upload under it")
        key, request = {"Idempotency-Key": uuid.uuid4().hex}, {"model": "talker", "training_file": self.kept["training"], "hyperparameters": {"n_epochs": 50}}
        found = []
        threads = [threading.Thread(target=lambda: found.append(self.p.client.__class__(self.p.url).raw("POST", "/v1/fine_tuning/jobs", json.dumps(request).encode(), {"Content-Type": "application/json", **key})))
                   for _ in range(4)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        ids = {json.loads(body)["id"] for status, _, body in found if status == 200}
        expect(len(ids) == 1 and {status for status, _, _ in found} <= {200, 409}, f"four at once: {[(s, b[:80]) for s, _, b in found]}")
        job = self.p.client.until(lambda: self.p.client.post("/v1/fine_tuning/jobs", request, headers=key))
        equal({job["id"]}, ids, "the job under the key")
        status, _, _ = self.p.client.raw("POST", "/v1/fine_tuning/jobs", json.dumps({**request, "suffix": "other"}).encode(), {"Content-Type": "application/json", **key})
        equal(status, 422, "another job under it")
        self.o.fine_tuning.jobs.cancel(job["id"])
        return "one file, one job"

    def same_question(self):
        """A chat under a key: its answer again, also by another gateway's process; 422, 409, and nothing of streams."""
        client, body = self.p.client, {"model": "talker", "messages": [{"role": "user", "content": "Say something."}], "max_tokens": 8, "temperature": 1}

        def ask(key, **change):
            status, headers, text = client.raw("POST", "/v1/chat/completions", {**body, **change}, {"Idempotency-Key": key, "Cache-Control": "no-cache"})
            return status, headers.get("idempotent-replayed"), json.loads(text)
        key = uuid.uuid4().hex
        first, again = ask(key), ask(key)
        equal((first[0], first[1], again[:2], again[2]), (200, None, (200, "true"), first[2]), "the same question again")
        equal((ask(key, max_tokens=9)[0], ask(uuid.uuid4().hex)[2]["id"] == first[2]["id"]), (422, False), "another question, another key")
        gateway = self.p.kill("gateway-1") or self.p.kill("gateway")
        expect(gateway, f"no gateway runs: {list(self.p.processes())}")
        wait_for("the gateway is back", lambda: client.until(lambda: client.get("/v1/models")), PATIENCE_S)
        self.p.wait_serving("talker@1")
        equal(ask(key)[1:], ("true", first[2]), "after the gateway was killed")
        wrong = uuid.uuid4().hex
        equal([ask(wrong, temperature=9)[0], ask(wrong, temperature=9)[0], ask(wrong)[0]], [400, 400, 200], "a refusal is not kept, and its key is free")
        for bad in ("", "x" * 256, "two words"):
            equal(ask(bad)[0], 400, f"the key {bad[:10]!r}")
        pid = self.p.processes()["cache"]["pid"]
        os.kill(pid, signal.SIGSTOP)  # Redis hangs: who has a key is answered all the same
        try:
            status, headers, _ = client.raw("POST", "/v1/chat/completions", body, {"Idempotency-Key": uuid.uuid4().hex, "Cache-Control": "no-cache"})
            equal((status, headers.get("x-genloop-idempotency")), (200, "off"), "without Redis")
        finally:
            os.kill(pid, signal.SIGCONT)
        wait_for("keys are kept again", lambda: (lambda k: ask(k)[0] == 200 and ask(k)[1] == "true")(uuid.uuid4().hex), PATIENCE_S)
        stream = uuid.uuid4().hex
        for _ in range(2):
            events = list(client.events("/v1/chat/completions", {**body, "stream": True}, {"Idempotency-Key": stream}))
            expect(events[-1] == "[DONE]" and len(events) > 2, f"a stream under a key: {events[-1:]}")
        return "answered once, told twice"

    def described(self):
        """/openapi.json by a validator of the specification, and against what the gateway does."""
        import importlib.util
        document = self.p.client.get("/openapi.json")
        equal(document["openapi"][:3], "3.1", "the version")
        for path, words in (("/v1/chat/completions", ["post"]), ("/v1/files", ["get", "post"]), ("/v1/files/{file_id}", ["delete", "get"]), ("/v1/admin/jobs", ["get", "post"]), ("/v1/embeddings", ["post"])):
            equal(sorted(document["paths"][path]), words, f"methods of {path}")
        for path, item in document["paths"].items():
            status, headers, _ = self.p.client.raw("OPTIONS", path.replace("{", "").replace("}", ""), headers={"Content-Length": "0"})
            allowed = {m.strip().lower() for m in headers.get("allow", "").split(",")} - {"head", "options", ""}
            expect(status in (200, 204) and set(item) == allowed, f"{path}: described {sorted(item)}, allowed {sorted(allowed)} (HTTP {status})")
        if not importlib.util.find_spec("openapi_spec_validator"):
            return f"{len(document['paths'])} paths as the gateway allows them; no openapi-spec-validator here to judge the form"
        from openapi_spec_validator import validate
        validate(document)
        return f"{len(document['paths'])} paths, valid OpenAPI 3.1, as the gateway allows them"

    # ---- afterwards ----

    def restart(self):
        """Everything down, the views deleted: topics and store say it all."""
        before = self.o.fine_tuning.jobs.retrieve(self.kept["job"])
        files = [f.id for f in self.o.files.list()]
        content = self.o.files.content(self.kept["training"]).read()
        self.p.down()
        shutil.rmtree(os.path.join(self.p.home, "views"))
        self.p.up()
        after = self.p.client.until(lambda: self.p.client.get(f"/v1/fine_tuning/jobs/{self.kept['job']}"))
        equal((after["status"], after["fine_tuned_model"], after["metadata"]), (before.status, before.fine_tuned_model, before.metadata), "the job")
        equal([f.id for f in self.o.files.list()], files, "the files")
        equal(self.o.files.content(self.kept["training"]).read(), content, "the content")
        expect(any(e.type == "metrics" for e in self.o.fine_tuning.jobs.list_events(self.kept["job"])), "the job's steps are told")
        return f"{len(files)} files and the jobs are there again"


def main():
    suite = Suite()
    if openai is None:
        suite.note("skip", "openai", f"{why_not}: scripts/test-python makes a Python that has it")
        finish(suite)
    with Platform(config={"gates": EASY_GATES, "trainer": {"threads": 1}}) as p:
        t = Files(p)
        for check in ("lifecycle", "forms", "pages", "refusals", "large"):
            suite.run(check, getattr(t, check))
        model = suite.run("a_model_to_fine_tune", t.model)
        tuned = suite.run("supervised", t.supervised, needs=[model])
        suite.run("served_only_after_a_person", t.served_only_after_a_person, needs=[tuned])
        suite.run("described", t.described)
        suite.run("same_question", t.same_question, needs=[model])
        for check in ("preferences", "cancel_pause_resume", "job_refusals"):
            suite.run(check, getattr(t, check), needs=[model])
        for check in ("same_key", "restart"):
            suite.run(check, getattr(t, check), needs=[tuned])
        if suite.failed:
            p.tell_errors()
    finish(suite)


if __name__ == "__main__":
    main()
