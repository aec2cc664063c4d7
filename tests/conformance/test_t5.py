#!/usr/bin/env python3
"""`genloop run` against transformers on tiny models of the T5 family: the same greedy tokens, top logits, log-probabilities of a target and encodings; from model directories, from GGUF files
as llama.cpp's converter writes them, and from those that `genloop export --format gguf` makes, which have the converter's tensors and metadata.

    tests/conformance/test_t5.py [--genloop build/bin/genloop]

The models are made here from a seed, what transformers computes with them is in t5_reference.json (t5_models.py). The last line is `N passed, N failed, N skipped`; exit code 1
where something failed."""
import argparse
import json
import os
import struct
import subprocess
import sys
import tempfile

import t5_models

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
LOGITS_TOLERANCE = 2e-4  # of logits of about 10: f32 sums in another order
TARGET_TOLERANCE = 6e-4  # of log-probabilities down to -20, each of which has the error of all logits in it
MEAN_TOLERANCE = 1e-4  # with AMX an encoder's f32 are two of bf16, 16 bits
ROUNDED = {"F16": 0.06, "Q8_0": 0.7}  # what logits of about 10 are off where weights are rounded, and tokens are another model's


def run(genloop, folder, *more):
    p = subprocess.run([genloop, "run", "--model", folder, "--json", *more], capture_output=True, text=True)
    if p.returncode:
        raise AssertionError(p.stderr.strip())
    return json.loads(p.stdout)


def check(genloop, folder, name, want, text):
    given = ["--prompt", t5_models.TEXT] if text else ["--tokens", ",".join(map(str, want["source"]))]
    if "mean" in want:
        got = run(genloop, folder, "--task", "embed", "--pooling", "mean", "--no-normalize", *given)["embedding"]
        off = max(abs(a - b) for a, b in zip(got, want["mean"]))
        assert len(got) == len(want["mean"]) and off <= MEAN_TOLERANCE, f"the encoding is {off} off"
        return
    got = run(genloop, folder, "--max-tokens", str(t5_models.NEW), "--temperature", "0", "--top-logits", str(t5_models.TOP), *given)
    assert got["usage"]["prompt_tokens"] == len(want["source"]), f"{got['usage']} for {len(want['source'])} tokens"
    off = max(abs(a["logit"] - b[1]) for a, b in zip(got["top_logits"], want["top"]))
    assert [t["id"] for t in got["top_logits"]] == [t[0] for t in want["top"]] and off <= LOGITS_TOLERANCE, f"top logits differ, by {off}: {got['top_logits']}, {want['top']}"
    assert got["tokens"] == want["tokens"], f"tokens differ: {got['tokens']}, {want['tokens']}"
    got = run(genloop, folder, "--task", "logprobs", "--target", t5_models.TARGET, *given)["logprobs"]
    off = max(abs(a - b) for a, b in zip(got, want["target"]))
    assert len(got) == len(want["target"]) and off <= TARGET_TOLERANCE, f"{len(got)} log-probabilities of the target for {len(want['target'])}, {off} off"


def rounded(genloop, path, want, tolerance):
    given = ["--tokens", ",".join(map(str, want["source"]))]
    if "mean" in want:
        got = run(genloop, path, "--task", "embed", "--pooling", "mean", "--no-normalize", *given)["embedding"]
        off = max(abs(a - b) for a, b in zip(got, want["mean"]))
    else:
        got = run(genloop, path, "--task", "logprobs", "--target", t5_models.TARGET, *given)["logprobs"]
        off = sum(abs(a - b) for a, b in zip(got, want["target"])) / len(got)
    assert off <= tolerance, f"{off} off"


def read_gguf(path):
    """Metadata, and of each tensor type, shape and bytes. A reader of its own: the file of every one that reads GGUF."""
    with open(path, "rb") as f:
        raw = f.read()
    magic, version, tensors, values = struct.unpack_from("<4sIQQ", raw)
    assert magic == b"GGUF" and version == 3
    at = 24

    def take(form):
        nonlocal at
        got = struct.unpack_from("<" + form, raw, at)
        at += struct.calcsize("<" + form)
        return got[0]

    def string():
        nonlocal at
        n = take("Q")
        at += n
        return raw[at - n:at].decode()

    def value(kind):
        if kind == 9:
            of, n = take("I"), take("Q")
            return [value(of) for _ in range(n)]
        return string() if kind == 8 else take("BbHhIif?..Qqd"[kind])

    meta = {}
    for _ in range(values):
        key = string()
        meta[key] = value(take("I"))
    heads = []
    for _ in range(tensors):
        name, dims = string(), take("I")
        shape = [take("Q") for _ in range(dims)][::-1]
        heads.append((name, shape, take("I"), take("Q")))
    start, out = (at + 31) // 32 * 32, {}
    for name, shape, kind, offset in heads:
        n = 1
        for d in shape:
            n *= d
        out[name] = (kind, shape, raw[start + offset:start + offset + n // {0: 1, 1: 1, 8: 32}[kind] * {0: 4, 1: 2, 8: 34}[kind]])
    return meta, out


def same_file(genloop, made, wanted):
    (got, tensors), (want, others) = read_gguf(made), read_gguf(wanted)
    # n_positions is at least 2048 here; which number the file's type has, its reader does not need
    for key in set(want) - {"general.file_type", "t5.context_length", "t5encoder.context_length"}:
        assert key in got and (got[key] == want[key] or (isinstance(want[key], float) and abs(got[key] - want[key]) <= 1e-6 * abs(want[key]))), f"{key} is {got.get(key)}, not {want[key]}"
    assert set(tensors) == set(others), f"tensors {sorted(set(tensors) ^ set(others))}"
    for name in tensors:
        assert tensors[name] == others[name], f"tensor {name} is another"


def export(genloop, folder, out, *more):
    p = subprocess.run([genloop, "export", folder, "--out", out, "--format", "gguf", *more], capture_output=True, text=True)
    assert p.returncode == 0, p.stderr.strip()


def cannot_say(genloop, folder, out, says):
    p = subprocess.run([genloop, "export", folder, "--out", out, "--format", "gguf"], capture_output=True, text=True)
    assert p.returncode != 0 and says in p.stderr and not os.path.exists(out), f"{p.returncode}: {p.stderr.strip()}"


def refuses(genloop, folder, says, *more):
    p = subprocess.run([genloop, "run", "--model", folder, *more], capture_output=True, text=True)
    assert p.returncode != 0 and says in p.stderr, f"{p.returncode}: {p.stderr.strip()}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--genloop", default=os.path.join(ROOT, "build", "bin", "genloop"))
    args = parser.parse_args()
    if not os.path.exists(args.genloop):
        print(f"skip t5: {args.genloop}: not built\n0 passed, 0 failed, 1 skipped")
        return 0
    with open(t5_models.REFERENCE) as f:
        reference = json.load(f)
    passed = failed = 0

    def attempt(what, fn, *given):
        nonlocal passed, failed
        try:
            fn(args.genloop, *given)
            passed += 1
            print(f"ok {what}")
        except AssertionError as e:
            failed += 1
            print(f"FAIL {what}: {e}")

    with tempfile.TemporaryDirectory() as folder:
        for name, cases in reference.items():
            path = os.path.join(folder, name)
            t5_models.write(path, name)
            for i, want in enumerate(cases):
                attempt(f"{name} {i}", check, path, name, want, i + 1 == len(cases))
        for name in t5_models.IN_GGUF:
            path, out = os.path.join(folder, name), os.path.join(folder, name + "-exported")
            t5_models.write_gguf(path, name, path + ".gguf")
            for i, want in enumerate(reference[name]):
                attempt(f"{name}.gguf {i}", check, path + ".gguf", name, want, i + 1 == len(reference[name]))
            attempt(f"{name} exported", export, path, out)
            attempt(f"{name} exported is what the converter writes", same_file, os.path.join(out, "model.gguf"), path + ".gguf")
            attempt(f"{name} exported runs", check, os.path.join(out, "model.gguf"), name, reference[name][-1], True)
            for kind, tolerance in ROUNDED.items():
                t5_models.write_gguf(path, name, path + ".gguf", kind)
                attempt(f"{name} {kind}", rounded, path + ".gguf", reference[name][0], tolerance)
        for name, says in (("t5", "relative_attention_max_distance"), ("t5-release-5", "hidden_act")):
            attempt(f"{name} is nothing that GGUF can say", cannot_say, os.path.join(folder, name), os.path.join(folder, "none"), says)
        attempt("chat without a template", refuses, os.path.join(folder, "t5"), "chat template", "--chat", "--prompt", "hello")
        attempt("log-probabilities of the prompt", refuses, os.path.join(folder, "t5"), "log-probabilities", "--task", "logprobs", "--tokens", "5,6,1")
        attempt("generation by an encoder", refuses, os.path.join(folder, "t5-encoder"), "encoder", "--prompt", "hello")
    print(f"{passed} passed, {failed} failed, 0 skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
