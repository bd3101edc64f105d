"""What may a message say of a path? Its last part: callers need not know where things lie."""

import re
from pathlib import Path

_PATH = re.compile(r"(?<![\w.])/[^\s:;,'\"()]+")


def without_paths(text: str) -> str:
    """The same text in one line, with absolute paths cut down to their last part."""
    return _PATH.sub(lambda found: Path(found[0]).name, " ".join(text.split()))
