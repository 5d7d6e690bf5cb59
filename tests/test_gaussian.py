"""The Gaussian's options: a few components, and a full covariance of raw coefficients."""

import math

import pytest
import torch

from scattergen.densities import Gaussian
from scattergen.densities.gaussian import log_joint, precision_factor, shrink_to_diagonal
from scattergen.encoder import PCAWhitening
from scattergen.errors import InputError


def coloured(n=2000, d=6):
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(d, d, generator=generator)
    return torch.randn(n, d, generator=generator) @ mixing + 3


def test_only_the_effective_components_are_drawn():
    z = coloured()
    some, every = Gaussian(n_effective=2).fit(z), Gaussian().fit(z)
    codes = some.sample(300, seed=4)
    assert torch.equal(codes[:, :2], every.sample(300, seed=4)[:, :2])
    assert (codes[:, 2:] == 0).all()
    first = Gaussian().fit(z[:, :2])
    assert torch.equal(some.log_prob(z), first.log_prob(z[:, :2]))
    assert some.description == "2 independent Gaussians and 4 zeros, 4 parameters"
    assert torch.equal(Gaussian(n_effective=9).fit(z).sample(5), every.sample(5))


def test_a_component_that_is_not_drawn_may_be_constant():
    z = coloured()
    z[:, 5] = 1.0
    assert Gaussian(n_effective=5).fit(z).sample(3).shape == (3, 6)
    with pytest.raises(InputError, match="Component 5 of the codes is constant"):
        Gaussian().fit(z)


def test_full_covariance_is_that_of_torch_distributions():
    z = coloured()
    density = Gaussian(covariance="full").fit(z)
    # Whose shrinkage has an oracle of its own in test_mixture.
    covariance = shrink_to_diagonal(z.double().T.cov(correction=0), len(z))
    oracle = torch.distributions.MultivariateNormal(z.double().mean(0), covariance)
    # Mean and factor are kept in float32: 1e-6 of squared distances up to some 40 and of sums that
    # cancel, ten times.
    torch.testing.assert_close(density.log_prob(z.double()), oracle.log_prob(z.double()), rtol=0, atol=4e-4)
    codes = density.sample(20_000, seed=1)
    # Standard errors of a covariance: (2 / n) ** 0.5 of the variances, five of them.
    largest = covariance.diagonal().max()
    assert (codes.T.cov() - covariance).abs().max() < 5 * largest * (2 / 20_000) ** 0.5
    few = Gaussian(n_effective=3, covariance="full").fit(z)
    assert (few.sample(9)[:, 3:] == 0).all()
    alone = Gaussian(covariance="full").fit(z[:, :3])
    assert torch.equal(few.log_prob(z), alone.log_prob(z[:, :3]))


@pytest.mark.parametrize("d", [1, 256, 257, 300, 384])
@pytest.mark.parametrize("rows", [4, 8192])
def test_likelihoods_by_blocks_are_those_of_torch_distributions(monkeypatch, d, rows):
    """Of one block or three, the last one of a row, smaller or full; of all codes at once or some at a time."""
    monkeypatch.setattr("scattergen.densities.gaussian.ROWS", rows)
    generator = torch.Generator().manual_seed(0)
    x, mean = torch.randn(2, 9, d, generator=generator, dtype=torch.float64)
    mean, half = mean[0], torch.randn(d, 2 * d, generator=generator, dtype=torch.float64)
    covariance = half @ half.T / (2 * d)
    expected = torch.distributions.MultivariateNormal(mean, covariance).log_prob(x) + math.log(0.25)
    found = log_joint(x, torch.tensor(0.25, dtype=x.dtype), mean, precision_factor(covariance))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=0)  # float64, and a condition of some 30


def test_full_covariance_of_raw_coefficients_is_independence_of_whitened_ones():
    x = coloured(20_000)
    raw = Gaussian(covariance="full").fit(x)
    whitening = PCAWhitening(6)
    whitening.fit(lambda: x.split(5000))
    z = whitening.transform(x)
    white = Gaussian().fit(z)
    difference = raw.log_prob(x) - white.log_prob(z)
    # They differ by the logarithm of the whitening's determinant, a constant, but for the
    # shrinkage: some d / N = 3e-4 of squared distances up to 40.
    assert difference.std() < 0.02


@pytest.mark.parametrize("covariance", ["diagonal", "full"])
@pytest.mark.parametrize("n_effective", [None, 3])
def test_it_returns_from_its_state(covariance, n_effective):
    z = coloured()
    density = Gaussian(n_effective, covariance).fit(z)
    again = Gaussian(n_effective, covariance)
    again.load_state_dict(density.state_dict())
    assert torch.equal(again.sample(5), density.sample(5))
    assert torch.equal(again.log_prob(z), density.log_prob(z))
    assert again.description == density.description


@pytest.mark.parametrize(
    ("keywords", "sentence"),
    [({"n_effective": 0}, "at least 1"), ({"covariance": "round"}, "one of 'diagonal', 'full'")],
)
def test_options_out_of_range(keywords, sentence):
    with pytest.raises(InputError, match=sentence):
        Gaussian(**keywords)
