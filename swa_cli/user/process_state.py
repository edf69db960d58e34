"""Keeping process-wide settings of the user's code apart from ours: working directory, torch's and numpy's defaults."""

import os
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from typing import Any

_THEIRS: dict[str, tuple[Any, Any]] = {}
"""Settings that the user's code has changed: the value before, and the value while that code runs."""
_INSIDE: list[bool] = []
"""Not empty while the user's code runs."""


@contextmanager
def users_own() -> Generator[None]:
    """Put the user's settings in force within the body, and ours before and after it.

    A model may change the directory or set torch's default device to "meta"; our own relative paths and tensors must
    not be affected. A setting that the caller of the library changes between two calls applies to both sides.
    """
    if _INSIDE:
        yield
        return
    ours = {name: read() for name, (read, _) in _kinds().items()}
    for name, (_, write) in _kinds().items():
        before, theirs = _THEIRS.get(name, (None, None))
        if name in _THEIRS and before == ours.get(name):
            write(theirs)
    _INSIDE.append(True)
    try:
        yield
    finally:
        _INSIDE.clear()
        for name, (read, write) in _kinds().items():
            now = read()
            _THEIRS.pop(name, None)
            if name in ours and now != ours[name]:
                _THEIRS[name] = ours[name], now
                write(ours[name])


def forget() -> None:
    """Drop the settings of the user's code, as at the start of the process."""
    _THEIRS.clear()


def _kinds() -> dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]]:
    """Return how to read and write each setting, for the modules that are imported so far."""
    torch, numpy = sys.modules.get("torch"), sys.modules.get("numpy")
    kinds: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {"directory": (_directory, _change_directory)}
    if hasattr(torch, "set_default_device") and hasattr(torch, "get_default_dtype"):  # not while it is being imported
        kinds["device"] = (_device, _set_device)
        kinds["dtype"] = (torch.get_default_dtype, torch.set_default_dtype)  # pyright: ignore[reportOptionalMemberAccess, reportUnknownMemberType]
    if hasattr(numpy, "geterr"):
        kinds["numpy"] = (numpy.geterr, lambda found: numpy.seterr(**found))  # pyright: ignore[reportOptionalMemberAccess, reportUnknownMemberType]
    return kinds


def _directory() -> str | None:
    with suppress(OSError):  # it may be gone
        return os.getcwd()  # noqa: PTH109  # called for every batch
    return None


def _change_directory(folder: str | None) -> None:
    if folder is not None:
        with suppress(OSError):
            os.chdir(folder)


def _device() -> str | None:
    """Return torch's default device, or None if none was set."""
    torch: Any = sys.modules["torch"]
    context = getattr(torch._GLOBAL_DEVICE_CONTEXT, "device_context", None)  # noqa: SLF001  # the public one makes a tensor
    return None if context is None else str(context.device)


def _set_device(device: str | None) -> None:
    torch: Any = sys.modules["torch"]
    torch.set_default_device(device)
