"""From checkpoints to one equal-weight average, in a fixed amount of memory."""

from swa_cli.averaging.average import AverageResult, average, check_average_output
from swa_cli.averaging.plan import AveragePlan, TensorPlan, plan_average
from swa_cli.averaging.stream import Engine

__all__ = [
    "AveragePlan",
    "AverageResult",
    "Engine",
    "TensorPlan",
    "average",
    "check_average_output",
    "plan_average",
]
