"""The training images as evaluation sees them: where a data module offers it, what is taken, what stays."""

import pytest
import torch
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset, random_split
from torchvision.datasets import FakeData, ImageFolder, VisionDataset
from torchvision.transforms.functional import pil_to_tensor, to_pil_image

from swa_cli.errors import UserCodeError
from swa_cli.user.datamodule import batches_of, train_batches_as_evaluated


class Scaled:
    """A transform that can be told from others by what it gives."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def __call__(self, image):
        return pil_to_tensor(image).double() * self.factor

    def __repr__(self) -> str:
        return f"Scaled(\n    {self.factor}\n)"


def fake(factor: float, **options):
    return FakeData(6, (1, 2, 2), transform=Scaled(factor), **options)


class Module:
    """Gives the two loaders it was made with."""

    def __init__(self, train: Dataset, evaluation: Dataset) -> None:
        self.train = train
        self.evaluation = evaluation

    def train_dataloader(self):
        return DataLoader(self.train, 2, drop_last=True)

    def val_dataloader(self):
        return DataLoader(self.evaluation, 3)


def images(loader) -> torch.Tensor:
    return torch.cat([batch[0] for batch in loader])


def same_but_for(train: Dataset, factor: float) -> torch.Tensor:
    return images(DataLoader(train, 2)) * factor


def test_a_module_that_takes_eval_transforms_is_asked():
    class Offers(Module):
        def train_dataloader(self, *, eval_transforms: bool = False):  # pyright: ignore
            return ["plain"] if eval_transforms else ["augmented"]

    loader, note = train_batches_as_evaluated(Offers(fake(1), fake(2)))

    assert list(loader) == ["plain"]
    assert list(batches_of(Offers(fake(1), fake(2)), "train")) == ["augmented"]
    assert note == "training images as evaluation sees them: Offers.train_dataloader(eval_transforms=True)."


def test_the_transform_of_validation_is_taken_and_that_is_said():
    module = Module(fake(1), fake(10))

    loader, note = train_batches_as_evaluated(module)

    assert torch.equal(images(loader), same_but_for(fake(1), 10))
    assert [len(batch[0]) for batch in loader] == [2, 2, 2]
    assert note == "training images as evaluation sees them: the transform of val_dataloader(), Scaled( 10 )."


def test_the_user_s_dataset_stays_as_it_was():
    module = Module(Subset(fake(1), [1, 2]), fake(10))
    inner = module.train.dataset  # pyright: ignore
    before, transforms = dict(vars(inner)), inner.transforms.transform

    train_batches_as_evaluated(module)

    assert vars(inner) == before
    assert inner.transforms.transform is transforms
    assert module.train.dataset is inner  # pyright: ignore
    assert torch.equal(images(module.train_dataloader()), same_but_for(Subset(fake(1), [1, 2]), 1))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda dataset: Subset(dataset, [4, 0]),
        lambda dataset: random_split(dataset, [4, 2], torch.Generator().manual_seed(0))[0],
        lambda dataset: Subset(ConcatDataset([Subset(dataset, [0, 1]), dataset]), [1, 5, 6]),
    ],
)
def test_subsets_and_concatenations_are_looked_through(wrap):
    loader, _ = train_batches_as_evaluated(Module(wrap(fake(1)), wrap(fake(10))))

    whole = DataLoader(wrap(fake(1)), 2, drop_last=True)
    assert torch.equal(images(loader), images(whole) * 10)


def test_both_places_where_torchvision_keeps_a_transform_agree():
    module = Module(fake(1, target_transform=lambda label: label + 100), fake(10))

    loader, _ = train_batches_as_evaluated(module)

    dataset = loader.dataset  # pyright: ignore
    assert module.evaluation.transforms.target_transform is None  # pyright: ignore
    assert dataset.transform.factor == dataset.transforms.transform.factor == 10
    assert dataset.target_transform is dataset.transforms.target_transform
    assert all(int(label) >= 100 for _, labels in loader for label in labels)


@pytest.mark.parametrize(("train", "evaluation"), [(None, 10), (1, None)])
def test_a_dataset_without_a_transform_is_like_one_with_it(train, evaluation):
    def dataset(factor):
        return FakeData(2, (1, 2, 2), transform=factor and Scaled(factor))

    loader, _ = train_batches_as_evaluated(Module(dataset(train), dataset(evaluation)))

    exchanged = loader.dataset  # pyright: ignore
    image, _ = exchanged[0]
    assert (image.dtype == torch.float64) if evaluation else (image.size == (2, 2))
    assert exchanged.transforms.transform is exchanged.transform


def test_image_folders(tmp_path):
    for label in "ab":
        (tmp_path / label).mkdir()
        to_pil_image(torch.full((3, 2, 2), 7, dtype=torch.uint8)).save(tmp_path / label / "0.png")

    loader, _ = train_batches_as_evaluated(Module(ImageFolder(tmp_path, Scaled(1)), ImageFolder(tmp_path, Scaled(2))))

    assert images(loader).unique().tolist() == [14]


class Joint(Dataset):
    """Transforms image and target together, as torchvision's detection datasets do."""

    def __init__(self, transforms) -> None:
        self.transforms = transforms

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int):
        return self.transforms(torch.tensor(index), torch.tensor(index))


def test_a_joint_transform_is_taken_whole():
    module = Module(Joint(lambda image, target: (image, target)), Joint(lambda image, target: (image + 5, -target)))

    (images_and_targets,) = train_batches_as_evaluated(module)[0]

    assert [part.tolist() for part in images_and_targets] == [[5, 6], [0, -1]]


class Own(Dataset):
    def __init__(self, images, transform) -> None:
        self.images, self.transform = images, transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int):
        return self.transform(self.images[index]), 0


def test_a_dataset_of_the_user_s_own_with_a_transform_will_do():
    module = Module(Own(torch.arange(4), lambda image: image), Own(torch.zeros(9), lambda image: image + 3))

    assert images(train_batches_as_evaluated(module)[0]).tolist() == [3, 4, 5, 6]


def test_without_validation_the_transform_of_the_test_set_is_taken():
    class Tested:
        stages = ()

        def setup(self, stage: str) -> None:
            self.stages = (*self.stages, stage)

        def train_dataloader(self):
            return DataLoader(fake(1), 2)

        def test_dataloader(self):
            return DataLoader(fake(10), 2)

    module = Tested()
    loader, note = train_batches_as_evaluated(module)

    assert torch.equal(images(loader), same_but_for(fake(1), 10))
    assert "test_dataloader(), Scaled( 10 )" in note
    assert module.stages == ("fit", "test")


def test_parts_with_transforms_that_are_alike_will_do():
    loader, note = train_batches_as_evaluated(Module(fake(1), ConcatDataset([fake(10), fake(10)])))

    assert torch.equal(images(loader), same_but_for(fake(1), 10))
    assert "same" not in note


def test_a_split_of_one_augmented_dataset_is_said_to_change_nothing():
    train, evaluation = random_split(fake(1), [4, 2])

    _, note = train_batches_as_evaluated(Module(train, evaluation))

    assert note.endswith("Scaled( 1 ) (training has the same).")


class Bare(Dataset):
    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int):
        return index

    def transform(self, image):
        """A method, which is not there to be exchanged."""
        return image


def module_with(**loaders):
    return type("Mine", (), {f"{split}_dataloader": lambda self, it=it: it for split, it in loaders.items()})()


@pytest.mark.parametrize(
    ("module", "why"),
    [
        (Module(Bare(), fake(1)), "its training set, a Bare, has no attribute transform"),
        (Module(fake(1), Subset(Bare(), [0])), "its evaluation set, a Bare, has no attribute transform"),
        (Module(Joint(max), Subset(fake(1), [0])), "its training and its evaluation set do not keep .* the same way"),
        (Module(fake(1), Joint(max)), "its training and its evaluation set do not keep"),
        (Module(Joint(max), Own(torch.zeros(2), abs)), "its training and its evaluation set do not keep"),
        (Module(VisionDataset(transforms=max), Own([], abs)), "its training and its evaluation set do not keep"),
        (Module(Joint(max), ConcatDataset([Bare()])), "its evaluation set, a Bare"),
        (
            Module(fake(1), ConcatDataset([fake(1), fake(2)])),
            "the parts of its evaluation set have different transforms",
        ),
        (module_with(train=[1], val=DataLoader(fake(1))), "its training loader is a list, not a torch DataLoader"),
        (module_with(train=DataLoader(fake(1)), val=[1]), "its evaluation loader is a list"),
        (module_with(train=DataLoader(fake(1))), r"it has neither val_dataloader\(\) nor test_dataloader\(\)"),
    ],
)
def test_what_is_not_offered_says_why_and_how_to_offer_it(module, why):
    with pytest.raises(UserCodeError, match=f"does not offer its training images .*: {why}") as caught:
        train_batches_as_evaluated(module)

    assert "Give train_dataloader() a parameter eval_transforms=False" in str(caught.value)


def test_without_a_training_loader_there_is_nothing_to_exchange():
    with pytest.raises(UserCodeError, match=r"Mine has no train_dataloader\(\)"):
        train_batches_as_evaluated(module_with(val=DataLoader(fake(1))))
