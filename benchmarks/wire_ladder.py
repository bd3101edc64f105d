"""Where a call's time on the wire goes: servers from a bare echo to ours, each of which does a little more.

    python benchmarks/wire_ladder.py --snapshot DIR --json FILE [--profile NAME] [--seconds 3] [--rounds 5]

The engine costs nothing, and a call has one prompt. Rounds go through all servers, and the median counts. A server's
time is that of its process, all threads together: it says more than calls a second do where others use the machine too.
"""

import argparse
import asyncio
import os
from pathlib import Path
from statistics import median
from typing import Any

import query_kinds
import recording
import wire
import wire_load
import wire_servers

from ffnsearch.v1 import ffnsearch_pb2 as pb
from ffnsearch_indexer.store.datastore import Datastore

WARM_UP_S = 1.0
"""Load before a server's time is taken: connections are opened and buffers have grown."""


def main() -> None:
    """Measure, print, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--snapshot", required=True, type=Path)
    parser.add_argument("--json", required=True, type=Path, help="where to write the result")
    parser.add_argument("--profile", help="a profile of the snapshot", default="")
    parser.add_argument("--seconds", type=float, default=3, help="of each run")
    parser.add_argument("--rounds", type=int, default=5, help="through all servers")
    options = parser.parse_args()
    requests = _requests(options.snapshot, options.profile)
    echoes = _echo_requests(options.snapshot, requests[0])
    runs: dict[str, list[dict[str, float]]] = {rung: [] for rung in wire_servers.RUNGS}
    for _ in range(options.rounds):
        for rung, found in runs.items():
            sent = echoes if rung == "echo" else requests
            found.append(_run(rung, options.snapshot, sent, options.seconds))
    result = {
        "benchmark": "wire_ladder",
        "callers": wire.CALLERS,
        "seconds_per_run": options.seconds,
        "rounds": options.rounds,
        "rungs": _rungs(runs),
    }
    recording.write(options.json, result)
    print(table(result))


def _requests(snapshot: Path, profile: str) -> list[bytes]:
    """Requests of one prompt each, as text."""
    with Datastore.open(snapshot, check="sizes") as datastore:
        name = profile or datastore.manifest.default_profile
        texts = [datastore.tokenizer.decode(one) for one in query_kinds.prompts(datastore, "unseen", wire.PROMPTS)]
    return [pb.PredictRequest(prompts=[pb.Prompt(text=text)], profile_name=name).SerializeToString() for text in texts]


def _echo_requests(snapshot: Path, request: bytes) -> list[bytes]:
    """A request to echo with the sizes of a call."""
    with wire.served("free", snapshot) as (address, _):
        return wire.echo_requests(address, request)


def _run(rung: str, snapshot: Path, requests: list[bytes], seconds: float) -> dict[str, float]:
    """Calls a second of a new server, and its microseconds of processor time a call."""
    method = wire_servers.ECHO_METHOD if rung == "echo" else wire.PREDICT
    with wire.served(rung, snapshot) as (address, pid):

        def load(seconds: float) -> wire_load.Load:
            return asyncio.run(wire_load.closed_loop(address, method, requests, wire.CALLERS, seconds))

        load(WARM_UP_S)
        before_s = _processor_s(pid)
        found = load(seconds)
        spent_s = _processor_s(pid) - before_s
    return {"calls_per_second": found.calls_per_second, "processor_us": 1e6 * spent_s / found.answers}


def _processor_s(pid: int) -> float:
    """Processor time of a process so far, all threads, in the kernel too."""
    fields = (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _rungs(runs: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Medians by rung; shares are of the echo's calls a second in the same round."""
    found = {}
    for rung, ours in runs.items():
        shares = [
            one["calls_per_second"] / echo["calls_per_second"] for one, echo in zip(ours, runs["echo"], strict=True)
        ]
        found[rung] = {
            "does": wire_servers.RUNGS[rung],
            "calls_per_second": median(one["calls_per_second"] for one in ours),
            "share_of_echo": median(shares),
            "processor_us": median(one["processor_us"] for one in ours),
            "runs": ours,
        }
    return found


def table(result: dict[str, Any]) -> str:
    """The ladder as a table in Markdown."""
    lines = ["| server | calls/s | of the echo's | µs of processor time a call |", "|---|---|---|---|"]
    for rung, found in result["rungs"].items():
        lines.append(
            f"| {rung}: {found['does']} | {found['calls_per_second']:,.0f} | {found['share_of_echo']:.0%} | "
            f"{found['processor_us']:.0f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
