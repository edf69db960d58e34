"""Text that others wrote, made safe and unambiguous to show.

Names in files, paths, configurations and what user code says may hold escape sequences that steer the terminal, line
breaks that imitate a message of ours, or characters that cannot be seen. Everything that is rendered passes through
`visible`: on its way to the terminal in `swa_cli.cli.terminal`, into CSV and Markdown in `swa_cli.report`. JSON escapes
by itself.
"""

import re

from swa_cli.errors import cut

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
