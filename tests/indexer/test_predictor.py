"""Prompts in, sums and answers out: the same from every backend, in any company, with or without the prompt itself."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ffnsearch_indexer.answer.backends import BACKENDS
from ffnsearch_indexer.answer.prediction import combine, hellinger, softmax
from ffnsearch_indexer.answer.predictor import Prediction, Predictor
from ffnsearch_indexer.answer.profile import Step, SumProfile, one_step
from ffnsearch_indexer.corpora.tokenizer import Tokens
from ffnsearch_indexer.errors import BackendError, CancelledError, ProfileError, PromptError
from ffnsearch_indexer.index.base import exact_scores
from ffnsearch_indexer.models.queries import GivenQueries, run_prompts
from ffnsearch_indexer.store.datastore import Datastore

some = settings(max_examples=25)
thresholds = st.one_of(st.floats(-1, 1), st.sampled_from([-1.0, 0.0, 0.8, 0.9, 0.99, 1.0]))
steps = st.lists(st.builds(Step, thresholds, st.floats(0, 5)), max_size=4).map(tuple)
profiles = st.tuples(steps, steps).filter(lambda blocks: any(step.weight > 0 for block in blocks for step in block))


ON_CPU = [name for name, backend in BACKENDS.items() if "cpu" in backend.devices and name != "faiss-ivf"]
"""The exact ones that need no GPU; faiss-ivf misses neighbors."""


@pytest.fixture(scope="module", params=ON_CPU)
def predictor(request: pytest.FixtureRequest, datastore: Datastore) -> Predictor:
    return Predictor(datastore, backend=request.param)


@pytest.fixture(scope="module")
def prompts(datastore: Datastore) -> list[Tokens]:
    """Prompts that are substrings, that end in one, that are none, and that are short."""
    substrings = [datastore.substring(number) for number in (0, 100, datastore.manifest.substrings - 1)]
    texts = ("zzzzzzzzzz", "the", "F", "a prompt that is longer than a window")
    return [*substrings, datastore.corpus[:25], *(datastore.tokenizer.encode(text) for text in texts)]


def ask(
    predictor: Predictor, prompts: list[Tokens], blocks: tuple[tuple[Step, ...], ...], **options: bool
) -> list[Prediction]:
    return predictor.predict(prompts, SumProfile("", blocks), **options).answers


@some
@given(blocks=profiles)
def test_sums_are_those_of_the_scores(
    predictor: Predictor, datastore: Datastore, prompts: list[Tokens], blocks: tuple[tuple[Step, ...], ...]
) -> None:
    N, V = datastore.manifest.substrings, datastore.manifest.vocabulary_size
    rows = np.repeat(np.arange(N), np.diff(datastore.counts.offsets))
    dense = np.zeros((N, V), dtype=np.int64)
    dense[rows, datastore.counts.tokens] = datastore.counts.counts
    queries = run_prompts(datastore.packed_model, prompts, 10).vectors.astype(np.float64)
    for row, answer in enumerate(ask(predictor, prompts, blocks)):
        for block, sums in enumerate(answer.blocks):
            scores = datastore.keys[block].astype(np.float64) @ queries[block, row]
            assert sums.thresholds == tuple(step.threshold for step in blocks[block])
            assert sums.freq.shape == (len(blocks[block]), V)
            for step, threshold in enumerate(sums.thresholds):
                above = scores > threshold
                assert sums.neighbors[step] == above.sum()
                np.testing.assert_array_equal(sums.freq[step], dense[above].sum(axis=0))


@pytest.mark.parametrize("exclude_self", [False, True])
def test_queries_stand_in_the_place_of_prompts(predictor: Predictor, prompts: list[Tokens], exclude_self: bool) -> None:
    """In any company; they are no substring, so there is nothing of theirs to exclude."""
    levels = [(0.3, 0.9), (0.5,)]
    of_tokens, without = (
        predictor.search(prompts, levels, exclude_self=left_out) for left_out in (False, exclude_self)
    )
    given = [GivenQueries(of_tokens.queries[:, row]) for row in range(len(prompts))]
    mixed = [given[row] if row % 2 else prompt for row, prompt in enumerate(prompts)]
    for asked in (given, mixed, given[:1]):
        found = predictor.search(asked, levels, exclude_self=exclude_self)
        for row, prompt in enumerate(asked):
            expected = of_tokens if isinstance(prompt, GivenQueries) else without
            np.testing.assert_array_equal(found.queries[:, row], of_tokens.queries[:, row])
            for one, other in zip(found.sums, expected.sums, strict=True):
                np.testing.assert_array_equal(one.freq[row], other.freq[row])
                np.testing.assert_array_equal(one.neighbors[row], other.neighbors[row])
            assert found.self_ids[row] == (None if isinstance(prompt, GivenQueries) else without.self_ids[row])
            assert found.logits[row].any() != isinstance(prompt, GivenQueries)
    ranked, same = (predictor.neighbors(prompt, 1, 0.4, exclude_self=exclude_self) for prompt in (prompts[0], given[0]))
    others = same.ids != 0 if exclude_self else np.full(len(same.ids), fill_value=True)
    assert np.count_nonzero(~others) == exclude_self
    np.testing.assert_array_equal(same.ids[others], ranked.ids)
    np.testing.assert_array_equal(same.scores[others], ranked.scores)


@some
@given(blocks=profiles)
def test_backends_give_the_same_integers(
    datastore: Datastore, prompts: list[Tokens], blocks: tuple[tuple[Step, ...], ...]
) -> None:
    exact, faiss = (
        ask(Predictor(datastore, backend=name), prompts, blocks, exclude_self=True) for name in ("exact", "faiss")
    )
    for left, right in zip(exact, faiss, strict=True):
        for one, other in zip(left.blocks, right.blocks, strict=True):
            np.testing.assert_array_equal(one.freq, other.freq)
            np.testing.assert_array_equal(one.neighbors, other.neighbors)


@some
@given(blocks=profiles)
def test_excluding_itself_takes_away_that_row_and_no_other(
    predictor: Predictor, datastore: Datastore, prompts: list[Tokens], blocks: tuple[tuple[Step, ...], ...]
) -> None:
    queries = run_prompts(datastore.packed_model, prompts, 10).vectors
    with_itself, without = (ask(predictor, prompts, blocks, exclude_self=flag) for flag in (False, True))
    for row, (left, right) in enumerate(zip(with_itself, without, strict=True)):
        assert left.self_id == right.self_id
        for block in range(2):
            expected_freq, expected_neighbors = left.blocks[block].freq.copy(), left.blocks[block].neighbors.copy()
            if left.self_id is not None:
                own = np.array([left.self_id])
                score = exact_scores(queries[block], datastore.keys[block], np.array([row]), own)[0]
                tokens, counts = datastore.counts.row(left.self_id)
                for step, threshold in enumerate(left.blocks[block].thresholds):
                    if score > threshold:
                        expected_freq[step, tokens] -= counts
                        expected_neighbors[step] -= 1
            np.testing.assert_array_equal(right.blocks[block].freq, expected_freq)
            np.testing.assert_array_equal(right.blocks[block].neighbors, expected_neighbors)


@some
@given(blocks=profiles, order=st.permutations(range(8)), size=st.integers(1, 8))
def test_an_answer_does_not_depend_on_its_company(
    predictor: Predictor, prompts: list[Tokens], blocks: tuple[tuple[Step, ...], ...], order: list[int], size: int
) -> None:
    together = ask(predictor, prompts, blocks, exclude_self=True)
    some_prompts = [prompts[row] for row in order[:size]]
    for row, answer in zip(order, ask(predictor, some_prompts, blocks, exclude_self=True), strict=False):
        expected = together[row]
        assert answer.model.tobytes() == expected.model.tobytes()
        assert answer.hellinger == expected.hellinger
        for one, other in zip(answer.blocks, expected.blocks, strict=True):
            np.testing.assert_array_equal(one.freq, other.freq)


def test_the_prompts_own_substring_is_the_one_of_its_last_window(
    predictor: Predictor, datastore: Datastore, prompts: list[Tokens]
) -> None:
    answers = ask(predictor, prompts, ((Step(0.5, 1),), ()))
    assert [answer.self_id for answer in answers] == [0, 100, datastore.manifest.substrings - 1, 15] + 4 * [None]
    assert [answer.used_tokens for answer in answers] == [10, 10, 10, 10, 10, 3, 1, 10]


def test_only_the_last_window_of_a_prompt_matters(predictor: Predictor, datastore: Datastore) -> None:
    long, last = datastore.corpus[:500], datastore.corpus[490:500]
    answers = ask(predictor, [long, last], ((Step(0.5, 1),), (Step(0.5, 1),)))
    assert answers[0].hellinger == answers[1].hellinger
    for one, other in zip(answers[0].blocks, answers[1].blocks, strict=True):
        np.testing.assert_array_equal(one.freq, other.freq)


def test_the_answer_is_the_combined_sums_and_the_models_own_beside_it(
    predictor: Predictor, datastore: Datastore, prompts: list[Tokens]
) -> None:
    profile = SumProfile("", ((Step(0.9, 1), Step(0.5, 0.1)), (Step(0.8, 2),)), mass_power=0.5)
    answers = predictor.predict(prompts, profile).answers
    freqs = [np.stack([answer.blocks[block].freq for answer in answers]) for block in range(2)]
    distributions, has_support = combine(profile, freqs, datastore.unigram)
    model = softmax(run_prompts(datastore.packed_model, prompts, 10).logits)
    for row, answer in enumerate(answers):
        np.testing.assert_array_equal(answer.model, model[row])
        assert has_support[row]
        np.testing.assert_array_equal(answer.distribution, distributions[row])
        assert answer.distribution.sum() == pytest.approx(1)
        assert answer.hellinger == hellinger(distributions[row], model[row])


def test_without_a_neighbor_there_is_no_distribution(predictor: Predictor, prompts: list[Tokens]) -> None:
    for answer in ask(predictor, prompts, ((Step(1.0, 1),), (Step(1.0, 1),)), exclude_self=True):
        assert answer.distribution is None
        assert answer.hellinger is None
        assert answer.model.sum() == pytest.approx(1)
        assert [sums.neighbors.tolist() for sums in answer.blocks] == [[0], [0]]


def test_a_neighbor_without_a_successor_is_no_support(predictor: Predictor, datastore: Datastore) -> None:
    last = datastore.substring(datastore.manifest.substrings - 1)
    (answer,) = ask(predictor, [last], ((Step(0.9999, 1),), (Step(0.9999, 1),)))
    assert [sums.neighbors.tolist() for sums in answer.blocks] == [[1], [1]]
    assert [int(sums.freq.sum()) for sums in answer.blocks] == [0, 0]
    assert answer.distribution is None


def test_support_in_a_block_without_weight_is_none(predictor: Predictor, prompts: list[Tokens]) -> None:
    (answer,) = ask(predictor, prompts[:1], ((Step(-1.0, 0),), (Step(1.0, 1),)), exclude_self=True)
    assert answer.blocks[0].neighbors[0] > 0
    assert answer.distribution is None


def test_no_prompts_have_no_answers(predictor: Predictor) -> None:
    assert predictor.predict([], one_step("", [0.5, 0.5], [1, 1])).answers == []


def test_an_empty_prompt_is_refused(predictor: Predictor, prompts: list[Tokens]) -> None:
    with pytest.raises(PromptError) as caught:
        ask(predictor, [prompts[0], prompts[0][:0]], ((Step(0.5, 1),), ()))
    assert caught.value.reason == "EMPTY_PROMPT"
    with pytest.raises(PromptError):
        predictor.neighbors(prompts[0][:0], 0, 0.5)


@pytest.mark.parametrize("blocks", [1, 3])
def test_a_profile_for_another_number_of_blocks_is_refused(
    blocks: int, predictor: Predictor, prompts: list[Tokens]
) -> None:
    with pytest.raises(ProfileError) as caught:
        predictor.predict(prompts, one_step("", [0.5] * blocks, [1] * blocks))
    assert caught.value.reason == "WRONG_BLOCK_COUNT"


@some
@given(threshold=thresholds, block=st.integers(0, 1), row=st.integers(0, 7), exclude_self=st.booleans())
def test_neighbors_are_ranked_and_add_up_to_the_sums(
    predictor: Predictor,
    datastore: Datastore,
    prompts: list[Tokens],
    threshold: float,
    block: int,
    row: int,
    exclude_self: bool,
) -> None:
    found = predictor.neighbors(prompts[row], block, threshold, exclude_self=exclude_self)
    pairs = list(zip((-found.scores).tolist(), found.ids.tolist(), strict=True))
    assert pairs == sorted(pairs)
    assert (found.scores > threshold).all()
    profile = ((Step(threshold, 1),), (Step(threshold, 1),))
    sums = ask(predictor, [prompts[row]], profile, exclude_self=exclude_self)[0].blocks[block]
    assert sums.neighbors[0] == len(found.ids) == len(set(found.ids.tolist()))
    total = np.zeros_like(sums.freq[0])
    for number in found.ids.tolist():
        tokens, counts = datastore.counts.row(number)
        total[tokens] += counts
    np.testing.assert_array_equal(total, sums.freq[0])


def test_the_prompt_itself_is_the_best_of_its_neighbors(predictor: Predictor, prompts: list[Tokens]) -> None:
    for block in range(2):
        assert predictor.neighbors(prompts[1], block, 0.9).ids[0] == 100
        assert 100 not in predictor.neighbors(prompts[1], block, -1.0, exclude_self=True).ids


@some
@given(threshold=st.sampled_from([-1.0, 0.5, 0.8, 0.9]), block=st.integers(0, 1), row=st.integers(0, 7))
def test_classes_hold_the_neighbors_that_end_like_them(
    predictor: Predictor, datastore: Datastore, prompts: list[Tokens], threshold: float, block: int, row: int
) -> None:
    ranked = predictor.neighbors(prompts[row], block, threshold)
    texts = [datastore.tokenizer.decode(datastore.substring(i)) for i in range(datastore.manifest.substrings)]
    classes = predictor.classes(ranked, classes_max=5, min_share=0.5)
    for found in classes:
        suffix = datastore.tokenizer.decode(found.tokens)
        inside = [place for place, i in enumerate(ranked.ids.tolist()) if texts[i].endswith(suffix)]
        assert found.members == sum(text.endswith(suffix) for text in texts)
        np.testing.assert_array_equal(found.neighbors.ids, ranked.ids[inside])
        np.testing.assert_array_equal(found.neighbors.scores, ranked.scores[inside])
        expected = np.zeros(datastore.manifest.vocabulary_size, dtype=np.int64)
        for number in ranked.ids[inside].tolist():
            tokens, counts = datastore.counts.row(number)
            expected[tokens] += counts
        np.testing.assert_array_equal(found.freq, expected)
    assert classes or threshold > -1


@pytest.mark.parametrize("block", [-1, 2])
def test_a_block_that_does_not_exist_is_refused(block: int, predictor: Predictor, prompts: list[Tokens]) -> None:
    with pytest.raises(PromptError) as caught:
        predictor.neighbors(prompts[0], block, 0.5)
    assert caught.value.reason == "BLOCK_OUT_OF_RANGE"


def test_a_caller_that_goes_away_ends_the_search_and_the_next_one_is_answered(
    predictor: Predictor, prompts: list[Tokens]
) -> None:
    def go_away() -> None:
        raise CancelledError("nobody waits")

    profile = one_step("", [0.5, 0.5], [1, 1])
    with pytest.raises(CancelledError):
        predictor.predict(prompts, profile, checkpoint=go_away)
    with pytest.raises(CancelledError):
        predictor.neighbors(prompts[0], 0, 0.5, checkpoint=go_away)
    assert len(predictor.predict(prompts, profile).answers) == len(prompts)


def test_an_unknown_backend_is_refused_with_the_known_ones(datastore: Datastore) -> None:
    with pytest.raises(BackendError) as caught:
        Predictor(datastore, backend="magic")
    assert caught.value.reason == "UNKNOWN_BACKEND"
    assert all(name in caught.value.message for name in BACKENDS)


def test_backends_that_are_exact_say_so(predictor: Predictor) -> None:
    assert predictor.backend in BACKENDS
    assert not predictor.approximate
