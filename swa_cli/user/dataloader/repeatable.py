"""Iterating over a user's loader any number of times, with the same batches every time, sharded across ranks."""

from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import Any, Literal, cast, final

from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset

from swa_cli.errors import DataError, kind_of, option
from swa_cli.user.dataloader.clone import has_plain_batches, is_loader, parts_of, unused_copy
from swa_cli.user.dataloader.groups_offered import groups_offered
from swa_cli.user.dataloader.rank_shard import RankShard
from swa_cli.user.dataloader.rng import OwnGenerators, drawn_apart
from swa_cli.user.dataloader.seeded_sampler import Indices, drawing_from, gives_indices, index_sampler
from swa_cli.user.dataloader.tree import samples_in
from swa_cli.user.dataloader.worker_failures import raise_deaths_while_loading

SharedBy = Literal["alone", "batches", "index", "itself"]


@final
class Passes:
    """A loader whose every pass yields the same batches, even if other code draws random numbers in between.

    At the start of a pass, torch, numpy and random are seeded, and the generators that the loader, its samplers or its
    dataset hold are reset to their first states. If a sampler chooses the batches, each batch is also loaded with a
    seed of its own, so that random augmentation does not depend on the number of workers or ranks. The caller's random
    states are restored whenever the loader is not at work.

    Ranks share the stream of batches that one process would see, without padding. (A DistributedSampler would form
    other batches and repeat samples to make the ranks even, so the statistics would differ from those of one process.)
    ``shared_by`` says how:

    - ``alone``: there is one rank.
    - ``batches``: rank r loads the batches r, r + ranks, … and no others.
    - ``index``: nothing is known of how the loader chooses its batches; each rank loads all and keeps those.
    - ``itself``: the loader's sampler shards the data already; it is used as it is.

    Attributes:
        digest: CRC-32 of all ranks' index stream after a complete pass; different on two ranks if their samplers
            disagree. 0 before, and if there is no index stream.
        n_indices: number of dataset entries that the sampler asked for in the last batch; None if unknown.
        repeatable: False for a generator or another iterator, whose second pass would be empty.
    """

    def __init__(
        self,
        loader: Iterable[Any],
        *,
        seed: int | None = None,
        num_batches: int | None = None,
        num_samples: int | None = None,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        """Prepare the passes; nothing is loaded yet.

        Args:
            seed: None leaves the loader's own generators as the user seeded them, and seeds the global states with 0.
            num_batches: stop after this many batches, all ranks together.
            num_samples: stop after the first batch with which all ranks together have this many samples.
        """
        parts = parts_of(loader)
        self._loader, self._seed = loader, seed
        self._generators = OwnGenerators(parts)
        self._sampled = gives_indices(loader, counts_samples=num_samples is not None)
        self.shared_by: SharedBy = _sharing(parts, ranks, sampled=self._sampled)
        self.repeatable = not any(isinstance(part, Iterator) and not isinstance(part, Dataset) for part in parts)
        self.digest = 0
        self.n_indices: int | None = None
        share = RankShard(rank=rank, ranks=ranks, num_batches=num_batches, num_samples=num_samples)
        self._share = share.divided() if self.shared_by == "itself" else share

    @property
    def groups_offered(self) -> str | None:
        """A clause that names what could group the examples: `swa_cli.user.dataloader.groups_offered`."""
        return groups_offered(self._loader)

    def __iter__(self) -> Iterator[Any]:
        """Yield this rank's batches; exceptions of the loader pass through unchanged."""
        self.digest, self.n_indices = 0, None
        seed = self._seed or 0
        self._generators.rewind(self._seed)
        if not self._sampled:
            stream = raise_deaths_while_loading(drawn_apart(unused_copy(self._loader), seed=seed))
            return (batch for _, batch in self._share.of(stream, _counted))
        return self._from_sampler(cast("DataLoader[Any]", self._loader), seed)

    def _from_sampler(self, loader: DataLoader[Any], seed: int) -> Generator[Any]:
        indices = Indices(index_sampler(loader), self._share, batched=loader.batch_sampler is not None)
        for batch in raise_deaths_while_loading(drawn_apart(drawing_from(loader, indices, seed=seed), seed=seed)):
            self.n_indices = indices.sizes.popleft()
            yield batch
        if self.shared_by != "itself":
            self.digest = indices.digest

    def __len__(self) -> int:
        """Return the number of this rank's batches.

        Raises:
            TypeError: the number is known only after loading.
        """
        length = len(cast("Any", self._loader))
        size = _batch_size(self._loader)
        if self._share.num_samples is not None:
            if size is None:
                msg = f"how many batches of this {kind_of(self._loader)} have {self._share.num_samples} samples?"
                raise TypeError(msg)
            length = min(length, -(-self._share.num_samples // size))
        return self._share.length(length)


def n_indices_of(batches: Iterable[Any]) -> int | None:
    """Return how many dataset entries the sampler asked for in the last batch of ``batches``; None if unknown."""
    return batches.n_indices if isinstance(batches, Passes) else None


def _counted(batch: object) -> int:
    """Return how many samples of a batch count towards ``num_samples``."""
    n_samples = samples_in(batch)
    if n_samples is None:
        msg = (
            f"the number of samples in a batch of type {kind_of(batch)} is ambiguous: its parts differ in length. "
            f"Limit the data by {option('num_batches')}, or leave out {option('num_samples')}."
        )
        raise DataError(msg)
    return n_samples


def _sharing(parts: Sequence[object], ranks: int, *, sampled: bool) -> SharedBy:
    if ranks == 1:
        return "alone"
    for part in parts:
        replicas = getattr(part, "num_replicas", None)
        if isinstance(replicas, int) and replicas > 1:
            return "itself"
    return "batches" if sampled else "index"


def _batch_size(loader: Iterable[Any]) -> int | None:
    """Return the number of samples in every batch but the last, or None if batches may differ."""
    if not is_loader(loader) or isinstance(loader.dataset, IterableDataset) or not has_plain_batches(loader):
        return None
    return cast("BatchSampler", loader.batch_sampler).batch_size
