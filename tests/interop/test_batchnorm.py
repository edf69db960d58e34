"""The layers that timm makes, as timm makes them."""

import pytest
import torch

from support.references import pooled
from support.trainers import imported
from swa_cli.batchnorm import bn_layers, recalibrate
from swa_cli.user.forward import Forward

pytestmark = pytest.mark.slow


@pytest.fixture
def timm():
    return imported("timm")


@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "efficientnet_b0"])
def test_timms_batchnorm_with_an_activation_has_the_statistics_that_update_bn_gives(timm, name):
    """Its BatchNormAct2d is a subclass with a forward of its own, which works in place."""
    torch.manual_seed(0)
    one, other = (timm.create_model(name, num_classes=3, drop_rate=0, drop_path_rate=0) for _ in range(2))
    other.load_state_dict(one.state_dict())
    batches = list(torch.randn(12, 3, 64, 64).split(6))
    assert "BatchNormAct2d" in {type(module).__name__ for module in one.modules()}

    recalibrate(one, batches, estimator="torch")
    torch.optim.swa_utils.update_bn(batches, other)

    theirs = bn_layers(other)
    for layer_name, layer in bn_layers(one).items():
        torch.testing.assert_close(layer.running_mean, theirs[layer_name].running_mean, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(layer.running_var, theirs[layer_name].running_var, rtol=1e-4, atol=1e-6)


def test_timms_batchnorm_in_bfloat16(timm):
    model = timm.create_model("efficientnet_b0", num_classes=3).to(torch.bfloat16)
    inputs = []
    name, layer = next(iter(bn_layers(model).items()))
    layer.module.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))

    result = recalibrate(model, list(torch.randn(12, 3, 64, 64, dtype=torch.bfloat16).split(6)), forward=Forward())

    assert result.layers[0].name == name
    torch.testing.assert_close(result.layers[0].running_var, pooled(torch.cat(inputs))[1], rtol=1e-9, atol=0)
