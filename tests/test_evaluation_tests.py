"""The statistical tests of evaluation: calibrated under the null, powerful where they should be."""

import itertools
import math
from importlib import import_module

import numpy as np
import pytest
import torch
from scipy import stats

from scattergen.evaluation import classifier_two_sample_test, different_bins, image_cells, k_means, memorisation
from scattergen.evaluation.memorisation import _largest_zscore
from test_evaluation import normal

# The package's attribute of this name is the function.
memorisation_module = import_module("scattergen.evaluation.memorisation")


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
        classifier_two_sample_test(normal(60, 3, seed=i), normal(50, 3, seed=1000 + i), seed=i).pvalue
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
    tests = [different_bins(normal(900, 3, seed=i), normal(400, 3, seed=1000 + i), n_bins=10) for i in range(100)]
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


GENERATORS = {
    "perfect": lambda new: new,
    "smooth": lambda new: 0.5 * new,
    "far": lambda new: new + 3,
    "collapsed": lambda new: new[:5].repeat(20, 1) + 0.1 * new,
}


@pytest.mark.parametrize("generator", GENERATORS.values(), ids=GENERATORS)
def test_generators_that_copy_nothing_are_seldom_called_copiers(generator):
    counts = 150, 99, 100  # so that the threshold of "close" is the lowest of 99 distances
    results = []
    for i in range(60):
        train, test, new = (normal(n, 4, seed=3 * i + j) for j, n in enumerate(counts))
        results.append(memorisation(train, test, generator(new), n_cells=3))
    for level in (0.5, 0.2, 0.05, 0.01):
        # A discrete p-value is below its level at most that often: four standard deviations above.
        bound = 60 * level + 4 * math.sqrt(60 * level * (1 - level))
        assert sum(r.copying_pvalue <= level for r in results) <= bound
    # Nor is the test idle: 30 are expected, less what ties take; 15 are 4 deviations below.
    assert sum(r.copying_pvalue <= 0.5 for r in results) >= 15
    if generator is GENERATORS["perfect"]:
        close = sum(r.close for r in results) / 60
        # The part of a distribution below the lowest of 99 has mean and standard deviation 1/100;
        # a binomial of 100 samples adds as much. Five standard deviations of the mean of 60.
        assert abs(close - 0.01) < 5 * math.sqrt(2) * 0.01 / math.sqrt(60)


def test_smooth_samples_are_nearer_to_training_images_than_test_images_are_and_no_copies():
    train, test, new = (normal(1000, 8, seed=i) for i in range(3))
    smooth = memorisation(train, test, 0.5 * new)
    assert smooth.distance < 0.8 * smooth.test_distance
    assert smooth.close > 0.03
    assert not smooth.copies
    # A share of one half of 1,000 samples; neighbours that are shared double the variance or so.
    assert smooth.train_share == pytest.approx(0.5, abs=4 * math.sqrt(2) * 0.5 / math.sqrt(1000))


@pytest.mark.parametrize("generator", [GENERATORS["perfect"], GENERATORS["smooth"]])
def test_copies_in_one_place_among_many_new_images_are_found(generator):
    centres = 100 * torch.eye(6, dtype=torch.float64)[:3]  # in turn
    train = centres.repeat(700, 1) + normal(2100, 6)
    test = centres.repeat(350, 1) + normal(1050, 6, seed=1)
    samples = centres.repeat(700, 1) + generator(normal(2100, 6, seed=2))
    samples[:630:3] = train[:630:3] + 0.2 * normal(210, 6, seed=3)  # one in ten
    cells = image_cells(train, test, 3)
    found = memorisation(train, test, samples, cells=cells)
    assert found.copies
    assert found.copying_pvalue == 1e-4
    # 30 % of the samples of that cell are copies, and 1/2 to all of its closest tenth, 70 of them:
    # (1 - 2/3) × √70/√(2/9) × 1/2 = 3 at least, and all samples there (1 - 2/3) × 0.3 √700/0.47.
    assert found.copying > 3
    assert found.copying_cell in (None, cells[0].item())
    assert found.expected_share == pytest.approx(2 / 3)


def test_copies_spread_over_all_cells_are_found():
    train, test, new = normal(1200, 8), normal(600, 8, seed=1), normal(1200, 8, seed=2)
    new[:120] = train[:120] + 0.1 * new[:120]
    found = memorisation(train, test, new)
    assert found.copies
    assert found.copying_cell is None


@pytest.mark.parametrize("seed", range(4))
def test_the_pvalue_is_that_of_all_choices_of_training_images(monkeypatch, seed):
    monkeypatch.setattr(memorisation_module, "FEWEST", 1)
    rng = np.random.default_rng(seed)
    n_train, cells = 4, np.array([0, 0, 1, 1, 0, 0, 1, 1])  # training images first
    images = rng.choice(8, 30, p=np.array([4, 3, 2, 2, 1, 1, 1, 1]) / 15)
    distances = rng.random(30)
    found, pvalue, _ = _largest_zscore(images, distances, cells, n_train, rng)

    def largest(chosen):
        """From the definition, sample by sample."""
        scores = []
        kept = [(images[cells[images] == c], distances[cells[images] == c]) for c in (0, 1)]
        groups = ([who for who, _ in kept], [who[np.argsort(far)][: math.ceil(len(who) / 10)] for who, far in kept])
        for group in groups:
            excess, variance = [], []
            for c, who in enumerate(group):
                counts = np.array([(who == i).sum() for i in np.flatnonzero(cells == c)])
                excess.append(np.isin(who, chosen).sum() - len(who) / 2)
                # p (1 - p) N/(N - 1) with p = 1/2 and N = 4
                variance.append(((counts - counts.mean()) ** 2).sum() / 3)
            sums = [*excess, sum(excess)], [*variance, sum(variance)]
            scores += [e / math.sqrt(v) if v > 1e-9 else 0 for e, v in zip(*sums, strict=True)]
        return max(scores)

    observed = largest(range(4))
    assert found == pytest.approx(observed, rel=1e-9)
    choices = [
        largest([*a, *b])
        for a in itertools.combinations([0, 1, 4, 5], 2)
        for b in itertools.combinations([2, 3, 6, 7], 2)
    ]
    expected = sum(value >= observed - 1e-9 for value in choices) / len(choices)
    # A binomial share of 9,999 draws, five standard deviations, and the 1 that is added to both.
    noise = 5 * math.sqrt(expected * (1 - expected) / 9999) + 1e-4
    assert pvalue == pytest.approx(expected, abs=noise)


def test_an_image_that_is_in_both_sets_is_no_evidence():
    both = normal(60, 3)
    found = memorisation(both, both, both.repeat(3, 1))
    assert found.train_share == 0
    assert found.copying_pvalue > 0.5


def test_cells_without_samples_or_of_one_kind_do_not_disturb():
    train, test = normal(300, 2), normal(200, 2, seed=1)
    corner = normal(200, 2, seed=2)
    corner = corner[(corner > 0).all(1)][:21]
    for n_cells in (1, 40, 500):  # of up to 500 cells many hold one image
        found = memorisation(train, test, corner, n_cells=n_cells)
        assert math.isfinite(found.copying)
        assert 1e-4 <= found.copying_pvalue <= 1
    cells = torch.cat([torch.zeros(300), torch.ones(200)]).long()  # nothing can be permuted
    found = memorisation(train, test, corner, cells=cells)
    assert (found.copying, found.copying_pvalue) == (0, 1)
