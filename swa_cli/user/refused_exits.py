"""Ends of the process that no handler sees: ``os._exit`` and the ``exec`` functions, called by the user's code."""

import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, Never

_NAMES = ("_exit", "execv", "execve")  # which the others of the family call


class ExitCalled(BaseException):  # what happened, not an error of ours
    """The process would have ended here, with the exit code of the user's choice and without a word."""


@contextmanager
def exits_refused() -> Generator[None]:
    """Within the body, a call that would end this process without a word raises `ExitCalled` instead.

    Processes that are forked meanwhile end as ever. What is called in C (``_exit`` by ctypes, a crash) is out of reach.
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
            f"os.{name}({arguments[0]!r}) was called, which would have ended the program without a word"
            if arguments
            else name
        )
        raise ExitCalled(msg)

    return refuse
