"""What waits is counted as it comes and goes, the same as if it were counted anew."""

from hypothesis import given
from hypothesis import strategies as st

from ffnsearch_service.answering.backlog import Backlog, Load

BATCH_PROMPTS_MAX = {"a": 10, "b": 10, "c": 3}
WORKS = st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 40)), max_size=20)


def counted(works):
    backlog = Backlog(piece_prompts_max=4)
    for key, prompts in works:
        backlog.add(key, prompts, BATCH_PROMPTS_MAX[key])
    return backlog


@given(stay=WORKS, go=WORKS)
def test_what_went_leaves_no_trace(stay, go):
    backlog = counted([*go, *stay])
    for key, prompts in go:
        backlog.remove(key, prompts)
    assert backlog.load == counted(stay).load


def test_batches_are_counted_for_each_key():
    assert counted([]).load == Load(0, 0, 0, 0)
    assert counted([("a", 1), ("b", 1), ("c", 1)]).load == Load(3, 3, 3, 3)
    assert counted([("a", 4), ("a", 4), ("a", 4)]).load == Load(12, 2, 12, 2)
    assert counted([("a", 25)]).load == Load(25, 3, 10, 1)
    assert counted([("c", 25)]).load == Load(25, 9, 6, 2)


@given(works=WORKS, key=st.sampled_from("abcd"), prompts=st.integers(1, 40), last_prompts=st.integers(0, 10))
def test_new_work_waits_for_itself_and_for_no_more_than_all_that_waits(works, key, prompts, last_prompts):
    batch_prompts_max = BATCH_PROMPTS_MAX.get(key, 10)
    until_prompts, until_batches = counted(works).until(key, prompts, batch_prompts_max, last_prompts)
    load = counted(works).load
    assert prompts <= until_prompts <= prompts + load.prompts + last_prompts
    assert -(-prompts // batch_prompts_max) <= until_batches <= -(-prompts // batch_prompts_max) + load.batches
