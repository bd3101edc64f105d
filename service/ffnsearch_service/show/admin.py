"""How a server's snapshots, aliases and builds look to an administrator."""

from collections.abc import Sequence

from ffnsearch_service.client.admin_results import Alias, BuildOperation, Snapshot
from ffnsearch_service.show.tables import Table, print_table


def print_snapshots(snapshots: Sequence[Snapshot], aliases: Sequence[Alias]) -> None:
    """Print the snapshots, then where aliases point."""
    rows = [
        (
            snapshot.name,
            snapshot.state.lower(),
            str(snapshot.info.get("id", ""))[:12],
            f"{snapshot.info.get('substrings', 0):,}",
            f"{snapshot.size_bytes / 1e9:.2f} GB",
            str(snapshot.leases),
            snapshot.etag,
            snapshot.error or _fidelity(snapshot),
        )
        for snapshot in snapshots
    ]
    headings = ("snapshot", "state", "id", "substrings", "size", "requests", "etag", "fidelity")
    print_table(Table(headings, rows, right=frozenset({3, 4, 5})))
    print()
    print_table(Table(("alias", "points to", "etag"), [(to.name, to.snapshot_name, to.etag) for to in aliases]))


def print_operations(operations: Sequence[BuildOperation]) -> None:
    """Print builds, one a line."""
    rows = [(operation.name, operation.snapshot_name, operation.corpus, _stage(operation)) for operation in operations]
    print_table(Table(("operation", "builds", "from", "is"), rows))


def _fidelity(snapshot: Snapshot) -> str:
    return ", ".join(f"{found.protocol} {found.hellinger_mean:.4f}" for found in snapshot.fidelity) or "not measured"


def _stage(operation: BuildOperation) -> str:
    if operation.error:
        return f"{operation.error.code.lower()}: {operation.error.message}"
    if operation.done or operation.stage == "queued":
        return operation.stage
    left = "" if operation.seconds_left is None else f", {operation.seconds_left:,.0f} s left"
    return f"{operation.stage} {operation.fraction:.0%}{left}"
