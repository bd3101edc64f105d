"""What searches is what was asked for, or the first that is there; nothing that was asked for by name is replaced."""

import pytest

from ffnsearch_indexer.answer import backends
from ffnsearch_indexer.answer.backends import Present, choose
from ffnsearch_indexer.errors import BackendError
from ffnsearch_indexer.hardware import gpu as devices
from ffnsearch_indexer.hardware.gpu import choose_device
from ffnsearch_indexer.store.datastore import Datastore

NO_CUDA, NO_TRITON, NO_TILES = "no CUDA device", "triton is not installed", "the snapshot has no tiles"
NO_FAISS_GPU = "this faiss was built for CPUs"


def there(
    *, tiles: bool = True, cuda: bool = True, triton: bool = True, faiss: bool = False, lists: bool = False
) -> Present:
    parts = frozenset([*(["tiles"] if tiles else []), *(["faiss-ivf"] if lists else [])])
    missing = {**({} if triton else {"triton": NO_TRITON}), **({} if faiss else {"a GPU build of faiss": NO_FAISS_GPU})}
    return Present("some.ffn", parts, None if cuda else NO_CUDA, missing)


@pytest.mark.parametrize(
    ("asked", "present", "chosen", "why"),
    [
        (("auto", "auto"), there(), ("fused", "cuda"), "a CUDA device is there"),
        (("auto", "auto"), there(cuda=False), ("tiles", "cpu"), NO_CUDA),
        (("auto", "auto"), there(triton=False), ("tiles", "cpu"), NO_TRITON),
        (("auto", "auto"), there(tiles=False, triton=False), ("exact", "cuda"), f"{NO_TRITON}, and {NO_TILES}"),
        (("auto", "auto"), there(tiles=False, cuda=False), ("exact", "cpu"), f"{NO_CUDA}, and {NO_TILES}"),
        (("auto", "cpu"), there(), ("tiles", "cpu"), "--device cpu"),
        (("auto", "cpu"), there(tiles=False), ("exact", "cpu"), NO_TILES),
        (("auto", "cuda"), there(), ("fused", "cuda"), "--device cuda"),
        (("auto", "cuda"), there(triton=False), ("exact", "cuda"), NO_TRITON),
        (("exact", "auto"), there(), ("exact", "cuda"), "--backend exact"),
        (("exact", "auto"), there(cuda=False), ("exact", "cpu"), NO_CUDA),
        (("exact", "cpu"), there(), ("exact", "cpu"), "--backend exact --device cpu"),
        (("faiss", "auto"), there(), ("faiss", "cpu"), NO_FAISS_GPU),
        (("faiss", "auto"), there(faiss=True), ("faiss", "cuda"), "--backend faiss"),
        (("faiss", "auto"), there(faiss=True, cuda=False), ("faiss", "cpu"), NO_CUDA),
        (("faiss-ivf", "cpu"), there(lists=True), ("faiss-ivf", "cpu"), "--backend faiss-ivf --device cpu"),
        (("tiles", "auto"), there(), ("tiles", "cpu"), "--backend tiles"),
    ],
)  # fmt: skip
def test_the_first_that_is_there_and_asked_for_is_chosen(
    asked: tuple[str, str], present: Present, chosen: tuple[str, str], why: str
) -> None:
    choice = choose(*asked, present)
    assert (choice.backend, choice.device) == chosen
    assert choice.why == why


def test_the_choice_is_a_line_that_says_what_where_and_why() -> None:
    assert choose("auto", "auto", there(cuda=False)).line == "searching with tiles on the CPU: no CUDA device"
    assert choose("auto", "auto", there()).line == "searching with fused on the GPU: a CUDA device is there"


@pytest.mark.parametrize(
    ("asked", "present", "reason", "words"),
    [
        (("fused", "auto"), there(cuda=False), "DEVICE_UNAVAILABLE", NO_CUDA),
        (("fused", "auto"), there(triton=False), "DEVICE_UNAVAILABLE", NO_TRITON),
        (("fused", "cpu"), there(), "DEVICE_UNAVAILABLE", "fused runs only on cuda"),
        (("exact", "cuda"), there(cuda=False), "DEVICE_UNAVAILABLE", NO_CUDA),
        (("auto", "cuda"), there(cuda=False), "DEVICE_UNAVAILABLE", NO_CUDA),
        (("tiles", "cuda"), there(), "DEVICE_UNAVAILABLE", "tiles runs only on cpu"),
        (("tiles", "auto"), there(tiles=False), "NO_TILES", "`ffnsearch index some.ffn`"),
        (("faiss-ivf", "auto"), there(), "NO_FAISS_IVF", "`ffnsearch index some.ffn --faiss ivf`"),
        (("faiss", "cuda"), there(), "DEVICE_UNAVAILABLE", NO_FAISS_GPU),
        (("tile", "auto"), there(), "UNKNOWN_BACKEND", "auto, fused, tiles, exact, faiss, faiss-ivf"),
        (("auto", "gpu"), there(), "UNKNOWN_DEVICE", "auto, cpu, cuda"),
    ],
)
def test_what_is_asked_for_by_name_and_not_there_is_refused(
    asked: tuple[str, str], present: Present, reason: str, words: str
) -> None:
    with pytest.raises(BackendError) as caught:
        choose(*asked, present)
    assert caught.value.reason == reason
    assert words in caught.value.message
    assert "\n" not in caught.value.message


def test_a_gpu_is_left_alone_where_nothing_asked_for_uses_one(
    datastore: Datastore, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(backends, "cuda_problem", lambda: asked.append("") or NO_CUDA)
    for backend, device in (("tiles", "auto"), ("faiss", "auto"), ("auto", "cpu"), ("exact", "cpu")):
        backends.look(datastore, backend, device)
    assert not asked
    assert backends.look(datastore, "auto", "auto").no_cuda == NO_CUDA
    assert asked


@pytest.mark.parametrize(
    ("wanted", "problem", "device"),
    [("auto", None, "cuda"), ("auto", NO_CUDA, "cpu"), ("cpu", None, "cpu"), ("cuda", None, "cuda")],
)
def test_a_device_is_cuda_where_it_can_be(
    wanted: str, problem: str | None, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "cuda_problem", lambda: problem)
    assert choose_device(wanted) == device


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "cuda_problem", lambda: NO_CUDA)
    for wanted, reason in (("cuda", "DEVICE_UNAVAILABLE"), ("gpu", "UNKNOWN_DEVICE")):
        with pytest.raises(BackendError) as caught:
            choose_device(wanted)
        assert caught.value.reason == reason


def test_a_device_that_is_there_and_does_not_work_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("CUDA error: all CUDA-capable devices are busy or unavailable\nmore of it")

    monkeypatch.setattr(devices.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(devices.torch, "ones", fail)
    problem = devices.cuda_problem()
    assert problem is not None
    assert "busy or unavailable)" in problem
