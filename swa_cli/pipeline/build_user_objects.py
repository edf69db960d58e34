"""The user's model and data module, as the configuration names them."""

from torch import nn

from swa_cli.config.schema import Config, TargetConfig
from swa_cli.pipeline.common import require
from swa_cli.tasks import Task, task_named, wrapped
from swa_cli.user.datamodule import build_data_module
from swa_cli.user.import_object import call_target
from swa_cli.user.model import build_model


def model_of(config: Config) -> tuple[nn.Module, TargetConfig]:
    """The user's model, built, and what built it."""
    target = require(config.model, "model", flag="--model file.py:Name", key="model.class_path")
    return build_model(target.class_path, target.init_args), target


def data_of(config: Config) -> tuple[object, TargetConfig]:
    """The user's data module, built, and what built it."""
    target = require(config.data, "data module", flag="--data file.py:Name", key="data.class_path")
    return build_data_module(target.class_path, target.init_args), target


def task_of(config: Config) -> Task | None:
    """The task that the configuration names; None if the first batch decides.

    Raises:
        UsageError, UserCodeError: as `task_from`.
    """
    return None if config.task is None else task_from(config.task)


def task_from(target: TargetConfig) -> Task | None:
    """The task, by its name or from the user's code; None for ``auto``.

    Raises:
        UsageError: there is no such task, or it does not take its arguments.
        UserCodeError: the user's task cannot be built, or lacks what a task needs.
    """
    if "." in target.class_path:
        return wrapped(call_target(target.class_path, target.init_args, what="task"))
    return task_named(target.class_path, target.init_args)
