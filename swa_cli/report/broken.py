"""Table headings on several lines."""

from collections.abc import Iterable

from rich.text import Text

from swa_cli.text import visible


def on_lines(lines: Iterable[str]) -> Text:
    """Put each text on a line of its own; a line break inside of one is shown as an escape."""
    return Text("\n".join(map(visible, lines)))
