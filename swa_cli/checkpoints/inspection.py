"""Inspecting checkpoints: their contents, and which of them each selection would take."""

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
    """The properties that checkpoints of one run share: all but path, step and metrics."""

    container: str
    key: str
    stripped: tuple[str, ...]
    ema: tuple[str, ...]
    """Keys that seem to hold averaged weights."""
    other_weights: tuple[str, ...]
    optimizer_is_empty: bool | None
    tensors: int
    parameters: int
    """Number of elements that would be averaged, including BatchNorm statistics; tied tensors count once."""
    dtypes: tuple[tuple[str, int], ...]
    """The dtypes, with the number of tensors of each."""
    weight_bytes: int
    average_of: int | None = None
    """Number of checkpoints that were averaged, if swa-cli wrote the file."""
    combine: str = "mean"
    """How these were combined, then."""


@dataclass(frozen=True, kw_only=True)
class Pick:
    """The checkpoints that a selection takes, or the error."""

    flags: str
    paths: tuple[PurePath, ...] = ()
    error: SwaError | None = None


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """The survey of the sources, and what selections would take."""

    survey: Survey
    picks: tuple[Pick, ...]
    selection: Selection
    notices: tuple[str, ...]


def inspect_checkpoints(
    sources: Sequence[Path], *, key: str | None = None, selection: Selection | None = None
) -> Inspection:
    """Inspect all checkpoints that ``sources`` name, and note files that cannot be read.

    Args:
        selection: the selection to try; the default tries an example of each kind.

    Raises:
        SourceError: a source does not exist, or has no checkpoints.
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
    """Describe ``checkpoint`` from its header."""
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
    """Yield an example of each kind of selection that takes some files and skips others."""
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
