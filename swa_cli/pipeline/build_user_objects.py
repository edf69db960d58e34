"""Building the user's model, data module and task from the configuration."""

from torch import nn

from swa_cli.config.schema import TargetConfig
from swa_cli.pipeline.common import require
from swa_cli.tasks import Task, task_named, wrapped
from swa_cli.user.datamodule import build_data_module
from swa_cli.user.import_object import call_target
from swa_cli.user.model import build_model


def model_of(target: TargetConfig | None) -> tuple[nn.Module, TargetConfig]:
    """Build the user's model; return it with what built it.

    Raises:
        UsageError: none is named.
    """
    target = require(target, "model", key="model.class_path", example="file.py:Name")
    return build_model(target.class_path, target.init_args), target


def data_module_of(target: TargetConfig | None) -> tuple[object, TargetConfig]:
    """Build the user's data module; return it with what built it.

    Raises:
        UsageError: none is named.
    """
    target = require(target, "data module", key="data.class_path", example="file.py:Name")
    return build_data_module(target.class_path, target.init_args), target


def task_of(target: TargetConfig | None) -> Task | None:
    """Return the task, by its name or from the user's code; None without a target or for ``auto``.

    Raises:
        UsageError: there is no such task, or it does not take its arguments.
        UserCodeError: the user's task cannot be built, or lacks what a task needs.
    """
    if target is None:
        return None
    if "." in target.class_path:
        return wrapped(call_target(target.class_path, target.init_args, what="task"))
    return task_named(target.class_path, target.init_args)
