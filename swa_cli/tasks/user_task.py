"""User-defined tasks: objects that score the outputs of one batch."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Never, Protocol, cast, runtime_checkable

import numpy as np
import torch

from swa_cli.errors import NonFiniteError, UsageError, UserCodeError, kind_of
from swa_cli.tasks.defaults import all_units, as_recorded, no_warnings, nothing_odd
from swa_cli.tasks.metrics import Metric, available, from_parts, ratio
from swa_cli.tasks.protocol import Mixture, Task
from swa_cli.tasks.records import Array, Records
from swa_cli.user.batch import Batch, described, to_device
from swa_cli.user.guard import user_code

_COLUMN = "score."
"""Prefix of the columns' names, so that a score may have any name."""


@runtime_checkable
class Scoring(Protocol):
    """The interface of a user's task.

    Optional attributes: ``name`` and ``unit`` ("example"), strings; ``percent``, the names of scores that are
    fractions, shown in percent; and ``combine(outputs)``, which returns the ensemble's output from those of all
    checkpoints for a batch. Without it there is no ensemble.

    Attributes:
        higher_is_better: the direction of each score; the first score decides.
    """

    @property
    def higher_is_better(self) -> Mapping[str, bool]: ...  # noqa: D102

    def scores(self, output: Any, target: Any) -> Mapping[str, torch.Tensor]:
        """Return the scores of each unit in a batch, (n,); the mean over all units is reported.

        Args:
            output: the model's output.
            target: the batch's target, on the device of the first tensor in ``output``.
        """
        ...


@dataclass(kw_only=True)
class Judged:
    """A batch's target, and its number of units, which is None until an output has been scored."""

    target: Any
    n_units: int | None = None


def wrapped(given: object) -> Task:
    """Wrap a user's object as a task.

    Raises:
        UserCodeError: it does not implement `Scoring`, or an attribute has the wrong type.
    """
    with user_code("looking at the task"):
        fits = isinstance(given, Scoring) and callable(given.scores)
        higher = getattr(given, "higher_is_better", None)
        name, unit = getattr(given, "name", kind_of(given)), getattr(given, "unit", "example")
        percent, combine = getattr(given, "percent", ()), getattr(given, "combine", None)
    if not fits:
        msg = (
            f"the task is a {kind_of(given)}, expected an object with scores(output, target), which returns a tensor "
            "of numbers for each score, and higher_is_better, a mapping from the names of the scores to true or false."
        )
        raise UserCodeError(msg)
    if not isinstance(name, str) or not isinstance(unit, str):
        msg = f"the task's name is {name!r} and its unit {unit!r}, expected strings."
        raise UserCodeError(msg)
    directions = _directions(name, higher)
    if isinstance(percent, str) or not isinstance(percent, Collection) or not directions.keys() >= {*percent}:
        msg = f"task {name}: percent is {percent!r}, expected a set of names out of {', '.join(directions)}."
        raise UserCodeError(msg)
    if combine is not None and not callable(combine):
        msg = f"task {name}: combine is a {kind_of(combine)}, expected a method that takes a list of outputs."
        raise UserCodeError(msg)
    return UserTask(
        name=name,
        unit=unit,
        scoring=cast("Scoring", given),
        higher_is_better=directions,
        percent=frozenset(cast("Collection[str]", percent)),
        combine=combine,
    )


@dataclass(frozen=True, kw_only=True)
class UserTask:
    """A user's object as a task; outputs are scored and combined unchanged."""

    name: str
    unit: str
    scoring: Scoring
    higher_is_better: Mapping[str, bool]
    percent: frozenset[str]
    combine: Callable[[list[Any]], Any] | None

    scored_indices = staticmethod(all_units)
    finish = staticmethod(as_recorded)
    warnings = staticmethod(no_warnings)
    sanity_warning = staticmethod(nothing_odd)

    @property
    def primary(self) -> str:
        """Name of the first score."""
        return next(iter(self.higher_is_better))

    def output(self, output: Any) -> Any:
        """Return the output unchanged."""
        return output

    def target(self, example: Batch, output: Any) -> Judged:
        """Return the target on the device of the first tensor in ``output``."""
        device = _device_of(output)
        if device is None:
            return Judged(target=example.target)
        with user_code(f"moving the target to {device}"):
            return Judged(target=to_device(example.target, device))

    def predict(self, output: Any, target: Judged) -> Any:
        """Return the output."""
        del target
        return output

    def ensemble_accumulator(self, target: Judged) -> Mixture | None:
        """Of outputs, if they can be combined."""
        del target
        return None if self.combine is None else MixedOutputs(self.name, self.combine)

    def score_batch(self, prediction: Any, target: Judged, *, full: bool) -> Records:
        """Return the scores of each unit.

        Raises:
            UserCodeError: the user's method raises, or returns something else.
            NonFiniteError: a score is NaN or infinite.
        """
        del full
        with user_code(self._doing):
            given: object = self.scoring.scores(prediction, target.target)
        found = _as_dict(given)
        if found.keys() != self.higher_is_better.keys():
            names = ", ".join(map(str, found)) or f"a {kind_of(given)}"
            msg = (
                f"{self._doing} returned {names}, expected a mapping with the names in higher_is_better: "
                f"{', '.join(self.higher_is_better)}."
            )
            raise UserCodeError(msg)
        columns = {name: self._column(name, found[name]) for name in self.higher_is_better}
        target.n_units = len(columns[self.primary]) if target.n_units is None else target.n_units
        for name, column in columns.items():
            if len(column) != target.n_units:
                msg = f"{self._doing} returned {len(column)} numbers for {name}, expected {target.n_units}, as before."
                raise UserCodeError(msg)
        named = {_COLUMN + name: column for name, column in columns.items()}
        return Records(columns={**named, "count": np.ones(target.n_units)}, tallies={})

    def metrics(self, records: Records) -> tuple[Metric, ...]:
        """Return the means over the units, in the order of ``higher_is_better``."""
        every = [
            from_parts(
                name,
                name,
                ratio(_COLUMN + name, "count"),
                higher_is_better=higher,
                percent=name in self.percent,
                compared=True,
            )
            for name, higher in self.higher_is_better.items()
        ]
        return available(every, records)

    def for_torchmetrics(self, prediction: Any, target: Judged) -> Never:
        """Refuse: the form of a user's predictions is unknown.

        Raises:
            UsageError: always.
        """
        del prediction, target
        msg = (
            f"the task {self.name} cannot be used with torchmetrics. Compute the metric in its scores(output, target)."
        )
        raise UsageError(msg)

    @property
    def _doing(self) -> str:
        return f"scores(output, target) of the task {self.name}"

    def _column(self, name: str, values: object) -> Array:
        if not isinstance(values, torch.Tensor) or values.ndim != 1 or values.is_complex():
            msg = (
                f"{self._doing}: {name} is {described(values)}, expected a number for each {self.unit}, a tensor (n,)."
            )
            raise UserCodeError(msg)
        column = values.detach().to("cpu", torch.float64).numpy()
        wrong = ~np.isfinite(column)
        if wrong.any():
            msg = (
                f"{self._doing}: {name} is {column[wrong][0]:g} for {self.unit} {wrong.argmax()} of the batch "
                f"({wrong.sum()} of {len(column)} are NaN or infinite)."
            )
            raise NonFiniteError(msg)
        return column


class MixedOutputs:
    """The outputs of all members, kept until they are combined."""

    def __init__(self, task: str, combine: Callable[[list[Any]], Any]) -> None:
        self._task, self._combine = task, combine
        self._outputs: list[Any] = []

    def add(self, prediction: Any) -> None:
        """Add a member's output."""
        self._outputs.append(prediction)

    def arithmetic(self) -> Any:
        """Return the combined output of the user's method.

        Raises:
            UserCodeError: the method raises.
        """
        with user_code(f"combine(outputs) of the task {self._task}"):
            return self._combine(list(self._outputs))

    def geometric(self) -> None:
        """Return None: the outputs need not be logits."""

    def agreement(self, prediction: Any) -> None:
        """Not defined."""

    def diversity(self) -> None:
        """Not defined."""


def _as_dict(given: object) -> dict[Any, Any]:
    """Return a mapping as a dict, and an empty one for anything else."""
    return dict(cast("Mapping[Any, Any]", given)) if isinstance(given, Mapping) else {}


def _directions(name: str, given: object) -> dict[str, bool]:
    found = _as_dict(given)
    if not found or not all(isinstance(key, str) and isinstance(value, bool) for key, value in found.items()):
        msg = (
            f"task {name}: higher_is_better is {given!r}, expected a mapping from the name of each score to true or "
            "false, the one that decides first."
        )
        raise UserCodeError(msg)
    return found


def _device_of(output: object) -> torch.device | None:
    """Return the device of the first tensor in ``output``, or None."""
    if isinstance(output, torch.Tensor):
        return output.device
    if isinstance(output, Mapping):
        entries: list[object] = list(cast("Mapping[Any, object]", output).values())
    elif isinstance(output, (list, tuple)):
        entries = list(cast("list[object]", output))
    else:
        entries = list(getattr(output, "__dict__", {}).values())
    return next((device for entry in entries if (device := _device_of(entry)) is not None), None)
