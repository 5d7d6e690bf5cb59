"""Sharpening: the power of real images where it is wanted, and nothing changed where it is not."""

import pytest
import torch
from scipy import fft

from scattergen.decoder.sharpening import Sharpening, _cosines, _power, _radii
from scattergen.errors import InputError


@pytest.fixture
def pair():
    """Noise of 12 x 20 pixels with fine detail, and the same with less of it."""
    generator = torch.Generator().manual_seed(0)
    images = 0.5 + 0.05 * torch.randn(200, 3, 12, 20, generator=generator)
    return images, torch.nn.functional.avg_pool2d(images, 3, 1, padding=1, count_include_pad=False)


def test_the_cosine_transform_is_that_of_scipy(pair):
    rows, columns = _cosines(12), _cosines(20)
    expected = fft.dctn(pair[0].double().numpy(), axes=(2, 3), norm="ortho")
    found = rows @ pair[0] @ columns.T
    # 12 + 20 float32 products of numbers below 1 are added, eps = 6e-8 each, and some digits lost.
    torch.testing.assert_close(found.double(), torch.from_numpy(expected), rtol=0, atol=2e-5)


def test_at_full_strength_the_power_is_that_of_real_images(pair):
    images, decoded = pair
    sharpening = Sharpening(Sharpening.fit(images, decoded).gains)
    radii = _radii(12, 20)
    real, made, sharp = (_power(x, radii) for x in (images, decoded, sharpening(decoded)))
    unbounded = (real / made < 4) & (real >= made)  # where the gain is within its bounds, 1 and 2
    assert unbounded.sum() > 3
    # No pixel leaves [0, 1], since 10 standard deviations lie between: all is linear, in float32.
    torch.testing.assert_close(sharp[unbounded], real[unbounded], rtol=1e-4, atol=0)
    half = _power(sharpening(decoded, 0.5), radii)
    between = (real * made).sqrt()[unbounded]
    torch.testing.assert_close(half[unbounded], between, rtol=1e-4, atol=0)


def test_strength_0_and_equal_images_change_nothing(pair):
    images, decoded = pair
    assert Sharpening.fit(images, decoded)(decoded, 0) is decoded
    same = Sharpening.fit(images, images)
    assert torch.equal(same.gains, torch.ones(20))
    # Two orthonormal transforms there and back, in float32.
    torch.testing.assert_close(same(images), images, rtol=0, atol=1e-5)


def test_images_stay_within_0_and_1(pair):
    images, decoded = pair
    loud = (decoded - 0.5) * 9 + 0.5
    sharp = Sharpening.fit(images, decoded)(loud.clamp(0, 1))
    assert sharp.min() >= 0
    assert sharp.max() <= 1


def test_frequencies_that_decoded_images_lack_are_left_alone(pair):
    images = pair[0]
    gains = Sharpening.fit(images, torch.full_like(images, 0.5)).gains
    assert torch.isfinite(gains).all()
    assert gains.max() <= 2


@pytest.mark.parametrize("strength", [-0.1, 1.1, float("nan")])
def test_a_strength_that_is_none_is_refused(pair, strength):
    with pytest.raises(InputError, match="from 0 to 1"):
        Sharpening(torch.ones(20))(pair[0], strength)


def test_other_gains_are_refused():
    for gains in (torch.ones(2, 2), torch.tensor([1.0, -1.0]), torch.tensor([1.0, float("nan")])):
        with pytest.raises(InputError, match="one positive number"):
            Sharpening(gains)
