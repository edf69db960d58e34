"""Rounding float64 once.

The usual way from float64 to bfloat16 leads through float32 and so rounds twice: 1 + 2⁻⁸ + 2⁻⁴⁰ becomes 1, although
1 + 2⁻⁷ is nearer. Rounding to odd on the way makes the second step the only one that counts (S. Boldo and
G. Melquiond, "Emulation of FMA and correctly rounded sums: proved algorithms using rounding to odd", 2008).
"""

import numpy as np
import numpy.typing as npt

from swa_cli.formats.dtypes import BY_NAME, Dtype

_WIDE = frozenset({BY_NAME["float64"], BY_NAME["float32"]})
LOST = (1 << 37) - 1
"""Bits of a float64 below the 16 that are kept: two more than any narrow dtype has, and few enough that what is kept
is a float32 even where that is subnormal and bfloat16 not yet zero."""


def round_once(values: npt.NDArray[np.float64], dtype: Dtype) -> npt.NDArray[np.generic]:
    """``values`` in ``dtype``, to nearest, ties to even, as if rounded from the exact number.

    Args:
        values: float64, any shape, contiguous.
        dtype: any floating dtype.

    >>> import ml_dtypes
    >>> round_once(np.array([1 + 2**-8 + 2**-40]), np.dtype(ml_dtypes.bfloat16))
    array([1.00781], dtype=bfloat16)
    """
    out = np.empty(values.shape, dtype)
    round_into(values, out, odd=np.empty(values.shape, np.int64), wide=np.empty(values.shape, np.float32))
    return out


def round_into(
    values: npt.NDArray[np.float64],
    out: npt.NDArray[np.generic],
    *,
    odd: npt.NDArray[np.int64],
    wide: npt.NDArray[np.float32],
) -> None:
    """As `round_once`, into an array that is there already, by way of two more; all are of one shape."""
    with np.errstate(over="ignore", invalid="ignore"):
        if out.dtype in _WIDE:
            np.copyto(out, values, casting="unsafe")
            return
        bits = values.view(np.int64)
        np.bitwise_and(bits, LOST, out=odd)
        odd += LOST  # carries into the last bit that is kept, if anything at all is lost
        odd |= bits
        odd &= ~LOST
        np.copyto(wide, odd.view(np.float64), casting="unsafe")
        np.copyto(out, wide, casting="unsafe")
