"""How a profile is read from a file."""

import json
from pathlib import Path

from ffnsearch_indexer.answer.profile import Profile
from ffnsearch_indexer.errors import ProfileError

PROFILE_FILE_BYTES_MAX = 4 << 20
"""Largest file with a profile: no larger one could be sent."""


def load_profile(path: Path) -> Profile:
    """Read a profile from a JSON file in the form that a manifest stores. Raises ProfileError, which names the file.

    A request has no use for a name and a source: they are not looked at.
    """
    try:
        with path.open("rb") as file:
            text = file.read(PROFILE_FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ProfileError(f"{path} cannot be read: {error.strerror}; give a JSON file with a profile") from None
    if len(text) > PROFILE_FILE_BYTES_MAX:
        raise ProfileError(f"{path} has more than {PROFILE_FILE_BYTES_MAX:,} bytes: give a JSON file with a profile")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ProfileError(f"{path} is not JSON ({error}): give a JSON file with a profile") from None
    if not isinstance(document, dict):
        raise ProfileError(f"{path} holds no JSON object: `ffnsearch info --json` shows how profiles look")
    try:
        return Profile.from_json({**document, "name": "", "source": ""})
    except ProfileError as error:
        raise ProfileError(f"{path}: {error.message}", reason=error.reason) from None
