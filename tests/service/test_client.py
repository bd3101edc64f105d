"""The clients take prompts in every form, give arrays and typed exceptions, and agree with each other."""

import copy
import pickle
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from serving import WAIT_S, serving

from ffnsearch_indexer.answer.profile import SumProfile, one_step
from ffnsearch_indexer.errors import FfnSearchError
from ffnsearch_service.answering.engine import Engine
from ffnsearch_service.client import AsyncClient, Client, Queries
from ffnsearch_service.client.evidence import collect
from ffnsearch_service.client.failures import is_too_large
from ffnsearch_service.client.local import LocalClient
from ffnsearch_service.client.results import plain
from ffnsearch_service.config import Limits
from ffnsearch_service.errors import (
    DeadlineExceededError,
    InvalidRequestError,
    NotFoundError,
    ResourceExhaustedError,
    ServiceError,
    UnavailableError,
)

EVERYTHING = {"dense": True, "include_model": True, "include_frequencies": True, "top_n": 65}
OF_THE_BATCH = ("timings", "batch_prompts")
"""What is another each time: it depends on the machine and on who else asks."""


@pytest.fixture
def client(address):
    with Client(address, timeout_s=WAIT_S) as opened:
        yield opened


@pytest.fixture
def local(engine, monkeypatch):
    monkeypatch.setattr(engine, "close", lambda: None)  # the engine is the session's
    with LocalClient(engine) as opened:
        yield opened


def without_timings(result):
    return {name: value for name, value in plain(result).items() if name not in OF_THE_BATCH}


def test_one_prompt_in_every_form_is_the_same_prompt(client):
    ids = [client.info().vocabulary.index(character) for character in "the people"]
    forms = ["the people", ["the people"], ids, tuple(ids), np.array(ids), [ids], [np.array(ids, dtype=np.uint16)]]
    first, *others = [without_timings(client.predict(form, **EVERYTHING)) for form in forms]
    assert all(other == first for other in others)
    assert len(first["results"]) == 1


def test_the_queries_of_an_answer_find_the_same_again(client):
    asked = {**EVERYTHING, "include_queries": True, "include_contributions": True}
    first = client.predict(["the people", "no"], **asked).results
    for result in first:
        assert [(vector.dtype, vector.shape) for vector in result.queries.blocks] == [(np.float32, (32,))] * 2
        assert not result.queries.blocks[0].flags.writeable
        for form in (result.queries, [result.queries], Queries(np.array(result.queries.blocks))):
            (again,) = client.predict(form, **asked).results
            of_model = {"model": None, "hellinger": None, "used_tokens": 0, "short_prompt": False, "self_id": None}
            assert plain(again) == {**plain(result), **of_model}
        neighbors, same = (list(client.neighbors(prompt, 1, threshold=0.1)) for prompt in ("no", first[1].queries))
        assert neighbors == same
        assert client.classes("no", 0, threshold=0.1) == client.classes(first[1].queries, 0, threshold=0.1)


def test_the_length_of_a_query_does_not_matter(client):
    (found,) = client.predict("the people", include_queries=True).results
    unit = found.queries
    for factor in (1e-30, 3, -1, 1e30):
        (scaled,) = client.predict(Queries([factor * vector for vector in unit.blocks]), include_queries=True).results
        assert (plain(scaled.queries) == plain(unit)) == (factor > 0)
        assert (scaled.blocks == found.blocks) == (factor > 0)


def test_a_block_may_be_left_out_where_nothing_is_searched(client):
    (found,) = client.predict("the people", include_queries=True).results
    of_one = found.queries.with_block(0, None)
    profile = one_step("", [0.5, 0.2], [0, 1])
    assert [len(neighbors.neighbors) for neighbors in client.neighbor_pages(of_one, 1, threshold=0.9)]
    with pytest.raises(InvalidRequestError, match=r"blocks\[0\] is empty, and block 0 is to be searched"):
        client.predict(of_one, profile=profile)
    only = SumProfile("", ((), profile.blocks[1]))
    (answer,) = client.predict(of_one, profile=only, include_queries=True).results
    assert (answer.status, answer.queries.blocks[0]) == ("OK", None)
    assert answer.blocks == client.predict("the people", profile=only).results[0].blocks


def test_pages_go_on_with_the_same_query_of_their_block_alone(client):
    (found,) = client.predict("the people", include_queries=True).results
    page = next(client.neighbor_pages(found.queries, 1, threshold=0.1, page_size=1))
    onward = {"threshold": 0.1, "page_size": 1, "page_token": page.next_page_token}
    expected = list(client.neighbors("the people", 1, threshold=0.1))[1:]
    assert list(client.neighbors(found.queries.with_block(0, None), 1, **onward)) == expected
    for other in ("the people", found.queries.with_block(1, -found.queries.blocks[1])):
        with pytest.raises(InvalidRequestError, match="page_token"):
            next(client.neighbors(other, 1, **onward))


NO_VECTORS = [[1.0], "ab", [["a"]], [[]], [[[1.0]]], [[True]], [[1, None]], [[10**400]], [np.array([1 + 2j])]]


@pytest.mark.parametrize("blocks", NO_VECTORS)
def test_what_is_no_vector_is_refused_with_its_block(blocks):
    with pytest.raises(InvalidRequestError, match=r"queries.blocks\[0\]: .* is given: give a vector of numbers"):
        Queries(blocks)
    with pytest.raises(InvalidRequestError, match=r"queries.blocks\[1\]: .* is given: give a vector of numbers"):
        Queries([[1.0], [2.0]]).with_block(1, blocks[0])


def test_what_is_no_list_of_vectors_is_refused():
    for blocks in (1, None, Queries([[1.0]])):
        with pytest.raises(InvalidRequestError, match="queries: give a list with a vector of numbers for each block"):
            Queries(blocks)
    with pytest.raises(InvalidRequestError, match=r"blocks\[1\]: it has numbers beyond those of float32"):
        Queries([[1.0], [1e300]])
    with pytest.raises(InvalidRequestError, match=r"blocks\[0\]: cannot become an array .*requires grad.*detach"):
        Queries([torch.ones(2, requires_grad=True)])
    with pytest.raises(ValueError, match="the caller's own"):
        Queries(vector for vector in [own_failure()])


def test_what_was_given_in_place_of_a_vector_is_told():
    with pytest.raises(InvalidRequestError, match=r"queries.blocks\[0\]: float32 \[10, 384\] is given: give a vector"):
        Queries([np.ones((10, 384), dtype=np.float32)])


def test_all_vectors_come_together_as_an_array_of_ones_own():
    queries = Queries([[1.0, 2.0], [3.0, 4.0]])
    together = queries.array()
    together += 1
    np.testing.assert_array_equal(together, [[2, 3], [4, 5]])
    np.testing.assert_array_equal(queries.array(), [[1, 2], [3, 4]])
    for incomplete in (queries.with_block(0, None), queries.with_block(0, [1.0])):
        with pytest.raises(ValueError, match="array"):
            incomplete.array()
    assert repr(queries.with_block(0, None)) == "Queries(None, [2])"


def own_failure():
    raise ValueError("the caller's own")


def test_a_block_that_is_not_there_is_an_index_error():
    for block in (-1, 2):
        with pytest.raises(IndexError):
            Queries([[1.0], [2.0]]).with_block(block, None)


def test_queries_of_every_form_are_equal_and_stay_as_they_are():
    forms = [
        [1.0, 2.0],
        (1, 2),
        np.array([1, 2], dtype=np.float16),
        np.array([1, 2], dtype=np.uint8),
        torch.tensor([1, 2]),
    ]
    first, *others = [Queries([form, None]) for form in forms]
    assert all(other == first and hash(other) == hash(first) for other in others)
    assert first != Queries([[1, 2.5], None])
    assert first != Queries([None, [1, 2]])
    assert first != 1
    for copied in (copy.deepcopy(first), pickle.loads(pickle.dumps(first))):
        assert copied == first
        assert not copied.blocks[0].flags.writeable


@pytest.mark.parametrize("prompt", [np.ones((2, 32), dtype=np.float32), [np.ones(32)], [[0.5, 1.5]]])
def test_vectors_as_they_are_are_refused_with_what_to_do(client, prompt):
    with pytest.raises(InvalidRequestError, match="vectors go into Queries"):
        client.predict(prompt)
    with pytest.raises(InvalidRequestError, match="vectors go into Queries"):
        client.classes([Queries([[1.0]])], 0)


def test_queries_have_no_distance_to_a_model_to_expect(calibrated_address):
    with Client(calibrated_address, timeout_s=WAIT_S) as client:
        (found,) = client.predict("the people", profile="multiplied", include_queries=True).results
        (again,) = client.predict(found.queries, profile="multiplied").results
    assert found.expected_hellinger is not None
    assert again.distribution == found.distribution
    assert again.expected_hellinger is None


def test_queries_of_many_pieces_come_back_to_their_prompts(tiny_snapshot):
    limits = Limits(batch_prompts_max=2, piece_prompts_max=2)
    with LocalClient(Engine.open(tiny_snapshot, check="sizes", limits=limits)) as client:
        results = client.predict(["the people", "no", "First Citi", "a", "b"], include_queries=True).results
        for result in results:
            assert client.predict(result.queries).results[0].blocks == result.blocks


def test_arrays_are_those_of_the_wire(client):
    answered = client.predict("the people", **EVERYTHING)
    assert answered.batch_prompts == 1
    result = answered.results[0]
    assert (result.distribution.dense.dtype, result.distribution.dense.shape) == (np.float64, (65,))
    assert result.distribution.dense.sum() == pytest.approx(1)
    assert result.model.dense.sum() == pytest.approx(1)
    assert not result.model.dense.flags.writeable
    for (step,) in result.blocks:
        assert (step.frequencies.dtype, step.frequencies.shape) == (np.int64, (65,))
        assert step.frequencies.sum() == step.mass
    distance = np.sqrt(1 - np.sqrt(result.distribution.dense * result.model.dense).sum())
    assert result.hellinger == pytest.approx(distance, abs=1e-7)


def test_what_was_not_asked_for_is_none(client):
    result = client.predict("the people").results[0]
    assert result.queries is None
    assert result.model is result.hellinger is result.distribution.dense is result.error is None
    assert result.blocks[0][0].frequencies is None
    assert result.status == "OK"


def test_a_profile_goes_by_name_or_by_value(client):
    by_name = client.predict("the people", profile="even")
    by_value = client.predict("the people", profile=one_step("mine", [0.85, 0.85], [1, 1]))
    assert (by_name.profile_name, by_value.profile_name) == ("even", "")
    assert by_name.results == by_value.results


def test_a_bad_prompt_comes_back_as_its_own_failure(client):
    good, bad = client.predict(["the people", "caf\u00e9"]).results
    assert (good.status, bad.status) == ("OK", "INVALID")
    assert (bad.error.code, bad.error.reason) == ("INVALID_ARGUMENT", "UNKNOWN_CHARACTER")
    assert bad.error.field == "prompts[1].text"
    assert bad.error.metadata["offset_characters"] == "3"
    assert bad.distribution is bad.self_id is None


def test_a_local_client_and_a_server_say_the_same(client, local):
    options = {**EVERYTHING, "exclude_self": True}
    prompts = ["the people", "First Citi", "\u00e9", "no"]
    assert without_timings(local.predict(prompts, **options)) == without_timings(client.predict(prompts, **options))
    assert list(local.neighbors("the people", 1, page_size=7)) == list(client.neighbors("the people", 1, page_size=9))
    assert local.classes("the people", 1, threshold=0.8) == client.classes("the people", 1, threshold=0.8)
    assert local.info() == client.info()


def test_neighbors_go_over_all_pages(client):
    pages = list(client.neighbor_pages("the people", 1, threshold=0.8, page_size=10))
    neighbors = list(client.neighbors("the people", 1, threshold=0.8, page_size=1000))
    assert [neighbor for page in pages for neighbor in page.neighbors] == neighbors
    assert len(neighbors) == pages[0].total_neighbors > 20
    assert neighbors[0].tokens
    found = collect(client, "the people", 1, threshold=0.8, limit=15)
    assert (found.neighbors, found.total_neighbors) == (tuple(neighbors[:15]), len(neighbors))


def test_classes_come_as_results(client):
    found = client.classes("the people", 1, threshold=0.8, exclude_self=True, classes_max=3, min_share=0.25)
    assert (found.block, found.threshold, found.min_share, len(found.classes)) == (1, 0.8, 0.25, 3)
    assert found.total_neighbors == len(list(client.neighbors("the people", 1, threshold=0.8, exclude_self=True)))
    assert found.covered_neighbors == sum(one.neighbors for one in found.classes)
    vocabulary = client.info().vocabulary
    for one in found.classes:
        assert "".join(vocabulary[token] for token in one.tokens) == one.text
        assert one.neighbors >= 0.25 * one.members
        assert sum(token.count for token in one.next_tokens) <= one.mass
    with pytest.raises(InvalidRequestError) as caught:
        client.classes("the people", 1, min_share=2)
    assert (caught.value.reason, caught.value.field) == ("MIN_SHARE_OUT_OF_RANGE", "min_share")


def test_a_refused_call_raises_what_it_was_refused_for(client):
    with pytest.raises(InvalidRequestError) as invalid:
        client.predict("the people", min_prob=2.0)
    assert (invalid.value.code, invalid.value.reason) == ("INVALID_ARGUMENT", "MIN_PROB_OUT_OF_RANGE")
    assert invalid.value.field == "min_prob"
    with pytest.raises(NotFoundError) as missing:
        client.predict("the people", profile="fine")
    assert (missing.value.reason, missing.value.metadata) == ("PROFILE_NOT_FOUND", {"profile_name": "fine"})
    with pytest.raises(InvalidRequestError) as empty:
        client.predict([])
    assert empty.value.reason == "NO_PROMPTS"
    assert isinstance(empty.value, ServiceError | FfnSearchError)


@pytest.mark.parametrize(
    "prompt", ["\ud800", [0, -1], [0, 2**32], [0, 1.5], [0, ["a"]], [0, None], 5, None, np.array(3)]
)
def test_what_no_message_can_hold_is_refused_before_it_is_sent(client, prompt):
    with pytest.raises(InvalidRequestError) as caught:
        client.predict(["the people", prompt])
    assert caught.value.reason == "INVALID_VALUE"
    assert caught.value.field == {str: "prompts[1].text", list: "prompts[1].tokens.ids[1]"}.get(
        type(prompt), "prompts[1]"
    )


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_bytes_are_no_prompt_although_they_hold_numbers(client, kind):
    for prompts in (kind(b"\1\2"), [kind(b"\1\2")]):
        with pytest.raises(InvalidRequestError, match=rf"prompts\[0\] is {kind.__name__}, .*\.decode\(\)"):
            client.predict(prompts)
    with pytest.raises(InvalidRequestError, match=rf"prompt is {kind.__name__}, "):
        client.classes(kind(b"\1\2"), 1)
    with pytest.raises(FfnSearchError, match=rf"{kind.__name__} are given: .decode"):
        client.predict_many(kind(b"\1\2"))


@pytest.mark.parametrize("prompts", [None, 5, (text for text in "ab"), {"the people"}, {1: 2}, np.array(3)])
def test_what_is_no_list_of_prompts_is_refused(client, prompts):
    with pytest.raises(InvalidRequestError, match=r"prompts: .* is neither a prompt nor a list") as caught:
        client.predict(prompts)
    assert (caught.value.reason, caught.value.field) == ("INVALID_VALUE", "prompts")


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ({"profile": 3}, "profile: 3 is neither the name"),
        ({"profile": "\ud800"}, "profile_name is no UTF-8, from character 0 on"),
        ({"top_n": "5"}, "top_n: '5' is not a whole number"),
        ({"top_n": 10**20}, "top_n: 100000000000000000000 is not a whole number from"),
        ({"exclude_self": "no"}, "exclude_self: 'no' is not True or False"),
        ({"min_prob": "x" * 100}, r"min_prob: 'x+\.\.\.x+' is not a number"),
        ({"snapshot": 3}, "snapshot: 3 is not a text"),
        ({"top": 3}, "top: there is no such option"),
    ],
)
def test_an_option_that_no_message_can_hold_is_named(client, option, told):
    with pytest.raises(InvalidRequestError, match=f"^{told}") as caught:
        client.predict("the people", include_model=True, **option)
    assert told.startswith(caught.value.field)


def test_a_deadline_that_passes_is_told(slow_engine):
    with serving(slow_engine) as address, Client(address) as client:
        started = time.monotonic()
        with pytest.raises(DeadlineExceededError):
            client.predict("the people", timeout_s=0.3)
        assert time.monotonic() - started < WAIT_S


def test_a_local_deadline_stops_the_work(slow, slow_engine, monkeypatch):
    for timeout_s in (0.1, 1, WAIT_S / 2):  # a busy machine may not begin before the first has passed
        with pytest.raises(FfnSearchError) as caught:
            LocalClient(slow_engine).predict("the people", timeout_s=timeout_s)
        assert caught.value.reason == "DEADLINE_EXCEEDED"
        if slow.running.is_set():
            break
    assert slow.stopped.wait(WAIT_S)


def test_a_request_that_grpc_takes_for_too_large_says_what_to_do(client):
    with pytest.raises(ResourceExhaustedError, match=r"larger than max.*; send fewer prompts in a call") as caught:
        client.predict(["a" * 1_000_000] * 5)
    assert is_too_large(caught.value)


def test_no_server_is_unavailable(unused_address):
    with Client(unused_address) as client, pytest.raises(UnavailableError, match=unused_address):
        client.info()


@pytest.fixture
def unused_address(engine):
    with serving(engine) as address:
        pass
    return address


async def test_the_asynchronous_client_says_the_same(address, client):
    async with AsyncClient(address) as other:
        answer = await other.predict(["the people", "no"], **EVERYTHING)
        assert without_timings(answer) == without_timings(client.predict(["the people", "no"], **EVERYTHING))
        neighbors = [neighbor async for neighbor in other.neighbors("the people", 1, page_size=20)]
        assert neighbors == list(client.neighbors("the people", 1))
        assert await other.classes("the people", 1) == client.classes("the people", 1)
        assert await other.info() == client.info()
        with pytest.raises(NotFoundError):
            await other.predict("a", profile="fine")


async def test_the_asynchronous_client_tells_deadlines(slow_engine):
    with serving(slow_engine) as address:
        async with AsyncClient(address, timeout_s=0.3) as client:
            with pytest.raises(DeadlineExceededError):
                await client.predict("the people")


def test_a_client_needs_no_torch():
    code = "import sys, ffnsearch_service.client.remote; print('torch' in sys.modules, 'lmdb' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
