#!/usr/bin/env python3
"""What an idle platform costs: resident memory of the five services without a model, the time from exec to ready, the size of the programs.

    tests/integration/test_footprint.py [--runs 5]

Memory is the sum of the services' resident sets (VmRSS: pages that they share are counted in each, so it is the larger figure; the proportional sum is printed beside it), the two
Redis servers apart. Ready is from the fork in this program to the first /readyz that says so, both Redis servers running; times are printed and not asserted."""
import argparse
import http.client
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from testbed import BIN, SERVICES, Platform, Suite, binary, clean_environment, expect, finish, free_port, wait_for  # noqa: E402
from wire import Redis  # noqa: E402

MEMORY_MAX, BINARIES_MAX = 80 << 20, 15 << 20
SANITIZED = "san" in os.path.basename(os.path.dirname(BIN))  # their shadow memory is not ours


def resident(pid):
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as f:
        fields = dict(line.split()[:2] for line in f if line.startswith(("Rss:", "Pss:")))
    return int(fields["Rss:"]) << 10, int(fields["Pss:"]) << 10


def mib(n):
    return f"{n / (1 << 20):.1f} MiB"


def memory():
    with Platform() as p:
        time.sleep(5)  # the peers have met, heartbeats go, what a start needs is given back
        of = {name: resident(x["pid"]) for name, x in p.processes().items()}
        supervisor = resident(p.platform()["pid"])
    services = {n: m for n, m in of.items() if n not in ("log", "cache")}
    expect(len(services) == 5, f"services: {sorted(services)}")
    rss, pss = sum(m[0] for m in services.values()), sum(m[1] for m in services.values())
    said = f"{mib(rss)} resident ({mib(pss)} proportional): " + ", ".join(f"{n} {mib(m[0])}" for n, m in sorted(services.items())) + \
           f"; beside them log {mib(of['log'][0])}, cache {mib(of['cache'][0])}, supervisor {mib(supervisor[0])}"
    expect(SANITIZED or rss <= MEMORY_MAX, said + f"; the bound is {mib(MEMORY_MAX)}")
    return said


class ByHand:
    """The two servers, and services one at a time, as a supervisor starts them."""

    def __init__(self):
        self.home = tempfile.mkdtemp(prefix="genloop-home-")
        os.makedirs(os.path.join(self.home, "run"))
        os.makedirs(os.path.join(self.home, "log"))
        common = ["--port", "0", "--save", "", "--daemonize", "no"]
        self.children = [self._start(["redis-server", *common, "--appendonly", "yes", "--appendfsync", "always", "--maxmemory-policy", "noeviction", "--dir", f"{self.home}/log",
                                      "--unixsocket", f"{self.home}/run/log.sock"]),
                         self._start(["redis-server", *common, "--dir", f"{self.home}/run", "--unixsocket", f"{self.home}/run/cache.sock"])]
        for name in ("log", "cache"):
            wait_for(f"the {name}'s server answers", lambda: self._answers(name), 10, 0.01)

    def _answers(self, name):
        try:
            with Redis(f"{self.home}/run/{name}.sock") as r:
                return r("PING") == "PONG"
        except OSError:
            return False

    def _start(self, words, **environment):
        return subprocess.Popen(words, env={**clean_environment(self.home), **environment}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def ready_ms(self, service):
        """From fork to the first 200 of /readyz, and how much CPU the process had of it (which a busy machine does not change); then it is stopped again."""
        port = free_port()
        begun = time.monotonic()
        child = self._start([binary(f"genloop-{service}")], GENLOOP_ADMIN=f"127.0.0.1:{port}", GENLOOP_GATEWAY_LISTEN=f"127.0.0.1:{free_port()}")
        try:
            wait_for(f"{service} is ready", lambda: self._ready(port, child), 30, 0.001)
            took_ms = (time.monotonic() - begun) * 1000
            nanoseconds = 0
            for task in os.listdir(f"/proc/{child.pid}/task"):
                with open(f"/proc/{child.pid}/task/{task}/schedstat", encoding="ascii") as f:
                    nanoseconds += int(f.read().split()[0])
            return took_ms, nanoseconds / 1e6
        finally:
            child.send_signal(signal.SIGTERM)
            child.wait(40)

    @staticmethod
    def _ready(port, child):
        expect(child.poll() is None, f"it ended with code {child.returncode}")
        try:
            c = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            c.request("GET", "/readyz")
            return c.getresponse().status == 200
        except OSError:
            return False
        finally:
            c.close()

    def close(self):
        for child in self.children:
            child.terminate()
            child.wait(20)
        shutil.rmtree(self.home, ignore_errors=True)


def ready(runs):
    hand = ByHand()
    try:
        hand.ready_ms("feedback")  # makes the registry's key, which the others look for
        times = {service: [hand.ready_ms(service) for _ in range(runs)] for service in SERVICES}
    finally:
        hand.close()
    return f"medians of {runs}, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs: " + \
           ", ".join(f"{s} {statistics.median(a for a, _ in t):.0f} ms (quickest {min(t)[0]:.0f}, CPU {statistics.median(b for _, b in t):.0f})" for s, t in times.items())


def binaries():
    sizes = {n: os.path.getsize(os.path.join(BIN, n)) for n in ("genloop", *(f"genloop-{s}" for s in SERVICES))}
    said = f"{mib(sum(sizes.values()))} in all: " + ", ".join(f"{n.removeprefix('genloop-')} {mib(b)}" for n, b in sizes.items())
    expect(SANITIZED or sum(sizes.values()) <= BINARIES_MAX, said + f"; the bound is {mib(BINARIES_MAX)}")
    return said


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    suite = Suite()
    suite.run("idle_memory", memory)
    suite.run("ready_after_exec", ready, arguments.runs)
    suite.run("size_of_the_programs", binaries)
    finish(suite)


if __name__ == "__main__":
    main()
