"""Changing the batch size of an existing loader."""

from collections.abc import Iterable
from typing import Any, cast

from torch.utils.data import BatchSampler

from swa_cli.errors import DataError, kind_of, option
from swa_cli.user.dataloader.clone import copy_of, has_plain_batches, iterates_as_torch_does


def with_batch_size(loader: Iterable[Any], batch_size: int) -> Iterable[Any]:
    """Return a copy of ``loader`` with another batch size, the same sampler and the same ``drop_last``.

    Raises:
        DataError: the loader makes its batches in a way that cannot be repeated with another size.
    """
    if not iterates_as_torch_does(loader):
        why = f"it is a {kind_of(loader)}, not a torch DataLoader that iterates as torch's does"
    elif has_plain_batches(loader):
        plain = cast("BatchSampler", loader.batch_sampler)
        sampler = BatchSampler(plain.sampler, batch_size, plain.drop_last)
        return copy_of(loader, batch_sampler=sampler, batch_size=batch_size)
    elif loader.batch_sampler is None:
        why = "its dataset or its sampler makes the batches (batch_size=None)"
    else:
        why = f"a {kind_of(cast('object', loader.batch_sampler))} makes its batches"
    msg = (
        f"{option('batch_size', batch_size)}: the training loader cannot be rebuilt: {why}. Give the batch size to the "
        f"data module instead, if it takes one: {option('batch_size', batch_size, of='data')}."
    )
    raise DataError(msg)
