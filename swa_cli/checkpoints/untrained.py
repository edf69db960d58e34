"""Detecting checkpoints that seem to have been saved before training."""

from collections.abc import Sequence

from swa_cli.errors import option, shortened
from swa_cli.formats import Checkpoint


def about_untrained(checkpoints: Sequence[Checkpoint]) -> list[str]:
    """Return notes about checkpoints at step 0, or with an empty optimizer where others' are not empty."""
    at_zero = [checkpoint for checkpoint in checkpoints if _is_at_zero(checkpoint)]
    if 1 < len(checkpoints) == len(at_zero):  # a counter that nobody counted
        at_zero = []
    used = any(checkpoint.optimizer_is_empty is False for checkpoint in checkpoints)
    empty = [checkpoint for checkpoint in checkpoints if checkpoint.optimizer_is_empty and used]
    why = {"step 0": at_zero, "an empty optimizer, where others' is not": empty}
    said: dict[str, list[str]] = {}
    for checkpoint in checkpoints:
        reasons = "; ".join(reason for reason, which in why.items() if any(one is checkpoint for one in which))
        if reasons:
            said.setdefault(reasons, []).append(str(checkpoint.path))
    return [
        f"saved before training, it seems ({reasons}): {shortened(names)}. Leave out with {option('exclude')} if so."
        for reasons, names in said.items()
    ]


def _is_at_zero(checkpoint: Checkpoint) -> bool:
    """Return whether all counters are zero, and one of them is not an epoch (the first epoch is 0)."""
    counters = checkpoint.counters
    return any(name != "epoch" for name in counters) and not any(counters.values())
