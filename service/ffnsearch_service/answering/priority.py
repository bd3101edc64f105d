"""Which threads give way to the event loop? Those that run models and the search, and so all that they start."""

import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

ENGINE_NICE = 5
"""How much is added to their niceness: they have a third of the event loop's weight where both want the same core."""


def step_back() -> None:
    """Lower the priority of this thread, and of those that it starts, below the event loop's: refusals come at once."""
    if sys.platform == "linux":  # elsewhere it would be the whole process
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + ENGINE_NICE)


def run_stepped_back(work: Callable[[], None]) -> None:
    """Run work on a thread that has stepped back, and wait: an index keeps the threads that its first search starts."""
    with ThreadPoolExecutor(1, initializer=step_back) as one:
        one.submit(work).result()
