"""Which task a name or a batch stands for."""

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from inspect import signature
from typing import Any

import torch
from pydantic import ValidationError

from swa_cli.config.pydantic_errors import mismatch
from swa_cli.errors import DataError, UsageError, option
from swa_cli.tasks.causal_lm import CausalLM
from swa_cli.tasks.classification import Classification
from swa_cli.tasks.labels import is_integer
from swa_cli.tasks.multilabel import Multilabel
from swa_cli.tasks.nodes import Nodes
from swa_cli.tasks.protocol import Task
from swa_cli.tasks.regression import Regression
from swa_cli.tasks.segmentation import Segmentation
from swa_cli.user.batch import Batch, described, logits_of
from swa_cli.user.guard import user_code

TASKS: Mapping[str, Callable[..., Task]] = {
    "classification": Classification,
    "segmentation": Segmentation,
    "multilabel": Multilabel,
    "regression": Regression,
    "nodes": Nodes,
    "causal_lm": CausalLM,
}
"""The tasks by name."""

_AUTO = "auto"
_CLASSIFICATION, _MAPS = (1, 2), 3
"""Dimensions: of the logits of classification; of the targets of segmentation."""


def task_named(name: str, arguments: Mapping[str, Any]) -> Task | None:
    """Return the task of a name with its arguments; None for ``auto``, which `choose_task` decides by the first batch.

    Raises:
        UsageError: no task has that name, or it does not take these arguments.
    """
    if name == _AUTO:
        if arguments:
            msg = f"task auto takes no arguments, found {', '.join(arguments)}. Name the task: {', '.join(TASKS)}."
            raise UsageError(msg)
        return None
    if name not in TASKS:
        near = get_close_matches(name, TASKS, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        msg = f"unknown task {name!r}: expected auto, {', '.join(TASKS)}, or file.py:Name.{hint}"
        raise UsageError(msg)
    return built(name, TASKS[name], arguments)


def built(name: str, factory: Callable[..., Task], arguments: Mapping[str, Any]) -> Task:
    """Build a task with its arguments.

    Raises:
        UsageError: it does not take these arguments.
    """
    try:
        return factory(**arguments)
    except ValidationError as error:
        known = ", ".join(signature(factory).parameters)
        problems = [
            f"task {name}: unknown argument {_place(problem)!r}. Known here: {known}."
            if problem["type"] == "unexpected_keyword_argument"
            else f"task {name}: {_place(problem)}: {mismatch(problem)}."
            for problem in error.errors()
        ]
        raise UsageError(*problems) from error


def choose_task(example: Batch, output: object) -> Task:
    """Choose the task by the shapes and dtypes of a batch and a model's output.

    Class indices (n,) with an output (n, C) are classification, and (n, H, W) with (n, C, H, W) segmentation. So are
    integers or bools (n,) or (n, 1) with one logit, (n,) or (n, 1), and (n, 1, H, W) with (n, 1, H, W).

    Raises:
        DataError: neither fits.
    """
    target = example.target
    with user_code("taking the logits from the model's output"):
        logits = logits_of(output)
    if isinstance(target, torch.Tensor) and (is_integer(target) or target.dtype == torch.bool):
        one_logit = logits.ndim == 1 or logits.shape[1:2] == (1,)
        shape = target.shape[:1] + target.shape[2:] if one_logit and target.shape[1:2] == (1,) else target.shape
        if len(shape) == 1 and logits.ndim in _CLASSIFICATION and len(target) == len(logits):
            return TASKS["classification"]()
        if len(shape) == _MAPS and logits.ndim == _MAPS + 1:
            return TASKS["segmentation"]()
    msg = (
        f"the task is ambiguous: the target is {described(target)} and the model's output {described(logits)}. Name it "
        f"with {option('task')} ({', '.join(TASKS)}, or file.py:Name), or let split_batch(batch) in the data module "
        "give the right target as its third."
    )
    if isinstance(target, torch.Tensor) and target.is_floating_point():
        if target.shape == logits.shape:
            msg += (
                f" For a logit with labels 0 and 1 that is {option('task', 'classification')}, for several "
                f"{option('task', 'multilabel')}."
            )
        elif logits.numel() == target.numel() == len(target):
            msg += (
                f" For a logit with labels 0 and 1 that is {option('task', 'classification')}, for a number "
                f"{option('task', 'regression')}."
            )
    raise DataError(msg)


def _place(problem: Mapping[str, Any]) -> str:
    return ".".join(str(part) for part in problem["loc"])
