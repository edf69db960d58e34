"""Numbers for people."""

_STEP = 1000


def in_bytes(count: float) -> str:
    """Decimal multiples, as disks and safetensors' shard sizes count them.

    >>> in_bytes(999), in_bytes(1_217_000_000)
    ('999 B', '1.2 GB')
    """
    for unit in ("B", "kB", "MB", "GB"):
        if count < _STEP:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= _STEP
    return f"{count:.1f} TB"


def counted(count: int, noun: str) -> str:
    """A count with its noun.

    >>> counted(1, "checkpoint"), counted(1200, "tensor"), counted(2, "batch")
    ('1 checkpoint', '1,200 tensors', '2 batches')
    """
    plural = "es" if noun.endswith("ch") else "s"
    return f"{count:,} {noun}{'' if count == 1 else plural}"
