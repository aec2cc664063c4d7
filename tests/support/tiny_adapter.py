"""LoRA adapters of random weights in PEFT's layout for a model directory of the llama family: adapter(FOLDER, MODEL_FOLDER, seed)."""
import json
import os

from tiny_encoder import safetensors


def adapter(folder, model, seed, rank=4, alpha=8, base="somebody/base", **config):
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(model, "config.json"), encoding="utf-8") as f:
        c = json.load(f)
    width, heads, ffn = c["hidden_size"], c["num_attention_heads"], c["intermediate_size"]
    head = c.get("head_dim") or width // heads
    q, kv = heads * head, (c.get("num_key_value_heads") or heads) * head
    shapes = {}
    for i in range(c["num_hidden_layers"]):
        for module, out, into in (("self_attn.q_proj", q, width), ("self_attn.v_proj", kv, width), ("self_attn.o_proj", width, q), ("mlp.gate_proj", ffn, width), ("mlp.down_proj", width, ffn)):
            name = f"base_model.model.model.layers.{i}.{module}"
            shapes[f"{name}.lora_A.weight"], shapes[f"{name}.lora_B.weight"] = (rank, into), (out, rank)
    safetensors(os.path.join(folder, "adapter_model.safetensors"), shapes, seed)
    said = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base, "r": rank, "lora_alpha": alpha, "lora_dropout": 0.05, "bias": "none", "fan_in_fan_out": False, "use_rslora": False, "use_dora": False,
            "modules_to_save": None, "rank_pattern": {}, "alpha_pattern": {}, "target_modules": ["q_proj", "v_proj", "o_proj", "gate_proj", "down_proj"], "inference_mode": True, **config}
    with open(os.path.join(folder, "adapter_config.json"), "w", encoding="utf-8") as f:
        json.dump(said, f)
    return folder
