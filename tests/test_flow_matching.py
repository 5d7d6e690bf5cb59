"""Flow matching: the start of the network, the average, and what it learns."""

import numpy as np
import pytest
import torch

from scattergen.densities import FlowMatching
from scattergen.densities import flow_matching as module
from scattergen.densities.flow_matching import _Networks, _paired, _Velocity


def two_modes(n=4000):
    generator = torch.Generator().manual_seed(0)
    side = (torch.rand(n, 1, generator=generator) < 0.5).float() * 2 - 1
    return torch.cat([2 * side, -side], dim=1) + 0.3 * torch.randn(n, 2, generator=generator)


def test_it_starts_at_the_gaussian(monkeypatch):
    z = two_modes() * torch.tensor([1.0, 5.0]) + 3
    monkeypatch.setattr(module, "train", lambda *args, **keywords: [])
    density = FlowMatching().fit(z)
    # The untrained network is zero, so that the noise arrives as it was, scaled and shifted.
    noise = np.random.default_rng([4, 0]).standard_normal((256, 2))
    leading = density.leading_
    expected = torch.from_numpy(noise) * leading.scale.double() + leading.shift.double()
    # float32 codes of some tens.
    torch.testing.assert_close(density.sample(256, seed=4).double(), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("coupling", ["independent", "optimal"])
def test_it_finds_two_modes(coupling):
    z = two_modes()
    density = FlowMatching(
        coupling=coupling, width=64, blocks=2, epochs=12, batch_size=128, decay=0.98
    ).fit(z)
    codes = density.sample(4000)
    right = codes[:, 0] > 0
    # Half of 4,000: four standard deviations are 0.032, and training is as exact.
    assert right.float().mean().item() == pytest.approx(0.5, abs=0.07)
    assert codes[right].mean(0).tolist() == pytest.approx([2, -1], abs=0.15)
    assert (codes[:, 0].abs() < 1).float().mean() < 0.05  # 0.0004 of the codes


def test_optimal_pairs_have_the_least_sum_of_squares():
    generator = torch.Generator().manual_seed(0)
    x, noise = torch.randn(5, 2, generator=generator), torch.randn(5, 2, generator=generator)
    paired = _paired(noise, x)
    orders = torch.cartesian_prod(*[torch.arange(5)] * 5)
    orders = orders[(orders.sort(1).values == torch.arange(5)).all(1)]
    least = min((x - noise[order]).square().sum().item() for order in orders)
    # Float32 sums of ten squares.
    assert (x - paired).square().sum().item() == pytest.approx(least, rel=1e-5)
    assert torch.equal(paired.sort(0).values, noise.sort(0).values)


def test_the_average_forgets_the_start_and_then_decays():
    network = _Velocity(2, 4, 1)
    networks = _Networks(network, decay=0.5)
    with torch.no_grad():
        network.last.bias.fill_(1.0)
    networks.update()
    # The first weight is 1 - min(0.5, 1/10).
    torch.testing.assert_close(networks.average.last.bias, torch.full((2,), 0.9))
    for _ in range(30):
        networks.update()
    torch.testing.assert_close(networks.average.last.bias, torch.ones(2))
