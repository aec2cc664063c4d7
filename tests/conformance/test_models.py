#!/usr/bin/env python3
"""`genloop run` against transformers: the tiny models of the reference vectors, one for each family and each of its ways.

    tests/conformance/test_models.py [--genloop build/bin/genloop] [--vectors DIR] [--only PATTERN]

DIR (default: $GENLOOP_CONFORMANCE, else shared/conformance beside or in the tree) holds check.py and models/; where it is not there, the test says that it
skips. The last line is `N passed, N failed, N skipped`; exit code 1 where something failed."""
import argparse
import os
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SHARED = [os.path.join(ROOT, *up, "shared", "conformance") for up in ([], [".."], ["..", ".."])]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--genloop", default=os.path.join(ROOT, "build", "bin", "genloop"))
    parser.add_argument("--vectors", default=os.environ.get("GENLOOP_CONFORMANCE") or next((d for d in SHARED if os.path.isdir(d)), SHARED[0]))
    parser.add_argument("--only", default="model *")
    args = parser.parse_args()
    check = os.path.join(args.vectors, "check.py")
    for needed, what in ((check, "no reference vectors"), (args.genloop, "not built")):
        if not os.path.exists(needed):
            print(f"skip models: {needed}: {what}\n0 passed, 0 failed, 1 skipped")
            return 0
    run = subprocess.run([sys.executable, check, "--genloop", args.genloop, "--only", args.only], capture_output=True, text=True)
    lines = run.stdout.splitlines()
    passed, failed = sum(line.startswith("ok ") for line in lines), sum(line.startswith("FAIL ") for line in lines)
    print("\n".join(lines[:-1]) if lines else run.stderr)
    if run.returncode != (failed > 0) or passed + failed == 0:
        print(f"FAIL check.py: exit code {run.returncode}\n{run.stderr}")
        failed += 1
    print(f"{passed} passed, {failed} failed, 0 skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
