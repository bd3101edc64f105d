"""Forks servers: `ffnsearch serve` in processes of their own, without the seconds that imports take.

Run with the number of a Unix socket. Each message on it is a JSON object (arguments, environment) with three file
descriptors: what becomes stdout, what becomes stderr, and a pipe that is told the server's process id, and its exit
status once it has ended, each in a line. A server ends with this process, and this one when the socket is closed.
"""

import ctypes
import importlib
import json
import os
import signal
import socket
import sys
import threading

IMPORTED = ("ffnsearch_service.hosting", "ffnsearch_service.cli.starting", "ffnsearch_indexer.index.tiles")
MESSAGE_BYTES_MAX = 1 << 16
_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Fork until the socket is closed; returns in the process of a server, too, once that has ended."""
    for name in IMPORTED:
        importlib.import_module(name)
    assert threading.active_count() == 1, "a process that is forked must have one thread"
    with socket.socket(fileno=int(sys.argv[1])) as orders:
        while True:
            message, files, _, _ = socket.recv_fds(orders, MESSAGE_BYTES_MAX, 3)
            if not message:
                return None
            if os.fork() == 0:
                orders.close()
                return _attend(json.loads(message), *files)
            for file in files:
                os.close(file)
            _reap()


def _attend(order: dict, out: int, err: int, told: int) -> None:
    """Fork the server, and tell how it ends."""
    _end_with_parent()
    pid = os.fork()
    if pid == 0:
        os.close(told)
        return _serve(order, out, err)
    for file in (out, err):
        os.close(file)
    os.write(told, f"{pid}\n".encode())
    _, status = os.waitpid(pid, 0)
    os.write(told, f"{os.waitstatus_to_exitcode(status)}\n".encode())
    os._exit(0)


def _serve(order: dict, out: int, err: int) -> None:
    _end_with_parent()
    os.setsid()
    os.dup2(out, 1)
    os.dup2(err, 2)
    os.close(out)
    os.close(err)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
    os.environ.update(order["environment"])
    sys.argv = ["ffnsearch", *order["arguments"]]
    importlib.import_module("ffnsearch_service.cli").main()


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _reap() -> None:
    """Let go of the processes that have ended."""
    while True:
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                return
        except ChildProcessError:
            return


if __name__ == "__main__":
    main()
