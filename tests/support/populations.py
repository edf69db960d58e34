"""Populations of simulated examples, and intervals of them."""

import math

import numpy as np

from swa_cli.evaluation.bootstrap import Interval

N_RESAMPLES = 1_999


def excludes_zero(interval):
    return interval.low > 0 or interval.high < 0


UNKNOWN = Interval(low=-math.inf, high=math.inf, p_value=1.0, standard_error=math.inf)


N_SETS, N_EXAMPLES, DIFFICULTY, OWN = 500, 400, 1.0, 0.5


SPREAD = math.hypot(DIFFICULTY, OWN)


def nll(margins):
    return np.logaddexp(0, -margins)


def mean_nll(mean, sharpness):
    """Of a population, by Gauss-Hermite quadrature."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    return float(weights @ nll(sharpness * (mean + SPREAD * nodes)) / weights.sum())
