"""A user's loader, passed over as often as need be: the same batches every time, each process its share of them."""

from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import Any, Literal, cast, final

from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset

from swa_cli.errors import DataError, kind_of
from swa_cli.user.dataloader.clone import has_plain_batches, is_loader, parts_of, unused_copy
from swa_cli.user.dataloader.groups_offered import groups_offered
from swa_cli.user.dataloader.rank_shard import RankShard
from swa_cli.user.dataloader.rng import OwnGenerators, drawn_apart
from swa_cli.user.dataloader.seeded_sampler import Indices, drawing_from, gives_indices, index_sampler
from swa_cli.user.dataloader.tree import samples_in
from swa_cli.user.dataloader.worker_failures import deaths_told_while_loading

SharedBy = Literal["alone", "batches", "index", "itself"]


@final
class Passes:
    """Every pass gives the same batches, even if other code draws from the global random states in between.

    At the start of a pass torch, numpy and random are seeded, and generators that the loader, its samplers or its
    dataset hold are put back to where they were at the first. Where the loader draws its batches from a sampler, each
    batch is moreover loaded with a seed of its own: random augmentation does not depend on the number of workers or
    of ranks. The caller's random states are in force whenever the loader is not at work.

    Ranks share the stream of batches that one process would see, without its being padded. (A DistributedSampler
    would give each rank other batches, and repeat samples to make the ranks even: the statistics would not be those
    of one process.) How, ``shared_by`` says:

    - ``alone``: there is one rank.
    - ``batches``: rank r loads the batches r, r + ranks, … and no others.
    - ``index``: the loader keeps to itself what it loads; each rank loads all, and takes those batches.
    - ``itself``: the loader's sampler shares the data out already; it is taken as it is.

    Attributes:
        digest: CRC-32 of all ranks' stream of indices, once a pass has come to its end; equal on all ranks, or their
            samplers disagree. 0 before, and where there is no such stream.
        told: how many samples the batch given last has, as the loader's sampler says; None where it does not.
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
        """Nothing is loaded yet.

        Args:
            seed: None leaves the loader's own generators as the user seeded them, and seeds all else with 0.
            num_batches: the first so many, of all ranks together.
            num_samples: whole batches until all ranks together have so many samples.
        """
        parts = parts_of(loader)
        self._loader, self._seed = loader, seed
        self._generators = OwnGenerators(parts)
        self._sampled = gives_indices(loader, counts_samples=num_samples is not None)
        self.shared_by: SharedBy = _sharing(parts, ranks, sampled=self._sampled)
        self.repeatable = not any(isinstance(part, Iterator) and not isinstance(part, Dataset) for part in parts)
        self.digest = 0
        self.told: int | None = None
        share = RankShard(rank=rank, ranks=ranks, num_batches=num_batches, num_samples=num_samples)
        self._share = share.divided() if self.shared_by == "itself" else share

    @property
    def groups_offered(self) -> str | None:
        """What the dataset has that could group its examples: `swa_cli.user.dataloader.groups_offered`."""
        return groups_offered(self._loader)

    def __iter__(self) -> Iterator[Any]:
        """This rank's batches; what the loader raises comes through as it is."""
        self.digest, self.told = 0, None
        seed = self._seed or 0
        self._generators.rewind(self._seed)
        if not self._sampled:
            stream = deaths_told_while_loading(drawn_apart(unused_copy(self._loader), seed=seed))
            return (batch for _, batch in self._share.of(stream, _counted))
        return self._from_sampler(cast("DataLoader[Any]", self._loader), seed)

    def _from_sampler(self, loader: DataLoader[Any], seed: int) -> Generator[Any]:
        indices = Indices(index_sampler(loader), self._share, batched=loader.batch_sampler is not None)
        for batch in deaths_told_while_loading(drawn_apart(drawing_from(loader, indices, seed=seed), seed=seed)):
            self.told = indices.sizes.popleft()
            yield batch
        if self.shared_by != "itself":
            self.digest = indices.digest

    def __len__(self) -> int:
        """Batches of this rank.

        Raises:
            TypeError: that is known only when they have been loaded.
        """
        length = len(cast("Any", self._loader))
        size = _batch_size(self._loader)
        if self._share.num_samples is not None:
            if size is None:
                msg = f"how many batches of this {kind_of(self._loader)} have {self._share.num_samples} samples?"
                raise TypeError(msg)
            length = min(length, -(-self._share.num_samples // size))
        return self._share.length(length)


def told_by(batches: Iterable[Any]) -> int | None:
    """How many samples the batch that ``batches`` gave last has, as far as its loader says."""
    return batches.told if isinstance(batches, Passes) else None


def _counted(batch: object) -> int:
    """How many samples count towards ``num_samples``."""
    n_samples = samples_in(batch)
    if n_samples is None:
        msg = (
            f"how many samples a batch of type {kind_of(batch)} has does not follow from the lengths of its parts. "
            "Limit the data by --num-batches, or leave out --num-samples."
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
    """Samples in every batch but the last, where the loader has such a number."""
    if not is_loader(loader) or isinstance(loader.dataset, IterableDataset) or not has_plain_batches(loader):
        return None
    return cast("BatchSampler", loader.batch_sampler).batch_size
