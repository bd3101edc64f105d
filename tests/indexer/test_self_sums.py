"""Self-sums: read instead of searched, with the same integers; made in pieces, replaced, dropped and refused."""

import json
import os
import shutil
import signal
from collections import namedtuple
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from test_snapshot import entry, flip, refusal, rewrite_manifest
from test_tiles_in_snapshots import drop_tiles

import stopping
from ffnsearch_indexer.additions import self_sums as additions
from ffnsearch_indexer.additions.faiss import add_faiss
from ffnsearch_indexer.additions.self_sums import SelfSumsPlan, add_self_sums, drop_self_sums, estimate_self_sums
from ffnsearch_indexer.answer import lookup, predictor
from ffnsearch_indexer.answer.predictor import Found, Predictor
from ffnsearch_indexer.answer.profile import Profile, one_step
from ffnsearch_indexer.build.pipeline import build
from ffnsearch_indexer.build.request import BuildRequest
from ffnsearch_indexer.console import ProgressDisplay
from ffnsearch_indexer.corpora.corpus import Corpus
from ffnsearch_indexer.corpora.tokenizer import Tokens
from ffnsearch_indexer.errors import BackendError, CancelledError, DamageError, LimitError, OutputError, ProfileError
from ffnsearch_indexer.index.tiled import TiledIndex
from ffnsearch_indexer.models.queries import GivenQueries
from ffnsearch_indexer.store import self_sums as store
from ffnsearch_indexer.store.datastore import Datastore
from ffnsearch_indexer.store.layout import SELF_SUMS_THRESHOLDS_FILE, self_sums_files
from ffnsearch_indexer.store.manifest import read_manifest
from ffnsearch_indexer.store.work import part_folder
from refusals import check_refusals
from stopping import KILLED, Stop
from tiny import files_of, make_model, random_text, revise, save_model

Run = Callable[..., tuple[int, str, str]]
DiskUsage = namedtuple("DiskUsage", "total used free")

ALPHABET, WINDOW = "abc\n", 5
STORED = [(-1.0, 0.3, 0.9), (0.8,)]
PROFILES = [
    one_step("low", (0.3, 0.8), (1, 1)),
    one_step("high", (0.9, 0.8), (1, 1)),
    one_step("all", (-1, 0.8), (1, 1)),
]
OTHER = one_step("other", (0.3, 0.5), (1, 1))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A snapshot without self-sums, whose default profile is `low`. Not to be written to."""
    folder = tmp_path_factory.mktemp("plain")
    model = save_model(folder / "model", make_model(vocabulary_size=4, d_model=8), ALPHABET)
    build(BuildRequest(Corpus("text", random_text(1, 700, ALPHABET)), model, folder / "s.ffn", window_tokens=WINDOW))
    documents = {profile.name: profile.to_json() for profile in (*PROFILES, OTHER)}
    revise(folder / "s.ffn", profiles=documents, default_profile="low")
    return folder / "s.ffn"


@pytest.fixture(scope="module")
def whole(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with self-sums at STORED. Not to be written to."""
    copy = Path(shutil.copytree(plain, tmp_path_factory.mktemp("whole") / "s.ffn"))
    add_self_sums(copy, PROFILES)
    return copy


@pytest.fixture
def copy(plain: Path, tmp_path: Path) -> Path:
    """A copy without self-sums that a test may change."""
    return Path(shutil.copytree(plain, tmp_path / "s.ffn"))


@pytest.fixture
def whole_copy(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "s.ffn"))


@pytest.fixture
def opened(whole: Path) -> Iterator[Datastore]:
    with Datastore.open(whole) as datastore:
        yield datastore


@dataclass(frozen=True)
class SelfSumsJob:
    """One call of `add_self_sums`, for a process of its own, in small pieces."""

    out: Path
    profiles: tuple[Profile, ...] = tuple(PROFILES)

    def run(self, tell: Callable[..., None]) -> None:
        additions.PIECE_QUERIES, additions.CALL_QUERIES_MAX = 200, 90
        add_self_sums(self.out, self.profiles, progress=tell)


def substrings(datastore: Datastore) -> list[Tokens]:
    return [datastore.substring(number) for number in range(datastore.manifest.substrings)]


def require_same(one: Found, other: Found) -> None:
    assert one.self_ids == other.self_ids
    np.testing.assert_array_equal(one.logits, other.logits)
    for left, right in zip(one.sums, other.sums, strict=True):
        assert left.freq.dtype == right.freq.dtype == np.int64
        np.testing.assert_array_equal(left.freq, right.freq)
        np.testing.assert_array_equal(left.neighbors, right.neighbors)


def refuse(*_: object, **__: object) -> None:
    raise AssertionError("searched")


@pytest.mark.parametrize("backend", ["tiles", "exact", "faiss"])
@pytest.mark.parametrize("exclude_self", [False, True])
@pytest.mark.parametrize("thresholds", [STORED, [(0.3,), (0.8,)], [(0.9, -1.0), ()], [(), (0.8,)]])
def test_what_is_read_is_what_a_search_finds(
    backend: str,
    exclude_self: bool,
    thresholds: list[tuple[float, ...]],
    opened: Datastore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prompts = substrings(opened)
    searching = Predictor(opened, backend=backend, self_sums=False)
    expected = searching.search(prompts, thresholds, exclude_self=exclude_self)
    reading = Predictor(opened, backend=backend)
    monkeypatch.setattr(type(reading._indexes[0]), "range_sum", refuse)
    require_same(reading.search(prompts, thresholds, exclude_self=exclude_self), expected)


def test_given_queries_are_searched_and_known_prompts_beside_them_are_read(opened: Datastore) -> None:
    prompts = substrings(opened)[:20]
    expected = Predictor(opened, self_sums=False).search(prompts, STORED)
    given = [GivenQueries(expected.queries[:, row]) if row % 2 else prompt for row, prompt in enumerate(prompts)]
    found = Predictor(opened).search(given, STORED)
    assert found.self_ids == [None if row % 2 else row for row in range(20)]
    for one, other in zip(found.sums, expected.sums, strict=True):
        np.testing.assert_array_equal(one.freq, other.freq)


@pytest.mark.parametrize("thresholds", [STORED, [(0.3,), (0.5,)], [(0.3, 0.31), (0.8,)], [(0.31,), (0.81, 0.8)]])
def test_known_and_unknown_prompts_and_thresholds_are_answered_together(
    thresholds: list[tuple[float, ...]], opened: Datastore
) -> None:
    encode = opened.tokenizer.encode
    unknown = [text for text in ("aaaaa", "abcab", "ccccc", "\n\n\n\n\n", "babab") if opened.find(encode(text)) is None]
    assert unknown
    prompts = [encode("ab"), *substrings(opened)[5:9], encode(unknown[0]), opened.corpus[:33], opened.substring(7)]
    both = [Predictor(opened, self_sums=of) for of in (True, False)]
    for exclude_self in (False, True):
        require_same(*(one.search(prompts, thresholds, exclude_self=exclude_self) for one in both))
        for prompt in prompts:
            require_same(*(one.search([prompt], thresholds, exclude_self=exclude_self) for one in both))


def test_only_unknown_prompts_are_searched(opened: Datastore, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    range_sum = TiledIndex.range_sum
    monkeypatch.setattr(
        TiledIndex,
        "range_sum",
        lambda index, queries, *a, **k: (asked.append(len(queries)), range_sum(index, queries, *a, **k))[1],
    )
    prompts = [*substrings(opened)[:4], opened.tokenizer.encode("ab")]
    Predictor(opened).search(prompts, [(0.3,), (0.5,)])
    assert sorted(asked) == [1, 5]


def test_a_prompt_is_asked_with_its_key_where_its_own_query_is_another(
    opened: Datastore, plain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a machine whose model rounds otherwise: what is read and what is searched are still the same."""
    run_prompts = predictor.run_prompts

    def run_otherwise(*given: object, **options: object) -> object:
        found = run_prompts(*given, **options)
        found.vectors[...] = -found.vectors
        return found

    prompts = substrings(opened)
    expected = {
        name: Predictor(opened).search(prompts, of) for name, of in (("read", STORED), ("searched", [(0.4,)] * 2))
    }
    listed = Predictor(opened).neighbors(prompts[3], 1, 0.5, exclude_self=True)
    monkeypatch.setattr(predictor, "run_prompts", run_otherwise)
    require_same(Predictor(opened).search(prompts, STORED), expected["read"])
    require_same(Predictor(opened).search(prompts, [(0.4,)] * 2), expected["searched"])
    again = Predictor(opened).neighbors(prompts[3], 1, 0.5, exclude_self=True)
    np.testing.assert_array_equal(again.ids, listed.ids)
    with Datastore.open(plain) as datastore, pytest.raises(AssertionError):
        require_same(Predictor(datastore).search(prompts, STORED), expected["read"])


def test_a_lookup_is_cancelled_too(opened: Datastore) -> None:
    def cancel() -> None:
        raise CancelledError("no longer wanted")

    with pytest.raises(CancelledError):
        Predictor(opened).search([opened.substring(0)], STORED, checkpoint=cancel)


def test_which_profiles_need_no_search(whole: Path, plain: Path) -> None:
    assert lookup.answered_by_lookup(whole, read_manifest(whole)) == ["all", "high", "low"]
    assert lookup.answered_by_lookup(plain, read_manifest(plain)) == []


def test_the_files_say_what_they_hold(whole: Path, plain: Path, opened: Datastore) -> None:
    before, after = read_manifest(plain), read_manifest(whole)
    assert after.parts == {"tiles", "self-sums"}
    assert json.loads((whole / SELF_SUMS_THRESHOLDS_FILE).read_text()) == [list(of) for of in STORED]
    assert {name: after.files[name] for name in before.files} == before.files
    assert not part_folder(whole, "self-sums").exists()
    for of, thresholds in zip(opened.self_sums, STORED, strict=True):
        assert of.thresholds == thresholds
        rows = np.diff(of.offsets)
        assert (len(rows), rows.max() <= 4) == (after.substrings * len(thresholds), True)
        assert (np.diff(of.tokens.astype(int)) > 0)[
            np.setdiff1d(np.arange(len(of.tokens) - 1), of.offsets[1:-1] - 1)
        ].all()
        assert of.sums.min() >= 1


@pytest.mark.parametrize("writes", ["nothing", "tiles are lacking"])
def test_another_backend_makes_the_same_files(writes: str, copy: Path, whole: Path) -> None:
    if writes == "tiles are lacking":
        drop_tiles(copy)
    add_self_sums(copy, PROFILES, backend="exact")
    assert files_of(copy / "self-sums") == files_of(whole / "self-sums")


@pytest.mark.parametrize("queries", [(1, 1), (7, 100), (100, 7), (10_000, 10_000)])
def test_pieces_and_calls_of_any_size_make_the_same_files(
    queries: tuple[int, int], copy: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(additions, "CALL_QUERIES_MAX", queries[0])
    monkeypatch.setattr(additions, "PIECE_QUERIES", 20 * queries[1])
    add_self_sums(copy, PROFILES)
    assert files_of(copy) == files_of(whole)


@pytest.mark.parametrize("text", ["a" * 50, "abc", "ab" * 200])
def test_snapshots_of_one_substring_and_of_two(text: str, tmp_path: Path) -> None:
    model = save_model(tmp_path / "m", make_model(vocabulary_size=4, d_model=8), ALPHABET)
    build(BuildRequest(Corpus("text", text), model, tmp_path / "out", window_tokens=3))
    add_self_sums(tmp_path / "out", PROFILES)
    with Datastore.open(tmp_path / "out") as datastore:
        both = [Predictor(datastore, self_sums=of) for of in (True, False)]
        require_same(*(one.search(substrings(datastore), STORED) for one in both))


def test_what_is_there_is_left_alone(whole_copy: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole_copy.rglob("*")}
    assert add_self_sums(whole_copy, PROFILES[::-1], progress=refuse) == read_manifest(whole_copy)
    assert {path: path.stat().st_mtime_ns for path in whole_copy.rglob("*")} == before


def test_other_thresholds_take_the_place_of_those_that_are_there(whole_copy: Path, whole: Path) -> None:
    assert add_self_sums(whole_copy, [OTHER]) == read_manifest(whole_copy)
    with Datastore.open(whole_copy) as datastore:
        assert [of.thresholds for of in datastore.self_sums] == OTHER.thresholds_by_block
    add_self_sums(whole_copy, PROFILES)
    assert files_of(whole_copy) == files_of(whole)


def test_self_sums_are_dropped(whole_copy: Path, plain: Path) -> None:
    part_folder(whole_copy, "self-sums").mkdir()
    assert drop_self_sums(whole_copy) == read_manifest(plain)
    assert files_of(whole_copy) == files_of(plain)
    assert drop_self_sums(whole_copy) == read_manifest(plain)


def test_self_sums_that_are_being_made_are_not_dropped(copy: Path) -> None:
    def drop(*_: object) -> None:
        with pytest.raises(OutputError) as caught:
            drop_self_sums(copy)
        assert caught.value.reason == "OUTPUT_BUSY"

    made = add_self_sums(copy, PROFILES, progress=drop)
    assert made == read_manifest(copy)


@pytest.mark.parametrize(("share", "start"), [(0.3, "plain"), (0.8, "plain"), (0.95, "other")])
def test_what_was_killed_goes_on_to_the_same_bytes(
    share: float, start: str, copy: Path, whole: Path, operations: int
) -> None:
    if start == "other":
        add_self_sums(copy, [OTHER])
    assert stopping.run(SelfSumsJob(copy), Stop(1 + int(share * operations))).exit_status == KILLED
    with Datastore.open(copy) as datastore:
        Predictor(datastore).search([datastore.substring(0)], STORED)
    assert stopping.run(SelfSumsJob(copy)).exit_status == 0
    assert files_of(copy) == files_of(whole)


@pytest.mark.parametrize("start", ["plain", "other"])
def test_an_error_at_any_file_operation_leaves_a_snapshot_and_work_that_goes_on(
    start: str, plain: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(additions, "PIECE_QUERIES", 400)
    at_start = Path(shutil.copytree(plain, tmp_path / "start"))
    if start == "other":
        add_self_sums(at_start, [OTHER])
    for operations in range(0, 200, 5):
        copy = Path(shutil.copytree(at_start, tmp_path / str(operations)))
        with monkeypatch.context() as patched, suppress(KeyboardInterrupt):
            stop_after(operations, patched)
            add_self_sums(copy, PROFILES)
            break
        with Datastore.open(copy) as datastore:
            assert (datastore.self_sums is None) == ("self-sums" not in datastore.manifest.parts)
        add_self_sums(copy, PROFILES)
        assert files_of(copy) == files_of(whole)
    assert operations > 20


def stop_after(operations: int, patched: pytest.MonkeyPatch) -> None:
    """Interrupt the work before the next of so many operations on files: syncs, renames, deletions of folders."""
    left = [operations]

    def limited(work: Callable[..., object]) -> Callable[..., object]:
        def limit(*given: object, **options: object) -> object:
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            return work(*given, **options)

        return limit

    for owner, name in ((os, "fsync"), (Path, "replace"), (Path, "rename"), (shutil, "rmtree")):
        patched.setattr(owner, name, limited(getattr(owner, name)))


@pytest.fixture(scope="module")
def operations(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> int:
    """How often adding self-sums changes files."""
    copy = Path(shutil.copytree(plain, tmp_path_factory.mktemp("operations") / "s.ffn"))
    ended = stopping.run(SelfSumsJob(copy))
    assert ended.exit_status == 0
    return ended.operations


def test_unfinished_work_on_others_is_not_continued(copy: Path, operations: int) -> None:
    assert stopping.run(SelfSumsJob(copy), Stop(operations // 2)).exit_status == KILLED
    for refused in (add_self_sums, estimate_self_sums):
        with pytest.raises(OutputError, match="another set of thresholds"):
            refused(copy, [OTHER])


def test_a_file_that_cannot_grow_ends_it_in_order_and_a_later_one_completes_it(copy: Path, whole: Path) -> None:
    error = stopping.run(SelfSumsJob(copy), Stop(file_bytes_max=4_000)).error
    assert isinstance(error, OutputError)
    assert error.reason == "DISK_FULL"
    assert "the same command continues it" in error.message
    assert stopping.run(SelfSumsJob(copy)).exit_status == 0
    assert files_of(copy) == files_of(whole)


def test_a_disk_without_room_is_refused_before_anything_is_written(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, plan = files_of(copy), estimate_self_sums(copy, PROFILES)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: DiskUsage(1 << 40, 0, plan.disk_bytes - 1))
    for asked in (add_self_sums, estimate_self_sums):
        with pytest.raises(OutputError) as caught:
            asked(copy, PROFILES)
        assert (caught.value.reason, "build" in caught.value.message) == ("DISK_FULL", False)
    assert files_of(copy) == before
    monkeypatch.setattr(shutil, "disk_usage", lambda _: DiskUsage(1 << 40, 0, plan.disk_bytes))
    add_self_sums(copy, PROFILES)


def test_the_plan_holds(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(additions, "PIECE_QUERIES", 100)
    plans: list[SelfSumsPlan] = []
    taken: list[int] = []

    def weigh(*_: object) -> None:
        taken.append(sum(path.stat().st_size for path in part_folder(copy, "self-sums").rglob("*") if path.is_file()))

    add_self_sums(copy, PROFILES, announce=plans.append, progress=weigh)
    (plan,) = plans
    manifest = read_manifest(copy)
    result = sum(of.bytes for name, of in manifest.files.items() if name.startswith("self-sums/"))
    assert plan.bytes == pytest.approx(result, rel=0.1)
    assert result / 2 < max(taken) <= plan.disk_bytes
    assert (plan.substrings, plan.thresholds, plan.pieces_done) == (manifest.substrings, 4, 0)
    assert plan.pieces == 2 * -(-manifest.substrings // 100)
    assert plan.seconds > 0


def test_progress_counts_what_was_there(copy: Path, operations: int) -> None:
    assert stopping.run(SelfSumsJob(copy), Stop(operations // 2)).exit_status == KILLED
    told: list[tuple[str, int, int]] = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(additions, "PIECE_QUERIES", 200)
        add_self_sums(copy, PROFILES, progress=lambda *state: told.append(state))
    N = read_manifest(copy).substrings
    of_sums = [done for stage, done, total in told if stage == "self-sums" and total == 2 * N]
    assert of_sums == sorted(of_sums)
    assert (of_sums[0], of_sums[-1]) == (0, 2 * N)
    assert told[-1] == ("checksums, MB", 1, 1)


def test_approximate_backends_and_too_many_tokens_are_refused(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = files_of(copy)
    with monkeypatch.context() as patched:
        patched.setattr(store, "SUM_MAX", 100)
        with pytest.raises(LimitError, match="at most 100"):
            add_self_sums(copy, PROFILES)
    monkeypatch.setattr(TiledIndex, "approximate", True)
    with pytest.raises(BackendError) as caught:
        add_self_sums(copy, PROFILES)
    assert caught.value.reason == "APPROXIMATE_BACKEND"
    assert files_of(copy) == before


@pytest.mark.parametrize("asked", [add_self_sums, estimate_self_sums])
def test_the_backend_is_chosen_as_elsewhere_on_the_cpu(asked: Callable[..., object], copy: Path) -> None:
    add_faiss(copy, ["ivf"])
    reasons = {"no": "UNKNOWN_BACKEND", "fused": "DEVICE_UNAVAILABLE", "faiss-ivf": "APPROXIMATE_BACKEND"}
    for backend, reason in reasons.items():
        with pytest.raises(BackendError) as caught:
            asked(copy, PROFILES, backend=backend)
        assert caught.value.reason == reason
    asked(copy, PROFILES, backend="auto")
    with pytest.raises(BackendError) as caught:
        asked(drop_tiles(copy), [OTHER])
    assert caught.value.reason == "NO_TILES"


FILES = [SELF_SUMS_THRESHOLDS_FILE, *self_sums_files(1).values()]


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_refused(name: str, whole_copy: Path, run: Run) -> None:
    flip(whole_copy / name, (whole_copy / name).stat().st_size - 2)
    code, out, err = run("verify", whole_copy)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert name in err


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["no file", "another type", "a row less"])
def test_what_cannot_be_self_sums_is_refused_even_if_the_manifest_knows_it(
    name: str, damage: str, whole_copy: Path
) -> None:
    path = whole_copy / name
    if name.endswith(".json"):
        texts = {"no file": "self", "another type": "[[0.5], null]", "a row less": "[[0.9, 0.3]]"}
        path.write_text(texts[damage])
    elif damage == "no file":
        path.write_text("self")
    else:
        array = np.load(path)
        np.save(path, array.astype(np.float64) if damage == "another type" else array[:-1])
    rewrite_manifest(whole_copy, files=read_manifest(whole_copy).files | {name: entry(path)})
    error = refusal(whole_copy)
    assert isinstance(error, DamageError)
    assert "self-sums" in error.message


@pytest.mark.parametrize("damage", ["shorter", "cut", "other numbers"])
def test_a_damaged_piece_is_refused_and_made_again_once_it_is_deleted(
    damage: str, copy: Path, operations: int, whole: Path
) -> None:
    assert stopping.run(SelfSumsJob(copy), Stop(operations // 4)).exit_status == KILLED
    piece = sorted(part_folder(copy, "self-sums").rglob("piece-*.npy"))[0]
    if damage == "cut":
        piece.write_bytes(piece.read_bytes()[:-1])
    else:
        np.save(piece, np.load(piece)[:-1] if damage == "shorter" else np.load(piece).astype(np.int64))
    error = stopping.run(SelfSumsJob(copy)).error
    assert isinstance(error, DamageError)
    assert error.message.endswith(f": delete {piece.parent}; the same command makes it again")
    shutil.rmtree(piece.parent)
    add_self_sums(copy, PROFILES[:1])
    assert read_manifest(copy).parts == {"tiles", "self-sums"}


def test_the_command_makes_them_tells_of_them_and_drops_them(run: Run, copy: Path, plain: Path, whole: Path) -> None:
    names = [option for profile in PROFILES for option in ("--profile", profile.name)]
    code, out, _ = run("index", copy, "--self-sums", *names, "--estimate", "--json")
    assert (code, json.loads(out)["thresholds"]) == (0, 4)
    assert files_of(copy) == files_of(plain)
    code, out, err = run("index", copy, "--self-sums", *names)
    assert (code, out.count("\n")) == (0, 2)
    assert "tiles and self-sums" in out
    assert "no search: all, high, low" in out
    assert "sums of" in err
    assert files_of(copy) == files_of(whole)
    assert run("index", copy)[0] == 0
    assert files_of(copy) == files_of(whole)
    asked = ("predict", copy, "abcab", "--profile", "low", "--json")
    with_them = json.loads(run(*asked)[1])["results"]
    assert run("index", copy, "--no-self-sums")[0] == 0
    assert files_of(copy) == files_of(plain)
    assert json.loads(run(*asked)[1])["results"] == with_them


def test_the_command_takes_the_default_profile_and_refuses_others(run: Run, copy: Path) -> None:
    code, _, err = run("index", copy, "--self-sums", "--profile", "lower")
    assert (code, err.count("\n")) == (2, 1)
    assert "lower" in err
    assert run("index", copy, "--self-sums", "--backend", "exact")[0] == 0
    with Datastore.open(copy) as datastore:
        assert [of.thresholds for of in datastore.self_sums] == PROFILES[0].thresholds_by_block


def test_the_command_refuses_options_that_would_do_nothing(run: Run, copy: Path) -> None:
    refusals = {
        ("index", copy, "--profile", "none"): "--profile only matters with --self-sums",
        ("index", copy, "--no-self-sums", "--backend", "exact"): "--backend only matters with --self-sums",
        ("index", copy, "--faiss", "ivf", "--estimate"): "--estimate covers --self-sums only: drop it, or drop --faiss",
        ("index", copy, "--no-self-sums", "--estimate"): "or drop --no-self-sums",
    }
    check_refusals(run, refusals, copy)


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (("--self-sums",), {"tiles", "self-sums"}),
        (("--self-sums", "--backend", "auto"), {"tiles", "self-sums"}),
        (("--self-sums", "--backend", "exact"), {"self-sums"}),
        (("--no-self-sums",), set()),
        (("--faiss", "flat"), {"faiss-flat"}),
        (("--faiss", "flat", "--self-sums"), {"tiles", "faiss-flat", "self-sums"}),
        (("--faiss", "flat", "--no-self-sums"), {"faiss-flat"}),
        ((), {"tiles"}),
    ],
)
def test_the_command_makes_what_its_options_name_and_what_that_needs(
    options: tuple[str, ...], parts: set[str], run: Run, copy: Path
) -> None:
    drop_tiles(copy)
    code, out, _ = run("index", copy, *options)
    assert code == 0
    assert out.startswith(f"{copy} has {' and '.join(sorted(parts, reverse=True)) or 'no tiles'}: ")
    assert read_manifest(copy).parts == parts


def test_an_estimate_without_tiles_says_that_they_come_first(run: Run, copy: Path) -> None:
    drop_tiles(copy)
    asked = ("index", copy, "--self-sums", "--estimate")
    check_refusals(run, {asked: f"run `ffnsearch index {copy}` first, or add --backend exact"}, copy)
    assert run(*asked, "--backend", "exact")[0] == 0
    assert run("index", copy)[0] == 0
    assert run(*asked)[0] == 0


def test_a_stopped_command_says_how_it_is_continued(run: Run, copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def show(_: ProgressDisplay, stage: str, done: int, *__: object) -> None:
        if stage == "self-sums" and done:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patched:
        patched.setattr(ProgressDisplay, "__call__", show)
        code, out, err = run("index", copy, "--self-sums", "--profile", "high")
    assert (code, out) == (130, "")
    assert f"ffnsearch index {copy} --self-sums --profile high" in err
    assert run("index", copy, "--self-sums", "--profile", "high")[0] == 0
    assert not part_folder(copy, "self-sums").exists()


def test_a_build_makes_them_behind_its_calibration(run: Run, tmp_path: Path) -> None:
    model = save_model(tmp_path / "m", make_model(vocabulary_size=4, d_model=8), ALPHABET)
    (tmp_path / "text.txt").write_text(random_text(1, 700, ALPHABET))
    options = ("--corpus", tmp_path / "text.txt", "--model", model, "--window-tokens", 5, "--calibration-prompts", 0)
    assert run("build", *options, "--out", tmp_path / "out", "--self-sums")[0] == 0
    with Datastore.open(tmp_path / "out") as datastore:
        assert [of.thresholds for of in datastore.self_sums] == [(0.85,), (0.85,)]


def test_bench_times_the_search_and_not_the_lookup(run: Run, whole_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store.SelfSums, "read", refuse)
    assert run("bench", whole_copy, "--batch", "4", "--prompts", "4")[0] == 0


def test_unknown_profiles_are_no_error_of_the_lookup(opened: Datastore) -> None:
    with pytest.raises(ProfileError):
        Predictor(opened).predict([opened.substring(0)], one_step("short", (0.5,), (1,)))


def test_info_tells_which_profiles_need_no_search(run: Run, whole: Path, plain: Path) -> None:
    assert json.loads(run("info", whole, "--json")[1])["self_sums_profile_names"] == ["all", "high", "low"]
    assert "self-sums: prompts from the corpus need no search with all, high, low" in run("info", whole)[1]
    assert "self-sums" not in run("info", plain)[1]
