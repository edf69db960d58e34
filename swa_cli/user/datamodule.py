"""Building the user's data module, setting it up, and getting the loader of a split.

The module is duck-typed: a ``LightningDataModule`` works as it is, and Lightning need not be installed.
"""

import inspect
from collections.abc import Callable, Generator, Iterable, Mapping
from typing import Any, Literal, cast

from torch.utils.data import DataLoader

from swa_cli.errors import DataError, UserCodeError, kind_of, option
from swa_cli.user.dataloader import NotOfferedError, with_transform_of
from swa_cli.user.guard import user_code
from swa_cli.user.import_object import call_target

Split = Literal["train", "val", "test"]

# The stage that Lightning's Trainer passes to setup(). `fit` prepares the validation data too.
_STAGES: Mapping[Split, str] = {"train": "fit", "val": "fit", "test": "test"}


def build_data_module(target: str, arguments: Mapping[str, Any]) -> object:
    """Call the class or function that ``target`` names.

    Raises:
        UserCodeError: ``target`` cannot be imported or called.
    """
    return call_target(target, arguments, what="data module")


def choose_split(module: object) -> Split:
    """Return ``test`` if the module has test data, else ``val``.

    Raises:
        UserCodeError: the module has neither.
    """
    if _implements(module, "test_dataloader"):
        return "test"
    if _implements(module, "val_dataloader"):
        return "val"
    msg = (
        f"data module {_name(module)} has neither test_dataloader() nor val_dataloader(); evaluation needs one of "
        f"them. Define one, or name another split with {option('split')}."
    )
    raise UserCodeError(msg)


def has_split(module: object, split: Split) -> bool:
    """Return whether the module has a loader for ``split``."""
    return _implements(module, f"{split}_dataloader")


def batches_of(module: object, split: Split) -> Iterable[Any]:
    """Set the module up and return its loader for ``split``.

    Raises:
        UserCodeError: the loader is not defined, or the module's own code fails.
    """
    _check_has_loader(module, split)
    _call_if_there(module, "prepare_data")
    _call_if_there(module, "setup", _STAGES[split])
    return _loader_of(module, split)


def train_batches_as_evaluated(module: object) -> tuple[Iterable[Any], str]:
    """Set the module up and return its training loader without augmentation, and a note that says how.

    If ``train_dataloader`` has a parameter ``eval_transforms``, it is called with ``eval_transforms=True``. Otherwise
    the training set must keep its transform as torchvision's datasets do, and gets that of the validation set (of the
    test set, if there is no validation set).

    Raises:
        UserCodeError: neither is possible, a loader is not defined, or the module's own code fails.
    """
    _check_has_loader(module, "train")
    with user_code(f"looking at the parameters of {_name(module)}.train_dataloader"):
        offers = "eval_transforms" in inspect.signature(cast("Any", module).train_dataloader).parameters
    if offers:
        _call_if_there(module, "prepare_data")
        _call_if_there(module, "setup", _STAGES["train"])
        note = f"training images as evaluation sees them: {_name(module)}.train_dataloader(eval_transforms=True)."
        return _loader_of(module, "train", eval_transforms=True), note
    try:
        return _with_transform_of_evaluation(module)
    except NotOfferedError as error:
        msg = (
            f"data module {_name(module)} does not offer its training images as evaluation sees them: {error}. Give "
            "train_dataloader() a parameter eval_transforms=False that switches off the augmentation when it is True, "
            f"or leave out {option('eval_transforms')}."
        )
        raise UserCodeError(msg) from error


def splitter_of(module: object) -> Callable[[Any], object] | None:
    """Return the module's own ``split_batch(batch) -> (args, kwargs, target)``, or None."""
    method = _attribute(module, "split_batch")
    return cast("Callable[[Any], object]", method) if callable(method) else None


def iterate(loader: Iterable[Any], *, may_be_empty: bool = False) -> Generator[Any]:
    """Iterate over a user's loader; an exception becomes one error that names the batch.

    Args:
        may_be_empty: accept a loader without batches, as one rank of several may have.

    Raises:
        UserCodeError: the loader raises, or a worker dies.
        DataError: there are no batches.
    """
    index = 0
    with user_code("opening the data loader"):
        iterator = iter(loader)
    while True:
        with user_code(f"loading batch {index}"):
            try:
                batch = next(iterator)
            except StopIteration:
                break
        yield batch
        index += 1
    if index == 0 and not may_be_empty:
        raise no_batches()


def no_batches() -> DataError:
    """Return the error for an empty loader."""
    return DataError("the data loader is empty: it yielded no batch. Check the data module's paths and its drop_last.")


def length_of(loader: Iterable[Any]) -> int | None:
    """Return the number of batches, or None if the loader has no length (an IterableDataset, say)."""
    try:
        return len(cast("Any", loader))
    except (Exception, SystemExit):  # noqa: BLE001  # only the progress bar needs the length
        return None


def _with_transform_of_evaluation(module: object) -> tuple[Iterable[Any], str]:
    loader = batches_of(module, "train")
    if _implements(module, "val_dataloader"):
        split: Split = "val"  # which setup("fit") has prepared
    elif _implements(module, "test_dataloader"):
        split = "test"
        _call_if_there(module, "setup", _STAGES[split])
    else:
        msg = "it has neither val_dataloader() nor test_dataloader()"
        raise NotOfferedError(msg)
    new = with_transform_of(loader, _loader_of(module, split))
    same = " (training has the same)" if new.same else ""
    note = f"training images as evaluation sees them: the transform of {split}_dataloader(), {new.transform}{same}."
    return new.loader, note


def _check_has_loader(module: object, split: Split) -> None:
    if not _implements(module, f"{split}_dataloader"):
        msg = (
            f"data module {_name(module)} has no {split}_dataloader(), which is needed here. Define it: it returns a "
            "DataLoader."
        )
        raise UserCodeError(msg)


def _loader_of(module: object, split: Split, **arguments: object) -> Iterable[Any]:
    """What the module, set up, gives for ``split``, checked."""
    spelled = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
    method = f"{_name(module)}.{split}_dataloader({spelled})"
    with user_code(method):
        loader = getattr(module, f"{split}_dataloader")(**arguments)
    kind = kind_of(loader)
    if isinstance(loader, Mapping) or not isinstance(loader, Iterable) or _holds_loaders(cast("object", loader)):
        msg = f"{method} returned a {kind}, expected one loader of batches (a torch DataLoader)."
        raise UserCodeError(msg)
    return cast("Iterable[Any]", loader)


def _implements(module: object, method: str) -> bool:
    found = _attribute(module, method)
    if not callable(found):
        return False
    # Lightning's base class defines every loader as a method that raises.
    return not str(getattr(found, "__module__", "")).startswith(("lightning.", "pytorch_lightning."))


def _attribute(module: object, name: str) -> object:
    with user_code(f"looking for {_name(module)}.{name}"):
        return getattr(module, name, None)


def _holds_loaders(loader: object) -> bool:
    """Return whether ``loader`` is a list of loaders, which Lightning allows; the choice would be ambiguous."""
    if not isinstance(loader, (list, tuple)):
        return False
    return any(isinstance(entry, DataLoader) for entry in cast("Iterable[object]", loader))


def _call_if_there(module: object, method: str, *arguments: object) -> None:
    found = _attribute(module, method)
    if callable(found):
        spelled = ", ".join(repr(argument) for argument in arguments)
        with user_code(f"{_name(module)}.{method}({spelled})"):
            found(*arguments)


def _name(module: object) -> str:
    return kind_of(module)
