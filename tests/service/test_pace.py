"""The time of a batch is learnt, whatever sizes batches have had."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ffnsearch_service.answering.pace import Pace

BATCHES = st.lists(st.tuples(st.integers(1, 256), st.integers(1, 10**10)), min_size=1, max_size=30)


def measured(batches):
    pace = Pace()
    for prompts, ns in batches:
        pace.measure(prompts, ns)
    return pace


def test_nothing_is_known_before_the_first_batch():
    pace = Pace()
    assert not pace.is_measured
    assert pace.ns(100, 1) == 0


@given(st.lists(st.integers(1, 256), min_size=2, max_size=30).filter(lambda sizes: len(set(sizes)) > 1))
def test_the_parts_for_a_batch_and_for_a_prompt_are_told_apart(sizes):
    pace = measured((prompts, 5e6 + 2e6 * prompts) for prompts in sizes)
    assert pace.ns(3 * min(sizes), 3) == pytest.approx(3 * (5e6 + min(sizes) * 2e6), rel=1e-3)
    assert pace.ns(4 * min(sizes), 6) == pytest.approx(6 * 5e6 + 4 * min(sizes) * 2e6, rel=1e-3)


def test_batches_of_one_size_say_nothing_of_larger_ones():
    pace = measured([(8, 4e6)] * 20)
    assert pace.ns(8, 1) == pytest.approx(4e6)
    assert pace.ns(64, 1) == pytest.approx(4e6)
    assert pace.ns(64, 8) == pytest.approx(8 * 4e6)


def test_small_batches_say_nothing_of_much_larger_ones():
    pace = measured([(1, 5e6)] * 20 + [(2, 10e6)] + [(1, 5e6)] * 20)
    assert pace.ns(1024, 4) == pytest.approx(4 * 10e6)


def test_a_large_batch_is_remembered_for_a_while():
    of_large = [(256, 60e6), *[(1, 5e6), (2, 5.25e6)] * 20]
    assert measured(of_large).ns(1024, 4) == pytest.approx(4 * 60e6, rel=0.2)
    noise = [(1, 4e6), (2, 8e6)] * 5000
    assert measured([*of_large, *noise]).ns(1024, 4) == pytest.approx(4 * 8e6, rel=0.1)


def test_a_slow_batch_of_another_size_is_soon_forgotten():
    pace = measured([(1, 600e6), *[(256, 60e6)] * 40])
    assert pace.ns(1024, 4) == pytest.approx(4 * 60e6, rel=0.01)


def test_the_last_batches_count():
    pace = measured([(1, 1e6), (9, 9e6)] * 20 + [(1, 3e6), (9, 27e6)] * 20)
    assert pace.ns(9, 1) == pytest.approx(27e6, rel=0.1)


@given(BATCHES, st.integers(1, 5000), st.integers(1, 50))
def test_more_never_takes_less(batches, prompts, count):
    pace = measured(batches)
    expected_ns = pace.ns(prompts, count)
    assert expected_ns > 0
    assert pace.ns(prompts + 1, count) >= expected_ns * (1 - 1e-9)
    assert pace.ns(prompts, count + 1) >= expected_ns * (1 - 1e-6)
