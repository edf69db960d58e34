"""Run two versions of swa-cli on the same checkpoints and compare every byte that they write.

    python tests/same_as.py OLD/bin/python                            # the demo and 20 random runs
    python tests/same_as.py OLD/bin/python --fashion-mnist FOLDER     # and a trained run (minutes)

OLD is an environment in which the old wheel is installed. It is compared with the checkout that this file belongs to,
or with the wheel in the environment of ``--new NEW/bin/python``. FOLDER is where ``train_fashion_mnist.py`` has run: it
holds ``data`` and ``fashion-mnist/checkpoints``.

Both versions claim the same version number, so that provenance and reports can be equal byte for byte. A report may
differ in wording alone: in the texts of a JSON file, or between the numbers of Markdown. That is counted apart. The
exit code is 1 if anything else differs: a byte of a file, the names of the files, or the exit code of a command.
"""

import argparse
import filecmp
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from support.random_run import make_run

ROOT = Path(__file__).resolve().parents[1]
LAUNCH = (
    "import runpy, swa_cli; swa_cli.__version__ = '0'; runpy.run_module('swa_cli', run_name='__main__', alter_sys=True)"
)


@dataclass(frozen=True)
class Case:
    """A folder to start from, and the arguments of the commands that both versions run in a copy of it."""

    name: str
    folder: Path
    commands: list[list[str]]


@dataclass(frozen=True)
class Version:
    """The interpreter that runs swa-cli, and the folder that its package is imported from, if it is not installed."""

    python: Path
    package: Path | None = None

    def run(self, arguments: list[str], folder: Path) -> tuple[int, str]:
        """Return the exit code and standard error; JSON on standard output becomes a file in ``folder``."""
        given = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        path = {"PYTHONPATH": str(self.package)} if self.package else {}
        done = subprocess.run(
            [self.python, "-c", LAUNCH, *arguments],
            cwd=folder,
            env={"OMP_NUM_THREADS": "1", **given, **path},
            capture_output=True,
            text=True,
            check=False,
        )
        if "--json" in arguments[-1:]:
            (folder / f"{arguments[0]}.json").write_text(done.stdout)
        return done.returncode, done.stderr


def demo(scratch: Path) -> Case:
    folder = scratch / "demo"
    folder.mkdir()
    return Case("swa demo", folder, [["demo"]])


def fashion_mnist(source: Path, scratch: Path) -> Case:
    """``swa run`` with the sample configuration, on the checkpoints that were trained in ``source``."""
    folder = scratch / "fashion-mnist"
    shutil.copytree(source / "fashion-mnist" / "checkpoints", folder / "fashion-mnist" / "checkpoints")
    (folder / "data").symlink_to((source / "data").resolve())
    shutil.copytree(ROOT / "sample_configs", folder / "configs")
    return Case("Fashion-MNIST", folder, [["run", "--config", "configs/fashion_mnist.yaml"]])


def random_run(seed: int, scratch: Path) -> Case:
    folder = scratch / f"random-{seed}"
    return Case(f"random run {seed}", folder, make_run(folder, seed))


def files(folder: Path) -> set[Path]:
    return {
        path.relative_to(folder) for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts
    }


def without_texts(value: object) -> object:
    """Replace the texts of a JSON value by one and the same."""
    if isinstance(value, dict):
        return {key: without_texts(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [without_texts(inner) for inner in value]
    return "" if isinstance(value, str) else value


def reworded(old: Path, new: Path) -> bool:
    """Whether two reports differ in their wording alone."""
    texts = old.read_bytes(), new.read_bytes()
    match old.suffix:
        case ".json":
            return len({json.dumps(without_texts(json.loads(text))) for text in texts}) == 1
        case ".md":
            return len({json.dumps(re.findall(r"[-+]?\d[\d.,]*", text.decode())) for text in texts}) == 1
        case _:
            return False


def compare(case: Case, old: Version, new: Version, scratch: Path) -> Iterator[tuple[str, str]]:
    """Yield what became of each exit code and of each file written: a kind, and what it is."""
    places = scratch / "old" / case.folder.name, scratch / "new" / case.folder.name
    for place in places:
        shutil.copytree(case.folder, place, symlinks=True)
    for arguments in case.commands:
        (before, said_before), (after, said_after) = (
            version.run(arguments, place) for version, place in zip((old, new), places, strict=True)
        )
        if before != after:
            yield "different", f"{case.name}: {arguments}: {before}: {said_before}\n{after}: {said_after}"
        yield "commands" if after == before == 0 else "refusals", f"{case.name}: {arguments}: {said_after}"
    old_files, new_files = (files(place) for place in places)
    for path in sorted(old_files ^ new_files):
        yield "different", f"{case.name}: {path} is written by the {'old' if path in old_files else 'new'} version only"
    for path in sorted((old_files & new_files) - files(case.folder)):
        old_file, new_file = (place / path for place in places)
        same = filecmp.cmp(old_file, new_file, shallow=False)
        kind = "identical" if same else "reworded" if reworded(old_file, new_file) else "different"
        yield kind, f"{case.name}: {path}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path, help="Python of an environment with the old wheel")
    parser.add_argument("--new", type=Path, help="Python of an environment with the new wheel (default: this checkout)")
    parser.add_argument("--fashion-mnist", type=Path, metavar="FOLDER", help="where train_fashion_mnist.py has run")
    parser.add_argument("--random", type=int, default=20, help="number of random runs (default: 20)")
    parser.add_argument("--verbose", action="store_true", help="list the refusals and the reworded files too")
    options = parser.parse_args()
    old = Version(options.old.absolute())
    new = Version(options.new.absolute()) if options.new else Version(Path(sys.executable), ROOT)
    kinds = ("commands", "refusals", "identical", "reworded", "different")
    table = Table("checkpoints", *kinds, box=box.MARKDOWN)
    listed = kinds[1:] if options.verbose else kinds[-1:]
    failed = False
    with tempfile.TemporaryDirectory(prefix="swa-same-as-") as name:
        scratch = Path(name)
        makers = [demo, *(partial(random_run, seed) for seed in range(options.random))]
        if options.fashion_mnist:
            makers.insert(1, partial(fashion_mnist, options.fashion_mnist))
        for make in makers:
            case = make(scratch)
            found = list(compare(case, old, new, scratch))
            counts = Counter(kind for kind, _ in found)
            table.add_row(case.name, *(str(counts[kind]) for kind in kinds))
            for kind, what in found:
                if kind in listed:
                    sys.stdout.write(f"{kind}: {what}\n")
            sys.stdout.flush()
            failed |= bool(counts["different"])
    Console(width=120).print(table)
    sys.exit(failed)


if __name__ == "__main__":
    main()
