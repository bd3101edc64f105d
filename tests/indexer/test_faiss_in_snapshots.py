"""Indexes of faiss in a snapshot: `build` and `index` add them, any user of faiss reads them, others are refused."""

import json
import shutil
import sys
from collections import namedtuple
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import faiss
import numpy as np
import pytest
from test_index_contract import FakeGpus, make_counts
from test_snapshot import entry, flip, rewrite_manifest

import stopping
from ffnsearch_indexer.additions.faiss import add_faiss
from ffnsearch_indexer.answer.predictor import Predictor
from ffnsearch_indexer.build.pipeline import estimate
from ffnsearch_indexer.build.request import BuildRequest
from ffnsearch_indexer.corpora.corpus import Corpus
from ffnsearch_indexer.errors import BackendError, DamageError, OutputError
from ffnsearch_indexer.index.exact import ExactIndex
from ffnsearch_indexer.index.faiss import ivf as lists
from ffnsearch_indexer.index.faiss.flat import FaissFlatIndex, flat_of
from ffnsearch_indexer.index.faiss.gpu import FaissGpuFlatIndex
from ffnsearch_indexer.index.faiss.ivf import FaissIvfIndex, ivf_of, lists_of
from ffnsearch_indexer.store import faiss as store
from ffnsearch_indexer.store.datastore import Datastore
from ffnsearch_indexer.store.faiss import MeasuredRecall, load_recall, open_flat, open_lists, plan_faiss
from ffnsearch_indexer.store.layout import PARTS
from ffnsearch_indexer.store.manifest import read_manifest
from stopping import KILLED, Stop
from tiny import files_of

Run = Callable[..., tuple[int, str, str]]
DiskUsage = namedtuple("DiskUsage", "total used free")
THRESHOLDS = [[0.9, -1.0, 0.5]] * 2


@dataclass(frozen=True)
class FaissJob:
    """One call of `add_faiss`, for a process of its own."""

    out: Path

    def run(self, tell: Callable[..., None]) -> None:
        add_faiss(self.out, ["flat", "ivf"], progress=tell)


@pytest.fixture(scope="module")
def with_faiss(tiny_snapshot: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny snapshot with both kinds of index. Not to be written to."""
    copy = Path(shutil.copytree(tiny_snapshot, tmp_path_factory.mktemp("faiss") / "copy.ffn"))
    add_faiss(copy, ["flat", "ivf"])
    return copy


@pytest.fixture
def with_faiss_copy(with_faiss: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(with_faiss, tmp_path / "faiss.ffn"))


def answer(snapshot: Path, backend: str) -> tuple[list[int], list[int]]:
    """What a backend answers to two prompts: all sums and numbers of neighbors."""
    with Datastore.open(snapshot, check="sizes") as datastore:
        prompts = [datastore.substring(0), datastore.substring(datastore.manifest.substrings - 1)]
        found = Predictor(datastore, backend=backend).search(prompts, THRESHOLDS)
        return [of.freq.tolist() for of in found.sums], [of.neighbors.tolist() for of in found.sums]


def test_any_user_of_faiss_reads_them(with_faiss: Path) -> None:
    with Datastore.open(with_faiss) as datastore:
        for block, keys in enumerate(datastore.keys):
            flat = faiss.read_index(str(with_faiss / f"faiss-flat/block-{block}.faiss"))
            ivf = faiss.read_index(str(with_faiss / f"faiss-ivf/block-{block}.faiss"))
            np.testing.assert_array_equal(flat.reconstruct_n(0, len(keys)), keys)
            ivf.make_direct_map()
            np.testing.assert_array_equal(ivf.reconstruct_n(0, len(keys)), keys)  # by id
            for index in (flat, ivf):
                assert index.metric_type == faiss.METRIC_INNER_PRODUCT
                _, ids = index.search(keys[5:6].astype(np.float32), 1)
                assert datastore.keys[block][ids[0, 0]].tobytes() == keys[5].tobytes()
            assert (ivf.nlist, ivf.nprobe) == (lists_of(len(keys)), load_recall(with_faiss, block).probes)


def test_the_manifest_has_them_and_verify_reads_them(run: Run, with_faiss_copy: Path) -> None:
    manifest = read_manifest(with_faiss_copy)
    assert manifest.parts == {"tiles", "faiss-flat", "faiss-ivf"}
    for name in [*PARTS["faiss-flat"](2), *PARTS["faiss-ivf"](2)]:
        assert manifest.files[name] == entry(with_faiss_copy / name)
        path = with_faiss_copy / name
        flip(path, path.stat().st_size - 2)
        code, _, err = run("verify", with_faiss_copy)
        assert (code, err.count("\n")) == (2, 1)
        assert name in err
        flip(path, path.stat().st_size - 2)
    assert run("verify", with_faiss_copy)[0] == 0


def test_the_stored_flat_index_is_searched_and_gives_the_same_integers(
    with_faiss: Path, tiny_snapshot: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = answer(tiny_snapshot, "exact")
    assert answer(tiny_snapshot, "faiss") == expected
    monkeypatch.setattr("ffnsearch_indexer.index.faiss.flat.flat_of", None)
    assert answer(with_faiss, "faiss") == expected
    with pytest.raises(TypeError):
        answer(tiny_snapshot, "faiss")


def test_stored_lists_say_what_they_find_and_find_it(with_faiss: Path) -> None:
    with Datastore.open(with_faiss) as datastore:
        predictor = Predictor(datastore, backend="faiss-ivf")
        measured = [load_recall(with_faiss, block) for block in range(2)]
        assert predictor.approximate
        assert predictor.recall == min(of.recall for of in measured)
        for index, keys, of in zip(open_lists(datastore), datastore.keys, measured, strict=True):
            assert of.threshold == 0.85  # of the profile that a small model starts with
            queries = keys[np.sort(np.random.default_rng(1).permutation(len(keys))[: of.queries])]
            all_there_are = ExactIndex(keys, datastore.counts).range_sum(queries, [of.threshold]).neighbors
            shares = index.range_sum(queries, [of.threshold]).neighbors / all_there_are
            assert float(shares.mean()) == pytest.approx(of.recall, abs=1e-12)
            assert of.recall >= lists.RECALL_MIN


def test_the_fewest_lists_are_probed_that_find_enough() -> None:
    rng = np.random.default_rng(2)
    keys = rng.standard_normal((900, 8))
    keys = (keys / np.linalg.norm(keys, axis=1, keepdims=True)).astype(np.float16)
    ivf, queries = ivf_of(keys), keys[::9]
    exact = FaissFlatIndex(keys, make_counts([[]] * len(keys), 1)).range_search(queries, 0.5)
    probes, recall, recall_of_all = lists.measure(ivf, queries, [exact])

    def found(probes: int) -> float:
        return float((neighbors(probes) / np.diff(exact.lims)).mean())

    def neighbors(probes: int) -> np.ndarray:
        ivf.nprobe = probes
        index = FaissIvfIndex(keys, make_counts([[]] * len(keys), 1), ivf)
        return index.range_sum(queries, [0.5]).neighbors[:, 0]

    assert 2 < probes < ivf.nlist
    assert found(probes) == pytest.approx(recall, abs=1e-12)
    assert neighbors(probes).sum() / len(exact.ids) == pytest.approx(recall_of_all, abs=1e-12)
    assert found(probes) >= lists.RECALL_MIN > found(probes - 1)


def test_without_neighbors_as_few_lists_are_probed_as_may_be() -> None:
    keys = np.eye(16, dtype=np.float16)
    nothing = FaissFlatIndex(keys, make_counts([[]] * 16, 1)).range_search(keys, 1.0)
    assert lists.measure(ivf_of(keys), keys, [nothing]) == (lists.PROBES_MIN, 1.0, 1.0)


@pytest.mark.parametrize("substrings", [1, 2, 3])
def test_few_keys_have_lists_too(substrings: int) -> None:
    keys = np.eye(4, dtype=np.float16)[:substrings]
    counts = make_counts([[(0, 1)]] * substrings, 1)
    assert FaissIvfIndex(keys, counts, ivf_of(keys)).range_sum(keys, [0.5]).neighbors.tolist() == [[1]] * substrings


@pytest.mark.parametrize("threads", [1, 2])
def test_the_same_snapshot_gives_the_same_bytes(threads: int, tiny_copy: Path, with_faiss: Path) -> None:
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(threads)
    try:
        manifest = add_faiss(tiny_copy, ["ivf", "flat"])
    finally:
        faiss.omp_set_num_threads(before)
    assert manifest == read_manifest(with_faiss)
    assert files_of(tiny_copy) == files_of(with_faiss)


def test_lists_can_be_found_on_a_device() -> None:
    class Centres(FakeGpus):
        def copy(self, index: faiss.Index) -> faiss.Index:
            self.copies.append(index)
            return index

    device, rng = Centres(2048), np.random.default_rng(0)
    keys = rng.standard_normal((400, 16)).astype(np.float16)
    ivf = ivf_of(keys, device)
    assert len(device.copies) == 1
    assert (ivf.ntotal, ivf.clustering_index) == (400, None)


@pytest.mark.parametrize("kinds", ["flat", "ivf", "flat,ivf"])
def test_index_adds_what_is_asked_for(kinds: str, run: Run, tiny_copy: Path, with_faiss: Path) -> None:
    before = read_manifest(tiny_copy)
    code, out, err = run("index", tiny_copy, "--faiss", kinds, "--json")
    result, after = json.loads(out), read_manifest(tiny_copy)
    assert (code, result["snapshot_id"]) == (0, after.snapshot_id)
    assert after.parts == {"tiles", *(f"faiss-{kind}" for kind in kinds.split(","))}
    assert {name: after.files[name] for name in before.files} == before.files
    assert "GB of memory" in err
    assert "MB of disk" in err
    for name in after.files:
        assert (tiny_copy / name).read_bytes() == (with_faiss / name).read_bytes()


def test_index_leaves_a_snapshot_that_has_them_alone(run: Run, with_faiss_copy: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in with_faiss_copy.rglob("*")}
    code, out, err = run("index", with_faiss_copy, "--faiss", "flat,ivf")
    assert (code, out.count("\n"), err) == (0, 1, "")
    assert "has tiles and faiss-ivf and faiss-flat" in out
    assert {path: path.stat().st_mtime_ns for path in with_faiss_copy.rglob("*")} == before


def test_a_build_adds_them_after_the_calibration(run: Run, tmp_path: Path, tiny_model: Path) -> None:
    (tmp_path / "text").write_text("the quick brown fox jumps over the lazy dog, and the dog does not mind. " * 3)
    out = tmp_path / "out.ffn"
    options = ("--corpus", tmp_path / "text", "--model", tiny_model, "--out", out, "--calibration-prompts", 0)
    assert run("build", *options)[0] == 0
    code, _, err = run("build", *options, "--resume", "--faiss", "ivf")
    assert (code, read_manifest(out).parts) == (0, {"tiles", "faiss-ivf"}), err
    assert answer(out, "faiss-ivf")[1][0][0][1] > 0
    shutil.rmtree(out)
    assert run("build", *options, "--faiss", "flat")[0] == 0
    assert read_manifest(out).parts == {"tiles", "faiss-flat"}
    assert answer(out, "faiss") == answer(out, "exact")


def test_the_plan_asks_for_their_room(tiny_corpus: Corpus, tiny_model: Path, tmp_path: Path, with_faiss: Path) -> None:
    without = estimate(BuildRequest(tiny_corpus, tiny_model, tmp_path / "out"))
    planned = estimate(BuildRequest(tiny_corpus, tiny_model, tmp_path / "out", faiss=["flat", "ivf"]))
    room = plan_faiss({"flat": 2, "ivf": 2}, without.substrings, 32).disk_bytes
    files = read_manifest(with_faiss).files
    taken = sum(of.bytes for name, of in files.items() if name.startswith("faiss"))
    assert taken <= room < 1.1 * taken + 2 * 10_000
    assert (planned.disk_bytes - without.disk_bytes, planned.snapshot_bytes - without.snapshot_bytes) == (room, room)


@pytest.mark.parametrize("what", ["pq", "flat,pq", "", "flat ivf"])
@pytest.mark.parametrize("command", ["index", "build"])
def test_an_unknown_kind_is_refused_before_anything_is_done(
    command: str, what: str, run: Run, tiny_copy: Path, tmp_path: Path
) -> None:
    before = files_of(tiny_copy)
    given = [tiny_copy] if command == "index" else ["--corpus", tmp_path, "--out", tmp_path / "out"]
    code, out, err = run(command, *given, "--faiss", what)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "flat, ivf, or flat,ivf" in err
    assert files_of(tiny_copy) == before
    assert not (tmp_path / "out").exists()


def test_without_the_package_one_line_says_what_to_install(
    run: Run, tiny_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files_of(tiny_copy)
    monkeypatch.setitem(sys.modules, "faiss", None)
    for command in (("index", tiny_copy, "--faiss", "flat"), ("predict", tiny_copy, "the", "--backend", "faiss")):
        code, out, err = run(*command)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert "pip install faiss-cpu" in err
    assert files_of(tiny_copy) == before


@pytest.mark.parametrize("why", ["no room", "a file is in the way"])
def test_a_disk_that_refuses_gives_one_clear_line(
    why: str, run: Run, tiny_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if why == "no room":
        monkeypatch.setattr(shutil, "disk_usage", lambda _: DiskUsage(1 << 40, 1 << 40, 1000))
    else:
        (tiny_copy / "faiss-flat").write_text("mine")
    before = files_of(tiny_copy)
    code, out, err = run("index", tiny_copy, "--faiss", "flat")
    assert (code, out) == (2, "")
    assert str(tiny_copy) in err.splitlines()[-1]
    assert files_of(tiny_copy) == before


def test_a_file_that_cannot_grow_ends_it_in_order_and_a_later_one_completes_it(
    tiny_copy: Path, with_faiss: Path
) -> None:
    """The last bytes are those that faiss' own writer would lose without a word."""
    largest = max((with_faiss / f"faiss-{kind}/block-0.faiss").stat().st_size for kind in ("flat", "ivf"))
    error = stopping.run(FaissJob(tiny_copy), Stop(file_bytes_max=largest - 1)).error
    assert isinstance(error, OutputError)
    assert error.reason == "DISK_FULL"
    assert "the same command continues" in error.message
    assert "faiss-ivf" not in read_manifest(tiny_copy).parts
    add_faiss(tiny_copy, ["flat", "ivf"])
    assert files_of(tiny_copy) == files_of(with_faiss)


def test_the_same_index_twice_at_once_is_refused(tiny_copy: Path, with_faiss: Path) -> None:
    def again(*_: object) -> None:
        with pytest.raises(OutputError) as caught:
            add_faiss(tiny_copy, ["flat"])
        assert caught.value.reason == "OUTPUT_BUSY"
        told.append(caught.value.message)

    told: list[str] = []
    add_faiss(tiny_copy, ["flat"], progress=again)
    assert told[0] == f"{tiny_copy}/faiss-flat.partial is in use, the same work is being done: wait for it"
    add_faiss(tiny_copy, ["ivf"])
    assert files_of(tiny_copy) == files_of(with_faiss)


@pytest.mark.parametrize("operation", [7])
def test_what_was_killed_goes_on_to_the_same_bytes(operation: int, tiny_copy: Path, with_faiss: Path) -> None:
    assert stopping.run(FaissJob(tiny_copy), Stop(operation)).exit_status == KILLED
    with Datastore.open(tiny_copy) as datastore:
        assert "faiss-ivf" not in datastore.manifest.parts
    assert stopping.run(FaissJob(tiny_copy)).exit_status == 0
    assert files_of(tiny_copy) == files_of(with_faiss)


@pytest.mark.parametrize("damage", ["no index", "another kind", "other keys", "half of it", "nothing"])
@pytest.mark.parametrize("backend", ["faiss", "faiss-ivf"])
def test_what_is_not_the_index_is_refused_even_if_the_manifest_knows_it(
    backend: str, damage: str, with_faiss_copy: Path
) -> None:
    part = {"faiss": "faiss-flat", "faiss-ivf": "faiss-ivf"}[backend]
    name = f"{part}/block-1.faiss"
    path = with_faiss_copy / name
    if damage == "no index":
        path.write_text("an index of faiss, it says" * 10)
    elif damage == "another kind":
        faiss.write_index(faiss.IndexFlatL2(32), str(path))
    elif damage == "other keys":
        other = np.eye(32, dtype=np.float16)
        faiss.write_index(flat_of(other) if backend == "faiss" else ivf_of(other), str(path))
    else:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2 if damage == "half of it" else 0])
    rewrite_manifest(with_faiss_copy, files=read_manifest(with_faiss_copy).files | {name: entry(path)})
    with Datastore.open(with_faiss_copy) as datastore:
        with pytest.raises(DamageError) as caught:
            Predictor(datastore, backend=backend)
        assert str(path) in caught.value.message
        assert "\n" not in caught.value.message
        assert store.missing_blocks(
            "flat" if backend == "faiss" else "ivf", with_faiss_copy, 2, *datastore.keys[0].shape
        ) == [1]


def test_a_recall_that_cannot_be_read_is_damage(with_faiss_copy: Path) -> None:
    path = with_faiss_copy / "faiss-ivf/block-0.json"
    assert load_recall(with_faiss_copy, 0) == MeasuredRecall(**json.loads(path.read_text()))
    for text in ("", "{}", json.dumps(asdict(load_recall(with_faiss_copy, 1)) | {"more": 1})):
        path.write_text(text)
        with pytest.raises(DamageError, match=r"block-0\.json"):
            load_recall(with_faiss_copy, 0)


def test_lists_that_are_not_there_say_how_to_get_them(run: Run, tiny_snapshot: Path) -> None:
    code, out, err = run("predict", tiny_snapshot, "the people", "--backend", "faiss-ivf")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert f"ffnsearch index {tiny_snapshot} --faiss ivf" in err


def test_with_gpus_both_backends_are_copied_to_them(with_faiss: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests run with the build of faiss for CPUs."""
    monkeypatch.setattr(store, "Gpus", lambda: FakeGpus(best_max=20))
    with Datastore.open(with_faiss) as datastore:
        queries = datastore.keys[0][:9]
        for opened in (open_flat, open_lists):
            on_gpu, on_cpu = opened(datastore, on_gpus=True)[0], opened(datastore)[0]
            found, expected = (index.range_sum(queries, [0.8]) for index in (on_gpu, on_cpu))
            np.testing.assert_array_equal(found.freq, expected.freq)
            np.testing.assert_array_equal(found.neighbors, expected.neighbors)
        assert all(isinstance(index, FaissGpuFlatIndex) for index in open_flat(datastore, on_gpus=True))


def test_no_gpu_is_used_with_the_build_for_cpus() -> None:
    assert store.count_gpus() == 0


def test_a_gpu_that_refuses_an_index_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """What faiss' GPU build has, as far as it is asked."""

    class Resources:
        def __getattr__(self, name: str) -> Callable[[int], None]:
            assert name in ("setTempMemory", "setPinnedMemory")
            return lambda size: None

    class Options:
        shard = False
        use_cuvs = True

    def copy(resources: list[Resources], index: faiss.Index, options: Options) -> None:
        assert (len(resources), options.shard, options.use_cuvs) == (2, True, False)
        raise RuntimeError("Error in allocMemory: cudaMalloc error out of memory [2]\nin gpu")

    monkeypatch.setattr(faiss, "StandardGpuResources", Resources, raising=False)
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 2)
    monkeypatch.setattr(faiss, "GpuMultipleClonerOptions", Options, raising=False)
    monkeypatch.setattr(faiss, "index_cpu_to_gpu_multiple_py", copy, raising=False)
    with pytest.raises(BackendError) as caught:
        store.Gpus().copy(faiss.IndexFlatIP(4))
    assert caught.value.reason == "DEVICE_MEMORY"
    assert "out of memory" in caught.value.message
    assert "\n" not in caught.value.message
