#!/usr/bin/env python3
"""Our tokenizer against Hugging Face's `tokenizers`: training gives the same vocabulary and merges, and every kind of
pre-tokenizer that is built gives the same ids and the same text back, on text that is hard on purpose.

    tests/conformance/test_tokenizer.py [--genloop build/bin/genloop] [--bench build/bench/bench_tokenizer] [TOKENIZER.json ...]

Needs the Python package `tokenizers`; where that or a binary is missing it says what it skips. The last line is
`N passed, N failed, N skipped`; exit code 1 where something failed."""
import argparse
import json
import os
import random
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from testbed import test_python  # noqa: E402

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
HEAD = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
count = {"passed": 0, "failed": 0, "skipped": 0}


def note(kind, name, detail=""):
    count[kind] += 1
    word = {"passed": "ok", "failed": "FAIL", "skipped": "skip"}[kind]
    print(f"{word:4} {name}{': ' + detail if detail else ''}")


def corpus():
    """Our own sources and documents: prose, code, some other scripts."""
    texts = []
    for folder, _, files in sorted(os.walk(ROOT)):
        if any(part.startswith((".git", "build")) for part in folder.split(os.sep)):
            continue
        for name in sorted(files):
            if name.endswith((".c", ".h", ".md", ".py", ".cmake")):
                with open(os.path.join(folder, name), encoding="utf-8", errors="replace", newline="") as f:
                    texts.append(f.read())
    texts.append("naïve café 北京市 東京都 Привет мир שלום עולם مرحبا हिन्दी 한국어 😀👩‍👩‍👧‍👦 ½ Ⅷ ١٢٣ " * 50)
    return texts


def hard_texts(texts, n=400):
    """Fixed cases, slices of the corpus at random places, and random characters that the patterns care about."""
    fixed = ["", " ", "  ", "\n", "\r\n", "\t\t x", "a  b   c    d", "it's IT'S they'LL I'Ve '\u017f 'S", "1234567890 12 3", "x=1;\n\n  y=2 \n \n",
             "e\u0301 \u00e9 A\u030a \u1100\u1161\u11a8 \ufb01", "\u00a0\u2003\u3000\u0085\u2028x", "<|im_start|>user\nhi<|im_end|>\n<|endoftext|>", "<|im_start", "\u0000\u0001\u007f",
             "def f(x):\n    return x**2  # cube?\n", "😀😀 👩‍👩‍👧‍👦 🇩🇪", "ab" * 2000, " " * 3000, "-" * 500, "\n" * 100 + "x", "a\u0300\u0316\u0301b"]
    r = random.Random(1)
    alphabet = list(" \n\r\t''slLdtmvre19.,<|>_-") + ["\u00a0", "\u0085", "é", "\u0301", "\u017f", "\u3000", "中", "😀", "½", "١", "ß", "Ω", "\u200d", "\u2028", "ǅ", "ʰ", "\u0903", "$", "\u00ad"]
    for _ in range(n):
        t = r.choice(texts)
        at = r.randrange(max(1, len(t)))
        fixed.append(t[at:at + r.randrange(1, 600)])
        fixed.append("".join(r.choice(alphabet) for _ in range(r.randrange(1, 60))))
        # any assigned character now and then
        fixed.append("".join(chr(r.choice([r.randrange(32, 0x250), r.randrange(0x250, 0xD800), r.randrange(0xE000, 0xFFFE), r.randrange(0x10000, 0x1FB00)])) for _ in range(8)))
    return fixed


def lines(command, rows):
    p = subprocess.run(command, input="".join(json.dumps(row) + "\n" for row in rows).encode(), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if p.returncode:
        raise RuntimeError(p.stderr.decode(errors="replace").strip()[-400:] or f"exit code {p.returncode}")
    return [json.loads(x) for x in p.stdout.splitlines()]


def compare(name, genloop, path, hf, texts):
    try:
        ours = [row.get("ids") for row in lines([genloop, "tokenize", "--model", path], [{"text": t} for t in texts])]
        theirs = [hf.encode(t).ids for t in texts]
        bad = [i for i in range(len(texts)) if ours[i] != theirs[i]]
        back = [row.get("text") for row in lines([genloop, "tokenize", "--model", path, "--decode"], [{"ids": ids} for ids in theirs])]
        lost = [i for i in range(len(texts)) if back[i] != hf.decode(theirs[i], skip_special_tokens=False)]
    except (RuntimeError, OSError, IndexError, ValueError) as e:
        return note("failed", name, str(e))
    for i in bad[:3]:
        print("    ids ", ascii(texts[i])[:120], theirs[i][:16], (ours[i] or [])[:16])
    for i in lost[:3]:
        print("    text", ascii(texts[i])[:120])
    note("failed" if bad or lost else "passed", name, f"{len(texts)} texts, {len(bad)} with other ids, {len(lost)} with other text")


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--genloop", default=os.path.join(ROOT, "build/bin/genloop"))
    a.add_argument("--bench", default=os.path.join(ROOT, "build/bench/bench_tokenizer"))
    a.add_argument("tokenizers", nargs="*")
    args = a.parse_args()
    test_python("tokenizers")
    try:
        from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    except ImportError:
        note("skipped", "everything", "the Python package `tokenizers` is not installed")
        print("0 passed, 0 failed, 1 skipped")
        return 0
    texts = corpus()
    hard = hard_texts(texts)
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)

    def split(regex):
        return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(regex), "isolated"), byte_level])

    kinds = {
        "gpt2": (None, pre_tokenizers.ByteLevel(add_prefix_space=False)),
        "gpt2 with a space before": (None, pre_tokenizers.ByteLevel(add_prefix_space=True)),
        "llama3": (None, split(HEAD + r"\p{N}{1,3}" + TAIL)),
        "qwen2": (normalizers.NFC(), split(HEAD + r"\p{N}" + TAIL)),
        "smollm": (None, pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])),
    }
    with tempfile.TemporaryDirectory() as folder:
        have = os.access(args.genloop, os.X_OK)
        for kind, (normalizer, pre) in kinds.items():
            hf = Tokenizer(models.BPE())
            if normalizer:
                hf.normalizer = normalizer
            hf.pre_tokenizer = pre
            hf.decoder = decoders.ByteLevel()
            hf.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=3000, min_frequency=2, special_tokens=SPECIALS, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                                                              show_progress=False))
            path = os.path.join(folder, kind.replace(" ", "_") + ".json")
            hf.save(path)
            if have:
                compare("encode and decode: " + kind, args.genloop, path, hf, hard)
            else:
                note("skipped", "encode and decode: " + kind, args.genloop + " is not built")
        if os.access(args.bench, os.X_OK):
            # bench_tokenizer cuts its input into documents of 16 KiB: give the reference the same
            data = "".join(texts).encode()
            with open(os.path.join(folder, "corpus.txt"), "wb") as f:
                f.write(data)
            documents, at = [], 0
            while at < len(data):
                end = min(at + 16384, len(data))
                while end < len(data) and data[end] & 0xC0 == 0x80:
                    end -= 1
                documents.append(data[at:end].decode())
                at = end
            hf = Tokenizer(models.BPE())
            hf.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
            hf.train_from_iterator(documents, trainers.BpeTrainer(vocab_size=3000, min_frequency=2, special_tokens=SPECIALS,
                                                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
            theirs = json.loads(hf.to_str())["model"]
            path = os.path.join(folder, "ours.json")
            p = subprocess.run([args.bench, os.path.join(folder, "corpus.txt"), "--vocab", "3000", "--out", path], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            if p.returncode:
                note("failed", "training", p.stderr.decode(errors="replace").strip())
            else:
                with open(path, encoding="utf-8") as f:
                    ours = json.load(f)["model"]
                pairs = [[tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in x["merges"]] for x in (ours, theirs)]
                same = pairs[0] == pairs[1] and ours["vocab"] == theirs["vocab"]
                note("passed" if same else "failed", "training", f"{len(pairs[0])} merges" + ("" if same else f", {len(pairs[1])} wanted"))
                if have:
                    compare("a tokenizer that we trained, loaded by theirs", args.genloop, path, Tokenizer.from_file(path), hard)
        else:
            note("skipped", "training", args.bench + " is not built")
        for path in args.tokenizers:
            compare(path, args.genloop, path, Tokenizer.from_file(path), hard)
    print(f"{count['passed']} passed, {count['failed']} failed, {count['skipped']} skipped")
    return 1 if count["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
