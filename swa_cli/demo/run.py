"""The demo from end to end: train, then the three steps that the three commands run."""

from importlib.util import find_spec
from pathlib import Path

from swa_cli.config.schema import AverageConfig, BnUpdateConfig, Config, EvalConfig, TargetConfig
from swa_cli.demo.train import train_digits
from swa_cli.errors import OutputError, UsageError, option
from swa_cli.pipeline.common import Notify
from swa_cli.pipeline.run import PipelineResult, run_pipeline
from swa_cli.system.progress import Track, silent


def demo_config(folder: Path, *, seed: int) -> Config:
    """Return the configuration of ``sample_configs/digits.yaml`` for checkpoints in ``folder``."""
    return Config(
        model=TargetConfig(class_path="swa_cli.demo.digits.DigitsCnn"),
        data=TargetConfig(class_path="swa_cli.demo.digits.DigitsData", init_args={"seed": seed}),
        average=AverageConfig(sources=(folder / "checkpoints",), output=folder / "swa.safetensors", force=True),
        bn_update=BnUpdateConfig(),
        eval=EvalConfig(compare_ensemble=True, reports={"json": folder / "results.json"}),
    )


def run_demo(
    folder: Path, *, seed: int, force: bool, notify: Notify, track: Track = silent
) -> tuple[Config, PipelineResult]:
    """Train on the UCI digits in ``folder``, average, recompute, evaluate.

    Args:
        force: write into ``folder`` even if it is not empty.

    Raises:
        UsageError: scikit-learn, which carries the images, is not installed.
        OutputError: ``folder`` cannot be written, or is not empty and ``force`` is false.
    """
    if find_spec("sklearn") is None:
        msg = "the demo's images come with scikit-learn, which is not installed: pip install 'swa-cli[demo]'."
        raise UsageError(msg)
    try:
        if not force and folder.exists() and any(folder.iterdir()):
            msg = (
                f"{folder} is not empty. Name another directory with {option('out')}, or write into it with "
                f"{option('force', True)}."
            )
            raise OutputError(msg)
        train_digits(folder / "checkpoints", seed=seed, track=track)
    except OSError as error:
        msg = f"cannot write the demo to {folder}: {error.strerror or error}. Name another place with {option('out')}."
        raise OutputError(msg) from error
    config = demo_config(folder, seed=seed)
    return config, run_pipeline(config, notify=notify, track=track)
