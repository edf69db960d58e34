"""What the benchmarks share: programs run in turns, what each run costs, where it was measured, and tables.

This module imports neither torch nor numpy: Linux counts the memory of the process that starts a program towards the
peak of that program.
"""

import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable, Generator, Hashable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

from rich import box
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
SAMPLING = 0.005
"""Seconds between two looks at the anonymous memory of a program."""

Key = TypeVar("Key", bound=Hashable)
Result = TypeVar("Result")
Parser = partial(ArgumentParser, formatter_class=RawDescriptionHelpFormatter)
console = Console(width=250, highlight=False, markup=False)

if sys.argv[1:2] != ["--worker"]:  # `run` says what workers import
    sys.path.insert(0, str(ROOT))  # the swa_cli that is measured is the one beside this folder


@dataclass(frozen=True, kw_only=True)
class Run:
    """What one run of a program cost, in seconds and bytes, and the JSON that it printed.

    ``cpu`` is user and system time of the process and its children. ``resident`` is the peak of the largest single
    process (``ru_maxrss``), mapped files included; ``anonymous`` is the largest sample without them. ``from_disk`` is
    what the page cache did not have.
    """

    wall: float
    cpu: float
    resident: int
    anonymous: int
    from_disk: int
    report: Any


def run(command: Sequence[str | Path], *, reports: bool = False) -> Run:
    """Run a program to its end; end with its message if it fails.

    This interpreter imports the swa_cli beside this folder, any other one the swa_cli of its own environment.
    """
    environment = {name: text for name, text in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPATH"] = str(ROOT)
    if command[0] != sys.executable:
        del environment["PYTHONPATH"]
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
        began = time.perf_counter()
        process = subprocess.Popen(command, stdout=out, stderr=errors, env=environment)
        with _anonymous_memory(process.pid) as seen:
            _, status, usage = os.wait4(process.pid, 0)
            wall = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)  # or Popen would wait for it again
        out.seek(0)
        errors.seek(0)
        if process.returncode:
            sys.exit(
                f"{shlex.join(map(str, command))} failed ({process.returncode}):\n{errors.read().decode()[-4000:]}"
            )
        return Run(
            wall=wall,
            cpu=usage.ru_utime + usage.ru_stime,
            resident=usage.ru_maxrss * 1024,
            anonymous=max(seen),
            from_disk=usage.ru_inblock * 512,
            report=json.loads(out.read()) if reports else None,
        )


@contextmanager
def _anonymous_memory(pid: int) -> Generator[list[int]]:
    done, seen, page = threading.Event(), [0], os.sysconf("SC_PAGE_SIZE")

    def watch() -> None:
        while not done.wait(SAMPLING):
            try:
                _, resident, shared, *_ = map(int, Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split())
            except (OSError, ValueError):  # it has ended
                return
            seen.append((resident - shared) * page)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()


def worker(name: str, *arguments: object) -> list[str]:
    """Return the command that runs a worker of the running script in a process of its own."""
    return [sys.executable, str(Path(sys.argv[0]).resolve()), "--worker", name, *map(json.dumps, arguments)]


def start(main: Callable[[], None], workers: Sequence[Callable[..., object]] = ()) -> None:
    """Run the worker that the command line names and print its result as JSON; without one, run ``main``."""
    if sys.argv[1:2] != ["--worker"]:
        main()
        return
    (called,) = [one for one in workers if one.__name__ == sys.argv[2]]
    sys.stdout.write(json.dumps(called(*map(json.loads, sys.argv[3:]))))


def alternate(
    programs: Mapping[Key, Callable[[], Result]], rounds: int, check: Callable[[Key, Result], None] | None = None
) -> dict[Key, list[Result]]:
    """Run the programs in turns (A B C, A B C, …), so that a machine that slows down slows all of them down.

    A first round is not counted: it brings files and libraries into the page cache, and ``check`` sees its results.
    """
    results: dict[Key, list[Result]] = {key: [] for key in programs}
    for number in range(rounds + 1):
        for key, program in programs.items():
            result = program()
            if number:
                results[key].append(result)
            elif check:
                check(key, result)
        print(f"round {number} of {rounds}" if number else "warm-up", file=sys.stderr)
    return results


def spread(values: Sequence[float], form: str = "{:.2f}", unit: str = "") -> list[str]:
    """Return the median and the range, as two cells of a table."""
    return [form.format(median(values)) + unit, f"{form.format(min(values))}-{form.format(max(values))}"]


def ratios(values: Sequence[float], others: Sequence[float]) -> list[float]:
    """Return the ratio within each round; absolute times drift on a shared machine, ratios hold."""
    return [one / other for one, other in zip(values, others, strict=True)]


def show_bytes(size: float) -> str:
    """Return a size in decimal units."""
    return decimal(round(size), precision=2)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table in Markdown."""
    shown = Table(*columns, box=box.MARKDOWN)
    for row in rows:
        shown.add_row(*map(str, row))
    console.print(f"\n{title}")
    console.print(shown)


def print_setup(*packages: str) -> None:
    """Print the machine, the versions, the command and the date."""
    processor = re.search(r"^model name\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    memory = show_bytes(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    described = [shutil.which("git") or "git", "-C", ROOT, "describe", "--always", "--dirty"]
    revision = subprocess.run(described, capture_output=True, text=True, check=False).stdout.strip()
    versions = ", ".join(f"{name} {version(name)}" for name in ("swa-cli", *packages))
    console.print(
        f"{processor[1] if processor else platform.machine()}, {len(os.sched_getaffinity(0))} cores, {memory}, load "
        f"{os.getloadavg()[0]:.1f}; Linux {platform.release()}, Python {platform.python_version()}, {versions} "
        f"({revision})\n{shlex.join(['python', *sys.orig_argv[1:]])}\n{datetime.now(UTC):%Y-%m-%d %H:%M UTC}"
    )
