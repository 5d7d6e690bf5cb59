"""Energy, Lipschitz, translation and deformation bounds, measured near where they are attained."""

from math import cos, e, exp, pi, sin, sqrt

import pytest
import torch

from scattergen.datasets import mnist
from scattergen.scattering import Scattering2D, filter_bank, lipschitz_constant, littlewood_paley
from scattergen.scattering.filters import layer_bound, padding_sources


def digits(n):
    return mnist().test[:n][:, 0].double()


def norm(x):
    return x.flatten(1).norm(dim=1)


def padded(scattering, x):
    rows, columns = padding_sources(scattering.shape, scattering.padded_shape, "reflect")
    return x[..., rows[:, None], columns]


def constant(scattering):
    return lipschitz_constant(filter_bank(scattering.padded_shape, scattering.J, scattering.L), scattering.max_order)


def stretch(scattering, x, y):
    """How much of a difference on the padded grid the coefficients show."""
    difference = 2**scattering.J * norm(scattering(x) - scattering(y))
    return difference / norm(padded(scattering, x - y))


def most_stretched(scattering, seed):
    """Pairs of images that gradient ascent has made differ by as much as it could."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(4, *scattering.shape, generator=generator, dtype=torch.float64)
    y = x + 0.1 * torch.randn(x.shape, generator=generator, dtype=torch.float64)
    pair = [x.requires_grad_(), y.requires_grad_()]
    ascent = torch.optim.Adam(pair, lr=0.03, maximize=True)
    for _ in range(150):
        ascent.zero_grad()
        stretch(scattering, *pair).sum().backward()
        ascent.step()
    return x.detach(), y.detach()


@pytest.mark.parametrize(("shape", "J", "L"), [((8, 12), 2, 8), ((12, 8), 2, 3), ((16, 16), 3, 4), ((6, 6), 1, 1)])
def test_the_bound_of_a_layer_is_the_norm_of_the_layer(shape, J, L):
    # Each operation on all unit images, by its definition: convolve, then take every 2^j-th sample.
    bank = filter_bank(shape, J, L)
    units = torch.fft.fft2(torch.eye(shape[0] * shape[1]).double().unflatten(1, shape))
    low_pass = torch.outer(bank.phi_rows, bank.phi_columns)
    outputs = [2**J * torch.fft.ifft2(units * low_pass)[:, :: 2**J, :: 2**J]]
    for j in range(J):
        for psi in bank.psi[j]:
            outputs.append(2**j * torch.fft.ifft2(units * psi)[:, :: 2**j, :: 2**j])
    layer = torch.cat([torch.view_as_real(u).flatten(1) for u in outputs], 1)
    # Singular values of a float64 matrix of 200 columns.
    assert layer_bound(bank, 0, range(J)) == pytest.approx(torch.linalg.matrix_norm(layer, 2).item() ** 2, rel=1e-10)


@pytest.mark.parametrize(("J", "L"), [(2, 8), (3, 8), (2, 3)])
def test_the_constant_is_that_of_littlewood_and_paley_but_for_aliases(J, L):
    bank = filter_bank((40, 40), J, L)
    # Two wavelets of a layer may share an alias; ψ's are below exp(-(0.8·2π·3/8)²/2) = 0.17 where
    # its first alias begins, and the sum of squares has a few of these: at most 0.17² = 0.03 each.
    largest = max(1, littlewood_paley(bank)[1])
    assert sqrt(littlewood_paley(bank)[1]) <= lipschitz_constant(bank) <= largest + 0.1


@pytest.mark.parametrize(("shape", "J"), [((28, 28), 2), ((28, 28), 3), ((20, 33), 2)])
@pytest.mark.parametrize("max_order", [0, 1, 2])
def test_coefficients_have_no_more_energy_than_the_bound_allows(shape, J, max_order):
    scattering = Scattering2D(J, shape, max_order=max_order)
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(16, *shape, generator=generator, dtype=torch.float64)
    waves = torch.cos(pi * torch.arange(shape[1])).double().expand(1, *shape)  # the fastest
    bright = torch.ones(1, *shape, dtype=torch.float64)
    for images in (x, x - 0.5, waves, bright):
        energy = 2**J * norm(scattering(images)) / norm(padded(scattering, images))
        assert (energy <= constant(scattering)).all()
    # One output on each side is cropped: of a constant image, the others keep all of their energy.
    kept = scattering.output_shape[1] * scattering.output_shape[2] * 4**J
    expected = sqrt(kept / (scattering.padded_shape[0] * scattering.padded_shape[1]))
    assert energy.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("max_order", [1, 2])
def test_no_pair_of_images_differs_by_more_than_the_bound(max_order):
    scattering = Scattering2D(2, (28, 28), max_order=max_order)
    x = digits(128)
    of_digits = stretch(scattering, x[:64], x[64:])
    assert (of_digits <= constant(scattering)).all()
    x, y = most_stretched(scattering, seed=0)
    found = stretch(scattering, x, y)
    assert (found <= constant(scattering)).all()
    # The bound is nearly attained, so that a transform that broke it would be noticed.
    assert found.max() > 0.9 * constant(scattering)


@pytest.mark.parametrize("J", [2, 3, 4])
@pytest.mark.parametrize("pixels", [1, 2, 4])
def test_a_translation_changes_less_than_its_length_over_the_scale(J, pixels):
    scattering = Scattering2D(J, (64, 64))
    x = torch.zeros(32, 64, 64, dtype=torch.float64)
    x[:, 18:46, 18:46] = digits(32)  # its margins make it a translation on the padded grid, too
    moved = 2**J * norm(scattering(x.roll(pixels, 2)) - scattering(x)) / norm(x)
    # Moving before the low-pass multiplies its spectrum by 1 - exp(iωt), of modulus at most |ωt|;
    # |ω| exp(-σ²ω²/2) is at most 1/(σ√e), and layers keep energy up to the constant. Moves that
    # are no multiples of 2^j change the aliases that the constant has, which a quarter below it is.
    bound = constant(scattering) * pixels / (0.8 * 2 ** (J - 1) * sqrt(e))
    assert (moved <= bound).all()
    assert moved.max() > bound / 4


def test_translations_change_half_as_much_at_the_double_scale():
    x = torch.zeros(32, 64, 64, dtype=torch.float64)
    x[:, 18:46, 18:46] = digits(32)
    moved = x.roll(1, 2)
    pixels = (norm(moved - x) / norm(x)).mean().item()
    changes = []
    for J in (2, 3, 4):
        s, t = (Scattering2D(J, (64, 64))(images) for images in (x, moved))
        changes.append((norm(t - s) / norm(s)).mean().item())
    assert changes[0] < pixels / 2
    # 1/2 if all was smooth at the scale; a digit is no longer than 2^J at the largest.
    assert 0.3 < changes[1] / changes[0] < 0.7
    assert 0.3 < changes[2] / changes[1] < 0.7


def wave(n, window, displacement):
    """A wave of 2.2 rad/pixel in a Gaussian window, at displaced pixels: no interpolation."""
    u = torch.arange(n, dtype=torch.float64) - (n - 1) / 2
    rows, columns = u[:, None] + displacement(u)[:, None], (u + displacement(u))[None]
    envelope = torch.exp(-(rows**2 + columns**2) / (2 * window**2))
    return envelope * torch.cos(2.2 * (cos(0.4) * rows + sin(0.4) * columns))


@pytest.mark.parametrize(("n", "window"), [(64, 8.0), (128, 16.0)])
def test_a_deformation_changes_in_proportion_to_its_gradient(n, window):
    scattering = Scattering2D(4, (n, n))
    x = wave(n, window, torch.zeros_like)
    s, spectrum = scattering(x), torch.fft.fft2(x).abs()
    of_coefficients, of_spectrum = [], []
    for strain in (0.01, 0.02, 0.04):
        y = wave(n, window, lambda u, strain=strain: -strain * u)
        of_coefficients.append(((scattering(y) - s).norm() / s.norm()).item() / strain)
        change = torch.fft.fft2(y).abs() - spectrum
        of_spectrum.append((change.norm() / spectrum.norm()).item() / strain)
    # A dilation by ε widens the window, which changes it by √2 ε (the fourth moment of a Gaussian),
    # and lowers the frequency by 2.2 ε, which changes ψ's value by at most 2.2 ε σ/√e: 1.07 ε for
    # the finest, and twice as much for the next one, σ = 1.6.  Together √(2 + 1.07² + 2.14²) ε,
    # in parts of the finest one's value, which is near its maximum: exp(-(0.8·0.156)²/2) ≈ 1.
    limit = sqrt(2 + (2.2 * 0.8 / sqrt(e)) ** 2 + (2.2 * 1.6 / sqrt(e)) ** 2)
    assert exp(-((0.8 * (3 * pi / 4 - 2.2)) ** 2) / 2) > 0.99
    assert max(of_coefficients) < limit
    assert max(of_coefficients) < 1.1 * min(of_coefficients)  # proportional
    # The modulus of a Fourier transform, which no translation changes, moves by 2.2 ε with a width
    # of 1/window: 2.2 · window/√2 · ε, without limit as the window grows.
    assert of_spectrum[0] == pytest.approx(2.2 * window / sqrt(2), rel=0.05)
    assert of_spectrum[0] > 5 * of_coefficients[0]
