"""Finding BatchNorm layers with equal statistics in all sources, which were most likely frozen in training.

A layer in training counts its batches, so comparing one 8-byte number of the first and the last source rules out
almost every layer that was not frozen. Averaging knows no models: a layer is a prefix of ``running_mean`` and
``running_var``.
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
    """Return the layers whose statistics, and batch counters if present, have the same bits in all sources.

    Statistics that are not finite do not count as frozen, and a single source shows nothing. At most the statistics of
    one source are in memory, and the files of two are open.

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
    """Return a note about the layers that `frozen_bn` found."""
    one = len(layers) == 1
    names = shortened([layer or "the model itself" for layer in layers])
    return (
        f"the statistics of {len(layers):,} BatchNorm layer{'' if one else 's'} are the same in all checkpoints, as if "
        f"frozen in training: swa-bn-update leaves {'it' if one else 'them'} alone unless "
        f"{option('recalibrate_frozen', True)} is given ({names})."
    )


def layer_of(name: str) -> str | None:
    """Return the layer whose statistic a tensor is; None for any other tensor."""
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
