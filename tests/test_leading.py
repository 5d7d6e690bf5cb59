"""Leading components, and the regressions of the rest on them."""

import math

import numpy as np
import pytest
import torch

from scattergen.densities import Flow, GaussianMixture, Noise
from scattergen.densities.leading import LeadingComponents
from scattergen.errors import InputError


@pytest.fixture(scope="module")
def clusters():
    """Two clusters whose later components follow the first two, differently in each."""
    generator = torch.Generator().manual_seed(1)
    which = torch.rand(6000, generator=generator) < 0.3
    x = torch.randn(6000, 2, generator=generator)
    slopes = torch.tensor([[1.0, 0.5], [-0.5, 2.0], [0.3, 0.0]])
    x = torch.where(which[:, None], x - 6, x + 2)
    rest = torch.where(which[:, None], x @ slopes.T, 3 - x @ slopes.T)
    return torch.cat([x, rest + 0.5 * torch.randn(6000, 3, generator=generator)], dim=1)


def fit(z, m, K):
    return LeadingComponents.fit(z, m, K, seed=0, mixture=True)


def test_with_one_component_it_is_the_joint_gaussian():
    generator = torch.Generator().manual_seed(2)
    z = torch.randn(20_000, 4, generator=generator) @ torch.randn(4, 4, generator=generator) + 1
    leading = fit(z, 2, 1)
    log_prob = leading.mixture_log_prob(leading.standardize(z)) + leading.log_prob_rest(z)
    oracle = torch.distributions.MultivariateNormal(z.mean(0), z.T.cov(correction=0))
    # What is shrunk counts as 32 codes of 20,000, which pulls nothing with one component; the
    # ridges of 1e-5 of a variance change a few squared distances of about 4 by some 1e-3.
    torch.testing.assert_close(log_prob, oracle.log_prob(z), atol=2e-2, rtol=0)


def test_the_rest_follows_the_leading_components(clusters):
    leading = fit(clusters, 2, 2)
    x = leading.standardize(clusters).double()
    completed = leading.complete(x, Noise(np.random.default_rng(0)))
    torch.testing.assert_close(completed[:, :2].float(), clusters[:, :2], atol=1e-4, rtol=0)
    inside = clusters[:, 0] < -2
    for part in (inside, ~inside):
        n = int(part.sum())
        drawn, real = completed[part].T.cov(), clusters[part].T.double().cov()
        # A covariance of n codes has a standard deviation of at most sqrt(2 / n) of the larger
        # variance; both are estimated, and 15 entries are compared: four times their sum.
        assert (drawn - real).abs().max() < 8 * math.sqrt(2 / n) * real.diagonal().max()


def test_its_likelihood_of_the_rest_is_that_of_its_draws(clusters):
    leading = fit(clusters[:, :4], 2, 2)
    x = leading.standardize(clusters[:1]).expand(20_000, 2).double()
    drawn = leading.complete(x, Noise(np.random.default_rng(1)))
    # p(rest | x) of two components, on a grid of 12 standard deviations about the draws.
    centre, reach = drawn[:, 2:].mean(0), 6 * drawn[:, 2:].std(0)
    axes = [torch.linspace(-1, 1, 201, dtype=torch.float64) * r + c for r, c in zip(reach, centre, strict=True)]
    grid = torch.cartesian_prod(*axes)
    codes = torch.cat([drawn[:1, :2].expand(len(grid), 2), grid], dim=1)
    step = (axes[0][1] - axes[0][0]) * (axes[1][1] - axes[1][0])
    # log_prob_rest includes the Jacobian of the standardization.
    density = (leading.log_prob_rest(codes) + leading.scale.double().log().sum()).exp()
    assert density.sum() * step == pytest.approx(1, abs=1e-5)
    mean = (density[:, None] * grid).sum(0) * step
    # The mean of 20,000 draws has a standard deviation of 1/141 of theirs.
    assert ((mean - centre).abs() < 4 / 141 * drawn[:, 2:].std(0)).all()


@pytest.mark.parametrize("base", ["normal", "mixture"])
def test_likelihoods_with_regressed_components_integrate_to_one(clusters, base):
    pytest.importorskip("zuko")
    z = clusters[:, :3]
    density = Flow(leading=2, base=base, n_components=2, layers=2, widths=(16,), epochs=1).fit(z)
    low, high = z.amin(0) - 6, z.amax(0) + 6
    axes = [torch.linspace(a, b, 81, dtype=torch.float64) for a, b in zip(low.tolist(), high.tolist(), strict=True)]
    step = math.prod((axis[1] - axis[0]).item() for axis in axes)
    # The residual's standard deviation is 0.5, the steps are 0.3 at most; the rule is as good as
    # exact for a Gaussian on such steps, and the kinks of the densities at the knots of the splines
    # cost some (0.3)² / 12 of the mass in the pieces that hold them.
    total = density.log_prob(torch.cartesian_prod(*axes)).exp().sum().item() * step
    assert total == pytest.approx(1, abs=5e-3)


def test_the_mixture_of_the_leading_components_is_a_gaussian_mixture(clusters):
    leading = fit(clusters, None, 3)
    x = leading.standardize(clusters)
    mixture = GaussianMixture(3, shrinkage=16.0).fit(x, seed=0)
    # The same fit; float32 squares of some tens.
    torch.testing.assert_close(leading.mixture_log_prob(x), mixture.log_prob(x), atol=1e-3, rtol=1e-4)


def test_a_constant_component_is_refused():
    z = torch.randn(100, 3)
    z[:, 1] = 2
    with pytest.raises(InputError, match="leading component of the codes is constant"):
        fit(z, 2, 1)


def test_trailing_components_in_any_units_and_a_constant_one():
    z = torch.randn(60, 8, generator=torch.Generator().manual_seed(0))
    units = torch.tensor([1.0, 1, 1, 1e-4, 1, 1e3, 1e5, 1])
    plain, scaled = (fit(x, 3, 1) for x in (z, z * units))
    # The slopes are shrunk in units of the leading components, so that only rounding differs, of squares up to 30.
    ours = scaled.log_prob_rest(z * units) + units.log().sum()
    torch.testing.assert_close(ours, plain.log_prob_rest(z), rtol=0, atol=1e-3)
    z[:, 6] = 5.0
    codes = fit(z, 3, 1).complete(torch.randn(200, 3).double(), Noise(np.random.default_rng(0)))
    # A ridge of 1e-5 of the mean variance.
    torch.testing.assert_close(codes[:, 6], torch.full((200,), 5.0).double(), rtol=0, atol=0.05)


def test_the_residuals_of_fewer_codes_than_components_have_breadth_in_all_directions():
    z = torch.randn(20, 33, generator=torch.Generator().manual_seed(0))
    residual = fit(z, 3, 1).residual
    # Of variances of about 1; without shrinkage ten of thirty would be those of the ridge, 1e-5.
    assert torch.linalg.eigvalsh(residual @ residual.T).min() > 0.1
