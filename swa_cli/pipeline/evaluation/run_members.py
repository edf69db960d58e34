"""All that an evaluation sees, on all ranks: members made, chosen, and run over the data."""

from collections.abc import Callable
from functools import cache as once_only
from functools import partial
from pathlib import Path

from swa_cli.evaluation import Context, Member, Residents, SplitRecords, best_of
from swa_cli.pipeline.common import Notify
from swa_cli.pipeline.evaluation.bn_recompute import Recomputing, has_statistics, recomputing
from swa_cli.pipeline.evaluation.choose_on_validation import Choice, choose, remarks_on, split_to_choose_on
from swa_cli.pipeline.evaluation.evaluator import Evaluator, check_metrics, loader_of
from swa_cli.pipeline.evaluation.members import average_member, checkpoint_members, control, with_averaged_statistics
from swa_cli.pipeline.evaluation.memory_plan import members_at_once
from swa_cli.pipeline.evaluation.output_cache.store import kept_outputs
from swa_cli.pipeline.evaluation.prepare import EvalInputs
from swa_cli.pipeline.evaluation.provenance_warnings import bn_update_of, warnings_of
from swa_cli.pipeline.evaluation.window_and_soup import windows
from swa_cli.system.process_group import ProcessGroup
from swa_cli.system.progress import Track
from swa_cli.user.dataloader import Passes
from swa_cli.user.datamodule import Split


def observe_all(
    job: EvalInputs, cache: Path | None, group: ProcessGroup, *, notify: Notify, track: Track
) -> tuple[SplitRecords, Context]:
    """Return the records of every candidate on the reported split, and the context of the result.

    Args:
        cache: directory of cached outputs, which later runs reuse.

    Raises:
        UsageError: options contradict each other, or one is missing.
        SwaError: as the functions it calls.
    """
    group.own(lambda: _check(job, group))
    kept = group.own(lambda: kept_outputs(job, cache))
    digest = kept.digest_of if kept else _no_digest
    checkpoints = group.own(lambda: checkpoint_members(job, digest))
    average = group.own(lambda: average_member(job, digest))
    chosen_on = split_to_choose_on(job)
    loaders: dict[Split, Passes] = {
        split: group.own(partial(loader_of, job, split, group, again=_passes_again(job, split, chosen_on)))
        for split in _splits(job, chosen_on)
    }
    recompute: Callable[[], Recomputing] = once_only(partial(recomputing, job, notify=notify, group=group, track=track))
    others = [member for member in [with_averaged_statistics(job, average, checkpoints)] if member]
    if job.reporting.control and has_statistics(job.model):
        others.append(control(job, recompute()))
    n_members = len(checkpoints) + 1 + len(others) + (_n_tried(job) if chosen_on else 0)
    at_once, plan = members_at_once(job, n_members, n_splits=len(loaders))
    if at_once is not None and at_once < n_members:
        notify(plan)
    evaluator = Evaluator(
        job=job,
        residents=Residents(job.model, job.forward, at_once=at_once),
        loaders=loaders,
        kept=kept,
        group=group,
        track=track,
    )
    observed, choice = _run(evaluator, checkpoints, [average, *others], chosen_on, recompute)
    warnings, notes = remarks_on(job, chosen_on)
    known = warnings_of(job.swa, job.run.members, job.model, key=job.key, data=job.data_target.class_path)
    of_kept = [kept.in_words(group.gather(lambda: kept.counts))] if kept else []
    return observed, Context(
        best=choice.best,
        chosen_on=choice.chosen_on,
        curve=choice.curve,
        warnings=(*known, *warnings),
        notes=(*notes, *_missing(job, observed, choice), *_ungrouped(observed, loaders[job.split]), *of_kept),
        plan=plan,
        bn_update=bn_update_of(job.swa),
    )


def _check(job: EvalInputs, group: ProcessGroup) -> None:
    """Check everything that does not depend on the data."""
    check_metrics(job.reporting.metrics, group)
    if job.choosing.curve is not None:
        windows(job.choosing.curve, len(job.checkpoints))


def _n_tried(job: EvalInputs) -> int:
    """Return the number of averages held at once on validation data: all windows, and one soup."""
    options = job.choosing
    return (0 if options.curve is None else len(windows(options.curve, len(job.checkpoints)))) + options.greedy


def _passes_again(job: EvalInputs, split: Split, chosen_on: Split | None) -> bool:
    """Return whether a split needs several passes: for the soups, or to report on the split that was chosen on."""
    return split == chosen_on and (job.choosing.greedy or (job.choosing.tries_averages and split == job.split))


def _run(
    evaluator: Evaluator,
    checkpoints: list[Member],
    others: list[Member],
    chosen_on: Split | None,
    recompute: Callable[[], Recomputing],
) -> tuple[SplitRecords, Choice]:
    """Choose and run all members; in one pass if only a checkpoint is chosen, which runs in any case."""
    job = evaluator.job
    if chosen_on and job.choosing.tries_averages:
        choice = choose(evaluator, checkpoints, chosen_on, recompute)
        final = evaluator.stream(job.split, [*checkpoints, *others, *choice.members], reported=True)
        return evaluator.observe(final)[0], choice
    final = evaluator.stream(job.split, [*checkpoints, *others], reported=True)
    before = [evaluator.stream(chosen_on, checkpoints)] if chosen_on and chosen_on != job.split else []
    found = evaluator.observe(*before, final)
    best = best_of(found[0]) if chosen_on else None
    return found[-1], Choice(chosen_on=chosen_on or job.split, best=best)


def _missing(job: EvalInputs, observed: SplitRecords, choice: Choice) -> list[str]:
    """Return notes about rows that cannot be made, and about the ingredients of the soup."""
    reporting, notes = job.reporting, list[str]()
    if reporting.ensemble and not observed.of_kind("ensemble"):
        notes.append("There is no ensemble: the task has no combine(outputs) that makes one.")
    if reporting.control and not has_statistics(job.model):
        notes.append("There is no control: the model keeps no BatchNorm statistics that could be recomputed.")
    if choice.ingredients:
        notes.append(
            f"The greedy soup is of {', '.join(choice.ingredients)}: swa-average of these, and swa-bn-update, make it."
        )
    return notes


def _ungrouped(observed: SplitRecords, loader: Passes) -> list[str]:
    offered = None if observed.groups is not None else loader.groups_offered
    if offered is None:
        return []
    note = (
        f"No groups were given, and {offered}. Where several {observed.task.unit}s belong together, let split_batch "
        "give their groups: without these the intervals are too narrow."
    )
    return [note]


def _splits(job: EvalInputs, chosen_on: Split | None) -> list[Split]:
    return [job.split] if chosen_on is None or chosen_on == job.split else [chosen_on, job.split]


def _no_digest(_: object) -> None:
    return None
