"""Llamas of random weights, small enough for a test: model(FOLDER, seed) writes one as Hugging Face has them. All have the same tokenizer: the bytes."""
import json
import math
import os
import random
import struct

WIDTH, LAYERS, FFN, HEADS, CONTEXT = 32, 2, 64, 2, 256


def byte_letters():
    """GPT-2's letters for bytes."""
    plain = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    letters, more = {b: chr(b) for b in plain}, 256
    for b in range(256):
        if b not in letters:
            letters[b], more = chr(more), more + 1
    return letters


def model(folder, seed, vocab_more=(), context=CONTEXT):
    """vocab_more: tokens behind the bytes and the end."""
    os.makedirs(folder)
    letters = byte_letters()
    vocab = {letters[b]: b for b in range(256)}
    vocab.update({t: 257 + i for i, t in enumerate(vocab_more)})
    size = 257 + len(vocab_more)
    file = {"version": "1.0", "truncation": None, "padding": None, "normalizer": None,
            "added_tokens": [{"id": 256, "content": "<|endoftext|>", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}],
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}, "post_processor": None,
            "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "vocab": vocab, "merges": []}}
    shapes = {"model.embed_tokens.weight": (size, WIDTH), "model.norm.weight": (WIDTH,), "lm_head.weight": (size, WIDTH)}
    for i in range(LAYERS):
        layer = f"model.layers.{i}."
        for name in ("q", "k", "v", "o"):
            shapes[f"{layer}self_attn.{name}_proj.weight"] = (WIDTH, WIDTH)
        shapes.update({f"{layer}mlp.gate_proj.weight": (FFN, WIDTH), f"{layer}mlp.up_proj.weight": (FFN, WIDTH), f"{layer}mlp.down_proj.weight": (WIDTH, FFN),
                       f"{layer}input_layernorm.weight": (WIDTH,), f"{layer}post_attention_layernorm.weight": (WIDTH,)})
    chance, header, data, at = random.Random(seed), {}, b"", 0
    for name, shape in shapes.items():
        n, norm = math.prod(shape), name.endswith("norm.weight")
        values = struct.pack(f"<{n}f", *(chance.gauss(1 if norm else 0, 0.02 if norm else 0.3) for _ in range(n)))
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [at, at + len(values)]}
        data, at = data + values, at + len(values)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(os.path.join(folder, "model.safetensors"), "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + data)
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "num_key_value_heads": HEADS,
              "intermediate_size": FFN, "max_position_embeddings": context, "vocab_size": size, "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": False,
              "bos_token_id": 256, "eos_token_id": 256}
    for name, what in (("config.json", config), ("tokenizer.json", file), ("tokenizer_config.json", {"eos_token": "<|endoftext|>"})):
        with open(os.path.join(folder, name), "w", encoding="utf-8") as f:
            json.dump(what, f)
