"""Deciding, before a byte is written, what becomes of every tensor."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from swa_cli.checkpoints import Checkpoint, TensorSpec, file_order
from swa_cli.checkpoints.safetensors_file import NAMES
from swa_cli.errors import MismatchError, listing

Policy = Literal["mean", "agree", "newest"]

_BN_BUFFERS = ("running_mean", "running_var")


@dataclass(frozen=True, kw_only=True)
class TensorPlan:
    """One tensor of the output: how it comes about and what it looks like.

    ``mean``: float64 mean, rounded once. ``agree``: an integer or bool that must be equal in all sources.
    ``newest``: taken from the last source (``num_batches_tracked``).
    """

    name: str
    policy: Policy
    spec: TensorSpec


@dataclass(frozen=True, kw_only=True)
class AveragePlan:
    """Sources in the order of summation, and the tensors in the order of the output file."""

    sources: tuple[Checkpoint, ...]
    tensors: tuple[TensorPlan, ...]
    notices: tuple[str, ...]

    @property
    def bytes_to_read(self) -> int:
        """Bytes of tensors read from all sources."""
        return sum(self.bytes_of(tensor) for tensor in self.tensors)

    def bytes_of(self, tensor: TensorPlan) -> int:
        """Bytes read from all sources for one tensor."""
        sources = self.sources[-1:] if tensor.policy == "newest" else self.sources
        return sum(source.spec(tensor.name).nbytes for source in sources)

    @property
    def bytes_to_write(self) -> int:
        """Bytes of tensors in the output, without its header."""
        return sum(tensor.spec.nbytes for tensor in self.tensors)

    @property
    def has_bn_statistics(self) -> bool:
        """Whether any tensor is named as BatchNorm names its statistics."""
        return any(tensor.name.rpartition(".")[2] in _BN_BUFFERS for tensor in self.tensors)


def plan_average(sources: Sequence[Checkpoint], *, dtype: torch.dtype | None = None) -> AveragePlan:
    """Check that the sources fit together and choose a policy for every tensor.

    Args:
        sources: at least one, in the order of training.
        dtype: floating dtype of the output; by default each tensor keeps the dtype it is stored in. Complex
            tensors keep theirs.

    Raises:
        MismatchError: keys, shapes or dtypes differ from those of the first source, or a dtype cannot be stored.
    """
    first = sources[0]
    problems = [problem for other in sources[1:] for problem in _differences(first, other, any_float=dtype is not None)]
    if problems:
        msg = (
            f"the checkpoints do not hold the same tensors:\n{listing(problems)}\n"
            "Average checkpoints of one run and one model; leave out the files that differ."
        )
        raise MismatchError(msg)
    specs = {name: _output_spec(first.spec(name), dtype) for name in first.tensors}
    unknown = [f"{first.path}: {name} is {spec}" for name, spec in specs.items() if spec.dtype not in NAMES]
    if unknown:
        msg = f"these tensors have a dtype that safetensors cannot store:\n{listing(unknown)}"
        raise MismatchError(msg)
    unusable = [f"{first.path}: {name!r}" for name in specs if name == "__metadata__" or not _is_unicode(name)]
    if unusable:
        msg = f"safetensors cannot store tensors of these names:\n{listing(unusable)}\nRename them in the checkpoints."
        raise MismatchError(msg)
    tensors = tuple(
        TensorPlan(name=name, policy=_policy(name, specs[name].dtype), spec=specs[name]) for name in file_order(specs)
    )
    return AveragePlan(sources=tuple(sources), tensors=tensors, notices=_notices(sources))


def _is_unicode(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_averaged(dtype: torch.dtype) -> bool:
    """Whether tensors of this dtype are averaged: floating and complex ones are."""
    return dtype.is_floating_point or dtype.is_complex


def _output_spec(spec: TensorSpec, dtype: torch.dtype | None) -> TensorSpec:
    if dtype is None or not spec.dtype.is_floating_point:
        return spec
    return TensorSpec(shape=spec.shape, dtype=dtype)


def _policy(name: str, dtype: torch.dtype) -> Policy:
    if is_averaged(dtype):
        return "mean"
    return "newest" if name.rpartition(".")[2] == "num_batches_tracked" else "agree"


def _differences(first: Checkpoint, other: Checkpoint, *, any_float: bool) -> list[str]:
    def list_all(names: Sequence[str], describe: Callable[[str], str]) -> list[str]:
        return [f"{other.path}: {name}: {describe(name)}" for name in names]

    missing = [name for name in first.tensors if name not in other.tensors]
    extra = [name for name in other.tensors if name not in first.tensors]
    reshaped = [
        name
        for name in first.tensors
        if name in other.tensors and not _fits(first.spec(name), other.spec(name), any_float=any_float)
    ]
    return [
        *list_all(missing, lambda name: f"expected {first.spec(name)} as in {first.path.name}, found no such tensor"),
        *list_all(extra, lambda name: f"found {other.spec(name)}, {first.path.name} has no such tensor"),
        *list_all(
            reshaped, lambda name: f"expected {first.spec(name)} as in {first.path.name}, found {other.spec(name)}"
        ),
    ]


def _fits(first: TensorSpec, other: TensorSpec, *, any_float: bool) -> bool:
    if any_float and first.dtype.is_floating_point and other.dtype.is_floating_point:
        return first.shape == other.shape
    return first == other


def _notices(sources: Sequence[Checkpoint]) -> tuple[str, ...]:
    notices: list[str] = []
    if len(sources) == 1:
        notices.append(f"only one checkpoint ({sources[0].path}): its average is itself.")
    left_out = sorted({name for source in sources for name in source.left_out})
    if left_out:
        notices.append(f"entries of the state_dict that are not tensors are left out: {', '.join(left_out)}.")
    return tuple(notices)
