"""A prompt's query is its own: no other prompt, no row and no group changes a byte of it."""

import copy
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ffnsearch_indexer.errors import FfnSearchError, PromptError
from ffnsearch_indexer.models.inference import unit_float16
from ffnsearch_indexer.models.packed import pack_model
from ffnsearch_indexer.models.queries import Queries, as_queries, run_prompts
from ffnsearch_indexer.models.transformer import Transformer, TransformerConfig

L = 6


def make_model(config: TransformerConfig) -> Transformer:
    torch.manual_seed(0)
    model = Transformer(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module", params=[(6, 16), (2, 384)], ids=["narrow", "wide"])
def model(request: pytest.FixtureRequest) -> Transformer:
    blocks, d_model = request.param
    return make_model(TransformerConfig(vocabulary_size=65, blocks=blocks, heads=2, d_model=d_model, context_tokens=16))


@pytest.fixture(scope="module")
def small_model() -> Transformer:
    return make_model(TransformerConfig(vocabulary_size=65, blocks=2, heads=2, d_model=24, context_tokens=16))


def random_prompts(count: int, seed: int = 0, longest: int = 12) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 65, rng.integers(1, longest + 1)).astype(np.uint16) for _ in range(count)]


def answer_bytes(queries: Queries, row: int) -> tuple[bytes, bytes]:
    return queries.vectors[:, row].tobytes(), queries.logits[row].tobytes()


def run(model: Transformer, prompts: Sequence[np.ndarray]) -> Queries:
    return run_prompts(pack_model(model), prompts, L)


@settings(max_examples=50)
@given(d_model=st.integers(1, 500), scale=st.floats(-40, 37), seed=st.integers(0, 1000))
def test_a_vector_becomes_a_query_once(d_model: int, scale: float, seed: int) -> None:
    vectors = np.random.default_rng(seed).normal(size=(20, d_model)) * 10**scale
    vectors = vectors.astype(np.float32)
    vectors[np.abs(vectors).max(axis=1) == 0, 0] = 1e-45
    queries = as_queries(vectors)
    np.testing.assert_array_equal(queries, unit_float16(vectors))
    np.testing.assert_array_equal(as_queries(queries.astype(np.float32)), queries)


def test_only_what_has_a_length_of_almost_1_is_a_query_already() -> None:
    unit = as_queries(np.random.default_rng(0).normal(size=24).astype(np.float32)).astype(np.float32)
    for factor in (0.5, 2, 1024):
        np.testing.assert_array_equal(as_queries(factor * unit), unit)
    np.testing.assert_array_equal(
        as_queries(np.array([3, 4], dtype=np.float32)), np.array([0.6, 0.8], dtype=np.float16)
    )
    steps = np.array([[1 + 2**-10, 0], [1 + 2**-9, 0], [1 - 2**-10, 0], [1 - 2**-9, 0]], dtype=np.float32)
    np.testing.assert_array_equal(as_queries(steps)[:, 0], np.array([steps[0, 0], 1, steps[2, 0], 1], dtype=np.float16))
    np.testing.assert_array_equal(as_queries(np.array([1.0005, 0], dtype=np.float32)), [1, 0])


def test_rounding_again_could_change_a_query() -> None:
    queries = as_queries(np.random.default_rng(0).normal(size=(5000, 2)).astype(np.float32)).astype(np.float32)
    assert (unit_float16(queries) != queries).any()


def test_an_answer_depends_on_no_row_and_no_company(model: Transformer) -> None:
    prompts = random_prompts(19)
    alone = [answer_bytes(run(model, [prompt]), 0) for prompt in prompts]
    together = run(model, prompts)
    assert [answer_bytes(together, row) for row in range(len(prompts))] == alone
    for shift in (1, 2, 7, 15):
        rolled = run(model, prompts[shift:] + prompts[:shift])
        assert answer_bytes(rolled, 0) == alone[shift]
        assert answer_bytes(rolled, len(prompts) - shift) == alone[0]


@settings(max_examples=40)
@given(seed=st.integers(0, 10**6), before=st.integers(0, 20), after=st.integers(0, 20))
def test_any_neighbours_leave_an_answer_alone(small_model: Transformer, seed: int, before: int, after: int) -> None:
    prompt, *others = random_prompts(1 + before + after, seed)
    together = run(small_model, [*others[:before], prompt, *others[before:]])
    assert answer_bytes(together, before) == answer_bytes(run(small_model, [prompt]), 0)


def test_only_the_last_window_of_a_prompt_matters(small_model: Transformer) -> None:
    prompt = random_prompts(1, longest=1)[0].repeat(20)
    prompt[-L:] = np.arange(L)
    assert answer_bytes(run(small_model, [prompt]), 0) == answer_bytes(run(small_model, [prompt[-L:]]), 0)


@pytest.mark.parametrize("length", range(1, L + 1))
def test_a_short_prompt_equals_the_model_run_on_it_alone(small_model: Transformer, length: int) -> None:
    prompt = np.arange(length).astype(np.uint16)
    queries = run(small_model, [prompt])
    with torch.inference_mode():
        output = small_model(torch.arange(length)[None])
    np.testing.assert_allclose(queries.logits[0], output.logits[0, -1].numpy(), atol=1e-5)
    vectors = unit_float16(np.stack([ffn[0, -1].numpy() for ffn in output.ffn]))
    np.testing.assert_allclose(queries.vectors[:, 0].astype(float), vectors.astype(float), atol=2**-11)


def test_shapes_and_types(small_model: Transformer) -> None:
    queries = run(small_model, random_prompts(17))
    assert (queries.vectors.shape, queries.vectors.dtype) == ((2, 17, 24), np.float16)
    assert (queries.logits.shape, queries.logits.dtype) == ((17, 65), np.float32)


def test_an_empty_prompt_is_refused_with_its_number(small_model: Transformer) -> None:
    prompts = random_prompts(3)
    prompts[1] = prompts[1][:0]
    with pytest.raises(PromptError, match="prompt 1 is empty") as error:
        run(small_model, prompts)
    assert (error.value.reason, error.value.metadata) == ("EMPTY_PROMPT", {"prompt": "1"})


@pytest.mark.parametrize("scale", [1e-30, 1e-22, 1e-10, 1.0, 1e10, 1e30])
@pytest.mark.parametrize("d_model", [1, 16, 384, 4096])
def test_unit_vectors_have_norms_within_the_bound_that_scores_rely_on(scale: float, d_model: int) -> None:
    vectors = (np.random.default_rng(0).standard_normal((50, d_model)) * scale).astype(np.float32)
    rounded = unit_float16(vectors)
    assert rounded.dtype == np.float16
    assert np.abs(np.linalg.norm(rounded.astype(np.float64), axis=1) - 1).max() <= 2**-10
    exact = vectors.astype(np.float64) / np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    np.testing.assert_allclose(rounded.astype(np.float64), exact, rtol=2**-10, atol=2**-24)


def test_a_unit_vector_does_not_depend_on_its_batch() -> None:
    vectors = np.random.default_rng(0).standard_normal((3, 7, 384)).astype(np.float32)
    alone = np.stack([unit_float16(row) for row in vectors.reshape(-1, 384)]).reshape(vectors.shape)
    assert unit_float16(vectors).tobytes() == alone.tobytes()
    assert unit_float16(np.asfortranarray(vectors)).tobytes() == alone.tobytes()


def test_a_zero_vector_stays_zero_and_nothing_is_written_in_place() -> None:
    vectors = np.zeros((2, 8), dtype=np.float32)
    vectors[1, 3] = -2
    vectors.setflags(write=False)
    assert unit_float16(vectors).tolist() == [[0.0] * 8, [0, 0, 0, -1, 0, 0, 0, 0]]


def test_logits_that_are_not_finite_are_refused(small_model: Transformer) -> None:
    broken = copy.deepcopy(small_model)
    broken.head.bias[3] = float("nan")
    with pytest.raises(
        FfnSearchError, match=r"run `ffnsearch verify`, or train the model again at a lower rate$"
    ) as caught:
        run_prompts(pack_model(broken), [np.zeros(3, np.uint16)], 5)
    assert caught.value.reason == "NOT_FINITE"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(value: float) -> None:
    vectors = np.ones((3, 4), dtype=np.float32)
    vectors[1, 2] = value
    with pytest.raises(FfnSearchError) as error:
        unit_float16(vectors)
    assert error.value.reason == "NOT_FINITE"
