"""Selecting some of the checkpoints of a run."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path, PurePath
from typing import Literal, cast

from swa_cli.checkpoints.ordering import Order
from swa_cli.checkpoints.series import SeriesMember
from swa_cli.errors import SourceError, UsageError, listed, option, shortened


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The selection options, which apply in this order.

    At most one of ``first``, ``last`` and ``best`` can be set; ``best`` requires ``metric`` and ``mode``.

    Raises:
        UsageError: options contradict each other, or a number is out of range.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    from_step: int | None = None
    to_step: int | None = None
    every: int | None = None
    first: int | None = None
    last: int | None = None
    best: int | None = None
    metric: str | None = None
    mode: Literal["min", "max"] | None = None

    def __post_init__(self) -> None:
        """Check what can be checked without the files."""
        counts = {"every": self.every, "first": self.first, "last": self.last, "best": self.best}
        for name, count in counts.items():
            if count is not None and count < 1:
                msg = f"{option(name, count)}: expected 1 or more."
                raise UsageError(msg)
        picked = [option(name, count) for name, count in counts.items() if name != "every" and count is not None]
        if len(picked) > 1:
            msg = f"{' and '.join(picked)} exclude each other. Give one of them."
            raise UsageError(msg)
        if self.best is None and (self.metric or self.mode):
            msg = f"{self.in_words('metric', 'mode')} without {option('best')}. Say how many: {option('best', 5)}."
            raise UsageError(msg)
        if self.from_step is not None and self.to_step is not None and self.from_step > self.to_step:
            msg = (
                f"{option('from_step', self.from_step)} {option('to_step', self.to_step)}: the first is greater than "
                "the second, so none is meant."
            )
            raise UsageError(msg)

    def in_words(self, *names: str) -> str:
        """Return the options that were given as words: all, or those of these names."""
        words: list[str] = []
        for field in fields(self):
            value = getattr(self, field.name)
            if value not in (None, ()) and (not names or field.name in names):
                values = cast("tuple[object, ...]", value if isinstance(value, tuple) else (value,))
                words += [option(field.name, one) for one in values]
        return " ".join(words)


def is_meant(path: Path, below: PurePath, selection: Selection) -> bool:
    """Return whether ``include`` and ``exclude`` select a path, given relative to its source.

    A pattern with a slash is matched against the path, any other against the names of the file and its directories.

    >>> path = Path("checkpoint-500/model.safetensors")
    >>> is_meant(path, path, Selection(include=("checkpoint-5*",)))
    True
    """
    included = not selection.include or any(is_of(path, below, pattern) for pattern in selection.include)
    return included and not any(is_of(path, below, pattern) for pattern in selection.exclude)


def is_of(path: Path, below: PurePath, pattern: str) -> bool:
    """Return whether ``pattern`` matches a part of the path, or, with slashes, as many parts at its end."""
    if "/" not in pattern:
        return any(fnmatchcase(name, pattern) for name in below.parts)
    return fnmatchcase("/".join(path.parts[-pattern.count("/") - 1 :]), pattern)


def select(order: Order, selection: Selection, *, where: str) -> tuple[tuple[SeriesMember, ...], list[str]]:
    """Return the selected members of ``order``, oldest first, and notes about the selection.

    ``include`` and ``exclude`` are ignored here: they select files before these are opened.

    Args:
        where: the sources, for messages.

    Raises:
        SourceError: there are fewer than asked for, none in the range, no reliable order, or some lack the metric.
        UsageError: ``best`` has no metric and mode, or a metric that no file has.
    """
    if not order.members:
        msg = f"there is nothing to choose from in {where}: no checkpoint but averages that swa-cli wrote."
        raise SourceError(msg)
    if order.trouble and selection.in_words("from_step", "to_step", "every", "first", "last"):
        msg = f"{selection.in_words('from_step', 'to_step', 'every', 'first', 'last')}: {order.trouble}"
        raise SourceError(msg)
    left = _in_range(order, selection, where)
    left = left[::-1][:: selection.every or 1][::-1]
    count = selection.first or selection.last or selection.best
    if count is None:
        return left, []
    if selection.best:
        return _best(left, selection, where)
    _check_enough(len(left), selection, where)
    return (left[:count] if selection.first else left[-count:]), []


def _in_range(order: Order, selection: Selection, where: str) -> tuple[SeriesMember, ...]:
    low, high = selection.from_step, selection.to_step
    if low is None and high is None:
        return order.members
    steps = [member.step for member in order.members if member.step is not None]
    asked = selection.in_words("from_step", "to_step")
    if len(steps) < len(order.members):
        msg = f"{asked}: no step is known of {order.members[0].path}."
        raise SourceError(msg)
    left = [
        member
        for member, step in zip(order.members, steps, strict=True)
        if (low is None or step >= low) and (high is None or step <= high)
    ]
    if not left:
        msg = (
            f"{asked}: no checkpoint in {where} is in that range; the steps ({order.by}) are {steps[0]} to {steps[-1]}."
        )
        raise SourceError(msg)
    return tuple(left)


def _best(left: Sequence[SeriesMember], selection: Selection, where: str) -> tuple[tuple[SeriesMember, ...], list[str]]:
    metric, count = _known_metric(left, selection), selection.best or 0
    without = [str(member.path) for member in left if metric not in member.metrics]
    if without:
        raise SourceError(
            f"{option('metric', metric)}: {len(left) - len(without)} of {len(left)} checkpoints have it, these have "
            "not:",
            *listed(without),
            f"Leave them out with {option('exclude')}, or name the files that you mean.",
        )
    sign = 1 if selection.mode == "min" else -1
    ranked = [
        (sign * member.metrics[metric], -number)  # of equal ones the newer
        for number, member in enumerate(left)
        if not math.isnan(member.metrics[metric])
    ]
    ranked.sort()
    notices: list[str] = []
    nan = [str(member.path) for member in left if math.isnan(member.metrics[metric])]
    if nan:
        notices.append(f"{metric} is NaN in {shortened(nan)}: never among the best.")
    _check_enough(len(ranked), selection, where, f" whose {metric} is a number" if nan else "")
    if count < len(ranked) and ranked[count - 1][0] == ranked[count][0]:
        value = sign * ranked[count][0]
        tied = [str(left[-number].path) for score, number in ranked if score == ranked[count][0]]
        notices.append(f"{metric} is {value:g} in {shortened(tied)}: of equal ones the newer are taken.")
    chosen = {-number for _, number in ranked[:count]}
    return tuple(member for number, member in enumerate(left) if number in chosen), notices


def _known_metric(left: Sequence[SeriesMember], selection: Selection) -> str:
    """Return the metric to select by, if the options are complete."""
    known = known_metrics(left)
    held = f"The files have: {shortened(known)}." if known else "The files have none, in the contents or the names."
    if selection.metric is None or selection.mode is None:
        lacking = " and ".join(option(name) for name in ("metric", "mode") if getattr(selection, name) is None)
        msg = (
            f"{option('best', selection.best)} needs {lacking}: which metric is meant, and which way is better. {held}"
        )
        raise UsageError(msg)
    if selection.metric not in known:
        near = get_close_matches(selection.metric, known, n=1, cutoff=0.0)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        msg = f"{option('metric', selection.metric)}: no file has a metric of this name.{hint} {held}"
        raise UsageError(msg)
    return selection.metric


def known_metrics(members: Sequence[SeriesMember]) -> list[str]:
    """Return the names of all metrics that any member has."""
    return sorted({name for member in members for name in member.metrics})


def _check_enough(there: int, selection: Selection, where: str, which: str = "") -> None:
    for name in ("first", "last", "best"):
        count = getattr(selection, name)
        if count is not None and count > there:
            earlier = selection.in_words("include", "exclude", "from_step", "to_step", "every")
            after = f" after {earlier}" if earlier else ""
            are, checkpoints = ("is", "checkpoint") if there == 1 else ("are", "checkpoints")
            msg = f"{option(name, count)}: there {are} only {there} {checkpoints}{which} in {where}{after}."
            raise SourceError(msg)
