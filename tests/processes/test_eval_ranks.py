"""swa-eval under torchrun: what one process gives, byte for byte, or one message and no output."""

import json
import re
import socket
from contextlib import ExitStack, chdir
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from support.eval_ranks_program import __file__ as several_commands
from support.evaluating import CODE, MODEL, MODEL_AND_DATA, noisy, prepared
from support.processes import torchrun
from support.ranks_program import __file__ as one_command
from swa_cli.cli.commands import swa
from swa_cli.demo.digits import DigitsCnn

pytestmark = pytest.mark.slow

MORE_CODE = '''

class Stream(IterableDataset):
    def __init__(self, part):
        self.part = part

    def __iter__(self):
        return iter(zip(*self.part, strict=True))


class Streamed(Data):
    """Which no one can divide."""

    def test_dataloader(self):
        return DataLoader(Stream(self.sets["test"]), batch_size=13)


class Shuffled(Data):
    """By a sampler that all ranks draw alike."""

    def test_dataloader(self):
        return DataLoader(TensorDataset(*self.sets["test"]), batch_size=13, shuffle=True)


class Grouped(Shuffled):
    def split_batch(self, batch):
        x, y = batch
        return (x,), {}, y, (10 * x[:, 0]).long() % 7


class Right:
    """A task that cannot be sent to another process."""

    higher_is_better = {"right": True}

    def __init__(self):
        self.right = lambda output, target: (output.argmax(1) == target).double()

    def scores(self, output, target):
        return {"right": self.right(output, target)}

    def combine(self, outputs):
        return sum(outputs)


def others_rank():
    return os.environ.get("RANK") == "1"


class Dies(Data):
    def batches(self, split):
        for place, batch in enumerate(super().batches(split)):
            if place == 2 and others_rank():
                os.kill(os.getpid(), 9)
            yield batch


class Raises(Data):
    def batches(self, split):
        for place, batch in enumerate(super().batches(split)):
            if place == 3 and others_rank():
                raise OSError("disk gone")
            yield batch


class Infinite(Data):
    """In a batch that is the second rank's."""

    def __init__(self):
        super().__init__()
        self.sets["test"][0][3 * self.batch_size] = 99


class Shared(Data):
    def test_dataloader(self):
        dataset = TensorDataset(*self.sets["test"])
        sampler = DistributedSampler(dataset, int(os.environ["WORLD_SIZE"]), int(os.environ["RANK"]))
        return DataLoader(dataset, batch_size=5, sampler=sampler)


class Unseeded(Data):
    def test_dataloader(self):
        order = torch.randperm(60, generator=torch.Generator().manual_seed(os.getpid())).tolist()
        return DataLoader(TensorDataset(*self.sets["test"]), batch_size=5, sampler=order)
'''

CONFIG = """
eval:
  metrics:
    recall: {class_path: torchmetrics.classification.MulticlassRecall, init_args: {num_classes: 3}}
    auroc: {class_path: torchmetrics.classification.MulticlassAUROC, init_args: {num_classes: 3, thresholds: 20}}
"""

EVAL = ("eval", "ckpts", "--swa", "swa.safetensors")
ALL = ("--control", "--curve", "log", "--greedy", "--compare-ensemble")
DIGITS = (
    *("eval", "digits", "--swa", "digits.safetensors"),
    *("--model", "swa_cli.demo.digits.DigitsCnn", "--data", "swa_cli.demo.digits.DigitsData"),
)


def of(data: str, model: str = "Net") -> tuple[str, ...]:
    return ("--model", f"evalcode.py:{model}", "--data", f"evalcode.py:{data}")


COMMANDS = {
    "all rows of digits": (*DIGITS, "--control", "--curve", "1,3", "--greedy", "--compare-ensemble"),
    "all rows and files": (
        *(*EVAL, *MODEL_AND_DATA, *ALL),
        *("--save-records", "records.npz", "--csv", "rows.csv", "--markdown", "rows.md"),
    ),
    "torchmetrics": (*EVAL, *MODEL_AND_DATA, "--config", "metrics.yaml"),
    "fewer batches than ranks": (*EVAL, *MODEL_AND_DATA, "--data-arg", "n=13", *ALL),
    "a stream": (*EVAL, *of("Streamed")),
    "a sampler": (*EVAL, *of("Shuffled"), "--compare-ensemble"),
    "groups": (*EVAL, *of("Grouped"), "--compare-ensemble"),
    "a task that cannot be sent": (*EVAL, *MODEL_AND_DATA, "--task", "evalcode.py:Right", "--compare-ensemble"),
    "one after the other": (*EVAL, *MODEL_AND_DATA, "--max-resident-models", "2", "--compare-ensemble"),
    "kept outputs": (*EVAL, *MODEL_AND_DATA, "--cache", "kept"),
    "kept outputs again": (*EVAL, *MODEL_AND_DATA, "--cache", "kept"),
    "from records": ("eval", "--from-records", "records.npz"),
}
FILES = ("rows.csv", "rows.md")
OF_THREE = ("all rows and files", "fewer batches than ranks", "a stream", "kept outputs", "kept outputs again")
CASES = [*((2, name) for name in COMMANDS), *((3, name) for name in OF_THREE)]
FAILING = {
    2: (
        (*EVAL, *of("Infinite", "Nan")),
        "rank 1: test split: epoch-0.pt, batch 3: the model's output holds NaN or infinity",
    ),
    3: ((*EVAL, *of("Raises")), "rank 1: val split: loading batch 1 failed: OSError: disk gone"),
}
"""The last command of so many ranks; after an error they have to part."""


def invoked(folder: Path, *arguments: str) -> Any:
    with chdir(folder):
        return CliRunner(env={"COLUMNS": "200"}).invoke(swa, list(arguments))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """With averages of two models."""
    torch.manual_seed(0)
    path = prepared(tmp_path_factory.mktemp("ranks"))
    (path / "evalcode.py").write_text(CODE + MORE_CODE)
    (path / "metrics.yaml").write_text(CONFIG)
    (path / "digits").mkdir()
    state = DigitsCnn().state_dict()
    for epoch in range(3):
        torch.save({"state_dict": noisy(state, 0.05), "epoch": epoch}, path / f"digits/epoch-{epoch}.pt")
    for command in (
        ("average", "ckpts", "-o", "swa.safetensors"),
        ("bn-update", "swa.safetensors", *MODEL_AND_DATA),
        ("average", "digits", "-o", "digits.safetensors"),
        ("bn-update", "digits.safetensors", *DIGITS[4:]),
    ):
        assert invoked(path, *command).exit_code == 0
    return path


@pytest.fixture(scope="module")
def expected(folder):
    """What one process prints at each command, and what files it writes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as torchrun has it: how sums are divided shows in their last digits
    try:
        results = {name: invoked(folder, *command, "--json", "-") for name, command in COMMANDS.items()}
    finally:
        torch.set_num_threads(threads)
    found = {name: (result.stdout, result.stderr) for name, result in results.items()}
    for name, (stdout, _) in found.items():
        assert stdout.startswith("{"), name
    files = {name: (folder / name).read_bytes() for name in FILES}
    return found, files, arrays_of(folder / "records.npz")


def arrays_of(path: Path) -> dict[str, Any]:
    with np.load(path) as stored:
        return {name: stored[name] for name in stored.files}


class Seen(NamedTuple):
    """By so many ranks, in a copy of the folder: of each command and rank exit code, standard output and error."""

    path: Path
    commands: dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def seen_by(folder, tmp_path_factory):
    """A function of the number of ranks, which starts them once."""

    @cache
    def seen(ranks: int) -> Seen:
        path = tmp_path_factory.mktemp(f"{ranks}")
        for name in ("ckpts", "digits", "swa.safetensors", "digits.safetensors", "evalcode.py", "metrics.yaml"):
            (path / name).symlink_to(folder / name)
        names = COMMANDS if ranks == 2 else OF_THREE
        commands = [(*COMMANDS[name], "--json", "-") for name in names]
        commands.append((*FAILING[ranks][0], "--json", "failed.json"))
        with ExitStack() as held:
            ports = [held.enter_context(socket.create_server(("localhost", 0))).getsockname()[1] for _ in commands]
        (path / "commands.json").write_text(json.dumps(list(zip(ports, commands, strict=True))))
        torchrun(path, ranks, several_commands, "commands.json")
        every = enumerate([*names, "failing"])
        return Seen(path, {name: [of_rank(path, number, rank) for rank in range(ranks)] for number, name in every})

    return seen


def of_rank(path: Path, number: int, rank: int) -> dict[str, Any]:
    file = path / f"{number}.{rank}.json"
    return json.loads(file.read_text()) if file.exists() else {"stdout": "", "stderr": "", "code": 1}


def assert_alike(found: Any, expected: Any, where: str = "") -> None:
    """The same but for the last digits of float64, which depend on how many threads multiply matrices."""
    if isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-12, abs=1e-12), where
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for name, value in expected.items():
            assert_alike(found[name], value, f"{where}.{name}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), where
        for place, value in enumerate(expected):
            assert_alike(found[place], value, f"{where}[{place}]")
    else:
        assert found == expected, where


@pytest.mark.parametrize(("ranks", "name"), CASES)
def test_ranks_give_what_one_process_gives(seen_by, expected, ranks, name):
    first, *others = seen_by(ranks).commands[name]

    stdout, stderr = expected[0][name]
    assert (first["stderr"], first["code"]) == (stderr, 0)
    assert_alike(json.loads(first["stdout"]), json.loads(stdout))
    assert [(other["stdout"], other["stderr"], other["code"]) for other in others] == [("", "", 0)] * len(others)


@pytest.mark.parametrize("ranks", [2, 3])
def test_the_files_of_ranks_are_those_of_one_process(seen_by, expected, ranks):
    path = seen_by(ranks).path
    _, files, records = expected
    found = arrays_of(path / "records.npz")

    assert {name: (path / name).read_bytes() for name in FILES} == files
    assert found.keys() == records.keys()
    for name, values in records.items():
        assert np.array_equal(found[name], values), name


@pytest.mark.parametrize("ranks", [2, 3])
def test_an_error_of_one_rank_is_told_once_and_nothing_is_written(seen_by, ranks):
    path, commands = seen_by(ranks)
    first, *others = commands["failing"]

    assert (first["code"], first["stdout"]) == (1, "")
    assert first["stderr"].startswith(f"error: {FAILING[ranks][1]}")
    assert first["stderr"].count("error:") == 1
    assert [(other["stdout"], other["stderr"], other["code"]) for other in others] == [("", "", 1)] * len(others)
    assert not (path / "failed.json").exists()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("Dies", "another rank ended.*; nothing was written"),  # seen by the others, or torchrun ended them first
        ("Shared", r"test_dataloader\(\) has a distributed sampler of its own, which repeats examples"),
        ("Unseeded", "the ranks' samplers draw different batches"),
    ],
)
def test_what_ranks_cannot_do_together(folder, data, message):
    result = torchrun(folder, 2, one_command, *EVAL, *MODEL, "--data", f"evalcode.py:{data}", "--json", f"{data}.json")
    said = re.findall(r"^(?:error|note): .*", result.stderr, flags=re.MULTILINE)

    assert (result.returncode, result.stdout, len(said)) == (1, "", 1)
    assert re.match(f"error: .*{message}", said[0])
    assert "a bug in swa-cli" not in result.stderr
    assert not (folder / f"{data}.json").exists()
