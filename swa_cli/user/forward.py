"""How batches get through a model: on which device, in which precision and memory format, compiled or not."""

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
    """``amp`` is autocast to that dtype; ``channels_last`` is for inputs and weights of four and five dimensions."""

    device: torch.device = torch.device("cpu")  # noqa: RUF009  # it is immutable
    amp: Amp | None = None
    channels_last: bool = False
    compile: bool = False

    def move_model(self, model: nn.Module) -> None:
        """Move ``model``, in place.

        Raises:
            UserCodeError: it cannot be moved.
        """
        with user_code(f"moving the model to {self.device}"):
            model.to(self.device)
            if self.channels_last:
                for parameter in model.parameters():
                    parameter.data = to_channels_last(parameter.data)

    def compiled(self, model: nn.Module) -> Callable[..., Any]:
        """``model``, or with ``compile`` what torch.compile makes of it, with the hooks that it has by then."""
        return torch.compile(model) if self.compile else model

    def prepare(self, example: Batch, *, batch: int) -> Batch:
        """A batch on the device, in the memory format.

        Raises:
            UserCodeError: something in it cannot be moved.
        """
        moved = move(example, self.device, batch=batch)
        if not self.channels_last:
            return moved
        kwargs = {name: to_channels_last(value) for name, value in moved.kwargs.items()}
        return moved._replace(args=tuple(to_channels_last(value) for value in moved.args), kwargs=kwargs)

    def call(self, model: Callable[..., Any], example: Batch, *, batch: int, name: str = "the model") -> Any:
        """The output of a model, called ``name``, for a batch that is prepared.

        Raises:
            UserCodeError: the forward raises.
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
