"""Finding the checkpoints of a run from the paths that the user names, in the order of training."""

from collections.abc import Sequence
from pathlib import Path

from swa_cli.checkpoints.selection import Selection, select
from swa_cli.checkpoints.series import CheckpointSeries
from swa_cli.checkpoints.survey import survey_checkpoints
from swa_cli.checkpoints.untrained import about_untrained
from swa_cli.errors import SourceError, UsageError, option, shortened
from swa_cli.formats import Checkpoint


def find_checkpoints(
    sources: Sequence[Path],
    *,
    key: str | None = None,
    selection: Selection | None = None,
    apart_from: Path | None = None,
) -> CheckpointSeries:
    """Open every checkpoint that ``sources`` name, sort them by step, and select.

    Args:
        sources: files, directories (that are a checkpoint, or searched for `SUFFIXES`; further down if they hold none
            themselves) and glob patterns.
        key: dotted key of the state_dict in torch files.
        selection: which of them to take; default: all.
        apart_from: a file to ignore, which may lie among the others (the average to compare with).

    Raises:
        SourceError: a source does not exist, a pattern matches nothing, a directory has no checkpoints, files are
            parts of one checkpoint or hold several networks, or the selection is impossible.
        UsageError: the selection is incomplete, or names a metric that no file has.
        CheckpointError: a file cannot be read.
    """
    selection = selection or Selection()
    survey = survey_checkpoints(sources, key=key, selection=selection, apart_from=apart_from)
    where = shortened([str(source) for source in sources])
    if not survey.order.members:
        msg = f"no checkpoints in {where} but averages that swa-cli wrote. Name them to average averages."
        raise SourceError(msg)
    if survey.parts:
        raise SourceError(survey.parts)
    try:
        chosen, notices = select(survey.order, selection, where=where)
    except (SourceError, UsageError) as error:  # with what may explain it
        raise type(error)(*error.args, *(f"  note: {notice}" for notice in survey.notices)) from error
    checkpoints = [member.checkpoint for member in chosen]
    caveats = dict.fromkeys(checkpoint.caveat for checkpoint in checkpoints if checkpoint.caveat)
    said = [*survey.notices, *notices, *caveats, *about_untrained(checkpoints)]
    if key is None:
        _check_networks(checkpoints)
        said += _alternatives(checkpoints)
    return CheckpointSeries(members=chosen, ordered_by=survey.order.by, notices=tuple(said))


def _check_networks(checkpoints: Sequence[Checkpoint]) -> None:
    for file in checkpoints:
        if file.networks:
            msg = (
                f"{file.path} holds other networks beside {file.key}, which the average would lack: "
                f"{shortened(file.networks)}. Average one of them by its name, {option('key', file.key)} or "
                f"{option('key', file.networks[0])}; a model that consists of several takes a run for each."
            )
            raise SourceError(msg)


def _alternatives(checkpoints: Sequence[Checkpoint]) -> list[str]:
    names = sorted({name for checkpoint in checkpoints for name in checkpoint.alternatives})
    if not names:
        return []
    return [f"the files hold other weights too, left out: {', '.join(names)}. To use those: {option('key', names[0])}."]
