"""What one entry of a configuration, or one flag, may be written as."""

import os
import re
from pathlib import Path
from typing import Annotated, Literal, cast

from pydantic import AfterValidator, BeforeValidator, ByteSize, Field, TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError

from swa_cli.config.option import Gathered, Option, Panel, TakenAs
from swa_cli.config.reporters import REPORTERS


def _not_boolean(value: object) -> object:
    """YAML reads ``yes`` and ``on`` as booleans, which Python counts among the numbers."""
    if isinstance(value, bool):
        raise PydanticCustomError("number", "a number")  # noqa: EM101  # as pydantic has it
    return value


Integer = Annotated[int, BeforeValidator(_not_boolean)]
Number = Annotated[float, BeforeValidator(_not_boolean)]

_LARGEST = 2**63 - 1
Count = Annotated[Integer, Field(gt=0, le=_LARGEST)]
"""A number of things, as sizes of containers are limited."""
Step = Annotated[Integer, Field(ge=-_LARGEST, le=_LARGEST)]
"""A step of the training, as files record it."""
Threads = Annotated[Integer, Field(gt=0, le=256)]
"""Each has buffers of its own, and more than the cores are of no use."""


def _of_the_system(path: Path) -> Path:
    if "\0" in str(path):
        raise PydanticCustomError("null_character", "a path without a null character")  # noqa: EM101  # as pydantic has it
    try:
        os.fsencode(path)
    except UnicodeEncodeError as error:
        raise PydanticCustomError("surrogate", "a path of Unicode characters") from error  # noqa: EM101  # likewise
    return path


AnyPath = Annotated[Path, AfterValidator(_of_the_system)]
"""The path of a file or a folder."""


def _as_list(value: object) -> object:
    return [value] if isinstance(value, (str, Path)) else value


def _split(value: object) -> object:
    if isinstance(value, str):
        return value.split(",")
    return [value] if isinstance(value, (int, float)) else value


Numbers = Annotated[tuple[Number, ...], BeforeValidator(_split), TakenAs(str)]
"""One number, several, or several in a text with commas between them."""


def _windows(value: object) -> object:
    if value == "log":
        return value
    try:
        return TypeAdapter(tuple[Count, ...]).validate_python(_split(value))
    except ValidationError as error:
        kind, expected = "windows", "numbers of checkpoints, as 1,2,4, or log"
        raise PydanticCustomError(kind, expected) from error


Windows = Annotated[tuple[int, ...] | Literal["log"], BeforeValidator(_windows), TakenAs(str)]
"""Numbers of checkpoints, likewise, or ``log`` for 1, 2, 4, … and all."""


def _margins(value: object) -> object:
    """A lone number is the margin of the task's primary metric."""
    given = [value] if isinstance(value, (int, float, str)) else value
    if not isinstance(given, list):
        if isinstance(given, dict):
            return cast("object", given)
        raise PydanticCustomError("margin", "a number, or a number for each metric")  # noqa: EM101  # as pydantic has it
    parts = [str(entry).rpartition("=") for entry in cast("list[object]", given)]
    return {name: number for name, _, number in parts}


Margins = Annotated[
    dict[str, Annotated[Number, Field(ge=0, allow_inf_nan=False)]], BeforeValidator(_margins), TakenAs(list[str])
]
"""By metric; under the empty name that of the task's primary metric."""

Paths = Annotated[tuple[AnyPath, ...], BeforeValidator(_as_list)]
"""One path, or several."""
Patterns = Annotated[tuple[str, ...], BeforeValidator(_as_list)]
"""One pattern, or several."""


def _of_reporters(reports: dict[str, Path]) -> dict[str, Path]:
    if not reports.keys() <= REPORTERS.keys():
        raise PydanticCustomError("reports", "{names}", {"names": f"only {', '.join(REPORTERS)}"})  # noqa: EM101  # as pydantic has it
    return reports


Reports = Annotated[
    dict[str, AnyPath],
    AfterValidator(_of_reporters),
    Gathered({name: Option(help=reporter.help, panel=Panel.FILES) for name, reporter in REPORTERS.items()}),
]
"""By the names of reporters, each of which is a key: the files that an evaluation is written to."""

_SIZE = re.compile(r"\d+(\.\d+)? ?[A-Za-z]*")


def _whole_size(value: object) -> object:
    """Refuse what `ByteSize` would read the beginning of and drop the rest: 5,5GB as 5 bytes."""
    if isinstance(value, str) and not _SIZE.fullmatch(value.strip()):
        raise PydanticCustomError("byte_size", "")  # noqa: EM101  # pydantic's own, for all other texts
    return value


Size = Annotated[
    ByteSize,
    Field(gt=0, le=_LARGEST),
    BeforeValidator(_whole_size),
    BeforeValidator(_not_boolean),
    TakenAs(str),
]
"""Bytes, as a number or with a unit: 5GB, 500MiB."""
