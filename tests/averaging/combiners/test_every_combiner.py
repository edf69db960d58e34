"""What holds for every way to combine checkpoints, also for one that is added later."""

import json
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from support.late_device import late_device
from support.measuring import cost
from support.rank_threads import together
from support.runs import digest, same, save_as, states_of_all_kinds
from swa_cli.averaging import (
    COMBINERS,
    Engine,
    average,
    combine_arrays,
    combiner_of,
    plan_average,
    verify,
    words_of,
)
from swa_cli.checkpoints import find_checkpoints, open_single
from swa_cli.errors import NonFiniteError, SourceError, UsageError, VerifyError
from swa_cli.outputs import Target

ALL = pytest.mark.parametrize("combine", COMBINERS)


@pytest.fixture
def run_of_seven(tmp_path):
    (tmp_path / "run").mkdir()
    for step, state in enumerate(states_of_all_kinds(7)):
        save_as("torch", state, tmp_path / "run" / f"epoch-{step}")
    return find_checkpoints([tmp_path / "run"]).checkpoints


@ALL
def test_threads_pieces_and_devices_change_no_byte(tmp_path, run_of_seven, monkeypatch, combine):
    plan = plan_average(run_of_seven, combine=combine)
    digests = set()
    for seed, (device, threads, chunk) in enumerate(
        [("cpu", None, None), ("cpu", 1, 8), ("cpu", 3, 350), ("cuda", 2, 280), ("cuda", 1, None)]
    ):
        monkeypatch.setattr("swa_cli.averaging.cuda.cuda", late_device(seed))
        average(plan, tmp_path / "o.pt", engine=Engine(device=device, threads=threads, chunk=chunk), overwrite=True)
        digests.add(digest(tmp_path / "o.pt"))

    assert len(digests) == 1


@ALL
@pytest.mark.parametrize("size", [2, 3])
def test_ranks_write_the_same_tensors(tmp_path, run_of_seven, combine, size):
    plan = plan_average(run_of_seven, combine=combine)
    alone = average(plan, tmp_path / "alone.safetensors")

    def step(ranks):
        return average(plan, Target(path=tmp_path / "together"), group=ranks)

    results = together(size, step)

    whole, shared = open_single(tmp_path / "alone.safetensors"), open_single(tmp_path / "together")
    assert all(same(whole.get_tensor(name), shared.get_tensor(name)) for name in whole.tensors)
    assert {**results[0].fingerprints} == {**alone.fingerprints}
    assert verify(shared).n_sources == 7


@ALL
def test_one_checkpoint_gives_itself(tmp_path, run_of_seven, combine):
    average(plan_average(run_of_seven[:1], combine=combine), tmp_path / "o.safetensors")

    for name, tensor in load_file(tmp_path / "o.safetensors").items():
        assert same(tensor, run_of_seven[0].get_tensor(name)), name


@ALL
@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_refused_in_any_source(tmp_path, monkeypatch, combine, device, value):
    monkeypatch.setattr("swa_cli.averaging.cuda.cuda", late_device(0))
    for step in range(5):
        state = {"a": torch.ones(3), "w": torch.arange(30.0)}
        if step == 3:
            state["w"][17] = value
        torch.save(state, tmp_path / f"{step}.pt")
    plan = plan_average(find_checkpoints([tmp_path]).checkpoints, combine=combine)

    with pytest.raises(NonFiniteError, match=rf"3\.pt: tensor w holds {value} at index \[17\]"):
        average(plan, tmp_path / "o.safetensors", engine=Engine(device=device, chunk=25))
    assert not (tmp_path / "o.safetensors").exists()


@ALL
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_nan_that_is_allowed_gives_nan_there_and_nowhere_else(tmp_path, monkeypatch, combine, device):
    monkeypatch.setattr("swa_cli.averaging.cuda.cuda", late_device(0))
    for step in range(4):
        state = {"w": torch.arange(30.0)}
        if step in {1, 2}:
            state["w"][[4, 5 + step]] = torch.tensor(torch.nan).copysign(torch.tensor(step - 1.5))
        torch.save(state, tmp_path / f"{step}.pt")
    plan = plan_average(find_checkpoints([tmp_path]).checkpoints, combine=combine, allow_nonfinite=True)

    average(plan, tmp_path / "o.safetensors", engine=Engine(device=device))

    result = load_file(tmp_path / "o.safetensors")["w"]
    assert result.isnan().nonzero().flatten().tolist() == [4, 6, 7]
    assert torch.equal(result[8:], torch.arange(30.0)[8:])
    assert {*result.view(torch.int32)[[4, 6, 7]].tolist()} == {0x7FC00000}
    assert verify(open_single(tmp_path / "o.safetensors")).n_sources == 4


@ALL
def test_batchnorm_statistics_are_marked_as_those_of_no_model(tmp_path, combine):
    for step in range(3):
        torch.save({"bn.running_mean": torch.randn(4), "bn.running_var": torch.rand(4)}, tmp_path / f"{step}.pt")

    result = average(
        plan_average(find_checkpoints([tmp_path]).checkpoints, combine=combine), tmp_path / "o.safetensors"
    )

    assert result.bn_statistics == "averaged"
    record = open_single(tmp_path / "o.safetensors").provenance
    assert record is not None
    assert record.bn_statistics == "averaged"


@ALL
def test_the_record_names_the_combiner_and_verify_uses_it(tmp_path, run_of_seven, combine):
    average(plan_average(run_of_seven, combine=combine), tmp_path / "o.safetensors", checksum=True)
    record = open_single(tmp_path / "o.safetensors").provenance

    assert record is not None
    assert record.options is not None
    assert record.options.combine == combine
    assert verify(open_single(tmp_path / "o.safetensors")).noun == words_of(combine).noun


@ALL
def test_any_bit_of_any_source_is_found_with_checksums(tmp_path, combine):
    """Of the highest and the lowest values too, which an order statistic leaves out."""
    (tmp_path / "run").mkdir()
    for step in range(5):
        torch.save({"w": torch.arange(40.0) + step}, tmp_path / "run" / f"{step}.pt")
    checkpoints = find_checkpoints([tmp_path / "run"]).checkpoints
    average(plan_average(checkpoints, combine=combine), tmp_path / "o.safetensors", checksum=True)
    for source in checkpoints:
        path = Path(source.path)
        whole = path.read_bytes()
        _, start = source.tensors["w"].origin
        at = start + 4 * 11
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])

        with pytest.raises(VerifyError, match=rf"(?s){path.name}: its SHA-256 was .*tensor w: a source"):
            verify(open_single(tmp_path / "o.safetensors"))
        path.write_bytes(whole)


@ALL
def test_the_words_name_the_result(run_swa, tmp_path, combine):
    for step in range(3):
        torch.save({"bn.running_mean": torch.randn(4), "bn.running_var": torch.rand(4)}, tmp_path / f"epoch-{step}.pt")
    words = words_of(combine)

    done = run_swa("average", "epoch-*.pt", "-o", "o.safetensors", "--combine", combine)
    plan = run_swa("average", "epoch-*.pt", "--dry-run", "--combine", combine)
    seen = run_swa("inspect", "o.safetensors")
    listed = json.loads(run_swa("inspect", "o.safetensors", "--json").stdout)
    verified = run_swa("verify", "o.safetensors")

    assert done.stdout.startswith(f"{words.deed} 3 checkpoints (epoch-0.pt to epoch-2.pt) into o.safetensors.")
    assert f"2 tensors {words.rule}" in " ".join(plan.stdout.split())
    assert f"written by swa-cli, the {words.noun} of 3 checkpoints" in " ".join(seen.stdout.split())
    assert listed["files"][0]["combine"] == combine
    assert verified.stdout.startswith(f"o.safetensors is the {words.noun} of its 3 sources, bit for bit")


@ALL
def test_arrays_are_combined_as_files_are(tmp_path, combine):
    values = [torch.randn(4, 5, dtype=torch.float64) for _ in range(6)]
    for step, value in enumerate(values):
        torch.save({"w": value}, tmp_path / f"{step}.pt")
    plan = plan_average(find_checkpoints([tmp_path]).checkpoints, combine=combine)
    average(plan, tmp_path / "o.safetensors")

    combined = combine_arrays(plan.combiner, (value.numpy() for value in values))

    assert same(torch.from_numpy(combined), load_file(tmp_path / "o.safetensors")["w"])


@ALL
@pytest.mark.parametrize("sources", [1, 7, 300])
def test_pieces_are_so_small_that_memory_does_not_grow_with_the_sources(tmp_path, combine, sources):
    combiner = combiner_of(combine, [tmp_path / f"{step}.pt" for step in range(sources)])
    size = combiner.piece_size(1 << 18)

    combining = combiner.on_cpu(size, np.empty(size), allow_nonfinite=False)

    arrays = [value for value in vars(combining).values() if isinstance(value, np.ndarray)]
    assert sum(array.nbytes for array in arrays) <= 2 * 8 << 18


@ALL
@pytest.mark.slow
def test_memory_does_not_grow_with_the_sources(tmp_path, combine):
    """Sixty of 4 MB each, 240 MB of values, in the buffers that three take."""
    for n in (3, 60):
        (tmp_path / f"{n}").mkdir()
        for step in range(n):
            torch.save({"w": torch.randn(1_000_000)}, tmp_path / f"{n}" / f"{step}.pt")

    assert cost("resident", tmp_path / "3", tmp_path / "60", combine=combine) < 16 << 20


def test_an_unknown_combiner_is_refused(run_swa, tmp_path):
    torch.save({"w": torch.ones(1)}, tmp_path / "epoch-1.pt")
    checkpoints = find_checkpoints([tmp_path]).checkpoints

    with pytest.raises(UsageError, match=r"cannot combine checkpoints by 'krum': expected .*mean"):
        plan_average(checkpoints, combine="krum")
    (tmp_path / "run.yaml").write_text("average: {sources: [epoch-1.pt], combine: krum}\n")
    result = run_swa("average", "--config", "run.yaml", "--dry-run")
    assert (result.exit_code, "average.combine: expected" in result.stderr) == (2, True)


def test_a_record_of_an_unknown_combiner_is_shown_and_not_verified(run_swa, tmp_path):
    """As a later version may write it."""
    for step in range(3):
        torch.save({"w": torch.randn(4)}, tmp_path / f"epoch-{step}.pt")
    average(plan_average(find_checkpoints([tmp_path]).checkpoints), tmp_path / "o.pt")
    record = json.loads(open_single(tmp_path / "o.pt").metadata["swa_cli"])
    assert "combine" not in record["options"], "records of means are those of versions without combiners"
    record = {name: value for name, value in record.items() if name not in {"frames", "digest"}}
    record |= {"options": record["options"] | {"combine": "krum"}, "tool_version": "9.1"}
    torch.save(torch.load(tmp_path / "o.pt"), tmp_path / "o.pt")
    with zipfile.ZipFile(tmp_path / "o.pt", "a") as archive:
        archive.writestr("o/swa_cli", json.dumps(record))

    with pytest.raises(SourceError, match=r"combined by 'krum', .* lacks: it has mean.*that wrote it, 9\.1\.$"):
        verify(open_single(tmp_path / "o.pt"))
    assert "the krum of 3 checkpoints" in " ".join(run_swa("inspect", "o.pt").stdout.split())


def test_names_are_fit_for_a_record():
    assert all(re.fullmatch("[a-z][a-z0-9-]*", name) for name in COMBINERS)
    assert COMBINERS[0] == "mean", "the default"
