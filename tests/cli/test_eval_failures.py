"""What cannot be evaluated ends swa-eval with one message, without a traceback and before anything is written."""

import json
from pathlib import Path

import pytest
import torch

from support.evaluating import MODEL_AND_DATA, N_CHECKPOINTS, Net, averaged, but, evaluated, prepared, row_of, save
from support.scoring import example, records_of
from swa_cli.tasks.classification import Classification
from swa_cli.tasks.records import too_large
from swa_cli.tasks.regression import Regression

pytestmark = pytest.mark.slow

MORE_CODE = '''

class Odd(Data):
    """A test split with something wrong in it."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        x, y = self.sets["test"]
        if kind == "large":
            x[30, 0] = 99
        if kind == "high":
            y[40] = 3
        if kind == "negative":
            y[40] = -1

    def batches(self, split):
        for place, batch in enumerate(super().batches(split)):
            if self.kind == "raises" and split == "test" and place == 4:
                raise OSError("disk gone")
            yield batch


class Grouped(Data):
    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def split_batch(self, batch):
        x, y = batch
        groups = {
            "rows": torch.stack([y, y], dim=1),
            "numbers": x[:, 0],
            "fewer": y[:-1],
            "one": 5,
            "some": y if len(y) == 13 else None,
            "tensors": list(y),
            "texts": [f"group {label}" for label in y.tolist()],
        }
        return (x,), {}, y, groups[self.kind]


class Locked(Data):
    def split_batch(self, batch):
        import threading
        return (batch[0],), {"lock": threading.Lock()}, batch[1]


class WithLock(Net):
    def forward(self, x, lock):
        return super().forward(x)


class NoTraining(Data):
    def train_dataloader(self):
        raise OSError("no training data")


class BadTraining(Data):
    def __init__(self):
        super().__init__()
        self.sets["train"][0][3] = float("nan")


class Doubtful(Net):
    """Probabilities, as far as it looks."""

    def forward(self, x):
        return super().forward(x).softmax(dim=1)
'''


@pytest.fixture
def folder(run_swa, tmp_path):
    prepared(tmp_path)
    (tmp_path / "evalcode.py").write_text((tmp_path / "evalcode.py").read_text() + MORE_CODE)
    averaged(run_swa)
    return tmp_path


def of(data: str, model: str = "Net") -> tuple[str, ...]:
    return ("--model", f"evalcode.py:{model}", "--data", f"evalcode.py:{data}")


def failed(run_swa, *arguments: object) -> tuple[int, str]:
    """Exit code and message."""
    result = run_swa("eval", "ckpts", "--swa", "swa.safetensors", *arguments, "--json", "out.json", "--csv", "out.csv")
    *_, message = result.stderr.partition("error: ")

    assert (result.stdout, result.stderr.count("error: ")) == ("", 1)
    assert "Traceback" not in result.stderr
    assert "a bug in swa-cli" not in result.stderr
    assert not Path("out.json").exists()
    assert not Path("out.csv").exists()
    return result.exit_code, message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            (*of("Odd", "Nan"), "--data-arg", "kind=large"),
            (
                "test split: epoch-0.pt, batch 2: the model's output holds NaN or infinity. Check this checkpoint and "
                "its BatchNorm statistics; leave it out if the run diverged there."
            ),
        ),
        (
            (*of("Odd"), "--data-arg", "kind=high"),
            "test split: batch 3: label 3 is out of range, expected 0 to 2, since the model has 3 logits",
        ),
        (
            (*of("Odd"), "--data-arg", "kind=negative"),
            (
                "test split: batch 3: label -1 is out of range, expected 0 to 2, since the model has 3 logits (1 of 13 "
                "labels are wrong)"
            ),
        ),
        ((*of("Odd"), "--data-arg", "kind=raises"), "test split: loading batch 4 failed: OSError: disk gone (at "),
        ((*of("Data"), "--data-arg", "n=0"), "val split: the batches contain no examples to score."),
        (
            (*of("Grouped"), "--data-arg", "kind=rows"),
            "val split: batch 0: found [1, 1] as a group, expected an integer or a string for each unit.",
        ),
        ((*of("Grouped"), "--data-arg", "kind=numbers"), "val split: batch 0: found 0.67"),
        (
            (*of("Grouped"), "--data-arg", "kind=fewer"),
            "val split: batch 0: 12 groups for 13 examples. Let split_batch return one",
        ),
        ((*of("Grouped"), "--data-arg", "kind=one"), "val split: reading the groups of batch 0 failed: TypeError"),
        (
            (*of("Grouped"), "--data-arg", "kind=some"),
            "val split: split_batch returns groups for some batches only",
        ),
        (
            (*of("Locked", "WithLock"), "--max-resident-models", "2"),
            (
                "val split: buffering a batch for the next group of models (raise --max-resident-models to keep "
                "more in memory) failed: TypeError: cannot pickle '_thread.lock' object"
            ),
        ),
        ((*of("NoTraining"), "--control"), "NoTraining.train_dataloader() failed: OSError: no training data"),
        ((*of("BadTraining"), "--curve", "2"), "batch 2: the batch itself holds NaN or infinity"),
        ((*of("BadTraining"), "--greedy"), "batch 2: the batch itself holds NaN or infinity"),
    ],
    ids=lambda value: " ".join(value[3:]) if isinstance(value, tuple) else "",
)
def test_data_and_models_that_do_not_do(run_swa, folder, arguments, message):
    code, said = failed(run_swa, *arguments)

    assert code == 1
    assert said.startswith(message)


@pytest.mark.parametrize(
    "arguments", [(), ("--max-resident-models", "2"), ("--cache", "kept"), ("--control", "--greedy")]
)
def test_nan_outputs_of_one_checkpoint_are_said_to_be_its(run_swa, folder, arguments):
    state = torch.load(folder / "ckpts/epoch-3.pt", weights_only=True)
    state["state_dict"]["bn.running_var"][2] = -1
    torch.save(state, folder / "ckpts/epoch-3.pt")
    for _ in range(2):  # also with what the first run has kept
        code, said = failed(run_swa, *MODEL_AND_DATA, *arguments)

        assert code == 1
        assert said.startswith("val split: epoch-3.pt, batch 0: the model's output holds NaN or infinity.")


def test_members_of_other_classes_are_named_with_their_shapes(run_swa, folder):
    torch.save({"state_dict": Net(4).state_dict(), "epoch": 6}, folder / "ckpts/epoch-6.pt")

    assert failed(run_swa, *MODEL_AND_DATA) == (
        1,
        (
            "ckpts/epoch-6.pt does not fit the model Net.\n2 of another shape:\n"
            "  head.weight: the model has [3, 8], the file [4, 8]\n  head.bias: the model has [3], the file [4]\n"
            "Check --model and --model-arg: build the model as in the training run.\n"
        ),
    )


@pytest.mark.parametrize(
    ("metric", "code", "message"),
    [
        ("accuracy: {class_path: torchmetrics.SumMetric}", 2, "has a score of that name. Rename yours."),
        ("m: {class_path: torch.nn.Identity}", 2, "gives no torchmetrics.Metric (update, compute, merge_state)"),
        ("m: {class_path: nothing.here}", 1, "there is no module 'nothing'"),
        ("m: {class_path: torchmetrics.SumMetric}", 1, "the metric m on batch 0 failed: TypeError"),
    ],
)
def test_metrics_that_do_not_do(run_swa, folder, metric, code, message):
    pytest.importorskip("torchmetrics")
    (folder / "c.yaml").write_text(f"eval: {{metrics: {{{metric}}}}}")
    found = failed(run_swa, *MODEL_AND_DATA, "--config", "c.yaml")

    assert found[0] == code
    assert message in found[1]


def test_data_of_one_class_are_called_out(run_swa, folder):
    result = evaluated(run_swa, "--data-arg", "highest=1", "--data-arg", "lowest=1", "--compare-ensemble")

    assert result["warnings"] == [
        ("all 60 examples have the label 1: a constant predictor would score 100 %. Check the data module's labels.")
    ]


def test_one_example_decides_nothing_and_is_valid_json(run_swa, folder):
    result = evaluated(run_swa, "--data-arg", "n=1", "--no-best-by-val", "--compare-ensemble")
    shown = run_swa(
        "eval", "ckpts", "--swa", "swa.safetensors", *MODEL_AND_DATA, "--data-arg", "n=1", "--markdown", "-"
    )

    assert result["n_examples"] == 1
    assert {one["verdict"] for one in result["comparisons"]} == {"inconclusive"}
    assert {(one["ci_low"], one["ci_high"]) for one in result["comparisons"]} == {(None, None)}
    assert "inf" not in json.dumps(result)
    assert (shown.exit_code, shown.stderr) == (0, "")
    assert "1 example cannot show whether" in shown.stdout


def test_two_examples_in_batches_of_one_and_everything_asked_for(run_swa, folder):
    more = ("--control", "--curve", "log", "--greedy", "--compare-ensemble")
    result = evaluated(run_swa, "--data-arg", "n=2", "--data-arg", "batch_size=1", *more)

    assert result["n_examples"] == 2
    assert len(result["prefixes"]) == N_CHECKPOINTS


def test_probabilities_are_called_out(run_swa, folder):
    data = of("Data", "Doubtful")
    (warning,) = evaluated(run_swa, data=data)["warnings"]

    assert warning.startswith("the model's outputs are non-negative and sum to one, like probabilities")


def test_groups_as_tensors_and_as_texts_are_the_same_groups(run_swa, folder):
    as_tensors, as_texts = (
        but(evaluated(run_swa, "--data-arg", f"kind={kind}", data=of("Grouped")), "bn_update")
        for kind in ("tensors", "texts")
    )

    assert as_tensors == as_texts
    assert as_tensors["n_groups"] == 3


def test_checkpoints_that_are_the_average_are_neither_better_nor_worse(run_swa, folder):
    state = Net().state_dict()
    for epoch in range(N_CHECKPOINTS):
        torch.save({"state_dict": state}, folder / f"ckpts/epoch-{epoch}.pt")
    save(state, folder / "same.safetensors")
    result = run_swa("eval", "ckpts", "--swa", "same.safetensors", *MODEL_AND_DATA, "--compare-ensemble", "--json", "-")
    found = json.loads(result.stdout)

    assert {one["difference"] for one in found["comparisons"]} == {0.0}
    assert {one["verdict"] for one in found["comparisons"]} == {"inconclusive"}
    assert row_of(found, "swa")["metrics"]["accuracy"] == row_of(found, "ensemble")["metrics"]["accuracy"]


@pytest.mark.parametrize(
    ("task", "target", "raw", "expected"),
    [
        (Regression(), [1e300, 0.0], torch.zeros(2), "squared of example 0 is inf"),
        (Regression(), [0.0, 1e60], torch.zeros(2), "squared of example 1 is 1e+120"),
        (Regression(), [[0.0, 0.0], [1e154, 1e154]], torch.zeros(2, 2), "squared of example 1 is inf"),
        (Classification(), [0, 1], torch.tensor([[0.0, -1e300], [9e299, 0.0]], dtype=torch.float64), "is 9e+299"),
        (Regression(), [1e49, 0.0], torch.zeros(2), None),
        (Classification(), [0, 1], torch.tensor([[0.0, 3e38], [3e38, 0.0]]), None),
    ],
)
def test_numbers_without_sums_in_float64_are_found_without_a_warning(task, target, raw, expected):
    dtype = torch.float64 if isinstance(task, Regression) else torch.int64
    found = too_large(records_of(task, [(example(torch.tensor(target, dtype=dtype)), raw)]), "example")

    assert found is None if expected is None else expected in (found or "")
