"""tiktoken beside bench_tokenizer, in one run: MB/s of one thread's CPU time, the ratio, and whether the ids are equal.

    python bench/tiktoken.py TOKENIZER.json FILE... [--bench build/bench/bench_tokenizer]

Needs `pip install tiktoken`; the vocabulary and the expression are the tokenizer.json's (byte-level BPE with one Split, as cl100k, o200k and their like have it).
"""
import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time

sys.path = sys.path[1:]  # this folder has a file of the package's name
import tiktoken  # noqa: E402


def bytes_of_characters():
    """GPT-2's alphabet."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in plain]
    return {chr(b): b for b in plain} | {chr(256 + i): b for i, b in enumerate(others)}


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("tokenizer")
parser.add_argument("files", nargs="+")
parser.add_argument("--bench", default="build/bench/bench_tokenizer")
a = parser.parse_args()
with open(a.tokenizer, encoding="utf-8") as f:
    whole = json.load(f)
alphabet = bytes_of_characters()
ranks = {bytes(alphabet[c] for c in token): i for token, i in whole["model"]["vocab"].items() if all(c in alphabet for c in token)}
pattern = next(p["pattern"]["Regex"] for p in whole["pre_tokenizer"]["pretokenizers"] if p["type"] == "Split")
encoding = tiktoken.Encoding(name="published", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
text = b"".join(open(path, "rb").read() for path in a.files)
best = None
for _ in range(3):
    begin = time.thread_time()
    theirs = encoding.encode_ordinary(text.decode())
    took = time.thread_time() - begin
    best = took if best is None else min(best, took)
with tempfile.TemporaryDirectory() as folder:
    path = os.path.join(folder, "ids")
    said = subprocess.run([a.bench, *a.files, "--tokenizer", a.tokenizer, "--ids", path], check=True, stdout=subprocess.PIPE, text=True).stdout
    with open(path, encoding="ascii") as f:
        ours = [int(line) for line in f]
speed = float(re.search(r"encoding +([0-9.]+) MB/s", said).group(1))
peer = len(text) / 1e6 / best
print(said, end="")
print(f"tiktoken        {peer:8.1f} MB/s; ours is {speed / peer:.1f} times as fast, ids {'equal' if ours == theirs else 'NOT EQUAL'} ({len(theirs)})")
sys.exit(ours != theirs)
