"""The NLL at the best temperature, without keeping logits.

What is kept of each unit is its NLL at `TEMPERATURES`; a quintic spline through them in log T gives it between, and
since a spline is linear in its values, the temperature that suits any weighted subset follows from their weighted sum.
"""

from functools import cache

import numpy as np
import numpy.typing as npt
import torch
from scipy.interpolate import make_interp_spline  # pyright: ignore[reportUnknownVariableType]

_PER_OCTAVE = 4
_EXPONENTS = range(-17, 18)
TEMPERATURES = tuple(2 ** (k / _PER_OCTAVE) for k in _EXPONENTS)
"""From 0.053 to 19, four to the octave, 1 among them. Fitted mean NLLs are right to 1e-4 nats, mostly to 1e-5."""

_FINE = 512  # temperatures tried from one of the grid to the next: 0.03 % apart
_FLAT = 1e-12  # relative; what is no minimum but rounding


def nll_at(log_probs: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """−Σ_c y_c log softmax(log_probs / T)_c in nats for each of `TEMPERATURES`; float64, shape (m, G).

    Finite wherever ``log_probs`` of the target is; a class of probability 0 and no target may be −inf. Holds two more
    tensors like ``log_probs``.

    Args:
        log_probs: float64, shape (m, C); logits do as well.
        target: class indices, int64, shape (m,), or probabilities y that sum to 1, float64, shape (m, C).
    """
    z = log_probs - log_probs.amax(dim=1, keepdim=True)
    if target.ndim == 1:
        of_target = z.gather(1, target[:, None])[:, 0]
    else:
        of_target = torch.where(target > 0, target * z, 0).sum(dim=1)
    sums = torch.empty(len(TEMPERATURES), len(z), dtype=z.dtype, device=z.device)
    for hottest in range(len(TEMPERATURES) - _PER_OCTAVE, len(TEMPERATURES)):
        # An octave down, T is halved and exp(z / T) squared, which is five times as fast as exponentials throughout.
        powers = (z / TEMPERATURES[hottest]).exp_()
        for index in range(hottest, -1, -_PER_OCTAVE):
            torch.sum(powers, dim=1, out=sums[index])
            powers.square_()
    inverse = torch.tensor([1 / temperature for temperature in TEMPERATURES], dtype=z.dtype, device=z.device)
    return (sums.log_() - of_target * inverse[:, None]).T


def calibrated_nll(
    grid: npt.NDArray[np.float64],
    weights: npt.NDArray[np.float64] | None = None,
    groups: npt.NDArray[np.int64] | None = None,
    *,
    repeats: int = 5,
    seed: int = 0,
) -> npt.NDArray[np.float64]:
    """Each unit's NLL at the temperature fitted to the half that it is not in, the mean over ``repeats``; shape (n,).

    A. Ashukha et al., "Pitfalls of In-Domain Uncertainty Estimation and Ensembling in Deep Learning", 2020
    (arXiv:2002.06470): at T = 1, NLL mixes how good the predictions are with how they happen to be scaled. Each
    repeat halves the units, or whole groups, at random; the same halves for all grids of as many units (or of the same
    groups) and one seed, so that candidates stay paired. NaN for all where there are no two halves.

    Where the interpolation would give a little less than 0, it is 0.

    Args:
        grid: as `nll_at` gives it, or means of it over each unit's elements; shape (n, G).
        weights: in the fit, shape (n,); None for equal ones. Where those of a half are all 0, it gives T = 1.
        groups: labels of what is to stay together, shape (n,); None for each unit by itself.
    """
    n = len(grid)
    labels, of_unit = np.unique(np.arange(n) if groups is None else groups, return_inverse=True)
    if len(labels) <= 1:
        return np.full(n, np.nan)
    half = np.arange(len(labels)) < len(labels) // 2
    halves = np.random.default_rng(seed).permuted(np.tile(half, (repeats, 1)), axis=1)[:, of_unit]
    weighted = grid if weights is None else weights[:, None] * grid
    spline = _spline()
    at_first = grid @ spline[_best(halves.astype(np.float64) @ weighted)].T
    at_second = grid @ spline[_best((~halves).astype(np.float64) @ weighted)].T
    return np.maximum(np.where(halves.T, at_second, at_first).mean(axis=1), 0)


def fitted(curve: npt.NDArray[np.float64]) -> float:
    """Return the temperature at which a sum of rows of `nll_at`, shape (G,), is lowest."""
    return float(2 ** _tried()[_best(curve)])


def _tried() -> npt.NDArray[np.float64]:
    """The log2 of all temperatures between which a fit chooses; shape (F,)."""
    low, high = _EXPONENTS[0], _EXPONENTS[-1]
    return np.linspace(low, high, (high - low) * _FINE + 1) / _PER_OCTAVE


@cache
def _spline() -> npt.NDArray[np.float64]:
    """From values at `TEMPERATURES` to those at all that are tried; shape (F, G)."""
    knots = np.array(_EXPONENTS) / _PER_OCTAVE
    return np.asarray(make_interp_spline(knots, np.eye(len(TEMPERATURES)), k=5)(_tried()), dtype=np.float64)


def _best(curves: npt.NDArray[np.float64]) -> npt.NDArray[np.intp]:
    """Where of those tried the spline is lowest, nearest to T = 1 among equals; shape (...) from (..., G)."""
    values = curves @ _spline().T
    lowest = values.min(axis=-1, keepdims=True)
    return np.where(values <= lowest + _FLAT * np.abs(lowest), np.abs(_tried()), np.inf).argmin(axis=-1)
