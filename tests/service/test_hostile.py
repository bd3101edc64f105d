"""Whatever is sent to a real server, it answers with documented codes, tells nothing, keeps nothing, and stays right.

`benchmarks/hostile.py` sends the same in hundreds of thousands.
"""

import asyncio

import pytest
from hostile_calls import MARK, hostile_call
from hostile_round import Tally, ask, check_log, documented, hostile_round, tidy, valid_answers
from hostile_server import make_site, served
from serving import get

SEED = 1
CALLS, ATTACKS = 500, 40


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """What is served, by one server after the other."""
    root = tmp_path_factory.mktemp("site")
    make_site(root)
    return root


@pytest.mark.parametrize("protected", [False, True], ids=["open", "with TLS and tokens"])
def test_hostile_input_changes_nothing(site, protected):
    right = valid_answers(site / "snapshots" / "tiny.ffn")
    tally, first = Tally(), CALLS * protected
    with served(site, protected=protected) as server:
        hostile_round(server, tally, SEED, range(first, first + CALLS), range(first, first + ATTACKS))
        asyncio.run(tidy(server))
        server.calm()
        assert asyncio.run(ask(server)) == right
        assert set(server.calls_by_code()) <= set(documented()) - {"INTERNAL"}
        assert MARK not in get(server.metrics, "/metrics")[1]  # labels are ours: a caller could make any number
    tally.require_none()
    assert tally.calls == CALLS
    assert tally.attacks.total() == ATTACKS
    check_log(server)


def test_a_call_is_the_same_every_time():
    assert [hostile_call(SEED, number) for number in range(100)] == [
        hostile_call(SEED, number) for number in range(100)
    ]
