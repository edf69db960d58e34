"""Tasks: the meaning of outputs and targets, the records kept per unit, and the scores computed from them."""

from swa_cli.tasks.choose import TASKS, choose_task, task_named
from swa_cli.tasks.metrics import Metric, Parts
from swa_cli.tasks.protocol import Mixture, Task
from swa_cli.tasks.records import Array, Records, join, too_large
from swa_cli.tasks.user_task import wrapped

__all__ = [
    "TASKS",
    "Array",
    "Metric",
    "Mixture",
    "Parts",
    "Records",
    "Task",
    "choose_task",
    "join",
    "task_named",
    "too_large",
    "wrapped",
]
