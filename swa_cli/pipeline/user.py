"""The user's model and data module, as the configuration names them."""

from torch import nn

from swa_cli.config import Config, TargetConfig
from swa_cli.data import build_data_module
from swa_cli.models import build_model
from swa_cli.pipeline.common import needed


def model_of(config: Config) -> tuple[nn.Module, TargetConfig]:
    """The user's model, built, and what built it."""
    target = needed(config.model, "model", flag="--model file.py:Name", key="model.class_path")
    return build_model(target.class_path, target.init_args), target


def data_of(config: Config) -> tuple[object, TargetConfig]:
    """The user's data module, built, and what built it."""
    target = needed(config.data, "data module", flag="--data file.py:Name", key="data.class_path")
    return build_data_module(target.class_path, target.init_args), target
