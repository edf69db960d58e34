"""swa-eval --save-records and --from-records: the same result, from the file alone, or one message."""

import io
import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from support.evaluating import MODEL_AND_DATA, N_CHECKPOINTS, averaged, counted, evaluated, prepared, row_of
from swa_cli.pipeline.evaluation import records_io

pytestmark = pytest.mark.slow

FORMS = ["npz", "parquet"]

OTHER_TASKS = '''

class Grouped(Data):
    def split_batch(self, batch):
        x, y = batch
        return (x,), {}, y, (10 * x[:, 0]).long() % 7


class Made:
    """Data for a Linear(4, 3), whose outputs are given a shape."""

    def __init__(self):
        generator = torch.Generator().manual_seed(3)
        self.x = torch.randn(40, 4, generator=generator)
        self.generator = generator

    def batches(self):
        return list(zip(self.x.split(9), self.targets().split(9), strict=True))

    test_dataloader = val_dataloader = batches


class Values(Made):
    def targets(self):
        return self.x[:, :3] * 2 + 1


class Several(Made):
    def targets(self):
        return (self.x[:, :3] > 0).long()


class Maps(Made):
    """Images of five pixels."""

    def __init__(self):
        super().__init__()
        self.x = torch.randn(40, 4, 1, 5, generator=self.generator)

    def targets(self):
        target = self.x[:, :3].argmax(dim=1)
        target[::7, 0, 0] = 255
        return target


class Pixels(Plain):
    def forward(self, x):
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class Tokens(Made):
    def __init__(self):
        super().__init__()
        self.x = torch.randint(0, 3, (40, 6), generator=self.generator)

    def targets(self):
        return self.x


class Speaker(Plain):
    def forward(self, x):
        return super().forward(torch.nn.functional.one_hot(x, 4).float())


class Scores:
    """A task of the user's."""

    unit = "thing"
    percent = ("near",)
    higher_is_better = {"near": True, "a name/with = signs": False}

    def __init__(self, radius=1.0):
        self.radius = radius

    def scores(self, output, target):
        off = (output - target).abs().amax(dim=1)
        return {"near": (off < self.radius).double(), "a name/with = signs": off}

    def combine(self, outputs):
        return torch.stack(outputs).mean(dim=0)
'''


@pytest.fixture
def folder(tmp_path):
    prepared(tmp_path)
    (tmp_path / "evalcode.py").write_text((tmp_path / "evalcode.py").read_text() + OTHER_TASKS)
    return tmp_path


@pytest.fixture
def records(run_swa, folder):
    """The arguments of an evaluation, and its average."""
    averaged(run_swa)
    return folder


def again(run_swa, path: object, *arguments: object):
    result = run_swa("eval", "--from-records", path, *arguments, "--json", "-")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def assert_same_again(run_swa, form: str, *arguments: object, data: tuple[str, ...] = MODEL_AND_DATA):
    if form == "parquet":
        pytest.importorskip("pyarrow")
    path = f"records.{form}"
    expected = evaluated(run_swa, *arguments, "--save-records", path, data=data)
    counted("forwards")

    own = arguments[: arguments.index("--compare-ensemble")] if "evalcode.py:Scores" in arguments else ()
    assert again(run_swa, path, *own) == expected
    assert counted("forwards") == 0
    return expected


@pytest.mark.parametrize("form", FORMS)
def test_everything_comes_back(run_swa, records, form):
    (records / "c.yaml").write_text(
        "eval:\n  metrics:\n"
        "    recall: {class_path: torchmetrics.classification.MulticlassRecall, init_args: {num_classes: 3}}\n"
        "    each: {class_path: torchmetrics.classification.MulticlassF1Score, init_args: "
        "{num_classes: 3, average: none}}\n"
    )
    pytest.importorskip("torchmetrics")
    rows = ("--control", "--curve", "log", "--greedy", "--compare-ensemble", "--margin", "1", "--config", "c.yaml")
    path = f"records.{form}"
    if form == "parquet":
        pytest.importorskip("pyarrow")
    expected = evaluated(run_swa, *rows, "--save-records", path)
    counted("forwards")

    assert again(run_swa, path, "--margin", "1") == expected
    assert counted("forwards") == 0
    assert {"recall", "each.0", "each.2"} < row_of(expected, "swa")["metrics"].keys()
    assert len(expected["prefixes"]) == N_CHECKPOINTS
    assert expected["curve"]["points"]
    assert expected["bn_update"]["n_samples"] == 60


@pytest.mark.parametrize("form", FORMS)
def test_the_reports_are_the_same_too(run_swa, records, form):
    if form == "parquet":
        pytest.importorskip("pyarrow")
    arguments = ("eval", "ckpts", "--swa", "swa.safetensors", *MODEL_AND_DATA, "--compare-ensemble")
    first = run_swa(*arguments, "--csv", "1.csv", "--markdown", "1.md", "--save-records", f"r.{form}")
    second = run_swa("eval", "--from-records", f"r.{form}", "--csv", "2.csv", "--markdown", "2.md")

    assert (second.exit_code, second.stdout, second.stderr) == (0, first.stdout, first.stderr)
    for suffix in ("csv", "md"):
        assert (records / f"2.{suffix}").read_text() == (records / f"1.{suffix}").read_text()


@pytest.mark.parametrize("form", FORMS)
def test_groups_come_back(run_swa, records, form):
    grouped = ("--model", "evalcode.py:Net", "--data", "evalcode.py:Grouped")

    assert assert_same_again(run_swa, form, "--compare-ensemble", data=grouped)["n_groups"] > 6


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("data", "model", "task"),
    [
        ("Values", "Plain", ("regression",)),
        ("Several", "Plain", ("multilabel",)),
        ("Maps", "Pixels", ("segmentation", "--task-arg", "ignore_index=255")),
        ("Tokens", "Speaker", ("causal_lm",)),
        ("Data", "Plain", ("classification", "--task-arg", "top_k=[2]", "--task-arg", "class_weights=[1, 2, 3]")),
        ("Data", "Plain", ("auto",)),
        ("Values", "Plain", ("evalcode.py:Scores", "--task-arg", "radius=3")),
    ],
    ids=["regression", "multilabel", "segmentation", "causal_lm", "classification", "auto", "the user's"],
)
def test_every_task_comes_back(run_swa, folder, form, data, model, task):
    for epoch in range(3):
        torch.save({"state_dict": torch.nn.Linear(4, 3).state_dict()}, folder / f"ckpts/epoch-{epoch}.pt")
    for epoch in range(3, N_CHECKPOINTS):
        (folder / f"ckpts/epoch-{epoch}.pt").unlink()
    run_swa("average", "ckpts", "-o", "swa.safetensors")
    code = ("--model", f"evalcode.py:{model}", "--data", f"evalcode.py:{data}")
    result = assert_same_again(run_swa, form, "--task", *task, "--compare-ensemble", data=code)

    assert [row["kind"] for row in result["candidates"]][-1] in {"ensemble", "geometric"}
    assert result["comparisons"]


@pytest.mark.parametrize("form", FORMS)
def test_other_margins_give_what_they_would_have_given(run_swa, records, form):
    if form == "parquet":
        pytest.importorskip("pyarrow")
    evaluated(run_swa, "--save-records", f"r.{form}")
    margins = ("--margin", "30", "--margin", "nll=1")

    found = again(run_swa, f"r.{form}", *margins)
    assert found == evaluated(run_swa, *margins)
    assert {one["margin"] for one in found["comparisons"]} == {0.3, 1.0}


def test_the_verdict_of_records_can_fail_a_pipeline(run_swa, records):
    evaluated(run_swa, "--save-records", "r.npz")
    result = run_swa("eval", "--from-records", "r.npz", "--fail-unless", "better", "--json", "r.json")

    verdict = json.loads((records / "r.json").read_text())["decision"]["verdict"]
    assert (verdict, result.exit_code) == ("inconclusive", 3)


def test_what_means_nothing_to_records_is_said(run_swa, records):
    evaluated(run_swa, "--save-records", "r.npz")
    result = run_swa(
        "eval", "--from-records", "r.npz", "--control", "--at-once", "2", "--no-best-by-val", "--json", "-"
    )

    assert result.exit_code == 0
    assert "note: the records are taken as they are, without a look at " in result.stderr
    (note,) = [line for line in result.stderr.splitlines() if "as they are" in line]
    assert {*note.rpartition("look at ")[2].rstrip(".").split(", ")} == {
        "--control",
        "--max-resident-models",
        "--no-best-by-val",
    }


def test_a_margin_of_what_is_not_compared_is_an_error_for_records_too(run_swa, records):
    evaluated(run_swa, "--save-records", "r.npz")
    result = run_swa("eval", "--from-records", "r.npz", "--margin", "ece=1")

    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "error: --margin ece: there is no such comparison. Name one of accuracy, nll.\n"


def test_a_configuration_with_everything_in_it_does_for_records_too(run_swa, records):
    expected = evaluated(run_swa, "--save-records", "r.npz")
    (records / "c.yaml").write_text(
        "model: evalcode.py:Net\ndata: evalcode.py:Data\n"
        "eval: {checkpoints: ckpts, swa: swa.safetensors, from_records: r.npz}\n"
    )

    assert json.loads(run_swa("eval", "--config", "c.yaml", "--json", "-").stdout) == expected


def test_what_is_in_a_parquet_file(run_swa, records):
    parquet = pytest.importorskip("pyarrow.parquet")
    result = evaluated(run_swa, "--compare-ensemble", "--save-records", "r.parquet")
    table = parquet.read_table(records / "r.parquet")

    assert table.column_names[:4] == ["candidate", "kind", "unit", "group"]
    assert {"correct", "count", "nll", "brier", "confidence", "weight"} < {*table.column_names}
    rows = table.to_pylist()
    swa = [row for row in rows if row["kind"] == "swa"]
    assert [row["unit"] for row in swa] == list(range(60))
    assert {row["candidate"] for row in swa} == {"swa.safetensors"}
    assert {row["group"] for row in rows} == {None}
    assert np.mean([row["correct"] for row in swa]) == pytest.approx(row_of(result, "swa")["metrics"]["accuracy"])
    assert np.mean([row["nll"] for row in swa]) == pytest.approx(row_of(result, "swa")["metrics"]["nll"])


def test_what_is_in_an_npz_file(run_swa, records):
    result = evaluated(run_swa, "--save-records", "r.npz")
    with np.load(records / "r.npz") as stored:
        about = json.loads(str(stored["swa_cli"]))
        (place,) = [place for place, row in enumerate(about["rows"]) if row["kind"] == "swa"]

        assert stored[f"{place}/nll"].mean() == pytest.approx(row_of(result, "swa")["metrics"]["nll"])
        assert stored[f"{place}/nll"].dtype == np.float64
    assert about["version"] == 1


def refused(run_swa, path: object, *arguments: object) -> tuple[int, str]:
    """Exit code and message of a single error, with nothing else said."""
    result = run_swa("eval", "--from-records", path, *arguments)

    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("error:") == 1
    assert "Traceback" not in result.stderr
    assert "a bug in swa-cli" not in result.stderr
    return result.exit_code, result.stderr.removeprefix("error: ")


def arrays(path: Path, **named: Any) -> None:
    with path.open("wb") as stream:
        np.savez(stream, **named)


def array() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.arange(3))
    return stream.getvalue()


def archive(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a.txt", "hello")


FOREIGN = {
    "nothing": lambda path: None,
    "empty": lambda path: path.write_bytes(b""),
    "a folder": lambda path: path.mkdir(),
    "text": lambda path: path.write_text("hello\n" * 100),
    "an archive": archive,
    "other arrays": lambda path: arrays(path, a=np.arange(3)),
    "one array": lambda path: path.write_bytes(array()),
    "a list": lambda path: arrays(path, swa_cli=np.array("[]")),
    "no JSON": lambda path: arrays(path, swa_cli=np.array("{")),
    "a number": lambda path: arrays(path, swa_cli=np.array("3")),
    "a mapping": lambda path: arrays(path, swa_cli=np.array("{}")),
    "no rows": lambda path: arrays(path, swa_cli=np.array('{"version": 1, "rows": []}')),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", FOREIGN)
def test_what_are_no_records_is_said_to_be_none(run_swa, tmp_path, form, name):
    if form == "parquet":
        pytest.importorskip("pyarrow")
    path = tmp_path / f"r.{form}"
    FOREIGN[name](path)
    code, message = refused(run_swa, f"r.{form}")

    assert code == 1
    assert message.startswith(
        f"cannot read the records r.{form}: "
        if name in {"nothing", "a folder"}
        else f"r.{form} holds no records that swa-eval --save-records has written ("
    )


def test_a_foreign_parquet_file_is_said_to_hold_none(run_swa, tmp_path):
    pa = pytest.importorskip("pyarrow")
    pa.parquet.write_table(pa.table({"a": [1]}), tmp_path / "r.parquet")

    assert refused(run_swa, "r.parquet")[1].startswith("r.parquet holds no records")


class Harmful:
    def __reduce__(self):
        return (Path.touch, (Path("executed"),))


def test_a_pickle_in_an_npz_is_not_executed(run_swa, records):
    evaluated(run_swa, "--save-records", "r.npz")
    with np.load("r.npz") as stored:
        arrays = {name: stored[name] for name in stored.files}
    for name in ("swa_cli", "0/nll"):
        harmful = np.empty(1, dtype=object)
        harmful[0] = Harmful()
        changed: dict[str, Any] = arrays | {name: harmful}
        np.savez("bad.npz", **changed)
        code, message = refused(run_swa, "bad.npz")

        assert code == 1
        assert message.startswith("bad.npz holds no records")
        assert not (records / "executed").exists()


def rewritten(change, *, path: str = "r.npz") -> None:
    """With ``change(about, arrays)`` made to an npz file."""
    with np.load(path) as stored:
        arrays = {name: stored[name] for name in stored.files}
    about = json.loads(str(arrays["swa_cli"]))
    change(about, arrays)
    arrays["swa_cli"] = np.array(json.dumps(about))
    np.savez(path, **arrays)


def later(about, arrays):
    about["version"] = 2
    about["rows"] = {"of": "another form"}


def without_swa(about, arrays):
    for row in about["rows"]:
        row["kind"] = "checkpoint"


def without_checkpoints(about, arrays):
    for row in about["rows"]:
        row["kind"] = "swa"


def shorter(about, arrays):
    arrays["1/nll"] = arrays["1/nll"][:-1]


def wrong_groups(about, arrays):
    arrays["groups"] = np.arange(7)


def best_of_others(about, arrays):
    about["context"]["best"] = 40


def unknown_field(about, arrays):
    about["rows"][0]["more"] = 1


def unknown_task(about, arrays):
    about["task"]["class_path"] = "clasification"


def infinite(about, arrays):
    arrays["0/nll"][3] = np.inf


def enormous(about, arrays):
    arrays["1/nll"][:] = 1.7e308


def groups_below_zero(about, arrays):
    arrays["groups"] = np.arange(60) - 1


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        (infinite, 1, "the records in r.npz make no sense (FloatingPointError)"),
        (enormous, 1, "the records in r.npz make no sense (FloatingPointError)"),
        (groups_below_zero, 1, "ValueError: numbers of groups that are none"),
        (later, 1, "r.npz has records of version 2, and this swa-cli reads 1. Upgrade it."),
        (without_swa, 1, "ValueError: not an average and its checkpoints"),
        (without_checkpoints, 1, "ValueError: not an average and its checkpoints"),
        (shorter, 1, "ValueError: columns of 59, 60 units"),
        (wrong_groups, 1, "ValueError: columns of 7, 60 units"),
        (best_of_others, 1, "ValueError: not an average and its checkpoints"),
        (unknown_field, 1, "unexpected keyword argument 'more'"),
        (unknown_task, 2, "unknown task 'clasification'"),
    ],
)
def test_records_that_do_not_fit_together(run_swa, records, change, code, message):
    evaluated(run_swa, "--save-records", "r.npz")
    rewritten(change)
    found = refused(run_swa, "r.npz")

    assert found[0] == code
    assert message in found[1]


WRONG_TYPES = {
    "name": lambda about: about["rows"][0].update(name=[1]),
    "step": lambda about: about["rows"][0].update(step="7"),
    "members": lambda about: about["rows"][-1].update(members={}),
    "chosen_on": lambda about: about["rows"][0].update(chosen_on=3),
    "extra": lambda about: about["rows"][0].update(extra={"f1": "high"}),
    "kind": lambda about: about["rows"][0].update(kind="other"),
    "split": lambda about: about.update(split=["test"]),
    "warnings": lambda about: about.update(warnings=[1]),
    "warning": lambda about: about.update(warnings="all is well"),
}


def test_records_with_another_type_in_a_field(run_swa, records):
    evaluated(run_swa, "--save-records", "r.npz")
    whole = (records / "r.npz").read_bytes()
    for change in WRONG_TYPES.values():
        (records / "r.npz").write_bytes(whole)
        rewritten(lambda about, _, change=change: change(about))
        code, said = refused(run_swa, "r.npz")

        assert code == 1
        assert "holds no records that swa-eval --save-records has written" in said
        assert "pydantic" not in said


@pytest.mark.parametrize("content", [b"\x80\x04]q\x00.", b"import torch\n", b"", b"PK\x05\x06" + bytes(18)])
def test_nobody_is_told_to_unpickle_records(run_swa, tmp_path, content):
    (tmp_path / "r.npz").write_bytes(content)
    code, said = refused(run_swa, "r.npz")

    assert code == 1
    assert "it is not an .npz archive" in said
    assert "pickle" not in said


def test_the_version_of_a_parquet_file(run_swa, records, monkeypatch):
    pytest.importorskip("pyarrow")
    monkeypatch.setattr(records_io, "VERSION", 7)
    evaluated(run_swa, "--save-records", "r.parquet")
    monkeypatch.undo()
    monkeypatch.chdir(records)

    assert refused(run_swa, "r.parquet")[1].startswith("r.parquet has records of version 7, and this swa-cli reads 1.")


@pytest.mark.parametrize("form", FORMS)
def test_a_damaged_file_gives_the_same_or_one_message(run_swa, records, form):
    """Cut off anywhere, or with a bit turned over."""
    if form == "parquet":
        pytest.importorskip("pyarrow")
    expected = evaluated(run_swa, "--save-records", f"r.{form}")
    path = records / f"r.{form}"
    contents = path.read_bytes()
    random = np.random.default_rng(0)
    for place in sorted(random.integers(1, len(contents), 6)):
        path.write_bytes(contents[:place])
        assert refused(run_swa, path.name)[0] == 1
    for place in sorted(random.integers(4, len(contents) - 8, 15)):
        other = contents[place] ^ (1 << int(random.integers(8)))
        path.write_bytes(contents[:place] + bytes([other]) + contents[place + 1 :])
        result = run_swa("eval", "--from-records", path.name, "--json", "-")
        assert result.exit_code in {0, 1}
        if result.exit_code == 0:
            assert json.loads(result.stdout) == expected
        else:
            assert result.stderr.startswith((f"error: {path.name} holds no records", "error: cannot read the records"))


def test_another_task_than_that_of_the_records(run_swa, records):
    evaluated(run_swa, "--save-records", "r.npz")

    assert refused(run_swa, "r.npz", "--task", "regression") == (
        2,
        "the records in r.npz are of another task: they have no rmse. Leave out --task.\n",
    )
    assert again(run_swa, "r.npz", "--task", "classification") == again(run_swa, "r.npz")


def test_no_code_is_run_because_a_file_says_so(run_swa, folder):
    for epoch in range(N_CHECKPOINTS):
        torch.save({"state_dict": torch.nn.Linear(4, 3).state_dict()}, folder / f"ckpts/epoch-{epoch}.pt")
    run_swa("average", "ckpts", "-o", "swa.safetensors")
    data = ("--model", "evalcode.py:Plain", "--data", "evalcode.py:Values")
    evaluated(run_swa, "--task", "evalcode.py:Scores", "--save-records", "r.npz", data=data)
    (folder / "evalcode.py").rename(folder / "moved.py")
    code, message = refused(run_swa, "r.npz")

    assert code == 2
    assert "the records in r.npz are of the task evalcode.py:Scores, which is not ours. Name it with --task" in message
    assert again(run_swa, "r.npz", "--task", "moved.py:Scores")["unit"] == "thing"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--save-records", "s.npz"), "--from-records makes the result of records that are saved already"),
        (("--csv", "r.npz"), "--csv and --from-records name the same file"),
        (("--json", "r.npz"), "that file exists and is not JSON"),
    ],
)
def test_records_are_not_written_over(run_swa, records, arguments, message):
    evaluated(run_swa, "--save-records", "r.npz")
    before = (records / "r.npz").read_bytes()
    code, said = refused(run_swa, "r.npz", *arguments)

    assert code == 2
    assert message in said
    assert (records / "r.npz").read_bytes() == before


def test_without_pyarrow_parquet_is_refused_before_the_work(run_swa, records, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    counted("forwards")
    saving = run_swa("eval", "ckpts", "--swa", "swa.safetensors", *MODEL_AND_DATA, "--save-records", "r.parquet")
    code, message = refused(run_swa, "s.parquet")

    needed = "parquet files need pyarrow: pip install 'swa-cli[records]', or name a .npz file."
    assert (saving.exit_code, saving.stdout, saving.stderr) == (2, "", f"error: r.parquet: {needed}\n")
    assert (code, message) == (2, f"s.parquet: {needed}\n")
    assert counted("forwards") == 0


@pytest.mark.parametrize("form", FORMS)
def test_a_name_that_is_no_unicode(run_swa, records, form):
    if form == "parquet":
        pytest.importorskip("pyarrow")
    (records / "ckpts/epoch-1.pt").rename(records / "ckpts/epoch-1\udcff.pt")

    assert_same_again(run_swa, form)


def test_what_is_recorded_is_what_the_average_says(run_swa, records):
    """The records need no file of the run."""
    expected = evaluated(run_swa, "--save-records", "r.npz")
    for path in (*records.glob("ckpts/*"), records / "swa.safetensors", records / "evalcode.py"):
        path.unlink()

    assert again(run_swa, "r.npz") == expected
