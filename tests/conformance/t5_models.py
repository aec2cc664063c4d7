#!/usr/bin/env python3
"""Tiny models of the T5 family, each made from a seed by this file alone, and what transformers computes with them (t5_reference.json, which test_t5.py holds `genloop run` to).

    tests/conformance/t5_models.py --write-reference     where transformers and torch are installed

The weights are not kept: the same numbers come of the same seed everywhere (Python's random is the same in all releases)."""
import json
import os
import random
import re
import struct
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
REFERENCE = os.path.join(HERE, "t5_reference.json")
BASE = {"d_ff": 48, "d_kv": 10, "d_model": 32, "decoder_start_token_id": 0, "eos_token_id": 1, "layer_norm_epsilon": 1e-06, "num_decoder_layers": 3, "num_heads": 3, "num_layers": 2,
        "pad_token_id": 0, "relative_attention_max_distance": 20, "relative_attention_num_buckets": 8, "vocab_size": 64}
OTHER_DEPTHS = {"num_decoder_layers": 2, "num_layers": 3, "relative_attention_max_distance": 128}
# name: class, model_type, what config.json says beside BASE, whether the head is a matrix of its own, type of the weights
MODELS = {
    "t5": ("T5ForConditionalGeneration", "t5", {"feed_forward_proj": "relu", "n_positions": 512}, False, "F32"),
    "flan": ("T5ForConditionalGeneration", "t5", {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "relative_attention_max_distance": 128, "relative_attention_num_buckets": 32},
             True, "F32"),
    "flan-bf16": ("T5ForConditionalGeneration", "t5", {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "decoder_start_token_id": 3}, True, "BF16"),
    "t5-release-5": ("T5ForConditionalGeneration", "t5", {"feed_forward_proj": "gated-silu", "scale_decoder_outputs": False, "tie_word_embeddings": True}, False, "F32"),
    "mt5": ("MT5ForConditionalGeneration", "mt5", {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "num_decoder_layers": None}, True, "F32"),
    "umt5": ("UMT5ForConditionalGeneration", "umt5", {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}, True, "F32"),
    "t5-encoder": ("T5EncoderModel", "t5", {"feed_forward_proj": "relu"}, False, "F32"),
    "umt5-encoder": ("UMT5EncoderModel", "umt5", {"feed_forward_proj": "gated-gelu"}, False, "F32"),
    # what a GGUF file can say: distances up to 128. llama.cpp itself reads none whose decoder is the deeper side
    "t5-128": ("T5ForConditionalGeneration", "t5", {**OTHER_DEPTHS, "feed_forward_proj": "relu", "n_positions": 512}, False, "F32"),
    "flan-128": ("T5ForConditionalGeneration", "t5", {**OTHER_DEPTHS, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "relative_attention_num_buckets": 32}, True, "F32"),
    "flan-tied-128": ("T5ForConditionalGeneration", "t5", {**OTHER_DEPTHS, "feed_forward_proj": "gated-gelu", "scale_decoder_outputs": False, "tie_word_embeddings": True,
                                                            "decoder_start_token_id": 3}, False, "F32"),
    "umt5-128": ("UMT5ForConditionalGeneration", "umt5", {**OTHER_DEPTHS, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}, True, "F32"),
    "t5-128-encoder": ("T5EncoderModel", "t5", {"feed_forward_proj": "relu", "relative_attention_max_distance": 128}, False, "F32"),
    "umt5-128-encoder": ("UMT5EncoderModel", "umt5", {"feed_forward_proj": "gated-gelu", "relative_attention_max_distance": 128}, False, "F32"),
}
IN_GGUF = ["flan"] + [name for name in MODELS if "-128" in name]
SOURCES = [[(i * 37 + 5) % 61 + 2 for i in range(45)] + [1], [9, 1], [(i * i * 7 + 11) % 62 + 2 for i in range(170)] + [1]]
TEXT = "translate a sentence: the house is green"
TARGET = "a green house, is it? 42 is a sentence that is longer than what was read of it."
NEW, TOP = 32, 8


def config(name):
    cls, kind, more, _, dtype = MODELS[name]
    c = {**BASE, **more, "architectures": [cls], "model_type": kind, "is_encoder_decoder": not cls.endswith("EncoderModel"), "torch_dtype": {"F32": "float32", "BF16": "bfloat16"}[dtype]}
    return {k: v for k, v in c.items() if v is not None}


def tensors(name):
    """Names and shapes, as transformers has them."""
    c, untied = config(name), MODELS[name][3]
    C, Q, F, decodes = c["d_model"], c["num_heads"] * c["d_kv"], c["d_ff"], c["is_encoder_decoder"]
    yield "shared.weight", (c["vocab_size"], C)
    for side, layers in [("encoder", c["num_layers"])] + ([("decoder", c.get("num_decoder_layers", c["num_layers"]))] if decodes else []):
        for i in range(layers):
            block = f"{side}.block.{i}.layer."
            for k, attention in enumerate(["SelfAttention"] + (["EncDecAttention"] if side == "decoder" else [])):
                yield f"{block}{k}.layer_norm.weight", (C,)
                for m in "qkv":
                    yield f"{block}{k}.{attention}.{m}.weight", (Q, C)
                yield f"{block}{k}.{attention}.o.weight", (C, Q)
                if k == 0 and (i == 0 or c["model_type"] == "umt5"):
                    yield f"{block}0.SelfAttention.relative_attention_bias.weight", (c["relative_attention_num_buckets"], c["num_heads"])
            k = 2 if side == "decoder" else 1
            yield f"{block}{k}.layer_norm.weight", (C,)
            for m in (["wi_0", "wi_1"] if c["feed_forward_proj"].startswith("gated") else ["wi"]):
                yield f"{block}{k}.DenseReluDense.{m}.weight", (F, C)
            yield f"{block}{k}.DenseReluDense.wo.weight", (C, F)
        yield f"{side}.final_layer_norm.weight", (C,)
    if untied:
        yield "lm_head.weight", (c["vocab_size"], C)


def tokenizer():
    """A Unigram tokenizer as T5's, of letters and a few pieces."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)] + [("▁" + w, -3.0 - i * 0.1) for i, w in enumerate(["the", "a", "is", "house", "green", "translate", "sentence", ""])]
    pieces += [(c, -6.0 - i * 0.05) for i, c in enumerate("abcdefghijklmnopqrstuvwxyz:.,!?-0123456789")] + [("ing", -4.0), ("er", -4.1)]
    special = [{"id": i, "content": pieces[i][0], "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True} for i in range(3)]
    end = {"SpecialToken": {"id": "</s>", "type_id": 0}}
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": special, "normalizer": None,
            "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
            "post_processor": {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}}, end], "pair": [{"Sequence": {"id": "A", "type_id": 0}}, end, {"Sequence": {"id": "B", "type_id": 0}}, end],
                               "special_tokens": {"</s>": {"id": "</s>", "ids": [1], "tokens": ["</s>"]}}},
            "decoder": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}, "model": {"type": "Unigram", "unk_id": 2, "vocab": pieces, "byte_fallback": False}}


def write(folder, name, head=1):
    """A model directory; head: what its head is multiplied by, to spoil it."""
    r, dtype = random.Random(name), MODELS[name][4]
    header, data = {"__metadata__": {"format": "pt"}}, bytearray()
    for tensor, shape in tensors(name):
        n = shape[0] * (shape[1] if len(shape) > 1 else 1)
        if len(shape) == 1:
            values = [0.7 + 0.6 * r.random() for _ in range(n)]
        else:
            values = [(r.random() - 0.5) * (4.0 if "relative" in tensor else 0.9) * (head if tensor == "lm_head.weight" else 1) for _ in range(n)]
        raw = struct.pack(f"<{n}f", *values)
        if dtype == "BF16":
            raw = b"".join(raw[i + 2:i + 4] for i in range(0, len(raw), 4))
        header[tensor] = {"dtype": dtype, "shape": list(shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "model.safetensors"), "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + data)
    for file, value in (("config.json", config(name)), ("tokenizer.json", tokenizer()), ("tokenizer_config.json", {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"})):
        with open(os.path.join(folder, file), "w") as f:
            json.dump(value, f)


GGUF_NAMES = [  # as llama.cpp's converter has them
    (r"shared\.weight", "token_embd.weight"), (r"lm_head\.weight", "output.weight"), (r"(enc|dec)oder\.final_layer_norm\.weight", r"\1.output_norm.weight"),
    (r"(enc|dec)oder\.block\.(\d+)\.layer\.0\.SelfAttention\.([qkvo])\.weight", r"\1.blk.\2.attn_\3.weight"),
    (r"(enc|dec)oder\.block\.(\d+)\.layer\.0\.SelfAttention\.relative_attention_bias\.weight", r"\1.blk.\2.attn_rel_b.weight"),
    (r"(enc|dec)oder\.block\.(\d+)\.layer\.0\.layer_norm\.weight", r"\1.blk.\2.attn_norm.weight"),
    (r"(dec)oder\.block\.(\d+)\.layer\.1\.EncDecAttention\.([qkvo])\.weight", r"\1.blk.\2.cross_attn_\3.weight"),
    (r"(dec)oder\.block\.(\d+)\.layer\.1\.layer_norm\.weight", r"\1.blk.\2.cross_attn_norm.weight"),
    (r"(enc|dec)oder\.block\.(\d+)\.layer\.[12]\.layer_norm\.weight", r"\1.blk.\2.ffn_norm.weight"),
    (r"(enc|dec)oder\.block\.(\d+)\.layer\.[12]\.DenseReluDense\.wi_0\.weight", r"\1.blk.\2.ffn_gate.weight"),
    (r"(enc|dec)oder\.block\.(\d+)\.layer\.[12]\.DenseReluDense\.(?:wi|wi_1)\.weight", r"\1.blk.\2.ffn_up.weight"),
    (r"(enc|dec)oder\.block\.(\d+)\.layer\.[12]\.DenseReluDense\.wo\.weight", r"\1.blk.\2.ffn_down.weight"),
]


def gguf_name(tensor):
    return next(re.sub(pattern, to, tensor) for pattern, to in GGUF_NAMES if re.fullmatch(pattern, tensor))


def gguf_metadata(name):
    c = config(name)
    arch, pieces = "t5" if c["is_encoder_decoder"] else "t5encoder", tokenizer()["model"]["vocab"]
    meta = {"context_length": c.get("n_positions", 512), "embedding_length": c["d_model"], "feed_forward_length": c["d_ff"], "block_count": c["num_layers"], "attention.head_count": c["num_heads"],
            "attention.key_length": c["d_kv"], "attention.value_length": c["d_kv"], "attention.layer_norm_epsilon": c["layer_norm_epsilon"],
            "attention.relative_buckets_count": c["relative_attention_num_buckets"], "attention.layer_norm_rms_epsilon": c["layer_norm_epsilon"]}
    if c["is_encoder_decoder"]:
        meta.update({"decoder_block_count": c["num_decoder_layers"], "decoder_start_token_id": c["decoder_start_token_id"]})
        if c.get("scale_decoder_outputs", c.get("tie_word_embeddings", True)) != c.get("tie_word_embeddings", True):
            meta["logit_scale"] = 1.0  # our own
    pieces = pieces + [[f"[PAD{i}]", -10000.0] for i in range(len(pieces), c["vocab_size"])]
    values = {"general.architecture": arch, **{f"{arch}.{k}": v for k, v in meta.items()}}
    values.update({"tokenizer.ggml.model": "t5", "tokenizer.ggml.pre": "default", "tokenizer.ggml.tokens": [p for p, _ in pieces], "tokenizer.ggml.scores": [float(s) for _, s in pieces],
                   "tokenizer.ggml.token_type": [3, 3, 2] + [1 if not p.startswith("[PAD") else 5 for p, _ in pieces[3:]], "tokenizer.ggml.add_space_prefix": True,
                   "tokenizer.ggml.remove_extra_whitespaces": False, "tokenizer.ggml.eos_token_id": 1, "tokenizer.ggml.padding_token_id": 0})
    return values


def gguf_text(s):
    return struct.pack("<Q", len(s.encode())) + s.encode()


def gguf_value(v):
    if isinstance(v, list):
        kind, packed = gguf_value(v[0])[0], b"".join(gguf_value(x)[1] for x in v)
        return 9, struct.pack("<IQ", kind, len(v)) + packed
    return (7, struct.pack("<?", v)) if isinstance(v, bool) else (5, struct.pack("<i", v)) if isinstance(v, int) else (6, struct.pack("<f", v)) if isinstance(v, float) else (8, gguf_text(v))


def read_tensors(folder):
    """Name: shape and numbers, of the model directory that write() made in F32."""
    with open(os.path.join(folder, "model.safetensors"), "rb") as f:
        header = json.loads(f.read(struct.unpack("<Q", f.read(8))[0]))
        data = f.read()
    header.pop("__metadata__")
    return {n: (t["shape"], data[t["data_offsets"][0]:t["data_offsets"][1]]) for n, t in header.items()}


def q8_0(raw):
    """Blocks of 32: a scale in f16 and a byte for each."""
    x, out = struct.unpack(f"<{len(raw) // 4}f", raw), bytearray()
    for i in range(0, len(x), 32):
        scale = max(abs(v) for v in x[i:i + 32]) / 127
        out += struct.pack("<e32b", scale, *(max(-127, min(127, round(v / scale))) if scale else 0 for v in x[i:i + 32]))
    return bytes(out)


def write_gguf(folder, name, path, dtype="F32"):
    """The model directory as a GGUF file; dtype Q8_0: matrices whose rows are whole blocks."""
    values, head, data = gguf_metadata(name), b"", bytearray()
    values["general.file_type"] = {"F32": 0, "F16": 1, "Q8_0": 7}[dtype]
    tensors = read_tensors(folder)
    for key, v in values.items():
        kind, packed = gguf_value(v)
        head += gguf_text(key) + struct.pack("<I", 4 if kind == 5 else kind) + packed
    for tensor, (shape, raw) in tensors.items():
        kind = 0
        if dtype == "F16" and len(shape) > 1:
            kind, raw = 1, struct.pack(f"<{len(raw) // 4}e", *struct.unpack(f"<{len(raw) // 4}f", raw))
        elif dtype == "Q8_0" and len(shape) > 1 and shape[1] % 32 == 0:
            kind, raw = 8, q8_0(raw)
        head += gguf_text(gguf_name(tensor)) + struct.pack("<I", len(shape)) + b"".join(struct.pack("<Q", n) for n in reversed(shape)) + struct.pack("<IQ", kind, len(data))
        data += raw + b"\0" * (-len(raw) % 32)
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(values)) + head
    with open(path, "wb") as f:
        f.write(head + b"\0" * (-len(head) % 32) + data)


def model_logprobs(model, ids, start, target):
    """Of each id of the target, given the source and those before it."""
    import torch
    logits = model(input_ids=ids, decoder_input_ids=torch.cat([start, torch.tensor([target[:-1]])], 1)).logits[0]
    return torch.log_softmax(logits, -1)[torch.arange(len(target)), torch.tensor(target)].tolist()


def reference(folder, name):
    import torch
    torch.set_num_threads(1)
    import transformers
    from tokenizers import Tokenizer
    encodes = name.endswith("encoder")
    model = getattr(transformers, MODELS[name][0]).from_pretrained(folder, dtype=torch.float64).eval()
    assert encodes or not MODELS[name][3] or model.lm_head.weight is not model.shared.weight
    t = Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
    out = []
    for source in SOURCES + [t.encode(TEXT).ids]:
        ids = torch.tensor([source])
        one = {"source": source}
        with torch.no_grad():
            if encodes:
                one["mean"] = model(input_ids=ids).last_hidden_state[0].mean(0).tolist()
            else:
                start = torch.tensor([[config(name)["decoder_start_token_id"]]])
                top = torch.topk(model(input_ids=ids, decoder_input_ids=start).logits[0, 0], TOP)
                one["top"] = [[int(i), float(v)] for i, v in zip(top.indices, top.values)]
                one["target"] = model_logprobs(model, ids, start, t.encode(TARGET).ids)
                one["tokens"] = model.generate(ids, max_new_tokens=NEW, do_sample=False, use_cache=False)[0].tolist()[1:]
        out.append(one)
    return out


if __name__ == "__main__":
    if sys.argv[1:] != ["--write-reference"]:
        sys.exit(__doc__)
    import tempfile
    with tempfile.TemporaryDirectory() as folder:
        values = {}
        for model in MODELS:
            write(os.path.join(folder, model), model)
            values[model] = reference(os.path.join(folder, model), model)
    with open(REFERENCE, "w") as f:
        f.write("{\n" + ",\n".join(f"{json.dumps(k)}: [\n" + ",\n".join(" " + json.dumps(one) for one in v) + "]" for k, v in values.items()) + "\n}\n")
