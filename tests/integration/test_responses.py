#!/usr/bin/env python3
"""/v1/responses, with OpenAI's own client: whole and streamed, calls of functions and their outputs, what is kept and who finds it, what is refused, judgements.

    tests/integration/test_responses.py        skips where there is no Python with openai (scripts/test-python makes one; $TEST_PYTHON names another)"""
import json
import os
import signal
import sys
from typing import Literal

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from testbed import EASY_GATES, Platform, Suite, corpus, equal, expect, finish, test_python, wait_for  # noqa: E402

test_python("openai")
try:
    import openai
    import pydantic
except ImportError as missing:
    openai, why_not = None, str(missing)

ASK = "Who crosses the bridge?"
TOOL = {"type": "function", "name": "cross", "description": "Crosses a bridge.", "strict": True,
        "parameters": {"type": "object", "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 9}}, "required": ["n"], "additionalProperties": False}}
SHAPE = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 9}}, "required": ["n"], "additionalProperties": False}


class Responses:
    def __init__(self, platform):
        self.p = platform
        self.o = openai.OpenAI(base_url=platform.url + "/v1", api_key="none", max_retries=0, timeout=60)

    def ask(self, **more):
        return self.o.responses.create(**{"model": "production", "input": ASK, "temperature": 0, "max_output_tokens": 12, **more})

    def model(self):
        for name, body in corpus(60):
            self.p.client.upload("talk", name, body.encode())
        dataset = self.p.build("talk")
        recipe = self.p.tiny_recipe(40, model={"architecture": "llama", "layers": 2, "width": 64, "heads": 2, "kv_heads": 2, "context": 1024, "vocab": 512, "tie_embeddings": True})
        self.p.train("talker", f"talk@{dataset['version']}", recipe=recipe)
        self.p.release("talker@1")
        return "talker@1 in production"

    def whole(self):
        r = self.ask(instructions="Be brief.", metadata={"a": "b"})
        equal((r.object, r.model, r.error, r.instructions, r.metadata, r.store, r.max_output_tokens), ("response", "talker@1", None, "Be brief.", {"a": "b"}, True, 12), "the response")
        expect(r.status == "completed" or (r.status, r.incomplete_details.reason) == ("incomplete", "max_output_tokens"), f"status {r.status}, {r.incomplete_details}")
        equal(r.usage.total_tokens, r.usage.input_tokens + r.usage.output_tokens, "usage")
        chat = self.o.chat.completions.create(model="production", messages=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": ASK}], temperature=0, max_tokens=12)
        equal((r.output_text, r.usage.input_tokens), (chat.choices[0].message.content, chat.usage.prompt_tokens), "the same as a chat")
        self.first = r
        return f"{r.status}, {r.usage.output_tokens} tokens, as the chat of the same turns"

    def streamed(self):
        events = list(self.ask(instructions="Be brief.", stream=True, include=["message.output_text.logprobs"]))
        equal([e.sequence_number for e in events], list(range(len(events))), "sequence numbers")
        equal([events[i].type for i in (0, 1, 2, 3)], ["response.created", "response.in_progress", "response.output_item.added", "response.content_part.added"], "how it begins")
        equal([e.type for e in events[-4:-1]], ["response.output_text.done", "response.content_part.done", "response.output_item.done"], "how it ends")
        deltas = [e for e in events if e.type == "response.output_text.delta"]
        last = events[-1].response
        equal(("".join(e.delta for e in deltas), events[-1].type), (last.output_text, f"response.{last.status}"), "the last event")
        equal(last.output_text, self.first.output_text, "the same request streamed")
        told = [x.token for x in last.output[0].content[0].logprobs]
        equal((told, len(told) > 0), ([x.token for e in deltas for x in e.logprobs], True), "log-probabilities in pieces and whole")
        equal(self.o.responses.retrieve(last.id).output_text, last.output_text, "what is kept of a stream")
        with self.o.responses.stream(model="production", input=ASK, temperature=0, extra_body={"guided_regex": "[a-z]{6}"}) as stream:  # the client's own gathering; it knows no end but completed
            gathered = [e.snapshot for e in stream if e.type == "response.output_text.delta"]
            final = stream.get_final_response()
            equal((final.status, len(final.output_text), gathered[-1]), ("completed", 6, final.output_text), "as the client gathers it")
        return f"{len(events)} events"

    def kept(self):
        first = self.first
        again = self.o.responses.retrieve(first.id)
        equal(again.to_dict(), first.to_dict(), "what is kept")
        second = self.ask(input=[{"role": "user", "content": [{"type": "input_text", "text": "And then?"}]}], previous_response_id=first.id)
        whole = self.ask(input=[{"role": "user", "content": ASK}, {"role": "assistant", "content": first.output_text}, {"role": "user", "content": "And then?"}])
        equal((second.output_text, second.usage.input_tokens, second.previous_response_id), (whole.output_text, whole.usage.input_tokens, first.id), "going on, and saying all of it again")
        items = [i for i in self.o.responses.input_items.list(second.id, order="asc", limit=1)] # the client follows the pages
        equal([(i.role, i.content[0].text) for i in items], [("user", ASK), ("assistant", first.output_text), ("user", "And then?")], "input items")
        equal([i.id for i in self.o.responses.input_items.list(second.id)], [i.id for i in reversed(items)], "newest first")
        self.o.responses.delete(first.id)
        third = self.ask(input="More?", previous_response_id=second.id)
        expect(third.usage.input_tokens > second.usage.input_tokens, "a conversation is whole without its first response")
        for act in (self.o.responses.retrieve, self.o.responses.delete, self.o.responses.input_items.list):
            try:
                act(first.id)
            except openai.NotFoundError as e:
                expect(first.id in str(e), f"the error names no id: {e}")
            else:
                raise AssertionError(f"{act} finds what was deleted")
        forgotten = self.ask(store=False)
        equal(forgotten.store, False, "store")
        for gone in (forgotten.id, first.id):
            status, _, text = self.p.client.raw("POST", "/v1/responses", {"model": "production", "input": "x", "previous_response_id": gone})
            error = json.loads(text)["error"]
            equal((status, error["param"], error["code"]), (400, "previous_response_id", "previous_response_not_found"), "a response that is not kept")
        return f"three turns, {len(items)} items, deleted and not stored are 404 and 400"

    def calls(self):
        r = self.ask(tools=[TOOL], tool_choice="required", parallel_tool_calls=False, max_output_tokens=100)
        call = r.output[-1]
        equal((call.type, call.name, list(json.loads(call.arguments)), call.status), ("function_call", "cross", ["n"], "completed"), "a call")
        events = list(self.ask(tools=[TOOL], tool_choice={"type": "function", "name": "cross"}, parallel_tool_calls=False, max_output_tokens=100, stream=True))
        done = next(e for e in events if e.type == "response.function_call_arguments.done")
        equal("".join(e.delta for e in events if e.type == "response.function_call_arguments.delta"), done.arguments, "arguments in pieces and whole")
        equal(done.arguments, call.arguments, "the same call streamed")
        back = {"type": "function_call_output", "call_id": call.call_id, "output": "crossed"}
        after = self.ask(input=[back], previous_response_id=r.id, tools=[TOOL], tool_choice="none")
        said = self.ask(input=[{"role": "user", "content": ASK}, *[o.to_dict() for o in r.output], back], tools=[TOOL], tool_choice="none")
        equal((after.output_text, after.usage.input_tokens), (said.output_text, said.usage.input_tokens), "the output of a call, by reference and said again")
        form = self.ask(text={"format": {"type": "json_schema", "name": "s", "strict": True, "schema": SHAPE}}, max_output_tokens=60)
        equal(list(json.loads(form.output_text)), ["n"], "a schema")

        class Crossing(pydantic.BaseModel):
            who: Literal["Ann", "Bob"]
            calm: bool
        parsed = self.o.responses.parse(model="production", input=ASK, text_format=Crossing, temperature=0, max_output_tokens=100).output_parsed
        expect(isinstance(parsed, Crossing), f"parsed: {parsed}")
        return f"cross({call.arguments}), its output, a schema"

    def refused(self):
        c = self.p.client
        for body, status, param, code in (({"temperature": 9}, 400, "temperature", None), ({"truncation": "auto"}, 400, "truncation", "unsupported_parameter"), ({"model": "nobody"}, 404, "model", "model_not_found"),
                                          ({"include": ["reasoning.encrypted_content"]}, 400, "include: reasoning.encrypted_content", "unsupported_parameter"), ({"input": []}, 400, "input", None),
                                          ({"input": "a " * 5000}, 400, "input", "context_length_exceeded"), ({"max_tokens": 5}, 400, "max_tokens", None), ({"background": True}, 400, "background", "unsupported_parameter"),
                                          ({"previous_response_id": "resp_none", "temperature": 9}, 400, "temperature", None),
                                          ({"text": {"format": {"type": "json_schema", "name": "s", "schema": {"type": "strnig"}}}}, 400, "text.format", None)):
            got, _, text = c.raw("POST", "/v1/responses", {"model": "production", "input": "x", "max_output_tokens": 1, **body})
            error = json.loads(text)["error"]
            equal((got, error["param"], error["code"]), (status, param, code), f"{str(body)[:80]}: {error['message'][:200]}")
        equal(c.raw("GET", "/v1/responses/resp_none?stream=true")[0], 400, "a stream of what is kept")
        equal(c.raw("GET", "/v1/responses/resp_none?nonsense=1")[0], 400, "a query that is none")
        equal(c.raw("GET", f"/v1/responses/{self.ask().id}/input_items?limit=0")[0], 400, "a limit")
        return "ten requests, three queries"

    def large(self):
        """Beyond gateway.responses_max it is answered, and says that it is not kept."""
        r = self.ask(metadata={f"key{i}": "v" * 500 for i in range(16)}, max_output_tokens=1)
        equal((r.store, self.p.client.raw("GET", f"/v1/responses/{r.id}")[0]), (False, 404), "a response of 8 kB")
        events = list(self.ask(metadata={f"key{i}": "v" * 500 for i in range(16)}, max_output_tokens=1, stream=True))
        equal((events[0].response.store, events[-1].response.store), (True, False), "and its stream")
        return "8 kB with a limit of 8 KiB: given, not kept"

    def judged(self):
        r = self.ask()
        c = self.p.client
        c.post("/v1/feedback", {"id": "judge-1", "request_id": r.id, "kind": "thumb", "value": 1})
        seen = wait_for("the judgement is there", lambda: c.get("/v1/feedback").get("events"), 60)
        equal((seen[0]["id"], seen[0]["request_id"]), ("judge-1", r.id.removeprefix("resp_")), "what was judged")
        return "by the response's own id"

    def reasons(self):
        """A model whose template begins an answer with <think>; a form holds this untrained one to an end of it."""
        folder = os.path.join(self.p.home, "thinker")
        self.p.model_files("talker@1", folder)
        path = os.path.join(folder, "tokenizer_config.json")
        with open(path, encoding="utf-8") as f:
            config = json.load(f)
        config["chat_template"] = ("{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}"
                                   "<|im_start|>assistant\n<think>\n")
        with open(path, "w", encoding="utf-8") as f:
            json.dump(config, f)
        self.p.json("import", folder, "--name", "thinker")
        self.p.release("thinker@1")
        form = {"model": "thinker", "max_output_tokens": 60, "extra_body": {"guided_regex": "[a-z]{5} [a-z]{5}</think>[a-z]{4}"}}
        r = self.ask(**form)
        equal([o.type for o in r.output], ["reasoning", "message"], "items")
        thought, said = r.output[0].content[0].text, r.output_text
        equal((len(thought), len(said)), (11, 4), f"what it thinks and says: {thought!r}, {said!r}")
        counted = r.usage.output_tokens_details.reasoning_tokens
        expect(0 < counted < r.usage.output_tokens, f"{counted} of {r.usage.output_tokens} tokens are reasoning")
        events = list(self.ask(stream=True, **form))
        deltas = {kind: "".join(e.delta for e in events if e.type == f"response.{kind}.delta") for kind in ("reasoning_text", "output_text")}
        equal((deltas, events[-1].response.usage.output_tokens_details.reasoning_tokens), ({"reasoning_text": thought, "output_text": said}, counted), "streamed")
        chat = self.o.chat.completions.create(model="thinker", messages=[{"role": "user", "content": ASK}], temperature=0, max_tokens=60, extra_body=form["extra_body"])
        equal((chat.choices[0].message.reasoning_content, chat.usage.completion_tokens_details.reasoning_tokens), (thought, counted), "the same chat")
        after = self.ask(model="thinker", input="And?", previous_response_id=r.id, max_output_tokens=1)
        plain = self.ask(model="thinker", input=[{"role": "user", "content": ASK}, {"role": "assistant", "content": said}, {"role": "user", "content": "And?"}], max_output_tokens=1)
        expect(after.usage.input_tokens > plain.usage.input_tokens, "what was thought is not told to the template again")
        return f"{counted} of {r.usage.output_tokens} tokens"

    def cut_off(self):
        """A replica that dies under a stream: the last event says so."""
        pid = next(x["pid"] for x in self.p.processes().values() if x["service"] == "inference")
        stream = self.ask(stream=True, max_output_tokens=900, extra_body={"ignore_eos": True}, temperature=1, top_p=1)
        events = [next(stream) for _ in range(8)]
        os.kill(pid, signal.SIGKILL)
        events += list(stream)
        last = events[-1]
        self.p.wait_serving("production")
        if last.type == "response.incomplete":
            return "the replica was quicker than the signal"
        equal((last.type, last.response.status, last.response.error.code, last.sequence_number), ("response.failed", "failed", "server_error", len(events) - 1), "the last event")
        expect(self.p.home not in last.response.error.message, f"it tells where replicas are: {last.response.error.message}")
        return last.response.error.message

    def redis_away(self):
        """An answer does not wait for a Redis that hangs: it is given, and says that it is not kept."""
        pid = next(x["pid"] for x in self.p.processes().values() if x["service"] == "cache")
        os.kill(pid, signal.SIGSTOP)
        try:
            r = self.ask()
            equal((r.store, r.usage.output_tokens > 0, self.p.client.raw("GET", f"/v1/responses/{r.id}")[0]), (False, True, 503), "while Redis hangs")
        finally:
            os.kill(pid, signal.SIGCONT)
        wait_for("responses are kept again", lambda: self.ask().store, 60)
        return "given without being kept; 503 for what cannot be looked up"

    def erased(self):
        """What is kept of a conversation goes with the key of whom it is about: his own requests, and those that went on from them."""
        keys = os.path.join(self.p.home, "keys", "subjects")
        before = set(os.listdir(keys))
        his, other = (self.ask(user=user) for user in ("reader-7", "reader-8"))
        made = {f for f in set(os.listdir(keys)) - before if f.endswith(".key")}
        nobody = self.ask()
        then = self.ask(input="And then?", previous_response_id=his.id)  # which names nobody, and tells what he said
        both = self.ask(input="And then?", previous_response_id=other.id, safety_identifier="reader-7")
        equal((len(made), set(os.listdir(keys)) - before), (2, made), "a key for each, and for nobody none")
        equal([self.o.responses.retrieve(r.id).output_text for r in (his, other, nobody, then, both)], [r.output_text for r in (his, other, nobody, then, both)], "all are kept")
        first = next(f for f in made if self.seals(f, his))
        done = self.p.json("subject", "erase", "reader-7", "--reason", "he asked for it")
        equal((done["state"], done["existed"], done["tenant"], done["subject"] + ".key"), ("done", True, "default", first), "subject erase")
        equal((os.path.exists(os.path.join(keys, first)), first.replace(".key", ".erased") in os.listdir(keys)), (False, True), "its key, and the tombstone")
        expect("reader-9" in self.p.run("subject", "erase", "reader-9") and "is that whom you meant" in self.p.run("subject", "erase", "reader-7"), "who has nothing, or nothing any more")
        told = [x for x in self.p.json("audit", "list", "--all")["records"] if x["action"] == "subject.erase"]
        equal([(x["object"] + ".key", x["reason"], "reader" in json.dumps(x)) for x in told if x["object"] == done["subject"]], [(first, "he asked for it", False)], "the audit log: once, without his name")
        for words in (["subject", "erase"], ["subject", "erase", ""], ["subject", "erase", "x" * 513], ["subject", "erase", "x", "--tenant", "../etc"]):
            expect(self.p.run(*words, check=False).returncode != 0, f"refused: {words[:3]}")
        for r in (his, then, both):
            for act, kind in ((lambda: self.o.responses.retrieve(r.id), openai.NotFoundError), (lambda: self.o.responses.input_items.list(r.id), openai.NotFoundError),
                              (lambda: self.ask(previous_response_id=r.id), openai.BadRequestError)):
                try:
                    act()
                except kind:
                    continue
                raise AssertionError("what is erased is told")
        equal([self.o.responses.retrieve(r.id).output_text for r in (other, nobody)], [other.output_text, nobody.output_text], "what others said stays")
        late = self.ask(user="reader-7")
        equal((late.store, late.output_text, late.usage.output_tokens), (False, his.output_text, his.usage.output_tokens), "an answer for whom is erased is given, and not kept")
        equal(self.o.responses.delete(then.id), None, "what cannot be read can be deleted")
        return "gone with its key, and what went on from it"

    def seals(self, key, response):
        """Whether a response is sealed with this key: without it, it is not there."""
        path = os.path.join(self.p.home, "keys", "subjects", key)
        os.rename(path, path + ".away")
        try:
            return self.p.client.raw("GET", f"/v1/responses/{response.id}")[0] != 200
        finally:
            os.rename(path + ".away", path)

    def tenants(self):
        """A tenant finds what is his."""
        self.p.json("keys", "create", "--scope", "approver")
        keys = [self.p.json("keys", "create", "--tenant", t)["key"] for t in ("one", "two")]
        one, two = (openai.OpenAI(base_url=self.p.url + "/v1", api_key=k, max_retries=5, timeout=60) for k in keys)
        r = one.responses.create(model="production", input=ASK, max_output_tokens=4)
        equal(one.responses.retrieve(r.id).id, r.id, "who asked finds it")
        for kind, act in ((openai.NotFoundError, lambda: two.responses.retrieve(r.id)), (openai.NotFoundError, lambda: two.responses.delete(r.id)), (openai.NotFoundError, lambda: two.responses.input_items.list(r.id)),
                          (openai.BadRequestError, lambda: two.responses.create(model="production", input="x", previous_response_id=r.id))):
            try:
                act()
            except kind:
                continue
            raise AssertionError("another tenant finds it")
        equal(one.responses.retrieve(r.id).id, r.id, "it is still there")
        return "another tenant finds nothing"


def main():
    suite = Suite()
    if openai is None:
        suite.note("skip", "openai", f"{why_not}: scripts/test-python makes a Python that has it")
        finish(suite)
    with Platform(config={"gates": EASY_GATES, "gateway": {"responses_max": "8KiB"}}) as p:
        r = Responses(p)
        model = suite.run("a_model_to_talk_to", r.model)
        whole = suite.run("whole", r.whole, needs=[model])
        for check in ("streamed", "kept", "calls", "refused", "large", "judged", "reasons", "cut_off", "redis_away", "erased", "tenants"):
            suite.run(check, getattr(r, check), needs=[whole])
        if suite.failed:
            p.tell_errors()
    finish(suite)


if __name__ == "__main__":
    main()
