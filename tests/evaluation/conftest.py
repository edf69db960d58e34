"""Intervals of simulated populations, computed once."""

import numpy as np
import pytest
from scipy import stats

from support.populations import DIFFICULTY, N_EXAMPLES, N_RESAMPLES, N_SETS, OWN, SPREAD, mean_nll, nll
from swa_cli.evaluation.bootstrap import bca, resampled_sums
from swa_cli.evaluation.significance import (
    mcnemar,
)


@pytest.fixture(scope="module")
def intervals():
    """Of each kind of difference: the true one, and an interval from each data set; and McNemar's p of each pair."""
    true = {
        "accuracy": stats.norm.cdf(1.2 / SPREAD) - stats.norm.cdf(1.0 / SPREAD),
        "nll": mean_nll(1.2, 1) - mean_nll(1.0, 1),
        "skewed nll": mean_nll(1.2, 4) - mean_nll(1.2, 3),
        "accuracy of equals": 0.0,
        "nll of equals": 0.0,
        "accuracy of near twins": 0.0,
    }
    found = {name: [] for name in true}
    for seed in range(N_SETS):
        rng = np.random.default_rng([seed, 1])
        shared = DIFFICULTY * rng.standard_normal(N_EXAMPLES)
        first, second = OWN * rng.standard_normal((2, N_EXAMPLES)) + shared
        columns = np.stack(
            [
                (first > -1.2) * 1.0 - (second > -1.0),
                nll(first + 1.2) - nll(second + 1.0),
                nll(4 * (first + 1.2)) - nll(3 * (second + 1.2)),
                (first > -1.2) * 1.0 - (second > -1.2),
                nll(first + 1.2) - nll(second + 1.2),
                (0.7 * shared + 0.3 * first > -1.7) * 1.0 - (0.7 * shared + 0.3 * second > -1.7),
            ],
            axis=1,
        )
        resampled = resampled_sums(columns, n_resamples=N_RESAMPLES, seed=seed) / N_EXAMPLES
        jackknife = (columns.sum(0) - columns) / (N_EXAMPLES - 1)
        for j, name in enumerate(true):
            p_value = mcnemar(int((columns[:, j] > 0).sum()), int((columns[:, j] < 0).sum()))
            found[name].append((bca(columns[:, j].mean(), resampled[:, j], jackknife[:, j]), p_value))
    return {name: (true[name], found[name]) for name in true}
