"""The battery of tests of codes: formulas, false positives, power, and the command."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from scipy.spatial.distance import pdist, squareform

import scattergen as sg
from scattergen.datasets.source import random_rows
from scattergen.diagnostics import (
    classifier_dependence,
    classifier_normality,
    correlation_of_squares,
    marginal_normality,
    pairwise_dependence,
    radial,
    run_battery,
    sliced_normality,
)
from scattergen.diagnostics.monte_carlo import pvalues_of
from scattergen.diagnostics.normality import epps_pulley
from scattergen.errors import InputError
from scattergen.pipeline.evaluate import diagnose_run
from scattergen.runs import RunFolder


def normal(n, d, seed=0):
    return np.random.default_rng([seed, 9]).standard_normal((n, d))


def skewed(n, d, seed=0):
    """Independent components that are not normal."""
    return np.random.default_rng([seed, 9]).exponential(size=(n, d))


def scale_mixture(n=1000, d=8):
    return normal(n, d) * np.exp(0.3 * normal(n, 1, seed=1))


def mirrored_pair(n=1000, d=8):
    """Normal, uncorrelated, but the last two components have one absolute value."""
    z = normal(n, d)
    z[:, -1] = z[:, -2] * np.sign(normal(n, 1, seed=1)[:, 0])
    return z


def rotated_uniform(n=1000, d=4):
    rotation = np.linalg.qr(normal(d, d))[0]
    return (np.random.default_rng(1).random((n, d)) - 0.5) * 12**0.5 @ rotation


# Formulas


def test_epps_pulley_is_its_closed_form():
    y = normal(200, 3) * [1, 1.3, 0.6] + [0, 0.4, 0]
    differences = y[:, None] - y[None]
    n = len(y)
    expected = np.exp(-(differences**2) / 2).sum((0, 1)) / n - np.sqrt(2) * np.exp(-(y**2) / 4).sum(0) + n / np.sqrt(3)
    # Left out beyond t = 4.25: weights of 2 · 1e-5, times |φ̂ − φ|² < 1 (here some 1/n), times n.
    # Single precision: 1e-6 of means of size 1, times differences of 0.1, times n.
    np.testing.assert_allclose(epps_pulley(y), expected, rtol=1e-3, atol=5e-4)


def unbiased_distance_correlation(x, y):
    """Squared correlation of distances, Székely and Rizzo's U-statistic."""
    n = len(x)
    centred = []
    for column in (x, y):
        a = squareform(pdist(column[:, None]))
        a = a - a.sum(0) / (n - 2) - a.sum(1)[:, None] / (n - 2) + a.sum() / ((n - 1) * (n - 2))
        np.fill_diagonal(a, 0)
        centred.append(a)
    a, b = centred
    return np.sum(a * b) / np.sqrt(np.sum(a * a) * np.sum(b * b))


def test_pairwise_dependence_is_distance_correlation_of_ranks():
    x = normal(400, 3)
    z = np.column_stack([x[:, 0], x[:, 0] + x[:, 1], x[:, 0] ** 2 + 0.3 * x[:, 2], x[:, 1]])
    found = pairwise_dependence(z, n_simulations=19).correlation
    u = stats.rankdata(z, axis=0)
    for i, j in ((0, 1), (0, 2), (1, 3), (2, 3)):
        expected = unbiased_distance_correlation(u[:, i], u[:, j])
        # The series leaves out 1 − (Σ_{k≤6} k⁻⁴ / Σ k⁻⁴)² = 0.3 % at most, and unbiasing by
        # shuffles or by the U-statistic differs by O(1/n) of values up to 0.6.
        assert found[i, j] ** 2 == pytest.approx(max(expected, 0), abs=0.006)
    assert np.array_equal(found, found.T)
    assert (np.diag(found) == 1).all()


def test_correlation_of_squares_is_its_formula():
    z = scale_mixture(300, 4)
    correlations = np.corrcoef((z - z.mean(0)).T ** 2)[np.triu_indices(4, 1)]
    test = correlation_of_squares(z, n_simulations=19)
    # The same float64 sums of 300 terms in another order.
    assert test.statistic == pytest.approx(300 * np.mean(correlations**2), rel=1e-9)
    assert test.effect == pytest.approx(correlations.mean(), rel=1e-9)


def test_radius_is_a_kolmogorov_smirnov_test():
    z = normal(500, 6) * 1.05
    expected = stats.kstest((z**2).sum(1), "chi2", args=(6,))
    assert (radial(z).statistic, radial(z).pvalue) == pytest.approx(expected[:2], rel=1e-9)
    half = torch.from_numpy(z).bfloat16()  # which NumPy does not have
    assert radial(half) == radial(half.float())


def test_projections_are_blind_to_means_and_covariances():
    z = rotated_uniform(300)
    moved = z @ (np.eye(4) + 0.5 * np.tri(4, k=-1)) * [1, 10, 0.1, 1] + [5, 0, -3, 0]
    singular = np.column_stack([z, z[:, 0] + z[:, 1]])  # no variance of its own
    for other in (moved, singular):
        # Whitening leaves a rotation open, so that other directions are looked at: the mean over
        # 128 of them scatters by some percent; without whitening it would be ten times as large.
        assert sliced_normality(other, n_simulations=19)[1].statistic == pytest.approx(
            sliced_normality(z, n_simulations=19)[1].statistic, rel=0.35
        )


def test_monte_carlo_pvalues_count_draws_at_least_as_large():
    draws = iter(range(19))
    pvalue, seen = pvalues_of(np.array([17.0, 100.0]), lambda _: np.full(2, float(next(draws))), 19, seed=0)
    assert pvalue.tolist() == [3 / 20, 1 / 20]
    assert seen[:, 0].tolist() == list(range(19))


# False positives

CHEAP = {
    "squares": lambda z, seed: [correlation_of_squares(z, n_simulations=19, seed=seed)],
    "pairs": lambda z, seed: ((found := pairwise_dependence(z, n_simulations=19, seed=seed)).strongest, found.mean),
    "marginals": lambda z, seed: [marginal_normality(z, n_simulations=19, seed=seed)],
    "radius": lambda z, seed: [radial(z)],
    "sliced": lambda z, seed: sliced_normality(z, n_directions=8, n_simulations=19, seed=seed),
}
NORMAL_ONLY = ("marginals", "radius", "sliced")


@pytest.mark.parametrize(
    ("name", "codes"),
    [(name, normal) for name in CHEAP] + [(name, skewed) for name in CHEAP if name not in NORMAL_ONLY],
)
def test_true_null_hypotheses_are_rejected_at_the_level(name, codes):
    sets, level = 60, 0.1
    pvalues = np.array([[test.pvalue for test in CHEAP[name](codes(60, 3, seed), seed)] for seed in range(sets)])
    # Binomial(60, 0.1): 0 or more than 16 rejections have probability 0.002 and 0.0001.
    rejected = (pvalues <= level).sum(axis=0)
    assert ((rejected >= 1) & (rejected <= 16)).all(), rejected


def test_the_classifiers_do_not_reject_what_is_true():
    # Not more than one of three at a level of 0.05: probability 0.993 if all are exact.
    pvalues = [
        classifier_dependence(skewed(200, 4), n_simulations=19).pvalue,
        classifier_dependence(normal(200, 4), n_simulations=19).pvalue,
        classifier_normality(normal(200, 4), n_simulations=19).pvalue,
    ]
    assert sum(pvalue <= 0.05 for pvalue in pvalues) <= 1


# Power


def test_a_scale_mixture_is_seen():
    z = scale_mixture()
    squares = correlation_of_squares(z)
    assert squares.pvalue == 0.005
    assert squares.effect > 0.1
    length = radial(z)
    assert length.pvalue < 1e-6
    assert length.effect > 1.5
    assert all(test.pvalue == 0.02 for test in sliced_normality(z, n_simulations=49))
    test = classifier_dependence(z, n_simulations=49)
    assert test.pvalue == 0.02
    assert test.effect > 0.55


def test_a_pair_of_one_absolute_value_is_found():
    z = mirrored_pair()
    assert correlation_of_squares(z).pvalue == 0.005
    found = pairwise_dependence(z)
    assert found.strongest.pvalue == 0.005
    assert found.dependent()[0] == (6, 7)
    assert found.strongest.effect == found.correlation[6, 7]
    # It is none of the marginals: all are normal.
    assert marginal_normality(z).pvalue > 0.05
    test = classifier_normality(z, n_simulations=49)
    assert test.pvalue == 0.02
    assert test.effect > 0.55


def test_a_component_that_is_constant_in_one_half():
    z = normal(400, 6)
    z[:, 2] = 0
    z[10, 2] = 1
    test = classifier_normality(z, n_simulations=19, seed=np.int64(3))
    assert test == classifier_normality(z, n_simulations=19, seed=3)
    assert classifier_dependence(z, n_simulations=19).pvalue > 0


def test_projections_look_at_components_of_small_scale():
    z = normal(400, 2)
    z[:, 1] = 1e-6 * np.exp(z[:, 1])
    assert sliced_normality(z, n_simulations=49)[0].pvalue == 0.02


def test_a_rotated_uniform_is_seen():
    z = rotated_uniform()
    assert correlation_of_squares(z).pvalue == 0.005
    assert correlation_of_squares(z).effect < 0
    assert pairwise_dependence(rotated_uniform(4000)).mean.pvalue == 0.005
    assert sliced_normality(z, n_simulations=49)[1].pvalue == 0.02


def test_the_seed_decides_everything_random():
    z = normal(100, 3)
    state = torch.get_rng_state()
    first, again = (run_battery(z, n_simulations=19, seed=1).summary() for _ in range(2))
    assert first == again
    assert torch.equal(torch.get_rng_state(), state)
    for test in (sliced_normality, pairwise_dependence):
        assert str(test(z, n_simulations=19, seed=1)) != str(test(z, n_simulations=19, seed=2))


# The command


@pytest.fixture
def diagnose(scattergen, run_copy):
    """Calls the command for the copy of the small run."""

    def call(*arguments, code=0):
        every = ["-n", 120, "--simulations", 19, "-q"]
        return scattergen("diagnose", run_copy, *every, *arguments, code=code)

    return call


def test_the_command_tests_the_codes_and_a_density(drawing, diagnose, run_copy):
    lines = diagnose("--density", "mixture", "--components", 4, "--seed", 3).out.splitlines()
    assert lines[0] == "120 codes, the leading 4 components; seed 3."
    assert "training codes" in lines[1]
    assert "mixture" in lines[1]
    assert [line.split()[0] for line in lines[2:11]] == ["normal"] * 5 + ["independent"] * 4
    kept = json.loads((run_copy / "diagnosis-mixture.json").read_text())
    codes = RunFolder.open(run_copy).read("codes")[0]["codes"]
    rows = random_rows(len(codes), 120, 3)
    samples = sg.load(run_copy).sample_codes(120, "mixture", seed=3)
    for name, z in (("training codes", codes[rows]), ("mixture", samples)):
        expected = correlation_of_squares(z[:, :4], n_simulations=19, seed=3).summary()
        assert kept["tables"][name]["tests"][5] == expected
        assert np.shape(kept["tables"][name]["distance_correlation"]) == (4, 4)
    assert kept["told_apart"]["n"] == 120
    for picture in ("eigenvalues", "marginals", "quantiles", "pairs", "dependence"):
        with Image.open(run_copy / "pictures" / f"diagnosis-mixture-{picture}.png") as image:
            image.load()
            assert min(image.size) > 300


def test_the_command_tests_codes_of_test_images(diagnose, run_copy, digits):
    shown = diagnose("--part", "test", "--images", digits, "--components", 3, "--json").out
    found = json.loads(shown)
    assert found == json.loads((run_copy / "diagnosis.json").read_text())
    table = found["tables"]["test codes"]
    assert (table["n"], table["components"]) == (40, 3)  # all that there are
    z = sg.load(run_copy).encode(sg.datasets.open_dataset(digits).test)[:, :3]
    # Encoding in one batch or another rounds codes by some 1e-6.
    assert table["tests"][1]["statistic"] == pytest.approx(radial(z).statistic, abs=1e-4)


# Bad input


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--density", "nothing"], 'has no density "nothing": it has gaussian, mixture, vae, gan.'),
        (["--part", "test"], "does not hold the images that it was fitted to: name them by --images."),
        (["--part", "test", "--images", "mnist"], "mnist does not hold the images that"),
        (["--images", "mnist"], "leave out --images, or add --part test."),
    ],
)
def test_the_command_refuses(diagnose, arguments, words):
    assert words in diagnose(*arguments, code=2).err


def test_too_few_components_are_refused(run_copy):
    with pytest.raises(InputError, match="components"):
        diagnose_run(run_copy, components=1)


@pytest.mark.parametrize("test", [run_battery, radial, correlation_of_squares, sliced_normality])
@pytest.mark.parametrize(
    ("codes", "words"),
    [
        (np.ones(50), "shape"),
        (np.ones((50, 3), int), "floating-point"),
        (np.zeros((50, 3)), "constant"),
        (normal(39, 3), "39 codes are too few: at least 40"),
        (np.where(np.eye(50, 3) > 0, np.nan, normal(50, 3)), "Code 0 holds NaN"),
        (1e200 * normal(50, 3), "out of the range"),
        (1e-300 * normal(50, 3), "out of the range"),
    ],
)
def test_codes_that_cannot_be_tested_are_refused(test, codes, words):
    with pytest.raises(InputError, match=words):
        test(codes)


def test_other_bad_arguments_are_refused():
    with pytest.raises(InputError, match="at least 2 components but got 1"):
        pairwise_dependence(normal(50, 1))
    with pytest.raises(InputError, match="more codes than components but got 50 of 60"):
        sliced_normality(normal(50, 60))
    with pytest.raises(InputError, match="n_simulations"):
        correlation_of_squares(normal(50, 2), n_simulations=5)
