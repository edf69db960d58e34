"""No command shows names from files, paths, configurations and user code as they are."""

import csv
import io
import json
import os
import re
import subprocess
import sys

import pytest
import torch
import typer
from torch import nn

from swa_cli.cli.ending import exit_on_error
from swa_cli.cli.terminal import VisibleConsole
from swa_cli.errors import SwaError
from swa_cli.text import visible

HOSTILE = [
    "\x1b[31mred",
    "\x1b]0;title\x07\x1b[2J",
    "\x9b5mc1\x85\x7f",
    "a\nerror: all is lost\r",
    "tab\there\x0b\x0c",
    "[bold]markup[red][link=x]",
    "\u202egnp\u2066\u200f",
    "\u200b\ufeff\u00ad\u3164\u115f\ufe0f",
    "line\u2028paragraph\u2029\u00a0",
    "|pipe`tick`<b>*&lt;",
    "=cmd()",
    "@sum",
    os.fsdecode(b"caf\xe9"),
    "l" * 200,
]
FILES = [*map("".join, zip(HOSTILE[0:10:2], HOSTILE[1:10:2], strict=True)), "=cmd()", "@sum" + HOSTILE[12], "l" * 200]
LONG = ["k" * 5000, "k " * 2500, "\x1b" * 5000]

CODE = """
import torch
from torch import nn

BN = {bn!r}

class Net(nn.Module):
    def __init__(self, label=None):
        super().__init__()
        self.body = nn.Linear(5, 6)
        self.add_module(BN, nn.BatchNorm1d(6))
        self.head = nn.Linear(6, 4)
    def forward(self, x):
        return self.head(torch.relu(self._modules[BN](self.body(x))))

class Raises(Net):
    def forward(self, x):
        raise ValueError(BN)

class Data:
    def __init__(self, label=None):
        generator = torch.Generator().manual_seed(5)
        self.x = torch.randn(60, 5, generator=generator)
        self.y = torch.randint(0, 4, (60,), generator=generator)
    def train_dataloader(self):
        return [(x, y) for x, y in zip(self.x.split(20), self.y.split(20))]
    test_dataloader = train_dataloader

class Wrong:
    wrong = 0
    def to(self, device):
        return self
    def update(self, outputs, labels):
        self.wrong = self.wrong + int((outputs.argmax(1) != labels).sum())
    def compute(self):
        return torch.tensor(self.wrong)
    def merge_state(self, other):
        self.wrong = self.wrong + other.wrong
"""
BN = "bn\x1b[31m\n\u202e"
SWA = "\x1b[31mswa\u202e.safetensors"
USER = "my\x1b[5mcode\n.py"


def model(name: str) -> nn.Module:
    net = nn.Module()
    net.add_module("body", nn.Linear(5, 6))
    net.add_module(name, nn.BatchNorm1d(6))
    net.add_module("head", nn.Linear(6, 4))
    return net


@pytest.fixture
def folder(tmp_path):
    """A run whose names of files, keys, metrics and layers are hostile, and a user's code that is too."""
    (tmp_path / USER).write_text(CODE.format(bn=BN), encoding="utf-8")
    (tmp_path / "ckpts").mkdir()
    for step, name in enumerate(FILES):
        state = model(BN).state_dict()
        contents = {
            "state_dict": state,
            "epoch": step,
            "metrics": {HOSTILE[0]: 0.5, "k" * 900: 1.0, HOSTILE[2]: 2.0, **dict.fromkeys(HOSTILE, 3.0)},
            f"ema{HOSTILE[1]}": state,
            f"ema{LONG[1]}": state,
        }
        torch.save(contents, tmp_path / "ckpts" / f"{name}-{step}.pt")
    return tmp_path


def unseen(text: str) -> set[str]:
    """The characters, but line breaks, that steer a terminal or cannot be seen."""
    shown = set(text) - {"\n"}
    return {char for char in shown if not char.isprintable() or char in "\u3164\u115f\ufe0f"}


MODEL = (
    "--model",
    f"{USER}:Net",
    "--data",
    f"{USER}:Data",
    "--model-arg",
    'label="\\x1b[31m"',
    "--data-arg",
    'label="\\u202e\\n"',
)


def test_no_command_shows_a_name_as_it_is(run_swa, folder):
    commands = {
        "inspect": ("inspect", "ckpts"),
        "picks": ("inspect", "ckpts", "--best", "2", "--metric", HOSTILE[0], "--mode", "max"),
        "no such metric": ("inspect", "ckpts", "--best", "2", "--metric", HOSTILE[1] + "?", "--mode", "max"),
        "dry run": ("average", "ckpts", "-o", SWA, "--dry-run"),
        "average": ("average", "ckpts", "-o", SWA),
        "exists": ("average", "ckpts", "-o", SWA),
        "verify": ("verify", SWA),
        "bn-update": ("bn-update", SWA, *MODEL),
        "eval": ("eval", "ckpts", "--last", "4", "--swa", SWA, *MODEL, "--save-records", "\x1b[31m.npz"),
        "csv": ("eval", "--from-records", "\x1b[31m.npz", "--csv", "-"),
        "markdown": ("eval", "--from-records", "\x1b[31m.npz", "--markdown", "-"),
        "records": ("eval", "--from-records", "\x1b[31m.npz"),
        "json": ("eval", "--from-records", "\x1b[31m.npz", "--json", "-"),
        "raises": ("eval", "ckpts", "--swa", SWA, "--model", f"{USER}:Raises", "--data", f"{USER}:Data"),
        "no such file": ("average", HOSTILE[3], "-o", "x.pt"),
        "no such option": ("average", "--\x1b]0;title\x07\n"),
        "no such command": ("\x1b[31maverage\n",),
        "too many": ("verify", SWA, "\x1b[31m\n"),
        "no such device": ("average", "ckpts", "-o", "x.pt", "--device", "\x1b[31m"),
        "no such key": ("average", "ckpts", "-o", "x.pt", "--key", "\x1b[31m"),
        "no such configuration": ("average", "--config", "\x1b[31m"),
    }

    results = {name: run_swa(*arguments) for name, arguments in commands.items()}

    failed = {"no such metric", "exists", "raises", *(name for name in results if name.startswith(("no ", "too ")))}
    codes = {name: result.exit_code for name, result in results.items()}
    assert {name for name, code in codes.items() if code} == failed, results["average"].stderr
    assert {name: unseen(result.output) for name, result in results.items()} == {name: set() for name in results}
    lines = [line for result in results.values() for line in result.output.splitlines()]
    assert not any(line.startswith("error: all is lost") for line in lines)
    assert not any(
        "k" * 300 in re.sub(r"[│\n]| {2,}", "", result.output) for name, result in results.items() if name != "json"
    )
    assert "[bold]markup[red][link=x]" in results["inspect"].stdout


CONFIG = {
    "model": {"class_path": f"{USER}:Net", "init_args": {"label": HOSTILE[0]}},
    "data": {"class_path": f"{USER}:Data", "init_args": {"label": HOSTILE[6]}},
    "average": {"sources": ["ckpts"], "output": SWA},
    "bn_update": {"output": f"bn-{SWA}", "recalibrate_frozen": True, "json": f"{HOSTILE[1]}.json"},
    "eval": {
        "compare_ensemble": True,
        "metrics": {name: {"class_path": f"{USER}:Wrong"} for name in HOSTILE[:7]},
        "save_records": f"{HOSTILE[0]}.npz",
        "json": f"{HOSTILE[6]}.json",
        "markdown": f"{HOSTILE[2]}.md",
    },
}


def unlike(**sections: dict[str, object]) -> dict[str, object]:
    """The configuration of a run with other entries; None removes one."""
    merged = {**CONFIG, **{name: {**CONFIG.get(name, {}), **value} for name, value in sections.items()}}
    return {
        name: {key: value for key, value in section.items() if value is not None} for name, section in merged.items()
    }


@pytest.mark.parametrize(
    ("sections", "code", "shown"),
    [
        ({}, 0, "\\x1b[31mred"),
        ({"eval": {"metrics": None, "csv": "-"}}, 0, "'=cmd()-5.pt"),
        ({"average": {"sources": [HOSTILE[3]]}}, 1, "a\\nerror: all is lost\\r"),
        ({"average": {"sources": ["ckpts/*\x1b.pt"]}}, 1, "ckpts/*\\x1b.pt"),
        ({"average": {HOSTILE[0]: 1}}, 2, "\\x1b[31mred"),
        ({"average": {"dtype": HOSTILE[1]}}, 2, "\\x1b]0;title"),
        ({"average": {"key": HOSTILE[1]}}, 1, "\\x1b]0;title"),
        ({"average": {"device": HOSTILE[6]}}, 2, "\\u202egnp"),
        ({"average": {"output": f"{HOSTILE[0]}/x.pt"}}, 1, "\\x1b[31mred"),
        ({"bn_update": {"json": f"{HOSTILE[0]}/x.json"}}, 1, "\\x1b[31mred"),
        ({"model": {"class_path": f"{USER}:Raises"}}, 1, "ValueError: bn\\x1b[31m"),
        ({"model": {"class_path": f"{USER}:{HOSTILE[0]}"}}, 1, "has no '\\x1b[31mred'"),
        ({"model": {"init_args": {HOSTILE[0]: 1}}}, 1, "\\x1b[31mred"),
        ({"data": {"class_path": f"{HOSTILE[6]}.py:Data"}}, 1, "\\u202egnp"),
        ({"eval": {"margin": {HOSTILE[1]: 0.1}}}, 2, "\\x1b]0;title"),
        ({"eval": {"metrics": {HOSTILE[0]: {"class_path": f"{USER}:Net"}}}}, 2, "\\x1b[31mred"),
        ({"task": {"class_path": f"{USER}:Net", "init_args": {}}}, 1, "the task is a Net"),
    ],
)
def test_a_run_shows_no_name_as_it_is(run_swa, folder, sections, code, shown):
    name = f"{HOSTILE[0]}\u202e.yaml"
    (folder / name).write_text(json.dumps(unlike(**sections)))

    result = run_swa("run", "--config", name)

    assert (result.exit_code, unseen(result.output)) == (code, set()), result.output
    assert shown in result.output


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("average: \x1b[31m", "is not YAML"),
        ("average: @\u202e", "is not YAML"),
        ("average: !\u2028\u202e x", "is not YAML"),
        ("average: *\u202e", "is not YAML"),
        ("'a\u202e': 1", "unknown key 'a\\u202e'"),
        ("- 'a\u202e'", "expected a mapping"),
    ],
)
def test_a_configuration_that_cannot_be_read_is_quoted_visibly(run_swa, tmp_path, text, shown):
    (tmp_path / "\x1b[31m.yaml").write_text(text, encoding="utf-8")

    result = run_swa("run", "--config", "\x1b[31m.yaml")

    assert (result.exit_code, unseen(result.output)) == (2, set())
    assert "\\x1b[31m.yaml" in result.stderr
    assert shown in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [HOSTILE[0] + HOSTILE[2], HOSTILE[3] + HOSTILE[6], HOSTILE[5] + "{seed}" + HOSTILE[12]]
)
def test_the_demo_shows_no_name_as_it_is(run_swa, tmp_path, monkeypatch, name):
    pytest.importorskip("sklearn")
    monkeypatch.setattr("swa_cli.demo.train.EPOCHS", 3)
    monkeypatch.setattr("swa_cli.demo.train.KEPT", 2)
    (tmp_path / "file").write_bytes(b"")

    results = [run_swa("demo", "--out", place) for place in (name, f"file/{name}", name * 200)]

    assert [result.exit_code for result in results] == [0, 1, 1]
    assert [unseen(result.output) for result in results] == [set()] * 3
    assert all(visible(name) in result.output.replace("\n", "") for result in results[:2])


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (("average", HOSTILE[0], "-o", "x.pt"), "SourceError: "),
        (("average", "--config", "\x1b[31m\u202e.yaml"), "ConfigError: "),
        (("average", "ckpts", "-o", "x.pt", "--metric", HOSTILE[2] + "?", "--best", "1", "--mode", "min"), "\\x9b5mc1"),
        (
            ("bn-update", "a.pt", "-o", "b.pt", "--model", f"{USER}:Raises", "--data", f"{USER}:Data"),
            "ValueError: bn\\x1b[31m\n",
        ),
    ],
)
def test_a_traceback_shows_no_name_as_it_is(run_swa, folder, arguments, shown):
    torch.save(model(BN).state_dict(), "a.pt")

    result = run_swa(*arguments, "--debug")

    assert "Traceback (most recent call last):\n" in result.stderr
    assert shown in result.stderr
    assert unseen(result.output) == set()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
@pytest.mark.parametrize(
    ("arguments", "code", "shown"),
    [
        (("inspect", "ckpts"), 0, ("| \\u65e5\\u672c-0.pt ", "| \\u65e5\\u672c-1.pt ")),
        (("eval", "--help"), 0, ("--curve", "log")),
        (("average", "\u65e5\u672c", "-o", "x.pt"), 1, ("error: no such file or directory: \\u65e5\\u672c.",)),
    ],
)
def test_what_an_encoding_lacks_is_an_escape(tmp_path, encoding, arguments, code, shown):
    (tmp_path / "ckpts").mkdir()
    for step in range(2):
        torch.save({"epoch": step, "model": {"w": torch.ones(2) * step}}, tmp_path / f"ckpts/\u65e5\u672c-{step}.pt")

    result = subprocess.run(
        [sys.executable, "-m", "swa_cli", *arguments],
        cwd=tmp_path,
        env=os.environ | {"PYTHONIOENCODING": encoding},
        capture_output=True,
        check=False,
    )

    output = (result.stdout + result.stderr).decode(encoding)
    assert result.returncode == code, output
    assert not [text for text in shown if text not in output]
    assert len({len(line) for line in output.splitlines() if "-0.pt" in line or "-1.pt" in line}) == (code == 0) * (
        "inspect" in arguments
    )


UNHANDLED = """
import sys, warnings
from swa_cli.cli import main

class Exit(Exception):
    @property
    def __cause__(self):
        raise ValueError("\\x1b[31m")

class Net:
    def __del__(self):
        raise ValueError("\\x1b[31m\\u202e")

def inspect():
    {}

import swa_cli.cli.commands as commands
commands.swa = inspect
main.swa()
"""


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        ("Net()", "ValueError: \\x1b[31m\\u202e\n"),
        ("warnings.warn('\\x1b[31m\\x9b')", "UserWarning: \\x1b[31m\\x9b\n"),
        (
            "from swa_cli.cli.ending import failed; sys.exit(failed(Exit('\\x1b[31m'), debug=False))",
            "error: a bug in swa-cli: Exit: \\x1b[31m. Please report it with what --debug shows.\n",
        ),
    ],
)
def test_what_python_says_of_the_users_code_is_visible(tmp_path, body, shown):
    (tmp_path / "program.py").write_text(UNHANDLED.format(body))

    result = subprocess.run(
        [sys.executable, "program.py"], cwd=tmp_path, env=os.environ, capture_output=True, text=True, check=False
    )

    assert shown in result.stderr
    assert unseen(result.stderr) == set()


def test_a_traceback_that_cannot_be_read_does_not_replace_the_message(capsys):
    class UnreadableError(SwaError):
        @property
        def __cause__(self):  # pyright: ignore[reportIncompatibleVariableOverride]
            raise ValueError

    with pytest.raises(typer.Exit), exit_on_error(debug=True):
        raise UnreadableError("no such file.")

    said = "The traceback cannot be shown: reading the exception raises ValueError.\nerror: no such file.\n"
    assert capsys.readouterr().err == said


def test_no_message_is_lost_while_the_users_code_runs_for_want_of_a_character():
    program = """
from swa_cli.cli.ending import only_results_on_stdout
from swa_cli.cli.terminal import notify
with only_results_on_stdout():
    notify("\\u65e5")
"""
    plain = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    result = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | plain, capture_output=True, text=True, check=False
    )

    assert result.stderr == "note: \\u65e5\n"


def test_json_has_names_whole(run_swa, folder):
    result = json.loads(run_swa("inspect", "ckpts", "--json").stdout)

    assert {file["path"] for file in result["files"]} == {f"ckpts/{name}-{step}.pt" for step, name in enumerate(FILES)}
    assert {"k" * 900, *HOSTILE} <= set(result["metrics"])
    assert f"ema{LONG[1]}" in result["files"][0]["ema"]


def test_files_of_reports_are_as_harmless_as_the_terminal(run_swa, folder):
    run_swa("average", "ckpts", "-o", SWA)
    result = run_swa("eval", "ckpts", "--swa", SWA, *MODEL, "--csv", "r.csv", "--markdown", "r.md", "--json", "r.json")
    assert result.exit_code == 0

    texts = [(folder / name).read_text(encoding="utf-8") for name in ("r.csv", "r.md", "r.json")]
    rows = list(csv.reader(io.StringIO(texts[0])))
    names = [row["name"] for row in json.loads(texts[2])["candidates"]]
    table = [line for line in texts[1].splitlines() if line.startswith("| ")]

    assert [unseen(text) for text in texts] == [set(), set(), set()]
    assert {len(row) for row in rows} == {len(rows[0])}
    assert not [cell for row in rows for cell in row if cell.startswith(("=", "@", "+"))]
    assert "'=cmd()-5.pt" in {row[0] for row in rows}
    assert {f"{name}-{step}.pt" for step, name in enumerate(FILES)} <= set(names)
    assert {len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) for line in table} == {9, 7}  # the two tables' columns


@pytest.mark.parametrize("name", [*HOSTILE, *LONG])
def test_colours_are_ours_alone(name):
    from rich.table import Table
    from rich.text import Text  # noqa: TID251

    stream = io.StringIO()
    console = VisibleConsole(file=stream, force_terminal=True, color_system="standard", width=80, _environ={})
    table = Table(name, title=name)
    table.add_row(name, style="red")
    for what in (name, table, Text(name), [name]):  # the last two as nobody should
        console.print(what, style="bold")

    ours = re.compile(r"\x1b\[(?:0|1|2|3|31|1;31|1;3|3;1|4|23)?m")
    left = ours.sub("", stream.getvalue())
    assert unseen(left.replace("\x1b[31mred", "")) == set()
    assert "\x1b" in stream.getvalue()
    if "\x1b[" in name:
        assert name not in stream.getvalue()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.pt", "a.pt"),
        ("\x00\x1b\x7f\x9b", "\\x00\\x1b\\x7f\\x9b"),
        ("\u202e\u2069\u200d", "\\u202e\\u2069\\u200d"),
        ("\udce9\U000e0101", "\\udce9\\U000e0101"),
        ("שלום é 漢字 🙂", "שלום é 漢字 🙂"),
        ("x" * 251, "x" * 125 + "…" + "x" * 124),
    ],
)
def test_what_cannot_be_seen_is_an_escape(text, expected):
    assert visible(text) == expected
    assert visible(expected) == expected


def test_a_long_text_loses_its_middle_and_a_long_word_too():
    assert len(visible("k " * 2500)) < 2001
    assert len(visible("k" * 5000)) < 251
    assert len(visible("k " * 2500, whole=True)) == 5000


def test_a_terminal_gets_no_name_as_it_is(folder):
    leader, follower = os.openpty()
    command = [sys.executable, "-m", "swa_cli", "average", "ckpts", "-o", SWA]
    process = subprocess.Popen(
        command, cwd=folder, stdout=follower, stderr=follower, env=os.environ | {"TERM": "xterm"}
    )
    os.close(follower)
    found = b""
    while True:
        try:
            part = os.read(leader, 65536)
        except OSError:  # how Linux says that nobody writes there any more
            break
        found += part
    os.close(leader)

    assert process.wait() == 0
    text = found.decode()
    own = re.sub(r"\x1b\[(?:\d*(?:;\d+)*m|\?25[lh]|1A|2K)", "", text)  # colours, and those of the progress bar
    assert unseen(own.replace("\r", "")) == set()
    assert "\x1b]0;title" not in text
    assert "\\x1b[31mred" in own.replace("\r\n", "")
