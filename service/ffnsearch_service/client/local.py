"""The calls of the wire contract on a snapshot opened in this process, without a socket."""

from pathlib import Path
from typing import Any, Literal

from ffnsearch_indexer.progress import Progress, silent
from ffnsearch_service.answering.call import Call
from ffnsearch_service.answering.engine import Engine
from ffnsearch_service.client.interface import Calls


class LocalClient(Calls):
    """Calls an engine directly: the same messages and results as through a server. Safe to share between threads.

    Failed calls raise what the engine raises, FfnSearchError. Without `timeout_s` a call may take any time. The
    snapshot has no name here: a call that names one is refused.
    """

    def __init__(self, engine: Engine) -> None:
        """Take over an engine; `close` closes it."""
        self._engine = engine

    @classmethod
    def open(
        cls,
        snapshot: Path,
        *,
        backend: str = "auto",
        device: str = "auto",
        check: Literal["all", "sizes"] = "all",
        progress: Progress = silent,
    ) -> "LocalClient":
        """Open a snapshot directory. Raises SnapshotError, BackendError.

        progress: called as progress(stage, done, total, detail) while the snapshot is read whole, from several threads,
        one at a time.
        """
        return cls(Engine.open(snapshot, backend=backend, device=device, check=check, progress=progress))

    def close(self) -> None:
        """Close the engine and its snapshot."""
        self._engine.close()

    def _send(self, method: str, request: Any, timeout_s: float | None) -> Any:
        return self._engine.call(method, request, Call(timeout_s))
