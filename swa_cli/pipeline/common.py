"""What the steps share: asking a configuration for what must be there, or for what is selected."""

from collections.abc import Callable
from dataclasses import fields
from typing import TypeVar

from swa_cli.checkpoints import Selection
from swa_cli.config import AverageConfig, EvalConfig
from swa_cli.errors import UsageError

Notify = Callable[[str], None]

T = TypeVar("T")


def needed(value: T | None, what: str, *, flag: str, key: str) -> T:
    """``value``, or an error that says how to give it.

    Raises:
        UsageError: ``value`` is missing or empty.
    """
    if not value:
        msg = f"no {what} given: name it with {flag}, or as {key} in the configuration."
        raise UsageError(msg)
    return value


def selection_of(options: AverageConfig | EvalConfig) -> Selection:
    """What a section says of which checkpoints are meant.

    Raises:
        UsageError: it contradicts itself.
    """
    return Selection(**{field.name: getattr(options, field.name) for field in fields(Selection)})
