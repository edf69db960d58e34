"""Finding the state_dict inside what a trainer saved, and undoing the names that wrappers give."""

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar, cast

from swa_cli.checkpoints.torch_pickle import PickledTensor
from swa_cli.errors import LISTED, CheckpointError, kind_of

USUAL_KEYS = ("state_dict", "model", "model_state_dict", "model_state", "module", "net")

V = TypeVar("V")


def find_state_dict(contents: object, key: str | None) -> tuple[str, Mapping[Any, Any]]:
    """The mapping of names to tensors in ``contents``, and the dotted key under which it lies ("" for the top).

    Args:
        contents: what the pickle describes.
        key: dotted path to take instead of the usual keys.

    Raises:
        CheckpointError: there is none, there are several, or ``key`` does not lead to one. The message has no
            file name; the caller adds it.
    """
    if key is not None:
        return key, _walk(contents, key)
    if not isinstance(contents, Mapping):
        msg = f"holds a {kind_of(contents)}, expected a state_dict or a mapping that contains one."
        raise CheckpointError(msg)
    mapping = cast("Mapping[Any, Any]", contents)
    usual = [name for name in USUAL_KEYS if holds_tensors(mapping.get(name))]
    if len(usual) == 1:
        return usual[0], mapping[usual[0]]
    if len(usual) > 1:
        msg = f"holds several state_dicts: {', '.join(usual)}. Name one with --key."
        raise CheckpointError(msg)
    if holds_tensors(mapping):
        return "", mapping
    found = list(_tensor_mappings(mapping))
    if found:
        msg = f"has no state_dict under a usual key. Name one of these with --key: {', '.join(found)}."
    else:
        msg = f"holds no tensors under a usual key; its keys are {_names(mapping)}. Name the right one with --key."
    raise CheckpointError(msg)


def other_state_dicts(contents: object, chosen: str) -> tuple[str, ...]:
    """Dotted keys of the other mappings of tensors at the top: an EMA copy, a second network."""
    if not isinstance(contents, Mapping):
        return ()
    mapping = cast("Mapping[Any, Any]", contents)
    return tuple(str(name) for name, value in mapping.items() if str(name) != chosen and holds_tensors(value))


def holds_tensors(value: object) -> bool:
    """Whether ``value`` maps names to tensors, some of them at least."""
    if not isinstance(value, Mapping):
        return False
    entries = cast("Mapping[Any, Any]", value).items()
    return any(isinstance(name, str) and isinstance(entry, PickledTensor) for name, entry in entries)


def strip_wrappers(state: Mapping[str, V]) -> dict[str, V]:
    """Undo the names that DataParallel, DDP, torch.compile and AveragedModel give.

    ``_orig_mod`` is dropped wherever it stands in a name, ``module.`` where every name starts with it; the
    counter ``n_averaged`` that ``torch.optim.swa_utils.AveragedModel`` adds beside its ``module.`` goes with it.

    Raises:
        CheckpointError: two names become one. The message has no file name; the caller adds it.
    """
    names = {name: ".".join(part for part in name.split(".") if part != "_orig_mod") for name in state}
    while True:
        wrapped = [name for name, short in names.items() if short != "n_averaged"]
        if not wrapped or not all(names[name].startswith("module.") for name in wrapped):
            break
        names = {name: names[name].removeprefix("module.") for name in wrapped}
    short: dict[str, str] = {}
    for name, stripped in names.items():
        if stripped in short:
            msg = f"tensors {short[stripped]} and {name} have the same name once wrapper prefixes are stripped."
            raise CheckpointError(msg)
        short[stripped] = name
    return {stripped: state[name] for stripped, name in short.items()}


def _walk(contents: object, key: str) -> Mapping[Any, Any]:
    value, walked = contents, "the top"
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            found = _names(cast("Mapping[Any, Any]", value)) if isinstance(value, Mapping) else kind_of(value)
            msg = f"has no key {key!r}: at {walked}, expected {part!r}, found {found}."
            raise CheckpointError(msg)
        value, walked = cast("Mapping[Any, Any]", value)[part], part
    if not holds_tensors(value):
        msg = f"has no tensors at key {key!r}: found {kind_of(value)}."
        raise CheckpointError(msg)
    return cast("Mapping[Any, Any]", value)


def _tensor_mappings(mapping: Mapping[Any, Any], prefix: str = "", depth: int = 3) -> Iterator[str]:
    for name, value in mapping.items():
        if holds_tensors(value):
            yield f"{prefix}{name}"
        elif isinstance(value, Mapping) and depth > 1:
            yield from _tensor_mappings(cast("Mapping[Any, Any]", value), f"{prefix}{name}.", depth - 1)


def _names(mapping: Mapping[Any, Any]) -> str:
    shown = ", ".join(repr(name) for name in list(mapping)[:LISTED])
    more = len(mapping) - LISTED
    return (f"{shown} and {more} more" if more > 0 else shown) or "nothing"
