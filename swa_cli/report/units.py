"""Numbers for people."""

_STEP = 1000
_VOWEL_AND_Y = ("ay", "ey", "iy", "oy", "uy")


def in_bytes(count: float) -> str:
    """Decimal multiples, as disks and safetensors' shard sizes count them.

    >>> in_bytes(999), in_bytes(1_217_000_000), in_bytes(999_960)
    ('999 B', '1.2 GB', '1.0 MB')
    """
    for unit, digits in (("B", 0), ("kB", 1), ("MB", 1), ("GB", 1)):
        if round(count, digits) < _STEP:
            return f"{count:.{digits}f} {unit}"
        count /= _STEP
    return f"{count:.1f} TB"


def counted(count: int, noun: str) -> str:
    """A count with its noun.

    >>> counted(1, "checkpoint"), counted(1200, "tensor"), counted(2, "batch")
    ('1 checkpoint', '1,200 tensors', '2 batches')
    """
    return f"{count:,} {noun if count == 1 else plural(noun)}"


def plural(noun: str) -> str:
    """Of a regular noun, such as a task of the user's may count.

    >>> plural("example"), plural("box"), plural("query"), plural("day")
    ('examples', 'boxes', 'queries', 'days')
    """
    if noun.endswith(("s", "x", "z", "ch", "sh")):
        return f"{noun}es"
    return f"{noun[:-1]}ies" if noun.endswith("y") and not noun.endswith(_VOWEL_AND_Y) else f"{noun}s"


def seen_of(n_samples: int | None, n_batches: int) -> str:
    """How much data was seen.

    >>> seen_of(202, 8), seen_of(None, 8)
    ('202 samples in 8 batches', '8 batches of an unknown number of samples')
    """
    batches = counted(n_batches, "batch")
    return (
        f"{batches} of an unknown number of samples"
        if n_samples is None
        else f"{counted(n_samples, 'sample')} in {batches}"
    )


def signed(number: float, digits: int) -> str:
    """With its sign, but no minus before a zero.

    >>> signed(-0.0123, 3), signed(-0.0001, 3), signed(0.25, 3)
    ('-0.012', '+0.000', '+0.250')
    """
    return f"{round(number, digits) + 0.0:+.{digits}f}"
