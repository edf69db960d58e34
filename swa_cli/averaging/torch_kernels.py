"""The arithmetic of the CPU back end once more, in torch operations that give the same bits on every device.

Results that are stored as float8 are left to the CPU: torch releases differ in what becomes of too large a number.
"""

import numpy as np
import numpy.typing as npt
import torch

from swa_cli.formats import LOST


def widened(values: torch.Tensor) -> torch.Tensor:
    """Return numbers of any real floating dtype as such that have arithmetic: every float8 is a float32."""
    return values.to(torch.float32) if values.dtype.itemsize == 1 else values


def forget_nan_bits(total: torch.Tensor) -> None:
    """Make every NaN the same one: their bits depend on the device."""
    total.masked_fill_(torch.isnan(total), torch.nan)


def sums_on_device(total: torch.Tensor, starts: npt.NDArray[np.int64]) -> torch.Tensor:
    """The sum modulo 2⁶⁴ of the bits of ``total`` (float64) from each start to the next; int64, which wraps."""
    bits = total.view(torch.int64)
    if len(starts) == 1:
        return bits.sum().reshape(1)
    ends = torch.from_numpy(np.append(starts[1:], len(bits)) - 1).to(bits.device)
    return torch.diff(bits.cumsum(0)[ends], prepend=bits.new_zeros(1))


def round_on_device(values: torch.Tensor, out: torch.Tensor, *, allow_nonfinite: bool) -> torch.Tensor:
    """Round ``values`` (float64) once, into ``out``; return a uint8 that is 1 if all of it is finite.

    With ``allow_nonfinite`` every NaN becomes the same one, whose bits would otherwise depend on the device.
    """
    out.copy_(_rounded_to_odd(values) if out.dtype.itemsize < torch.float32.itemsize else values)
    if allow_nonfinite:
        out.copy_(torch.where(torch.isnan(out), torch.nan, out))
        return torch.ones((), dtype=torch.uint8, device=out.device)
    # NaN is both the smallest and the largest.
    return torch.isfinite(torch.stack(torch.aminmax(out))).all().to(torch.uint8)


def _rounded_to_odd(values: torch.Tensor) -> torch.Tensor:
    """float64 that a narrow dtype can be rounded from, see `swa_cli.formats.rounding`; as float32."""
    bits = values.view(torch.int64)
    odd = bits & LOST
    odd += LOST
    odd |= bits
    odd &= ~LOST
    return odd.view(torch.float64).to(torch.float32)
