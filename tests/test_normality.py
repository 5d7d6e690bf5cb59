"""Normality tests: textbook formulas, false positives, power, and the edges of their input."""

import numpy as np
import pytest
import torch
from scipy import stats

from scattergen.diagnostics import (
    count_rejections,
    dagostino_k2,
    effect_sizes,
    jarque_bera,
    normality,
    rejections_by_sample_size,
)
from scattergen.errors import InputError


def normal(n, d, seed=0):
    return np.random.default_rng(seed).standard_normal((n, d))


def test_counts_that_were_not_made():
    with pytest.raises(InputError, match=r"K2 at 0.1: there are K2, JB at \(0.05, 0.01\)"):
        count_rejections(normal(100, 2), levels=(0.05, 0.01)).count("K2", 0.1)


def test_jarque_bera_is_its_formula():
    z = normal(200, 5) ** [1, 2, 3, 1, 2]
    result = jarque_bera(z)
    centred = z - z.mean(0)
    variance = (centred**2).mean(0)
    skewness = (centred**3).mean(0) / variance**1.5
    kurtosis = (centred**4).mean(0) / variance**2 - 3
    statistic = 200 / 6 * (skewness**2 + kurtosis**2 / 4)
    # Both in float64 over 200 values; the fourth moment loses a few digits of 1e-16 at most.
    np.testing.assert_allclose(result.statistic, statistic, rtol=1e-10)
    np.testing.assert_allclose(result.pvalue, np.exp(-statistic / 2), rtol=1e-8)  # chi2, 2 dof
    np.testing.assert_allclose(effect_sizes(z)[0], skewness, rtol=1e-10)
    np.testing.assert_allclose(effect_sizes(z)[1], kurtosis, rtol=1e-10, atol=1e-12)


def test_k2_is_the_sum_of_the_squared_skewness_and_kurtosis_scores():
    z = normal(60, 70) ** 3  # more columns than a block
    result = dagostino_k2(z)
    for component in (0, 69):
        column = z[:, component]
        expected = stats.skewtest(column).statistic ** 2 + stats.kurtosistest(column).statistic ** 2
        # The same float64 arithmetic after a shift and a scaling: some 1e-14 relative.
        assert result.statistic[component] == pytest.approx(expected, rel=1e-10)
    np.testing.assert_allclose(result.pvalue, np.exp(-result.statistic / 2), rtol=1e-10)


def test_normal_data_are_rejected_at_about_the_level_and_others_always():
    d = 1000
    table = count_rejections(np.hstack([normal(2000, d), normal(2000, 3) ** 3]))
    assert (table.n, table.d, table.constant) == (2000, d + 3, 0)
    for test in ("K2", "JB"):
        for level in (0.05, 0.01):
            # The level is exact only as n grows; five binomial standard deviations, plus a tenth.
            slack = 5 * np.sqrt(d * level * (1 - level)) + 0.1 * d * level
            assert abs(table.count(test, level) - 3 - d * level) < slack


def test_counts_are_the_pvalues_below_each_of_the_users_levels():
    z = normal(100, 300)
    table = count_rejections(z, levels=(0.5, 0.1))
    assert table.levels == (0.5, 0.1)
    for test, reference in (("K2", stats.normaltest), ("JB", stats.jarque_bera)):
        pvalue = reference(z, axis=0).pvalue
        for level in (0.5, 0.1):
            assert table.count(test, level) == np.count_nonzero(pvalue < level)


def test_a_large_mean_costs_no_digits_of_what_is_left():
    z = 1e6 + 1e-6 * normal(10_000, 3)  # rounded to some thousands of values
    left = z - 1e6  # exact: neighbours of the mean
    assert np.array_equal(left + 1e6, z)
    np.testing.assert_allclose(effect_sizes(z)[0], stats.skew(left, axis=0), rtol=1e-8)
    np.testing.assert_allclose(dagostino_k2(z).statistic, stats.normaltest(left, axis=0).statistic, rtol=1e-8)


def test_shift_scale_and_type_do_not_matter():
    z = normal(300, 4)
    moved = z * [1e-6, 1e6, 1, -1] + [1e3, 0, 1e4, 1]
    # The shift rounds z to 1e3 * 1e-16 / 1e-6 = 1e-7 of its spread; moments follow linearly.
    np.testing.assert_allclose(dagostino_k2(moved).statistic, dagostino_k2(z).statistic, rtol=1e-4, atol=1e-4)
    assert np.array_equal(jarque_bera(torch.from_numpy(z)).pvalue, jarque_bera(z).pvalue)
    assert np.isfinite(jarque_bera(torch.from_numpy(z).float()).pvalue).all()
    half = torch.from_numpy(z).bfloat16()  # which NumPy does not have
    assert np.array_equal(jarque_bera(half).pvalue, jarque_bera(half.float()).pvalue)
    assert np.array_equal(dagostino_k2([*half]).pvalue, dagostino_k2(half.float()).pvalue)


@pytest.mark.parametrize("constant", [0.0, 0.1, -1e30])
def test_a_constant_component_is_nan_and_never_counted(constant):
    z = normal(50, 3) ** 3
    z[:, 1] = constant
    for test in (dagostino_k2, jarque_bera):
        assert np.isnan(test(z).pvalue).tolist() == [False, True, False]
        assert np.isnan(test(z).statistic).tolist() == [False, True, False]
    assert np.isnan(effect_sizes(z)[0]).tolist() == [False, True, False]
    table = count_rejections(z)
    assert table.constant == 1
    assert table.counts == count_rejections(z[:, [0, 2]]).counts


def test_all_components_constant():
    assert count_rejections(np.ones((30, 2))).counts == {"K2": (0, 0), "JB": (0, 0)}


def test_rejections_grow_with_the_sample_and_simulated_ones_stay_at_the_level():
    z = torch.from_numpy(np.random.default_rng(1).gamma(20, size=(3000, 200)))
    rates = rejections_by_sample_size(z, sizes=[50, 3000], repeats=2)
    assert len(rates) == 2 * 2 * 2
    by_key = {(r.n, r.test, r.level): r for r in rates}
    for test in ("K2", "JB"):
        small, large = by_key[50, test, 0.05], by_key[3000, test, 0.05]
        assert small.observed < 100 < large.observed == 200
        # Mean of two binomials of 200 at 0.05: 10 with standard deviation 2.2.
        assert abs(large.simulated - 10) < 5 * 2.2


def test_a_sample_of_all_codes_counts_as_the_codes_themselves():
    # Skewed just enough that some components are rejected and some not, so that a sample drawn
    # with replacement would score otherwise.
    z = np.random.default_rng(2).gamma(300, size=(2000, 300))
    table = count_rejections(z)
    assert 30 < table.count("K2", 0.01) < 270
    for rate in rejections_by_sample_size(z, sizes=[2000], repeats=1):
        assert rate.observed == table.count(rate.test, rate.level)


def test_rates_depend_on_the_seed_but_not_on_the_other_sizes():
    z = normal(400, 60) ** 2
    rates = rejections_by_sample_size(z, sizes=[30, 100], repeats=3, seed=5)
    assert rejections_by_sample_size(z, sizes=[100], repeats=3, seed=5) == rates[4:]
    assert rejections_by_sample_size(z, sizes=[30, 100], repeats=3, seed=6) != rates


def test_default_sizes_stop_at_the_number_of_codes():
    rates = rejections_by_sample_size(normal(150, 4), repeats=1)
    assert sorted({r.n for r in rates}) == [20, 40, 100]


@pytest.mark.parametrize("test", [dagostino_k2, jarque_bera, effect_sizes, count_rejections])
@pytest.mark.parametrize(
    ("z", "message"),
    [
        (normal(19, 3), "19 codes are too few: at least 20"),
        (normal(30, 3)[:, 0], r"shape \(30,\)"),
        (normal(30, 3)[:, :0], r"shape \(30, 0\)"),
        (np.ones((30, 3), int), "floating-point"),
        (np.where(np.eye(30, 4) > 0, np.nan, 1.0)[:, [2, 3]], "Code 2 holds NaN"),
        (np.where(np.arange(4) == 3, np.inf, normal(30, 4)), "Code 0 holds .* infinity"),
    ],
)
def test_unusable_codes_are_refused(test, z, message):
    with pytest.raises(InputError, match=message):
        test(z)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sizes": [10]}, "sizes from 20 to 100"),
        ({"sizes": [101]}, "sizes from 20 to 100"),
        ({"repeats": 0}, "repeats"),
        ({"levels": (0.05, 5)}, "level"),
    ],
)
def test_unusable_options_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        rejections_by_sample_size(normal(100, 2), **options)


def test_components_are_tested_in_blocks_with_the_same_result(monkeypatch):
    z = normal(100, 10)
    whole = dagostino_k2(z).pvalue
    monkeypatch.setattr(normality, "COMPONENTS_PER_BLOCK", 3)
    # The mean of a column is summed in an order that depends on the block's width.
    np.testing.assert_allclose(dagostino_k2(z).pvalue, whole, rtol=1e-10)
