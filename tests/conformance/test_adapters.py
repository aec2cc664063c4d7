#!/usr/bin/env python3
"""LoRA adapters against PEFT: tiny models of several families whose weights are drawn from a seed, each with an adapter as PEFT saves it, held to the logits and greedy tokens that
transformers and PEFT compute (adapters.json beside this), to the same model with the adapter merged into its weights, and to the model as it is where the adapter is left away.

    tests/conformance/test_adapters.py [--genloop build/bin/genloop] [--only PATTERN]
    tests/conformance/test_adapters.py --make      # writes adapters.json anew; needs torch, transformers and peft

The last line is `N passed, N failed, N skipped`; exit code 1 where something failed."""
import argparse
import array
import fnmatch
import json
import os
import random
import struct
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
FIXTURE = os.path.join(HERE, "adapters.json")
PROMPT = [3, 17, 42, 8, 25, 60, 11, 33, 5]
NEW = 12

LLAMA = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 72, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
         "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
CASES = {  # name: model type, class, configuration, LoraConfig
    "llama": ("llama", "LlamaForCausalLM", LLAMA, {"r": 4, "lora_alpha": 8, "target_modules": ALL}),
    "llama-rslora": ("llama", "LlamaForCausalLM", {**LLAMA, "num_hidden_layers": 3}, {"r": 8, "lora_alpha": 12, "use_rslora": True, "target_modules": ["q_proj", "v_proj"]}),
    "llama-patterns": ("llama", "LlamaForCausalLM", LLAMA, {"r": 4, "lora_alpha": 4, "target_modules": ALL, "rank_pattern": {"layers.1.self_attn.q_proj": 7, "down_proj": 2, "^model.layers.0.*k_proj": 3},
                                                            "alpha_pattern": {"o_proj": 16, "self_attn.q_proj": 5, r"model\.layers\.0\.mlp\.up_proj$": 3}}),
    "qwen2": ("qwen2", "Qwen2ForCausalLM", LLAMA, {"r": 3, "lora_alpha": 6, "target_modules": ALL, "layers_to_transform": [1]}),
    "qwen3": ("qwen3", "Qwen3ForCausalLM", {**LLAMA, "head_dim": 16, "rms_norm_eps": 1e-6}, {"r": 5, "lora_alpha": 10, "target_modules": ["q_proj", "k_proj", "down_proj"]}),
    "gpt2": ("gpt2", "GPT2LMHeadModel", {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0},
             {"r": 4, "lora_alpha": 8, "fan_in_fan_out": True, "target_modules": ["c_attn", "c_proj", "c_fc"]}),
    "gpt_neox": ("gpt_neox", "GPTNeoXForCausalLM", {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 64, "rotary_pct": 0.5,
                                                    "use_parallel_residual": True, "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2},
                 {"r": 4, "lora_alpha": 8, "target_modules": ["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"]}),
    "phi3": ("phi3", "Phi3ForCausalLM", LLAMA, {"r": 4, "lora_alpha": 8, "target_modules": ["qkv_proj", "gate_up_proj", "o_proj", "down_proj"]}),
    "gemma2": ("gemma2", "Gemma2ForCausalLM", {**LLAMA, "head_dim": 16, "hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 16, "sliding_window": 8, "tie_word_embeddings": True},
               {"r": 4, "lora_alpha": 8, "target_modules": ALL}),
    "mixtral": ("mixtral", "MixtralForCausalLM", {**LLAMA, "num_local_experts": 4, "num_experts_per_tok": 2}, {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"]}),
}


def drawn(seed, name, shape, spread):
    """The numbers of one tensor: of its name and the seed alone, so that nothing but they need be kept."""
    r = random.Random(f"{seed}/{name}")
    n = 1
    for d in shape:
        n *= d
    centre = 1.0 if len(shape) == 1 and "norm" in name and name.endswith("weight") or ".ln_" in name and name.endswith("weight") else 0.0
    if name.startswith("lm_head") or "embed" in name or "wte" in name:
        spread = 0.5
    return array.array("f", (centre + spread * (2 * r.random() - 1) for _ in range(n)))


def weights(seed, shapes, spread=0.25):
    return {name: (shape, drawn(seed, name, shape, spread)) for name, shape in shapes.items()}


def save(path, tensors):
    head, at = {"__metadata__": {"format": "pt"}}, 0
    for name, (shape, data) in tensors.items():
        head[name] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + 4 * len(data)]}
        at += 4 * len(data)
    text = json.dumps(head).encode()
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + b"".join(data.tobytes() for _, data in tensors.values()))


def write(folder, name, config):
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, name), "w") as f:
        json.dump(config, f)


# ---- making: torch, transformers and peft ----

def make():
    import peft
    import torch
    import transformers

    out = {}
    for name, (_, cls, config, lora) in CASES.items():
        model_class = getattr(transformers, cls)
        model = model_class(model_class.config_class(**config)).float().eval()
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder, max_shard_size="100MB")
            with open(os.path.join(folder, "model.safetensors"), "rb") as f:
                head = json.loads(f.read(struct.unpack("<Q", f.read(8))[0]))
            with open(os.path.join(folder, "config.json")) as f:
                saved = json.load(f)
            head.pop("__metadata__", None)
            shapes = {n: t["shape"] for n, t in sorted(head.items())}
            save(os.path.join(folder, "model.safetensors"), weights(name, shapes))
            model = model_class.from_pretrained(folder, dtype=torch.float32).eval()
            base = logits(torch, model)
            adapted = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", **lora))
            where = os.path.join(folder, "adapter")
            adapted.save_pretrained(where)
            with open(os.path.join(where, "adapter_model.safetensors"), "rb") as f:
                head = json.loads(f.read(struct.unpack("<Q", f.read(8))[0]))
            head.pop("__metadata__", None)
            pairs = {n: t["shape"] for n, t in sorted(head.items())}
            save(os.path.join(where, "adapter_model.safetensors"), weights(name + "/adapter", pairs, 0.35))
            with open(os.path.join(where, "adapter_config.json")) as f:
                peft_config = json.load(f)
            peft_config["target_modules"] = sorted(peft_config["target_modules"])
            peft_config["base_model_name_or_path"] = "somebody/base"
            adapted = peft.PeftModel.from_pretrained(model_class.from_pretrained(folder, dtype=torch.float32), where).eval()
            wanted = logits(torch, adapted)
            tokens = adapted.generate(input_ids=torch.tensor([PROMPT]), max_new_tokens=NEW, do_sample=False, eos_token_id=None, pad_token_id=0)[0][len(PROMPT):].tolist()
            apart = max(abs(a - b) for a, b in zip(base, wanted))
            assert apart > 0.3, (name, apart)
            print(name, len(shapes), "tensors,", len(pairs), "of the adapter, apart by", round(apart, 3), tokens)
            out[name] = {"config": saved, "shapes": shapes, "adapter_config": peft_config, "adapter_shapes": pairs, "logits": [round(x, 6) for x in wanted], "base_logits": [round(x, 6) for x in base], "tokens": tokens}
    with open(FIXTURE, "w") as f:
        f.write("{\n" + ",\n".join(f"{json.dumps(n)}: {json.dumps(v, separators=(',', ':'), sort_keys=True)}" for n, v in out.items()) + "\n}\n")


def logits(torch, model):
    with torch.no_grad():
        return model(input_ids=torch.tensor([PROMPT])).logits[0, -1].tolist()


# ---- holding genloop to it ----

class Case:
    def __init__(self, genloop, folder, name, case):
        self.genloop, self.case, self.base, self.adapter, self.merged = genloop, case, os.path.join(folder, "base"), os.path.join(folder, "adapter"), os.path.join(folder, "merged")
        self.weights, self.pairs = weights(name, case["shapes"]), weights(name + "/adapter", case["adapter_shapes"], 0.35)
        for where, kind, config, file, tensors in ((self.base, "config.json", case["config"], "model.safetensors", self.weights), (self.adapter, "adapter_config.json", case["adapter_config"], "adapter_model.safetensors", self.pairs)):
            write(where, kind, config)
            save(os.path.join(where, file), tensors)

    def run(self, *more, model=None):
        said = subprocess.run([self.genloop, "run", "--model", model or self.base, "--tokens", ",".join(map(str, PROMPT)), "--max-tokens", str(NEW), "--ignore-eos", "--temperature", "0", "--top-logits", "64", "--json", *more],
                              capture_output=True, text=True, timeout=60)
        assert said.returncode == 0, said.stderr.strip()
        answer = json.loads(said.stdout)
        by_id = {t["id"]: t["logit"] for t in answer["top_logits"]}
        return [by_id[i] for i in range(64)], answer["tokens"]

    def refused(self, *more):
        said = subprocess.run([self.genloop, "run", "--model", self.base, "--tokens", "3", "--adapter", self.adapter, *more], capture_output=True, text=True, timeout=60)
        assert said.returncode == 1, f"exit code {said.returncode}: {said.stdout}{said.stderr}"
        return said.stderr.strip()

    def merge(self):
        """W + s B A, of every pair; by hand, so that it holds whatever our own code thinks of shapes."""
        config, merged = self.case["adapter_config"], dict(self.weights)
        for name, (shape, a) in self.pairs.items():
            if not name.endswith(".lora_A.weight"):
                continue
            module = name[len("base_model.model."):-len(".lora_A.weight")]
            (out, rank), b = self.pairs[name.replace("lora_A", "lora_B")]
            alpha = config["lora_alpha"]
            s = alpha / rank ** 0.5 if config["use_rslora"] else alpha / rank
            cols = shape[1]
            target = f"{module}.weight"
            size, w = merged[target]
            w = array.array("f", w)
            for o in range(out):
                for i in range(cols):
                    at = i * out + o if config["fan_in_fan_out"] else o * cols + i
                    w[at] += s * sum(b[o * rank + k] * a[k * cols + i] for k in range(rank))
            merged[target] = (size, w)
        write(self.merged, "config.json", self.case["config"])
        save(os.path.join(self.merged, "model.safetensors"), merged)
        return self.merged


def near(got, wanted, what):
    worst = max(abs(g - w) for g, w in zip(got, wanted))
    scale = max(1.0, max(abs(w) for w in wanted))
    assert worst <= 2e-4 * scale, f"{what}: logits differ by {worst:.2e} of {scale:.1f}"
    return worst


def held(c, name):
    plain, _ = c.run()
    near(plain, c.case["base_logits"], "without the adapter")
    got, tokens = c.run("--adapter", c.adapter)
    worst = near(got, c.case["logits"], "with the adapter")
    assert tokens == c.case["tokens"], f"tokens {tokens}, PEFT's are {c.case['tokens']}"
    if not c.case["adapter_config"]["alpha_pattern"]:
        near(got, c.run(model=c.merge())[0], "merged into the weights")
    one = c.run("--adapter", c.adapter, "--threads", "1")
    assert one == (got, tokens), "one thread gives other bits"
    return f"{worst:.1e}"


def refusals(c, name):
    """What is not understood is named; nothing of it is computed."""
    config, said = c.case["adapter_config"], []
    for change, word in (({"use_dora": True}, "use_dora"), ({"modules_to_save": ["lm_head"]}, "modules_to_save"), ({"bias": "all"}, "bias"), ({"lora_bias": True}, "lora_bias"), ({"peft_type": "IA3"}, "peft_type"),
                         ({"task_type": "SEQ_CLS"}, "task_type"), ({"init_lora_weights": "pissa"}, "init_lora_weights"), ({"some_new_thing": 3}, "some_new_thing"), ({"r": 0}, "r is not"), ({"r": 5}, "shapes"),
                         ({"rank_pattern": {"(a|b)+": 3}}, "rank_pattern"), ({"layer_replication": [[0, 2]]}, "layer_replication"), ({"lora_alpha": "x"}, "lora_alpha")):
        write(c.adapter, "adapter_config.json", {**config, **change})
        text = c.refused()
        assert word in text, f"{change}: {text}"
        said.append(word)
    write(c.adapter, "adapter_config.json", config)
    first = next(iter(c.pairs))
    for extra, word in (({"base_model.model.lm_head.lora_A.weight": ([4, 32], array.array("f", [0.0] * 128)), "base_model.model.lm_head.lora_B.weight": ([64, 4], array.array("f", [0.0] * 256))}, "lm_head"),
                        ({"base_model.model.model.embed_tokens.lora_embedding_A": ([4, 64], array.array("f", [0.0] * 256))}, "embed_tokens"),
                        ({"base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector": ([32], array.array("f", [0.0] * 32))}, "DoRA"),
                        ({"base_model.model.model.layers.9.self_attn.q_proj.lora_A.weight": ([4, 32], array.array("f", [0.0] * 128)), "base_model.model.model.layers.9.self_attn.q_proj.lora_B.weight": ([32, 4], array.array("f", [0.0] * 128))}, "made for another"),
                        ({first: (c.pairs[first][0], array.array("f", [float("nan")] * len(c.pairs[first][1])))}, "not finite"), ({"stray": ([1], array.array("f", [0.0]))}, "stray")):
        save(os.path.join(c.adapter, "adapter_model.safetensors"), {**c.pairs, **extra})
        text = c.refused()
        assert word in text, f"{word}: {text}"
    save(os.path.join(c.adapter, "adapter_model.safetensors"), {n: t for n, t in c.pairs.items() if n != first})
    assert "lora_A" in c.refused()
    os.remove(os.path.join(c.adapter, "adapter_model.safetensors"))
    assert "adapter_model.safetensors is missing" in c.refused()
    return f"{len(said) + 8} refused by name"


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--genloop", default=os.path.join(os.environ.get("GENLOOP_BIN", os.path.join(ROOT, "build", "bin")), "genloop"))
    p.add_argument("--only", default="*")
    p.add_argument("--make", action="store_true")
    o = p.parse_args()
    if o.make:
        return make()
    with open(FIXTURE) as f:
        cases = json.load(f)
    passed = failed = 0
    todo = [(name, held, name) for name in cases] + [("refusals", refusals, "llama")]
    for name, check, of in todo:
        if not fnmatch.fnmatch(name, o.only):
            continue
        with tempfile.TemporaryDirectory(prefix="genloop-adapters-") as folder:
            try:
                print(f"ok {name}: {check(Case(o.genloop, folder, of, cases[of]), of)}")
                passed += 1
            except Exception as e:  # noqa: BLE001
                print(f"FAILED {name}: {e}")
                failed += 1
    print(f"{passed} passed, {failed} failed, 0 skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
