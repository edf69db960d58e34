"""Single numbers that a pickle holds beside the weights: Python's, numpy's, and tensors of one element."""

from collections.abc import Callable, Mapping
from typing import Any, cast

import numpy as np

from swa_cli.formats.dtypes import Dtype
from swa_cli.formats.torch.inert_objects import Inert
from swa_cli.formats.torch.rebuild import PickledTensor

Number = int | float
ReadTensor = Callable[[PickledTensor], Number | None]
"""Reads the only element of a tensor; None if it has none or several, or cannot be read."""

_MOST = 10_000
_MOST_TENSORS = 200
_WIDEST = 8
_SCALARS = {"f2": "float16", "f4": "float32", "f8": "float64"} | {f"{k}{n}": f"{k}{n}" for k in "iu" for n in "1248"}


def numbers_in(entries: Mapping[Any, Any], read: ReadTensor | None) -> dict[str, Number]:
    """Those of ``entries`` that are single numbers, by their names; a Boolean is none.

    Args:
        read: how the element of a tensor is read; None leaves tensors out, as where they are the weights.
    """
    found: dict[str, Number] = {}
    tensors = 0
    for name, value in entries.items():
        if type(name) is not str or len(found) >= _MOST:
            continue
        if type(value) is PickledTensor:
            tensors += 1
            if read is None or tensors > _MOST_TENSORS:
                continue
            number = read(value)
        else:
            number = _plain(value)
        if number is not None:
            found[name] = number
    return found


def read_number(value: object, read: ReadTensor) -> Number | None:
    """``value`` if it is a single number of any of these kinds."""
    return read(value) if isinstance(value, PickledTensor) else _plain(value)


def entries_of(value: object) -> dict[Any, Any]:
    """``value`` as a mapping, or an empty one if it is none."""
    if isinstance(value, dict):
        return cast("dict[Any, Any]", value)
    return value.items or {} if type(value) is Inert else {}


def from_bytes(data: bytes, dtype: Dtype) -> Number | None:
    """The one number that ``data`` is."""
    if len(data) != dtype.itemsize or dtype.kind in "cb":
        return None
    value = np.frombuffer(data, dtype)[0]
    return int(value) if dtype.kind in "iu" else float(cast("float", value))


def _plain(value: object) -> Number | None:
    if type(value) is float:
        return value
    if type(value) is int:
        return value if abs(value) < 1 << 63 else None
    return _numpy_scalar(value) if type(value) is Inert else None


def _numpy_scalar(record: Inert) -> Number | None:
    """What ``numpy.float64(0.5)`` and the like are pickled as: a call with a dtype and bytes."""
    if record.name != "scalar" or not record.module.startswith("numpy.") or len(record.args) != 2:  # noqa: PLR2004
        return None
    dtype, data = record.args
    if type(dtype) is not Inert or dtype.name != "dtype" or not dtype.args or type(dtype.args[0]) is not str:
        return None
    kind, state = dtype.args[0], dtype.state
    if type(state) is tuple and len(cast("tuple[Any, ...]", state)) > 1 and state[1] not in ("<", "|", "="):
        return None
    raw = _bytes(data)
    return from_bytes(raw, np.dtype(_SCALARS[kind])) if kind in _SCALARS and raw is not None else None


def _bytes(data: object) -> bytes | None:
    """Bytes, which older protocols write as a call: text and the encoding."""
    if type(data) is bytes:
        return data
    if type(data) is not Inert or (data.module, data.name) != ("_codecs", "encode") or not data.args:
        return None
    text = data.args[0]
    return text.encode("latin-1", "replace") if type(text) is str and len(text) <= _WIDEST else None
