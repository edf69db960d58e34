import math
from itertools import pairwise, product
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar

from swa_cli.tasks.calibration import (
    adaptive_ece,
    bin_gaps,
    classwise_ece,
    classwise_gaps,
    ece_floor,
    expected_calibration_error,
)
from swa_cli.tasks.temperature import TEMPERATURES, calibrated_nll, fitted, nll_at

GUO = np.array([0.8] * 5 + [0.79] * 5), np.array([True] * 5 + [False] * 5)
EDGES = [i / 15 for i in range(16)]


def fitted_temperature(grid, weights=None):
    """As `calibrated_nll` fits it to each half."""
    curve = grid.sum(axis=0) if weights is None else weights @ grid
    return fitted(curve)


def slow_ece(confidence, correct, weights=None):
    """By the definition: bin by bin, (lo, hi], 0 in the first."""
    weights = np.ones(len(confidence)) if weights is None else weights
    total = 0.0
    for low, high in pairwise(EDGES):
        members = [i for i, p in enumerate(confidence) if low < p <= high or p == low == 0]
        if members:
            share = sum(weights[i] for i in members)
            accuracy = sum(weights[i] * correct[i] for i in members) / share
            mean = sum(weights[i] * confidence[i] for i in members) / share
            total += share / sum(weights) * abs(accuracy - mean)
    return total


def predictions(n, seed=0):
    """Confidences of all kinds, on the edges and in ties too, and whether they were right."""
    rng = np.random.default_rng(seed)
    confidence = np.where(rng.random(n) < 0.3, rng.choice(EDGES, n), rng.random(n))
    return confidence, rng.random(n) < confidence**2


def logits_of(n, n_classes, *, scale, seed=0):
    """Logits that are right more often than not, times ``scale``; a twentieth of the labels are noise."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(n_classes, (n,), generator=generator)
    logits = torch.randn(n, n_classes, dtype=torch.float64, generator=generator)
    logits[range(n), target] += 4 * torch.randn(n, dtype=torch.float64, generator=generator).exp()
    noise = torch.rand(n, generator=generator) < 0.05
    return logits * scale, torch.where(noise, torch.randint(n_classes, (n,), generator=generator), target)


def exact_nll(logits, target, temperature):
    """By torch itself; shape (n,)."""
    return torch.nn.functional.cross_entropy(logits / temperature, target, reduction="none").numpy()


def exact_fit(logits, target):
    """The temperature with the least mean NLL, from the logits."""
    found: Any = minimize_scalar(
        lambda log_t: exact_nll(logits, target, math.exp(log_t)).mean(),
        bounds=(math.log(TEMPERATURES[0]), math.log(TEMPERATURES[-1])),
        method="bounded",
        options={"xatol": 1e-9},
    )
    return math.exp(found.x)


def test_expected_calibration_error_is_that_of_the_definition():
    confidence, correct = predictions(500)

    assert slow_ece(confidence, correct) == pytest.approx(expected_calibration_error(confidence, correct), abs=1e-14)


def test_a_confidence_on_an_edge_is_in_the_bin_below():
    """In one bin, the two gaps cancel: 0.5 · |1 − 0.4 + 0 − 0.4| against 0.5 · 0.6 + 0.5 · 0.4 apart."""
    within, correct = np.array([6 / 15, 5.5 / 15]), np.array([True, False])

    assert abs(1 - 11.5 / 15) / 2 == pytest.approx(expected_calibration_error(within, correct))


@pytest.mark.parametrize(
    ("confidence", "correct", "expected"),
    [
        ([1.0, 1.0], [True, True], 0),
        ([1.0], [False], 1),
        ([0.0], [False], 0),
        ([0.0], [True], 1),
        ([0.98, 1.0], [False, True], 0.49),  # one bin: 1.0 has none of its own
        ([0.0, 0.04], [True, False], 0.48),
    ],
)
def test_confidences_of_zero_and_one_are_in_the_outer_bins(confidence, correct, expected):
    numbers, right = np.array(confidence), np.array(correct)
    gaps = bin_gaps(torch.from_numpy(numbers), torch.from_numpy(right))

    assert expected == pytest.approx(expected_calibration_error(numbers, right))
    assert expected == pytest.approx(float(gaps.sum(0).abs().sum()) / len(numbers))


def test_gaps_of_any_weighted_subset_sum_to_its_error():
    confidence, correct = predictions(300)
    weights = np.random.default_rng(1).uniform(0, 3, 300)
    gaps = bin_gaps(torch.from_numpy(confidence), torch.from_numpy(correct), torch.from_numpy(weights)).numpy()
    part = slice(40, 230)

    assert np.count_nonzero(gaps, axis=1).max() == 1
    assert slow_ece(confidence[part], correct[part], weights[part]) == pytest.approx(
        np.abs(gaps[part].sum(0)).sum() / weights[part].sum(), abs=1e-14
    )


def test_gaps_take_numbers_of_bins_and_views():
    confidence = torch.rand(50, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))[:, 1]
    correct = torch.arange(50) % 2 == 0

    assert expected_calibration_error(confidence.numpy(), correct.numpy(), n_bins=4) == pytest.approx(
        float(bin_gaps(confidence, correct, n_bins=4).sum(0).abs().sum()) / 50
    )


def test_adaptive_bins_are_of_equal_mass():
    """Where there are no ties, the definition by `numpy.array_split`."""
    rng = np.random.default_rng(0)
    confidence = rng.random(100)
    correct = rng.random(100) < 0.6
    order = np.argsort(confidence)
    parts = np.array_split(order, 15)

    assert sum(abs((correct[part] - confidence[part]).sum()) for part in parts) / 100 == pytest.approx(
        adaptive_ece(confidence, correct), abs=1e-14
    )


def test_adaptive_error_is_the_same_in_any_order():
    confidence, correct = predictions(200)
    shuffled = np.random.default_rng(1).permutation(200)

    assert adaptive_ece(confidence, correct) == adaptive_ece(confidence[shuffled], correct[shuffled])


def test_ties_share_their_hits_out():
    """Equal confidences, 3 of 4 right: calibrated, wherever the bins are cut."""
    confidence, correct = np.full(40, 0.75), np.arange(40) % 4 > 0

    assert adaptive_ece(confidence, correct) == pytest.approx(0, abs=1e-15)
    assert adaptive_ece(*GUO, n_bins=1) == pytest.approx(0.295)


def test_fewer_examples_than_adaptive_bins_stand_alone():
    assert adaptive_ece(np.array([0.9, 0.6]), np.array([True, False])) == pytest.approx((0.1 + 0.6) / 2)


def test_no_examples_have_no_error():
    nothing = np.zeros(0)

    assert math.isnan(expected_calibration_error(nothing, nothing))
    assert math.isnan(adaptive_ece(nothing, nothing))
    assert math.isnan(ece_floor(nothing))
    assert math.isnan(classwise_ece(classwise_gaps(torch.zeros(0, 3, dtype=torch.float64), torch.zeros(0).long()), 0))


def test_classwise_error_is_the_mean_over_one_against_rest():
    logits, target = logits_of(200, 5, scale=0.3)
    probs = logits.softmax(1)
    each = [slow_ece(probs[:, c].tolist(), (target == c).tolist()) for c in range(5)]

    assert sum(each) / 5 == pytest.approx(classwise_ece(classwise_gaps(probs, target), 200), abs=1e-14)


def test_classwise_gaps_of_batches_add_up():
    logits, target = logits_of(101, 7, scale=0.3)
    probs = logits.softmax(1)
    whole = classwise_gaps(probs, target)
    parts = sum(classwise_gaps(p, y) for p, y in zip(probs.split(13), target.split(13), strict=True))
    chunked = classwise_gaps(probs.T.contiguous().T, target, chunk=20)  # two rows at once

    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-13)
    torch.testing.assert_close(chunked, whole, rtol=0, atol=1e-13)


def test_one_class_is_always_calibrated():
    probs, target = torch.ones(4, 1, dtype=torch.float64), torch.zeros(4, dtype=torch.int64)

    assert classwise_ece(classwise_gaps(probs, target), 4) == 0


@pytest.mark.parametrize("confidence", [[0.5], [0.3, 0.32, 0.9], [0.97, 0.99, 1.0, 0.4, 0.41, 0.02, 0.55]])
def test_floor_is_the_mean_over_all_labels(confidence):
    expected = 0.0
    for labels in product([False, True], repeat=len(confidence)):
        chance = math.prod(p if label else 1 - p for p, label in zip(confidence, labels, strict=True))
        expected += chance * slow_ece(confidence, labels)

    assert expected == pytest.approx(ece_floor(np.array(confidence)), rel=1e-12)


@pytest.mark.parametrize(
    ("chance", "n"),
    [
        *((0.5, 9), (0.5, 99), (0.98, 100), (0.99, 1000), (2e-4, 50_000), (1 - 2e-4, 50_000), (1 - 1e-9, 100_000)),
        *((0.5, 101), (0.97, 1000), (0.03, 1000)),
    ],
)
def test_floor_of_many_in_one_bin_is_the_mean_deviation_of_a_binomial(chance, n):
    """Its closed form is A. de Moivre's: 2 m (1 − p) C(n, m) pᵐ (1 − p)ⁿ⁻ᵐ, m = ⌊n p⌋ + 1."""
    m = math.floor(n * chance) + 1
    log_mass = (
        math.lgamma(n + 1) - math.lgamma(m + 1) - math.lgamma(n - m + 1)
        + m * math.log(chance) + (n - m) * math.log1p(-chance)
    )  # fmt: skip
    expected = 2 * m * (1 - chance) * math.exp(log_mass) / n
    exact = n * chance * (1 - chance) < 25

    assert expected == pytest.approx(ece_floor(np.full(n, chance)), rel=1e-6 if exact else 0.004)


@pytest.mark.parametrize("chances", [(0.03, 0.99), (0.001, 0.05), (0.5, 0.49), (1e-6, 0.019)])
def test_floor_of_unequal_chances_is_that_of_their_distribution(chances):
    """The distribution of the hits by adding one example after the other."""
    confidence = np.geomspace(chances[0], chances[1], 90)
    total = 0.0
    for low, high in pairwise(EDGES):
        members = [p for p in confidence.tolist() if low < p <= high]
        mass = [1.0]
        for p in members:
            mass = [stay * (1 - p) + hit * p for stay, hit in zip([*mass, 0.0], [0.0, *mass], strict=True)]
        total += sum(abs(k - sum(members)) * m for k, m in enumerate(mass))

    assert total / 90 == pytest.approx(ece_floor(confidence), rel=1e-9)


@pytest.mark.parametrize(
    ("n", "published"), [(200, 0.053), (500, 0.035), (1000, 0.026), (5000, 0.011), (10_000, 0.0075), (50_000, 0.0035)]
)
def test_floor_falls_with_the_root_of_the_number_of_examples(n, published):
    """What calibrated classifiers were measured to show; that of confidences spread evenly from 0.58 to 1 is near."""
    confidence = 0.58 + 0.42 * (np.arange(n) + 0.5) / n

    assert published == pytest.approx(ece_floor(confidence), rel=0.08)


def test_floor_depends_on_no_order():
    confidence, _ = predictions(300)

    assert ece_floor(confidence) == ece_floor(confidence[::-1])


def test_floor_of_certainty_is_nothing():
    """Also where rounding has put an ensemble's confidence above 1."""
    assert ece_floor(np.array([0.0, 1.0, 1 + 2**-52])) == 0


def test_nll_at_every_temperature_is_that_of_the_scaled_logits():
    logits, target = logits_of(50, 6, scale=1)
    grid = nll_at(logits.log_softmax(1), target)
    expected = np.stack([exact_nll(logits, target, t) for t in TEMPERATURES], axis=1)

    np.testing.assert_allclose(grid.numpy(), expected, rtol=1e-12, atol=1e-12)


def test_temperature_one_is_in_the_grid():
    logits, target = logits_of(50, 6, scale=1)
    unscaled = nll_at(logits.log_softmax(1), target)[:, TEMPERATURES.index(1.0)]

    np.testing.assert_allclose(unscaled.numpy(), exact_nll(logits, target, 1.0), rtol=1e-13, atol=1e-14)


def test_nll_takes_probabilities_as_target():
    logits, _ = logits_of(50, 6, scale=1)
    soft = logits_of(50, 6, scale=0.2, seed=1)[0].softmax(1)
    expected = np.stack([exact_nll(logits, soft, t) for t in TEMPERATURES], axis=1)
    labels = torch.arange(50) % 6
    one_hot = torch.nn.functional.one_hot(labels, 6).double()

    np.testing.assert_allclose(nll_at(logits.log_softmax(1), soft).numpy(), expected, rtol=1e-12)
    assert torch.equal(nll_at(logits, labels), nll_at(logits, one_hot))


def test_nll_is_the_same_in_any_batches():
    logits, target = logits_of(50, 6, scale=1)
    parts = [nll_at(z, y) for z, y in zip(logits.split(7), target.split(7), strict=True)]

    torch.testing.assert_close(torch.cat(parts), nll_at(logits, target), rtol=1e-14, atol=1e-14)


def test_hopeless_and_certain_predictions_stay_finite():
    """An NLL of 50 at T = 1 is 50 / T; a class that is impossible costs nothing where it is not the target."""
    log_probs = torch.tensor([[0.0, -50.0, -math.inf]], dtype=torch.float64)
    hopeless, certain = nll_at(log_probs, torch.tensor([1])), nll_at(log_probs, torch.tensor([0]))
    soft = nll_at(log_probs, torch.tensor([[0.0, 1.0, 0.0]], dtype=torch.float64))

    assert [50 / t + math.log1p(math.exp(-50 / t)) for t in TEMPERATURES] == pytest.approx(hopeless[0].tolist())
    assert torch.equal(hopeless, soft)
    assert bool(certain.isfinite().all())
    assert float(certain.min()) == 0


@pytest.mark.parametrize("n_classes", [2, 10, 200])
@pytest.mark.parametrize("scale", [0.1, 0.4, 1.0, 5.0])
def test_fit_is_as_good_as_an_exact_one(n_classes, scale):
    logits, target = logits_of(400, n_classes, scale=scale)
    grid = nll_at(logits.log_softmax(1), target).numpy()
    best, found = exact_fit(logits, target), fitted_temperature(grid)

    assert TEMPERATURES[0] * 1.01 < best < TEMPERATURES[-1] / 1.01
    assert best == pytest.approx(found, rel=0.01)
    assert exact_nll(logits, target, best).mean() == pytest.approx(exact_nll(logits, target, found).mean(), abs=1e-4)


def test_weights_in_the_fit_are_numbers_of_copies():
    logits, target = logits_of(60, 4, scale=3)
    grid = nll_at(logits, target).numpy()
    copies = np.arange(60) % 3

    assert fitted_temperature(np.repeat(grid, copies, axis=0)) == fitted_temperature(grid, copies.astype(np.float64))


def test_fit_stays_within_the_range():
    certain = nll_at(torch.tensor([[1.0, 0.0]], dtype=torch.float64), torch.tensor([0])).numpy()
    hopeless = nll_at(torch.tensor([[0.0, 50.0]], dtype=torch.float64), torch.tensor([0])).numpy()

    assert TEMPERATURES[0] == pytest.approx(fitted_temperature(certain), rel=0.5)
    assert TEMPERATURES[-1] == pytest.approx(fitted_temperature(hopeless))


@pytest.mark.parametrize("n_classes", [1, 3])
def test_temperature_is_one_where_none_is_better(n_classes):
    """One class, or all alike: the NLL is log C at every temperature."""
    grid = nll_at(torch.zeros(8, n_classes, dtype=torch.float64), torch.zeros(8, dtype=torch.int64)).numpy()

    assert fitted_temperature(grid) == 1
    assert [math.log(n_classes)] * 8 == pytest.approx(calibrated_nll(grid).tolist())


def test_calibrated_nll_is_that_of_exact_fits_on_the_other_halves():
    """With two groups, all repeats are the same two halves."""
    logits, target = logits_of(400, 10, scale=4)
    groups = np.arange(400) % 2
    grid = nll_at(logits.log_softmax(1), target).numpy()
    expected = np.empty(400)
    for group in (0, 1):
        inside = torch.from_numpy(groups == group)
        fitted = exact_fit(logits[~inside], target[~inside])
        expected[groups == group] = exact_nll(logits[inside], target[inside], fitted)
    found = calibrated_nll(grid, None, groups)

    assert expected.mean() == pytest.approx(found.mean(), abs=1e-4)
    np.testing.assert_allclose(found, expected, rtol=0.01, atol=1e-3)


@pytest.mark.parametrize("scale", [2, 3, 5, 8])
def test_calibrated_nll_is_never_negative(scale):
    """A spline through losses of nearly nothing goes below 0 between its knots."""
    target = torch.arange(200) % 2
    logits = torch.nn.functional.one_hot(target, 2).double() * scale * (0.5 + torch.rand(200, 1, dtype=torch.float64))

    assert calibrated_nll(nll_at(logits, target).numpy()).min() >= 0


def test_calibrated_nll_undoes_the_scale_of_the_logits():
    logits, target = logits_of(1000, 10, scale=1)
    plain, scaled = (calibrated_nll(nll_at(logits * scale, target).numpy()).mean() for scale in (1.0, 6.0))

    assert plain == pytest.approx(scaled, abs=2e-4)
    assert exact_nll(logits * 6, target, 1.0).mean() > plain + 0.5


def test_repeats_are_means_over_halves_drawn_at_random():
    """Three groups: each is scored by the fits on others, never by one that saw it."""
    rng = np.random.default_rng(0)
    logits, target = logits_of(90, 5, scale=3)
    groups = np.repeat([7, -2, 4], 30)
    grid = nll_at(logits, target).numpy()
    possible = []
    for alone in (7, -2, 4):
        inside = torch.from_numpy(groups == alone)
        of_one = exact_fit(logits[inside], target[inside])
        of_others = exact_fit(logits[~inside], target[~inside])
        scores = np.where(inside.numpy(), exact_nll(logits, target, of_others), exact_nll(logits, target, of_one))
        possible.append([scores[groups == g].mean() for g in (7, -2, 4)])
    each = [calibrated_nll(grid, None, groups, repeats=1, seed=seed) for seed in range(20)]
    drawn = np.array([[score[groups == g].mean() for g in (7, -2, 4)] for score in each])
    nearest = [int(np.abs(np.array(possible) - row).max(axis=1).argmin()) for row in drawn]
    order = rng.permutation(90)
    of_many = calibrated_nll(grid, None, groups, repeats=900)

    np.testing.assert_allclose(drawn, np.array(possible)[nearest], atol=3e-4)
    assert set(nearest) == {0, 1, 2}
    np.testing.assert_allclose([of_many[groups == g].mean() for g in (7, -2, 4)], np.mean(possible, axis=0), rtol=0.03)
    np.testing.assert_allclose(
        calibrated_nll(grid, None, groups)[order],
        calibrated_nll(grid[order], None, groups[order]),
        rtol=1e-12,
        atol=1e-12,
    )


def test_the_halves_depend_on_the_seed_alone():
    """A candidate's result is the same beside any other; the seed changes it."""
    grid = nll_at(*logits_of(40, 3, scale=3)).numpy()

    assert calibrated_nll(grid, seed=3).tolist() == calibrated_nll(grid, seed=3).tolist()
    assert calibrated_nll(grid, seed=3).tolist() != calibrated_nll(grid, seed=4).tolist()


def test_units_of_no_weight_are_scored_but_not_fitted():
    logits, target = logits_of(40, 3, scale=3)
    grid = nll_at(logits, target).numpy()
    groups = np.arange(40) % 2
    weights = (groups == 0).astype(np.float64)
    found = calibrated_nll(grid, weights, groups)

    np.testing.assert_allclose(found[groups == 0], exact_nll(logits, target, 1.0)[groups == 0], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(
        found[groups == 1], exact_nll(logits, target, fitted_temperature(grid[::2]))[groups == 1], rtol=0.01, atol=1e-3
    )


@pytest.mark.parametrize(("n", "groups"), [(0, None), (1, None), (3, np.zeros(3, dtype=np.int64))])
def test_there_is_no_calibrated_nll_without_two_halves(n, groups):
    grid = np.ones((n, len(TEMPERATURES)))

    assert np.isnan(calibrated_nll(grid, None, groups)).tolist() == [True] * n
