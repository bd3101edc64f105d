"""From token ids to FFN outputs, how a model is trained, and the reference model itself."""

from pathlib import Path


def reference_folder() -> Path:
    """Where the trained model is that the package ships: the default of `ffnsearch build`."""
    return Path(__file__).parent / "reference"
