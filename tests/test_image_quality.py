"""PSNR and SSIM against closed forms and an independent implementation."""

import math

import pytest
import torch
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from scattergen import image_quality
from scattergen.errors import InputError
from scattergen.evaluation import psnr, ssim


def noisy_pair(channels, height, width, count=3, noise=0.1):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(count, channels, height, width, generator=generator)
    return x, x + noise * torch.randn(x.shape, generator=generator)


def test_psnr_of_a_constant_error_is_its_logarithm():
    x = torch.full((3, 1, 28, 28), 0.5)
    error = torch.tensor([0.1, 0.01, 0.25]).view(3, 1, 1, 1)
    expected = [-20 * math.log10(e) for e in (0.1, 0.01, 0.25)]
    # x + e is rounded to float32 (3e-8), 3e-6 of the smallest error: 8.7 dB times that, 3e-5 dB.
    torch.testing.assert_close(psnr(x, x + error), torch.tensor(expected).double(), atol=5e-5, rtol=0)


def test_psnr_is_per_image_and_infinite_for_identical_ones():
    x, y = noisy_pair(3, 12, 14)
    y[1] = x[1]
    values = psnr(x, y)
    assert values.shape == (3,)
    assert values.isinf().tolist() == [False, True, False]


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_outputs_are_clipped_before_they_are_compared(metric):
    x, y = noisy_pair(1, 16, 16, noise=1.0)
    assert y.min() < 0
    assert y.max() > 1
    assert torch.equal(metric(x, y), metric(x, y.clamp(0, 1)))
    assert not torch.equal(metric(x, y), metric(x, y.clamp(0, 0.9)))


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 28, 28), (3, 11, 40), (1, 64, 17)])
def test_psnr_and_ssim_agree_with_torchmetrics(shape):
    x, y = noisy_pair(*shape)
    y = y.clamp(0, 1)
    # torchmetrics averages over a reflected border too, Wang et al. only over windows inside the
    # image; so its map is compared, without the border of half a window.
    _, full = structural_similarity_index_measure(
        x.double(), y.double(), data_range=1.0, reduction="none", return_full_image=True
    )
    reference = full[..., 5:-5, 5:-5].flatten(1).mean(1)
    # Both work in float64, where the cancellation in the variances costs 1e-16 / C2 = 1e-13.
    torch.testing.assert_close(ssim(x, y), reference, atol=1e-11, rtol=0)
    reference = peak_signal_noise_ratio(y.double(), x.double(), data_range=1.0, reduction="none", dim=(1, 2, 3))
    # torchmetrics rounds its factor 10 / ln 10 to float32, which puts it off by 4.54e-8 relative;
    # a few hundred additions in float64 (1e-13) vanish beside that.
    torch.testing.assert_close(psnr(x, y), reference, atol=0, rtol=4.6e-8)


def test_ssim_of_flat_images_is_the_luminance_term():
    x, y = torch.full((1, 1, 20, 20), 0.8), torch.full((1, 1, 20, 20), 0.4)
    c1 = 0.01**2
    expected = (2 * 0.8 * 0.4 + c1) / (0.8**2 + 0.4**2 + c1)
    # 0.8 and 0.4 are rounded to float32: relative 6e-8.
    assert ssim(x, y).item() == pytest.approx(expected, abs=1e-6)


def test_ssim_is_one_for_identical_images_and_negative_for_negatives():
    x, _ = noisy_pair(1, 28, 28)
    # Two float64 roundings at most per position.
    torch.testing.assert_close(ssim(x, x), torch.ones(3).double(), atol=1e-14, rtol=0)
    assert (ssim(x, 1 - x) < -0.5).all()


def test_many_images_are_taken_in_chunks_with_the_same_result(monkeypatch):
    x, y = noisy_pair(1, 28, 28, count=7)
    whole = psnr(x, y), ssim(x, y)
    monkeypatch.setattr(image_quality, "VALUES_PER_CHUNK", 2 * 28 * 28 + 1)
    assert torch.equal(psnr(x, y), whole[0])
    # Convolution may sum in another order for another batch: float64 rounding over C2.
    torch.testing.assert_close(ssim(x, y), whole[1], atol=1e-12, rtol=0)


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_no_images_give_no_values(metric):
    assert metric(torch.zeros(0, 1, 28, 28), torch.zeros(0, 1, 28, 28)).shape == (0,)


def test_ssim_refuses_images_smaller_than_its_window():
    x = torch.zeros(2, 1, 10, 28)
    with pytest.raises(InputError, match=r"window of 11 x 11 pixels.*10 x 28.*use psnr"):
        ssim(x, x)
    assert psnr(x, x).isinf().all()


@pytest.mark.parametrize("metric", [psnr, ssim])
@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (torch.zeros(2, 1, 16, 16), torch.zeros(2, 1, 16, 17), "one shape"),
        (torch.zeros(16, 16), torch.zeros(16, 16), "one shape"),
        (torch.full((1, 1, 16, 16), 255.0), torch.zeros(1, 1, 16, 16), "divide 8-bit"),
        (torch.zeros(1, 1, 16, 16), torch.full((1, 1, 16, 16), math.nan), "NaN"),
        (torch.zeros(1, 1, 16, 16, dtype=torch.uint8),) * 2 + ("divide uint8",),
    ],
)
def test_unusable_images_are_refused(metric, x, y, message):
    with pytest.raises(InputError, match=message):
        metric(x, y)
