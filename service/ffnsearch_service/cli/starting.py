"""What do the arguments of `ffnsearch serve` come to? (arguments -> settings, or what they would do)."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ffnsearch_service.settings.loading import DEFAULT_ORIGIN, Loaded, load
from ffnsearch_service.settings.sources import from_arguments, from_environment, from_file, from_flags

if TYPE_CHECKING:
    from ffnsearch_service.settings.checking import Findings


def gather(
    snapshots: Sequence[str], file: Path | None, flags: Mapping[str, object], assignments: Sequence[str]
) -> Loaded:
    """Settings from a file, then the environment, then flags and arguments. Raises SettingsError."""
    return load(
        [
            *(from_file(file) if file else []),
            *from_environment(os.environ),
            *from_flags(flags, assignments),
            *from_arguments(snapshots),
        ]
    )


def limit_threads(threads: int | None) -> None:
    """Bound the threads of torch, faiss and the linear algebra under them; they read these when imported."""
    if threads is not None:
        os.environ.update({f"{library}_NUM_THREADS": str(threads) for library in ("OMP", "OPENBLAS", "MKL", "NUMBA")})


def print_findings(found: "Findings", *, as_json: bool) -> None:
    """Print what `serve --check` has found, all of it as JSON, or what is not a default for a person."""
    if as_json:
        from ffnsearch_service.show.as_json import print_json

        print_json(found)
        return
    for one in found.settings:
        if one.origin != DEFAULT_ORIGIN:
            print(f"setting   {one.key} = {one.value}  ({one.origin})")
    for snapshot in found.snapshots:
        print(
            f"snapshot  {snapshot.name}: {snapshot.path}, {snapshot.snapshot_id[:12]}, "
            f"{snapshot.substrings:,} substrings, {snapshot.bytes / 1e6:,.1f} MB"
        )
    for address in found.addresses:
        print(f"address   {address} is free")
    for warning in found.warnings:
        print(f"warning   {warning}")
    print(f"problems: {len(found.problems)}" if found.problems else "ready to start")
