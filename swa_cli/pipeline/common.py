"""What the steps share: asking a configuration for what must be there."""

from collections.abc import Callable
from typing import TypeVar

from torch import nn

from swa_cli.config import Config, TargetConfig
from swa_cli.data import build_data_module
from swa_cli.errors import UsageError
from swa_cli.models import build_model

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


def model_of(config: Config) -> tuple[nn.Module, TargetConfig]:
    """The user's model, built, and what built it."""
    target = needed(config.model, "model", flag="--model file.py:Name", key="model.class_path")
    return build_model(target.class_path, target.init_args), target


def data_of(config: Config) -> tuple[object, TargetConfig]:
    """The user's data module, built, and what built it."""
    target = needed(config.data, "data module", flag="--data file.py:Name", key="data.class_path")
    return build_data_module(target.class_path, target.init_args), target
