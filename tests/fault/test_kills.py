#!/usr/bin/env python3
"""Nothing that was acknowledged is lost or doubled, whoever is killed and when.

    tests/fault/test_kills.py [--seed N] [--kills 10] [--pause 1.6]        --kills 100 is the whole proof, about 5 minutes

SIGKILL goes to one of the five services (of inference: one of two replicas) or of the two Redis servers, in a seeded order that meets each of the seven once in seven kills, at random
instants, while clients upload documents, create training jobs, chat (half of them streaming), rate, and move versions through the registry; once, half-way, the supervisor itself is
killed and started again.

An acknowledgement is: the whole answer, HTTP 200, has been read by the client. Each is appended to a journal and fsynced before that client's next request. A request that breaks, or is
answered 429, 502, 503 or 504, is sent again as it was, with the id it had (documents: the same bytes under the same source), until it is acknowledged; what was sent at all
is known too. Then all views are deleted, the platform is started again, and what its views tell from the topics alone is held against the journal:

    each acknowledged document, job, judgement and transition is there, exactly once; one that was only sent is there at most once; nothing else is there
    the weights of every job are those of a run that nobody disturbed, byte for byte
    the audit log verifies"""
import argparse
import hashlib
import http.client
import json
import os
import random
import shutil
import signal
import statistics
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from client import Client, Refused, retriable, wait_for  # noqa: E402
from testbed import EASY_GATES, Platform, Suite, corpus, equal, expect, finish, short  # noqa: E402
from wire import field, text, topic_events, unpack  # noqa: E402

TARGETS = ("gateway", "ingest", "trainer", "inference", "feedback", "log", "cache")
MODEL = "steady"
PATIENCE_S = 60  # for one request to be acknowledged: far more than it ever takes; a hang fails the test rather than hold it


class Journal:
    """What was sent and what was acknowledged: {"do": "sent"|"done", "kind": …, "id": …}, a line each, durable before the next request of its client."""

    def __init__(self, path):
        self.file, self.lock = open(path, "a", encoding="utf-8"), threading.Lock()
        self.sent, self.done, self.waited = {}, {}, []

    def _write(self, **line):
        with self.lock:
            self.file.write(json.dumps({"at": round(time.time(), 3), **line}) + "\n")
            self.file.flush()
            os.fsync(self.file.fileno())

    def will_send(self, kind, key, **more):
        self._write(do="sent", kind=kind, id=key)
        with self.lock:
            self.sent.setdefault(kind, {})[key] = more

    def killed(self, name):
        self._write(do="killed", id=name)

    def acknowledged(self, kind, key, answer, seconds):
        self._write(do="done", kind=kind, id=key, seconds=round(seconds, 3))
        with self.lock:
            self.done.setdefault(kind, {})[key] = answer
            self.waited.append((seconds, kind, key))


class Clients:
    """Each method is one client's life, until told to stop: every request it begins is acknowledged in the end."""

    def __init__(self, platform, journal, seed, recipe, dataset):
        self.p, self.journal, self.seed, self.recipe, self.dataset = platform, journal, seed, recipe, dataset
        self.stopping = threading.Event()
        self.errors, self.chats, self.broken, self.threads = [], 0, 0, []

    def start(self, *lives):
        for i, (life, *arguments) in enumerate(lives):
            def run(life=life, arguments=arguments, rng=random.Random(self.seed * 1000 + i)):
                try:
                    life(Client(self.p.url, timeout=20), rng, *arguments)
                except Exception as why:
                    self.errors.append(f"{life.__name__}: {type(why).__name__}: {short(why, 300)}")
            thread = threading.Thread(target=run, daemon=True)
            thread.start()
            self.threads.append(thread)

    def stop(self):
        self.stopping.set()
        for thread in self.threads:
            thread.join(PATIENCE_S + 30)
            expect(not thread.is_alive(), f"a client hangs: {thread.name}")
        expect(not self.errors, "; ".join(self.errors[:5]))

    def acknowledge(self, client, kind, key, request, **more):
        """request(client), until it is acknowledged; both ends in the journal."""
        begun = time.monotonic()
        self.journal.will_send(kind, key, **more)
        answer = client.until(lambda: request(client), PATIENCE_S)
        self.journal.acknowledged(kind, key, answer, time.monotonic() - begun)
        return answer

    def uploads(self, client, rng, name):
        i = 0
        while not self.stopping.is_set():
            i += 1
            body = corpus(1, seed=rng.randrange(1 << 40))[0][1] * rng.choice((1, 1, 1, 40))  # the large ones take more than one piece
            source = f"{name}-{i}.txt"
            self.acknowledge(client, "document", source, lambda c: c.upload("kills", source, body.encode()))
            time.sleep(rng.uniform(0, 0.15))

    def chats_and_rates(self, client, rng, name):
        i = 0
        while not self.stopping.is_set():
            i += 1
            body = {"model": "production", "messages": [{"role": "user", "content": f"The {rng.choice(['quiet', 'old'])} river {i}"}], "max_tokens": rng.choice((8, 40, 150)), "ignore_eos": True}
            request_id = self._stream(client, body) if rng.random() < 0.5 else client.until(lambda: client.post("/v1/chat/completions", body), PATIENCE_S)["id"]
            self.chats += 1
            key = f"{name}-{i}"
            thumb = {"id": key, "request_id": request_id, "kind": "thumb", "value": rng.choice((-1, 1))}
            if rng.random() < 0.3:
                thumb = {"id": key, "kind": "preference", "prompt": f"Question {key}?", "chosen": "Yes, of course.", "rejected": "No.", "model": MODEL}
            self.acknowledge(client, "feedback", key, lambda c: c.post("/v1/feedback", thumb))
            time.sleep(rng.uniform(0, 0.05))

    def _stream(self, client, body):
        """A stream is done when data: [DONE] has come and no event was an error; else it is begun again."""
        def once():
            last, first = None, None
            for data in client.events("/v1/chat/completions", {**body, "stream": True}):
                if data == "[DONE]":
                    last = data
                    break
                event = json.loads(data)
                if "error" in event:
                    self.broken += 1
                    raise ConnectionError(event["error"]["message"])
                first = first or event["id"]
            if last is None:
                self.broken += 1
                raise http.client.IncompleteRead(b"")
            return first
        return client.until(once, PATIENCE_S)

    def trains(self, client, rng, name):
        i = 0
        while not self.stopping.is_set():
            i += 1
            key = f"{name}-{i}"
            body = {"id": key, "model": MODEL, "recipe": self.recipe, "dataset": self.dataset}
            self.acknowledge(client, "job", key, lambda c: c.post("/v1/admin/jobs", body))
            end = time.monotonic() + 120
            while not self.stopping.is_set() and time.monotonic() < end:
                if client.until(lambda: client.get(f"/v1/admin/jobs/{key}"), PATIENCE_S)["state"] not in ("JOB_STATE_QUEUED", "JOB_STATE_RUNNING"):
                    break
                time.sleep(0.1)

    def moves(self, client, rng):
        """Takes each version that passed its gates to a canary share, then production (or back, now and then)."""
        round_ = 0
        while not self.stopping.is_set():
            versions = client.until(lambda: client.pages("/v1/admin/models", "versions"), PATIENCE_S)
            ready = [v for v in versions if v["state"] in ("MODEL_STATE_EVALUATED", "MODEL_STATE_APPROVED", "MODEL_STATE_CANARY")]
            if not ready:
                time.sleep(0.1)
                continue
            round_ += 1
            v = rng.choice(ready)
            full = f"{v['name']}@{v['version']}"
            steps = {"MODEL_STATE_EVALUATED": ["approve"] + ["canary", "canary-end"] * rng.randrange(1, 6) + ["canary", "promote"], "MODEL_STATE_APPROVED": ["canary", "promote"], "MODEL_STATE_CANARY": ["promote"]}[v["state"]]
            if rng.random() < 0.4:
                steps.append("rollback")
            for k, verb in enumerate(steps):
                key = f"{full}-{verb}-{round_}-{k}"
                body = {"reason": f"kills: {verb}", "id": key, **({"canary_percent": 20} if verb == "canary" else {}), **({"end_canary": True} if verb == "canary-end" else {})}
                verb = verb.removesuffix("-end")
                try:
                    self.acknowledge(client, "transition", key, lambda c: c.post(f"/v1/admin/models/{full}/{verb}", body), model=full, verb=verb)
                except Refused as why:
                    if why.status != 409:  # not from this state: another round moved it first; an answer too, and nothing was done
                        raise
                    self.journal.sent["transition"].pop(key)
                    break
                time.sleep(rng.uniform(0, 0.3))


class Killer:
    """Kills, and watches how long each takes to be ready again."""

    def __init__(self, platform, journal, rng):
        self.p, self.journal, self.rng, self.order = platform, journal, rng, []
        self.ready = []  # (seconds, name)

    def next_target(self):
        if not self.order:
            self.order = list(TARGETS)
            self.rng.shuffle(self.order)
        kind = self.order.pop()
        return f"inference-{self.rng.choice((1, 2))}" if kind == "inference" else kind

    def kill_one(self, then_s):
        """One kill; its time until ready; then a pause of then_s."""
        name = self.next_target()
        pid = wait_for(f"{name} runs", lambda: self.p.kill(name), 30, 0.01)
        self.journal.killed(name)
        begun = time.monotonic()
        wait_for(f"{name} is ready again", lambda: self._is_ready(name, pid), 30, 0.005)
        self.ready.append((time.monotonic() - begun, name))
        time.sleep(then_s)

    def _is_ready(self, name, not_pid):
        p = self.p.processes().get(name)
        return p and p["state"] == "ready" and p["pid"] != not_pid

    def kill_supervisor(self):
        pid = self.p.platform()["pid"]
        os.kill(pid, signal.SIGKILL)
        wait_for("the supervisor is dead", lambda: pid not in self.p.pids(), 20, 0.01)  # until then its lock stands, and `up` would find it up
        begun = time.monotonic()
        self.p.up()
        return time.monotonic() - begun

    def restarts(self):
        return {name: p["restarts"] for name, p in self.p.processes().items()}


class Proof:
    def __init__(self, arguments, platform):
        self.a, self.p, self.c = arguments, platform, platform.client
        self.rng = random.Random(arguments.seed)
        self.journal = Journal(os.path.join(platform.home, "journal.jsonl"))
        self.killer = Killer(platform, self.journal, self.rng)

    def begin(self):
        """The undisturbed run, which is also the first model in production."""
        for name, body in corpus(60):
            self.c.upload("ground", name, body.encode())
        dataset = self.p.build("ground")
        self.dataset = f"ground@{dataset['version']}"
        self.recipe = self.p.tiny_recipe(self.a.steps, model={"architecture": "llama", "layers": 2, "width": 128, "heads": 2, "kv_heads": 2, "context": 256, "vocab": 512, "tie_embeddings": True})
        begun = time.monotonic()
        self.p.train(MODEL, self.dataset, job_id="undisturbed", recipe=self.recipe)
        took = time.monotonic() - begun
        self.weights = self.weights_of(f"{MODEL}@1")
        self.p.release(f"{MODEL}@1")
        for i in range(3):  # versions to be moved about from the beginning
            self.p.train("mover", self.dataset, job_id=f"mover-{i}", recipe=self.p.tiny_recipe(5))
        for i in range(3):
            self.p.wait_state(f"mover@{i + 1}", "EVALUATED")
        self.own_jobs = {"undisturbed", "mover-0", "mover-1", "mover-2"}
        return f"{self.dataset}; {self.a.steps} steps in {took:.1f} s; model.safetensors {self.weights[:16]}…"

    def weights_of(self, full):
        detail = wait_for(f"{full} is registered", lambda: self.p.version(full), 60, 0.1)
        return json.loads(self.p.object(detail["version"]["directory"]["sha256"]))["files"]["model.safetensors"]["sha256"]

    def kills(self):
        clients = Clients(self.p, self.journal, self.a.seed, self.recipe, self.dataset)
        clients.start((clients.uploads, "left"), (clients.uploads, "right"), (clients.chats_and_rates, "ann"), (clients.chats_and_rates, "ben"), (clients.chats_and_rates, "cy"),
                      (clients.trains, "job"), (clients.moves,))
        begun, self.supervisor_s, restarts = time.monotonic(), None, {}
        try:
            time.sleep(self.rng.uniform(0.2, 1))
            for i in range(self.a.kills):
                if i == self.a.kills // 2:
                    restarts = self.killer.restarts()
                    self.supervisor_s = self.killer.kill_supervisor()
                self.killer.kill_one(self.rng.expovariate(1 / self.a.pause))
                if clients.errors:
                    break
        finally:
            after = self.killer.restarts()
            self.seconds = time.monotonic() - begun
            self.restarts = {n: after[n] + restarts.get(n, 0) for n in after}
            clients.stop()
        counts = {kind: len(done) for kind, done in self.journal.done.items()}
        self.waited = sorted(self.journal.waited, reverse=True)
        for kind in ("document", "job", "feedback", "transition"):
            expect(counts.get(kind), f"no {kind} was acknowledged: {counts}")
        return (f"{self.a.kills} kills in {self.seconds:.0f} s; acknowledged {counts}, {clients.chats} chats, {clients.broken} streams broke and were begun again; "
                f"the longest wait for an acknowledgement {self.waited[0][0]:.2f} s ({self.waited[0][1]})")

    def ready_again(self):
        times = sorted(seconds for seconds, _ in self.killer.ready)
        slowest = max(self.killer.ready)
        expect(slowest[0] <= self.a.ready_s, f"{slowest[1]} took {slowest[0]:.2f} s to be ready; the bound is {self.a.ready_s} s")
        return f"median {statistics.median(times) * 1000:.0f} ms, slowest {slowest[0] * 1000:.0f} ms ({slowest[1]}); the whole platform after its supervisor: {self.supervisor_s:.2f} s"

    def metrics(self, name):
        host = Client(f"http://{self.p.processes()[name]['admin']}")
        return dict(line.rsplit(" ", 1) for line in host.raw("GET", "/metrics")[2].decode().splitlines() if line and line[0] != "#")

    def shown(self):
        """Each kill of a child is one restart, and no more than the kills are: nothing crashed by itself."""
        killed = {}
        for _, name in self.killer.ready:
            killed[name] = killed.get(name, 0) + 1
        equal({n: c for n, c in self.restarts.items() if c}, killed, "restarts that the supervisor counts")
        status = self.p.json("status")
        by_name = {p["name"]: p for p in status["services"]}
        since = self.killer.restarts()
        for name, count in since.items():
            equal(by_name[name]["restarts"], count, f"restarts of {name} in genloop status")
        services = [p for p in self.p.processes().values() if p["admin"]]
        for p in services:
            equal(float(self.metrics(p["name"])["genloop_restarts"]), float(p["restarts"]), f"genloop_restarts of {p['name']}")
        # What they count begins anew with each of them, and the last kill may have been the counter's: one more, that is nobody's but ingest's.
        lost = lambda: sum(float(v) for k, v in self.metrics("gateway").items() if k.startswith("genloop_members_lost_total"))  # noqa: E731
        before, pid = lost(), self.p.kill("ingest")
        wait_for("the gateway's metric tells of a lost peer", lambda: lost() > before, 30)
        self.p.wait_ready("ingest", pid)
        return f"restarts {killed}; in genloop status, in genloop_restarts of {len(services)} services, and {lost():.0f} lost peers counted by the gateway"

    def another_replica(self):
        """A client whose session lives on one replica, while the other is killed again and again: no error, no other answer, no other replica. (One client each: a session leaves its
        replica where that has more than two requests above the others.)"""
        wait_for("both replicas are ready", lambda: all(p["state"] == "ready" for p in self.p.processes().values()), 30)
        model = next(f"{a['name']}@{a['version']}" for a in self.c.until(lambda: self.c.get("/v1/admin/models"))["aliases"] if a["alias"] == "production")
        body = {"model": model, "prompt": "The quiet river", "max_tokens": 100, "temperature": 0, "ignore_eos": True}
        on = {"inference-1": [], "inference-2": []}

        def probe():
            for i in range(40):
                session = f"session-{i}"
                status, headers, _ = self.c.raw("POST", "/v1/completions", {**body, "max_tokens": 1}, {"x-genloop-session": session, "Cache-Control": "no-cache"})
                if status == 200 and not on[headers["x-genloop-replica"]]:
                    on[headers["x-genloop-replica"]].append(session)
            return all(sessions for sessions in on.values())
        self.p.wait_serving(model)
        wait_for("sessions live on both replicas", probe, 30)
        want = self.c.post("/v1/completions", body)["choices"][0]["text"]
        stop, noticed, counts, longest = threading.Event(), [], {"inference-1": 0, "inference-2": 0}, [0.0]

        def live(replica, session):
            client, streaming = Client(self.p.url, timeout=20), False
            while not stop.is_set():
                begun, streaming = time.monotonic(), not streaming
                try:
                    if streaming:
                        events = [json.loads(e) for e in client.events("/v1/completions", {**body, "stream": True}, {"x-genloop-session": session, "Cache-Control": "no-cache"}) if e != "[DONE]"]
                        text_, by = "".join(e["choices"][0]["text"] for e in events), client.answer_headers["x-genloop-replica"]
                    else:
                        status, headers, answer = client.raw("POST", "/v1/completions", body, {"x-genloop-session": session, "Cache-Control": "no-cache"})
                        text_, by = (json.loads(answer)["choices"][0]["text"], headers["x-genloop-replica"]) if status == 200 else (answer.decode(), f"HTTP {status}")
                    if replica == "inference-2":
                        if text_ != want or by != replica:
                            noticed.append(f"{session}: {by} {short(text_, 100)!r}")
                        longest[0] = max(longest[0], time.monotonic() - begun)
                    counts[replica] += 1
                except Exception as why:
                    if replica == "inference-2":
                        noticed.append(f"{session}: {type(why).__name__}: {why}")
                    elif not isinstance(why, (OSError, http.client.HTTPException, Refused, KeyError)):
                        noticed.append(f"{session}: {type(why).__name__}: {why}")
        threads = [threading.Thread(target=live, args=(replica, sessions[0]), daemon=True) for replica, sessions in on.items()]
        for thread in threads:
            thread.start()
        try:
            for _ in range(max(3, self.a.kills // 10)):
                time.sleep(self.rng.uniform(0.3, 1))
                pid = wait_for("inference-1 runs", lambda: self.p.kill("inference-1"), 30, 0.01)
                self.p.wait_ready("inference-1", pid)
        finally:
            stop.set()
            for thread in threads:
                thread.join(30)
        expect(not noticed, f"{len(noticed)} of {counts} requests noticed: {noticed[:3]}")
        expect(counts["inference-2"] > 2, f"too few requests to tell: {counts}")
        return f"{counts['inference-2']} requests on inference-2, none noticed, the longest took {longest[0] * 1000:.0f} ms; {counts['inference-1']} on inference-1 were answered between its {max(3, self.a.kills // 10)} kills"

    def settled(self):
        """Every acknowledged job ends well, and the versions that came of them are registered."""
        for key in self.journal.done["job"]:
            self.p.job_end(key, 240)
        versions = wait_for("each job has its version", lambda: self._versions_of_jobs(), 60, 0.2)
        return f"{len(versions)} jobs succeeded"

    def _versions_of_jobs(self):
        of = {v["lineage"]["job_id"]: v for v in self.c.until(lambda: self.c.pages("/v1/admin/models", "versions")) if v["name"] == MODEL}
        return of if set(self.journal.done["job"]) <= set(of) else None

    def same_weights(self):
        different, resumed = [], 0
        of = self._versions_of_jobs()
        for key in self.journal.done["job"]:
            job = self.c.get(f"/v1/admin/jobs/{key}")
            resumed += int(job.get("attempts", 0)) > 1
            if self.weights_of(f"{MODEL}@{of[key]['version']}") != self.weights:
                different.append((key, job.get("attempts")))
        expect(not different, f"weights that differ from the undisturbed run's (job, attempts): {different}")
        return f"{len(self.journal.done['job'])} runs, {resumed} of them killed and resumed: model.safetensors {self.weights[:16]}…"

    def rebuild_views(self):
        """Everything that is not a topic, an object or a key goes."""
        for job in self.c.pages("/v1/admin/jobs", "jobs"):
            self.p.job_end(job["id"], 240)
        self.p.down()
        views = os.listdir(os.path.join(self.p.home, "views"))
        shutil.rmtree(os.path.join(self.p.home, "views"))
        begun = time.monotonic()
        self.p.up()
        return f"{', '.join(sorted(v for v in views if v.endswith('.sqlite')))} deleted; ready {time.monotonic() - begun:.2f} s after the start"

    def hold(self, kind, found):
        """found: the keys of what the views have, with repetitions."""
        acknowledged, sent = set(self.journal.done.get(kind, {})), set(self.journal.sent.get(kind, {}))
        doubled = {k for k in found if found.count(k) > 1} if len(found) != len(set(found)) else set()
        expect(not acknowledged - set(found), f"{len(acknowledged - set(found))} acknowledged and lost: {sorted(acknowledged - set(found))[:5]}")
        expect(not doubled, f"{len(doubled)} more than once: {sorted(doubled)[:5]}")
        expect(not set(found) - sent, f"{len(set(found) - sent)} that nobody sent: {sorted(set(found) - sent)[:5]}")
        return f"{len(acknowledged)} acknowledged, each once; {len(set(found) - acknowledged)} of {len(sent - acknowledged)} that were only sent"

    def documents(self):
        found = self.c.pages("/v1/documents?dataset=kills", "documents")
        waiting = [d["source"] for d in found if d["state"] == "DOCUMENT_STATE_RECEIVED"]
        if waiting:
            wait_for("every document is cleaned", lambda: not [d for d in self.c.pages("/v1/documents?dataset=kills", "documents") if d["state"] == "DOCUMENT_STATE_RECEIVED"], 60)
        for d in found:
            answer = self.journal.done["document"].get(d["source"])
            expect(not answer or answer["document_id"] == d["id"], f"{d['source']} was acknowledged under another id")
            equal(hashlib.sha256(self.p.object(d["raw"]["sha256"])).hexdigest(), d["raw"]["sha256"], f"bytes of {d['source']}")
        received = [text(unpack(e["value"]), 1) for _, e in topic_events(self.p.home, "documents") if field(unpack(e["value"]), 4) == 1]
        return self.hold("document", [d["source"] for d in found]) + f"; {len(received) - len(set(received))} doubled in the topic"

    def jobs(self):
        found = [j["id"] for j in self.c.pages("/v1/admin/jobs", "jobs") if j["kind"] == "JOB_KIND_TRAIN"]
        return self.hold("job", [j for j in found if j not in self.own_jobs])

    def feedback(self):
        return self.hold("feedback", [e["id"] for e in self.c.pages("/v1/feedback", "events")])

    def transitions(self):
        records = self.c.pages("/v1/audit", "records")
        commands = [r["details"].get("command", "").removeprefix("command/") for r in records if r["details"].get("command", "").startswith("command/")]
        result = self.hold("transition", [k for k in commands if k in self.journal.sent["transition"] or k.rsplit("-", 1)[-1].isdigit()])
        # The history of each version is what the audit log says of it: one record a step, each step from where the last one ended.
        steps = 0
        for v in self.c.pages("/v1/admin/models", "versions"):
            detail = self.c.get(f"/v1/admin/models/{v['name']}@{v['version']}")
            revisions = [int(h["revision"]) for h in detail["history"]]
            equal(revisions, list(range(1, len(revisions) + 1)), f"revisions of {v['name']}@{v['version']}")
            steps += len(revisions)
        return result + f"; {steps} records of versions, without a gap"

    def audit(self):
        said = self.p.run("audit", "verify")
        return short(said, 200)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of targets, instants and clients [the time]")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--pause", type=float, default=1.6, help="mean seconds from ready to the next kill [%(default)s]")
    parser.add_argument("--steps", type=int, default=150, help="of each training job [%(default)s]")
    parser.add_argument("--ready-s", type=float, default=10.0, help="a kill that takes longer to be ready again fails the test [%(default)s]: the figure is 2, a test on a busy machine allows more")
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    suite = Suite()
    with Platform(config={"gates": EASY_GATES, "gateway": {"capture": "full"}}, replicas=2) as p:
        proof = Proof(arguments, p)
        begun = suite.run("undisturbed_run", proof.begin)
        killed = suite.run("kills", proof.kills, needs=[begun])
        suite.run("ready_after_each_kill", proof.ready_again, needs=[killed])
        suite.run("restarts_are_shown", proof.shown, needs=[killed])
        suite.run("a_client_of_another_replica_notices_nothing", proof.another_replica, needs=[killed])
        settled = suite.run("every_job_ends", proof.settled, needs=[killed])
        suite.run("same_weights", proof.same_weights, needs=[settled])
        rebuilt = suite.run("views_rebuilt_from_topics", proof.rebuild_views, needs=[settled])
        for name in ("documents", "jobs", "feedback", "transitions"):
            suite.run(f"{name}_exactly_once", getattr(proof, name), needs=[rebuilt])
        suite.run("audit_verifies", proof.audit, needs=[rebuilt])
        if suite.failed:
            p.tell_errors(40)
            if os.environ.get("KEEP_HOME"):
                p.own_home = False
                print(f"home kept: {p.home}")
    finish(suite)


if __name__ == "__main__":
    main()
