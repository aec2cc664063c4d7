#!/usr/bin/env python3
"""API keys on the real platform: made, used, too weak, revoked, kept over restarts and without the cache's Redis; the owner's door; limits; the response cache, which no two tenants share; who did what,
in the audit log; the access log.

    tests/integration/test_keys.py        uses build/bin or $GENLOOP_BIN; about a minute"""
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from testbed import EASY_GATES, ROOT, Platform, Suite, corpus, equal, expect, finish, free_port, wait_for  # noqa: E402
from wire import Redis  # noqa: E402

RANK = {"CLIENT": 1, "OPERATOR": 2, "APPROVER": 3}


def routes():
    """(method, path, scope) of every row of the table that the gateway routes by, with something in place of each parameter."""
    with open(os.path.join(ROOT, "services", "gateway", "routes.c"), encoding="utf-8") as f:
        rows = re.findall(r'^\s*\{"([A-Z]+)", "(/[^"]*)", SCOPE_([A-Z]+), (BODY_[A-Z_]+)', f.read(), re.MULTILINE)
    expect(len(rows) > 30, f"{len(rows)} rows of ROUTES")
    return [(method, re.sub(r"\{[a-z_]+\}", "nothing", pattern), scope, body) for method, pattern, scope, body in rows]


def bearer(key):
    return {"Authorization": f"Bearer {key['key']}"} if key else {}


class Keys:
    def __init__(self, platform):
        self.p, self.c = platform, platform.client

    def status(self, method, path, key, body=None, headers=None):
        return self.c.raw(method, path, body, {**bearer(key), **(headers or {})})

    def refused(self, key, code=None):
        status, headers, body = self.status("GET", "/v1/models", key)
        return status == 401 and "www-authenticate" in headers and json.loads(body)["error"]["code"] == "invalid_api_key"

    def before(self):
        equal(self.c.raw("GET", "/v1/admin/status")[0], 200, "no key is asked for before there is one")
        equal(self.c.raw("GET", "/v1/models", headers={"Authorization": "Bearer sk-whatever"})[0], 200, "whatever a client sends is not looked at")
        return "none asked for"

    def create(self):
        answer = self.p.json("keys", "create", "--scope", "approver", "--note", "the first")
        expect(set(answer) >= {"id", "key"} and re.fullmatch(r"key_[0-9a-f]{16}", answer["id"]) and answer["key"].startswith("glk_"), f"{answer}")
        self.approver = answer
        wait_for("a key is asked for", lambda: self.refused(None), 20)
        equal(self.status("GET", "/v1/admin/status", answer)[0], 200, "with it")
        self.operator = self.p.json("keys", "create", "--scope", "operator")
        self.client = self.p.json("keys", "create", "--tenant", "shop")
        self.other = self.p.json("keys", "create", "--tenant", "library")
        for key in (self.operator, self.client, self.other):
            equal(self.status("GET", "/v1/models", key)[0], 200, f"{key['id']} from the moment that it is made")
        listed = self.p.json("keys", "list")
        equal([(k["scope"], k["tenant"]) for k in sorted(listed, key=lambda k: int(k["created_time_ms"]))],
              [("approver", "default"), ("operator", "default"), ("client", "shop"), ("client", "library")], "keys list")
        expect(not any(k.get("hash") for k in listed), "the list shows a hash")
        return f"{len(listed)} keys"

    def wrong(self):
        good = self.client["key"]
        for value in ("", "Bearer", "Bearer wrong", "Basic eDp5", f"Bearer {good[:-1]}", f"Bearer {good[:-1]}{'A' if good[-1] != 'A' else 'B'}", f"Bearer {good} x", good, f"Bearer glk_{'0' * 16}_{'a' * 43}"):
            status, headers, body = self.c.raw("GET", "/v1/models", headers={"Authorization": value})
            error = json.loads(body)["error"]
            equal((status, error["type"], error["code"]), (401, "authentication_error", "invalid_api_key"), repr(value))
            expect(headers.get("www-authenticate", "").startswith("Bearer"), f"{value!r}: no WWW-Authenticate")
        equal(self.c.raw("GET", "/v1/models", headers={"Authorization": f"bearer {good}"})[0], 200, "the scheme in another case")
        return "nine headers that are none"

    def every_row(self):
        counts = {"refused": 0, "let in": 0}
        for method, path, scope, body in routes():
            for name, key in (("none", None), ("CLIENT", self.client), ("OPERATOR", self.operator), ("APPROVER", self.approver)):
                if scope == "ANY" or RANK.get(name, 0) >= RANK[scope]:
                    continue
                status, headers, text = self.status(method, path, key, b"{}" if method == "POST" else None, {"Content-Type": "application/json"})
                equal((status, "www-authenticate" in headers), (401 if key is None else 403, True), f"{method} {path} with {name}: {text[:200]}")
                counts["refused"] += 1
        # What a key reaches it also reaches through the scopes below it; what comes then is the handler's own answer, never 401 or 403.
        for method, path, scope, body in routes():
            if scope == "CLIENT" and method == "GET":
                for key in (self.client, self.operator, self.approver):
                    expect(self.status(method, path, key)[0] not in (401, 403), f"{method} {path} with {key['id']}")
                    counts["let in"] += 1
        for path in ("/livez", "/readyz"):
            equal(self.c.raw("GET", path)[0], 200, path)
        equal([self.status("GET", "/metrics", key)[0] for key in (None, self.client, self.operator)], [401, 403, 200], "/metrics at the gateway's port")
        return f"{counts}"

    def reach(self):
        equal(self.status("POST", "/v1/admin/keys", self.operator, {"scope": "approver"})[0], 403, "an operator makes no approver")
        equal(self.status("DELETE", f"/v1/admin/keys/{self.approver['id']}", self.operator)[0], 403, "nor revokes one")
        equal(self.status("POST", "/v1/admin/keys", self.operator, {"tenant": "../etc"})[0], 400, "a tenant's name")
        equal(self.status("DELETE", "/v1/admin/keys/key_0000000000000000", self.operator)[0], 404, "a key that is none")

    def owners_door(self):
        door = os.path.join(self.p.home, "run", "gateway-1.door")
        mode = os.stat(door)
        expect(stat.S_ISSOCK(mode.st_mode) and not mode.st_mode & 0o077, f"the mode of the door is {oct(mode.st_mode)}")
        expect("approver" in self.p.run("keys", "list"), "the owner lists without a key, where $GENLOOP_URL is his own gateway")
        expect("approver" in self.p.run("keys", "list", "--home", self.p.home), "and by --home")
        expect("gateway" in self.p.run("status", "--home", self.p.home), "genloop status")
        status = self.p.run("models", "list", check=False)
        equal(status.returncode, 0, f"every verb: {status.stderr}")

    def revoke(self):
        spare = self.p.json("keys", "create")
        equal(self.status("GET", "/v1/models", spare)[0], 200, "before")
        gone = self.p.json("keys", "revoke", spare["id"])
        expect(int(gone["revoked_time_ms"]) > 0 and gone["revoked_by"]["id"].startswith("local:"), f"{gone}")
        wait_for("the revoked key stops", lambda: self.refused(spare), 20, 0.01)
        equal(self.p.json("keys", "revoke", spare["id"])["revoked_time_ms"], gone["revoked_time_ms"], "a second time changes nothing")
        self.spare = spare

    def who(self):
        """What a key does is done by the key; its name and nothing of its text is in the audit log."""
        made = self.c.post("/v1/admin/keys", {"note": "by the operator"}, headers=bearer(self.operator))
        records = wait_for("the audit log has it", lambda: [r for r in self.c.get("/v1/audit?limit=1000", headers=bearer(self.operator))["records"] if r["object"] == made["id"]], 20)
        equal((records[0]["action"], records[0]["actor"]["id"], records[0]["actor"]["scope"]), ("key.create", self.operator["id"], "operator"), "who made it")
        text = self.p.run("audit", "export")
        for key in (self.approver, self.operator, self.client, self.spare, made):
            expect(key["id"] in text and key["key"] not in text and key["key"][21:] not in text, f"{key['id']}: its text is in the audit log")
        self.p.run("audit", "verify")
        return f"{records[0]['actor']['id']} {records[0]['action']} {made['id']}"

    def restart(self):
        before = self.p.kill("gateway")
        self.p.wait_ready("gateway", before)
        equal(self.status("GET", "/v1/models", self.client)[0], 200, "a key over a killed gateway")
        expect(self.refused(self.spare) and self.refused(None), "a revoked key, and none, behind a killed gateway")
        self.p.down()
        self.p.up()
        equal(self.status("GET", "/v1/models", self.client)[0], 200, "a key over a restart of everything")
        expect(self.refused(self.spare) and self.refused(None), "a revoked key, and none, after a restart")

    def nothing_in_the_open(self):
        """The text of a key is nowhere in the home: not in the log, not in a log file, not in a view."""
        needles = [k["key"][21:].encode() for k in (self.approver, self.operator, self.client, self.spare)]
        looked = 0
        for folder, _, names in os.walk(self.p.home):
            for name in names:
                path = os.path.join(folder, name)
                if not os.path.isfile(path) or os.path.islink(path):
                    continue
                with open(path, "rb") as f:
                    content = f.read()
                looked += 1
                expect(not any(n in content for n in needles), f"a key stands in {path}")
        return f"{looked} files"


class Beyond:
    """A gateway that listens beyond loopback asks for a key before there is any; the first is made on its machine."""

    def __init__(self, platform):
        self.p, self.c = platform, platform.client

    def asks(self):
        status, headers, body = self.c.raw("GET", "/v1/models")
        equal((status, json.loads(body)["error"]["code"]), (401, "invalid_api_key"), "before there is a key")
        equal(self.c.raw("GET", "/v1/models", headers={"Authorization": "Bearer sk-whatever"})[0], 401, "whatever a client sends")
        equal([self.c.raw("GET", path)[0] for path in ("/livez", "/readyz", "/metrics")], [200, 200, 401], "what asks for none")
        with open(os.path.join(self.p.home, "logs", "gateway.log"), encoding="utf-8") as f:
            expect(f"genloop keys create --home {self.p.home}" in f.read(), "the log does not say how the first key is made")

    def first(self):
        key = self.p.json("keys", "create", "--home", self.p.home, "--scope", "approver")
        equal(self.c.raw("GET", "/v1/admin/status", headers=bearer(key))[0], 200, "the first key")
        equal(self.c.raw("GET", "/v1/models")[0], 401, "and none")
        return key["id"]

    def nobody_else(self):
        """Without the home there is no way in: a stranger's $GENLOOP_HOME does not help."""
        with tempfile.TemporaryDirectory() as other:
            done = subprocess.run([self.p.genloop, "keys", "list"], env={**self.p.environment, "GENLOOP_HOME": other}, capture_output=True, text=True, timeout=60)
        expect(done.returncode == 1 and "GENLOOP_API_KEY" in done.stderr, f"{done.returncode}: {done.stderr}")


LIMITS = {"key_requests_per_minute": 120, "key_tokens_per_minute": 600, "key_streams_max": 1, "tenant_requests_per_minute": 1000, "tenant_tokens_per_minute": 100000}


class Limits:
    """A platform with limits, a model and keys of two tenants. Each test makes its own keys: their buckets are full."""

    def __init__(self, platform):
        self.p, self.c = platform, platform.client

    def model(self):
        for name, body in corpus(60):
            self.c.until(lambda name=name, body=body: self.c.upload("limits", name, body.encode()))
        dataset = self.p.build("limits")
        self.p.train("limits", f"limits@{dataset['version']}", steps=100)
        self.p.release("limits@1")
        self.operator = self.p.json("keys", "create", "--scope", "operator")
        return "limits@1"

    def key(self, tenant="shop"):
        return self.p.json("keys", "create", "--tenant", tenant)

    def ask(self, key, headers=None, **more):
        body = {"model": "production", "prompt": "The quiet river", "max_tokens": 6, **more}
        status, headers, text = self.c.raw("POST", "/v1/completions", body, {**bearer(key), **(headers or {})})
        return status, headers, json.loads(text) if text.startswith(b"{") else text

    def cached(self, key, want, headers=None, **more):
        """An answer with x-genloop-cache: want. What should be there may be missed while the machine is too busy for Redis to answer in time, so a hit is waited for; a hit where none may be is none of time."""
        def ask():
            status, seen, answer = self.ask(key, headers, temperature=0, **more)
            equal(status, 200, f"{more} {headers} {answer}")
            got = seen.get("x-genloop-cache")
            expect(got == want or (want, got) == ("hit", "miss"), f"{more} {headers}: {got} instead of {want}")
            return answer if got == want else None
        return wait_for(f"{more} {headers}: {want}", ask, 60, 0.2)

    def cache(self):
        a, b = self.key(), self.key()
        first = self.cached(a, "miss")
        again = self.cached(a, "hit")
        equal((again["choices"], again["usage"]), (first["choices"], first["usage"]), "the answer")
        expect(again["id"] != first["id"], "each answer has its own id")
        equal(self.cached(b, "hit")["choices"], first["choices"], "another key of the same tenant")
        equal(self.cached(b, "miss", {"Cache-Control": "no-cache"})["choices"], first["choices"], "past the cache")
        self.cached(b, "hit", {"Cache-Control": "max-age=3600"})
        self.cached(b, "miss", {"Cache-Control": "max-age=0"})
        self.cached(b, "miss", {"Cache-Control": "no-store"}, max_tokens=3)
        self.cached(b, "miss", max_tokens=3)
        self.cached(b, "hit", max_tokens=3)
        for more in ({"prompt": "The quiet rivet"}, {"max_tokens": 7}, {"n": 2}, {"logprobs": 2}, {"stop": ["zz"]}, {"user": "ada"}):
            self.cached(b, "miss", **more)
            self.cached(b, "hit", **more)
        return first["choices"][0]["text"]

    def seeds(self):
        key = self.key()
        status, headers, first = self.ask(key, temperature=1, seed=7, n=2)
        equal((status, headers["x-genloop-cache"]), (200, "miss"), "with a seed")
        again = wait_for("a hit", lambda: next((a for s, h, a in [self.ask(key, temperature=1, seed=7, n=2)] if s == 200 and h["x-genloop-cache"] == "hit"), None), 60, 0.2)
        equal(again["choices"], first["choices"], "with the same seed")
        equal([self.ask(key, temperature=1)[1]["x-genloop-cache"] for _ in range(2)], ["miss", "miss"], "by chance")

    def tenants(self):
        """Whatever one tenant has asked is never in the other's cache, under any spelling."""
        shop, library = self.key("shop"), self.key("library")
        self.cached(shop, "miss", prompt="The tenant")
        self.cached(shop, "hit", prompt="The tenant")
        self.cached(library, "miss", prompt="The tenant")
        self.cached(library, "hit", prompt="The tenant")
        for header in ({"x-genloop-tenant": "shop"}, {"X-Tenant": "shop"}):
            self.cached(self.key("third"), "miss", header, prompt="The tenant " + next(iter(header)))
        with Redis(os.path.join(self.p.home, "run", "cache.sock")) as cache:
            names = [n for n in cache("KEYS", "genloop:answer:*")]
            values = b"".join(cache("GET", n) or b"" for n in names)
        expect(len(names) >= 2 and all(re.fullmatch(rb"genloop:answer:[0-9a-f]{64}", n) for n in names), f"{names[:3]}")
        expect(b"river" not in values and b"limits@1" not in values and b"inference" not in values, "an answer lies open in Redis")
        return f"{len(names)} answers, none of them legible"

    def streams(self):
        key = self.key()
        body = {"model": "production", "prompt": "A stream of", "max_tokens": 8, "temperature": 0, "stream": True, "stream_options": {"include_usage": True}}

        def stream():
            events = list(self.c.events("/v1/completions", body, bearer(key)))
            equal(events[-1], "[DONE]", "the end")
            chunks = [json.loads(e) for e in events[:-1]]
            return self.c.answer_headers["x-genloop-cache"], "".join(c["text"] for k in chunks for c in k["choices"]), chunks[-1]["usage"]
        first = stream()
        again = wait_for("a hit", lambda: next((s for s in [stream()] if s[0] == "hit"), None), 60, 0.2)
        equal((first[0], again[1:]), ("miss", first[1:]), "a stream from the cache")
        whole = self.cached(key, "hit", prompt="A stream of", max_tokens=8)
        equal(whole["choices"][0]["text"], first[1], "the same, whole")
        return first[1]

    def requests(self):
        """Requests a minute: the headers count down, then 429 with a time that holds."""
        key, seen = self.key(), []
        for i in range(200):
            status, headers, body = self.c.raw("GET", "/v1/models", headers=bearer(key))
            seen.append((status, int(headers["x-ratelimit-remaining-requests"])))
            if status != 200:
                break
        expect(status == 429 and 120 <= len(seen) < 200, f"{len(seen)} requests: {seen[-3:]}")
        equal((headers["x-ratelimit-limit-requests"], json.loads(body)["error"]["code"], json.loads(body)["error"]["type"]), ("120", "rate_limit_exceeded", "rate_limit_error"), "the refusal")
        expect(all(a[1] >= b[1] - 1 for a, b in zip(seen, seen[1:])) and seen[0][1] == 119, f"remaining: {seen[:3]}")
        expect(int(headers["retry-after"]) >= 1 and re.fullmatch(r"(\d+(\.\d+)?(ms|s))", headers["x-ratelimit-reset-requests"]), f"{headers}")
        equal(self.c.raw("GET", "/v1/models", headers=bearer(self.key()))[0], 200, "another key of the tenant")
        time.sleep(int(headers["retry-after"]))
        equal(self.c.raw("GET", "/v1/models", headers=bearer(key))[0], 200, "after Retry-After")
        return f"{len(seen) - 1} let in"

    def tokens(self):
        """Tokens a minute: what was asked for and not made comes back; what was made stays gone; an answer from the cache is free."""
        key = self.key()
        status, headers, answer = self.ask(key, prompt="Tokens", max_tokens=40, temperature=1)
        used = answer["usage"]["total_tokens"]
        wait_for("what was not used is back", lambda: abs(int(self.ask(key, prompt="a", max_tokens=1, temperature=0, headers={"Cache-Control": "max-age=600"})[1]["x-ratelimit-remaining-tokens"]) - (600 - used)) <= 60, 20)
        for i in range(60):
            status, headers, answer = self.ask(key, prompt=f"Spend {i}", max_tokens=60, temperature=1)
            if status != 200:
                break
        equal((status, answer["error"]["code"], "tokens" in answer["error"]["message"]), (429, "rate_limit_exceeded", True), f"{i} requests: {answer}")
        equal(self.c.raw("GET", "/v1/models", headers=bearer(key))[0], 200, "what makes no tokens goes on")
        equal(self.ask(self.key(), max_tokens=1)[0], 200, "another key goes on")
        return f"{i} answers of up to 60 tokens"

    def one_stream(self):
        """Streams at once: the second is refused while the first is open, and let in when it is over."""
        key = self.key()
        body = {"model": "production", "prompt": "Long", "max_tokens": 200, "stream": True, "temperature": 1, "ignore_eos": True}
        connection, answer = self.c._open("POST", "/v1/completions", body, bearer(key), 60)
        try:
            equal(answer.status, 200, "the first")
            answer.read(20)
            refused = wait_for("a second is refused, or the first was too quick", lambda: self.ask(key, stream=True, max_tokens=1), 20)
        finally:
            connection.close()
        wait_for("the next is let in", lambda: self.ask(key, stream=True, max_tokens=1)[0] == 200, 60)
        return f"HTTP {refused[0]}: {refused[2]['error']['message']}" if refused[0] == 429 else "the first was over before the second came"

    def without_redis(self):
        """The cache's Redis is killed again and again: keys and answers go on, limits hold with the same figures, and nothing waits for it."""
        key, count = self.key(), 0
        expect(self.ask(key, max_tokens=1)[0] == 200, "before")
        stop = os.path.join(self.p.home, "run", "cache.sock")
        pid = self.p.processes()["cache"]["pid"]
        os.kill(pid, signal.SIGSTOP)
        try:
            status, headers, _ = self.ask(key, max_tokens=1, temperature=0)
            equal((status, headers["x-genloop-cache"]), (200, "miss"), "with a Redis that hangs")
            for _ in range(200):
                status, headers, body = self.c.raw("GET", "/v1/models", headers=bearer(key))
                if status != 200:
                    break
                count += 1
            expect(status == 429 and count <= 160, f"{count} requests without Redis, then {status}")
            expect(self.c.raw("GET", "/v1/models", headers={"Authorization": "Bearer wrong"})[0] == 401 and self.c.raw("GET", "/v1/models", headers=bearer(self.key()))[0] == 200, "keys without Redis")
        finally:
            os.kill(pid, signal.SIGKILL)
        self.p.wait_ready("cache", pid)
        wait_for("the cache is used again", lambda: [self.ask(self.operator, temperature=0, prompt="again")[1].get("x-genloop-cache") for _ in range(2)] == ["hit", "hit"], 60, 0.3)
        return f"{count} requests let in without {os.path.basename(stop)}"

    def access_log(self):
        """A line for each request, with who and what, and nothing of what was in it."""
        key, secret = self.key("audited"), "The unmistakable zanzibar"
        request_id = f"access-{os.getpid()}"
        self.ask(key, {"x-request-id": request_id}, prompt=secret, temperature=0)
        log = os.path.join(self.p.home, "logs", "gateway.log")

        def lines():
            with open(log, encoding="utf-8") as f:
                return [json.loads(line) for line in f if '"gateway.access"' in line]
        line = wait_for("the line is there", lambda: [x for x in lines() if x["request_id"] == request_id], 20)[0]
        equal({k: line[k] for k in ("method", "route", "status", "key", "tenant", "model", "cache")},
              {"method": "POST", "route": "/v1/completions", "status": 200, "key": key["id"], "tenant": "audited", "model": "limits@1", "cache": "miss"}, "the line")
        expect(line["bytes"] > 50 and line["ms"] >= 0 and line["tokens"] > 0 and line["replica"].startswith("inference-"), f"{line}")
        with open(log, encoding="utf-8") as f:
            text = f.read()
        expect("zanzibar" not in text and key["key"] not in text and key["key"][21:] not in text, "contents or a key are in the log")
        return f"{len(lines())} lines"

    def bodies(self):
        """Bodies that are read whole have a budget together: beyond it 503 at once, and it is free again when they are gone."""
        sockets, refused = [], 0
        try:
            for _ in range(6):
                s = socket.create_connection(("127.0.0.1", self.p.port))
                sockets.append(s)
                head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {self.operator['key']}\r\nContent-Type: application/json\r\nContent-Length: 4000000\r\n\r\n"
                s.sendall(head.encode())
                try:
                    s.sendall(b" " * 3900000)
                    s.settimeout(1)
                    data = s.recv(200)
                except TimeoutError:
                    data = b""
                except OSError:
                    data = b"HTTP/1.1 503"
                refused += data.startswith(b"HTTP/1.1 503")
        finally:
            for s in sockets:
                s.close()
        expect(2 <= refused <= 4, f"{refused} of six bodies of 4 MB were refused, of which 12 MiB are held")
        wait_for("it is free again", lambda: self.ask(self.operator, max_tokens=1, prompt="x" * 100)[0] == 200, 20)
        return f"{refused} of 6 refused"


def main():
    suite = Suite()
    with Platform(config={"gates": EASY_GATES}) as p:
        t = Keys(p)
        suite.run("before_there_is_a_key", t.before)
        made = suite.run("made_and_used", t.create)
        suite.run("what_is_no_key", t.wrong, needs=[made])
        suite.run("every_row_of_the_table", t.every_row, needs=[made])
        suite.run("nobody_reaches_above_himself", t.reach, needs=[made])
        suite.run("the_owners_door", t.owners_door, needs=[made])
        revoked = suite.run("revoked", t.revoke, needs=[made])
        suite.run("who_did_it", t.who, needs=[revoked])
        suite.run("restarts", t.restart, needs=[revoked])
        suite.run("nothing_in_the_open", t.nothing_in_the_open, needs=[revoked])
        if suite.failed:
            p.tell_errors()
    port = free_port()
    with Platform(config={"gates": EASY_GATES, "gateway": {"listen": f"0.0.0.0:{port}"}}, port=port) as p:
        t = Beyond(p)
        suite.run("beyond_loopback", t.asks)
        suite.run("beyond_loopback_the_first_key", t.first)
        suite.run("beyond_loopback_nobody_else", t.nobody_else)
        if suite.failed:
            p.tell_errors()
    with Platform(config={"gates": EASY_GATES, "gateway": {**LIMITS, "bodies_max": "12MiB"}}) as p:
        t = Limits(p)
        model = suite.run("a_model_and_limits", t.model)
        for name in ("cache", "seeds", "tenants", "streams", "requests", "tokens", "one_stream", "without_redis", "access_log", "bodies"):
            suite.run(name, getattr(t, name), needs=[model])
        if suite.failed:
            p.tell_errors()
    finish(suite)


if __name__ == "__main__":
    main()
