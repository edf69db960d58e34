"""The evaluation step: the average compared with each checkpoint and their ensembles."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

from swa_cli.config.schema import Config, EvalConfig, TargetConfig
from swa_cli.errors import UsageError, option
from swa_cli.evaluation import Context, EvaluationResult, SplitRecords, summarise
from swa_cli.pipeline.build_user_objects import task_of
from swa_cli.pipeline.common import Notify, check_report
from swa_cli.pipeline.evaluation.prepare import EvalInputs, prepare_evaluation
from swa_cli.pipeline.evaluation.records_io import check_form, load_records, save_records, sensible
from swa_cli.pipeline.evaluation.run_members import observe_all
from swa_cli.system.atomic_file import written
from swa_cli.system.progress import Track, silent
from swa_cli.system.torchrun import process_group

_OF_RECORDS = {"from_records", "split", "margin", "fail_unless", "reports", "save_records"}


def eval_step(config: Config, *, notify: Notify, track: Track = silent) -> EvaluationResult | None:
    """Run ``swa-eval``; under torchrun the ranks share the batches, and only the first returns the result.

    Raises:
        UsageError: options contradict each other, or one is missing.
        SwaError: as the functions it calls.
    """
    options = config.eval
    check_evaluation_outputs(options)
    records = options.from_records
    with process_group() as group:
        if records:
            return group.finish(lambda: _from_records(records, options, config.task, notify))
        job = group.own(lambda: prepare_evaluation(config, notify=notify))
        observed, context = observe_all(job, options.cache, group, notify=notify, track=track)
        return group.finish(lambda: _concluded(observed, context, options.save_records, job))


def _from_records(path: Path, options: EvalConfig, task: TargetConfig | None, notify: Notify) -> EvaluationResult:
    observed, context = load_records(path, task_of(task))
    if options.split not in {None, observed.split}:
        msg = f"{option('split', options.split)}: the records are of the {observed.split} split. Leave it out."
        raise UsageError(msg)
    unread = _not_looked_at(options)
    if unread:
        notify(f"the records are taken as they are, without a look at {', '.join(unread)}.")
    with sensible(path):
        return summarise(observed, context, margins=options.margin)


def _not_looked_at(options: EvalConfig) -> list[str]:
    """Return the options that were given and have no effect on records."""
    default = EvalConfig()
    given = {
        field.name: getattr(options, field.name)
        for field in fields(EvalConfig)
        if field.name not in _OF_RECORDS and getattr(options, field.name) != getattr(default, field.name)
    }
    return [
        "the checkpoints" if name == "checkpoints" else option(name, value if isinstance(value, bool) else None)
        for name, value in given.items()
    ]


def check_evaluation_outputs(options: EvalConfig) -> None:
    """Check, before the work starts, that every output can be written.

    Raises:
        UsageError: an output has the suffix of a checkpoint, or the path of another output.
        OutputError: one cannot be written.
    """
    files = {**options.reports, "save_records": options.save_records}
    for name, path in files.items():
        check_report(path, name)
    check_form(options.save_records)
    if options.from_records and options.save_records:
        msg = (
            f"{option('from_records')} makes the result of records that are saved already: leave out "
            f"{option('save_records')}."
        )
        raise UsageError(msg)
    _check_apart({**files, "cache": options.cache, "from_records": options.from_records})


def _check_apart(files: Mapping[str, Path | None]) -> None:
    names: dict[Path, str] = {}
    for name, path in files.items():
        if path is None:
            continue
        other = names.setdefault(written(path), name)
        if other != name:
            msg = f"{option(other)} and {option(name)} name the same file, {path}. Give each a name of its own."
            raise UsageError(msg)


def _concluded(observed: SplitRecords, context: Context, records: Path | None, job: EvalInputs) -> EvaluationResult:
    if records:
        save_records(records, observed, context, job.task_target)
    return summarise(observed, context, margins=job.reporting.margin)
