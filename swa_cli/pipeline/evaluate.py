"""The third step: the average beside each checkpoint and their ensembles."""

from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import TypeVar

from swa_cli.config import Config, EvalConfig
from swa_cli.data import Split
from swa_cli.errors import UsageError
from swa_cli.evaluation import Context, EvaluationResult, Observed, Residents, best_of, summarise
from swa_cli.loaders import Passes
from swa_cli.pipeline.choosing import windows
from swa_cli.pipeline.common import Notify, check_json_output, check_report
from swa_cli.pipeline.eval_inputs import EvalJob, prepare_evaluation
from swa_cli.pipeline.eval_members import average_member, checkpoint_members, control, with_averaged_statistics
from swa_cli.pipeline.eval_pass import Evaluator, check_metrics, loader_of
from swa_cli.pipeline.kept_outputs import kept_outputs
from swa_cli.pipeline.members_at_once import members_at_once
from swa_cli.pipeline.recomputing import Recomputing, has_statistics, recomputing
from swa_cli.pipeline.recorded import bn_update_of, warnings_of
from swa_cli.pipeline.records_file import check_form, load_records, save_records, sensible
from swa_cli.pipeline.user import task_of
from swa_cli.pipeline.validation import Choice, choose, remarks_on, split_to_choose_on
from swa_cli.progress import Track, silent
from swa_cli.ranks import Ranks, Step, alone, meet_if_several, once, own_rank

T = TypeVar("T")


def eval_step(config: Config, *, notify: Notify, track: Track = silent) -> EvaluationResult | None:
    """``swa-eval``; under torchrun each rank takes its share of the batches, and only the first has the result.

    Raises:
        UsageError: options that contradict each other, or one that is missing.
        SwaError: as what it calls.
    """
    options = config.eval
    check_evaluation_outputs(options)
    if options.from_records:
        if own_rank():
            return None
        observed, context = load_records(options.from_records, task_of(config))
        if options.split not in {None, observed.split}:
            msg = f"--split {options.split}: the records are of the {observed.split} split. Leave it out."
            raise UsageError(msg)
        with sensible(options.from_records):
            return summarise(observed, context, margins=options.margin)
    results: list[EvaluationResult] = []
    with meet_if_several() as ranks:
        observed, context = _observe(config, ranks, notify, track)
        once(ranks, lambda: results.append(_concluded(observed, context, config)))
    return results[0] if results else None


def check_evaluation_outputs(options: EvalConfig) -> None:
    """Find out before the work starts whether everything can be written that is asked for.

    Raises:
        UsageError: an output has the name of a checkpoint, or of another output.
        OutputError: one cannot be written.
    """
    check_json_output(options.json)
    reports = {"--csv": options.csv, "--markdown": options.markdown, "--save-records": options.save_records}
    for flag, path in reports.items():
        if path is not None and str(path) != "-":
            check_report(path, flag=flag)
    check_form(options.save_records)
    if options.from_records and options.save_records:
        msg = "--from-records makes the result of records that are saved already: leave out --save-records."
        raise UsageError(msg)
    _check_apart({"--json": options.json, **reports, "--cache": options.cache, "--from-records": options.from_records})


def _check_apart(files: Mapping[str, Path | None]) -> None:
    flags: dict[Path, str] = {}
    for flag, path in files.items():
        if path is None:
            continue
        other = flags.setdefault(path.resolve(), flag)
        if other != flag:
            msg = f"{other} and {flag} name the same file, {path}. Give each a name of its own."
            raise UsageError(msg)


def _observe(config: Config, ranks: Ranks | None, notify: Notify, track: Track) -> tuple[Observed, Context]:
    together: Step = ranks.step if ranks else alone
    named: Step = ranks.named_step if ranks else alone
    job = _own(together, lambda: prepare_evaluation(config, notify=notify))
    options = config.eval
    together(lambda: check_metrics(options.metrics))
    if options.curve is not None:
        windows(options.curve, len(job.checkpoints))
    kept = _own(together, lambda: kept_outputs(job))
    digest = kept.digest_of if kept else _no_digest
    checkpoints = _own(together, lambda: checkpoint_members(job, digest))
    average = _own(together, lambda: average_member(job, digest))
    chosen_on = split_to_choose_on(job)
    loaders: dict[Split, Passes] = {
        split: _own(together, partial(loader_of, job, split)) for split in _splits(job, chosen_on)
    }
    recompute: Callable[[], Recomputing] = cache(partial(recomputing, job, notify=notify, step=together, track=track))
    others = [member for member in [with_averaged_statistics(job, average, checkpoints)] if member]
    if options.control and has_statistics(job.model):
        others.append(control(job, recompute()))
    more = options.curve is not None or options.greedy
    n_members = len(checkpoints) + 1 + len(others) + 2 * more
    at_once, plan = members_at_once(job, n_members)
    if at_once is not None and at_once < n_members:
        notify(plan)
    residents = Residents(job.model, job.forward, at_once=at_once)
    evaluator = Evaluator(job=job, residents=residents, loaders=loaders, kept=kept, step=named, track=track)
    if chosen_on and more:
        choice = choose(evaluator, checkpoints, chosen_on, recompute)
        members = [*checkpoints, average, *others, *choice.members]
        (observed,) = evaluator.observe(evaluator.stream(job.split, members, reported=True))
    else:
        final = evaluator.stream(job.split, [*checkpoints, average, *others], reported=True)
        before = [evaluator.stream(chosen_on, checkpoints)] if chosen_on and chosen_on != job.split else []
        found = evaluator.observe(*before, final)
        first, observed = found[0], found[-1]
        choice = Choice(chosen_on=chosen_on, best=best_of(first)) if chosen_on else Choice(chosen_on=job.split)
    warnings, notes = remarks_on(job, chosen_on)
    notes += _missing(job, observed, choice)
    known = warnings_of(job.swa, job.checkpoints, job.model, key=job.key, data=job.data_target.class_path)
    if kept:
        notes.append(kept.in_words(together(lambda: kept.counts)))
    context = Context(
        best=choice.best,
        chosen_on=choice.chosen_on,
        curve=choice.curve,
        warnings=(*known, *warnings),
        notes=tuple(notes),
        plan=plan,
        bn_update=bn_update_of(job.swa),
    )
    return observed, context


def _missing(job: EvalJob, observed: Observed, choice: Choice) -> list[str]:
    """What was asked for and cannot be there, and what a row does not say of itself."""
    options, notes = job.config.eval, list[str]()
    if options.compare_ensemble and not observed.of_kind("ensemble"):
        notes.append("There is no ensemble: the task has no combine(outputs) that makes one.")
    if options.control and not has_statistics(job.model):
        notes.append("There is no control: the model keeps no BatchNorm statistics that could be recomputed.")
    if choice.ingredients:
        notes.append(
            f"The greedy soup is of {', '.join(choice.ingredients)}: swa-average of these, and swa-bn-update, make it."
        )
    return notes


def _concluded(observed: Observed, context: Context, config: Config) -> EvaluationResult:
    options, task = config.eval, config.task
    if options.save_records:
        save_records(options.save_records, observed, context, task)
    return summarise(observed, context, margins=options.margin)


def _splits(job: EvalJob, chosen_on: Split | None) -> list[Split]:
    return [job.split] if chosen_on is None or chosen_on == job.split else [chosen_on, job.split]


def _own(step: Step, work: Callable[[], T]) -> T:
    """What this rank's part of a step gave, which need not be fit to be sent to others."""
    found: list[T] = []
    step(lambda: found.append(work()))
    return found[0]


def _no_digest(_: object) -> None:
    return None
