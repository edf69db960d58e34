"""Checkpoints that look as if they were saved before the training began."""

from collections.abc import Sequence

from swa_cli.errors import option, shortened
from swa_cli.formats import Checkpoint


def about_untrained(checkpoints: Sequence[Checkpoint]) -> list[str]:
    """What to say of those at step 0, or whose optimizer is empty where others' are not."""
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
    """Whether all that it counts is at zero, and more than epochs, the first of which is number 0."""
    counters = checkpoint.counters
    return any(name != "epoch" for name in counters) and not any(counters.values())
