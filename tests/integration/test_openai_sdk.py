#!/usr/bin/env python3
"""OpenAI's own Python client against the gateway, unchanged: chats whole and streamed, asynchronous ones, several choices, completions, models, errors as its exceptions.

    tests/integration/test_openai_sdk.py        skips where there is no Python with openai (scripts/test-python makes one; $TEST_PYTHON names another)

Where ../shared/accept lies beside the project, its openai_api.py runs too, with the checks that the gateway's frame promises."""
import asyncio
import os
import subprocess
import sys
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from testbed import EASY_GATES, ROOT, Platform, Suite, corpus, equal, expect, finish, short, test_python  # noqa: E402

test_python("openai")
try:
    import openai
except ImportError as missing:
    openai, why_not = None, str(missing)

ACCEPT = os.path.join(ROOT, "..", "shared", "accept", "openai_api.py")
ONLY = ("models,chat_shape,chat_stream_[!c],sdk_async,max_tokens,seed,greedy,batch_invariance,parallel_requests,top_p,penalty,multi_turn,unicode_prompts,completion_shape,"
        "completion_stream,bad_json,unknown_path,body_too_large,request_id")
ASK = [{"role": "user", "content": "Who crosses the bridge?"}]


class Sdk:
    def __init__(self, platform):
        self.p = platform
        self.o = openai.OpenAI(base_url=platform.url + "/v1", api_key="none", max_retries=0, timeout=60)

    def model(self):
        for name, body in corpus(60):
            self.p.client.upload("talk", name, body.encode())
        dataset = self.p.build("talk")
        recipe = self.p.tiny_recipe(60, model={"architecture": "llama", "layers": 2, "width": 64, "heads": 2, "kv_heads": 2, "context": 1024, "vocab": 512, "tie_embeddings": True})
        self.p.train("talker", f"talk@{dataset['version']}", recipe=recipe)
        self.p.release("talker@1")
        return "talker@1 in production"

    def models(self):
        ids = [m.id for m in self.o.models.list()]
        expect({"production", "talker", "talker@1"} <= set(ids), f"models: {ids}")
        equal(self.o.models.retrieve("production").object, "model", "object")
        return ", ".join(ids)

    def chat(self):
        a = self.o.chat.completions.create(model="production", messages=ASK, max_tokens=20, temperature=0)
        equal((a.object, a.choices[0].message.role, a.choices[0].finish_reason in ("stop", "length")), ("chat.completion", "assistant", True), "the answer's form")
        equal(a.usage.total_tokens, a.usage.prompt_tokens + a.usage.completion_tokens, "usage")
        self.answer = a.choices[0].message.content
        return repr(self.answer)

    def streamed_chat(self):
        stream = self.o.chat.completions.create(model="production", messages=ASK, max_completion_tokens=20, temperature=0, stream=True, stream_options={"include_usage": True})
        chunks = list(stream)
        equal("".join(c.choices[0].delta.content or "" for c in chunks if c.choices), self.answer, "the stream's text")
        expect(chunks[-1].usage and chunks[-1].usage.completion_tokens > 0 and not chunks[-1].choices, "the last chunk has the usage")
        equal(len({c.id for c in chunks}), 1, "ids of one stream")
        return f"{len(chunks)} chunks, as the whole answer"

    def asynchronous(self):
        async def ask(client, i):
            if i % 2:
                a = await client.chat.completions.create(model="production", messages=ASK, max_tokens=20, temperature=0)
                return a.choices[0].message.content
            text = ""
            async for c in await client.chat.completions.create(model="production", messages=ASK, max_tokens=20, temperature=0, stream=True):
                text += c.choices[0].delta.content or ""
            return text

        async def all_of_them():
            async with openai.AsyncOpenAI(base_url=self.p.url + "/v1", api_key="none", max_retries=0, timeout=60) as client:
                return await asyncio.gather(*(ask(client, i) for i in range(16)))
        answers = asyncio.run(all_of_them())
        equal(set(answers), {self.answer}, "answers of 16 at once")
        return "16 at once, half of them streams: the same answer each"

    def choices(self):
        a = self.o.chat.completions.create(model="production", messages=ASK, max_tokens=16, n=4, seed=5, temperature=1)
        b = self.o.chat.completions.create(model="production", messages=ASK, max_tokens=16, n=4, seed=5, temperature=1)
        texts = [c.message.content for c in a.choices]
        equal([c.index for c in a.choices], [0, 1, 2, 3], "indices")
        equal(texts, [c.message.content for c in b.choices], "the same seed again")
        expect(len(set(texts)) > 1, f"choices do not differ: {texts}")
        return f"4 choices, {len(set(texts))} different, repeatable"

    def completions(self):
        a = self.o.completions.create(model="talker", prompt=["The quiet river", "An old teacher"], max_tokens=8, temperature=0, logprobs=2)
        equal([c.index for c in a.choices], [0, 1], "indices")
        expect(all(len(c.logprobs.token_logprobs) == 8 for c in a.choices), f"log-probabilities: {a.choices[0].logprobs}")
        text = "".join(c.choices[0].text for c in self.o.completions.create(model="talker", prompt="The quiet river", max_tokens=8, temperature=0, stream=True) if c.choices)
        equal(text, a.choices[0].text, "the stream's text")
        return "a list of prompts, log-probabilities, a stream"

    def stop_and_left_early(self):
        full = self.o.completions.create(model="talker", prompt="The quiet river", max_tokens=40, temperature=0).choices[0].text
        word = next(w for w in full.split() if full.index(w) > 5)
        a = self.o.completions.create(model="talker", prompt="The quiet river", max_tokens=40, temperature=0, stop=[word])
        equal((a.choices[0].text, a.choices[0].finish_reason), (full[:full.index(word)], "stop"), f"stopped at {word!r}")
        with self.o.chat.completions.create(model="production", messages=ASK, max_tokens=900, stream=True, extra_body={"ignore_eos": True}) as stream:
            next(iter(stream))
        return f"stopped before {word!r}; a stream that is left ends"

    def errors(self):
        cases = [(openai.NotFoundError, dict(model="nobody", messages=ASK)), (openai.BadRequestError, dict(model="production", messages=ASK, temperature=9)),
                 (openai.BadRequestError, dict(model="production", messages=[])), (openai.BadRequestError, dict(model="production", messages=ASK, extra_body={"nonsense": 1})),
                 (openai.BadRequestError, dict(model="production", messages=ASK, tools=[{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]))]
        for kind, request in cases:
            try:
                self.o.chat.completions.create(**request)
            except kind as e:
                expect(isinstance(e.body, dict) and e.body.get("message") and e.type, f"{request}: the error has no message or type: {e.body}")
            else:
                raise AssertionError(f"{request} was answered")
        return f"{len(cases)} refusals as the client's own exceptions"

    def many_threads(self):
        wrong = []

        def ask():
            for _ in range(4):
                a = self.o.chat.completions.create(model="production", messages=ASK, max_tokens=20, temperature=0)
                if a.choices[0].message.content != self.answer:
                    wrong.append(a.choices[0].message.content)
        threads = [threading.Thread(target=ask) for _ in range(24)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        expect(not wrong, f"{len(wrong)} other answers: {wrong[:2]}")
        return "24 threads of one client, 96 answers, all the same"

    def accept(self, suite):
        """The acceptance script's own lines, one for one."""
        if not os.path.exists(ACCEPT):
            suite.note("skip", "acceptance", "there is no ../shared/accept beside the project")
            return
        done = subprocess.run([sys.executable, ACCEPT, "--url", self.p.url, "--model", "production", "--only", ONLY], capture_output=True, text=True, timeout=900)
        lines = [line.split(" ", 1) for line in done.stdout.splitlines() if line[:5] in ("ok   ", "FAIL ", "skip ")]
        expect(lines, f"openai_api.py printed no check: {short(done.stderr or done.stdout, 500)}")
        for word, rest in lines:
            name, _, detail = rest.strip().partition(": ")
            suite.note(word, f"acceptance.{name}", detail)


def main():
    suite = Suite()
    if openai is None:
        suite.note("skip", "openai", f"{why_not}: scripts/test-python makes a Python that has it")
        finish(suite)
    with Platform(config={"gates": EASY_GATES}) as p:
        s = Sdk(p)
        model = suite.run("a_model_to_talk_to", s.model)
        chat = suite.run("chat", s.chat, needs=[model])
        for check in ("models", "streamed_chat", "asynchronous", "choices", "completions", "stop_and_left_early", "errors", "many_threads"):
            suite.run(check, getattr(s, check), needs=[chat])
        if chat:
            try:
                s.accept(suite)
            except AssertionError as why:
                suite.note("FAIL", "acceptance", str(why))
        if suite.failed:
            p.tell_errors()
    finish(suite)


if __name__ == "__main__":
    main()
