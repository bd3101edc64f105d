"""Hostile input by the hundred thousand against a real server: what was sent, what came back, what it left behind.

    python benchmarks/hostile.py --json FILE [--calls 92000] [--attacks 8000] [--protected-calls 8000]

Calls and attacks are those of `tests/service/hostile_calls.py` and `hostile_connections.py`. The script fails where
a code is not documented, a valid prompt is not answered exactly as before, or memory, descriptors or threads grow.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import recording

TESTS = recording.REPOSITORY / "tests"
sys.path[:0] = [str(TESTS), str(TESTS / "service")]

from hostile_round import Tally, ask, check_log, documented, hostile_round, tidy, valid_answers  # noqa: E402
from hostile_server import Server, make_site, served  # noqa: E402

SEED = 1
ROUNDS = 8
"""After the first, which warms up, nothing may grow any more."""

GROWTH_MB_MAX = 64
"""Most that memory may have grown from the end of the first round to the end of the last."""

PEAK_MB_MAX = 256
"""Most that memory may ever have been above the end of the first round."""

OPEN_FILES_MORE_MAX, THREADS_MORE_MAX = 2, 4
"""Pools of threads begin theirs one by one, when they are first needed, and have so many that may come late."""


def main() -> None:
    """Attack, print, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", required=True, type=Path, help="where to write the result")
    parser.add_argument("--calls", type=int, default=92_000, help="by clients of gRPC")
    parser.add_argument("--attacks", type=int, default=8_000, help="connections by hand")
    parser.add_argument("--protected-calls", type=int, default=8_000, help="to a server with TLS and tokens")
    parser.add_argument("--protected-attacks", type=int, default=800, help="on a server with TLS and tokens")
    parser.add_argument("--seed", type=int, default=SEED)
    options = parser.parse_args()
    runs = {
        "open": run(options.seed, options.calls, options.attacks, protected=False),
        "with_tls_and_tokens": run(
            options.seed + 1, options.protected_calls, options.protected_attacks, protected=True
        ),
    }
    total = sum(of_run["calls"] + of_run["connections"] for of_run in runs.values())
    bounds = {"growth_mb_max": GROWTH_MB_MAX, "peak_mb_max": PEAK_MB_MAX}
    recording.write(
        options.json, {"benchmark": "hostile", "seed": options.seed, "requests": total, "bounds": bounds, "runs": runs}
    )


def run(seed: int, calls: int, attacks: int, *, protected: bool) -> dict[str, Any]:
    """All rounds against one server; what was sent and seen, and how the server was after each round."""
    tally, states, began = Tally(), [], time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make_site(root)
        right = valid_answers(root / "snapshots" / "tiny.ffn")
        with served(root, protected=protected) as server:
            for number in range(ROUNDS):
                hostile_round(server, tally, seed, _share(calls, number), _share(attacks, number))
                asyncio.run(tidy(server))
                server.calm()
                assert asyncio.run(ask(server)) == right, f"round {number}: a valid prompt is answered differently"
                states.append(_state(server))
                print(f"round {number}: {states[-1]}, failures: {len(tally.failures)}", flush=True)
            codes = server.calls_by_code()
        tally.require_none()
        assert set(codes) <= set(documented()) - {"INTERNAL"}, codes
        lines = check_log(server)
    _require_flat(states)
    return {
        "calls": tally.calls,
        "connections": tally.attacks.total(),
        "frames_calls_and_streams_by_hand": tally.sent.total(),
        "seconds": time.monotonic() - began,
        "failures": len(tally.failures),
        "calls_by_kind_and_code": {kind: dict(counter) for kind, counter in sorted(tally.codes.items())},
        "reasons": dict(tally.reasons.most_common()),
        "connections_by_kind": dict(tally.attacks.most_common()),
        "sent_by_kind_of_connection": dict(tally.sent.most_common()),
        "codes_of_calls_by_hand": dict(tally.raw_codes.most_common()),
        "codes_as_the_server_counts": codes,
        "after_each_round": states,
        "lines_of_the_log": dict(lines),
    }


def _share(numbers: int, round_: int) -> range:
    """The numbers of one round."""
    return range(numbers * round_ // ROUNDS, numbers * (round_ + 1) // ROUNDS)


def _state(server: Server) -> dict[str, float]:
    return {
        "resident_mb": round(server.rss_bytes / 2**20, 1),
        "peak_mb": round(server.peak_bytes / 2**20, 1),
        "threads": server.threads,
        "open_files": server.files,
        "calls_in_flight": int(server.measured("ffnsearch_calls_in_flight")),
    }


def _require_flat(states: list[dict[str, float]]) -> None:
    """Fail where a server has kept something of what came after the first round."""
    first, last = states[0], states[-1]
    assert last["resident_mb"] - first["resident_mb"] <= GROWTH_MB_MAX, states
    assert last["peak_mb"] - first["resident_mb"] <= PEAK_MB_MAX, states
    assert last["threads"] - first["threads"] <= THREADS_MORE_MAX, states
    assert last["open_files"] - first["open_files"] <= OPEN_FILES_MORE_MAX, states
    assert last["calls_in_flight"] == 0, states


if __name__ == "__main__":
    main()
