"""Damaged files of every kind, through the commands that read them: read within bounds, or refused in one message.

``--fuzz N`` says how many there are, ``--fuzz-from`` where they begin, so that several processes can share them:

    pytest tests/cli/test_fuzz.py --fuzz 250000 & pytest tests/cli/test_fuzz.py --fuzz 250000 --fuzz-from 250000
"""

import gc
import inspect
import io
import re
import signal
import time
import traceback
from collections import Counter
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from random import Random
from typing import Any

import pytest
import typer

from support.against_torch import unlike_torch
from support.fuzzing import Seed, mutant, write_seeds
from swa_cli.cli.commands import COMMANDS
from swa_cli.pipeline.evaluation.output_cache.store import KeptOutputs

pytestmark = pytest.mark.slow

SLOWEST = 2.0
HANGS = 20
MOST_MEMORY = 300 << 20
EXIT_CODES = {0, 1, 2}
TENSORS_ALONE = "only the tensors were compared"
"""Said of an average whose record has no checksums, such as a file of an older version."""
STEERING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


class Hung(BaseException):
    """A command takes too long."""


def interrupt(_number, _frame):
    raise Hung


def peak() -> int:
    """Bytes that were resident at most since `forget_peak`."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def outcome(command: str, options: Mapping[str, Any]) -> tuple[int, str]:
    """Exit code of a command, and all that it prints; as `swa` without the parsing of its arguments."""
    said = io.StringIO()
    with redirect_stdout(said), redirect_stderr(said):
        try:
            COMMANDS[command](**{**_defaults(command), **options})
        except typer.Exit as end:
            return end.exit_code, said.getvalue()
    return 0, said.getvalue()


def _defaults(command: str) -> dict[str, Any]:
    parameters = inspect.signature(COMMANDS[command]).parameters.values()
    return {parameter.name: parameter.default for parameter in parameters if parameter.default is not parameter.empty}


def complaints(seed: Seed, command: str, options: Mapping[str, Any], *, changed: bool) -> list[str]:
    """What is wrong with how a command takes a damaged file."""
    found: list[str] = []
    forget_peak()
    idle, started = peak(), time.process_time()
    signal.setitimer(signal.ITIMER_REAL, HANGS)
    try:
        exit_code, said = outcome(command, options)
    except (Exception, Hung) as error:  # noqa: BLE001  # nothing but typer.Exit is to come out
        trace = "".join(traceback.format_exception(error)[-3:])
        exit_code, said = 1, f"Traceback: {error!r}: {trace}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    took, grown = time.process_time() - started, peak() - idle
    if exit_code not in EXIT_CODES:
        found.append(f"exit code {exit_code}: {said[-300:]}")
    if "a bug in swa-cli" in said or "Traceback" in said or len(re.findall("^error:", said, re.MULTILINE)) > 1:
        found.append(said[-500:])
    if steering := STEERING.search(said):
        at = steering.start()
        found.append(f"control character {said[at]!r} in {said[max(0, at - 150) : at + 50]!r}")
    if took > SLOWEST:
        found.append(f"{took:.1f} s")
    if grown > MOST_MEMORY:
        found.append(f"{grown >> 20} MiB")
    if seed.check == "verify" and command == "verify" and changed and exit_code == 0 and TENSORS_ALONE not in said:
        found.append("damage was not found")
    return [f"{command}: {problem}" for problem in found]


def test_a_damaged_file_is_read_or_refused_and_nothing_else(tmp_path, request, run_swa):
    seeds = write_seeds(tmp_path, run_swa)
    originals = [(tmp_path / seed.file).read_bytes() for seed in seeds]
    for seed in seeds:
        for command, options in seed.commands:
            assert outcome(command, options)[0] == 0, (seed, outcome(command, options))
        if seed.check == "torch":
            assert not unlike_torch(tmp_path / seed.file), (seed, unlike_torch(tmp_path / seed.file))

    previous = signal.signal(signal.SIGALRM, interrupt)
    first = request.config.getoption("--fuzz-from")
    found: Counter[str] = Counter()
    examples: dict[str, str] = {}
    try:
        for index in range(first, first + request.config.getoption("--fuzz")):
            chosen = Random(index)
            place = chosen.randrange(len(seeds))
            seed, original = seeds[place], originals[place]
            content = mutant(original, seed.file, chosen, originals)
            path = tmp_path / seed.file
            path.write_bytes(content)
            problems: list[str] = []
            if seed.commands:
                problems += complaints(seed, *chosen.choice(seed.commands), changed=content != original)
            if seed.check == "torch" and (words := unlike_torch(path)):
                problems.append(words)
            if seed.check == "cache":
                folder, member, batch = path.parent.parent, path.parent.name, path.stem
                KeptOutputs(folder).get(member, batch)
            path.write_bytes(original)
            for problem in problems:
                kind = f"{Path(seed.file).name}: {re.sub(r'[0-9]+', '#', problem)[:160]}"
                found[kind] += 1
                examples.setdefault(kind, f"mutant {index} of {seed.file}: {problem}")
            if index % 1000 == 0:
                gc.collect()
    finally:
        signal.signal(signal.SIGALRM, previous)

    assert not found, "\n".join(f"{count} × {examples[kind]}" for kind, count in found.most_common(60))
