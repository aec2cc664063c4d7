#!/usr/bin/env python3
"""Mixed load: short and long prompts, streams and whole answers, clients that leave, priorities, several choices, schemas, a batch beside them, LoRA adapters that are
released and rolled back, and a replica killed again and again.

    tests/fault/test_mixed.py [--minutes 0.7] [--kill-every 15] [--clients 12] [--seed 1]        uses build/bin or $GENLOOP_BIN; an hour is --minutes 60 --kill-every 60

No request fails but streams that a killed replica had begun; every line of the batch is answered once; at the end no KV block is held, nothing is queued, and no service holds much more memory than it did
when the load was new. No client repeats a request."""
import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from client import Client, Refused  # noqa: E402
from testbed import EASY_GATES, Platform, Suite, corpus, equal, expect, finish, short, wait_for  # noqa: E402
from tiny_adapter import adapter  # noqa: E402

MODEL, STEADY_ADAPTER, SWAPPED = "steady", "tuned", "swapped"  # an adapter that stays, and one whose versions take turns
CONTEXT = 512
SCHEMA = {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": {
    "type": "object", "properties": {"name": {"type": "string", "maxLength": 20}, "count": {"type": "integer"}}, "required": ["name", "count"], "additionalProperties": False}}}
FRESH = {"Cache-Control": "no-cache"}
MEMORY_RATIO, MEMORY_SLACK = 1.3, 32 << 20  # of a process between the first tenth of the load and its end: allocators keep some


class Mixed:
    def __init__(self, platform, arguments):
        self.p, self.c, self.a = platform, platform.client, arguments
        self.lock, self.stopping = threading.Lock(), threading.Event()
        self.done, self.failed, self.left, self.schemas = {}, [], 0, False
        self.killed = set()  # (replica, when)
        self.swaps = 0

    # ---- what clients do: each returns None, or why it failed; raises likewise ----

    def words(self, random_, n):
        return " ".join(random_.choice(("quiet", "river", "stone", "light", "under", "seven", "bridges", "walks")) for _ in range(n))

    def whole(self, client, r, body, path="/v1/completions", check=None):
        status, client.answer_headers, answer = client.raw("POST", path, {"model": MODEL, **body}, FRESH)
        if status != 200:
            return f"{status}: {answer}"
        return check(json.loads(answer)) if check else None

    def stream(self, client, r, body, path="/v1/completions", leave_after=None):
        end, seen = None, 0
        for data in client.events(path, {"model": MODEL, "stream": True, **body}, FRESH):
            end, seen = data, seen + 1
            if data != "[DONE]" and "error" in json.loads(data):
                return data
            if leave_after is not None and seen >= leave_after:
                with self.lock:
                    self.left += 1
                return None
        return None if end == "[DONE]" else f"the stream ends with {end!r}"

    def short_stream(self, client, r):
        return self.stream(client, r, {"prompt": self.words(r, 4), "max_tokens": 60, "seed": r.randrange(1 << 30), "ignore_eos": True})

    def short_whole(self, client, r):
        return self.whole(client, r, {"prompt": self.words(r, 4), "max_tokens": 40, "temperature": 0})

    def long_prompt(self, client, r):
        return self.whole(client, r, {"prompt": [r.randrange(10, 200) for _ in range(r.randrange(CONTEXT // 2, CONTEXT - 60))], "max_tokens": 20, "ignore_eos": True})

    def shared_prefix(self, client, r):
        return self.whole(client, r, {"prompt": [20 + i % 100 for i in range(300)] + [r.randrange(10, 200)], "max_tokens": 10, "ignore_eos": True})

    def leaves(self, client, r):
        return self.stream(client, r, {"prompt": self.words(r, 4), "max_tokens": 400, "ignore_eos": True}, leave_after=r.randrange(1, 6))

    def choices(self, client, r):
        return self.whole(client, r, {"prompt": self.words(r, 4), "max_tokens": 10, "n": 3, "logprobs": 2}, check=lambda d: None if len(d["choices"]) == 3 else f"{len(d['choices'])} choices")

    def urgent(self, client, r):
        return self.whole(client, r, {"prompt": self.words(r, 4), "max_tokens": 10, "priority": 50, "ignore_eos": True})

    def patient(self, client, r):
        return self.stream(client, r, {"prompt": self.words(r, 4), "max_tokens": 200, "priority": -50, "ignore_eos": True})

    def chat(self, client, r):
        return self.stream(client, r, {"messages": [{"role": "user", "content": self.words(r, 6)}], "max_tokens": 40}, path="/v1/chat/completions")

    def schema(self, client, r):
        def check(d):
            try:
                value = json.loads(d["choices"][0]["message"]["content"])
            except ValueError:
                return f"no JSON: {d['choices'][0]['message']['content']!r}"
            return None if set(value) == {"name", "count"} and isinstance(value["count"], int) else f"not of the schema: {value}"
        return self.whole(client, r, {"messages": [{"role": "user", "content": self.words(r, 6)}], "max_tokens": 120, "temperature": 1, "response_format": SCHEMA}, path="/v1/chat/completions", check=check)

    def adapted(self, client, r):
        return self.whole(client, r, {"model": STEADY_ADAPTER, "prompt": [20 + i % 100 for i in range(300)] + [r.randrange(10, 200)], "max_tokens": 10, "ignore_eos": True})

    def adapted_stream(self, client, r):
        return self.stream(client, r, {"model": STEADY_ADAPTER, "prompt": self.words(r, 4), "max_tokens": 60, "ignore_eos": True})

    def swapped(self, client, r):
        return self.whole(client, r, {"model": SWAPPED, "prompt": self.words(r, 4), "max_tokens": 30, "temperature": 0, "ignore_eos": True}, check=lambda d: None if d["choices"][0]["text"] else "no text")

    STREAMS = ("short_stream", "leaves", "patient", "chat", "adapted_stream")

    def life(self, number):
        client, r = Client(self.p.url, timeout=120), random.Random(self.a.seed * 1000 + number)
        kinds = ["short_stream", "short_whole", "long_prompt", "shared_prefix", "leaves", "choices", "urgent", "patient", "chat", "adapted", "adapted_stream", "swapped"] + (["schema"] if self.schemas else [])
        while not self.stopping.is_set():
            kind = r.choice(kinds)
            client.answer_headers = {}
            try:
                why = getattr(self, kind)(client, r)
            except Exception as problem:  # each of them is what this program counts
                why = f"{type(problem).__name__}: {problem}"
            with self.lock:
                self.done[kind] = self.done.get(kind, 0) + 1
                if why is not None:
                    self.failed.append((kind, short(why, 200), client.answer_headers.get("x-genloop-replica"), time.monotonic()))

    # ---- the scene ----

    def serve(self):
        for name, body in corpus(40):
            self.c.upload(MODEL, name, body.encode())
        version = self.p.build(MODEL)
        recipe = self.p.tiny_recipe(60, model={"architecture": "llama", "layers": 2, "width": 64, "heads": 2, "kv_heads": 2, "context": CONTEXT, "vocab": 512, "tie_embeddings": True})
        self.p.train(MODEL, f"{MODEL}@{version['version']}", recipe=recipe)
        self.p.release(f"{MODEL}@1")
        folder = tempfile.mkdtemp(prefix="genloop-mixed-")
        try:
            self.p.model_files(f"{MODEL}@1", os.path.join(folder, "base"))
            for i, name in enumerate((STEADY_ADAPTER, SWAPPED, SWAPPED)):
                self.p.json("import", adapter(os.path.join(folder, str(i)), os.path.join(folder, "base"), i), "--name", name, "--base", f"{MODEL}@1")
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        for full in (f"{STEADY_ADAPTER}@1", f"{SWAPPED}@1"):
            self.p.release(full)
        self.p.wait_state(f"{SWAPPED}@2", "EVALUATED")
        self.p.move(f"{SWAPPED}@2", "approve")
        self.p.run("scale", "inference=2", "--home", self.p.home)
        wait_for("two replicas serve", lambda: len(self.replicas()) == 2, 60, 0.1)
        try:
            self.c.post("/v1/chat/completions", {"model": MODEL, "messages": [{"role": "user", "content": "a"}], "max_tokens": 120, "response_format": SCHEMA})
            self.schemas = True
        except Refused as why:
            expect(why.status == 400, f"a schema: {why}")
        return f"two replicas, {self.a.clients} clients, schemas {'among it' if self.schemas else 'are not built yet'}"

    def replicas(self):
        return [m for m in self.c.get("/v1/admin/status")["services"] if m["service"] == "inference" and m["state"] == "ready" and f"{MODEL}@1" in m["load"].get("models", [])]

    def memory(self):
        """Of our services. The two Redis hold what is written to them: the log what its topics keep, the cache up to its limit."""
        return {name: p["resident_bytes"] for name, p in self.p.processes().items() if p["pid"] and p.get("resident_bytes") and name not in ("log", "cache")}

    def batch(self):
        lines = "".join(json.dumps({"custom_id": str(i), "method": "POST", "url": "/v1/completions", "body": {"model": MODEL, "prompt": f"Line {i}", "max_tokens": 20, "ignore_eos": True}}) + "\n" for i in range(self.a.lines))
        boundary = "frontier"
        form = (f'--{boundary}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n{lines}\r\n--{boundary}--\r\n')
        file = self.c.call("POST", "/v1/files", form.encode(), {"Content-Type": f"multipart/form-data; boundary={boundary}"})
        return self.c.post("/v1/batches", {"input_file_id": file["id"], "endpoint": "/v1/completions", "completion_window": "24h"})["id"]

    def swap(self):
        """A second version of an adapter gets half of its name's requests, and loses them again, for as long as the load lasts: replicas load and drop it while both are asked for by one name."""
        client = Client(self.p.url, timeout=120)
        while not self.stopping.wait(1.5):
            share = {"canary_percent": 50} if self.swaps % 2 == 0 else {"end_canary": True}
            try:
                client.until(lambda: client.post(f"/v1/admin/models/{SWAPPED}@2/canary", {"reason": "test", "id": f"swap-{self.swaps}", **share}))
            except Exception as problem:
                with self.lock:
                    self.failed.append(("swap", short(f"{type(problem).__name__}: {problem}", 200), None, time.monotonic()))
                return
            self.swaps += 1

    def load(self):
        threads = [threading.Thread(target=self.life, args=(i,)) for i in range(self.a.clients)] + [threading.Thread(target=self.swap)]
        begun, seconds, kills = time.monotonic(), self.a.minutes * 60, []
        self.batch_id = self.batch()
        for t in threads:
            t.start()
        time.sleep(max(3, seconds / 10))
        self.before = self.memory()
        r = random.Random(self.a.seed)
        while time.monotonic() - begun < seconds:
            time.sleep(min(self.a.kill_every, max(0.1, seconds - (time.monotonic() - begun))))
            if time.monotonic() - begun >= seconds:
                break
            name = r.choice(sorted(n for n, p in self.p.processes().items() if p["service"] == "inference" and p["pid"]))
            pid = self.p.kill(name)
            kills.append((name, time.monotonic()))
            self.p.wait_ready(name, pid)
        self.stopping.set()
        for t in threads:
            t.join(180)
            expect(not t.is_alive(), "a client hangs")
        excused = [f for f in self.failed if f[0] in self.STREAMS and any(f[2] == name and -1 <= f[3] - at <= 30 for name, at in kills)]
        others = [f for f in self.failed if f not in excused]
        expect(self.swaps > 2, f"{self.swaps} swaps of an adapter")
        expect(not others, f"{len(others)} of {sum(self.done.values())} requests failed, e.g. {others[:4]}")
        return f"{sum(self.done.values())} requests {self.done}, {self.left} left early, {self.swaps} swaps of an adapter, {len(kills)} kills took {len(excused)} begun streams along"

    def batch_is_whole(self):
        def ended():
            b = self.c.get(f"/v1/batches/{self.batch_id}")
            return b if b["status"] in ("completed", "failed", "expired", "cancelled") else None
        b = wait_for("the batch ends", ended, 180, 0.5)
        equal((b["status"], b["request_counts"]), ("completed", {"total": self.a.lines, "completed": self.a.lines, "failed": 0}), "the batch")
        return f"{self.a.lines} lines beside it"

    def nothing_leaks(self):
        def idle():
            loads = [m["load"] for m in self.replicas()]
            quiet = [x for x in loads if not int(x.get("queued", 0)) and not int(x.get("running", 0)) and x["kv_blocks_free"] == x["kv_blocks_total"]]
            return loads if len(loads) == 2 and len(quiet) == 2 else None
        wait_for("no sequence, no block is held", idle, 60, 0.2)
        now = wait_for("all live", lambda: (lambda m: m if set(m) >= set(self.before) else None)(self.memory()), 30)
        grown = {n: (self.before[n] >> 20, now[n] >> 20) for n in self.before if now[n] > self.before[n] * MEMORY_RATIO + MEMORY_SLACK}
        expect(not grown, f"memory grew (MiB before, now): {grown}")
        return f"MiB before and now: {({n: (self.before[n] >> 20, now[n] >> 20) for n in sorted(self.before)})}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=0.7)
    parser.add_argument("--kill-every", type=float, default=15, help="seconds")
    parser.add_argument("--clients", type=int, default=12)
    parser.add_argument("--lines", type=int, default=100, help="of the batch beside it")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    suite = Suite()
    with Platform(config={"gates": EASY_GATES}) as p:
        t = Mixed(p, arguments)
        if suite.run("replicas_and_their_model", t.serve) and suite.run("no_request_fails", t.load):
            suite.run("the_batch_beside_it", t.batch_is_whole)
            suite.run("nothing_leaks", t.nothing_leaks)
        if suite.failed:
            p.tell_errors()
    finish(suite)


if __name__ == "__main__":
    main()
