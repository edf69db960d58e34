"""What a value should have been, where pydantic refuses one, in words of ours."""

from collections.abc import Mapping
from typing import Any

from swa_cli.errors import cut

_SHOWN = 60
"""Characters of a wrong value."""
_KINDS = {
    "bool": "true or false",
    "byte": "a size in bytes, as 5GB or 500MiB",
    "dataclass": "a mapping",
    "dict": "a mapping",
    "float": "a number",
    "int": "an integer",
    "invalid": "text as a key",
    "missing": "an entry of that name",
    "path": "a path",
    "string": "text",
    "tuple": "a list",
    "unexpected": "no entry of that name",
}
"""By what the types of pydantic's errors begin with: int_type, int_parsing, int_from_float."""
_BOUNDS = {
    "greater_than": ("gt", "a number above"),
    "greater_than_equal": ("ge", "a number of at least"),
    "less_than": ("lt", "a number below"),
    "less_than_equal": ("le", "a number of at most"),
}


def mismatch(problem: Mapping[str, Any]) -> str:
    """Return what was expected and what was found, given one of ``ValidationError.errors()``.

    >>> mismatch({"type": "int_parsing", "input": "x"})
    "expected an integer, found 'x'"
    >>> mismatch({"type": "less_than_equal", "ctx": {"le": 1000}, "input": 1001})
    'expected a number of at most 1,000, found 1001'
    """
    return f"expected {_expected(problem)}, found {cut(repr(problem['input']), _SHOWN)}"


def _expected(problem: Mapping[str, Any]) -> str:
    kind = str(problem["type"])
    if kind in _BOUNDS:
        bound, phrase = _BOUNDS[kind]
        return f"{phrase} {problem['ctx'][bound]:,}".removesuffix(".0")
    return _KINDS.get(kind.partition("_")[0]) or str(problem["msg"]).removeprefix("Input should be ")
