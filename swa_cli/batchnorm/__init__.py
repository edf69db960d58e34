"""Population statistics of a model's BatchNorm layers, from batches of training data."""

from swa_cli.batchnorm.estimators import Estimator
from swa_cli.batchnorm.layers import bn_buffers, bn_layers, out_of_reach, without_statistics
from swa_cli.batchnorm.recalibrate import recalibrate
from swa_cli.batchnorm.result import UNREACHED, LayerStatistics, RecalibrationResult, recalibration_warnings

__all__ = [
    "UNREACHED",
    "Estimator",
    "LayerStatistics",
    "RecalibrationResult",
    "bn_buffers",
    "bn_layers",
    "out_of_reach",
    "recalibrate",
    "recalibration_warnings",
    "without_statistics",
]
