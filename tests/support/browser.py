"""Debian's Chromium without a window, driven over its own protocol (CDP) through a pipe: no driver, nothing from a registry. Standard library only.

    with Browser() as b:
        page = b.page(1280, 800)
        page.goto("http://127.0.0.1:8080/")
        page.click("#menu")

What a page complains of (console errors, exceptions, violations of its policy, requests that failed) is kept in page.complaints."""
import base64
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time

# As Chromium runs in a container: no sandbox of its own, no GPU, and nothing in the background that asks hosts on the internet.
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-default-apps",
         "--disable-extensions", "--disable-dev-shm-usage", "--disable-features=Translate,OptimizationHints,MediaRouter,AutofillServerCommunication", "--metrics-recording-only", "--mute-audio",
         "--hide-scrollbars", "--force-color-profile=srgb", "--font-render-hinting=none", "--remote-debugging-pipe"]
MESSAGE_MAX = 256 << 20


def chromium():
    """Its path, or None."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


class Broken(Exception):
    """The browser, or the page, does not do what it is told."""


class Browser:
    def __init__(self, patience_s=60):
        self.path, self.patience_s = chromium(), patience_s
        if not self.path:
            raise Broken("there is no chromium")
        self.folder = tempfile.mkdtemp(prefix="genloop-chromium-", dir=os.environ.get("TEST_TMP"))
        self.process, self.pages, self.last, self.answers, self.rest = None, {}, 0, {}, b""

    def __enter__(self):
        down, up = os.pipe(), os.pipe()
        # Chromium reads from 3 and writes to 4: ours are put out of their way first.
        ours = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 20) for fd in (down[0], up[1], down[1], up[0])]
        for fd in (*down, *up):
            os.close(fd)
        theirs_in, theirs_out, self.write_fd, self.read_fd = ours

        def take_places():
            os.setsid()
            os.dup2(theirs_in, 3)
            os.dup2(theirs_out, 4)
        self.process = subprocess.Popen([self.path, *FLAGS, f"--user-data-dir={self.folder}"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                        pass_fds=(3, 4), preexec_fn=take_places, env={**os.environ, "HOME": self.folder})
        os.close(theirs_in)
        os.close(theirs_out)
        os.set_blocking(self.read_fd, False)
        try:
            self.send("Browser.getVersion")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()
        os.close(self.write_fd)
        os.close(self.read_fd)
        for _ in range(50):  # its children may still be writing
            shutil.rmtree(self.folder, ignore_errors=True)
            if not os.path.exists(self.folder):
                break
            time.sleep(0.05)

    def _take(self, timeout_s):
        """Reads what has come, and hands it on."""
        if not select.select([self.read_fd], [], [], timeout_s)[0]:
            return
        data = os.read(self.read_fd, 1 << 20)
        if not data:
            raise Broken("chromium has ended")
        self.rest += data
        if len(self.rest) > MESSAGE_MAX:
            raise Broken("a message of chromium has no end")
        *messages, self.rest = self.rest.split(b"\0")
        for text in messages:
            m = json.loads(text)
            if "id" in m:
                self.answers[m["id"]] = m
            elif m.get("sessionId") in self.pages:
                self.pages[m["sessionId"]].take(m["method"], m["params"])

    def send(self, method, session=None, **params):
        """A command, and its answer."""
        self.last += 1
        message = {"id": self.last, "method": method, "params": params, **({"sessionId": session} if session else {})}
        os.write(self.write_fd, json.dumps(message).encode() + b"\0")
        number, end = self.last, time.monotonic() + self.patience_s
        while number not in self.answers:
            if time.monotonic() > end:
                raise Broken(f"{method}: no answer within {self.patience_s} s")
            self._take(0.5)
        answer = self.answers.pop(number)
        if "error" in answer:
            raise Broken(f"{method}: {answer['error'].get('message')}")
        return answer["result"]

    def page(self, width=1280, height=800, dark=False):
        """A tab with cookies and storage of its own."""
        context = self.send("Target.createBrowserContext")["browserContextId"]
        target = self.send("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        page = Page(self, self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"])
        self.pages[page.session] = page
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.send(f"{domain}.enable")
        page.look(width, height, dark)
        return page


KEYS = {"Enter": ("Enter", 13, "\r"), "Tab": ("Tab", 9, ""), "Escape": ("Escape", 27, ""), " ": ("Space", 32, " ")}


class Page:
    def __init__(self, browser, session):
        self.browser, self.session, self.complaints, self.loads = browser, session, [], 0

    def send(self, method, **params):
        return self.browser.send(method, self.session, **params)

    def take(self, method, params):
        if method == "Runtime.consoleAPICalled" and params["type"] in ("error", "assert", "warning"):
            self.complaints.append(f"console.{params['type']}: " + " ".join(str(a.get("value", a.get("description", ""))) for a in params["args"]))
        elif method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.complaints.append(f"exception: {details.get('exception', {}).get('description') or details['text']}")
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.complaints.append(f"{params['entry']['source']}: {params['entry']['text']} {params['entry'].get('url', '')}")
        elif method == "Page.loadEventFired":
            self.loads += 1

    def look(self, width, height, dark=False, scale=1):
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=False)
        self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}, {"name": "prefers-reduced-motion", "value": "reduce"}])

    def goto(self, url):
        before = self.loads
        self.send("Page.navigate", url="about:blank")  # so that another #… of the same page is loaded anew too
        self.until(lambda: self.loads > before, "about:blank is loaded")
        before = self.loads
        answer = self.send("Page.navigate", url=url)
        if answer.get("errorText"):
            raise Broken(f"{url}: {answer['errorText']}")
        self.until(lambda: self.loads > before, f"{url} is loaded")

    def js(self, expression):
        """The value of an expression; a promise is waited for."""
        got = self.send("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True, userGesture=True)
        if "exceptionDetails" in got:
            raise Broken(f"{expression[:200]}: {got['exceptionDetails'].get('exception', {}).get('description') or got['exceptionDetails']['text']}")
        return got["result"].get("value")

    def until(self, condition, what, patience_s=None):
        """The first true value of condition(), or of a JavaScript expression."""
        patience_s = patience_s or self.browser.patience_s
        end = time.monotonic() + patience_s
        while True:
            value = self.js(condition) if isinstance(condition, str) else condition()
            if value:
                return value
            if time.monotonic() > end:
                text = self.js("document.body && document.body.innerText.slice(0, 1500)")
                raise AssertionError(f"{what}: not within {patience_s} s; complaints {self.complaints[-5:]}; the page says: {' / '.join((text or '').split(chr(10)))}")
            self.browser._take(0.05)

    def sees(self, selector, text=""):
        """Waits until an element is shown whose text holds `text`."""
        return self.until(f"[...document.querySelectorAll({json.dumps(selector)})].some((e) => e.checkVisibility() && e.textContent.includes({json.dumps(text)}))", f"{selector} {text!r} is shown")

    def click(self, selector, text=""):
        """With the mouse, at its middle: what lies over it would get the click. A click that begins while the page is drawn anew finds nothing and is tried again."""
        find = (f"(() => {{ const e = [...document.querySelectorAll({json.dumps(selector)})].find((e) => e.checkVisibility() && !e.disabled && e.textContent.includes({json.dumps(text)})); if (!e) return null; "
                "e.scrollIntoView({block: 'center'}); const r = e.getBoundingClientRect(), x = r.x + r.width / 2, y = r.y + r.height / 2, top = document.elementFromPoint(x, y); "
                "return r.width && top && (e === top || e.contains(top) || top.contains(e)) ? [x, y] : null; })()")
        x, y = self.until(find, f"{selector} {text!r} can be clicked")
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def type(self, text):
        """Into what has the focus."""
        self.send("Input.insertText", text=text)

    def press(self, key):
        code, number, text = KEYS[key]
        self.send("Input.dispatchKeyEvent", type="keyDown", key=key, code=code, windowsVirtualKeyCode=number, **({"text": text} if text else {}))
        self.send("Input.dispatchKeyEvent", type="keyUp", key=key, code=code, windowsVirtualKeyCode=number)

    def screenshot(self, path, whole=False):
        kind = "webp" if path.endswith(".webp") else "png"
        data = self.send("Page.captureScreenshot", format=kind, captureBeyondViewport=whole, **({"quality": 90} if kind == "webp" else {}))["data"]
        with open(path, "wb") as f:
            f.write(base64.b64decode(data))
