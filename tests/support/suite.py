"""Named checks: a line `ok|FAIL|skip NAME: detail` for each, `N passed, N failed, N skipped` at the end, exit code 1 where any failed."""
import os
import sys
import traceback


class Skip(Exception):
    """What is asked for does not apply here; its message says why."""


def expect(condition, detail):
    if not condition:
        raise AssertionError(detail)


def equal(got, want, what):
    expect(got == want, f"{what}: {short(repr(got), 300)} instead of {short(repr(want), 300)}")


def short(text, length=200):
    text = " ".join(str(text).split())
    return text if len(text) <= length else text[: length - 1] + "…"


class Suite:
    """Checks run one after another in the order written: a later one may go on from what an earlier one left, and is skipped where that one failed."""

    def __init__(self):
        self.count = {"ok": 0, "FAIL": 0, "skip": 0}
        self.failed = []

    def note(self, word, name, detail=""):
        self.count[word] += 1
        if word == "FAIL":
            self.failed.append(name)
        print(f"{word:4} {name}: {detail or 'as specified'}", flush=True)
        return word == "ok"

    def run(self, name, check, *arguments, needs=()):
        """True where it passed. `needs`: results of earlier checks without which this one means nothing."""
        if not all(needs):
            return self.note("skip", name, "what it rests on failed")
        try:
            return self.note("ok", name, check(*arguments))
        except Skip as why:
            return self.note("skip", name, str(why))
        except AssertionError as why:
            return self.note("FAIL", name, short(why, 1200))
        except Exception as why:  # whatever a client raises is this check's failure, never the program's
            if os.environ.get("TEST_TRACE"):
                traceback.print_exc()
            return self.note("FAIL", name, short(f"{type(why).__name__}: {why}", 1200))

    def close(self):
        print(f"{self.count['ok']} passed, {self.count['FAIL']} failed, {self.count['skip']} skipped", flush=True)
        return 1 if self.count["FAIL"] else 0


def finish(suite):
    sys.exit(suite.close())
