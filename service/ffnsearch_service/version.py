"""Which version of ffnsearch is this?"""

from importlib import metadata


def software_version() -> str:
    """Version of the installed distribution, or `unknown` where it runs from a bare checkout."""
    try:
        return metadata.version("ffnsearch")
    except metadata.PackageNotFoundError:
        return "unknown"
