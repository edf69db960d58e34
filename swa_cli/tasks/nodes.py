"""Node classification: one class per node of a graph."""

from collections.abc import Mapping
from dataclasses import field
from functools import partial
from typing import Any, cast

import torch
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from swa_cli.errors import DataError, option
from swa_cli.tasks.binary import as_binary, doubt_of_one, note_of, of_both_classes, tally_of
from swa_cli.tasks.categorical import doubt_of, log_probs_of, per_class, per_unit, records_of, scored
from swa_cli.tasks.defaults import all_units, as_recorded, probabilities_and_classes
from swa_cli.tasks.labels import (
    IGNORED,
    Label,
    Labels,
    Weights,
    checked_index,
    in_range,
    is_integer,
    one_label_only,
    weights_of,
)
from swa_cli.tasks.metrics import Metric, available, from_parts, mean_ratio
from swa_cli.tasks.mixed_distributions import MixedDistributions
from swa_cli.tasks.records import Records
from swa_cli.tasks.scores import BRIER, LIKENESS, NLL, share_right
from swa_cli.user.batch import Batch, described, logits_of

_FLAT, _PADDED = 2, 3  # dimensions: (N, C), (n, N, C)
_GRAPH = "batch"


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Nodes:
    """Logits (N, C) and class indices (N,) of the nodes of all graphs, or (n, N, C) and (n, N) of n padded graphs.

    The sigmoid of a single logit per node, with labels 0 and 1 of any dtype, is the probability of label 1.

    Attributes:
        ignore_index: nodes with this label (padding, masked nodes) are left out of every score.
        class_weights: weights of the NLL as in torch's cross_entropy: Σ w_y nll / Σ w_y.
        graph: name of the graph index of each node, integers (N,) in any order: a keyword argument of the model, or
            an entry or attribute of one of its arguments, such as PyTorch Geometric's ``batch``. Without a ``batch``,
            all nodes of a batch belong to one graph.
    """

    ignore_index: Label = IGNORED
    class_weights: Weights | None = None
    graph: str = _GRAPH

    name: str = field(default="nodes", init=False)
    unit: str = field(default="graph", init=False)
    primary: str = field(default="balanced_recall", init=False)

    scored_indices = staticmethod(all_units)
    finish = staticmethod(as_recorded)
    for_torchmetrics = staticmethod(probabilities_and_classes)

    def output(self, output: Any) -> torch.Tensor:
        """The logits."""
        logits = logits_of(output)
        if logits.ndim not in {_FLAT, _PADDED} or logits.shape[-1] == 0:
            msg = (
                f"logits of shape {list(logits.shape)}, expected (nodes, classes) or (graphs, nodes, classes) for the "
                f"task {self.name}."
            )
            raise DataError(msg)
        return logits

    def sanity_warning(self, output: torch.Tensor) -> str | None:
        """Whether they look like probabilities."""
        return doubt_of_one(output, element="node") if output.shape[-1] == 1 else doubt_of(output, dim=-1)

    def target(self, example: Batch, output: torch.Tensor) -> Labels:
        """Of the nodes that are not ignored."""
        *shape, n_classes = output.shape
        given, one_logit = example.target, n_classes == 1
        if one_logit:
            n_classes, given = 2, as_binary(given, tuple(shape))
        index = checked_index(given, tuple(shape), elements=f"{' × '.join(map(str, shape))} nodes")
        index = index.to(output.device).flatten()
        unit, n_units = _graphs(example, self.graph, output)
        kept = in_range(index, n_classes, ignore_index=self.ignore_index, one_logit=one_logit)
        chosen = None if bool(kept.all()) else kept.nonzero()[:, 0]
        if chosen is not None:
            index, unit = index[chosen], unit[chosen]
        weight = weights_of(index, self.class_weights, n_classes)
        return Labels(
            chosen=chosen, index=index, soft=None, unit=unit, n_units=n_units, weight=weight, one_logit=one_logit
        )

    def predict(self, output: torch.Tensor, target: Labels) -> torch.Tensor:
        """Log-probabilities (m, C)."""
        return log_probs_of(of_both_classes(output.flatten(end_dim=-2), dim=1), target)

    def ensemble_accumulator(self, target: Labels) -> MixedDistributions:
        """Of probabilities."""
        return MixedDistributions(partial(records_of, labels=target))

    def score_batch(self, prediction: torch.Tensor, target: Labels, *, full: bool) -> Records:
        """Correct nodes, NLL and Brier score of each graph; of each class the nodes labelled, and those recalled."""
        del full
        values = scored(prediction, target)
        n_classes = prediction.shape[1]
        columns = {
            **per_unit(values, target),
            "labelled": per_class(target.index, target, n_classes),
            "recalled": per_class(target.index, target, n_classes, where=values["correct"].bool()),
        }
        return Records(columns=columns, tallies=tally_of(target))

    def warnings(self, records: Records) -> tuple[str, ...]:
        """One logit for two classes, labels that are all the same, and a single graph."""
        return (
            *note_of(records, element="node"),
            *one_label_only(records.columns["labelled"], elements="nodes"),
            *((_single(),) if records.n_units == 1 else ()),
        )

    def metrics(self, records: Records) -> tuple[Metric, ...]:
        """Balanced recall first."""
        return available((_BALANCED_RECALL, share_right("node"), NLL, BRIER, *LIKENESS), records)


_BALANCED_RECALL = from_parts(
    "balanced_recall",
    "balanced recall",
    mean_ratio("recalled", "labelled"),
    higher_is_better=True,
    percent=True,
    compared=True,
)
"""The mean of the recalls of the classes that occur among the labels: accuracy_SBM of V. P. Dwivedi et al.,
"Benchmarking Graph Neural Networks", 2020, but over all graphs at once, where theirs is a mean over batches."""


def _graphs(example: Batch, name: str, output: torch.Tensor) -> tuple[torch.Tensor, int]:
    """Return the graph index of each node, int64, and the number of graphs."""
    n = len(output)
    if output.ndim == _PADDED:
        return torch.arange(n, device=output.device).repeat_interleave(output.shape[1]), n
    given = _found(example, name)
    if given is None and name == _GRAPH:
        return torch.zeros(n, dtype=torch.int64, device=output.device), 1
    if not isinstance(given, torch.Tensor) or tuple(given.shape) != (n,) or not is_integer(given):
        msg = (
            f"the graph of each node ({name}) is {described(given)}, expected int64 [{n}], one for each of the {n} "
            f"nodes. Name the model's argument, or an argument's attribute, that holds it, with "
            f"{option('graph', of='task')}."
        )
        raise DataError(msg)
    graphs, unit = cast("tuple[torch.Tensor, torch.Tensor]", given.to(output.device).unique(return_inverse=True))
    return unit, len(graphs)


def _found(example: Batch, name: str) -> object:
    """Return the tensor of that name in the batch, or None."""
    if name in example.kwargs:
        return example.kwargs[name]
    for value in (*example.args, *example.kwargs.values()):
        if isinstance(value, torch.Tensor):
            continue
        found = cast("Mapping[str, Any]", value).get(name) if isinstance(value, Mapping) else getattr(value, name, None)
        if isinstance(found, torch.Tensor):
            return found
    return None


def _single() -> str:
    return (
        "all nodes belong to one graph, the unit that is resampled, so no interval can be given. If there are several, "
        f"name the graph index of the nodes with {option('graph', of='task')}."
    )
