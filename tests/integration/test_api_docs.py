#!/usr/bin/env python3
"""docs/api.md by doing what it says: its shell blocks in order on a real platform, each by what it should print, and its Python with OpenAI's client where that is installed.

    tests/integration/test_api_docs.py      uses build/bin or $GENLOOP_BIN; about 20 s"""
import importlib.util
import os
import re
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from testbed import BIN, EASY_GATES, ROOT, Platform, Skip, Suite, corpus, expect, finish, short, test_python  # noqa: E402

test_python("openai")
BLOCK = re.compile(r"<!-- (?:run: \"(?P<want>[^\"]+)\"|python) -->\n```(?:sh|python)\n(?P<text>.*?)```", re.S)


def main():
    with open(os.path.join(ROOT, "docs", "api.md"), encoding="utf-8") as f:
        page = f.read()
    blocks = list(BLOCK.finditer(page))
    suite = Suite()
    expect(len(blocks) == page.count("<!-- run:") + page.count("<!-- python"), "a block of docs/api.md is marked and not of the form that is run")
    with Platform(config={"gates": EASY_GATES}) as p:
        work = os.path.join(p.home, "work-of-the-reader")
        os.makedirs(work)
        with open(os.path.join(work, "handbook.txt"), "w", encoding="utf-8") as f:
            f.write("\n\n".join(body for _, body in corpus(1)))
        for name, body in corpus(60, seed=3):  # the page shows one; gates need some
            p.client.upload("handbook", name, body.encode())
        environment = {**p.environment, "PATH": BIN + os.pathsep + os.environ["PATH"], "GENLOOP_API_KEY": p.json("keys", "create", "--scope", "approver")["key"]}

        def shell(text, want):
            done = subprocess.run(["bash", "-euo", "pipefail", "-c", text], cwd=work, env=environment, capture_output=True, text=True, timeout=300)
            expect(done.returncode == 0, f"exit code {done.returncode}: {short(done.stdout + done.stderr, 600)}")
            expect(re.search(want, done.stdout, re.I), f"{want!r} is not in what it prints: {short(done.stdout, 600)}")
            return short(done.stdout, 160)

        def python(text):
            if not importlib.util.find_spec("openai"):
                raise Skip("openai is not installed: scripts/test-python")
            done = subprocess.run([sys.executable, "-c", text], cwd=work, env=environment, capture_output=True, text=True, timeout=120)
            expect(done.returncode == 0 and done.stdout.strip(), f"exit code {done.returncode}: {short(done.stderr, 600)}")
            return short(done.stdout, 120)

        before = [True]
        if not shutil.which("jq"):
            suite.note("skip", "shell_blocks", "jq is not installed")
        for i, block in enumerate(blocks):
            title = re.findall(r"^#+ (.+)$", page[:block.start()], re.M)[-1].lower().replace(" ", "_")
            if block["want"] and shutil.which("jq"):
                before.append(suite.run(f"{i + 1:02}_{title}", shell, block["text"], block["want"], needs=before[-1:] if len(before) < 10 else ()))
            elif not block["want"]:
                suite.run(f"{i + 1:02}_{title}_in_python", python, block["text"], needs=[all(before)])
        if suite.failed:
            p.tell_errors()
    finish(suite)


if __name__ == "__main__":
    main()
