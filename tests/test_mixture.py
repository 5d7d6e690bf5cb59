"""The mixture: EM against closed forms and scikit-learn, truncation, shrinkage, rescue."""

import math

import numpy as np
import pytest
import torch
from sklearn.covariance import OAS
from sklearn.mixture import GaussianMixture as Reference

from scattergen.densities import GaussianMixture
from scattergen.densities.expectation_maximization import (
    Components,
    Expectation,
    expectation,
    maximization,
    propose,
    seed_means,
    shared_covariance_em,
    shrink_to_identity,
    unite,
)
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
        torch.distributions.MultivariateNormal(
            mixture.means_.double(), scale_tril=mixture.cholesky_.double()
        ),
    )
    # float64 throughout, the oracle too.
    torch.testing.assert_close(
        mixture.log_prob(z.double()), oracle.log_prob(z.double()), rtol=1e-9, atol=1e-9
    )
    # float32: rounding of 5 squared terms of at most some 100, 1e-5 each.
    torch.testing.assert_close(
        mixture.log_prob(z).double(), oracle.log_prob(z.double()), rtol=1e-4, atol=1e-3
    )


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
    ours = maximization(z, found, start, 0.0, 0.0, np.random.default_rng(0))
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
    torch.testing.assert_close(
        mixture.weights_[nearest.indices], torch.bincount(labels) / 3000, atol=1e-3, rtol=0
    )


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
        torch.tensor([0.5, 0.5]),
        seed_means(z, 2, np.random.default_rng(0)),
        torch.eye(4).expand(2, 4, 4),
        torch.eye(4),
    )
    everything = torch.arange(2).expand(300, 2)

    def step(kappa):
        found = expectation(z, everything, start)
        return maximization(z, found, start, kappa, 0.0, np.random.default_rng(0))

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


def test_identity_shrinkage_is_the_published_formula():
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


def test_truncation_finds_what_the_exact_step_finds():
    z, _ = clusters(3000, 10, 30, 2.0)
    start = shared_covariance_em(
        z, seed_means(z, 30, np.random.default_rng(0)), 8, 0.0, np.random.default_rng(0)
    )
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
    start = shared_covariance_em(
        z, seed_means(z, 2, np.random.default_rng(0)), 1, 0.0, np.random.default_rng(0)
    )
    once = expectation(z, torch.tensor([[0, 1]]).expand(50, 2), start)
    twice = expectation(z, torch.tensor([[-1, 0, -1, 1]]).expand(50, 4), start)
    assert once.log_likelihood == pytest.approx(twice.log_likelihood, abs=1e-5)


def test_a_component_without_codes_restarts_from_one():
    z, labels = clusters(400, 3, 2, 10.0)
    big = int(torch.bincount(labels).argmax())
    means = torch.stack([z[labels == big].mean(0), z[labels != big].mean(0), torch.full((3,), 1e3)])
    start = Components(torch.full((3,), 1 / 3), means, torch.eye(3).expand(3, 3, 3), torch.eye(3))
    found = expectation(z, torch.arange(3).expand(400, 3), start)
    after = maximization(z, found, start, 1.0, 0.0, np.random.default_rng(0))
    assert (z == after.means[2]).all(1).any()
    assert torch.equal(after.covariances[2], after.pooled)
    assert after.weights[2] == pytest.approx(1 / 400)
    assert torch.isfinite(after.covariances).all()


def test_repeated_codes_do_not_break_it():
    z = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)).repeat(40, 1)
    mixture = GaussianMixture(n_components=20).fit(z)
    assert torch.isfinite(mixture.sample(100)).all()


def test_the_number_of_components_follows_the_number_of_codes():
    z, _ = clusters(1000, 3, 3, 5.0)
    assert len(GaussianMixture(max_iterations=1).fit(z).weights_) == 1000 // 300
    assert len(GaussianMixture(max_iterations=1).fit(z[:50]).weights_) == 1


def test_too_few_or_equal_codes_are_refused():
    z, _ = clusters(9, 3, 1, 1.0)
    with pytest.raises(InputError, match=r"9 codes are too few for n_components=5: use at most 4"):
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
    mixture = GaussianMixture(n_components=3, shrinkage=0, leading=2, leading_shrinkage=0).fit(z)
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
    "keywords", [{"leading": 0}, {"leading_shrinkage": -1.0}, {"shrinkage": math.nan}]
)
def test_leading_components_out_of_range(keywords):
    with pytest.raises(InputError, match=r"use at least 1|cannot be negative"):
        GaussianMixture(**keywords)
