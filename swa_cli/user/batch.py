"""Splitting a batch into model inputs and target, moving it to a device, and finding the logits in a model's output.

The output is assumed to be logits; nothing is guessed from its values.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch

from swa_cli.errors import DataError, UserCodeError, kind_of, shortened
from swa_cli.user.dataloader import agreed, lengths_of
from swa_cli.user.guard import user_code

TARGET_KEYS = ("labels", "label", "target")


class Batch(NamedTuple):
    """One batch, split: the output of ``model(*args, **kwargs)`` is compared with ``target``.

    ``groups`` holds an integer or string per unit (example, image, …); units with the same one, such as the images of
    one patient, are resampled together. None means that every unit is independent.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    target: Any
    groups: Any = None


_SIZES = (3, 4)  # without and with groups

Splitter = Callable[[Any], Batch]


def make_splitter(custom: Callable[[Any], object] | None) -> Splitter:
    """Return a checked version of the data module's ``split_batch``, or the default `split_batch`.

    A custom one may return groups as a fourth element.
    """
    if custom is None:
        return split_batch

    def split(batch: object) -> Batch:
        with user_code("split_batch(batch)"):
            parts = custom(batch)
        kind = kind_of(parts)
        if not isinstance(parts, tuple) or len(cast("tuple[Any, ...]", parts)) not in _SIZES:
            size = f" of {len(cast('tuple[Any, ...]', parts))}" if isinstance(parts, tuple) else ""
            msg = f"split_batch(batch) returned a {kind}{size}, expected a tuple (args, kwargs, target)."
            raise DataError(msg)
        args, kwargs, *rest = cast("tuple[Any, ...]", parts)
        kinds = f"args of type {kind_of(args)} and kwargs of type {kind_of(kwargs)}"
        if not isinstance(args, Sequence) or not isinstance(kwargs, Mapping):
            msg = f"split_batch(batch) returned {kinds}, expected a tuple and a dict."
            raise DataError(msg)
        return Batch(tuple(cast("Sequence[Any]", args)), dict(cast("Mapping[str, Any]", kwargs)), *rest)

    return split


def split_batch(batch: Any) -> Batch:
    """Split ``(input, ..., target)``, or a mapping with a key ``labels``, ``label`` or ``target``.

    The other entries of a mapping become keyword arguments of the model. The target of a batch without one (a single
    tensor, a sequence of one, a mapping without those keys) is None, which is enough to recompute BatchNorm statistics.

    Raises:
        DataError: the batch is empty or of another type.
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
        f"cannot split a batch of type {kind}: expected (input, ..., target) or a mapping with "
        f"{', '.join(TARGET_KEYS)}. Define split_batch(batch) -> (args, kwargs, target) in the data module."
    )
    raise DataError(msg)


def logits_of(output: Any) -> torch.Tensor:
    """Return the logits in a model's output: the tensor itself, ``.logits``, ``["logits"]`` or the first of a sequence.

    ``["out"]`` is the key of torchvision's segmentation models.

    Raises:
        DataError: the output has none of these.
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
    """Return ``example`` with the tensors of ``args`` and ``kwargs`` on ``device``; the target is not moved.

    Raises:
        UserCodeError: something in the batch cannot be moved.
    """
    with user_code(f"moving batch {batch} to {device}"):
        return example._replace(args=to_device(example.args, device), kwargs=to_device(example.kwargs, device))


def to_device(value: Any, device: torch.device) -> Any:
    """Move every tensor in ``value`` to ``device``; searches sequences, dicts and objects with a ``.to`` method."""
    if isinstance(value, tuple) and hasattr(cast("object", value), "_fields"):  # a namedtuple
        return type(cast("Any", value))(*(to_device(entry, device) for entry in cast("Sequence[Any]", value)))
    if isinstance(value, (list, tuple)):
        moved = [to_device(entry, device) for entry in cast("Sequence[Any]", value)]
        return tuple(moved) if isinstance(value, tuple) else moved
    if isinstance(value, dict):
        return {name: to_device(entry, device) for name, entry in cast("dict[Any, Any]", value).items()}
    moved = value.to(device) if hasattr(value, "to") else value
    return value if moved is None else moved  # some .to() methods work in place


def copied(value: Any) -> Any:
    """Return ``value`` with a copy of every tensor in it, found as in `to_device`."""
    if isinstance(value, tuple) and hasattr(cast("object", value), "_fields"):
        return type(cast("Any", value))(*(copied(entry) for entry in cast("Sequence[Any]", value)))
    if isinstance(value, (list, tuple)):
        entries = [copied(entry) for entry in cast("Sequence[Any]", value)]
        return tuple(entries) if isinstance(value, tuple) else entries
    if isinstance(value, dict):
        return {name: copied(entry) for name, entry in cast("dict[Any, Any]", value).items()}
    return value.clone() if hasattr(value, "clone") else value


def to_channels_last(value: Any) -> Any:
    """Return a tensor of 4 or 5 dimensions in channels-last memory format, and any other value unchanged."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    if isinstance(value, torch.Tensor) and value.ndim in formats:
        return value.contiguous(memory_format=formats[value.ndim])
    return value


def call_model(model: Callable[..., Any], example: Batch, *, doing: str) -> Any:
    """Return ``model(*args, **kwargs)``.

    Raises:
        UserCodeError: the forward pass raises; the message lists the inputs with their dtypes and shapes.
    """
    try:
        with user_code(doing):
            return model(*example.args, **example.kwargs)
    except UserCodeError as error:
        positional = [described(value) for value in example.args]
        named = [f"{name}={described(value)}" for name, value in example.kwargs.items()]
        hint = (
            " If the model takes other inputs, define split_batch(batch) -> (args, kwargs, target) in the data module."
            if isinstance(error.__cause__, TypeError)
            else ""
        )
        given = f"The model was called with ({shortened([*positional, *named])}).{hint}"
        raise UserCodeError(*error.args, given) from error.__cause__


def described(value: object) -> str:
    """Return dtype and shape of a tensor, and the type of anything else, for a message."""
    if isinstance(value, torch.Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    return kind_of(value)


def n_samples_of(example: Batch, *, indices: int | None, seen: Collection[int]) -> int | None:
    """Return the number of samples in a batch, or None if it is ambiguous.

    If the sampler asked for several dataset entries, these are the samples. A single entry may be a whole batch; then,
    as without a sampler, the inputs, the target and the layers' inputs must agree on a length. If only the layers
    differ (they may see the frames of videos), the length of inputs and target counts.

    Args:
        indices: number of dataset entries that the loader's sampler asked for; None if unknown.
        seen: lengths of the inputs of the BatchNorm layers.
    """
    if indices is not None and indices > 1:
        return indices
    given = {length for value in (*example.args, *example.kwargs.values()) for length in lengths_of(value)}
    parts = [given, lengths_of(example.target), {*seen}]
    together = agreed(parts)
    if together is None and indices is None and all(parts):
        together = agreed(parts[:2])
    return indices if together is None else together
