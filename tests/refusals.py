"""What holds for every command line that cannot be done: one line says why, the status is 2, and no file changes."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from tiny import files_of


def check_refusals(
    run: Callable[..., tuple[int, str, str]], refusals: Mapping[tuple[object, ...], str], folder: Path
) -> None:
    """Run command lines, each with words of the line that it must give; what must not change is in the folder."""
    before = files_of(folder)
    for arguments, expected in refusals.items():
        code, out, err = run(*arguments)
        assert (code, out) == (2, ""), arguments
        assert re.fullmatch(r"error: .*\n", err), arguments
        assert expected in err, arguments
        assert files_of(folder) == before, arguments
