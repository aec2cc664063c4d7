#!/usr/bin/env python3
"""A home that an earlier version of the platform made opens in this one: what was in it is there, the same weights give the same tokens, the audit log verifies, and work goes on.

    tests/compat/test_homes.py               opens each tests/compat/home-*.tar.zst, once as it was left and once without its views; about 10 s for each
    tests/compat/test_homes.py --make NAME   makes home-NAME.tar.zst with the platform of now, and home-NAME.json with what it says of itself

A fixture is made when a format changes (home, store, topics, keys, views, manifests: docs/formats.md) and with each release; it is never made anew under its old name: what it holds is
what users have. Its keys protect nothing else.
"""
import argparse
import glob
import json
import os
import shutil
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "support"))
from testbed import EASY_GATES, Platform, Suite, corpus, equal, expect, finish, free_port, short, wait_for  # noqa: E402
from wire import Redis, field, text, unpack  # noqa: E402

CONFIG = {"gateway": {"capture": "full"}, "gates": EASY_GATES}
PROMPTS = ("The quiet river", "Story number", "naïve 北京 ")
# What a stopped platform's home holds beyond its state.
LEFT_OUT = ("run", "logs", "work/models", "genloop.yaml")
LEDGER = {"datasets": "/v1/datasets", "jobs": "/v1/admin/jobs", "models": "/v1/admin/models", "feedback": "/v1/feedback", "audit": "/v1/audit"}


def texts(p):
    """Greedy answers: the weights, the tokenizer and their manifest have survived. Alone in its step each, whatever the kernels."""
    answers = [p.client.post("/v1/completions", {"model": "production", "prompt": prompt, "max_tokens": 24, "temperature": 0}) for prompt in PROMPTS]
    return [a["choices"][0]["text"] for a in answers]


def documents(p):
    return sorted([d["source"], d["id"], d["raw"]["sha256"], d["state"], d.get("reject_reason", "")] for d in p.client.pages("/v1/documents?dataset=stories", "documents"))


def ledgers(p):
    """Everything that the views tell of what happened, as the API tells it."""
    return {name: p.client.get(path) for name, path in LEDGER.items()}


def lives(p):
    """What must be so before and after, in few words: easy to read in a diff, and what --make checks."""
    all_of = ledgers(p)
    return {
        "documents": documents(p),
        "datasets": sorted([d["name"], int(d["version"]), d["state"], int(d.get("tokens", 0))] for d in all_of["datasets"]["datasets"]),
        "jobs": sorted([j["id"], j["state"], int(j.get("step", 0))] for j in all_of["jobs"]["jobs"]),
        "versions": sorted([v["name"], int(v["version"]), v["state"], v["directory"]["sha256"]] for v in all_of["models"]["versions"]),
        "feedback": sorted([e["id"], e["kind"]] for e in all_of["feedback"]["events"]),
        "audit": [[r["action"], r["object"], r["leaf_hash"]] for r in all_of["audit"]["records"]],
    }


def recipe(p, steps, seed=7):
    """A model of some 40,000 parameters, so that a fixture is small."""
    return p.tiny_recipe(steps, seed=seed, checkpoint={"every": 20, "keep": 1}, model={"architecture": "llama", "layers": 2, "width": 32, "heads": 2, "kv_heads": 1, "context": 256, "vocab": 512, "tie_embeddings": True})


def steps_of(p, job):
    """The steps of a job in the order in which its progress was published."""
    with Redis(os.path.join(p.home, "run", "log.sock")) as log:
        events = [unpack(e["value"]) for _, e in log.events("genloop.job-progress.v1", 4)]
    return [field(e, 4, 0) for e in events if text(e, 1) == job]


def make(name):
    fixture = os.path.join(HERE, f"home-{name}")
    if os.path.exists(fixture + ".tar.zst"):
        sys.exit(f"{fixture}.tar.zst is there: a fixture stays as it was made; take another name")
    home = tempfile.mkdtemp(prefix="genloop-compat-")
    try:
        with Platform(config=CONFIG, home=home) as p:
            c = p.client
            for source, body in corpus(40):
                c.upload("stories", source, body.encode())
            c.upload("stories", "blob.bin", bytes(range(256)) * 8)  # rejected, with its reason
            p.build("stories")
            p.train("teller", "stories@1", recipe=recipe(p, 60))
            p.release("teller@1")
            p.train("teller", "stories@1", job_id="job-second", recipe=recipe(p, 60, seed=8))
            p.wait_state("teller@2", "EVALUATED")
            p.move("teller@2", "reject")
            for i, prompt in enumerate(PROMPTS):
                answer = c.post("/v1/completions", {"model": "production", "prompt": prompt, "max_tokens": 8, "seed": i})
                c.post("/v1/feedback", {"id": f"thumb-{i}", "request_id": answer["id"], "kind": "thumb", "value": 1 if i % 2 else -1})
            c.post("/v1/feedback", {"id": "words", "prompt": "What does the river do?", "kind": "correction", "text": "The river follows the garden."})
            wait_for("the judgements are in the view", lambda: len(c.get("/v1/feedback").get("events", [])) == len(PROMPTS) + 1, 20)
            # A job that waits with its checkpoints in work/.
            c.post("/v1/admin/jobs", {"id": "job-paused", "model": "sleeper", "dataset": "stories@1", "recipe": recipe(p, 500)})
            wait_for("a checkpoint", lambda: int(c.get("/v1/admin/jobs/job-paused").get("step", 0)) >= 100, 60, 0.02)
            c.post("/v1/admin/jobs/job-paused/pause")
            wait_for("the job rests", lambda: not os.path.exists(os.path.join(home, "work", "jobs", "job-paused", "deaths")), 20)
            told = {"version": p.run("version").strip(), "completions": texts(p), **lives(p)}
            p.down()
        with open(fixture + ".json", "w", encoding="utf-8") as f:
            json.dump(told, f, indent=1, ensure_ascii=False, sort_keys=True)
            f.write("\n")
        excluded = [f"--exclude=./{x}" for x in LEFT_OUT] + ["--exclude=*.lock", "--exclude=*.sock"]
        subprocess.run(["tar", "--zstd", "--sort=name", "--owner=0", "--group=0", "--numeric-owner", *excluded, "-cf", fixture + ".tar.zst", "-C", home, "."], check=True)
        print(f"{fixture}.tar.zst: {os.path.getsize(fixture + '.tar.zst')} bytes")
    finally:
        shutil.rmtree(home, ignore_errors=True)


class Opened:
    def __init__(self, platform, told):
        self.p, self.told = platform, told

    def served(self):
        self.p.wait_serving("production")
        equal(texts(self.p), self.told["completions"], "greedy answers")
        return f"{len(self.told['completions'])} answers to the byte"

    def same(self, what):
        def look():
            now = lives(self.p)[what]
            # Later versions may add records of their own to the audit log (a lease); what was there is there, first and in order.
            return now if (now[:len(self.told[what])] if what == "audit" else now) == self.told[what] else None
        try:
            wait_for(what, look, 10)
        except AssertionError:
            equal(lives(self.p)[what], self.told[what], what)
        return f"{len(self.told[what])} as they were"

    def audit(self):
        return " ".join(self.p.run("audit", "verify").split())[:160]

    def recomputed(self):
        return " ".join(self.p.run("evaluate", "teller@1", "--recompute").split())[:120]

    def paused_job(self):
        """Checkpoints are state too: the job goes on behind its last one, not from the beginning."""
        at = next(step for job, state, step in self.told["jobs"] if job == "job-paused")
        before = len(steps_of(self.p, "job-paused"))
        self.p.client.post("/v1/admin/jobs/job-paused/resume")
        end = self.p.job_end("job-paused")
        after = steps_of(self.p, "job-paused")[before:]
        equal(int(end["step"]), 500, "steps")
        expect(after and min(after) > at - 50, f"it was at step {at} and went on from {min(after or [0])}")
        return f"from step {min(after)} to 500"

    def goes_on(self):
        """New work on old state: a document, a version of the dataset, a model on the old tokenizer, a judgement, a promotion."""
        p, c = self.p, self.p.client
        c.upload("stories", "new.txt", corpus(1, seed=99)[0][1].encode())
        dataset = p.build("stories", build_id="after")
        equal(int(dataset["version"]), 2, "version of the dataset")
        p.train("teller", "stories@2", job_id="job-after", recipe=recipe(p, 20))
        p.release("teller@3")
        states = {f"{v['name']}@{v['version']}": v["state"] for v in c.get("/v1/admin/models")["versions"] if v["name"] == "teller"}
        equal(states, {"teller@1": "MODEL_STATE_RETIRED", "teller@2": "MODEL_STATE_REJECTED", "teller@3": "MODEL_STATE_PRODUCTION"}, "states")
        p.move("teller@3", "rollback")
        p.wait_serving("production")
        equal(texts(p), self.told["completions"], "greedy answers after the rollback")
        p.run("audit", "verify")
        return "dataset 2, teller@3, back to teller@1"


def open_fixture(suite, archive, without_views):
    name = os.path.basename(archive).removesuffix(".tar.zst")
    label = f"{name}{'_without_views' if without_views else ''}"
    with open(archive.removesuffix(".tar.zst") + ".json", encoding="utf-8") as f:
        told = json.load(f)
    home = tempfile.mkdtemp(prefix="genloop-compat-")
    try:
        subprocess.run(["tar", "--zstd", "--no-same-owner", "-xf", archive, "-C", home], check=True)
        os.chmod(home, 0o700)
        if without_views:
            expect(os.listdir(os.path.join(home, "views")), "the fixture has views to take away")
            shutil.rmtree(os.path.join(home, "views"))
        with Platform(config=CONFIG, home=home, port=free_port()) as p:
            o = Opened(p, told)
            parts = [suite.run(f"{label}_{what}", o.same, what) for what in ("documents", "datasets", "jobs", "versions", "feedback", "audit")]
            served = suite.run(f"{label}_serves", o.served)
            verified = suite.run(f"{label}_audit_verifies", o.audit)
            suite.run(f"{label}_verdict_recomputes", o.recomputed)
            suite.run(f"{label}_paused_job_goes_on", o.paused_job, needs=[served])
            suite.run(f"{label}_goes_on", o.goes_on, needs=[*parts, served, verified])
            if suite.failed:
                p.tell_errors()
    finally:
        shutil.rmtree(home, ignore_errors=True)


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--make", metavar="NAME")
    asked = options.parse_args()
    if asked.make:
        make(asked.make)
        return
    suite = Suite()
    archives = sorted(glob.glob(os.path.join(HERE, "home-*.tar.zst")))
    expect(archives, "there are fixtures")
    for archive in archives:
        for without_views in (False, True):
            try:
                open_fixture(suite, archive, without_views)
            except Exception as why:  # the platform does not even start on it
                suite.note("FAIL", f"{os.path.basename(archive)} opens", short(f"{type(why).__name__}: {why}", 1200))
    finish(suite)


if __name__ == "__main__":
    main()
