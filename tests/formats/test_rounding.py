import math

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from support.references import nearest_of_all
from swa_cli.averaging.torch_kernels import round_on_device
from swa_cli.formats.rounding import round_once

NARROW = {
    torch.bfloat16: np.dtype(ml_dtypes.bfloat16),
    torch.float16: np.dtype(np.float16),
    torch.float8_e4m3fn: np.dtype(ml_dtypes.float8_e4m3fn),
    torch.float8_e5m2: np.dtype(ml_dtypes.float8_e5m2),
    torch.float8_e4m3fnuz: np.dtype(ml_dtypes.float8_e4m3fnuz),
    torch.float8_e5m2fnuz: np.dtype(ml_dtypes.float8_e5m2fnuz),
}


def bits(values: np.ndarray) -> list[int]:
    return np.asarray(values).view(f"u{values.dtype.itemsize}").tolist()


def on_a_device(values: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
    out = torch.empty(values.shape, dtype=dtype)
    round_on_device(torch.from_numpy(values.copy()), out, allow_nonfinite=False)
    return out


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_just_above_a_tie_rounds_up_where_torch_rounds_twice(dtype):
    half_ulp = torch.finfo(dtype).eps / 2
    value = np.array([1 + half_ulp + 2**-45])

    assert torch.from_numpy(value).to(dtype).item() == 1  # what torch makes of it, through float32
    assert float(round_once(value, NARROW[dtype])[0]) == 1 + 2 * half_ulp


@pytest.mark.parametrize("dtype", NARROW, ids=lambda dtype: str(dtype)[6:])
@given(data=st.data())
def test_equals_the_nearest_of_all_values_there_are(dtype, data):
    largest = torch.finfo(dtype).max
    smallest = torch.finfo(dtype).smallest_normal
    value = st.floats(-largest, largest, allow_subnormal=True) | st.floats(-smallest, smallest)
    grid = NARROW[dtype]

    def value_of(code: int) -> float:
        with np.errstate(invalid="ignore"):  # some patterns are signalling NaNs
            return float(np.array(code, f"u{grid.itemsize}").view(grid).astype(np.float64))

    near = st.integers(0, 2 ** (8 * grid.itemsize) - 1).map(value_of)
    tie = st.tuples(near, st.sampled_from([1.0, 1 + 2**-9, 1 - 2**-9, 1 + 2**-4, 1 + 2**-3, 1 + 3 * 2**-11])).map(
        math.prod
    )
    exact = np.array(data.draw(st.lists(value | tie.filter(lambda x: abs(x) <= largest), min_size=1, max_size=20)))

    rounded = round_once(exact, grid)

    assert bits(rounded) == bits(nearest_of_all(exact, dtype).view(torch.uint8).numpy().view(grid))
    if dtype.itemsize > 1:  # a device leaves those to the CPU
        assert bits(on_a_device(exact, dtype).view(torch.uint8).numpy().view(grid)) == bits(rounded)


def test_keeps_infinities_nan_and_the_sign_of_zero():
    result = round_once(np.array([math.inf, -math.inf, math.nan, -0.0]), np.dtype(np.float16))

    assert result[0] == math.inf
    assert result[1] == -math.inf
    assert np.isnan(result[2])
    assert math.copysign(1, float(result[3])) == -1
