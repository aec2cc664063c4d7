#!/usr/bin/env python3
"""Tools end to end: a tiny model learns one call by heart, and the openai client gets it as a call, whole and in a stream; its result goes back; what only looks like a call stays text.

    tests/integration/test_tools.py        skips where there is no Python with openai (scripts/test-python makes one; $TEST_PYTHON names another)"""
import json
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from testbed import EASY_GATES, Platform, Suite, corpus, equal, expect, finish, short, test_python, wait_for  # noqa: E402

test_python("openai")
try:
    import openai
except ImportError as missing:
    openai, why_not = None, str(missing)

PATIENCE_S = 180
TOOL = {"type": "function", "function": {"name": "weather", "description": "The weather of a city",
                                         "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
# What a template that knows no tools is told, as lib/tokenizer/chat_prompt.c writes it.
WORDS = ("# Tools\n\nYou may call one or more functions to assist with the user query.\n\nYou are provided with function signatures within <tools></tools> XML tags:\n<tools>\n"
         + json.dumps(TOOL, separators=(",", ":")) + "\n</tools>\n\nFor each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:\n"
         '<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>')
ASK = "Weather in Oslo?"


def lines(n):
    def turn(role, content):
        return {"role": role, "content": content}
    one = [turn("system", WORDS), turn("user", ASK), turn("assistant", CALL)]
    two = one + [turn("user", "<tool_response>\nrain\n</tool_response>"), turn("assistant", "It rains.")]
    plain = [turn("user", ASK), turn("assistant", CALL)]
    return "".join(json.dumps({"messages": m}) + "\n" for _ in range(n) for m in (two, plain)).encode()


class Tools:
    def __init__(self, platform):
        self.p = platform
        self.o = openai.OpenAI(base_url=platform.url + "/v1", api_key="none", max_retries=0, timeout=120)
        self.model = None

    def learnt(self):
        for name, body in corpus(60):
            self.p.client.upload("talk", name, body.encode())
        dataset = self.p.build("talk")
        shape = {"architecture": "llama", "layers": 2, "width": 64, "heads": 2, "kv_heads": 2, "context": 1024, "vocab": 512, "tie_embeddings": True}
        self.p.train("talker", f"talk@{dataset['version']}", recipe=self.p.tiny_recipe(60, model=shape))
        self.p.release("talker@1")
        training = self.o.files.create(file=("lines.jsonl", lines(32)), purpose="fine-tune")
        job = self.o.fine_tuning.jobs.create(model="talker@1", training_file=training.id, seed=7,
                                             method={"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 16, "batch_size": 4, "learning_rate_multiplier": 10}}})
        def ended():
            j = self.o.fine_tuning.jobs.retrieve(job.id)
            return j if j.status in ("succeeded", "failed", "cancelled") else None
        job = wait_for("the call is learnt", ended, PATIENCE_S, 0.2)
        expect(job.status == "succeeded", f"{job.status}: {job.error}")
        self.model = job.fine_tuned_model
        self.p.release(f"{self.model}@1")
        losses = [e.data["train_loss"] for e in self.o.fine_tuning.jobs.list_events(job.id, limit=50) if e.type == "metrics"]
        return f"{self.model}, loss {losses[-1]:.2f} to {losses[0]:.3f}"

    def chat(self, messages=None, **more):
        return self.o.chat.completions.create(model=self.model, messages=messages or [{"role": "user", "content": ASK}], max_tokens=120, temperature=0, **more)

    def called(self):
        c = self.chat(tools=[TOOL]).choices[0]
        equal((c.finish_reason, c.message.content), ("tool_calls", None), f"an answer with a call: {short(c, 200)}")
        call = c.message.tool_calls[0]
        expect(call.id.startswith("call_") and call.type == "function" and len(c.message.tool_calls) == 1, f"{call}")
        equal((call.function.name, json.loads(call.function.arguments)), ("weather", {"city": "Oslo"}), "the call")
        return f"{call.function.name}({call.function.arguments})"

    def streamed(self):
        name = arguments = text = ""
        ids, ends = set(), []
        for chunk in self.o.chat.completions.create(model=self.model, messages=[{"role": "user", "content": ASK}], max_tokens=120, temperature=0, tools=[TOOL], stream=True):
            c = chunk.choices[0]
            text += c.delta.content or ""
            for t in c.delta.tool_calls or []:
                equal(t.index, 0, "the call's index")
                ids |= {t.id} if t.id else set()
                name += t.function.name or ""
                arguments += t.function.arguments or ""
            if c.finish_reason:
                ends.append(c.finish_reason)
        equal((name, json.loads(arguments), len(ids), ends, text), ("weather", {"city": "Oslo"}, 1, ["tool_calls"], ""), "the stream")
        return f"{name}({arguments})"

    def answered(self):
        first = self.chat(tools=[TOOL])
        call = first.choices[0].message
        turns = [{"role": "user", "content": ASK}, call.model_dump(exclude_none=True) | {"content": None}, {"role": "tool", "tool_call_id": call.tool_calls[0].id, "content": "rain"}]
        then = self.chat(turns, tools=[TOOL])
        grown = then.usage.prompt_tokens - first.usage.prompt_tokens
        expect(grown > 10, f"call and result are {grown} tokens of the prompt")
        status, _, body = self.p.client.raw("POST", "/v1/tokenize", {"model": self.model, "messages": [{**t, "content": t["content"]} for t in turns], "tools": [TOOL]})
        equal((status, json.loads(body)["count"]), (200, then.usage.prompt_tokens), "the same by /v1/tokenize")
        return f"{grown} tokens more, then {short(then.choices[0].message.content, 40)!r}"

    def required(self):
        other = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}}}
        seen = []
        for choice in ("required", {"type": "function", "function": {"name": "add"}}):
            c = self.o.chat.completions.create(model="talker@1", messages=[{"role": "user", "content": ASK}], max_tokens=300, temperature=1, seed=3, tools=[TOOL, other], tool_choice=choice,
                                               parallel_tool_calls=False).choices[0]
            equal(c.finish_reason, "tool_calls", f"{choice}: {short(c, 200)}")
            call = c.message.tool_calls[0].function
            arguments = json.loads(call.arguments)
            expect(len(c.message.tool_calls) == 1 and (isinstance(arguments["city"], str) if call.name == "weather" else isinstance(arguments["a"], int)), f"{choice}: {call}")
            seen.append(call.name)
        equal(seen[1], "add", "the one that was named")
        return "a model that knows nothing of tools calls them all the same"

    def text_without_tools(self):
        for more in ({}, {"tools": [TOOL], "tool_choice": "none"}, {"tools": [{"type": "function", "function": {"name": "another"}}]}):
            c = self.chat(**more).choices[0]
            expect(not c.message.tool_calls and c.message.content and c.finish_reason != "tool_calls", f"{more}: {short(c, 200)}")
        c = self.chat().choices[0]
        equal(c.message.content, CALL, "what was learnt, as text")
        return "the same words are text where no such tool was given"


def main():
    suite = Suite()
    if openai is None:
        suite.note("skip", "openai", f"{why_not}: scripts/test-python makes a Python that has it")
        finish(suite)
    with Platform(config={"gates": EASY_GATES}) as p:
        t = Tools(p)
        learnt = suite.run("a_model_that_calls", t.learnt)
        for check in ("called", "streamed", "answered", "required", "text_without_tools"):
            suite.run(check, getattr(t, check), needs=[learnt])
        if suite.failed:
            p.tell_errors()
    finish(suite)


if __name__ == "__main__":
    main()
