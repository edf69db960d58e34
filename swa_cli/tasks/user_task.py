"""A task that the user defines: an object that scores the outputs of one batch."""

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
"""What the columns' names begin with, so that a score may have any name."""


@runtime_checkable
class Scoring(Protocol):
    """What ``--task file.py:Name`` gives.

    It may have besides: ``name`` and ``unit`` ("example"), texts; ``percent``, the names of scores that are fractions
    and shown in percent; and ``combine(outputs)``, which makes of the outputs that all checkpoints gave for a batch
    that of their ensemble. Without it there is no ensemble.

    Attributes:
        higher_is_better: of each score; the first is the one that decides.
    """

    @property
    def higher_is_better(self) -> Mapping[str, bool]: ...  # noqa: D102

    def scores(self, output: Any, target: Any) -> Mapping[str, torch.Tensor]:
        """Of each unit in a batch, (n,); a score is the mean over all units.

        Args:
            output: what the model returned.
            target: the batch's, on the device of the first tensor in ``output``.
        """
        ...


@dataclass(kw_only=True)
class Judged:
    """A batch's target, and how many units it has; None until an output has been scored."""

    target: Any
    n_units: int | None = None


def wrapped(given: object) -> Task:
    """The object of a user as a task.

    Raises:
        UserCodeError: it is no `Scoring`, or what it says of itself makes no sense.
    """
    with user_code("looking at the task"):
        fits = isinstance(given, Scoring) and callable(given.scores)
        higher = getattr(given, "higher_is_better", None)
        name, unit = getattr(given, "name", kind_of(given)), getattr(given, "unit", "example")
        percent, combine = getattr(given, "percent", ()), getattr(given, "combine", None)
    if not fits:
        msg = (
            f"the task is a {kind_of(given)}, expected an object with scores(output, target), which gives a tensor of "
            "numbers for each score, and higher_is_better, a mapping from the names of the scores to true or false."
        )
        raise UserCodeError(msg)
    if not isinstance(name, str) or not isinstance(unit, str):
        msg = f"the task's name is {name!r} and its unit {unit!r}, expected texts."
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
    """An object of the user's as a task; the output is evaluated and mixed as the model gives it."""

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
        """The first."""
        return next(iter(self.higher_is_better))

    def output(self, output: Any) -> Any:
        """As it is."""
        return output

    def target(self, example: Batch, output: Any) -> Judged:
        """Where the first tensor in ``output`` is."""
        device = _device_of(output)
        if device is None:
            return Judged(target=example.target)
        with user_code(f"moving the target to {device}"):
            return Judged(target=to_device(example.target, device))

    def predict(self, output: Any, target: Judged) -> Any:
        """The output."""
        del target
        return output

    def ensemble_accumulator(self, target: Judged) -> Mixture | None:
        """Of outputs, if they can be combined."""
        del target
        return None if self.combine is None else MixedOutputs(self.name, self.combine)

    def score_batch(self, prediction: Any, target: Judged, *, full: bool) -> Records:
        """The scores of each unit.

        Raises:
            UserCodeError: the user's method raises, or gives something else.
            NonFiniteError: a score is NaN or infinite.
        """
        del full
        with user_code(self._doing):
            given: object = self.scoring.scores(prediction, target.target)
        found = _as_dict(given)
        if found.keys() != self.higher_is_better.keys():
            names = ", ".join(map(str, found)) or f"a {kind_of(given)}"
            msg = (
                f"{self._doing} gave {names}, expected a mapping with the names in higher_is_better: "
                f"{', '.join(self.higher_is_better)}."
            )
            raise UserCodeError(msg)
        columns = {name: self._column(name, found[name]) for name in self.higher_is_better}
        target.n_units = len(columns[self.primary]) if target.n_units is None else target.n_units
        for name, column in columns.items():
            if len(column) != target.n_units:
                msg = f"{self._doing} gave {len(column)} numbers for {name}, expected {target.n_units}, as before."
                raise UserCodeError(msg)
        named = {_COLUMN + name: column for name, column in columns.items()}
        return Records(columns={**named, "count": np.ones(target.n_units)}, tallies={})

    def metrics(self, records: Records) -> tuple[Metric, ...]:
        """Means over the units, in the order of ``higher_is_better``."""
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
        """What they would take is not known.

        Raises:
            UsageError: always.
        """
        del prediction, target
        msg = f"the task {self.name} cannot feed torchmetrics' objects: let its scores(output, target) do that."
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
        """One more member's."""
        self._outputs.append(prediction)

    def arithmetic(self) -> Any:
        """What the user's method makes of them.

        Raises:
            UserCodeError: it raises.
        """
        with user_code(f"combine(outputs) of the task {self._task}"):
            return self._combine(list(self._outputs))

    def geometric(self) -> None:
        """There are no logits that we know of."""

    def agreement(self, prediction: Any) -> None:
        """Not defined."""

    def diversity(self) -> None:
        """Not defined."""


def _as_dict(given: object) -> dict[Any, Any]:
    """Of a mapping; empty for anything else."""
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
    """Of the first tensor in it."""
    if isinstance(output, torch.Tensor):
        return output.device
    if isinstance(output, Mapping):
        entries: list[object] = list(cast("Mapping[Any, object]", output).values())
    elif isinstance(output, (list, tuple)):
        entries = list(cast("list[object]", output))
    else:
        entries = list(getattr(output, "__dict__", {}).values())
    return next((device for entry in entries if (device := _device_of(entry)) is not None), None)
