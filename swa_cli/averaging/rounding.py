"""Rounding float64 once.

``tensor.to(torch.bfloat16)`` takes float64 through float32 and so rounds twice: 1 + 2⁻⁸ + 2⁻⁴⁰ becomes 1, although
1 + 2⁻⁷ is nearer. Rounding to odd on the way makes the second step the only one that counts (S. Boldo and
G. Melquiond, "Emulation of FMA and correctly rounded sums: proved algorithms using rounding to odd", 2008).
"""

import torch


def round_once(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """``values`` (float64) in ``dtype``, to nearest, ties to even, as if rounded from the exact number.

    Args:
        values: float64, any shape.
        dtype: any floating dtype.
    """
    if dtype in {torch.float64, torch.float32}:
        return values.to(dtype)
    return _to_odd_float32(values).to(dtype)


def _to_odd_float32(values: torch.Tensor) -> torch.Tensor:
    """Truncate to float32, and make the last bit odd where anything was lost, so that no tie is made up."""
    nearest = values.to(torch.float32)
    error = values - nearest.to(torch.float64)
    even = (nearest.view(torch.int32) & 1) == 0
    inexact = (error != 0) & torch.isfinite(nearest) & torch.isfinite(values)
    towards = torch.where(error > 0, torch.inf, -torch.inf).to(torch.float32)
    return torch.where(inexact & even, torch.nextafter(nearest, towards), nearest)
