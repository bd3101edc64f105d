"""How many threads torch uses where: all of them for one search, and a share for each of several pieces of work."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch


class Threads:
    """Torch's number of threads, guarded against what a search at the same time sets. Any thread may call it.

    A thread that is new to torch takes the number that was set last in any thread. While blocks are searched side by
    side that is the share of one block, and the new thread would keep it for good. So torch is asked only while no
    search runs, and a search that begins beside others is given the number that was found then. A thread that first
    does other work with torch while another searches still keeps the share: call `torch.set_num_threads` there before
    it searches.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._searches = 0
        self._number = 0

    @contextmanager
    def all(self) -> Iterator[None]:
        """Give the caller's thread all of them, for one search, which may share them out, and afterwards."""
        with self._lock:
            if not self._searches:
                self._number = torch.get_num_threads()
            number = self._number
            self._searches += 1
            torch.set_num_threads(number)
        try:
            yield
        finally:
            with self._lock:
                self._searches -= 1
                torch.set_num_threads(number)  # where the linear algebra under torch has one number for all threads


THREADS = Threads()
"""Those of this process: torch has one number for all threads that are new to it."""


@contextmanager
def shared_out(workers_max: int | None = None) -> Iterator[ThreadPoolExecutor]:
    """A pool of at most `workers_max` workers, each of which may use an equal share of the caller's threads in torch.

    Without a maximum there are as many workers as threads, with one each.
    """
    threads = torch.get_num_threads()
    workers = threads if workers_max is None else min(threads, workers_max)
    try:
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(threads // workers,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(threads)  # where the linear algebra under torch has one number for all threads
