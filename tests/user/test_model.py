"""Models and data modules: found, built, filled, and what goes wrong with them."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from swa_cli.errors import MismatchError
from swa_cli.formats import open_checkpoint
from swa_cli.user.model import load_checkpoint, own_names, prefix_note, state_dict_for


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
        "Check `model` and `model.init_args`: build the model as in the training run.",
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
        ("model.", small, "start with 'model.', those of the model Sequential with no prefix"),
        ("lit.model.", small, "start with 'lit.model.', those of the model Sequential with no prefix"),
        ("", lambda: Wraps(small()), "start with no prefix, those of the model Wraps with 'net.'"),
        ("model.", lambda: Wraps(small()), "start with 'model.', those of the model Wraps with 'net.'"),
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
    assert "start with 'model.', those of the model Sequential with no prefix" in said


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
