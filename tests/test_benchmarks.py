"""The benchmarks run and say what they measured; how fast it was is nobody's test."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPTS = Path(__file__).parent.parent / "benchmarks"


def run(folder: Path, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPTS / script), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_speed_prints_a_table_writes_every_run_and_leaves_nothing_behind(tmp_path):
    sizes = ["--size", "100kB", "--count", "2", "--tensors", "7", "--repeats", "1"]
    result = run(tmp_path, "average.py", "speed", *sizes, "--only", "swa-average,plain,cat", "--json", "speed.json")

    assert result.returncode == 0, result.stderr
    for line in ("machine: ", "system: Linux", "files: on ", "command: python ", "date: 20"):
        assert line in result.stdout
    title, header, rule, *rows = (
        result.stdout[result.stdout.index("2 checkpoints") :].replace("\n\n", "\n").splitlines()
    )
    assert title.startswith("2 checkpoints of 100 kB, float32, safetensors, 7 tensors each; warm cache")
    assert [row.split("|")[1].strip() for row in rows] == ["swa-average", "plain", "cat"]
    assert {len(line) for line in (header, rule, *rows)} == {len(header)}
    assert {line.count("|") for line in (header, rule, *rows)} == {9}
    assert rows[0].split("|")[4].strip() == "1.00"

    report = json.loads((tmp_path / "speed.json").read_text(encoding="utf-8"))
    (runs,) = report["runs"].values()
    assert {name: len(measured) for name, measured in runs.items()} == {"swa-average": 1, "plain": 1, "cat": 1}
    assert all(0 < one["anonymous"] < one["resident"] for name in ("swa-average", "plain") for one in runs[name])
    assert [path.name for path in tmp_path.iterdir()] == ["speed.json"]


def test_a_size_that_is_none_is_refused(tmp_path):
    result = run(tmp_path, "average.py", "speed", "--size", "huge")

    assert result.returncode == 2
    assert "expected a size as in 1.2GB, 100MB or 100kB, found 'huge'" in result.stderr
    assert not list(tmp_path.iterdir())


def test_no_rounds_are_refused(tmp_path):
    result = run(tmp_path, "average.py", "speed", "--repeats", "0")

    assert result.returncode == 2
    assert "argument --repeats: expected a whole number from 1 on, found '0'" in result.stderr
