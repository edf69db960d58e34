"""The arithmetic of the CPU back end once more, in torch operations, which give the same bits on every device."""

import torch

from swa_cli.averaging.rounding import LOST


def accumulate(total: torch.Tensor, values: torch.Tensor, *, first: bool) -> None:
    """Add ``values`` (any real floating dtype) to ``total`` (float64), or start with them."""
    if values.dtype.itemsize == 1:  # float8 has no arithmetic; every float8 is a float32
        values = values.to(torch.float32)
    if first:
        total.copy_(values)
    else:
        total.add_(values)


def rounded_mean(total: torch.Tensor, n: int, out: torch.Tensor, *, allow_nonfinite: bool) -> torch.Tensor:
    """Divide ``total`` by ``n`` once and round it once, into ``out``; a bool tensor that tells whether all is finite.

    With ``allow_nonfinite`` every NaN becomes the same one, whose bits would otherwise depend on the device.
    """
    total.div_(n)
    out.copy_(_rounded_to_odd(total) if out.dtype not in {torch.float64, torch.float32} else total)
    wide = out.to(torch.float32) if out.dtype.itemsize == 1 else out
    if allow_nonfinite:
        out.copy_(torch.where(torch.isnan(wide), torch.nan, wide))
        return torch.ones((), dtype=torch.bool, device=out.device)
    return torch.isfinite(torch.stack(torch.aminmax(wide))).all()  # NaN is both the smallest and the largest


def _rounded_to_odd(values: torch.Tensor) -> torch.Tensor:
    """float64 that a narrow dtype can be rounded from, see `swa_cli.averaging.rounding`; as float32."""
    bits = values.view(torch.int64)
    odd = bits & LOST
    odd += LOST
    odd |= bits
    odd &= ~LOST
    return odd.view(torch.float64).to(torch.float32)
