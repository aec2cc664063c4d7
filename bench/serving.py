#!/usr/bin/env python3
"""The whole platform (gateway, bus, a replica) under streaming clients, and llama.cpp's server beside it in the same run.

    bench/serving.py MODEL.gguf [--llama-server PATH] [--clients 16] [--rounds 2] [--prompt-tokens 128] [--gen-tokens 32] [--threads 2] [--long 2000] [--prefix 1000] [--speculation off|lookup] [--only load,stall,prefix,overhead] [--json]

Uses build/bin and build/tests/release_model, or $GENLOOP_BIN. Prompts are ids, so that both compute the same; answers are streamed to their end. Prints, of each:
    load      clients that ask without a pause: tokens/s, time to the first token, time between tokens
    stall     the time between the tokens of four streams, alone and while a prompt of --long tokens arrives
    prefix    the first token of a prompt of --prefix tokens: cold, and again while the request that computed it still streams
    overhead  what the platform adds to a token: the time between the tokens of a model that computes next to nothing
The peer's server runs with as many slots as there are clients and takes its turn alone."""
import argparse
import asyncio
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tests", "support"))
from testbed import EASY_GATES, Platform, binary, corpus, free_port, wait_for  # noqa: E402

MODEL = "raced"


class Server:
    """Where requests go: a port, the path, and the body of a stream of `tokens` tokens behind the ids `prompt`."""

    def __init__(self, name, port, path, body, tiny=None):
        self.name, self.port, self.path, self.body, self.tiny = name, port, path, body, tiny

    async def stream(self, prompt, tokens, started=None):
        """[when each piece came], the first entry when the request was sent. started: an event that is set at the first piece."""
        body = json.dumps(self.body(prompt, tokens)).encode()
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 22)
        times = [time.perf_counter()]
        writer.write(f"POST {self.path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Type: application/json\r\nCache-Control: no-cache\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        status = await reader.readline()
        if b" 200 " not in status:
            raise RuntimeError(f"{self.name}: {status!r} {await reader.read(2000)!r}")
        while line := await reader.readline():
            if not line.startswith(b"data: "):
                continue
            if line.startswith(b"data: [DONE]") or b'"stop":true' in line:
                break
            times.append(time.perf_counter())
            if started and len(times) == 2:
                started.set()
        writer.close()
        if len(times) < 2:
            raise RuntimeError(f"{self.name}: a stream without a piece")
        return times


def at(values, share):
    values = sorted(values)
    return values[min(len(values) - 1, int(share * len(values)))] if values else float("nan")


def gaps(streams):
    return [(b - a) * 1e3 for times in streams for a, b in zip(times[1:], times[2:])]


class Race:
    def __init__(self, arguments):
        self.a, self.random = arguments, random.Random(1)

    def prompt(self, n):
        return [self.random.randrange(300, 3500) for _ in range(n)]

    async def load(self, server):
        streams = []

        async def client():
            for _ in range(self.a.rounds):
                streams.append(await server.stream(self.prompt(self.a.prompt_tokens), self.a.gen_tokens))
        begun = time.perf_counter()
        await asyncio.gather(*(client() for _ in range(self.a.clients)))
        seconds, first = time.perf_counter() - begun, [(t[1] - t[0]) * 1e3 for t in streams]
        return {"tokens_per_s": self.a.clients * self.a.rounds * self.a.gen_tokens / seconds, "ttft_p50_ms": at(first, 0.5), "ttft_p99_ms": at(first, 0.99),
                "between_p50_ms": at(gaps(streams), 0.5), "between_p99_ms": at(gaps(streams), 0.99)}

    async def stall(self, server):
        started = [asyncio.Event() for _ in range(4)]
        running = [asyncio.ensure_future(server.stream(self.prompt(32), self.a.stall_tokens, e)) for e in started]
        for e in started:
            await e.wait()
        await asyncio.sleep(0.5)
        arrives = time.perf_counter()
        long = await server.stream(self.prompt(self.a.long), 2)
        streams = await asyncio.gather(*running)
        beside = [(b - a) * 1e3 for t in streams for a, b in zip(t[1:], t[2:]) if b > arrives and a < long[1]]
        alone = [(b - a) * 1e3 for t in streams for a, b in zip(t[1:], t[2:]) if b <= arrives]
        return {"alone_p50_ms": at(alone, 0.5), "beside_p50_ms": at(beside, 0.5), "beside_p99_ms": at(beside, 0.99), "gaps": len(beside), "long_ttft_ms": (long[1] - long[0]) * 1e3}

    async def prefix(self, server):
        shared, started = self.prompt(self.a.prefix), asyncio.Event()
        first = asyncio.ensure_future(server.stream(shared, 200, started))
        await started.wait()
        again = await server.stream(shared + self.prompt(4), 2)
        cold = await first
        cold_ms, again_ms = (cold[1] - cold[0]) * 1e3, (again[1] - again[0]) * 1e3
        return {"cold_ms": cold_ms, "again_ms": again_ms, "share": again_ms / cold_ms}

    async def overhead(self, server):
        """Of ours alone, and of a model that computes next to nothing: what is left between two tokens is the platform's."""
        if not server.tiny:
            return None
        tiny = Server(server.name, server.port, server.path, lambda prompt, n: {**server.body(prompt, n), "model": server.tiny})
        streams = [await tiny.stream([20 + i], 400) for i in range(10)]
        spans = [(t[-1] - t[1]) / 399 * 1e6 for t in streams]
        return {"per_token_us": at(spans, 0.5), "worst_stream_us": max(spans)}

    def race(self, server):
        results = {}
        asyncio.run(server.stream(self.prompt(16), 8))  # warm
        for what in self.a.only:
            results[what] = asyncio.run(getattr(self, what)(server))
            if results[what] and not self.a.json:
                print(f"{server.name:10} {what:9} " + "  ".join(f"{k} {v:.3g}" if k == "share" else f"{k} {v:.1f}" for k, v in results[what].items()), flush=True)
        return results

    def ours(self):
        with tempfile.TemporaryDirectory() as folder, Platform(config={"inference": {"threads": self.a.threads, "speculation": self.a.speculation}, "gates": EASY_GATES}) as p:
            shutil.copy(self.a.model, os.path.join(folder, "model.gguf"))
            subprocess.run([os.path.join(os.path.dirname(os.path.dirname(binary("genloop"))), "tests", "release_model"), p.home, folder, MODEL], check=True)
            wait_for("the replica serves the model", lambda: p.client.raw("POST", "/v1/completions", {"model": MODEL, "prompt": [500], "max_tokens": 1})[0] == 200, 120, 0.2)
            if "overhead" in self.a.only:
                for name, body in corpus(40):
                    p.client.upload("tiny", name, body.encode())
                shape = {"architecture": "llama", "layers": 1, "width": 32, "heads": 1, "kv_heads": 1, "context": 512, "vocab": 512, "tie_embeddings": True}
                p.train("tiny", f"tiny@{p.build('tiny')['version']}", recipe=p.tiny_recipe(20, model=shape))
                p.release("tiny@1")
            return self.race(Server("genloop", p.port, "/v1/completions",
                                    lambda prompt, n: {"model": MODEL, "prompt": prompt, "max_tokens": n, "stream": True, "ignore_eos": True, "temperature": 0}, "tiny"))

    def peer(self):
        port, slots = free_port(), self.a.clients
        context = max(slots * (self.a.prompt_tokens + self.a.gen_tokens + 16), 5 * (self.a.long + 64), 2 * (self.a.prefix + 256)) + 64 * slots
        with subprocess.Popen([self.a.llama_server, "-m", self.a.model, "--port", str(port), "-t", str(self.a.threads), "-tb", str(self.a.threads), "-np", str(slots), "-c", str(max(context, slots * 2100)), "-cb",
                               "--no-webui"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            try:
                server = Server("llama.cpp", port, "/completion", lambda prompt, n: {"prompt": prompt, "n_predict": n, "stream": True, "ignore_eos": True, "temperature": 0, "cache_prompt": True})

                def answers():
                    try:
                        asyncio.run(server.stream([500], 2))
                        return True
                    except (OSError, RuntimeError):
                        return False
                wait_for("llama-server answers", answers, 120, 0.3)
                return self.race(server)
            finally:
                process.terminate()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--llama-server")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--gen-tokens", type=int, default=32)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--long", type=int, default=2000)
    parser.add_argument("--stall-tokens", type=int, default=600)
    parser.add_argument("--prefix", type=int, default=1000)
    parser.add_argument("--speculation", default="off", help="random weights repeat themselves, which lookup guesses better than any text [off]")
    parser.add_argument("--only", type=lambda s: s.split(","), default=["load", "stall", "prefix", "overhead"])
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    race = Race(arguments)
    results = {"genloop": race.ours()}
    if arguments.llama_server:
        results["llama.cpp"] = race.peer()
        if "load" in arguments.only and not arguments.json:
            ours, theirs = results["genloop"]["load"], results["llama.cpp"]["load"]
            print(f"ratio      load      tokens_per_s {ours['tokens_per_s'] / theirs['tokens_per_s']:.2f}  ttft_p50 {ours['ttft_p50_ms'] / theirs['ttft_p50_ms']:.2f}  ttft_p99 {ours['ttft_p99_ms'] / theirs['ttft_p99_ms']:.2f}")
    if arguments.json:
        print(json.dumps(results))


if __name__ == "__main__":
    main()
