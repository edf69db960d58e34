"""Resampling the units of a test set, and the intervals that follow from it."""

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, ndtri, stdtr, stdtrit

Floats = npt.NDArray[np.float64]

_MOST_RESAMPLES = 9_999
_FEWEST_RESAMPLES = 1_999
_DRAWS = 10**8
_BLOCK = 2**14  # units whose counts are drawn together: their table stays in the cache
_CELLS = 2**20  # counts held at once; with the draws and their float64 copies about 25 MB
ROUNDING = 1e-6  # of a forward pass in float32; members that are the same must come out the same
FEWEST_UNITS = 6  # of five, all on one side of zero have a chance of 2/32: no test at 5 % is to be had


def resamples_for(n_units: int) -> int:
    """9,999 for up to 10,000 units; beyond, about 1e8 draws in all, but never fewer than 1,999."""
    return max(_FEWEST_RESAMPLES, min(_MOST_RESAMPLES, _DRAWS // n_units))


def resampled_sums(sums: Floats, *, n_resamples: int | None = None, seed: int = 0) -> Floats:
    """The totals of each resample, n of the n units drawn with replacement.

    The same resamples serve all columns, so pass all columns that are to be compared in one call. They follow
    from the seed and the number of units alone. Units are drawn block by block, after how many fall into each block,
    which is the same distribution.

    Args:
        sums: of each unit, shape (units, D), at least one unit. A column with a non-finite entry gives NaN.
        n_resamples: by default ``resamples_for`` the units.

    Returns:
        Shape (n_resamples, D).
    """
    n, width = sums.shape
    n_resamples = resamples_for(n) if n_resamples is None else n_resamples
    rng = np.random.default_rng(seed)
    blocks = [sums[start : start + _BLOCK] for start in range(0, n, _BLOCK)]
    draws = rng.multinomial(n, [len(block) / n for block in blocks], size=n_resamples)
    rows = max(1, _CELLS // len(blocks[0]))
    totals = np.zeros((n_resamples, width))
    with np.errstate(invalid="ignore"):  # 0 × ∞
        for block, drawn in zip(blocks, draws.T, strict=True):
            for row in range(0, n_resamples, rows):
                totals[row : row + rows] += _counts(rng, len(block), drawn[row : row + rows]) @ block
    return totals


def _counts(rng: np.random.Generator, size: int, draws: npt.NDArray[np.int64]) -> Floats:
    """How often each of ``size`` units comes up in as many draws as each row has; shape (rows, size)."""
    cells = np.repeat(np.arange(len(draws)) * size, draws)
    cells += rng.integers(0, size, size=len(cells))
    return np.bincount(cells, minlength=len(draws) * size).reshape(-1, size).astype(np.float64)


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A confidence interval, with the two-sided p-value of zero. Infinite, p 1, where nothing is known."""

    low: float
    high: float
    p_value: float
    standard_error: float

    def times(self, unit: float) -> "Interval":
        """The interval of so many times as much."""
        return replace(self, low=self.low * unit, high=self.high * unit, standard_error=self.standard_error * unit)


UNKNOWN = Interval(low=-math.inf, high=math.inf, p_value=1.0, standard_error=math.inf)


def bca(estimate: float, resampled: Floats, jackknife: Floats, *, level: float = 0.95, scale: float = 1.0) -> Interval:
    """Efron's bias-corrected and accelerated interval (1987, doi:10.1080/01621459.1987.10478410), wider for few units.

    It is taken at `expanded_z` instead of z (Hesterberg 2015, doi:10.1080/00031305.2015.1089789), as the bootstrap
    leaves out that the spread is itself an estimate.

    The bias correction counts ties half; the acceleration comes from the jackknife. The p-value is 1 − the level at
    which an end of the interval would be zero, so that it is below 1 − ``level`` where the interval excludes zero and
    nowhere else. The resamples show none below 2 / (B + 1), the least that is given.

    All of ``resampled`` equal: the interval is that point. Five units or fewer, of which no test at 5 % is to be had,
    or a value that is not finite: nothing is known. It is too narrow where few units make the difference: see
    `student`, and ``mcnemar_exact``.

    Args:
        estimate: from all units.
        resampled: of each resample, shape (B,), B ≥ 1,999.
        jackknife: without each unit in turn, shape (units,).
        scale: size of the figures of which this is a difference; 1e-6 of it is taken for rounding.
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
    """Student's interval with the jackknife's standard error, which for a mean is the usual one.

    Where a few units have most of the difference, as the NLL of nearly perfect models has it, the bootstrap takes the
    skewness that it sees for real, and finds differences that are not there; this one does not.

    Args:
        estimate: from all units.
        jackknife: without each unit in turn, shape (units,).
        error: the standard error, by default the jackknife's.
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
    """Both of them, with the standard error of the first."""
    return Interval(
        low=min(one.low, other.low),
        high=max(one.high, other.high),
        p_value=max(one.p_value, other.p_value),
        standard_error=one.standard_error,
    )


def expanded_z(level: float, n_units: int) -> float:
    """√(n / (n − 1)) t, of n − 1 degrees of freedom, both sides leaving out 1 − ``level``.

    >>> round(expanded_z(0.95, 6), 3), round(expanded_z(0.95, 10), 3), round(expanded_z(0.95, 10_000), 3)
    (2.816, 2.385, 1.96)
    """
    return math.sqrt(n_units / (n_units - 1)) * float(stdtrit(n_units - 1, (1 + level) / 2))


def _acceleration(jackknife: Floats) -> float:
    """A sixth of the skewness of the influences; within ±1/6."""
    influence = jackknife.mean() - jackknife
    squares = float((influence**2).sum())
    return float((influence**3).sum()) / (6 * squares**1.5) if squares else 0.0


def _accelerated(z: float, acceleration: float) -> float:
    """Its own inverse with the acceleration negated."""
    divisor = 1 - acceleration * z
    return z / divisor if divisor > 0 else math.copysign(math.inf, z)


def _tail(ordered: Floats, bias: float, acceleration: float) -> float:
    """The one-sided level at which the lower end is zero: how much of the distribution lies at or below it."""
    last = int(np.searchsorted(ordered, 0.0, side="right")) - 1  # not above zero
    if last < 0 or last == len(ordered) - 1:
        return 0.0 if last < 0 else 1.0
    fraction = float(ordered[last] / (ordered[last] - ordered[last + 1]))
    rank = (last + fraction) / (len(ordered) - 1)
    z = float(ndtri(np.clip(rank, np.finfo(np.float64).tiny, 1 - np.finfo(np.float64).eps)))
    return float(ndtr(_accelerated(z - bias, -acceleration) - bias))


def agreeing(p_value: float, alpha: float, *, excludes_zero: bool) -> float:
    """On its side of ``alpha``, from which rounding could move it."""
    alpha = round(alpha, 12)
    return min(p_value, math.nextafter(alpha, 0)) if excludes_zero else max(p_value, alpha)
