"""A platform in a temporary home, by the real binaries: $GENLOOP_BIN, or build/bin. Standard library only.

    with Platform(config={"gates": {...}}) as p:
        p.client.get("/v1/models")

What a test leaves running is ended with it; the home goes, unless the test failed and $KEEP_HOME is set."""
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from client import Client, Refused, retriable, wait_for  # noqa: E402,F401
from suite import Skip, Suite, equal, expect, finish, short  # noqa: E402,F401

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BIN = os.path.abspath(os.environ.get("GENLOOP_BIN") or os.path.join(ROOT, "build", "bin"))
SERVICES = ("gateway", "ingest", "trainer", "inference", "feedback")

# Gates as the tests of everything else need them: of a model of a hundred steps nothing is asked but that it was measured. With `empty_max` 1 and so on each still gives its verdict.
EASY_GATES = {"first_bits_per_byte_max": 8, "first_repetition_max": 1, "first_distinct_3_min": 0, "documents_min": 1, "samples_min": 1, "documents": 4, "prompts": 4, "sample_tokens": 8,
              "empty_max": 1, "perplexity_ratio_max": 100, "mean_length_ratio_min": 0, "mean_length_ratio_max": 100, "repetition_rise_max": 1, "empty_rise_max": 1, "distinct_3_ratio_min": 0}


def binary(name):
    path = os.path.join(BIN, name)
    if not os.access(path, os.X_OK):
        raise SystemExit(f"{path} is not built: ninja -C build, or set GENLOOP_BIN")
    return path


told_ports = set()


def free_port():
    """Below the ports that the system gives to whoever asks for any: while the gateway is down nobody gets its port by chance. No port is told twice, and each is free at every address."""
    for _ in range(200):
        port = random.randrange(20000, 32000)
        if port in told_ports:
            continue
        with socket.socket() as s:
            try:
                s.bind(("0.0.0.0", port))
                told_ports.add(port)
                return port
            except OSError:
                pass
    raise AssertionError("no port is free between 20000 and 32000")


def clean_environment(home):
    """Ours without what another platform's user may have set."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("GENLOOP_")}
    return {**kept, "GENLOOP_HOME": home}


def yaml(config, listen):
    """The configuration of a home: {section: {key: value}}."""
    config = {**config, "gateway": {"listen": listen, **config.get("gateway", {})}}
    lines = []
    for section, keys in config.items():
        if isinstance(keys, dict):
            lines += [f"{section}:"] + [f"  {k}: {json.dumps(v)}" for k, v in keys.items()]
        else:
            lines.append(f"{section}: {json.dumps(keys)}")
    return "\n".join(lines) + "\n"


class Platform:
    """`genloop up --detach` in a home of its own. config: sections of genloop.yaml; replicas: of inference."""

    def __init__(self, config=None, replicas=1, home=None, port=None, environment=None):
        self.genloop = binary("genloop")
        for service in SERVICES:
            binary(f"genloop-{service}")
        self.own_home = home is None
        self.home = home or tempfile.mkdtemp(prefix="genloop-home-", dir=os.environ.get("TEST_TMP"))
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.environment = {**clean_environment(self.home), "GENLOOP_URL": self.url, **(environment or {})}
        self.client = Client(self.url)
        self.replicas = replicas
        os.makedirs(self.home, exist_ok=True)
        with open(os.path.join(self.home, "genloop.yaml"), "w", encoding="utf-8") as f:
            f.write(yaml(config or {}, f"127.0.0.1:{self.port}"))
        if replicas != 1:
            with open(os.path.join(self.home, "supervisor.json"), "w", encoding="utf-8") as f:
                f.write(json.dumps({"format": 1, "inference": replicas}) + "\n")

    def __enter__(self):
        try:
            self.up()
        except BaseException:
            self.close(failed=True)
            raise
        return self

    def __exit__(self, kind, *_):
        self.close(failed=kind is not None)

    # ---- the command ----

    def run(self, *words, timeout=120, stdin=None, check=True):
        """`genloop WORDS`: what it printed. AssertionError where it fails."""
        done = subprocess.run([self.genloop, *words], env=self.environment, cwd=self.home, capture_output=True, text=True, timeout=timeout, input=stdin or "")
        if check:
            expect(done.returncode == 0, f"genloop {' '.join(words)} exits with {done.returncode}: {short(done.stderr, 600)}")
            return done.stdout
        return done

    def json(self, *words, **more):
        return json.loads(self.run(*words, "--json", **more))

    def up(self):
        self.json("up", "--detach", "--home", self.home)

    def down(self):
        self.run("down", "--home", self.home)

    def close(self, failed=False):
        done = self.run("down", "--home", self.home, check=False)
        if done.returncode != 0:
            self.kill_all()
        broken = self.broken()
        if failed or broken:
            self.tell_errors()
        if self.own_home and not (failed and os.environ.get("KEEP_HOME")):
            shutil.rmtree(self.home, ignore_errors=True)
        expect(failed or not broken, f"{len(broken)} reports of a sanitizer or of a broken invariant, the first: {short(broken[0], 400) if broken else ''}")

    def broken(self):
        """Lines of the logs that no test may leave behind, whatever it asked for."""
        folder, found = os.path.join(self.home, "logs"), []
        for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
            with open(os.path.join(folder, name), encoding="utf-8", errors="replace") as f:
                found += [f"{name}: {line}" for line in f if "Sanitizer" in line or "runtime error:" in line or "assertion" in line.lower()]
        return found

    def tell_errors(self, lines=15):
        """What the services complained of, on stderr."""
        folder = os.path.join(self.home, "logs")
        for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
            with open(os.path.join(folder, name), encoding="utf-8", errors="replace") as f:
                bad = [line for line in f if '"event":"redis"' not in line and ('"level":"error"' in line or '"level":"warn"' in line or "Sanitizer" in line or "ASSERT" in line)]
            for line in bad[-lines:]:
                print(f"  {name}: {short(line, 300)}", file=sys.stderr)

    # ---- processes ----

    def platform(self):
        """What the supervisor says: the answer to {"do":"status"} at its door."""
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(20)
            s.connect(os.path.join(self.home, "run", "supervisor.sock"))
            s.sendall(b'{"do":"status"}\n')
            with s.makefile("rb") as f:
                return json.loads(f.readline())

    def processes(self):
        return {p["name"]: p for p in self.platform()["processes"]}

    def pids(self):
        """Every process of this home, by what is in its environment or command line: also of a supervisor that is gone."""
        mark, found = f"GENLOOP_HOME={self.home}".encode(), []
        for entry in os.listdir("/proc"):
            if not entry.isdigit() or int(entry) == os.getpid():
                continue
            try:
                with open(f"/proc/{entry}/environ", "rb") as f:
                    if mark in f.read().split(b"\0") and os.path.basename(os.readlink(f"/proc/{entry}/exe")).startswith(("genloop", "redis-")):
                        found.append(int(entry))
            except OSError:
                pass
        return found

    def kill_all(self):
        for _ in range(100):
            pids = self.pids()
            if not pids:
                return
            for pid in pids:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            time.sleep(0.05)

    def kill(self, name):
        """SIGKILL to a process of the platform, by the supervisor's name of it; its pid, or None where it does not run just now."""
        process = self.processes().get(name)
        if not process or not process["pid"]:
            return None
        try:
            os.kill(process["pid"], signal.SIGKILL)
        except ProcessLookupError:
            return None
        return process["pid"]

    def wait_ready(self, name, not_pid=None, patience_s=30):
        """Seconds until it is ready, in another process than not_pid."""
        begun = time.monotonic()

        def look():
            p = self.processes().get(name)
            return p and p["state"] == "ready" and p["pid"] and p["pid"] != not_pid
        wait_for(f"{name} is ready", look, patience_s, 0.01)
        return time.monotonic() - begun

    # ---- what many tests do ----

    def tiny_recipe(self, steps=100, **more):
        recipe = {"objective": "pretrain",
                  "model": {"architecture": "llama", "layers": 2, "width": 64, "heads": 2, "kv_heads": 2, "context": 256, "vocab": 512, "tie_embeddings": True},
                  "batch": {"sequences": 4, "length": 64}, "optimizer": {"lr": 3.0e-3}, "steps": steps, "seed": 7, "checkpoint": {"every": 20, "keep": 2}}
        recipe.update(more)
        return "\n".join(f"{k}: {json.dumps(v)}" for k, v in recipe.items()) + "\n"

    def build(self, dataset, vocab=512, build_id=None, patience_s=120, **more):
        """A version of a dataset from what was uploaded: its record."""
        body = {"vocab": vocab, "build_id": build_id or f"build-{dataset}", "held_out": 0.2, **more}
        end = self.client.until(lambda: self.client.post(f"/v1/datasets/{dataset}/versions", body, timeout=patience_s), patience_s)
        equal(end["version"]["state"], "DATASET_STATE_READY", f"dataset {dataset}")
        return end["version"]

    def train(self, model, dataset, steps=100, job_id=None, patience_s=180, recipe=None, **more):
        """A training job from its creation to its end."""
        body = {"id": job_id or f"job-{model}", "model": model, "recipe": recipe or self.tiny_recipe(steps), **({"dataset": dataset} if dataset else {}), **more}
        job = self.client.until(lambda: self.client.post("/v1/admin/jobs", body))
        return self.job_end(job["id"], patience_s)

    def job_end(self, job_id, patience_s=180):
        def ended():
            job = self.client.until(lambda: self.client.get(f"/v1/admin/jobs/{job_id}"))
            return job if job["state"] in ("JOB_STATE_SUCCEEDED", "JOB_STATE_FAILED", "JOB_STATE_CANCELLED") else None
        job = wait_for(f"job {job_id} ends", ended, patience_s, 0.2)
        expect(job["state"] == "JOB_STATE_SUCCEEDED", f"job {job_id}: {job['state']}, {job.get('failure')}")
        return job

    def version(self, full):
        try:
            return self.client.until(lambda: self.client.get(f"/v1/admin/models/{full}"))
        except Refused as why:
            if why.status == 404:
                return None
            raise

    def wait_state(self, full, state, patience_s=120):
        """The registry's record of a version, once it is in one of these states (EVALUATED …)."""
        wanted = {f"MODEL_STATE_{s}" for s in state.split("|")}

        def look():
            detail = self.version(full)
            return detail if detail and detail["version"]["state"] in wanted else None
        return wait_for(f"{full} is {state}", look, patience_s, 0.1)

    def move(self, full, verb, **more):
        """approve, reject, canary, promote, rollback, retire: acknowledged."""
        body = {"reason": f"test: {verb}", "id": f"{verb}-{full}", **more}
        return self.client.until(lambda: self.client.post(f"/v1/admin/models/{full}/{verb}", body))

    def release(self, full, patience_s=120):
        """From candidate to production, and until a replica answers with it."""
        detail = self.wait_state(full, "EVALUATED|REJECTED", patience_s)
        equal(detail["version"]["state"], "MODEL_STATE_EVALUATED", f"{full} after its gates: {detail.get('evaluations')}")
        self.move(full, "approve")
        self.move(full, "promote")
        self.wait_serving(full)

    def wait_serving(self, full, patience_s=60):
        def answers():
            try:
                return self.client.post("/v1/completions", {"model": full, "prompt": "a", "max_tokens": 1})
            except Exception as why:
                if not retriable(why) and not (isinstance(why, Refused) and why.status == 404):
                    raise
                return None
        wait_for(f"a replica serves {full}", answers, patience_s, 0.05)

    def model_files(self, full, out):
        """The directory of a version, out of the store."""
        sha256 = self.version(full)["version"]["directory"]["sha256"]
        manifest = json.loads(self.object(sha256))
        for name, ref in manifest["files"].items():
            path = os.path.join(out, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb") as f:
                f.write(self.object(ref["sha256"]))
        return manifest["files"]

    def object(self, sha256):
        """An object of the store, whole."""
        path = os.path.join(self.home, "store", "objects", sha256[:2], sha256[2:])
        expect(os.path.exists(path), f"object {sha256} is not in the store")
        with open(path, "rb") as f:
            return f.read()


def corpus(count, seed=1, sentences=12):
    """Documents of English-like prose, each its own: [(name, text)]. Enough of it to be taken for prose by ingest."""
    rng = random.Random(seed)
    nouns = "river mountain teacher garden engine letter winter market island painter bridge harbour forest village doctor kitchen window captain library planet".split()
    verbs = "finds follows remembers builds crosses describes carries repairs visits watches paints explains measures protects opens".split()
    places = "in the early morning,near the old station,behind the northern wall,under a clear sky,after the long rain,before the evening meal,at the edge of the town".split(",")
    adjectives = "quiet bright careful ancient narrow gentle distant curious heavy simple".split()

    def sentence():
        return (f"The {rng.choice(adjectives)} {rng.choice(nouns)} {rng.choice(verbs)} the {rng.choice(adjectives)} {rng.choice(nouns)} {rng.choice(places)}, "
                f"and it {rng.choice(verbs)} what the {rng.choice(nouns)} had left there.")
    return [(f"story-{seed}-{i}.txt", f"Story number {i} of series {seed}.\n\n" + "\n\n".join(" ".join(sentence() for _ in range(4)) for _ in range(sentences // 4)) + "\n")
            for i in range(count)]


def test_python(*modules):
    """Goes on in $TEST_PYTHON, or in the Python that scripts/test-python has made, where this one lacks a module."""
    import importlib.util
    if all(importlib.util.find_spec(m) for m in modules) or os.environ.get("TEST_PYTHON_TRIED"):
        return
    candidates = [os.environ.get("TEST_PYTHON"), os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "genloop-test", "python", "bin", "python3")]
    for python in candidates:
        if python and os.access(python, os.X_OK):
            os.execve(python, [python, os.path.abspath(sys.argv[0]), *sys.argv[1:]], {**os.environ, "TEST_PYTHON_TRIED": "1"})
