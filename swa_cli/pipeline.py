"""The three steps and their composition, from one configuration."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from swa_cli.averaging import AveragePlan, AverageResult, average, check_average_output, plan_average
from swa_cli.batchnorm import RecalibrationResult, bn_buffer_names, bn_layers, recalibrate
from swa_cli.checkpoints import (
    BnUpdate,
    Checkpoint,
    Provenance,
    file_order,
    find_checkpoints,
    open_checkpoint,
    read_provenance,
    to_metadata,
    write_safetensors,
)
from swa_cli.config import Config, TargetConfig
from swa_cli.data import batches_of, build_data_module, choose_split, splitter_of
from swa_cli.devices import resolve_device
from swa_cli.errors import UsageError
from swa_cli.evaluation import EvaluationResult, Member, evaluate
from swa_cli.files import check_output, publish
from swa_cli.models import build_model, load_checkpoint, state_dict_for
from swa_cli.progress import Track, silent
from swa_cli.tasks import make_splitter

Notify = Callable[[str], None]
