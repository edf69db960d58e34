"""The three steps one after the other."""

from dataclasses import dataclass, fields, replace

from swa_cli.averaging import AverageResult
from swa_cli.checkpoints import Selection
from swa_cli.config.schema import Config
from swa_cli.errors import UsageError
from swa_cli.evaluation import EvaluationResult
from swa_cli.outputs import Target, check_target
from swa_cli.pipeline.average import average_step
from swa_cli.pipeline.bn_update.step import BnUpdateResult, bn_update_step
from swa_cli.pipeline.build_user_objects import task_of
from swa_cli.pipeline.common import Notify, check_report, only_process, require
from swa_cli.pipeline.evaluation.evaluator import check_metrics
from swa_cli.pipeline.evaluation.step import check_evaluation_outputs, eval_step
from swa_cli.system.progress import Track, silent
from swa_cli.user.import_object import load_target

# Keys that a step gets from the previous one, and so may not be in the configuration.
_PASSED_ON = {
    "average": ("dry_run",),
    "bn_update": ("input", "key"),
    "eval": ("checkpoints", "swa", "key", "from_records", *(field.name for field in fields(Selection))),
}


@dataclass(frozen=True, kw_only=True)
class PipelineResult:
    """The results of the three steps."""

    average: AverageResult
    bn_update: BnUpdateResult
    evaluation: EvaluationResult


def run_pipeline(config: Config, *, notify: Notify, track: Track = silent) -> PipelineResult:
    """Run ``swa run``: the three steps, each on the output of the previous one.

    Raises:
        UsageError: an option that a later step needs is missing, or one is set that a step gets from the previous one.
        SwaError: as the steps.
    """
    only_process("run")
    _check(config)
    averaged = average_step(config.average, notify=notify, track=track)
    bn_update = replace(config.bn_update, input=averaged.path)
    updated = bn_update_step(replace(config, bn_update=bn_update), notify=notify, track=track)
    paths = tuple(checkpoint.path for checkpoint in averaged.sources)
    evaluation = replace(config.eval, checkpoints=paths, swa=updated.path, key=config.average.key)
    evaluated = eval_step(replace(config, eval=evaluation), notify=notify, track=track)
    assert evaluated is not None  # there is one process
    return PipelineResult(average=averaged, bn_update=updated, evaluation=evaluated)


def _check(config: Config) -> None:
    """Check the options of all steps before the first one starts."""
    model = require(config.model, "model", key="model.class_path", example="file.py:Name")
    data = require(config.data, "data module", key="data.class_path", example="file.py:Name")
    load_target(model.class_path, what="model")
    load_target(data.class_path, what="data module")
    task_of(config.task)
    check_metrics(config.eval.metrics)
    check_evaluation_outputs(config.eval)
    check_report(config.bn_update.json, "json")
    if str(config.bn_update.json) == "-":
        msg = "swa run prints one JSON, that of the evaluation: give bn_update.json the name of a file."
        raise UsageError(msg)
    if config.bn_update.output and config.bn_update.output != config.average.output:
        check_target(Target(path=config.bn_update.output), overwrite=config.bn_update.force)
    for section, names in _PASSED_ON.items():
        options = getattr(config, section)
        defaults = {field.name: field.default for field in fields(options)}
        for name in names:
            if getattr(options, name) != defaults[name]:
                msg = (
                    f"{section}.{name} is set, but swa run passes on what each step gave. Leave it out, or run the "
                    "steps one at a time: swa average, swa bn-update, swa eval."
                )
                raise UsageError(msg)
