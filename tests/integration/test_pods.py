#!/usr/bin/env python3
"""The services as separate pods would run them: two of each, each with a home of its own, on TCP with the bus key and the registry's key given from outside, a Redis over TCP for membership and one
for the log, the store and keys/ in a directory that all see. One of each dies or drains, and nothing that was accepted is lost.

    tests/integration/test_pods.py [--kafka]   uses build/bin or $GENLOOP_BIN; about 40 s. --kafka: the topics on a broker of tests/support/kafka"""
import ctypes
import fcntl
import http.client
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from testbed import EASY_GATES, ROOT, SERVICES, Platform, Suite, binary, clean_environment, corpus, equal, expect, finish, free_port, retriable, short, wait_for, yaml  # noqa: E402
from client import Client  # noqa: E402


def dies_with_us():
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def http_status(address, path):
    host, port = address.rsplit(":", 1)
    connection = http.client.HTTPConnection(host, int(port), timeout=10)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except OSError:
        return None
    finally:
        connection.close()


class Pod:
    """One instance, configured as the chart configures it: one file for all, what differs in the environment, secrets in files."""

    def __init__(self, cluster, service, index):
        self.cluster, self.service, self.name = cluster, service, f"genloop-{service}-{index}"
        self.home = os.path.join(cluster.dir, "pods", self.name)
        os.makedirs(self.home)
        for shared in ("store", "keys"):  # what the chart mounts of its claim
            os.symlink(os.path.join(cluster.dir, "claim", shared), os.path.join(self.home, shared))
        self.admin, self.bus, self.port = free_port(), free_port(), free_port()
        self.address = f"127.0.0.1:{self.admin}"
        self.process = self.socket = None

    def start(self):
        c = self.cluster
        environment = {**clean_environment(self.home), "GENLOOP_INSTANCE": self.name, "GENLOOP_ADVERTISE": "127.0.0.1", "GENLOOP_BUS": f"tcp://0.0.0.0:{self.bus}",
                       "GENLOOP_ADMIN": f"0.0.0.0:{self.admin}", "GENLOOP_BUS_KEY_FILE": c.secret("bus-key")}
        if self.service == "feedback":
            environment["GENLOOP_FEEDBACK_REGISTRY_KEY_FILE"] = c.secret("registry-key")
        if self.service == "gateway":
            environment["GENLOOP_GATEWAY_LISTEN"] = "systemd:gateway" if self.socket else f"0.0.0.0:{self.port}"
        command = [binary(f"genloop-{self.service}"), "--config", c.config]
        if self.socket:  # as systemd passes one: descriptor 3, and whom it is meant for
            fd = self.socket.fileno()
            command = ["bash", "-c", f'export LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=gateway; exec "$@" 3<&{fd}', "sh", *command]
        self.log = os.path.join(self.home, "log.jsonl")
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(command, env=environment, stderr=log, cwd=self.home, preexec_fn=dies_with_us, pass_fds=[self.socket.fileno()] if self.socket else [])
        return self

    def client(self):
        client = Client(f"http://127.0.0.1:{self.port}")
        client.headers = {"Authorization": f"Bearer {self.cluster.key}"}
        return client

    def ready(self):
        expect(self.process.poll() is None, f"{self.name} ended with {self.process.poll()}: {short(self.tail(), 600)}")
        return http_status(self.address, "/readyz") == 200

    def tail(self):
        with open(self.log, encoding="utf-8", errors="replace") as f:
            return "".join(f.readlines()[-5:])

    def kill(self):
        self.process.kill()
        self.process.wait()

    def terminate(self, patience_s=60):
        self.process.terminate()
        return self.process.wait(patience_s)


class Cluster:
    def __init__(self, log=None):
        self.dir = tempfile.mkdtemp(prefix="genloop-pods-", dir=os.environ.get("TEST_TMP"))
        for folder in ("claim/store", "claim/keys", "secrets", "pods", "redis"):
            os.makedirs(os.path.join(self.dir, folder))
        os.chmod(os.path.join(self.dir, "claim/keys"), 0o700)
        self.processes = []
        cache, topics = free_port(), free_port()
        self.redis(cache, "--save", "")
        if not log:
            self.redis(topics, "--save", "", "--appendonly", "yes", "--appendfsync", "always", "--maxmemory-policy", "noeviction", "--dir", os.path.join(self.dir, "redis"))
        for name in ("bus-key", "registry-key"):
            with open(self.secret(name), "w", encoding="utf-8") as f:
                f.write(secrets.token_hex(32) + "\n")
        self.config = os.path.join(self.dir, "genloop.yaml")
        with open(self.config, "w", encoding="utf-8") as f:
            f.write(yaml({"log": log or f"redis://127.0.0.1:{topics}", "redis": f"redis://127.0.0.1:{cache}", "drain_ms": "20s", "inference": {"threads": 1}, "gates": EASY_GATES}, "127.0.0.1:1"))
        self.key = ""
        self.pods = {f"{service}-{i}": Pod(self, service, i) for i in (0, 1) for service in SERVICES}

    def secret(self, name):
        return os.path.join(self.dir, "secrets", name)

    def redis(self, port, *words):
        self.processes.append(subprocess.Popen(["redis-server", "--port", str(port), "--bind", "127.0.0.1", *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, preexec_fn=dies_with_us))

        def answers():
            try:
                with socket.create_connection(("127.0.0.1", port), 5) as s:
                    s.sendall(b"PING\r\n")
                    return s.recv(16).startswith(b"+PONG")
            except OSError:
                return False
        wait_for("redis-server answers", answers)

    def close(self, tell=False):
        for pod in self.pods.values():
            if tell and pod.process:
                print(f"  {pod.name}: {short(pod.tail(), 900)}", file=sys.stderr)
            if pod.process and pod.process.poll() is None:
                pod.kill()
        for process in self.processes:
            process.kill()
            process.wait()
        if not (tell and os.environ.get("KEEP_HOME")):
            shutil.rmtree(self.dir, ignore_errors=True)


class Service:
    """The name before both gateways, as kube-proxy balances: a connection goes to one that is ready, another where that refuses."""

    def __init__(self, cluster):
        self.pods = [cluster.pods[f"gateway-{i}"] for i in (0, 1)]
        self.turn = 0

    def client(self):
        self.turn += 1
        for i in (0, 1):
            pod = self.pods[(self.turn + i) % 2]
            if http_status(f"127.0.0.1:{pod.port}", "/readyz") == 200:
                return pod.client()
        raise ConnectionRefusedError("no gateway is ready")


class Thread(Platform):
    """What the testbed knows to do, at whichever gateway is ready."""

    def __init__(self, cluster):  # no home, no supervisor: those parts of Platform are not used
        self.cluster, self.service = cluster, Service(cluster)
        self.home = os.path.join(cluster.dir, "claim")

    @property
    def client(self):
        return wait_for("a gateway is ready", lambda: self.attempt(), 60)

    def attempt(self):
        try:
            return self.service.client()
        except ConnectionRefusedError:
            return None

    # ---- checks ----

    def all_ready(self):
        for pod in self.cluster.pods.values():
            pod.start()
        for pod in self.cluster.pods.values():
            wait_for(f"{pod.name} is ready", pod.ready, 90, 0.1)
            equal(http_status(pod.address, "/livez"), 200, f"/livez of {pod.name} at 0.0.0.0")
            expect(not os.path.exists(os.path.join(pod.home, "keys", "bus.key")), "a bus key was made although one was given")
        keys = sorted(os.listdir(os.path.join(self.cluster.dir, "claim", "keys")))
        expect("registry.pub" in keys and "registry.key" not in keys, f"keys/ of the claim: {keys}")
        return f"ten instances, ten homes; on the claim: {', '.join(keys)}"

    def first_key(self):
        """Beyond loopback the gateway asks for a key always; the first one is made in a gateway's own pod, as `kubectl exec` does it."""
        pod = self.service.pods[0]
        status, _, body = pod.client().raw("GET", "/v1/models")
        equal(status, 401, f"without a key ({body[:200]!r})")
        words = [binary("genloop"), "keys", "create", "--scope", "approver", "--home", pod.home, "--json"]

        def make():  # in the first moments the gateway may not know yet which instance holds the registry: 503, again
            done = subprocess.run(words, capture_output=True, text=True, timeout=60, env={**clean_environment(pod.home), "GENLOOP_URL": f"http://127.0.0.1:{pod.port}"})
            expect(done.returncode == 0 or "holds the registry" in done.stderr, f"genloop keys create: {short(done.stderr)}")
            return json.loads(done.stdout) if done.returncode == 0 else None
        made = wait_for("a first key is made", make, 90, 0.5)
        self.cluster.key = made["key"]
        for pod in self.service.pods:
            wait_for(f"the key holds at {pod.name}", lambda p=pod: p.client().raw("GET", "/v1/models")[0] == 200, 60, 0.2)
        return "made through the door in the pod's home, good at both gateways"

    def find_each_other(self):
        """Both gateways know both of everything, at the addresses that are advertised."""
        def known():
            found = []
            for pod in self.service.pods:
                status = pod.client().get("/v1/admin/status")
                members = {m["id"]: m["admin"] for m in status["services"]}
                found.append(all(members.get(p.name) == p.address for p in self.cluster.pods.values() if p.service != "gateway"))
            return all(found)
        wait_for("both gateways know every instance", known, 60, 0.2)
        return "at 127.0.0.1 and not at 0.0.0.0"

    def model(self):
        for name, body in corpus(60):
            self.client.until(lambda b=body, n=name: self.client.upload("pods", n, b.encode()))
        wait_for("the documents are cleaned", lambda: [d for d in self.client.pages("/v1/documents?dataset=pods", "documents") if d["state"] == "DOCUMENT_STATE_ACCEPTED"][59:], 60, 0.2)
        dataset = self.build("pods")
        self.train("pods", f"pods@{dataset['version']}", steps=60)
        self.release("pods@1")
        for pod in self.service.pods:
            wait_for(f"{pod.name} has a replica", lambda p=pod: self.complete(p.client()), 60, 0.2)
        return f"{dataset['tokens']} tokens, pods@1 in production at both gateways"

    def complete(self, client, tokens=4):
        try:
            return client.post("/v1/completions", {"model": "production", "prompt": "The quiet river", "max_tokens": tokens, "temperature": 0})
        except Exception as why:
            if not retriable(why):
                raise
            return None

    def judged(self):
        answer = self.client.post("/v1/completions", {"model": "production", "prompt": "The quiet river", "max_tokens": 4, "temperature": 0})
        reply = self.client.post("/v1/feedback", {"id": "pod-thumb", "request_id": answer["id"], "kind": "thumb", "value": 1})
        equal(reply["id"], "pod-thumb", "the acknowledgement")
        for pod in self.service.pods:
            wait_for("the thumb is seen through each gateway", lambda p=pod: "pod-thumb" in {e["id"] for e in p.client().get("/v1/feedback").get("events") or []}, 60, 0.2)
        return "judged at one gateway, seen at both"

    def replica_drains(self):
        """SIGTERM to a replica under streams, as a rolling update does it: no request fails, and it leaves within its grace."""
        stop, failed, done = threading.Event(), [], [0]

        def stream(seed):
            while not stop.is_set():
                try:
                    pieces = list(self.service.client().events("/v1/completions", {"model": "production", "prompt": "The quiet river", "max_tokens": 24, "seed": seed, "stream": True}))
                    expect(pieces[-1] == "[DONE]", f"a stream ends with {pieces[-1:]}")
                    done[0] += 1
                except Exception as why:
                    failed.append(f"{type(why).__name__}: {why}")
                    return
        threads = [threading.Thread(target=stream, args=(i,)) for i in range(4)]
        for t in threads:
            t.start()
        wait_for("streams end well", lambda: failed or done[0] >= 8, 60)
        pod = self.cluster.pods["inference-0"]
        code = pod.terminate()
        before = done[0]
        wait_for("streams go on at the other", lambda: failed or done[0] >= before + 8, 60)
        pod.start()
        wait_for(f"{pod.name} is back", pod.ready, 60, 0.1)
        stop.set()
        for t in threads:
            t.join()
        expect(not failed, f"{len(failed)} requests failed: {failed[:2]}")
        equal(code, 0, "exit code of the drained replica")
        return f"{done[0]} streams, none failed; exit code 0"

    def gateway_drains(self):
        """A gateway on SIGTERM: not ready at once, the stream that is open ends whole, then it leaves."""
        pod = self.service.pods[0]
        stream = pod.client().events("/v1/completions", {"model": "production", "prompt": "The quiet river", "max_tokens": 200, "ignore_eos": True, "stream": True})
        first = next(stream)
        pod.process.terminate()
        rest = list(stream)
        expect(first and rest[-1] == "[DONE]", f"the stream that was open ends with {rest[-1:]}")
        equal(pod.process.wait(60), 0, "exit code of the gateway")
        expect(self.complete(self.client), "the other gateway answers")
        pod.start()
        wait_for(f"{pod.name} is back", pod.ready, 60, 0.1)
        return f"{len(rest)} more events, then exit code 0"

    def behind_a_socket(self):
        """A gateway whose port systemd holds: it is started anew under requests, and none is refused."""
        pod = self.service.pods[1]
        equal(pod.terminate(), 0, "exit code of the gateway")
        with socket.create_server(("127.0.0.1", pod.port), backlog=128) as s:
            pod.socket = socket.socket(fileno=fcntl.fcntl(s.fileno(), fcntl.F_DUPFD, 20))  # not 3 itself
        stop, failed, done = threading.Event(), [], [0]

        def ask():
            while not stop.is_set():
                try:
                    pod.client().post("/v1/completions", {"model": "production", "prompt": "The quiet river", "max_tokens": 2})
                    done[0] += 1
                except Exception as why:
                    if not (isinstance(why, Exception) and getattr(why, "status", None) == 503):  # it has just started, and knows no replica yet: an answer, which says so
                        failed.append(f"{type(why).__name__}: {why}")
                        return
        threads = [threading.Thread(target=ask) for _ in range(3)]
        for t in threads:
            t.start()  # nobody accepts yet: they wait in the socket
        for _ in range(3):
            pod.start()
            wait_for(f"{pod.name} is ready", pod.ready, 60, 0.1)
            before = done[0]
            wait_for("requests are answered", lambda: failed or done[0] > before + 5, 60)
            equal(pod.terminate(), 0, "exit code of the gateway")
        pod.start()
        wait_for(f"{pod.name} is ready", pod.ready, 60, 0.1)
        before = done[0]
        wait_for("requests are answered", lambda: failed or done[0] > before + 5, 60)
        stop.set()
        for t in threads:
            t.join()
        expect(not failed, f"{len(failed)} requests failed: {failed[:2]}")
        return f"{done[0]} requests over four lives, none refused"

    def one_of_each_dies(self):
        """kill -9 of one of each; the other takes over: documents, decisions, jobs and answers go on."""
        for service in ("ingest", "trainer", "inference", "feedback", "gateway"):
            self.cluster.pods[f"{service}-0"].kill()
        name, body = corpus(1, seed=31)[0]
        document = self.client.until(lambda: self.client.upload("pods", name, body.encode()))
        accepted = wait_for("a document is accepted by the other ingest",
                            lambda: [d for d in self.client.until(lambda: self.client.pages("/v1/documents?dataset=pods", "documents")) if d["id"] == document["document_id"] and d["state"] == "DOCUMENT_STATE_ACCEPTED"], 60, 0.2)
        self.train("pods", "pods@1", steps=20, job_id="job-two")
        self.wait_state("pods@2", "EVALUATED|REJECTED")
        wait_for("the other replica answers", lambda: self.complete(self.client), 60, 0.2)
        for service in SERVICES:
            self.cluster.pods[f"{service}-0"].start()
        for service in SERVICES:
            pod = self.cluster.pods[f"{service}-0"]
            wait_for(f"{pod.name} is back", pod.ready, 60, 0.1)
        return f"{accepted[0]['id'][:12]}… accepted, pods@2 trained and {self.version('pods@2')['version']['state']}"

    def stranger(self):
        """An instance with another bus key is nobody's peer, although it reaches the same Redis."""
        pod = Pod(self.cluster, "ingest", 7)
        mine = self.cluster.secret
        with open(mine("other-key"), "w", encoding="utf-8") as f:
            f.write(secrets.token_hex(32) + "\n")
        self.cluster.secret = lambda n: mine("other-key" if n == "bus-key" else n)
        try:
            pod.start()
        finally:
            self.cluster.secret = mine
        self.cluster.pods["stranger"] = pod
        wait_for("the stranger is ready", pod.ready, 60, 0.1)
        time.sleep(3)  # three rounds of the membership: time enough to be taken in, if it were
        ids = {m["id"] for m in self.client.get("/v1/admin/status")["services"]}
        expect(pod.name not in ids and "genloop-ingest-0" in ids, f"members: {sorted(ids)}")
        return "not among the members"

    def leave(self):
        for pod in self.cluster.pods.values():
            pod.process.terminate()
        codes = {pod.name: pod.process.wait(60) for pod in self.cluster.pods.values()}
        equal(set(codes.values()), {0}, f"exit codes {codes}")
        return "all exit with 0"


def main():
    suite = Suite()
    log, broker = None, None
    if "--kafka" in sys.argv:
        folder = tempfile.mkdtemp(prefix="genloop-kafka-", dir=os.environ.get("TEST_TMP"))
        broker = (os.path.join(ROOT, "tests", "support", "kafka"), folder)
        log = subprocess.run([broker[0], "up", folder], stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    cluster = Cluster(log)
    t = Thread(cluster)
    try:
        up = suite.run("two_of_each", t.all_ready)
        key = suite.run("the_first_key", t.first_key, needs=[up])
        found = suite.run("they_find_each_other", t.find_each_other, needs=[key])
        model = suite.run("a_model_from_documents", t.model, needs=[found])
        suite.run("a_judgement", t.judged, needs=[model])
        suite.run("a_replica_drains_under_streams", t.replica_drains, needs=[model])
        suite.run("a_gateway_drains", t.gateway_drains, needs=[model])
        suite.run("a_gateway_behind_a_socket", t.behind_a_socket, needs=[model])
        suite.run("one_of_each_dies", t.one_of_each_dies, needs=[model])
        suite.run("another_key_is_nobody", t.stranger, needs=[key])
        suite.run("all_leave", t.leave, needs=[up])
    finally:
        cluster.close(tell=bool(suite.failed))
        if broker:
            subprocess.run([broker[0], "down", broker[1]], check=False)
            shutil.rmtree(broker[1], ignore_errors=True)
    finish(suite)


if __name__ == "__main__":
    main()
