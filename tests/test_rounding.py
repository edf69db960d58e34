import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from references import nearest_of_all

from swa_cli.averaging import round_once


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_just_above_a_tie_rounds_up_where_torch_rounds_twice(dtype):
    half_ulp = torch.finfo(dtype).eps / 2
    value = torch.tensor([1 + half_ulp + 2**-45], dtype=torch.float64)

    assert value.to(dtype).item() == 1  # what torch makes of it, through float32
    assert round_once(value, dtype).item() == 1 + 2 * half_ulp


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@given(values=st.lists(st.floats(-60000, 60000, allow_subnormal=True), min_size=1, max_size=20))
def test_equals_thenearest_of_all_of_all_values(dtype, values):
    exact = torch.tensor(values, dtype=torch.float64)

    assert torch.equal(
        round_once(exact, dtype).view(torch.int16), nearest_of_all(exact.numpy(), dtype).view(torch.int16)
    )


def test_keeps_infinities_nan_and_the_sign_of_zero():
    result = round_once(torch.tensor([math.inf, -math.inf, math.nan, -0.0], dtype=torch.float64), torch.float16)

    assert result[0] == math.inf
    assert result[1] == -math.inf
    assert torch.isnan(result[2])
    assert math.copysign(1, result[3].item()) == -1
