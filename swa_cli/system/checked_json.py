"""JSON from files that anybody may have written: parsed if it is not far more values than its size is worth."""

import json
from typing import Any

_LEAST, _BYTES_OF_VALUE = 200_000, 14
_STRUCTURE = (b",", b"[", b"{")


def parse_json(text: bytes) -> Any:
    """Return what ``text`` says.

    Every value takes 30 to 300 bytes of memory, be it one byte of text; files of trainers have 20 bytes for each.

    Raises:
        ValueError: it is not JSON, too deep, or holds too many values.
    """
    check_values(text, max(_LEAST, len(text) // _BYTES_OF_VALUE))
    try:
        return json.loads(text)
    except RecursionError as error:
        msg = "it is nested too deep"
        raise ValueError(msg) from error


def check_values(text: bytes, most: int) -> None:
    """Find out whether JSON holds at most so many values, before it is parsed.

    Raises:
        ValueError: it holds more.
    """
    values = sum(text.count(part) for part in _STRUCTURE)
    if values > most:
        msg = f"it holds {values:,} values in {len(text):,} bytes, expected at most {most:,}"
        raise ValueError(msg)
