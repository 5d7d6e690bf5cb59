"""The filters against their spatial definition, and their Littlewood-Paley bounds."""

from math import cos, pi, sin

import numpy as np
import pytest
import torch

from scattergen.scattering import filter_bank, littlewood_paley


def direct_wavelet(shape, j, angle, L):
    """ψ on the grid by its spatial definition, summed over 5x5 periods, then its spectrum."""
    sigma, xi, slant = 0.8 * 2**j, 3 * pi / 4 / 2**j, 4 / L
    rows = np.arange(-2 * shape[0], 3 * shape[0])[:, None]
    columns = np.arange(-2 * shape[1], 3 * shape[1])
    along = cos(angle) * rows + sin(angle) * columns
    across = -sin(angle) * rows + cos(angle) * columns
    envelope = np.exp(-(along**2 + slant**2 * across**2) / (2 * sigma**2))
    envelope /= 2 * pi * sigma**2 / slant
    periods = [a.reshape(5, shape[0], 5, shape[1]).sum((0, 2)) for a in (envelope * np.exp(1j * xi * along), envelope)]
    wave, still = periods
    return np.fft.fft2(wave - wave.sum() / still.sum() * still)


def direct_low_pass(shape, J):
    sigma = 0.8 * 2 ** (J - 1)
    rows = np.arange(-2 * shape[0], 3 * shape[0])[:, None]
    columns = np.arange(-2 * shape[1], 3 * shape[1])
    phi = np.exp(-(rows**2 + columns**2) / (2 * sigma**2)) / (2 * pi * sigma**2)
    return np.fft.fft2(phi.reshape(5, shape[0], 5, shape[1]).sum((0, 2)))


# Odd L: int(L - L/2 - 1) truncates 0.5 and 1.5, and for L = 1 the -0.5 towards zero.
@pytest.mark.parametrize(
    ("shape", "J", "L", "first"), [((36, 36), 2, 8, 3), ((40, 24), 3, 5, 1), ((96, 64), 4, 3, 0), ((12, 20), 2, 1, 0)]
)
def test_filters_equal_their_definition(shape, J, L, first):
    bank = filter_bank(shape, J, L)
    # Both are float64 sums of at most 25·96² terms below 1: rounding stays below 1e-11, and the
    # Gaussian tails outside 5x5 periods are below exp(-9²/2) = 3e-18.
    for j in range(J):
        for theta in range(L):
            expected = direct_wavelet(shape, j, (first - theta) * pi / L, L)
            np.testing.assert_allclose(bank.psi[j, theta], expected.real, atol=1e-10)
            assert np.abs(expected.imag).max() < 1e-10
    low_pass = torch.outer(bank.phi_rows, bank.phi_columns)
    np.testing.assert_allclose(low_pass, direct_low_pass(shape, J).real, atol=1e-10)


def test_wavelets_have_no_mean_and_the_low_pass_has_unit_mass():
    bank = filter_bank((40, 48), 3, 6)
    # The mean is a difference of two float64 numbers of at most 1; unit mass is one rounding.
    assert bank.psi[..., 0, 0].abs().max() < 1e-15
    assert bank.phi_rows[0].item() == pytest.approx(1, abs=1e-15)
    assert bank.phi_columns[0].item() == pytest.approx(1, abs=1e-15)


def test_littlewood_paley_bounds_the_energy_of_real_images_and_is_attained():
    shape = (20, 24)
    bank = filter_bank(shape, 2, 8)
    low, high = littlewood_paley(bank)
    low_pass = torch.outer(bank.phi_rows, bank.phi_columns)

    def energy(x):
        x_hat = torch.fft.fft2(x)
        parts = torch.cat([(x_hat * low_pass)[None], (x_hat * bank.psi).flatten(0, 1)])
        return torch.fft.ifft2(parts).abs().square().sum() / x.square().sum()

    for seed in range(5):
        assert low < energy(torch.randn(shape, generator=torch.Generator().manual_seed(seed))) < high
    rows, columns = torch.arange(shape[0])[:, None], torch.arange(shape[1])
    attained = torch.stack(
        [
            energy(torch.cos(2 * pi * (m * rows / shape[0] + n * columns / shape[1])).double())
            for m in range(shape[0])
            for n in range(shape[1] // 2 + 1)
        ]
    )
    # The waves were rounded to float32: energies are exact to 1e-6.
    assert attained.min().item() == pytest.approx(low, rel=1e-5, abs=1e-7)
    assert attained.max().item() == pytest.approx(high, rel=1e-5)
