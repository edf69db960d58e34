"""What each estimator makes of the batches of one layer."""

from typing import Literal

from swa_cli.batchnorm.inputs import Observed
from swa_cli.batchnorm.layers import Norm
from swa_cli.errors import DataError

Estimator = Literal["population", "torch", "official", "sequential"]
"""
``population``: mean and variance of all elements together.
``torch``: the mean over batches of their means and unbiased variances, as `torch.optim.swa_utils.update_bn` has it.
``official``: the same, weighted by samples, as the code of Izmailov et al. 2018 has it (momentum b / (n + b)).
``sequential``: as ``population``, layer by layer, with the layers before at their final statistics.
"""


def is_pooled(estimator: Estimator, layer: Norm) -> bool:
    """Whether the variance is that of all elements, between batches too.

    It never is for InstanceNorm, whose running variance stands for that within one instance.
    """
    return estimator in {"population", "sequential"} and layer.kind != "instance"


def weight_of(estimator: Estimator, seen: Observed, n_samples: int, layer: Norm) -> float:
    """The weight of one input of ``layer``.

    Args:
        n_samples: of the batch that the model was given.

    Raises:
        DataError: the estimator takes unbiased variances, and there is one value only.
    """
    if estimator in {"population", "sequential"}:
        return seen.n
    if seen.n == 1 and layer.kind != "instance":
        msg = (
            f"layer {layer.name} gets one value per channel, of which the estimator {estimator!r} cannot take a "
            "variance. Let the training loader drop the last incomplete batch (drop_last=True), or take "
            "--estimator population."
        )
        raise DataError(msg)
    return 1 if estimator == "torch" else n_samples
