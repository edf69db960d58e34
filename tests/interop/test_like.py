"""What ``--like`` writes is loaded by the library that wrote the source, as it loads the source."""

from pathlib import Path

import pytest
import torch

from support.trainers import TrainerRun, imported, quiet, run_lightning, run_timm, run_torchvision, run_transformers
from swa_cli.averaging import average, plan_average, verify
from swa_cli.checkpoints import find_checkpoints, open_single
from swa_cli.outputs import Like, Target

pytestmark = pytest.mark.slow

TRAINERS = {
    "timm": (run_timm, "swa.pth.tar"),
    "lightning": (run_lightning, "swa.ckpt"),
    "transformers": (run_transformers, "swa"),
    "torchvision": (run_torchvision, "swa.pth"),
}


@pytest.fixture(params=TRAINERS)
def averaged(request, tmp_path) -> tuple[TrainerRun, Path]:
    """A trainer's run, and the average of its last three checkpoints in the structure of the newest."""
    make, name = TRAINERS[request.param]
    run = make(tmp_path / "run")
    return run, average_like(run, tmp_path / name)


def average_like(run: TrainerRun, output: Path) -> Path:
    newest = run.saved[-1].path
    like = Like(checkpoint=open_single(newest.parent if newest.suffix == ".safetensors" else newest), key=None)
    checkpoints = find_checkpoints([saved.path for saved in run.saved[-3:]]).checkpoints
    average(plan_average(checkpoints), Target(path=output, like=like))
    return output


def mean_of(run: TrainerRun) -> dict[str, torch.Tensor]:
    """Of the last three, one by one in float64; integers are the newest."""
    states = [saved.state for saved in run.saved[-3:]]
    mean: dict[str, torch.Tensor] = {}
    for name, newest in states[-1].items():
        if newest.is_floating_point():
            total = torch.zeros_like(newest, dtype=torch.float64)
            for state in states:
                total += state[name].double()
            mean[name] = (total / 3).to(newest.dtype)
        else:
            mean[name] = newest
    return mean


def test_the_library_loads_the_average_as_it_loads_its_own(averaged):
    run, output = averaged

    loaded = run.load(output).state_dict()

    expected = mean_of(run)
    assert set(loaded) == set(expected)
    assert all(torch.equal(loaded[name], expected[name]) for name in expected)


def test_it_can_be_verified(averaged):
    _, output = averaged

    assert verify(open_single(output)).n_sources == 3


def test_the_optimizer_is_left_out_and_the_rest_is_kept(averaged):
    run, output = averaged
    if output.is_dir():
        names = {path.name for path in output.iterdir()}
        assert {"config.json", "model.safetensors"} <= names
        assert not {"optimizer.pt", "scheduler.pt", "trainer_state.json", "training_args.bin"} & names
        return

    before = torch.load(run.saved[-1].path, weights_only=False)
    after = torch.load(output, weights_only=False)

    dropped = {"optimizer", "optimizer_states", "state_dict_ema", "model_ema"} & set(before)
    assert len(dropped) > 0
    assert set(before) - set(after) == dropped
    for name in ("args", "arch", "epoch", "metric", "hyper_parameters", "global_step", "pytorch-lightning_version"):
        assert after.get(name) == before.get(name)


def test_timm_takes_the_average_and_not_an_old_ema(tmp_path):
    """Its loader prefers an EMA, if the file has one."""
    run = run_timm(tmp_path / "run")
    models, timm = imported("timm.models"), imported("timm")
    model = timm.create_model("test_resnet", num_classes=3)

    with quiet():
        models.load_checkpoint(model, str(average_like(run, tmp_path / "swa.pth.tar")))

    expected = mean_of(run)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())


def test_lightning_tests_with_the_average(tmp_path):
    run = run_lightning(tmp_path / "run", epochs=4)
    output = average_like(run, tmp_path / "swa.ckpt")
    lightning = imported("lightning")
    model = run.load(run.saved[0].path)
    seen: dict[str, torch.Tensor] = {}

    def remember(_batch: object) -> None:
        seen.update({name: tensor.clone() for name, tensor in model.state_dict().items()})

    model.__dict__["test_step"] = remember
    with quiet():
        trainer = lightning.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False)
        trainer.test(model, [torch.zeros(1)], ckpt_path=str(output), weights_only=False)

    expected = mean_of(run)
    assert set(seen) == set(expected)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in seen.items())


def test_transformers_loads_shards(tmp_path):
    run = run_transformers(tmp_path / "run")
    newest = run.saved[-1].path.parent
    plan = plan_average(find_checkpoints([saved.path for saved in run.saved[-3:]]).checkpoints)
    average(plan, Target(path=tmp_path / "shards", max_shard_size=3_000))
    (tmp_path / "shards" / "config.json").write_text((newest / "config.json").read_text())

    loaded = run.load(tmp_path / "shards").state_dict()

    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    expected = mean_of(run)
    assert all(torch.equal(loaded[name], expected[name]) for name in expected)
    like = Like(checkpoint=open_single(tmp_path / "shards"), key=None)
    average(plan, Target(path=tmp_path / "again", like=like))
    loaded = run.load(tmp_path / "again").state_dict()
    assert all(torch.equal(loaded[name], expected[name]) for name in expected)
