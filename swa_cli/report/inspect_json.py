"""The report of ``swa inspect`` as JSON."""

import json
import math
from typing import Any

from swa_cli import __version__
from swa_cli.checkpoints import Inspection, SeriesMember, describe, known_metrics

# 1: the first. Fields may be added within a version; none is renamed or removed.
SCHEMA_VERSION = 1


def inspection_json(inspection: Inspection) -> str:
    """Return one JSON object, indented, ending in a newline; metrics that are not finite are ``nan`` or ``inf``."""
    survey = inspection.survey
    files = [
        *(_file(file, "source") for file in survey.order.members),
        *({**_file(copy, "copy"), "copy_of": str(other)} for copy, other in survey.copies),
        *(_file(file, "written by swa-cli") for file in survey.own),
        *({"path": str(path), "status": "unreadable", "error": str(error)} for path, error in survey.unreadable),
    ]
    contents = {
        "schema_version": SCHEMA_VERSION,
        "tool_version": __version__,
        "ordered_by": survey.order.by,
        "metrics": known_metrics(survey.order.members),
        "files": files,
        "picks": [
            {"flags": pick.flags, "paths": [str(path) for path in pick.paths]}
            | ({"error": str(pick.error)} if pick.error else {})
            for pick in inspection.picks
        ],
        "notices": list(inspection.notices),
    }
    return json.dumps(contents, indent=2, allow_nan=False) + "\n"


def _file(file: SeriesMember, status: str) -> dict[str, Any]:
    what = describe(file.checkpoint)
    return {
        "path": str(file.path),
        "status": status,
        "step": file.step,
        "counters": dict(file.checkpoint.counters),
        "metrics": {name: value if math.isfinite(value) else str(value) for name, value in file.metrics.items()},
        "container": what.container,
        "key": what.key,
        "prefixes_stripped": list(what.stripped),
        "ema": list(what.ema),
        "other_weights": list(what.other_weights),
        "optimizer_is_empty": what.optimizer_is_empty,
        "average_of": what.average_of,
        "combine": None if what.average_of is None else what.combine,
        "tensors": what.tensors,
        "parameters": what.parameters,
        "dtypes": dict(what.dtypes),
        "weight_bytes": what.weight_bytes,
        "file_bytes": file.checkpoint.file_bytes,
    }
