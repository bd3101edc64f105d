"""When does a server end, and who is told? (signals in, service manager out)."""

import asyncio
import os
import signal
import socket


async def until_signal() -> None:
    """Wait for SIGTERM, SIGINT or SIGHUP. A second SIGTERM or SIGINT ends the process at once, as if nothing caught it.

    SIGHUP stays ignored if it was before (nohup), and is ignored after the first signal: a session that closes may send
    it twice.
    """
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    heard = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        heard.append(signal.SIGHUP)

    def end() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])  # without a handler it would end the process
        for number in heard:
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_IGN if number == signal.SIGHUP else signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGHUP])
        ended.set()

    for number in heard:
        loop.add_signal_handler(number, end)
    await ended.wait()


def notify(state: str) -> None:
    """Send `READY=1` or `STOPPING=1` to the service manager, where one listens (sd_notify(3))."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address[:1] in ("/", "@"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.connect(f"\0{address[1:]}" if address.startswith("@") else address)
            sender.sendall(state.encode())
