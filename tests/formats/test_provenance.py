"""The record that an output holds of itself: what is read is what was written, or a message about that file."""

import json
import math
import zipfile
from datetime import date

import pytest
import torch
from safetensors.torch import save_file

from swa_cli.errors import CheckpointError
from swa_cli.formats import BnUpdate, Provenance, Source, open_checkpoint
from swa_cli.formats.provenance_text import read_provenance, to_metadata

UPDATE = {"model": "net.py:Net", "data": "data.py:Data", "n_samples": 90, "n_batches": 3}


def record_of(**fields) -> Provenance:
    update = BnUpdate.model_validate(UPDATE | fields)
    source = Source(name="epoch-1.pt", step=1)
    return Provenance(
        n_averaged=1, sources=(source,), bn_statistics="recomputed", bn_update=update, frozen_bn=("a.bn",)
    )


def test_the_record_of_recomputed_statistics_is_read_as_it_was_written():
    arguments = {"root": "data", "day": date(2024, 5, 1), "sizes": (1, 2), "scale": math.nan, "only": {"b", "a"},
                 "deep": {3: [None, True, 0.5, b"\x00"]}, "odd": "\udce9"}  # fmt: skip
    record = record_of(
        model="\udce9.py:Net",
        model_args={"width": 6},
        data_args=arguments,
        estimator="sequential",
        batch_size=64,
        seed=3,
        eval_transforms=True,
        amp="bf16",
        standard_error=0.004,
        kept={"a.bn": "frozen in training", "\udce9.bn": "no batch reached it"},
        unreached=("\udce9.bn",),
    )

    read = read_provenance(to_metadata(record))

    assert read == record
    assert read is not None
    assert read.bn_update is not None
    assert read.bn_update.data_args == {
        "root": "data",
        "day": "2024-05-01",
        "sizes": [1, 2],
        "scale": "nan",
        "only": ["a", "b"],
        "deep": {"3": [None, True, 0.5, r"b'\x00'"]},
        "odd": r"\udce9",
    }
    assert (read.bn_update.model, read.bn_update.unreached) == (r"\udce9.py:Net", (r"\udce9.bn",))
    assert read.bn_update.kept == {"a.bn": "frozen in training", r"\udce9.bn": "no batch reached it"}
    assert read.frozen_bn == ("a.bn",)


def test_an_argument_that_holds_itself_can_be_recorded():
    endless: dict[str, object] = {}
    endless["self"] = endless

    record = record_of(data_args=endless)

    assert read_provenance(to_metadata(record)) == record


@pytest.mark.parametrize("unknown", [math.inf, math.nan, None])
def test_a_standard_error_that_is_no_number_is_not_known(unknown):
    record = record_of(standard_error=unknown)

    assert record.bn_update is not None
    assert record.bn_update.standard_error is None
    assert read_provenance(to_metadata(record)) == record


def test_a_record_of_a_version_that_knew_less_is_read():
    """As swa-cli 0.1.0 wrote it."""
    update = UPDATE | {"unreached": ["bn"], "tensors": {"bn.running_mean": 5}}
    sources = [{"name": "epoch-1.pt", "step": 1, "weight": 1.0, "size": 9, "sha256": {}}]
    written = {"n_averaged": 1, "sources": sources, "bn_statistics": "recomputed", "bn_update": update}

    read = read_provenance({"swa_cli": json.dumps(written)})

    assert read is not None
    assert read.bn_update is not None
    assert read.frozen_bn == ()
    assert (read.bn_update.unreached, read.bn_update.tensors) == (("bn",), {"bn.running_mean": 5})
    assert (read.bn_update.estimator, read.bn_update.seed) == ("population", None)
    assert read.bn_update.standard_error is None
    assert (read.bn_update.kept, read.bn_update.data_args) == ({}, {})


def test_a_file_without_the_key_has_no_record():
    assert read_provenance({"format": "pt"}) is None


PLAIN = {"n_averaged": 1, "sources": [{"name": "epoch-1.pt", "step": 1}], "bn_statistics": "none"}


def changed(**fields: object) -> str:
    return json.dumps(PLAIN | fields)


def updated(**fields: object) -> str:
    return changed(bn_statistics="recomputed", bn_update=UPDATE | fields)


def with_source(**fields: object) -> str:
    return changed(sources=[{"name": "epoch-1.pt", "step": 1} | fields])


BROKEN = {
    "no JSON": ("not json", "Invalid JSON"),
    "no mapping": ("[1, 2]", "should be an object"),
    "nested too deeply": ("[" * 100_000, "recursion limit"),
    "an unknown estimator": (updated(estimator="magic"), "bn_update.estimator: Input should be 'population'"),
    "an unknown precision": (updated(amp="int1"), "bn_update.amp: Input should be 'bf16'"),
    "a count as text": (updated(n_samples="90"), "bn_update.n_samples: Input should be a valid integer"),
    "a seed below zero": (updated(seed=-1), "bn_update.seed: Input should be greater than or equal to 0"),
    "a list for a mapping": (updated(tensors=[]), "bn_update.tensors: Input should be an object"),
    "100,000 wrong sums": (updated(tensors=dict.fromkeys(map(str, range(100_000)), "x")), "expected integers"),
    "100,000 wrong sources": (changed(n_averaged=10**5, sources=[1] * 10**5), "sources.0: Input should be an object"),
    "no source": (changed(sources=[]), "sources: Tuple should have at least 1 item"),
    "another number of sources": (changed(n_averaged=3), "expected 3 sources, found 1"),
    "null in a folder": (changed(folder="a\0b"), "folder: expected a name without a null character"),
    "null in a source": (with_source(name="\0"), "sources.0.name: expected a name without a null character"),
    "a number for a name": (with_source(name=5), "sources.0.name: Input should be a valid string"),
    "a path for a file": (changed(files=["../x"]), "files.0: expected the name of a file"),
    "a negative weight": (with_source(weight=-1.0), "sources.0.weight: Input should be greater than 0"),
    "a weight that is no number": (with_source(weight=math.nan), "Invalid JSON|finite number"),
    "a truth for a size": (with_source(size=True), "sources.0.size: Input should be a valid integer"),
    "fingerprints that are none": (changed(fingerprints="zz"), "fingerprints: String should match"),
    "an integer dtype": (changed(options={"dtype": "int64"}), "options.dtype: expected a floating dtype"),
    "an unknown dtype": (changed(options={"dtype": "float7"}), "options.dtype: expected a floating dtype"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_record_that_is_none_is_named_by_whatever_opens_the_file(tmp_path, kind):
    text, expected = BROKEN[kind]
    save_file({"w": torch.ones(1)}, tmp_path / "x.safetensors", metadata={"swa_cli": text})

    with pytest.raises(CheckpointError, match=rf"x\.safetensors: the record .* cannot be read \(.*({expected})"):
        open_checkpoint(tmp_path / "x.safetensors")


def test_a_record_of_too_many_values_is_not_parsed():
    with pytest.raises(CheckpointError, match="it holds 1,200,000 values, expected at most 1,000,000"):
        read_provenance({"swa_cli": json.dumps([[]] * 600_000)})


@pytest.mark.parametrize("at", [0, 0.3, 0.6, 0.9, -1])
def test_a_record_protects_itself(at):
    record = record_of(kept={"a.bn": "frozen in training"}).model_copy(update={"frames": {"this file": "0" * 64}})
    text = to_metadata(record)["swa_cli"]
    assert read_provenance({"swa_cli": text}) is not None
    place = at if at < 0 else int(at * len(text))
    for bit in range(7):
        damaged = bytearray(text.encode())
        damaged[place] ^= 1 << bit
        with pytest.raises(CheckpointError, match="cannot be read"):
            read_provenance({"swa_cli": damaged.decode()})


@pytest.mark.parametrize("left_out", ["frames", "digest", "", "reordered"])
def test_a_record_that_was_rewritten_is_not_taken_for_an_older_one(left_out):
    """Other JSON with the same values has no checksum of its text at its end."""
    record = record_of().model_copy(update={"frames": {"this file": "0" * 64}})
    values = json.loads(to_metadata(record)["swa_cli"])
    values.pop(left_out, None)
    text = json.dumps(values, sort_keys=left_out == "reordered")

    with pytest.raises(CheckpointError, match=r"cannot be read \(it has no checksum at its end"):
        read_provenance({"swa_cli": text})


CODE = """
import torch
from torch import nn

def net():
    return nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1))

class Data:
    def train_dataloader(self):
        return [(torch.randn(4, 1), torch.zeros(4, dtype=torch.long))]

    test_dataloader = train_dataloader
"""


NAMES = ("0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var")
STATE = {"0.weight": torch.ones(1, 1), "1.num_batches_tracked": torch.tensor(1)} | {
    name: torch.ones(1) for name in NAMES
}
ARGUMENTS = {
    "verify": ("swa",),
    "inspect": ("swa",),
    "average": ("swa", "-o", "second.safetensors"),
    "bn-update": ("swa", "--model", "code.py:net", "--data", "code.py:Data"),
    "eval": ("epoch-0.pt", "epoch-1.pt", "--model", "code.py:net", "--data", "code.py:Data", "--swa", "swa"),
}


@pytest.mark.parametrize("kind", ["an unknown estimator", "null in a folder", "a number for a name"])
@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
@pytest.mark.parametrize("command", ARGUMENTS)
def test_every_command_says_which_record_is_damaged(tmp_path, run_swa, kind, suffix, command):
    (tmp_path / "code.py").write_text(CODE)
    for step in range(2):
        torch.save(STATE, tmp_path / f"epoch-{step}.pt")
    path = tmp_path / f"swa.{suffix}"
    if suffix == "pt":
        torch.save(STATE, path)
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("swa/swa_cli", BROKEN[kind][0])
    else:
        save_file(STATE, path, metadata={"swa_cli": BROKEN[kind][0]})

    result = run_swa(command, *(path.name if argument == "swa" else argument for argument in ARGUMENTS[command]))

    assert result.exit_code == 1, result.stdout
    assert path.name in result.stderr
    assert "the record that swa-cli keeps" in (result.stdout if command == "inspect" else result.stderr)
