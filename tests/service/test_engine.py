"""The engine gives what the predictor gives, whole and in order, and pages that add up."""

import threading
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from serving import opened

from ffnsearch.v1 import ffnsearch_pb2 as pb
from ffnsearch_indexer.answer.profile import one_step
from ffnsearch_indexer.errors import FfnSearchError
from ffnsearch_service.answering.call import Call
from ffnsearch_service.answering.engine import Engine
from ffnsearch_service.answering.pages import page_token, read_page_token
from ffnsearch_service.answering.prompt_replies import Writer
from ffnsearch_service.answering.requests import RequestReader
from ffnsearch_service.config import Limits

TEXTS = ("the people", "First Citi", "zzzzzzzzzz", "no", "long enough to be cut to its last window")
FLAGS = ("dense", "include_model", "include_frequencies", "include_contributions", "include_queries")
RELAXED = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)


def prompts(*texts):
    return [pb.Prompt(text=text) for text in texts]


def profile_message(*thresholds, steps=1):
    """A sum of one step a block, or of so many equal ones."""
    return pb.Profile(
        blocks=[pb.ProfileBlock(steps=[pb.ProfileStep(threshold=t, weight=1)] * steps) for t in thresholds]
    )


def test_a_response_holds_what_the_predictor_says(engine):
    everything = {"dense": True, "include_model": True, "include_frequencies": True, "top_n": 65}
    response = engine.predict(
        pb.PredictRequest(prompts=prompts(*TEXTS), profile=profile_message(0.5, 0.6), exclude_self=True, **everything)
    )
    tokens = [opened(engine).datastore.tokenizer.encode(text) for text in TEXTS]
    expected = opened(engine).predictor.predict(tokens, one_step("", [0.5, 0.6], [1, 1]), exclude_self=True).answers
    for text, result, answer in zip(TEXTS, response.results, expected, strict=True):
        assert result.used_tokens == answer.used_tokens == min(10, len(text))
        assert result.short_prompt == (len(text) < 10)
        assert (result.self_id if result.HasField("self_id") else None) == answer.self_id
        np.testing.assert_array_equal(np.frombuffer(result.model_distribution.dense, "<f8"), answer.model)
        assert (result.hellinger if result.HasField("hellinger") else None) == answer.hellinger
        if answer.distribution is not None:
            np.testing.assert_array_equal(np.frombuffer(result.distribution.dense, "<f8"), answer.distribution)
        for block, sums in zip(result.blocks, answer.blocks, strict=True):
            (step,) = block.steps
            np.testing.assert_array_equal(np.frombuffer(step.frequencies, "<i8"), sums.freq[0])
            assert (step.neighbors, step.mass) == (sums.neighbors[0], sums.freq[0].sum())


def test_tokens_are_listed_by_probability_then_id(engine):
    response = engine.predict(
        pb.PredictRequest(prompts=prompts("the people"), top_n=1000, dense=True, include_model=True)
    )
    for distribution in (response.results[0].distribution, response.results[0].model_distribution):
        dense = np.frombuffer(distribution.dense, "<f8")
        listed = [(token.id, token.probability) for token in distribution.tokens]
        expected = sorted(((i, p) for i, p in enumerate(dense.tolist()) if p > 0), key=lambda pair: (-pair[1], pair[0]))
        assert listed == expected
        characters = opened(engine).datastore.tokenizer.characters
        assert all(token.text == characters[token.id] for token in distribution.tokens)


def test_top_n_and_min_prob_bound_the_list(engine):
    request = pb.PredictRequest(prompts=prompts("the people"), include_model=True)
    assert len(engine.predict(request).results[0].model_distribution.tokens) == 10
    request.top_n = 3
    assert len(engine.predict(request).results[0].model_distribution.tokens) == 3
    request.min_prob = 1.0
    assert len(engine.predict(request).results[0].model_distribution.tokens) == 0


def test_what_is_not_asked_for_is_not_sent(engine):
    result = engine.predict(pb.PredictRequest(prompts=prompts("the people"))).results[0]
    assert not result.HasField("model_distribution")
    assert not result.HasField("hellinger")
    assert result.distribution.dense == result.blocks[0].steps[0].frequencies == b""


def test_without_support_there_is_no_distribution(engine):
    fields = {"profile": profile_message(1.0, 1.0), "exclude_self": True, "include_model": True}
    result = engine.predict(pb.PredictRequest(prompts=prompts("the people"), **fields)).results[0]
    assert result.status == pb.PROMPT_STATUS_NO_SUPPORT
    assert not result.HasField("distribution")
    assert not result.HasField("hellinger")
    assert result.model_distribution.tokens


def test_text_and_its_token_ids_are_the_same_prompt(engine):
    ids = opened(engine).datastore.tokenizer.encode("the people").tolist()
    by_text = engine.predict(pb.PredictRequest(prompts=prompts("the people")))
    by_ids = engine.predict(pb.PredictRequest(prompts=[pb.Prompt(tokens=pb.TokenIds(ids=ids))]))
    assert by_text.results == by_ids.results


def test_groups_of_prompts_give_the_same_answers(engine, tiny_snapshot):
    request = pb.PredictRequest(prompts=prompts(*TEXTS), dense=True, include_model=True, include_frequencies=True)
    with Engine.open(tiny_snapshot, check="sizes", limits=Limits(sums_bytes_max=1)) as one_by_one:
        assert one_by_one.predict(request).results == engine.predict(request).results


def test_stages_take_no_longer_than_the_whole(engine):
    timings = engine.predict(pb.PredictRequest(prompts=prompts(*TEXTS))).timings
    stages = (timings.tokenize_ns, timings.queue_ns, timings.model_ns, timings.search_ns, timings.combine_ns)
    assert min(stages) > 0
    assert sum(stages) <= timings.total_ns


def test_a_response_names_snapshot_profile_and_backend(engine):
    response = engine.predict(pb.PredictRequest(prompts=prompts("the people")))
    assert response.snapshot_id == opened(engine).datastore.manifest.snapshot_id
    assert (response.profile_name, response.backend) == ("even", "tiles")
    assert (response.approximate, response.recall) == (False, 1.0)
    assert engine.predict(pb.PredictRequest(prompts=prompts("a"), profile=profile_message(0.1, 0.1))).profile_name == ""


@RELAXED
@given(
    texts=st.lists(st.text("abc \u00e9\u20ac", max_size=12), min_size=1, max_size=8),
    flags=st.fixed_dictionaries({name: st.booleans() for name in FLAGS}),
    top_n=st.integers(0, 70),
    steps=st.integers(1, 5),
    is_product=st.booleans(),
)
def test_the_limit_on_responses_is_checked_against_an_upper_bound(engine, texts, flags, top_n, steps, is_product):
    """A call that is let in never gives a response beyond the bound: tighten the limit until it is refused."""
    profile = profile_message(0.1, 0.2)
    if is_product:
        profile.kind = pb.PROFILE_KIND_PRODUCT
        profile.expectation.MergeFrom(pb.ProfileExpectation(support=[0], distance=[0.5]))
    for block in profile.blocks:
        block.steps.extend([block.steps[0]] * (steps - 1))
        for number, step in enumerate(block.steps if is_product else ()):
            step.threshold += number / 100
            step.prior_mass = 1
    request = pb.PredictRequest(prompts=prompts(*texts), profile=profile, top_n=top_n, **flags)
    try:
        size = engine.predict(request).ByteSize()
    except FfnSearchError:
        return
    reader = opened(engine).reader
    narrow = RequestReader(
        reader.snapshot_id,
        reader.prompts,
        reader.profiles,
        reader.default_profile,
        Limits(response_bytes_max=max(1, size - 1024)),  # what a call adds beside its prompts
    )
    with pytest.raises(FfnSearchError) as caught:
        narrow.predict_job(request)
    assert caught.value.reason == "RESPONSE_TOO_LARGE"


@pytest.mark.parametrize(("blocks", "d_model"), [(1, 1), (6, 384), (200, 32), (48, 5000)])
def test_room_is_left_for_queries_of_every_size(engine, blocks, d_model):
    reader = opened(engine).reader
    prompt_reader = replace(reader.prompts, blocks=blocks, d_model=d_model)
    full = pb.PromptResult(queries=pb.Queries(blocks=[bytes(4 * d_model)] * blocks))
    assert 4 * blocks * d_model < full.ByteSize() <= prompt_reader.queries_bytes_max
    with_room, without = (
        replace(reader, prompts=replace(reader.prompts, d_model=d_model))
        .predict_job(pb.PredictRequest(prompts=prompts("the people", "no"), include_queries=asked))
        .response_bytes_max
        for asked in (True, False)
    )
    assert with_room - without == 2 * replace(reader.prompts, d_model=d_model).queries_bytes_max


@pytest.mark.parametrize(
    ("fields", "thread"),
    [
        ({"prompts": prompts("the people")}, "MainThread"),
        ({"prompts": prompts("the people"), "include_contributions": True}, "MainThread"),
        ({"prompts": prompts("the people") * 200}, "ffnsearch-reader"),
        ({"prompts": prompts("the people") * 40, "include_frequencies": True, "dense": True}, "ffnsearch-reader"),
        (
            {"prompts": prompts("no"), "profile": profile_message(0.5, 0.6, steps=64), "include_frequencies": True},
            "ffnsearch-reader",
        ),
    ],
)
async def test_only_small_responses_are_written_on_the_event_loop(engine, monkeypatch, fields, thread):
    """However few prompts a response has: it is their size that counts."""
    wrote = []
    write = Writer.write
    monkeypatch.setattr(
        Writer, "write", lambda *arguments: wrote.append(threading.current_thread().name) or write(*arguments)
    )
    assert await engine.answer("Predict", pb.PredictRequest(**fields).SerializeToString(), Call())
    assert [name.partition("_")[0] for name in wrote] == [thread]


def all_neighbors(engine, page_sizes, **fields):
    """Read a list to its end, page by page, with the given page sizes in turn."""
    request = pb.ListNeighborsRequest(prompt=pb.Prompt(text="the people"), **fields)
    found, totals = [], set()
    for page_size in page_sizes:
        request.page_size = page_size
        page = engine.list_neighbors(request)
        assert 1 <= len(page.neighbors) <= page_size
        found.extend(page.neighbors)
        totals.add(page.total_neighbors)
        request.page_token = page.next_page_token
        if not page.next_page_token:
            break
    assert not request.page_token, "give more page sizes"
    assert totals == {len(found)}
    return found


@RELAXED
@given(sizes=st.lists(st.integers(1, 700), min_size=1, max_size=6), block=st.integers(0, 1), exclude_self=st.booleans())
def test_pages_put_together_are_the_whole_list(engine, sizes, block, exclude_self):
    fields = {"block": block, "threshold": 0.8, "exclude_self": exclude_self, "places_max": 1}
    whole = all_neighbors(engine, [1000] * 9, **fields)
    paged = all_neighbors(engine, sizes * 4000, **fields)
    assert paged == whole


def test_neighbors_are_those_of_the_predictor_in_order(engine):
    tokens = opened(engine).datastore.tokenizer.encode("the people")
    expected = opened(engine).predictor.neighbors(tokens, 1, 0.8)
    found = all_neighbors(engine, [1000] * 9, block=1, threshold=0.8)
    assert [neighbor.id for neighbor in found] == expected.ids.tolist()
    assert [neighbor.score for neighbor in found] == expected.scores.tolist()
    assert sorted(found, key=lambda neighbor: (-neighbor.score, neighbor.id)) == found


def test_a_neighbor_is_found_in_the_corpus_where_it_says(engine):
    datastore = opened(engine).datastore
    text = datastore.tokenizer.decode(datastore.corpus)
    neighbors = all_neighbors(engine, [1000] * 9, block=0, threshold=0.8, places_max=100, context_tokens=7)
    for neighbor in neighbors[:50]:
        assert neighbor.text == datastore.tokenizer.decode(neighbor.tokens)
        assert neighbor.total_places == len(neighbor.places)
        assert sum(token.count for token in neighbor.next_tokens) <= neighbor.total_places
        for place in neighbor.places:
            end = place.position + len(neighbor.text)
            assert text[place.position : end] == neighbor.text
            assert place.before == text[max(0, place.position - 7) : place.position]
            assert place.after == text[end : end + 7]


def test_a_page_ends_early_rather_than_grow_too_large(tiny_snapshot, engine):
    fields = {"block": 1, "threshold": 0.8}
    with Engine.open(tiny_snapshot, check="sizes", limits=Limits(page_bytes_max=600)) as small:
        page = small.list_neighbors(
            pb.ListNeighborsRequest(prompt=pb.Prompt(text="the people"), page_size=1000, **fields)
        )
        assert 0 < len(page.neighbors) < 10
        assert all_neighbors(small, [1000] * 4000, **fields) == all_neighbors(engine, [1000] * 9, **fields)


@pytest.mark.parametrize("bytes_max", [600, 1000, 5000, 40_000])
def test_all_of_a_page_counts_towards_its_bytes(tiny_snapshot, bytes_max):
    request = pb.ListNeighborsRequest(prompt=pb.Prompt(text="the people"), threshold=0.5, block=1, page_size=1000)
    with Engine.open(tiny_snapshot, check="sizes", limits=Limits(page_bytes_max=bytes_max)) as small:
        for _ in range(10):
            page = small.list_neighbors(request)
            assert page.next_page_token
            assert 0.6 * bytes_max < page.ByteSize() <= bytes_max
            request.page_token = page.next_page_token


def test_the_default_threshold_is_the_lowest_of_the_block(engine):
    page = engine.list_neighbors(pb.ListNeighborsRequest(prompt=pb.Prompt(text="the people"), block=1))
    assert page.threshold == min(opened(engine).profiles["even"].thresholds(1))
    assert len(page.neighbors) == min(20, page.total_neighbors)


@pytest.mark.parametrize(
    "change",
    [{"block": 0}, {"threshold": 0.81}, {"exclude_self": True}, {"prompt": pb.Prompt(text="thy people")}],
    ids=lambda change: next(iter(change)),
)
def test_a_page_token_goes_with_its_request(engine, change):
    fields = {"prompt": pb.Prompt(text="the people"), "block": 1, "threshold": 0.8, "page_size": 1}
    token = engine.list_neighbors(pb.ListNeighborsRequest(**fields)).next_page_token
    assert engine.list_neighbors(pb.ListNeighborsRequest(**fields, page_token=token)).neighbors
    with pytest.raises(FfnSearchError) as caught:
        engine.list_neighbors(pb.ListNeighborsRequest(**{**fields, **change}, page_token=token))
    assert (caught.value.reason, caught.value.metadata["field"]) == ("INVALID_PAGE_TOKEN", "page_token")


@RELAXED
@given(place=st.integers(0, 31), letter=st.sampled_from("ABCXYZabcxyz0189-_=+/. "))
@example(place=31, letter="=")
def test_an_altered_page_token_is_refused(engine, place, letter):
    fields = {"prompt": pb.Prompt(text="the people"), "block": 1, "threshold": 0.8}
    token = engine.list_neighbors(pb.ListNeighborsRequest(**fields, page_size=1)).next_page_token
    altered = token[:place] + letter + token[place + 1 :]
    if altered != token:
        with pytest.raises(FfnSearchError):
            engine.list_neighbors(pb.ListNeighborsRequest(**fields, page_token=altered))


@pytest.mark.parametrize("written", [("-", "+"), ("_", "/")])
def test_a_page_token_is_written_in_one_way(written):
    usual, other = written
    key, size = "a list", 20
    token = next(token for offset in range(1, 1000) if usual in (token := page_token(key, offset)))
    assert read_page_token(token, key, size=size).size == size
    with pytest.raises(FfnSearchError):
        read_page_token(token.replace(usual, other), key, size=size)


def test_classes_are_those_of_the_predictor(engine):
    datastore, tokens = opened(engine).datastore, opened(engine).datastore.tokenizer.encode("the people")
    fields = {"block": 1, "threshold": 0.8, "classes_max": 7, "min_share": 0.25}
    response = engine.list_classes(pb.ListClassesRequest(prompt=pb.Prompt(text="the people"), **fields))
    ranked = opened(engine).predictor.neighbors(tokens, 1, 0.8)
    expected = opened(engine).predictor.classes(ranked, classes_max=7, min_share=0.25)
    assert expected
    assert response.total_neighbors == len(ranked.ids)
    assert response.covered_neighbors == sum(len(found.neighbors.ids) for found in expected)
    assert (response.threshold, response.min_share) == (0.8, 0.25)
    assert response.snapshot_id == datastore.manifest.snapshot_id
    for message, found in zip(response.classes, expected, strict=True):
        assert (list(message.tokens), message.members) == (found.tokens.tolist(), found.members)
        assert message.text == datastore.tokenizer.decode(found.tokens)
        assert (message.neighbors, message.best_score) == (len(found.neighbors.ids), found.neighbors.scores.max())
        assert message.mass == found.freq.sum()
        followers = sorted(((-count, token) for token, count in enumerate(found.freq.tolist()) if count))[:10]
        assert [(-token.count, token.id) for token in message.next_tokens] == followers
        assert all(token.text == datastore.tokenizer.characters[token.id] for token in message.next_tokens)


def test_classes_have_defaults_and_a_limit(tiny_snapshot, engine):
    request = pb.ListClassesRequest(prompt=pb.Prompt(text="the people"), block=1)
    response = engine.list_classes(request)
    assert (response.threshold, response.min_share) == (min(opened(engine).profiles["even"].thresholds(1)), 0.5)
    request.threshold, request.min_share = 0.6, 0.95
    assert len(engine.list_classes(request).classes) == 10
    with Engine.open(tiny_snapshot, check="sizes", limits=Limits(classes_max=3)) as strict:
        request.classes_max = 1000
        assert len(strict.list_classes(request).classes) == 3


def test_defaults_are_told_and_hold(tiny_snapshot):
    defaults = {"top_n_default": 2, "page_size_default": 4, "context_tokens_default": 5, "places_default": 1}
    limits = Limits(**defaults, classes_default=3)
    prompt = {"prompt": pb.Prompt(text="the people"), "block": 1, "threshold": 0.6}
    with Engine.open(tiny_snapshot, check="sizes", limits=limits) as engine:
        told = engine.get_info().limits
        answer = engine.predict(pb.PredictRequest(prompts=prompts("the people"))).results[0]
        page = engine.list_neighbors(pb.ListNeighborsRequest(**prompt))
        classes = engine.list_classes(pb.ListClassesRequest(**prompt, min_share=0.95)).classes
    places = [neighbor.places for neighbor in page.neighbors]
    assert len(answer.distribution.tokens) == told.top_n_default == 2
    assert max(len(found.next_tokens) for found in classes) == told.top_n_default
    assert len(page.neighbors) == told.page_size_default == 4
    assert max(map(len, places)) == told.places_default == 1
    assert max(len(place.after) for (place,) in places) == told.context_tokens_default == 5
    assert len(classes) == told.classes_default == 3


def test_without_neighbors_there_are_no_classes(engine):
    prompt = pb.Prompt(text="zzzzzzzzzz")
    response = engine.list_classes(pb.ListClassesRequest(prompt=prompt, block=1, threshold=1))
    assert (len(response.classes), response.total_neighbors, response.covered_neighbors) == (0, 0, 0)


def test_classes_explain_a_list_that_was_paged_without_searching_again(slow, slow_engine):
    slow.release.set()
    fields = {"prompt": pb.Prompt(text="the people"), "block": 1, "threshold": 0.8}
    page = slow_engine.list_neighbors(pb.ListNeighborsRequest(**fields))
    assert slow_engine.list_classes(pb.ListClassesRequest(**fields)).total_neighbors == page.total_neighbors
    assert slow.calls == 1


def test_pages_are_read_on_without_searching_again(slow, slow_engine):
    slow.release.set()
    request = pb.ListNeighborsRequest(prompt=pb.Prompt(text="the people"), block=1, threshold=0.8, page_size=1)
    for _ in range(5):
        request.page_token = slow_engine.list_neighbors(request).next_page_token
    assert slow.calls == 1


def test_info_tells_what_is_there(engine):
    info = engine.get_info()
    manifest = opened(engine).datastore.manifest
    assert info.snapshot.id == manifest.snapshot_id
    assert (info.snapshot.substrings, info.snapshot.window_tokens) == (manifest.substrings, 10)
    assert (info.model.blocks, info.model.d_model, info.model.vocabulary_size) == (2, 32, 65)
    assert "".join(info.vocabulary) == opened(engine).datastore.tokenizer.characters
    assert [profile.name for profile in info.profiles] == [info.default_profile_name] == ["even"]
    assert list(info.fidelity) == []
    assert (info.limits.prompts_max, info.limits.request_bytes_max) == (1024, 4 << 20)
    assert (info.limits.calls_max, info.limits.queue_prompts_max, info.limits.streams_max) == (512, 4096, 1024)
