"""The forward pass for a device gives the compiled one's vectors, but for a step of float16 here and there.

Here it runs on the CPU, which differs from a GPU in the graph alone; with a GPU, there as well.
"""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from ffnsearch_indexer.answer import backends
from ffnsearch_indexer.answer import predictor as predicting
from ffnsearch_indexer.answer.backends import Backend
from ffnsearch_indexer.answer.predictor import Predictor
from ffnsearch_indexer.build import pipeline, source
from ffnsearch_indexer.build.pipeline import build, estimate
from ffnsearch_indexer.build.request import BuildRequest
from ffnsearch_indexer.corpora.corpus import Corpus
from ffnsearch_indexer.errors import BackendError, DeviceError, FfnSearchError, ModelError, OutputError, PromptError
from ffnsearch_indexer.index.base import Index
from ffnsearch_indexer.index.exact import ExactIndex
from ffnsearch_indexer.models.extraction import extract_keys
from ffnsearch_indexer.models.on_device import PRECISIONS, DeviceModel
from ffnsearch_indexer.models.packed import PackedModel, pack_model
from ffnsearch_indexer.models.queries import run_prompts
from ffnsearch_indexer.store import keys
from ffnsearch_indexer.store.datastore import Datastore
from ffnsearch_indexer.store.manifest import read_manifest
from ffnsearch_indexer.store.tiles import write_tiles
from tiny import files_of, float16_steps, make_model, model_on_cpu, random_text, save_model

WINDOW, ALPHABET = 6, "abc\n"
DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")),
]
CORPUS = Corpus("text", random_text(1, 600, ALPHABET))


@cache
def packed() -> PackedModel:
    return pack_model(make_model())


@pytest.fixture(scope="module", params=DEVICES)
def on_device(request: pytest.FixtureRequest) -> DeviceModel:
    return DeviceModel(make_model(), WINDOW, device=request.param, rows=16)


def windows(count: int, *, seed: int = 1) -> np.ndarray:
    drawn = np.random.default_rng(seed).integers(0, 65, (4 * count, WINDOW)).astype(np.uint16)
    return np.unique(drawn, axis=0)[:count]


def prompts_of(lengths: list[int]) -> list[np.ndarray]:
    rng = np.random.default_rng(2)
    return [rng.integers(0, 65, length).astype(np.uint16) for length in lengths]


@pytest.mark.parametrize("count", [1, 15, 16, 17, 100])
def test_keys_are_those_of_the_compiled_pass(on_device: DeviceModel, count: int) -> None:
    keys = on_device.extract_keys(windows(count))
    assert keys.shape == (2, count, 32)
    assert float16_steps(keys, extract_keys(packed(), windows(count))) <= 1


def test_queries_and_logits_are_those_of_the_compiled_pass(on_device: DeviceModel) -> None:
    prompts = prompts_of([1, 2, 3, WINDOW, WINDOW + 5, 1, 40] * 5)
    found, expected = on_device.run_prompts(prompts).fetch(), run_prompts(packed(), prompts, WINDOW)
    assert float16_steps(found.vectors, expected.vectors) <= 1
    np.testing.assert_allclose(found.logits, expected.logits, atol=1e-4, rtol=1e-4)


def test_a_key_is_the_query_of_the_same_tokens_to_the_bit_in_any_company(on_device: DeviceModel) -> None:
    if not on_device.rows_agree(windows(1)[0]):
        pytest.skip("the library treats the rows of one product differently")
    keys = on_device.extract_keys(windows(50))
    for count in (1, 7, 50):
        queries = on_device.run_prompts(list(windows(50)[:count][::-1])).fetch().vectors
        assert queries.tobytes() == keys[:, :count][:, ::-1].tobytes()


def test_what_stands_behind_a_prompt_and_what_was_run_before_do_not_matter(on_device: DeviceModel) -> None:
    first, lengths = windows(20), np.full(20, 3)
    alone = on_device.run(first, lengths).vectors
    other = first.copy()
    other[:, 3:] = 7
    on_device.run(windows(40, seed=5), np.full(40, WINDOW))
    assert torch.equal(on_device.run(other, lengths).vectors, alone)


@pytest.mark.parametrize(("precision", "most"), [("float16", 0.01), ("bfloat16", 0.1)])
def test_half_precision_is_near(precision: str, most: float) -> None:
    model = DeviceModel(make_model(scale=1), WINDOW, device="cpu", precision=precision, rows=16)
    keys, expected = model.extract_keys(windows(30)), extract_keys(pack_model(make_model(scale=1)), windows(30))
    assert 0 < np.abs(keys.astype(np.float64) - expected).max() < most
    assert precision in model.description


def test_another_precision_is_refused() -> None:
    with pytest.raises(ModelError) as caught:
        DeviceModel(make_model(), WINDOW, device="cpu", precision="int8")
    assert caught.value.reason == "UNKNOWN_PRECISION"
    assert caught.value.message == "'int8' is not a precision of a model: choose one of float32, float16, bfloat16"


def test_reduced_products_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "high")
    with pytest.raises(BackendError, match="full float32"):
        DeviceModel(make_model(), WINDOW, device="cpu")


def test_an_empty_prompt_is_refused(on_device: DeviceModel) -> None:
    with pytest.raises(PromptError) as caught:
        on_device.run_prompts([*prompts_of([3]), np.empty(0, np.uint16)])
    assert caught.value.reason == "EMPTY_PROMPT"


@pytest.mark.parametrize("name", ["blocks.0.ffn.down.bias", "head.bias"])
def test_weights_that_are_not_finite_are_refused(name: str) -> None:
    broken = make_model()
    broken.get_parameter(name)[3] = float("nan")
    with pytest.raises(FfnSearchError) as caught:
        DeviceModel(broken, WINDOW, device="cpu", rows=4).extract_keys(windows(2))
    assert caught.value.reason == "NOT_FINITE"
    with pytest.raises(FfnSearchError, match=r"or choose --precision float32$"):
        DeviceModel(broken, WINDOW, device="cpu", precision="bfloat16", rows=4).extract_keys(windows(2))


def test_the_model_itself_stays_where_it_is() -> None:
    model = make_model()
    DeviceModel(model, WINDOW, device="cpu", precision="bfloat16")
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save_model(tmp_path / "m", make_model(vocabulary_size=4, d_model=8), ALPHABET)


@pytest.fixture
def _as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A build takes the device's way, on the CPU."""
    monkeypatch.setattr(source, "choose_device", lambda wanted: "cpu" if wanted == "cpu" else "cuda")
    monkeypatch.setattr(source, "DeviceModel", model_on_cpu)
    monkeypatch.setattr(pipeline, "write_tiles", lambda *arguments, device: write_tiles(*arguments, device="cpu"))
    monkeypatch.setattr(keys, "SHARD_WINDOWS", 100)


@pytest.mark.usefixtures("_as_on_a_gpu")
def test_a_build_on_a_device_differs_in_its_keys_alone(model: Path, tmp_path: Path) -> None:
    build(BuildRequest(CORPUS, model, tmp_path / "cpu", window_tokens=5, device="cpu"))
    build(BuildRequest(CORPUS, model, tmp_path / "gpu", window_tokens=5, device="cuda"))
    build(BuildRequest(CORPUS, model, tmp_path / "again", window_tokens=5, device="auto"))
    on_cpu, on_gpu = files_of(tmp_path / "cpu"), files_of(tmp_path / "gpu")
    assert on_gpu == files_of(tmp_path / "again")
    assert on_cpu.keys() == on_gpu.keys()
    may_differ = ("keys/", "tiles/", "manifest.json")
    assert all(on_cpu[name] == on_gpu[name] for name in on_cpu if not name.startswith(may_differ))
    for block in range(2):
        arrays = [np.load(tmp_path / name / f"keys/block-{block}.npy") for name in ("cpu", "gpu")]
        assert float16_steps(*arrays) <= 1
    passes = [read_manifest(tmp_path / name).written_by["forward_pass"] for name in ("cpu", "gpu")]
    assert passes == ["compiled, on a CPU", "torch float32 on CPU, 64 rows"]


@pytest.mark.usefixtures("_as_on_a_gpu")
def test_tiles_are_measured_where_the_model_runs(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    on_cpu = pipeline.write_tiles
    monkeypatch.setattr(
        pipeline,
        "write_tiles",
        lambda *arguments, device: (asked.append(device), on_cpu(*arguments, device=device)),
    )
    for device in ("cpu", "cuda"):
        build(BuildRequest(CORPUS, model, tmp_path / device, window_tokens=5, device=device))
    assert asked == ["cpu", "cuda"]


@pytest.mark.usefixtures("_as_on_a_gpu")
def test_a_gpu_asks_with_the_precision_that_the_keys_were_made_with(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exact(datastore: Datastore, device: str) -> list[Index]:
        return [ExactIndex(keys, datastore.counts) for keys in datastore.keys]

    monkeypatch.setattr(backends, "BACKENDS", {"kernel": Backend(exact, devices=("cuda",))})
    monkeypatch.setattr(backends, "cuda_problem", lambda: None)
    monkeypatch.setattr(predicting, "DeviceModel", model_on_cpu)
    for precision in PRECISIONS:
        out = tmp_path / precision
        build(BuildRequest(CORPUS, model, out, window_tokens=5, device="cuda", precision=precision))
        with Datastore.open(out, check="sizes") as datastore:
            assert datastore.manifest.precision == precision
            assert datastore.manifest.written_by["forward_pass"] == f"torch {precision} on CPU, 64 rows"
            prompts = [datastore.substring(id_) for id_ in range(40)]
            found = Predictor(datastore, device="cuda").search(prompts, [[0.999], [0.999]])
            there = DeviceModel(datastore.model, 5, device="cpu", precision=precision).run_prompts(prompts).fetch()
            keys = np.stack([block[:40] for block in datastore.keys])
        np.testing.assert_array_equal(found.logits, there.logits)
        assert float16_steps(keys, there.vectors) <= 1
        assert all((sums.neighbors >= 1).all() for sums in found.sums), "each prompt finds itself"


@pytest.mark.usefixtures("_as_on_a_gpu")
def test_half_precision_is_refused_on_a_cpu_before_anything_is_written(model: Path, tmp_path: Path) -> None:
    for call in (build, estimate):
        with pytest.raises(BackendError) as caught:
            call(BuildRequest(CORPUS, model, tmp_path / "out", window_tokens=5, device="cpu", precision="bfloat16"))
        assert caught.value.reason == "PRECISION_NEEDS_GPU"
        with pytest.raises(ModelError, match="is not a precision"):
            call(BuildRequest(CORPUS, model, tmp_path / "out", window_tokens=5, device="cuda", precision="tf32"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m"]


@pytest.mark.usefixtures("_as_on_a_gpu")
def test_a_build_goes_on_with_the_forward_pass_that_it_was_begun_with(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, whole = tmp_path / "out", tmp_path / "whole"
    build(BuildRequest(CORPUS, model, whole, window_tokens=5, device="cuda"))
    extract, calls = DeviceModel.extract_keys, []

    def fail_at_the_third(self: DeviceModel, windows: np.ndarray) -> np.ndarray:
        calls.append(len(windows))
        if len(calls) == 5:  # two are the estimate's
            raise torch.AcceleratorError("CUDA error: unspecified launch failure")
        return extract(self, windows)

    monkeypatch.setattr(DeviceModel, "extract_keys", fail_at_the_third)
    with pytest.raises(DeviceError):
        build(BuildRequest(CORPUS, model, out, window_tokens=5, device="cuda"))
    assert estimate(BuildRequest(CORPUS, model, out, window_tokens=5, device="cuda")).shards_done > 0
    with pytest.raises(OutputError, match="another forward pass"):
        build(BuildRequest(CORPUS, model, out, window_tokens=5, device="cpu"))
    build(BuildRequest(CORPUS, model, out, window_tokens=5, device="cuda"))
    assert files_of(out) == files_of(whole)
