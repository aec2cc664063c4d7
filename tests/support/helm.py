"""Helm for tests: the command `helm` where there is one, else Helm's own code as a library from Maven Central (com.marcnuri.helm-java, the jar pinned by its sum), called by ctypes.

    helm = Helm()                      # None in helm.why where it can be had, else why not
    helm.lint(chart) -> (ok, report)   # --strict
    helm.template(chart, values="") -> YAML of every manifest; HelmError where it refuses"""
import ctypes
import hashlib
import os
import platform
import re
import shutil
import subprocess
import tempfile
import zipfile

ARTIFACT = "com.marcnuri.helm-java:linux-amd64:0.0.15:jar"
SHA256 = "5b6f76fba94569b91e1870dfa0081712c7522520cc204c3debb7f74d8622572f"
CACHE = os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "genloop", "helm")


class HelmError(Exception):
    pass


class _Result(ctypes.Structure):
    _fields_ = [(n, ctypes.c_void_p) for n in ("out", "err", "std_out", "std_err")]


class _LintOptions(ctypes.Structure):
    _fields_ = [("path", ctypes.c_char_p), ("strict", ctypes.c_int), ("quiet", ctypes.c_int)]


class _TemplateOptions(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("version", ctypes.c_char_p), ("chart", ctypes.c_char_p), ("namespace", ctypes.c_char_p), ("dependency_update", ctypes.c_int),
                ("values", ctypes.c_char_p), ("values_files", ctypes.c_char_p), ("cert_file", ctypes.c_char_p), ("key_file", ctypes.c_char_p), ("ca_file", ctypes.c_char_p),
                ("insecure", ctypes.c_int), ("plain_http", ctypes.c_int), ("keyring", ctypes.c_char_p), ("debug", ctypes.c_int), ("repository_config", ctypes.c_char_p)]


def _fetch():
    """The library's path; HelmError where it cannot be had."""
    if platform.machine() != "x86_64":
        raise HelmError(f"there is no helm on PATH, and the library is for x86_64, not {platform.machine()}")
    library = os.path.join(CACHE, SHA256[:16], "helm-linux-amd64.so")
    if os.path.exists(library):
        return library
    if not shutil.which("mvn"):
        raise HelmError("neither helm nor mvn is installed (Debian: maven)")
    os.makedirs(CACHE, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as new:
        done = subprocess.run(["mvn", "-q", "-B", "-ntp", "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy", f"-Dartifact={ARTIFACT}", f"-DoutputDirectory={new}"],
                              capture_output=True, text=True, timeout=600)
        jars = [n for n in os.listdir(new) if n.endswith(".jar")]
        if done.returncode or not jars:
            raise HelmError(f"Maven Central does not give {ARTIFACT}: {done.stdout[-300:]}")
        jar = os.path.join(new, jars[0])
        with open(jar, "rb") as f:
            found = hashlib.sha256(f.read()).hexdigest()
        if found != SHA256:
            raise AssertionError(f"{ARTIFACT} has the sum {found}, not the pinned {SHA256}")
        os.makedirs(os.path.dirname(library), exist_ok=True)
        with zipfile.ZipFile(jar) as z:
            z.extract("helm-linux-amd64.so", new)
        os.replace(os.path.join(new, "helm-linux-amd64.so"), library)
    return library


class Helm:
    def __init__(self):
        self.program, self.library, self.why = shutil.which("helm"), None, None
        if self.program:
            return
        try:
            self.library = ctypes.CDLL(_fetch())
        except HelmError as why:
            self.why = str(why)
            return
        self.library.Lint.restype = self.library.Template.restype = _Result
        self.library.Lint.argtypes, self.library.Template.argtypes = [ctypes.POINTER(_LintOptions)], [ctypes.POINTER(_TemplateOptions)]

    def _texts(self, result):  # the strings are the library's to leak: a handful in the life of a test
        return [ctypes.string_at(getattr(result, n)).decode() if getattr(result, n) else "" for n in ("out", "err", "std_err")]

    def lint(self, chart):
        if self.program:
            done = subprocess.run([self.program, "lint", "--strict", chart], capture_output=True, text=True, timeout=120)
            return done.returncode == 0, done.stdout + done.stderr
        out, err, _ = self._texts(self.library.Lint(_LintOptions(os.fsencode(chart), 1, 0)))
        return not err and "Failed: true" not in out, out + err

    def template(self, chart, values="", name="genloop", namespace="genloop"):
        """values: YAML of what differs from the chart's own."""
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as f:
            f.write(values or "{}\n")
            f.flush()
            if self.program:
                done = subprocess.run([self.program, "template", name, chart, "--namespace", namespace, "-f", f.name], capture_output=True, text=True, timeout=120)
                if done.returncode:
                    raise HelmError(done.stderr)
                return done.stdout
            with tempfile.TemporaryDirectory() as copy:
                chart = shutil.copytree(chart, os.path.join(copy, "chart"))
                with open(os.path.join(chart, "Chart.yaml"), encoding="utf-8") as c:
                    lines = [line for line in c if not line.startswith("kubeVersion:")]  # the library takes itself for Kubernetes 1.20 and cannot be told otherwise
                with open(os.path.join(chart, "Chart.yaml"), "w", encoding="utf-8") as c:
                    c.writelines(lines)
                for folder, _, names in os.walk(os.path.join(chart, "templates")):
                    for path in (os.path.join(folder, n) for n in names):
                        with open(path, encoding="utf-8") as c:
                            text = c.read()
                        with open(path, "w", encoding="utf-8") as c:
                            c.write(re.sub(r"\(lookup [^()]*\)", "(dict)", text))  # nor that there is no cluster to ask, as helm's own template does without one
                options = _TemplateOptions(name=name.encode(), chart=os.fsencode(chart), namespace=namespace.encode(), values_files=os.fsencode(f.name))
                out, err, _ = self._texts(self.library.Template(options))
            if err:
                raise HelmError(err)
            return out
