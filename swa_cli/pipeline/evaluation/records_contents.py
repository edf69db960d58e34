"""What files of records hold in either form."""

import os
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from swa_cli.errors import SourceError
from swa_cli.system.checked_json import parse_json

VERSION = 1
METADATA = "swa_cli"
GROUPS = "groups"
_LEAST_AMOUNT, _MOST_TIMES = 1 << 27, 8
"""Bytes that a file of records may hold once it is decompressed: so many, and so many for each of its own."""
Column = tuple[int, str]
"""The place of a row, and the name of one of its columns."""


class Contents(NamedTuple):
    """What both forms hold: all that is small as JSON, and the columns."""

    about: dict[str, Any]
    columns: dict[Column, NDArray[np.float64]]
    groups: NDArray[np.int64] | None


def known(text: str, path: Path) -> dict[str, Any]:
    """Return the description of the records, if its version is the one that this code writes."""
    about: dict[str, Any] = parse_json(text.encode())
    if about["version"] != VERSION:
        msg = f"{path} has records of version {about['version']}, and this swa-cli reads {VERSION}. Upgrade it."
        raise SourceError(msg)
    return about


def check_amount(amount: int, stream: BinaryIO) -> None:
    """Find out whether a file does not hold far more than its size is worth, once it is decompressed.

    Raises:
        ValueError: it does.
    """
    size = os.fstat(stream.fileno()).st_size
    most = _LEAST_AMOUNT + _MOST_TIMES * size
    if amount > most:
        msg = f"{size:,} bytes that hold {amount:,}, expected at most {most:,}"
        raise ValueError(msg)
