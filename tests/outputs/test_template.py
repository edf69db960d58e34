"""Torch files, shards and the structure of other checkpoints, byte by byte."""

import argparse
import collections
import errno
import json
import os
import random
import sys
import warnings
from pathlib import Path

import pytest
import safetensors.torch
import torch
from safetensors import safe_open
from safetensors.torch import load_file, load_model, save_file, save_model
from torch import nn

from support.pickled import Config, things
from support.templates import average_like, huggingface, plan_of, same, state_of_all_kinds
from swa_cli.averaging import average, plan_average, verify
from swa_cli.averaging.average import __name__ as average_module_name
from swa_cli.checkpoints import open_single
from swa_cli.errors import CheckpointError, MismatchError
from swa_cli.formats import open_checkpoint
from swa_cli.formats.torch import pickle_edit, pickle_tree
from swa_cli.formats.torch.unpickle import read_pickle
from swa_cli.outputs import Like, Target
from swa_cli.system.storage import Url


def trained() -> tuple[nn.Sequential, torch.optim.Optimizer]:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(8, 3)).sum().backward()
    optimizer.step()
    return model, optimizer


@pytest.mark.parametrize("is_zip", [True, False])
def test_all_else_is_kept(tmp_path, is_zip):
    values = things()
    del values["itself"]
    for step in (1, 2):
        model, optimizer = trained()
        contents = {
            **values,
            "state_dict": collections.OrderedDict((f"module.{name}", t) for name, t in model.state_dict().items()),
            "optimizer": optimizer.state_dict(),
            "state_dict_ema": trained()[0].state_dict(),
            "epoch": step,
            "rng": torch.get_rng_state(),
            "score": torch.tensor(3.5, requires_grad=True),
        }
        torch.save(contents, tmp_path / f"{step}.pt", _use_new_zipfile_serialization=is_zip)
    average(plan_of(tmp_path / "1.pt", tmp_path / "2.pt"), tmp_path / "plain.pt")

    average_like([tmp_path / "1.pt", tmp_path / "2.pt"], tmp_path / "2.pt", tmp_path / "out.pt")

    before = torch.load(tmp_path / "2.pt", weights_only=False)
    after = torch.load(tmp_path / "out.pt", weights_only=False)
    expected = torch.load(tmp_path / "plain.pt")
    assert list(after) == [name for name in before if name not in {"optimizer", "state_dict_ema"}]
    assert list(after["state_dict"]) == [f"module.{name}" for name in expected]
    assert all(same(after["state_dict"][f"module.{name}"], tensor) for name, tensor in expected.items())
    for name in values:
        assert repr(after[name]) == repr(before[name])
    assert torch.equal(after["rng"], before["rng"])
    assert after["score"].requires_grad


def test_nothing_is_run(tmp_path):
    class Attack:
        def __reduce__(self):
            return Path.touch, (tmp_path / "pwned",)

    torch.save({"state_dict": {"w": torch.ones(2)}, "config": Attack()}, tmp_path / "1.pt")

    average_like([tmp_path / "1.pt"], tmp_path / "1.pt", tmp_path / "out.pt")

    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("seed", range(25))
def test_random_structures_hold_the_same_tensors(tmp_path, seed):
    """Against torch: whatever the nesting, sharing and layout, each weight is the mean and all else is as it was."""
    chosen = random.Random(seed)
    torch.manual_seed(seed)
    kinds = chosen.sample(sorted(state_of_all_kinds()), 6)
    prefix = chosen.choice(["", "module.", "_orig_mod.", "module._orig_mod."])
    where = chosen.choice(["model", "state_dict", "net", "deep.inside"])
    protocol = chosen.choice([2, 3, 4, 5])
    as_parameters, tie, alias = (chosen.random() < 0.5 for _ in range(3))

    def contents(step: int) -> dict[str, object]:
        tensors = {name: tensor for name, tensor in state_of_all_kinds().items() if name in kinds}
        for name, tensor in tensors.items():
            if as_parameters and tensor.is_floating_point() and tensor.is_leaf:
                tensors[name] = nn.Parameter(tensor.contiguous(), requires_grad=step % 2 == 0)
        if not tensors[kinds[0]].is_floating_point():
            tensors["w"] = torch.randn(4)
        if tie:
            tensors["tied"] = tensors[kinds[0]]
        state = collections.OrderedDict((prefix + name, tensor) for name, tensor in tensors.items())
        rest = {"first": next(iter(state.values())).detach()} if alias else {}
        inner: object = {"inside": state} if "." in where else state
        callbacks = {"kept": rest, "list": [rest, rest]}
        return {"epoch": step, where.split(".", maxsplit=1)[0]: inner, "callbacks": callbacks}

    key = "deep.inside" if "." in where else None
    for step in (1, 2, 3):
        torch.save(contents(step), tmp_path / f"{step}.pt", pickle_protocol=protocol)
    sources = [tmp_path / f"{step}.pt" for step in (1, 2, 3)]
    average(plan_average([open_checkpoint(path, key=key) for path in sources], integers="last"), tmp_path / "plain.pt")
    expected = torch.load(tmp_path / "plain.pt")

    plan = plan_average([open_checkpoint(path, key=key) for path in sources], integers="last")
    average(plan, Target(path=tmp_path / "out.pt", like=Like(checkpoint=open_checkpoint(sources[2], key=key), key=key)))

    before, after = (torch.load(path, weights_only=False) for path in (sources[2], tmp_path / "out.pt"))
    states = [loaded["deep"]["inside"] if key else loaded[where] for loaded in (before, after)]
    assert list(states[0]) == list(states[1])
    assert set(states[1]) == {prefix + name for name in expected}
    for name, tensor in states[1].items():
        assert same(tensor.detach(), expected[name[len(prefix) :]])
        assert type(tensor) is type(states[0][name])
        assert tensor.requires_grad == states[0][name].requires_grad
    assert repr(after["callbacks"]).count("first") == (3 if alias else 0)


def test_a_whole_module(tmp_path):
    models = [trained()[0] for _ in range(2)]
    for step, model in enumerate(models):
        torch.save(model, tmp_path / f"{step}.pt")

    average_like([tmp_path / "0.pt", tmp_path / "1.pt"], tmp_path / "1.pt", tmp_path / "out.pt")

    loaded = torch.load(tmp_path / "out.pt", weights_only=False)
    assert isinstance(loaded[0].weight, nn.Parameter)
    first, second = (model.state_dict()["0.weight"].double() for model in models)
    assert torch.equal(loaded[0].weight, ((first + second) / 2).float())
    loaded(torch.randn(4, 3)).sum().backward()
    assert loaded[0].weight.grad is not None


def test_it_may_be_what_is_replaced(tmp_path):
    for step in (1, 2):
        torch.save(
            {"model": {"w": torch.full((3,), float(step))}, "args": Config(1.0, []), "epoch": step},
            tmp_path / f"{step}.pt",
        )
    average_like([tmp_path / "1.pt", tmp_path / "2.pt"], tmp_path / "1.pt", tmp_path / "out.pt")

    plan = plan_of(tmp_path / "2.pt")
    average(
        plan,
        Target(path=tmp_path / "out.pt", like=Like(checkpoint=open_single(tmp_path / "out.pt"), key=None)),
        overwrite=True,
    )

    loaded = torch.load(tmp_path / "out.pt", weights_only=False)
    assert (loaded["model"]["w"].tolist(), loaded["epoch"], loaded["args"]) == ([2, 2, 2], 1, Config(1.0, []))


def test_an_old_one_with_views_of_storages_is_refused(tmp_path):
    contents = {"state_dict": {"w": torch.ones(2)}, "kept": torch.ones(3)}
    torch.save(contents, tmp_path / "1.pt", _use_new_zipfile_serialization=False)
    data = (tmp_path / "1.pt").read_bytes()
    start = data.index(b"\x80\x02}q\x00(X\n\x00\x00\x00state_dict")
    root = pickle_tree.read_tree(data, start)
    ids = [node.parts[0].parts for node in pickle_tree.walk(root) if node.name == "BINPERSID"]
    for parts in ids:
        parts[5] = pickle_edit.plain((parts[2].value, 0, parts[4].value))  # the whole of it
    (tmp_path / "1.pt").write_bytes(
        data[:start] + pickle_tree.write_tree(root) + data[read_pickle(data, start, legacy=True).end :]
    )
    assert len(ids) == 2
    assert open_checkpoint(tmp_path / "1.pt").get_tensor("w").tolist() == [1, 1]

    with pytest.raises(CheckpointError, match=r"1\.pt: it keeps views of storages"):
        average_like([tmp_path / "1.pt"], tmp_path / "1.pt", tmp_path / "out.pt")


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight


def test_a_safetensors_file_keeps_its_names_and_metadata(tmp_path):
    for step in (1, 2):
        tensors = {"module.w": torch.full((2,), float(step)), "module.b": torch.ones(1)}
        save_file(tensors, tmp_path / f"{step}.safetensors", metadata={"format": "pt", "author": "me"})

    average_like(
        [tmp_path / "1.safetensors", tmp_path / "2.safetensors"],
        tmp_path / "1.safetensors",
        tmp_path / "out.safetensors",
    )

    assert {name: tensor.tolist() for name, tensor in load_file(tmp_path / "out.safetensors").items()} == {
        "module.w": [1.5, 1.5], "module.b": [1]
    }  # fmt: skip
    with safe_open(tmp_path / "out.safetensors", "pt") as file:
        assert file.metadata()["author"] == "me"


def test_the_name_of_tied_weights_that_the_file_has_is_kept(tmp_path):
    """Sources that hold both, in the structure of one that holds the other of the two names."""
    models = [Tied() for _ in range(2)]
    for step, model in enumerate(models):
        torch.save(model.state_dict(), tmp_path / f"{step}.pt")
    save_file(
        {"head.weight": torch.zeros(5, 3)}, tmp_path / "like.safetensors", metadata={"embed.weight": "head.weight"}
    )

    average_like([tmp_path / "0.pt", tmp_path / "1.pt"], tmp_path / "like.safetensors", tmp_path / "out.safetensors")

    assert list(load_file(tmp_path / "out.safetensors")) == ["head.weight"]
    loaded = Tied()
    load_model(loaded, tmp_path / "out.safetensors")
    mean = (models[0].embed.weight.double() + models[1].embed.weight.double()) / 2
    assert torch.equal(loaded.embed.weight, mean.float())


def test_tied_weights_of_a_model_that_was_saved_as_safetensors(tmp_path):
    model = Tied()
    save_model(model, str(tmp_path / "1.safetensors"))

    average_like([tmp_path / "1.safetensors"], tmp_path / "1.safetensors", tmp_path / "out.safetensors")

    loaded = Tied()
    load_model(loaded, tmp_path / "out.safetensors")
    assert torch.equal(loaded.head.weight, model.head.weight)
    assert loaded.head.weight is loaded.embed.weight


MODEL_FILES = [
    "chat_template.jinja", "config.json", "generation_config.json", "merges.txt", "modeling_own.py", "spiece.model",
    "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt",
]  # fmt: skip


@pytest.mark.parametrize(
    ("weights", "beside"),
    [
        ("adapter_model.safetensors", ["adapter_config.json", "tokenizer.json", "tokenizer_config.json"]),
        ("adapter_model.bin", ["adapter_config.json"]),
        ("model.safetensors", ["config.json", "config_sentence_transformers.json", "modules.json"]),
        ("open_clip_model.safetensors", ["open_clip_config.json", "merges.txt"]),
        ("diffusion_pytorch_model.safetensors", ["config.json"]),
    ],
)
def test_what_other_loaders_need_beside_the_weights_comes_along(run_swa, tmp_path, weights, beside):
    for step in (1, 2):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        for name in (*beside, "README.md", "optimizer.pt"):
            (folder / name).write_text("{}")
        state = {"layer.lora_A.weight": torch.full((2, 3), float(step))}
        (torch.save if weights.endswith("bin") else save_file)(state, folder / weights)

    result = run_swa("average", "checkpoint-1", "checkpoint-2", "--like", "checkpoint-2", "-o", "averaged")

    assert result.exit_code == 0, result.stderr
    assert sorted(path.name for path in (tmp_path / "averaged").iterdir()) == sorted([weights, *beside])


@pytest.mark.parametrize("sharded", [False, True])
def test_the_files_of_the_model_come_along_and_those_of_the_training_do_not(tmp_path, sharded):
    folders = [huggingface(tmp_path / f"checkpoint-{step}", float(step), sharded=sharded) for step in (1, 2)]

    average_like([open_single(folder).path for folder in folders], folders[1], tmp_path / "out")

    weights = ["model.safetensors"]
    if sharded:
        weights = [f"pytorch_model-0000{n}-of-00002.bin" for n in (1, 2)] + ["pytorch_model.bin.index.json"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted([*MODEL_FILES, *weights])
    for name in MODEL_FILES:
        assert (tmp_path / "out" / name).read_text() == name
    averaged = open_single(tmp_path / "out")
    assert {name: averaged.get_tensor(name).tolist() for name in averaged.tensors} == {
        "a.weight": [1.5] * 4, "b.weight": [1.5] * 6
    }  # fmt: skip
    if sharded:
        index = json.loads((tmp_path / "out" / "pytorch_model.bin.index.json").read_text())
        assert index["metadata"] == {"total_size": 40, "more": 1}
        assert torch.load(tmp_path / "out" / weights[0])["a.weight"].tolist() == [1.5] * 4


def test_another_model_is_refused_tensor_by_tensor(tmp_path):
    torch.save({"a": torch.ones(2), "b": torch.ones(3), "c": torch.ones(1)}, tmp_path / "1.pt")
    torch.save({"a": torch.ones(2), "b": torch.ones(4), "d": torch.ones(1)}, tmp_path / "other.pt")

    with pytest.raises(MismatchError) as error:
        average_like([tmp_path / "1.pt"], tmp_path / "other.pt", tmp_path / "out.pt")

    assert str(error.value).splitlines()[1:4] == [
        "  c: the average has float32 [1], other.pt no such tensor",
        "  d: other.pt has float32 [1], the average no such tensor",
        "  b: the average has float32 [3], other.pt float32 [4]",
    ]
    assert not (tmp_path / "out.pt").exists()


@pytest.mark.parametrize("in_shards", [True, False])
def test_tensors_that_are_one_in_the_average_and_two_there_are_written_twice(tmp_path, in_shards):
    shared = torch.randn(2)
    torch.save({"a": shared, "b": shared}, tmp_path / "1.pt")
    (tmp_path / "like").mkdir()
    if in_shards:
        for name in "ab":
            save_file({name: torch.zeros(2)}, tmp_path / "like" / f"{name}.safetensors")
        where = {"weight_map": {"a": "a.safetensors", "b": "b.safetensors"}}
        (tmp_path / "like" / "model.safetensors.index.json").write_text(json.dumps(where))
    else:
        save_file({"a": torch.zeros(2), "b": torch.zeros(2)}, tmp_path / "like" / "model.safetensors")
    (tmp_path / "like" / "config.json").write_text("{}")

    average_like([tmp_path / "1.pt"], tmp_path / "like", tmp_path / "out")

    written = {
        name: tensor for file in (tmp_path / "out").glob("*.safetensors") for name, tensor in load_file(file).items()
    }
    assert set(written) == {"a", "b"}
    assert all(torch.equal(tensor, shared) for tensor in written.values())
    assert verify(open_single(tmp_path / "out")).n_sources == 1


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_tensors_that_are_two_in_the_average_and_one_there_are_refused(tmp_path, suffix):
    torch.save({"a": torch.ones(2), "b": torch.zeros(2)}, tmp_path / "1.pt")
    shared = torch.ones(2)
    if suffix == ".pt":
        torch.save({"a": shared, "b": shared}, tmp_path / "like.pt")
    else:
        save_file({"a.w": shared}, tmp_path / "like.safetensors", metadata={"b.w": "a.w"})
        save_file({"a.w": torch.ones(2), "b.w": torch.zeros(2)}, tmp_path / "1.pt")

    with pytest.raises(MismatchError, match=r"b(\.w)? and a(\.w)? are one tensor in like\..*, and two in the average"):
        average_like([tmp_path / "1.pt"], tmp_path / f"like{suffix}", tmp_path / f"out{suffix}")


def test_weights_of_others_are_left_out_wherever_they_lie(tmp_path):
    names = ["0.weight", "0.bias", "1.weight", "1.bias"]
    for step in (1, 2):
        model, optimizer = trained()
        others = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        contents = {
            "nets": {"ema": model.state_dict(), "raw": others},
            "ema": {"decay": 0.9, "shadow": {name: others[name] for name in names}},
            "callbacks": {"EMA": {"ema_state_dict": {f"module.{name}": others[name] for name in names}, "n": 3}},
            "opt": argparse.Namespace(lr=0.1),
            "optim": [optimizer.state_dict()],
            "epoch": step,
        }
        torch.save(contents, tmp_path / f"{step}.pt")
    plan = plan_average([open_checkpoint(tmp_path / f"{step}.pt", key="nets.ema") for step in (1, 2)])
    like = Like(checkpoint=open_checkpoint(tmp_path / "2.pt", key="nets.ema"), key="nets.ema")

    result = average(plan, Target(path=tmp_path / "out.pt", like=like))

    assert sorted(result.left_out) == ["callbacks.EMA.ema_state_dict", "ema.shadow", "nets.raw", "optim"]
    loaded = torch.load(tmp_path / "out.pt", weights_only=False)
    assert (loaded["opt"].lr, loaded["ema"], loaded["callbacks"]) == (0.1, {"decay": 0.9}, {"EMA": {"n": 3}})
    first, second = (torch.load(tmp_path / f"{step}.pt", weights_only=False)["nets"]["ema"] for step in (1, 2))
    for name in names:
        assert torch.equal(loaded["nets"]["ema"][name], ((first[name].double() + second[name].double()) / 2).float())


def test_a_key_that_holds_a_dot_itself(tmp_path):
    torch.save({"model.ema": {"w": torch.ones(2)}, "epoch": 1}, tmp_path / "1.pt")

    average_like([tmp_path / "1.pt"], tmp_path / "1.pt", tmp_path / "out.pt", key="model.ema")

    assert torch.load(tmp_path / "out.pt")["model.ema"]["w"].tolist() == [1, 1]


def test_another_view_of_a_weight_is_refused(tmp_path):
    flat = torch.randn(4)
    torch.save({"model": {"w": flat.view(2, 2)}, "flat": flat}, tmp_path / "1.pt")

    with pytest.raises(CheckpointError, match="beside the weights it holds another view of tensor w"):
        average_like([tmp_path / "1.pt"], tmp_path / "1.pt", tmp_path / "out.pt")


def test_two_dtypes_at_one_place(tmp_path):
    raw = torch.tensor([0x3C, 0x40], dtype=torch.uint8)
    torch.save({"a": raw.view(torch.float8_e4m3fn), "b": raw.view(torch.float8_e5m2)}, tmp_path / "1.pt")

    average_like([tmp_path / "1.pt"], tmp_path / "1.pt", tmp_path / "out.pt")

    before, after = (torch.load(tmp_path / name) for name in ("1.pt", "out.pt"))
    assert all(same(after[name], before[name]) for name in "ab")


def test_what_is_no_tensor_in_a_later_shard(tmp_path):
    for step in (1, 2):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        parts = {"a.bin": {"a": torch.ones(2)}, "b.bin": {"b": torch.ones(2), "b._extra_state": {"v": step}}}
        for name, part in parts.items():
            torch.save(part, folder / name)
        where = {tensor: name for name, part in parts.items() for tensor in part}
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": where, "metadata": [1]}))
        (folder / "config.json").write_text("{}")

    folders = [tmp_path / f"checkpoint-{step}" for step in (1, 2)]
    average_like([open_single(folder).path for folder in folders], folders[0], tmp_path / "out")

    assert torch.load(tmp_path / "out" / "b.bin")["b._extra_state"] == {"v": 2}
    assert verify(open_single(tmp_path / "out")).n_sources == 2


@pytest.mark.parametrize("reason", [errno.EACCES, errno.ELOOP, errno.EIO])
def test_a_file_beside_like_that_cannot_be_read_is_named(tmp_path, store, reason):
    weights = safetensors.torch.save({"w": torch.ones(2)})
    store.add("like/model.safetensors", weights)
    store.add("like/config.json", b"{}")
    like = open_checkpoint(Url("store://like/model.safetensors"))

    def refuse(path, content):
        if path.endswith("config.json"):
            raise OSError(reason, os.strerror(reason), path)
        return content

    store.answer = refuse
    with pytest.raises(
        CheckpointError, match=rf"config\.json: cannot be read, and `like` copies it: {os.strerror(reason)}"
    ):
        average(plan_average([like]), Target(path=tmp_path / "out", like=Like(checkpoint=like, key=None)))
    assert not (tmp_path / "out").exists()


def test_what_is_no_tensor_and_was_not_there(tmp_path):
    torch.save({"state_dict": {"w": torch.ones(2), "_extra_state": [3]}}, tmp_path / "1.pt")
    torch.save({"state_dict": {"w": torch.ones(2)}}, tmp_path / "like.pt")

    average_like([tmp_path / "1.pt"], tmp_path / "like.pt", tmp_path / "out.pt")

    assert torch.load(tmp_path / "out.pt")["state_dict"]["_extra_state"] == [3]


def test_a_structure_that_is_replaced_meanwhile(tmp_path, monkeypatch):
    torch.save({"model": {"w": torch.ones(2)}, "rng": torch.arange(9)}, tmp_path / "1.pt")
    torch.save({"model": {"w": torch.ones(2)}, "rng": torch.arange(9)}, tmp_path / "like.pt")
    like = Like(checkpoint=open_checkpoint(tmp_path / "like.pt"), key=None)
    average_module = sys.modules[average_module_name]
    stream = average_module.stream_average

    def replacing(*arguments, **options):
        torch.save({"model": {"w": torch.ones(2)}, "rng": torch.zeros(9)}, tmp_path / "new.pt")
        (tmp_path / "new.pt").replace(tmp_path / "like.pt")
        return stream(*arguments, **options)

    monkeypatch.setattr(average_module, "stream_average", replacing)

    with pytest.raises(CheckpointError, match=r"like\.pt was changed while it was read"):
        average(plan_of(tmp_path / "1.pt"), Target(path=tmp_path / "out.pt", like=like))
    assert not (tmp_path / "out.pt").exists()


def test_an_old_whole_module(tmp_path):
    model = trained()[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch cannot find the source of some classes
        torch.save(model, tmp_path / "1.pt", _use_new_zipfile_serialization=False)

    average_like([tmp_path / "1.pt"], tmp_path / "1.pt", tmp_path / "out.pt")

    loaded = torch.load(tmp_path / "out.pt", weights_only=False)
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in loaded.state_dict().items())


def test_a_folder_of_several_checkpoints_is_no_structure(tmp_path, run_swa):
    for step in (1, 2):
        torch.save({"w": torch.ones(2)}, tmp_path / f"{step}.pt")

    result = run_swa("average", "1.pt", "--like", ".", "-o", "out.pt")

    assert result.exit_code == 1
    assert "expected a checkpoint or a directory that holds one, found . with 1.pt, 2.pt" in result.stderr


def test_a_damaged_structure_is_an_error_of_that_file(tmp_path):
    torch.save({"state_dict": {"w": torch.ones(2)}}, tmp_path / "1.pt")
    plan, checkpoint = plan_of(tmp_path / "1.pt"), open_checkpoint(tmp_path / "1.pt")
    torch.save({"nothing": 1}, tmp_path / "1.pt")

    with pytest.raises(CheckpointError, match=r"1\.pt"):
        average(plan, Target(path=tmp_path / "out.pt", like=Like(checkpoint=checkpoint, key=None)))
