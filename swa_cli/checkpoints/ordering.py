"""Ordering the checkpoints of a run by the step at which they were saved."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import PurePath

from swa_cli.checkpoints.series import SeriesMember
from swa_cli.errors import option, shortened
from swa_cli.formats import COUNTERS, OF_THE_WHOLE_RUN, natural_key, numbers_in_name, step_in_name

IN_THE_NAME = "number in the name"


@dataclass(frozen=True, kw_only=True)
class Order:
    """Checkpoints with their steps, oldest first."""

    members: tuple[SeriesMember, ...]
    by: str
    """What they are ordered by: a counter, ``number in the name``, or ``name`` if there are no steps."""
    notices: tuple[str, ...] = ()
    trouble: str | None = None
    """Why nothing may be selected by this order, and what to do; None if the order is reliable."""


def in_order_of_steps(members: Sequence[SeriesMember]) -> Order:
    """Sort by step, oldest first.

    The step is a counter that all files have: the first that is different in all of them, or else the first that
    differs at all. An ``epoch`` that disagrees with it takes precedence, unless the counter is one of the whole run.
    Without such a counter, the step is the number in the names. Files without a step come before those with one, so
    that they never count as the newest. The result does not depend on the order of ``members``.
    """
    files = sorted(members, key=lambda file: natural_key(file.path))
    if len(files) < 2:  # noqa: PLR2004
        return _single(files[0]) if files else Order(members=(), by="name")
    held = [name for name in COUNTERS if all(name in file.checkpoint.counters for file in files)]
    held = [name for name in held if len({file.checkpoint.counters[name] for file in files}) > 1]
    return _by_counters(files, held) if held else _by_counters_of_some(files) or _by_names(files)


def _single(file: SeriesMember) -> Order:
    counter = next((name for name in COUNTERS if name in file.checkpoint.counters), None)
    step = file.checkpoint.counters[counter] if counter else step_in_name(file.path)
    by = counter or (IN_THE_NAME if step is not None else "name")
    return Order(members=(replace(file, step=step),), by=by)


def _by_counters(files: Sequence[SeriesMember], held: Sequence[str]) -> Order:
    """Order by counters that all files have and that differ between them."""
    values = {name: [file.checkpoint.counters[name] for file in files] for name in held}
    counter = next((name for name in held if len(set(values[name])) == len(files)), held[0])
    against = [name for name in held if _disagree(values[counter], values[name])]
    keys = ("epoch", counter) if "epoch" in against and counter not in OF_THE_WHOLE_RUN else (counter,)
    by = ", then ".join(keys)
    notices = (f"{counter} and {', '.join(against)} disagree on the order: ordered by {by}.",) if against else ()
    steps = {file.path: tuple(file.checkpoint.counters[name] for name in keys) for file in files}
    return _by_steps(files, steps, by, notices, then=[name for name in held if name not in keys])


def _by_counters_of_some(files: Sequence[SeriesMember]) -> Order | None:
    """Order by a counter that some files have, and the others by their names if these mean the same.

    None if all names have a number and all counters agree with that order.
    """
    named = {file.path: step for file in files if (step := step_in_name(file.path)) is not None}
    held = {
        name: {file.path: file.checkpoint.counters[name] for file in files if name in file.checkpoint.counters}
        for name in COUNTERS
    }
    partly = {name: told for name, told in held.items() if told and len(told) < len(files)}
    if len(named) == len(files) and len(set(named.values())) > 1:
        agree = [not _disagree([named[path] for path in told], [*told.values()]) for told in partly.values()]
        if all(agree):
            return None
    for name, told in partly.items():
        both = [path for path in told if path in named]
        same = bool(both) and all(told[path] == named[path] for path in both)
        if same and len({*told, *named}) == len(files):
            return _by_steps(files, _as_keys({**named, **told}), f"{name}, or the {IN_THE_NAME}")
    if not partly:
        return None
    name = max(partly, key=lambda name: len(partly[name]))
    return _by_steps(files, _as_keys(partly[name]), name)


def _as_keys(steps: Mapping[PurePath, int]) -> dict[PurePath, tuple[int, ...]]:
    return {path: (step,) for path, step in steps.items()}


def _by_names(files: Sequence[SeriesMember]) -> Order:
    steps = _as_keys({file.path: step for file in files if (step := step_in_name(file.path)) is not None})
    if len(steps) == len(files) and len(set(steps.values())) == 1:
        steps = {}
    return _by_steps(files, steps, IN_THE_NAME if steps else "name")


def _by_steps(
    files: Sequence[SeriesMember],
    steps: Mapping[PurePath, tuple[int, ...]],
    by: str,
    notices: Sequence[str] = (),
    then: Sequence[str] = (),
) -> Order:
    """Order by ``steps``, ties by the counters ``then``, then by name; files without a step come first."""
    without = [file for file in files if file.path not in steps]

    def step_of(file: SeriesMember) -> tuple[int, ...]:
        return steps[file.path]

    rest = sorted(
        (file for file in files if file.path in steps),
        key=lambda file: (step_of(file), [file.checkpoint.counters[name] for name in then], _by_name(file)),
    )
    said = [*notices, *_about_ties(rest, step_of, by, then)]
    trouble = None
    if not rest:
        said.append("no steps could be told apart, from the contents or the names: ordered by name.")
        trouble = (
            "no steps could be told apart, from the contents of the files or from their names, so there is no order. "
            f"Name the files that you mean, or take them with {option('include')}; or put the step into each name "
            "(epoch-3.pt)."
        )
    elif without:
        names = shortened([str(file.path) for file in without])
        said.append(f"no step is known of {names}, while the others have one ({by}): put before them.")
        trouble = (
            f"no step is known of {names}, while the others have one ({by}), so there is no order. Leave out what is "
            f"not meant with {option('exclude')}, name the files that you mean, or put the step into the names."
        )
    ordered = [replace(file, step=None) for file in without] + [
        replace(file, step=steps[file.path][0]) for file in rest
    ]
    return Order(members=tuple(ordered), by=by, notices=tuple(said), trouble=trouble)


def _about_ties(
    files: Sequence[SeriesMember], step_of: Callable[[SeriesMember], tuple[int, ...]], by: str, then: Sequence[str]
) -> list[str]:
    tied = [(step, [str(file.path) for file in group]) for step, group in groupby(files, step_of)]
    said = [f"{', '.join(map(str, step))}: {', '.join(paths)}" for step, paths in tied if len(paths) > 1]
    if not said:
        return []
    return [f"the same step ({by}), ordered by {', then '.join([*then, 'name'])}: {shortened(said)}."]


def _disagree(first: Sequence[int], second: Sequence[int]) -> bool:
    """Return whether ``first`` and ``second`` order some two files differently."""
    highest: int | None = None
    for _, group in groupby(sorted(zip(first, second, strict=True)), lambda pair: pair[0]):
        values = [value for _, value in group]
        if highest is not None and values[0] < highest:
            return True
        highest = max(values[-1], values[-1] if highest is None else highest)
    return False


def _by_name(file: SeriesMember) -> tuple[bool, list[int], list[tuple[int, int, str]]]:
    """Sort key: the numbers in the name, then the path; timm saves ``recovery-3-100`` before ``checkpoint-3``."""
    recovered = file.path.name.startswith("recovery-")
    return not recovered, numbers_in_name(file.path), natural_key(file.path)
