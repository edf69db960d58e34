"""The files that an evaluation can be written to: their keys, flags, and the functions of `swa_cli.report` behind them.

The names are read where no report can be imported: by ``--help``, which imports no torch, and by the pipeline.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, cast, final


@final
@dataclass(frozen=True, kw_only=True)
class Reporter:
    """A rendering of an evaluation into a file.

    Attributes:
        name: its key in the section ``eval:``, and with two dashes its flag.
        help: of the flag, and in the reference pages.
        function: turns a result into text, as ``package.module:name``; it is imported when it is first used.
        start: the first bytes of every such file; a file that starts otherwise is never replaced by one.
    """

    name: str
    help: str
    function: str
    start: bytes = b""

    def render(self, result: Any) -> str:
        """Return the contents of the file, given an `EvaluationResult`."""
        module, _, name = self.function.partition(":")
        return cast("Callable[[Any], str]", getattr(import_module(module), name))(result)


_ALL = (
    Reporter(
        name="json",
        help="Write the result as JSON; - for standard output, without the table.",
        function="swa_cli.report.json_report:to_json",
        start=b"{",
    ),
    Reporter(
        name="csv",
        help="Write all scores of all rows as CSV.",
        function="swa_cli.report.csv_report:to_csv",
    ),
    Reporter(
        name="markdown",
        help="Write the report, as it goes into a pull request.",
        function="swa_cli.report.markdown:to_markdown",
    ),
    Reporter(
        name="latex",
        help="Write the tables as LaTeX with booktabs, for a paper.",
        function="swa_cli.report.latex:to_latex",
    ),
)

REPORTERS = {reporter.name: reporter for reporter in _ALL}
"""All of them, by name."""
