"""A client of the gateway: plain HTTP, events, and requests that are repeated until they are acknowledged. Standard library only."""
import http.client
import json
import time
from urllib.parse import quote, urlsplit


class Refused(Exception):
    """The gateway answered with an error."""

    def __init__(self, status, body):
        self.status, self.body = status, body
        try:
            self.error = json.loads(body)["error"]
        except (ValueError, KeyError, TypeError):
            self.error = {}
        super().__init__(f"HTTP {status}: {self.error.get('message') or body[:300]!r}")


def retriable(why):
    """Whether the same request may be sent again: what broke, what is not there now, what is full. Anything else is an answer."""
    if isinstance(why, Refused):
        return why.status in (429, 502, 503, 504) or why.status == 500 and why.error.get("type") == "server_error"
    return isinstance(why, (OSError, http.client.HTTPException))


class Client:
    """Opens a connection for each request, so that a broken one is nobody else's. One thread at a time."""

    def __init__(self, url, timeout=60):
        parts = urlsplit(url)
        self.host, self.port, self.timeout = parts.hostname, parts.port, timeout
        self.headers = {}

    def _open(self, method, path, body, headers, timeout):
        connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout or self.timeout)
        headers = {**self.headers, **(headers or {})}
        if body is not None and not isinstance(body, (bytes, bytearray)):
            body = json.dumps(body).encode()
            headers.setdefault("Content-Type", "application/json")
        connection.request(method, path, body=body, headers=headers)
        return connection, connection.getresponse()

    def raw(self, method, path, body=None, headers=None, timeout=None):
        """(status, headers in lower case, body)."""
        connection, answer = self._open(method, path, body, headers, timeout)
        try:
            return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def call(self, method, path, body=None, headers=None, timeout=None):
        """The JSON of an answer; Refused where it is an error."""
        status, _, text = self.raw(method, path, body, headers, timeout)
        if status >= 400:
            raise Refused(status, text)
        return json.loads(text) if text else None

    def get(self, path, **more):
        return self.call("GET", path, **more)

    def post(self, path, body=None, **more):
        return self.call("POST", path, body if body is not None else {}, **more)

    def events(self, path, body=None, headers=None, timeout=None):
        """The data of each event of a stream, as text. Raises Refused before the first; IncompleteRead where the stream breaks off."""
        connection, answer = self._open("GET" if body is None else "POST", path, body, {"Accept": "text/event-stream", **(headers or {})}, timeout)
        try:
            if answer.status >= 400:
                raise Refused(answer.status, answer.read())
            self.answer_headers = {k.lower(): v for k, v in answer.getheaders()}
            lines = []
            while True:
                line = answer.readline()
                if not line:
                    if answer.chunk_left or lines:
                        raise http.client.IncompleteRead(b"\n".join(lines))
                    return
                line = line.rstrip(b"\r\n")
                if line.startswith(b"data:"):
                    lines.append(line[5:].strip())
                elif not line and lines:
                    yield b"\n".join(lines).decode()
                    lines = []
        finally:
            connection.close()

    def upload(self, dataset, source, data, headers=None):
        return self.call("POST", f"/v1/documents?dataset={quote(dataset)}&source={quote(source, safe='')}", data, {"Content-Type": "application/octet-stream", **(headers or {})})

    def pages(self, path, key, limit=500):
        """Every entry of a list."""
        join, token, found = "&" if "?" in path else "?", "", []
        while True:
            page = self.get(f"{path}{join}limit={limit}" + (f"&page_token={quote(token)}" if token else ""))
            found += page.get(key) or []
            token = page.get("next_page_token") or ""
            if not token:
                return found

    def until(self, request, patience_s=60, pause_s=0.05, stop=None):
        """request() again and again until it is acknowledged; what is no fault of the moment is raised at once."""
        end = time.monotonic() + patience_s
        while True:
            try:
                return request()
            except Exception as why:
                if not retriable(why) or time.monotonic() > end or (stop and stop()):
                    raise
            time.sleep(pause_s)


def wait_for(what, condition, patience_s=60, pause_s=0.05):
    """The first true value of condition(); AssertionError after patience_s."""
    end = time.monotonic() + patience_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"{what}: not within {patience_s} s; last: {value!r}")
        time.sleep(pause_s)
