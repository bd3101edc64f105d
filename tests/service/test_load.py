"""A load is what it says: calls begin when they are due, none is left out, the figures are those of the calls."""

import asyncio
import itertools
import json
import time

import pytest
from scripted import Scripted, busy, scripted_server

from ffnsearch_service.client.results import Info
from ffnsearch_service.load import measuring as load
from ffnsearch_service.load.measuring import Load, Reply, Sample, at_rate, by_callers, due_times
from ffnsearch_service.load.service import TEXT, builtin_prompts
from ffnsearch_service.load.summary import summary

STAGES_NS = (1, 2, 3, 4, 5, 15)


async def answer_at_once() -> Reply:
    return Reply("OK", STAGES_NS)


def latencies_s(found: Load) -> list[float]:
    return sorted(sample.done_s - sample.due_s for sample in found.samples)


async def test_a_stall_is_charged_with_every_call_that_came_meanwhile():
    free = asyncio.Lock()
    calls = itertools.count()

    async def one_at_a_time() -> Reply:
        async with free:
            await asyncio.sleep(0.5 if next(calls) == 0 else 0)
        return Reply("OK", STAGES_NS)

    found = await at_rate(one_at_a_time, 200, 1.0, arrivals="constant")
    late = [latency_s for latency_s in latencies_s(found) if latency_s > 0.1]
    assert len(found.samples) == 200
    assert len(late) >= 70  # those that were due in the first 0.4 s
    assert latencies_s(found)[-1] >= 0.4
    closed = await by_callers(one_at_a_time, 1, 0.2)
    assert closed.samples  # callers that wait would have told of one slow call


async def test_calls_begin_when_they_are_due():
    found = await at_rate(answer_at_once, 100, 0.5, arrivals="constant")
    due_s = sorted(sample.due_s for sample in found.samples)
    assert due_s == pytest.approx([number / 100 for number in range(50)])
    assert all(sample.due_s <= sample.begun_s <= sample.done_s for sample in found.samples)
    assert 0.49 <= found.wall_s < 5


def test_arrivals_have_the_rate_and_are_the_same_every_time():
    times = list(due_times(1000, 10, "poisson", 3))
    assert times == list(due_times(1000, 10, "poisson", 3)) != list(due_times(1000, 10, "poisson", 4))
    assert len(times) == pytest.approx(10_000, rel=0.05)
    gaps = [after - before for before, after in itertools.pairwise(times)]
    assert sum(gap > 0.001 for gap in gaps) / len(gaps) == pytest.approx(0.368, abs=0.03)


async def test_calls_beyond_those_that_may_be_unanswered_are_counted_and_not_sent(monkeypatch):
    monkeypatch.setattr(load, "OUTSTANDING_MAX", 5)

    async def slow() -> Reply:
        await asyncio.sleep(0.6)
        return Reply("OK", STAGES_NS)

    found = await at_rate(slow, 100, 0.3, arrivals="constant")
    assert (len(found.samples), found.unsent) == (5, 25)


async def test_callers_never_pause():
    running, most = 0, 0

    async def ask() -> Reply:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1
        return Reply("OK", STAGES_NS)

    found = await by_callers(ask, 4, 0.3)
    assert most == 4
    assert (found.callers, found.rate, found.unsent) == (4, None, 0)
    assert 8 <= len(found.samples) <= 124


async def test_a_load_that_is_cancelled_leaves_no_thread_behind():
    task = asyncio.create_task(at_rate(answer_at_once, 1, 3600))
    await asyncio.sleep(0.1)
    task.cancel()
    started = time.monotonic()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.get_running_loop().shutdown_default_executor()
    assert time.monotonic() - started < 5


def test_a_summary_has_throughput_codes_and_percentiles():
    samples = [
        Sample(0.0, 0.001, 0.010 * (number + 1), Reply("OK", (0, 0, 0, 0, 0, 4_000_000))) for number in range(100)
    ]
    refused = [Sample(0.0, 0.0, 0.002, Reply("RESOURCE_EXHAUSTED"))] * 20
    found = summary(Load(50.0, None, 2.0, 7, (*samples, *refused)), prompts_per_call=8)
    assert (found["rate"], found["callers"], found["calls"], found["unsent"]) == (50.0, None, 120, 7)
    assert (found["calls_per_second"], found["prompts_per_second"]) == (50.0, 400.0)
    assert list(found["codes"]) == ["OK", "RESOURCE_EXHAUSTED"]
    latency_ms = found["codes"]["OK"]["latency_ms"]
    assert latency_ms["p50"] == pytest.approx(505)
    assert latency_ms["p99"] == pytest.approx(990, abs=10)
    assert latency_ms["max"] == pytest.approx(1000)
    assert found["codes"]["RESOURCE_EXHAUSTED"]["calls"] == 20
    assert found["stages_ms"]["total"]["p50"] == pytest.approx(4)
    assert found["outside_ms"]["max"] == pytest.approx(1000 - 1 - 4)
    assert found["late_ms"]["max"] == pytest.approx(1)
    nothing = summary(Load(None, 1, 0.0, 0, ()), prompts_per_call=1)
    assert (nothing["calls_per_second"], nothing["codes"], nothing["outside_ms"]) == (0.0, {}, {})


def test_prompts_are_windows_of_a_text_or_random_tokens():
    info = Info({"window_tokens": 10}, {}, tuple(sorted(set(TEXT))), {}, "", "", False, 1.0, {}, "", (), ())
    windows = builtin_prompts(info)
    assert windows[0] == TEXT[:10]
    assert all(len(window) == 10 and window in TEXT for window in windows)
    tokens = builtin_prompts(Info({"window_tokens": 3}, {}, ("a", "b"), {}, "", "", False, 1.0, {}, "", (), ()))
    assert all(len(prompt) == 3 and set(prompt) <= {0, 1} for prompt in tokens)


def test_bench_loads_a_server_at_rates(run, address):
    options = ("--seconds", 0.5, "--prompts-per-call", 2, "--arrivals", "constant", "--connections", 2)
    code, out, _ = run("bench", address, "--rate", "20,40", *options, "--json")
    document = json.loads(out)
    assert code == 0
    assert document["snapshot_id"]
    assert (document["arrivals"], document["prompts_per_call"]) == ("constant", 2)
    assert [(level["rate"], level["calls"]) for level in document["levels"]] == [(20.0, 10), (40.0, 20)]
    for level in document["levels"]:
        assert level["codes"].keys() == {"OK"}
        assert level["prompts_per_second"] == pytest.approx(2 * level["calls_per_second"])
        assert level["stages_ms"]["model"]["p50"] > 0
        assert level["codes"]["OK"]["latency_ms"]["p50"] > level["stages_ms"]["search"]["p50"]


def test_bench_prints_tables(run, address, tmp_path):
    (tmp_path / "prompts.txt").write_text("the people\nFirst Citi\n")
    code, out, _ = run(
        "bench", address, "--callers", "1,2", "--seconds", 0.3, "--prompts-file", tmp_path / "prompts.txt"
    )
    assert code == 0
    assert "callers that never pause" in out
    assert "2 callers" in out
    assert "ms: p50 (p99)" in out


def test_bench_retries_nothing_and_tells_codes(run):
    servicer = Scripted()
    servicer.failures = [None, None, busy(0.01), busy(0.01)]
    with scripted_server(servicer) as address:
        code, out, _ = run("bench", address, "--rate", 50, "--seconds", 0.2, "--arrivals", "constant", "--json")
    (level,) = json.loads(out)["levels"]
    assert code == 0
    assert {name: found["calls"] for name, found in level["codes"].items()} == {"OK": 8, "RESOURCE_EXHAUSTED": 2}


def test_bench_refuses_what_makes_no_sense(run, address, tiny_snapshot, tmp_path):
    (tmp_path / "bad.txt").write_text("caf\u00e9\nthe people\n")
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "twice.txt").write_text("the people\nFirst Citi\nthe people\n")
    for arguments, expected in {
        (tiny_snapshot, "--rate", 5): "--rate is for a server",
        (address, "--batch", "1"): "--batch is for a snapshot",
        (address, "--skip-verify"): "--skip-verify is for a snapshot",
        (address, "--rate", 5, "--callers", 5): "choose one",
        (address, "--arrivals", "constant"): "--rate",
        (address, "--rate", "0"): "above 0",
        (address, "--rate", "100000", "--seconds", 3600): "calls: take less",
        (address, "--callers", "1,x"): "--callers",
        (address, "--prompts-file", tmp_path / "bad.txt", "--prompts-per-call", 2): "U+00E9",
        (address, "--prompts-file", tmp_path / "empty.txt"): "no prompts",
        (
            address,
            "--prompts-file",
            tmp_path / "twice.txt",
            "--prompts-per-call",
            3,
        ): "2 different prompts do not fill a",
        (address, "--prompts-per-call", 1024): "different prompts do not fill a call of 1,024",
        (address, "--profile", "fine"): "fine",
        ("127.0.0.1:1",): "UNAVAILABLE",
    }.items():
        code, out, err = run("bench", *arguments)
        assert (code, out) == (2, ""), arguments
        assert expected in err, arguments
