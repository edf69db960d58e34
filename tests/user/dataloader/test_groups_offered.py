"""What a dataset has that could group its examples."""

from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import DataLoader, Dataset, Subset

from support.evaluating import MODEL, averaged, evaluated, prepared
from swa_cli.user.dataloader.groups_offered import groups_offered


class Images(Dataset[torch.Tensor]):
    """Six examples, with whatever attributes."""

    def __init__(self, **attributes):
        vars(self).update(attributes)

    def __len__(self):
        return 6

    def __getitem__(self, index):
        raise AssertionError(index)


class Table(Images):
    """As a Hugging Face dataset."""

    column_names = ("pixel_values", "label", "Patient_ID")


class Broken(Images):
    """Whatever is asked for."""

    @property
    def column_names(self):
        raise RuntimeError


def folder(*paths):
    return {"samples": [(f"root/{path}", 0) for path in paths], "classes": ["cat", "dog"]}


IN_FOLDERS = "the files lie in 3 folders below those of the classes"


@pytest.mark.parametrize(
    ("dataset", "expected"),
    [
        (Table(), "the dataset has a column Patient_ID"),
        (Images(frame=SimpleNamespace(columns=["file", "subject"])), "the dataset has a column subject"),
        (Images(groups=[0, 0, 1, 1, 2, 2]), "the dataset has an attribute groups"),
        (Images(video_ids=torch.arange(6)), "the dataset has an attribute video_ids"),
        (Images(groups=4), None),
        (Images(users=["one"]), None),
        (Images(targets=[0] * 6, columns=["label", 3]), None),
        (Images(**folder("cat/a/1", "cat/a/2", "cat/b/1", "dog/c/1", "dog/c/2", "dog/c/3")), IN_FOLDERS),
        (Images(**folder("cat/1", "cat/2", "cat/3", "dog/1", "dog/2", "dog/3")), None),
        (Images(**folder("cat/a/1", "cat/b/1", "cat/c/1", "dog/d/1", "dog/e/1", "dog/f/1")), None),
        (Broken(), None),
        (Images(), None),
    ],
)  # fmt: skip
def test_columns_attributes_and_folders_are_found_without_loading_an_example(dataset, expected):
    assert groups_offered(DataLoader(dataset)) == expected
    assert groups_offered(DataLoader(Subset(dataset, range(3)))) == expected


@pytest.mark.parametrize("loader", [[torch.zeros(2)], iter([]), 3, None])
def test_what_is_no_loader_offers_nothing(loader):
    assert groups_offered(loader) is None


CODE = """
from evalcode import Data
from torch.utils.data import DataLoader, TensorDataset


class Grouped(Data):
    given = False

    def test_dataloader(self):
        dataset = TensorDataset(*self.sets["test"])
        dataset.patients = list(range(60))
        return DataLoader(dataset, batch_size=20)

    def split_batch(self, batch):
        groups = range(len(batch[1])) if self.given else None
        return (batch[0],), {}, batch[1], groups


class Given(Grouped):
    given = True
"""


@pytest.mark.parametrize(("data", "hinted"), [("Grouped", True), ("Given", False)])
def test_a_hint_is_given_where_groups_are_not(tmp_path, run_swa, data, hinted):
    prepared(tmp_path)
    (tmp_path / "grouped.py").write_text(CODE)
    averaged(run_swa)

    result = evaluated(run_swa, data=(*MODEL, "--data", f"grouped.py:{data}"))

    hint = (
        "No groups were given, and the dataset has an attribute patients. Where several examples belong together, let"
    )
    assert any(note.startswith(hint) for note in result["notes"]) == hinted
