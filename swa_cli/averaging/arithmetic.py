"""The sum in float64 and its rounding, in torch operations that give the same bits on every device."""

import torch

from swa_cli.averaging.rounding import round_once


def real_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of a tensor's numbers: those of a complex one are its real and imaginary parts, in turn."""
    return dtype.to_real() if dtype.is_complex else dtype


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
    out.copy_(round_once(total, out.dtype))
    wide = out.to(torch.float32) if out.dtype.itemsize == 1 else out
    if allow_nonfinite:
        out.copy_(torch.where(torch.isnan(wide), torch.nan, wide))
        return torch.ones((), dtype=torch.bool, device=out.device)
    return torch.isfinite(torch.stack(torch.aminmax(wide))).all()  # NaN is both the smallest and the largest
