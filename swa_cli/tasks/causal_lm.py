"""The next token of a text."""

from dataclasses import field
from functools import partial
from typing import Any

import numpy as np
import torch
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from swa_cli.errors import DataError
from swa_cli.tasks.categorical import doubt_of, fitted, log_probs_of, records_of
from swa_cli.tasks.defaults import all_units, as_recorded, no_warnings
from swa_cli.tasks.labels import IGNORED, Label, Labels, checked_index, in_range, is_integer
from swa_cli.tasks.metrics import Metric, available, from_parts, ratio
from swa_cli.tasks.mixed_distributions import MixedDistributions
from swa_cli.tasks.records import Array, Records
from swa_cli.tasks.scores import LIKENESS, NLL, share_right
from swa_cli.user.batch import Batch, described, logits_of

_N_DIMS = 3  # (n, T, V)


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class CausalLM:
    """Logits (n, T, V) and labels (n, T), as the models and batches of transformers have them.

    Without labels, ``input_ids`` (or the model's first argument) are the labels. What ``attention_mask`` leaves out is
    then neither predicted nor predicted from, so that it does not matter at which end the texts are padded.

    Attributes:
        ignore_index: tokens with this label are left out of every score.
        shift: the logits at t predict the label at t + 1; without it, the one at t (masked and sequence-to-sequence
            models).
    """

    ignore_index: Label = IGNORED
    shift: bool = True

    name: str = field(default="causal_lm", init=False)
    unit: str = field(default="sequence", init=False)
    primary: str = field(default="nll", init=False)

    scored_indices = staticmethod(all_units)
    finish = staticmethod(as_recorded)
    warnings = staticmethod(no_warnings)

    def output(self, output: Any) -> torch.Tensor:
        """The logits."""
        logits = logits_of(output)
        if logits.ndim != _N_DIMS or logits.shape[-1] == 0:
            msg = (
                f"logits of shape {list(logits.shape)}, expected (sequences, tokens, classes) for the task {self.name}."
            )
            raise DataError(msg)
        if logits.shape[-1] == 1:
            msg = (
                f"logits of shape {list(logits.shape)}: a vocabulary of one token leaves nothing to predict. Let the "
                "model return the logits of all tokens."
            )
            raise DataError(msg)
        return logits

    def sanity_warning(self, output: torch.Tensor) -> str | None:
        """Whether they look like probabilities."""
        return doubt_of(output, dim=-1)

    def target(self, example: Batch, output: torch.Tensor) -> Labels:
        """Of the tokens that are predicted and not ignored."""
        n, length, n_classes = output.shape
        labels = self._labels(example, (n, length)).to(output.device)
        places = torch.arange(n * length, device=output.device).view(n, length)
        if self.shift:
            labels, places = labels[:, 1:], places[:, :-1]
        kept = in_range(labels, n_classes, ignore_index=self.ignore_index)
        chosen = places[kept]
        return Labels(
            chosen=chosen, index=labels[kept], soft=None, unit=chosen // max(length, 1), n_units=n, weight=None
        )

    def predict(self, output: torch.Tensor, target: Labels) -> torch.Tensor:
        """Log-probabilities (m, V)."""
        return log_probs_of(output.flatten(end_dim=-2), target)

    def ensemble_accumulator(self, target: Labels) -> MixedDistributions:
        """Of probabilities."""
        return MixedDistributions(partial(records_of, labels=target))

    def score_batch(self, prediction: torch.Tensor, target: Labels, *, full: bool) -> Records:
        """Tokens, correct ones and their NLL, of each sequence."""
        del full
        return records_of(fitted(prediction, prediction.argmax(dim=1), target), target)

    def metrics(self, records: Records) -> tuple[Metric, ...]:
        """The NLL of a token first, in nats."""
        return available((NLL, _PERPLEXITY, share_right("token"), *LIKENESS), records)

    def for_torchmetrics(self, prediction: torch.Tensor, target: Labels) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities (1, m, V) and tokens (1, m), for torchmetrics' Perplexity, which takes logits."""
        return prediction[None], target.index[None]

    def _labels(self, example: Batch, shape: tuple[int, int]) -> torch.Tensor:
        """Labels, int64 (n, T); the ignored ones among them."""
        if example.target is not None:
            return checked_index(example.target, shape, elements="tokens")
        ids = example.kwargs.get("input_ids", example.args[0] if example.args else None)
        if not self.shift or not isinstance(ids, torch.Tensor) or tuple(ids.shape) != shape or not is_integer(ids):
            expected = f"labels, int64 {list(shape)}" + (", or input_ids of that shape" if self.shift else "")
            msg = (
                f"the batch has no labels, and its input_ids are {described(ids)}: expected {expected}. Let the data "
                "module's split_batch give the labels."
            )
            raise DataError(msg)
        mask = example.kwargs.get("attention_mask")
        if mask is None:
            return ids.to(torch.int64)
        if not isinstance(mask, torch.Tensor) or tuple(mask.shape) != shape:
            msg = (
                f"the batch has no labels, and its attention_mask is {described(mask)}, expected {list(shape)}, to "
                "tell the tokens from the padding. Let the data module's split_batch give the labels."
            )
            raise DataError(msg)
        real = mask != 0
        real[:, 1:] &= real[:, :-1].clone()
        return torch.where(real, ids.to(torch.int64), self.ignore_index)


def _exp(values: Array) -> Array:
    with np.errstate(over="ignore"):
        return np.exp(values)


_PERPLEXITY = from_parts("perplexity", "perplexity", ratio("nll", "weight", then=_exp), higher_is_better=False)
