"""Each task from training to the report, its scores against a recomputation from the models' outputs."""

import math

import numpy as np
import pytest

from support.task_runs import Ran, Small, log_softmax, ran, shown

pytestmark = pytest.mark.slow

FRIEDMAN_SIZES = {"n_train": 200, "n_val": 60, "n_test": 130, "batch_size": 50}
SHAPES_SIZES = {"n_train": 64, "n_val": 20, "n_test": 130}
GRAPHS = {"n_train": 48, "n_val": 20, "n_test": 45}
ROWS = ("swa", "checkpoint")


@pytest.fixture
def run(run_swa, tmp_path, monkeypatch):
    def run_small(small: Small) -> Ran:
        return ran(small, run_swa, tmp_path, monkeypatch)

    return run_small


def approx(scores):
    """What is summed in float64 from outputs in float32, which may be computed in another order."""
    return pytest.approx(scores, rel=1e-5, abs=1e-7)


def friedman(problem: int, *, variance: bool, metrics=None) -> Small:
    return Small(
        recipe=f"friedman{problem}",
        model=("friedman.py:FriedmanMlp", {"inputs": 10 if problem == 1 else 4, "width": 16, "variance": variance}),
        data=("friedman.py:FriedmanData", {"problem": problem, **FRIEDMAN_SIZES}),
        task={"class_path": "regression", "init_args": {"variance": "log_variance"} if variance else {}},
        metrics=metrics or {},
    )


@pytest.mark.parametrize("problem", [1, 2, 3])
def test_friedman_with_a_predicted_variance(problem, run):
    ended = run(friedman(problem, variance=True))

    for kind in ROWS:
        squared = absolute = nll = 0.0
        targets = []
        for (mean, log_variance), (_, target) in ended.outputs(kind, lambda model, batch: model(batch[0])):
            for f, s, y in zip(mean.tolist(), log_variance.tolist(), target.tolist(), strict=True):
                squared += (f - y) ** 2
                absolute += abs(f - y)
                nll += 0.5 * (math.log(2 * math.pi) + s + (f - y) ** 2 / math.exp(s))
                targets.append(y)
        n = len(targets)
        expected = {
            "rmse": math.sqrt(squared / n),
            "mae": absolute / n,
            "mse": squared / n,
            "r2": 1 - squared / sum((y - sum(targets) / n) ** 2 for y in targets),
            "nll": nll / n,
        }
        assert n == ended.result["n_examples"] == 130
        assert {name: ended.row(kind)[name] for name in expected} == approx(expected)
    assert shown(ended.result) == {"rmse": False, "mae": False, "r2": True, "nll": False}
    assert ended.row("ensemble")["mse"] <= ended.row("mean")["mse"]
    decision = ended.result["decision"]
    assert (decision["primary"], decision["secondary"]) == ("rmse", "nll")
    assert "points" not in decision["sentence"]
    assert "The predictions of SWA are" in ended.stdout


def test_friedman_without_a_variance_has_no_nll(run):
    ended = run(friedman(1, variance=False))

    for kind in ROWS:
        outputs = ended.outputs(kind, lambda model, batch: model(batch[0]))
        squared = [(f - y) ** 2 for mean, (_, y) in outputs for f, y in zip(mean.tolist(), y.tolist(), strict=True)]
        assert ended.row(kind)["rmse"] == approx(math.sqrt(sum(squared) / len(squared)))
    assert shown(ended.result) == {"rmse": False, "mae": False, "r2": True}
    assert ended.result["decision"]["secondary"] is None


def test_communities_in_graphs(run):
    small = Small(
        recipe="cluster",
        model=("cluster.py:ClusterGcn", {"width": 16, "depth": 2}),
        data=("cluster.py:ClusterData", GRAPHS),
        task={"class_path": "nodes", "init_args": {"graph": "graph"}},
    )

    ended = run(small)

    for kind in ROWS:
        hits, of_class, nll, brier = [0] * 6, [0] * 6, 0.0, 0.0
        for logits, batch in ended.outputs(
            kind, lambda model, batch: model(batch["marks"], batch["adjacency"], batch["graph"])
        ):
            for row, label in zip(log_softmax(logits), batch["labels"].tolist(), strict=True):
                of_class[label] += 1
                hits[label] += int(row.argmax()) == label
                nll -= row[label]
                brier += ((np.exp(row) - np.eye(6)[label]) ** 2).sum()
        n = sum(of_class)
        expected = {
            "balanced_recall": sum(h / m for h, m in zip(hits, of_class, strict=True)) / 6,
            "accuracy": sum(hits) / n,
            "nll": nll / n,
            "brier": brier / n,
        }
        assert {name: ended.row(kind)[name] for name in expected} == approx(expected)
    assert (ended.result["n_examples"], ended.result["unit"]) == (45, "graph")
    assert "45 graphs of the test split" in ended.stdout
    assert "node accuracy %" in ended.stdout
    assert shown(ended.result) == {"balanced_recall": True, "accuracy": True, "nll": False, "brier": False}


def segmentation(metrics=None) -> Small:
    return Small(
        recipe="segmentation",
        model=("shapes.py:ShapesNet", {"width": 8}),
        data=("shapes.py:ShapesData", SHAPES_SIZES),
        task={"class_path": "segmentation", "init_args": {"ignore_index": 255}},
        metrics=metrics or {},
    )


def test_segmentation_with_an_ignored_border(run):
    ended = run(segmentation())

    for kind in ROWS:
        table, nll = np.zeros((4, 4)), 0.0
        for logits, (_, labels) in ended.outputs(kind, lambda model, batch: model(batch[0])):
            log_probs = log_softmax(logits.permute(0, 2, 3, 1))
            for image, truth in zip(log_probs, labels.numpy(), strict=True):
                scored = truth != 255
                np.add.at(table, (truth[scored], image[scored].argmax(axis=-1)), 1)
                nll -= image[scored][np.arange(scored.sum()), truth[scored]].sum()
        unions = [table[c].sum() + table[:, c].sum() - table[c, c] for c in range(4)]
        expected = {
            "miou": np.mean([table[c, c] / unions[c] for c in range(4) if unions[c]]),
            "accuracy": table.trace() / table.sum(),
            "nll": nll / table.sum(),
        }
        assert table.sum() < 130 * 32 * 32
        assert {name: ended.row(kind)[name] for name in expected} == approx(expected)
    assert (ended.result["n_examples"], ended.result["unit"]) == (130, "image")
    assert "pixel accuracy %" in ended.stdout
    assert shown(ended.result) == {"miou": True, "accuracy": True, "nll": False}


def test_several_labels(run):
    small = Small(
        recipe="multilabel",
        model=("shapes.py:ShapesTagger", {"width": 8}),
        data=("shapes.py:ShapesData", {"tags": True, **SHAPES_SIZES}),
        task={"class_path": "multilabel"},
    )

    ended = run(small)

    for kind in ROWS:
        counts = dict.fromkeys(("hit", "false", "missed", "right", "exact", "n", "labels"), 0)
        nll = brier = 0.0
        for logits, (_, tags) in ended.outputs(kind, lambda model, batch: model(batch[0])):
            for row, truth in zip(logits.double().tolist(), tags.tolist(), strict=True):
                probs = [1 / (1 + math.exp(-logit)) for logit in row]
                guesses = [p > 0.5 for p in probs]
                counts["n"] += 1
                counts["exact"] += guesses == truth
                for p, guess, holds in zip(probs, guesses, truth, strict=True):
                    counts["labels"] += 1
                    counts["right"] += guess == holds
                    counts["hit"] += guess and holds
                    counts["false"] += guess and not holds
                    counts["missed"] += holds and not guess
                    nll -= math.log(p if holds else 1 - p)
                    brier += (p - holds) ** 2
        expected = {
            "f1": 2 * counts["hit"] / (2 * counts["hit"] + counts["false"] + counts["missed"]),
            "exact_match": counts["exact"] / counts["n"],
            "accuracy": counts["right"] / counts["labels"],
            "nll": nll / counts["labels"],
            "brier": brier / counts["labels"],
        }
        assert {name: ended.row(kind)[name] for name in expected} == approx(expected)


def digits(task: str, metrics=None) -> Small:
    return Small(
        recipe="segmentation",  # cross-entropy
        model=("swa_cli.demo.digits.DigitsCnn", {"width": 8}),
        data=("swa_cli.demo.digits.DigitsData", {}),
        task={"class_path": task},
        metrics=metrics or {},
    )


@pytest.mark.parametrize("task", ["auto", "classification"])
def test_the_digits(task, run):
    ended = run(digits(task))

    for kind in ROWS:
        right, nll, brier, n = 0, 0.0, 0.0, 0
        for logits, (_, labels) in ended.outputs(kind, lambda model, batch: model(batch[0])):
            for row, label in zip(log_softmax(logits), labels.tolist(), strict=True):
                right += int(row.argmax()) == label
                nll -= row[label]
                brier += ((np.exp(row) - np.eye(10)[label]) ** 2).sum()
                n += 1
        expected = {"accuracy": right / n, "nll": nll / n, "brier": brier / n}
        assert {name: ended.row(kind)[name] for name in expected} == approx(expected)
    assert (ended.result["task"], ended.result["n_examples"]) == ("classification", 700)


def metric(name: str, **arguments: object):
    return {"class_path": f"torchmetrics.{name}", "init_args": arguments}


def test_torchmetrics_of_classes(run):
    torchmetrics = pytest.importorskip("torchmetrics")
    metrics = {
        "f1": metric("classification.MulticlassF1Score", num_classes=10),
        "auroc": metric("classification.MulticlassAUROC", num_classes=10, thresholds=50),
    }

    ended = run(digits("auto", metrics))

    for kind in ROWS:
        f1 = torchmetrics.classification.MulticlassF1Score(num_classes=10)
        auroc = torchmetrics.classification.MulticlassAUROC(num_classes=10, thresholds=50)
        for logits, (_, labels) in ended.outputs(kind, lambda model, batch: model(batch[0])):
            f1.update(logits, labels)
            auroc.update(logits.double().softmax(dim=1), labels)
        row = ended.row(kind)
        assert (row["f1"], row["auroc"]) == (approx(float(f1.compute())), approx(float(auroc.compute())))


def test_torchmetrics_of_pixels(run):
    torchmetrics = pytest.importorskip("torchmetrics")
    metrics = {
        "jaccard": metric("classification.MulticlassJaccardIndex", num_classes=4),
        "f1": metric("classification.MulticlassF1Score", num_classes=4, average="none"),
    }

    ended = run(segmentation(metrics))

    for kind in ROWS:
        jaccard = torchmetrics.classification.MulticlassJaccardIndex(num_classes=4, ignore_index=255)
        f1 = torchmetrics.classification.MulticlassF1Score(num_classes=4, ignore_index=255, average="none")
        for logits, (_, labels) in ended.outputs(kind, lambda model, batch: model(batch[0])):
            jaccard.update(logits, labels)
            f1.update(logits, labels)
        row = ended.row(kind)
        assert row["jaccard"] == approx(float(jaccard.compute()))
        assert [row[f"f1.{c}"] for c in range(4)] == approx(f1.compute().tolist())


def test_torchmetrics_of_numbers(run):
    torchmetrics = pytest.importorskip("torchmetrics")
    metrics = {"pearson": metric("PearsonCorrCoef"), "rse": metric("regression.RelativeSquaredError")}

    ended = run(friedman(1, variance=True, metrics=metrics))

    for kind in ROWS:
        pearson, rse = torchmetrics.PearsonCorrCoef(), torchmetrics.regression.RelativeSquaredError()
        for (mean, _), (_, target) in ended.outputs(kind, lambda model, batch: model(batch[0])):
            pearson.update(mean, target)
            rse.update(mean, target)
        assert ended.row(kind)["pearson"] == approx(float(pearson.compute()))
        assert ended.row(kind)["rse"] == approx(float(rse.compute()))
