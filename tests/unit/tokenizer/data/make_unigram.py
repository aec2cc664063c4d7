"""Writes unigram.jsonl: a small Unigram vocabulary, trained by Hugging Face's tokenizers (0.23.3) on this project's own pages, and the ids that it gives for random strings.

    python make_unigram.py ../../../../docs/*.md > unigram.jsonl
"""
import json
import random
import sys

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

lines = [line for path in sorted(sys.argv[1:]) for line in open(path, encoding="utf-8")]
t = Tokenizer(models.Unigram())
t.normalizer = normalizers.NFKC()
t.pre_tokenizer = pre_tokenizers.Metaspace()
t.decoder = decoders.Metaspace()
t.train_from_iterator(lines, trainers.UnigramTrainer(vocab_size=600, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False))
print(t.to_str())
r = random.Random(3)
words = sorted({w for line in lines for w in line.split()})
letters = "".join(sorted({c for line in lines for c in line})) + "äßñø中文字かな한글🙂\u0301ﬁ①　"
for i in range(400):
    kind = i % 4
    if kind == 0:
        text = " ".join(r.choice(words) for _ in range(r.randint(0, 12)))
    elif kind == 1:
        text = "".join(r.choice(letters) for _ in range(r.randint(0, 40)))
    elif kind == 2:
        text = "".join(r.choice("etaoin sr.▁") for _ in range(r.randint(0, 60)))  # many ways to cut, of nearly equal scores
    else:
        word = r.choice(words)
        text = word[r.randint(0, len(word) - 1):] + r.choice(words)[: r.randint(0, 9)] + r.choice(letters) * r.randint(0, 20)
    print(json.dumps({"text": text, "ids": t.encode(text, add_special_tokens=False).ids}, ensure_ascii=False))
