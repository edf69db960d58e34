"""The types of the fields of a record, each with what a value must be like."""

import math
import re
from typing import Annotated, Any, TypeVar, cast

from pydantic import AfterValidator, BeforeValidator, FailFast, Field, ValidationInfo

from swa_cli.formats.dtypes import BY_NAME, is_floating

_DEEPEST = 8
"""Of an argument, how many mappings and lists within each other are kept as such: YAML can put a list into itself."""

T = TypeVar("T")


def escape_surrogates(name: str) -> str:
    """How a record spells the name of a file: what is no Unicode in it is written out."""
    return name.encode(errors="backslashreplace").decode()


def unescape_surrogates(text: str) -> str:
    """The name of a file as it is, from how a record spells it."""
    return re.sub(r"\\(udc[89a-f][0-9a-f])", lambda found: chr(int(found[1][1:], 16)), text)


def _spelt_if_text(value: object) -> object:
    return escape_surrogates(value) if isinstance(value, str) else value


def _as_json(value: object, info: ValidationInfo) -> object:
    return value if info.mode == "json" else _within(value, _DEEPEST)


def _within(value: object, depth: int) -> object:
    """A value of YAML as JSON has it: a set as a list, a date, NaN and other values that JSON lacks as text."""
    if value is None or isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if isinstance(value, dict) and depth:
        entries = cast("dict[object, object]", value).items()
        return {escape_surrogates(str(name)): _within(entry, depth - 1) for name, entry in entries}
    if isinstance(value, (list, tuple)) and depth:
        return [_within(entry, depth - 1) for entry in cast("list[object]", value)]
    if isinstance(value, (set, frozenset)):
        return sorted([escape_surrogates(str(entry)) for entry in cast("set[object]", value)], key=str)
    return escape_surrogates(str(cast("object", value)))


def _finite(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _without_null(name: str) -> str:
    return _checked(name, fits="\0" not in name, expected="a name without a null character")


def _without_folder(name: str) -> str:
    return _checked(name, fits="/" not in name and name not in {"", ".", ".."}, expected="the name of a file")


def _floating(name: str) -> str:
    return _checked(name, fits=name in BY_NAME and is_floating(BY_NAME[name]), expected="a floating dtype")


def _with_texts(value: object) -> object:
    return _checked(value, fits=_values(value) <= {str}, expected="texts")


def _with_numbers(value: object) -> object:
    return _checked(value, fits=_values(value) <= {int}, expected="integers")


def _values(value: object) -> set[type]:
    """The types of the values of a mapping: one error for all of them, where there may be a hundred thousand."""
    return {type(entry) for entry in cast("dict[object, object]", value).values()} if isinstance(value, dict) else set()


def _checked(value: T, *, fits: bool, expected: str) -> T:
    if not fits:
        msg = f"expected {expected}"
        raise ValueError(msg)
    return value


Unicode = Annotated[str, BeforeValidator(_spelt_if_text)]
"""What is no Unicode in a file's name is spelt out; `unescape_surrogates` reads it."""
Name = Annotated[Unicode, AfterValidator(_without_null)]
"""Of a file or a folder."""
FileName = Annotated[Name, AfterValidator(_without_folder)]
"""Of a file beside the one that holds the record."""
FloatingDtype = Annotated[str, AfterValidator(_floating)]
Arguments = Annotated[dict[str, Any], BeforeValidator(_as_json)]
"""What a model or data module was called with, as it survives JSON."""
CombinerName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,39}$")]
"""Also one that this version does not have: `swa inspect` shows it."""
Finite = Annotated[float | None, BeforeValidator(_finite)]
"""None where it is not known, or not finite, for which JSON has no number."""
Count = Annotated[int, Field(ge=0)]
Digests = Annotated[dict[Unicode, str], BeforeValidator(_with_texts)]
"""SHA-256 of files, by name."""
Frames = Annotated[dict[FileName, str], BeforeValidator(_with_texts)]
Texts = Annotated[dict[Unicode, Unicode], BeforeValidator(_with_texts)]
Checks = Annotated[dict[Unicode, int], BeforeValidator(_with_numbers)]
"""CRC-32 of tensors, by name."""
Many = Annotated[tuple[T, ...], FailFast()]
"""Any number of values, read up to the first that is wrong."""
