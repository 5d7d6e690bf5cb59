"""How good an image is, one number per image: PSNR and SSIM to its original, and sharpness."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional

from scattergen.errors import InputError

WINDOW_SIZE = 11
WINDOW_SIGMA = 1.5
# Stabilisers (K1 L)^2 and (K2 L)^2 of Wang et al. with dynamic range L = 1.
C1, C2 = 0.01**2, 0.03**2
# SSIM holds five filtered copies of its images in float64; this many values at a time keep that below about 100 MB
# whatever the number of images.
VALUES_PER_CHUNK = 1 << 21


@torch.no_grad()
def psnr(original: Tensor, output: Tensor) -> Tensor:
    r"""Peak signal-to-noise ratio of each image, in dB, (N,) float64; ``inf`` where the images are identical.

    .. math:: \mathrm{PSNR} = -10 \log_{10} \frac{1}{CHW} \sum (x - y)^2

    The peak is 1; both are images (N, C, H, W) in [0, 1], to which those of `output` are clipped. The PSNR *of a data
    set* is the mean of these values, not the PSNR of the mean squared error. An `InputError` if the shapes differ or
    are not (N, C, H, W), an original leaves [0, 1], or a value is not finite.

    Example:
        >>> x = torch.zeros(2, 1, 16, 16)
        >>> psnr(x, x + 0.1).round(decimals=4).tolist()
        [20.0, 20.0]
    """
    _check_pair(original, output)
    error = [(x.double() - y.double().clamp(0, 1)).square().flatten(1).mean(1) for x, y in _chunks(original, output)]
    return -10 * torch.log10(torch.cat(error))


@torch.no_grad()
def ssim(original: Tensor, output: Tensor) -> Tensor:
    r"""Structural similarity of each image, the mean over channels and windows, (N,) float64; 1 where identical.

    .. math:: \mathrm{SSIM} = \frac{(2 \mu_x \mu_y + C_1)(2 \sigma_{xy} + C_2)}
                                   {(\mu_x^2 + \mu_y^2 + C_1)(\sigma_x^2 + \sigma_y^2 + C_2)}

    The moments are taken in a Gaussian window of 11 x 11 pixels and standard deviation 1.5, at every position where the
    window lies inside the image, as in the authors' own program; torchmetrics also averages over a padded border (Wang,
    Bovik, Sheikh, Simoncelli, "Image quality assessment: from error visibility to structural similarity", 2004). Images
    are as for `psnr`, and those smaller than the window an `InputError`, too.

    Example:
        >>> x = torch.rand(2, 3, 16, 16)
        >>> ssim(x, x).round(decimals=6).tolist()
        [1.0, 1.0]
    """
    _check_pair(original, output)
    height, width = original.shape[-2:]
    if min(height, width) < WINDOW_SIZE:
        problem = f"a window of {WINDOW_SIZE} x {WINDOW_SIZE} pixels, but the images are {height} x {width}"
        raise InputError(f"SSIM looks through {problem}; use psnr for images this small, or enlarge them first.")
    return torch.cat([_ssim_of_chunk(x, y.clamp(0, 1)) for x, y in _chunks(original, output)])


@torch.no_grad()
def sharpness(images: Tensor) -> Tensor:
    r"""Energy of the fine detail of each image, which a blur removes first, (N,) float64.

    .. math:: \frac{1}{CHW} \sum (x - \bar x)^2

    with :math:`\bar x` the mean over 3 × 3 pixels, reflected at the border. It depends on what is shown, so compare its
    mean over some images, (N, C, H, W) with at least 2 pixels on each side, with that over real ones.

    Example:
        >>> x = torch.zeros(1, 1, 9, 9)
        >>> x[..., 4, 4] = 9
        >>> sharpness(x).round(decimals=4)  # (81 - 9) / 81
        tensor([0.8889], dtype=torch.float64)
    """
    means = functional.avg_pool2d(functional.pad(images, (1, 1, 1, 1), mode="reflect"), 3, 1)
    return (images - means).double().square().flatten(1).mean(1)


def share_of_detail(found: float, real: float) -> float:
    """A mean sharpness as a share of that of real images; 1 where neither have any detail.

    Example:
        >>> share_of_detail(0.002, 0.004), share_of_detail(0.0, 0.0)
        (0.500..., 1.0)
    """
    nothing = 1e-8  # differences of a fortieth of a grey level
    return (found + nothing) / (real + nothing)


def _ssim_of_chunk(x: Tensor, y: Tensor) -> Tensor:
    # float64, because E[x^2] - E[x]^2 cancels: in float32 its rounding (1e-7) is no longer small beside C2 = 9e-4 in
    # the flat regions that fill most of a digit's image.
    x, y = x.double(), y.double()
    mean_x, mean_y, xx, yy, xy = _blur(torch.cat([x, y, x * x, y * y, x * y])).chunk(5)
    variances = (xx - mean_x**2) + (yy - mean_y**2)
    covariance = xy - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + C1) / (mean_x**2 + mean_y**2 + C1)
    structure = (2 * covariance + C2) / (variances + C2)
    return (luminance * structure).flatten(1).mean(1)


def _blur(x: Tensor) -> Tensor:
    """Gaussian means over every window inside the image: (N, C, H, W) -> (N, C, H-10, W-10)."""
    offsets = torch.arange(WINDOW_SIZE, dtype=x.dtype, device=x.device) - WINDOW_SIZE // 2
    window = torch.exp(-(offsets**2) / (2 * WINDOW_SIGMA**2))
    window = window / window.sum()
    channels = x.shape[1]
    column = window.view(1, 1, -1, 1).expand(channels, 1, -1, 1)
    row = window.view(1, 1, 1, -1).expand(channels, 1, 1, -1)
    return functional.conv2d(functional.conv2d(x, column, groups=channels), row, groups=channels)


def _chunks(original: Tensor, output: Tensor) -> Iterable[tuple[Tensor, Tensor]]:
    size = max(1, VALUES_PER_CHUNK // math.prod(original.shape[1:]))
    return zip(original.split(size), output.split(size), strict=True)


def _check_pair(original: Tensor, output: Tensor) -> None:
    if original.ndim != 4 or original.shape != output.shape or 0 in original.shape[1:]:
        shapes = f"{tuple(original.shape)} and {tuple(output.shape)}"
        raise InputError(f"image quality needs two tensors of one shape (N, C, H, W), got {shapes}.")
    if not (original.is_floating_point() and output.is_floating_point()):
        types = f"{original.dtype} and {output.dtype}"
        raise InputError(f"image quality needs float images in [0, 1], got {types}; divide uint8 images by 255.")
    if not (torch.isfinite(original).all() and torch.isfinite(output).all()):
        raise InputError("image quality is undefined: an image holds NaN or infinite values.")
    if len(original) and (original.min() < 0 or original.max() > 1):
        problem = f"must lie in [0, 1], but range from {original.min():g} to {original.max():g}"
        raise InputError(f"the original images {problem}; rescale them (divide 8-bit images by 255).")
