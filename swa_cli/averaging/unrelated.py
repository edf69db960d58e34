"""Checkpoints of which no two are of one run: several seeds or folds, each trained from weights of its own.

The weights of two networks that were initialised independently are not correlated, however well both are trained. A
network resembles what it was some epochs ago at any learning rate at which it trains. So the measure is the correlation
between the elements of two checkpoints at some places of the model, and of these the median. Where it is below
`UNRELATED` for all pairs, the average of the checkpoints is useless.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from swa_cli.averaging.combiners import Words
from swa_cli.errors import option

UNRELATED = 0.15
"""Measured on MLPs and CNNs for the digits, trained with SGD at constant rates of 0.1 to 1 and with AdamW.

The two checkpoints of a run that are most alike have at least 0.5, also 20 epochs apart; independent seeds have at most
0.1. A CNN that fails to train (SGD at a rate of 1, weight decay 0.005) has less than 0.15, 20 epochs apart. Folds that
start from one initialisation have up to 0.9, as checkpoints of a run, and are not told apart.
"""

Correlations = npt.NDArray[np.float16]
"""Correlations between any two of K checkpoints, (K, K)."""


def correlations_at(values: npt.NDArray[np.float64]) -> Correlations | None:
    """Return the correlations between checkpoints at one place.

    Args:
        values: one row per checkpoint.

    Returns:
        None if they are undefined: all elements of a checkpoint are equal, or some are not finite.
    """
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        centred = values - values.mean(axis=1, keepdims=True)
        largest = np.abs(centred).max(axis=1, keepdims=True)
        scaled = centred / largest  # squares of very small numbers are zero
        lengths = np.sqrt((scaled * scaled).sum(axis=1))
        found = scaled @ scaled.T / np.outer(lengths, lengths)
    return found.astype(np.float16) if np.isfinite(found).all() else None


def are_unrelated(places: Sequence[Sequence[Correlations | None]]) -> bool:
    """Return whether no two of the compared checkpoints resemble each other.

    Args:
        places: for each place, the correlations within each block of checkpoints, if known.
    """
    known = [[found for found in block if found is not None] for block in zip(*places, strict=True)]
    if not known or not all(known):
        return False
    highest = [np.median(np.stack(block), axis=0)[~np.eye(len(block[0]), dtype=np.bool_)].max() for block in known]
    return max(highest) < UNRELATED


def unrelated_warning(count: int, words: Words) -> str:
    """Return a warning about unrelated checkpoints."""
    which = "the two checkpoints do not" if count == 2 else f"no two of the {count:,} checkpoints"  # noqa: PLR2004
    return (
        f"{which} resemble each other: their weights are not correlated, as if each was trained from its own "
        f"initialisation (other seeds or folds). The {words.noun} of such models is useless. Combine checkpoints of "
        f"one run ({option('include')}), or evaluate the models as an ensemble (swa-eval "
        f"{option('compare_ensemble', True)})."
    )
