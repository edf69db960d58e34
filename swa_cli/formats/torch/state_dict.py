"""Finding the state_dict inside what a trainer saved, and undoing the names that wrappers give."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, TypeVar

from swa_cli.errors import LISTED, CheckpointError, cut, kind_of, option, shortened
from swa_cli.formats.dtypes import is_averaged
from swa_cli.formats.torch.inert_objects import Inert, is_array
from swa_cli.formats.torch.optimizer_state import is_of_optimizer
from swa_cli.formats.torch.rebuild import PickledTensor
from swa_cli.formats.torch.tensor_dicts import Mappings

USUAL_KEYS = ("state_dict", "model", "model_state_dict", "model_state", "module", "net")
_SHOWN = 100
_MOST_LISTED = 10_000
_LONGEST_NAME = 10_000
"""Characters of a tensor's name: far more than any has, and few enough to be shown."""

V = TypeVar("V")


def find_state_dict(contents: object, key: str | None, mappings: Mappings) -> tuple[str, Mapping[Any, Any]]:
    """The mapping of names to tensors in ``contents``, and the dotted key under which it lies ("" for the top).

    Args:
        contents: what the pickle describes.
        key: dotted path to take instead of the usual keys.
        mappings: what has been read as a mapping before.

    Raises:
        CheckpointError: there is none, there are several, or ``key`` does not lead to one. The message has no
            file name; the caller adds it.
    """
    if key is not None:
        return key, _walk(contents, key, mappings)
    mapping = mappings.of(contents)
    if mapping is None:
        msg = f"holds {_what(contents)}, expected a state_dict or a mapping that contains one."
        raise CheckpointError(msg)
    usual = [name for name in USUAL_KEYS if mappings.of_tensors(mapping.get(name)) is not None]
    if len(usual) == 1:
        return usual[0], mappings.of_tensors(mapping[usual[0]]) or {}
    if len(usual) > 1:
        msg = f"holds several state_dicts: {', '.join(usual)}. Name one with {option('key')}."
        raise CheckpointError(msg)
    if mappings.of_tensors(contents) is not None:
        beside = [name for name in other_state_dicts(contents, "", mappings) if not name.endswith("_extra_state")]
        if beside:
            msg = (
                f"holds tensors, and state_dicts beside them: {shortened(beside)}. Name one of these with "
                f"{option('key')}."
            )
            raise CheckpointError(msg)
        return "", mapping
    found = list(islice(_tensor_mappings(mapping, mappings), _MOST_LISTED))
    if is_of_optimizer(mapping, found):
        msg = f"holds the state of an optimizer and no model. Leave it out ({option('exclude')})."
        if "ds_version" in mapping or "ds_config" in mapping:
            msg = (
                "holds a share of DeepSpeed's optimizer state and no model. Turn each checkpoint into a whole one with "
                "the zero_to_fp32.py in its folder, and average those."
            )
    elif found:
        msg = f"has no state_dict under a usual key. Name one of these with {option('key')}: {shortened(found)}."
    elif arrays := [name for name in ("", *USUAL_KEYS) if _holds_arrays(mappings.of(mapping.get(name, mapping)))]:
        msg = (
            f"the weights {f'under {arrays[0]!r}' if arrays[0] else 'at the top'} are numpy arrays, expected tensors. "
            "Save them as tensors (torch.from_numpy)."
        )
    else:
        msg = (
            f"holds no tensors under a usual key; its keys are {_names(mapping)}. Name the right one with "
            f"{option('key')}."
        )
    raise CheckpointError(msg)


def other_state_dicts(contents: object, chosen: str, mappings: Mappings) -> tuple[str, ...]:
    """Dotted keys of the other mappings of tensors at the top: an EMA copy, a second network."""
    return tuple(
        str(name)
        for name, value in (mappings.of(contents) or {}).items()
        if type(value) is not PickledTensor and str(name) != chosen and _holds_weights(mappings.of_tensors(value))
    )


def _holds_arrays(mapping: Mapping[Any, Any] | None) -> bool:
    """Whether all that is there is named numpy arrays."""
    return bool(mapping) and all(type(name) is str and is_array(value) for name, value in (mapping or {}).items())


def _holds_weights(mapping: Mapping[Any, Any] | None) -> bool:
    """Whether there is more than counters: a tensor that would be averaged."""
    values = (mapping or {}).values()
    return any(isinstance(value, PickledTensor) and is_averaged(value.dtype) for value in values)


def strip_wrappers(state: Mapping[str, V]) -> dict[str, V]:
    """Undo the names that DataParallel, DDP, torch.compile and AveragedModel give.

    ``_orig_mod`` is dropped wherever it stands in a name, ``module.`` where every name starts with it; the
    counter ``n_averaged`` that ``torch.optim.swa_utils.AveragedModel`` adds beside its ``module.`` goes with it.

    Raises:
        CheckpointError: two names become one, or one is too long. The message has no file name; the caller adds it.
    """
    longest = max(map(len, state), default=0)
    if longest > _LONGEST_NAME:
        msg = f"a tensor has a name of {longest:,} characters, expected at most {_LONGEST_NAME:,}. Save it again."
        raise CheckpointError(msg)
    if not any("_orig_mod" in name or name.startswith("module.") for name in state):
        return dict(state)
    depth = _wrapped(state)
    short: dict[str, str] = {}
    for name in state:
        modules, stripped = _unwrapped(name, depth)
        if stripped == "n_averaged" and modules < depth:
            continue
        if stripped in short:
            msg = f"tensors {short[stripped]} and {name} have the same name once wrapper prefixes are stripped."
            raise CheckpointError(msg)
        short[stripped] = name
    return {stripped: state[name] for stripped, name in short.items()}


def strip_beside(names: Iterable[str], state: Mapping[str, object]) -> dict[str, str]:
    """Names of what lies beside the tensors of ``state``, by what is left of them once stripped as those are.

    One that would then be another's name, or a tensor's, is not among them.
    """
    listed = [*names]
    if not listed:
        return {}
    depth = _wrapped(state)
    taken = {_unwrapped(name, depth)[1] for name in state}
    short: dict[str, str] = {}
    for name in listed:
        stripped = _unwrapped(name, depth)[1]
        if stripped not in taken:
            short[stripped] = name
            taken.add(stripped)
    return short


def wrappers_in(names: Iterable[str]) -> tuple[str, ...]:
    """The prefixes that `strip_wrappers` takes off, as often as each stands before a name.

    >>> wrappers_in(["module._orig_mod.w", "module._orig_mod.b"])
    ('module.', '_orig_mod.')
    """
    listed = [*names]
    if not any("_orig_mod" in name or name.startswith("module.") for name in listed):
        return ()
    compiled = any("_orig_mod" in name.split(".") for name in listed)
    return ("module.",) * _wrapped(listed) + (("_orig_mod.",) if compiled else ())


def _wrapped(names: Iterable[str]) -> int:
    """How often ``module.`` stands before all names, a counter's apart."""
    split = [_unwrapped(name, None) for name in names]
    modules = [count for count, rest in split if rest != "n_averaged"]
    return min(modules, default=max((count for count, _ in split), default=0))


def _unwrapped(name: str, depth: int | None) -> tuple[int, str]:
    """How often (``depth`` times at most) ``module.`` stands before ``name``, and what follows."""
    if not name.startswith(("module.", "_orig_mod.")) and "._orig_mod" not in name and name != "_orig_mod":
        return 0, name
    parts = [part for part in name.split(".") if part != "_orig_mod"]
    count = 0
    while count < len(parts) - 1 and parts[count] == "module" and count != depth:
        count += 1
    return count, ".".join(parts[count:])


def _walk(contents: object, key: str, mappings: Mappings) -> Mapping[Any, Any]:
    value, walked = contents, "the top"
    literal = mappings.of(contents) or {}
    for part in [key] if key in literal else key.split("."):
        mapping = mappings.of(value)
        if mapping is None or part not in mapping:
            found = _what(value) if mapping is None else _names(mapping)
            msg = f"has no key {key!r}: at {walked}, expected {part!r}, found {found}."
            raise CheckpointError(msg)
        value, walked = mapping[part], part
    found = mappings.of_tensors(value)
    if found is None:
        msg = f"has no tensors at key {key!r}: found {_what(value)}."
        raise CheckpointError(msg)
    return found


def _tensor_mappings(mapping: Mapping[Any, Any], mappings: Mappings) -> Iterator[str]:
    """Dotted keys of the mappings of tensors, three levels down; long ones are cut."""
    level, seen = [("", mapping)], {id(mapping)}
    for _ in range(3):
        below: list[tuple[str, Mapping[Any, Any]]] = []
        for prefix, outer in level:
            for name, value in outer.items():
                inner = mappings.of(value)
                if mappings.of_tensors(value) is not None:
                    yield cut(f"{prefix}{name}", _SHOWN)
                elif inner is not None and id(inner) not in seen:
                    seen.add(id(inner))
                    below.append((cut(f"{prefix}{name}.", _SHOWN), inner))
        level = below


def _what(value: object) -> str:
    """What ``value`` is, for a message."""
    if isinstance(value, PickledTensor):
        return "a tensor"
    return f"a {value.module}.{value.name}"[:_SHOWN] if isinstance(value, Inert) else f"a {kind_of(value)}"


def _names(mapping: Mapping[Any, Any]) -> str:
    return shortened([repr(name)[:_SHOWN] for name in islice(mapping, LISTED)], len(mapping)) or "nothing"
