"""What a batch holds, and how it goes through a model: which part is the target, which the logits.

Nothing is guessed from numbers: a model's output is taken as logits.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch

from swa_cli.errors import DataError, UserCodeError, kind_of, shortened
from swa_cli.user.dataloader import agreed, lengths_of
from swa_cli.user.guard import user_code

TARGET_KEYS = ("labels", "label", "target")


class Batch(NamedTuple):
    """One batch, taken apart: ``model(*args, **kwargs)`` is to be compared with ``target``.

    ``groups`` says which of the units (examples, images, …) belong together, as those of one patient do: for each an
    integer or a text; None where each is on its own.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    target: Any
    groups: Any = None


_SIZES = (3, 4)  # without and with groups

Splitter = Callable[[Any], Batch]


def make_splitter(custom: Callable[[Any], object] | None) -> Splitter:
    """The data module's ``split_batch``, checked, or `split_batch`; it may give groups as a fourth part."""
    if custom is None:
        return split_batch

    def split(batch: object) -> Batch:
        with user_code("split_batch(batch)"):
            parts = custom(batch)
        kind = kind_of(parts)
        if not isinstance(parts, tuple) or len(cast("tuple[Any, ...]", parts)) not in _SIZES:
            size = f" of {len(cast('tuple[Any, ...]', parts))}" if isinstance(parts, tuple) else ""
            msg = f"split_batch(batch) gave a {kind}{size}, expected a tuple (args, kwargs, target)."
            raise DataError(msg)
        args, kwargs, *rest = cast("tuple[Any, ...]", parts)
        kinds = f"args of type {kind_of(args)} and kwargs of type {kind_of(kwargs)}"
        if not isinstance(args, Sequence) or not isinstance(kwargs, Mapping):
            msg = f"split_batch(batch) gave {kinds}, expected a tuple and a dict."
            raise DataError(msg)
        return Batch(tuple(cast("Sequence[Any]", args)), dict(cast("Mapping[str, Any]", kwargs)), *rest)

    return split


def split_batch(batch: Any) -> Batch:
    """``(input, ..., target)``, or a mapping with ``labels``, ``label`` or ``target``, whose rest goes in by name.

    A batch without a target (a lone tensor, a sequence of one, a mapping without those keys) gets the target None;
    BatchNorm recalibration needs none.

    Raises:
        DataError: an empty batch, or one of another kind.
    """
    kind = kind_of(batch)
    if isinstance(batch, torch.Tensor):
        return Batch((batch,), {}, None)
    if isinstance(batch, Mapping):
        kwargs = {str(name): value for name, value in cast("Mapping[Any, Any]", batch).items()}
        found = [name for name in TARGET_KEYS if name in kwargs]
        target = kwargs.pop(found[0]) if found else None
        if kwargs:
            return Batch((), kwargs, target)
    if isinstance(batch, (list, tuple)):
        values = tuple(cast("Sequence[Any]", batch))
        if len(values) == 1:
            return Batch(values, {}, None)
        if values:
            return Batch(values[:-1], {}, values[-1])
    msg = (
        f"cannot take apart a batch of type {kind}: expected (input, ..., target) or a mapping with "
        f"{', '.join(TARGET_KEYS)}. Define split_batch(batch) -> (args, kwargs, target) in the data module."
    )
    raise DataError(msg)


def logits_of(output: Any) -> torch.Tensor:
    """The logits in what a model returned: a tensor, ``.logits``, ``["logits"]``, or the first of a sequence.

    ``["out"]`` is where torchvision's models of segmentation have them.

    Raises:
        DataError: none of these.
    """
    found, kind = output, kind_of(output)
    if not isinstance(found, torch.Tensor):
        found = getattr(output, "logits", None)
    if found is None and isinstance(output, Mapping):
        mapping = cast("Mapping[str, Any]", output)
        found = mapping.get("logits", mapping.get("out"))
    if found is None and isinstance(output, (list, tuple)) and output:
        found = cast("Sequence[Any]", output)[0]
    if not isinstance(found, torch.Tensor):
        msg = (
            f"the model returned a {kind}, expected logits: a tensor, an object with .logits, a mapping with logits or "
            "out, or a sequence whose first entry is the tensor."
        )
        raise DataError(msg)
    return found


def move(example: Batch, device: torch.device, *, batch: int) -> Batch:
    """``example`` with every tensor that goes into the model on ``device``; the target stays where it is.

    Raises:
        UserCodeError: something in the batch cannot be moved.
    """
    with user_code(f"moving batch {batch} to {device}"):
        return example._replace(args=to_device(example.args, device), kwargs=to_device(example.kwargs, device))


def to_device(value: Any, device: torch.device) -> Any:
    """``value`` with every tensor in it on ``device``; looks into sequences, mappings and objects with ``.to``."""
    if isinstance(value, tuple) and hasattr(cast("object", value), "_fields"):  # a namedtuple
        return type(cast("Any", value))(*(to_device(entry, device) for entry in cast("Sequence[Any]", value)))
    if isinstance(value, (list, tuple)):
        moved = [to_device(entry, device) for entry in cast("Sequence[Any]", value)]
        return tuple(moved) if isinstance(value, tuple) else moved
    if isinstance(value, dict):
        return {name: to_device(entry, device) for name, entry in cast("dict[Any, Any]", value).items()}
    moved = value.to(device) if hasattr(value, "to") else value
    return value if moved is None else moved  # some move themselves


def copied(value: Any) -> Any:
    """``value`` with a copy of every tensor in it, as `to_device` finds them."""
    if isinstance(value, tuple) and hasattr(cast("object", value), "_fields"):
        return type(cast("Any", value))(*(copied(entry) for entry in cast("Sequence[Any]", value)))
    if isinstance(value, (list, tuple)):
        entries = [copied(entry) for entry in cast("Sequence[Any]", value)]
        return tuple(entries) if isinstance(value, tuple) else entries
    if isinstance(value, dict):
        return {name: copied(entry) for name, entry in cast("dict[Any, Any]", value).items()}
    return value.clone() if hasattr(value, "clone") else value


def to_channels_last(value: Any) -> Any:
    """``value`` with its channels last in memory, if it is a tensor that has channels and positions."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    if isinstance(value, torch.Tensor) and value.ndim in formats:
        return value.contiguous(memory_format=formats[value.ndim])
    return value


def call_model(model: Callable[..., Any], example: Batch, *, doing: str) -> Any:
    """``model(*args, **kwargs)``.

    Raises:
        UserCodeError: the forward raises; what it was given is described.
    """
    try:
        with user_code(doing):
            return model(*example.args, **example.kwargs)
    except UserCodeError as error:
        positional = [_described(value) for value in example.args]
        named = [f"{name}={_described(value)}" for name, value in example.kwargs.items()]
        hint = (
            " If it takes others, define split_batch(batch) -> (args, kwargs, target) in the data module."
            if isinstance(error.__cause__, TypeError)
            else ""
        )
        given = f"The batch was given to the model as ({shortened([*positional, *named])}).{hint}"
        raise UserCodeError(*error.args, given) from error.__cause__


def _described(value: object) -> str:
    if isinstance(value, torch.Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    return kind_of(value)


def n_samples_of(example: Batch, *, told: int | None, seen: Collection[int]) -> int | None:
    """How many samples a batch has; None where that cannot be known.

    Where the loader's sampler asks for several entries of the dataset, these are the samples. One entry may be a whole
    batch: as without a sampler, the inputs, the target and the layers must then agree on a length. Where the layers see
    another one (the frames of videos, say), that of inputs and target counts.

    Args:
        told: entries of the dataset that the loader's sampler asked for.
        seen: lengths of the inputs of layers.
    """
    if told is not None and told > 1:
        return told
    given = {length for value in (*example.args, *example.kwargs.values()) for length in lengths_of(value)}
    parts = [given, lengths_of(example.target), {*seen}]
    together = agreed(parts)
    if together is None and told is None and all(parts):
        together = agreed(parts[:2])
    return told if together is None else together
