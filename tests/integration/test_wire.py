#!/usr/bin/env python3
"""The contracts stay wire-compatible: proto/genloop/v1 against tests/wire/snapshot.txt, a line for every field, enum value and method.

A field may be added. A field that is removed, renumbered or retyped, a reserved number or name that is used again, a method or an enum value that changes: each is named
and fails. `test_wire.py --accept` writes the snapshot anew where only additions were made; what else changed needs --accept --break and a reason in CHANGELOG.md.
"""
import os
import re
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SNAPSHOT = os.path.join(ROOT, "tests", "wire", "snapshot.txt")
TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}:]|[^\s{}:"]+')


def parse(text):
    """protoc's text format as nested lists of (name, value)."""
    tokens = TOKEN.findall(text)
    at = 0

    def block():
        nonlocal at
        items = []
        while at < len(tokens) and tokens[at] != "}":
            name = tokens[at]
            at += 1
            if tokens[at] == ":":
                at += 1
            if tokens[at] == "{":
                at += 1
                items.append((name, block()))
                at += 1
            else:
                items.append((name, tokens[at].strip('"')))
                at += 1
        return items

    return block()


def get(items, name, otherwise=""):
    return next((v for n, v in items if n == name), otherwise)


def every(items, name):
    return [v for n, v in items if n == name]


def describe():
    """{key: value} of everything that the wire, or a client's generated code, depends on."""
    protos = os.path.join(ROOT, "proto")
    files = sorted("genloop/v1/" + f for f in os.listdir(os.path.join(protos, "genloop", "v1")) if f.endswith(".proto"))
    with tempfile.NamedTemporaryFile() as out:
        subprocess.run(["protoc", "-I", protos, "--descriptor_set_out=" + out.name] + files, check=True)
        with open(out.name, "rb") as binary:
            text = subprocess.run(["protoc", "-I", "/usr/include", "--decode=google.protobuf.FileDescriptorSet", "google/protobuf/descriptor.proto"], stdin=binary,
                                  capture_output=True, check=True, text=True).stdout
    lines = {}

    def message(prefix, m):
        name = prefix + "." + get(m, "name")
        oneofs = [get(o, "name") for o in every(m, "oneof_decl")]
        for f in every(m, "field"):
            kind = get(f, "type").replace("TYPE_", "").lower()
            if get(f, "type_name"):
                kind += " " + get(f, "type_name").lstrip(".")
            label = " repeated" if get(f, "label") == "LABEL_REPEATED" else ""
            oneof = " oneof " + oneofs[int(get(f, "oneof_index"))] if get(f, "oneof_index") else ""
            lines["field %s #%s" % (name, get(f, "number"))] = "%s: %s%s%s" % (get(f, "name"), kind, label, oneof)
        for r in every(m, "reserved_range"):
            for number in range(int(get(r, "start")), int(get(r, "end"))):
                lines["field %s #%d" % (name, number)] = "reserved"
        for word in every(m, "reserved_name"):
            lines["name %s %s" % (name, word)] = "reserved"
        for nested in every(m, "nested_type"):
            message(name, nested)
        for e in every(m, "enum_type"):
            enum(name, e)

    def enum(prefix, e):
        for v in every(e, "value"):
            lines["enum %s.%s #%s" % (prefix, get(e, "name"), get(v, "number", "0"))] = get(v, "name")

    for f in every(parse(text), "file"):
        package = get(f, "package")
        for m in every(f, "message_type"):
            message(package, m)
        for e in every(f, "enum_type"):
            enum(package, e)
        for s in every(f, "service"):
            for m in every(s, "method"):
                lines["method %s.%s/%s" % (package, get(s, "name"), get(m, "name"))] = "%s%s -> %s%s" % (
                    "stream " if get(m, "client_streaming") == "true" else "", get(m, "input_type").lstrip("."),
                    "stream " if get(m, "server_streaming") == "true" else "", get(m, "output_type").lstrip("."))
    return lines


def compare(old, new):
    """What is incompatible, each in words."""
    problems = []
    for key, was in old.items():
        now = new.get(key)
        if now == was:
            continue
        if was == "reserved":
            problems.append("%s was reserved and is used again: %s" % (key, now) if now else "%s is no longer reserved" % key)
        elif now is None:
            problems.append("%s (%s) is gone%s" % (key, was, ": reserve its number" if key.startswith("field") else ""))
        elif now == "reserved":
            name = "name %s %s" % (key.split()[1], was.split(":")[0])
            if name not in new:
                problems.append("%s (%s) is reserved, but its name is not" % (key, was))
        else:
            problems.append("%s was “%s” and is “%s”" % (key, was, now))
    for key, now in new.items():
        if key.startswith("field") and now != "reserved" and "name %s %s" % (key.split()[1], now.split(":")[0]) in old:
            problems.append("%s uses a name again that is reserved" % key)
    return problems


def read():
    with open(SNAPSHOT) as f:
        return dict(line.rstrip("\n").split(" = ", 1) for line in f if " = " in line)


def main():
    new = describe()
    if "--accept" in sys.argv:
        problems = compare(read(), new) if os.path.exists(SNAPSHOT) else []
        if problems and "--break" not in sys.argv:
            sys.exit("\n".join(problems) + "\nThese break clients: bring them back, or give --break too and the reason in CHANGELOG.md.")
        with open(SNAPSHOT, "w") as f:
            f.writelines("%s = %s\n" % item for item in sorted(new.items()))
        return
    old = read()
    checks = [("compatible", compare(old, new)),
              ("additions are in the snapshot", ["%s (%s): tests/integration/test_wire.py --accept" % (k, new[k]) for k in new if k not in old])]
    # A check that cannot fail is none: each kind of break is seen.
    field = next(k for k in old if k.startswith("field") and old[k] != "reserved")
    method = next(k for k in old if k.startswith("method"))
    breaks = {"a removed field": {k: v for k, v in old.items() if k != field}, "a retyped field": {**old, field: old[field] + " repeated"},
              "a changed method": {**old, method: "genloop.v1.Job -> genloop.v1.Job"}, "a removed method": {k: v for k, v in old.items() if k != method}}
    for name, broken in breaks.items():
        checks.append(("sees " + name, [] if compare(old, broken) else ["nothing was said"]))
    checks.append(("sees a reserved number used again", [] if compare({**old, field: "reserved"}, old) else ["nothing was said"]))
    failed = 0
    for name, problems in checks:
        print("%s %s%s" % ("FAIL" if problems else "ok", name, "".join("\n     " + p for p in problems)))
        failed += bool(problems)
    print("%d passed, %d failed" % (len(checks) - failed, failed))
    sys.exit(failed > 0)


main()
