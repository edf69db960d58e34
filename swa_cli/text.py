"""Words for people: numbers with units, and text that others wrote, made safe and unambiguous to show.

Names in files, paths, configurations and what user code says may hold escape sequences that steer the terminal, line
breaks that imitate a message of ours, or characters that cannot be seen. Everything that is rendered passes through
`visible`: on its way to the terminal in `swa_cli.cli.terminal`, into CSV and Markdown in `swa_cli.report`. JSON escapes
by itself.
"""

import re

from swa_cli.errors import cut

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


_WORD, _LINE = 250, 2000
"""Characters of the longest word and of the longest line that are shown whole."""

# What Python calls printable although nothing is seen: fillers, joiners, variation selectors, Braille's blank.
_UNSEEN = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)


def visible(text: str, *, whole: bool = False) -> str:
    r"""Return ``text`` as one line in which every character can be seen.

    Control characters, line breaks, surrogates, and what changes the direction of writing or has no width become
    escapes as in Python. Very long words and lines lose their middle.

    Args:
        whole: shorten nothing.

    >>> visible("a\x1b[31m\u202e.pt"), visible("one\ntwo\ttree"), visible("x" * 1000, whole=True) == "x" * 1000
    ('a\\x1b[31m\\u202e.pt', 'one\\ntwo\\ttree', True)
    """
    if not whole and len(text) > _WORD:
        text = cut(" ".join(cut(word, _WORD) for word in text.split(" ")), _LINE)
    return text if is_visible(text) else "".join(map(_escaped, text))


def visible_lines(text: str) -> str:
    """Return ``text`` with each of its lines whole and visible."""
    return "\n".join(visible(line, whole=True) for line in text.split("\n"))


def is_visible(text: str) -> bool:
    """Whether every character of ``text`` can be seen."""
    return text.isprintable() and not _UNSEEN.search(text)


def _escaped(char: str) -> str:
    return char if is_visible(char) else char.encode("unicode_escape").decode()
