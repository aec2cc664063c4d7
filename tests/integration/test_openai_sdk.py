#!/usr/bin/env python3
"""OpenAI's own Python client against the gateway, unchanged: chats whole and streamed, asynchronous ones, several choices, completions, models, errors as its exceptions.

    tests/integration/test_openai_sdk.py        skips where there is no Python with openai (scripts/test-python makes one; $TEST_PYTHON names another)

Where ../shared/accept lies beside the project, or $ACCEPT names it, its openai_api.py runs too, with the checks that the gateway's frame promises."""
import asyncio
import gzip
import json
import os
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from testbed import EASY_GATES, ROOT, Platform, Suite, corpus, equal, expect, finish, short, test_python, wait_for  # noqa: E402

test_python("openai")
try:
    import openai
except ImportError as missing:
    openai, why_not = None, str(missing)

ACCEPT = os.environ.get("ACCEPT") or os.path.join(ROOT, "..", "shared", "accept", "openai_api.py")
# Without those that judge by the clock (a stream in pieces, a deadline, who leaves): a tiny model is too fast for them, and their like is here.
ONLY = ("models,chat_[!s],chat_shape,chat_stream_[!i],sdk_async,max_tokens,choices_n,seed,greedy,batch_invariance,parallel_requests,top_p,logprobs,stop_,logit_bias,penalty,multi_turn,content_parts,unicode_prompts,completion_,"
        "responses,wrong,bad_json,odd_but_json,unknown_,context_length,body_too_large,method_not_allowed,request_id,answer_headers,trace_context,cors,head,gzip_")
TRUSTED = "https://chat.example"
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
        # An answer that is only its end: a completion lists that token, a chat has no content to list.
        end = dict(model="talker", max_tokens=8, temperature=0, logit_bias={"65": 100}, extra_body={"stop_token_ids": [65]})
        only = self.o.completions.create(prompt="The quiet river", logprobs=2, **end).choices[0]
        equal((only.text, only.finish_reason, len(only.logprobs.tokens), only.logprobs.text_offset), ("", "stop", 1, [0]), "an answer of its end alone")
        expect(only.logprobs.token_logprobs[0] in only.logprobs.top_logprobs[0].values(), f"its log-probability: {only.logprobs}")
        chat = self.o.chat.completions.create(messages=ASK, logprobs=True, **end).choices[0]
        equal((chat.message.content, chat.logprobs.content), ("", []), "a chat of its end alone")
        return "a list of prompts, log-probabilities, a stream"

    def choices_are_requests(self):
        """The k-th choice of a seed is the answer of the seed after k, alone or beside others."""
        def ask(seed, **more):
            return [c.text for c in self.o.completions.create(model="talker", prompt="The quiet river", max_tokens=24, temperature=1, seed=seed, **more).choices]
        alone = [ask(40 + k)[0] for k in range(4)]
        stream = self.o.completions.create(model="talker", prompt="An old teacher", max_tokens=600, stream=True, n=8, extra_body={"ignore_eos": True})
        next(iter(stream))
        equal(ask(40, n=4), alone, "four choices beside eight that stream")
        both = self.o.completions.create(model="talker", prompt=["The quiet river", "Another"], max_tokens=24, temperature=1, seed=40, n=2)
        equal([c.text for c in both.choices][:2], alone[:2], "two choices of the first of two prompts")
        stream.close()
        return "the same alone, as choices of one request, of two prompts, and beside eight streams"

    def echo(self):
        prompt = "The quiet river runs"
        ids = self.p.client.post("/v1/tokenize", {"model": "talker", "prompt": prompt, "return_token_strs": True})
        plain = self.o.completions.create(model="talker", prompt=prompt, max_tokens=5, temperature=0, logprobs=0).choices[0]
        a = self.o.completions.create(model="talker", prompt=prompt, max_tokens=5, temperature=0, logprobs=2, echo=True).choices[0]
        equal(a.text, prompt + plain.text, "the echo and what follows")
        n = ids["count"]
        equal((a.logprobs.tokens[:n], len(a.logprobs.tokens)), (ids["token_strs"], n + 5), "tokens")
        equal((a.logprobs.token_logprobs[0], a.logprobs.top_logprobs[0], a.logprobs.text_offset[0]), (None, None, 0), "the first token")
        equal([round(x, 4) for x in a.logprobs.token_logprobs[n:]], [round(x, 4) for x in plain.logprobs.token_logprobs], "log-probabilities of the answer")
        # A text is as likely by its echo as by forcing it: what comes first in the ranking is what the model would have said.
        scored = self.o.completions.create(model="talker", prompt=a.text, max_tokens=0, echo=True, logprobs=1)
        equal((scored.choices[0].text, scored.usage.completion_tokens), (a.text, 0), "scored alone")
        if scored.usage.prompt_tokens == n + 5:
            equal([round(x, 3) for x in scored.choices[0].logprobs.token_logprobs[1:]], [round(x, 3) for x in a.logprobs.token_logprobs[1:]], "scores of the same text")
        whole = [self.o.completions.create(model="talker", prompt=ids["tokens"], max_tokens=5, temperature=0, logprobs=2, echo=True, n=2).choices[k].logprobs for k in (0, 1)]
        expect(all(w.token_logprobs == a.logprobs.token_logprobs for w in whole), "as token ids, twice")
        text, positions = "", []
        for chunk in self.o.completions.create(model="talker", prompt=prompt, max_tokens=5, temperature=0, logprobs=2, echo=True, stream=True):
            text += chunk.choices[0].text
            positions += chunk.choices[0].logprobs.token_logprobs if chunk.choices[0].logprobs else []
        equal((text, positions), (a.text, a.logprobs.token_logprobs), "in a stream")
        best = self.o.completions.create(model="talker", prompt=prompt, max_tokens=5, temperature=1, seed=1, n=1, best_of=4)
        equal((len(best.choices), best.choices[0].logprobs, best.usage.completion_tokens > 5), (1, None, True), "the best of four, without log-probabilities that nobody asked for")
        return f"{n} tokens of the prompt scored, whole, as ids, in a stream"

    def ids_and_back(self):
        c = self.p.client
        for text in ("The quiet river", "", "\U0001f642 h\u00e9llo \u65e5\u672c\u8a9e\nx"):
            ids = c.post("/v1/tokenize", {"model": "talker", "prompt": text, "add_special_tokens": False})
            equal((ids["count"], c.post("/v1/detokenize", {"model": "talker", "tokens": ids["tokens"]})["prompt"]), (len(ids["tokens"]), text), "there and back")
        chat = c.post("/v1/tokenize", {"model": "talker", "messages": ASK})
        equal(chat["count"], self.o.chat.completions.create(model="talker", messages=ASK, max_tokens=1).usage.prompt_tokens, "tokens of a chat")
        expect(c.post("/v1/detokenize", {"model": "talker", "tokens": chat["tokens"]})["prompt"].startswith("<|im_start|>user\n"), "the chat as its template has it")
        for body, status in (({"model": "nobody", "prompt": "x"}, 404), ({"model": "talker"}, 400), ({"model": "talker", "prompt": 5}, 400)):
            equal(c.raw("POST", "/v1/tokenize", body)[0], status, f"{body}")
        equal(c.raw("POST", "/v1/detokenize", {"model": "talker", "tokens": [4000000000]})[0], 400, "an id beyond the vocabulary")
        return f"{chat['count']} tokens of a chat"

    def beside_the_body(self):
        c, path = self.p.client, "/v1/completions"
        body = {"model": "talker", "prompt": "a", "max_tokens": 1}
        foreign, trusted = {"Origin": "https://evil.example"}, {"Origin": TRUSTED}
        status, headers, _ = c.raw("OPTIONS", path, headers={**trusted, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"})
        equal((status, headers.get("access-control-allow-origin"), headers.get("access-control-allow-methods"), headers.get("access-control-allow-headers")), (204, TRUSTED, "POST", "authorization,content-type"), "a preflight")
        expect("access-control-allow-credentials" not in headers, "nobody gets credentials")
        status, headers, _ = c.raw("OPTIONS", path, headers={**foreign, "Access-Control-Request-Method": "POST"})
        equal((status, [h for h in headers if h.startswith("access-control")]), (204, []), "a preflight of a page that is not trusted")
        equal(c.raw("POST", path, body, headers=foreign)[0], 403, "a request of such a page")
        equal(c.raw("GET", "/v1/models", headers=foreign)[1].get("access-control-allow-origin"), None, "what such a page may read")
        status, headers, _ = c.raw("POST", path, body, headers=trusted)
        equal((status, headers.get("access-control-allow-origin"), headers.get("vary")), (200, TRUSTED, "Origin"), "a request of a page that is trusted")
        equal(c.raw("POST", path, body, headers={"Origin": self.p.url})[0], 200, "a request of our own page")
        equal(c.raw("POST", path, body, headers={"Origin": "http://evil.example", "Host": "evil.example"})[0], 403, "a page whose name was made to mean this machine")
        long = {"model": "talker", "prompt": "a", "max_tokens": 40, "logprobs": 5, "temperature": 0}
        plain = c.raw("POST", path, long, headers={"Accept-Encoding": "identity"})
        coded = c.raw("POST", path, long, headers={"Accept-Encoding": "gzip"})
        equal((plain[1].get("content-encoding"), coded[1].get("content-encoding")), (None, "gzip"), "Content-Encoding")
        equal(json.loads(gzip.decompress(coded[2]))["choices"], json.loads(plain[2])["choices"], "the coded answer")
        expect(len(coded[2]) < len(plain[2]) / 2, f"{len(plain[2])} bytes became {len(coded[2])}")
        for headers, wanted in (({"Content-Type": "text/plain"}, 415), ({"Content-Type": "application/json", "Content-Encoding": "gzip"}, 415), ({"Content-Type": "application/json; charset=utf-8"}, 400)):
            equal(c.raw("POST", path, b"{}", headers=headers)[0], wanted, f"{headers}")
        status, headers, text = c.raw("PUT", path, b"{}")
        equal((status, headers.get("allow"), json.loads(text)["error"]["code"]), (405, "POST", "method_not_allowed"), "405")
        trace = "4bf92f3577b34da6a3ce929d0e0e4736"
        back = c.raw("POST", path, body, headers={"traceparent": f"00-{trace}-00f067aa0ba902b7-01"})[1].get("traceparent", "")
        expect(back.startswith(f"00-{trace}-") and "00f067aa0ba902b7" not in back, f"traceparent {back!r}")
        equal(c.raw("HEAD", "/v1/models")[2], b"", "the body of HEAD")
        equal(c.raw("HEAD", "/v1/admin/models/talker/watch")[0], 200, "HEAD of what never ends")
        return "preflights, origins, gzip, 415, 405, traces, HEAD"

    def doors_to_come(self):
        c = self.p.client
        right = {"messages": {"max_tokens": 1, "messages": ASK}, "images/generations": {"prompt": "a"}, "audio/speech": {"input": "a", "voice": "v"}, "tables": {"rows": 1}}
        of_encoders = {"embeddings": {"input": "a"}, "rerank": {"query": "q", "documents": ["a"]}, "score": {"text_1": "a", "text_2": "b"}, "classify": {"input": "a"}, "moderations": {"input": "a"}}
        for door, body in {**right, **of_encoders}.items():
            seen = []
            for change in ({"model": "talker", "nonsense": 1}, {}, {"model": "nobody"}, {"model": "talker"}):
                status, _, text = c.raw("POST", f"/v1/{door}", {**body, **change})
                error = json.loads(text)["error"]
                seen.append((status, error["code"]))
                expect(error["message"] and error["type"] == "invalid_request_error", f"{door}: {error}")
            equal(seen, [(400, None), (400, None), (404, "model_not_found"), (400, "unsupported_endpoint" if door in right else "unsupported_parameter")], door)
        form = b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\n%s\r\n--x\r\nContent-Disposition: form-data; name="prompt"\r\n\r\na\r\n%s--x--\r\n'
        image = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n\x89PNG\r\n'
        for body, wanted in ((form % (b"talker", image), "unsupported_endpoint"), (form % (b"nobody", image), "model_not_found"), (form % (b"talker", b""), None), ((form % (b"talker", image))[:-9], None)):
            status, _, text = c.raw("POST", "/v1/images/edits", body, headers={"Content-Type": "multipart/form-data; boundary=x"})
            equal((status, json.loads(text)["error"]["code"]), (404 if wanted == "model_not_found" else 400, wanted), f"a form: {text[:200]!r}")
        equal(c.raw("POST", "/v1/images/edits", b"{}", headers={"Content-Type": "application/json"})[0], 415, "no form")
        equal(c.get("/v1/batches")["data"], [], "batches")
        equal([c.raw("GET", f"/v1/{path}")[0] for path in ("batches/batch_1", "monitoring")], [404, 400], "what is not there")
        return f"{len(right) + 1} doors check their request, find the model, and say what is missing"

    def who_leaves_is_forgotten(self):
        """All of a request's choices end when its client goes. It does not read, so that they wait for it with most of their tokens to go."""
        def busy():
            loads = [s["load"] for s in self.p.client.get("/v1/admin/status")["services"] if s["service"] == "inference"]
            expect(loads, "no replica tells its load")
            return sum(load["running"] + load["queued"] for load in loads)
        stream = self.o.completions.create(model="talker", prompt="The quiet river", max_tokens=900, n=32, stream=True, logprobs=20, extra_body={"ignore_eos": True})
        next(iter(stream))
        wait_for("32 sequences are seen", lambda: busy() == 32, 60)
        stream.close()
        wait_for("the replica is idle", lambda: busy() == 0, 60)
        return "32 choices"

    def slow_reader(self):
        """Sixty-four choices with all their candidates are more than anybody holds for a client that does not read: they wait for it, and it misses nothing."""
        stream = self.o.chat.completions.create(model="talker", messages=ASK, max_tokens=150, n=64, stream=True, logprobs=True, top_logprobs=20, temperature=1, extra_body={"ignore_eos": True})
        events = iter(stream)
        next(events)
        time.sleep(4)
        ends, tokens = {}, 0
        for chunk in events:
            for choice in chunk.choices:
                tokens += len(choice.logprobs.content) if choice.logprobs and choice.logprobs.content else 0
                if choice.finish_reason:
                    ends[choice.index] = choice.finish_reason
        equal((len(ends), set(ends.values()), tokens), (64, {"length"}, 64 * 150), "choices, their ends, tokens")
        return f"{tokens} tokens with 20 candidates each"

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
                 (openai.BadRequestError, dict(model="production", messages=ASK, tools=[{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
                                               tool_choice={"type": "function", "function": {"name": "another"}}))]
        for kind, request in cases:
            try:
                self.o.chat.completions.create(**request)
            except kind as e:
                expect(isinstance(e.body, dict) and e.body.get("message") and e.type, f"{request}: the error has no message or type: {e.body}")
            else:
                raise AssertionError(f"{request} was answered")
        for body, param, code in (({"prompt": [1] * 5000}, "prompt", "context_length_exceeded"), ({"prompt": [4000000]}, "prompt", None), ({"prompt": "a", "logit_bias": {"4000000": 1}}, "logit_bias", None),
                                  ({"prompt": "a " * 5000}, "prompt", "context_length_exceeded")): # what only a replica knows
            status, _, text = self.p.client.raw("POST", "/v1/completions", {"model": "talker", "max_tokens": 1, **body})
            error = json.loads(text)["error"]
            equal((status, error["param"], error["code"]), (400, param, code), f"{error['message']}")
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
    with Platform(config={"gates": EASY_GATES, "gateway": {"cors_origins": TRUSTED}, "inference": {"sequences": 64}}) as p:
        s = Sdk(p)
        model = suite.run("a_model_to_talk_to", s.model)
        chat = suite.run("chat", s.chat, needs=[model])
        for check in ("models", "streamed_chat", "asynchronous", "choices", "choices_are_requests", "completions", "echo", "ids_and_back", "beside_the_body", "doors_to_come", "who_leaves_is_forgotten", "slow_reader", "stop_and_left_early", "errors", "many_threads"):
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
