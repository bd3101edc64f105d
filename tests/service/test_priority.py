"""Threads that search give way to the event loop, those that an index keeps from its warm-up on too."""

import os
import sys
import threading

import pytest
import torch

from ffnsearch_service.answering.opened import OpenSnapshot
from ffnsearch_service.answering.priority import ENGINE_NICE, run_stepped_back

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere priorities are of whole processes")


def niceness(thread):
    return os.getpriority(os.PRIO_PROCESS, thread.native_id)


def test_work_runs_stepped_back_and_its_caller_does_not():
    found = []
    usual = niceness(threading.current_thread())
    run_stepped_back(lambda: found.append(niceness(threading.current_thread())))
    assert found == [usual + ENGINE_NICE]
    assert niceness(threading.current_thread()) == usual


def test_an_error_of_the_work_is_its_callers():
    def fail():
        raise ValueError("not warm")

    with pytest.raises(ValueError, match="not warm"):
        run_stepped_back(fail)


def test_threads_that_an_index_keeps_from_its_warm_up_step_back(tiny_snapshot):
    before, threads = set(threading.enumerate()), torch.get_num_threads()
    snapshot = OpenSnapshot.open(tiny_snapshot, backend="tiles", check="sizes")
    try:
        torch.set_num_threads(2 * snapshot.manifest.blocks)
        snapshot.warm_up()
        kept = [thread for thread in set(threading.enumerate()) - before if thread.name.startswith("tiles")]
        assert kept
        assert {niceness(thread) for thread in kept} == {niceness(threading.current_thread()) + ENGINE_NICE}
    finally:
        torch.set_num_threads(threads)
        snapshot.close()
