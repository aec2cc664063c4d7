#!/usr/bin/env python3
"""A model from elsewhere: `genloop import` of a model directory, refused where it is broken and a candidate where it is whole, through the gates and a person's approval to an answer; a GGUF file likewise.

    tests/integration/test_import.py        uses build/bin or $GENLOOP_BIN; about 30 s. $GENLOOP_REAL: the folder with models/smollm2-135m-instruct.gguf; without it that part is skipped"""
import json
import os
import shutil
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from testbed import EASY_GATES, Platform, Skip, Suite, corpus, equal, expect, finish, wait_for  # noqa: E402


class Import:
    def __init__(self, platform, folder):
        self.p, self.c, self.folder = platform, platform.client, folder
        self.dir = os.path.join(folder, "elsewhere")

    def made_elsewhere(self):
        for name, body in corpus(60):
            self.c.upload("texts", name, body.encode())
        wait_for("the documents are cleaned", lambda: [d for d in self.c.pages("/v1/documents?dataset=texts", "documents") if d["state"] == "DOCUMENT_STATE_ACCEPTED"][59:], 60)
        version = self.p.build("texts")["version"]
        self.p.train("made", f"texts@{version}", steps=20)
        wait_for("made@1 is registered", lambda: self.p.version("made@1"), 60)
        self.p.model_files("made@1", self.dir)
        return ", ".join(sorted(os.listdir(self.dir)))

    def refused(self):
        """What is broken does not leave this machine: nothing was sent, and no job was made."""
        broken = os.path.join(self.folder, "broken")
        shutil.copytree(self.dir, broken)
        with open(os.path.join(broken, "model.safetensors"), "r+b") as f:
            f.truncate(os.path.getsize(os.path.join(broken, "model.safetensors")) - 8)
        said = self.p.run("import", broken, "--name", "broken", check=False)
        expect(said.returncode == 1 and "model.safetensors" in said.stderr, f"{said.returncode}: {said.stderr}")
        said = self.p.run("import", os.path.join(self.folder, "nowhere"), "--name", "broken", check=False)
        expect(said.returncode == 1 and "nowhere" in said.stderr, f"{said.returncode}: {said.stderr}")
        equal(self.p.run("import", self.dir, check=False).returncode, 2, "without a name")
        expect(not [j for j in self.c.pages("/v1/admin/jobs", "jobs") if j["kind"] == "JOB_KIND_IMPORT"], "a job was made")
        return said.stderr.strip()

    def unknown_file(self):
        """Files that nobody sent are named before a job is made."""
        status, _, body = self.c.raw("POST", "/v1/admin/jobs", {"model": "x", "kind": "JOB_KIND_IMPORT", "import_spec": {"files": [{"name": "config.json", "content": {"sha256": "0" * 64, "size_bytes": 3}}]}})
        expect(status == 404 and b"purpose model" in body, f"{status} {body}")
        status, _, body = self.c.raw("POST", "/v1/admin/jobs", {"model": "x", "kind": "JOB_KIND_IMPORT", "import_spec": {"files": [{"name": "../config.json", "content": {"sha256": "0" * 64, "size_bytes": 3}}]}})
        expect(status == 400 and b"no name of a model's file" in body, f"{status} {body}")
        return "404, 400"

    def imported(self):
        answer = self.p.json("import", self.dir, "--name", "guest")
        equal(answer["version"], "guest@1", "the version")
        equal(answer["job"]["kind"], "JOB_KIND_IMPORT", "kind")
        self.p.release("guest@1")
        body = {"model": "guest", "prompt": "The quiet river", "max_tokens": 8, "temperature": 0}
        mine = self.c.post("/v1/completions", body)
        wanted = json.loads(self.p.run("run", "--model", self.dir, "--prompt", body["prompt"], "--max-tokens", "8", "--temperature", "0", "--json"))
        equal(mine["choices"][0]["text"], wanted["text"], "what the same files answer without a platform")
        return repr(mine["choices"][0]["text"])

    def gguf(self):
        path = os.path.join(os.environ.get("GENLOOP_REAL", ""), "models", "smollm2-135m-instruct.gguf")
        if not os.path.exists(path):
            raise Skip("$GENLOOP_REAL names no folder with models/smollm2-135m-instruct.gguf")
        answer = json.loads(self.p.run("import", path, "--name", "smol", "--json", timeout=300))
        equal(answer["version"], "smol@1", "the version")
        self.p.release("smol@1", patience_s=400)
        chat = self.c.post("/v1/chat/completions", {"model": "smol", "messages": [{"role": "user", "content": "Write one sentence about the sea."}], "max_tokens": 24, "temperature": 0})
        text = chat["choices"][0]["message"]["content"]
        expect("sea" in text, f"the answer is {text!r}")
        return repr(text)


def main():
    suite = Suite()
    folder = tempfile.mkdtemp(prefix="genloop-import-")
    try:
        with Platform(config={"gates": EASY_GATES}) as p:
            t = Import(p, folder)
            made = suite.run("a_model_made_elsewhere", t.made_elsewhere)
            suite.run("what_is_broken_stays_here", t.refused, needs=[made])
            suite.run("files_that_nobody_sent", t.unknown_file)
            suite.run("a_directory_becomes_a_version_that_answers", t.imported, needs=[made])
            suite.run("a_published_gguf_file_chats", t.gguf, needs=[made])
            if suite.failed:
                p.tell_errors()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    finish(suite)


if __name__ == "__main__":
    main()
