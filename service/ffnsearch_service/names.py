"""How may snapshots and aliases be named, and what are the gRPC services called?"""

import re

from ffnsearch_service.errors import RequestError

PREDICTION_SERVICE = "ffnsearch.v1.PredictionService"
ADMIN_SERVICE = "ffnsearch.v1.AdminService"
OPERATIONS_SERVICE = "google.longrunning.Operations"

NAME = re.compile(r"[a-z][a-z0-9-]{0,62}")
"""What a snapshot or an alias may be called: also a legible label, file name and name of a health service."""

NAME_RULE = "take a lower-case letter, then at most 62 lower-case letters, digits and hyphens"
"""The same in words, for a message."""


def require_name(name: str, field: str) -> str:
    """Return a name that may be given to a snapshot or an alias. Raises RequestError, which names the field."""
    if not NAME.fullmatch(name):
        raise RequestError(
            f"{field}: {name[:80]!r} is not a name: {NAME_RULE}",
            reason="INVALID_NAME",
            field=field,
        )
    return name
