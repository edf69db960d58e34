"""``swa-average``."""

from swa_cli.cli.parameters import configured
from swa_cli.cli.terminal import caution, notify, say, show, track
from swa_cli.config.schema import Config


@configured("average")
def average(config: Config) -> None:
    """Average the checkpoints of a run, by default with equal weights.

    Reads safetensors files, their shards (*.index.json), and torch files (.pt, .pth, .ckpt, .pth.tar, .bin) in small
    chunks. Floating-point tensors are summed in float64 and rounded once; integers must agree.
    """
    from swa_cli.pipeline.average import average_step, dry_run_step  # noqa: PLC0415  # torch is imported after --help
    from swa_cli.report.average import average_report, plan_report  # noqa: PLC0415

    if config.average.dry_run:
        show(plan_report(*dry_run_step(config.average, notify=notify)))
        return
    result = average_step(config.average, notify=notify, track=track)
    for line in average_report(result):
        say(line)
    for warning in result.warnings:
        caution(warning)
