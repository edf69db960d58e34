"""Iterating over a user's loader repeatably and across ranks, and copying it with one thing changed."""

from swa_cli.user.dataloader.batch_size import with_batch_size
from swa_cli.user.dataloader.clone import in_fixed_order
from swa_cli.user.dataloader.eval_transforms import NotOfferedError, with_transform_of
from swa_cli.user.dataloader.repeatable import Passes, n_indices_of
from swa_cli.user.dataloader.tree import agreed, lengths_of, samples_in, tensors_in

__all__ = [
    "NotOfferedError",
    "Passes",
    "agreed",
    "in_fixed_order",
    "lengths_of",
    "n_indices_of",
    "samples_in",
    "tensors_in",
    "with_batch_size",
    "with_transform_of",
]
