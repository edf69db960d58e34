"""Oracles: slow, obvious, and written without a line of swa_cli."""

import math
import struct

import numpy as np
import torch
from scipy import stats


def mean_rounded_once(tensors: list[torch.Tensor]) -> torch.Tensor:
    """The float64 mean, then the nearest value of the dtype, looked up among all values that there are."""
    return weighted_mean_rounded_once(tensors, [1.0] * len(tensors))


def weighted_mean_rounded_once(tensors: list[torch.Tensor], weights: list[float]) -> torch.Tensor:
    """As above; a number times 1.0 is itself."""
    dtype = tensors[0].dtype
    total = np.zeros(tuple(tensors[0].shape), dtype=np.float64)
    for tensor, weight in zip(tensors, weights, strict=True):
        wide = tensor if dtype in {torch.float64, torch.float32, torch.float16, torch.bfloat16} else tensor.float()
        term = wide.to(torch.float64).numpy() * weight
        total = total + term
    mean = np.asarray(total / math.fsum(weights))
    if dtype in {torch.float64, torch.float32}:
        rounded = mean.astype({torch.float64: np.float64, torch.float32: np.float32}[dtype])
        return torch.from_numpy(np.asarray(rounded))
    return nearest_of_all(mean, dtype)


def nearest_of_all(values: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
    """Of all finite values of a narrow dtype the nearest one, ties to the even bit pattern."""
    kind = {1: np.uint8, 2: np.uint16}[dtype.itemsize]
    sign = 1 << (8 * dtype.itemsize - 1)
    codes = np.arange(sign, dtype=kind)  # all patterns that are not negative, in ascending order
    every = torch.from_numpy(codes.copy()).view(dtype).to(torch.float64).numpy()
    grid = every[np.isfinite(every)]
    unsigned_zero = "fnuz" in str(dtype)  # these have no negative zero: its pattern is NaN
    flat = np.abs(values).ravel()
    result = []
    for value, negative in zip(flat, np.signbit(values).ravel(), strict=True):
        above = min(int(np.searchsorted(grid, value)), len(grid) - 1)
        below = max(above - 1, 0)
        to_below, to_above = value - grid[below], grid[above] - value
        nearest = (
            below if to_below < to_above else above if to_above < to_below else (below if below % 2 == 0 else above)
        )
        result.append(nearest | sign if negative and not (unsigned_zero and nearest == 0) else nearest)
    return torch.from_numpy(np.array(result, dtype=kind)).view(dtype).reshape(values.shape)


def pooled(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and unbiased variance per channel of all inputs of a BatchNorm layer at once, in float64."""
    flat = values.to(torch.float64).transpose(0, 1).flatten(1)
    return flat.mean(dim=1), flat.var(dim=1, correction=1)


def log_probs(logits: list[list[float]]) -> list[list[float]]:
    rows = []
    for row in logits:
        top = max(row)
        log_sum = top + math.log(sum(math.exp(value - top) for value in row))
        rows.append([value - log_sum for value in row])
    return rows


def scores(log_probabilities: list[list[float]], labels: list[int], n_bins: int = 15) -> dict[str, float]:
    """Accuracy, NLL in nats, Brier (not halved), ECE over bins (lo, hi]; one example at a time."""
    n = len(labels)
    right = nll = brier = 0.0
    bins: list[list[tuple[float, bool]]] = [[] for _ in range(n_bins)]
    for row, label in zip(log_probabilities, labels, strict=True):
        probs = [math.exp(value) for value in row]
        confidence = max(probs)
        correct = probs.index(confidence) == label
        right += correct
        nll -= row[label]
        brier += sum((p - (c == label)) ** 2 for c, p in enumerate(probs))
        for index in range(n_bins):
            if index / n_bins < confidence <= (index + 1) / n_bins or (index == n_bins - 1 and confidence > 1):
                bins[index].append((confidence, correct))
    ece = sum(abs(sum(c for _, c in b) - sum(p for p, _ in b)) for b in bins) / n
    return {"accuracy": right / n, "nll": nll / n, "brier": brier / n, "ece": ece}


def ensemble(members: list[list[list[float]]]) -> list[list[float]]:
    """Log of the arithmetic mean of probabilities."""
    n = len(members)
    return [
        [math.log(math.fsum(math.exp(member[i][c]) for member in members) / n) for c in range(len(members[0][i]))]
        for i in range(len(members[0]))
    ]


def exact_fingerprint(tensors: list[torch.Tensor]) -> int:
    """The bits of each number as an integer, times 1, 3, 5, … for the sources in turn, and the sum of all."""
    fingerprint, smallest = 0, 8
    for number, tensor in enumerate(tensors):
        wide = torch.view_as_real(tensor) if tensor.is_complex() else tensor
        raw = bytes(wide.contiguous().reshape(-1).view(torch.uint8).tolist())
        size = wide.element_size()
        smallest = min(smallest, size)
        for at in range(0, len(raw), size):
            fingerprint += (2 * number + 1) * int.from_bytes(raw[at : at + size], "little")
    return fingerprint % 2 ** (8 * smallest)


def fingerprint_of_mean(tensors: list[torch.Tensor], weights: list[float]) -> int:
    """The bits of each float64 total as an integer, and the sum of these, one number at a time."""
    rows = []
    for tensor in tensors:
        wide = torch.view_as_real(tensor) if tensor.is_complex() else tensor
        rows.append([float(value) for value in wide.reshape(-1).to(torch.float64).tolist()])
    fingerprint = 0
    for column in zip(*rows, strict=True):
        total = column[0] * weights[0]
        for value, weight in zip(column[1:], weights[1:], strict=True):
            total += value * weight
        fingerprint += int.from_bytes(struct.pack("<d", total), "little")
    return fingerprint % 2**64


def expanded_level(level: float, n: int) -> float:
    """Of a normal interval that is as wide as Student's, for n numbers whose spread is taken with the divisor n."""
    half_width = stats.t(df=n - 1).interval(level)[1] * math.sqrt(n / (n - 1))
    return float(stats.norm.cdf(half_width) - stats.norm.cdf(-half_width))
