"""The report of ``swa verify``."""

from collections.abc import Iterator

from swa_cli.averaging import Verification
from swa_cli.text import counted, in_bytes


def verification_report(result: Verification) -> Iterator[str]:
    """Yield lines that say what was verified, and what was not compared."""
    yield (
        f"{result.path} is the {result.noun} of its {counted(result.n_sources, 'source')}, bit for bit: "
        f"{counted(result.n_tensors, 'tensor')}, {in_bytes(result.n_bytes)}."
    )
    if result.has_checksums:
        yield "The sources have the SHA-256 that was recorded."
    if result.recomputed:
        yield (
            f"{counted(len(result.recomputed), 'BatchNorm statistic')} more, recomputed after the averaging, "
            "as they were written then."
        )
    if result.absent:
        yield f"Files that no longer exist: {', '.join(result.absent)}."
    if not result.has_frames:
        yield "Its provenance has no checksums (an older version of swa-cli): only the tensors were compared."
