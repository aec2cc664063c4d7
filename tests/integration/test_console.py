#!/usr/bin/env python3
"""The console in a real browser, on the real platform with a tiny model: what a person does there, and what every page owes: no complaint in the browser's console, nothing against its policy, no sideways
scrolling at 360 pixels, nothing serious that axe-core finds.

    tests/integration/test_console.py        uses build/bin or $GENLOOP_BIN; about a minute; needs Debian's chromium, and npm for axe-core (once: it is kept in ~/.cache/genloop-test)"""
import base64
import contextlib
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "support"))
from browser import Browser, chromium  # noqa: E402
from testbed import EASY_GATES, Platform, Skip, Suite, corpus, equal, expect, finish, short, wait_for  # noqa: E402

AXE = ("axe-core", "4.14.1", "FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ==")  # SHA-512 of the archive
SETTLED = "document.querySelector('h1') && !document.querySelector('.waiting, [aria-busy]')"
LISTS = ("chat", "models", "jobs", "datasets", "feedback", "services", "audit")


def axe_source():
    """axe.min.js, by version and digest; Skip where it cannot be had."""
    name, version, digest = AXE
    folder = os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "genloop-test")
    archive = os.path.join(folder, f"{name}-{version}.tgz")
    if not os.path.exists(archive):
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as fresh:
            try:
                subprocess.run(["npm", "pack", "--silent", f"{name}@{version}"], cwd=fresh, check=True, capture_output=True, timeout=90)
            except (OSError, subprocess.SubprocessError) as why:
                raise Skip(f"axe-core cannot be had: npm pack: {short(why)}") from why
            os.replace(os.path.join(fresh, f"{name}-{version}.tgz"), archive)
    with open(archive, "rb") as f:
        data = f.read()
    expect(base64.b64encode(hashlib.sha512(data).digest()).decode() == digest, f"{archive} is not {name} {version}: remove it")
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return tar.extractfile("package/axe.min.js").read().decode()


@contextlib.contextmanager
def slow(pid):
    """A process that stands still most of the time."""
    over = threading.Event()

    def hold():
        while not over.is_set():
            os.kill(pid, signal.SIGSTOP)
            time.sleep(0.02)
            os.kill(pid, signal.SIGCONT)
            time.sleep(0.0004)
    holder = threading.Thread(target=hold)
    holder.start()
    try:
        yield
    finally:
        over.set()
        holder.join()


class Console:
    def __init__(self, platform, browser):
        self.p, self.c, self.b = platform, platform.client, browser
        self.page = browser.page()
        self.seen = 0  # pages that were opened

    def open(self, name, page=None):
        page = page or self.page
        page.goto(f"{self.p.url}/#/{name}")
        page.until(SETTLED, f"#/{name} is there")
        self.seen += 1
        return page

    def quiet(self, page=None):
        page = page or self.page
        page.js("new Promise((done) => requestAnimationFrame(() => setTimeout(done, 0)))")  # what was to be complained of has come
        expect(not page.complaints, f"the browser complains: {page.complaints[:3]}")

    # ---- what is served ----

    def headers(self):
        names = sorted(os.listdir(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "console")))
        files = [n for n in names if n.endswith((".html", ".css", ".js", ".svg"))]
        for path in ["/"] + [f"/console/{n}" for n in files]:
            status, headers, body = self.c.raw("GET", path)
            equal(status, 200, path)
            policy = headers["content-security-policy"]
            for wanted in ("default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "base-uri 'none'"):
                expect(wanted in policy, f"{path}: Content-Security-Policy lacks {wanted}")
            expect("unsafe" not in policy and "http" not in policy and "*" not in policy, f"{path}: Content-Security-Policy {policy}")
            equal((headers["x-content-type-options"], headers["referrer-policy"]), ("nosniff", "no-referrer"), path)
            packed_status, packed, packed_body = self.c.raw("GET", path, headers={"Accept-Encoding": "gzip"})
            if packed.get("content-encoding"):
                import gzip
                equal((packed_status, packed["content-encoding"], gzip.decompress(packed_body)), (200, "gzip", body), f"{path} compressed")
                expect(packed["etag"] != headers["etag"], f"{path}: one ETag for two codings")
            status, again, nothing = self.c.raw("GET", path, headers={"Accept-Encoding": "gzip", "If-None-Match": packed["etag"]})
            equal((status, nothing, again["etag"]), (304, b"", packed["etag"]), f"{path} asked for again")
            status, head, nothing = self.c.raw("HEAD", path)
            equal((status, nothing, head["content-length"]), (200, b"", str(len(body))), f"HEAD {path}")
        equal(self.c.raw("GET", "/console/none.js")[0], 404, "a file that is not there")
        return f"{len(files)} files: policy, digests, codings"

    # ---- what a person does ----

    def empty(self):
        for name, text in (("chat", "No model is released yet"), ("models", "No model yet"), ("jobs", "No job yet"), ("datasets", "No dataset yet"), ("feedback", "No judgement yet"), ("services", "inference-1"), ("audit", "Verify the log")):
            self.open(name).sees("main", text)
            if name in ("chat", "models", "jobs", "datasets", "feedback"):
                self.page.sees(".empty .command", "genloop ")
        self.quiet()
        return "each says what to do first"

    def keyboard(self):
        page = self.open("models")
        at = "(() => { const e = document.activeElement; return e.id || e.textContent.trim() || e.localName; })()"
        page.press("Tab")
        equal(page.js(at), "skip", "the first stop")
        expect(page.js("document.activeElement.getBoundingClientRect().top >= 0"), "the skip link is seen when it is reached")
        page.press("Enter")
        equal(page.js(at), "Models", "behind the skip link")
        page.js("document.activeElement.blur(), scrollTo(0, 0)")
        page.goto(f"{self.p.url}/#/models")
        page.until(SETTLED, "the page is there")
        stops = []
        for _ in range(14):
            page.press("Tab")
            stops.append(page.js(at))
            expect(page.js("getComputedStyle(document.activeElement).outlineStyle !== 'none' || document.activeElement.closest('label:has(:focus-visible)') !== null"), f"no focus is seen on {stops[-1]}")
        for wanted in ("Chat", "Models", "Jobs", "Datasets", "Feedback", "Services", "Audit"):
            expect(wanted in stops, f"the keyboard does not reach {wanted}: {stops}")
        self.quiet()
        return f"{len(stops)} stops, each seen"

    def colours(self):
        page = self.open("models")
        ground = "getComputedStyle(document.documentElement).backgroundColor"
        light = page.js(ground)
        page.look(1280, 800, dark=True)
        dark = page.js(ground)
        expect(light != dark, "the system's dark colours change nothing")
        page.look(1280, 800, dark=False)
        page.js("document.querySelector('#themes input[value=dark]').click()")
        equal(page.js(ground), dark, "dark by the switch")
        self.open("jobs")
        equal(page.js(ground), dark, "dark after loading anew")
        page.js("document.querySelector('#themes input[value=system]').click()")
        equal(page.js(ground), light, "the system's again")
        self.quiet()
        return "system, light and dark"

    def dataset(self):
        self.c.upload("begun", "story.txt", corpus(1)[0][1].encode())
        page = self.open("datasets")
        page.sees("td", "begun")
        page.click("td a", "begun")
        page.sees(".fill-box .figures dd", "1")
        page.sees(".panel", "No version yet")
        page = self.open("datasets")
        for name, body in corpus(40):
            self.c.upload("pages", name, body.encode())
        self.c.upload("pages", "not-text.bin", bytes(range(256)) * 20)
        wait_for("the documents are cleaned", lambda: len([d for d in self.c.pages("/v1/documents?dataset=pages", "documents") if d["state"] != "DOCUMENT_STATE_RECEIVED"]) == 41, 60)
        self.p.build("pages")
        page.click("td a", "pages@1")
        page.sees("h1", "pages@1")
        page.sees(".panel", "What is in it")
        figures = page.until("(() => { const d = Object.fromEntries([...document.querySelectorAll('.fill-box .figures div')].map((e) => [e.firstChild.textContent, e.lastChild.textContent])); return d.Received === '41' ? d : null; })()", "how it fills")
        equal(figures, {"Received": "41", "Accepted": "40", "Rejected": "1", "Waiting": "0"}, "how it fills")
        page.sees(".fill-box td", "binary")
        page.click("summary", "Documents")
        page.sees("details .table td", "story-1-")
        self.quiet()
        return f"pages@1: {figures}"

    def curve(self):
        """A job that is long enough to be watched, and is cancelled by its button."""
        self.c.post("/v1/admin/jobs", {"id": "long", "model": "long", "recipe": self.p.tiny_recipe(100000), "dataset": "pages@1"})
        page = self.open("jobs")
        page.click("td a", "long")
        points = "Number(document.querySelector('.chart')?.dataset.points ?? 0)"
        path = "document.querySelector('.chart path')?.getAttribute('d')"
        first = page.until(f"{points} >= 2 && {points}", "the curve begins")
        drawn = page.js(path)
        page.until(f"{points} > {first} + 2 && {path} !== {json.dumps(drawn)}", "the curve moves")
        page.sees(".badge", "running")
        more = page.js(points)
        step = page.js("document.querySelector('.figures dd').textContent")
        page.click(".actions button", "Pause")
        page.sees(".badge", "paused")
        page.click(".actions button", "Cancel")
        page.click("dialog button", "Cancel the job")
        page.sees(".badge", "cancelled")
        equal(self.c.get("/v1/admin/jobs/long")["state"], "JOB_STATE_CANCELLED", "the job")
        self.quiet()
        return f"from {first} to {more} points, at step {step}; paused and cancelled"

    def approve(self):
        self.p.train("pages", "pages@1", steps=150)
        self.p.wait_state("pages@1", "EVALUATED")
        page = self.open("models")
        page.sees(".callout", "pages@1")
        page.click("td a", "pages@1")
        moves = "[...document.querySelectorAll('[data-move]')].map((e) => e.dataset.move).sort().join()"
        page.until(f"{moves} === 'approve,reject,retire'", "what an evaluated version may become")
        expect(page.js("document.querySelectorAll('.gates .interval').length") >= 5, "the gates are drawn")
        page.click("button", "Fetch and check the record")
        page.sees(".check-line", "SHA-256 is the one that was signed")
        page.click("[data-move=approve]")
        page.click("dialog button", "Approve")  # without a reason: the browser asks for it
        expect(page.js("document.querySelector('dialog textarea:invalid') !== null"), "a reason is asked for")
        page.js("document.querySelector('dialog textarea').focus()")
        page.type("read the answers, they hold")
        page.click("dialog button", "Approve")
        page.sees(".badge", "approved")
        v = self.p.version("pages@1")["version"]
        equal((v["state"], v["reason"]), ("MODEL_STATE_APPROVED", "read the answers, they hold"), "the registry")
        page.until(f"{moves} === 'promote,reject,retire'", "what an approved version may become where nothing is in production")
        page.click("[data-move=promote]")
        page.js("document.querySelector('dialog textarea').focus()")
        page.type("the first version")
        page.click("dialog button", "Promote")
        page.sees(".badge", "production")
        page.until(f"{moves} === 'retire'", "what a first production version may become")
        self.p.wait_serving("pages@1")
        self.quiet()
        return "approved and promoted by their buttons, each with its reason"

    def ask(self, text):
        page = self.page
        page.js("(window.lengths = new Set(), new MutationObserver(() => { const all = document.querySelectorAll('.message.streaming .text'); if (all.length) lengths.add(all[all.length - 1].textContent.length); })"
                ".observe(document.querySelector('.log'), {childList: true, subtree: true, characterData: true}), document.querySelector('.composer textarea').focus())")
        before = page.js("document.querySelectorAll('.answer-facts').length")
        page.type(text)
        page.press("Enter")
        page.until(f"document.querySelectorAll('.answer-facts').length > {before}", "the answer is complete")
        return page.js("lengths.size")

    def chat(self):
        page = self.open("chat")
        page.sees("select[name=model]", "production (pages@1)")
        page.js("(() => { const e = document.querySelector('[name=max_tokens]'); e.value = 200; e.dispatchEvent(new Event('input')); })()")
        with slow(self.p.processes()["inference-1"]["pid"]):  # else a tiny model is done before the second drawing
            for _ in range(10):  # it may also end its answer after a word
                page.click(".heading button", "New conversation")
                pieces = self.ask("The quiet river")
                if pieces >= 3:
                    break
        expect(pieces >= 3, f"the answer came in {pieces} pieces")
        text = page.js("[...document.querySelectorAll('.message.assistant .text')].at(-1).textContent")
        facts = page.js("[...document.querySelectorAll('.answer-facts')].at(-1).textContent")
        expect(text.strip() and "pages@1" in facts and "tokens/s" in facts, f"{text!r}: {facts}")
        self.quiet()
        return f"{pieces} drawings: {short(text, 60)!r} ({facts})"

    def thumb(self):
        page = self.page
        page.click(".message:last-child .thumb[aria-label='Good answer']")
        page.until("document.querySelector('.message:last-child .thumb[aria-label=\"Good answer\"]').ariaPressed === 'true'", "the thumb is pressed")
        events = wait_for("the thumb is in genloop feedback list", lambda: self.p.json("feedback", "list")["events"], 60)
        equal((events[0]["kind"], events[0]["value"], events[0]["model"]), ("FEEDBACK_KIND_THUMB", 1, "pages@1"), "the judgement")
        page.click(".message:last-child button", "Correct")
        page.js("(() => { const t = document.querySelector('dialog textarea'); t.focus(); t.select(); })()")
        page.type("The quiet river crosses the old bridge.")
        page.click("dialog button", "Send the correction")
        page.until("!document.querySelector('dialog')", "the correction was taken")
        wait_for("the correction is there", lambda: any(e["kind"] == "FEEDBACK_KIND_CORRECTION" and e["request_id"] == events[0]["request_id"] for e in self.p.json("feedback", "list")["events"]), 60)
        self.open("feedback").sees("td", "good")
        self.page.sees("td", "correction")
        self.quiet()
        return f"both are about {events[0]['request_id']}"

    def outgrown(self):
        """The second answer of so many tokens does not fit into a context of 256 any more."""
        page = self.page
        self.open("chat")
        page.js("(() => { const e = document.querySelector('[name=max_tokens]'); e.value = 250; e.dispatchEvent(new Event('input')); })()")
        for question in ("The quiet river", "The old bridge", "The heavy window", "The long rain"):
            self.ask(question)
            if page.js("document.querySelector('.message .failure') !== null"):
                break
        page.sees(".failure", "outgrown")
        page.click(".failure button", "Ask without the oldest turn")
        page.until("!document.querySelector('.message .failure') && [...document.querySelectorAll('.answer-facts')].at(-1).textContent.includes('tokens')", "the answer without the oldest turn")
        complaints, page.complaints = page.complaints, []
        expect(all("status of 400" in c for c in complaints), complaints)
        return "says so, and goes on without the oldest turn"

    def stop(self):
        page = self.open("chat")
        page.js("new MutationObserver(() => { const b = document.querySelector('button[aria-label=Stop]'); if (b && !b.hidden) b.click(); }).observe(document.querySelector('.composer'), {attributes: true, subtree: true})")
        self.ask("A long story")
        page.sees(".message:last-child .answer-facts", "stopped by you")
        page.until("!document.querySelector('button[aria-label=Send]').hidden", "one can ask again")
        self.quiet()
        return "an answer that was stopped says so"

    def audit(self):
        page = self.open("audit")
        size = self.c.get("/v1/audit/head")["tree_size"]
        page.click("#audit-verify")
        page.until("document.querySelector('#audit-verdict').dataset.good", "the log is verified")
        verdict, checks = page.js("document.querySelector('#audit-verdict').textContent"), page.js("[...document.querySelectorAll('.checks li')].map((e) => e.dataset.state).join()")
        equal((verdict, checks), (f"Whole: {size}\u00a0records, verified in this browser.", "good,good,good,good,none"), "the verdict")
        page.click("#audit-verify")
        page.until("document.querySelector('.checks li:last-child').dataset.state === 'good'", "it goes on from what was seen")
        page.click("button", "Prove")
        page.sees(".good", "In the tree of")
        false = page.js("""(async () => {
          const m = await import("/console/merkle.js"), get = (path) => fetch(path).then((a) => a.json()), b = m.from_base64;
          const head = await get("/v1/audit/head"), n = head.tree_size, root = b(head.root_hash), key = await m.head_key(b(head.public_key)), out = {};
          for (let i = 0; i < n; i++) {
            const p = await get(`/v1/audit/proof?index=${i}&tree_size=${n}`), path = p.path.map(b), leaf = await m.leaf_hash(p.record);
            if (!m.same(leaf, b(p.record.leaf_hash)) || !(await m.verify_inclusion(leaf, i, n, path, root))) out[`record ${i}`] = "is not proved";
            for (const [what, changed] of [["reason", { ...p.record, reason: p.record.reason + "." }], ["index", { ...p.record, index: i + 1 }], ["actor", { ...p.record, actor: { ...p.record.actor, id: "x" } }], ["detail", { ...p.record, details: { ...p.record.details, x: "1" } }]])
              if (await m.verify_inclusion(await m.leaf_hash(changed), i, n, path, root)) out[`record ${i}`] = `with another ${what} is proved`;
            if (path.length && await m.verify_inclusion(leaf, i, n, path.slice(1), root)) out[`record ${i}`] = "is proved by half a proof";
            if (await m.verify_inclusion(leaf, (i + 1) % n, n, path, root)) out[`record ${i}`] = "is proved in another place";
          }
          for (let from = 1; from <= n; from++) {
            const p = await get(`/v1/audit/proof?from_size=${from}&tree_size=${n}`), path = p.path.map(b), old = b((await get(`/v1/audit?limit=1&page_token=${from - 1}`)).records[0].root_hash), other = old.map((v, i) => (i ? v : v ^ 1));
            if (!(await m.verify_consistency(from, old, n, root, path))) out[`from ${from}`] = "is not consistent";
            if (await m.verify_consistency(from, other, n, root, path)) out[`from ${from}`] = "another root is consistent";
          }
          const sign = b(head.signature);
          if (!(await m.verify_head(key, n, root, head.time_ms, sign))) out.head = "does not verify";
          if (await m.verify_head(key, n + 1, root, head.time_ms, sign) || await m.verify_head(key, n, root, head.time_ms + 1, sign)) out.head = "verifies for another size or time";
          return out;
        })()""")
        equal(false, {}, "proofs, and proofs of what was changed")
        page.js("localStorage.setItem('genloop.audit.seen', JSON.stringify({...JSON.parse(localStorage.getItem('genloop.audit.seen')), root: '00'.repeat(32)}))")
        page.click("#audit-verify")
        page.until("document.querySelector('#audit-verdict').dataset.good === 'false'", "another past is found out")
        self.quiet()
        return f"{size} records; what was changed is found out"

    def key(self):
        """With the first key the gateway begins to ask for one. The last of the checks: there is no way back."""
        keys = {scope: self.p.json("keys", "create", "--scope", scope)["key"] for scope in ("approver", "client")}
        page = self.b.page()
        page.goto(f"{self.p.url}/#/models")

        def give(key, why):
            page.sees("dialog h2", why)
            page.js("document.querySelector('dialog input').focus()")
            page.type(key)
            page.press("Enter")
        give("gl_wrong", "asks for an API key")
        give(keys["client"], "not accepted")
        page.sees(".failure", "operator")  # what the page shows is not a client's to see; it says which scope is
        page.sees(".failure", "use another key")
        page.click(".failure button", "Use another key")
        give(keys["approver"], "Give another API key")
        page.sees("td a", "pages@1")
        equal(page.js("[sessionStorage.length, JSON.stringify(Object.values(sessionStorage)), document.cookie]"), [1, json.dumps([keys["approver"]], separators=(",", ":")), ""], "where the key is")
        expect(not page.js(f"JSON.stringify(Object.values(localStorage)).includes({json.dumps(keys['approver'])})"), "the key is kept beyond the tab")
        page.click("td a", "pages@1")
        page.sees("[data-move=retire]")
        page.click("#key-forget")
        page.sees("dialog h2", "asks for an API key")
        page.press("Escape")
        page.sees(".failure")
        equal(page.js("sessionStorage.length"), 0, "after forgetting")
        expect(all("status of 401" in c or "status of 403" in c for c in page.complaints), page.complaints)
        return "asked for on 401, refused by name of its scope, kept in the session alone, forgotten"

    # ---- what every page owes ----

    def every_page(self):
        return [*LISTS, "models/pages%401", "jobs/job-pages", "datasets/pages%401"]

    def phone(self):
        page, wide = self.b.page(360, 740), []
        for name in self.every_page():
            self.open(name, page)
            for width in (820, 1024, 360):  # wider ones hold tables as tables: nothing of them is cut off
                page.look(width, 740)
                got = page.js("[document.documentElement.scrollWidth, innerWidth, ...[...document.querySelectorAll('.table')].map((e) => e.scrollWidth - e.clientWidth)]")
                if got[0] > got[1] or any(v > 1 for v in got[2:]):
                    wide.append((name, got, page.js("[...document.querySelectorAll('main *')].filter((e) => e.getBoundingClientRect().right > innerWidth + 1).map((e) => e.localName + '.' + e.className).slice(0, 4)")))
        expect(not wide, f"sideways scrolling: {wide}")
        page.click("#menu")
        page.click("#pages a", "Audit")
        page.sees("h1", "Audit")
        expect(page.js("document.querySelector('#menu').ariaExpanded") == "false", "the menu closes behind a choice")
        self.quiet(page)
        return f"{len(self.every_page())} pages at 360 pixels"

    def shifts(self):
        page, moved = self.b.page(), {}
        for name in self.every_page():
            self.open(name, page)
            moved[name] = round(page.js("new Promise((done) => { let sum = 0; new PerformanceObserver((l) => l.getEntries().forEach((e) => { if (!e.hadRecentInput) sum += e.value; })).observe({type: 'layout-shift', buffered: true}); setTimeout(() => done(sum), 300); })"), 3)
        expect(all(v < 0.1 for v in moved.values()), f"what is there moves while the rest comes: {moved}")
        return f"at most {max(moved.values())} (web.dev calls 0.1 good)"

    def accessible(self):
        source, found = axe_source(), []
        for dark in (False, True):
            page = self.b.page(1280, 900, dark)
            for name in self.every_page():
                self.open(name, page)
                found += [(name, dark, v) for v in self.axe(page, source, {"runOnly": ["color-contrast"]} if dark else {})]
        page = self.b.page(360, 740)
        for name in ("chat", "models/pages%401", "audit"):
            self.open(name, page)
            page.click("#menu")
            found += [(name, "phone", v) for v in self.axe(page, source)]
        self.open("models/pages%401", page)
        page.click("[data-move=retire]")
        found += [("dialog", "phone", v) for v in self.axe(page, source)]
        serious = [f for f in found if f[2][1] in ("serious", "critical")]
        expect(not serious, f"axe-core: {serious[:6]}")
        return f"{len(found)} lesser findings" + (f": {sorted({f[2][0] for f in found})}" if found else "")

    @staticmethod
    def axe(page, source, options={}):  # noqa: B006: only read
        """In a world of its own, where the page's policy does not hold: [(rule, impact, where)]."""
        frame = page.send("Page.getFrameTree")["frameTree"]["frame"]["id"]
        world = page.send("Page.createIsolatedWorld", frameId=frame, worldName="axe")["executionContextId"]
        got = page.send("Runtime.evaluate", contextId=world, awaitPromise=True, returnByValue=True, expression=source + "; axe.run(document, " + json.dumps({"resultTypes": ["violations"], **options}) + ").then((r) => r.violations.map((v) => [v.id, v.impact, v.nodes.slice(0, 3).map((n) => n.html.slice(0, 160) + ' | ' + (n.any[0]?.message ?? ''))]))")
        expect("exceptionDetails" not in got, f"axe-core: {short(got.get('exceptionDetails'))}")
        return got["result"]["value"]


def main():
    suite = Suite()
    if not chromium():
        suite.note("skip", "console", "there is no chromium: apt-get install chromium")
        finish(suite)
    with Platform(config={"gates": EASY_GATES, "gateway": {"capture": "full"}}) as p, Browser() as b:
        t = Console(p, b)
        suite.run("files_and_their_headers", t.headers)
        suite.run("empty_pages", t.empty)
        suite.run("keyboard", t.keyboard)
        suite.run("colours", t.colours)
        dataset = suite.run("dataset_fills", t.dataset)
        curve = suite.run("loss_curve_moves", t.curve, needs=[dataset])
        model = suite.run("approved_by_its_button", t.approve, needs=[dataset])
        chat = suite.run("answer_streams", t.chat, needs=[model])
        suite.run("thumb_and_correction", t.thumb, needs=[chat])
        suite.run("outgrown_context", t.outgrown, needs=[chat])
        suite.run("stop", t.stop, needs=[chat])
        suite.run("audit_verified", t.audit, needs=[model])
        suite.run("phone", t.phone, needs=[model, curve])
        suite.run("no_shifts", t.shifts, needs=[model])
        suite.run("accessible", t.accessible, needs=[model])
        suite.run("key", t.key, needs=[model])
        if suite.failed:
            p.tell_errors()
    finish(suite)


if __name__ == "__main__":
    main()
