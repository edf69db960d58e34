"""Phrases that several reports share, about a result or one comparison."""

import sys

from swa_cli.evaluation import ALPHA, Comparison, EvaluationResult
from swa_cli.report.figures import as_given, has_interval, p_text
from swa_cli.text import counted, plural

_SPLITS = {"val": "validation", "train": "training"}


def data_of(result: EvaluationResult) -> str:
    """Return the size and name of the split: ``10,000 examples of the test split``."""
    return f"{counted(result.n_examples, result.unit)} of {split_of(result.split)}"


def split_of(name: str) -> str:
    """Return the name of a split in a sentence.

    >>> split_of("test"), split_of("val")
    ('the test split', 'the validation split')
    """
    return f"the {_SPLITS.get(name, name)} split"


def excludes_zero(comparison: Comparison) -> bool:
    """Return whether the interval lies on one side of zero; False if a bound is NaN."""
    return comparison.ci_low > 0 or comparison.ci_high < 0


def is_resolvable(result: EvaluationResult, comparison: Comparison) -> bool:
    """Return whether the smallest resolvable difference is known, and possible for the score."""
    name = comparison.metric
    found = [candidate.scores[name] for candidate in result.candidates if name in candidate.scores]
    is_share = result.score(name).percent and all(0 <= one <= 1 for one in found)
    largest = 1.0 if is_share else sys.float_info.max
    return not comparison.dominated and 0 < comparison.smallest_resolvable <= largest


def margin_of(result: EvaluationResult, comparison: Comparison) -> str:
    """Return the accepted loss as a phrase."""
    assert comparison.margin is not None
    return f"the margin of {as_given(result.score(comparison.metric), comparison.margin)}"


def is_loss(result: EvaluationResult, comparison: Comparison) -> bool:
    """Return whether SWA is significantly worse, within the margin or not."""
    higher = result.score(comparison.metric).higher_is_better
    lost = comparison.ci_high < 0 if higher else comparison.ci_low > 0
    return lost and comparison.p_adjusted <= ALPHA


def verdict_in_words(result: EvaluationResult, comparison: Comparison) -> str:
    """Return the verdict as the end of a sentence that names the metric."""
    match comparison.verdict:
        case "non-inferior":
            if is_loss(result, comparison):
                return f"worse, but by less than {margin_of(result, comparison)}"
            return f"not worse by more than {margin_of(result, comparison)}"
        case _:
            return comparison.verdict


def held_back(result: EvaluationResult, comparison: Comparison) -> str:
    """Return why an interval is unreliable, or why a difference it shows is not significant; empty otherwise."""
    if comparison.dominated and has_interval(comparison):
        return f" (the interval is not reliable: the difference rests on {_few(result, comparison)})"
    if not excludes_zero(comparison) or comparison.p_adjusted <= ALPHA:
        return ""
    alone, adjusted = p_text(comparison.p_value), p_text(comparison.p_adjusted)
    n = comparison.corrected_for
    return f" (p = {alone}" + (f", with Holm over {n} comparisons {adjusted})" if n > 1 else ")")


def _few(result: EvaluationResult, comparison: Comparison) -> str:
    unit = result.unit if result.n_groups is None else "group"
    if comparison.effective_n is None:
        return f"few {plural(unit)}"
    return f"about {counted(max(1, round(comparison.effective_n)), unit)}"
