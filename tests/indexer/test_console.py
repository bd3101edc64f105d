"""Progress is told in bars on a terminal, and elsewhere in lines that are few and say what is left."""

import io
import os
import sys
from pathlib import Path

import pytest

from ffnsearch_indexer import console
from ffnsearch_indexer.console import ProgressDisplay


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic(self) -> float:
        return self.now_s


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    fake = Clock()
    monkeypatch.setattr(console, "time", fake)
    return fake


def told(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().err.splitlines()


def test_a_stage_that_ends_at_once_is_not_worth_a_line(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressDisplay() as display:
        display("substrings", 1, 1)
        display("counts", 0, 1)
        clock.now_s += 0.9
        display("counts", 1, 1)
    assert told(capsys) == []


def test_a_long_stage_is_told_now_and_then_with_its_rate_and_what_is_left(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with ProgressDisplay() as display:
        for second in range(41):
            display("keys", 1000 + 50 * second, 3000, "loss 1.0")
            clock.now_s += 1
    assert told(capsys) == [
        "keys: 1,750 of 3,000, 50.0 a second, 25 s left, loss 1.0",
        "keys: 2,500 of 3,000, 50.0 a second, 10 s left, loss 1.0",
        "keys: 3,000 of 3,000, 40.0 s, loss 1.0",
    ]


def test_a_stage_that_stands_still_has_no_rate(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressDisplay() as display:
        for _ in range(2):
            display("keys", 7, 10)
            clock.now_s += console.LINE_INTERVAL_S
    assert told(capsys) == ["keys: 7 of 10"]


def test_a_new_stage_starts_its_own_clock(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressDisplay() as display:
        display("keys", 0, 10)
        clock.now_s += 100
        display("blocks", 0, 4)
        clock.now_s += 2
        display("blocks", 4, 4)
    assert told(capsys) == ["blocks: 4 of 4, 2.0 s"]


def test_on_a_terminal_every_stage_has_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with ProgressDisplay() as display:
        display("keys", 1, 2)
        display("keys", 2, 2)
        display("blocks", 3, 6, "detail")
    for expected in ("keys", "2/2", "blocks", "3/6", "detail", "left"):
        assert expected in terminal.getvalue()


def test_events_that_cannot_be_written_are_told_of_once_and_the_work_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(tmp_path / "events")
    reader = os.open(tmp_path / "events", os.O_RDONLY | os.O_NONBLOCK)
    for events, said in ((Path("/dev/full"), "No space left on device"), (tmp_path / "events", "Broken pipe")):
        with ProgressDisplay(events) as display:
            if events.is_fifo():
                os.close(reader)
            display("keys", 1, 2)
            display("keys", 2, 2)
        assert told(capsys) == [f"no more progress is written to {events}: {said}"]


def test_what_only_comes_before_the_work_leaves_nothing_behind(
    clock: Clock, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with ProgressDisplay(passing=True) as display:
        for second in range(40):
            display("verify, MB", second, 40)
            clock.now_s += 1
    assert told(capsys) == []
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    with ProgressDisplay(passing=True) as display:
        display("verify, MB", 7, 40)
    assert "7/40" in terminal.getvalue()
    assert terminal.getvalue().endswith("\x1b[2K"), "the line is cleared in the end"
