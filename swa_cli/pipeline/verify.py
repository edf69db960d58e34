"""Checking an average against its sources."""

from pathlib import Path

from swa_cli.averaging import Verification, verify
from swa_cli.pipeline.average import engine_of
from swa_cli.pipeline.common import only_process, open_average
from swa_cli.system.progress import Track, silent


def verify_step(
    path: Path, *, sources: Path | None, key: str | None, device: str, threads: int | None, track: Track = silent
) -> Verification:
    """``swa verify``.

    Raises:
        SwaError: as `open_average` and `verify`.
    """
    only_process("verify")
    return verify(open_average(path, key=key), sources=sources, engine=engine_of(device, threads), track=track)
