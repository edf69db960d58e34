"""Refusing calls of ``os._exit`` and the ``exec`` functions by the user's code, which no handler would see."""

import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, Never

_NAMES = ("_exit", "execv", "execve")  # the other exec functions call these


class ExitCalled(BaseException):  # not an error of ours
    """The user's code called a function that would have ended the process without a message."""


@contextmanager
def exits_refused() -> Generator[None]:
    """Within the body, raise `ExitCalled` where a call would end this process without a message.

    Forked processes may still end. Calls from C (``_exit`` through ctypes, a crash) cannot be intercepted.
    """
    kept = {name: getattr(os, name) for name in _NAMES}
    for name, function in kept.items():
        setattr(os, name, _refusing(name, function, os.getpid()))
    try:
        yield
    finally:
        for name, function in kept.items():
            setattr(os, name, function)


def _refusing(name: str, function: Callable[..., Never], process: int) -> Callable[..., Never]:
    def refuse(*arguments: Any) -> Never:
        if os.getpid() != process:
            function(*arguments)
        msg = (
            f"os.{name}({arguments[0]!r}) was called, which would have ended the program without a message"
            if arguments
            else name
        )
        raise ExitCalled(msg)

    return refuse
