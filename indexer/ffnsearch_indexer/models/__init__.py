"""From token ids to FFN outputs: models, their training, and the reference model itself."""

from pathlib import Path


def reference_folder() -> Path:
    """The folder of the trained model that the package ships, the default of `ffnsearch build`."""
    return Path(__file__).parent / "reference"
