"""What of a file can be read as a mapping of names to tensors."""

from collections.abc import Mapping
from typing import Any, cast

from swa_cli.formats.torch.inert_objects import Inert
from swa_cli.formats.torch.pickled_module import is_module, module_state_dict, most_work
from swa_cli.formats.torch.rebuild import PickledTensor


class Mappings:
    """What can be read as a mapping: dicts, records of their subclasses, and modules, by the names of their tensors.

    Each is looked at once, however often a file names it.
    """

    def __init__(self, pickle_size: int) -> None:
        self._work = most_work(pickle_size)
        self._modules: dict[int, Mapping[Any, Any]] = {}
        self._hold_tensors: dict[int, bool] = {}

    def of(self, value: object) -> Mapping[Any, Any] | None:
        """``value`` as a mapping, if it is one.

        Raises:
            CheckpointError: it is a module that cannot be read.
        """
        if isinstance(value, Mapping):
            return cast("Mapping[Any, Any]", value)
        if not isinstance(value, Inert):
            return None
        if not is_module(value):
            return value.items
        if id(value) not in self._modules:
            self._modules[id(value)], self._work = module_state_dict(value, self._work)
        return self._modules[id(value)]

    def of_tensors(self, value: object) -> Mapping[Any, Any] | None:
        """``value`` as a mapping, if it maps names to tensors, some of them at least."""
        mapping = self.of(value)
        if mapping is not None and id(value) not in self._hold_tensors:
            self._hold_tensors[id(value)] = any(
                isinstance(name, str) and isinstance(entry, PickledTensor) for name, entry in mapping.items()
            )
        return mapping if self._hold_tensors.get(id(value)) else None
