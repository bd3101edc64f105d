"""What all that multiplies with torch asks of it."""

import torch

from ffnsearch_indexer.errors import BackendError


def require_full_precision(user: str) -> None:
    """Refuse (BackendError) to let TF32 or bfloat16 into float32 products: they would break bounds silently."""
    try:
        is_full = torch.get_float32_matmul_precision() == "highest"
    except RuntimeError:  # torch's newer settings, one for each library, say something else
        is_full = False
    if not is_full:
        raise BackendError(
            f"{user} needs full float32 products: call torch.set_float32_matmul_precision('highest')",
            reason="REDUCED_PRECISION",
        )
