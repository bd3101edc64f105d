"""Work done in chunks goes on where it was stopped, is never mixed with other work, and leaves nothing behind."""

from pathlib import Path

import numpy as np
import pytest

from ffnsearch_indexer.alone import alone_in
from ffnsearch_indexer.errors import OutputError
from ffnsearch_indexer.fidelity.chunks import Arrays, chunk_prompts, concatenated, map_chunks, work_in
from tiny import files_of

IDENTITY = {"prompts_sha256": "1", "thresholds": [[0.1, 0.2], []], "chunk_items": 4}


class Squares:
    """Computes squares, remembers which rows it was asked for, and fails at a given one."""

    def __init__(self, fail_at: int | None = None) -> None:
        self.asked: list[int] = []
        self.fail_at = fail_at

    def __call__(self, rows: range) -> Arrays:
        if self.fail_at in rows:
            raise RuntimeError("stopped")
        self.asked += rows
        numbers = np.arange(rows.start, rows.stop)
        return {"squares": numbers**2, "pairs": np.stack([numbers, -numbers], axis=1).astype(np.float32)}


def run(folder: Path, compute: Squares, identity: dict[str, object] = IDENTITY, **options: object) -> Arrays:
    """All the work: ten items, four at a time."""
    with work_in(folder, identity):
        return concatenated(map_chunks(folder, 10, compute, chunk_items=4, stage="squares", **options))


def stop(folder: Path, fail_at: int) -> Squares:
    """Work that fails at an item."""
    compute = Squares(fail_at)
    with pytest.raises(RuntimeError):
        run(folder, compute)
    return compute


def test_the_chunks_put_together_are_the_whole(tmp_path: Path) -> None:
    arrays = run(tmp_path / "work", Squares())
    assert arrays["squares"].tolist() == [number**2 for number in range(10)]
    assert arrays["pairs"].shape == (10, 2)
    assert arrays["pairs"].dtype == np.float32
    assert list(tmp_path.iterdir()) == []


def test_chunks_come_one_by_one_too(tmp_path: Path) -> None:
    with work_in(tmp_path / "work", IDENTITY):
        sizes = [len(arrays["squares"]) for arrays in map_chunks(
            tmp_path / "work", 10, Squares(), chunk_items=4, stage="squares"
        )]  # fmt: skip
    assert sizes == [4, 4, 2]


def test_a_chunk_has_so_many_prompts_that_their_sums_have_room() -> None:
    assert [chunk_prompts(sums) for sums in (0, 1, 1 << 17, 1 << 18, 1 << 26, 1 << 30)] == [512, 512, 512, 256, 1, 1]


def test_stopped_work_goes_on_with_what_is_there(tmp_path: Path) -> None:
    assert stop(tmp_path / "work", fail_at=9).asked == list(range(8))
    again = Squares()
    arrays = run(tmp_path / "work", again)
    assert again.asked == [8, 9]
    whole = run(tmp_path / "other", Squares())
    assert all(np.array_equal(arrays[name], whole[name]) for name in whole)
    assert list(tmp_path.iterdir()) == []


def test_progress_is_told_from_the_start_and_what_was_there_is_fast(tmp_path: Path) -> None:
    stop(tmp_path / "work", fail_at=5)
    told: list[tuple[str, int, int]] = []
    run(tmp_path / "work", Squares(), progress=lambda *values: told.append(values))
    assert told == [("squares", done, 10) for done in (0, 4, 8, 10)]


@pytest.mark.parametrize("damage", ["cut", "emptied", "flipped", "half written"])
def test_a_damaged_chunk_is_computed_again(damage: str, tmp_path: Path) -> None:
    stop(tmp_path / "work", fail_at=8)
    path = tmp_path / "work" / "chunk-00001.npz"
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[len(content) // 3] ^= 0xFF
    path.write_bytes(content[: {"cut": -30, "emptied": 0}.get(damage)])
    if damage == "half written":
        path.rename(path.with_name(path.name + ".partial"))
    again = Squares()
    arrays = run(tmp_path / "work", again)
    assert again.asked == [4, 5, 6, 7, 8, 9]
    assert arrays["squares"].tolist() == [number**2 for number in range(10)]


@pytest.mark.parametrize(
    ("changes", "what"),
    [({"prompts_sha256": "2"}, "another prompts"), ({"thresholds": [[0.1], []]}, "another thresholds")],
)
def test_the_chunks_of_other_work_are_refused_and_stay(changes: dict[str, object], what: str, tmp_path: Path) -> None:
    stop(tmp_path / "work", fail_at=5)
    before = files_of(tmp_path)
    with pytest.raises(OutputError) as caught:
        run(tmp_path / "work", Squares(), IDENTITY | changes)
    assert what in caught.value.message
    assert str(tmp_path / "work") in caught.value.message
    assert files_of(tmp_path).keys() == before.keys()
    run(tmp_path / "work", Squares())


def test_work_in_which_nothing_was_done_leaves_nothing(tmp_path: Path) -> None:
    stop(tmp_path / "work", fail_at=0)
    assert list(tmp_path.iterdir()) == []


def test_the_same_work_twice_at_once_is_refused(tmp_path: Path) -> None:
    stop(tmp_path / "work", fail_at=5)
    with alone_in(tmp_path / "work"), pytest.raises(OutputError) as caught:
        run(tmp_path / "work", Squares())
    assert caught.value.reason == "OUTPUT_BUSY"
    assert "wait" in caught.value.message
    run(tmp_path / "work", Squares())


def test_a_disk_that_refuses_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        run(tmp_path / "file" / "work", Squares())
