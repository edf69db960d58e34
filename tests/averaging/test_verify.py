"""An average is derived anew from its sources and compared bit for bit."""

import hashlib
import json
import os
import random
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from swa_cli.averaging import average, plan_average, verify
from swa_cli.checkpoints import find_checkpoints, open_single
from swa_cli.errors import MismatchError, SourceError, SwaError, VerifyError
from swa_cli.formats import BnUpdate, Checkpoint
from swa_cli.formats.provenance_text import read_provenance
from swa_cli.outputs import Like, Target
from swa_cli.outputs.rewriting import replace_tensors
from swa_cli.pipeline.common import open_average

KINDS = ["safetensors", "pt", "shards", "like torch", "like safetensors", "like shards"]


def save_states(folder: Path, *, n: int = 4) -> Path:
    folder.mkdir()
    generator = torch.Generator().manual_seed(n)
    for step in range(n):
        state = {
            "a.weight": torch.randn(300, 7, generator=generator),
            "b.weight": torch.randn(41, generator=generator).to(torch.bfloat16),
            "bn.running_var": torch.rand(5, generator=generator),
            "bn.num_batches_tracked": torch.tensor(step),
            "table": torch.arange(9),
        }
        torch.save({"state_dict": {f"module.{name}": value for name, value in state.items()}, "epoch": step,
                    "optimizer": {"state": {0: torch.randn(5)}}}, folder / f"epoch-{step}.pth")  # fmt: skip
    return folder


def written(tmp_path: Path, kind: str, run: Path | None = None, **options) -> Path:
    """An average of each kind of output; where it is like another, the other is a first average."""
    run = run or save_states(tmp_path / "run")
    plan = plan_average(find_checkpoints([run]).checkpoints, **options)
    if kind == "shards":
        target = Target(path=tmp_path / "out", max_shard_size=4000)
    elif kind.startswith("like"):
        models = {"like torch": max(run.iterdir()), "like safetensors": tmp_path / "first.safetensors"}
        model = models.get(kind, tmp_path / "first")
        if kind != "like torch":
            average(plan, Target(path=model, max_shard_size=4000 if kind == "like shards" else None))
        path = tmp_path / {"like torch": "out.pth", "like safetensors": "out.safetensors"}.get(kind, "out")
        target = Target(path=path, like=Like(checkpoint=open_single(model), key=None))
    else:
        target = Target(path=tmp_path / f"out.{kind}")
    average(plan, target)
    return target.path


def flip(checkpoint: Checkpoint, name: str, element: int, bit: int) -> None:
    ((file, start, _),) = checkpoint.tensors[name].runs(element, element + 1)
    offset = start + bit // 8
    with Path(checkpoint.file_of(file)).open("r+b") as stream:
        stream.seek(offset)
        byte = stream.read(1)[0]
        stream.seek(offset)
        stream.write(bytes([byte ^ 1 << bit % 8]))


def put_record(path: Path, record: object) -> None:
    """Save a torch file once more, with another record in it, such as a version without checksums wrote."""
    assert isinstance(record, dict)
    record = {name: value for name, value in record.items() if name not in {"frames", "digest"}}
    torch.save(torch.load(path), path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("out/swa_cli", json.dumps(record))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_output_is_verified(tmp_path, kind):
    path = written(tmp_path, kind)

    result = verify(open_single(path))

    assert (result.n_sources, result.n_tensors, result.recomputed) == (4, 5, ())


@pytest.mark.parametrize("options", [{"dtype": "float16"}, {"integers": "mean-round"}, {"weights": [1, 2, 3, 4]}])
def test_with_the_options_that_it_was_made_with(tmp_path, options):
    """They are what makes it pass: with a record of other options it does not."""
    path = written(tmp_path, "pt", **options)
    record = json.loads(open_single(path).metadata["swa_cli"])

    assert verify(open_single(path)).n_sources == 4

    if "weights" in options:
        assert [source["weight"] for source in record["sources"]] == options["weights"]
        record["sources"] = [source | {"weight": 1.0} for source in record["sources"]]
    else:
        assert {name: record["options"][name] for name in options} == options
        record["options"] |= {"dtype": None, "integers": "agree"}
    put_record(path, record)
    with pytest.raises(VerifyError, match="tensor "):
        verify(open_single(path))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["a.weight", "b.weight", "bn.num_batches_tracked", "table"])
def test_one_flipped_bit_of_the_output_is_named(tmp_path, kind, name):
    path = written(tmp_path, kind)
    checkpoint = open_single(path)
    element = random.randrange(checkpoint.spec(name).numel)
    flip(checkpoint, name, element, bit=random.randrange(8 * checkpoint.spec(name).dtype.itemsize))

    with pytest.raises(VerifyError, match=rf"tensor {name} differs at index \["):
        verify(open_single(path))


@pytest.mark.parametrize("seed", range(30))
def test_one_flipped_bit_of_a_source_is_named(tmp_path, seed):
    """Any bit of the floating tensors, the lowest too, which rounding hides; and of integers that must agree."""
    path = written(tmp_path, "safetensors")
    chosen = random.Random(seed)
    name = chosen.choice(["a.weight", "b.weight", "bn.running_var", "table"])
    source = open_single(tmp_path / "run" / f"epoch-{chosen.randrange(4)}.pth")
    bits = 8 * source.spec(name).dtype.itemsize
    flip(source, name, chosen.randrange(source.spec(name).numel), bit=0 if seed % 2 else chosen.randrange(bits))

    with pytest.raises(SwaError, match=f"tensor {name}[ :]"):
        verify(open_single(path))


def test_a_bit_that_rounding_hides(tmp_path):
    """A float32 far below the last digit of the mean."""
    (tmp_path / "run").mkdir()
    for step, value in enumerate([1e6, 1e-3]):
        torch.save({"w": torch.tensor([value])}, tmp_path / "run" / f"{step}.pt")
    average(plan_average(find_checkpoints([tmp_path / "run"]).checkpoints), tmp_path / "out.safetensors")
    flip(open_single(tmp_path / "run" / "1.pt"), "w", 0, bit=0)

    with pytest.raises(VerifyError, match="tensor w: a source holds other values than when it was averaged"):
        verify(open_single(tmp_path / "out.safetensors"))


def test_the_checksums_of_the_sources(tmp_path):
    """They tell of bits that are no part of any tensor that is averaged."""
    run = save_states(tmp_path / "run")
    plan = plan_average(find_checkpoints([run]).checkpoints)
    average(plan, tmp_path / "out.safetensors", checksum=True)
    record = read_provenance(open_single(tmp_path / "out.safetensors").metadata)
    assert record
    for source in record.sources:
        assert source.sha256 == {source.name: hashlib.sha256((run / source.name).read_bytes()).hexdigest()}
    assert verify(open_single(tmp_path / "out.safetensors")).has_checksums
    flip(open_single(run / "epoch-1.pth"), "bn.num_batches_tracked", 0, bit=3)  # of which the newest alone counts

    with pytest.raises(VerifyError, match=r"epoch-1\.pth: its SHA-256 was [0-9a-f]{64}, and is [0-9a-f]{64}\n"):
        verify(open_single(tmp_path / "out.safetensors"))


def test_sources_that_moved(tmp_path):
    path = written(tmp_path, "safetensors")
    shutil.move(tmp_path / "run", tmp_path / "elsewhere")

    with pytest.raises(SourceError, match="say where with `sources`"):
        verify(open_single(path))

    assert verify(open_single(path), sources=tmp_path / "elsewhere").n_sources == 4


def test_output_and_sources_that_moved_together(tmp_path):
    (tmp_path / "here").mkdir()
    path = written(tmp_path / "here", "shards")
    shutil.move(tmp_path / "here", tmp_path / "there")

    assert verify(open_single(tmp_path / "there" / path.name)).n_sources == 4


def test_a_source_of_another_size(tmp_path):
    path = written(tmp_path, "safetensors")
    source = tmp_path / "run" / "epoch-1.pth"
    contents = torch.load(source)
    torch.save(contents | {"more": list(range(100))}, source)

    with pytest.raises(SourceError, match=r"epoch-1\.pth was another then: expected [\d,]+ bytes, found [\d,]+"):
        verify(open_single(path))


def test_another_value_of_an_entry_that_is_no_tensor(tmp_path):
    (tmp_path / "run").mkdir()
    for step in range(2):
        torch.save({"w": torch.ones(2), "_extra_state": {"n": step}}, tmp_path / "run" / f"{step}.pt")
    average(plan_average(find_checkpoints([tmp_path / "run"]).checkpoints), tmp_path / "out.pt")
    verify(open_single(tmp_path / "out.pt"))
    torch.save({"w": torch.ones(2), "_extra_state": {"n": 7}}, tmp_path / "run" / "1.pt")

    with pytest.raises(VerifyError, match="entry _extra_state of the state_dict is not that of the newest source"):
        verify(open_single(tmp_path / "out.pt"))


def test_a_source_whose_tensors_are_others(tmp_path):
    path = written(tmp_path, "safetensors")
    for file in (tmp_path / "run").iterdir():
        contents = torch.load(file)
        contents["state_dict"]["module.a.weight"] = contents["state_dict"]["module.a.weight"].reshape(7, 300)
        torch.save(contents, file)

    with pytest.raises(VerifyError, match=r"tensor a\.weight: expected float32 \[7, 300\], found float32 \[300, 7\]"):
        verify(open_single(path))


def test_integers_that_disagree_now(tmp_path):
    path = written(tmp_path, "safetensors")
    flip(open_single(tmp_path / "run" / "epoch-0.pth"), "table", 3, bit=5)

    with pytest.raises(MismatchError, match="tensor table"):
        verify(open_single(path))


def test_a_file_of_another_tool_has_nothing_to_verify(tmp_path):
    torch.save({"w": torch.ones(1)}, tmp_path / "w.pt")

    with pytest.raises(SourceError, match="has no record of its sources"):
        verify(open_single(tmp_path / "w.pt"))


def test_the_command(tmp_path, run_swa):
    path = written(tmp_path, "shards")

    result = run_swa("verify", path.name)

    assert (result.exit_code, result.stderr) == (0, "")
    assert (
        result.stdout
        == "out/model.safetensors.index.json is the average of its 4 sources, bit for bit: 5 tensors, 8.6 kB.\n"
    )

    flip(open_single(path), "a.weight", 15, bit=30)
    result = run_swa("verify", path.name)

    assert (result.exit_code, result.stdout) == (1, "")
    assert "tensor a.weight differs at index [2, 1]: expected" in result.stderr


def test_through_a_link_to_another_place(tmp_path, monkeypatch):
    """As on clusters, where runs/ is a link to a scratch disk."""
    (tmp_path / "scratch" / "deep").mkdir(parents=True)
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "runs").symlink_to(tmp_path / "scratch" / "deep")
    run = save_states(tmp_path / "project" / "ckpts")

    average(plan_average(find_checkpoints([run]).checkpoints), tmp_path / "project" / "runs" / "out.safetensors")

    monkeypatch.chdir(tmp_path / "project")
    assert verify(open_single(Path("runs/out.safetensors"))).n_sources == 4
    assert verify(open_single(tmp_path / "scratch" / "deep" / "out.safetensors")).n_sources == 4


def test_sources_behind_a_link_beside_the_average(tmp_path):
    run = save_states(tmp_path / "elsewhere")
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "ckpts").symlink_to(run)

    average(plan_average(find_checkpoints([tmp_path / "project" / "ckpts"]).checkpoints), tmp_path / "project" / "o.pt")

    assert verify(open_single(tmp_path / "project" / "o.pt")).n_sources == 4


def test_sources_of_two_folders_one_of_which_is_above(tmp_path, monkeypatch):
    save_states(tmp_path / "deep")
    monkeypatch.chdir(tmp_path / "deep")
    Path("epoch-3.pth").rename("../epoch-3.pth")
    sources = find_checkpoints([Path("epoch-0.pth"), Path("../epoch-3.pth")]).checkpoints

    average(plan_average(sources), Path("out.safetensors"))

    written = open_single(Path("out.safetensors"))
    assert written.provenance
    assert [source.name for source in written.provenance.sources] == ["deep/epoch-0.pth", "epoch-3.pth"]
    with pytest.raises(
        SourceError, match=rf"neither below {tmp_path}/deep nor below .* say so: `sources='{tmp_path}'`\."
    ):
        verify(written)
    assert verify(written, sources=tmp_path).n_sources == 2
    monkeypatch.chdir(tmp_path)
    assert verify(open_single(Path("deep/out.safetensors"))).n_sources == 2


@pytest.fixture
def secret(tmp_path):
    """A file outside the folder of the average, of a size that a forger may know."""
    (tmp_path / "private").mkdir()
    path = tmp_path / "private" / "secret.txt"
    path.write_text("r00t:*:2 hunter2\n")
    return path


def forged(work: Path, sources: list[dict], **fields: object) -> Path:
    work.mkdir(exist_ok=True)
    torch.save({"w": torch.ones(3)}, work / "epoch-0.pt")
    average(plan_average(find_checkpoints([work / "epoch-0.pt"]).checkpoints), work / "out.pt", overwrite=True)
    record = json.loads(open_single(work / "out.pt").metadata["swa_cli"])
    put_record(work / "out.pt", record | {"sources": sources, "n_averaged": len(sources)} | fields)
    return work / "out.pt"


@pytest.mark.parametrize(
    "where", ["absolute name", "absolute folder", "name up", "folder up", "link", "link of a folder"]
)
def test_a_record_leads_to_no_file_of_others(tmp_path, secret, where, run_swa, monkeypatch):
    """Wherever it leads, what a file holds that is no checkpoint is not said."""
    names = {"absolute name": str(secret), "name up": "../private/secret.txt", "link": "link.pt"}
    folders = {"absolute folder": str(secret.parent), "folder up": "../private", "link of a folder": "linked"}
    source = {"name": names.get(where, "secret.txt"), "step": 0, "size": secret.stat().st_size}
    path = forged(tmp_path / "work", [source], folder=folders.get(where, "."))
    (tmp_path / "work/link.pt").symlink_to(secret)
    (tmp_path / "work/linked").symlink_to(secret.parent)
    monkeypatch.chdir(tmp_path / "work")

    result = run_swa("verify", path.name)
    told = run_swa("verify", path.name, "--sources", tmp_path)

    for said in (result, told):
        assert (said.exit_code, said.stdout) == (1, "")
        assert "hunter2" not in said.stderr
        assert "r00t" not in said.stderr
    if "link" in where:
        assert "cannot be read as a checkpoint. swa inspect shows" in result.stderr
    else:
        assert "--sources" in result.stderr
        assert "cannot be read as a checkpoint. swa inspect shows" in told.stderr


@pytest.mark.parametrize("kind", ["FIFO", "folder", "device", "empty", "of another size", "of /proc"])
def test_a_source_is_opened_only_if_it_can_be_what_was_averaged(tmp_path, kind, monkeypatch):
    path = forged(tmp_path / "work", [{"name": "x.pt", "step": 0, "size": 0 if kind in {"empty", "of /proc"} else 99}])
    source = tmp_path / "work" / "x.pt"
    if kind == "FIFO":
        os.mkfifo(source)
    elif kind == "folder":
        source.mkdir()
    elif kind in {"device", "of /proc"}:
        source.symlink_to({"device": "/dev/zero", "of /proc": "/proc/self/environ"}[kind])
    else:
        source.write_bytes(b"" if kind == "empty" else b"root:*:2")
    swa = open_single(path)
    monkeypatch.setattr("swa_cli.averaging.recorded_sources.open_checkpoint", lambda *_, **__: pytest.fail("opened"))

    with pytest.raises(
        SourceError,
        match=r"x\.pt (cannot be read: it is a .*, not a regular file|was another then: expected .*, found \d+)",
    ):
        verify(swa)


@pytest.mark.parametrize("other", ["epoch-0.pt", "./epoch-0.pt", "link.pt", "hard.pt"])
def test_a_source_is_named_once(tmp_path, other):
    path = forged(tmp_path / "work", [{"name": name, "step": 0} for name in ("epoch-0.pt", other)])
    (tmp_path / "work" / "link.pt").symlink_to("epoch-0.pt")
    (tmp_path / "work" / "hard.pt").hardlink_to(tmp_path / "work" / "epoch-0.pt")

    with pytest.raises(SourceError, match="its record names a source twice"):
        verify(open_single(path))


def test_names_that_no_file_can_have(tmp_path):
    for name in ("x" * 5000, "x/" * 3000 + "y"):
        path = forged(tmp_path / "work", [{"name": name, "step": 0}])
        for sources in (None, tmp_path):
            with pytest.raises(SourceError, match="File name too long"):
                verify(open_single(path), sources=sources)


def test_sources_are_found_below_the_folder_that_is_named(tmp_path):
    path = written(tmp_path, "safetensors")
    (tmp_path / "moved" / "version_0").mkdir(parents=True)
    shutil.move(tmp_path / "run", tmp_path / "moved" / "version_0" / "checkpoints")

    assert verify(open_single(path), sources=tmp_path / "moved").n_sources == 4


def test_sources_that_moved_have_names_and_no_patterns(tmp_path):
    run = save_states(tmp_path / "run")
    for path in run.iterdir():
        path.rename(path.with_name(path.name.replace("epoch-", "m[0]-")))
    average(plan_average(find_checkpoints([run]).checkpoints), tmp_path / "out.pt")
    (tmp_path / "moved").mkdir()
    run.rename(tmp_path / "moved/deeper")

    assert verify(open_single(tmp_path / "out.pt"), sources=tmp_path / "moved").n_sources == 4


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("names", [("w", "tied"), ("0", "1"), ("module.w", "head"), ("head", "a.module.w"), ("w", "é")])
def test_tied_names_of_any_form(tmp_path, kind, names):
    (tmp_path / "run").mkdir()
    for step in range(2):
        shared = torch.randn(700)
        state = dict.fromkeys(names, shared) | {"module.other": torch.randn(700), "last": torch.randn(3)}
        torch.save({"state_dict": state}, tmp_path / f"run/{step}.pth")

    path = written(tmp_path, kind, tmp_path / "run")

    average = open_single(path)
    assert {*average.tensors} == {*names, "module.other", "last"}
    assert average.tensors[names[0]] == average.tensors[names[1]]
    assert verify(average).n_tensors == 3


def test_a_tied_tensor_that_is_another_by_now(tmp_path):
    shared = torch.randn(3)
    torch.save({"a": shared, "b": shared}, tmp_path / "1.pt")
    average(plan_average(find_checkpoints([tmp_path / "1.pt"]).checkpoints), tmp_path / "out.pt")
    record = json.loads(open_single(tmp_path / "out.pt").metadata["swa_cli"])
    torch.save({"a": shared.clone(), "b": shared + 1}, tmp_path / "out.pt")
    put_record(tmp_path / "out.pt", record)

    with pytest.raises(VerifyError, match="the record is damaged: it has 1 fingerprints of 2 tensors"):
        verify(open_single(tmp_path / "out.pt"))


def test_it_says_which_side_was_changed(tmp_path):
    path = written(tmp_path, "pt")
    flip(open_single(path), "a.weight", 3, bit=30)
    with pytest.raises(VerifyError, match=r"a\.weight differs at .*; the average was changed, its sources were not"):
        verify(open_single(path))

    flip(open_single(path), "a.weight", 3, bit=30)
    flip(open_single(tmp_path / "run" / "epoch-2.pth"), "b.weight", 3, bit=2)
    with pytest.raises(VerifyError, match=r"tensor b\.weight: a source holds other values than when it was averaged\n"):
        verify(open_single(path))


def test_names_that_are_no_unicode(tmp_path):
    run = tmp_path / os.fsdecode(b"run-\xff")
    save_states(run)
    for file in list(run.iterdir()):
        file.rename(run / os.fsdecode(b"\xe9-" + os.fsencode(file.name)))
    sources = find_checkpoints([run]).checkpoints
    like = Like(checkpoint=sources[0], key=None)

    average(plan_average(sources), Target(path=tmp_path / "out.pth", like=like), checksum=True)

    assert verify(open_single(tmp_path / "out.pth")).has_checksums


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("sources", []),
        ("fingerprints", "zz" * 8),
        ("fingerprints", "00" * 8),
        ("options", {"dtype": "int64"}),
        ("options", {"dtype": "foo"}),
        ("sources", [{"name": "run/epoch-0.pth", "step": 0, "weight": float("nan")}]),
        ("sources", [{"name": "epoch-0.pth", "step": 0, "weight": -1.0}] * 2),
        ("sources", [{"name": "../../../../etc/passwd", "step": 0}]),
        ("sources", [{"name": "epoch-0.pth", "step": 0, "sha256": {"other": "00"}}] * 4),
        ("folder", "nowhere"),
    ],
)
def test_a_forged_record_is_an_error(tmp_path, where, value):
    path = written(tmp_path, "pt")
    record = json.loads(open_single(path).metadata["swa_cli"])
    record[where] = value
    put_record(path, record)

    with pytest.raises(SwaError) as error:
        verify(open_single(path))

    assert error.value.exit_code == 1
    assert str(path) in str(error.value) or "the record is damaged" in str(error.value)


def test_with_checksums_a_bit_that_no_sum_shows_is_named_too(tmp_path):
    """The lowest of a zero, beside numbers of which it changes nothing even in float64."""
    (tmp_path / "run").mkdir()
    for step, value in enumerate([1.0, 0.0, 1.0]):
        torch.save({"w": torch.full((4,), value), "v": torch.ones(2)}, tmp_path / "run" / f"{step}.pt")
    for name, checksum in (("without", False), ("with", True)):
        plan = plan_average(find_checkpoints([tmp_path / "run"]).checkpoints)
        average(plan, tmp_path / f"{name}.safetensors", checksum=checksum)
    flip(open_single(tmp_path / "run" / "1.pt"), "w", 2, bit=0)

    with pytest.raises(VerifyError, match=r"1\.pt: its SHA-256 was .*\n  tensor w: a source holds other values"):
        verify(open_single(tmp_path / "with.safetensors"))
    assert verify(open_single(tmp_path / "without.safetensors")).n_sources == 3  # as README says


SHARED = """
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.one = nn.Linear(4, 4), nn.BatchNorm1d(4)
        self.other = self.one

    def forward(self, x):
        return self.other(self.linear(self.one(x)))

class Data:
    def train_dataloader(self):
        return DataLoader(TensorDataset(torch.randn(40, 4), torch.zeros(40)), batch_size=8)
"""


def test_statistics_of_a_layer_with_two_names_count_once(tmp_path, run_swa):
    (tmp_path / "sharing.py").write_text(SHARED)
    (tmp_path / "run").mkdir()
    for step in range(2):
        norm = {"weight": torch.rand(4), "bias": torch.rand(4), "running_mean": torch.rand(4),
                "running_var": torch.rand(4), "num_batches_tracked": torch.tensor(step)}  # fmt: skip
        linear = {"linear.weight": torch.randn(4, 4), "linear.bias": torch.randn(4)}
        both = {f"{layer}.{name}": value for layer in ("one", "other") for name, value in norm.items()}
        torch.save({**linear, **both}, tmp_path / f"run/epoch-{step}.pt")
    assert run_swa("average", "run", "-o", "swa.safetensors").exit_code == 0
    code = ("--model", "sharing.py:Net", "--data", "sharing.py:Data")
    updated = run_swa("bn-update", "swa.safetensors", *code)
    assert updated.exit_code == 0, updated.stderr

    found = verify(open_single(tmp_path / "swa.safetensors"))
    assert (found.n_tensors, found.n_bytes) == (4, 4 * (16 + 4 + 4 + 4))
    assert [name.rpartition(".")[2] for name in found.recomputed] == [
        "num_batches_tracked",
        "running_mean",
        "running_var",
    ]


def with_statistics(path: Path) -> Path:
    """What swa-bn-update leaves: statistics that cannot be derived from the sources."""
    swa = open_single(path)
    assert swa.provenance
    update = BnUpdate(model="m.py:M", data="d.py:D", n_samples=9, n_batches=3)
    record = swa.provenance.model_copy(update={"bn_statistics": "recomputed", "bn_update": update})
    target = Target(path=path, like=Like(checkpoint=swa, key=swa.key or None))
    replace_tensors(swa, target, {"bn.running_var": torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5])}, record)
    return path


def small(tmp_path: Path, kind: str) -> list[Path]:
    """An average of a few bytes: what is to be verified, and the files that it consists of."""
    run = tmp_path / "run"
    run.mkdir()
    for step in range(3):
        weight = torch.randn(3, 2)
        state = {"a.weight": weight, "tied": weight, "bn.running_var": torch.rand(5)}
        contents = {"state_dict": state, "epoch": step, "args": {"lr": 0.1}}
        torch.save(contents, run / f"{step}.pth", _use_new_zipfile_serialization="legacy" not in kind)
    path = written(
        tmp_path, kind.split(", ", maxsplit=1)[0], run, weights=[0.25, 0.5, 1] if "weighted" in kind else None
    )
    if "checksums" in kind:
        average(plan_average(find_checkpoints([run]).checkpoints), path, overwrite=True, checksum=True)
    if "recomputed" in kind:
        with_statistics(path)
    return [path, *(sorted(path.iterdir()) if path.is_dir() else [path])]


@pytest.mark.parametrize(
    "kind",
    [
        *KINDS,
        "pt, weighted",
        "pt, checksums",
        "pt, recomputed",
        "safetensors, recomputed",
        "like torch, recomputed",
        "like torch, legacy",
    ],
)
def test_any_flipped_bit_of_any_file_is_found(tmp_path, kind, pytestconfig):
    """A sample; ``--flips 10000000`` flips every bit."""
    path, *files = small(tmp_path, kind)
    verify(open_average(path, key=None))
    chosen = random.Random(kind)
    for file in files:
        whole = file.read_bytes()
        flips = pytestconfig.getoption("--flips") // len(files)
        for bit in chosen.sample(range(8 * len(whole)), min(flips, 8 * len(whole))):
            damaged = bytearray(whole)
            damaged[bit // 8] ^= 1 << bit % 8
            file.write_bytes(damaged)
            with pytest.raises(SwaError):
                verify(open_average(path, key=None))
        file.write_bytes(whole)
    verify(open_average(path, key=None))


def damage(path: Path, before: bytes, after: bytes, *, last: bool = False) -> None:
    whole = path.read_bytes()
    at = whole.rfind(before) if last else whole.find(before)
    assert at >= 0
    assert len(before) == len(after)
    path.write_bytes(whole[:at] + after + whole[at + len(before) :])


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (b"cpu", b"cp5", "what surrounds its tensors is not as it was written"),  # the device of a storage
        (b"PK\x01\x02\x14\x00", b"PK\x01\x02\x14\x01", "what surrounds its tensors is not"),  # who made the entry
        (b"FB", b"FC", "what surrounds its tensors is not as it was written"),  # padding
        (b"ZZZZ", b"ZZXZ", "what surrounds its tensors is not as it was written"),
        (b'"fingerprints"', b'"fingerprintt"', r"the record .*\(its checksum is not that of its contents"),
        (b'"frames"', b'"framez"', r"the record .*\(its checksum is not that of its contents"),
        (b'"digest"', b'"digesu"', r"the record .*\(it has no checksum"),
        (b'"weight":1.0', b'"weight":1.1', r"the record .*\(its checksum is not that of its contents"),
    ],
)
def test_it_says_what_is_not_as_it_was_written(tmp_path, before, after, expected):
    path, _ = small(tmp_path, "pt")
    damage(path, before, after)

    with pytest.raises(SwaError, match=expected):
        verify(open_single(path))


def test_files_beside_the_weights(tmp_path, run_swa):
    for step in range(2):
        folder = tmp_path / f"run/checkpoint-{step}"
        folder.mkdir(parents=True)
        save_file({"a": torch.randn(9), "b": torch.randn(9)}, folder / "model.safetensors")
        (folder / "config.json").write_text("{}")
        (folder / "tokenizer.json").write_text('{"a": 1}')
    assert run_swa("average", "run", "--like", "run/checkpoint-1", "-o", "out").exit_code == 0
    assert (
        run_swa("verify", "out").stdout
        == "out/model.safetensors is the average of its 2 sources, bit for bit: 2 tensors, 72 B.\n"
    )

    damage(tmp_path / "out/tokenizer.json", b"1", b"2")
    assert "out/tokenizer.json: its content is not as it was written" in run_swa("verify", "out").stderr
    (tmp_path / "out/tokenizer.json").unlink()
    assert run_swa("verify", "out").stdout.endswith("Files that no longer exist: tokenizer.json.\n")
    (tmp_path / "out/model.safetensors").rename(tmp_path / "other.safetensors")
    assert run_swa("verify", "other.safetensors", "--sources", "run").exit_code == 0


def test_an_average_is_verified_under_another_name(tmp_path):
    for kind in ("safetensors", "pt"):
        (tmp_path / kind).mkdir()
        path, _ = small(tmp_path / kind, kind)
        moved = path.rename(path.with_name(f"best.{kind}"))

        assert verify(open_single(moved)).has_frames


def test_of_an_older_average_it_says_that_only_the_tensors_were_compared(tmp_path, run_swa):
    path, _ = small(tmp_path, "pt")
    put_record(path, json.loads(open_single(path).metadata["swa_cli"]))

    result = run_swa("verify", path.name)

    assert result.exit_code == 0
    assert "Its provenance has no checksums (an older version of swa-cli): only the tensors" in result.stdout


@pytest.mark.parametrize("kind", ["safetensors", "pt", "like torch"])
def test_statistics_that_were_recomputed_are_held_to_their_checksum(tmp_path, kind):
    path, _ = small(tmp_path, f"{kind}, recomputed")
    assert verify(open_average(path, key=None)).recomputed == ("bn.running_var",)
    flip(open_average(path, key=None), "bn.running_var", 3, bit=0)

    with pytest.raises(VerifyError, match=r"tensor bn\.running_var: it is not what was recomputed for the average"):
        verify(open_average(path, key=None))
