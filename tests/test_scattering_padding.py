"""What lies outside of an image: its reflection, the image again, or zeros."""

import numpy as np
import pytest
import torch

from scattergen.scattering import Scattering2D, filter_bank, transform

PADDINGS = {"reflect": "reflect", "periodic": "wrap", "zero": "constant"}  # ours, and NumPy's names

# Shape, J, L, max_order: sides are multiples of 2^J. The last three have 2^J = a side.
CASES = [((24, 16), 2, 3, 2), ((16, 32), 3, 2, 2), ((16, 16), 4, 2, 2), ((8, 20), 2, 9, 1), ((4, 8), 2, 1, 2),
         ((2, 6), 1, 2, 1)]  # fmt: skip


pytestmark = pytest.mark.usefixtures("algorithm")


def uniform(*shape, dtype=torch.float64, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def padded(x, scattering):
    """An image as NumPy pads it; an odd pixel goes behind."""
    margins = [
        ((whole - size) // 2, (whole - size + 1) // 2)
        for size, whole in zip(x.shape, scattering.padded_shape, strict=True)
    ]
    return np.pad(x, margins, mode=PADDINGS[scattering.padding])


def directly(x, scattering):
    """Coefficients of one image (H, W) by their definition: each path by itself, at full size, subsampled in space."""
    J, (M, N), n = scattering.J, scattering.padded_shape, scattering.output_shape
    bank = filter_bank((M, N), J, scattering.L)
    phi, psi = np.outer(bank.phi_rows, bank.phi_columns), bank.psi.numpy()

    def at(level, spectrum):
        """The filter for images subsampled by 2^level: its low frequencies."""
        m, k = M >> level, N >> level
        return np.fft.ifftshift(np.fft.fftshift(spectrum)[(M - m) // 2 :, (N - k) // 2 :][:m, :k])

    def filtered(u, spectrum, step):
        return np.fft.ifft2(np.fft.fft2(u) * spectrum)[::step, ::step]

    coefficients = []
    for path in scattering.paths:
        u, level = padded(x, scattering), 0
        for j, theta in ((path.j1, path.theta1), (path.j2, path.theta2)):
            if j is not None:
                u, level = np.abs(filtered(u, at(level, psi[j, theta]), 2 ** (j - level))), j
        s = filtered(u, at(level, phi), 2 ** (J - level)).real
        margin = (s.shape[0] - n[1]) // 2
        coefficients.append(s[margin : margin + n[1], margin : margin + n[2]])
    return torch.from_numpy(np.stack(coefficients))


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize(("shape", "J", "L", "max_order"), CASES)
def test_coefficients_equal_their_definition(shape, J, L, max_order, padding):
    x = uniform(2, *shape)
    scattering = Scattering2D(J, shape, L, max_order, padding)
    assert scattering.output_shape[1:] == (shape[0] >> J, shape[1] >> J)
    s = scattering(x)
    for image, found in zip(x, s, strict=True):
        # float64 FFTs of values up to 1; wavelets below a sixteenth of a rounding are left out.
        torch.testing.assert_close(found, directly(image.numpy(), scattering), rtol=1e-11, atol=1e-14)
    # In float32 the same to its roundings, some ten of the largest values, which are about 1.
    torch.testing.assert_close(scattering(x.float()).double(), s, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize(("shape", "J", "L"), [((20, 28), 2, 8), ((24, 40), 3, 3)])
def test_coefficients_equal_those_of_kymatio_for_images_that_are_padded_already(kymatio, shape, J, L, padding):
    scattering = Scattering2D(J, shape, L, padding=padding)
    x = uniform(*shape, dtype=torch.float32)
    # Kymatio is built for a size that it would pad to ours, and crops one output on each side.
    inner = shape if padding != "periodic" else tuple(size - 2 * 2**J for size in shape)
    peer = kymatio(inner, J, L, 2, pre_pad=True)
    expected = peer(torch.from_numpy(padded(x.numpy(), scattering)))
    s = scattering(x) if padding != "periodic" else scattering(x)[:, 1:-1, 1:-1]
    # Kymatio's π, as in test_scattering.py: 8.8e-5, and rounding.
    torch.testing.assert_close(s, expected, rtol=2e-4, atol=1e-6)


@pytest.mark.parametrize(("shape", "J"), [((24, 32), 2), ((16, 16), 4)])
def test_a_periodic_transform_moves_with_the_image(shape, J):
    scattering = Scattering2D(J, shape, L=4, padding="periodic")
    x = uniform(*shape)
    s = scattering(x)
    for rows, columns in ((1, 0), (0, 1), (3, -2)):
        moved = scattering(x.roll((rows * 2**J, columns * 2**J), (0, 1)))
        # The same float64 arithmetic at other places of an FFT.
        torch.testing.assert_close(moved, s.roll((rows, columns), (1, 2)), rtol=1e-11, atol=1e-14)
    if min(shape) > 2**J:
        assert (s - s.roll(1, 1)).abs().max() > 0.01


def test_zeros_are_what_a_larger_black_canvas_has():
    x = uniform(3, 16, 12)
    canvas = torch.zeros(3, 24, 20, dtype=x.dtype)
    canvas[:, 4:20, 4:16] = x
    s = Scattering2D(J=2, shape=(16, 12), L=4, padding="zero")(x)
    # The canvas and 4 pixels on each side of it make the same torus, as large as the image with
    # 4 pixels would need: periodic on the padded grid.
    whole = Scattering2D(J=2, shape=(24, 20), L=4, padding="periodic")(canvas)
    torch.testing.assert_close(s, whole[..., 1:-1, 1:-1], rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("padding", ["periodic", "zero"])
@pytest.mark.parametrize(("shape", "J", "L"), [((4, 4), 2, 2), ((4, 6), 1, 1)])
def test_gradients_equal_finite_differences(shape, J, L, padding):
    scattering = Scattering2D(J, shape, L, padding=padding)
    x = uniform(2, *shape).requires_grad_()
    assert torch.autograd.gradcheck(scattering, x)


@pytest.mark.parametrize("padding", ["periodic", "zero"])
def test_both_implementations_have_the_same_gradient(monkeypatch, padding):
    scattering = Scattering2D(3, (24, 16), padding=padding)
    x = uniform(3, 24, 16).requires_grad_()
    weights = uniform(3, *scattering.output_shape, seed=1) - 0.5
    (found,) = torch.autograd.grad((weights * scattering(x)).sum(), x)
    monkeypatch.setattr(transform, "compiled_kernels", lambda: None)
    (expected,) = torch.autograd.grad((weights * scattering(x)).sum(), x)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-13)


def test_printing_shows_the_padding():
    assert repr(Scattering2D(1, (8, 6), padding="zero")).endswith("max_order=2, padding='zero')")
