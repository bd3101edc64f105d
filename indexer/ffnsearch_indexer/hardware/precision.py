"""Whether torch multiplies float32 numbers in full precision."""

import torch

from ffnsearch_indexer.errors import BackendError


def require_full_precision(user: str) -> None:
    """Raise BackendError where torch may use TF32 or bfloat16 in float32 products: bounds would silently not hold."""
    try:
        is_full = torch.get_float32_matmul_precision() == "highest"
    except RuntimeError:  # torch's newer settings, one for each library, say something else
        is_full = False
    if not is_full:
        raise BackendError(
            f"{user} needs full float32 products: call torch.set_float32_matmul_precision('highest')",
            reason="REDUCED_PRECISION",
        )
