"""What each estimator makes of the batches of one layer."""

from typing import Literal

from swa_cli.batchnorm.inputs import Observed
from swa_cli.batchnorm.layers import Norm

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


def weight_of(estimator: Estimator, seen: Observed, n_samples: int) -> float:
    """The weight of one input of a layer.

    Args:
        n_samples: of the batch that the model was given.
    """
    if estimator in {"population", "sequential"}:
        return seen.n
    return 1 if estimator == "torch" else n_samples
