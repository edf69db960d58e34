"""Every member and the ensembles, scored in one pass over the data and compared with the average."""

from swa_cli.evaluation.batch_evaluation import Kept
from swa_cli.evaluation.compare import Other, compare
from swa_cli.evaluation.decide import CONTROL, DECIDING, INCUMBENTS, decide
from swa_cli.evaluation.evaluate import evaluate
from swa_cli.evaluation.members import Member, Residents, bytes_of
from swa_cli.evaluation.observe import Stream, observe
from swa_cli.evaluation.result import BnRecord, Candidate, Comparison, Curve, Decision, EvaluationResult, Kind, Score
from swa_cli.evaluation.split_records import Observed, Row
from swa_cli.evaluation.summarise import Context, best_of, check_margins, merits_of, scores_of, summarise
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
    "Kept",
    "Kind",
    "Member",
    "Observed",
    "Other",
    "Residents",
    "Row",
    "Score",
    "Stream",
    "best_of",
    "bytes_of",
    "check_margins",
    "compare",
    "decide",
    "evaluate",
    "merits_of",
    "observe",
    "scores_of",
    "summarise",
]
