"""Scoring every member and the ensembles in one pass over the data, and comparing them with the average."""

from swa_cli.evaluation.batch_evaluation import OutputCache
from swa_cli.evaluation.compare import Other, compare
from swa_cli.evaluation.decide import CONTROL, DECIDING, INCUMBENTS, decide
from swa_cli.evaluation.evaluate import evaluate
from swa_cli.evaluation.members import Member, Residents, bytes_of
from swa_cli.evaluation.observe import Stream, observe
from swa_cli.evaluation.result import BnRecord, Candidate, Comparison, Curve, Decision, EvaluationResult, Kind, Score
from swa_cli.evaluation.split_records import Row, SplitRecords
from swa_cli.evaluation.summarise import Context, best_of, check_margins, primary_scores, scores_of, summarise
from swa_cli.evaluation.verdict import ALPHA

__all__ = [
    "ALPHA",
    "CONTROL",
    "DECIDING",
    "INCUMBENTS",
    "BnRecord",
    "Candidate",
    "Comparison",
    "Context",
    "Curve",
    "Decision",
    "EvaluationResult",
    "Kind",
    "Member",
    "Other",
    "OutputCache",
    "Residents",
    "Row",
    "Score",
    "SplitRecords",
    "Stream",
    "best_of",
    "bytes_of",
    "check_margins",
    "compare",
    "decide",
    "evaluate",
    "observe",
    "primary_scores",
    "scores_of",
    "summarise",
]
