"""Averaging checkpoints in a fixed amount of memory."""

from swa_cli.averaging.average import AverageResult, average, match_template_ties, plan_output
from swa_cli.averaging.combiners import (
    COMBINERS,
    Combiner,
    Words,
    combine_arrays,
    combiner_of,
    ema_weights,
    words_of,
)
from swa_cli.averaging.distributed import check_shared
from swa_cli.averaging.frozen import frozen_bn, frozen_notice
from swa_cli.averaging.plan import AveragePlan, plan_average
from swa_cli.averaging.stream import Engine
from swa_cli.averaging.verify import Verification, verify
from swa_cli.averaging.workers import default_threads

__all__ = [
    "COMBINERS",
    "AveragePlan",
    "AverageResult",
    "Combiner",
    "Engine",
    "Verification",
    "Words",
    "average",
    "check_shared",
    "combine_arrays",
    "combiner_of",
    "default_threads",
    "ema_weights",
    "frozen_bn",
    "frozen_notice",
    "match_template_ties",
    "plan_average",
    "plan_output",
    "verify",
    "words_of",
]
