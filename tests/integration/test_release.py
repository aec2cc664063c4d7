#!/usr/bin/env python3
"""Nothing but governance releases a model: a version that its gates rejected cannot be approved, put out as canary or promoted, and no record that is written straight into the log's
Redis, past every service, brings it into service: neither now nor after everything has been read again from the topics.

    tests/integration/test_release.py        uses build/bin or $GENLOOP_BIN; about 15 s"""
import concurrent.futures
import os
import shutil
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from testbed import EASY_GATES, Client, Platform, Refused, Suite, corpus, equal, expect, finish, wait_for  # noqa: E402
from wire import Redis, field, pack, replaced, text, topic_events, unpack  # noqa: E402

CANARY, PRODUCTION, REJECTED = 4, 5, 7  # enum ModelState
NAME, VERSION, STATE, TIME, PERCENT, EPOCH, REVISION, SIGNATURE = 1, 2, 4, 5, 12, 16, 17, 18  # of ModelVersion


class Release:
    def __init__(self, platform):
        self.p, self.c = platform, platform.client

    def rejected(self):
        """One version in production; another that its gates refuse: on held-out text it is to be better than a hundredth of what it is."""
        for name, body in corpus(60):
            self.c.upload("text", name, body.encode())
        dataset = self.p.build("text")
        self.dataset = dataset["version"]
        self.p.train("good", f"text@{dataset['version']}", steps=60)
        self.p.release("good@1")
        self.moves_at_once()
        self.p.down()
        path = os.path.join(self.p.home, "genloop.yaml")
        with open(path, encoding="utf-8") as f:
            config = f.read()
        expect("first_bits_per_byte_max: 8" in config, "the configuration has the gate")
        with open(path, "w", encoding="utf-8") as f:
            f.write(config.replace("first_bits_per_byte_max: 8", "first_bits_per_byte_max: 0.01"))
        self.p.up()
        self.p.train("bad", f"text@{dataset['version']}", steps=5)
        detail = self.p.wait_state("bad@1", "REJECTED|EVALUATED")
        equal(detail["version"]["state"], "MODEL_STATE_REJECTED", "bad@1 after its gates")
        gate = next(g for g in detail["evaluations"][0]["gates"] if not g.get("passed"))
        expect(gate["gate"] == "perplexity" and gate["margin"] < 0, f"the gate that failed: {gate}")
        return f"bad@1 by gate {gate['gate']}: {gate['value']:.2f} against {gate['threshold']}, margin {gate['margin']:.2f}"

    def moves_at_once(self):
        """Many moves of one version, faster than what is written of them comes back from the log: who wrote it does not take its own older records for somebody's."""
        self.p.train("good", f"text@{self.dataset}", steps=60, job_id="job-good-2")
        self.p.wait_state("good@2", "EVALUATED|REJECTED")
        self.p.move("good@2", "approve")
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            done = list(pool.map(lambda percent: self.c.post("/v1/admin/models/good@2/canary", {"reason": "more", "canary_percent": percent}), range(1, 41)))
        self.p.move("good@2", "canary", end_canary=True)
        wait_for("good@1 alone is released", lambda: self.p.version("good@1")["version"]["state"] == "MODEL_STATE_PRODUCTION", 60)
        self.p.down()  # all that was written has come back, or is of no account
        with open(os.path.join(self.p.home, "logs", "feedback.log"), encoding="utf-8") as f:
            said = [line for line in f if "does not follow" in line]
        self.p.up()
        expect(not said, f"{len(said)} records of its own are dropped, the first: {said[:1]}")
        return f"{len(done)} shares of a canary, and none"

    def commands(self):
        for verb in ("approve", "canary", "promote", "rollback", "retire"):
            try:
                self.c.post(f"/v1/admin/models/bad@1/{verb}", {"reason": "try", "canary_percent": 50} if verb == "canary" else {"reason": "try"})
            except Refused as why:
                expect(why.status == 409 and "rejected" in str(why), f"{verb}: {why}")
            else:
                raise AssertionError(f"{verb} of a rejected version is acknowledged")
        self.not_released()
        return "approve, canary, promote, rollback and retire are refused with 409"

    def not_released(self):
        """In no list, answers nothing, and the registry says what it said."""
        ids = {m["id"] for m in self.c.until(lambda: self.c.get("/v1/models"))["data"]}
        expect("good@1" in ids and not ids & {"bad", "bad@1", "evil", "evil@1"}, f"/v1/models: {sorted(ids)}")
        for model in ("bad@1", "bad", "evil@1"):
            status, _, body = self.c.raw("POST", "/v1/completions", {"model": model, "prompt": "a", "max_tokens": 1})
            equal(status, 404, f"a completion by {model} ({body[:200]!r})")
        status, headers, _ = self.c.raw("POST", "/v1/completions", {"model": "production", "prompt": "a", "max_tokens": 1})
        equal((status, headers.get("x-genloop-model")), (200, "good@1"), "what production means")
        equal(self.p.version("bad@1")["version"]["state"], "MODEL_STATE_REJECTED", "bad@1 in the registry")
        equal(self.p.version("good@1")["version"]["state"], "MODEL_STATE_PRODUCTION", "good@1 in the registry")
        for x in self.p.processes().values():
            if x["service"] == "inference":
                load = next(m for m in self.c.get("/v1/admin/status")["services"] if m["id"] == x["name"])["load"]
                equal(load.get("models"), ["good@1"], "models that the replica holds")

    def forge(self):
        """Records as an intruder at the log's Redis would write them."""
        models = {e["key"].decode(): unpack(e["value"]) for _, e in topic_events(self.p.home, "models") if b"/registry" not in e["key"]}
        good, bad = models["good@1"], models["bad@1"]
        equal((field(good, STATE), field(bad, STATE)), (PRODUCTION, REJECTED), "the newest records of the topic")
        history = [unpack(e["value"]) for _, e in topic_events(self.p.home, "models") if e["key"] == b"bad@1"]
        later = max(field(good, EPOCH, 0), field(bad, EPOCH, 0)) + 7
        next_of = replaced(replaced(replaced(bad, STATE, PRODUCTION), REVISION, field(bad, REVISION) + 1), TIME, int(time.time() * 1000))
        self.forged = {
            "bad@1, promoted, with the signature that it had": ("models", "bad@1", next_of),
            "bad@1, promoted, with another's signature": ("models", "bad@1", replaced(next_of, SIGNATURE, field(good, SIGNATURE))),
            "bad@1, promoted, with no signature": ("models", "bad@1", replaced(next_of, SIGNATURE, b"")),
            "bad@1, promoted, with 64 bytes of noise, in a later epoch": ("models", "bad@1", replaced(replaced(next_of, EPOCH, later), SIGNATURE, os.urandom(64))),
            "bad@1 as canary of everything": ("models", "bad@1", replaced(replaced(next_of, STATE, CANARY), PERCENT, 100)),
            "good@1's own record under bad@1's key": ("models", "bad@1", good),
            "a version that never was": ("models", "evil@1", replaced(replaced(good, NAME, "evil"), VERSION, 1)),
            "good@1, retired": ("models", "good@1", replaced(replaced(good, STATE, 6), REVISION, field(good, REVISION) + 1)),
            "a lease of nobody": ("models", "lease/registry", [(1, later), (18, os.urandom(64))]),
            "alias production to bad@1": ("aliases", "production", [(1, "production"), (2, "bad"), (3, 1), (4, int(time.time() * 1000)), (10, later), (11, 99), (12, os.urandom(64))]),
            "no message at all": ("models", "bad@1", None),
        }
        for i, (name, (noun, key, fields)) in enumerate(self.forged.items()):
            self._add(noun, key, os.urandom(50) if fields is None else pack(fields), f"forged-{i}")
        for i, old in enumerate(history):  # and what was true once, again
            self._add("models", "bad@1", pack(old), f"replayed-{i}")
        wait_for("the gateway has seen and dropped them", lambda: self._dropped("gateway") >= len(self.forged), 20)
        wait_for("the replica has, too", lambda: self._dropped("inference") >= len(self.forged), 20)
        self.not_released()
        return f"{len(self.forged)} forged and {len(history)} replayed records: none believed, {self._dropped('gateway'):.0f} counted by the gateway"

    def _add(self, noun, key, value, event_id):
        with Redis(os.path.join(self.p.home, "run", "log.sock")) as log:
            log("XADD", f"genloop.{noun}.v1:0", "*", "key", key, "value", value, "ce_id", event_id, "ce_source", "/services/feedback", "ce_type",
                "genloop.v1.ModelVersion" if noun == "models" else "genloop.v1.Alias", "ce_time", "2026-01-01T00:00:00Z", "ce_subject", "", "content-type", "application/protobuf", "traceparent", "")

    def _dropped(self, service):
        """Of every metric by which this service counts records that it did not believe."""
        admin = next(x["admin"] for x in self.p.processes().values() if x["service"] == service)
        lines = Client(f"http://{admin}").raw("GET", "/metrics")[2].decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("genloop_") and "registry" in line and "dropped" in line)

    def forged_evaluation(self):
        """An evaluation that says that everything was passed, under the id of the one that was judged."""
        events = [unpack(e["value"]) for _, e in topic_events(self.p.home, "evaluations") if e["key"] == b"bad@1"]
        judged = next(e for e in events if field(e, 9))
        for i, fields in enumerate((replaced(judged, 8, 1), replaced(replaced(judged, 8, 1), 11, os.urandom(64)), replaced(replaced(judged, 1, "another"), 8, 1))):
            self._add("evaluations", "bad@1", pack(fields), f"forged-evaluation-{i}")
        time.sleep(1)
        self.not_released()
        evaluations = self.p.version("bad@1")["evaluations"]
        expect(all(not e.get("passed") for e in evaluations), f"evaluations of bad@1: {evaluations}")
        return "an evaluation that passed is not believed either"

    def forged_audit(self):
        """A record in the audit log that says that bad@1 was promoted: behind the newest, and in the place of an older one."""
        records = [unpack(e["value"]) for _, e in topic_events(self.p.home, "audit") if e["key"] == b"audit"]
        promotion = next(r for r in records if text(r, 5) == "model.promote")
        before = self.c.get("/v1/audit/head")
        for i, index in enumerate((len(records), len(records) - 1, 1 << 40)):
            self._add("audit", "audit", pack(replaced(replaced(replaced(promotion, 2, index), 6, "bad@1"), 1, f"forged-audit-{i}")), f"forged-audit-{i}")
        time.sleep(1)
        self.not_released()
        self.move_on()
        equal(int(self.c.get("/v1/audit/head")["tree_size"]), int(before["tree_size"]) + 2, "records of the audit log after two that are true")
        self.p.run("audit", "verify")
        return "three forged records of the audit log are none of its leaves; what is true goes on behind it"

    def move_on(self):
        """Two true transitions."""
        self.p.train("later", "text", steps=5)
        self.p.wait_state("later@1", "REJECTED")

    def after_reading_again(self):
        self.p.down()
        shutil.rmtree(os.path.join(self.p.home, "views"))
        self.p.up()
        self.p.wait_serving("good@1")
        self.not_released()
        said = self.p.run("audit", "verify")
        return f"everything read anew from the topics, the forged ones among them: as before; {said.split(',')[0]}, the audit log verifies"


def main():
    suite = Suite()
    with Platform(config={"gates": EASY_GATES}) as p:
        r = Release(p)
        rejected = suite.run("a_gate_rejects", r.rejected)
        suite.run("no_command_releases_it", r.commands, needs=[rejected])
        forged = suite.run("no_forged_record_releases_it", r.forge, needs=[rejected])
        suite.run("no_forged_evaluation_releases_it", r.forged_evaluation, needs=[forged])
        suite.run("no_forged_audit_record_counts", r.forged_audit, needs=[forged])
        suite.run("nor_after_everything_is_read_again", r.after_reading_again, needs=[forged])
        if suite.failed:
            p.tell_errors()
    finish(suite)


if __name__ == "__main__":
    main()
