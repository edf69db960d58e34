"""The result of the BatchNorm step as JSON."""

import json
import math
from pathlib import Path
from typing import Any

from swa_cli import __version__
from swa_cli.batchnorm import LayerStatistics, RecalibrationResult
from swa_cli.formats import BnUpdate

# 1: the first. Fields may be added within a version; none is renamed or removed.
SCHEMA_VERSION = 1


def recalibration_json(
    output: Path, result: RecalibrationResult | None, update: BnUpdate | None, warnings: tuple[str, ...]
) -> str:
    """Return one JSON object, indented, ending in a newline; ``layers`` is empty if there was nothing to recompute.

    The change of a layer is null if its old statistics were not finite.

    Args:
        update: the provenance in the file; its ``tensors`` (checksums) are left out.
    """
    contents: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "tool_version": __version__,
        "output": str(output),
        **(update.model_dump(mode="json", exclude={"tensors", "unreached"}) if update else {}),
        **({"passes": result.passes, "converged": result.converged} if result else {}),
        "layers": [_layer(layer) for layer in result.layers] if result else [],
        "warnings": list(warnings),
    }
    return json.dumps(contents, indent=2, allow_nan=False) + "\n"


def _layer(layer: LayerStatistics) -> dict[str, Any]:
    moved = ("mean_shift", "mean_shift_rms", "std_shift", "var_ratio")
    return {
        **{name: getattr(layer, name) for name in ("name", "n_elements", "n_calls")},
        **{name: number if math.isfinite(number := getattr(layer, name)) else None for name in moved},
        **{name: getattr(layer, name) for name in ("mean_error", "variance_error")},
    }
