"""Bootstrap resampling of the units of a test set, and confidence intervals from it.

`scipy.stats.bootstrap` has BCa too. It is not used because its resamples cannot be shared by all columns, it holds all
of them in memory, and it has neither the expansion for few units nor the p-value that agrees with the interval.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, ndtri, stdtr, stdtrit

Floats = npt.NDArray[np.float64]

_MOST_RESAMPLES = 9_999
_FEWEST_RESAMPLES = 1_999
_DRAWS = 10**8
ROUNDING = 1e-6  # relative rounding of a float32 forward pass, below which two members count as equal
FEWEST_UNITS = 6  # five units all lie on one side of zero with probability 2/32, so no 5 % test exists


def resamples_for(n_units: int) -> int:
    """Return the default number of resamples: 9,999 up to 10,000 units, then about 1e8 draws, at least 1,999."""
    return max(_FEWEST_RESAMPLES, min(_MOST_RESAMPLES, _DRAWS // n_units))


def resampled_sums(
    sums: Floats, *, n_resamples: int | None = None, seed: int = 0, block: int = 2**14, cells: int = 2**20
) -> Floats:
    """Return the column sums of each resample: n units drawn with replacement from n.

    All columns share the same resamples, so pass all columns that are to be compared in one call. The resamples depend
    only on the seed and the number of units. How many draws fall into each block of units is drawn first, then the
    units within the blocks, which is the same distribution.

    Args:
        sums: one row per unit, shape (units, D), at least one unit. A column with a non-finite entry gives NaN.
        n_resamples: default: `resamples_for` the number of units.
        block: number of units whose counts are drawn together; by default so that their table stays in the cache.
        cells: number of counts held at once; by default about 25 MB with the draws and their float64 copies.

    Returns:
        Shape (n_resamples, D).
    """
    n, width = sums.shape
    n_resamples = resamples_for(n) if n_resamples is None else n_resamples
    rng = np.random.default_rng(seed)
    parts = [sums[start : start + block] for start in range(0, n, block)]
    draws = rng.multinomial(n, [len(part) / n for part in parts], size=n_resamples)
    rows = max(1, cells // len(parts[0]))
    totals = np.zeros((n_resamples, width))
    with np.errstate(invalid="ignore"):  # 0 × ∞
        for part, drawn in zip(parts, draws.T, strict=True):
            for row in range(0, n_resamples, rows):
                totals[row : row + rows] += _counts(rng, len(part), drawn[row : row + rows]) @ part
    return totals


def _counts(rng: np.random.Generator, size: int, draws: npt.NDArray[np.int64]) -> Floats:
    """Count how often each of ``size`` units is drawn, with ``draws[r]`` draws in row r; shape (rows, size)."""
    cells = np.repeat(np.arange(len(draws)) * size, draws)
    cells += rng.integers(0, size, size=len(cells))
    return np.bincount(cells, minlength=len(draws) * size).reshape(-1, size).astype(np.float64)


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A confidence interval with the two-sided p-value of no difference; infinite with p = 1 if nothing is known."""

    low: float
    high: float
    p_value: float
    standard_error: float

    def times(self, unit: float) -> "Interval":
        """Return the interval scaled by ``unit``."""
        return replace(self, low=self.low * unit, high=self.high * unit, standard_error=self.standard_error * unit)


UNKNOWN = Interval(low=-math.inf, high=math.inf, p_value=1.0, standard_error=math.inf)


def bca(estimate: float, resampled: Floats, jackknife: Floats, *, level: float = 0.95, scale: float = 1.0) -> Interval:
    """Return Efron's BCa interval (1987, doi:10.1080/01621459.1987.10478410), expanded for few units.

    It uses `expanded_z` in place of z (Hesterberg 2015, doi:10.1080/00031305.2015.1089789), because the bootstrap
    ignores that the spread is itself an estimate. The bias correction counts ties half; the acceleration comes from
    the jackknife. The p-value is 1 − the level at which an end of the interval would be zero, so it is below
    1 − ``level`` exactly if the interval excludes zero. It is never below 2 / (B + 1), the least that B resamples can
    show.

    If all of ``resampled`` are equal, the interval is that point. With fewer than six units, or a value that is not
    finite, the interval is `UNKNOWN`. BCa is too narrow where few units make the difference: see `student`.

    Args:
        estimate: the difference on all units.
        resampled: the difference on each resample, shape (B,), B ≥ 1,999.
        jackknife: the difference without each unit in turn, shape (units,).
        scale: magnitude of the scores; a difference below 1e-6 of it counts as rounding.
    """
    finite = math.isfinite(estimate) and np.isfinite(resampled).all() and np.isfinite(jackknife).all()
    n = len(jackknife)
    if n < FEWEST_UNITS or not finite:
        return UNKNOWN
    rounding = ROUNDING * scale
    estimate = 0.0 if abs(estimate) < rounding else estimate
    ordered = np.sort(np.where(np.abs(resampled) < rounding, 0.0, resampled))
    below = int(np.searchsorted(ordered, estimate - rounding, side="left"))
    not_above = int(np.searchsorted(ordered, estimate + rounding, side="right"))
    smallest = 2 / (len(ordered) + 1)
    if not_above - below == len(ordered):
        p_value = smallest if estimate else 1.0
        return Interval(low=estimate, high=estimate, p_value=p_value, standard_error=0.0)
    bias = float(ndtri(np.clip((below + not_above) / (2 * len(ordered)), smallest / 4, 1 - smallest / 4)))
    acceleration = _acceleration(jackknife)
    z = expanded_z(level, n)
    ends = [float(ndtr(bias + _accelerated(bias + side, acceleration))) for side in (-z, z)]
    low, high = (float(end) for end in np.quantile(ordered, ends))
    tails = _tail(ordered, bias, acceleration), _tail(-ordered[::-1], -bias, -acceleration)
    p_value = 2 * float(stdtr(n - 1, ndtri(min(tails)) * math.sqrt((n - 1) / n)))
    return Interval(
        low=low,
        high=high,
        p_value=agreeing(min(1.0, max(smallest, p_value)), 1 - level, excludes_zero=low > 0 or high < 0),
        standard_error=float(ordered.std(ddof=1)),
    )


def student(estimate: float, jackknife: Floats, *, error: float | None = None, level: float = 0.95) -> Interval:
    """Return Student's interval with the jackknife's standard error, which for a mean is the usual one.

    Where a few units make most of the difference (the NLL of nearly perfect models), the bootstrap trusts the
    skewness of the sample and finds differences that do not exist; this interval does not.

    Args:
        estimate: the difference on all units.
        jackknife: the difference without each unit in turn, shape (units,).
        error: the standard error; default: the jackknife's.
    """
    n = len(jackknife)
    if n < FEWEST_UNITS or not np.isfinite(jackknife).all():
        return UNKNOWN
    if error is None:
        error = math.sqrt((n - 1) / n * float(((jackknife - jackknife.mean()) ** 2).sum()))
    half = float(stdtrit(n - 1, (1 + level) / 2)) * error
    p_value = 2 * float(stdtr(n - 1, -abs(estimate) / error)) if error else float(estimate == 0)
    excludes_zero = abs(estimate) > half
    return Interval(
        low=estimate - half,
        high=estimate + half,
        p_value=agreeing(p_value, 1 - level, excludes_zero=excludes_zero),
        standard_error=error,
    )


def wider(one: Interval, other: Interval) -> Interval:
    """Return the union of two intervals and the larger p-value, with the standard error of the first."""
    return Interval(
        low=min(one.low, other.low),
        high=max(one.high, other.high),
        p_value=max(one.p_value, other.p_value),
        standard_error=one.standard_error,
    )


def expanded_z(level: float, n_units: int) -> float:
    """Return √(n / (n − 1)) t, where t is the two-sided quantile of Student's distribution with n − 1 degrees.

    >>> round(expanded_z(0.95, 6), 3), round(expanded_z(0.95, 10), 3), round(expanded_z(0.95, 10_000), 3)
    (2.816, 2.385, 1.96)
    """
    return math.sqrt(n_units / (n_units - 1)) * float(stdtrit(n_units - 1, (1 + level) / 2))


def _acceleration(jackknife: Floats) -> float:
    """Return a sixth of the skewness of the influences; within ±1/6."""
    influence = jackknife.mean() - jackknife
    squares = float((influence**2).sum())
    return float((influence**3).sum()) / (6 * squares**1.5) if squares else 0.0


def _accelerated(z: float, acceleration: float) -> float:
    """Apply the acceleration to ``z``; with the acceleration negated, this is the inverse."""
    divisor = 1 - acceleration * z
    return z / divisor if divisor > 0 else math.copysign(math.inf, z)


def _tail(ordered: Floats, bias: float, acceleration: float) -> float:
    """Return the one-sided level at which the lower end of the interval is zero."""
    last = int(np.searchsorted(ordered, 0.0, side="right")) - 1  # the last that is not above zero
    if last < 0 or last == len(ordered) - 1:
        return 0.0 if last < 0 else 1.0
    fraction = float(ordered[last] / (ordered[last] - ordered[last + 1]))
    rank = (last + fraction) / (len(ordered) - 1)
    z = float(ndtri(np.clip(rank, np.finfo(np.float64).tiny, 1 - np.finfo(np.float64).eps)))
    return float(ndtr(_accelerated(z - bias, -acceleration) - bias))


def agreeing(p_value: float, alpha: float, *, excludes_zero: bool) -> float:
    """Return the p-value on the side of ``alpha`` that agrees with the interval, against rounding."""
    alpha = round(alpha, 12)
    return min(p_value, math.nextafter(alpha, 0)) if excludes_zero else max(p_value, alpha)
