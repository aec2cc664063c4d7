#!/usr/bin/env python3
"""API keys on the real platform: made, used, too weak, revoked, kept over restarts and without the cache's Redis; the owner's door; limits; the response cache, which no two tenants share; who did what,
in the audit log; the access log.

    tests/integration/test_keys.py        uses build/bin or $GENLOOP_BIN; about 40 s"""
import json
import os
import re
import stat
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from testbed import EASY_GATES, ROOT, Platform, Suite, equal, expect, finish, wait_for  # noqa: E402

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
    finish(suite)


if __name__ == "__main__":
    main()
