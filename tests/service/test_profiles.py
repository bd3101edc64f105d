"""Profiles of both kinds, by name and by value, answer over the wire as they do in the process, and explain it."""

import dataclasses
import json

import numpy as np
import pytest
from calibrated import EVEN, PRODUCT, PROFILES, SUM
from hypothesis import given
from hypothesis import strategies as st
from serving import WAIT_S, opened

from ffnsearch.v1 import ffnsearch_pb2 as pb
from ffnsearch_indexer.answer.prediction import PROBABILITY_MIN, combine, contributions, support
from ffnsearch_indexer.answer.profile import (
    Expectation,
    ProductProfile,
    ProductStep,
    Profile,
    Step,
    SumProfile,
    one_step,
)
from ffnsearch_indexer.errors import ProfileError
from ffnsearch_indexer.fidelity.protocols import Protocol
from ffnsearch_service.answering.engine import Engine
from ffnsearch_service.answering.explanation import expected_hellinger
from ffnsearch_service.client import Client
from ffnsearch_service.client.profile_files import PROFILE_FILE_BYTES_MAX, load_profile
from ffnsearch_service.client.results import plain
from ffnsearch_service.config import Limits
from ffnsearch_service.profiles import profile_message, read_profile
from ffnsearch_service.protocols import PROTOCOLS

TEXTS = ["the people", "First Citi", "zzzzzzzzzz", "no", "long enough to be cut to its last window"]
KINDS = pytest.mark.parametrize("profile", [SUM, PRODUCT], ids=["sum", "product"])
WAYS = pytest.mark.parametrize("by_name", [True, False], ids=["by name", "inline"])


@pytest.fixture(scope="module")
def client(calibrated_address):
    with Client(calibrated_address, timeout_s=WAIT_S) as opened:
        yield opened


def ask(client, profile, *, by_name=True, **options):
    everything = {"dense": True, "include_frequencies": True, "include_contributions": True, "top_n": 65}
    choice = profile.name if by_name else profile
    return client.predict(TEXTS, profile=choice, exclude_self=True, **{**everything, **options})


def freqs_of(result):
    """The sums of each block of one result, [1, S, V] each."""
    return [np.array([[step.frequencies for step in steps]]) for steps in result.blocks]


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_a_message_holds_all_of_a_profile(profile):
    there = pb.Profile.FromString(profile_message(profile, "other").SerializeToString())
    assert read_profile(there) == dataclasses.replace(profile, name="other")


def test_a_profile_of_no_kind_is_a_sum():
    message = profile_message(EVEN, "even")
    message.ClearField("kind")
    assert read_profile(message) == EVEN


def test_a_product_takes_the_whole_prior_unless_told():
    message = profile_message(PRODUCT, "multiplied")
    message.ClearField("prior_weight")
    assert read_profile(message).prior_weight == 1.0
    message.prior_weight = 0.0
    assert read_profile(message).prior_weight == 0.0


def test_a_negative_zero_is_no_field_of_another_kind():
    of_product, of_sum = profile_message(PRODUCT, "multiplied"), profile_message(EVEN, "even")
    of_product.mass_power = of_sum.blocks[0].steps[0].prior_mass = -0.0
    assert read_profile(of_product) == PRODUCT
    assert read_profile(of_sum) == EVEN
    of_sum.prior_weight = 0.0
    with pytest.raises(ProfileError, match="prior_weight"):
        read_profile(of_sum)


@KINDS
@WAYS
def test_answers_are_those_of_the_process(client, calibrated_engine, profile, by_name):
    answer = ask(client, profile, by_name=by_name)
    assert answer.profile_kind == profile.kind
    assert answer.profile_name == (profile.name if by_name else "")
    for result in answer.results:
        distributions, has_support = combine(profile, freqs_of(result), opened(calibrated_engine).datastore.unigram)
        assert result.status == ("OK" if has_support[0] else "NO_SUPPORT")
        if has_support[0]:
            np.testing.assert_allclose(result.distribution.dense, distributions[0], rtol=1e-13)
    assert "OK" in [result.status for result in answer.results]


@KINDS
def test_by_name_and_inline_are_the_same(client, profile):
    by_name, inline = (
        ask(client, profile, by_name=by_name, dense=False, include_frequencies=False) for by_name in (1, 0)
    )
    assert by_name.results == inline.results


def test_the_default_profile_may_be_a_product(client):
    answer = client.predict("the people")
    assert (answer.profile_name, answer.profile_kind) == ("multiplied", "product")


@KINDS
def test_groups_of_prompts_give_the_same_answers(calibrated_snapshot, calibrated_engine, profile):
    request = pb.PredictRequest(
        prompts=[pb.Prompt(text=text) for text in TEXTS],
        profile_name=profile.name,
        dense=True,
        include_contributions=True,
    )
    limits = Limits(sums_bytes_max=1)
    with Engine.open(calibrated_snapshot, check="sizes", limits=limits) as one_by_one:
        assert one_by_one.predict(request).results == calibrated_engine.predict(request).results


@KINDS
def test_contributions_are_those_of_the_process(client, calibrated_engine, profile):
    for result in ask(client, profile).results:
        if result.distribution:
            expected = contributions(profile, freqs_of(result), opened(calibrated_engine).datastore.unigram)[0]
            for token in result.distribution.tokens:
                assert token.block_contributions == tuple(expected[:, token.id])


def test_shares_of_a_sum_add_up_to_the_probability(client):
    for result in ask(client, SUM).results:
        for token in result.distribution.tokens if result.distribution else ():
            assert sum(token.block_contributions) == pytest.approx(token.probability, rel=1e-12)
            assert min(token.block_contributions) >= 0
            assert token.prior_contribution is None


def test_nats_of_a_product_add_up_to_the_log_probability(client, calibrated_engine):
    log_prior = PRODUCT.prior_weight * np.log(np.maximum(opened(calibrated_engine).datastore.unigram, PROBABILITY_MIN))
    log_prior += PRODUCT.token_bias
    for result in ask(client, PRODUCT).results:
        if result.distribution:
            answer = result.distribution.dense
            entropy = -(answer * np.log(answer)).sum()
            for token in result.distribution.tokens:
                together = token.prior_contribution + sum(token.block_contributions)
                assert together == pytest.approx(np.log(token.probability) + entropy, abs=1e-9)
                of_prior = log_prior[token.id] - (answer * log_prior).sum()
                assert token.prior_contribution == pytest.approx(of_prior, abs=1e-9)


def test_contributions_come_on_request_for_answers_alone(client):
    result = client.predict("the people", include_model=True).results[0]
    assert all(token.block_contributions == () for token in result.distribution.tokens)
    asked = client.predict("the people", include_model=True, include_contributions=True).results[0]
    assert all(len(token.block_contributions) == 2 for token in asked.distribution.tokens)
    assert asked.model == result.model
    assert all(token.prior_contribution is None for token in asked.model.tokens)


@KINDS
@WAYS
def test_the_expected_distance_is_that_of_the_class_of_support(client, profile, by_name):
    found = set()
    for result in ask(client, profile, by_name=by_name).results:
        assert result.support == support(freqs_of(result))[0]
        logs = [np.log(1 + step.mass) for steps in result.blocks for step in steps]
        assert result.support == pytest.approx(np.mean(logs))
        edges, distances = profile.expectation.support, profile.expectation.distance
        expected = [d for edge, d in zip(edges, distances, strict=True) if edge <= result.support][-1]
        assert result.expected_hellinger == (expected if result.status == "OK" else None)
        found.add(result.expected_hellinger)
    assert len(found) > 1


@given(st.floats(0, 10))
def test_a_class_holds_its_lower_edge(value):
    profile = dataclasses.replace(EVEN, expectation=Expectation((0.0, 1.0, value + 2), (0.9, 0.5, 0.1)))
    assert expected_hellinger(profile, 0.0) == 0.9
    assert expected_hellinger(profile, 1.0) == expected_hellinger(profile, np.nextafter(value + 2, 0)) == 0.5
    assert expected_hellinger(profile, value + 2) == expected_hellinger(profile, 1e9) == 0.1


def test_without_an_expectation_or_support_no_distance_is_expected(client):
    assert client.predict("the people", profile="even").results[0].expected_hellinger is None
    nothing = dataclasses.replace(one_step("", [1.0, 1.0], [1, 1]), expectation=SUM.expectation)
    result = client.predict("the people", profile=nothing, exclude_self=True).results[0]
    assert (result.status, result.support, result.expected_hellinger) == ("NO_SUPPORT", 0.0, None)


COUNTING = {
    "sum": (SumProfile("", ((Step(0.5, 0.0, 0.1),), (Step(1.0, 1.0),))), "NO_SUPPORT"),
    "product": (ProductProfile("", ((ProductStep(0.5, 0.0, prior_mass=1),), ())), "NO_SUPPORT"),
    "product by support": (ProductProfile("", ((ProductStep(0.5, 0.0, 0.1, prior_mass=1),), ())), "OK"),
}


@pytest.mark.parametrize("case", COUNTING)
def test_only_steps_that_may_have_a_weight_give_support(client, case):
    profile, status = COUNTING[case]
    result = client.predict("the people", profile=profile, exclude_self=True).results[0]
    assert result.status == status
    assert result.support > 0, "all steps count there"


def test_a_bad_prompt_has_no_support(client):
    bad = client.predict(["the people", "caf\u00e9"]).results[1]
    assert bad.support is bad.expected_hellinger is None


def test_the_service_knows_the_protocols_that_the_indexer_measures():
    assert {protocol.key: protocol.indexed_split for protocol in Protocol} == PROTOCOLS


def test_info_tells_profiles_and_fidelity(client):
    info = client.info()
    assert info.profiles == PROFILES
    leave_one_out, held_out = info.fidelity
    assert (leave_one_out.protocol, leave_one_out.prompts) == ("leave_one_out", 20000)
    assert leave_one_out.noise_floor_hellinger_mean == pytest.approx(0.07)
    assert (held_out.protocol, held_out.profile_name) == ("held_out", "multiplied")
    assert (held_out.hellinger_mean, held_out.hellinger_max) == (0.25, 0.55)
    assert (held_out.hellinger_ci95_low, held_out.hellinger_ci95_high) == (0.24, 0.27)
    assert (held_out.top1_agreement, held_out.no_support_share) == (0.8, 0.015)
    assert held_out.noise_floor_hellinger_mean is None


def test_the_default_threshold_of_a_product_is_the_lowest_of_the_block(client):
    page = next(client.neighbor_pages("the people", 0, page_size=1))
    assert page.threshold == 0.5


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_a_file_holds_a_profile_in_the_form_of_a_manifest(tmp_path, profile):
    path = tmp_path / "profile.json"
    path.write_text(json.dumps(profile.to_json()))
    assert load_profile(path) == dataclasses.replace(profile, name="", source="")


UNREADABLE = {
    "no JSON": ("{", "not JSON"),
    "deep": ("[" * 100_000, "not JSON"),
    "not UTF-8": (b"\xff", "not JSON"),
    "a list": ("[]", "no JSON object"),
    "nothing": ("{}", "kind"),
    "another kind": ('{"kind": "mean", "blocks": []}', "mean"),
    "no blocks": ('{"kind": "sum"}', "blocks"),
    "blocks of nothing": ('{"kind": "sum", "blocks": 3}', "not a profile"),
    "steps of text": ('{"kind": "sum", "blocks": [["a"]]}', "not a profile"),
    "an unknown field": ('{"kind": "sum", "blocks": [[{"threshold": 0.5, "weight": 1, "height": 2}]]}', "height"),
    "a threshold of 2": ('{"kind": "sum", "blocks": [[{"threshold": 2, "weight": 1}]]}', "steps.0..threshold"),
    "too large": (" " * (PROFILE_FILE_BYTES_MAX + 1), "bytes"),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_a_file_without_a_profile_is_told_with_its_name(tmp_path, case):
    content, expected = UNREADABLE[case]
    path = tmp_path / "profile.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ProfileError, match=expected) as caught:
        load_profile(path)
    assert str(path) in caught.value.message


@pytest.mark.parametrize("name", ["missing.json", "."])
def test_a_file_that_cannot_be_read_is_told(tmp_path, name):
    with pytest.raises(ProfileError, match="cannot be read"):
        load_profile(tmp_path / name)


def test_info_as_json_shows_profiles_as_files_hold_them(client):
    documents = json.loads(json.dumps(plain(client.info())))["profiles"]
    assert {name: Profile.from_json(document) for name, document in documents.items()} == PROFILES
