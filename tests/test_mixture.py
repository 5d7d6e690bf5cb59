"""The mixture: EM against closed forms and scikit-learn, truncation, shrinkage, rescue."""

import math
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.covariance import OAS
from sklearn.datasets import load_wine
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture as Reference

from scattergen.densities import Gaussian, GaussianMixture
from scattergen.densities.expectation_maximization import (
    Components,
    Expectation,
    Statistics,
    choose_shrinkage,
    expectation,
    first_components,
    lloyd,
    maximization,
    propose,
    seed_means,
    unite,
)
from scattergen.densities.gaussian import shrink_to_diagonal, shrink_to_identity
from scattergen.errors import InputError


def clusters(n, d, K, distance, seed=0):
    """Codes of K normal clusters with different covariances, and the cluster of each."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(K, (n,), generator=generator)
    means = distance * torch.randn(K, d, generator=generator)
    mixing = torch.eye(d) + 0.4 * torch.randn(K, d, d, generator=generator) / d**0.5
    noise = torch.randn(n, d, generator=generator)
    return means[labels] + torch.einsum("nd,nde->ne", noise, mixing[labels]), labels


def test_one_component_without_shrinkage_is_mean_and_covariance():
    z, _ = clusters(400, 6, 1, 1.0)
    mixture = GaussianMixture(n_components=1, shrinkage=0.0).fit(z)
    covariance = mixture.cholesky_[0] @ mixture.cholesky_[0].T
    # float32 sums over 400 codes, and the ridge of 1e-5 of the variance.
    torch.testing.assert_close(covariance, z.T.cov(correction=0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(mixture.means_[0], z.mean(0), rtol=1e-5, atol=1e-5)
    expected = torch.distributions.MultivariateNormal(z.mean(0), z.T.cov(correction=0))
    # Squared Mahalanobis distances up to 30, times 2e-5 for the ridge and for float32.
    torch.testing.assert_close(mixture.log_prob(z), expected.log_prob(z), rtol=0, atol=2e-3)


def test_likelihood_is_that_of_torch_distributions():
    z, _ = clusters(600, 5, 4, 3.0)
    mixture = GaussianMixture(n_components=4, shrinkage=10.0).fit(z)
    oracle = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(mixture.weights_.double()),
        torch.distributions.MultivariateNormal(mixture.means_.double(), scale_tril=mixture.cholesky_.double()),
    )
    # float64 throughout, the oracle too.
    torch.testing.assert_close(mixture.log_prob(z.double()), oracle.log_prob(z.double()), rtol=1e-9, atol=1e-9)
    # float32: rounding of 5 squared terms of at most some 100, 1e-5 each.
    torch.testing.assert_close(mixture.log_prob(z).double(), oracle.log_prob(z.double()), rtol=1e-4, atol=1e-3)


def test_it_reaches_the_likelihood_of_scikit_learn():
    z, _ = clusters(2000, 4, 5, 3.0)
    options = {"n_components": 5, "shrinkage": 0.0, "max_iterations": 100, "tolerance": 1e-5}
    ours = [GaussianMixture(**options).fit(z, seed=seed).log_prob(z).mean() for seed in range(5)]
    theirs = Reference(5, n_init=5, tol=1e-5, max_iter=200, random_state=0).fit(z.numpy())
    # The best of five climbs of each; the ridge and the tolerances are worth some 1e-4 nats.
    assert max(ours).item() == pytest.approx(theirs.score(z.numpy()), abs=5e-3)


def test_one_iteration_is_that_of_scikit_learn():
    z, labels = clusters(500, 3, 3, 1.0)
    # Both start from the same parameters: those of the true clusters.
    weights = torch.bincount(labels) / len(z)
    means = torch.stack([z[labels == k].mean(0) for k in range(3)])
    covariances = torch.stack([z[labels == k].T.cov(correction=0) for k in range(3)])
    start = Components(weights, means, covariances.clone(), covariances[0])
    everything = torch.arange(3).expand(len(z), 3)
    found = expectation(z, everything, start)
    ours = maximization(Statistics.of(z, found, start.means), [(3, 0.0)], 0.0)
    theirs = Reference(
        3,
        max_iter=1,
        reg_covar=0.0,
        weights_init=weights.double().numpy() / weights.double().sum().item(),
        means_init=means.numpy(),
        precisions_init=np.linalg.inv(covariances.double().numpy()),
    )
    with pytest.warns(UserWarning, match="did not converge"):
        theirs.fit(z.double().numpy())
    # float32 against float64 sums of 500 terms; responsibilities below 1e-6 are dropped.
    np.testing.assert_allclose(ours.weights, theirs.weights_, rtol=1e-4)
    np.testing.assert_allclose(ours.means, theirs.means_, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(ours.covariances, theirs.covariances_, rtol=1e-3, atol=1e-4)


def test_without_shrinkage_the_likelihood_never_falls():
    z, _ = clusters(1000, 6, 8, 1.0)
    options = {"shrinkage": 0.0, "max_iterations": 40, "tolerance": 0.0}
    history = GaussianMixture(n_components=6, **options).fit(z).history_
    climb = np.diff([row["log_likelihood"] for row in history])
    # Exact EM climbs but for the ridge, 1e-5, dropped responsibilities, 1e-6, and float32.
    assert len(climb) > 3
    assert (climb > -1e-3).all()


def test_separated_clusters_are_recovered():
    z, labels = clusters(3000, 8, 12, 12.0)
    mixture = GaussianMixture(n_components=12, shrinkage=5.0, max_iterations=40).fit(z)
    true_means = torch.stack([z[labels == k].mean(0) for k in range(12)])
    nearest = torch.cdist(true_means, mixture.means_).min(1)
    assert len(nearest.indices.unique()) == 12
    assert nearest.values.max() < 1e-2  # the clusters do not overlap
    torch.testing.assert_close(mixture.weights_[nearest.indices], torch.bincount(labels) / 3000, atol=1e-3, rtol=0)


def test_samples_have_the_moments_of_the_mixture():
    z, _ = clusters(1000, 3, 4, 4.0)
    mixture = GaussianMixture(n_components=4).fit(z)
    n = 20_000
    codes = mixture.sample(n, seed=1)
    mean = mixture.weights_ @ mixture.means_
    # Five standard errors of a mean.
    assert ((codes.mean(0) - mean).abs() < 5 * codes.std(0) / n**0.5).all()
    likelihoods = mixture.log_prob(codes)
    # Entropy by another seed: two independent estimates differ by at most five standard errors.
    other = mixture.log_prob(mixture.sample(n, seed=2)).mean()
    assert (likelihoods.mean() - other).abs() < 5 * likelihoods.std() * (2 / n) ** 0.5


def test_shrinkage_counts_as_that_many_codes():
    z, _ = clusters(300, 4, 2, 8.0)
    start = Components(
        torch.tensor([0.5, 0.5]), seed_means(z, 2, np.random.default_rng(0)), torch.eye(4).expand(2, 4, 4), torch.eye(4)
    )
    everything = torch.arange(2).expand(300, 2)

    def step(kappa):
        found = expectation(z, everything, start)
        return maximization(Statistics.of(z, found, start.means), [(4, kappa)], 0.0)

    raw, shrunk = step(0.0), step(30.0)
    for k in range(2):
        count = 300 * raw.weights[k]
        expected = (count * raw.covariances[k] + 30 * raw.pooled) / (count + 30)
        torch.testing.assert_close(shrunk.covariances[k], expected, rtol=1e-4, atol=1e-5)
    huge = step(1e9)  # a covariance for all
    torch.testing.assert_close(huge.covariances[0], raw.pooled, rtol=1e-4, atol=1e-5)


def test_fewer_codes_than_dimensions_still_make_a_density():
    z, _ = clusters(60, 100, 2, 1.0)
    mixture = GaussianMixture(n_components=2).fit(z)
    assert torch.isfinite(mixture.sample(50)).all()
    assert torch.isfinite(mixture.log_prob(z)).all()


def test_shrinkage_is_the_published_formula():
    x = np.random.default_rng(0).standard_normal((50, 20)) @ np.diag(np.arange(1.0, 21))
    x -= x.mean(0)
    n, d = x.shape
    S = x.T @ x / n
    rho = (1 - 2 / d) * np.trace(S @ S) + np.trace(S) ** 2
    rho /= (n + 1 - 2 / d) * (np.trace(S @ S) - np.trace(S) ** 2 / d)
    expected = (1 - rho) * S + rho * np.trace(S) / d * np.eye(d)
    ours = shrink_to_identity(torch.from_numpy(S), n).numpy()
    np.testing.assert_allclose(ours, expected, rtol=1e-12)
    # scikit-learn leaves out the terms in 2/d: ρ changes by about 2/d of its second part.
    theirs = OAS(assume_centered=True).fit(x)
    assert abs(rho - theirs.shrinkage_) < 0.1 * rho
    one = torch.tensor([[2.0]])
    assert shrink_to_identity(one, 10) == one
    torch.testing.assert_close(shrink_to_identity(torch.eye(3), 10), torch.eye(3))


def test_shrinkage_of_correlations_is_in_any_units():
    x = np.random.default_rng(0).standard_normal((50, 20)) @ np.random.default_rng(1).standard_normal((20, 20))
    R, units = torch.from_numpy(np.corrcoef(x.T)), torch.logspace(-3, 3, 20).double()
    ours = shrink_to_diagonal(units[:, None] * R * units, 50)
    torch.testing.assert_close(ours, units[:, None] * shrink_to_identity(R, 50) * units, rtol=1e-12, atol=0)
    constant = torch.tensor([[4.0, 1.0, 0.0], [1.0, 9.0, 0.0], [0.0, 0.0, 0.0]])
    assert (shrink_to_diagonal(constant, 10)[2] == 0).all()
    torch.testing.assert_close(
        shrink_to_diagonal(constant, 10).diagonal(), constant.diagonal() * torch.tensor([1, 1, 0])
    )


@pytest.mark.parametrize("make", [partial(GaussianMixture, 2), partial(Gaussian, covariance="full")])
def test_units_of_components_do_not_matter(make):
    z, _ = clusters(200, 6, 2, 3.0)
    units = 10.0 ** torch.arange(-9, 9, 3)
    plain, scaled = make().fit(z), make().fit(z * units)
    # In other units every code, centre and factor is rounded anew, by 6e-8 of squared distances up to 40.
    density = scaled.log_prob(z * units) + units.log().sum()
    torch.testing.assert_close(density, plain.log_prob(z), rtol=0, atol=1e-3)
    torch.testing.assert_close(scaled.sample(9, seed=0) / units, plain.sample(9, seed=0), rtol=0, atol=1e-3)


@pytest.mark.parametrize("leading", [None, 2])
def test_the_history_is_in_the_units_of_the_codes(leading):
    z = clusters(200, 4, 1, 3.0)[0] * torch.tensor([1e-3, 10.0, 1.0, 1e4])
    mixture = GaussianMixture(1, shrinkage=0.0, leading=leading).fit(z)
    seen = z[:, :leading]  # one component is found before the first iteration
    expected = GaussianMixture(1, shrinkage=0.0).fit(seen).log_prob(seen).mean().item()
    assert mixture.history_[-1]["log_likelihood"] == pytest.approx(expected, abs=1e-3)  # float32, squares up to 30


def test_a_constant_component_is_as_narrow_in_any_units():
    z, _ = clusters(200, 4, 2, 3.0)
    z = torch.cat([z, torch.full((200, 1), 5.0)], 1)
    for unit in (1e-4, 1.0, 1e4):
        codes = GaussianMixture(2).fit(z * unit).sample(1000)
        # A ridge of 1e-5 of the others' mean variance, in standard deviations, and 2 % for 1,000 samples.
        assert codes[:, 4].std() < 0.01 * codes[:, :4].std(0).max()


def test_one_component_of_a_table_is_as_likely_as_by_scikit_learn():
    x = load_wine().data  # columns from 0.1 to 300 wide
    ours = GaussianMixture(1, shrinkage=0.0).fit(torch.from_numpy(x))
    theirs = Reference(1).fit(x)
    # The shrinkage of 178 rows in 13 columns.
    assert ours.log_prob(torch.from_numpy(x)).mean() == pytest.approx(theirs.score(x), abs=0.1)


def clusters_of_one_covariance(z, K):
    """Components at the means of k-means, all with the pooled covariance."""
    means, labels = lloyd(z, seed_means(z, K, np.random.default_rng(0)))
    pooled = (z - means[labels]).T.cov(correction=0)
    weights = torch.bincount(labels, minlength=K) / len(z)
    return Components(weights, means, pooled.expand(K, *pooled.shape), pooled)


def test_lloyds_iterations_are_those_of_scikit_learn():
    z, _ = clusters(500, 3, 6, 2.0)
    first = seed_means(z.double(), 6, np.random.default_rng(0))
    means, labels = lloyd(z.double(), first, 7)
    theirs = KMeans(6, init=first.numpy(), n_init=1, max_iter=7, tol=0.0, algorithm="lloyd")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # seven iterations may not be enough
        theirs.fit(z.double().numpy())
    assert (labels.numpy() == theirs.labels_).all()
    # Means of some 80 numbers of size 10 in float64.
    np.testing.assert_allclose(means, theirs.cluster_centers_, atol=1e-12)


def test_a_mean_without_codes_stays_where_it_is():
    z = torch.tensor([[0.0], [1.0], [10.0]])
    means, labels = lloyd(z, torch.tensor([[0.0], [10.0], [99.0]]))
    assert means.flatten().tolist() == [0.5, 10.0, 99.0]
    assert labels.tolist() == [0, 0, 1]


def test_the_first_components_are_those_of_the_clusters():
    z, _ = clusters(300, 3, 2, 8.0)
    means, labels = lloyd(z, seed_means(z, 2, np.random.default_rng(0)))
    found = first_components(z, means, labels, [(3, 0.0)], 0.0)
    for k in range(2):
        own = z[labels == k]
        assert found.weights[k].item() == pytest.approx(len(own) / 300)
        # float32 means and products of some 150 numbers of size 10.
        torch.testing.assert_close(found.means[k], own.mean(0), rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(found.covariances[k], own.T.cov(correction=0), rtol=1e-4, atol=1e-3)


def test_truncation_finds_what_the_exact_step_finds():
    z, _ = clusters(3000, 10, 30, 2.0)
    start = clusters_of_one_covariance(z, 30)
    everything = torch.arange(30).expand(3000, 30)
    exact = expectation(z, everything, start)
    # With one covariance the proposal is exact, so the best eight hold the whole posterior but
    # for a part that the ninth bounds.
    found = expectation(z, propose(z, start, 8), start)
    assert (found.best(1) == exact.best(1)).all()
    assert exact.log_likelihood - 0.05 < found.log_likelihood <= exact.log_likelihood + 1e-4


def test_candidates_are_never_counted_twice():
    a, b = torch.tensor([[3, 1], [0, 2]]), torch.tensor([[1, 5], [4, 4]])
    united = unite(a, b)
    assert [sorted(row) for row in united.tolist()] == [[-1, 1, 3, 5], [-1, 0, 2, 4]]
    z, _ = clusters(50, 3, 2, 2.0)
    start = clusters_of_one_covariance(z, 2)
    once = expectation(z, torch.tensor([[0, 1]]).expand(50, 2), start)
    twice = expectation(z, torch.tensor([[-1, 0, -1, 1]]).expand(50, 4), start)
    assert once.log_likelihood == pytest.approx(twice.log_likelihood, abs=1e-5)


def test_a_component_without_codes_restarts_from_one():
    z, labels = clusters(400, 3, 2, 10.0)
    big = int(torch.bincount(labels).argmax())
    means = torch.stack([z[labels == big].mean(0), z[labels != big].mean(0), torch.full((3,), 1e3)])
    start = Components(torch.full((3,), 1 / 3), means, torch.eye(3).expand(3, 3, 3), torch.eye(3))
    found = expectation(z, torch.arange(3).expand(400, 3), start)
    statistics = Statistics.of(z, found, start.means)
    statistics.rescue(z, np.random.default_rng(0))
    after = maximization(statistics, [(3, 1.0)], 0.0)
    assert (z == after.means[2]).all(1).any()
    # Shrinkage of the pooled covariance to the identity changes it by some 1 / 400.
    torch.testing.assert_close(after.covariances[2], after.pooled, rtol=0.02, atol=0.02)
    assert after.weights[2] == pytest.approx(1 / 401)
    assert torch.isfinite(after.covariances).all()


def test_repeated_codes_do_not_break_it():
    z = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)).repeat(40, 1)
    mixture = GaussianMixture(n_components=20).fit(z)
    assert torch.isfinite(mixture.sample(100)).all()
    fewer = torch.tensor([[0.0, 0.0], [1.0, 1.0]]).repeat(60, 1)
    for options in ({}, {"batch_size": 30}, {"leading": 1}):
        assert torch.isfinite(GaussianMixture(5, **options).fit(fewer).sample(100)).all()


def test_codes_far_from_zero_are_modelled_like_others():
    z, _ = clusters(900, 4, 3, 6.0)
    near, far = (GaussianMixture(3).fit(z + shift) for shift in (0.0, 2.0**12))
    # At 4,096 a float32 number is exact to 2.4e-4, in codes and in means.
    torch.testing.assert_close(far.means_ - 2.0**12, near.means_, rtol=0, atol=0.01)
    torch.testing.assert_close(far.cholesky_, near.cholesky_, rtol=0, atol=0.01)


def test_the_number_of_components_follows_the_number_of_codes():
    z, _ = clusters(1000, 3, 3, 5.0)
    assert len(GaussianMixture(max_iterations=1).fit(z).weights_) == 1000 // 300
    assert len(GaussianMixture(max_iterations=1).fit(z[:50]).weights_) == 1


def test_too_few_or_equal_codes_are_refused():
    z, _ = clusters(9, 3, 1, 1.0)
    with pytest.raises(InputError, match=r"9 codes to fit to are too few for n_components=5: use at most 4"):
        GaussianMixture(n_components=5).fit(z)
    with pytest.raises(InputError, match="All codes are equal"):
        GaussianMixture(n_components=1).fit(torch.ones(10, 3))


def test_best_candidates_come_first():
    found = Expectation(torch.tensor([[4, 7, 9]]), torch.tensor([[-3.0, -1.0, -2.0]]))
    assert found.best(2).tolist() == [[7, 9]]


# EM on the leading components


def three_clusters(n=3000):
    """Three clusters that the first two of six components tell apart, of which each has its own
    covariance in all six."""
    generator = torch.Generator().manual_seed(3)
    parts = []
    for centre in ((-8.0, 0.0), (8.0, 0.0), (0.0, 8.0)):
        mix = torch.randn(6, 6, generator=generator) / 2 + torch.eye(6)
        part = torch.randn(n // 3, 6, generator=generator) @ mix
        part[:, :2] += torch.tensor(centre)
        parts.append(part)
    return torch.cat(parts), parts


def test_leading_components_decide_and_all_are_modelled():
    z, parts = three_clusters()
    mixture = GaussianMixture(n_components=3, shrinkage=0, leading=2).fit(z)
    for part in parts:
        k = (mixture.means_ - part.mean(0)).norm(dim=1).argmin()
        # The clusters are 11 apart and have deviations up to 2.5 in the leading components: a
        # hundredth of the codes may be assigned otherwise, which moves a mean by 0.01 * 11.
        torch.testing.assert_close(mixture.means_[k], part.mean(0), rtol=0, atol=0.12)
        covariance = mixture.cholesky_[k] @ mixture.cholesky_[k].T
        expected = torch.cov(part.T, correction=0)
        # So few codes, at a squared distance of 11 ** 2 at most, add 0.01 * 121.
        torch.testing.assert_close(covariance, expected, rtol=0, atol=1.3)
        assert (covariance - expected).abs()[2:, 2:].max() < 0.2  # where nothing is assigned by


def test_all_components_as_leading_ones_are_none():
    z, _ = three_clusters(300)
    expected = GaussianMixture(n_components=3).fit(z, seed=1)
    for leading in (6, 100):
        found = GaussianMixture(n_components=3, leading=leading).fit(z, seed=1)
        assert torch.equal(found.sample(20), expected.sample(20))


@pytest.mark.parametrize(
    ("keywords", "sentence"),
    [
        ({"leading": 0}, "at least 1"),
        ({"shrinkage": -1.0}, "at least 0"),
        ({"shrinkage": math.nan}, "at least 0"),
        ({"shrinkage": "much"}, "a number or one of 'auto'"),
        ({"n_components": "many"}, "a whole number or one of 'auto' or null"),
        ({"n_components": 0}, "at least 1"),
        ({"batch_size": 1}, "at least 2"),
    ],
)
def test_options_out_of_range(keywords, sentence):
    with pytest.raises(InputError, match=sentence):
        GaussianMixture(**keywords)


# Shrinkage by held-out codes


def covariances_of(z, labels, K, shrinkage):
    statistics = Statistics(
        torch.bincount(labels).float(),
        torch.stack([z[labels == k].mean(0) for k in range(K)]),
        torch.stack([len(z[labels == k]) * z[labels == k].T.cov(correction=0) for k in range(K)]),
    )
    return maximization(statistics, shrinkage, 0.0).covariances


def test_each_block_has_the_conditional_covariance_of_its_own_weight():
    z, labels = clusters(200, 6, 2, 3.0)
    mixed = covariances_of(z, labels, 2, [(2, 4.0), (6, 100.0)]).double()
    little = covariances_of(z, labels, 2, [(6, 4.0)]).double()
    much = covariances_of(z, labels, 2, [(6, 100.0)]).double()
    for k in range(2):
        # float32 matrices of size 1, 1e-6 each.
        torch.testing.assert_close(mixed[k, :2, :2], little[k, :2, :2], rtol=1e-5, atol=1e-5)
        slopes = [c[k, 2:, :2] @ c[k, :2, :2].inverse() for c in (mixed, much)]
        torch.testing.assert_close(*slopes, rtol=1e-4, atol=1e-5)
        rests = [c[k, 2:, 2:] - c[k, 2:, :2] @ c[k, :2, :2].inverse() @ c[k, :2, 2:] for c in (mixed, much)]
        torch.testing.assert_close(*rests, rtol=1e-4, atol=1e-5)
    equal = covariances_of(z, labels, 2, [(2, 100.0), (4, 100.0), (6, 100.0)])
    torch.testing.assert_close(equal.double(), much, rtol=1e-4, atol=1e-5)


def test_held_out_codes_choose_a_weight_for_every_block():
    # In the first two components the clusters have covariances of their own, in the others all
    # have one, which is best pooled.
    generator = torch.Generator().manual_seed(0)
    K, n = 20, 40
    mixing = torch.diag_embed((1.5 * torch.randn(K, 2, generator=generator)).exp())
    labels = torch.arange(K).repeat_interleave(n)
    noise = torch.randn(K * n, 8, generator=generator)
    z = noise.clone()
    z[:, :2] = torch.einsum("nd,nde->ne", noise[:, :2], mixing[labels])
    chosen = choose_shrinkage(z, labels, K, 2, 0.0, np.random.default_rng(0))
    assert next(stop for stop, _ in chosen) == 2
    assert chosen[-1][0] == 8
    assert chosen[0][1] <= 4
    assert all(kappa >= 32 for _, kappa in chosen[1:])
    # Nothing can be held out of components with a code or two.
    assert choose_shrinkage(z[:2], labels[:2], 1, 2, 0.0, np.random.default_rng(0)) == [(8, 32.0)]


def test_automatic_shrinkage_is_as_likely_as_the_best_number():
    z, _ = clusters(1200, 12, 6, 4.0)
    fit, test = z[:600], z[600:]
    scores = [GaussianMixture(6, shrinkage=kappa).fit(fit).log_prob(test).mean().item() for kappa in (1, 8, 64, 512)]
    chosen = GaussianMixture(6).fit(fit).log_prob(test).mean().item()
    # One number against one of a finer grid, chosen by 60 codes whose mean log-likelihood
    # has a standard error of about (12 / 2) ** 0.5 / 60 ** 0.5 = 0.3.
    assert chosen > max(scores) - 0.3
    assert chosen > min(scores)


# The number of components


def test_held_out_codes_choose_the_number_of_components():
    z, _ = clusters(2000, 4, 8, 12.0)
    # Of 8 seeds some may share a cluster, which the next power of two then mends.
    assert len(GaussianMixture("auto", tolerance=0.01).fit(z).weights_) in (8, 16)
    one, _ = clusters(2000, 4, 1, 1.0)
    assert len(GaussianMixture("auto").fit(one).weights_) == 1
    assert len(GaussianMixture("auto").fit(one[:4]).weights_) == 1


# EM by batches


def test_blended_statistics_are_those_of_weighted_codes():
    z, _ = clusters(60, 3, 2, 2.0)
    start = clusters_of_one_covariance(z, 2)
    both = torch.arange(2).expand(60, 2)
    parts = [Statistics.of(part, expectation(part, both[: len(part)], start), start.means) for part in (z[:20], z[20:])]
    parts[0].blend(parts[1], 0.5)
    whole = Statistics.of(z, expectation(z, both, start), start.means)
    whole.scale(0.5)
    for name in ("counts", "means", "scatters"):
        # float32 sums of 60 terms.
        torch.testing.assert_close(getattr(parts[0], name), getattr(whole, name), rtol=1e-4, atol=1e-4)


def test_batches_reach_the_likelihood_of_all_codes_together():
    z, _ = clusters(4000, 5, 6, 3.0)
    options = {"n_components": 6, "tolerance": 0.0, "max_iterations": 10}
    together = GaussianMixture(**options).fit(z)
    batches = GaussianMixture(batch_size=500, **options).fit(z)
    likelihoods = [mixture.log_prob(z).mean().item() for mixture in (together, batches)]
    # The last batches weigh 0.1 in the statistics, a sample of about 5,000 / 2 codes; 120
    # parameters fitted to so many are worth 120 / 2 / 2500 = 0.02 nats, and the optimum may be
    # another.
    assert likelihoods[1] == pytest.approx(likelihoods[0], abs=0.1)
