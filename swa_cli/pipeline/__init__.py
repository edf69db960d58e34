"""The three steps and their composition, each from one configuration."""

from swa_cli.pipeline.average import average_step, plan_step
from swa_cli.pipeline.bn_update import BnUpdateResult, bn_update_step
from swa_cli.pipeline.common import Notify
from swa_cli.pipeline.evaluate import eval_step
from swa_cli.pipeline.run import PipelineResult, run_pipeline

__all__ = [
    "BnUpdateResult",
    "Notify",
    "PipelineResult",
    "average_step",
    "bn_update_step",
    "eval_step",
    "plan_step",
    "run_pipeline",
]
