"""What the file of an average says of itself, for the evaluation."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path, PurePath

from torch import nn

from swa_cli.averaging import Words, words_of
from swa_cli.batchnorm import bn_layers
from swa_cli.checkpoints import SeriesMember
from swa_cli.errors import option
from swa_cli.evaluation import BnRecord
from swa_cli.formats import BnUpdate, Checkpoint, Options, unescape_surrogates
from swa_cli.text import plural

_TOO_LARGE = 0.05
"""Standard error, in standard deviations, above which statistics are from too little of the data."""


def words_of_file(swa: Checkpoint) -> Words:
    """Return how reports name the file that is evaluated, by the combiner in its record."""
    provenance = swa.provenance
    return words_of(((provenance and provenance.options) or Options()).combine)


def bn_update_of(swa: Checkpoint) -> BnRecord | None:
    """How its BatchNorm statistics were recomputed, if they were."""
    provenance = swa.provenance
    if provenance is None or provenance.bn_update is None:
        return None
    return BnRecord(file=swa.path.name, **provenance.bn_update.model_dump(exclude={"tensors"}))


def warnings_of(
    swa: Checkpoint, members: Sequence[SeriesMember], model: nn.Module, *, key: str | None, data: str
) -> tuple[str, ...]:
    """What an average says of itself that the reader of the table must know.

    Args:
        members: the checkpoints in the table.
        key: that of the members.
        data: the class whose examples the table is of.
    """
    provenance = swa.provenance
    if provenance is None:
        return (f"{swa.path.name} has no swa-cli provenance; its sources are unknown.",)
    name, words = swa.path.name, words_of_file(swa)
    warnings: list[str] = []
    if provenance.bn_statistics == "averaged" and bn_layers(model):
        warnings.append(
            f"{name} has BatchNorm statistics that are {plural(words.noun)} of the checkpoints', not those of "
            f"the {words.adjective} weights: its scores are not what they could be. Run swa-bn-update first."
        )
    if provenance.bn_update:
        warnings += _of_statistics(provenance.bn_update, swa.path.name, data)
    if provenance.options and provenance.options.key != key:
        warnings.append(
            f"{name} is the {words.noun} of the weights under {provenance.options.key or 'the usual key'}, the table "
            f"has those under {key or 'the usual key'}: it compares different weights. Give the same {option('key')}."
        )
    averaged = {(Path(unescape_surrogates(source.name)).name, source.step) for source in provenance.sources}
    if provenance.n_averaged > 1 and averaged != {(member.path.name, member.step) for member in members}:
        warnings.append(
            f"{name} is the {words.noun} of {provenance.n_averaged} checkpoints ({provenance.sources[0].name} to "
            f"{provenance.sources[-1].name}), the table is of {len(members)} that are not the same: mean and ensemble "
            f"are over others than the {words.noun}."
        )
    return tuple(warnings)


def _of_statistics(update: BnUpdate, name: str, data: str) -> Iterator[str]:
    if update.unreached:
        yield (
            f"{name}: no batch reached the BatchNorm layers {', '.join(update.unreached)} when the statistics were "
            "recomputed, and theirs are still averages."
        )
    if _is_another(unescape_surrogates(update.data), data):
        yield (
            f"the BatchNorm statistics of {name} were recomputed on the data of {update.data}, and the table is of "
            f"those of {data}: where the two prepare their inputs differently, the scores of the average are not what "
            f"they could be. Give swa-bn-update and swa-eval the same {option('data')}."
        )
    error = update.standard_error
    if update.partial and (error is None or error > _TOO_LARGE):
        n, batches = update.n_samples, update.n_batches
        seen = f"{batches:,} batches" if n is None else f"{n:,} samples"
        size = "not known" if error is None else f"up to {100 * error:.3g} %"
        yield (
            f"the BatchNorm statistics of {name} are from too little of the data, {seen}: their "
            f"standard errors are {size}, expected {100 * _TOO_LARGE:.0f} % or less. Run "
            "swa-bn-update on more."
        )


def _is_another(recorded: str, data: str) -> bool:
    """Whether two targets are of different classes, as far as their names tell: each is seen from its own folder."""
    files = [Path(target.rpartition(":")[0]) for target in (recorded, data) if ".py:" in target]
    with suppress(OSError, ValueError):  # the record has no name that a file can have here
        if len(files) > 1 and all(file.is_file() for file in files) and not files[0].samefile(files[1]):
            return True
    return _short(recorded) != _short(data)


def _short(target: str) -> tuple[str, str]:
    """The last name of the module and that of the class, which are the same for ``a/b.py:C`` and ``a.b.C``."""
    if ".py:" in target:
        path, _, name = target.rpartition(":")
        return PurePath(path).stem, name
    module, _, name = target.rpartition(".")
    return module.rpartition(".")[2], name
