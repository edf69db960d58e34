"""Choosing the best checkpoint, window and soup on validation data, to be reported on other data."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from swa_cli.errors import option
from swa_cli.evaluation import Curve, Member, best_of
from swa_cli.pipeline.evaluation.bn_recompute import Recomputing
from swa_cli.pipeline.evaluation.evaluator import Evaluator
from swa_cli.pipeline.evaluation.members import average_of
from swa_cli.pipeline.evaluation.prepare import EvalInputs
from swa_cli.pipeline.evaluation.provenance_warnings import words_of_file
from swa_cli.pipeline.evaluation.window_and_soup import curve_of, greedy_soup, window_members, windows
from swa_cli.user.datamodule import Split, has_split


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What was chosen on the split ``chosen_on``.

    ``members`` are the chosen averages, ``ingredients`` the checkpoints in the greedy soup.
    """

    chosen_on: Split
    best: int | None = None
    curve: Curve | None = None
    members: tuple[Member, ...] = ()
    ingredients: tuple[str, ...] = ()


def split_to_choose_on(job: EvalInputs) -> Split | None:
    """Return ``val`` if the module has it, or else the reported split if averages are to be chosen.

    None if nothing is to be chosen, or only the best checkpoint and there are no validation data.
    """
    choosing = job.choosing
    if len(job.checkpoints) == 1 or not (choosing.tries_averages or choosing.best_by_val):
        return None
    if has_split(job.data, "val"):
        return "val"
    return job.split if choosing.tries_averages else None


def remarks_on(job: EvalInputs, chosen_on: Split | None) -> tuple[list[str], list[str]]:
    """Return warnings and notes about what was chosen on which split."""
    options = job.choosing
    if len(job.checkpoints) == 1:
        asked = options.asked
        note = f"there is one checkpoint, and so nothing to choose for {' and '.join(asked)}."
        return [], [note] if asked else []
    notes = _of_weights(job)
    if options.best_by_val and chosen_on != "val":
        notes.append("the data module has no val_dataloader(): there is no best by validation.")
    if chosen_on is None:
        return [], notes
    if chosen_on != job.split:
        return [], notes
    chosen = [
        *(["the best checkpoint"] if options.best_by_val and chosen_on == "val" else []),
        *([f"the window of {option('curve')}"] if options.curve is not None else []),
        *(["the greedy soup"] if options.greedy else []),
    ]
    remedy = "Give the data module both val_dataloader() and test_dataloader()."
    if job.split == "val" and has_split(job.data, "test"):
        remedy = f"Leave out {option('split', 'val')}."
    warning = (
        f"{' and '.join(chosen)} selected among {len(job.checkpoints)} checkpoints on the split that is reported "
        f"({job.split}), so the score is optimistically biased. {remedy}"
    )
    return [warning], notes


def _of_weights(job: EvalInputs) -> list[str]:
    asked = job.choosing.asked
    record = job.swa.provenance
    if not asked or record is None or len({source.weight for source in record.sources}) <= 1:
        return []
    note = (
        f"In the averages of {' and '.join(asked)} all checkpoints count the same; in {job.swa.path.name} they do not "
        f"({option('weights')} or {option('ema')})."
    )
    return [note]


def choose(
    evaluator: Evaluator, checkpoints: list[Member], chosen_on: Split, recomputing: Callable[[], Recomputing]
) -> Choice:
    """Run the checkpoints and the averages that are tried over the split, and choose.

    Raises:
        UsageError: a window is larger than the number of checkpoints.
        SwaError: as the functions it calls.
    """
    job = evaluator.job
    options = job.choosing
    asked = windows(options.curve, len(checkpoints)) if options.curve is not None else []
    made: list[Member] = []
    ingredients: tuple[str, ...] = ()
    with TemporaryDirectory(prefix="swa-eval-") as folder:
        averaged = partial(average_of, job, recomputing=recomputing(), folder=Path(folder))
        label = words_of_file(job.swa).label
        tried = window_members(asked, job.checkpoints, averaged, label=label, chosen_on=chosen_on)
        (observed,) = evaluator.observe(evaluator.stream(chosen_on, [*checkpoints, *tried]))
        curve = curve_of(observed) if tried else None
        if options.greedy:
            soup, places = greedy_soup(
                observed,
                job.checkpoints,
                averaged,
                lambda member: evaluator.observe_once(chosen_on, member),
                chosen_on=chosen_on,
            )
            made.append(soup)
            ingredients = tuple(checkpoints[place].name for place in places)
    picked = [member for member in tried if curve and member.members == curve.chosen]
    return Choice(
        chosen_on=chosen_on,
        best=best_of(observed) if options.best_by_val and chosen_on == "val" else None,
        curve=curve,
        members=(*picked, *made),
        ingredients=ingredients,
    )
