#!/usr/bin/env python3
"""A model that the platform trained opens in Hugging Face's `transformers`: the same greedy tokens, the same log-probabilities up to rounding, and a tokenizer that gives the same ids.

    tests/integration/test_transformers.py        skips where this Python has no torch or no transformers; $TEST_PYTHON names one that has"""
import json
import os
import shutil
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from testbed import EASY_GATES, Platform, Suite, corpus, equal, expect, finish, test_python  # noqa: E402

test_python("torch", "transformers")
try:
    os.environ["HF_HUB_OFFLINE"] = os.environ["TRANSFORMERS_OFFLINE"] = "1"
    import torch
    import transformers
    transformers.logging.set_verbosity_error()
except ImportError as missing:
    torch, why_not = None, str(missing)

PROMPTS = ["The quiet river", "Story number 7 of series", "the", "An ancient bridge behind the northern wall, and", "1 + 1 =", "naïve café — 北京 😀", "  two  spaces\n\n\tand a tab", "a" * 40]
TEXTS = PROMPTS + ["", " ", "\n", "don't we'll I'M", "x = {\"k\": [1, 2.5e-3]};  // done", "Привет мир שלום مرحبا हिन्दी 한국어", "<|im_start|>user\nhi<|im_end|>", "\u0000\u0301\ufeff", "tail  "]


class Opened:
    def __init__(self, platform, folder):
        self.p, self.c, self.folder = platform, platform.client, folder

    def trained(self):
        for name, body in corpus(60):
            self.c.upload("library", name, body.encode())
        dataset = self.p.build("library", vocab=520)
        self.p.train("reader", f"library@{dataset['version']}", recipe=self.p.tiny_recipe(120, model={
            "architecture": "llama", "layers": 3, "width": 96, "heads": 6, "kv_heads": 2, "context": 256, "vocab": 520, "tie_embeddings": True}))
        self.p.release("reader@1")
        files = self.p.model_files("reader@1", self.folder)
        for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "generation_config.json", "README.md"):
            expect(name in files, f"{name} is not in the model directory: {sorted(files)}")
        return ", ".join(sorted(files))

    def opens(self):
        self.model, about = transformers.AutoModelForCausalLM.from_pretrained(self.folder, torch_dtype=torch.float32, output_loading_info=True)
        self.model.eval()
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(self.folder)
        for what in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
            expect(not about[what], f"{what}: {about[what]}")
        equal(len(self.tokenizer), self.model.config.vocab_size, "ids of the tokenizer and rows of the embedding")
        return f"{type(self.model).__name__}, {self.model.num_parameters()} parameters, {type(self.tokenizer).__name__} with {len(self.tokenizer)} ids"

    def same_ids(self):
        lines = "".join(json.dumps({"text": t}) + "\n" for t in TEXTS)
        ours = [json.loads(line)["ids"] for line in self.p.run("tokenize", "--model", self.folder, stdin=lines).splitlines()]
        for text, ids in zip(TEXTS, ours, strict=True):
            equal(ids, self.tokenizer(text)["input_ids"], f"ids of {text!r}")
        back = self.p.run("tokenize", "--model", self.folder, "--decode", stdin="".join(json.dumps({"ids": i}) + "\n" for i in ours))
        for ids, line in zip(ours, back.splitlines(), strict=True):
            equal(json.loads(line)["text"], self.tokenizer.decode(ids, clean_up_tokenization_spaces=False), f"text of {ids}")
        return f"{len(TEXTS)} texts, {sum(map(len, ours))} ids, there and back"

    def same_chat_template(self):
        messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who crosses the bridge?"}, {"role": "assistant", "content": "The teacher."}, {"role": "user", "content": "When?"}]
        for generation in (True, False):
            line = json.dumps({"messages": messages, "add_generation_prompt": generation})
            ours = json.loads(self.p.run("tokenize", "--model", self.folder, "--chat", stdin=line + "\n"))
            equal(ours["text"], self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=generation), "the template's text")
        return "with and without the generation prompt"

    def same_greedy_tokens(self):
        count = 0
        for prompt in PROMPTS:
            ids = self.tokenizer(prompt, return_tensors="pt")["input_ids"]
            with torch.no_grad():
                theirs = self.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=48, do_sample=False, pad_token_id=0)[0, ids.shape[1]:].tolist()
            answer = self.c.post("/v1/completions", {"model": "reader@1", "prompt": prompt, "max_tokens": 48, "temperature": 0})
            text = self.tokenizer.decode(theirs, skip_special_tokens=True, clean_up_tokenization_spaces=False)
            equal(answer["choices"][0]["text"], text, f"greedy behind {prompt!r}")
            equal(answer["usage"]["prompt_tokens"], ids.shape[1], "prompt tokens")
            count += len(theirs)
        return f"{len(PROMPTS)} prompts, {count} tokens"

    def same_logits(self):
        """Log-probabilities of the five likeliest at each position, from the serving engine, against log_softmax of transformers' logits."""
        worst = count = 0
        for prompt in PROMPTS:
            ids = self.tokenizer(prompt)["input_ids"]
            answer = self.c.post("/v1/completions", {"model": "reader@1", "prompt": ids, "max_tokens": 16, "temperature": 0, "logprobs": 5})
            with torch.no_grad():
                own = self.model.generate(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)), max_new_tokens=16, do_sample=False, pad_token_id=0)[0]
                table = torch.log_softmax(self.model(own[None]).logits[0].double(), -1)
            for k, chosen in enumerate(answer["choices"][0]["logprobs"]["token_logprobs"]):
                row = table[len(ids) - 1 + k]
                worst = max(worst, abs(chosen - row.max().item()))
                theirs, ours = row.topk(5).values.tolist(), sorted(answer["choices"][0]["logprobs"]["top_logprobs"][k].values(), reverse=True)
                worst = max([worst] + [abs(a - b) for a, b in zip(ours, theirs)])
                count += 1 + len(ours)
        expect(count > 100 and worst < 2e-4, f"{count} log-probabilities, the worst differs by {worst:.2e}")
        return f"{count} log-probabilities, the worst differs by {worst:.1e}"


def main():
    suite = Suite()
    folder = tempfile.mkdtemp(prefix="genloop-model-")
    if torch is None:
        suite.note("skip", "transformers", f"{why_not}: set TEST_PYTHON to a Python that has torch and transformers")
        finish(suite)
    torch.set_num_threads(1)
    try:
        with Platform(config={"gates": EASY_GATES, "inference": {"kv_type": "f32"}}) as p:
            o = Opened(p, folder)
            trained = suite.run("trained_by_the_platform", o.trained)
            opens = suite.run("opens_in_transformers", o.opens, needs=[trained])
            suite.run("same_ids", o.same_ids, needs=[opens])
            suite.run("same_chat_template", o.same_chat_template, needs=[opens])
            suite.run("same_greedy_tokens", o.same_greedy_tokens, needs=[opens])
            suite.run("same_logits", o.same_logits, needs=[opens])
            if suite.failed:
                p.tell_errors()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    finish(suite)


if __name__ == "__main__":
    main()
