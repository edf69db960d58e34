"""BatchNorm layers that the averaging finds to be the same in all sources."""

import random
import resource
import subprocess
import sys
from typing import Any

import pytest
import torch
from safetensors.torch import save_file, save_model
from torch import nn

from swa_cli.averaging import average, frozen_bn, plan_average, verify
from swa_cli.checkpoints import find_checkpoints, open_single
from swa_cli.errors import CheckpointError
from swa_cli.formats import OpenFiles, open_checkpoint
from swa_cli.formats.provenance_text import read_provenance
from swa_cli.outputs import Like, Target

KINDS = ["safetensors", "pt", "legacy", "nested", "shards"]


def layer(name, *, mean=0.5, var=2.0, count: int | None = 7, dtype=torch.float32):
    statistics = {
        "running_mean": torch.full((3,), mean, dtype=dtype),
        "running_var": torch.full((3,), var, dtype=dtype),
    }
    counter = {} if count is None else {"num_batches_tracked": torch.tensor(count)}
    return {f"{name}.{buffer}" if name else buffer: value for buffer, value in (statistics | counter).items()}


def save_states(folder, states, kind="pt"):
    folder.mkdir()
    for step, state in enumerate(states):
        full = state | {"head.weight": torch.full((2,), float(step))}
        if kind == "safetensors":
            save_file(full, folder / f"{step}.safetensors")
        elif kind == "nested":
            wrapped = {f"module.{name}": tensor for name, tensor in full.items()}
            torch.save({"state_dict": wrapped, "epoch": step}, folder / f"{step}.pth")
        elif kind == "shards":
            save_file(full, folder / f"{step}.safetensors")
            target = Target(path=folder / f"checkpoint-{step}", max_shard_size=20)
            average(plan_average([open_checkpoint(folder / f"{step}.safetensors")]), target)
            (folder / f"{step}.safetensors").unlink()
        else:
            torch.save(full, folder / f"{step}.pt", _use_new_zipfile_serialization=kind == "pt")
    return folder


def plan_of(folder, **options):
    files = [open_single(path) for path in sorted(folder.iterdir(), key=lambda path: int(path.stem.rpartition("-")[2]))]
    return plan_average(files, **options)


def found(tmp_path, states, kind="pt", **options):
    return frozen_bn(plan_of(save_states(tmp_path / "run", states, kind), **options))


@pytest.mark.parametrize("kind", KINDS)
def test_the_layers_that_nobody_changed_are_found_in_every_container(tmp_path, kind):
    states = [layer("stem.bn") | layer("head.bn", mean=0.1 * step, count=step) for step in range(3)]

    assert found(tmp_path, states, kind) == ("stem.bn",)


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        pytest.param([layer("bn", count=n) for n in (7, 8, 9)], (), id="equal statistics, other counters"),
        pytest.param([layer("bn", mean=x) for x in (0.1, 0.2, 0.3)], (), id="equal counters, other means"),
        pytest.param([layer("bn", var=x) for x in (0.1, 0.2, 0.3)], (), id="equal counters, other variances"),
        pytest.param([layer("bn", count=None)] * 3, ("bn",), id="no counters, equal"),
        pytest.param([layer("bn", count=None, var=x) for x in (1, 2, 3)], (), id="no counters, other variances"),
        pytest.param([layer("bn")], (), id="one source"),
        pytest.param([layer("bn")] * 2, ("bn",), id="two sources"),
        pytest.param(
            [layer("bn")] * 2 + [layer("bn", mean=0.6)] + [layer("bn")] * 2, (), id="only the middle one of five"
        ),
        pytest.param([layer("bn", mean=0.0), layer("bn", mean=-0.0)], (), id="zeros of two signs are other bits"),
        pytest.param([layer("")] * 2, ("",), id="the whole model"),
        pytest.param([{"bn.running_mean": torch.zeros(2)}] * 2, (), id="a mean alone"),
        pytest.param([{"a_running_mean": torch.zeros(2), "a_running_var": torch.ones(2)}] * 2, (), id="other names"),
        pytest.param([layer("b") | layer("a")] * 2, ("b", "a"), id="in the order of the file"),
        pytest.param([layer("bn", var=float("nan"))] * 2, (), id="no numbers"),
        pytest.param([layer("bn", mean=float("inf"))] * 2, (), id="infinite"),
        pytest.param([layer("bn", dtype=torch.bfloat16)] * 2, ("bn",), id="bfloat16"),
        pytest.param([layer("bn", dtype=torch.float8_e5m2)] * 2, ("bn",), id="float8"),
    ],
)
def test_a_layer_is_frozen_if_all_its_statistics_are_the_same_in_all_sources(tmp_path, states, expected):
    assert found(tmp_path, states) == expected


def test_statistics_of_another_dtype_are_no_longer_the_same(tmp_path):
    states = [layer("bn", mean=0.0, var=0.0, dtype=dtype) for dtype in (torch.float16, torch.bfloat16)]

    assert found(tmp_path, states, dtype="float32") == ()


def test_any_mixture_of_layers_equals_a_slow_comparison(tmp_path):
    generator = random.Random(3)
    names = [f"l{number}.bn" for number in range(40)]
    odd = {name: generator.choice([None, None, 0, 1, 2, 3]) for name in names}
    change = {name: generator.choice(["mean", "var", "count"]) for name in names}

    def changed(name, step) -> dict[str, Any]:
        return {change[name]: 5} if odd[name] == step else {}

    states = [
        {entry: tensor for name in names for entry, tensor in layer(name, **changed(name, step)).items()}
        for step in range(4)
    ]

    expected = [
        name
        for name in names
        if all(torch.equal(state[entry], states[0][entry]) for state in states for entry in layer(name))
    ]
    assert 5 < len(expected) < 35
    assert found(tmp_path, states) == tuple(expected)


def test_shared_layers_are_found_under_both_names_and_strided_statistics_at_all(tmp_path):
    class Shares(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = self.b = nn.BatchNorm1d(3)

    model = Shares()
    (tmp_path / "torch").mkdir()
    (tmp_path / "safetensors").mkdir()
    for step in range(2):
        wide = {"c.running_mean": torch.arange(6.0)[::2], "c.running_var": torch.ones(3, 2)[:, 1]}
        torch.save(model.state_dict() | wide, tmp_path / "torch" / f"{step}.pt")
        save_model(model, str(tmp_path / "safetensors" / f"{step}.safetensors"))

    assert frozen_bn(plan_of(tmp_path / "torch")) == ("a", "b", "c")
    assert set(frozen_bn(plan_of(tmp_path / "safetensors"))) == {"a", "b"}


def test_of_what_is_trained_only_two_counters_are_read(tmp_path, monkeypatch):
    states = [layer("a.bn", mean=step, count=step) | layer("b.bn", mean=step, count=step) for step in range(6)]
    plan = plan_of(save_states(tmp_path / "run", states))
    read = []
    original = OpenFiles.read

    def noted(self, path, offset, views, what):
        read.append((path.name, what))
        return original(self, path, offset, views, what)

    monkeypatch.setattr(OpenFiles, "read", noted)

    assert frozen_bn(plan) == ()
    counters = ("a.bn.num_batches_tracked", "b.bn.num_batches_tracked")
    assert sorted(read) == [(file, counter) for file in ("0.pt", "5.pt") for counter in counters]


def test_five_hundred_frozen_sources_with_few_descriptors(tmp_path):
    for step in range(500):
        save_file(layer("bn") | {"w": torch.full((3,), float(step))}, tmp_path / f"{step}.safetensors")
    command = [sys.executable, "-m", "swa_cli", "average", tmp_path, "-o", tmp_path / "o.safetensors"]

    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)),
    )

    assert done.returncode == 0, done.stderr
    assert "the statistics of 1 BatchNorm layer are the same in all checkpoints" in done.stderr
    record = read_provenance(open_single(tmp_path / "o.safetensors").metadata)
    assert record is not None
    assert record.frozen_bn == ("bn",)


def test_a_source_that_is_changed_meanwhile_is_noticed(tmp_path):
    folder = save_states(tmp_path / "run", [layer("bn")] * 3)
    plan = plan_of(folder)
    torch.save({}, folder / "1.pt")

    with pytest.raises(CheckpointError, match=r"1\.pt was changed while it was read"):
        frozen_bn(plan)


@pytest.mark.parametrize("kind", ["safetensors", "pt", "shards", "like"])
@pytest.mark.parametrize("integers", ["agree", "mean-round"])
def test_every_kind_of_output_records_them_and_is_verified(tmp_path, kind, integers):
    states = [layer("stem.bn") | layer("head.bn", mean=0.1 * step, count=step) for step in range(3)]
    folder = save_states(tmp_path / "run", states, "nested")
    like = Like(checkpoint=open_single(folder / "1.pth"), key=None) if kind == "like" else None
    name = {"shards": "out", "like": "out.pth"}.get(kind, f"out.{kind}")
    target = Target(path=tmp_path / name, like=like, max_shard_size=40 if kind == "shards" else None)

    result = average(plan_average(find_checkpoints([folder]).checkpoints, integers=integers), target, checksum=True)

    written = open_single(tmp_path / name)
    record = read_provenance(written.metadata)
    assert record is not None
    assert record.frozen_bn == result.frozen_bn == ("stem.bn",)
    assert record.bn_statistics == result.bn_statistics == "averaged"
    assert verify(written).n_sources == 3


def test_names_that_are_no_unicode_are_spelt_out_in_the_record(tmp_path):
    folder = save_states(tmp_path / "run", [layer("\udce9.bn")] * 2)

    average(plan_of(folder), tmp_path / "out.pt")

    record = read_provenance(open_single(tmp_path / "out.pt").metadata)
    assert record is not None
    assert record.frozen_bn == (r"\udce9.bn",)
    assert record.bn_statistics == "as trained"


def test_the_command_names_them_and_does_not_advise_to_recompute_them(tmp_path, run_swa):
    save_states(tmp_path / "all", [layer("a.bn") | layer("b.bn")] * 3)
    save_states(tmp_path / "one", [layer("a.bn") | layer("b.bn", count=step) for step in range(3)])
    save_states(tmp_path / "none", [layer("a.bn", count=step) for step in range(3)])

    of_all, of_one, of_none = (run_swa("average", name, "-o", f"{name}.safetensors") for name in ("all", "one", "none"))

    assert of_all.stderr == (
        "note: the statistics of 2 BatchNorm layers are the same in all checkpoints, as if frozen in training: "
        "swa-bn-update leaves them alone unless --recalibrate-frozen is given (a.bn, b.bn).\n"
    )
    assert of_one.stderr == (
        "note: the statistics of 1 BatchNorm layer are the same in all checkpoints, as if frozen in training: "
        "swa-bn-update leaves it alone unless --recalibrate-frozen is given (a.bn).\n"
    )
    assert of_none.stderr == ""
    advice = "recompute them with swa-bn-update"
    assert [advice in result.stdout for result in (of_all, of_one, of_none)] == [False, True, True]
    assert run_swa("average", "all", "-o", "dry.safetensors", "--dry-run").stderr == of_all.stderr
    assert run_swa("average", "all", "--dry-run").stderr == of_all.stderr
