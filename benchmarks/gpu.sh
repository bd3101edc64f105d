#!/usr/bin/env bash
# All checks and measurements of the search on a GPU, in less than 8 minutes; one line says so where there is none.
#   benchmarks/gpu.sh [FILE.json] [more options of gpu.py]
set -euo pipefail

REPOSITORY=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PYTHON=${PYTHON:-python3}
RESULT=${OUT:-$REPOSITORY/benchmarks/results}/gpu.json
if [[ $# -gt 0 && $1 != -* ]]; then
    RESULT=$1
    shift
fi

if ! "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null; then
    echo "there is no GPU that torch of $PYTHON can use: nothing was measured" >&2
    exit 1
fi
export PYTHONPATH=$REPOSITORY/indexer:$REPOSITORY/service:$REPOSITORY/protos${PYTHONPATH:+:$PYTHONPATH}
exec "$PYTHON" "$REPOSITORY/benchmarks/gpu.py" --json "$RESULT" "$@"
