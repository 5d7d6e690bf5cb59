"""The scattering loss: images compared by their local scattering coefficients."""

from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional

from scattergen.errors import InputError
from scattergen.scattering import Scattering2D
from scattergen.scattering.transform import compiled_kernels, is_plain

_REGION = 4  # positions along each side of a region


class ScatteringLoss:
    r"""Relative error of local scattering coefficients, of one random colour per image.

    $\mathbb E_u \sum_r \sqrt{\operatorname{mean}_p\, \langle S_p(u^\top y) - S_p(u^\top x) \rangle_r^2 / \sigma_p^2}$
    with S a scattering transform of small scale (Bruna, Mallat, "Invariant scattering convolution networks", 2013), u a
    direction of colour, uniform on the sphere (±1 for grey images), $\sigma_p$ the root mean square of path p over real
    images and directions, and $\langle\cdot\rangle_r$ a mean over one position, over 4 × 4 and over all, of whose
    positions the mean is taken. A detail that is moved costs less than one that is missing (docs/decoder.md; compare
    Vahidi, Han, Wang, Lagrange, Fazekas, Lostanlen, "Mesostructures: beyond spectrogram loss in differentiable
    time-frequency analysis", 2023). An `InputError` if the transform does not fit the images.

    Args:
        image_shape: (C, H, W).
        J, L, max_order: Scale, orientations and order of the transform: details may move by about 2^J pixels.

    Example:
        >>> x = torch.rand(2, 20, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        >>> loss = ScatteringLoss((3, 16, 16)).fit(x[0])
        >>> loss(x[0], x[0], torch.Generator()).item()
        0.0
    """

    def __init__(self, image_shape: tuple[int, int, int], J: int = 2, L: int = 8, max_order: int = 2) -> None:
        C, H, W = image_shape
        J = min(J, max(1, min(H, W).bit_length() - 1))  # small images have fewer scales
        self.n_channels, self.scattering = C, Scattering2D(J, (H, W), L, max_order)

    def fit(self, images: Tensor) -> Self:
        """Measure the size of each path by some hundreds of real images (N, C, H, W), not all zero."""
        with torch.no_grad():
            directions = self._directions(len(images), torch.Generator().manual_seed(0))
            parts = zip(images.split(256), directions.split(256), strict=True)
            power = torch.stack([self._coefficients(x, u).square().mean((2, 3)).sum(0) for x, u in parts]).sum(0)
            scale = (power / len(images)).sqrt()
        if not scale.max() > 0:
            raise InputError("All images are zero: there is nothing to compare them by.")
        # A path that no image uses is not magnified.
        self.scale = scale.clamp(min=1e-3 * scale.max().item())[:, None, None]
        return self

    def __call__(self, output: Tensor, images: Tensor, generator: torch.Generator) -> Tensor:
        """The loss, a scalar, of a decoder's images (N, C, H, W) given the right ones, in random colours."""
        directions = self._directions(len(images), generator).to(output)
        with torch.no_grad():
            wanted = self._coefficients(images, directions)
        found = self._coefficients(output, directions)
        wanted, weights = wanted.expand_as(found), 1 / self.scale.to(found).flatten()
        kernels = compiled_kernels() if found.device.type == "cpu" and max(found.shape[2:]) > _REGION else None
        if kernels and all(map(is_plain, (found, wanted, weights))):
            distances = _ByKernel.apply(found, wanted, weights, kernels.distance)
        else:
            distances = _distances(found, wanted, weights)
        return distances.mean() / len(weights) ** 0.5

    def _directions(self, n: int, generator: torch.Generator) -> Tensor:
        normal = torch.randn(n, self.n_channels, generator=generator)
        return normal / normal.norm(dim=1, keepdim=True)

    def _coefficients(self, images: Tensor, directions: Tensor) -> Tensor:
        """Those of one channel, a mixture, per image."""
        return self.scattering((images * directions[..., None, None]).sum(1))


def _distances(found: Tensor, wanted: Tensor, weights: Tensor) -> Tensor:
    """Norms over paths of weighted differences of coefficients (N, K, H, W), their means over places added up, (N,)."""
    difference = (found - wanted) * weights[:, None, None]
    # Where a detail belongs is uncertain, and the median of an uncertain coefficient too small; how much of it there is
    # in a region, or in all of the image, is known better.
    parts = [difference, difference.mean((2, 3), keepdim=True)]
    if max(difference.shape[2:]) > _REGION:
        parts.append(functional.avg_pool2d(difference, _REGION, ceil_mode=True, count_include_pad=False))
    # The gradient of a norm is bounded, 0 at 0.
    return torch.stack([torch.linalg.vector_norm(part, dim=1).mean((1, 2)) for part in parts]).sum(0)


class _ByKernel(torch.autograd.Function):
    """The same by a compiled kernel, which has the gradient at once."""

    @staticmethod
    def forward(ctx: Any, found: Tensor, wanted: Tensor, weights: Tensor, distance: Any) -> Tensor:
        distances, gradients = distance(found.detach(), wanted, weights, _REGION)
        ctx.save_for_backward(found, wanted, weights, gradients)
        return distances

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        found, wanted, weights, gradients = ctx.saved_tensors
        if torch.is_grad_enabled():  # a derivative of this derivative is asked for
            distances = _distances(found, wanted, weights)
            return torch.autograd.grad(distances, found, gradient, create_graph=True)[0], None, None, None
        return gradient[:, None, None, None] * gradients, None, None, None
