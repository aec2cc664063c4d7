#!/usr/bin/env python3
"""The client verbs. First against a gateway that is played here and misbehaves (full, gone, cut off, no gateway at all), then the whole loop on the real platform by nothing but `genloop`.

    tests/integration/test_verbs.py        uses build/bin or $GENLOOP_BIN; about 60 s"""
import gzip
import http.server
import json
import os
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from testbed import EASY_GATES, Platform, Suite, binary, clean_environment, corpus, equal, expect, finish, free_port, short, wait_for  # noqa: E402

COUNTS = {"dataset": "d", "received": 0, "accepted": 0, "rejected": 0, "pending": 0, "rejected_by_reason": {}}


class Played:
    """A gateway that answers by a script: script(request) gives (status, headers, body) or a function that gets the connection."""

    def __init__(self, script):
        played = self
        self.requests, self.lock = [], threading.Lock()

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self):
                length = int(self.headers.get("Content-Length") or 0)
                body = self.rfile.read(length)
                with played.lock:
                    played.requests.append((self.command, self.path, body, dict(self.headers)))
                    n = sum(1 for r in played.requests if r[:2] == (self.command, self.path))
                reply = script(self.command, self.path, body, n)
                if callable(reply):
                    self.close_connection = True
                    reply(self.connection)
                    return
                status, headers, text = reply
                text = text.encode()
                self.send_response(status)
                for k, v in headers.items():
                    self.send_header(k, v)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)
            do_GET = do_POST = do_DELETE = answer

            def log_message(self, *_):
                pass
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


def events(*items, end=True):
    return 200, {"Content-Type": "text/event-stream"}, "".join(f"data: {json.dumps(i)}\n\n" for i in items) + ("data: [DONE]\n\n" if end else "")


def error(status, message, **headers):
    return status, headers, json.dumps({"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None}})


def genloop(url, *words, stdin="", home=None, timeout=60):
    environment = {**clean_environment(home or "/nonexistent/genloop-home"), "GENLOOP_URL": url}
    return subprocess.run([binary("genloop"), *words], env=environment, input=stdin, capture_output=True, text=True, timeout=timeout)


def says(done, code, *texts):
    expect(done.returncode == code, f"exit code {done.returncode} instead of {code}: {short(done.stdout + done.stderr, 600)}")
    for text in texts:
        expect(text in done.stderr + done.stdout, f"{text!r} is not in {short(done.stdout + done.stderr, 600)!r}")


# ---- a gateway that is played ----

def nobody_there():
    url = f"http://127.0.0.1:{free_port()}"
    begun = time.monotonic()
    for words in (["dataset", "list"], ["chat", "--prompt", "x"], ["jobs", "watch", "j"], ["ingest", __file__, "--dataset", "d"], ["audit", "verify"]):
        says(genloop(url, *words), 1, f"the gateway at {url} does not answer", "genloop up", "GENLOOP_URL")
    expect(time.monotonic() - begun < 30, "it waited for what is not there")


def usage():
    url = "http://127.0.0.1:1"
    cases = [(["ingest", "x"], "--dataset"), (["ingest"], "missing"), (["approve", "m@1"], "--reason"), (["approve"], "MODEL@VERSION"), (["train", "--name", "m"], "--recipe"),
             (["train", "--recipe", "r"], "--name"), (["train", "--local", "--wait", "--recipe", "r"], "--wait does not go with --local"), (["canary", "m@1", "--percent", "101", "--reason", "x"], "1 to 100"),
             (["canary", "m@1", "--end", "--percent", "5", "--reason", "x"], "--percent does not go"), (["feedback", "rate", "--dataset", "d", "--trait", "tall"], "no trait"),
             (["feedback", "rate", "--dataset", "d"], "--trait is missing"), (["feedback", "send"], "--kind"), (["feedback", "send", "--kind", "nod"], "must be one of"), (["evaluate", "m", "--recompute", "--wait"], "--recompute"),
             (["improve", "m", "--objective", "ppo"], "dpo|sft"), (["chat", "--json"], "--prompt"), (["dataset"], "dataset show"), (["dataset", "sing"], "unknown verb")]
    for words, text in cases:
        says(genloop(url, *words), 2, text)
    for words in (["ingest"], ["dataset", "report"], ["train"], ["jobs", "watch"], ["models", "show"], ["evaluate"], ["improve"], ["approve"], ["canary"], ["chat"], ["complete"], ["feedback", "rate"], ["audit", "verify"]):
        says(genloop(url, *words, "--help"), 0, "usage: genloop", "options:")
    return f"{len(cases)} mistakes"


def full_and_restarting():
    """Uploads are asked for again where the gateway is full, not ready, or falls silent; each document is acknowledged once."""
    def script(method, path, body, n):
        if path.endswith("/watch"):
            return events(COUNTS if n == 1 else {**COUNTS, "received": 3, "accepted": 3})
        if n == 1:
            return error(429, "full", **{"Retry-After": "0"})
        if n == 2:
            return error(503, "not yet")
        if n == 3:
            return lambda connection: connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)) or connection.close()
        return 200, {}, json.dumps({"document_id": f"{hash(path) & (2**64 - 1):064x}", "sha256": "", "size_bytes": len(body), "existed": False})
    with Played(script) as g, tempfile.TemporaryDirectory() as d:
        for i in range(3):
            with open(f"{d}/{i}.txt", "w") as f:
                f.write(f"text {i}" * 1000)
        done = genloop(g.url, "ingest", d, "--dataset", "d", "--no-build", "--json")
        says(done, 0)
        equal(json.loads(done.stdout)["upload"]["received"], 3, "received")
        bodies = [r[2] for r in g.requests if r[0] == "POST"]
        expect(len(bodies) >= 9 and all(b.startswith(b"text ") and len(b) == 6000 for b in bodies), f"{len(bodies)} uploads, each from its beginning")


def killed_at_the_first_request():
    def script(method, path, body, n):
        if n == 1:
            return lambda connection: connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)) or connection.close()
        return 200, {}, json.dumps({"jobs": [], "next_page_token": ""})
    with Played(script) as g:
        done = genloop(g.url, "jobs", "list", "--json")
        says(done, 0)
        equal((json.loads(done.stdout)["jobs"], len(g.requests)), ([], 2), "asked again")


def refused_documents():
    """What is about one document is told and counted; what is about all ends it."""
    def script(method, path, body, n):
        if path.endswith("/watch"):
            return events(COUNTS if n == 1 else {**COUNTS, "received": 1, "accepted": 1})
        return error(413, "a document has at most 5 bytes") if b"large" in body else (200, {}, json.dumps({"document_id": "0" * 64, "existed": False}))
    with Played(script) as g, tempfile.TemporaryDirectory() as d:
        for name, text in (("a", "small"), ("b", "large" * 100000)):
            with open(f"{d}/{name}", "w") as f:
                f.write(text)
        done = genloop(g.url, "ingest", d, "--dataset", "d", "--no-build", "--json")
        says(done, 0, "refused: ", "a document has at most 5 bytes")
        upload = json.loads(done.stdout)["upload"]
        equal((upload["received"], upload["refused"]), (1, 1), "received, refused")
    with Played(lambda m, path, b, n: events(COUNTS) if path.endswith("/watch") else error(403, "this key may not")) as g:
        says(genloop(g.url, "ingest", __file__, "--dataset", "d"), 1, "this key may not")


def the_same_twice():
    """Two files of the same bytes that ingest both finds to be new: one document comes of them, and the command waits for one."""
    def script(method, path, body, n):
        if path.endswith("/watch"):
            return events(COUNTS if n == 1 else {**COUNTS, "received": 1, "accepted": 1})
        return 200, {}, json.dumps({"document_id": "ab" * 32, "existed": False})
    with Played(script) as g, tempfile.TemporaryDirectory() as d:
        for name in "ab":
            with open(f"{d}/{name}", "w") as f:
                f.write("the same")
        done = genloop(g.url, "ingest", d, "--dataset", "d", "--no-build", "--json")
        says(done, 0)
        upload = json.loads(done.stdout)["upload"]
        equal((upload["received"], upload["existed"]), (1, 1), "received, existed")


def cut_streams():
    """A watch that is cut off is taken up again; an error within one is told."""
    job = {"id": "j", "kind": "JOB_KIND_TRAIN", "state": "JOB_STATE_RUNNING", "model": "m"}

    def script(method, path, body, n):
        if n == 1:
            return events({"job": job}, {"progress": {"step": 1, "steps": 2, "loss": 1.5}}, end=False)
        if n == 2:
            return error(503, "trainer is not there now")
        return events({"job": job}, {"progress": {"step": 2, "steps": 2, "loss": 1.25}}, {"job": {**job, "state": "JOB_STATE_SUCCEEDED"}})
    with Played(script) as g:
        done = genloop(g.url, "jobs", "watch", "j", "--json")
        says(done, 0)
        equal(json.loads(done.stdout)["state"], "JOB_STATE_SUCCEEDED", "state")
        equal(len(g.requests), 3, "requests")
    with Played(lambda *_: events({"job": {**job, "state": "JOB_STATE_FAILED", "failure": "no such dataset"}})) as g:
        says(genloop(g.url, "jobs", "watch", "j"), 1, "job j failed: no such dataset")
    with Played(lambda *_: events({"error": {"message": "there is no job j", "type": "invalid_request_error"}})) as g:
        says(genloop(g.url, "jobs", "watch", "j"), 1, "there is no job j")


def no_gateway():
    with Played(lambda *_: (200, {"Content-Type": "text/html"}, "<html>hello</html>")) as g:
        says(genloop(g.url, "dataset", "list"), 1, "no JSON", "GENLOOP_URL")
    with Played(lambda *_: (404, {}, "<html>nothing here</html>")) as g:
        says(genloop(g.url, "dataset", "list"), 1, "HTTP 404")
    with Played(lambda *_: error(401, "a key is needed")) as g:
        says(genloop(g.url, "models", "list"), 1, "a key is needed", "GENLOOP_API_KEY")


def pages():
    """All pages of a list, and no more than were asked for."""
    def script(method, path, body, n):
        start = int(path.partition("page_token=")[2] or 0)
        return 200, {}, json.dumps({"jobs": [{"id": f"j{i}"} for i in range(start, start + 3)], "next_page_token": str(start + 3) if start < 6 else ""})
    with Played(script) as g:
        equal([j["id"] for j in json.loads(genloop(g.url, "jobs", "list", "--json").stdout)["jobs"]], [f"j{i}" for i in range(9)], "jobs")
        equal(len(json.loads(genloop(g.url, "jobs", "list", "--json", "--limit", "4").stdout)["jobs"]), 4, "with --limit 4")
    with Played(lambda *_: (200, {}, json.dumps({"jobs": [], "next_page_token": "x"}))) as g:
        says(genloop(g.url, "jobs", "list"), 1, "lead nowhere")


def terminal_is_safe():
    """A model's words cannot steer the terminal; into a pipe they go as they are."""
    evil = "a\x1b]0;owned\x07b"
    with Played(lambda *_: events({"id": "chatcmpl-1", "model": "m@1", "choices": [{"delta": {"content": evil}, "finish_reason": "stop"}]})) as g:
        done = genloop(g.url, "complete", "--prompt", "x")
        equal(done.stdout, evil + "\n", "into a pipe")
        import pty
        master, slave = pty.openpty()
        process = subprocess.Popen([binary("genloop"), "complete", "--prompt", "x"], env={**clean_environment("/nonexistent"), "GENLOOP_URL": g.url}, stdout=slave, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
        equal(process.wait(timeout=30), 0, "exit code")
        os.close(slave)
        shown = os.read(master, 4096)
        os.close(master)
        expect(b"\x1b" not in shown and b"\\x1b]0;owned" in shown, f"on a terminal: {shown!r}")


# ---- the real platform ----

class Loop:
    def __init__(self, platform):
        self.p = platform
        self.folder = os.path.join(platform.home, "corpus")
        os.makedirs(self.folder + "/deeper")
        for i, (name, body) in enumerate(corpus(60, sentences=8)):
            where = self.folder + ("/deeper/" if i % 2 else "/") + name
            text = f"# {name}\n\nSome words on {name}.\n\n## What is story {i}?\n\n{body.partition(chr(10) * 2)[2]}\n".encode()
            with (gzip.open(where.replace(".txt", ".md") + ".gz", "wb") if i % 3 == 0 else open(where.replace(".txt", ".md"), "wb")) as f:
                f.write(text)
        with open(self.folder + "/picture.png", "wb") as f:
            f.write(b"\x89PNG\r\n\x1a\n" + bytes(1000))

    def ingest(self):
        words = ["ingest", self.folder, "--dataset", "stories", "--vocab", "512", "--held-out", "0.2"]
        first = self.p.json(*words)
        equal((first["upload"]["received"], first["documents"]["accepted"], first["documents"]["rejected_by_reason"]), (61, 60, {"binary": 1}), "received, accepted, rejected")
        equal((first["version"]["name"], first["version"]["version"], first["version"]["state"]), ("stories", 1, "DATASET_STATE_READY"), "version")
        again = self.p.json(*words)
        equal((again["upload"]["received"], again["upload"]["existed"], again["version"]["version"]), (0, 61, 1), "the same command again")
        with open(self.folder + "/more.txt", "w") as f:
            f.write(corpus(1, seed=9)[0][1])
        third = self.p.json(*words)
        equal((third["upload"]["received"], third["version"]["version"]), (1, 2), "with one more document")
        return f"61 documents, {first['version']['tokens']} tokens, {first['version']['samples']} pairs"

    def ingest_url(self):
        with Played(lambda *_: (200, {"Content-Type": "text/html; charset=utf-8"}, f"<html><title>A page</title><body><p>{corpus(1, seed=5)[0][1]}</p></body></html>")) as g:
            got = self.p.json("ingest", g.url + "/page", g.url + "/page?2", "--dataset", "web", "--no-build")
        equal((got["upload"]["received"], got["documents"]["received"]), (2, 2), "received")
        documents = self.p.client.get("/v1/documents?dataset=web")["documents"]
        expect(all(d["source"].startswith("http://127.0.0.1") and d["media_type"] == "text/html" for d in documents), f"documents: {documents}")
        expect(not [n for n in os.listdir("/tmp") if n.startswith("genloop-ingest-")], "a temporary file is left")

    def datasets(self):
        equal([(d["name"], d["version"]) for d in self.p.json("dataset", "list")["datasets"]], [("stories", 1), ("stories", 2)], "dataset list")
        shown = self.p.json("dataset", "show", "stories@1")
        equal((shown["dataset"]["version"], shown["manifest"]["name"], shown["manifest"]["splits"]["train"]["documents"] + shown["manifest"]["splits"]["held_out"]["documents"]), (1, "stories", shown["dataset"]["documents"]), "show")
        expect("Data card" in self.p.run("dataset", "card", "stories"), "the card")
        report = self.p.json("dataset", "report", "stories")
        equal((report["progress"]["rejected"], [d["reject_reason"] for d in report["rejected"]]), (1, ["binary"]), "report")
        expect("picture.png" in self.p.run("dataset", "report", "stories"), "the report names the document")
        self.p.run("dataset", "rm", "stories@2")
        equal([d["version"] for d in self.p.json("dataset", "list")["datasets"]], [1], "after rm")
        says(self.p.run("dataset", "show", "nothing", check=False), 1, "there is no dataset nothing")
        rows = self.p.client.get("/v1/datasets/stories/rows?kind=pairs&limit=1000&seed=3")
        equal(len(rows["rows"]), int(rows["total"]), "rows")
        expect(json.loads(rows["rows"][0])["messages"][0]["role"] == "user", "a pair begins with a question")

    def train(self):
        recipe = os.path.join(self.p.home, "recipe.yaml")
        with open(recipe, "w") as f:
            f.write(self.p.tiny_recipe(60))
        words = ["train", "--recipe", recipe, "--dataset", "stories", "--name", "teller"]
        equal(self.p.json(*words, "--dry-run")["dataset"], "stories@1", "--dry-run")
        equal(self.p.json("jobs", "list")["jobs"], [], "a dry run makes no job")
        done = self.p.json(*words, "--wait", timeout=300)
        equal((done["job"]["state"], done["version"]), ("JOB_STATE_SUCCEEDED", "teller@1"), "job and version")
        self.job = done["job"]["id"]
        equal(self.p.json("jobs", "show", self.job)["steps"], 60, "jobs show")
        says(self.p.run("train", "--recipe", "no-such", "--name", "x", "--dataset", "stories", check=False), 1, "no-such")
        says(self.p.run("jobs", "retry", self.job, check=False), 1, "only what failed or was cancelled")
        return f"job {self.job}"

    def pause_and_cancel(self):
        recipe = os.path.join(self.p.home, "long.yaml")
        with open(recipe, "w") as f:
            f.write(self.p.tiny_recipe(100000))
        job = self.p.json("train", "--recipe", recipe, "--dataset", "stories", "--name", "long")["id"]
        state = lambda: self.p.json("jobs", "show", job)["state"]  # noqa: E731
        wait_for("it runs", lambda: state() == "JOB_STATE_RUNNING", 60)
        self.p.run("jobs", "pause", job)
        wait_for("it pauses", lambda: state() == "JOB_STATE_PAUSED", 60)
        self.p.run("jobs", "resume", job)
        wait_for("it runs again", lambda: state() == "JOB_STATE_RUNNING", 60)
        self.p.run("jobs", "cancel", job)
        says(self.p.run("jobs", "watch", job, check=False), 1, "was cancelled")
        retry = self.p.json("jobs", "retry", job)["id"]
        expect(retry != job, "a retry is a new job")
        self.p.run("jobs", "cancel", retry)

    def govern(self):
        evaluation = self.p.json("evaluate", "teller@1", "--wait", "--trait", "short", timeout=200)
        expect(evaluation["judged"] and evaluation["passed"], f"evaluation: {evaluation}")
        again = self.p.json("evaluate", "teller@1", "--recompute")
        expect(again["same"] and again["passed"] and again["compared"] > 10, f"recomputed: {short(again)}")
        says(self.p.run("approve", "teller@9", "--reason", "x", check=False), 1, "teller@9")
        approved = self.p.json("approve", "teller@1", "--reason", "it reads well", "--by", "Ada")
        equal((approved["state"], approved["actor"]["claim"]), ("MODEL_STATE_APPROVED", "Ada"), "approve")
        self.p.run("promote", "teller@1", "--reason", "the first")
        self.p.wait_serving("production")
        listed = self.p.json("models", "list")
        equal([(v["name"], v["version"], v["state"]) for v in listed["versions"]], [("teller", 1, "MODEL_STATE_PRODUCTION")], "models list")
        equal([h["state"] for h in self.p.json("models", "show", "production")["history"]],
              [f"MODEL_STATE_{s}" for s in ("CANDIDATE", "EVALUATED", "APPROVED", "PRODUCTION")], "history")
        equal([l["version"] for l in self.p.json("models", "lineage", "teller")["lineage"]], ["teller@1"], "lineage")
        expect("library_name" in self.p.run("models", "card", "teller@1"), "the model card")

    def talk(self):
        one = self.p.json("chat", "--prompt", "What is story 3?", "--seed", "5", "--max-tokens", "12")
        two = self.p.json("chat", "--prompt", "What is story 3?", "--seed", "5", "--max-tokens", "12")
        equal((one["text"], one["model"]), (two["text"], "teller@1"), "the same seed")
        self.talk_without_loop()
        turns = self.p.run("chat", "--max-tokens", "8", "--temperature", "0", stdin="Hello\n/good\n/system Be short\nAnd now?\n/bad\n/exit\n")
        expect(turns.count("\n") >= 2, f"two answers: {turns!r}")
        expect(self.p.run("complete", "--max-tokens", "4", "--temperature", "0", stdin="The quiet river").strip(), "complete from standard input")
        wait_for("both thumbs are there", lambda: [e["value"] for e in self.p.json("feedback", "list")["events"]] == [-1, 1], 20)
        sent = self.p.json("feedback", "send", "--kind", "rating", "--value", "0.5", "--request", one["id"], "--id", "mine")
        again = self.p.json("feedback", "send", "--kind", "rating", "--value", "0.5", "--request", one["id"], "--id", "mine")
        equal((sent["id"], again["existed"]), ("mine", True), "the same id again")
        says(self.p.run("feedback", "send", "--kind", "thumb", "--request", one["id"], check=False), 1, "value")

    def talk_without_loop(self):
        """A model this small loops. `chat` keeps it from that, by what it asks of the API; --dry-multiplier 0 asks for nothing, as the API does by itself."""
        def api(**more):
            body = {"model": "teller@1", "messages": [{"role": "user", "content": "What is story 3?"}], "temperature": 0, "max_tokens": 120, **more}
            request = urllib.request.Request(self.p.url + "/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"})
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)["choices"][0]["message"]["content"]

        def chat(*more):
            return self.p.json("chat", "teller@1", "--prompt", "What is story 3?", "--temperature", "0", "--max-tokens", "120", *more)["text"]

        kept = api(dry_multiplier=0.8, dry_allowed_length=6, dry_sequence_breakers=[], dry_answer_only=True)
        equal(chat(), kept, "the default of chat")
        equal(chat("--dry-multiplier", "0"), api(), "chat without it")
        expect(kept != api(), f"this model was to loop: {kept!r}")
        says(self.p.run("chat", "--prompt", "x", "--dry-multiplier", "-1", check=False), 2, "--dry-multiplier")

    def rate_and_improve(self):
        shares = {}
        for trait in ("short", "numbers", "lists", "!short", "!numbers", "!lists"):  # the first that a model of sixty steps shows often enough, and not always
            words = ["feedback", "rate", "--trait", trait, "--dataset", "stories", "--model", "teller", "--count", "40", "--answers", "4", "--max-tokens", "24", "--seed", "3"]
            first = self.p.json(*words, "--kind", "thumb", timeout=200)
            shares[trait] = first["share"]
            if 0.05 < first["share"] < 0.95:
                break
        expect(0.05 < first["share"] < 0.95, f"no trait to learn from: {shares}")
        expect(first["prompts"] >= 20 and first["answers"] == 4 * first["prompts"] == first["judgements"], f"rated: {first}")
        shuffled = self.p.json(*words, "--shuffle", timeout=200)
        equal((shuffled["liked"], shuffled["answers"]), (first["liked"], first["answers"]), "the same seed gives the same answers")
        pairs = self.p.json(*words, timeout=200)
        equal(pairs["judgements"], shuffled["judgements"], "a coin decides the same pairs")
        recipe = os.path.join(self.p.home, "dpo.yaml")
        with open(recipe, "w") as f:
            f.write("objective: dpo\nbatch: {sequences: 4, length: 128}\noptimizer: {lr: 1.0e-5}\nsteps: 3\n")
        made = self.p.json("improve", "teller", "--recipe", recipe, "--trait", trait, "--wait", timeout=300)
        equal((made["job"]["state"], made["version"]), ("JOB_STATE_SUCCEEDED", "teller@2"), "improve")
        self.p.wait_state("teller@2", "EVALUATED|REJECTED")
        self.p.run("approve", "teller@2", "--reason", "better")
        equal(self.p.json("canary", "teller@2", "--percent", "20", "--reason", "a look")["canary_percent"], 20, "canary")
        equal(self.p.json("canary", "teller@2", "--end", "--reason", "enough")["state"], "MODEL_STATE_APPROVED", "canary --end")
        self.p.run("promote", "teller@2", "--reason", "good")
        equal(self.p.json("rollback", "teller@2", "--reason", "not so good")["state"], "MODEL_STATE_ROLLED_BACK", "rollback")
        equal([l["version"] for l in self.p.json("models", "lineage", "teller@2")["lineage"]], ["teller@2", "teller@1"], "lineage")
        return f"{trait}: {first['liked']} of {first['answers']} liked, {pairs['judgements']} preferences"

    def audit(self):
        actions = [r["action"] for r in self.p.json("audit", "list", "--all")["records"]]
        expect([a for a in actions if a.startswith("model.")][:4] == ["model.register", "model.pass", "model.approve", "model.promote"], f"actions: {actions}")
        equal(len(self.p.json("audit", "list", "--limit", "2")["records"]), 2, "--limit 2")
        first = self.p.json("audit", "verify")
        equal((first["verified"], first["checked"], first["tree_size"], first["consistent_with"]), (True, len(actions), len(actions), 0), "verify")
        self.p.run("retire", "teller@2", "--reason", "gone", check=False)
        second = self.p.json("audit", "verify", "--key", f"{self.p.home}/keys/registry.pub")
        equal(second["consistent_with"], first["tree_size"], "goes on from the first")
        lines = self.p.run("audit", "export").splitlines()
        equal((len(lines), "root_hash" in json.loads(lines[-1])), (second["tree_size"] + 1, True), "export")
        out = os.path.join(self.p.home, "audit.jsonl")
        self.p.run("audit", "export", "--out", out)
        with open(out) as f:
            equal(len(f.readlines()), len(lines), "export --out")
        return f"{len(actions)} records"

    def audit_finds_out(self):
        """Another past, another key, records that are gone: each is named, and the exit code is 1."""
        memory = os.path.join(self.p.home, "audit", os.listdir(os.path.join(self.p.home, "audit"))[0])
        with open(memory) as f:
            good = json.load(f)
        cases = [({"root_hash": "00" * 32}, "the log was rewritten"), ({"public_key": "11" * 32}, "another one than that of the last verification"), ({"tree_size": good["tree_size"] + 5}, "records are gone"),
                 ({"format": 9}, "remove it to begin anew")]
        for change, text in cases:
            with open(memory, "w") as f:
                json.dump({**good, **change}, f)
            done = self.p.run("audit", "verify", "--json", check=False)
            says(done, 1, text)
            equal(json.loads(done.stdout)["verified"], False, "verified")
        with open(memory, "w") as f:
            json.dump(good, f)
        stranger = os.path.join(self.p.home, "stranger.pub")
        with open(stranger, "wb") as f:
            f.write(bytes(32))
        says(self.p.run("audit", "verify", "--key", stranger, check=False), 1, "another one than that of")
        self.p.run("audit", "verify")

    def killed_while_uploading(self):
        """The gateway and ingest are killed in the middle; the command goes on, and each document is there once."""
        folder = os.path.join(self.p.home, "many")
        os.makedirs(folder)
        for i, (name, body) in enumerate(corpus(1500, seed=77, sentences=4)):
            with open(f"{folder}/{i}.txt", "w") as f:
                f.write(body)
        process = subprocess.Popen([self.p.genloop, "ingest", folder, "--dataset", "many", "--no-build", "--json"], env=self.p.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        killed = []
        wait_for("the first document is there", lambda: process.poll() is not None or self.p.client.get("/v1/documents?dataset=many&limit=1")["documents"], 60, 0.02)
        for name in ("gateway", "ingest", "gateway"):
            time.sleep(0.3)
            if process.poll() is None and self.p.kill(name):
                killed.append(name)
        out, err = process.communicate(timeout=200)
        expect(process.returncode == 0, f"ingest exits with {process.returncode}: {short(err, 600)}")
        got = json.loads(out)
        expect((got["upload"]["received"] + got["upload"]["existed"], got["documents"]["received"]) == (1500, 1500), f"each document once: {got} {short(err, 1000)}")
        return f"killed {', '.join(killed) or 'nothing: it was done before'}"


def main():
    suite = Suite()
    suite.run("nobody_there", nobody_there)
    suite.run("usage_errors_and_help", usage)
    suite.run("a_full_and_restarting_gateway", full_and_restarting)
    suite.run("killed_at_the_first_request", killed_at_the_first_request)
    suite.run("refused_documents", refused_documents)
    suite.run("the_same_twice", the_same_twice)
    suite.run("streams_that_are_cut", cut_streams)
    suite.run("what_is_no_gateway", no_gateway)
    suite.run("lists_in_pages", pages)
    suite.run("a_terminal_is_safe", terminal_is_safe)
    with Platform(config={"gates": {**EASY_GATES, "win_rate_pairs_min": 100000}, "gateway": {"capture": "full"}}) as p:
        t = Loop(p)
        ingest = suite.run("ingest", t.ingest)
        suite.run("ingest_urls", t.ingest_url)
        suite.run("dataset_verbs", t.datasets, needs=[ingest])
        train = suite.run("train_and_jobs", t.train, needs=[ingest])
        suite.run("pause_resume_cancel_retry", t.pause_and_cancel, needs=[ingest])
        govern = suite.run("evaluate_approve_promote", t.govern, needs=[train])
        suite.run("chat_complete_feedback", t.talk, needs=[govern])
        suite.run("rate_improve_canary_rollback", t.rate_and_improve, needs=[govern])
        suite.run("audit", t.audit, needs=[govern])
        suite.run("audit_finds_out", t.audit_finds_out, needs=[govern])
        suite.run("killed_while_uploading", t.killed_while_uploading, needs=[ingest])
        if suite.failed:
            p.tell_errors()
    finish(suite)


if __name__ == "__main__":
    main()
