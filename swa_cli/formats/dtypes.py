"""Dtypes of tensors as numpy knows them, with those of ml_dtypes, so that files are read without torch.

Their names are torch's: ``numpy.dtype(ml_dtypes.bfloat16).name`` is ``bfloat16``.
"""

import ml_dtypes
import numpy as np

Dtype = np.dtype[np.generic]


def _dtype(name: str) -> Dtype:
    return np.dtype(getattr(ml_dtypes, name) if hasattr(ml_dtypes, name) else name)


_FLOATING = {
    name: _dtype(name)
    for name in (
        *("float64", "float32", "float16", "bfloat16"),
        *("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"),
    )
}
_COMPLEX = {name: _dtype(name) for name in ("complex64", "complex128")}
_WHOLE = {
    name: _dtype(name) for name in ("int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8", "bool")
}
BY_NAME = {**_FLOATING, **_COMPLEX, **_WHOLE}
"""All dtypes of dense tensors that torch and safetensors share, by their names."""


_FLOATING_DTYPES = frozenset(_FLOATING.values())  # numpy spells a name out anew each time it is asked for
_COMPLEX_DTYPES = frozenset(_COMPLEX.values())


def is_floating(dtype: Dtype) -> bool:
    """Whether this is a kind of real floating number."""
    return dtype in _FLOATING_DTYPES


def is_averaged(dtype: Dtype) -> bool:
    """Whether tensors of this dtype are averaged: floating and complex ones are."""
    return dtype in _FLOATING_DTYPES or dtype in _COMPLEX_DTYPES


def real_dtype(dtype: Dtype) -> Dtype:
    """The dtype of a tensor's numbers: those of a complex one are its real and imaginary parts, in turn."""
    if dtype not in _COMPLEX_DTYPES:
        return dtype
    return BY_NAME["float32" if dtype == BY_NAME["complex64"] else "float64"]


def reals(numel: int, dtype: Dtype) -> int:
    """How many real numbers so many elements are."""
    return numel * (2 if dtype in _COMPLEX_DTYPES else 1)
