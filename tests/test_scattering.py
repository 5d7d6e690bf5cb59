"""The transform against Kymatio, golden values, and the properties that theory promises."""

from math import pi
from pathlib import Path

import numpy as np
import pytest
import torch

from scattergen.scattering import FilterBank, Scattering2D, transform
from scattergen.scattering import Path as ScatteringPath

# Shape, J, L, max_order: the paper's; not square; odd sides and L; padding as wide as the image.
CASES = [
    ((28, 28), 2, 8, 2),
    ((20, 33), 2, 8, 2),
    ((31, 17), 3, 5, 2),
    ((32, 32), 5, 4, 2),
    ((33, 64), 4, 3, 1),
    ((16, 16), 1, 8, 2),
    ((4, 7), 2, 1, 2),
    ((2, 2), 1, 2, 1),
]

# Kymatio divides each filter by 2·3.1415·σ²/slant, so that a path of order m, which meets m
# wavelets and one low-pass, is too large by this factor to the power m + 1.
KYMATIO_PI = pi / 3.1415


pytestmark = pytest.mark.usefixtures("algorithm")


def uniform(*shape, dtype=torch.float32, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def orders(scattering):
    return torch.tensor([path.order for path in scattering.paths])


def relative_error(actual, expected):
    """Largest difference as part of the largest value."""
    return ((actual - expected).abs().max() / expected.abs().max()).item()


def assert_equals_kymatio(s, expected, order):
    # Its π alone: (π/3.1415)³ - 1 = 8.8e-5 at order 2; 2e-4 leaves room for rounding.
    torch.testing.assert_close(s, expected, rtol=2e-4, atol=1e-6)
    # With its π only rounding is left: float32 FFTs of up to 96² samples are log2(96²) = 13 stages
    # of 6e-8 each, at most 8e-7 per order, of values up to 1; most coefficients are 0.01 to 0.5.
    corrected = s * KYMATIO_PI ** (order + 1.0)[:, None, None]
    torch.testing.assert_close(corrected, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("shape", "J", "L", "max_order"), CASES)
def test_coefficients_equal_those_of_kymatio(kymatio, shape, J, L, max_order):
    x = uniform(3, *shape)
    scattering = Scattering2D(J, shape, L, max_order)
    expected = kymatio(shape, J, L, max_order)(x)
    s = scattering(x)
    assert s.shape == expected.shape == (3, *scattering.output_shape)
    assert_equals_kymatio(s, expected, orders(scattering))


@pytest.mark.parametrize(("shape", "J", "L", "max_order"), CASES)
def test_kymatios_filters_in_our_algorithm_give_its_coefficients(kymatio, monkeypatch, shape, J, L, max_order):
    peer = kymatio(shape, J, L, max_order)

    def its_filter_bank(padded_shape, J, L):
        def spectrum(levels):
            return torch.as_tensor(levels["levels"][0]).reshape(padded_shape).double()

        psi = torch.stack([spectrum(levels) for levels in peer.psi]).unflatten(0, (J, L))
        phi = spectrum(peer.phi)
        scale = phi[0, 0].sqrt()  # the 2-D low-pass is the outer product of two 1-D ones
        return FilterBank(psi, phi[:, 0] / scale, phi[0] / scale)

    monkeypatch.setattr(transform, "filter_bank", its_filter_bank)
    x = uniform(2, *shape)
    scattering = Scattering2D(J, shape, L, max_order)
    expected = peer(x)
    s, order = scattering(x.double()).float(), orders(scattering)
    for m in order.unique():
        # Kymatio computes in float32: a few roundings of 6e-8 of the largest values.
        assert relative_error(s[:, order == m], expected[:, order == m]) < 1e-6


def test_golden_values():
    golden = np.load(Path(__file__).parent / "golden" / "scattering.npz")
    n_cases = len({name.split("/")[0] for name in golden})
    assert n_cases == 4
    for number in range(n_cases):
        height, width, J, L, max_order = golden[f"{number}/arguments"].tolist()
        scattering = Scattering2D(J, (height, width), L, max_order)
        s = scattering(torch.from_numpy(golden[f"{number}/x"]))
        assert_equals_kymatio(s, torch.from_numpy(golden[f"{number}/s"]), orders(scattering))


def test_paths_are_in_the_order_of_the_channels():
    paths = Scattering2D(J=3, shape=(16, 16), L=2).paths
    P = ScatteringPath
    assert paths == (
        P(0),
        *(P(1, j, theta) for j in range(3) for theta in range(2)),
        P(2, 0, 0, 1, 0), P(2, 0, 0, 1, 1), P(2, 0, 0, 2, 0), P(2, 0, 0, 2, 1),
        P(2, 0, 1, 1, 0), P(2, 0, 1, 1, 1), P(2, 0, 1, 2, 0), P(2, 0, 1, 2, 1),
        P(2, 1, 0, 2, 0), P(2, 1, 0, 2, 1),
        P(2, 1, 1, 2, 0), P(2, 1, 1, 2, 1),
    )  # fmt: skip


def test_a_lower_order_is_the_beginning_of_a_higher_one():
    x = uniform(2, 16, 24)
    full = Scattering2D(J=2, shape=(16, 24), L=3)(x)
    for max_order, K in ((0, 1), (1, 7)):
        part = Scattering2D(J=2, shape=(16, 24), L=3, max_order=max_order)(x)
        assert torch.equal(part, full[:, :K])


@pytest.mark.parametrize("batch", [(), (1,), (2, 3), (0,), (2, 0, 3)])
def test_any_leading_axes(batch):
    scattering = Scattering2D(J=2, shape=(20, 12), L=4)
    x = uniform(*batch, 20, 12)
    s = scattering(x)
    assert s.shape == (*batch, *scattering.output_shape)
    assert s.dtype == torch.float32
    # The batch can change which kernel the library takes: some roundings of values of about 1.
    for image, expected in zip(x.reshape(-1, 20, 12), s.reshape(-1, *s.shape[-3:]), strict=True):
        torch.testing.assert_close(scattering(image), expected, rtol=1e-6, atol=1e-6)


def test_chunks_do_not_matter(monkeypatch):
    monkeypatch.setattr(transform, "compiled_kernels", lambda: None)  # which cuts its own
    x = uniform(7, 28, 28)
    scattering = Scattering2D(J=2, shape=(28, 28))
    whole = scattering(x)
    seen = []
    scatter = Scattering2D._scatter
    monkeypatch.setattr(Scattering2D, "_scatter", lambda self, x, c: seen.append(len(x)) or scatter(self, x, c))
    # 2·36² floats of 8 orientations per image: chunks of three images.
    monkeypatch.setattr(transform, "_CHUNK_FLOATS", 3 * 2 * 36**2 * 8)
    torch.testing.assert_close(scattering(x), whole, rtol=1e-6, atol=1e-6)  # as for leading axes
    assert seen == [3, 3, 1]


def test_layout_does_not_matter_and_the_input_is_kept():
    x = uniform(3, 12, 20)
    scattering = Scattering2D(J=2, shape=(20, 12), L=4)
    strided = x.transpose(1, 2)
    before = strided.clone()
    assert torch.equal(scattering(strided), scattering(before))
    assert torch.equal(strided, before)


def test_repeated_calls_give_the_same_bits():
    x = uniform(5, 28, 28)
    scattering = Scattering2D(J=2, shape=(28, 28))
    assert torch.equal(scattering(x), scattering(x))
    assert torch.equal(scattering(x), Scattering2D(J=2, shape=(28, 28))(x))


def test_precision():
    x = uniform(4, 28, 28)
    scattering = Scattering2D(J=2, shape=(28, 28))
    exact = scattering(x.double())
    assert exact.dtype == torch.float64
    order = orders(scattering)
    for m in range(3):
        # Roundings of 6e-8 of largest values, some ten of them.
        assert relative_error(scattering(x)[:, order == m].double(), exact[:, order == m]) < 1e-6
    for dtype in (torch.bfloat16, torch.float16):
        low = x.to(dtype)
        assert torch.equal(scattering(low), scattering(low.float()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_does_not_lower_the_precision(dtype):
    x = uniform(2, 16, 16)
    scattering = Scattering2D(J=2, shape=(16, 16))
    with torch.autocast("cpu", dtype=dtype):
        s = scattering(x)
    assert s.dtype == torch.float32
    assert torch.equal(s, scattering(x))


def test_a_shift_by_the_subsampling_shifts_the_coefficients():
    # The margin of the image is as wide as the padding (2^J = 4 pixels here, 6 below and right)
    # before and after the shift: the padded images are shifted copies on the torus.
    x = torch.zeros(40, 40, dtype=torch.float64)
    x[8:24, 12:20] = uniform(16, 8, dtype=torch.float64)
    scattering = Scattering2D(J=2, shape=(40, 40), L=4)
    s, shifted = scattering(x), scattering(x.roll((4, 8), (0, 1)))
    # The same float64 arithmetic at other places of an FFT.
    torch.testing.assert_close(shifted[:, 1:, 2:], s[:, :-1, :-2], rtol=1e-10, atol=1e-13)
    assert (shifted - s).abs().max() > 0.1


def test_transposing_an_image_permutes_orientations():
    # Transposition maps the angle (3 - θ)π/8 to π/2 less it, that is to (3 - θ')π/8 with θ' = 2 - θ
    # modulo 8, since opposite directions have the same modulus.
    x = uniform(20, 28, dtype=torch.float64)
    scattering = Scattering2D(J=3, shape=(20, 28))
    transposed = Scattering2D(J=3, shape=(28, 20))
    s = scattering(x)

    def mirrored(theta):
        return None if theta is None else (2 - theta) % 8

    order = [
        scattering.paths.index(p._replace(theta1=mirrored(p.theta1), theta2=mirrored(p.theta2)))
        for p in transposed.paths
    ]
    difference = (transposed(x.T) - s[order].mT).abs()
    second = orders(scattering) == 2
    assert difference[~second].max() < 1e-13  # only the order of float64 sums differs
    # A filter cropped to half the resolution keeps one of the two Nyquist bins, which breaks the
    # symmetry of opposite directions by the wavelet's value there, about 1e-3, times a spectrum
    # that is as small; the coefficients themselves are about 0.01.
    assert difference[second].max() < 1e-5 < 1e-3 < s[second].median()


def test_a_constant_image_has_its_value_and_no_other_coefficients():
    scattering = Scattering2D(J=3, shape=(24, 32), L=4)
    s = scattering(torch.full((24, 32), 0.7, dtype=torch.float64))
    # Unit mass and zero mean hold to some roundings of 1e-16.
    torch.testing.assert_close(s[0], torch.full_like(s[0], 0.7), rtol=0, atol=1e-14)
    assert s[1:].abs().max() < 1e-14


def test_scaling_an_image():
    x = uniform(2, 20, 20)
    scattering = Scattering2D(J=2, shape=(20, 20), L=4)
    s = scattering(x)
    assert torch.equal(scattering(4 * x), 4 * s)  # a power of two: bit by bit
    negative = scattering(-3 * x)
    torch.testing.assert_close(negative[:, 0], -3 * s[:, 0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(negative[:, 1:], 3 * s[:, 1:], rtol=1e-5, atol=1e-6)


def test_nothing_is_a_parameter_and_printing_shows_the_arguments():
    scattering = Scattering2D(J=1, shape=(8, 6), L=3, max_order=1)
    scattering(uniform(8, 6))
    assert not list(scattering.parameters())
    assert not scattering.state_dict()
    assert repr(scattering) == "Scattering2D(J=1, shape=(8, 6), L=3, max_order=1)"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("shape", "J", "L", "max_order"), CASES)
def test_a_gpu_gives_the_same_coefficients(shape, J, L, max_order):
    x = uniform(5, *shape)
    scattering = Scattering2D(J, shape, L, max_order)
    s = scattering(x.cuda())
    assert s.is_cuda
    # Other FFTs and orders of summation: some ten roundings of 6e-8, of values up to 1.
    torch.testing.assert_close(s.cpu(), scattering(x), rtol=1e-5, atol=2e-6)


def test_transforms_of_the_same_images_share_their_filters():
    first, second = Scattering2D(2, (20, 24), L=4), Scattering2D(2, (20, 24), L=4)
    device = torch.device("cpu")
    for dtype in (torch.float32, torch.float64):
        shared = first._constants_for(dtype, device)
        assert second._constants_for(dtype, device) is shared
        assert shared is not Scattering2D(2, (20, 24), L=5)._constants_for(dtype, device)
    assert first._plan_for(torch.float32) is second._plan_for(torch.float32)
