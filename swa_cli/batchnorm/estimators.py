"""What each estimator makes of the batches of one layer."""

from typing import Literal

from swa_cli.batchnorm.inputs import InputMoments
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


def weight_of(estimator: Estimator, seen: InputMoments, n_samples: int | None) -> float:
    """The weight of one input of a layer.

    Args:
        n_samples: of the batch that the model was given; None where that cannot be known.

    Raises:
        DataError: the estimator needs the number of samples.
    """
    if estimator in {"population", "sequential"}:
        return seen.n
    if estimator == "torch":
        return 1
    if n_samples is None:
        msg = (
            "how many samples the batch has cannot be known: its inputs, its target and the layers differ in length. "
            "--estimator official weighs each batch by that number. Let train_dataloader() return a DataLoader with a "
            "sampler, or take --estimator population or torch."
        )
        raise DataError(msg)
    return n_samples
