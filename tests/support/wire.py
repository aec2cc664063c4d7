"""Protobuf and Redis as they are on the wire, as far as the tests look into the log themselves. Standard library only."""
import socket
import struct


# ---- protobuf: a message is a list of (field, value); varints are ints, length-delimited fields bytes, 64-bit fields 8 bytes ----

def varint(value):
    out = bytearray()
    value &= (1 << 64) - 1
    while True:
        out.append(value & 0x7F | (0x80 if value > 0x7F else 0))
        value >>= 7
        if not value:
            return bytes(out)


def unpack(data):
    """The fields of a message in their order."""
    at, fields = 0, []

    def number():
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value
    while at < len(data):
        tag = number()
        field, kind = tag >> 3, tag & 7
        if kind == 0:
            fields.append((field, number()))
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
            fields.append((field, data[at:at + size]))
            at += size
        elif kind == 2:
            size = number()
            if at + size > len(data):
                raise ValueError("a field goes beyond its message")
            fields.append((field, data[at:at + size]))
            at += size
        else:
            raise ValueError(f"wire type {kind}")
    return fields


def field(fields, number, default=None):
    """The last value of a field: what counts."""
    return next((value for n, value in reversed(fields) if n == number), default)


def text(fields, number):
    return field(fields, number, b"").decode()


def pack(fields):
    out = bytearray()
    for number, value in fields:
        if isinstance(value, float):
            out += varint(number << 3 | 1) + struct.pack("<d", value)
        elif isinstance(value, int):
            out += varint(number << 3) + varint(value)
        else:
            value = value.encode() if isinstance(value, str) else value
            out += varint(number << 3 | 2) + varint(len(value)) + value
    return bytes(out)


def replaced(fields, number, value):
    """The message with one field set anew."""
    return [(n, v) for n, v in fields if n != number] + [(number, value)]


# ---- Redis ----

class Redis:
    """One connection to a server on a unix socket."""

    def __init__(self, path, timeout=10):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(timeout)
        self.socket.connect(path)
        self.reader = self.socket.makefile("rb")

    def close(self):
        self.reader.close()
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def __call__(self, *words):
        words = [w if isinstance(w, bytes) else str(w).encode() for w in words]
        self.socket.sendall(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in words))
        return self._reply()

    def _reply(self):
        line = self.reader.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionError("the server went away")
        kind, rest = line[:1], line[1:-2]
        if kind == b"+":
            return rest.decode()
        if kind == b"-":
            raise RuntimeError(rest.decode())
        if kind == b":":
            return int(rest)
        if kind == b"$":
            size = int(rest)
            return None if size < 0 else self.reader.read(size + 2)[:-2]
        return None if int(rest) < 0 else [self._reply() for _ in range(int(rest))]

    def events(self, topic, partitions):
        """Every entry of a topic that is in the log: (stream id, {field: value})."""
        found = []
        for p in range(partitions):
            for at, words in self("XRANGE", f"{topic}:{p}", "-", "+") or []:
                found.append((at.decode(), {words[i].decode(): words[i + 1] for i in range(0, len(words), 2)}))
        return found


TOPICS = {"documents": 4, "datasets": 1, "jobs": 4, "models": 1, "aliases": 1, "feedback": 4, "evaluations": 1, "audit": 1, "interactions": 4, "dead-letters": 1, "files": 1}


def topic_events(home, noun):
    """A topic of the log of a platform with the embedded default."""
    with Redis(f"{home}/run/log.sock") as log:
        return log.events(f"genloop.{noun}.v1", TOPICS[noun])
