#!/usr/bin/env python3
"""gRPC on the real platform, by grpcio without any .proto file: generation, streams, cancellation, deadlines, uploads, judgements, training, the registry, operations.

    tests/integration/test_grpc.py        skips where there is no Python with grpcio (scripts/test-python makes one; $TEST_PYTHON names another)

Where ../shared/accept lies beside the project, its grpc_api.py runs too."""
import contextlib
import hashlib
import os
import signal
import subprocess
import sys
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from testbed import EASY_GATES, ROOT, Platform, Skip, Suite, corpus, equal, expect, finish, short, test_python, wait_for  # noqa: E402

test_python("grpc", "grpc_reflection", "grpc_health")
try:
    import grpc
    from google.rpc import error_details_pb2, status_pb2
    from grpc_health.v1 import health_pb2, health_pb2_grpc
    from grpcs import Services
    Code, why_not = grpc.StatusCode, None
except ImportError as missing:
    grpc, why_not = None, str(missing)

ACCEPT = os.path.join(ROOT, "..", "shared", "accept", "grpc_api.py")
# Without those that judge by the clock: their like is here, by what the replica says of itself.
ONLY = "reflection,method,request_fields,health,unicode,parallel_streams,compression,large_unary,request_id,models_list,keepalive,unimplemented,invalid,unknown,no_protobuf,too_large,huge"
LONG = {"model": "production", "max_tokens": 1800, "ignore_eos": True, "temperature": 1}


@contextlib.contextmanager
def stopped(pid):
    """A process that stands still: of a tiny model's answer nobody could say when it comes. Not for longer than a peer may be silent."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def refused(code, call):
    """The error of a call that must have this status."""
    try:
        answer = call()
        answer = list(answer) if hasattr(answer, "__next__") else answer
    except grpc.RpcError as error:
        expect(error.code() == code, f"{error.code().name}: {short(error.details())}; wanted {code.name}")
        return error
    raise AssertionError(f"answered {short(answer)!r}, wanted {code.name}")


def details(error):
    """The google.rpc.Status of an error: its details by name."""
    status = status_pb2.Status.FromString(dict(error.trailing_metadata())["grpc-status-details-bin"])
    equal((status.code, status.message), (error.code().value[0], error.details()), "google.rpc.Status")
    found = {}
    for packed in status.details:
        kind = getattr(error_details_pb2, packed.type_url.rpartition(".")[2])()
        expect(packed.Unpack(kind), f"{packed.type_url} does not unpack")
        found[type(kind).__name__] = kind
    return found


class Grpc:
    def __init__(self, platform):
        self.p, self.c = platform, platform.client
        self.g = Services(f"127.0.0.1:{platform.port}")

    # ---- what the loop is made of, by gRPC alone ----

    def upload(self):
        """Each page of the corpus is a call of a header and some pieces; one is sent a second time."""
        call, request = self.g.method("Ingest.Upload")

        def pieces(name, body, size=700):
            yield request(header={"dataset": "g", "source": name, "media_type": "text/plain"})
            for at in range(0, len(body), size):
                yield request(data=body[at:at + size])
        for i, (name, body) in enumerate(corpus(60)):
            body = body.encode()
            reply = call(pieces(name, body))
            if i == 0:
                equal((reply.sha256, reply.size_bytes), (hashlib.sha256(body).hexdigest(), len(body)), "what was received")
                again = call(pieces(name, body, 100_000))
                equal((again.document_id, again.existed), (reply.document_id, True), "the same upload again")
        watch = self.g.call("Ingest.Watch", dataset="g")
        for progress in watch:
            if progress.accepted >= 60:
                break
        watch.cancel()
        listed = self.g.call("Ingest.ListDocuments", dataset="g")
        equal(len(listed.documents), 60, "documents of the dataset")
        return f"{len(listed.documents)} documents in the dataset, {progress.accepted} accepted"

    def upload_large(self):
        """More than any buffer on the way holds: it is slowed, and arrives whole."""
        call, request = self.g.method("Ingest.Upload")
        block = os.urandom(1 << 16) * 3
        digest = hashlib.sha256(block * 200).hexdigest()

        def pieces():
            yield request(header={"dataset": "large", "source": "large.bin"})
            for _ in range(200):
                yield request(data=block)
        reply = call(pieces(), timeout=300)
        equal((reply.size_bytes, reply.sha256), (200 * len(block), digest), "what was received")
        return f"{reply.size_bytes >> 20} MiB"

    def upload_refused(self):
        call, request = self.g.method("Ingest.Upload")
        error = refused(Code.INVALID_ARGUMENT, lambda: call(iter([request(data=b"x")])))
        refused(Code.INVALID_ARGUMENT, lambda: call(iter([])))
        refused(Code.INVALID_ARGUMENT, lambda: call(iter([request(header={"dataset": "../x"})])))
        return error.details()

    def train(self):
        """A job by Training.Create, followed by Watch to its end, and its model by Models.Watch to its gates."""
        build = list(self.g.call("Ingest.Build", {"timeout": 300}, dataset="g", vocab=512, build_id="b", held_out=0.2))
        version = build[-1].version.version
        seen, models = [], self.g.call("Models.Watch", {"timeout": 600}, name="m")
        follow = threading.Thread(target=lambda: self.follow(models, seen), daemon=True)
        follow.start()
        recipe = self.p.tiny_recipe(60, model={"architecture": "llama", "layers": 4, "width": 128, "heads": 4, "kv_heads": 4, "context": 2048, "vocab": 512, "tie_embeddings": True})
        job = self.g.call("Training.Create", id="job-m", model="m", recipe=recipe, dataset=f"g@{version}")
        equal(job.id, "job-m", "the job's id")
        steps, last = 0, None
        for reply in self.g.call("Training.Watch", {"timeout": 600}, id="job-m"):
            steps += reply.HasField("progress")
            last = reply.job if reply.HasField("job") else last
            if last and last.state >= 4:  # JOB_STATE_SUCCEEDED and what else ends
                break
        equal((last.state, last.step), (4, 60), "the job's end")
        self.p.wait_state("m@1", "EVALUATED")
        for transition in (1, 4):  # TRANSITION_APPROVE, TRANSITION_PROMOTE
            self.g.call("Models.Transition", model="m@1", transition=transition, reason="test", id=f"t{transition}")
        self.p.wait_serving("m@1")
        wait_for("Models.Watch has told of production", lambda: 5 in seen, 60)
        models.cancel()
        listed = self.g.call("Training.List")
        expect("job-m" in [j.id for j in listed.jobs], f"Training.List: {[j.id for j in listed.jobs]}")
        return f"{steps} steps watched, states {seen}"

    @staticmethod
    def follow(stream, states):
        try:
            for version in stream:
                states.append(version.state)
        except grpc.RpcError:
            pass

    def models(self):
        listed = self.g.call("Models.List")
        equal([(v.name, v.version, v.state) for v in listed.versions], [("m", 1, 5)], "Models.List")
        expect("production" in [a.alias for a in listed.aliases], "the alias production")
        detail = self.g.call("Models.Get", model="production")
        expect(detail.version.name == "m" and len(detail.history) >= 3 and detail.card, "Models.Get has version, history and card")
        refused(Code.NOT_FOUND, lambda: self.g.call("Models.Get", model="nobody"))
        return f"{len(detail.history)} transitions"

    # ---- generation ----

    def generation(self):
        ask = {"model": "production", "prompt": "The quiet river", "max_tokens": 24, "temperature": 0, "logprobs": True, "top_logprobs": 2}
        whole = self.g.call("Generation.Generate", **ask)
        pieces = list(self.g.call("Generation.GenerateStream", **ask))
        equal("".join(p.text for p in pieces), whole.text, "stream and whole")
        equal([t for p in pieces for t in p.tokens], list(whole.tokens), "their tokens")
        equal(len(whole.logprobs), len([lp for p in pieces for lp in p.logprobs]), "their log-probabilities")
        equal((whole.model, whole.usage.completion_tokens, pieces[-1].finish_reason), ("m@1", len(whole.tokens), whole.finish_reason), "model, usage, end")
        http = self.c.post("/v1/completions", {"model": "production", "prompt": "The quiet river", "max_tokens": 24, "temperature": 0})
        equal(whole.text, http["choices"][0]["text"], "the answer over HTTP")
        chat = self.g.call("Generation.Generate", model="production", messages=[{"role": "user", "content": "Who\0 crosses the bridge?"}], max_tokens=8, temperature=0)
        expect(chat.usage.prompt_tokens > 0, "a chat's usage")
        choices = {}
        for piece in self.g.call("Generation.GenerateStream", model="production", prompt="The", n=3, seed=5, max_tokens=8, temperature=1):
            choices[piece.index] = choices.get(piece.index, "") + piece.text
        equal(sorted(choices), [0, 1, 2], "the choices of a stream")
        call, request = self.g.method("Generation.GenerateStream")
        stream = call(request(**ask), metadata=[("x-request-id", "mine-1"), ("x-genloop-session", "s")])
        head = dict(stream.initial_metadata())
        equal((head.get("x-request-id"), head.get("x-genloop-model")), ("mine-1", "m@1"), "metadata")
        list(stream)
        again = self.g.call("Generation.Generate", **ask)
        expect(again.request_id and again.request_id != whole.request_id and again.text == whole.text, "asked again it is the same answer under another id")
        seen = [p.request_id for p in call(request(**ask), metadata=[("x-request-id", "mine-2")])]
        equal(set(seen), {"mine-2"}, "request ids of a stream's pieces, also out of the cache")
        zipped = call(request(**ask), compression=grpc.Compression.Gzip)
        equal("".join(p.text for p in zipped), whole.text, "the same, compressed")
        return repr(whole.text)

    def refusals(self):
        ask = {"model": "production", "prompt": "a"}
        error = refused(Code.INVALID_ARGUMENT, lambda: self.g.call("Generation.Generate", **ask, temperature=-1))
        found = details(error)
        equal((found["ErrorInfo"].domain, found["ErrorInfo"].reason, found["BadRequest"].field_violations[0].field), ("genloop", "INVALID_ARGUMENT", "temperature"), "its details")
        error = refused(Code.NOT_FOUND, lambda: self.g.call("Generation.Generate", model="nobody", prompt="a"))
        equal(details(error)["ErrorInfo"].reason, "MODEL_NOT_FOUND", "the reason")
        error = refused(Code.INVALID_ARGUMENT, lambda: self.g.call("Generation.Generate", model="production", prompt="word " * 5000))
        equal(details(error)["ErrorInfo"].reason, "CONTEXT_LENGTH_EXCEEDED", "the reason")
        refused(Code.INVALID_ARGUMENT, lambda: self.g.call("Generation.Generate", model="production"))
        refused(Code.INVALID_ARGUMENT, lambda: self.g.call("Generation.Generate", **ask, n=2))
        refused(Code.RESOURCE_EXHAUSTED, lambda: self.g.call("Generation.Generate", model="production", prompt="a" * (9 << 20)))
        refused(Code.UNIMPLEMENTED, lambda: self.g.call("Generation.Embed", model="production", input=["a"]))
        refused(Code.NOT_FOUND, lambda: self.g.call("Generation.Rerank", model="nobody", query="a", documents=["b"]))
        unknown = self.g.channel.unary_unary("/genloop.v1.Generation/NoSuch")
        refused(Code.UNIMPLEMENTED, lambda: unknown(b"", timeout=60))
        _, request = self.g.method("Generation.Generate")
        many = self.g.channel.stream_unary("/genloop.v1.Generation/Generate", request.SerializeToString)
        refused(Code.UNIMPLEMENTED, lambda: many(iter([request(**ask), request(**ask)]), timeout=60))
        refused(Code.UNIMPLEMENTED, lambda: many(iter([]), timeout=60))
        status, _, body = self.c.raw("POST", "/genloop.v1.Generation/Generate", b"", {"Content-Type": "application/grpc"})
        expect(status == 400 and b"HTTP/2" in body, f"gRPC over HTTP/1.1: {status} {body!r}")
        return details(error)["RequestInfo"].request_id

    def busy(self):
        """Sequences that the replica works on, as its heartbeats say."""
        members = self.g.call("Operations.Replicas").members
        return sum(m.load.running + m.load.queued for m in members)

    def free(self):
        return wait_for("the replica's slots are free", lambda: self.busy() == 0, 60, 0.1)

    def streams(self, options):
        """Twelve, and more of them until a heartbeat has seen some: a quick machine is done with a tiny model's between two."""
        calls = []

        def seen():
            for _ in range(1 if calls else 12):
                calls.append(self.g.call("Generation.GenerateStream", options, prompt=f"Story {len(calls)}", **LONG))
                next(calls[-1])
            return self.busy() > 0

        wait_for("they are being worked on", seen, 60, 0.05)
        return calls

    def cancelled(self):
        for call in self.streams({}):
            call.cancel()
        self.free()
        channel = self.g.connect()
        self.streams({"channel": channel})
        channel.close()
        self.free()
        return "12 cancelled, 12 of a connection that went: their slots are free"

    def deadlines(self):
        replica = self.p.processes()["inference-1"]["pid"]
        with stopped(replica):
            error = refused(Code.DEADLINE_EXCEEDED, lambda: self.g.call("Generation.GenerateStream", {"timeout": 0.5}, prompt="Story", **LONG))
        self.free()
        # The server keeps it by itself: a client that only sends the metadata hears the status from there.
        with stopped(replica):
            raw = refused(Code.DEADLINE_EXCEEDED, lambda: self.g.call("Generation.Generate", {"metadata": [("x-genloop-timeout-ms", "300")]}, prompt="Story", **LONG))
        self.free()
        expect(details(raw)["ErrorInfo"].reason == "DEADLINE_EXCEEDED", "the server's own word")
        # A stream that the client holds open and says nothing on.
        call, _ = self.g.method("Ingest.Upload")
        hold = threading.Event()

        def silent():
            hold.wait(120)
            yield from ()
        try:
            refused(Code.DEADLINE_EXCEEDED, lambda: call(silent(), timeout=0.5))
        finally:
            hold.set()
        return error.details()

    def slow_reader(self):
        """Who does not read slows his own stream: the replica waits for credit, and others are answered."""
        channel = self.g.connect(**{"grpc.http2.lookahead_bytes": 16384})
        slow = [self.g.call("Generation.GenerateStream", {"channel": channel, "timeout": 600}, prompt=f"S{i}", logprobs=True, top_logprobs=20, **LONG) for i in range(4)]
        for call in slow:
            next(call)
        text = self.g.call("Generation.Generate", model="production", prompt="The", max_tokens=4, temperature=0).text
        for call in slow:
            last = None
            for last in call:
                pass
            equal((last.finish_reason, last.usage.completion_tokens), ("length", 1800), "read later, it is whole")
        channel.close()
        return repr(text)

    # ---- judgements, operations ----

    def judgements(self):
        answer = self.g.call("Generation.Generate", model="production", prompt="The quiet", max_tokens=4)
        thumb = {"event": {"id": "g-1", "request_id": answer.request_id, "kind": 1, "value": 1}}
        reply = self.g.call("Feedback.Submit", **thumb)
        equal((reply.id, reply.existed), ("g-1", False), "the acknowledgement")
        call, request = self.g.method("Feedback.SubmitStream")
        summary = call(request(event={"id": f"s-{i}", "request_id": answer.request_id, "kind": 1, "value": -1}) for i in range(100))
        equal((summary.accepted, summary.existed), (100, 0), "the stream's summary")
        refused(Code.INVALID_ARGUMENT, lambda: self.g.call("Feedback.Submit", event={"id": "g-2"}))
        error = refused(Code.INVALID_ARGUMENT, lambda: call(iter([request(event={"id": "s-200", "request_id": "r", "kind": 1, "value": 1}), request(event={"id": "s-201"})])))
        found = wait_for("the judgements are in the view", lambda: {e["id"] for e in self.c.pages("/v1/feedback", "events")} >= {"g-1", "s-0", "s-99", "s-200"}, 60)
        expect(found, "arrived")
        listed = self.g.call("Feedback.List", limit=1000)
        return f"{len(listed.events)} judgements; {error.details()}"

    def operations(self):
        replicas = self.g.call("Operations.Replicas").members
        equal([m.id for m in replicas], ["inference-1"], "replicas")
        equal(self.g.call("Operations.Scale", {"timeout": 120}, service="inference", replicas=2).replicas, 2, "scaled up")
        wait_for("two replicas are known", lambda: len(self.g.call("Operations.Replicas").members) == 2, 60)
        drained = self.g.call("Operations.Drain", {"timeout": 120}, replica="inference-2")
        equal(drained.member.id, "inference-2", "drained")
        wait_for("one replica is left", lambda: len(self.g.call("Operations.Replicas").members) == 1, 60)
        refused(Code.NOT_FOUND, lambda: self.g.call("Operations.Drain", replica="inference-9"))
        refused(Code.INVALID_ARGUMENT, lambda: self.g.call("Operations.Scale", service="trainer", replicas=2))
        refused(Code.INVALID_ARGUMENT, lambda: self.g.call("Operations.Scale", service="inference", replicas=100000))
        # The same over HTTP, as `genloop scale` asks a platform that is not this home's.
        elsewhere = {**self.p.environment, "GENLOOP_HOME": os.path.join(self.p.home, "nowhere")}
        for words, want in ((["scale", "inference=2"], 2), (["drain", "inference-2"], 1)):
            done = subprocess.run([self.p.genloop, *words], env=elsewhere, capture_output=True, text=True, timeout=120)
            expect(done.returncode == 0, f"genloop {' '.join(words)} from elsewhere: {done.stderr}")
            wait_for(f"{want} replicas after it", lambda want=want: len(self.c.get("/v1/admin/replicas")["members"]) == want, 60)
        return f"{replicas[0].id}: {list(replicas[0].load.models)}"

    def without_supervisor(self):
        """A gateway that nobody supervises (as on Kubernetes) says so. The supervisor's door is put aside for a moment."""
        door = os.path.join(self.p.home, "run", "supervisor.sock")
        os.rename(door, door + ".aside")
        try:
            error = refused(Code.FAILED_PRECONDITION, lambda: self.g.call("Operations.Scale", service="inference", replicas=1))
        finally:
            os.rename(door + ".aside", door)
        return error.details()

    def health(self):
        stub = health_pb2_grpc.HealthStub(self.g.channel)
        for service in ("", "genloop.v1.Generation", "genloop.v1.Ingest", "genloop.v1.Models", "genloop.v1.Operations"):
            equal(stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=60).status, 1, f"health of {service!r}")
        refused(Code.NOT_FOUND, lambda: stub.Check(health_pb2.HealthCheckRequest(service="no.Such"), timeout=60))
        states = stub.Watch(health_pb2.HealthCheckRequest(service="no.Such"), timeout=60)
        equal(next(states).status, 3, "a watch of what there is not")
        states.cancel()
        states = stub.Watch(health_pb2.HealthCheckRequest(service="genloop.v1.Training"), timeout=120)
        equal(next(states).status, 1, "the watch's first word")
        pid = self.p.processes()["trainer"]["pid"]
        os.kill(pid, signal.SIGSTOP)  # a killed one would be back before anybody looks
        try:
            equal(next(states).status, 2, "while the trainer says nothing")
        finally:
            os.kill(pid, signal.SIGCONT)
        equal(next(states).status, 1, "when it is heard again")
        states.cancel()
        return "watched while the trainer was stopped for a moment"

    def keys(self):
        """Once there is a key, it is asked for, and its scope counts; health and reflection are open."""
        made = {"operator": self.g.call("Keys.Create", scope="operator").key}
        wait_for("a key is asked for", lambda: self.c.raw("GET", "/v1/models")[0] == 401, 60)
        refused(Code.UNAUTHENTICATED, lambda: self.g.call("Models.List"))
        refused(Code.UNAUTHENTICATED, lambda: self.g.call("Models.List", {"metadata": [("authorization", "Bearer wrong")]}))

        def key(scope):
            return {"metadata": [("authorization", f"Bearer {made[scope]}")]}
        made["client"] = self.g.call("Keys.Create", key("operator"), scope="client").key
        wait_for("the client's key is known", lambda: self.c.raw("GET", "/v1/models", headers={"Authorization": f"Bearer {made['client']}"})[0] == 200, 60)
        expect(self.g.call("Generation.Generate", key("client"), model="production", prompt="a", max_tokens=2).usage.completion_tokens > 0, "a client may generate")
        refused(Code.PERMISSION_DENIED, lambda: self.g.call("Models.List", key("client")))
        expect(self.g.call("Models.List", key("operator")).versions, "an operator may list")
        refused(Code.PERMISSION_DENIED, lambda: self.g.call("Models.Transition", key("operator"), model="m@1", transition=6, reason="no"))
        expect(self.g.reflect(list_services="").list_services_response.service, "reflection is open")
        equal(health_pb2_grpc.HealthStub(self.g.channel).Check(health_pb2.HealthCheckRequest(), timeout=60).status, 1, "health is open")
        self.operator = key("operator")
        return "client, operator"

    def drained(self):
        """Watches, which have no end of their own, end when the gateway drains, and do not hold up its end."""
        watch = self.g.call("Models.Watch", {**self.operator, "timeout": None}, name="m")
        next(watch)
        health = health_pb2_grpc.HealthStub(self.g.channel).Watch(health_pb2.HealthCheckRequest())
        next(health)
        hold = threading.Event()
        asking = self.g.ask(iter(lambda: hold.wait(120), True))
        self.p.down()
        try:
            return "; ".join(refused(Code.UNAVAILABLE, lambda stream=stream: stream).details() for stream in (watch, asking))
        finally:
            hold.set()

    def accept(self):
        if not os.path.exists(ACCEPT):
            raise Skip("../shared/accept is not here")
        done = subprocess.run([sys.executable, ACCEPT, "--url", self.p.url, "--model", "production", "--quick", "--only", ONLY], capture_output=True, text=True, timeout=600)
        lines = done.stdout.strip().splitlines()
        expect(done.returncode == 0, "; ".join(line for line in lines if line.startswith("FAIL")) or short(done.stderr, 600))
        return lines[-1]


def main():
    suite = Suite()
    if not grpc:
        suite.run("grpc", lambda: (_ for _ in ()).throw(Skip(f"{why_not}: scripts/test-python makes a Python that has it")))
        finish(suite)
    with Platform(config={"gates": EASY_GATES}) as p:
        t = Grpc(p)
        upload = suite.run("upload_of_documents_that_arrive", t.upload)
        suite.run("upload_slowed", t.upload_large)
        suite.run("upload_refused", t.upload_refused)
        model = suite.run("training_watched_to_a_released_model", t.train, needs=[upload])
        for name in ("models", "generation", "refusals", "cancelled", "deadlines", "slow_reader", "judgements", "accept", "operations", "without_supervisor", "health"):
            suite.run(name, getattr(t, name), needs=[model])
        keys = suite.run("keys", t.keys, needs=[model])
        suite.run("drained", t.drained, needs=[keys])
        t.g.channel.close()
        if suite.failed:
            p.tell_errors()
    finish(suite)


if __name__ == "__main__":
    main()
