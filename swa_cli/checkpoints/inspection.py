"""What files hold, and which of them each selection would pick."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Literal

from swa_cli.checkpoints.selection import Selection, known_metrics, select
from swa_cli.checkpoints.survey import Survey, survey_checkpoints
from swa_cli.checkpoints.untrained import about_untrained
from swa_cli.errors import LISTED, SourceError, SwaError, option, shortened
from swa_cli.formats import Checkpoint, Options, is_averaged

_EXAMPLE = 5
_NEED_AN_ORDER = ("last", "first", "every", "from_step", "to_step")
_MODES: tuple[Literal["min", "max"], ...] = ("min", "max")
_EMA = ("ema", "averag", "shadow")


@dataclass(frozen=True, kw_only=True)
class Description:
    """What a file is, but for what is its own (its path, step and metrics): files of one run have it in common."""

    container: str
    key: str
    stripped: tuple[str, ...]
    ema: tuple[str, ...]
    """Keys under which averaged weights seem to lie."""
    other_weights: tuple[str, ...]
    optimizer_is_empty: bool | None
    tensors: int
    parameters: int
    """Elements of the tensors that would be averaged, BatchNorm statistics among them; tied ones once."""
    dtypes: tuple[tuple[str, int], ...]
    """The dtypes of the tensors, and how many are of each."""
    weight_bytes: int
    average_of: int | None = None
    """Of how many checkpoints it is the average, if swa-cli wrote it."""
    combine: str = "mean"
    """How these were combined, then."""


@dataclass(frozen=True, kw_only=True)
class Pick:
    """What some flags pick, or why they cannot."""

    flags: str
    paths: tuple[PurePath, ...] = ()
    error: SwaError | None = None


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What there is, and what would be picked of it."""

    survey: Survey
    picks: tuple[Pick, ...]
    selection: Selection
    notices: tuple[str, ...]


def inspect_checkpoints(
    sources: Sequence[Path], *, key: str | None = None, selection: Selection | None = None
) -> Inspection:
    """Look at all that ``sources`` name; a file that cannot be read is noted.

    Args:
        selection: what to pick; without one, there is an example of each kind.

    Raises:
        SourceError: a source that is not there, or one without checkpoints.
    """
    selection = selection or Selection()
    survey = survey_checkpoints(sources, key=key, selection=selection, keep_going=True)
    where = shortened([str(source) for source in sources])
    notices = [*survey.notices, *([survey.parts] if survey.parts else [])]
    if selection == Selection():
        picks = list(_examples(survey, where))
    else:
        pick, said = _pick(survey, selection, where)
        picks = [pick]
        notices += said
    checkpoints = [member.checkpoint for member in survey.order.members]
    notices += dict.fromkeys(checkpoint.caveat for checkpoint in checkpoints if checkpoint.caveat)
    notices += about_untrained(checkpoints)
    return Inspection(survey=survey, picks=tuple(picks), selection=selection, notices=tuple(notices))


def describe(checkpoint: Checkpoint) -> Description:
    """What is in ``checkpoint``, from its header."""
    specs = [layout.spec for layout in {*checkpoint.tensors.values()}]
    dtypes = Counter(layout.spec.dtype.name for layout in checkpoint.tensors.values())
    is_ema = {name: any(part in name.lower() for part in _EMA) for name in checkpoint.alternatives}
    provenance = checkpoint.provenance
    return Description(
        container=checkpoint.container,
        key=checkpoint.key,
        stripped=checkpoint.stripped,
        ema=tuple(name for name, found in is_ema.items() if found),
        other_weights=tuple(name for name, found in is_ema.items() if not found),
        optimizer_is_empty=checkpoint.optimizer_is_empty,
        tensors=len(checkpoint.tensors),
        parameters=sum(spec.numel for spec in specs if is_averaged(spec.dtype)),
        dtypes=tuple(sorted(dtypes.items(), key=lambda entry: (-entry[1], entry[0]))),
        weight_bytes=sum(spec.nbytes for spec in specs),
        average_of=provenance.n_averaged if provenance else None,
        combine=((provenance and provenance.options) or Options()).combine,
    )


def _pick(survey: Survey, selection: Selection, where: str) -> tuple[Pick, list[str]]:
    if survey.parts:
        return Pick(flags=selection.in_words(), error=SourceError(survey.parts)), []
    try:
        chosen, notices = select(survey.order, selection, where=where)
    except SwaError as error:
        return Pick(flags=selection.in_words(), error=error), []
    return Pick(flags=selection.in_words(), paths=tuple(member.path for member in chosen)), notices


def _examples(survey: Survey, where: str) -> Iterator[Pick]:
    """One of each kind of flag, such that it picks some of the files and leaves some out."""
    files, trouble = survey.order.members, survey.order.trouble
    if len(files) < 2 or survey.parts:  # noqa: PLR2004
        return
    count = _EXAMPLE if len(files) > _EXAMPLE else max(1, len(files) // 2)
    if trouble:
        yield Pick(flags=", ".join(map(option, _NEED_AN_ORDER)), error=SourceError(trouble))
    else:
        steps = sorted({file.step for file in files if file.step is not None})
        quarter = len(steps) // 4
        yield _pick(survey, Selection(last=count), where)[0]
        yield _pick(survey, Selection(first=count), where)[0]
        yield _pick(survey, Selection(every=2), where)[0]
        yield _pick(survey, Selection(from_step=steps[quarter], to_step=steps[-1 - quarter]), where)[0]
    for metric in known_metrics(files)[:LISTED]:
        for mode in _MODES:
            pick, _ = _pick(survey, Selection(best=count, metric=metric, mode=mode), where)
            yield pick
            if pick.error:  # the same the other way
                break
