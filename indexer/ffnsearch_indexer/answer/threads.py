"""How many threads has a search, while others share theirs out?"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Threads:
    """Torch's number of threads, kept from what a search beside it sets. Any thread may ask.

    A thread that torch has not met takes the number that was set last in any thread. While blocks are searched side by
    side that is the share of one, and the new thread would keep it for good. So torch is asked only while nobody
    searches, and whoever joins in is given what was found then. A thread that first does other work with torch while
    another searches keeps the share all the same: let `torch.set_num_threads` tell it before it searches.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._searches = 0
        self._number = 0

    @contextmanager
    def all(self) -> Iterator[None]:
        """Let the caller's thread have all of them for one search, which may share them out, and afterwards too."""
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
"""Those of this process: torch has one number for all that it has not met."""
