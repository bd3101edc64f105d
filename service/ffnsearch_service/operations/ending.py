"""When does a server end, and who is told? (signals in, service manager out)."""

import asyncio
import os
import signal
import socket


async def until_signal() -> None:
    """Wait for SIGTERM or SIGINT. A second signal ends the process at once, as if nothing caught it."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()

    def end() -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)
        ended.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end)
    await ended.wait()


def notify(state: str) -> None:
    """Send `READY=1` or `STOPPING=1` to the service manager, where one listens (sd_notify(3))."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address[:1] in ("/", "@"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.connect(f"\0{address[1:]}" if address.startswith("@") else address)
            sender.sendall(state.encode())
