#!/usr/bin/env python3
"""GGUF files against transformers: the tiny models of the reference vectors as llama.cpp's converter would write them (its names, its metadata, q and k permuted for
llama and granite, 1 added to Gemma's norms, experts stacked, NeoX' q, k and v apart), in F32, F16 and BF16, held to the reference logits and greedy tokens; encoders (BERT, RoBERTa with its
positions cut, DistilBERT, ModernBERT, a cross-encoder with its dense layer) likewise to the reference vectors and scores. What `genloop export --format gguf` makes of the
same models is held to the same, and, where the Python package gguf is installed, read by it: every tensor as the converter here has it.

    tests/conformance/test_gguf.py [--genloop build/bin/genloop] [--vectors DIR] [--only PATTERN]

DIR as in test_models.py. The last line is `N passed, N failed, N skipped`; exit code 1 where something failed."""
import argparse
import fnmatch
import json
import math
import os
import re
import struct
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from testbed import test_python  # noqa: E402

test_python("numpy")
try:
    import numpy as np
except ImportError as missing:
    print(f"skip gguf: {missing}: scripts/test-python makes a Python that has it")
    print("0 passed, 0 failed, 1 skipped")
    sys.exit(0)

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SHARED = [os.path.join(ROOT, *up, "shared", "conformance") for up in ([], [".."], ["..", ".."])]
ARCHS = {"llama": "llama", "mixtral": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "qwen3_moe": "qwen3moe", "gemma": "gemma", "gemma2": "gemma2", "gemma3_text": "gemma3",
         "phi": "phi2", "phi3": "phi3", "gpt2": "gpt2", "gpt_neox": "gptneox", "stablelm": "stablelm", "olmo2": "olmo2", "granite": "granite"}
NAMES = [  # of the file's tensors, without "model." and "transformer."
    (r"(embed_tokens|embed_in|wte)\.(\w+)", r"token_embd.\2"), (r"wpe\.(\w+)", r"position_embd.\1"), (r"(norm|final_layernorm|final_layer_norm|ln_f)\.(\w+)", r"output_norm.\2"),
    (r"(lm_head|embed_out)\.(\w+)", r"output.\2"), (r"layers\.(\d+)\.(input_layernorm|ln_1)\.(\w+)", r"blk.\1.attn_norm.\3"),
    (r"layers\.(\d+)\.self_attn\.([qkv])_proj\.(\w+)", r"blk.\1.attn_\2.\3"), (r"layers\.(\d+)\.self_attn\.qkv_proj\.(\w+)", r"blk.\1.attn_qkv.\2"),
    (r"layers\.(\d+)\.(attn\.c_attn|attention\.query_key_value)\.(\w+)", r"blk.\1.attn_qkv.\3"),
    (r"layers\.(\d+)\.(self_attn\.o_proj|self_attn\.dense|attn\.c_proj|attention\.dense)\.(\w+)", r"blk.\1.attn_output.\3"),
    (r"layers\.(\d+)\.self_attn\.([qk])_norm\.(\w+)", r"blk.\1.attn_\2_norm.\3"),
    (r"layers\.(\d+)\.(pre_feedforward_layernorm|ln_2)\.(\w+)", r"blk.\1.ffn_norm.\3"), (r"layers\.(\d+)\.post_feedforward_layernorm\.(\w+)", r"blk.\1.post_ffw_norm.\2"),
    (r"layers\.(\d+)\.mlp\.(gate|up|down)_proj\.(\w+)", r"blk.\1.ffn_\2.\3"), (r"layers\.(\d+)\.mlp\.gate_up_proj\.(\w+)", r"blk.\1.ffn_up.\2"),
    (r"layers\.(\d+)\.mlp\.(fc1|c_fc|dense_h_to_4h)\.(\w+)", r"blk.\1.ffn_up.\3"), (r"layers\.(\d+)\.mlp\.(fc2|c_proj|dense_4h_to_h)\.(\w+)", r"blk.\1.ffn_down.\3"),
    (r"layers\.(\d+)\.(block_sparse_moe|mlp)\.gate\.(\w+)", r"blk.\1.ffn_gate_inp.\3"),
]
ENCODERS = {"bert": "bert", "roberta": "bert", "distilbert": "bert", "modernbert": "modern-bert"}
ENCODER_NAMES = [  # without "bert.", "roberta.", "distilbert." and "model."
    (r"embeddings\.(word_embeddings|tok_embeddings)\.(\w+)", r"token_embd.\2"), (r"embeddings\.position_embeddings\.(\w+)", r"position_embd.\1"),
    (r"embeddings\.token_type_embeddings\.(\w+)", r"token_types.\1"), (r"embeddings\.(LayerNorm|norm)\.(\w+)", r"token_embd_norm.\2"), (r"final_norm\.(\w+)", r"output_norm.\1"),
    (r"pooler\.dense\.(\w+)", r"cls.\1"), (r"classifier\.(\w+)", r"cls.output.\1"),
    (r"(?:encoder|transformer)\.layer\.(\d+)\.attention\.(?:self\.)?(q|k|v)(?:uery|ey|alue|_lin)\.(\w+)", r"blk.\1.attn_\2.\3"),
    (r"(?:encoder|transformer)\.layer\.(\d+)\.attention\.(?:output\.dense|out_lin)\.(\w+)", r"blk.\1.attn_output.\2"),
    (r"(?:encoder|transformer)\.layer\.(\d+)\.(?:attention\.output\.LayerNorm|sa_layer_norm)\.(\w+)", r"blk.\1.attn_output_norm.\2"),
    (r"(?:encoder|transformer)\.layer\.(\d+)\.(?:intermediate\.dense|ffn\.lin1)\.(\w+)", r"blk.\1.ffn_up.\2"),
    (r"(?:encoder|transformer)\.layer\.(\d+)\.(?:output\.dense|ffn\.lin2)\.(\w+)", r"blk.\1.ffn_down.\2"),
    (r"(?:encoder|transformer)\.layer\.(\d+)\.(?:output\.LayerNorm|output_layer_norm)\.(\w+)", r"blk.\1.layer_output_norm.\2"),
    (r"layers\.(\d+)\.attn_norm\.(\w+)", r"blk.\1.attn_norm.\2"), (r"layers\.(\d+)\.mlp_norm\.(\w+)", r"blk.\1.ffn_norm.\2"), (r"layers\.(\d+)\.attn\.Wqkv\.(\w+)", r"blk.\1.attn_qkv.\2"),
    (r"layers\.(\d+)\.attn\.Wo\.(\w+)", r"blk.\1.attn_output.\2"), (r"layers\.(\d+)\.mlp\.Wi\.(\w+)", r"blk.\1.ffn_up.\2"), (r"layers\.(\d+)\.mlp\.Wo\.(\w+)", r"blk.\1.ffn_down.\2"),
]
EXPERT = r"layers\.(\d+)\.(?:block_sparse_moe|mlp)\.experts\.(\d+)\.(w1|w2|w3|gate_proj|up_proj|down_proj)\.weight"
EXPERT_NAMES = {"w1": "gate", "w3": "up", "w2": "down", "gate_proj": "gate", "up_proj": "up", "down_proj": "down"}


def read_safetensors(path):
    with open(path, "rb") as f:
        head = json.loads(f.read(struct.unpack("<Q", f.read(8))[0]))
        data = f.read()
    head.pop("__metadata__", None)
    assert all(t["dtype"] == "F32" for t in head.values())
    return {n: np.frombuffer(data[t["data_offsets"][0]:t["data_offsets"][1]], np.float32).reshape(t["shape"]) for n, t in head.items()}


def permute(w, heads):
    return w.reshape(heads, 2, w.shape[0] // heads // 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)


def convert(config, tensors):
    """Metadata and tensors, as convert_hf_to_gguf.py has them."""
    kind = config["model_type"]
    arch, heads = ARCHS[kind], config.get("num_attention_heads", config.get("n_head"))
    kv_heads, width = config.get("num_key_value_heads") or heads, config.get("hidden_size", config.get("n_embd"))
    head = config.get("head_dim") or width // heads
    layers, context = config.get("num_hidden_layers", config.get("n_layer")), config.get("max_position_embeddings", config.get("n_positions"))
    rope = config.get("rope_parameters") or {}
    full = rope.get("full_attention", rope)
    meta = {"block_count": layers, "context_length": context, "embedding_length": width, "attention.head_count": heads, "attention.head_count_kv": kv_heads,
            "feed_forward_length": config.get("intermediate_size") or config.get("n_inner") or 4 * width}
    for key in ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon"):
        if key in config:
            meta["attention.layer_norm_rms_epsilon" if key == "rms_norm_eps" else "attention.layer_norm_epsilon"] = float(config[key])
    out, experts = {}, {}
    if full:
        meta["rope.freq_base"] = float(full["rope_theta"])
        meta["rope.dimension_count"] = int(head * full.get("partial_rotary_factor", 1))
    if config.get("head_dim"):
        meta["attention.key_length"] = meta["attention.value_length"] = head
    if full.get("rope_type") in ("linear", "yarn"):
        meta["rope.scaling.type"], meta["rope.scaling.factor"] = full["rope_type"], float(full["factor"])
        if full["rope_type"] == "yarn":
            meta["rope.scaling.original_context_length"] = full["original_max_position_embeddings"]
    if full.get("rope_type") == "llama3":
        low, high, n = full["original_max_position_embeddings"] / full["low_freq_factor"], full["original_max_position_embeddings"] / full["high_freq_factor"], head
        factors = []
        for i in range(0, n, 2):
            wave = 2 * math.pi * full["rope_theta"] ** (i / n)
            smooth = (full["original_max_position_embeddings"] / wave - full["low_freq_factor"]) / (full["high_freq_factor"] - full["low_freq_factor"])
            factors.append(1 if wave < high else full["factor"] if wave > low else 1 / ((1 - smooth) / full["factor"] + smooth))
        out["rope_freqs.weight"] = np.array(factors, np.float32)
    if full.get("rope_type") == "longrope":
        original = full["original_max_position_embeddings"]
        meta["rope.scaling.original_context_length"] = original
        meta["rope.scaling.attn_factor"] = math.sqrt(1 + math.log(context / original) / math.log(original))
        for key in ("long", "short"):
            out[f"rope_factors_{key}.weight"] = np.array(full[key + "_factor"], np.float32)
    if config.get("sliding_window") and (kind.startswith("gemma") or kind == "phi3"):
        meta["attention.sliding_window"] = config["sliding_window"]
    for ours, theirs in (("attn_logit_softcapping",) * 2, ("final_logit_softcapping",) * 2, ("attention.scale", "attention_multiplier"), ("embedding_scale", "embedding_multiplier"),
                         ("residual_scale", "residual_multiplier"), ("logit_scale", "logits_scaling")):
        if config.get(theirs) is not None:
            meta[ours] = float(config[theirs])
    count = config.get("num_local_experts") or config.get("num_experts")
    if count:
        meta["expert_count"], meta["expert_used_count"] = count, config["num_experts_per_tok"]
        if "moe_intermediate_size" in config:
            meta["expert_feed_forward_length"] = config["moe_intermediate_size"]
    if "use_parallel_residual" in config:
        meta["use_parallel_residual"] = config["use_parallel_residual"]
    for name, w in tensors.items():
        name = re.sub(r"^(model|transformer|gpt_neox)\.", "", name).replace("h.", "layers.", 1) if kind == "gpt2" else re.sub(r"^(model|transformer|gpt_neox)\.", "", name)
        m = re.fullmatch(EXPERT, name)
        if m:
            experts.setdefault((int(m[1]), EXPERT_NAMES[m[3]]), {})[int(m[2])] = w
            continue
        if name.endswith(("rotary_emb.inv_freq", "attn.bias", "attention.bias", "masked_bias")) and "c_attn" not in name:
            continue
        if kind == "gpt2" and re.search(r"(c_attn|c_proj|c_fc)\.weight$", name):
            w = w.T
        if kind == "gpt_neox" and "query_key_value" in name:
            w = w.reshape(heads, 3, head, *w.shape[1:]).swapaxes(0, 1).reshape(w.shape)
        if arch in ("llama", "granite") and re.search(r"self_attn\.[qk]_proj", name):
            w = permute(w, heads if ".q_proj" in name else kv_heads)
        if kind.startswith("gemma") and name.endswith("norm.weight"):
            w = w + 1
        m = re.fullmatch(r"layers\.(\d+)\.post_attention_layernorm\.(\w+)", name)
        if m:
            after = kind in ("gemma2", "gemma3_text", "olmo2")
            target = f"blk.{m[1]}.{'post_attention_norm' if after else 'ffn_norm'}.{m[2]}"
        else:
            target = next((re.sub(pattern, to, name) for pattern, to in NAMES if re.fullmatch(pattern, name)), None)
        assert target, name
        out[target] = w
    for (layer, part), rows in experts.items():
        out[f"blk.{layer}.ffn_{part}_exps.weight"] = np.stack([rows[i] for i in range(count)])
    values = {"general.architecture": arch, "tokenizer.ggml.model": "no_vocab"}
    values.update({f"{arch}.{k}": v for k, v in meta.items()})
    for key in ("bos", "eos"):
        if isinstance(config.get(key + "_token_id"), int):
            values[f"tokenizer.ggml.{key}_token_id"] = config[key + "_token_id"]
    return values, out


def convert_encoder(config, tensors):
    """The same of an encoder; of a BERT's classifier with the dense layer (the converter leaves it out, and its scores are then another model's)."""
    kind = config["model_type"]
    arch, labels = ENCODERS[kind], len(config.get("id2label", [])) if config["architectures"][0].endswith("Classification") else 0
    offset = config["pad_token_id"] + 1 if kind == "roberta" else 0
    count = lambda *keys: next(config[k] for k in keys if k in config)  # noqa: E731
    meta = {"block_count": count("num_hidden_layers", "n_layers"), "context_length": config["max_position_embeddings"] - offset, "embedding_length": count("hidden_size", "dim"),
            "feed_forward_length": count("intermediate_size", "hidden_dim"), "attention.head_count": count("num_attention_heads", "n_heads"),
            "attention.layer_norm_epsilon": float(config.get("layer_norm_eps", config.get("norm_eps", 1e-12))), "attention.causal": False, "pooling_type": 4 if labels else 1}
    if kind == "modernbert":
        rope = config["rope_parameters"]
        meta.update({"attention.sliding_window": config["local_attention"], "attention.sliding_window_pattern": config["global_attn_every_n_layers"], "rope.scaling.type": "none",
                     "rope.freq_base": rope["full_attention"]["rope_theta"], "rope.freq_base_swa": rope["sliding_attention"]["rope_theta"], "hidden_activation": config["hidden_activation"]})
    out = {}
    for name, w in tensors.items():
        name = re.sub(r"^(bert|roberta|distilbert|model)\.", "", name)
        if name.endswith("position_ids") or (not labels and name.startswith(("pooler.", "head.", "decoder.", "vocab_", "lm_head."))):
            continue
        target = next((re.sub(pattern, to, name) for pattern, to in ENCODER_NAMES if re.fullmatch(pattern, name)), None)
        assert target, name
        out[target] = w[offset:] if target == "position_embd.weight" else w
    values = {"general.architecture": arch, "tokenizer.ggml.model": "no_vocab", "tokenizer.ggml.token_type_count": config.get("type_vocab_size", 1)}
    values.update({f"{arch}.{k}": v for k, v in meta.items()})
    return values, out


def text(s):
    return struct.pack("<Q", len(s.encode())) + s.encode()


def write_gguf(path, values, tensors, dtype):
    head, data = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(values)), b""
    for key, v in values.items():
        kind, packed = (7, struct.pack("<?", v)) if isinstance(v, bool) else (4, struct.pack("<I", v)) if isinstance(v, int) else (6, struct.pack("<f", v)) if isinstance(v, float) else (8, text(v))
        head += text(key) + struct.pack("<I", kind) + packed
    for name, w in tensors.items():
        kind, packed = 0, np.ascontiguousarray(w, np.float32)
        if dtype != "F32" and w.ndim > 1:
            kind = 1 if dtype == "F16" else 30
            packed = packed.astype(np.float16) if kind == 1 else (packed.view(np.uint32) >> 16).astype(np.uint16)
        head += text(name) + struct.pack("<I", w.ndim) + b"".join(struct.pack("<Q", n) for n in reversed(w.shape)) + struct.pack("<IQ", kind, len(data))
        data += packed.tobytes() + b"\0" * (-packed.nbytes % 32)
    with open(path, "wb") as f:
        f.write(head + b"\0" * (-len(head) % 32) + data)


def read_back(path, tensors):
    """The file as llama.cpp's own package reads it, held to what its converter would have written. None where there is no such package."""
    try:
        from gguf import GGUFReader
    except ImportError:
        return None
    found = {t.name: np.array(t.data, np.float32).reshape([int(n) for n in reversed(t.shape)]) for t in GGUFReader(path).tensors}
    wanted = {name: np.asarray(data, np.float32) for name, data in tensors.items()}
    for name in sorted(set(found) & set(wanted)):
        # factors of frequencies are a quotient of two roundings; the rest is the same bits
        same = found[name].size == wanted[name].size and np.allclose(found[name].ravel(), wanted[name].ravel(), rtol=1e-6 if name.startswith("rope_") else 0, atol=0)
        if not same:
            return f"tensor {name} is another"
    return f"{len(set(found) & set(wanted))} of {len(found)} tensors" if set(found) & set(wanted) else "no tensor in common"


def exported(genloop, folder, source, family, tensors, ref, check):
    out = os.path.join(folder, f"{family}-exported")
    done = subprocess.run([genloop, "export", source, "--out", out, "--format", "gguf"], capture_output=True, text=True)
    if done.returncode != 0:
        return False, done.stderr.strip()
    path = os.path.join(out, "model.gguf")
    said = read_back(path, tensors)
    if said and not said[0].isdigit():
        return False, said
    good, detail = (check.causal if ref["kind"] == "causal" else check.encoder)(genloop, path, ref, 1e-3)
    return good, f"{detail}{'; ' + said if said else ''}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--genloop", default=os.path.join(ROOT, "build", "bin", "genloop"))
    parser.add_argument("--vectors", default=os.environ.get("GENLOOP_CONFORMANCE") or next((d for d in SHARED if os.path.isdir(d)), SHARED[0]))
    parser.add_argument("--only", default="*")
    args = parser.parse_args()
    for needed, what in ((os.path.join(args.vectors, "check.py"), "no reference vectors"), (args.genloop, "not built")):
        if not os.path.exists(needed):
            print(f"skip gguf: {needed}: {what}\n0 passed, 0 failed, 1 skipped")
            return 0
    sys.path.insert(0, args.vectors)
    import check
    models = os.path.join(args.vectors, "models")
    with tempfile.TemporaryDirectory() as folder:
        for family in sorted(os.listdir(models)):
            with open(os.path.join(models, family, "config.json")) as f:
                config = json.load(f)
            if config["model_type"] not in {**ARCHS, **ENCODERS} or not fnmatch.fnmatch(family, args.only):
                continue
            with open(os.path.join(models, family, "ref.json")) as f:
                ref = json.load(f)
            causal = ref["kind"] == "causal"
            if not causal:  # RoBERTa gives padding inside of a text a position of its own, which a file does not have
                ref["inputs"] = [p for p in ref["inputs"] if config["model_type"] != "roberta" or config["pad_token_id"] not in p["ids"]]
            values, tensors = (convert if causal else convert_encoder)(config, read_safetensors(os.path.join(models, family, "model.safetensors")))
            good, detail = exported(args.genloop, folder, os.path.join(models, family), family, tensors, ref, check)
            check.report(good, f"gguf {family} exported", detail)
            # halves round the weights: greedy tokens are then those of another model, and logits near
            for dtype, tolerance in (("F32", 1e-3), ("F16", 1e-2), ("BF16", 1e-1)):
                path = os.path.join(folder, f"{family}.{dtype}.gguf")
                write_gguf(path, values, tensors, dtype)
                try:
                    check.report(*[(good, f"gguf {family} {dtype}", detail) for good, detail in [(check.causal if causal else check.encoder)(args.genloop, path, ref, tolerance)]][0])
                except Exception as problem:
                    check.report(False, f"gguf {family} {dtype}", f"{type(problem).__name__}: {problem}")
                os.remove(path)
    print(f"{check.passed} passed, {check.failed} failed, 0 skipped")
    return 1 if check.failed or not check.passed else 0


if __name__ == "__main__":
    sys.exit(main())
