#!/usr/bin/env python3
"""The platform on a real Apache Kafka instead of its own log, over TLS with a password (SASL): the loop from a document to a judged answer, a producer that is not ours (kcat), a broker that dies while clients upload, services
that die, and views that come back from the topics alone.

    tests/integration/test_kafka.py        uses build/bin or $GENLOOP_BIN, and tests/support/kafka; about a minute"""
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from testbed import EASY_GATES, ROOT, Platform, Suite, corpus, equal, expect, finish, short, wait_for  # noqa: E402

TOOL = os.path.join(ROOT, "tests", "support", "kafka")


class Broker:
    """One broker in a folder of its own. It dies with this process."""

    def __init__(self):
        self.dir = tempfile.mkdtemp(prefix="genloop-kafka-", dir=os.environ.get("TEST_TMP"))
        made = subprocess.run([TOOL, "make", self.dir], capture_output=True, text=True, env={**os.environ, "SECURE": "1"})
        self.why = short(made.stderr) if made.returncode == 77 else None
        expect(made.returncode in (0, 77), f"{TOOL} make: {made.stderr}")
        self.url = made.stdout.strip()
        self.address = self.url.removeprefix("kafka://")  # for those who look on: without TLS
        self.process = None

    def start(self):
        log = os.path.join(self.dir, "0", "server.log")
        if os.path.exists(log):
            os.unlink(log)
        self.process = subprocess.Popen([TOOL, "run", self.dir, "0"], preexec_fn=lambda: ctypes.CDLL(None).prctl(1, signal.SIGKILL))  # PR_SET_PDEATHSIG
        subprocess.run([TOOL, "await", self.dir, "0"], check=True)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def close(self):
        if self.process and self.process.poll() is None:
            self.kill()
        shutil.rmtree(self.dir, ignore_errors=True)

    def produce(self, topic, key, value, headers=()):
        subprocess.run(["kcat", "-q", "-P", "-b", self.address, "-t", topic, "-k", key, *(w for h in headers for w in ("-H", h))], input=value.encode(), check=True, timeout=60)

    def records(self, topic):
        """What is in a topic, as another reader sees it: kcat's envelopes."""
        done = subprocess.run(["kcat", "-q", "-C", "-J", "-e", "-b", self.address, "-t", topic, "-o", "beginning"], capture_output=True, check=True, timeout=60)
        return [json.loads(line, strict=False) for line in done.stdout.decode(errors="replace").splitlines()]

    @staticmethod
    def headers(record):
        flat = record.get("headers") or []
        return dict(zip(flat[::2], flat[1::2]))


class Loop:
    def __init__(self, platform, broker):
        self.p, self.c, self.b = platform, platform.client, broker
        self.sent = {}

    def processes(self):
        of = {p["service"]: p for p in self.p.processes().values()}
        for service in ("gateway", "ingest", "trainer", "inference", "feedback", "cache"):
            expect(service in of and of[service]["state"] == "ready", f"{service} is not ready: {of.get(service)}")
        expect("log" not in of, "a redis-server for the log runs beside Kafka")
        return "five services and the cache, no server for the log"

    def documents(self):
        for name, body in corpus(60):
            self.sent[name] = self.c.until(lambda b=body, n=name: self.c.upload("kafka", n, b.encode()))["document_id"]
        found = self.accepted(60)
        return f"{len(found)} accepted"

    def accepted(self, count, patience_s=120):
        return wait_for(f"{count} documents are accepted", lambda: (lambda d: d if len(d) >= count else None)(
            [d for d in self.c.until(lambda: self.c.pages("/v1/documents?dataset=kafka", "documents")) if d["state"] == "DOCUMENT_STATE_ACCEPTED"]), patience_s, 0.3)

    def headers(self):
        records = self.b.records("genloop.documents.v1")
        expect(len(records) >= 120, f"{len(records)} records: each document is received and accepted")
        for r in records:
            h = self.b.headers(r)
            equal((h.get("ce_specversion"), h.get("ce_type"), h.get("content-type")), ("1.0", "genloop.v1.Document", "application/protobuf"), "CloudEvents headers")
            expect(h.get("ce_id") and h.get("ce_source", "").startswith("/services/") and h.get("ce_time", "").endswith("Z"), f"ce_id, ce_source, ce_time: {h}")
        partitions = {}
        for r in records:
            partitions.setdefault(r["key"], set()).add(r["partition"])
        expect(all(len(p) == 1 for p in partitions.values()), "a key in two partitions")
        return f"{len(records)} records in CloudEvents' binary mode, each key in one partition"

    def train(self):
        dataset = self.p.build("kafka")
        job = self.p.train("kafka", f"kafka@{dataset['version']}", steps=60)
        self.p.release("kafka@1")
        return f"{dataset['tokens']} tokens, {job['step']} steps, kafka@1 in production"

    def answer(self):
        answer = self.c.post("/v1/completions", {"model": "production", "prompt": "The quiet river", "max_tokens": 4, "temperature": 0})
        self.request_id = answer["id"]
        reply = self.c.post("/v1/feedback", {"id": "thumb-http", "request_id": self.request_id, "kind": "thumb", "value": 1})
        equal(reply["id"], "thumb-http", "the acknowledgement")
        wait_for("the thumb is in services/feedback", lambda: "thumb-http" in self.judgements(), 30)
        return "answered and judged over HTTP"

    def judgements(self):
        return {e["id"]: e for e in self.c.until(lambda: self.c.get("/v1/feedback?limit=500")).get("events") or []}

    def foreign(self):
        """JSON straight into the topic, without a header of ours; and what is none, which goes to the dead letters."""
        request = self.request_id.removeprefix("cmpl-")
        self.b.produce("genloop.feedback.v1", request, json.dumps({"id": "thumb-kcat", "request_id": request, "kind": "thumb", "value": -1, "time": "2026-01-02T03:04:05Z"}), ["content-type=application/json"])
        self.b.produce("genloop.feedback.v1", "poison", '{"id": "bad", "kind": "shrug"}', ["content-type=application/json"])
        event = wait_for("the judgement by kcat is in services/feedback", lambda: self.judgements().get("thumb-kcat"), 30)
        equal((event["kind"], event["value"], event["request_id"]), ("FEEDBACK_KIND_THUMB", -1, request), "the judgement")
        wait_for("the poison is in the dead letters", lambda: [r for r in self.b.records("genloop.dead-letters.v1") if r["key"] == "poison"], 30)
        expect("bad" not in self.judgements(), "poison became a judgement")
        return "joined with its interaction; what is no judgement is in the dead letters"

    def broker_dies(self):
        """Killed while clients upload: what was acknowledged is there, once each."""
        stop, errors = threading.Event(), []
        more = dict(corpus(4000, seed=5, sentences=4))

        def upload():
            client = type(self.c)(self.p.url)
            for name, body in more.items():
                if stop.is_set():
                    return
                try:
                    self.sent[name] = client.until(lambda n=name, b=body: client.upload("kafka", n, b.encode()), 120)["document_id"]
                except Exception as why:
                    errors.append(why)
                    return
        before = len(self.sent)
        thread = threading.Thread(target=upload)
        thread.start()
        time.sleep(1)
        pids = {n: p["pid"] for n, p in self.p.processes().items()}
        self.b.kill()
        time.sleep(8)  # the sessions of the groups' members run out
        self.b.start()
        during = len(self.sent)
        wait_for("uploads go on", lambda: errors or len(self.sent) > during + 20, 120, 0.2)
        stop.set()
        thread.join()
        expect(not errors, f"an upload failed for good: {errors}")
        found = self.accepted(len(self.sent))
        ids = [d["id"] for d in found]
        equal(sorted(set(ids)), sorted(ids), "a document twice")
        missing = set(self.sent.values()) - set(ids)
        expect(not missing, f"{len(missing)} acknowledged documents are missing")
        equal({n: p["pid"] for n, p in self.p.processes().items()}, pids, "services that went on")
        return f"{len(self.sent) - before} documents around the broker's death, none lost, no service restarted"

    def services_die(self):
        times = []
        for service in ("ingest", "feedback", "trainer"):
            pid = self.p.kill(service)
            times.append(f"{service} {self.p.wait_ready(service, pid, 60):.1f} s")
        name, body = corpus(1, seed=77)[0]
        self.sent[name] = self.c.until(lambda: self.c.upload("kafka", name, body.encode()))["document_id"]
        self.accepted(len(self.sent))
        self.c.until(lambda: self.c.post("/v1/feedback", {"id": "thumb-late", "request_id": self.request_id, "kind": "thumb", "value": 1}))
        wait_for("a judgement after the kills arrives", lambda: "thumb-late" in self.judgements(), 30)
        return "ready again: " + ", ".join(times)

    def registry_goes_on(self):
        """The holder's lease after its death: the next life holds it, and decides."""
        dataset = self.c.until(lambda: self.c.get("/v1/datasets"))["datasets"][0]
        self.p.train("kafka", f"kafka@{dataset['version']}", steps=20, job_id="second")
        self.p.wait_state("kafka@2", "EVALUATED|REJECTED")
        detail = self.p.version("kafka@2")
        return f"kafka@2 is {detail['version']['state']}"

    def rebuilt(self):
        def known():
            documents = {d["id"]: d["state"] for d in self.c.until(lambda: self.c.pages("/v1/documents?dataset=kafka", "documents"))}
            models = {v["version"]: v["state"] for v in self.c.until(lambda: self.c.get("/v1/admin/models")).get("versions", [])}
            return documents, models, sorted(self.judgements())
        before = known()
        self.p.down()
        shutil.rmtree(os.path.join(self.p.home, "views"))
        self.p.up()
        wait_for("the views are back", lambda: known() == before, 60, 0.5)
        out = self.p.run("audit", "verify")
        return f"{len(before[0])} documents, {len(before[1])} versions, {len(before[2])} judgements from the topics alone; {short(out)}"


def main():
    suite = Suite()
    broker = Broker()
    try:
        if broker.why or not shutil.which("kcat"):
            suite.note("skip", "platform_on_kafka", broker.why or "kcat is not installed")
            finish(suite)
        broker.start()
        with open(os.path.join(broker.dir, "secure.url"), encoding="utf-8") as f, open(os.path.join(broker.dir, "secure.properties"), encoding="utf-8") as g:
            log = {"log": f.read().strip(), "log_properties": g.read()}
        with Platform(config={**log, "gates": EASY_GATES}) as p:
            t = Loop(p, broker)
            up = suite.run("five_services_on_kafka", t.processes)
            documents = suite.run("documents", t.documents, needs=[up])
            suite.run("headers_in_the_topic", t.headers, needs=[documents])
            train = suite.run("a_model_from_them", t.train, needs=[documents])
            answer = suite.run("an_answer_and_a_thumb", t.answer, needs=[train])
            suite.run("a_judgement_by_kcat", t.foreign, needs=[answer])
            broker_dies = suite.run("the_broker_dies", t.broker_dies, needs=[documents])
            services = suite.run("services_die", t.services_die, needs=[broker_dies, answer])
            suite.run("the_registry_goes_on", t.registry_goes_on, needs=[services])
            suite.run("views_from_the_topics_alone", t.rebuilt, needs=[services])
            if suite.failed:
                p.tell_errors()
    finally:
        broker.close()
    finish(suite)


if __name__ == "__main__":
    main()
