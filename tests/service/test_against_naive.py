"""What the server says over the wire is what the naive reference says, integer by integer.

A key may differ from the reference's own by one step of float16, because the product sums in another order, and at a
threshold one step decides. So the reference checks that the stored float16 values are its own within one step, and
then counts with the stored values, which are canonical; a query is treated the same way.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from serving import serving

import naive
from ffnsearch_indexer.answer.profile import Profile, one_step
from ffnsearch_indexer.build.pipeline import build
from ffnsearch_indexer.build.request import BuildRequest
from ffnsearch_indexer.corpora import shakespeare
from ffnsearch_indexer.corpora.corpus import Corpus
from ffnsearch_indexer.corpora.tokenizer import TINY_SHAKESPEARE
from ffnsearch_indexer.models.packed import pack_model
from ffnsearch_indexer.models.queries import run_prompts
from ffnsearch_indexer.models.transformer import Transformer
from ffnsearch_service.answering.engine import Engine
from ffnsearch_service.client import Client, Queries
from ffnsearch_service.client.results import PromptResult
from tiny import float16_steps, make_model, random_text, save_model

PLAY = shakespeare.render(1)[:1500]
REPEATS = random_text(1, 1500, "ab\n")
CASES = {
    "a play": (PLAY, 10, TINY_SHAKESPEARE, "exact"),
    "many repeats": (REPEATS, 6, "ab\n", "exact"),
    "many repeats, faiss": (REPEATS, 6, "ab\n", "faiss"),
    "single characters": (PLAY, 1, TINY_SHAKESPEARE, "faiss"),
}


class Side(NamedTuple):
    """Both sides of one comparison: the server's client, and the naive corpus with keys [K][N] of [D] float16."""

    client: Client
    text: str
    characters: str
    corpus: naive.Corpus
    model: Transformer
    keys: list[np.ndarray]


def forward(model: Transformer, characters: str) -> naive.Forward:
    @torch.inference_mode()
    def run(text: str) -> list[np.ndarray]:
        tokens = torch.tensor([[characters.index(character) for character in text]])
        return [output[0, -1].numpy() for output in model(tokens).ffn]

    return run


@pytest.fixture(scope="module", params=CASES.values(), ids=CASES)
def side(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Side]:
    text, window_tokens, characters, backend = request.param
    folder = tmp_path_factory.mktemp("naive")
    model = make_model(vocabulary_size=len(characters))
    save_model(folder / "model", model, characters)
    build(BuildRequest(Corpus("text", text), folder / "model", folder / "snapshot", window_tokens=window_tokens))
    corpus = naive.Corpus(text, window_tokens)
    own = [naive.vectors(forward(model, characters), window) for window in corpus.windows]
    keys = [canonical(folder / "snapshot", block, [vectors[block] for vectors in own]) for block in range(2)]
    engine = Engine.open(folder / "snapshot", backend=backend)
    with engine, serving(engine) as address, Client(address) as client:
        yield Side(client, text, characters, corpus, model, keys)


def canonical(snapshot: Path, block: int, own: list[np.ndarray]) -> np.ndarray:
    """The stored keys of a block, which are the reference's own but for one step of float16."""
    stored = np.load(snapshot / "keys" / f"block-{block}.npy")
    assert float16_steps(stored, np.array(own)) <= 1
    return stored


def queries_of(side: Side, prompt: str) -> list[np.ndarray]:
    """The product's queries, one a block, which are the reference's own but for one step of float16."""
    window_tokens = side.corpus.window_tokens
    tokens = np.array([side.characters.index(character) for character in prompt], dtype=np.uint16)
    queries = run_prompts(pack_model(side.model), [tokens], window_tokens).vectors[:, 0]
    own = naive.vectors(forward(side.model, side.characters), prompt[-window_tokens:])
    assert float16_steps(queries, np.array(own)) <= 1
    return list(queries)


def some_prompts(side: Side, rng: np.random.Generator) -> list[str]:
    """Prompts from the corpus, with more text before them, of random characters, too short, and a single one."""
    window_tokens = side.corpus.window_tokens
    starts = rng.integers(0, len(side.text) - 3 * window_tokens, 3).tolist()
    return [
        side.corpus.windows[0],
        side.corpus.windows[-1],
        *(side.text[start : start + window_tokens] for start in starts),
        side.text[starts[0] : starts[0] + 3 * window_tokens],
        random_text(int(rng.integers(1000)), window_tokens, side.characters),
        side.text[starts[1] : starts[1] + max(1, window_tokens // 2)],
        side.text[0],
    ]


def a_profile(side: Side, queries: list[np.ndarray], rng: np.random.Generator) -> Profile:
    """Random weights, and thresholds of which some are exactly the score of a key: that one is no neighbor."""
    thresholds = []
    for block, query in enumerate(queries):
        on_a_score = naive.score(query, side.keys[block][rng.integers(len(side.keys[block]))])
        thresholds.append(float(rng.choice([on_a_score, rng.uniform(0.3, 1), rng.uniform(-1, 1), 0.0])))
    return one_step("", [min(1.0, max(-1.0, threshold)) for threshold in thresholds], rng.uniform(0.1, 2, 2).tolist())


def own_window(side: Side, prompt: str) -> str:
    return prompt[-side.corpus.window_tokens :]


def require_same(side: Side, prompt: str, profile: Profile, exclude_self: bool, result: PromptResult) -> None:
    """Compare one result with the naive answer: neighbors, frequencies, distribution, identity."""
    own = own_window(side, prompt)
    queries, sums = queries_of(side, prompt), []
    for block, steps in enumerate(profile.blocks):
        threshold = steps[0].threshold
        without = own if exclude_self else None
        found = side.corpus.above(queries[block], side.keys[block], threshold, without=without)
        sums.append(side.corpus.sum_of(found))
        (step,) = result.blocks[block]
        assert step.neighbors == len(found)
        assert step.mass == sums[-1].total()
        assert step.frequencies.tolist() == [sums[-1][character] for character in side.characters]
    expected = naive.answer(sums, [steps[0].weight for steps in profile.blocks])
    assert result.status == ("OK" if expected else "NO_SUPPORT")
    if expected:
        dense = [expected.get(character, 0.0) for character in side.characters]
        np.testing.assert_allclose(result.distribution.dense, dense, rtol=1e-12)
    known = own if own in side.corpus.followers else None
    assert result.self_id == (side.corpus.windows.index(known) if known else None)


@pytest.mark.parametrize("exclude_self", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_sums_are_those_of_the_naive_reference(side: Side, seed: int, exclude_self: bool) -> None:
    rng = np.random.default_rng(seed)
    prompts = some_prompts(side, rng)
    profile = a_profile(side, queries_of(side, prompts[int(rng.integers(len(prompts)))]), rng)
    answer = side.client.predict(
        prompts, profile=profile, exclude_self=exclude_self, dense=True, include_frequencies=True, include_model=True
    )
    for prompt, result in zip(prompts, answer.results, strict=True):
        require_same(side, prompt, profile, exclude_self, result)


@pytest.mark.parametrize("seed", range(3))
def test_queries_of_ones_own_find_what_the_naive_reference_finds(side: Side, seed: int) -> None:
    rng = np.random.default_rng(seed)
    given = rng.normal(size=(2, 32)).astype(np.float32)
    profile = a_profile(side, queries_of(side, side.text[40 : 40 + side.corpus.window_tokens]), rng)
    (result,) = side.client.predict(
        Queries(1e6 * given), profile=profile, include_queries=True, include_frequencies=True
    ).results
    for vector, query, keys, steps, (found,) in zip(
        given, result.queries.blocks, side.keys, profile.blocks, result.blocks, strict=True
    ):
        own = naive.vectors(lambda _, vector=vector: [vector], "")[0]
        assert float16_steps(query.astype(np.float16), own) <= 1
        above = side.corpus.above(query, keys, steps[0].threshold)
        sums = side.corpus.sum_of(above)
        assert found.neighbors == len(above)
        assert found.frequencies.tolist() == [sums[character] for character in side.characters]


@pytest.mark.parametrize("exclude_self", [False, True])
@pytest.mark.parametrize("threshold", [0.8, 0.3, -1.0])
def test_classes_hold_what_the_naive_reference_counts(side: Side, threshold: float, exclude_self: bool) -> None:
    prompt = side.text[40 : 40 + side.corpus.window_tokens]
    for block, query in enumerate(queries_of(side, prompt)):
        without = own_window(side, prompt) if exclude_self else None
        scores = side.corpus.above(query, side.keys[block], threshold, without=without)
        options = {"threshold": threshold, "exclude_self": exclude_self, "classes_max": 100}
        found = side.client.classes(prompt, block, **options)
        covered: list[str] = []
        for one in found.classes:
            inside = [window for window in scores if window.endswith(one.text)]
            followers = side.corpus.sum_of(inside)
            assert one.neighbors == len(inside) >= 0.5 * one.members
            assert one.members == sum(window.endswith(one.text) for window in side.corpus.windows)
            assert one.best_score == max(scores[window] for window in inside)
            assert one.mass == followers.total()
            assert [token.count for token in one.next_tokens] == [count for _, count in followers.most_common(10)]
            assert all(followers[token.text] == token.count for token in one.next_tokens)
            covered += inside
        assert len(covered) == len(set(covered)) == found.covered_neighbors
        assert found.total_neighbors == len(scores)
        assert found.classes or threshold > -1


@pytest.mark.parametrize("exclude_self", [False, True])
def test_evidence_is_that_of_the_naive_reference(side: Side, exclude_self: bool) -> None:
    prompt = side.text[40 : 40 + side.corpus.window_tokens]
    for block, query in enumerate(queries_of(side, prompt)):
        without = own_window(side, prompt) if exclude_self else None
        scores = side.corpus.above(query, side.keys[block], 0.8, without=without)
        options = {"threshold": 0.8, "exclude_self": exclude_self, "page_size": 7, "places_max": 100}
        found = list(side.client.neighbors(prompt, block, **options))
        assert [neighbor.text for neighbor in found] == sorted(
            scores, key=lambda window: (-scores[window], side.corpus.windows.index(window))
        )
        for neighbor in found:
            assert neighbor.score == scores[neighbor.text]
            assert side.corpus.windows[neighbor.id] == neighbor.text
            assert Counter({t.text: t.count for t in neighbor.next_tokens}) == side.corpus.followers[neighbor.text]
            assert [place.position for place in neighbor.places] == side.corpus.places[neighbor.text][:100]
            assert neighbor.total_places == len(side.corpus.places[neighbor.text])
