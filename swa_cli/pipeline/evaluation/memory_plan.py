"""How many members can be in memory side by side."""

from swa_cli.errors import option
from swa_cli.evaluation import bytes_of
from swa_cli.pipeline.evaluation.prepare import EvalInputs
from swa_cli.system.memory import free_bytes
from swa_cli.text import in_bytes

_SHARE = 0.5
"""Of the free memory; the rest is for batches and what the forward passes hold."""


def members_at_once(job: EvalInputs, n_members: int, *, n_splits: int) -> tuple[int | None, str]:
    """How many at most, None where nothing is known to limit them; and how ``n_members`` will be run, in words."""
    size, device = bytes_of(job.model), job.forward.device
    free = free_bytes(device)
    asked = job.max_resident_models
    fit = None if free is None or not size else max(1, int(_SHARE * free) // size)
    at_once = asked or fit
    each = f"{in_bytes(size)} each"
    if at_once is None or at_once >= n_members:
        passes = _passes(job, n_splits)
        return at_once, f"{n_members} models ({each}) side by side on {device}, {passes}."
    why = (
        f"as {option('max_resident_models')} asks"
        if asked
        else f"since {_SHARE:.0%} of the free {in_bytes(free or 0)} hold no more"
    )
    return at_once, (
        f"{n_members} models ({each}) on {device}, up to {at_once} at a time, {why}; the batches of a pass are loaded "
        "once, and put aside for those that wait."
    )


def _passes(job: EvalInputs, n_splits: int) -> str:
    if n_splits > 1:
        passes = "in one pass over each split"
    elif job.choosing.tries_averages:
        passes = "in one pass to choose and one to report"
    else:
        passes = "in one pass over the data"
    return passes + (", and one for each soup that is tried" if job.choosing.greedy else "")
