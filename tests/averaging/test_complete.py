"""What would average only some of a model's weights is refused; what lies beside a model is not taken for them."""

import warnings

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from swa_cli.averaging import plan_average
from swa_cli.checkpoints import find_checkpoints
from swa_cli.errors import CheckpointError, SourceError
from swa_cli.formats import open_checkpoint

LAYERS = {
    f"{layer}.{name}": torch.randn(8, 8) if name == "weight" else torch.randn(8)
    for layer in ("h.0.attn", "h.0.mlp", "h.1.attn", "h.1.mlp")
    for name in ("weight", "bias")
}
NORMS = {f"h.{n}.norm.{name}": torch.ones(8) for n in (0, 1) for name in ("weight", "bias")}


def emptied(state, names) -> dict[str, torch.Tensor]:
    return {name: torch.empty(0) if name in names else tensor for name, tensor in state.items()}


PLACEHOLDERS = {
    "all": emptied(LAYERS, LAYERS),
    "small ones persist": emptied({**LAYERS, **NORMS}, [name for name in LAYERS if name.endswith("weight")]),
    "buffers are whole": {
        **emptied(LAYERS, LAYERS),
        "bn.running_mean": torch.ones(64),
        "rotary.inv_freq": torch.ones(9),
    },
    "half precision": {name: tensor.bfloat16() for name, tensor in emptied(LAYERS, LAYERS).items()},
    "integers beside": {"weight": torch.empty(0), "num_batches_tracked": torch.tensor(3)},
}


@pytest.mark.parametrize("container", ["zip", "safetensors"])
@pytest.mark.parametrize("state", PLACEHOLDERS.values(), ids=PLACEHOLDERS)
def test_placeholders_of_zero_3_are_refused(run_swa, tmp_path, state, container):
    for step in (10, 20):
        folder = tmp_path / f"global_step{step}"
        folder.mkdir()
        if container == "zip":
            torch.save({"module": state, "global_steps": step}, folder / "mp_rank_00_model_states.pt")
            torch.save(
                {"optimizer_state_dict": {"a": torch.ones(1)}, "ds_version": "0.18"},
                folder / "zero_pp_rank_0_mp_rank_00_optim_states.pt",
            )
        else:
            save_file(state, folder / "model.safetensors")

    result = run_swa("average", tmp_path, "-o", "swa.safetensors")

    assert result.exit_code == 1
    assert "floating tensors are empty" in result.stderr
    assert "zero_to_fp32.py" in result.stderr
    assert "--exclude" not in result.stderr
    assert not (tmp_path / "swa.safetensors").exists()


@pytest.mark.parametrize(
    "empty",
    [
        {"queue": torch.empty(0)},
        {"head.weight": torch.empty(0, 8), "head.bias": torch.empty(0)},
        {"h.0.weight": torch.ones(0, 3)},
    ],
)
def test_a_tensor_that_is_meant_to_be_empty_is_averaged(tmp_path, empty):
    torch.save({**LAYERS, **empty}, tmp_path / "1.pt")

    assert len(plan_average([open_checkpoint(tmp_path / "1.pt")]).tensors) == len(LAYERS) + len(empty)


def quantized() -> dict[str, object]:
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch will move it to another package
        quantize = torch.ao.quantization.quantize_dynamic  # pyright: ignore[reportDeprecated]
        return dict(quantize(model, {nn.Linear}, torch.qint8).state_dict())


LOST = {
    "a numpy array": {"a": torch.ones(2), "b": np.ones(2)},
    "numpy arrays under names of layers": {"a.weight": torch.ones(2), "b.weight": np.ones(2, np.float32)},
    "a list": {"a": torch.ones(2), "b": [torch.ones(2), torch.ones(3)]},
    "packed": {"a.scale": torch.ones(1), "a._packed_params": (torch.ones(2), None)},
    "no name": {"a.w": torch.ones(2), 1: torch.ones(2)},
}


@pytest.mark.parametrize("key", [None, "model"])
@pytest.mark.parametrize("state", LOST.values(), ids=LOST)
def test_weights_that_are_no_tensors_are_refused_by_name(tmp_path, state, key):
    torch.save(state if key is None else {"epoch": 1, key: state}, tmp_path / "1.pt")

    with pytest.raises(CheckpointError, match=rf"the average would lack them: {[*state][1]}\. Save them as tensors"):
        plan_average([open_checkpoint(tmp_path / "1.pt")])


def test_a_quantized_model_is_refused(tmp_path):
    torch.save({"state_dict": {"0.scale": torch.ones(1), "1": {"weight": torch.ones(1)}}}, tmp_path / "nested.pt")
    torch.save({"state_dict": quantized()}, tmp_path / "quantized.pt")

    for name, lost in (("nested", "1"), ("quantized", "0._packed_params._packed_params")):
        with pytest.raises(CheckpointError, match=rf"{name}\.pt: .* would lack them: {lost}\."):
            plan_average([open_checkpoint(tmp_path / f"{name}.pt")])


def test_what_a_trainer_saves_among_the_weights_is_left_out(tmp_path):
    beside = {
        "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": []},
        "losses": np.arange(3.0),
        "rng": np.random.get_state(),  # noqa: NPY002
        "seen": {1, 2},
        "best": (torch.ones(1), 3),
        "0._extra_state": (torch.ones(3),),
    }
    torch.save({**LAYERS, **beside}, tmp_path / "1.pt")

    assert open_checkpoint(tmp_path / "1.pt").left_out == tuple(beside)
    assert len(plan_average([open_checkpoint(tmp_path / "1.pt")]).tensors) == len(LAYERS)


NETWORKS = {
    "OpenNMT": ("model", {"generator": {"0.weight": torch.ones(50, 8), "0.bias": torch.ones(50)}}, "generator"),
    "GAN": ("state_dict", {"discriminator": {f"d.{name}": tensor for name, tensor in LAYERS.items()}}, "discriminator"),
    "head": ("model", {"ema": LAYERS, "head": {"weight": torch.ones(10, 8)}}, "head"),
    "other widths": ("net", {"net2": {name: torch.ones(9) for name in LAYERS}}, "net2"),
}


@pytest.mark.parametrize(("key", "beside", "named"), NETWORKS.values(), ids=NETWORKS)
def test_other_networks_in_a_file_are_refused_unless_one_is_named(run_swa, tmp_path, key, beside, named):
    (tmp_path / "run").mkdir()
    for step in (1, 2):
        torch.save({key: LAYERS, **beside, "step": step}, tmp_path / "run" / f"step_{step}.pt")

    refused = run_swa("average", "run", "-o", "o.safetensors")
    chosen = [run_swa("average", "run", "-o", f"{name}.safetensors", "--key", name) for name in (key, named)]

    assert refused.exit_code == 1
    assert f"step_1.pt holds other networks beside {key}, which the average would lack: {named}." in refused.stderr
    assert f"--key {key} or --key {named}" in refused.stderr
    assert not (tmp_path / "o.safetensors").exists()
    assert [result.exit_code for result in chosen] == [0, 0]


BESIDE = {
    "timm": {"state_dict_ema": LAYERS},
    "torchvision": {
        "model_ema": {"n_averaged": torch.tensor(3), **{f"module.{name}": t for name, t in LAYERS.items()}}
    },
    "the same in half": {"last": {name: tensor.half() for name, tensor in LAYERS.items()}},
    "a head was added": {"copy": {**LAYERS, "head.weight": torch.ones(9, 8)}},
    "regression": {"normalizer": {"mean": torch.ones(1), "std": torch.ones(1)}},
    "target's scale": {"spread": {"mean": torch.ones(1), "std": torch.ones(1)}},
    "loss": {"criterion": {"centers": torch.ones(100, 8)}},
    "distillation": {"teacher": {"big.weight": torch.ones(100, 8)}},
    "scaler": {"scaler": {"_scale": torch.ones(1)}, "lr_scheduler": {"lr": torch.ones(99)}},
}


@pytest.mark.parametrize("beside", BESIDE.values(), ids=BESIDE)
def test_the_same_weights_once_more_and_a_trainers_own_are_no_networks(tmp_path, beside):
    torch.save({"state_dict": LAYERS, **beside}, tmp_path / "1.pt")

    assert find_checkpoints([tmp_path]).checkpoints[0].key == "state_dict"


@pytest.mark.parametrize("wrapped", [lambda state: state, lambda state: {"optimizer": state, "epoch": 2}])
@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.SGD, torch.optim.Adagrad])
def test_an_optimizers_file_is_called_one(tmp_path, optimizer, wrapped):
    layer = nn.Linear(2, 2)
    trained = optimizer(layer.parameters(), lr=0.1)
    layer(torch.ones(1, 2)).sum().backward()
    trained.step()
    torch.save(wrapped(trained.state_dict()), tmp_path / "opt000100.pt")

    with pytest.raises(
        CheckpointError, match=r"opt000100\.pt: holds the state of an optimizer and no model\. Leave it"
    ):
        find_checkpoints([tmp_path])


def test_a_share_of_zero_is_called_one(tmp_path):
    path = tmp_path / "zero_pp_rank_0_mp_rank_00_optim_states.pt"
    torch.save({"optimizer_state_dict": {"fp32_flat_groups": [torch.ones(3)]}, "ds_version": "0.18"}, path)

    with pytest.raises(CheckpointError, match=r"a share of DeepSpeed's optimizer state .* zero_to_fp32\.py"):
        open_checkpoint(path)
    with pytest.raises(SourceError, match="no checkpoints in"):
        find_checkpoints([tmp_path])
