"""Recording work on a GPU, with a stand-in for torch's part of it: what happens where it fails."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from ffnsearch_indexer.hardware import graphs
from ffnsearch_indexer.hardware.graphs import WARM_UPS, GraphRecorder

CUDA = torch.device("cuda")


class Cuda:
    """What of `torch.cuda` a recorder calls. current: the streams that were entered and not left."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error, self.current, self.replayed = error, ["usual"], 0

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        recorded = SimpleNamespace(replay=self._replay)
        monkeypatch.setattr(torch.cuda, "Stream", lambda device: SimpleNamespace(wait_stream=lambda other: None))
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
        monkeypatch.setattr(torch.cuda, "stream", self._stream)
        monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 1))
        monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: recorded)
        monkeypatch.setattr(torch.cuda, "graph", self._graph)

    def _replay(self) -> None:
        self.replayed += 1

    @contextmanager
    def _stream(self, stream: object) -> Iterator[None]:
        depth = len(self.current)
        self.current.append("its own")
        try:
            yield
        finally:
            del self.current[depth:]

    @contextmanager
    def _graph(self, graph: object, **_: object) -> Iterator[None]:
        self.current.append("of the graph")
        yield
        if self.error:
            raise self.error  # and does not leave the stream, as torch's
        self.current.pop()


@pytest.fixture(autouse=True)
def _as_in_a_new_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "_failed", threading.Event())


def test_what_is_recorded_is_replayed_and_gives_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda, done = Cuda(), []
    cuda.install(monkeypatch)
    replay = GraphRecorder(CUDA).record(lambda: done.append("work") or done)
    assert len(done) == WARM_UPS + 1
    assert replay() is done
    assert (cuda.replayed, len(done)) == (1, WARM_UPS + 1)
    assert cuda.current == ["usual"]


def test_where_recording_fails_work_is_done_as_usual_and_nothing_is_recorded_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cuda, done = Cuda(torch.AcceleratorError("CUDA error: operation not permitted when stream is capturing")), []
    cuda.install(monkeypatch)
    recorder = GraphRecorder(CUDA)
    for tried in (WARM_UPS + 1, 0):
        done.clear()
        work = recorder.record(lambda: done.append("work") or "result")
        assert len(done) == tried
        assert work() == "result"
        assert len(done) == tried + 1
    assert not cuda.replayed
    assert cuda.current == ["usual"]
    assert ["operation not permitted" in line for line in caplog.messages] == [True]


def test_an_error_of_the_work_is_not_taken_for_one_of_the_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    Cuda().install(monkeypatch)

    def work() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        GraphRecorder(CUDA).record(work)
    assert not graphs._failed.is_set()


def test_a_cpu_has_no_graphs() -> None:
    def work() -> str:
        return "result"

    assert GraphRecorder(torch.device("cpu")).record(work) is work
