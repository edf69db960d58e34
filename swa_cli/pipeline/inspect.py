"""The inspection step."""

from swa_cli.checkpoints import Inspection, inspect_checkpoints
from swa_cli.config.schema import AverageConfig
from swa_cli.errors import CheckpointError, listed, option
from swa_cli.pipeline.common import Notify, require, selection_of


def inspect_step(config: AverageConfig, *, notify: Notify) -> Inspection:
    """Run ``swa inspect`` on the sources that would be averaged.

    Raises:
        SourceError: a source does not exist, or has no checkpoints.
        UsageError: there are no sources, or the selection contradicts itself.
    """
    sources = require(config.sources, "checkpoints", key="average.sources")
    inspection = inspect_checkpoints(sources, key=config.key, selection=selection_of(config))
    for notice in inspection.notices:
        notify(notice)
    return inspection


def check_inspection(inspection: Inspection) -> None:
    """Raise the errors of an inspection, after its report has been shown.

    Raises:
        SwaError: the selection is impossible.
        CheckpointError: some files cannot be read.
    """
    for pick in inspection.picks:
        if pick.error and pick.flags == inspection.selection.in_words():
            raise pick.error
    unreadable = inspection.survey.unreadable
    if unreadable:
        names = [str(path) for path, _ in unreadable]
        advice = f"Leave them out with {option('exclude')}, or save them again."
        msg = "files that cannot be read:"
        raise CheckpointError(msg, *listed(names), advice)
