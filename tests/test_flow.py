"""The normalizing flow and its optional package."""

import sys

import pytest
import torch

from scattergen.densities import Flow, make
from scattergen.errors import InputError

SMALL = {"layers": 2, "widths": (16,), "bins": 4, "epochs": 2, "batch_size": 64}


@pytest.mark.parametrize("base", ["normal", "mixture"])
def test_sampling_inverts_the_layers(base):
    z = torch.randn(600, 4, generator=torch.Generator().manual_seed(0))
    flow = Flow(**SMALL, base=base).fit(z)
    transform = flow.flow_.double()().transform
    x = flow.leading_.standardize(flow.sample(100)).double()
    y = transform(x)
    # Codes are rounded to float32 and splines have slopes of some units.
    torch.testing.assert_close(transform.inv(y), x, atol=1e-8, rtol=0)
    flow.flow_.float()


def test_training_raises_the_held_out_likelihood():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3000, 2, generator=generator)
    z = torch.stack([x[:, 0], x[:, 0].square() + 0.2 * x[:, 1]], dim=1)
    flow = Flow(layers=3, widths=(32,), epochs=15, batch_size=128).fit(z)
    losses = [row["validation/loss"] for row in flow.history_]
    # A parabola with noise: a Gaussian fit cannot see it, and costs log(sqrt(2) / 0.2) = 2 nats.
    assert min(losses) < losses[0] - 0.3
    gaussian = torch.distributions.MultivariateNormal(z.mean(0), z.T.cov())
    assert flow.log_prob(z).mean() > gaussian.log_prob(z).mean() + 1


def test_without_zuko_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "zuko", None)
    density = make("flow", **SMALL)  # it can be made and listed
    with pytest.raises(InputError, match=r'pip install "scattergen\[flow\]"'):
        density.fit(torch.randn(100, 3))


def test_one_component_is_too_few():
    with pytest.raises(InputError, match="at least 2 components"):
        Flow(**SMALL).fit(torch.randn(100, 1))
