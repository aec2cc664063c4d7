#!/usr/bin/env python3
"""`genloop run` against transformers on tiny models of the T5 family: the same greedy tokens, top logits, log-probabilities of a target and encodings.

    tests/conformance/test_t5.py [--genloop build/bin/genloop]

The models are made here from a seed, what transformers computes with them is in t5_reference.json (t5_models.py). The last line is `N passed, N failed, N skipped`; exit code 1
where something failed."""
import argparse
import json
import os
import subprocess
import sys
import tempfile

import t5_models

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
LOGITS_TOLERANCE = 2e-4  # of logits of about 10: f32 sums in another order
TARGET_TOLERANCE = 6e-4  # of log-probabilities down to -20, each of which has the error of all logits in it
MEAN_TOLERANCE = 2e-5


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
        attempt("chat without a template", refuses, os.path.join(folder, "t5"), "chat template", "--chat", "--prompt", "hello")
        attempt("log-probabilities of the prompt", refuses, os.path.join(folder, "t5"), "log-probabilities", "--task", "logprobs", "--tokens", "5,6,1")
        attempt("generation by an encoder", refuses, os.path.join(folder, "t5-encoder"), "encoder", "--prompt", "hello")
    print(f"{passed} passed, {failed} failed, 0 skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
