"""Data modules: prepared as Lightning does, and what goes wrong with them."""

import pytest
import torch

from swa_cli.errors import DataError, UserCodeError
from swa_cli.user.datamodule import batches_of, build_data_module, choose_split, iterate, length_of


class Module:
    """A data module that writes down what is called."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def prepare_data(self) -> None:
        self.calls.append("prepare_data")

    def setup(self, stage: str) -> None:
        self.calls.append(f"setup {stage}")

    def train_dataloader(self):
        return [1, 2]

    def val_dataloader(self):
        return [[1], [2]]


def test_a_data_module_is_prepared_as_lightning_does():
    module = Module()

    assert list(batches_of(module, "train")) == [1, 2]
    assert module.calls == ["prepare_data", "setup fit"]


def test_only_the_loader_is_needed():
    class Bare:
        def test_dataloader(self):
            return [3]

    assert list(batches_of(Bare(), "test")) == [3]
    assert choose_split(Bare()) == "test"


def test_without_test_data_the_validation_data_are_taken():
    assert choose_split(Module()) == "val"


def test_lightning_s_own_placeholder_is_no_loader():
    def placeholder(self):
        raise RuntimeError("`test_dataloader` must be implemented to be used with the Lightning Trainer")

    placeholder.__module__ = "lightning.pytorch.core.hooks"
    module = type("Lit", (Module,), {"test_dataloader": placeholder})()

    assert choose_split(module) == "val"
    with pytest.raises(UserCodeError, match=r"Lit has no test_dataloader\(\)"):
        batches_of(module, "test")


def test_a_module_without_loaders_says_which_are_needed():
    with pytest.raises(UserCodeError, match=r"object has no train_dataloader\(\), which is needed here"):
        batches_of(object(), "train")
    with pytest.raises(UserCodeError, match=r"neither test_dataloader\(\) nor val_dataloader\(\)"):
        choose_split(object())


def test_a_failing_setup_and_several_loaders_are_errors():
    class Fails(Module):
        def setup(self, stage: str) -> None:
            raise FileNotFoundError("images/")

    class Several:
        def train_dataloader(self):
            loader = torch.utils.data.DataLoader([1, 2])  # pyright: ignore
            return loader, loader

    with pytest.raises(UserCodeError, match=r"Fails\.setup\('fit'\) failed: FileNotFoundError: images/"):
        batches_of(Fails(), "train")
    with pytest.raises(UserCodeError, match="returned a tuple, expected one loader of batches"):
        batches_of(Several(), "train")


def test_a_worker_that_dies_is_one_error():
    class Dies(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return 4

        def __getitem__(self, index: int):
            raise ValueError(f"bad image {index}\nsee the manual")

    loader = torch.utils.data.DataLoader(Dies(), batch_size=2, num_workers=1)

    with pytest.raises(
        UserCodeError,
        match=r"loading batch 0 failed: ValueError: bad image 0 see the manual",
    ):
        list(iterate(loader))


def test_a_loader_without_length_or_batches():
    assert length_of(iter([1])) is None
    assert length_of([1, 2]) == 2
    with pytest.raises(DataError, match="loader is empty"):
        list(iterate([]))


def test_a_data_module_is_built_with_its_arguments(code):
    (code.parent / "userdata.py").write_text(
        "class Data:\n    def __init__(self, root, size):\n        self.got = root, size\n"
    )

    assert build_data_module("userdata.py:Data", {"root": "x", "size": 3}).got == ("x", 3)  # pyright: ignore
