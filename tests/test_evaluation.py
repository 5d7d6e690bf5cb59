"""Metrics of distributions: closed forms, invariances, reference implementations, bad input."""

import json
import math

import numpy as np
import pytest
import torch
from prdc import compute_prdc
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from scattergen.errors import InputError
from scattergen.evaluation import (
    classifier_two_sample_test,
    different_bins,
    evaluate,
    frechet_distance,
    jackknife,
    kernel_distance,
    manifold_metrics,
    memorisation,
    nearest,
    tables,
)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def correlated(n, k, seed=0):
    """Gaussian rows whose covariance has eigenvalues over four decades."""
    mixing = normal(k, k, seed=99) * torch.logspace(0, -2, k, dtype=torch.float64)
    return normal(n, k, seed=seed) @ mixing.T + 1


class Flattened(nn.Module):
    """The features that torchmetrics is given: the pixels, undisturbed."""

    num_features = 3 * 2 * 2

    def forward(self, x):
        return x.flatten(1)


# Fréchet distance


def test_frechet_distance_of_shifted_and_scaled_gaussians():
    n, k, shift, scale = 20_000, 10, 0.5, 2.0
    found = frechet_distance(normal(n, k), shift + scale * normal(n, k, seed=1))
    expected = k * shift**2 + k * (scale - 1) ** 2
    # Means have variance (1 + scale²)/n per component, and a standard deviation s has s²/(2n), so:
    noise = math.sqrt(k * (2 * shift) ** 2 * (1 + scale**2) / n + k * (2 * (scale - 1)) ** 2 * (1 + scale**2) / (2 * n))
    # Squares of these errors are the bias: of k means and, in a covariance, of k² entries.
    bias = (k + k**2) * (1 + scale**2) / n
    assert abs(found - expected) < 5 * noise + bias


def test_frechet_distance_of_a_linear_map_is_exact():
    x = correlated(500, 20)
    a = normal(20, 20, seed=2)
    map_ = a @ a.T / 20 + 0.1 * torch.eye(20)  # symmetric and positive: the optimal transport
    y = x @ map_ + 3
    difference = x - y
    expected = difference.mean(0).square().sum() + difference.var(0).sum()
    # Traces of some 1e4 in float64, with a condition that loses a few digits.
    assert frechet_distance(x, y) == pytest.approx(expected.item(), rel=1e-9)


def test_frechet_distance_is_a_symmetric_invariant_distance():
    x, y = correlated(300, 12), 1.3 * correlated(200, 12, seed=1) - 0.2
    d = frechet_distance(x, y)
    rotation = torch.linalg.qr(normal(12, 12, seed=3)).Q
    order = torch.randperm(300, generator=torch.Generator().manual_seed(0))
    # Float64 sums in another order: 1e-16 times traces and conditioning, 1e-12 of them.
    assert frechet_distance(y, x) == pytest.approx(d, rel=1e-9)
    assert frechet_distance(x[order], y) == pytest.approx(d, rel=1e-9)
    assert frechet_distance(x @ rotation, y @ rotation) == pytest.approx(d, rel=1e-9)
    assert frechet_distance(3 * x, 3 * y) == pytest.approx(9 * d, rel=1e-9)
    # The traces (about 30) cancel.
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-11)


@pytest.mark.parametrize("n", [2, 3, 40])
def test_frechet_distance_with_fewer_rows_than_features(n):
    x = normal(n, 50)
    assert frechet_distance(x, x + 2) == pytest.approx(50 * 4, rel=1e-12)
    # Without common directions there is nothing to transport along: the traces add up.
    left = torch.cat([x, torch.zeros(n, 50)], 1)
    right = torch.cat([torch.zeros(n, 50), 3 * x], 1)
    means = left.mean(0) - right.mean(0)
    expected = means.square().sum() + left.var(0).sum() + right.var(0).sum()
    assert frechet_distance(left, right) == pytest.approx(expected.item(), rel=1e-12)


def test_frechet_distance_of_constant_tables():
    assert frechet_distance(torch.zeros(5, 3), torch.ones(9, 3)) == 3


def test_frechet_distance_agrees_with_torchmetrics():
    x, y = correlated(200, 12), 1.3 * correlated(150, 12, seed=1)
    reference = FrechetInceptionDistance(feature=Flattened(), input_img_size=(3, 2, 2))
    reference.set_dtype(torch.float64)
    reference.update(x.view(-1, 3, 2, 2), real=True)
    reference.update(y.view(-1, 3, 2, 2), real=False)
    # It takes the eigenvalues of the product of covariances, whose rounding (1e-16 times the
    # largest) becomes its root, 1e-8, in the trace.
    assert frechet_distance(x, y) == pytest.approx(reference.compute().item(), rel=1e-6)


# Kernel distance


def test_kernel_distance_of_shifted_gaussians():
    a = 0.5
    found = kernel_distance(normal(4000, 1), a + normal(4000, 1, seed=1))
    # In one dimension (1 + xy)³ is the product of (1, √3 x, √3 x², x³): the moments are compared.
    expected = 3 * a**2 + 3 * a**4 + (a**3 + 3 * a) ** 2
    assert abs(found.value - expected) < 4 * found.standard_error
    assert found.standard_error < expected / 5


@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_standard_error_of_kernel_distance_is_its_spread(shift):
    draws = [kernel_distance(normal(60, 3, seed=2 * i), shift + normal(80, 3, seed=2 * i + 1)) for i in range(300)]
    values = torch.tensor([draw.value for draw in draws], dtype=torch.float64)
    error = math.sqrt(sum(draw.standard_error**2 for draw in draws) / len(draws))
    ratio = error / values.std().item()
    # The spread of 300 draws is itself known to 1/√600 = 4 %, the jackknife's heavy tails add as
    # much; it errs upwards, by √2 without a difference.
    assert 0.85 < ratio < 1.7
    if shift == 0:  # unbiased: the mean of all draws is 0 up to its own error
        assert abs(values.mean()) < 4 * values.std() / math.sqrt(300)


def test_standard_error_of_kernel_distance_is_the_jackknife():
    x, y = normal(9, 4), normal(7, 4, seed=1) + 0.5
    values = [
        torch.tensor([kernel_distance(x[torch.arange(9) != i], y).value for i in range(9)]),
        torch.tensor([kernel_distance(x, y[torch.arange(7) != i]).value for i in range(7)]),
    ]
    variance = sum((len(v) - 1) * v.var(correction=0).item() for v in values)
    # The values above were rounded to float32.
    assert kernel_distance(x, y).standard_error == pytest.approx(math.sqrt(variance), rel=1e-4)


def test_kernel_distance_is_symmetric_and_ignores_the_order_of_rows():
    x, y = correlated(50, 6), correlated(40, 6, seed=1)
    d = kernel_distance(x, y)
    for other in (kernel_distance(y, x), kernel_distance(x.flip(0), y.flip(0))):
        # Sums of float64 in another order.
        assert other.value == pytest.approx(d.value, rel=1e-9)
        assert other.standard_error == pytest.approx(d.standard_error, rel=1e-9)


@pytest.mark.filterwarnings("ignore:Metric .Kernel Inception Distance.:UserWarning")
def test_kernel_distance_agrees_with_torchmetrics():
    x, y = correlated(120, 12), 1.3 * correlated(120, 12, seed=1)
    reference = KernelInceptionDistance(feature=Flattened(), subsets=1, subset_size=120)
    reference.set_dtype(torch.float64)
    reference.update(x.view(-1, 3, 2, 2), real=True)
    reference.update(y.view(-1, 3, 2, 2), real=False)
    # torchmetrics returns float32 (6e-8).
    expected = reference.compute()[0].item()
    assert kernel_distance(x, y).value == pytest.approx(expected, rel=1e-6)


# Precision, recall, density, coverage


@pytest.mark.parametrize(("n", "m", "k"), [(200, 200, 3), (150, 220, 5)])
def test_manifold_metrics_agree_with_prdc(n, m, k):
    x, y = normal(n, 6), 0.8 * normal(m, 6, seed=1) + 0.3
    found = manifold_metrics(x, y, k=k)
    for name, expected in compute_prdc(x.numpy(), y.numpy(), k).items():
        # The same counts, divided.
        assert getattr(found, name).value == pytest.approx(expected, abs=1e-12)


def test_manifold_metrics_of_a_table_with_itself():
    x = correlated(100, 5)
    found = manifold_metrics(x, x.flip(0), k=4)
    assert found.precision.value == found.recall.value == found.coverage.value == 1
    # Each closed neighbourhood holds its centre and k neighbours, the last on its boundary.
    assert found.density.value == pytest.approx(5 / 4)


def test_neighbourhoods_without_extent_hold_their_copies():
    x = normal(10, 3).repeat(6, 1) + 1e3
    found = manifold_metrics(x, x[:10].repeat(6, 1), k=5)
    assert found.precision.value == found.recall.value == found.coverage.value == 1


def test_expected_coverage_and_density_of_equal_distributions():
    n, k = 2000, 5
    found = manifold_metrics(normal(n, 4), normal(n, 4, seed=1), k=k)
    # No sample among the k nearest of the n - 1 + n others of a real image: Naeem et al., lemma 2.
    missed = math.prod((n - i) / (2 * n - i) for i in range(1, k + 1))
    assert abs(found.coverage.value - (1 - missed)) < 4 * found.coverage.standard_error
    # Neighbourhoods overlap, so that samples are not judged independently: √k more at most.
    assert abs(found.density.value - 1) < 4 * math.sqrt(k) * found.density.standard_error


def test_dropped_modes_and_outliers_are_told_apart():
    centres = 100 * normal(10, 8)
    real = centres.repeat(50, 1) + normal(500, 8, seed=1)
    dropped = centres[:4].repeat(125, 1) + normal(500, 8, seed=2)
    found = manifold_metrics(real, dropped)
    assert found.precision.value > 0.9
    assert found.recall.value <= 0.4
    assert found.coverage.value <= 0.4
    outside = torch.cat([real[:250], 1e4 + normal(250, 8, seed=3)])
    found = manifold_metrics(real, outside)
    assert found.precision.value == 0.5
    # For one half as of a table with itself, 6/5 in the mean; a row lies in 6 ± √5 neighbourhoods,
    # and 250 of them were picked: 0.5 × √5/5/√250 = 0.014, four times.
    assert found.density.value == pytest.approx(0.6, abs=0.056)


def test_standard_errors_of_manifold_metrics():
    x, y = normal(200, 3), 2 * normal(300, 3, seed=1)
    found = manifold_metrics(x, y)
    p = found.precision.value
    assert found.precision.standard_error == pytest.approx(math.sqrt(p * (1 - p) / 299))


# What they share


def test_nearest_is_brute_force_and_finds_copies_at_no_distance():
    x, y = normal(30, 4) + 1e6, normal(50, 4, seed=1) + 1e6
    y[7] = x[3]
    distances, rows = nearest(x, y, 3)
    expected = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").sort(1)
    assert torch.equal(rows, expected.indices[:, :3])
    # Both subtract before they square.
    torch.testing.assert_close(distances, expected.values[:, :3], rtol=1e-12, atol=0)
    assert distances[3, 0] == 0


def test_results_do_not_depend_on_the_size_of_blocks(monkeypatch):
    x, y = correlated(60, 5), correlated(45, 5, seed=1)

    def results():
        m = manifold_metrics(x, y)
        values = [frechet_distance(x, y), kernel_distance(x, y).value, *nearest(x, y)[0][:, 0]]
        return torch.tensor([*values, m.precision.value, m.recall.value, m.density.value])

    whole = results()
    monkeypatch.setattr(tables, "_BLOCK", 100)
    # Only the order of float64 sums changes.
    torch.testing.assert_close(results(), whole, rtol=1e-6, atol=0)


def test_jackknife_of_a_mean_is_its_standard_error():
    x, y = normal(400, 1), 2 * normal(100, 1, seed=1)
    found = jackknife(lambda a, b: (b.mean() - a.mean()).item(), x, y, groups=50)
    expected = math.sqrt(1 / 400 + 4 / 100)
    # Fifty groups give the variance to √(2/49) = 20 %, its root to 10 %: three of these.
    assert found.standard_error == pytest.approx(expected, rel=0.3)
    assert found.value == pytest.approx((y.mean() - x.mean()).item())


def test_jackknife_of_the_frechet_distance_is_its_spread():
    draws = [
        jackknife(frechet_distance, normal(300, 3, seed=2 * i), 0.4 + normal(300, 3, seed=2 * i + 1)) for i in range(40)
    ]
    values = torch.tensor([draw.value for draw in draws])
    error = sum(draw.standard_error for draw in draws) / len(draws)
    # The spread of 40 draws is known to 1/√78 = 11 %: three of these.
    assert error == pytest.approx(values.std().item(), rel=0.34)


METRICS = {
    "frechet": frechet_distance,
    "kernel": kernel_distance,
    "manifold": manifold_metrics,
    "two sample": classifier_two_sample_test,
    "bins": lambda x, y: different_bins(x, y, n_bins=2),
    "memorisation": lambda x, y: memorisation(x, x, y),
    "jackknife": lambda x, y: jackknife(frechet_distance, x, y),
}


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (torch.zeros(30, 3), torch.zeros(30, 4), "different numbers of features.* one feature ext"),
        (torch.zeros(30), torch.zeros(30), r"no table of features: give .*\(N, k\)"),
        (torch.zeros(30, 3), torch.zeros(30, 3).long(), "no table of features"),
        (torch.zeros(30, 3).numpy(), torch.zeros(30, 3), "ndarray is no table"),
        (torch.zeros(30, 3), torch.zeros(1, 3), "samples: 1 rows are too few; at least"),
        (torch.zeros(30, 0), torch.zeros(30, 0), "no table of features"),
        (torch.zeros(30, 3), torch.full((30, 3), math.nan), "row 0 holds NaN"),
        (torch.full((30, 3), math.inf), torch.zeros(30, 3), "infinity: look at its image"),
    ],
)
def test_unusable_tables_are_refused(metric, x, y, message):
    with pytest.raises(InputError, match=message):
        metric(x, y)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: manifold_metrics(x, x, k=30), "30 rows are too few; at least 31"),
        (lambda x: manifold_metrics(x, x, k=0), "k=0"),
        (lambda x: jackknife(frechet_distance, x, x, groups=1), "at least 2"),
        (lambda x: different_bins(x, x, n_bins=31), "30 rows are too few"),
        (lambda x: different_bins(x, x, n_bins=0), "n_bins=0"),
        (lambda x: different_bins(x, x, n_bins=2, level=5), "level=5"),
    ],
)
def test_unusable_options_are_refused(call, message):
    with pytest.raises(InputError, match=message):
        call(normal(30, 3))


# All of them


def test_evaluate_gathers_the_metrics():
    train, reference, good, bad = normal(4, 200, 3)
    results = evaluate({"good": good, "bad": bad + 2}, reference, train=train, seed=np.int64(1))
    assert list(results) == ["good", "bad"]
    bad_ones = results["bad"]
    assert (bad_ones.n, bad_ones.n_reference) == (200, 200)
    assert bad_ones.frechet == jackknife(frechet_distance, reference, bad + 2, seed=1)
    assert bad_ones.kernel == kernel_distance(reference, bad + 2)
    assert bad_ones.manifolds == manifold_metrics(reference, bad + 2)
    assert bad_ones.two_sample == classifier_two_sample_test(reference, bad + 2, seed=1)
    assert bad_ones.bins.different == different_bins(train, bad + 2, n_bins=10, seed=1).different
    assert bad_ones.memorisation == memorisation(train, reference, bad + 2, seed=1)
    assert results["good"].two_sample.pvalue > bad_ones.two_sample.pvalue
    summary = json.loads(json.dumps(bad_ones.summary(), allow_nan=False))
    assert summary["frechet"]["value"] == bad_ones.frechet.value
    assert len(summary["bins"]["zscores"]) == 10


def test_evaluate_without_training_images_bins_the_reference():
    reference, samples = normal(2, 200, 3)
    result = evaluate({"samples": samples}, reference)["samples"]
    assert result.memorisation is None
    assert result.bins.pvalue == different_bins(reference, samples, n_bins=10).pvalue
    json.dumps(result.summary())


def test_evaluate_refuses_what_it_cannot_compare():
    x = normal(30, 3)
    with pytest.raises(InputError, match="nothing to evaluate"):
        evaluate({}, x)
    with pytest.raises(InputError, match="vae: 3 rows are too few; at least 20"):
        evaluate({"vae": x[:3]}, x)
    with pytest.raises(InputError, match="different numbers of features"):
        evaluate({"vae": x}, x, train=x[:, :2])
    with pytest.raises(InputError, match="reference"):
        evaluate({"reference": x[:25] * math.nan}, x)
