#!/usr/bin/env python3
"""Writes kinds.jsonl beside itself: small tokenizers of every kind with what Hugging Face's `tokenizers` makes of hard texts. A line is
{"name", "tokenizer", "rows": [{"text", "pair"?, "ids", "types"?, "plain", "decoded", "skipped"}]}: ids with and without specials, text with and without.

usage: make_kinds.py            (needs the Python package tokenizers)"""
import json
import os
import random

from tokenizers import Tokenizer

HERE = os.path.dirname(os.path.abspath(__file__))
BAR = "\u2581"
WORDS = "the quick brown fox jumps over lazy dog hello world naïve café don't can't stop . , ! ? 12 345 2024 a b c ab abc Hello World THE".split()
TEXTS = ["", " ", "   ", "a", "hello world", " hello  world ", "Hello, World! The quick brown fox.", "don't can't 'stop' do not . , !", "naïve café NAÏVE e\u0301 \u00c5 A\u030a \ufb01 ½ Ⅷ",
         "北京 東京a 京 ｶﾞ 한국어", "a\tb\nc\r\nd\u00a0e\u2003f\u3000g\u200bh", "x=12+345;y[0]", "😀 👍🏽 a😀b 👩‍👩‍👧", "\u0000\u0001a\u007f\u0085b\ufffdc\ufeffd\u00ad", "İSTANBUL ſ ß ΣΑΣ", f"a{BAR}b {BAR} {BAR}{BAR}c",
         "<x>", "a<x>b", " <x> ", "<y> a <y>", "a<m> b", "the fox<s>the</s> fox", "[MASK] a [MASK]b", "ab abc abcabc aabb", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "  a  b   c    d", "#a ##b # #", "a-b_c/d.e,f", "I'M I'm it'LL",
         "١٢٣ 123٤", "zq zqx qqz", "a b\u0300\u0316 c\u0316\u0300", "मानक हिन्दी", "<0x41> <0xE4>", "foo bar.baz(qux)\n\n\n  end", "ÀÉÎÕÜ àéîõü"]


def alphabet():
    keep = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    out, n = {}, 0
    for b in range(256):
        if b in keep:
            out[b] = chr(b)
        else:
            out[b] = chr(256 + n)
            n += 1
    return out


def bytes_model():
    return {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
            "ignore_merges": False, "vocab": {c: b for b, c in alphabet().items()}, "merges": []}


BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}


def added(*rows):
    return [{"id": i, "content": c, "single_word": "w" in f, "lstrip": "l" in f, "rstrip": "r" in f, "normalized": "n" in f, "special": "s" in f} for i, c, f in rows]


def whole(model, normalizer=None, pre=None, post=None, decoder=None, tokens=()):
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": list(tokens), "normalizer": normalizer, "pre_tokenizer": pre, "post_processor": post, "decoder": decoder, "model": model}


def by_normalizer(n, tokens=()):
    return whole(bytes_model(), n, BYTES, None, {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}, tokens)


def pieces_model(extra=()):
    """WordLevel would need every piece: a BPE over characters whose pieces show by a suffix on the last one."""
    chars = sorted({c for t in TEXTS for c in t} | {BAR})
    vocab = {"[UNK]": 0}
    for c in chars:
        vocab.setdefault(c, len(vocab))
    for c in chars:
        vocab.setdefault(c + "|", len(vocab))
    for e in extra:
        vocab.setdefault(e, len(vocab))
    return {"type": "BPE", "dropout": None, "unk_token": "[UNK]", "continuing_subword_prefix": None, "end_of_word_suffix": "|", "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
            "vocab": vocab, "merges": [["a", "b|"], ["a", "b"], ["ab", "c|"]] if extra else []}


def by_pre(p):
    return whole(pieces_model(["ab|", "ab", "abc|"]), None, p, None, {"type": "BPEDecoder", "suffix": "|"})


def learned(words, prefix="##"):
    vocab = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4}
    for w in words:
        vocab.setdefault(w, len(vocab))
        for k in range(1, len(w)):
            vocab.setdefault(prefix + w[k:][:2], len(vocab))
    for c in "abcdefghijklmnopqrstuvwxyz0123456789.,!?'-_/()[]{}#;:=+<>":
        vocab.setdefault(c, len(vocab))
        vocab.setdefault(prefix + c, len(vocab))
    return vocab


def metaspace_vocab():
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2}
    for b in range(256):
        vocab[f"<0x{b:02X}>"] = len(vocab)
    for c in BAR + "abcdefghijklmnopqrstuvwxyz.,!'":
        vocab.setdefault(c, len(vocab))
    merges = []
    for w in ["the", "hello", "world", "fox", "ab", "abc", "quick"]:
        for word in (w, BAR + w):
            for k in range(2, len(word) + 1):
                if word[:k] not in vocab:
                    vocab[word[:k]] = len(vocab)
                    merges.append([word[:k - 1], word[k - 1]])
    for k in range(2, 5):
        vocab[BAR * k] = len(vocab)
        merges.append([BAR * (k - 1), BAR])
    return vocab, merges


def spm(normalizer, pre, strip=True, **more):
    vocab, merges = metaspace_vocab()
    model = {"type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": True, "ignore_merges": False,
             "vocab": vocab, "merges": merges}
    model.update(more)
    decoders = [{"type": "Replace", "pattern": {"String": BAR}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}]
    if strip:
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    post = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "<s>", "type_id": 1}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}}
    return whole(model, normalizer, pre, post, {"type": "Sequence", "decoders": decoders}, added((0, "<unk>", "s"), (1, "<s>", "s"), (2, "</s>", "s")))


def unigram(pre, fallback=False, decoder=None, normalizer=None):
    r = random.Random(5)
    vocab = [["<unk>", 0.0], ["<s>", 0.0], ["</s>", 0.0]]
    if fallback:
        vocab += [[f"<0x{b:02X}>", 0.0] for b in range(256)]
    for p in [BAR, *"abcdefghijklmnopqrstuvwxyz.,!'", "he", "llo", "hello", BAR + "hello", BAR + "wor", "ld", BAR + "the", "th", "e", BAR + "fox", "qu", "ick", BAR + "qu", "ab", "abc", "bc", BAR + "a", "aa", "aaa", "京", "😀"]:
        vocab.append([p, -round(2 + 8 * r.random(), 6)])
    post = {"type": "RobertaProcessing", "sep": ["</s>", 2], "cls": ["<s>", 1], "trim_offsets": True, "add_prefix_space": True}
    return whole({"type": "Unigram", "unk_id": 0, "vocab": vocab, "byte_fallback": fallback}, normalizer, pre, post, decoder, added((1, "<s>", "s"), (2, "</s>", "s")))


META = {"type": "Metaspace", "replacement": BAR, "prepend_scheme": "always", "split": True}
REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": BAR}


def split(pattern, behavior, invert=False):
    return {"type": "Split", "pattern": pattern, "behavior": behavior, "invert": invert}


def tokenizers():
    for form in ("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "Nmt"):
        yield "normalizer " + form, by_normalizer({"type": form})
    yield "normalizer NFD without accents, lower case", by_normalizer({"type": "Sequence", "normalizers": [{"type": "NFD"}, {"type": "StripAccents"}, {"type": "Lowercase"}]})
    yield "normalizer Strip", by_normalizer({"type": "Strip", "strip_left": True, "strip_right": True})
    yield "normalizer Strip right", by_normalizer({"type": "Strip", "strip_left": False, "strip_right": True})
    yield "normalizer Replace by a regex", by_normalizer({"type": "Replace", "pattern": {"Regex": r"\s+|[0-9]{2}"}, "content": "<->"})
    yield "normalizer Prepend", by_normalizer({"type": "Prepend", "prepend": "<<"})
    for clean, chinese, accents, lower in ((True, True, None, True), (True, True, None, False), (False, True, False, True), (True, False, True, False), (False, False, None, False)):
        yield f"normalizer Bert {clean} {chinese} {accents} {lower}", by_normalizer({"type": "BertNormalizer", "clean_text": clean, "handle_chinese_chars": chinese, "strip_accents": accents, "lowercase": lower})
    yield "added tokens", by_normalizer({"type": "Lowercase"}, added((256, "<x>", "s"), (257, "<y>", "lr"), (258, "fox", "w"), (259, "<m>", "lsn"), (260, "Hello", "n"), (261, "ab", "wn")))
    for name in ("BertPreTokenizer", "Whitespace", "WhitespaceSplit"):
        yield "pre-tokenizer " + name, by_pre({"type": name})
    for behavior in ("Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"):
        yield "pre-tokenizer Punctuation " + behavior, by_pre({"type": "Punctuation", "behavior": behavior})
        for invert in (False, True):
            yield f"pre-tokenizer Split {behavior}{' inverted' * invert}", by_pre(split({"String": " "}, behavior, invert))
            yield f"pre-tokenizer Split by a regex {behavior}{' inverted' * invert}", by_pre(split({"Regex": r"[a-c]|\d+|\s"}, behavior, invert))
    for one in (False, True):
        yield f"pre-tokenizer Digits {one}", by_pre({"type": "Digits", "individual_digits": one})
    yield "pre-tokenizer CharDelimiterSplit", by_pre({"type": "CharDelimiterSplit", "delimiter": "a"})
    for scheme in ("always", "first", "never"):
        for cut in (True, False):
            yield f"pre-tokenizer Metaspace {scheme} {cut}", by_pre({"type": "Metaspace", "replacement": BAR, "prepend_scheme": scheme, "split": cut})
    yield "pre-tokenizer Sequence", by_pre({"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, META, {"type": "Digits", "individual_digits": True}, {"type": "Punctuation", "behavior": "Isolated"}]})
    for regex in (r"\w+|[^\w\s]+", r"(?i:THE|hello)|\S", r"\p{Lu}\p{Ll}*|\p{Han}+", r"(?<=a)b|c(?=\s|$)", r"[^\s\p{L}\p{N}]+|^\s", r"\h+|[[:alpha:]]+"):
        yield "pre-tokenizer regex " + regex, by_pre(split({"Regex": regex}, "Isolated"))
    yield "alphabet before digits", whole(bytes_model(), None, {"type": "Sequence", "pretokenizers": [BYTES, {"type": "Digits", "individual_digits": True}]}, None, {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True})
    yield "space before each piece", whole(bytes_model(), None, {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": False}, {"type": "ByteLevel", "add_prefix_space": True, "use_regex": True, "trim_offsets": True}]}, None, {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True})
    cls = {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]}
    specials = added((0, "[PAD]", "s"), (1, "[UNK]", "s"), (2, "[CLS]", "s"), (3, "[SEP]", "s"), (4, "[MASK]", "sl"))
    for clean in (True, False):
        yield f"WordPiece cleanup {clean}", whole({"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 30, "vocab": learned(WORDS)},
                                                  {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": True}, {"type": "BertPreTokenizer"}, cls,
                                                  {"type": "WordPiece", "prefix": "##", "cleanup": clean}, specials)
    yield "WordPiece without a prefix", whole({"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "", "max_input_chars_per_word": 100, "vocab": learned(WORDS, "")}, None,
                                              {"type": "Whitespace"}, cls, None, specials)
    yield "WordLevel", whole({"type": "WordLevel", "vocab": learned(WORDS), "unk_token": "[UNK]"}, None, {"type": "Whitespace"}, cls, None, specials)
    yield "SentencePiece BPE, legacy", spm({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": BAR}, REPLACE]}, None)
    yield "SentencePiece BPE, Metaspace first", spm(None, {"type": "Metaspace", "replacement": BAR, "prepend_scheme": "first", "split": False})
    yield "SentencePiece BPE, no prefix", spm(REPLACE, split({"String": " "}, "MergedWithPrevious"), strip=False)
    yield "SentencePiece BPE, no fallback, fused", spm(REPLACE, None, byte_fallback=False)
    yield "SentencePiece BPE, no fallback, not fused", spm(REPLACE, None, byte_fallback=False, fuse_unk=False)
    yield "SentencePiece BPE, nothing unknown", spm(REPLACE, None, byte_fallback=False, unk_token=None)
    yield "SentencePiece BPE, ignore merges", spm(REPLACE, split({"String": BAR}, "MergedWithNext"), ignore_merges=True)
    vocab, merges = learned(["abc", "hello"]), []
    vocab.update({"ab": len(vocab), "##bc": len(vocab) + 1, "hel": len(vocab) + 2, "he": len(vocab) + 3})
    vocab = {k: i for i, k in enumerate(vocab)}
    yield "BPE with a prefix", whole({"type": "BPE", "dropout": None, "unk_token": "[UNK]", "continuing_subword_prefix": "##", "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
                                      "ignore_merges": False, "vocab": vocab, "merges": [["##b", "##c"], ["a", "##b"], ["h", "##e"], ["he", "##l"]]}, None, {"type": "Whitespace"}, cls,
                                     {"type": "WordPiece", "prefix": "##", "cleanup": True}, specials)
    yield "Unigram", unigram({"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, META]}, decoder=META)
    yield "Unigram, uncut", unigram({**META, "split": False}, decoder=META)
    yield "Unigram with bytes", unigram(META, True, {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, META]})
    yield "Unigram without a decoder", unigram(META, False, None, {"type": "NFKC"})
    yield "decoders", whole(pieces_model(["ab|", "ab", "abc|"]), None, {"type": "Whitespace"}, None, {"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"Regex": r"\|$"}, "content": " "}, {"type": "Strip", "content": "a", "start": 1, "stop": 1}, {"type": "Fuse"}, {"type": "Replace", "pattern": {"String": "h e l"}, "content": "<hel>"},
        {"type": "Replace", "pattern": {"String": "b c"}, "content": ""}, {"type": "Strip", "content": " ", "start": 2, "stop": 3}]})


def decode(hf, ids, skip):
    try:
        return hf.decode(ids, skip_special_tokens=skip)
    except BaseException:  # Strip panics where it has nothing: no reference
        return None


def main():
    with open(os.path.join(HERE, "kinds.jsonl"), "w", encoding="utf-8") as f:
        for name, t in tokenizers():
            hf = Tokenizer.from_str(json.dumps(t))
            rows = []
            for text in TEXTS:
                ids, plain = hf.encode(text).ids, hf.encode(text, add_special_tokens=False).ids
                rows.append({"text": text, "ids": ids, "plain": plain, "decoded": decode(hf, plain, False), "skipped": decode(hf, ids, True)})
            for text, pair in (("hello world", "the fox"), ("", "a"), ("a b c", "")):
                e = hf.encode(text, pair)
                rows.append({"text": text, "pair": pair, "ids": e.ids, "types": e.type_ids})
            f.write(json.dumps({"name": name, "tokenizer": t, "rows": rows}, ensure_ascii=False, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
