"""The ways to combine checkpoints: each is a module of this package, by the name that users choose.

`swa_cli.config.choices.Combine` lists the names; the option, the key of the configuration and the reference pages take
them from there. A module says in ``COMBINER`` which of its classes is the combiner.
"""

from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import PurePath
from typing import Any, cast, get_args

import numpy as np
import numpy.typing as npt

from swa_cli.averaging.combiners.protocol import Combiner, CombinerModule, Parameters, Words
from swa_cli.averaging.combiners.weights import check_whole, ema_weights
from swa_cli.config.choices import Combine
from swa_cli.errors import UsageError

__all__ = ["COMBINERS", "Combiner", "Words", "check_whole", "combine_arrays", "combiner_of", "ema_weights", "words_of"]

COMBINERS: tuple[str, ...] = get_args(Combine)


def combiner_of(
    name: str, paths: Sequence[PurePath], *, weights: Sequence[float] | None = None, ema: float | None = None
) -> Combiner:
    """Return the combiner of a name for the checkpoints at ``paths``, which are in the order of averaging.

    Raises:
        UsageError: there is none of that name, or it does not take one of the other options.
    """
    if name not in COMBINERS:
        msg = f"cannot combine checkpoints by {name!r}: expected {' or '.join(COMBINERS)}."
        raise UsageError(msg)
    return _combiner(name).make(paths, Parameters(weights=weights, ema=ema))


def words_of(name: str) -> Words:
    """Return how reports name what was combined, also by a combiner that this version does not have."""
    if name in COMBINERS:
        return _combiner(name).words
    return Words(noun=name, adjective=name, label=name, deed=f"Wrote the {name} of", rule=f"combined by {name}")


def combine_arrays(combiner: Combiner, values: Iterable[npt.NDArray[Any]]) -> npt.NDArray[np.float64]:
    """Return what arrays of one shape give, one for each source, in float64; NaN and infinity are allowed."""
    arrays = list(values)
    size = arrays[0].size
    accumulator = combiner.on_cpu(size, np.empty(size), allow_nonfinite=True)
    with np.errstate(all="ignore"):
        for number, array in enumerate(arrays):
            accumulator.add(number, array.reshape(-1))
        accumulator.total(size)
        return accumulator.result(size).reshape(arrays[0].shape)


def _combiner(name: str) -> type[Combiner]:
    return cast("CombinerModule", import_module(f"{__name__}.{name}")).COMBINER
