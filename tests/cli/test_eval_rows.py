"""The rows of swa-eval, each against what the other commands or a slow oracle give, and what is asked of them."""

import csv
import json
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from support.evaluating import (
    MODEL,
    MODEL_AND_DATA,
    N_CHECKPOINTS,
    Net,
    averaged,
    but,
    counted,
    evaluated,
    good_state,
    noisy,
    prepared,
    row_of,
    rows_of,
    save,
)
from support.processes import SWA, python

ONLY_VAL = (*MODEL, "--data", "evalcode.py:OnlyVal")
ONLY_TEST = (*MODEL, "--data", "evalcode.py:OnlyTest")


@pytest.fixture
def folder(tmp_path):
    return prepared(tmp_path)


def swa_metrics(run_swa, path: object, *arguments: object) -> dict[str, float]:
    """Of a file, evaluated by itself."""
    result = run_swa(
        "eval", "ckpts", "--swa", path, *MODEL_AND_DATA, "--no-best-by-val", *arguments, "--json", "out.json"
    )
    assert result.exit_code == 0, result.stderr
    return row_of(json.loads(Path("out.json").read_text()), "swa")["metrics"]


def test_the_control_is_the_last_checkpoint_after_bn_update(run_swa, folder):
    averaged(run_swa)
    assert run_swa("bn-update", "ckpts/epoch-5.pt", "-o", "last.safetensors", *MODEL_AND_DATA).exit_code == 0

    result = evaluated(run_swa, "--control")
    control = row_of(result, "control")

    assert control["metrics"] == swa_metrics(run_swa, "last.safetensors")
    assert (control["step"], control["members"], control["forward_passes"]) == (5, 1, 1)
    assert {one["other"] for one in result["comparisons"] if one["kind"] == "control"} == {
        "the last checkpoint with BatchNorm recomputed"
    }


@pytest.mark.slow
@pytest.mark.parametrize("how", [("--amp", "bf16"), ("--estimator", "torch", "--seed", "3"), ("--num-batches", "2")])
def test_the_control_is_recomputed_as_the_average_was(run_swa, folder, how):
    averaged(run_swa)
    for source, target in (("swa.safetensors", "swa.safetensors"), ("ckpts/epoch-5.pt", "last.safetensors")):
        assert run_swa("bn-update", source, "-o", target, "--force", *MODEL_AND_DATA, *how).exit_code == 0

    assert row_of(evaluated(run_swa, "--control"), "control")["metrics"] == swa_metrics(run_swa, "last.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("weights", [(), ("--weights", "1,2,3,4,5,6"), ("--ema", "0.5")])
def test_the_row_of_averaged_statistics_is_the_average_before_bn_update(run_swa, folder, weights):
    averaged(run_swa, *weights, recomputed=False)
    before = evaluated(run_swa)
    assert rows_of(before, "swa-averaged-bn") == []
    assert run_swa("bn-update", "swa.safetensors", *MODEL_AND_DATA).exit_code == 0

    row = row_of(evaluated(run_swa), "swa-averaged-bn")

    assert row["metrics"] == pytest.approx(row_of(before, "swa")["metrics"], rel=1e-6)
    assert row["members"] == N_CHECKPOINTS


def test_averaged_statistics_of_other_checkpoints_are_no_row(run_swa, folder):
    averaged(run_swa)

    assert rows_of(evaluated(run_swa, "--last", "3"), "swa-averaged-bn") == []


def test_the_best_is_chosen_on_val_and_reported_on_test(run_swa, folder):
    averaged(run_swa)
    on_val = evaluated(run_swa, "--split", "val", "--no-best-by-val")
    values = [row["metrics"]["accuracy"] for row in rows_of(on_val, "checkpoint")]
    expected = max(range(N_CHECKPOINTS), key=lambda place: (values[place], place))

    result = evaluated(run_swa)
    best = row_of(result, "best")

    assert best["name"] == f"best by validation (epoch-{expected}.pt)"
    assert best["metrics"] == rows_of(result, "checkpoint")[expected]["metrics"]
    assert (best["chosen_on"], result["split"], result["warnings"]) == ("val", "test", [])


def test_of_equally_good_checkpoints_the_newest_is_the_best(run_swa, folder):
    first = torch.load(folder / "ckpts/epoch-0.pt", weights_only=True)
    for epoch in range(1, N_CHECKPOINTS - 1):
        torch.save({**first, "epoch": epoch}, folder / f"ckpts/epoch-{epoch}.pt")
    bad = {name: torch.zeros_like(value) for name, value in good_state().items()}
    torch.save({"state_dict": bad}, folder / "ckpts/epoch-5.pt")
    save(good_state(), folder / "swa.safetensors")

    assert row_of(evaluated(run_swa), "best")["name"] == "best by validation (epoch-4.pt)"


def test_what_is_chosen_on_the_reported_split_is_called_out_in_red(run_swa, folder):
    averaged(run_swa)
    arguments = ("eval", "ckpts", "--swa", "swa.safetensors", *ONLY_VAL, "--curve", "2", "--greedy", "--json", "r.json")
    result = run_swa(*arguments)

    (warning,) = json.loads((folder / "r.json").read_text())["warnings"][1:]  # the first is of other data
    assert warning.startswith(
        "the best checkpoint and the window of --curve and the greedy soup selected among 6 checkpoints on the split "
        "that is reported (val), so the score is optimistically biased."
    )
    assert warning in re.sub(r"[│╭╮╰╯─\s]+", " ", result.stderr)
    assert result.exit_code == 0


def test_a_split_that_was_asked_for_although_there_is_another_is_said_to_be_so(run_swa, folder):
    averaged(run_swa)

    assert [warning.rpartition(". ")[2] for warning in evaluated(run_swa, "--split", "val")["warnings"]] == [
        "Leave out --split val."
    ]


def test_without_validation_data_there_is_no_best_but_a_note(run_swa, folder):
    averaged(run_swa)
    result = evaluated(run_swa, data=ONLY_TEST)

    assert rows_of(result, "best") == []
    assert result["notes"] == ["the data module has no val_dataloader(): there is no best by validation."]
    result = evaluated(run_swa, "--curve", "1,2", data=ONLY_TEST)
    assert rows_of(result, "best") == []  # nor where something else is chosen on the split that is reported
    assert [note for note in result["notes"] if "no best by validation" in note]


def test_without_a_best_the_validation_data_are_left_alone(run_swa, folder):
    averaged(run_swa)
    counted("passes")
    result = evaluated(run_swa, "--no-best-by-val")

    assert (rows_of(result, "best"), result["notes"], result["warnings"]) == ([], [], [])
    assert Path("passes").read_text().split() == ["test"]


@pytest.mark.slow
def test_each_point_of_the_curve_is_what_the_other_commands_give(run_swa, folder):
    averaged(run_swa)
    expected = {}
    for k in (1, 2, 4, 6):
        path = f"last-{k}.safetensors"
        assert run_swa("average", "ckpts", "--last", k, "-o", path).exit_code == 0
        assert run_swa("bn-update", path, *MODEL_AND_DATA).exit_code == 0
        expected[k] = swa_metrics(run_swa, path, "--split", "val")
    chosen = max(expected, key=lambda k: (expected[k]["accuracy"], k))

    result = evaluated(run_swa, "--curve", "log")
    curve, window = result["curve"], row_of(result, "window")

    assert {point["members"]: point["metrics"] for point in curve["points"]} == expected
    assert (curve["split"], curve["chosen"]) == ("val", chosen)
    assert (window["name"], window["members"], window["chosen_on"]) == (f"SWA of the last {chosen}", chosen, "val")
    assert window["metrics"] == swa_metrics(run_swa, f"last-{chosen}.safetensors")

    some = evaluated(run_swa, "--curve", "4,1,2,2")["curve"]
    assert {point["members"]: point["metrics"] for point in some["points"]} == {k: expected[k] for k in (1, 2, 4)}


def test_what_is_tried_is_averaged_with_the_options_of_the_average(run_swa, folder):
    odd = torch.load(folder / "ckpts/epoch-5.pt", weights_only=True)
    odd["state_dict"] = {
        name: value.to(torch.bfloat16) if value.is_floating_point() else value
        for name, value in odd["state_dict"].items()
    }
    torch.save(odd, folder / "ckpts/epoch-5.pt")
    made = run_swa("average", "ckpts", "-o", "swa.safetensors", "--dtype", "float32", "--ema", "0.5")
    assert made.exit_code == 0
    result = evaluated(run_swa, "--curve", "2", "--greedy")

    assert row_of(result, "window")["members"] == 2
    assert [note for note in result["notes"] if "--curve and --greedy all checkpoints count the same" in note]


ONCE = """

class OnceVal(Data):
    def val_dataloader(self):
        return iter(list(super().val_dataloader()))

class OnceTest(Data):
    def test_dataloader(self):
        return iter(list(super().test_dataloader()))
"""


@pytest.mark.parametrize(
    ("data", "arguments", "split"),
    [
        ("OnceVal", ("--curve", "2"), None),
        ("OnceVal", ("--greedy",), "val"),
        ("OnceVal", ("--split", "val", "--curve", "2"), "val"),
        ("OnceTest", ("--curve", "2", "--greedy"), None),
    ],
)
def test_data_that_can_be_passed_over_once_only(run_swa, folder, data, arguments, split):
    (folder / "evalcode.py").write_text((folder / "evalcode.py").read_text() + ONCE)
    averaged(run_swa)
    module = ("--model", "evalcode.py:Net", "--data", f"evalcode.py:{data}")
    result = run_swa("eval", "ckpts", "--swa", "swa.safetensors", *module, *arguments)

    assert result.exit_code == (0 if split is None else 2), result.stderr
    if split is not None:
        assert f"{split}_dataloader() gives what can be passed over once only" in result.stderr


def test_sources_whose_names_are_no_unicode_are_those_of_the_table(run_swa, folder):
    for path in (folder / "ckpts").iterdir():
        path.rename(path.with_name(path.name.replace("epoch", "e\udcff")))
    averaged(run_swa)
    run_swa("bn-update", "swa.safetensors", *MODEL_AND_DATA)
    result = evaluated(run_swa)

    assert result["warnings"] == []
    assert len(rows_of(result, "swa-averaged-bn")) == 1


@pytest.mark.parametrize(
    ("asked", "code", "message"),
    [
        ("7", 2, "--curve 7: there are 6 checkpoints. Name smaller numbers, or take log."),
        ("0", 2, "eval.curve: expected numbers of checkpoints, as 1,2,4, or log, found '0'"),
        ("many", 2, "found 'many'"),
        ("1,", 2, "found '1,'"),
    ],
)
def test_a_curve_that_cannot_be(run_swa, folder, asked, code, message):
    averaged(run_swa)
    counted("passes")
    result = run_swa("eval", "ckpts", "--swa", "swa.safetensors", *MODEL_AND_DATA, "--curve", asked)

    assert (result.exit_code, result.stdout, result.stderr.count("error:")) == (code, "", 1)
    assert message in result.stderr
    assert counted("passes") == 0


def soup(run_folder: Path, places, split_of):
    """Metrics and weights of an average with exact statistics, in float64, by the plainest means."""
    states = [
        torch.load(run_folder / f"ckpts/epoch-{place}.pt", weights_only=True)["state_dict"] for place in sorted(places)
    ]
    mean = {name: torch.stack([state[name].double() for state in states]).mean(0) for name in states[0]}
    net = Net().double().eval()
    net.load_state_dict(mean)
    with torch.no_grad():
        hidden = net.body(split_of("train")[0].double())
        net.bn.running_mean, net.bn.running_var = hidden.mean(0), hidden.var(0)
    return net


def accuracy_of(net: nn.Module, part) -> float:
    inputs, labels = part
    with torch.no_grad():
        return (net(inputs.double()).argmax(1) == labels).double().mean().item()


def as_it_is(run_folder: Path, place: int) -> nn.Module:
    net = Net().double().eval()
    net.load_state_dict(torch.load(run_folder / f"ckpts/epoch-{place}.pt", weights_only=True)["state_dict"])
    return net


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_greedy_soup_is_that_of_a_slow_search(run_swa, tmp_path, seed):
    torch.manual_seed(seed)
    folder = prepared(tmp_path)
    averaged(run_swa)
    scope: dict = {}
    exec((folder / "evalcode.py").read_text(), scope)  # the user's data
    data = scope["Data"]()
    alone = [accuracy_of(as_it_is(folder, place), data.sets["val"]) for place in range(N_CHECKPOINTS)]
    order = sorted(range(N_CHECKPOINTS), key=lambda place: (alone[place], place), reverse=True)
    chosen: list[int] = []
    best = -1.0
    for place in order:
        value = accuracy_of(soup(folder, [*chosen, place], data.sets.get), data.sets["val"])
        if value > best:
            chosen, best = [*chosen, place], value

    row = row_of(evaluated(run_swa, "--greedy"), "greedy")

    assert (row["members"], row["chosen_on"], row["forward_passes"]) == (len(chosen), "val", 1)
    assert row["metrics"]["accuracy"] == accuracy_of(soup(folder, chosen, data.sets.get), data.sets["test"])


def test_one_checkpoint_has_no_mean_no_best_and_nothing_to_choose(run_swa, folder):
    save(noisy(good_state(), 0.1), folder / "swa.safetensors")
    result = evaluated(run_swa, "--last", "1", "--curve", "log", "--greedy", "--control")

    assert [row["kind"] for row in result["candidates"]] == ["swa", "checkpoint", "last", "mean", "control"]
    assert {one["kind"] for one in result["comparisons"]} == {"last", "control"}
    assert result["curve"] is None
    assert result["notes"] == ["there is one checkpoint, and so nothing to choose for --curve and --greedy."]


def test_a_model_without_batchnorm_needs_no_training_data(run_swa, folder):
    for epoch in range(N_CHECKPOINTS):
        torch.save({"state_dict": nn.Linear(4, 3).state_dict()}, folder / f"ckpts/epoch-{epoch}.pt")
    run_swa("average", "ckpts", "-o", "swa.safetensors")
    data = ("--model", "evalcode.py:Plain", "--data", "evalcode.py:NoTrain")
    result = evaluated(run_swa, "--control", "--curve", "1,6", "--greedy", data=data)

    kinds = [row["kind"] for row in result["candidates"] if row["kind"] != "checkpoint"]
    assert kinds == ["swa", "last", "mean", "window", "greedy"]
    of_all, of_one = result["curve"]["points"][-1], result["curve"]["points"][0]
    assert of_all["metrics"] == row_of(result, "swa")["metrics"]
    assert of_one["metrics"] == row_of(result, "last")["metrics"]


def test_training_data_that_are_missing_are_asked_for_only_where_they_are_needed(run_swa, folder):
    averaged(run_swa)
    data = (*MODEL, "--data", "evalcode.py:NoTrain")
    assert rows_of(evaluated(run_swa, data=data), "control") == []

    result = run_swa("eval", "ckpts", "--swa", "swa.safetensors", *data, "--control")
    assert (result.exit_code, result.stdout, result.stderr.count("error:")) == (1, "", 1)
    assert "data module NoTrain has no train_dataloader(), which is needed here." in result.stderr


@pytest.mark.parametrize("at_once", [1, 3])
def test_fewer_members_at_once_give_the_same(run_swa, folder, at_once):
    averaged(run_swa)
    more = ("--control", "--compare-ensemble", "--curve", "2,4")
    expected = evaluated(run_swa, *more)
    for name in ("loads", "passes"):
        counted(name)
    result = evaluated(run_swa, *more, "--max-resident-models", at_once)

    assert but(result, "plan") == but(expected, "plan")
    assert expected["plan"] == "11 models (404 B each) side by side on cpu, in one pass over each split."
    assert result["plan"] == (
        f"11 models (404 B each) on cpu, up to {at_once} at a time, as --max-resident-models asks; the batches of a "
        "pass are loaded once, and put aside for those that wait."
    )
    assert counted("passes") == 2


def test_every_member_is_loaded_once_and_every_batch_too(run_swa, folder):
    averaged(run_swa)
    for at_once in (1, 3, 100):
        for name in ("loads", "passes"):
            counted(name)
        evaluated(run_swa, "--max-resident-models", at_once)

        assert (counted("loads"), counted("passes")) == (N_CHECKPOINTS + 2, 2)


def test_the_copies_that_are_forgotten_are_not_those_that_are_needed(run_swa, folder):
    """A checkpoint that was seen on validation data is there for the test data, whatever was tried beside it."""
    averaged(run_swa)
    counted("loads")
    evaluated(run_swa, "--curve", "1,2", "--max-resident-models", "9")

    the_chosen_one_again = 1
    recomputed = 2
    assert counted("loads") <= N_CHECKPOINTS + 2 + 2 + recomputed + the_chosen_one_again


ALIVE = """
from weakref import WeakSet

ALIVE = WeakSet()

class Alive(Net):
    def __new__(cls, *args, **kwargs):
        one = super().__new__(cls)
        ALIVE.add(one)
        return one
    def forward(self, x):
        noted("alive", len(ALIVE))
        return super().forward(x)
"""


def test_averages_that_are_tried_take_no_more_memory_than_there_is(run_swa, folder, monkeypatch):
    (folder / "evalcode.py").write_text((folder / "evalcode.py").read_text() + ALIVE)
    averaged(run_swa)
    at_once, n_models = 10, N_CHECKPOINTS + 2 + 6 + 1  # the averages, the windows, and one soup at a time
    size = sum(value.numel() * value.element_size() for value in Net().state_dict().values())
    monkeypatch.setattr("swa_cli.pipeline.evaluation.memory_plan.free_bytes", lambda _: 2 * at_once * size)
    data = ("--model", "evalcode.py:Alive", "--data", "evalcode.py:Data")
    plan = evaluated(run_swa, "--curve", "1,2,3,4,5,6", "--greedy", data=data)["plan"]

    assert plan.startswith(f"{n_models} models (404 B each) on cpu, up to {at_once} at a time, since 50%")
    the_users_and_the_one_recomputed = 2
    assert max(map(int, Path("alive").read_text().split())) <= at_once + the_users_and_the_one_recomputed


def margins_of(result) -> dict[str, float | None]:
    return {one["metric"]: one["margin"] for one in result["comparisons"]}


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("--margin", "0.5"), {"accuracy": 0.005, "nll": None}),
        (("--margin", "nll=0.01"), {"accuracy": None, "nll": 0.01}),
        (("--margin", "0.5", "--margin", "nll=0.01"), {"accuracy": 0.005, "nll": 0.01}),
        (("--margin", "accuracy=2"), {"accuracy": 0.02, "nll": None}),
        ((), {"accuracy": None, "nll": None}),
    ],
)
def test_margins_are_in_the_units_of_the_table(run_swa, folder, flags, expected):
    averaged(run_swa)

    assert margins_of(evaluated(run_swa, *flags)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("0.5", {"accuracy": 0.005, "nll": None}),
        ("{nll: 0.01}", {"accuracy": None, "nll": 0.01}),
        ("{accuracy: 1, nll: 0}", {"accuracy": 0.01, "nll": 0.0}),
        ("[0.5, nll=0.01]", {"accuracy": 0.005, "nll": 0.01}),
    ],
)
def test_margins_in_a_configuration(run_swa, folder, written, expected):
    averaged(run_swa)
    (folder / "c.yaml").write_text(f"eval:\n  margin: {written}\n")

    assert margins_of(evaluated(run_swa, "--config", "c.yaml")) == pytest.approx(expected)


def test_a_margin_of_what_is_not_compared_ends_with_the_first_batch(run_swa, folder):
    averaged(run_swa)
    result = run_swa("eval", "ckpts", "--swa", "swa.safetensors", *MODEL_AND_DATA, "--margin", "ece=1")

    assert (result.exit_code, result.stdout) == (2, "")
    assert "--margin ece: there is no such comparison. Name one of accuracy, nll." in result.stderr


@pytest.mark.parametrize("written", ["-1", "x", "nll=", "nll=x", "nan"])
def test_a_margin_that_is_no_number_ends_before_anything_is_loaded(run_swa, folder, written):
    result = run_swa("eval", "ckpts", "--swa", "swa.safetensors", *MODEL_AND_DATA, f"--margin={written}")

    assert (result.exit_code, result.stdout, result.stderr.count("error:")) == (2, "", 1)
    assert "margin" in result.stderr
    assert "eval.margin.:" not in result.stderr


def candidates(folder: Path, *, swa: float, checkpoints: float) -> None:
    """An average and checkpoints with more or less noise on good weights."""
    for epoch in range(N_CHECKPOINTS):
        torch.save({"state_dict": noisy(good_state(), checkpoints)}, folder / f"ckpts/epoch-{epoch}.pt")
    save(noisy(good_state(), swa), folder / "swa.safetensors")


@pytest.mark.parametrize(
    ("noise", "margin", "verdict", "codes"),
    [
        ((0.0, 3.0), (), "better", (0, 0)),
        ((0.0, 0.001), ("--margin", "2", "--margin", "nll=0.1"), "non-inferior", (3, 0)),
        ((0.0, 0.0), (), "inconclusive", (3, 3)),
        ((3.0, 0.0), (), "worse", (3, 3)),
    ],
)
def test_fail_unless_ends_with_3_after_everything_is_written(run_swa, folder, noise, margin, verdict, codes):
    candidates(folder, swa=noise[0], checkpoints=noise[1])
    for wanted, code in zip(("better", "non-inferior"), codes, strict=True):
        arguments = ("--data-arg", "n=300", *margin, "--fail-unless", wanted, "--json", "v.json")
        result = run_swa("eval", "ckpts", "--swa", "swa.safetensors", *MODEL_AND_DATA, *arguments)

        assert json.loads((folder / "v.json").read_text())["decision"]["verdict"] == verdict
        assert result.exit_code == code
        said = f"note: the verdict is {verdict}, not {wanted}: exit code 3."
        assert (said in result.stderr) == (code == 3)
        assert "SWA (swa.safetensors)" in result.stdout


def test_without_fail_unless_every_verdict_is_a_success(run_swa, folder):
    candidates(folder, swa=3.0, checkpoints=0.0)

    assert run_swa("eval", "ckpts", "--swa", "swa.safetensors", *MODEL_AND_DATA).exit_code == 0


def test_csv_and_markdown_have_every_row_and_replace_what_was_there(run_swa, folder):
    averaged(run_swa)
    for name in ("t.csv", "t.md"):
        (folder / name).write_text("old\n" * 1000)
    result = evaluated(run_swa, "--control", "--compare-ensemble", "--csv", "t.csv", "--markdown", "t.md")

    rows = list(csv.DictReader((folder / "t.csv").read_text().splitlines()))
    assert [row["name"] for row in rows] == [row["name"] for row in result["candidates"]]
    for row, expected in zip(rows, result["candidates"], strict=True):
        assert {name: float(row[name]) for name in expected["metrics"]} == expected["metrics"]
    report = (folder / "t.md").read_text()
    assert report.startswith("## swa.safetensors beside 6 checkpoints\n")
    assert "old" not in report
    assert f"**{result['decision']['sentence'].split(':')[0].split(' (')[0]}" in report


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--csv", "a.txt", "--markdown", "a.txt"), "--csv and --markdown name the same file"),
        (("--json", "a.txt", "--csv", "./a.txt"), "--json and --csv name the same file"),
        (("--save-records", "a.npz", "--markdown", "ckpts/../a.npz"), "name the same file"),
        (("--json", "-", "--csv", "-"), "--json and --csv name the same file"),
        (("--json", "a", "--cache", "a"), "--json and --cache name the same file"),
        (("--csv", "ckpts/epoch-0.pt"), "that is the name of a checkpoint"),
        (("--markdown", "swa.safetensors"), "that is the name of a checkpoint"),
        (("--json", "evalcode.py"), "that file exists and is not JSON"),
        (("--csv", "none/a.csv"), "there is no directory none"),
        (("--markdown", "ckpts"), "it is a directory"),
        (("--save-records", "a.json"), "expected a name in .parquet or .npz"),
    ],
)
def test_outputs_that_clash_or_cannot_be_written_end_it_at_once(run_swa, folder, arguments, message):
    averaged(run_swa)
    counted("passes")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    result = run_swa("eval", "ckpts", "--swa", "swa.safetensors", *MODEL_AND_DATA, *arguments)

    assert (result.stdout, result.stderr.count("error:")) == ("", 1)
    assert result.exit_code in {1, 2}
    assert message in result.stderr
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


CHATTY = """
class Chatty(Net):
    def forward(self, x):
        print("hello")
        return super().forward(x)
"""


@pytest.mark.parametrize("flag", ["--json", "--csv", "--markdown"])
def test_a_report_for_standard_output_is_alone_there(run_swa, folder, flag):
    (folder / "evalcode.py").write_text((folder / "evalcode.py").read_text() + CHATTY)
    averaged(run_swa)
    arguments = ("eval", "ckpts", "--swa", "swa.safetensors", "--model", "evalcode.py:Chatty", *MODEL_AND_DATA[2:])
    expected = run_swa(*arguments, flag, "out")
    result = python(folder, *SWA, *arguments, flag, "-") if flag == "--json" else run_swa(*arguments, flag, "-")

    assert expected.exit_code == 0
    assert "hello" in result.stderr
    assert result.stdout == (folder / "out").read_text()
    assert "SWA (swa.safetensors)" in expected.stdout
