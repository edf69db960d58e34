"""Each benchmark runs on little data and prints its tables; the figures are not tested."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]


def rows(folder: Path, script: str, *arguments: str) -> list[list[str]]:
    """The cells of every row below a header, of all tables that a script prints."""
    # Threads that wait for each other on a busy machine take ten times as long for small tensors.
    done = subprocess.run(
        [sys.executable, ROOT / script, *arguments],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert list(folder.iterdir()) == []
    lines = [line for line in done.stdout.splitlines() if line.startswith("|")]
    rules = [number for number, line in enumerate(lines) if set(line) <= set("|-")]
    headers = {number - 1 for number in rules}
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for number, line in enumerate(lines)
        if number not in headers | {*rules}
    ]


def test_average(tmp_path):
    sizes = ["--size", "100kB", "--count", "2", "--repeats", "1", "--tensors", "3"]
    kind = ["--container", "torch-nested", "--optimizer-ratio", "2", "--dtype", "bfloat16"]
    found = rows(tmp_path, "benchmarks/average.py", *sizes, *kind, "--against", sys.executable)

    others = ["plain", "averaged-model", "cat", "import-torch", "averaging-itself"]
    assert [row[1] for row in found] == ["swa-average", "swa-average before", *others]
    assert found[0][4] == "1.00"


def test_evaluate(tmp_path):
    sizes = ["--data", "tensors", "--examples", "100", "--rounds", "1", "--growth", "1", "2"]
    found = rows(tmp_path, "benchmarks/evaluate.py", *sizes)

    assert [row[0] for row in found] == [
        "swa-eval",
        "the loop",
        "swa-eval, after imports",
        "the loop, after imports",
        "swa-eval, its pass alone",
        "1",
        "2",
        "loading",
        "forward passes of one model",
        "a further checkpoint",
        "a further checkpoint over its forward passes",
    ]


def test_bn_update(tmp_path):
    found = rows(tmp_path, "benchmarks/bn_update.py", "--batches", "2", "--image-size", "64", "--repeats", "1")

    assert [row[0] for row in found][:2] == ["recalibrate, population", "update_bn"]


def test_bn_estimators(tmp_path):
    config = str(ROOT / "sample_configs" / "digits.yaml")
    options = ["--config", config, "--seeds", "1", "--batch-sizes", "100"]
    found = rows(tmp_path, "benchmarks/bn_estimators.py", *options)

    estimators = ["population", "torch", "official", "sequential"]
    assert [row[1] for row in found[:8]] == ["of the last checkpoint", "averaged", *estimators, "its own", "population"]
    assert found[8][0] == "100"


def test_the_simulation_of_coverage(tmp_path):
    script = "tests/evaluation/simulate_coverage.py"
    found = rows(tmp_path, script, "--parts", "power", "resolved", "tails", "--sets", "1", "--resamples", "19")

    assert len(found) == 24 + 1 + 6
    assert all(0 <= float(share) <= 100 for row in found[24:] for share in row[2:])
