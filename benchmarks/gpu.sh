#!/usr/bin/env bash
# All checks and measurements of the search on a GPU, in less than 8 minutes; one line says so where there is none.
#   benchmarks/gpu.sh [FILE.json] [more options of gpu.py]
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
PYTHON=${PYTHON:-python3}
RESULT=${1:-${OUT:-benchmarks/results}/gpu.json}
shift || true

if ! "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null; then
    echo "there is no GPU that torch of $PYTHON can use: nothing was measured" >&2
    exit 1
fi
PYTHONPATH=indexer:service:protos${PYTHONPATH:+:$PYTHONPATH} exec "$PYTHON" benchmarks/gpu.py --json "$RESULT" "$@"
