"""How each estimator weights and pools the batches of a layer."""

from typing import Literal

from swa_cli.batchnorm.inputs import InputMoments
from swa_cli.batchnorm.layers import Norm
from swa_cli.errors import DataError, option

Estimator = Literal["population", "torch", "official", "sequential"]
"""
``population``: mean and variance over all elements of all batches.
``torch``: mean over batches of their means and unbiased variances, as in `torch.optim.swa_utils.update_bn`.
``official``: the same, weighted by the number of samples, as in the code of Izmailov et al. 2018 (momentum
b / (n + b)).
``sequential``: as ``population``, layer by layer, with the preceding layers at their final statistics.
"""


def is_pooled(estimator: Estimator, layer: Norm) -> bool:
    """Return whether the variance includes the spread between batches.

    Never for InstanceNorm, whose running variance is defined within one instance.
    """
    return estimator in {"population", "sequential"} and layer.kind != "instance"


def weight_of(estimator: Estimator, seen: InputMoments, n_samples: int | None) -> float:
    """Return the weight of one input of a layer.

    Args:
        n_samples: number of samples in the batch; None if ambiguous.

    Raises:
        DataError: the estimator needs the number of samples.
    """
    if estimator in {"population", "sequential"}:
        return seen.n
    if estimator == "torch":
        return 1
    if n_samples is None:
        msg = (
            "the number of samples in the batch is ambiguous: its inputs, its target and the layers' inputs differ in "
            f"length. {option('estimator', 'official')} weights each batch by that number. Let train_dataloader() "
            f"return a DataLoader with a sampler, or use {option('estimator', 'population')} or torch."
        )
        raise DataError(msg)
    return n_samples
