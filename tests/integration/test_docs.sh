#!/usr/bin/env bash
# docs/ says what the programs and headers say.
cd "$(dirname "$0")/../.." || exit 1
if scripts/docs --check; then echo "ok docs"; echo "1 passed, 0 failed"; else echo "FAIL docs: run scripts/docs"; echo "0 passed, 1 failed"; exit 1; fi
