"""Rounding float64 once.

``tensor.to(torch.bfloat16)`` takes float64 through float32 and so rounds twice: 1 + 2⁻⁸ + 2⁻⁴⁰ becomes 1, although
1 + 2⁻⁷ is nearer. Rounding to odd on the way makes the second step the only one that counts (S. Boldo and
G. Melquiond, "Emulation of FMA and correctly rounded sums: proved algorithms using rounding to odd", 2008).
"""

import torch

_LOST = (1 << 37) - 1
"""Bits of a float64 below the 16 that are kept: two more than any narrow dtype has, and few enough that what is kept
is a float32 even where that is subnormal and bfloat16 not yet zero."""


def round_once(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """``values`` (float64) in ``dtype``, to nearest, ties to even, as if rounded from the exact number.

    Args:
        values: float64, any shape.
        dtype: any floating dtype.
    """
    if dtype in {torch.float64, torch.float32}:
        return values.to(dtype)
    bits = values.view(torch.int64)
    odd = bits & _LOST
    odd += _LOST  # carries into the last bit that is kept, if anything at all is lost
    odd |= bits
    odd &= ~_LOST
    return odd.view(torch.float64).to(torch.float32).to(dtype)
