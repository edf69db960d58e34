"""Training images without augmentation: the training loader with the validation set's transform."""

import copy
from collections.abc import Iterable
from typing import Any, NamedTuple, cast

from torch.utils.data import ConcatDataset, DataLoader, Subset

from swa_cli.errors import kind_of
from swa_cli.user.dataloader.clone import copy_of, is_loader

_NAMES = ("transform", "transforms")


class NotOfferedError(Exception):
    """The evaluation transform cannot replace the training transform; the message says why, the caller what to do."""


class Exchanged(NamedTuple):
    """A loader of the same images in the same order, with another transform."""

    loader: Iterable[Any]
    transform: str
    """The transform's ``str()``, in one line."""
    same: bool
    """Whether training already has this transform, so that nothing changes."""


def with_transform_of(train: Iterable[Any], evaluation: Iterable[Any]) -> Exchanged:
    """Return a copy of the loader ``train`` that applies the transform of ``evaluation``'s dataset.

    Datasets keep it as torchvision's do: ``transform``, or ``transforms`` for image and target together; Subset and
    ConcatDataset are searched. ``target_transform`` stays that of training. The user's own dataset is not changed.

    Raises:
        NotOfferedError: one of the two is not a DataLoader, or its dataset has no such attribute.
    """
    known, reference = _loader(train, "training"), _loader(evaluation, "evaluation")
    first, *others = _with_transforms(reference.dataset, "evaluation")
    if not all(_alike(other, first) for other in others):
        msg = "the parts of its evaluation set have different transforms"
        raise NotOfferedError(msg)
    same = all(_alike(dataset, first) for dataset in _with_transforms(known.dataset, "training"))
    plain, joint = _kept(first)
    return Exchanged(
        loader=copy_of(known, dataset=_exchanged(known.dataset, first)),
        transform=" ".join(str(plain if joint is None else joint).split()),
        same=same,
    )


def _loader(loader: object, what: str) -> DataLoader[Any]:
    if not is_loader(loader):
        msg = f"its {what} loader is a {kind_of(loader)}, not a torch DataLoader"
        raise NotOfferedError(msg)
    return loader


def _with_transforms(dataset: object, what: str) -> list[object]:
    """Return ``dataset``, or the datasets it wraps, each of which has its own transforms."""
    if _has_transforms(dataset):
        return [dataset]
    if not _wrapped(dataset):
        msg = f"its {what} set, a {kind_of(dataset)}, has no attribute transform"
        raise NotOfferedError(msg)
    return [found for part in _wrapped(dataset) for found in _with_transforms(part, what)]


def _exchanged(dataset: Any, reference: object) -> Any:
    """Return a copy of ``dataset`` with new transforms, copied no deeper than the dataset that holds them."""
    copied: Any = copy.copy(dataset)
    if _has_transforms(dataset):
        vars(copied).update(_new_transforms(vars(cast("object", dataset)), vars(reference)))
        return copied
    parts = [_exchanged(part, reference) for part in _wrapped(dataset)]
    vars(copied).update({"dataset": parts[0]} if isinstance(dataset, Subset) else {"datasets": parts})
    return copied


def _new_transforms(train: dict[str, Any], reference: dict[str, Any]) -> dict[str, Any]:
    new = {name: reference[name] for name in _NAMES if name in train and name in reference}
    together = [kept["transforms"] for kept in (reference, train) if kept.get("transforms") is not None]
    joint = [_is_joint(transforms) for transforms in together]
    if not new or len(set(joint)) > 1 or (any(joint) and "transforms" not in new):
        msg = "its training and its evaluation set do not keep their transforms in the same way"
        raise NotOfferedError(msg)
    if "transforms" in train and "transform" in new and together and not any(joint):
        # torchvision keeps both apart and, in `transforms`, together.
        both = copy.copy(together[0])
        both.transform, both.target_transform = new["transform"], train.get("target_transform")
        new["transforms"] = both
    return new


def _has_transforms(dataset: object) -> bool:
    return any(name in getattr(dataset, "__dict__", {}) for name in _NAMES)


def _wrapped(dataset: object) -> list[object]:
    if isinstance(dataset, Subset):
        return [cast("Any", dataset).dataset]
    return list(cast("Any", dataset).datasets) if isinstance(dataset, ConcatDataset) else []


def _kept(dataset: object) -> tuple[Any, Any]:
    """Return the transform of the image, and that of image and target together."""
    joint = vars(dataset).get("transforms")
    return vars(dataset).get("transform"), joint if _is_joint(joint) else None


def _alike(one: object, other: object) -> bool:
    """Return whether the transforms are equal or print alike."""
    return _kept(one) == _kept(other) or str(_kept(one)) == str(_kept(other))


def _is_joint(transforms: object) -> bool:
    """Return whether it takes image and target together, and is not torchvision's pair of separate transforms."""
    return transforms is not None and not hasattr(transforms, "target_transform")
