"""The statistical tests of evaluation: calibrated under the null, powerful where they should be."""

import math

import pytest
import torch
from scipy import stats

from scattergen.evaluation import (
    classifier_two_sample_test,
    different_bins,
    k_means,
    memorisation,
)
from scattergen.evaluation.memorisation import _mann_whitney, _train_share
from test_evaluation import normal


def assert_uniform(pvalues):
    """Not distinguishable from uniform at a level that one run in 10,000 misses."""
    assert stats.kstest(pvalues, "uniform").pvalue > 1e-4


# Classifier two-sample test


@pytest.mark.parametrize("shift", [0.0, 1.0, 6.0])
def test_a_classifier_gets_as_many_right_as_bayes(shift):
    n = 4000
    test = classifier_two_sample_test(normal(n, 2), normal(n, 2, seed=1) + shift / math.sqrt(2))
    bayes = stats.norm.cdf(shift / 2)
    # Four binomial standard deviations above; learning from 4,000 rows costs up to 2 % below.
    noise = 4 * math.sqrt(bayes * (1 - bayes) / n) + 1e-12
    assert test.n == n
    assert bayes - noise - 0.02 < test.accuracy < bayes + noise
    assert (test.pvalue < 1e-6) == (shift > 0)


def test_pvalues_of_equal_distributions_are_not_too_small():
    pvalues = [
        classifier_two_sample_test(
            normal(60, 3, seed=i), normal(50, 3, seed=1000 + i), seed=i
        ).pvalue
        for i in range(60)
    ]
    for level in (0.5, 0.2, 0.05):
        # A discrete p-value is below its level at most that often: four standard deviations above.
        bound = 60 * level + 4 * math.sqrt(60 * level * (1 - level))
        assert sum(p <= level for p in pvalues) <= bound
    assert max(pvalues) > 0.5


def test_constant_features_do_not_disturb_the_classifier():
    x, y = torch.ones(100, 3), torch.ones(100, 3)
    assert classifier_two_sample_test(x, y).accuracy == 0.5
    y[:, 1] = 2
    assert classifier_two_sample_test(x, y).accuracy == 1


def test_the_classifier_leaves_the_callers_generator_alone():
    state = torch.get_rng_state()
    first = classifier_two_sample_test(normal(40, 2), normal(40, 2, seed=1), seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert classifier_two_sample_test(normal(40, 2), normal(40, 2, seed=1), seed=3) == first


# Bins


def test_scores_of_bins_are_the_two_proportion_test():
    centres = torch.tensor([[0.0], [1.0], [2.0]], dtype=torch.float64)
    counts = torch.tensor([[50, 30, 20], [90, 80, 30]])
    train, samples = (centres.repeat_interleave(c, dim=0) for c in counts)
    test = different_bins(train, samples, centres=centres)
    p, q, r = 0.3, 0.4, 110 / 300
    expected = (q - p) / math.sqrt(r * (1 - r) * (1 / 100 + 1 / 200))
    assert test.zscores[1].item() == pytest.approx(expected, rel=1e-12)
    reference = stats.chi2_contingency(counts.numpy(), correction=False)
    assert test.pvalue == pytest.approx(reference.pvalue, rel=1e-9)
    assert test.n_bins == 3


def test_few_bins_differ_between_equal_distributions_and_their_pvalue_is_uniform():
    tests = [
        different_bins(normal(900, 3, seed=i), normal(400, 3, seed=1000 + i), n_bins=10)
        for i in range(100)
    ]
    different = sum(test.different for test in tests)
    # 1,000 tests at 5 %; those of one table are tied by a sum, which only lessens their variation.
    assert abs(different - 50) < 5 * math.sqrt(1000 * 0.05 * 0.95)
    assert_uniform([test.pvalue for test in tests])


def test_a_dropped_mode_is_the_bin_with_the_most_negative_score():
    centres = 100 * torch.eye(4, dtype=torch.float64)
    train = centres.repeat(100, 1) + normal(400, 4)
    samples = centres[:3].repeat(100, 1) + normal(300, 4, seed=1)
    found = k_means(train, 4)
    assert len(found) == 4
    test = different_bins(train, samples, centres=found)
    assert found[test.zscores.argmin()].argmax() == 3
    assert (test.different, test.fraction) == (4, 1.0)


def test_bins_of_a_few_repeated_rows():
    x = torch.tensor([[0.0], [1.0]]).repeat(50, 1)
    assert len(k_means(x, 10)) == 2
    assert different_bins(x, x, n_bins=10).pvalue == 1
    assert different_bins(torch.zeros(9, 2), torch.zeros(5, 2), n_bins=3).pvalue == 1


# Memorisation


def test_new_images_are_not_called_copies():
    counts = 150, 99, 100  # so that the threshold of "close" is the lowest of 99 distances
    results = [
        memorisation(*(normal(n, 4, seed=3 * i + j) for j, n in enumerate(counts)), n_cells=3)
        for i in range(100)
    ]
    assert_uniform([r.copying_pvalue for r in results])
    assert_uniform([r.worst_cell_pvalue for r in results])
    assert_uniform([r.share_pvalue for r in results])
    close = sum(r.close for r in results) / 100
    # The part of a distribution below the lowest of 99 has mean and standard deviation 1/100; a
    # binomial of 100 samples adds as much. Five standard deviations of the mean of 100 of these.
    assert abs(close - 0.01) < 5 * math.sqrt(2) * 0.01 / math.sqrt(100)


def test_copies_in_one_place_are_found_although_others_are_far_away():
    centres = torch.tensor([[0.0] * 4, [100.0] * 4], dtype=torch.float64)  # in alternate rows
    train, test, new = (centres.repeat(200, 1) + normal(400, 4, seed=i) for i in range(3))
    copied, blurred = train[::2] + 0.01 * new[::2], centres[1] + 3 * normal(200, 4, seed=5)
    found = memorisation(train, test, torch.cat([copied, blurred]), n_cells=2)
    whole = memorisation(train, test, torch.cat([copied, blurred]), n_cells=1)
    assert found.close == pytest.approx(0.5, abs=0.01)
    # One cell copies everything and the other nothing, so that both means are about 0 …
    assert found.copying == pytest.approx(0, abs=2)
    assert whole.copying == pytest.approx(0, abs=2)
    # … but not the scores of the cells, and every copy has a training image beside it.
    assert found.worst_cell < -5
    assert found.worst_cell_pvalue < 1e-6
    assert found.train_share > 0.7
    assert found.share_pvalue < 1e-10
    only = memorisation(train, test, copied)
    assert only.copying < -5
    assert only.copying_pvalue < 1e-6
    far = memorisation(train, test, blurred)
    assert far.copying > 5
    assert far.copying_pvalue > 0.99


def test_cells_with_few_samples_are_left_out():
    train, test = normal(300, 2), normal(200, 2, seed=1)
    corner = normal(200, 2, seed=2)
    corner = corner[(corner > 0).all(1)][:21]
    for n_cells in (1, 40):  # with 40 no cell has 20 samples, and all are taken together
        found = memorisation(train, test, corner, n_cells=n_cells)
        assert math.isfinite(found.copying)
    assert found.copying == memorisation(train, test, corner, n_cells=1).copying


def test_rank_score_is_scipys():
    x, y = normal(40, 1)[:, 0], normal(30, 1, seed=1)[:, 0] + 0.4
    reference = stats.mannwhitneyu(
        y.numpy(), x.numpy(), alternative="less", method="asymptotic", use_continuity=False
    )
    assert stats.norm.cdf(_mann_whitney(x, y)) == pytest.approx(reference.pvalue, rel=1e-9)


def test_share_near_training_images_has_the_moments_of_a_permutation():
    # Samples that crowd around a few real images, which a binomial would take for independent.
    counts = torch.tensor([30, 20, 10, 5] + [1] * 5 + [0] * 51)
    generator = torch.Generator().manual_seed(0)
    n_train, total = 40, counts.sum().item()
    shares, zscores = [], []
    for _ in range(2000):
        order = torch.randperm(len(counts), generator=generator)
        train, test = counts[order[:n_train]], counts[order[n_train:]]
        near_train = torch.arange(total) < train.sum()
        share, expected, pvalue = _train_share(near_train, train, test)
        shares.append(share)
        zscores.append(stats.norm.isf(pvalue))
    assert expected == pytest.approx(2 / 3)
    # 2,000 draws: a mean of standard deviation 0.2/√2000, a spread known to 1/√4000 = 1.6 %.
    assert abs(sum(shares) / 2000 - expected) < 5 * 0.2 / math.sqrt(2000)
    assert torch.tensor(zscores).std().item() == pytest.approx(1, rel=0.08)
