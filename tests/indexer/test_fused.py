"""The `fused` backend beside the contract: skipping, lists that are too short, devices that fail, compiling."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from test_index_contract import Case, FusedInSmallTiles, clustered, make_counts, oracle_scores, oracle_sums, unit

from ffnsearch_indexer.errors import BackendError, DeviceError
from ffnsearch_indexer.hardware.gpu import device_errors
from ffnsearch_indexer.index import device, fused
from ffnsearch_indexer.index.base import Index, score_error
from ffnsearch_indexer.index.exact_device import ExactDeviceIndex
from ffnsearch_indexer.index.fused import FusedIndex
from ffnsearch_indexer.index.tiles import tiles_of

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def sums_are_right(index: Index, case: Case) -> bool:
    found, expected = index.range_sum(case.queries, case.thresholds), oracle_sums(case)
    return np.array_equal(found.freq, expected.freq) and np.array_equal(found.neighbors, expected.neighbors)


def small_case(keys: int = 300) -> Case:
    case = clustered(keys=keys)
    return case._replace(queries=case.queries[::8], thresholds=[0.85, 0.3])


def failing_once(monkeypatch: pytest.MonkeyPatch, name: str, error: Exception, times: int = 1) -> None:
    """Let a method of FusedIndex fail so many times."""
    left, method = [error] * times, getattr(FusedIndex, name)

    def failing(*arguments: object) -> object:
        if left:
            raise left.pop()
        return method(*arguments)

    monkeypatch.setattr(FusedIndex, name, failing)


def test_without_skipping_the_sums_are_the_same() -> None:
    case = small_case()
    tiles = tiles_of(case.keys, case.counts)
    for index in (
        FusedInSmallTiles(case.keys, case.counts, tiles, device=DEVICE, skips=False),
        FusedInSmallTiles(case.keys, case.counts, None, device=DEVICE),
    ):
        assert not index.skips
        assert sums_are_right(index, case)


def test_tiles_are_skipped_and_added_whole() -> None:
    case = small_case()._replace(thresholds=[])
    index = FusedInSmallTiles(case.keys, case.counts, tiles_of(case.keys, case.counts), device=DEVICE)
    everything = case._replace(thresholds=[-1.5])
    assert sums_are_right(index, everything)
    assert _pairs_listed(index, everything) == 0, "every tile is whole"
    nothing = case._replace(thresholds=[1.5])
    assert sums_are_right(index, nothing)
    assert _tiles_opened(index, nothing) == 0, "every tile is empty"


def _lists(index: FusedIndex, case: Case) -> tuple[fused.Lists, torch.Tensor]:
    tiling = index._tiling(len(case.queries))
    vectors, _ = index._prepared(torch.from_numpy(case.queries), tiling)
    shape, limits = (len(case.queries), len(case.thresholds), index._columns), index._limits(np.array(case.thresholds))
    opened: list[torch.Tensor] = []
    bound = index._bound

    def watching(vectors: torch.Tensor, *others: object) -> None:
        bound(vectors, *others)
        opened.append(others[4])

    index._bound = watching
    lists = index._list(vectors, tiling, shape, limits, range(len(case.keys)))
    del index._bound
    return lists, opened[0]


def _pairs_listed(index: FusedIndex, case: Case) -> int:
    return int(_lists(index, case)[0].found.sum())


def _tiles_opened(index: FusedIndex, case: Case) -> int:
    return int(_lists(index, case)[1].sum())


def test_a_search_waits_once_and_uploads_thresholds_where_they_are_new(monkeypatch: pytest.MonkeyPatch) -> None:
    case, calls = small_case(), []
    index = FusedInSmallTiles(case.keys, case.counts, tiles_of(case.keys, case.counts), device=DEVICE)
    index.range_sum(case.queries[:1], case.thresholds)  # which puts the block on the device

    def watch(module: object, name: str) -> None:
        method = getattr(module, name)

        def watched(*arguments: object) -> object:
            calls.append(name)
            return method(*arguments)

        monkeypatch.setattr(module, name, watched)

    watch(torch.Tensor, "cpu")
    watch(fused, "to_device")
    queries = torch.from_numpy(case.queries[:1]).to(DEVICE)
    for thresholds, expected in (
        (case.thresholds, ["cpu"]),
        ([0.85, 0.2], ["to_device", "to_device", "cpu"]),
        ([0.85, 0.2], ["cpu"]),
        ([0.85], ["to_device", "to_device", "cpu"]),
    ):
        calls.clear()
        index.range_sum(queries, thresholds)
        assert calls == expected
    assert sums_are_right(index, case)


def test_a_kernel_that_does_not_fit_the_device_is_an_error_of_the_device() -> None:
    errors = pytest.importorskip("triton.runtime.errors")
    with pytest.raises(DeviceError, match="out of resource: shared memory") as raised, device_errors():
        raise errors.OutOfResources(268288, 232448, "shared memory")
    assert raised.value.reason == "DEVICE_FAILED"


def test_lists_that_are_too_short_are_made_longer() -> None:
    case = small_case()
    index = FusedInSmallTiles(case.keys, case.counts, device=DEVICE)
    index._room = 1
    assert sums_are_right(index, case)
    room = index._room
    assert room > 1
    assert index._lengthen(1), "as a graph with shorter lists may ask, which was recorded before"
    assert index._room == room


def test_where_memory_forbids_longer_lists_the_work_is_cut_down_to_single_pairs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case = small_case(keys=30)
    case = case._replace(queries=case.queries[:3])
    monkeypatch.setattr(fused, "free_bytes", lambda _: 0)
    index = FusedInSmallTiles(case.keys, case.counts, tiles_of(case.keys, case.counts), device=DEVICE)
    index._room = 4
    assert sums_are_right(index, case)
    assert index._room == 4
    found = index.range_search(case.queries, 0.3)
    expected = [np.flatnonzero(row > 0.3).tolist() for row in oracle_scores(case)]
    assert np.split(found.ids, found.lims[1:-1])[0].tolist() == expected[0]
    assert found.lims[-1] == sum(map(len, expected))


def test_more_thresholds_than_a_byte_has_levels(monkeypatch: pytest.MonkeyPatch) -> None:
    case = small_case()._replace(thresholds=[0.9, 0.1, 0.5, 0.5, -0.2])
    monkeypatch.setattr(fused, "LEVELS_MAX", 2)
    assert sums_are_right(FusedInSmallTiles(case.keys, case.counts, device=DEVICE), case)


def test_a_device_out_of_memory_takes_smaller_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    case = small_case()
    failing_once(monkeypatch, "_summed", torch.OutOfMemoryError("CUDA out of memory"))
    assert sums_are_right(FusedInSmallTiles(case.keys, case.counts, device=DEVICE), case)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "DEVICE_MEMORY"),
        (torch.AcceleratorError("CUDA error: unspecified launch failure"), "DEVICE_FAILED"),
        (RuntimeError("Triton Error [CUDA]: device-side assert triggered"), "DEVICE_FAILED"),
    ],
)
def test_a_device_that_fails_gives_an_error_and_no_part_of_an_answer(
    error: Exception, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = small_case(keys=30)
    index = FusedInSmallTiles(case.keys, case.counts, device=DEVICE)
    failing_once(monkeypatch, "_prepared", error, times=100)
    for search in (lambda: index.range_sum(case.queries, [0.5]), lambda: index.range_search(case.queries, 0.5)):
        with pytest.raises(BackendError) as raised:
            search()
        assert raised.value.reason == reason
        assert "\n" not in raised.value.message


def test_the_exact_backend_on_a_device_fails_the_same_way(monkeypatch: pytest.MonkeyPatch) -> None:
    case = small_case()
    index = ExactDeviceIndex(case.keys, case.counts, device=DEVICE)
    products, left = ExactDeviceIndex._products, [torch.OutOfMemoryError("CUDA out of memory")]

    def failing(self: ExactDeviceIndex, *arguments: torch.Tensor) -> torch.Tensor:
        if left:
            raise left.pop()
        return products(self, *arguments)

    monkeypatch.setattr(ExactDeviceIndex, "_products", failing)
    assert sums_are_right(index, case), "with half a tile"
    left += [torch.OutOfMemoryError("CUDA out of memory")] * 100
    with pytest.raises(BackendError) as raised:
        index.range_sum(case.queries, [0.5])
    assert raised.value.reason == "DEVICE_MEMORY"
    left[:] = [torch.AcceleratorError("CUDA error: the device is lost")]
    with pytest.raises(BackendError, match="the device is lost"):
        index.range_search(case.queries, 0.5)


def test_our_own_bugs_are_not_called_failures_of_a_device() -> None:
    with pytest.raises(RuntimeError, match="shapes"), device_errors():
        raise RuntimeError("shapes cannot be multiplied")


def test_keys_that_do_not_fit_on_the_device_are_streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    case = small_case()
    monkeypatch.setattr("ffnsearch_indexer.index.exact_device.free_bytes", lambda _: case.keys.nbytes)
    index = ExactDeviceIndex(case.keys, case.counts, device=DEVICE)
    assert index._resident is None
    assert sums_are_right(index, case)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device")
@pytest.mark.parametrize("backend", [FusedIndex, ExactDeviceIndex])
def test_no_device_is_an_error_that_says_what_to_do(backend: Callable[..., Index]) -> None:
    case = small_case()
    with pytest.raises(BackendError, match="--device cpu") as raised:
        backend(case.keys, case.counts, device="cuda").range_sum(case.queries, [0.5])
    assert raised.value.reason == "DEVICE_UNAVAILABLE"


def test_without_triton_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    case = small_case()
    monkeypatch.setitem(sys.modules, "ffnsearch_indexer.index.fused_kernels", None)
    monkeypatch.delattr("ffnsearch_indexer.index.fused_kernels", raising=False)
    with pytest.raises(BackendError, match="pip install triton"):
        FusedIndex(case.keys, case.counts, device=DEVICE).range_sum(case.queries, [0.5])


def test_sums_cut_off_after_every_step_are_within_the_bound() -> None:
    """A model of a tensor core of 4 products a step that cuts off, as the bound assumes at worst."""
    rng = np.random.default_rng(1)
    keys, queries = (unit(np.abs(rng.standard_normal((rows, 384)))) for rows in (40, 6))
    exact = oracle_scores(Case(keys, queries, [], make_counts([[]] * 40, 1)))
    sums = np.zeros(exact.shape, np.float64)
    for step in range(0, 384, 4):
        terms = queries[:, None, step : step + 4].astype(np.float64) * keys[None, :, step : step + 4]
        terms = np.concatenate([terms, sums[..., None]], axis=2)
        unit_of_last = 2.0 ** (np.floor(np.log2(np.abs(terms).max(axis=2, keepdims=True))) - 23)
        sums = (np.trunc(terms / unit_of_last) * unit_of_last).sum(axis=2)
        last = 2.0 ** (np.floor(np.log2(np.abs(sums))) - 23)
        sums = np.trunc(sums / last) * last
    assert np.abs(sums - exact).max() > score_error(384) / 10, "the model is too good to be one"
    assert np.abs(sums - exact).max() < device.device_score_error(384)


COMPILED = """
import itertools, re, subprocess, sys, tempfile
from pathlib import Path
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from ffnsearch_indexer.index import fused_kernels
from ffnsearch_indexer.index.fused import BOUND_STAGES, BOUND_WARPS, ENTRIES, SHARED_BYTES_BESIDES, FusedIndex
from ffnsearch_indexer.index.fused_tilings import tiling_of

tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
if not (tools / "ptxas").exists():
    sys.exit(77)
settings = FusedIndex.settings
known = {"Y": 66, "COLUMNS": 128, "ADDS": True, "GROUP": 32, "CENTRES": settings.centres, "PAIRS": settings.pairs,
         "ENTRIES": ENTRIES}
types = {"queries": "*fp16", "keys": "*fp16", "centres": "*fp16", "bounds": "*fp32", "limits": "*fp32",
         "thresholds": "*fp64", "group_sums": "*i64", "sums": "*i64", "offsets": "*i64", "counts": "*i64",
         "scores": "*fp64", "error": "fp32", "slack": "fp32", "longer": "fp32"} | dict.fromkeys(
    ("ids", "tokens", "open_tiles", "open_lengths", "places", "marks", "found"), "*i32")


def compile_for(capability, name, tiling, options, D=384, skips=True):
    kernel = getattr(fused_kernels, name)
    of_tiling = {"TILE_QUERIES": tiling.queries, "TILE_KEYS": tiling.keys, "DEPTH": tiling.depth, "D": D,
                 "RESIDENT": tiling.resident, "QUERIES_FIRST": tiling.queries_first, "SKIPS": skips}
    numbers = {name: (place,) for place, name in enumerate(kernel.arg_names)}
    constants = {name: value for name, value in (known | of_tiling).items() if name in numbers}
    signature = {name: "constexpr" if name in constants else types.get(name, "i32") for name in numbers}
    specialized = [each.name for each in kernel.params if signature[each.name] == "i32" and not each.do_not_specialize]
    assert not specialized, f"{kernel} is compiled again for other values of {specialized}"
    aligned = {numbers[name]: [["tt.divisibility", 16]] for name in numbers if signature[name][0] == "*"}
    source = ASTSource(kernel, signature, {numbers[name]: value for name, value in constants.items()}, aligned)
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(made.asm["cubin"])
        file.flush()
        used = subprocess.run([tools / "cuobjdump", "-res-usage", file.name], capture_output=True, text=True).stdout
        sass = subprocess.run([tools / "cuobjdump", "-sass", file.name], capture_output=True, text=True).stdout
    votes = len(re.findall(r"\\bVOTE", sass))  # with which lanes would wait for one another's atomics
    stack_bytes = re.search(r"STACK:(\\d+)", used)[1]
    has_groups = capability >= 90 and tiling.queries >= 64
    in_tensor_cores = ("wgmma.mma_async" if has_groups else "mma") in made.asm["ptx"]
    fetches_ahead = int("cp.async" in made.asm["ptx"])
    print(capability, name, D, made.metadata.shared, stack_bytes, int(in_tensor_cores), votes, fetches_ahead)


def compile_scan(capability, shared_bytes, queries, D, skips):
    tiling = tiling_of(settings, queries, D, shared_bytes - SHARED_BYTES_BESIDES)
    options = {"num_warps": tiling.warps, "num_stages": tiling.stages}
    compile_for(capability, "scan_tiles", tiling, options, -(-D // 128) * 128, skips)


shared_bytes = dict(tuple(map(int, chip.split("="))) for chip in sys.argv[1:])
for tiling, D, skips in itertools.product(settings.tilings, (384, 448, 768), (True, False)):
    compile_scan(90, shared_bytes[90], tiling.queries, D, skips)
for capability, tiling in itertools.product(sorted({*shared_bytes} - {90}), settings.tilings):
    compile_scan(capability, shared_bytes[capability], tiling.queries, 384, True)
for tiling in settings.tilings:
    compile_for(90, "bound_tiles", tiling, {"num_warps": BOUND_WARPS, "num_stages": BOUND_STAGES})
for name in ("add_pairs", "score_pairs"):
    compile_for(90, name, settings.tilings[-1], {"num_warps": 4})
"""

SHARED_BYTES = {80: 163 << 10, 89: 99 << 10, 90: 227 << 10}
"""What a block of threads may have, by compute capability: Ampere, Ada and Hopper."""


def test_kernels_compile_without_spills_and_fit_the_chips(tmp_path: Path) -> None:
    pytest.importorskip("triton")
    environment = {"TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": ":".join(sys.path), "PATH": "/usr/bin:/bin"}
    chips = [f"{capability}={shared_bytes}" for capability, shared_bytes in SHARED_BYTES.items()]
    command = [sys.executable, "-c", COMPILED, *chips]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)  # the interpreter is off there
    if ended.returncode == 77:
        pytest.skip("this Triton brings no ptxas")
    assert ended.returncode == 0, ended.stderr
    lines = [line.split() for line in ended.stdout.splitlines()]
    assert len(lines) == 9 * len(FusedIndex.settings.tilings) + 2
    for capability, kernel, d_model, shared_bytes, stack_bytes, in_tensor_cores, votes, fetches_ahead in lines:
        assert int(votes) == 0 or kernel != "scan_tiles", kernel
        assert int(shared_bytes) <= SHARED_BYTES[int(capability)], kernel
        assert int(stack_bytes) <= (0 if d_model == "384" else 64), kernel
        assert int(in_tensor_cores) == (kernel in ("scan_tiles", "bound_tiles")), kernel
        assert int(fetches_ahead) == (kernel == "scan_tiles"), kernel
