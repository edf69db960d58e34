"""The sentences below the table: SWA against each of the others, and how the numbers were obtained."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence

from swa_cli.errors import option
from swa_cli.evaluation import BnRecord, Comparison, EvaluationResult
from swa_cli.report.figures import amount, difference, has_interval, interval, value
from swa_cli.report.phrases import data_of, held_back, is_resolvable, split_of, verdict_in_words
from swa_cli.text import counted, seen_of

_SMALLEST_ERROR = 0.1
"""Standard errors below this, in percent, are shown as "below 0.1 %" and not as 0.0."""


def sentences(result: EvaluationResult) -> Iterator[str]:
    """What SWA gained or lost against each of the others, how sure that is, and how it came about.

    The last word, `swa_cli.report.verdict_sentence.final_sentence`, is not among them.
    """
    yield from differences(result)
    yield from background(result)


def differences(result: EvaluationResult) -> Iterator[str]:
    """Yield a line for each candidate that SWA was compared with."""
    by_other: dict[str, list[Comparison]] = {}
    for comparison in result.comparisons:
        by_other.setdefault(comparison.other, []).append(comparison)
    for other, comparisons in by_other.items():
        yield f"SWA against {other}: {'; '.join(_compared(result, comparison) for comparison in comparisons)}."


def background(result: EvaluationResult) -> Iterator[str]:
    """Yield sentences on how to read the numbers, how certain they are, and how they were obtained."""
    yield _directions(result)
    yield from _uncertainty(result)
    yield from _calibration(result)
    yield from _likeness(result)
    yield from _chosen_window(result)
    if result.bn_update:
        yield f"BatchNorm statistics of {result.bn_update.file}: {', '.join(_origin(result.bn_update))}."
        if not result.of_kind("control"):
            yield (
                f"Add {option('control', True)} to separate the gain from averaging from that of recomputed BatchNorm "
                "statistics."
            )
    if result.plan:
        yield result.plan
    yield from result.notes


def _compared(result: EvaluationResult, comparison: Comparison) -> str:
    score = result.score(comparison.metric)
    if comparison.is_nothing:
        return f"{score.label} the same on every {result.unit}"
    verdict = f"{verdict_in_words(result, comparison)}{held_back(result, comparison)}"
    return f"{score.label} {difference(score, comparison)} ({interval(score, comparison)}): {verdict}"


def _directions(result: EvaluationResult) -> str:
    higher, lower = (
        _listed([score.label for score in result.scores if score.shown and score.higher_is_better == wanted])
        for wanted in (True, False)
    )
    found = [f"{way} is better for {labels}" for way, labels in (("higher", higher), ("lower", lower)) if labels]
    text = f"{', '.join(found)}; passes: the forward passes that one prediction costs."
    return text[0].upper() + text[1:]


def _listed(labels: Sequence[str]) -> str:
    *first, last = labels or [""]
    return f"{', '.join(first)} and {last}" if first else last


def _uncertainty(result: EvaluationResult) -> Iterator[str]:
    if not result.comparisons:
        return
    if any(has_interval(comparison) for comparison in result.comparisons):
        yield f"Intervals: 95 %, paired{_methods(result)}, over the {_resampled(result)}."
    else:
        yield f"No interval can be computed from the {data_of(result)}."
    last = [
        comparison
        for name in (result.decision.primary, result.decision.secondary)
        if name and (comparison := result.compared(name, "last")) and is_resolvable(result, comparison)
    ]
    if last:
        sizes = " and ".join(_resolvable(result, comparison) for comparison in last)
        yield (
            f"These data can resolve differences of {sizes} from the last checkpoint, with 80 % power for one "
            "comparison alone."
        )
    yield (
        "No test set shows the variance of training: with another seed the differences may change by more than the "
        "intervals say."
    )


def _methods(result: EvaluationResult) -> str:
    bootstrap = "BCa bootstrap, never narrower than Student's"
    if result.n_groups is None and any(result.score(one.metric).right_or_wrong for one in result.comparisons):
        return f" (right or wrong answers: Gaffke's bound; other scores: {bootstrap})"
    return f" {bootstrap}"


def _resampled(result: EvaluationResult) -> str:
    """Return what was resampled, and so counts as independent."""
    if result.n_groups is not None:
        return f"{data_of(result)}, in {counted(result.n_groups, 'group')}"
    return (
        f"{data_of(result)}, taken as independent: where several belong together (one patient, one video), let "
        "split_batch give their groups"
    )


def _resolvable(result: EvaluationResult, comparison: Comparison) -> str:
    score = result.score(comparison.metric)
    return f"{amount(score, comparison.smallest_resolvable)} in {score.label}"


def _calibration(result: EvaluationResult) -> Iterator[str]:
    floor = _of("swa", "ece_floor", result)
    if floor is not None:
        yield (
            f"ECE is biased upwards: a perfectly calibrated model with the confidences of SWA would show "
            f"{value(result.score('ece_floor'), floor)} on {counted(result.n_examples, result.unit)}."
        )


def _likeness(result: EvaluationResult) -> Iterator[str]:
    distance, distance_of_one = (_of(kind, "ensemble_distance", result) for kind in ("swa", "mean"))
    if distance is None or distance_of_one is None:
        return
    far = result.score("ensemble_distance")
    away = (
        f"are {amount(far, distance)} away from the ensemble's (a checkpoint's: {amount(far, distance_of_one)}; root "
        "mean square)."
    )
    agreement, of_one = (_of(kind, "ensemble_agreement", result) for kind in ("swa", "mean"))
    if agreement is None or of_one is None:
        yield f"The predictions of SWA {away}"
        return
    share = result.score("ensemble_agreement")
    yield (
        f"SWA predicts what the ensemble predicts in {value(share, agreement)} of cases (a checkpoint: "
        f"{value(share, of_one)} on average), and its probabilities {away}"
    )


def _chosen_window(result: EvaluationResult) -> Iterator[str]:
    curve = result.curve
    if curve is None:
        return
    score = result.score(result.decision.primary)
    found = {point.members: value(score, point.scores[score.name]) for point in curve.points}
    longest = curve.points[-1].members
    beside = "" if longest == curve.chosen else f" ({found[longest]} at k = {longest})"
    yield (
        f"Average of the last k on {split_of(curve.split)}: best k = {curve.chosen}, {score.label} "
        f"{found[curve.chosen]}{beside}."
    )


def _of(kind: str, name: str, result: EvaluationResult) -> float | None:
    """Return a score of the first row of a kind, or None if it is missing or undefined."""
    rows = (row for row in result.candidates if row.kind == kind)
    number = next((row.scores.get(name, math.nan) for row in rows), math.nan)
    return None if math.isnan(number) else number


def _origin(record: BnRecord) -> Iterator[str]:
    """Yield the estimator, the data and options, the standard errors, and the layers that were left alone."""
    arguments = ", ".join(f"{name}={value!r}" for name, value in record.data_args.items())
    seen = seen_of(record.n_samples, record.n_batches)
    yield f"{record.estimator} estimator"
    yield f"{seen} of {record.data}{f' ({arguments})' if arguments else ''}"
    if record.eval_transforms:
        yield "transformed as for evaluation"
    if record.batch_size is not None:
        yield f"batch size {record.batch_size:,}"
    if record.amp is not None:
        yield record.amp
    if record.seed is not None:
        yield f"seed {record.seed}"
    if record.standard_error is not None:
        error = 100 * record.standard_error
        size = f"up to {error:.1f} %" if error >= _SMALLEST_ERROR else f"below {_SMALLEST_ERROR} %"
        yield f"standard errors {size}"
    for reason, count in Counter(record.kept.values()).items():
        yield f"{counted(count, 'layer')} left alone ({reason})"
