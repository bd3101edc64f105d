"""Every refusal reaches the caller with its code, its stable reason and the field at fault."""

import logging
import math
from contextlib import closing

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from serving import opened, serving

from ffnsearch.v1 import ffnsearch_pb2 as pb
from ffnsearch.v1 import ffnsearch_pb2_grpc as pb_grpc
from ffnsearch_service.answering.engine import Engine
from ffnsearch_service.answering.opened import OpenSnapshot
from ffnsearch_service.catalog import Catalog
from ffnsearch_service.config import Limits

PROMPT = pb.Prompt(text="the people")


def profile(*blocks, mass_power=0.0):
    steps = [pb.ProfileBlock(steps=[pb.ProfileStep(threshold=t, weight=w) for t, w in block]) for block in blocks]
    return pb.Profile(blocks=steps, mass_power=mass_power)


def changed(message, **fields):
    """A profile with other fields set too."""
    message.MergeFrom(pb.Profile(**fields))
    return message


def product(*blocks, expectation=None, **fields):
    """A product whose steps are given as dictionaries; what they leave out is valid."""
    usual = {"threshold": 0.5, "weight": 1, "prior_mass": 2}
    steps = [pb.ProfileBlock(steps=[pb.ProfileStep(**{**usual, **step}) for step in block]) for block in blocks]
    found = pb.ProfileExpectation(support=expectation[0], distance=expectation[1]) if expectation else None
    return pb.Profile(blocks=steps, expectation=found, **{"kind": pb.PROFILE_KIND_PRODUCT, **fields})


def queries(*blocks):
    """A prompt whose queries have this many numbers each, or these bytes."""
    vectors = [np.ones(block, dtype="<f4").tobytes() if isinstance(block, int) else block for block in blocks]
    return pb.Prompt(queries=pb.Queries(blocks=vectors))


def numbers(first):
    """A query of 32 numbers, of which all but the first are 0."""
    return np.array([first] + [0] * 31, dtype="<f4").tobytes()


def predict(*prompts, **fields):
    return pb.PredictRequest(prompts=prompts or [PROMPT], **fields)


def neighbors(**fields):
    return pb.ListNeighborsRequest(**{"prompt": PROMPT, "block": 0, **fields})


def classes(**fields):
    return pb.ListClassesRequest(**{"prompt": PROMPT, "block": 0, **fields})


INVALID_PREDICTIONS = {
    "no prompts": (pb.PredictRequest(), "NO_PROMPTS", "prompts"),
    "empty text": (predict(pb.Prompt(text="")), "EMPTY_PROMPT", "prompts[0].text"),
    "empty tokens": (predict(pb.Prompt(tokens=pb.TokenIds())), "EMPTY_PROMPT", "prompts[0].tokens"),
    "no content": (predict(pb.Prompt()), "NO_PROMPT_CONTENT", "prompts[0]"),
    "unknown character": (predict(pb.Prompt(text="caf\u00e9")), "UNKNOWN_CHARACTER", "prompts[0].text"),
    "unknown token": (
        predict(pb.Prompt(tokens=pb.TokenIds(ids=[1, 65]))),
        "TOKEN_OUT_OF_RANGE",
        "prompts[0].tokens.ids[1]",
    ),
    "huge token": (
        predict(pb.Prompt(tokens=pb.TokenIds(ids=[2**32 - 1]))),
        "TOKEN_OUT_OF_RANGE",
        "prompts[0].tokens.ids[0]",
    ),
    "queries of no block": (predict(queries()), "QUERIES_OF_OTHER_BLOCKS", "prompts[0].queries.blocks"),
    "queries of three blocks": (predict(queries(32, 32, 32)), "QUERIES_OF_OTHER_BLOCKS", "prompts[0].queries.blocks"),
    "a query missing": (predict(queries(32, 0)), "QUERY_MISSING", "prompts[0].queries.blocks[1]"),
    "a short query": (predict(queries(31, 32)), "QUERY_OF_OTHER_SIZE", "prompts[0].queries.blocks[0]"),
    "a query of half a number": (predict(queries(32, b"abc")), "QUERY_OF_OTHER_SIZE", "prompts[0].queries.blocks[1]"),
    "a query of zeros": (
        predict(queries(32, numbers(-0.0))),
        "QUERY_WITHOUT_DIRECTION",
        "prompts[0].queries.blocks[1]",
    ),
    "a query with NaN": (
        predict(queries(numbers(math.nan), 32)),
        "QUERY_WITHOUT_DIRECTION",
        "prompts[0].queries.blocks[0]",
    ),
    "an infinite query": (
        predict(queries(numbers(-math.inf), 32)),
        "QUERY_WITHOUT_DIRECTION",
        "prompts[0].queries.blocks[0]",
    ),
    "a bad query in a block without steps": (
        predict(queries(32, 31), profile=profile([(0.5, 1)], [])),
        "QUERY_OF_OTHER_SIZE",
        "prompts[0].queries.blocks[1]",
    ),
    "long text": (predict(pb.Prompt(text="a" * 4097)), "PROMPT_TOO_LONG", "prompts[0].text"),
    "long tokens": (predict(pb.Prompt(tokens=pb.TokenIds(ids=[1] * 4097))), "PROMPT_TOO_LONG", "prompts[0].tokens"),
    "many prompts": (predict(*[PROMPT] * 1025), "TOO_MANY_PROMPTS", "prompts"),
    "threshold 1.1": (
        predict(profile=profile([(1.1, 1)], [])),
        "THRESHOLD_OUT_OF_RANGE",
        "profile.blocks[0].steps[0].threshold",
    ),
    "threshold NaN": (
        predict(profile=profile([], [(0.9, 1), (math.nan, 1)])),
        "THRESHOLD_OUT_OF_RANGE",
        "profile.blocks[1].steps[1].threshold",
    ),
    "weight -1": (
        predict(profile=profile([(0.9, -1)], [])),
        "WEIGHT_OUT_OF_RANGE",
        "profile.blocks[0].steps[0].weight",
    ),
    "weight NaN": (
        predict(profile=profile([(0.9, math.nan)], [])),
        "WEIGHT_OUT_OF_RANGE",
        "profile.blocks[0].steps[0].weight",
    ),
    "weight inf": (
        predict(profile=profile([(0.9, math.inf)], [])),
        "WEIGHT_OUT_OF_RANGE",
        "profile.blocks[0].steps[0].weight",
    ),
    "no positive weight": (predict(profile=profile([(0.9, 0)], [])), "NO_POSITIVE_WEIGHT", "profile.blocks"),
    "no steps at all": (predict(profile=profile([], [])), "NO_POSITIVE_WEIGHT", "profile.blocks"),
    "one block": (predict(profile=profile([(0.9, 1)])), "WRONG_BLOCK_COUNT", "profile.blocks"),
    "65 steps": (predict(profile=profile([(0.9, 1)] * 65, [])), "TOO_MANY_STEPS", "profile.blocks[0].steps"),
    "mass power 2": (
        predict(profile=profile([(0.9, 1)], [], mass_power=2)),
        "MASS_POWER_OUT_OF_RANGE",
        "profile.mass_power",
    ),
    "a sum with a prior weight": (
        predict(profile=changed(profile([(0.9, 1)], []), prior_weight=0.0)),
        "FIELD_OF_ANOTHER_KIND",
        "profile.prior_weight",
    ),
    "a sum with token biases": (
        predict(profile=changed(profile([(0.9, 1)], []), kind=pb.PROFILE_KIND_SUM, token_bias=[0.0] * 65)),
        "FIELD_OF_ANOTHER_KIND",
        "profile.token_bias",
    ),
    "a sum with a prior mass": (
        predict(profile=pb.Profile(blocks=product([], [{}]).blocks)),
        "FIELD_OF_ANOTHER_KIND",
        "profile.blocks[1].steps[0].prior_mass",
    ),
    "a product with a mass power": (
        predict(profile=product([{}], [], mass_power=0.5)),
        "FIELD_OF_ANOTHER_KIND",
        "profile.mass_power",
    ),
    "kind 7": (predict(profile=product([{}], [], kind=7)), "UNKNOWN_PROFILE_KIND", "profile.kind"),
    "product of one block": (predict(profile=product([{}])), "WRONG_BLOCK_COUNT", "profile.blocks"),
    "product without steps": (predict(profile=product([], [])), "NO_STEP", "profile.blocks"),
    "product of 65 steps": (predict(profile=product([], [{}] * 65)), "TOO_MANY_STEPS", "profile.blocks[1].steps"),
    "product threshold -2": (
        predict(profile=product([{"threshold": -2}], [])),
        "THRESHOLD_OUT_OF_RANGE",
        "profile.blocks[0].steps[0].threshold",
    ),
    "product thresholds that descend": (
        predict(profile=product([], [{"threshold": 0.5}, {"threshold": 0.7}, {"threshold": 0.6}])),
        "THRESHOLDS_NOT_ASCENDING",
        "profile.blocks[1].steps[2].threshold",
    ),
    "product thresholds that are equal": (
        predict(profile=product([{}, {}], [])),
        "THRESHOLDS_NOT_ASCENDING",
        "profile.blocks[0].steps[1].threshold",
    ),
    "product weight inf": (
        predict(profile=product([{"weight": math.inf}], [])),
        "WEIGHT_OUT_OF_RANGE",
        "profile.blocks[0].steps[0].weight",
    ),
    "product weight 2e6": (
        predict(profile=product([{"weight": -2e6}], [])),
        "WEIGHT_OUT_OF_RANGE",
        "profile.blocks[0].steps[0].weight",
    ),
    "support weight NaN": (
        predict(profile=product([{"support_weight": math.nan}], [])),
        "WEIGHT_OUT_OF_RANGE",
        "profile.blocks[0].steps[0].support_weight",
    ),
    "block support weight inf": (
        predict(profile=product([{"block_support_weights": [0, math.inf]}], [])),
        "WEIGHT_OUT_OF_RANGE",
        "profile.blocks[0].steps[0].block_support_weights",
    ),
    "block support weights of three blocks": (
        predict(profile=product([{"block_support_weights": [1, 2, 3]}], [])),
        "WRONG_BLOCK_COUNT",
        "profile.blocks[0].steps[0].block_support_weights",
    ),
    "no prior mass": (
        predict(profile=product([{"prior_mass": 0}], [])),
        "PRIOR_MASS_OUT_OF_RANGE",
        "profile.blocks[0].steps[0].prior_mass",
    ),
    "prior mass NaN": (
        predict(profile=product([{"prior_mass": math.nan}], [])),
        "PRIOR_MASS_OUT_OF_RANGE",
        "profile.blocks[0].steps[0].prior_mass",
    ),
    "prior weight NaN": (
        predict(profile=product([{}], [], prior_weight=math.nan)),
        "WEIGHT_OUT_OF_RANGE",
        "profile.prior_weight",
    ),
    "token bias inf": (
        predict(profile=product([{}], [], token_bias=[0.0] * 64 + [math.inf])),
        "WEIGHT_OUT_OF_RANGE",
        "profile.token_bias",
    ),
    "one token bias": (predict(profile=product([{}], [], token_bias=[1.0])), "WRONG_TOKEN_COUNT", "profile.token_bias"),
    "expectation without classes": (
        predict(profile=product([{}], [], expectation=([], []))),
        "INVALID_EXPECTATION",
        "profile.expectation",
    ),
    "expectation from below 0": (
        predict(
            profile=changed(profile([(0.9, 1)], []), expectation=pb.ProfileExpectation(support=[-1], distance=[0]))
        ),
        "INVALID_EXPECTATION",
        "profile.expectation",
    ),
    "expectation from what is not a number": (
        predict(profile=product([{}], [], expectation=([math.nan], [0.5]))),
        "INVALID_EXPECTATION",
        "profile.expectation",
    ),
    "expectation that descends": (
        predict(profile=product([{}], [], expectation=([0, 2, 1], [0, 0, 0]))),
        "INVALID_EXPECTATION",
        "profile.expectation",
    ),
    "expectation of too few distances": (
        predict(profile=product([{}], [], expectation=([0, 1], [0.5]))),
        "INVALID_EXPECTATION",
        "profile.expectation",
    ),
    "expectation NaN": (
        predict(profile=product([{}], [], expectation=([0, 1], [0.5, math.nan]))),
        "INVALID_EXPECTATION",
        "profile.expectation",
    ),
    "min_prob 1.5": (predict(min_prob=1.5), "MIN_PROB_OUT_OF_RANGE", "min_prob"),
    "min_prob NaN": (predict(min_prob=math.nan), "MIN_PROB_OUT_OF_RANGE", "min_prob"),
    "top_n -1": (predict(top_n=-1), "TOP_N_NEGATIVE", "top_n"),
    "huge response": (
        predict(*[PROMPT] * 1024, profile=profile([(0.9, 1)] * 64, [(0.9, 1)] * 64), include_frequencies=True),
        "RESPONSE_TOO_LARGE",
        "prompts",
    ),
}
INVALID_NEIGHBORS = {
    "no prompt": (pb.ListNeighborsRequest(), "NO_PROMPT_CONTENT", "prompt"),
    "unknown character": (neighbors(prompt=pb.Prompt(text="\u20ac")), "UNKNOWN_CHARACTER", "prompt.text"),
    "a query of another block": (neighbors(prompt=queries(0, 32)), "QUERY_MISSING", "prompt.queries.blocks[0]"),
    "block 2": (neighbors(block=2), "BLOCK_OUT_OF_RANGE", "block"),
    "block -1": (neighbors(block=-1), "BLOCK_OUT_OF_RANGE", "block"),
    "threshold -1.5": (neighbors(threshold=-1.5), "THRESHOLD_OUT_OF_RANGE", "threshold"),
    "threshold NaN": (neighbors(threshold=math.nan), "THRESHOLD_OUT_OF_RANGE", "threshold"),
    "page_size -1": (neighbors(page_size=-1), "PAGE_SIZE_NEGATIVE", "page_size"),
    "context_tokens -1": (neighbors(context_tokens=-1), "CONTEXT_TOKENS_NEGATIVE", "context_tokens"),
    "places_max -1": (neighbors(places_max=-1), "PLACES_MAX_NEGATIVE", "places_max"),
    "page token of nobody": (neighbors(page_token="bm9uc2Vuc2U="), "INVALID_PAGE_TOKEN", "page_token"),
    "page token of another alphabet": (neighbors(page_token="\u00e9"), "INVALID_PAGE_TOKEN", "page_token"),
}
INVALID_CLASSES = {
    "no prompt": (pb.ListClassesRequest(), "NO_PROMPT_CONTENT", "prompt"),
    "empty text": (classes(prompt=pb.Prompt(text="")), "EMPTY_PROMPT", "prompt.text"),
    "a query of another block": (classes(prompt=queries(32, 0), block=1), "QUERY_MISSING", "prompt.queries.blocks[1]"),
    "block 2": (classes(block=2), "BLOCK_OUT_OF_RANGE", "block"),
    "block -1": (classes(block=-1), "BLOCK_OUT_OF_RANGE", "block"),
    "threshold 1.5": (classes(threshold=1.5), "THRESHOLD_OUT_OF_RANGE", "threshold"),
    "threshold NaN": (classes(threshold=math.nan), "THRESHOLD_OUT_OF_RANGE", "threshold"),
    "classes_max -1": (classes(classes_max=-1), "CLASSES_MAX_NEGATIVE", "classes_max"),
    "min_share 0": (classes(min_share=0), "MIN_SHARE_OUT_OF_RANGE", "min_share"),
    "min_share 1.1": (classes(min_share=1.1), "MIN_SHARE_OUT_OF_RANGE", "min_share"),
    "min_share NaN": (classes(min_share=math.nan), "MIN_SHARE_OUT_OF_RANGE", "min_share"),
}


@pytest.fixture(scope="module")
def stub(channel):
    return pb_grpc.PredictionServiceStub(channel)


def refusal(call, request):
    """The code, ErrorInfo and BadRequest of a call that must fail."""
    with pytest.raises(grpc.RpcError) as caught:
        call(request, timeout=60)
    status = rpc_status.from_call(caught.value)
    info, bad_request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    for detail in status.details:
        detail.Unpack(info)
        detail.Unpack(bad_request)
    assert info.domain == "ffnsearch"
    return caught.value, info, [violation.field for violation in bad_request.field_violations]


@pytest.mark.parametrize("case", INVALID_PREDICTIONS)
def test_an_invalid_prediction_names_its_field(stub, case):
    request, reason, field = INVALID_PREDICTIONS[case]
    error, info, fields = refusal(stub.Predict, request)
    assert (error.code(), info.reason, fields) == (grpc.StatusCode.INVALID_ARGUMENT, reason, [field])
    assert field.split("[")[0].split(".")[0] in error.details()


@pytest.mark.parametrize("case", INVALID_NEIGHBORS)
def test_an_invalid_list_names_its_field(stub, case):
    request, reason, field = INVALID_NEIGHBORS[case]
    error, info, fields = refusal(stub.ListNeighbors, request)
    assert (error.code(), info.reason, fields) == (grpc.StatusCode.INVALID_ARGUMENT, reason, [field])


@pytest.mark.parametrize("case", INVALID_CLASSES)
def test_an_invalid_explanation_names_its_field(stub, case):
    request, reason, field = INVALID_CLASSES[case]
    error, info, fields = refusal(stub.ListClasses, request)
    assert (error.code(), info.reason, fields) == (grpc.StatusCode.INVALID_ARGUMENT, reason, [field])


@pytest.mark.parametrize(
    ("method", "request_of"), [("Predict", predict), ("ListNeighbors", neighbors), ("ListClasses", classes)]
)
def test_an_unknown_profile_is_not_found(stub, method, request_of):
    error, info, fields = refusal(getattr(stub, method), request_of(profile_name="fine"))
    assert (error.code(), info.reason, fields) == (grpc.StatusCode.NOT_FOUND, "PROFILE_NOT_FOUND", ["profile_name"])
    assert "even" in error.details()


@pytest.mark.parametrize(("method", "request_of"), [("ListNeighbors", neighbors), ("ListClasses", classes)])
def test_an_unknown_profile_is_not_found_where_it_is_not_needed_either(stub, method, request_of):
    error, info, fields = refusal(getattr(stub, method), request_of(profile_name="fine", threshold=0.5))
    assert (error.code(), info.reason, fields) == (grpc.StatusCode.NOT_FOUND, "PROFILE_NOT_FOUND", ["profile_name"])


@pytest.fixture(scope="module")
def stub_of_catalog(tiny_snapshot):
    """A server that may have several snapshots open at once."""
    catalog = Catalog(lambda name, path: OpenSnapshot.open(path, name=name, check="sizes"))
    catalog.load("tiny", tiny_snapshot)
    catalog.move_alias("default", "tiny", allow_missing=True)
    with (
        closing(catalog),
        Engine(catalog.lease) as engine,
        serving(engine) as address,
        grpc.insecure_channel(address) as channel,
    ):
        yield pb_grpc.PredictionServiceStub(channel)


@pytest.mark.parametrize("server", ["stub", "stub_of_catalog"])
@pytest.mark.parametrize(
    ("method", "request_of"),
    [("Predict", predict), ("ListNeighbors", neighbors), ("ListClasses", classes), ("GetInfo", pb.GetInfoRequest)],
)
def test_an_unknown_snapshot_is_not_found(server, method, request_of, request):
    call = getattr(request.getfixturevalue(server), method)
    error, info, fields = refusal(call, request_of(snapshot="fine"))
    assert (error.code(), info.reason, fields) == (grpc.StatusCode.NOT_FOUND, "SNAPSHOT_NOT_FOUND", ["snapshot"])
    assert "fine" in error.details()


def test_metadata_holds_the_variable_parts(stub):
    _, info, _ = refusal(stub.Predict, predict(pb.Prompt(text="caf\u00e9")))
    assert dict(info.metadata) == {"character": "\u00e9", "offset_characters": "3"}
    _, info, _ = refusal(stub.Predict, predict(*[PROMPT] * 1025))
    assert dict(info.metadata) == {"given": "1025", "limit": "1024"}
    _, info, _ = refusal(stub.Predict, predict(pb.Prompt(text="a" * 5000)))
    assert dict(info.metadata) == {"given": "5000", "limit": "4096"}


def test_long_values_are_shortened(stub):
    error, info, _ = refusal(stub.Predict, predict(profile_name="x" * 100_000))
    assert len(info.metadata["profile_name"]) < 500
    assert len(error.details()) < 500


def test_a_bad_prompt_fails_alone(stub):
    request = predict(PROMPT, pb.Prompt(text="caf\u00e9"), pb.Prompt(), pb.Prompt(text="my most gr"))
    results = stub.Predict(request).results
    assert [result.status for result in results] == [
        pb.PROMPT_STATUS_OK,
        pb.PROMPT_STATUS_INVALID,
        pb.PROMPT_STATUS_INVALID,
        pb.PROMPT_STATUS_OK,
    ]
    assert results[1].error.code == 3
    assert (results[1].error.reason, results[1].error.field) == ("UNKNOWN_CHARACTER", "prompts[1].text")
    assert dict(results[1].error.metadata) == {"character": "\u00e9", "offset_characters": "3"}
    assert results[2].error.reason == "NO_PROMPT_CONTENT"
    assert not results[1].HasField("distribution")
    assert results[0] == stub.Predict(predict(PROMPT)).results[0]


def test_where_no_prompt_can_be_answered_the_call_fails_with_the_first_error(stub):
    error, info, fields = refusal(stub.Predict, predict(pb.Prompt(text="\u00e9"), pb.Prompt()))
    assert (error.code(), info.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "UNKNOWN_CHARACTER")
    assert fields == ["prompts[0].text"]


def test_a_request_beyond_the_message_limit_is_refused(stub):
    with pytest.raises(grpc.RpcError) as caught:
        stub.Predict(predict(*[pb.Prompt(text="a" * 1_000_000)] * 5), timeout=60)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "4194304" in caught.value.details()


@pytest.mark.parametrize(
    ("method", "request_bytes", "metadata", "code"),
    [
        ("Predict", b"a" * 5_000_000, (), grpc.StatusCode.RESOURCE_EXHAUSTED),
        ("Predict", b"", (("x-long", "a" * 9000),), grpc.StatusCode.RESOURCE_EXHAUSTED),
        ("Unknown", b"", (), grpc.StatusCode.UNIMPLEMENTED),
    ],
)
def test_what_grpc_itself_refuses_has_no_details(channel, method, request_bytes, metadata, code):
    call = channel.unary_unary(f"/ffnsearch.v1.PredictionService/{method}")
    with pytest.raises(grpc.RpcError) as caught:
        call(request_bytes, metadata=metadata, timeout=60)
    assert caught.value.code() is code
    assert rpc_status.from_call(caught.value) is None


def test_what_is_our_fault_is_opaque_and_logged(tiny_snapshot, monkeypatch, caplog):
    def fail(*_, **__):
        raise ValueError(f"secret {tiny_snapshot}")

    with Engine.open(tiny_snapshot, check="sizes") as broken, serving(broken) as address:
        monkeypatch.setattr(opened(broken).predictor, "search", fail)
        with grpc.insecure_channel(address) as channel, caplog.at_level(logging.ERROR):
            error, info, fields = refusal(pb_grpc.PredictionServiceStub(channel).Predict, predict())
    assert (error.code(), info.reason, fields) == (grpc.StatusCode.INTERNAL, "INTERNAL", [])
    assert str(tiny_snapshot) not in error.details()
    assert "Traceback" not in error.details()
    assert info.metadata["error_id"] in caplog.text
    assert "secret" in caplog.text
    assert "Traceback" in caplog.text


def test_limits_are_those_of_the_configuration(tiny_snapshot):
    limits = Limits(prompts_max=1)
    with (
        Engine.open(tiny_snapshot, check="sizes", limits=limits) as strict,
        serving(strict) as address,
        grpc.insecure_channel(address) as channel,
    ):
        _, info, _ = refusal(pb_grpc.PredictionServiceStub(channel).Predict, predict(PROMPT, PROMPT))
    assert info.metadata["limit"] == "1"
