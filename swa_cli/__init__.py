"""Average the checkpoints of a training run, recompute BatchNorm statistics, compare honestly.

The rooms are the public surface; importing this package alone imports neither torch nor torchvision::

    from swa_cli.checkpoints import find_checkpoints
    from swa_cli.averaging import average, plan_average
    from swa_cli.batchnorm import recalibrate
    from swa_cli.evaluation import Member, evaluate
"""

__all__ = ["__version__"]

__version__ = "0.1.0"
