"""Calls that wait together are answered together, each as if it were alone; what happens to one is its own affair."""

import gc
import threading
import time
import weakref
from contextlib import nullcontext, suppress

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serving import WAIT_S, SlowPredictor, opened, serving

from ffnsearch.v1 import ffnsearch_pb2 as pb
from ffnsearch.v1 import ffnsearch_pb2_grpc as pb_grpc
from ffnsearch_indexer.errors import CancelledError
from ffnsearch_indexer.store.datastore import Datastore
from ffnsearch_service.answering.call import Call
from ffnsearch_service.answering.engine import Engine
from ffnsearch_service.answering.opened import OpenSnapshot
from ffnsearch_service.config import Limits
from ffnsearch_service.errors import AbsentError, OverloadedError

FLAGS = ("exclude_self", "dense", "include_model", "include_frequencies", "include_contributions", "include_queries")
TEXTS = ("the people", "First Citi", "zzzzzzzzzz", "no", "long enough to be cut to its last window", "caf\u00e9")
QUERIES = [np.random.default_rng(seed).normal(size=(2, 32)).astype("<f4") + np.float32(seed > 0) for seed in range(3)]
PROMPTS = (
    *(pb.Prompt(queries=pb.Queries(blocks=[vector.tobytes() for vector in vectors])) for vectors in QUERIES),
    *(pb.Prompt(text=text) for text in TEXTS),
)
REQUESTS = st.builds(
    lambda prompts, profile, flags, top_n, min_prob: pb.PredictRequest(
        prompts=prompts,
        profile_name=profile,
        top_n=top_n,
        min_prob=min_prob,
        **flags,
    ),
    st.lists(st.sampled_from(PROMPTS), min_size=1, max_size=9).filter(
        lambda prompts: any(prompt != PROMPTS[-1] for prompt in prompts)
    ),
    st.sampled_from(("even", "added", "multiplied")),
    st.fixed_dictionaries({name: st.booleans() for name in FLAGS}),
    st.integers(0, 70),
    st.sampled_from((0.0, 0.01, 0.9)),
)


class Together:
    """An engine that is kept busy by one call, so that those that follow wait together."""

    def __init__(self, snapshot, **limits):
        self.slow = SlowPredictor(Datastore.open(snapshot, check="sizes"))
        self.engine = Engine.of(OpenSnapshot(self.slow, Limits(**limits)))
        self.threads = []

    def __enter__(self):
        self.start(pb.PredictRequest(prompts=[pb.Prompt(text="the people")]))
        assert self.slow.running.wait(WAIT_S)
        return self

    def __exit__(self, *_):
        self.answer()
        self.engine.close()

    def start(self, request, call=None):
        outcome = {}

        def run():
            try:
                outcome["response"] = self.engine.predict(request, call)
            except Exception as error:
                outcome["error"] = error

        thread = threading.Thread(target=run)
        thread.start()
        self.threads.append(thread)
        return outcome

    def ask(self, request, call=None):
        """Let a call wait; its outcome has a response or an error once there is one."""
        waiting = self.engine.batcher.waiting_calls
        outcome = self.start(request, call)
        deadline = time.monotonic() + WAIT_S
        while self.engine.batcher.waiting_calls == waiting and not outcome:
            assert time.monotonic() < deadline
            time.sleep(0.0005)
        return outcome

    def answer(self):
        self.slow.release.set()
        for thread in self.threads:
            thread.join(WAIT_S)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(requests=st.lists(REQUESTS, min_size=2, max_size=8), batch=st.sampled_from([1, 4, 256]))
def test_an_answer_does_not_depend_on_its_company(calibrated_snapshot, calibrated_engine, requests, batch):
    with Together(calibrated_snapshot, batch_prompts_max=batch, piece_prompts_max=2) as together:
        outcomes = [together.ask(request) for request in requests]
        together.answer()
    for request, outcome in zip(requests, outcomes, strict=True):
        alone = calibrated_engine.predict(request)
        assert outcome["response"].results == alone.results
        assert outcome["response"].profile_kind == alone.profile_kind
        assert outcome["response"].batch_prompts <= batch


def test_calls_with_the_same_thresholds_share_a_batch(tiny_snapshot):
    request = pb.PredictRequest(prompts=[pb.Prompt(text="the people")] * 3)
    with Together(tiny_snapshot) as together:
        outcomes = [together.ask(request) for _ in range(4)]
        together.answer()
        assert together.slow.calls == 2
    assert [outcome["response"].batch_prompts for outcome in outcomes] == [12] * 4


def test_a_caller_that_leaves_is_not_searched_for_and_the_others_are(tiny_snapshot):
    request = pb.PredictRequest(prompts=[pb.Prompt(text="the people")])
    with Together(tiny_snapshot) as together:
        call = Call()
        gone, stays = together.ask(request, call), together.ask(request)
        call.cancel()
        together.answer()
    assert isinstance(gone["error"], CancelledError)
    assert stays["response"].batch_prompts == 1


def test_a_caller_whose_time_is_up_hears_at_once_while_others_are_searched_for(tiny_snapshot):
    request = pb.PredictRequest(prompts=[pb.Prompt(text="the people")])
    with Together(tiny_snapshot) as together:
        started = time.monotonic()
        late = together.ask(request, Call(0.2))
        together.threads[-1].join(WAIT_S)
        assert time.monotonic() - started < 5
        assert late["error"].reason == "DEADLINE_EXCEEDED"
        assert not together.slow.stopped.is_set()


def test_a_batch_that_fails_fails_its_members_alone(tiny_snapshot, monkeypatch):
    request = pb.PredictRequest(prompts=[pb.Prompt(text="the people")])
    other = pb.PredictRequest(prompts=[pb.Prompt(text="the people")], exclude_self=True)
    with Together(tiny_snapshot) as together:
        members, apart = [together.ask(other) for _ in range(2)], together.ask(request)
        search = together.slow.search

        def fail(*arguments, exclude_self, **options):
            if exclude_self:
                raise ValueError("broken")
            return search(*arguments, exclude_self=exclude_self, **options)

        monkeypatch.setattr(together.slow, "search", fail)
        together.answer()
        assert together.engine.predict(request).results
    assert [str(outcome["error"]) for outcome in members] == ["broken"] * 2
    assert apart["response"].results


def test_more_prompts_than_may_wait_are_refused(tiny_snapshot):
    request = pb.PredictRequest(prompts=[pb.Prompt(text="the people")] * 3)
    with Together(tiny_snapshot, prompts_max=4, queue_prompts_max=5) as together:
        first, second = together.ask(request), together.ask(request)
        assert isinstance(second["error"], OverloadedError)
        assert second["error"].metadata == {"queue_prompts_max": "5"}
        together.answer()
        assert first["response"].results
        assert together.engine.predict(request).results


def test_a_refusal_tells_when_to_come_back(slow, slow_engine):
    request = pb.PredictRequest(prompts=[pb.Prompt(text="the people")])
    with serving(slow_engine) as address, grpc.insecure_channel(address) as channel:
        stub = pb_grpc.PredictionServiceStub(channel)
        calls = [stub.Predict.future(request) for _ in range(2)]
        assert slow.running.wait(WAIT_S)
        while slow_engine.batcher.calls < 2:
            time.sleep(0.001)
        with pytest.raises(grpc.RpcError) as caught:
            stub.Predict(request, timeout=WAIT_S)
        slow.release.set()
        assert all(call.result(WAIT_S).results for call in calls)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    retry, info = error_details_pb2.RetryInfo(), error_details_pb2.ErrorInfo()
    for detail in rpc_status.from_call(caught.value).details:
        detail.Unpack(retry)
        detail.Unpack(info)
    assert retry.retry_delay.ToTimedelta().total_seconds() > 0
    assert (info.reason, dict(info.metadata)) == ("OVERLOADED", {"calls_max": "2"})


def test_what_is_no_request_is_refused(address):
    with grpc.insecure_channel(address) as channel:
        for data in (b"\xff\xff\xff", b"\x0a\xff" * 2000):
            with pytest.raises(grpc.RpcError) as caught:
                channel.unary_unary("/ffnsearch.v1.PredictionService/Predict")(data, timeout=WAIT_S)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_snapshot_that_is_not_there_is_refused(engine):
    for name in ("", "default"):
        assert engine.get_info(pb.GetInfoRequest(snapshot=name)).snapshot.substrings
    with pytest.raises(AbsentError) as caught:
        engine.predict(pb.PredictRequest(prompts=[pb.Prompt(text="no")], snapshot="other"))
    assert caught.value.reason == "SNAPSHOT_NOT_FOUND"


def test_a_snapshot_closes_when_nobody_uses_it_any_more(tiny_snapshot):
    snapshot = OpenSnapshot.open(tiny_snapshot, check="sizes")
    closing = threading.Thread(target=snapshot.close)
    with snapshot.use():
        closing.start()
        closing.join(0.05)
        assert closing.is_alive()
        assert snapshot.datastore.find(snapshot.datastore.substring(3)) == 3
    closing.join(WAIT_S)
    assert not closing.is_alive()
    with pytest.raises(CancelledError), snapshot.use():
        pass


@pytest.mark.parametrize("ending", ["answered", "failed", "over before it ran"])
def test_an_engine_that_waits_keeps_nothing_of_a_snapshot_that_was_unloaded(tiny_snapshot, monkeypatch, ending):
    request = pb.PredictRequest(prompts=[pb.Prompt(text="the people")])
    held = [OpenSnapshot.open(tiny_snapshot, check="sizes")]
    gone = weakref.ref(held[0])
    with Engine(lambda name: nullcontext(held[0])) as engine:
        call = Call()
        if ending == "failed":
            monkeypatch.setattr(held[0].predictor, "search", None)
        elif ending == "over before it ran":
            call.cancel()
        with suppress(TypeError, CancelledError):
            engine.predict(request, call)
        held.pop().close()
        deadline = time.monotonic() + WAIT_S
        while gone() is not None:
            assert time.monotonic() < deadline
            gc.collect()  # an error and its traceback go round in a circle


def test_observers_hear_of_every_batch_and_cannot_break_it(tiny_snapshot, caplog):
    heard = []

    def broken(batch, parts):
        raise ValueError("observer")

    with Engine.open(tiny_snapshot, check="sizes") as engine:
        engine.observe(broken)
        engine.observe(lambda batch, parts: heard.append((batch.prompts, parts[0].times.prompts)))
        request = pb.PredictRequest(prompts=[pb.Prompt(text="the people")] * 2)
        for _ in range(2):
            assert engine.predict(request).results
    assert heard == [(2, 2)] * 2
    assert "observer" in caplog.text


def test_a_warm_up_asks_nothing_of_the_queue(tiny_snapshot):
    with Engine.open(tiny_snapshot, check="sizes") as engine:
        opened(engine).warm_up()
        assert engine.batcher.calls == 0
