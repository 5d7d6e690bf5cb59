"""Splines and sliced transport."""

import pytest
import torch

from scattergen.densities import SlicedTransport
from scattergen.densities.splines import Splines


@pytest.fixture
def splines():
    generator = torch.Generator().manual_seed(0)
    knots = [torch.rand(3, 9, generator=generator).double().cumsum(1) for _ in range(2)]
    return Splines.through(*knots)


def test_splines_go_through_their_knots_and_invert(splines):
    torch.testing.assert_close(splines(splines.x)[0], splines.y)
    x = torch.linspace(-3, 9, 500, dtype=torch.float64).repeat(3, 1)
    y, _ = splines(x)
    assert (y.diff(dim=1) > 0).all()
    torch.testing.assert_close(splines.inverse(y), x, atol=1e-10, rtol=0)


def test_splines_derivatives_are_autograds(splines):
    x = torch.linspace(-3, 9, 500, dtype=torch.float64).repeat(3, 1).requires_grad_()
    y, logs = splines(x)
    (slopes,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(logs, slopes.log())


def test_repeated_knots_are_moved_apart():
    knots = torch.tensor([[0.0, 0, 0, 1, 1]])
    splines = Splines.through(knots, torch.arange(5.0)[None])
    assert (splines.x.diff(dim=1) > 0).all()
    assert torch.isfinite(splines(torch.linspace(-1, 2, 50)[None])[1]).all()


@pytest.mark.parametrize("base", ["normal", "mixture"])
def test_layers_raise_the_likelihood_and_make_the_samples_right(base):
    generator = torch.Generator().manual_seed(0)
    angle = 6.2832 * torch.rand(6000, generator=generator)
    ring = torch.stack([angle.cos(), angle.sin()], dim=1) * 3
    z = ring + 0.3 * torch.randn(6000, 2, generator=generator)
    sliced = SlicedTransport(base=base, n_components=4, layers=40).fit(z)
    gaussian = torch.distributions.MultivariateNormal(z.mean(0), z.T.cov())
    # A Gaussian of variance 4.59 has the entropy 2.84 + 1.52 = 4.36, the ring about log(2π 3) +
    # log 0.3 + 1.42 = 3.15: most of the 1.2 nats between them must be found.
    assert sliced.log_prob(z).mean() > gaussian.log_prob(z).mean() + 0.8
    radius = sliced.sample(4000).norm(dim=1)
    # The radius is 3 ± 0.3 and a little more from the finite number of knots.
    assert radius.median().item() == pytest.approx(3, abs=0.1)
    assert (radius < 1.5).float().mean() < 0.05


def test_nothing_is_changed_where_there_is_nothing_to_gain():
    z = torch.randn(3000, 4, generator=torch.Generator().manual_seed(0))
    sliced = SlicedTransport(base="normal", layers=10).fit(z)
    oracle = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(1).mean()
    # The fit may gain from 3,000 codes what their sampling errors amount to: with 8 numbers of
    # the standardization and some 30 per changed marginal, about (1/2) 100 / 3000 = 0.02 nats.
    assert sliced.log_prob(z).mean().item() == pytest.approx(oracle.item(), abs=0.06)
