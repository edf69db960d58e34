"""Finding NaN and infinity, and naming the batch and the layer where they appeared."""

import torch

from swa_cli.batchnorm.accumulator import Tally
from swa_cli.errors import NonFiniteError
from swa_cli.user.batch import Batch
from swa_cli.user.dataloader import tensors_in


def is_finite(example: Batch, device: torch.device) -> torch.Tensor:
    """Return whether all inputs of the model are finite, as a bool tensor on the device."""
    finite = torch.ones((), dtype=torch.bool, device=device)
    for value in tensors_in((example.args, example.kwargs)):
        if value.is_floating_point() or value.is_complex():
            finite &= value.isfinite().all()
    return finite


def check_finite(flags: list[torch.Tensor], tally: Tally, n_batches: int) -> None:
    """Check and empty ``flags``, with one device synchronisation for all layers and batches.

    Args:
        flags: for each of the last batches, whether the inputs of all layers and those of the model were finite.

    Raises:
        NonFiniteError: some were not; the message names the first batch, and the layer or the batch itself.
    """
    if not flags:
        return
    found = torch.stack(flags).cpu()
    first = n_batches - len(flags)
    flags.clear()
    if bool(found[:, 0].all()):
        return
    bad = int(found[:, 0].to(torch.uint8).argmin())
    own_finite = bool(found[bad, 1])
    moments = tally.moments
    spoilt = (
        name
        for name in tally.calls
        if not bool(moments.part(tally.channels.slices[name]).mean.isfinite().all())
        or not bool(moments.part(tally.channels.slices[name]).within.isfinite().all())
    )
    name = next(spoilt, "(unknown)")
    where = (
        f"the input of layer {name} holds NaN or infinity" if own_finite else "the batch itself holds NaN or infinity"
    )
    msg = (
        f"batch {first + bad}: {where}; expected finite numbers, since one NaN would spoil the statistics of every "
        "layer. Fix the data, or check the weights that were averaged."
    )
    raise NonFiniteError(msg)
