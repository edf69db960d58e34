"""Regression: one or more numbers per example."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from torch.distributions import Distribution

from swa_cli.errors import DataError, kind_of, option
from swa_cli.tasks.defaults import all_units, nothing_odd
from swa_cli.tasks.metrics import Metric, Parts, available, divided, from_parts, ratio
from swa_cli.tasks.records import Array, Records
from swa_cli.tasks.regression_ensemble import MixedValues, flat, mean_of, per_example
from swa_cli.tasks.scores import LIKENESS
from swa_cli.user.batch import Batch, described

_OUTPUTS = 64
_MATRIX = 2
_VALUES = ("logits", "predictions", "prediction")
_MEANS = ("mean", "prediction", "predictions", "logits")
_VARIANCES = {"variance": ("variance", "var"), "log_variance": ("log_variance", "log_var")}


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Regression:
    """Outputs and targets of the same shape, (n,), (n, d) or any other; (n, 1) counts as (n,). Targets may be integers.

    The NLL, in nats per number, is that of a normal distribution with the model's mean and variance. R² is computed
    for (n,), and for (n, d) with d up to 64.

    Attributes:
        variance: what the model returns beside its prediction, in the same shape: "variance" or "log_variance". The
            output is then (mean, variance), a mapping or object with both by name, or a
            torch.distributions.Distribution.
    """

    variance: Literal["none", "variance", "log_variance"] = "none"

    name: str = field(default="regression", init=False)
    unit: str = field(default="example", init=False)
    primary: str = field(default="rmse", init=False)

    scored_indices = staticmethod(all_units)
    sanity_warning = staticmethod(nothing_odd)

    def output(self, output: Any) -> torch.Tensor:
        """Return the prediction; with a variance, mean and variance (not its logarithm) in float64, (n, …, 2)."""
        if self.variance == "none":
            found = output.mean if isinstance(output, Distribution) else _found(output, _VALUES, place=0)
            if found is None or found.ndim == 0:
                msg = (
                    f"the model returned a {described(output)}, expected a prediction for each example: a tensor, one "
                    f"in {', '.join(_VALUES)}, or a sequence whose first entry it is."
                )
                raise DataError(msg)
            return found
        mean, variance = _moments(output, self.variance)
        values = torch.stack([mean.to(torch.float64), variance], dim=-1)
        wrong = variance[variance <= 0]
        if len(wrong):
            msg = (
                f"a variance of {float(wrong[0]):g}, expected a positive one ({len(wrong)} of {variance.numel()} are "
                f"not). If the model gives its logarithm, say so with {option('variance', 'log_variance', of='task')}."
            )
            raise DataError(msg)
        return values

    def target(self, example: Batch, output: torch.Tensor) -> torch.Tensor:
        """Return the target in float64, in the prediction's shape."""
        given, shape = example.target, mean_of(output, with_variance=self._with_variance).shape
        if not isinstance(given, torch.Tensor) or given.is_complex() or given.dtype == torch.bool:
            msg = (
                f"the target is {described(given)}, expected numbers {list(shape)}. Batches are (input, ..., target) "
                "or mappings with labels, label or target; else define split_batch in the data module."
            )
            raise DataError(msg)
        if _without_last(given.shape) != _without_last(shape):
            msg = (
                f"the target is {described(given)} and the prediction {list(shape)}: expected the same shape. Let the "
                "data module's split_batch reshape it."
            )
            raise DataError(msg)
        target = given.to(output.device, torch.float64).reshape(shape)
        wrong = ~torch.isfinite(target)
        if bool(wrong.any()):
            msg = (
                f"the target has {int(wrong.sum())} NaN or infinite values of {target.numel()}. Remove those examples "
                "in the data module."
            )
            raise DataError(msg)
        return target

    def predict(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """In float64."""
        del target
        return output.to(torch.float64)

    def ensemble_accumulator(self, target: torch.Tensor) -> MixedValues:
        """Of values."""
        del target
        return MixedValues(with_variance=self._with_variance)

    def score_batch(self, prediction: torch.Tensor, target: torch.Tensor, *, full: bool) -> Records:
        """Return squared error, absolute error and NLL of each example; for R² also each residual and target."""
        error = mean_of(prediction, with_variance=self._with_variance) - target
        values = {"squared": error.square(), "absolute": error.abs()}
        if self._with_variance:
            variance = prediction[..., 1]
            values["nll"] = 0.5 * (math.log(2 * math.pi) + variance.log() + error.square() / variance)
        found = per_example(values)
        if full and error.ndim <= _MATRIX and flat(error).shape[1] <= _OUTPUTS:
            found |= {"residual": _array(error.square()), "target": _array(target)}
        return Records(columns=found, tallies={})

    def finish(self, records: Records, groups: NDArray[np.int64] | None) -> Records:
        """Centre the targets, so that the sums of R² do not cancel."""
        del groups
        columns = dict(records.columns)
        if "target" in columns:
            about_first = columns["target"] - columns["target"][:1]  # exactly 0 if all are equal
            columns["target"] = about_first - about_first.mean(axis=0)
        return Records(columns=columns, tallies=records.tallies)

    def warnings(self, records: Records) -> tuple[str, ...]:
        """Return a warning if all targets are equal, when errors say little."""
        if "target" not in records.columns or records.n_units == 1 or records.columns["target"].any():
            return ()
        warning = (
            f"all {records.n_units:,} targets are the same: a constant predictor would make no error. Check the data "
            "module's targets."
        )
        return (warning,)

    def metrics(self, records: Records) -> tuple[Metric, ...]:
        """RMSE first."""
        return available((*_METRICS, *LIKENESS), records)

    def for_torchmetrics(self, prediction: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return predictions and targets of the same shape, (n, …)."""
        return mean_of(prediction, with_variance=self._with_variance), target

    @property
    def _with_variance(self) -> bool:
        return self.variance != "none"


def _r2_parts() -> Parts:
    """Return 1 − Σ(y − f)² / Σ(y − ȳ)², the mean over the outputs that vary, as in scikit-learn's r2_score."""

    def sums(records: Records) -> Array:
        residual, target = records.columns["residual"], records.columns["target"]
        return np.column_stack([residual, target**2, target, np.ones(len(target))])

    def value(found: Array) -> Array:
        residual, squares, target = np.split(found[..., :-1], 3, axis=-1)
        total = squares - divided(target**2, np.broadcast_to(found[..., -1:], target.shape))
        varies = total > 0
        r2 = 1 - np.divide(residual, total, out=np.zeros_like(total), where=varies)
        return divided((r2 * varies).sum(axis=-1), varies.sum(axis=-1, dtype=np.float64))

    return Parts(needs=("residual", "target"), sums=sums, value=value)


_METRICS = (
    from_parts("rmse", "RMSE", ratio("squared", "count", then=np.sqrt), higher_is_better=False, compared=True),
    from_parts("mae", "MAE", ratio("absolute", "count"), higher_is_better=False, compared=True),
    from_parts("mse", "MSE", ratio("squared", "count"), higher_is_better=False, shown=False),
    from_parts("r2", "R²", _r2_parts(), higher_is_better=True),
    from_parts("nll", "NLL", ratio("nll", "count"), higher_is_better=False, compared=True),
)


def _moments(output: object, kind: Literal["variance", "log_variance"]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean, and variance in float64, of the same shape."""
    if isinstance(output, Distribution):
        mean, second, is_log = output.mean, output.variance, False
    else:
        mean, second = _found(output, _MEANS, place=0), _found(output, _VARIANCES[kind], place=1)
        is_log = kind == "log_variance"
    if mean is None or second is None or mean.shape != second.shape or mean.ndim == 0:
        shapes = [described(one) if one is not None else "nothing" for one in (mean, second)]
        msg = (
            f"the model returned a {kind_of(output)} with {shapes[0]} as mean and {shapes[1]} as {kind}, expected two "
            f"tensors of one shape: (mean, {kind}), a mapping or object with mean and {' or '.join(_VARIANCES[kind])}, "
            "or a torch.distributions.Distribution."
        )
        raise DataError(msg)
    variance = second.to(torch.float64)
    return mean, variance.exp() if is_log else variance


def _found(output: object, names: Sequence[str], *, place: int) -> torch.Tensor | None:
    """Return the tensor at ``place`` or under one of ``names``; a bare tensor counts as place 0."""
    if isinstance(output, torch.Tensor):
        return output if place == 0 else None
    for name in names:
        if isinstance(output, Mapping):
            found = cast("Mapping[str, Any]", output).get(name)
        else:
            found = getattr(output, name, None)
        if isinstance(found, torch.Tensor):
            return found
    if isinstance(output, (list, tuple)):
        entries = cast("Sequence[Any]", output)
        if len(entries) > place and isinstance(entries[place], torch.Tensor):
            return entries[place]
    return None


def _without_last(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the shape (n, 1) as (n,), any other unchanged."""
    return tuple(shape[:1]) if tuple(shape[1:]) == (1,) else tuple(shape)


def _array(values: torch.Tensor) -> Array:
    return flat(values).cpu().numpy()
