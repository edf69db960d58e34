"""Every format is read from behind a URL as it is read from the disk: the same bits, the same words."""

import json
from collections.abc import Callable
from pathlib import Path, PurePath

import pytest
import safetensors.torch
import torch
from safetensors.torch import load_file
from torch import nn

from support.containers import save
from support.runs import same, save_as, states_of_all_kinds
from swa_cli.averaging import average, plan_average, verify
from swa_cli.checkpoints.inspection import describe
from swa_cli.errors import CheckpointError, SourceError, SwaError, VerifyError
from swa_cli.formats import Checkpoint, open_checkpoint
from swa_cli.outputs import Like, Target
from swa_cli.system.storage import Url

URL = Url("memory://run")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def as_trainers_do(folder: Path, step: int) -> Path:
    """What the Hugging Face Trainer leaves: weights, and beside them what it logged."""
    here = folder / f"checkpoint-{step}"
    here.mkdir()
    torch.manual_seed(step)
    safetensors.torch.save_file({"w": torch.randn(5)}, here / "model.safetensors", metadata={"format": "pt"})
    log = [{"step": step, "eval_loss": 1 / step}]
    (here / "trainer_state.json").write_text(json.dumps({"global_step": step, "log_history": log}))
    return here / "model.safetensors"


def in_torch_shards(folder: Path, step: int) -> Path:
    here = folder / f"step-{step}"
    here.mkdir()
    torch.save({"a": torch.randn(5)}, here / "pytorch_model-00001-of-00002.bin")
    torch.save({"b": torch.randn(5).bfloat16()}, here / "pytorch_model-00002-of-00002.bin")
    where = {"a": "pytorch_model-00001-of-00002.bin", "b": "pytorch_model-00002-of-00002.bin"}
    (here / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return here / "pytorch_model.bin.index.json"


def as_module(folder: Path, step: int, *, legacy: bool) -> Path:
    return save(Net(), folder / f"{step}.pt", legacy=legacy)


def as_state(container: str) -> Callable[[Path, int], Path]:
    return lambda folder, step: save_as(
        container, states_of_all_kinds(1)[0], folder / f"epoch={step}-val_loss=0.{step}"
    )


def as_old_state(folder: Path, step: int) -> Path:
    state = states_of_all_kinds(1)[0]
    del state["l.eight"]  # which torch could not read back
    contents = {"epoch": step, "model": state, "acc": torch.tensor(0.5), "optimizer": {"lr": 0.1}}
    return save(contents, folder / f"{step}.pth", legacy=True)


FORMATS: dict[str, Callable[[Path, int], Path]] = {
    "safetensors": as_state("safetensors"),
    "safetensors shards": as_state("shards 3"),
    "torch zip": as_state("torch"),
    "torch zip, nested": as_state("nested"),
    "torch legacy": as_old_state,
    "torch shards": in_torch_shards,
    "whole module": lambda folder, step: as_module(folder, step, legacy=False),
    "whole module, legacy": lambda folder, step: as_module(folder, step, legacy=True),
    "trainer": as_trainers_do,
}


def uploaded(memory, folder: Path) -> None:
    """Put all files of a folder behind `URL`."""
    for path in folder.rglob("*"):
        if path.is_file():
            memory.pipe_file(f"/run/{path.relative_to(folder)}", path.read_bytes())


@pytest.fixture(params=FORMATS)
def run(request, tmp_path, memory) -> tuple[list[Checkpoint], list[Checkpoint]]:
    """Three checkpoints, opened here and behind a URL."""
    folder = tmp_path / "run"
    folder.mkdir()
    paths = [FORMATS[request.param](folder, step) for step in (1, 2, 3)]
    uploaded(memory, folder)
    return [open_checkpoint(path) for path in paths], [
        open_checkpoint(URL / path.relative_to(folder)) for path in paths
    ]


def test_what_is_read_is_the_same(run):
    for here, there in zip(*run, strict=True):
        assert describe(there) == describe(here)
        assert there.keys() == here.keys()
        assert there.counters == here.counters
        assert there.metrics == here.metrics
        assert (there.metadata, there.extra, there.left_out) == (here.metadata, here.extra, here.left_out)
        assert there.file_bytes == here.file_bytes
        for name in here.keys():  # noqa: SIM118  # a checkpoint is no mapping
            assert same(there.get_tensor(name), here.get_tensor(name)), name


def test_the_average_is_the_same(run, tmp_path):
    here, there = (plan_average(checkpoints) for checkpoints in run)

    local = average(here, tmp_path / "here.safetensors", checksum=True)
    remote = average(there, tmp_path / "there.safetensors", checksum=True)

    tensors = load_file(tmp_path / "here.safetensors")
    assert tensors
    assert tensors.keys() == load_file(tmp_path / "there.safetensors").keys()
    assert all(same(tensors[name], other) for name, other in load_file(tmp_path / "there.safetensors").items())
    assert remote.fingerprints == local.fingerprints
    assert [*remote.sha256.values()] == [*local.sha256.values()]
    records = [open_checkpoint(result.path).provenance for result in (local, remote)]
    assert records[0] is not None
    assert records[1] is not None
    assert records[1].sources == records[0].sources
    assert (records[0].folder, records[1].folder) == ("run", "memory://run")


def test_the_structure_of_a_template_is_kept(run, tmp_path):
    suffix = "" if run[0][0].files else run[0][0].path.suffix
    here, there = (
        Target(path=tmp_path / f"{side}{suffix}", like=Like(checkpoint=checkpoints[0], key=None))
        for side, checkpoints in zip(("here", "there"), run, strict=True)
    )

    average(plan_average(run[0]), here)
    average(plan_average(run[1]), there)

    opened = [open_checkpoint(_only_file(target.path)) for target in (here, there)]
    assert opened[0].container == opened[1].container
    assert all(same(opened[0].get_tensor(name), opened[1].get_tensor(name)) for name in opened[0].keys())  # noqa: SIM118


def test_the_average_is_derived_again_from_behind_a_url(tmp_path, memory):
    folder = tmp_path / "run"
    folder.mkdir()
    paths = [as_trainers_do(folder, step) for step in (1, 2)]
    uploaded(memory, folder)
    sources = [open_checkpoint(URL / path.relative_to(folder)) for path in paths]
    average(plan_average(sources), tmp_path / "swa.safetensors", checksum=True)
    memory.pipe_file("/run/swa.safetensors", (tmp_path / "swa.safetensors").read_bytes())
    memory.pipe_file("/moved/deep/checkpoint-1/model.safetensors", paths[0].read_bytes())
    memory.pipe_file("/moved/deep/checkpoint-2/model.safetensors", paths[1].read_bytes())
    local, remote = open_checkpoint(tmp_path / "swa.safetensors"), open_checkpoint(URL / "swa.safetensors")

    assert verify(local, sources=URL).n_sources == 2
    assert verify(local, sources=folder).n_sources == 2
    assert verify(local, sources=Url("memory://moved")).n_sources == 2
    assert verify(remote).n_sources == 2
    with pytest.raises(SourceError, match=r"the sources are in memory://run, which is neither below"):
        verify(local)
    with pytest.raises(SourceError, match=r"memory://none/checkpoint-1/model\.safetensors is not there"):
        verify(local, sources=Url("memory://none"))
    changed = bytearray(paths[0].read_bytes())
    changed[-1] ^= 1
    memory.pipe_file("/run/checkpoint-1/model.safetensors", bytes(changed))
    with pytest.raises(VerifyError, match="tensor w: a source holds other values"):
        verify(remote)


def test_an_average_that_was_uploaded_with_its_sources_is_derived_again(tmp_path, memory):
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "averages").mkdir()
    paths = [as_trainers_do(folder / "checkpoints", step) for step in (1, 2)]
    average(plan_average([open_checkpoint(path) for path in paths]), folder / "averages" / "swa.pt")
    uploaded(memory, folder)
    uploaded_again = URL / "averages" / "swa.pt"

    with pytest.raises(SourceError, match=r"the sources are in memory://run/checkpoints, which is neither below"):
        verify(open_checkpoint(uploaded_again))
    assert verify(open_checkpoint(uploaded_again), sources=URL).n_sources == 2


def test_sources_of_several_storages_are_named_whole(tmp_path, memory):
    folder = tmp_path / "run"
    folder.mkdir()
    paths = [as_trainers_do(folder, step) for step in (1, 2)]
    uploaded(memory, folder)
    there = URL / "checkpoint-2" / "model.safetensors"

    average(plan_average([open_checkpoint(paths[0]), open_checkpoint(there)]), tmp_path / "swa.safetensors")

    record = open_checkpoint(tmp_path / "swa.safetensors").provenance
    assert record is not None
    assert [source.name for source in record.sources] == [str(paths[0]), "memory:/run/checkpoint-2/model.safetensors"]
    with pytest.raises(SourceError, match=r"its record names the source .*, which is not below"):
        verify(open_checkpoint(tmp_path / "swa.safetensors"))


# Damage


def removed(path: Path) -> None:
    path.unlink()


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def cut_to_nothing(path: Path) -> None:
    path.write_bytes(b"")


def overwritten(path: Path) -> None:
    path.write_bytes(b"something else, and not a checkpoint")


def without_a_shard(path: Path) -> None:
    next(iter(path.parent.glob("*-00001-of-*")), path).unlink()


@pytest.mark.parametrize("damage", [removed, cut_short, cut_to_nothing, overwritten, without_a_shard])
@pytest.mark.parametrize("kind", FORMATS)
def test_damage_is_said_in_the_same_words(tmp_path, memory, kind, damage):
    folder = tmp_path / "run"
    folder.mkdir()
    path = FORMATS[kind](folder, 1)
    damage(path)
    uploaded(memory, folder)

    def said(path: PurePath) -> str:
        with pytest.raises(CheckpointError) as error:
            open_checkpoint(path)
        return str(error.value)

    assert said(URL / path.relative_to(folder)) == said(path).replace(str(folder), str(URL))


@pytest.mark.parametrize("change", [removed, cut_short, overwritten])
def test_a_change_after_opening_is_said_in_the_same_words(run, tmp_path, memory, change):
    here, there = run
    path = Path((here[1].files or [here[1].path])[-1])
    change(path)
    below = f"/run/{path.relative_to(tmp_path / 'run')}"
    memory.rm_file(below) if change is removed else memory.pipe_file(below, path.read_bytes())

    def said(checkpoints: list[Checkpoint]) -> str:
        with pytest.raises(SwaError) as error:
            average(plan_average(checkpoints), tmp_path / "out.safetensors")
        assert not (tmp_path / "out.safetensors").exists()
        return str(error.value)

    local = said(here)
    assert "was changed while it was read" in local or "No such file or directory" in local
    assert said(there) == local.replace(str(tmp_path / "run"), str(URL))


def _only_file(path: Path) -> Path:
    return next(path.glob("*.index.json")) if path.is_dir() else path
