"""The JSON of an evaluation."""

import json
import math

from support.results import FULL, SCORES, compared, judged
from swa_cli.report.json_report import to_json
from swa_cli.report.verdict_sentence import final_sentence


def test_json_has_the_whole_result():
    report = json.loads(to_json(FULL))

    assert report["schema_version"] == 1
    assert (report["task"], report["split"], report["n_examples"], report["n_groups"]) == (
        "classification",
        "test",
        10_000,
        None,
    )
    assert report["decision"] == {
        "verdict": "better",
        "mixed": False,
        "primary": "accuracy",
        "secondary": "nll",
        "units_needed": None,
        "sentence": final_sentence(FULL),
    }
    assert [score["name"] for score in report["scores"]] == [score.name for score in SCORES]
    assert report["candidates"][6] == {
        "name": "best by validation (epoch-8.pt)",
        "kind": "best",
        "step": 8,
        "chosen_on": "val",
        "forward_passes": 1,
        "metrics": {"accuracy": 0.9012, "nll": 0.2873, "calibrated_nll": 0.2865, "brier": 0.1468, "ece": 0.0125},
    }
    assert report["candidates"][7]["metrics"]["calibrated_nll"] is None
    assert report["comparisons"][1]["candidate"] == "swa"
    assert report["comparisons"][1]["ci_low"] == -0.1738
    assert [row["members"] for row in report["prefixes"]] == list(range(1, 13))
    assert (report["curve"]["chosen"], len(report["curve"]["points"])) == (8, 4)
    assert report["bn_update"]["data_args"] == {"root": "my_data"}
    assert (report["plan"], report["warnings"], report["notes"]) == (FULL.plan, [*FULL.warnings], [*FULL.notes])


def test_json_has_null_for_what_is_not_finite():
    unknown = compared("accuracy", "last", (1.0, -math.inf, math.nan), "inconclusive")

    (comparison,) = json.loads(to_json(judged(unknown)))["comparisons"]

    assert (comparison["difference"], comparison["ci_low"], comparison["ci_high"]) == (1.0, None, None)
