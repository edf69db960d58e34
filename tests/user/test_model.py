"""Models and data modules: found, built, filled, and what goes wrong with them."""

import sys

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from swa_cli.errors import DataError, MismatchError, UserCodeError
from swa_cli.formats import open_checkpoint
from swa_cli.user.datamodule import batches_of, build_data_module, choose_split, iterate, length_of
from swa_cli.user.import_object import load_target
from swa_cli.user.model import build_model, load_checkpoint, own_names, prefix_note, state_dict_for

CODE = """
import helper_beside_it
from torch import nn

LIMIT = 3
instance = nn.Linear(1, 1)

class Net(nn.Linear):
    def __init__(self, width=helper_beside_it.WIDTH):
        super().__init__(width, 2)

def make(**kwargs):
    return Net(**kwargs)

def fails():
    raise ValueError("no such architecture")

def not_a_model():
    return 3
"""


@pytest.fixture
def code(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    known = set(sys.modules)
    (tmp_path / "usernet.py").write_text(CODE)
    (tmp_path / "helper_beside_it.py").write_text("WIDTH = 5\n")
    yield tmp_path / "usernet.py"
    for name in set(sys.modules) - known:
        if str(tmp_path) in (getattr(sys.modules[name], "__file__", None) or ""):
            del sys.modules[name]


@pytest.mark.parametrize("target", ["{code}:Net", "{code}:make", "usernet.py:Net", "usernet.Net", "usernet.make"])
def test_a_model_is_found_in_a_file_or_a_package(code, target):
    model = build_model(target.format(code=code), {"width": 7})

    assert isinstance(model, nn.Linear)
    assert model.in_features == 7
    assert build_model(target.format(code=code), {}).in_features == 5  # pyright: ignore


def test_a_file_and_a_dotted_name_are_one_module(code):
    assert load_target(f"{code}:Net", what="model") is load_target("usernet.Net", what="model")


def test_a_file_named_like_an_installed_module_does_not_hide_it(code):
    (code.parent / "json.py").write_text("class Net: pass\n")

    found = load_target("json.py:Net", what="model")

    assert found.__module__.endswith("_json")  # pyright: ignore
    import json

    assert json.dumps([1]) == "[1]"


def test_torchvision_models_are_found():
    model = build_model("torchvision.models.resnet18", {"num_classes": 3})

    assert model.fc.out_features == 3  # pyright: ignore


@pytest.mark.parametrize(
    ("target", "arguments", "message"),
    [
        ("gone.py:Net", {}, "there is no file gone.py"),
        ("no_such_package.Net", {}, "there is no module 'no_such_package'"),
        ("Net", {}, "expected path/to/file.py:Name or package.module.Name"),
        ("usernet.py:Nat", {}, r"usernet\.py has no 'Nat'\. Did you mean Net\?"),
        ("json.py:Nat", {}, r"model 'json\.py:Nat': json\.py has no 'Nat'\.$"),
        ("torch.nn.Liner", {}, r"torch\.nn has no 'Liner'\. Did you mean Linear\?"),
        ("usernet.py:LIMIT", {}, "is a int, expected a class or a function"),
        ("usernet.py:not_a_model", {}, "gave a int, expected a torch.nn.Module"),
        ("usernet.py:fails", {}, r"failed: ValueError: no such architecture \(at .*usernet\.py:16\)"),
        ("usernet.py:Net", {"depth": 3}, r"building the model usernet.py:Net\(depth=3\) failed: TypeError"),
        ("broken.py:Net", {}, r"importing .*broken\.py failed: SyntaxError"),
        ("imports_gone.py:Net", {}, "No module named 'not_installed_here'"),
    ],
)
def test_what_goes_wrong_with_a_target_is_said(code, target, arguments, message):
    (code.parent / "broken.py").write_text("class Net(:\n")
    (code.parent / "json.py").write_text("")
    (code.parent / "imports_gone.py").write_text("import not_installed_here\n")

    with pytest.raises(UserCodeError, match=message):
        build_model(target, arguments)


def test_a_script_that_exits_or_reads_its_arguments_does_not_end_ours(code):
    (code.parent / "script.py").write_text(
        "import argparse, sys\nfrom torch import nn\n"
        "args = argparse.ArgumentParser().parse_args()\n"
        "class Net(nn.Linear):\n    def __init__(self): super().__init__(2, 2)\n"
        "def leaves(): sys.exit(0)\n"
    )
    arguments = list(sys.argv)

    assert isinstance(build_model("script.py:Net", {}), nn.Linear)
    with pytest.raises(
        UserCodeError, match=r"building the model script\.py:leaves\(\) failed: it called sys\.exit\(0\)"
    ):
        build_model("script.py:leaves", {})
    assert sys.argv == arguments


def test_a_file_without_a_name_says_what_is_missing(code):
    with pytest.raises(UserCodeError, match=r"'usernet\.py': expected path/to/file\.py:Name"):
        build_model("usernet.py", {})


class Holder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.module = nn.Linear(3, 2)


@pytest.mark.parametrize(
    "wrap", [Holder, lambda: torch.compile(nn.Linear(3, 2)), lambda: nn.DataParallel(nn.Linear(3, 2))]
)
def test_a_model_that_is_itself_wrapped_is_filled(tmp_path, wrap):
    source, model = wrap(), wrap()
    torch.save(source.state_dict(), tmp_path / "x.pt")

    load_checkpoint(model, open_checkpoint(tmp_path / "x.pt"))

    for name, tensor in source.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(4, 2)
        self.head = nn.Linear(2, 4, bias=False)
        self.head.weight = self.embed.weight
        self.norm = nn.BatchNorm1d(2)


def saved(state, path):
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    return open_checkpoint(path)


def test_a_checkpoint_fills_the_model(tmp_path):
    source, model = nn.Linear(3, 2), nn.Linear(3, 2)

    load_checkpoint(model, saved(source.state_dict(), tmp_path / "x.safetensors"))

    assert torch.equal(model.weight, source.weight)
    assert torch.equal(model.bias, source.bias)


def test_a_tied_tensor_that_the_file_has_once_is_enough(tmp_path):
    state = {name: tensor for name, tensor in Tied().state_dict().items() if name != "head.weight"}

    filled = state_dict_for(Tied(), saved(state, tmp_path / "x.safetensors"))

    assert torch.equal(filled["head.weight"], state["embed.weight"])


def test_weights_are_converted_to_the_model_s_dtype(tmp_path):
    state = {name: tensor.to(torch.bfloat16) for name, tensor in nn.Linear(3, 2).state_dict().items()}

    filled = state_dict_for(nn.Linear(3, 2), saved(state, tmp_path / "x.safetensors"))

    assert filled["weight"].dtype == torch.float32


def test_lazy_layers_take_their_shape_from_the_file(tmp_path):
    source, model = nn.Linear(3, 2), nn.LazyLinear(2)

    load_checkpoint(model, saved(source.state_dict(), tmp_path / "x.safetensors"))

    assert torch.equal(model.weight, source.weight)


def test_missing_unexpected_and_reshaped_keys_are_each_listed(tmp_path):
    state = {"weight": torch.zeros(2, 4), "extra": torch.zeros(1)}

    with pytest.raises(MismatchError) as caught:
        load_checkpoint(nn.Linear(3, 2), saved(state, tmp_path / "x.safetensors"))

    assert str(caught.value).splitlines() == [
        f"{tmp_path / 'x.safetensors'} does not fit the model Linear.",
        "1 missing from the file:",
        "  bias",
        "1 unexpected in the file:",
        "  extra",
        "1 of another shape:",
        "  weight: the model has [2, 3], the file [2, 4]",
        "Check --model and --model-arg: it must be built as it was for the training run.",
    ]


class Wraps(nn.Module):
    """As a LightningModule does."""

    def __init__(self, net: nn.Module, name: str = "net") -> None:
        super().__init__()
        self.add_module(name, net)


def small() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


@pytest.mark.parametrize(
    ("prefix", "wrap", "note"),
    [
        ("model.", small, "begin with 'model.', those of the model Sequential with no prefix"),
        ("lit.model.", small, "begin with 'lit.model.', those of the model Sequential with no prefix"),
        ("", lambda: Wraps(small()), "begin with no prefix, those of the model Wraps with 'net.'"),
        ("model.", lambda: Wraps(small()), "begin with 'model.', those of the model Wraps with 'net.'"),
        ("net.", lambda: Wraps(small()), None),
    ],
)
def test_a_prefix_that_only_the_file_or_the_model_has_is_stripped_and_said(tmp_path, prefix, wrap, note):
    source, model = small(), wrap()
    nn.init.normal_(source[1].running_mean)  # pyright: ignore
    checkpoint = saved(
        {prefix + name: value for name, value in source.state_dict().items()}, tmp_path / "x.safetensors"
    )
    load_checkpoint(model, checkpoint)

    loaded = model.net if isinstance(model, Wraps) else model
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in source.state_dict().items())  # pyright: ignore
    assert own_names(model, checkpoint).keys() == {*checkpoint.tensors}
    said = prefix_note(model, checkpoint)
    assert said is None if note is None else said is not None and note in said


def wide() -> nn.Sequential:
    return nn.Sequential(nn.Linear(300, 2), nn.BatchNorm1d(2))


@pytest.mark.parametrize(
    "beside",
    [
        {"criterion.weight": torch.ones(2)},
        {"train_acc.tp": torch.ones(5_000, dtype=torch.int64), "loss_fn.pos_weight": torch.ones(1)},
        {"scale": torch.ones(())},
    ],
)
def test_the_loss_and_metrics_beside_the_network_of_a_lightning_module_are_left_out_and_said(tmp_path, beside):
    source, model = wide(), wide()
    state = {f"model.{name}": value for name, value in source.state_dict().items()}
    checkpoint = saved(state | beside, tmp_path / "x.safetensors")

    load_checkpoint(model, checkpoint)

    assert all(torch.equal(value, model.state_dict()[name]) for name, value in source.state_dict().items())
    assert own_names(model, checkpoint).keys() == state.keys()
    said = prefix_note(model, checkpoint)
    assert said is not None
    assert all(name in said for name in beside)
    assert "begin with 'model.', those of the model Sequential with no prefix" in said


@pytest.mark.parametrize(
    "beside",
    [
        {"head.weight": torch.ones(2, 100)},
        {"norm.running_mean": torch.zeros(2)},
        {"model.2.weight": torch.ones(2)},
    ],
)
def test_another_network_behind_another_prefix_is_refused(tmp_path, beside):
    state = {f"model.{name}": value for name, value in wide().state_dict().items()}

    with pytest.raises(MismatchError, match="unexpected in the file"):
        load_checkpoint(wide(), saved(state | beside, tmp_path / "x.safetensors"))


@pytest.mark.parametrize(
    "state",
    [
        {"model.0.weight": torch.zeros(2, 3), "criterion.weight": torch.zeros(2)},
        {"model.0.weight": torch.zeros(2, 3), "0.bias": torch.zeros(2)},
        {"model.head.weight": torch.zeros(2, 3), "model.head.bias": torch.zeros(2)},
    ],
)
def test_other_names_than_those_behind_one_prefix_are_refused(tmp_path, state):
    with pytest.raises(MismatchError, match="missing from the file"):
        load_checkpoint(small(), saved(state, tmp_path / "x.safetensors"))


class Module:
    """A data module that writes down what is called."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def prepare_data(self) -> None:
        self.calls.append("prepare_data")

    def setup(self, stage: str) -> None:
        self.calls.append(f"setup {stage}")

    def train_dataloader(self):
        return [1, 2]

    def val_dataloader(self):
        return [[1], [2]]


def test_a_data_module_is_prepared_as_lightning_does():
    module = Module()

    assert list(batches_of(module, "train")) == [1, 2]
    assert module.calls == ["prepare_data", "setup fit"]


def test_only_the_loader_is_needed():
    class Bare:
        def test_dataloader(self):
            return [3]

    assert list(batches_of(Bare(), "test")) == [3]
    assert choose_split(Bare()) == "test"


def test_without_test_data_the_validation_data_are_taken():
    assert choose_split(Module()) == "val"


def test_lightning_s_own_placeholder_is_no_loader():
    def placeholder(self):
        raise RuntimeError("`test_dataloader` must be implemented to be used with the Lightning Trainer")

    placeholder.__module__ = "lightning.pytorch.core.hooks"
    module = type("Lit", (Module,), {"test_dataloader": placeholder})()

    assert choose_split(module) == "val"
    with pytest.raises(UserCodeError, match=r"Lit has no test_dataloader\(\)"):
        batches_of(module, "test")


def test_a_module_without_loaders_says_which_are_needed():
    with pytest.raises(UserCodeError, match=r"object has no train_dataloader\(\), which is needed here"):
        batches_of(object(), "train")
    with pytest.raises(UserCodeError, match=r"neither test_dataloader\(\) nor val_dataloader\(\)"):
        choose_split(object())


def test_a_failing_setup_and_several_loaders_are_errors():
    class Fails(Module):
        def setup(self, stage: str) -> None:
            raise FileNotFoundError("images/")

    class Several:
        def train_dataloader(self):
            loader = torch.utils.data.DataLoader([1, 2])  # pyright: ignore
            return loader, loader

    with pytest.raises(UserCodeError, match=r"Fails\.setup\('fit'\) failed: FileNotFoundError: images/"):
        batches_of(Fails(), "train")
    with pytest.raises(UserCodeError, match="gave a tuple, expected one loader of batches"):
        batches_of(Several(), "train")


def test_a_worker_that_dies_is_one_error():
    class Dies(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return 4

        def __getitem__(self, index: int):
            raise ValueError(f"bad image {index}\nsee the manual")

    loader = torch.utils.data.DataLoader(Dies(), batch_size=2, num_workers=1)

    with pytest.raises(
        UserCodeError,
        match=r"loading batch 0 failed: ValueError: bad image 0 see the manual",
    ):
        list(iterate(loader))


def test_a_loader_without_length_or_batches():
    assert length_of(iter([1])) is None
    assert length_of([1, 2]) == 2
    with pytest.raises(DataError, match="loader is empty"):
        list(iterate([]))


def test_a_data_module_is_built_with_its_arguments(code):
    (code.parent / "userdata.py").write_text(
        "class Data:\n    def __init__(self, root, size):\n        self.got = root, size\n"
    )

    assert build_data_module("userdata.py:Data", {"root": "x", "size": 3}).got == ("x", 3)  # pyright: ignore
