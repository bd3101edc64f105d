"""200 moves of an alias under load: no call fails, and each answer is whole and of one snapshot."""

import threading
from concurrent.futures import ThreadPoolExecutor

from processes import content, request, stub_of
from serving import WAIT_S

from ffnsearch_service.client.admin import AdminClient

MOVES = 200
SIZES = (4, 4, 4, 70)  # prompts of each caller's calls: 70 are more than the batcher takes of a call at a time


def test_200_alias_moves_under_load(servers, tiny_snapshot, other_snapshot, tmp_path):
    arguments = (f"one={tiny_snapshot}", f"two={other_snapshot}")
    settings = ("--set", "admin.enabled=true", "--set", f"server.state_folder={tmp_path}")
    ended = threading.Event()
    with servers.serving(*arguments, *settings) as server, stub_of(server.address) as stub:
        right = {
            (name, size): content(stub.Predict(request(name, size), timeout=WAIT_S))
            for name in ("one", "two")
            for size in set(SIZES)
        }
        assert len(set(right.values())) == 4

        def call_on(number):
            """Call without a pause; how many answers came of each snapshot."""
            size, alias = SIZES[number], ("", "default")[number % 2]
            seen = dict.fromkeys((right["one", size], right["two", size]), 0)
            with stub_of(server.address) as stub:
                while not ended.is_set():
                    seen[content(stub.Predict(request(alias, size), timeout=WAIT_S))] += 1  # no other answer is right
            return seen

        with ThreadPoolExecutor(len(SIZES)) as callers, AdminClient(server.address, timeout_s=WAIT_S) as admin:
            loads = [callers.submit(call_on, number) for number in range(len(SIZES))]
            try:
                for move in range(MOVES):
                    name = ("two", "one")[move % 2]
                    admin.move_alias("default", name)
                    assert content(stub.Predict(request(), timeout=WAIT_S)) == right[name, 4], "a move counts at once"
            finally:
                ended.set()
            for load in loads:
                assert min(load.result(WAIT_S).values()) > 0, "every caller was answered by both"
            assert [snapshot.leases for snapshot in admin.snapshots()] == [0, 0]
