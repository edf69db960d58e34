"""The comparison of two versions finds what is the same, what is said in other words, and what differs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from same_as import reworded

RESULT = {"scores": [{"nll": 0.25, "label": "NLL"}], "sentence": "Ship it."}
REPORT = "SWA: 90.8 % (+0.5 to +1.2)"


@pytest.mark.parametrize(
    ("suffix", "old", "new", "expected"),
    [
        ("json", json.dumps(RESULT), json.dumps({**RESULT, "sentence": "Do not ship it."}), True),
        ("json", json.dumps(RESULT), json.dumps({**RESULT, "scores": [{"nll": 0.26, "label": "NLL"}]}), False),
        ("json", json.dumps(RESULT), json.dumps({**RESULT, "more": ""}), False),
        ("md", REPORT, "The average has " + REPORT.removeprefix("SWA: "), True),
        ("md", REPORT, REPORT.replace("+0.5", "-0.5"), False),
        ("csv", "swa,0.25", "SWA,0.25", False),
    ],
)
def test_only_words_may_differ(tmp_path, suffix, old, new, expected):
    paths = tmp_path / f"old.{suffix}", tmp_path / f"new.{suffix}"
    for path, text in zip(paths, (old, new), strict=True):
        path.write_text(text)

    assert reworded(*paths) is expected


@pytest.mark.slow
def test_a_version_is_the_same_as_itself():
    script = Path(__file__).with_name("same_as.py")
    command = [sys.executable, script, sys.executable, "--random", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    demo, run = (line.split("|") for line in done.stdout.splitlines() if "demo" in line or "random" in line)
    assert int(demo[4]) >= 14
    assert [int(cell) for cell in run[2:4]] == [5, 0]
