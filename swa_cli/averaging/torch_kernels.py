"""The arithmetic of the CPU back end in torch operations, with the same bits on every device.

It repeats rounding to odd of `swa_cli.formats.rounding`, which is numpy: the two back ends share no array type.
Results that are stored as float8 are left to the CPU, as torch releases differ in how they round overflows.
"""

import numpy as np
import numpy.typing as npt
import torch

from swa_cli.formats import LOST


def widened(values: torch.Tensor) -> torch.Tensor:
    """Return numbers of any real floating dtype in one with arithmetic: float8 as float32."""
    return values.to(torch.float32) if values.dtype.itemsize == 1 else values


def forget_nan_bits(total: torch.Tensor) -> None:
    """Replace every NaN by the same one; their bits depend on the device."""
    total.masked_fill_(torch.isnan(total), torch.nan)


def sums_on_device(total: torch.Tensor, starts: npt.NDArray[np.int64]) -> torch.Tensor:
    """Return the sum modulo 2⁶⁴ of the bits of ``total`` (float64) from each start to the next, as int64."""
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
    """Round float64 to odd, so that rounding to a narrow dtype is correct (see `swa_cli.formats.rounding`); float32."""
    bits = values.view(torch.int64)
    odd = bits & LOST
    odd += LOST
    odd |= bits
    odd &= ~LOST
    return odd.view(torch.float64).to(torch.float32)
