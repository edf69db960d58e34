"""How a model is run: device, autocast dtype, memory format, torch.compile."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from swa_cli.user.batch import Batch, call_model, move, to_channels_last
from swa_cli.user.guard import user_code

Amp = Literal["bf16", "fp16"]

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class Forward:
    """Settings of a forward pass.

    ``amp`` runs the model under autocast with this dtype. ``channels_last`` converts inputs and weights of four and
    five dimensions.
    """

    device: torch.device = torch.device("cpu")  # noqa: RUF009  # it is immutable
    amp: Amp | None = None
    channels_last: bool = False
    compile: bool = False

    def move_model(self, model: nn.Module) -> None:
        """Move ``model`` to the device and memory format, in place.

        Raises:
            UserCodeError: the model cannot be moved.
        """
        with user_code(f"moving the model to {self.device}"):
            model.to(self.device)
            if self.channels_last:
                for parameter in model.parameters():
                    parameter.data = to_channels_last(parameter.data)

    def compiled(self, model: nn.Module) -> Callable[..., Any]:
        """Return ``model``, compiled if ``compile`` is set; register hooks before, torch.compile includes them."""
        return torch.compile(model) if self.compile else model

    def prepare(self, example: Batch, *, batch: int) -> Batch:
        """Return a batch on the device and in the memory format.

        Raises:
            UserCodeError: something in the batch cannot be moved.
        """
        moved = move(example, self.device, batch=batch)
        if not self.channels_last:
            return moved
        kwargs = {name: to_channels_last(value) for name, value in moved.kwargs.items()}
        return moved._replace(args=tuple(to_channels_last(value) for value in moved.args), kwargs=kwargs)

    def call(self, model: Callable[..., Any], example: Batch, *, batch: int, name: str = "the model") -> Any:
        """Run a model on a prepared batch and return its output.

        Args:
            batch: index of the batch, for error messages.
            name: name of the model, for error messages.

        Raises:
            UserCodeError: the forward pass raises.
        """
        with self._precision():
            return call_model(model, example, doing=f"running {name} on batch {batch}")

    @contextmanager
    def _precision(self) -> Generator[None]:
        if self.amp is None:
            yield
            return
        with torch.autocast(self.device.type, dtype=_DTYPES[self.amp]):
            yield
