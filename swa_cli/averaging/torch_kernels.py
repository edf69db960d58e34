"""The arithmetic of the CPU back end once more, in torch operations that give the same bits on every device.

Means that are stored as float8 are left to the CPU: torch releases differ in what becomes of too large a number.
"""

import numpy as np
import numpy.typing as npt
import torch

from swa_cli.formats import LOST


def accumulate(total: torch.Tensor, values: torch.Tensor, *, weight: float, first: bool) -> None:
    """Add ``values`` (any real floating dtype) times ``weight`` to ``total`` (float64), or start with them.

    A product is rounded before it is added, as numpy does it: no fused multiply-add, whose bits would be others.
    """
    if values.dtype.itemsize == 1:  # float8 has no arithmetic; every float8 is a float32
        values = values.to(torch.float32)
    if weight != 1:
        values = values.to(torch.float64) * weight
    if first:
        total.copy_(values)
    else:
        total.add_(values)


def forget_nan_bits(total: torch.Tensor) -> None:
    """Make every NaN the same one: their bits depend on the device."""
    total.masked_fill_(torch.isnan(total), torch.nan)


def sums_of_parts(total: torch.Tensor, starts: npt.NDArray[np.int64]) -> torch.Tensor:
    """The sum modulo 2⁶⁴ of the bits of ``total`` (float64) from each start to the next; int64, which wraps."""
    bits = total.view(torch.int64)
    if len(starts) == 1:
        return bits.sum().reshape(1)
    ends = torch.from_numpy(np.append(starts[1:], len(bits)) - 1).to(bits.device)
    return torch.diff(bits.cumsum(0)[ends], prepend=bits.new_zeros(1))


def rounded_mean(total: torch.Tensor, divisor: float, out: torch.Tensor, *, allow_nonfinite: bool) -> torch.Tensor:
    """Divide ``total`` by ``divisor`` once and round it once, into ``out``; a uint8 that is 1 if all of it is finite.

    With ``allow_nonfinite`` every NaN becomes the same one, whose bits would otherwise depend on the device.
    """
    # By a tensor: CUDA takes a number's reciprocal and multiplies, which rounds twice.
    total.div_(torch.full((), divisor, dtype=torch.float64, device=total.device))
    out.copy_(_rounded_to_odd(total) if out.dtype.itemsize < torch.float32.itemsize else total)
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
