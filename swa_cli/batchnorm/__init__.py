"""BatchNorm statistics: a model and batches in, population statistics out."""

from swa_cli.batchnorm.layers import bn_buffers, bn_layers
from swa_cli.batchnorm.moments import Moments, moments_of
from swa_cli.batchnorm.recalibrate import LayerStatistics, RecalibrationResult, recalibrate

__all__ = [
    "LayerStatistics",
    "Moments",
    "RecalibrationResult",
    "bn_buffers",
    "bn_layers",
    "moments_of",
    "recalibrate",
]
