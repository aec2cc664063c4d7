#!/usr/bin/env python3
"""The thread: five processes on the real bus and the real log; one document → tokens → a hundred training steps → a model that the replica loads → a token through the gateway →
one thumb that arrives in services/feedback.

    tests/integration/test_thread.py        uses build/bin or $GENLOOP_BIN; about 15 s"""
import hashlib
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from testbed import EASY_GATES, Platform, Suite, corpus, equal, expect, finish, wait_for  # noqa: E402
from wire import field, text, topic_events, unpack  # noqa: E402

TEXT = "\n\n".join(body for _, body in corpus(60))


class Thread:
    def __init__(self, platform):
        self.p, self.c = platform, platform.client

    def processes(self):
        of = {p["service"]: p for p in self.p.processes().values()}
        for service in ("gateway", "ingest", "trainer", "inference", "feedback", "log", "cache"):
            expect(service in of and of[service]["state"] == "ready", f"{service} is not ready: {of.get(service)}")
        return ", ".join(f"{name} {p['pid']}" for name, p in sorted(of.items()))

    def document(self):
        """Each page of the corpus is a document: held-out ones are needed too."""
        for i, (name, body) in enumerate(corpus(60)):
            reply = self.c.upload("thread", name, body.encode())
            if i == 0:
                equal(reply["sha256"], hashlib.sha256(body.encode()).hexdigest(), "sha256 of what was received")
                self.document_id = reply["document_id"]
                def again():
                    """Known as soon as the view has folded the first; until then it is taken once more, which is harmless."""
                    second = self.c.upload("thread", name, body.encode())
                    equal(second["document_id"], reply["document_id"], "the same upload again")
                    return second["existed"]
                wait_for("the same upload is known", again, 60)
        found = wait_for("the documents are cleaned", lambda: [d for d in self.c.pages("/v1/documents?dataset=thread", "documents") if d["state"] == "DOCUMENT_STATE_ACCEPTED"][59:], 30)
        expect(found, "documents were accepted")
        return f"{self.document_id[:12]}… and 59 more, accepted"

    def tokens(self):
        self.dataset = self.p.build("thread")
        expect(int(self.dataset["tokens"]) > 1000 and int(self.dataset["tokens_held_out"]) > 0, f"tokens: {self.dataset}")
        return f"thread@{self.dataset['version']}: {self.dataset['tokens']} tokens, {self.dataset['tokens_held_out']} held out"

    def steps(self):
        job = self.p.train("thread", f"thread@{self.dataset['version']}", steps=100)
        equal(int(job["step"]), 100, "steps")
        loss = next((f for f in job["figures"] if f["name"] == "loss"), None)
        progress = [unpack(e["value"]) for _, e in topic_events_of_progress(self.p.home)]
        steps = sorted({field(f, 4, 0) for f in progress if text(f, 1) == job["id"]})
        expect(steps and steps[-1] == 100, f"progress in the topic ends at step {steps[-1:]}")
        return f"100 steps, loss {loss and round(loss['value'], 2)}"

    def model(self):
        self.p.release("thread@1")
        names = [m["id"] for m in self.c.get("/v1/models")["data"]]
        expect("thread@1" in names, f"/v1/models has {names}")
        return "thread@1 is in production and a replica serves it"

    def token(self):
        body = {"model": "production", "prompt": "The quiet river", "max_tokens": 1, "temperature": 0}
        status, headers, _ = self.c.raw("POST", "/v1/completions", body)
        answer = self.c.post("/v1/completions", body)
        equal((status, answer["usage"]["completion_tokens"]), (200, 1), "one token")
        equal(headers.get("x-genloop-model"), "thread@1", "x-genloop-model")
        self.request_id = answer["id"]
        return f"{answer['choices'][0]['text']!r} from {headers.get('x-genloop-replica')}"

    def thumb(self):
        reply = self.c.post("/v1/feedback", {"id": "thumb-1", "request_id": self.request_id, "kind": "thumb", "value": 1})
        equal(reply["id"], "thumb-1", "the acknowledgement")
        again = self.c.post("/v1/feedback", {"id": "thumb-1", "request_id": self.request_id, "kind": "thumb", "value": 1})
        events = wait_for("the thumb is in services/feedback", lambda: self.c.get("/v1/feedback").get("events"), 20)
        equal([(e["id"], e["kind"], e["value"]) for e in events], [("thumb-1", "FEEDBACK_KIND_THUMB", 1)], "GET /v1/feedback")
        equal(events[0]["request_id"], self.request_id.removeprefix("cmpl-"), "the interaction that is judged")
        in_topic = [e for _, e in topic_events(self.p.home, "feedback") if e["ce_id"] == b"thumb-1"]
        # The second may come before the view has folded the first: then it is in the topic too, under the same id, and harmless.
        expect(1 <= len(in_topic) <= 2, f"{len(in_topic)} records in the topic")
        equal(len(self.c.get("/v1/feedback")["events"]), 1, "in the view")
        return f"{len(in_topic)} in the topic, once in the view; sent twice ({again})"


def topic_events_of_progress(home):
    from wire import Redis
    with Redis(f"{home}/run/log.sock") as log:
        return log.events("genloop.job-progress.v1", 4)


def main():
    suite = Suite()
    with Platform(config={"gates": EASY_GATES}) as p:
        t = Thread(p)
        up = suite.run("five_processes_and_two_servers", t.processes)
        document = suite.run("one_document", t.document, needs=[up])
        tokens = suite.run("tokens", t.tokens, needs=[document])
        steps = suite.run("a_hundred_steps", t.steps, needs=[tokens])
        model = suite.run("a_model_that_the_replica_loads", t.model, needs=[steps])
        token = suite.run("a_token_through_the_gateway", t.token, needs=[model])
        suite.run("one_thumb_that_arrives", t.thumb, needs=[token])
        if suite.failed:
            p.tell_errors()
    finish(suite)


if __name__ == "__main__":
    main()
