"""Any number of prompts: answered in order, a few calls at a time, read as they are needed, bad ones alone."""

import asyncio
import codecs
import itertools
import json
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serving import WAIT_S

from ffnsearch_service.client import AsyncClient, Client, many
from ffnsearch_service.client.local import LocalClient
from ffnsearch_service.client.results import PredictResult, PromptResult, Timings
from ffnsearch_service.errors import (
    InvalidRequestError,
    RequestError,
    ResourceExhaustedError,
    UnavailableError,
)


def result_of(prompt: str) -> PromptResult:
    """A made-up result that tells its prompt."""
    nothing = dict.fromkeys(("error", "distribution", "model", "hellinger", "expected_hellinger", "support"))
    return PromptResult(
        "NO_SUPPORT", **nothing, used_tokens=0, short_prompt=False, self_id=prompt, blocks=(), queries=None
    )


def answer_of(prompts: list[str]) -> PredictResult:
    timings = Timings(0, 0, 0, 0, 0, 0)
    return PredictResult(
        "made up", "", "sum", "none", False, 1.0, len(prompts), timings, tuple(map(result_of, prompts))
    )


class Service:
    """Answers as a server does: a call whose prompts are all bad fails with the first, `limit` prompts are too many."""

    def __init__(self, limit: int = 1000, pause_s: float = 0.0) -> None:
        self.calls, self.running, self.most = 0, 0, 0
        self._limit, self._pause_s = limit, pause_s
        self._lock = threading.Lock()

    def __call__(self, prompts: list[str]) -> PredictResult:
        with self._lock:
            self.calls, self.running = self.calls + 1, self.running + 1
            self.most = max(self.most, self.running)
        time.sleep(self._pause_s * (self.calls % 3))
        with self._lock:
            self.running -= 1
        for prompt in prompts:
            if prompt in ("down", "too large"):
                kind = UnavailableError if prompt == "down" else ResourceExhaustedError
                raise kind("Received message larger than max", code="X", reason="X")
        if len(prompts) > self._limit:
            raise InvalidRequestError("prompts: too many", code="INVALID_ARGUMENT", reason="MANY", field="prompts")
        bad = [row for row, prompt in enumerate(prompts) if prompt == "bad"]
        if bad:  # stricter than a server, which fails only where all are bad
            field = f"prompts[{bad[0]}].text"
            raise InvalidRequestError(f"bad is {field}", code="INVALID_ARGUMENT", reason="BAD", field=field)
        return answer_of(prompts)


def run(service, prompts, *, size=3, concurrency=2, **options):
    return many.predict_many(service, prompts, prompts_per_call=size, concurrency=concurrency, **options)


@given(
    prompts=st.lists(st.sampled_from(["a", "b", "bad", "too large"])),
    size=st.integers(1, 9),
    concurrency=st.integers(1, 4),
    limit=st.integers(1, 9),
)
@settings(max_examples=25)
def test_the_results_are_those_of_asking_one_by_one(prompts, size, concurrency, limit):
    service = Service(limit)
    results = list(run(service, prompts, size=size, concurrency=concurrency))
    assert len(results) == len(prompts)
    for row, (prompt, result) in enumerate(zip(prompts, results, strict=True)):
        if prompt in ("bad", "too large"):
            assert (result.status, result.distribution) == ("INVALID", None)
        else:
            assert result == result_of(prompt)
        if prompt == "bad":
            assert (result.error.field, result.error.message) == (f"prompts[{row}].text", f"bad is prompts[{row}].text")

    async def ask(batch):
        return service(batch)

    async def collect():
        stream = many.predict_many_async(ask, prompts, prompts_per_call=size, concurrency=concurrency)
        return [result async for result in stream]

    assert asyncio.run(collect()) == results


def test_results_keep_the_order_of_the_prompts_whatever_is_quicker():
    prompts = [str(number) for number in range(100)]
    service = Service(pause_s=0.002)
    assert [result.self_id for result in run(service, prompts, size=2, concurrency=5)] == prompts
    assert 2 <= service.most <= 5


def test_prompts_are_read_as_they_are_needed():
    read = itertools.count()
    endless = (str(next(read)) for _ in itertools.repeat(None))
    results = run(Service(), endless, size=10, concurrency=3)
    assert [result.self_id for result in itertools.islice(results, 25)] == [str(number) for number in range(25)]
    results.close()
    assert next(read) <= 25 + 10 * 3 * (many.AHEAD + 1)


def test_another_failure_comes_after_the_results_before_it():
    service = Service()
    results = run(service, ["a", "b", "c", "d", "down", *"efghijklmnopqrstuvwxyz" * 9], size=2)
    assert [next(results).self_id for _ in range(4)] == list("abcd")
    with pytest.raises(UnavailableError):
        next(results)
    assert service.calls < 20


@pytest.mark.parametrize("given", [0, 1, 3, 4, 7])
async def test_a_source_that_fails_does_so_after_the_results_of_what_it_gave(given):
    def prompts():
        yield from map(str, range(given))
        raise RequestError("line 8 is no JSON")

    async def arriving():
        for prompt in prompts():
            yield prompt

    async def ask(batch):
        return answer_of(batch)

    found = []
    with pytest.raises(RequestError, match="line 8"):
        found.extend(result.self_id for result in run(Service(pause_s=0.002), prompts()))
    assert found == [str(number) for number in range(given)]
    results = many.predict_many_async(ask, arriving(), prompts_per_call=3, concurrency=2)
    assert [(await anext(results)).self_id for _ in range(given)] == found
    with pytest.raises(RequestError, match="line 8"):
        await anext(results)


def test_progress_counts_results_and_refusals():
    told = []
    list(run(Service(), ["a", "bad", "c", "d"], size=2, progress=lambda *event: told.append(event)))
    assert told == [("predict", 0, 4), ("predict", 2, 4, "1 refused"), ("predict", 4, 4, "1 refused")]
    list(run(Service(), iter("ab"), progress=lambda *event: told.append(event)))
    assert told[-1] == ("predict", 2, 2, "")  # an iterator over a sequence has a length
    list(run(Service(), (prompt for prompt in "ab"), progress=lambda *event: told.append(event)))
    assert told[-1] == ("predict", 2, 0, "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"prompts": "text"}, "give a list of texts"), ({"size": 0}, "at least 1"), ({"concurrency": 257}, "1 to 256")],
)
def test_what_makes_no_sense_is_refused_at_once(arguments, message):
    with pytest.raises(RequestError, match=message):
        run(Service(), **{"prompts": [], **arguments})


PROMPTS = ["the people", "First Citi", "caf\u00e9", [1, 2, 3], "", "no", "\ud800", "speak, spe"]


def test_a_server_and_a_snapshot_opened_here_give_the_same(engine, address, monkeypatch):
    monkeypatch.setattr(engine, "close", lambda: None)  # the engine is the session's
    with Client(address, timeout_s=WAIT_S) as client, LocalClient(engine) as local:
        for size in (1, 3, 8):
            options = {"prompts_per_call": size, "concurrency": 3, "include_model": True}
            ours, theirs = (list(calls.predict_many(iter(PROMPTS), **options)) for calls in (local, client))
            assert ours == theirs
            fields = {row: result.error.field for row, result in enumerate(ours) if result.status == "INVALID"}
            assert fields == {row: f"prompts[{row}].text" for row in (2, 4, 6)}
            assert ours[0] == client.predict(PROMPTS[0], include_model=True).results[0]


@pytest.mark.parametrize("nothing", [5, None, 1.5])
async def test_a_prompt_that_is_none_fails_alone(address, nothing):
    prompts = [nothing, "the people", "no", nothing]
    statuses = ["INVALID", "OK", "OK", "INVALID"]
    with Client(address, timeout_s=WAIT_S) as client:
        found = list(client.predict_many(prompts, prompts_per_call=3))
    assert [result.status for result in found] == statuses
    assert [found[row].error.field for row in (0, 3)] == ["prompts[0]", "prompts[3]"]
    assert "no text, no Queries, and no sequence of token ids" in found[3].error.message
    async with AsyncClient(address, timeout_s=WAIT_S) as client:
        assert [result.status async for result in client.predict_many(prompts, prompts_per_call=3)] == statuses


def test_numbers_one_by_one_are_not_a_prompt(address):
    with Client(address, timeout_s=WAIT_S) as client:
        assert [result.status for result in client.predict_many([13, 52, 42])] == ["INVALID"] * 3
        assert [result.status for result in client.predict_many(np.array([13, 52, 42]))] == ["INVALID"] * 3
        assert [result.status for result in client.predict_many(np.array([[13, 52, 42]]))] == ["OK"]


async def test_the_asynchronous_client_takes_both_kinds_of_iterables(address):
    async def arriving():
        for prompt in PROMPTS:
            await asyncio.sleep(0)
            yield prompt

    async with AsyncClient(address, timeout_s=WAIT_S) as client:
        given_at_once = [result async for result in client.predict_many(PROMPTS, prompts_per_call=3)]
        assert [result async for result in client.predict_many(arriving(), prompts_per_call=3)] == given_at_once
        assert [result.status for result in given_at_once].count("INVALID") == 3
        stream = client.predict_many(itertools.repeat("the people"))
        assert (await anext(stream)).status == "OK"
        await stream.aclose()


async def test_a_source_that_waits_for_results_gets_them(address):
    answered = asyncio.Queue()

    async def conversation():
        for prompt in ("the people", "no", "and"):
            yield prompt
            assert (await answered.get()).status == "OK"

    async with AsyncClient(address, timeout_s=WAIT_S) as client:
        async for result in client.predict_many(conversation(), prompts_per_call=1):
            answered.put_nowait(result)
    assert answered.empty()


def test_a_wrong_option_fails_the_whole(address):
    with Client(address) as client, pytest.raises(InvalidRequestError, match="min_prob"):
        list(client.predict_many(["a", "b"], min_prob=2.0))


def test_the_command_line_answers_a_file_a_line_a_prompt(run, tiny_snapshot, address, tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_bytes("the people\ncaf\u00e9\nFirst Citi\r\n\xff\n".encode("latin-1"))
    lines = []
    for target in (tiny_snapshot, address):
        code, out, err = run("predict", target, "--prompts-file", file, "--jsonl", "--prompts-per-call", 2)
        assert code == 2
        told = f"{file}, line 2: prompts[1].text is no UTF-8, from character 3 on\n"
        assert err == f"error: 2 of 4 prompts were refused; the first: {told}"
        assert err.count("\n") == 1
        lines.append([json.loads(line) for line in out.splitlines()])
    assert lines[0] == lines[1]
    assert [(line["prompt"], line["status"]) for line in lines[0]] == [
        ("the people", "OK"),
        ("caf\udce9", "INVALID"),
        ("First Citi", "OK"),
        ("\udcff", "INVALID"),
    ]
    assert lines[0][0]["hellinger"] > 0


def test_the_command_line_answers_json_lines_and_shows_them_to_a_person(run, address, tmp_path):
    file = tmp_path / "prompts.jsonl"
    file.write_text('"the people"\n[1, 2, 3]\n"First\\nCit"\n')
    code, out, err = run("predict", address, "--prompts-file", file)
    heading, *lines = out.splitlines()
    assert (code, err, len(lines)) == (0, "", 3)
    assert heading.split() == ["distance", "likeliest", "tokens", "prompt"]
    assert lines[0].endswith('"the people"')
    assert lines[1].endswith("[1, 2, 3]")
    assert lines[2].endswith('"First\\nCit"')
    code, out, _ = run("predict", address, "the people", "no", "--jsonl")
    assert (code, [json.loads(line)["prompt"] for line in out.splitlines()]) == (0, ["the people", "no"])


def test_the_command_line_asks_again_with_the_queries_that_it_printed(
    run, tiny_snapshot, address, tmp_path, monkeypatch
):
    file, one = tmp_path / "asked.jsonl", tmp_path / "one.jsonl"
    lines = []
    for target in (tiny_snapshot, address):
        _, out, _ = run("predict", target, "the people", "no", "--jsonl", "--queries")
        file.write_text(out)
        code, again, _ = run("predict", target, "--prompts-file", file, "--jsonl", "--queries")
        assert code == 0
        lines.append([[json.loads(line) for line in text.splitlines()] for text in (out, again)])
    assert lines[0] == lines[1]
    for first, second in zip(*lines[0], strict=True):
        assert (second["prompt"], second["model"], second["hellinger"], second["used_tokens"]) == (None, None, None, 0)
        for same in ("queries", "blocks", "distribution", "support"):
            assert first[same] == second[same]
    code, out, _ = run("predict", address, "--prompts-file", file)
    assert (code, [line.split()[:2] + line.split()[-1:] for line in out.splitlines()[1:]]) == (
        0,
        [["no", "model", "(queries)"]] * 2,
    )
    with file.open() as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        _, piped, _ = run("predict", address, "--prompts-file", "-", "--prompts-jsonl", "--jsonl", "--queries")
    assert [json.loads(line) for line in piped.splitlines()] == lines[0][1]
    one.write_text(file.read_text().splitlines()[0])
    for how in ((), ("--classes",)):
        asked = [
            run("neighbors", address, *prompt, "--block", 1, "--threshold", 0.1, "--json", *how)
            for prompt in (["the people"], ["--prompt-file", one])
        ]
        assert asked[0] == asked[1]
        assert asked[0][0] == 0


def test_the_command_line_reads_standard_input(run, address, tmp_path, monkeypatch):
    (tmp_path / "prompts").write_text("the people\nno")
    with (tmp_path / "prompts").open() as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        code, out, _ = run("predict", address, "--prompts-file", "-", "--jsonl")
    assert (code, [json.loads(line)["prompt"] for line in out.splitlines()]) == (0, ["the people", "no"])


@pytest.mark.parametrize(("name", "text"), [("a.txt", "the people\r\nno"), ("a.jsonl", '"the people"\r\n"no"\r\n')])
def test_files_of_windows_are_read(run, address, tmp_path, name, text):
    (tmp_path / name).write_bytes(codecs.BOM_UTF8 + text.encode())
    code, out, err = run("predict", address, "--prompts-file", tmp_path / name, "--jsonl")
    assert code == 0
    assert [json.loads(line)["prompt"] for line in out.splitlines()] == ["the people", "no"]
    assert "refused" not in err


def test_the_command_line_refuses_files_that_hold_no_prompts(run, address, tmp_path):
    cases = {"no json": "line 1 is not JSON", "[1, true, 2]": "is no prompt", "[[1]]": "is no prompt"}
    cases |= {'{"text": "a"}': "is no prompt", '{"queries": [[1]]}': "is no prompt"}
    cases |= {'{"prompt": "a", "queries": null}': "line 1 has no queries: its prompt was refused, or"}
    vectors = (1, "[1]", '["a"]', "[[]]", "[[1, null]]", "[[true]]", f"[[1{400 * '0'}]]", "[[[1]]]")
    cases |= {f'{{"queries": {{"blocks": {blocks}}}}}': "a vector of numbers" for blocks in vectors}
    cases |= {'{"queries": {"blocks": [[1e300]]}}': "beyond those of float32"}
    for text, expected in cases.items():
        (tmp_path / "a.jsonl").write_text(text + "\n")
        code, _, err = run("predict", address, "--prompts-file", tmp_path / "a.jsonl", "--jsonl")
        assert code == 2
        assert expected in err
    for arguments, expected in {
        (): "give prompts, or --prompts-file",
        ("a", "--prompts-file", "b"): "one of the two",
        ("--prompts-file", "b", "--json"): "--jsonl",
        ("--prompts-file", "b", "--explain"): "add --jsonl",
        ("a", "--concurrency", 2): "are for --prompts-file",
        ("--prompts-file", tmp_path / "none"): "cannot be read",
        ("--prompts-file", tmp_path / "a.json"): "would be one document",
        ("a", "--prompts-jsonl"): "says what --prompts-file holds",
        ("--prompts-file", tmp_path): "cannot be read",
        ("--prompts-file", "n" * 300): "cannot be read",
    }.items():
        code, _, err = run("predict", address, *arguments)
        assert code == 2
        assert expected in err
