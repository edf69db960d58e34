"""Every member and the ensemble, scored in one pass over the data and compared with the average."""

from swa_cli.evaluation.compare import Comparison, compare
from swa_cli.evaluation.evaluate import evaluate
from swa_cli.evaluation.members import Member
from swa_cli.evaluation.records import Records, Scores, expected_calibration_error, records_of, scores_of
from swa_cli.evaluation.result import BnRecord, Candidate, EvaluationResult

__all__ = [
    "BnRecord",
    "Candidate",
    "Comparison",
    "EvaluationResult",
    "Member",
    "Records",
    "Scores",
    "compare",
    "evaluate",
    "expected_calibration_error",
    "records_of",
    "scores_of",
]
