"""The loaders of timm and Lightning: passed over again, shared between ranks, given another batch size."""

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from support.trainers import imported, quiet
from swa_cli.errors import DataError
from swa_cli.user.dataloader import Passes, with_batch_size
from swa_cli.user.datamodule import batches_of, build_data_module, train_batches_as_evaluated

pytestmark = pytest.mark.slow


class Pictures(Dataset):
    """Two dozen pictures in as many shades of grey, with the transform that timm sets."""

    def __init__(self) -> None:
        self.transform = None

    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int):
        picture = Image.new("RGB", (16, 16), (10 * index, 0, 0))
        return (self.transform(picture) if self.transform else picture), index


def timm_loader(**options):
    data = imported("timm.data")
    with quiet():
        return data.create_loader(
            Pictures(),
            (3, 8, 8),
            4,
            is_training=True,
            device=torch.device("cpu"),
            re_prob=0.5,
            color_jitter=0.4,
            **options,
        )


TIMM = {
    "prefetched": {"num_workers": 0},
    "prefetched from workers that persist": {"num_workers": 2},
    "not prefetched": {"num_workers": 2, "use_prefetcher": False},
    "for many epochs": {"num_workers": 2, "use_prefetcher": False, "use_multi_epochs_loader": True},
}


def batches(loader) -> list:
    return [(images.tolist(), labels.tolist()) for images, labels in loader]


@pytest.mark.parametrize("kind", TIMM)
def test_every_pass_over_a_loader_of_timm_gives_the_same_batches(kind):
    passes = Passes(timm_loader(**TIMM[kind]))

    first = batches(passes)

    assert sorted(label for _, labels in first for label in labels) == list(range(24))
    assert batches(passes) == first == batches(Passes(timm_loader(**TIMM[kind])))
    assert batches(Passes(timm_loader(**TIMM[kind]), seed=1)) != first


@pytest.mark.parametrize("kind", TIMM)
def test_the_shares_of_a_loader_of_timm_are_the_single_stream(kind):
    single = batches(Passes(timm_loader(**TIMM[kind]), num_batches=5))

    parts = [Passes(timm_loader(**TIMM[kind]), num_batches=5, rank=rank, ranks=2) for rank in range(2)]

    assert [part.shared_by for part in parts] == ["batches" if kind == "not prefetched" else "index"] * 2
    even, odd = (batches(part) for part in parts)
    assert (even, odd) == (single[::2], single[1::2])


def test_a_loader_of_timm_for_several_ranks_shares_its_data_out_itself():
    data = imported("timm.data")
    sampler = data.distributed_sampler.OrderedDistributedSampler(Pictures(), num_replicas=2, rank=1)

    assert Passes(DataLoader(Pictures(), 4, sampler=sampler), rank=1, ranks=2).shared_by == "itself"


@pytest.mark.parametrize("kind", ["prefetched", "for many epochs"])
def test_what_timm_wraps_is_not_rebuilt(kind):
    with pytest.raises(
        DataError, match=r"the training loader cannot be rebuilt: it is a (Prefetch|MultiEpochsData)Loader"
    ):
        with_batch_size(timm_loader(**TIMM[kind]), 3)


def test_a_lightning_data_module_is_shared_rebuilt_and_has_its_transforms_exchanged(tmp_path, monkeypatch):
    imported("lightning")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lit.py").write_text(
        "import lightning, torch\n"
        "from torch.utils.data import DataLoader, random_split\n"
        "from torchvision.datasets import FakeData\n"
        "from torchvision.transforms import Compose, RandomHorizontalFlip, ToTensor\n"
        "class Data(lightning.LightningDataModule):\n"
        "    def setup(self, stage):\n"
        "        augment = Compose([RandomHorizontalFlip(), ToTensor()])\n"
        "        self.train, _ = random_split(FakeData(20, (1, 4, 4), transform=augment), [15, 5])\n"
        "        self.plain = FakeData(20, (1, 4, 4), transform=ToTensor())\n"
        "        self.val = FakeData(5, (1, 4, 4), transform=ToTensor())\n"
        "    def train_dataloader(self): return DataLoader(self.train, 4, shuffle=True)\n"
        "    def val_dataloader(self): return DataLoader(self.val, 4)\n"
    )
    with quiet():
        module = build_data_module("lit.py:Data", {})

    loader = with_batch_size(batches_of(module, "train"), 3)
    single = batches(Passes(loader))
    exchanged, note = train_batches_as_evaluated(module)

    assert [len(labels) for _, labels in single] == [3] * 5
    assert [batches(Passes(loader, rank=rank, ranks=3)) for rank in range(3)] == [single[rank::3] for rank in range(3)]
    assert "the transform of val_dataloader(), ToTensor()" in note
    plain = {str(picture.tolist()) for pictures, _ in Passes(exchanged) for picture in pictures}
    assert plain == {str(module.plain[index][0].tolist()) for index in module.train.indices}  # pyright: ignore
