"""What every benchmark prints: where, with what, when and by which command it measured; its tables; all runs as JSON.

Imports neither torch nor numpy, as `average.py` needs it.
"""

import argparse
import json
import os
import platform
import re
import shlex
import signal
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
GB, MB = 10**9, 10**6

sys.path.insert(0, str(ROOT))  # so that the swa_cli that is measured is the one beside this folder


class Report:
    """What is printed, and the same as JSON with every single run."""

    def __init__(self, machine: Mapping[str, str], *, rounds: int | None = None) -> None:
        self.contents: dict[str, Any] = {
            "machine": dict(machine),
            "command": shlex.join(["python", *sys.orig_argv[1:]]),
            "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            "tables": [],
            "notes": [],
            "runs": {},
        }
        for name, value in machine.items():
            print(f"{name}: {value}")
        counted = f"; rounds: {rounds}" if rounds else ""
        print(f"command: {self.contents['command']}\ndate: {self.contents['date']}{counted}", flush=True)

    def say(self, note: str) -> None:
        """A line of text."""
        self.contents["notes"].append(note)
        print(f"\n{note}", flush=True)

    def keep(self, title: str, runs: object) -> None:
        """Every run, for the JSON; dataclasses become objects."""
        self.contents["runs"][title] = runs

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """A table that is aligned as text and is Markdown as well."""
        self.contents["tables"].append({"title": title, "columns": list(columns), "rows": [list(row) for row in rows]})
        widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
        lines = [columns, ["-" * width for width in widths], *rows]
        print(f"\n{title}\n")
        for line in lines:
            print("|", " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)), "|", flush=True)

    def write(self, path: Path | None) -> None:
        """The JSON, if a path for it was given."""
        if path is not None:
            text = json.dumps(self.contents, indent=2, ensure_ascii=False, default=asdict)
            path.write_text(text + "\n", encoding="utf-8")


# --- Where and with what the figures were measured


def computer() -> str:
    """Processor, cores, memory, and how busy it is."""
    match = re.search(r"^model name\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    memory_size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return (
        f"{match[1] if match else platform.machine()}, {len(os.sched_getaffinity(0))} cores, "
        f"{show_bytes(memory_size)} of memory, load {os.getloadavg()[0]:.1f} at the start"
    )


def system(*packages: str) -> str:
    """The versions of the kernel, Python and ``packages``."""
    installed = ", ".join(f"{package} {version_of(package)}" for package in packages)
    return f"Linux {platform.release()}, Python {platform.python_version()}, {installed}"


def ours() -> str:
    """The version and revision of the swa-cli beside this folder."""
    described = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    revision = subprocess.run(described, capture_output=True, text=True, check=False).stdout.strip()
    return f"swa-cli {version_of('swa-cli')} ({revision or 'no revision'})"


def version_of(package: str) -> str:
    """Of a package, or that it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def environment() -> dict[str, str]:
    """That of the programs: the swa_cli beside this folder, started from its bytecode as an installed one is."""
    given = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    paths = [str(ROOT), *filter(None, [given.get("PYTHONPATH")])]
    return {**given, "PYTHONPATH": os.pathsep.join(paths)}


# --- Figures


def spread(seconds: Sequence[float], *, digits: int = 2) -> tuple[str, str]:
    """The median, and the range."""
    return f"{statistics.median(seconds):.{digits}f} s", f"{min(seconds):.{digits}f}-{max(seconds):.{digits}f}"


def ratios(seconds: Sequence[float], others: Sequence[float]) -> list[float]:
    """Of each round, the ratio within it."""
    return [one / another for one, another in zip(seconds, others, strict=True)]


def show_bytes(size: float) -> str:
    """In decimal units."""
    units = ((GB, "GB"), (MB, "MB"), (1000, "kB"))
    return next((f"{size / unit:.4g} {name}" for unit, name in units if size >= unit), f"{size:.0f} B")


# --- The command line


def positive(text: str) -> int:
    """An argument that counts something."""
    if not text.isdecimal() or not int(text):
        msg = f"expected a whole number from 1 on, found {text!r}"
        raise argparse.ArgumentTypeError(msg)
    return int(text)


def clean_up_when_terminated() -> None:
    """End at SIGTERM as from an error, so that temporary files are removed."""
    signal.signal(signal.SIGTERM, _end)


def _end(*_: object) -> None:
    sys.exit(143)
