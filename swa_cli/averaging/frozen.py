"""BatchNorm layers with the same statistics in all sources: frozen in training, most likely.

A layer that is trained counts its batches: one number of eight bytes in the first and the last source rules out almost
every layer that is not frozen. Averaging knows no models: a layer is a name with ``running_mean`` and
``running_var`` below it.
"""

from collections.abc import Sequence
from functools import cache

import numpy as np
import numpy.typing as npt

from swa_cli.averaging.plan import AveragePlan
from swa_cli.errors import option, shortened
from swa_cli.formats import Checkpoint, OpenFiles

_COUNTER = "num_batches_tracked"
_STATISTICS = ("running_mean", "running_var")


def frozen_bn(plan: AveragePlan) -> tuple[str, ...]:
    """The layers whose statistics, and the number of batches if it is kept, have the same bits in all sources.

    Statistics that are not finite are of no use to any model, and are no frozen ones. One source shows nothing. What is
    held in memory are the statistics of one source; the files of at most two are open.

    Returns:
        Names of layers as checkpoints are read, without wrappers; empty for that of the whole model.

    Raises:
        CheckpointError: as `OpenFiles.read`.
    """
    first, *others = plan.sources
    if not others:
        return ()
    left = {layer: _names_of(layer, first) for layer in _layers(plan.sources[-1])}
    with OpenFiles(first.stamps) as files:

        @cache
        def expected(name: str) -> npt.NDArray[np.generic]:
            return _read(files, first, name)

        for other in (others[-1], *others[:-1]):
            if not left:
                return ()
            with OpenFiles(other.stamps) as files_of_other:
                left = {
                    layer: names
                    for layer, names in left.items()
                    if all(_same_bits(expected(name), _read(files_of_other, other, name)) for name in names)
                }
        return tuple(
            layer for layer, names in left.items() if all(bool(np.isfinite(expected(name)).all()) for name in names)
        )


def frozen_notice(layers: Sequence[str]) -> str:
    """What to tell of layers that `frozen_bn` found."""
    one = len(layers) == 1
    names = shortened([layer or "the model itself" for layer in layers])
    return (
        f"the statistics of {len(layers):,} BatchNorm layer{'' if one else 's'} are the same in all checkpoints, as if "
        f"frozen in training: swa-bn-update leaves {'it' if one else 'them'} alone unless "
        f"{option('recalibrate_frozen', True)} is given ({names})."
    )


def layer_of(name: str) -> str | None:
    """The layer that a tensor is a statistic of; None for any other tensor."""
    layer, _, buffer = name.rpartition(".")
    return layer if buffer in _STATISTICS else None


def _layers(source: Checkpoint) -> list[str]:
    layers = dict.fromkeys(layer_of(name) for name in source.tensors)
    return [
        layer
        for layer in layers
        if layer is not None and all(_joined(layer, buffer) in source.tensors for buffer in _STATISTICS)
    ]


def _names_of(layer: str, source: Checkpoint) -> list[str]:
    names = [_joined(layer, buffer) for buffer in (_COUNTER, *_STATISTICS)]
    return [name for name in names if name in source.tensors]


def _joined(layer: str, buffer: str) -> str:
    return f"{layer}.{buffer}" if layer else buffer


def _read(files: OpenFiles, source: Checkpoint, name: str) -> npt.NDArray[np.generic]:
    return source.read_elements(files, name, 0, source.spec(name).numel)


def _same_bits(first: npt.NDArray[np.generic], other: npt.NDArray[np.generic]) -> bool:
    return first.dtype == other.dtype and first.tobytes() == other.tobytes()
