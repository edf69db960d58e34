"""The house of swa_cli: few rooms, few arrows between them, none in a circle, and none past the face of a package.

A room is what lies at the top of the package. ``python tests/test_architecture.py`` prints a table of this package;
``python tests/test_architecture.py BEFORE/swa_cli swa_cli`` compares it with that of another checkout, as
``git worktree add BEFORE 9d29feb`` makes it.
"""

import ast
import sys
from collections import Counter
from functools import cache
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

PACKAGE = Path(__file__).parents[1] / "swa_cli"
MOST_ROOMS, MOST_ARROWS, MOST_DEFINED_TWICE = 19, 70, 16
PAST_A_FACE = {"swa_cli.outputs.rewriting"}
"""It imports torch, which takes longer than most averages, and one step alone needs it."""


@cache
def modules(package: Path) -> dict[str, Path]:
    """Modules by their dotted names."""
    paths = sorted(package.rglob("*.py"))
    return {
        ".".join(path.relative_to(package.parent).with_suffix("").parts).removesuffix(".__init__"): path
        for path in paths
    }


def room(module: str) -> str:
    return [*module.split("."), "swa_cli"][1]


@cache
def imports(path: Path) -> frozenset[tuple[str, str]]:
    """Modules of the package that a file imports from, each with the name that it takes."""
    return frozenset(
        (node.module, alias.name)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("swa_cli")
        for alias in node.names
    )


@cache
def across(package: Path) -> set[tuple[str, str, str]]:
    """What is imported from another room: by which module, from which one, which name."""
    found = modules(package)
    return {
        (
            importer,
            f"{module}.{name}" if f"{module}.{name}" in found and name not in face(found[module]) else module,
            name,
        )
        for importer, path in found.items()
        for module, name in imports(path)
        if room(importer) != room(f"{module}.{name}" if module == "swa_cli" else module)
    }


@cache
def face(path: Path) -> list[str]:
    """The names in ``__all__``."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "__all__":
            return ast.literal_eval(node.value)
    return []


@cache
def faces() -> dict[str, list[str]]:
    """Packages that say in ``__all__`` what others may use."""
    return {
        name: exported
        for name, path in modules(PACKAGE).items()
        if path.name == "__init__.py" and name != "swa_cli" and (exported := face(path))
    }


def arrows(package: Path) -> set[tuple[str, str]]:
    """Pairs of rooms of which the first imports from the second."""
    return {(room(importer), room(imported)) for importer, imported, _ in across(package)}


def rooms(package: Path) -> set[str]:
    return {room(module) for module in modules(package)}


def defined_twice(package: Path) -> set[str]:
    """Public classes and functions of which two modules define one by the same name."""
    names = [
        {node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.ClassDef | ast.FunctionDef)}
        for path in modules(package).values()
    ]
    counts = Counter(name for of_module in names for name in of_module if not name.startswith("_"))
    return {name for name, count in counts.items() if count > 1}


def below(start: str, every: set[tuple[str, str]]) -> set[str]:
    """All rooms that a room reaches, by any number of arrows."""
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        place = waiting.pop()
        reached = {to for origin, to in every if origin == place} - seen
        seen |= reached
        waiting += reached
    return seen


def test_the_house_has_few_rooms_and_few_arrows():
    assert len(rooms(PACKAGE)) <= MOST_ROOMS
    assert len(arrows(PACKAGE)) <= MOST_ARROWS


def test_no_room_needs_itself():
    every = arrows(PACKAGE)

    assert [name for name in rooms(PACKAGE) if name in below(name, every)] == []


def test_pipeline_and_report_do_not_know_each_other():
    assert not arrows(PACKAGE) & {("pipeline", "report"), ("report", "pipeline")}


def test_nothing_reaches_past_a_face():
    reaching = {
        (importer, imported)
        for importer, imported, _ in across(PACKAGE)
        for package in faces()
        if imported.startswith(f"{package}.") and not importer.startswith(f"{package}.")
    }

    assert {imported for _, imported in reaching} <= PAST_A_FACE, sorted(reaching)


def test_a_face_exports_what_others_use():
    files = modules(PACKAGE) | {
        str(path): path for folder in ("tests", "benchmarks") for path in (PACKAGE.parent / folder).rglob("*.py")
    }

    unused = {
        (package, name)
        for package, names in faces().items()
        for name in names
        if not any(
            (package, name) in imports(path)
            for module, path in files.items()
            if not f"{module}.".startswith(f"{package}.")
        )
    }

    assert unused == set()


def test_few_names_are_defined_twice():
    assert len(defined_twice(PACKAGE)) <= MOST_DEFINED_TWICE


def main(packages: list[Path]) -> None:
    """Print a row for each package, and below the table the names that each defines twice."""
    table = Table("package", "rooms", "arrows", "modules", "lines", "names defined twice", box=box.MARKDOWN)
    for package in packages:
        lines = sum(len(path.read_text().splitlines()) for path in modules(package).values())
        counts = len(rooms(package)), len(arrows(package)), len(modules(package)), lines, len(defined_twice(package))
        table.add_row(str(package), *(f"{count:,}" for count in counts))
    console = Console(width=120)
    console.print(table)
    for package in packages:
        console.print(f"{package} defines twice: {', '.join(sorted(defined_twice(package)))}")


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:]] or [PACKAGE])
