"""The queue loses no work, ends none twice, batches within its limits, refuses exactly when full, and is fair."""

import threading
from collections import deque
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ffnsearch_indexer.errors import CancelledError
from ffnsearch_service.answering.batcher import RETRY_MIN_S, RETRY_UNMEASURED_S, WAIT_SHARE_MAX, Batcher, Work
from ffnsearch_service.answering.call import Call
from ffnsearch_service.config import Limits
from ffnsearch_service.errors import OverloadedError, ShuttingDownError

LIMITS = Limits(
    calls_max=6, prompts_max=30, queue_prompts_max=40, batch_prompts_max=8, batch_tokens_max=20, piece_prompts_max=3
)
TOKENS = st.lists(st.integers(1, 9), min_size=1, max_size=30)


class Patience(Call):
    """A call whose deadline passes when a test says so, however much time it says to have."""

    remaining_s = None

    def __init__(self, remaining_s=None):
        super().__init__()
        self.is_late = False
        self.remaining_s = remaining_s

    def over(self):
        return CancelledError("late", reason="DEADLINE_EXCEEDED") if self.is_late else super().over()


def unused(batch):
    raise AssertionError("these tests run no work")


class Asked:
    """A caller's side of some work, as a test sees it."""

    def __init__(self, name, tokens, key, batch_prompts_max, remaining_s=None):
        self.name = name
        self.work = Work(Patience(remaining_s), tokens, unused, key=key, batch_prompts_max=batch_prompts_max)
        self.ended = 0
        self.ran = []
        self.ahead = 0
        self.batches = 0

    def end(self):
        self.ended += 1


class Machine(RuleBasedStateMachine):
    """Callers and an engine in any order of steps, beside a model of what has to be true."""

    @initialize()
    def begin(self):
        self.now_ns = 0
        self.batcher = Batcher(LIMITS, clock=lambda: self.now_ns)
        self.places = 0
        self.asked = []
        self.waiting = deque()
        self.batch = None
        self.members = []
        self.is_closed = False
        self.has_measured = False

    def asked_for(self, piece):
        return next(asked for asked in self.asked if asked.work is piece.work)

    def left(self, asked):
        return len(asked.work.prompt_tokens) - len(asked.ran)

    @rule(ns=st.integers(1, 1000))
    def time_passes(self, ns):
        self.now_ns += ns

    @rule()
    def a_call_enters(self):
        if self.is_closed:
            with pytest.raises(ShuttingDownError):
                self.batcher.enter()
        elif self.places == LIMITS.calls_max:
            with pytest.raises(OverloadedError) as caught:
                self.batcher.enter()
            assert caught.value.retry_after_s >= RETRY_MIN_S
        else:
            self.batcher.enter()
            self.places += 1

    @precondition(lambda self: self.places)
    @rule()
    def a_call_leaves(self):
        self.batcher.leave()
        self.places -= 1

    @rule(
        tokens=TOKENS,
        key=st.sampled_from(["a", "b"]) | st.builds(object),
        most=st.sampled_from([2, 1000]),
        remaining_s=st.sampled_from([None, 0.0, 1e9]),
    )
    def work_comes(self, tokens, key, most, remaining_s):
        asked = Asked(len(self.asked), tokens, key, most, remaining_s)
        is_busy = bool(self.waiting or self.batch)
        waiting = sum(map(self.left, self.waiting))
        if self.is_closed:
            with pytest.raises(ShuttingDownError):
                self.batcher.submit(asked.work, asked.end)
        elif waiting + len(tokens) > LIMITS.queue_prompts_max or (
            remaining_s == 0 and is_busy and self.has_measured  # no time left at all, and some is needed
        ):
            with pytest.raises(OverloadedError):
                self.batcher.submit(asked.work, asked.end)
        else:
            self.batcher.submit(asked.work, asked.end)
            asked.ahead = len(self.waiting)
            self.asked.append(asked)
            self.waiting.append(asked)

    @precondition(lambda self: any(not asked.ended for asked in self.asked))
    @rule(data=st.data(), how=st.sampled_from(["late", "gone", "dropped"]))
    def a_caller_leaves(self, data, how):
        asked = data.draw(st.sampled_from([asked for asked in self.asked if not asked.ended]))
        if how == "late":
            asked.work.call.is_late = True
        elif how == "gone":
            asked.work.call.cancel()
        else:
            asked.work.call.cancel()
            self.batcher.drop(asked.work)
            assert asked.ended == 1
            self.batcher.drop(asked.work)
            if asked in self.waiting:
                self.waiting.remove(asked)

    @precondition(lambda self: self.batch is None)
    @rule()
    def the_engine_is_free(self):
        over = [asked for asked in self.waiting if asked.work.call.over()]
        self.batch = self.batcher.take(wait=False)
        for asked in over:
            self.waiting.remove(asked)
            assert (asked.ended, type(asked.work.error)) == (1, CancelledError)
        if self.batch is None:
            assert not self.waiting
            return
        self.members = [self.asked_for(piece) for piece in self.batch.pieces]
        self.check_limits()
        self.check_order()
        for piece, asked in zip(self.batch.pieces, self.members, strict=True):
            assert piece.first == len(asked.ran)
            asked.ran.extend(range(piece.first, piece.stop))
            self.waiting.remove(asked)
        for asked in self.waiting:
            asked.batches += 1
            assert asked.ran or asked.batches <= asked.ahead, "it waits for more batches than there was work before it"
        self.waiting.extend(asked for asked in self.members if self.left(asked))

    def check_limits(self):
        pieces = self.batch.pieces
        head = pieces[0].work
        assert len({id(piece.work) for piece in pieces}) == len(pieces)
        assert {piece.work.key for piece in pieces} == {head.key}
        assert self.batch.prompts == sum(piece.prompts for piece in pieces)
        assert not any(asked.work.call.over() for asked in self.members)
        assert 1 <= self.batch.prompts <= min(LIMITS.batch_prompts_max, head.batch_prompts_max)
        tokens = sum(sum(piece.work.prompt_tokens[piece.first : piece.stop]) for piece in pieces)
        assert tokens <= LIMITS.batch_tokens_max or self.batch.prompts == 1

    def check_order(self):
        """The first is served, members keep the order, and none gets much while one behind it gets nothing."""
        alike = [asked for asked in self.waiting if asked.work.key == self.waiting[0].work.key]
        assert self.members == [asked for asked in alike if asked in self.members]
        assert self.members[0] is self.waiting[0]
        if len(self.members) < len(alike):
            first_out = next(asked for asked in alike if asked not in self.members)
            before = alike.index(first_out)
            full = self.batch.prompts == min(LIMITS.batch_prompts_max, self.members[0].work.batch_prompts_max)
            tokens = sum(sum(piece.work.prompt_tokens[piece.first : piece.stop]) for piece in self.batch.pieces)
            next_tokens = first_out.work.prompt_tokens[len(first_out.ran)]
            assert full or tokens + next_tokens > LIMITS.batch_tokens_max
            assert all(
                piece.prompts <= LIMITS.piece_prompts_max
                for piece in self.batch.pieces[:before]
                if full and tokens + next_tokens <= LIMITS.batch_tokens_max
            )

    @precondition(lambda self: self.batch is not None)
    @rule(works=st.booleans(), ns=st.integers(1, 1000))
    def the_batch_ends(self, works, ns):
        self.now_ns += ns
        self.has_measured = True
        error = ValueError("broken")
        alive = [asked for asked in self.members if not asked.ended]
        if works:
            self.batcher.complete(self.batch, [(piece.first, piece.stop) for piece in self.batch.pieces])
        else:
            self.batcher.fail(self.batch, error)
        for asked in alive:
            assert asked.ended == (not works or not self.left(asked))
            if works and asked.ended:
                assert asked.work.error is None
                covered = [row for first, stop in asked.work.parts for row in range(first, stop)]
                assert covered == list(range(len(asked.work.prompt_tokens)))
            elif asked.ended:
                assert asked.work.error is error or asked.work.call.over()
                if asked in self.waiting:
                    self.waiting.remove(asked)
        self.batch, self.members = None, []

    @precondition(lambda self: self.batch is not None)
    @rule()
    def the_search_asks_whether_to_go_on(self):
        if all(asked.work.call.over() for asked in self.members):
            with pytest.raises(CancelledError):
                self.batch.check()
        else:
            self.batch.check()

    @precondition(lambda self: len(self.asked) > 8)
    @rule()
    def the_end(self):
        self.batcher.close()
        self.is_closed = True
        for asked in self.waiting:
            assert asked.ended == 1
            assert isinstance(asked.work.error, ShuttingDownError)
        self.waiting.clear()
        if self.batch is None:
            assert self.batcher.take() is None

    @invariant()
    def counts_are_right(self):
        assert self.batcher.calls == self.places
        assert self.batcher.waiting_calls == len(self.waiting)
        assert self.batcher.waiting_prompts == sum(map(self.left, self.waiting))
        assert all(asked.ended <= 1 for asked in self.asked)
        known = {id(asked) for asked in [*self.waiting, *self.members]}
        assert all(asked.ended or id(asked) in known for asked in self.asked), "some work is lost"


Machine.TestCase.settings = settings(max_examples=150, stateful_step_count=40)
TestAnyOrderOfSteps = Machine.TestCase


def submitted(batcher, prompts, key="a", remaining_s=None):
    asked = Asked(0, [1] * prompts, key, 1 << 31, remaining_s)
    batcher.submit(asked.work, asked.end)
    return asked


def run_all(batcher):
    """Run batches until none waits; yields the pieces of each as (work, prompts)."""
    while (batch := batcher.take(wait=False)) is not None:
        yield {piece.work: piece.prompts for piece in batch.pieces}
        batcher.complete(batch, [None] * len(batch.pieces))


def test_a_huge_call_does_not_hold_up_small_ones():
    batcher = Batcher(Limits(batch_prompts_max=256, piece_prompts_max=64))
    huge, small = submitted(batcher, 1000), [submitted(batcher, 1) for _ in range(10)]
    sizes = [pieces.get(huge.work) for pieces in run_all(batcher)]
    assert sizes == [246, 256, 256, 242]
    assert all(asked.ended == 1 for asked in [huge, *small])
    assert len(huge.work.parts) == 4


def test_calls_of_another_kind_come_between_the_pieces_of_a_huge_one():
    batcher = Batcher(Limits(batch_prompts_max=256))
    huge, other, another = submitted(batcher, 1000), submitted(batcher, 1, "b"), submitted(batcher, 1, "c")
    order = [next(iter(pieces)) for pieces in run_all(batcher)]
    assert order[:4] == [huge.work, other.work, another.work, huge.work]


def test_work_without_a_key_shares_no_batch():
    batcher = Batcher(Limits())
    works = [Work(Patience(), [1], unused) for _ in range(2)]
    for work in works:
        batcher.submit(work, lambda: None)
    assert list(run_all(batcher)) == [{work: 1} for work in works]


def test_calls_that_fit_are_not_cut():
    batcher = Batcher(Limits(batch_prompts_max=256, piece_prompts_max=64))
    calls = [submitted(batcher, 64) for _ in range(6)]
    first, second = run_all(batcher)
    assert first == {asked.work: 64 for asked in calls[:4]}
    assert second == {asked.work: 64 for asked in calls[4:]}


def test_a_caller_that_leaves_does_not_stop_the_others():
    batcher = Batcher(Limits())
    one, other = submitted(batcher, 1), submitted(batcher, 1)
    batch = batcher.take()
    one.work.call.cancel()
    batch.check()
    other.work.call.cancel()
    with pytest.raises(CancelledError):
        batch.check()


def test_threads_that_look_at_once_do_not_pass_over_a_caller_that_waits():
    batcher = Batcher(Limits())
    gone, _ = submitted(batcher, 1), submitted(batcher, 1)
    batch = batcher.take()
    gone.work.call.cancel()
    is_over = gone.work.call.over

    def over():
        gone.work.call.over = is_over
        batch.check()  # another thread, between this one's look and its next step
        return is_over()

    gone.work.call.over = over
    batch.check()


def test_what_is_cancelled_while_it_waits_never_runs():
    batcher = Batcher(Limits())
    asked = submitted(batcher, 1)
    asked.work.call.cancel()
    assert batcher.take(wait=False) is None
    assert asked.ended == 1


def test_work_knows_how_long_it_waited():
    now_ns = 0
    batcher = Batcher(Limits(batch_prompts_max=1), clock=lambda: now_ns)
    asked = submitted(batcher, 2)
    now_ns = 5
    batch = batcher.take()
    now_ns = 50
    batcher.complete(batch, [None])
    now_ns = 57
    batcher.complete(batcher.take(), [None])
    assert asked.work.waited_ns == 5 + 7


def test_the_hint_to_come_back_is_what_the_queue_will_take():
    now_ns = 0
    batcher = Batcher(Limits(prompts_max=8, queue_prompts_max=8), clock=lambda: now_ns)
    submitted(batcher, 8)
    with pytest.raises(OverloadedError) as caught:
        submitted(batcher, 1)
    assert caught.value.retry_after_s == RETRY_UNMEASURED_S
    batch = batcher.take()
    now_ns = 4 * 10**9  # two prompts a second
    batcher.complete(batch, [None])
    submitted(batcher, 6)
    batcher.take()
    submitted(batcher, 8)
    now_ns += 10**9
    with pytest.raises(OverloadedError) as caught:
        submitted(batcher, 1)
    assert caught.value.retry_after_s == pytest.approx(4 + 4 - 1), "one batch runs and one waits, of 4 s each so far"


SECOND_NS = 10**9


class Clocked:
    """A batcher whose batches take one second, and a tenth more for each prompt. All but the first were small."""

    def __init__(self, **limits):
        self.now_ns = 0
        self.batcher = Batcher(Limits(**limits), clock=lambda: self.now_ns)
        largest = min(limits["batch_prompts_max"], limits.get("queue_prompts_max", 1024))
        for prompts in (largest, *(1,) * 40):
            self.run(submitted(self.batcher, prompts))

    def run(self, asked):
        batch = self.batcher.take(wait=False)
        assert asked.work in [piece.work for piece in batch.pieces]
        self.now_ns += SECOND_NS + batch.prompts * SECOND_NS // 10
        self.batcher.complete(batch, [None] * len(batch.pieces))


def is_taken(batcher, prompts, remaining_s, key="a"):
    """Whether work is taken whose caller waits so long; it is not left in the queue."""
    try:
        asked = submitted(batcher, prompts, key, remaining_s)
    except OverloadedError:
        return False
    batcher.drop(asked.work)
    return True


def least_time_s(batcher, prompts, key="a"):
    """The shortest of the tried deadlines with which work is taken."""
    return next(tenths / 10 for tenths in range(1000) if is_taken(batcher, prompts, tenths / 10 + 1e-6, key))


def test_work_that_would_end_too_late_is_refused_at_the_door():
    clocked = Clocked(batch_prompts_max=10)
    batcher = clocked.batcher
    assert is_taken(batcher, 10, 0.1), "a free engine tries whatever comes"
    submitted(batcher, 10)
    batcher.take(wait=False)
    assert least_time_s(batcher, 1) == pytest.approx((2 + 1.1) / WAIT_SHARE_MAX, abs=0.1), "what runs, and its own"
    clocked.now_ns += SECOND_NS
    assert least_time_s(batcher, 1) == pytest.approx((1 + 1.1) / WAIT_SHARE_MAX, abs=0.1), "a second has passed"
    submitted(batcher, 9)
    assert least_time_s(batcher, 1) == pytest.approx((1 + 2) / WAIT_SHARE_MAX, abs=0.1), "it shares the next batch"
    assert least_time_s(batcher, 2) == pytest.approx((1 + 3.1) / WAIT_SHARE_MAX, abs=0.1), "one too many for it"
    assert is_taken(batcher, 2, None), "without a deadline there is no too late"
    clocked.now_ns += 3 * SECOND_NS
    assert least_time_s(batcher, 1) == pytest.approx(2 * 2 / WAIT_SHARE_MAX, abs=0.1), "all takes twice as long now"


def test_what_comes_later_is_expected_to_make_a_batch_as_large_as_the_last_ones():
    clocked = Clocked(batch_prompts_max=10)
    batcher = clocked.batcher
    for _ in range(30):
        clocked.run(submitted(batcher, 8))
    submitted(batcher, 1)
    assert least_time_s(batcher, 1) == pytest.approx(1.8 / WAIT_SHARE_MAX, abs=0.1), "with 6 more that may come"
    submitted(batcher, 8)
    assert least_time_s(batcher, 1) == pytest.approx(2 / WAIT_SHARE_MAX, abs=0.1), "the batch is full now"
    assert least_time_s(batcher, 2) == pytest.approx((2 + 1.8) / WAIT_SHARE_MAX, abs=0.1), "one more is as usual"


def test_nothing_is_expected_to_share_the_batch_of_work_without_a_key():
    clocked = Clocked(batch_prompts_max=10)
    batcher = clocked.batcher
    for _ in range(30):
        clocked.run(submitted(batcher, 8))
    submitted(batcher, 8)
    clocked.batcher.take(wait=False)
    works = [Work(Patience((1.8 + 1.1) / WAIT_SHARE_MAX + off), [1], unused) for off in (0.1, -0.1)]
    batcher.submit(works[0], lambda: None)
    batcher.drop(works[0])
    with pytest.raises(OverloadedError):
        batcher.submit(works[1], lambda: None)


def test_what_has_another_key_is_a_batch_more_to_wait_for():
    clocked = Clocked(batch_prompts_max=10)
    batcher = clocked.batcher
    for key in "bcd":
        submitted(batcher, 1, key)
    assert least_time_s(batcher, 1, "a") == pytest.approx(4 * 1.1 / WAIT_SHARE_MAX, abs=0.1)
    assert least_time_s(batcher, 1, "c") == pytest.approx((3 + 0.4) / WAIT_SHARE_MAX, abs=0.1), "it shares one"
    assert least_time_s(batcher, 11, "c") == pytest.approx((4 + 1.4) / WAIT_SHARE_MAX, abs=0.1), "one too many for it"


def test_a_huge_call_of_another_key_fills_the_batch_before():
    clocked = Clocked(batch_prompts_max=10, piece_prompts_max=4)
    batcher = clocked.batcher
    submitted(batcher, 1000, "b")
    assert least_time_s(batcher, 1) == pytest.approx((2 + 1.1) / WAIT_SHARE_MAX, abs=0.1)
    assert least_time_s(batcher, 5) == pytest.approx((3 + 2.5) / WAIT_SHARE_MAX, abs=0.1), "twice, for two pieces"


def test_a_key_with_small_batches_takes_more_of_them():
    batcher = Clocked(batch_prompts_max=10).batcher
    batcher.submit(Asked(0, [1] * 6, "b", 2).work, lambda: None)
    assert least_time_s(batcher, 1) == pytest.approx((4 + 0.7) / WAIT_SHARE_MAX, abs=0.1)


def test_the_hint_to_come_back_counts_a_batch_for_each_key():
    clocked = Clocked(batch_prompts_max=10, prompts_max=8, queue_prompts_max=8)
    for key in "abcdefgh":
        submitted(clocked.batcher, 1, key)
    with pytest.raises(OverloadedError) as caught:
        submitted(clocked.batcher, 1)
    assert caught.value.retry_after_s == pytest.approx(8 * 1.1)


@given(
    calls=st.lists(
        st.tuples(st.integers(1, 4), st.sampled_from([None, *"abcdef"]), st.integers(1, 40)), min_size=1, max_size=40
    )
)
def test_who_is_taken_in_is_answered_as_soon_as_was_expected(calls):
    """Whatever the keys. A batch takes a second here, so that nobody is held up by prompts that come later."""
    clocked = Clocked(batch_prompts_max=10, piece_prompts_max=4)
    latest_s = {submitted(clocked.batcher, 1).work: 100.0}  # a free engine takes whatever comes
    for prompts, key, remaining_s in calls:
        with suppress(OverloadedError):
            latest_s[submitted(clocked.batcher, prompts, key, remaining_s).work] = remaining_s * WAIT_SHARE_MAX
    for done_s, pieces in enumerate(run_all(clocked.batcher), start=1):
        assert all(work.left or done_s <= latest_s[work] for work in pieces)


def test_a_small_call_does_not_count_all_prompts_of_a_huge_one_before_it():
    clocked = Clocked(batch_prompts_max=10, piece_prompts_max=4)
    batcher = clocked.batcher
    submitted(batcher, 1000)
    assert least_time_s(batcher, 4) == pytest.approx((1 + 0.8) / WAIT_SHARE_MAX, abs=0.1), "its first piece"
    assert least_time_s(batcher, 8) == pytest.approx((2 + 1.6) / WAIT_SHARE_MAX, abs=0.1), "its first two"


def test_batches_that_are_cut_short_teach_that_they_take_long():
    clocked = Clocked(batch_prompts_max=10)
    batcher = clocked.batcher
    for _ in range(30):
        submitted(batcher, 1)
        clocked.now_ns += 5 * SECOND_NS  # in the queue
        batch = batcher.take(wait=False)
        clocked.now_ns += 8 * SECOND_NS
        batcher.fail(batch, CancelledError("late"))
    submitted(batcher, 1)
    assert not is_taken(batcher, 1, 8)
    batcher.fail(batcher.take(wait=False), ValueError("broken at once"))
    submitted(batcher, 1)
    assert not is_taken(batcher, 1, 8), "an error takes no time, and teaches nothing"


def test_a_thread_that_waits_for_work_is_woken_by_it_and_by_the_end():
    batcher = Batcher(Limits())
    taken = []

    def engine():
        while (batch := batcher.take()) is not None:
            taken.append(batch.prompts)
            batcher.complete(batch, [None] * len(batch.pieces))

    thread = threading.Thread(target=engine)
    thread.start()
    done = threading.Event()
    batcher.submit(Asked(0, [1, 1, 1], "a", 9).work, done.set)
    assert done.wait(10)
    batcher.close()
    thread.join(10)
    assert not thread.is_alive()
    assert taken == [3]


def test_a_batch_that_is_cut_short_leaves_no_rest_of_its_work():
    batcher = Batcher(Limits(batch_prompts_max=4))
    asked = submitted(batcher, 9)
    batcher.fail(batcher.take(), ValueError("broken"))
    assert asked.ended == 1
    assert (batcher.take(wait=False), batcher.waiting_prompts) == (None, 0)


def test_a_batch_larger_than_any_before_does_not_make_the_others_look_slow():
    clocked = Clocked(batch_prompts_max=1000)
    batcher = Batcher(Limits(batch_prompts_max=1000), clock=lambda: clocked.now_ns)
    clocked.batcher = batcher
    for _ in range(40):
        clocked.run(submitted(batcher, 1))
    submitted(batcher, 1000)
    batcher.take(wait=False)
    clocked.now_ns += 50 * SECOND_NS
    assert least_time_s(batcher, 1) == pytest.approx(1.1 / WAIT_SHARE_MAX, abs=0.1)
