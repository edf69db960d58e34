"""Limiting, sharding and seeding the index stream of a torch DataLoader, before anything is loaded."""

import pickle
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, cast, final
from zlib import crc32

from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

from swa_cli.user.dataloader.clone import copy_of, iterates_as_torch_does
from swa_cli.user.dataloader.rank_shard import RankShard
from swa_cli.user.dataloader.rng import drawn_apart, seed_all, seed_of_batch
from swa_cli.user.guard import reason_of


def gives_indices(loader: object, *, counts_samples: bool) -> bool:
    """Return whether a sampler chooses what ``loader`` loads; with ``counts_samples``, also how many per batch."""
    if not iterates_as_torch_does(loader) or isinstance(loader.dataset, IterableDataset):
        return False
    return loader.batch_sampler is not None or not counts_samples  # without, one index may stand for a whole batch


def index_sampler(loader: DataLoader[Any]) -> Iterable[Any]:
    """Return the sampler of batch indices, or, without automatic batching, that of single indices."""
    return cast("Iterable[Any]", loader.sampler if loader.batch_sampler is None else loader.batch_sampler)


def drawing_from(loader: DataLoader[Any], indices: "Indices", *, seed: int) -> DataLoader[Any]:
    """Return a copy of ``loader`` that loads the entries of ``indices``, each with a seed of its own."""
    changes = {
        "sampler" if loader.batch_sampler is None else "batch_sampler": indices,
        "dataset": _SeededByBatch(loader.dataset, seed),
        "worker_init_fn": partial(_start_worker, loader.worker_init_fn),
    }
    return copy_of(loader, **changes)


@final
class Indices:
    """Replacement of a sampler: this rank's entries of its stream, each with its position in the stream.

    ``sizes`` holds the number of samples of each entry, or None if a single index may stand for a whole batch; the
    consumer of the batches pops them.
    """

    def __init__(self, sampler: Iterable[Any], share: RankShard, *, batched: bool) -> None:
        self._sampler, self._share, self._batched = sampler, share, batched
        self.digest = 0
        self.sizes: deque[int | None] = deque()

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        digest = 0
        # A sampler that draws for each batch must not depend on what was drawn while the previous one was loaded.
        for place, index in self._share.limited(drawn_apart(self._sampler), len):
            digest = crc32(pickle.dumps(index), digest)
            if place % self._share.ranks == self._share.rank:
                several = self._batched or isinstance(index, list)
                self.sizes.append(len(cast("Sequence[object]", index)) if several else None)
                yield place, index
        self.digest = digest


@final
class _SeededByBatch(Dataset[Any]):
    """A dataset that is indexed by position and index, and seeds all random states by the position."""

    def __init__(self, dataset: Any, seed: int) -> None:
        self.dataset, self._seed = dataset, seed

    def __getitem__(self, entry: tuple[int, Any]) -> Any:
        place, index = entry
        seed_all(seed_of_batch(self._seed, place))
        with _reported():
            return self.dataset[index]

    def __getitems__(self, entry: tuple[int, Sequence[Any]]) -> Any:
        place, indices = entry
        seed_all(seed_of_batch(self._seed, place))
        with _reported():
            fetch = getattr(self.dataset, "__getitems__", None)
            return fetch(indices) if fetch else [self.dataset[index] for index in indices]


@contextmanager
def _reported() -> Generator[None]:
    """Turn an exception of a dataset into one that reaches the main process.

    A StopIteration would be taken for the end of the data. From a worker, only an Exception whose class the main
    process can import arrives there; any other one kills the worker, or leaves the main process waiting forever.
    """
    try:
        yield
    except StopIteration as error:
        raise RuntimeError(reason_of(error)) from None  # with it as the cause, contextlib would let it pass
    except BaseException as error:
        in_worker = get_worker_info() is not None and type(error) is not KeyboardInterrupt
        if in_worker and not (isinstance(error, Exception) and _is_importable(type(error))):
            raise RuntimeError(reason_of(error)) from error
        raise


def _is_importable(kind: type) -> bool:
    try:
        pickle.dumps(kind)
    except Exception:  # noqa: BLE001  # a local class, or a custom metaclass
        return False
    return True


def _start_worker(user: Callable[[int], object] | None, worker: int) -> None:
    """Call the user's worker_init_fn, with the user's own dataset in the worker's info."""
    info = cast("Any", get_worker_info())
    object.__setattr__(info, "dataset", info.dataset.dataset)  # its own __setattr__ refuses
    if user is not None:
        user(worker)
