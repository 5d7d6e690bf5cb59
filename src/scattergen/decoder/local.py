"""The local decoder: least squares from the code, corrected place by place by a small network."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scattergen.decoder.generator import CodeDecoder, UpsampledConv2d, check_grids, check_layers, grids
from scattergen.decoder.linear import LinearDecoder


class LocalDecoder(CodeDecoder):
    r"""Images from codes: least squares, and a convolutional correction, which is zero before the training.

    $G(z) = \hat x(z) + R(\hat s(z), \hat x(z))$ with the image $\hat x$ and scattering coefficients $\hat s$ on their
    grid by `LinearDecoder`. The network R mixes the coefficients' channels at every position; each block upsamples its
    grid bilinearly by two, convolves it and adds the pixels of $\hat x$ that lie under each position (like Dong, Loy,
    He, Tang, "Image super-resolution using deep convolutional networks", 2016). What is learned is the same everywhere
    in the image, so that few images teach it (docs/decoder.md).

    Args:
        linear: Fitted.
        channels: Width of each grid, from the coarsest to the image's.
        kernel_size: Side of the filters.
        momentum: Of the running statistics of the batch normalisation, in PyTorch's sense.

    Raises:
        InputError: If an argument is out of range or the grid becomes too small for the filters.

    Example:
        >>> from scattergen.encoder.scattering_encoder import ScatteringEncoder
        >>> x = torch.rand(60, 1, 16, 16, generator=torch.Generator().manual_seed(0))
        >>> encoder = ScatteringEncoder((1, 16, 16), J=1, L=4, n_components=20).fit(x)
        >>> codes = encoder.transform(x)
        >>> linear = LinearDecoder.of(encoder).fit(codes, x)
        >>> decoder = LocalDecoder(linear, channels=(16, 8))
        >>> torch.allclose(decoder.decode(codes), linear.decode(codes), atol=1e-6)
        True
    """

    mean_image: Tensor

    def __init__(
        self,
        linear: LinearDecoder,
        channels: Sequence[int] = (128, 64, 32, 16),
        kernel_size: int = 3,
        momentum: float = 0.1,
    ) -> None:
        super().__init__()
        check_layers(channels, kernel_size, momentum, "3 or 5")
        self.linear = linear
        self.n_components, self.image_shape = linear.n_components, linear.image_shape
        self.hyperparameters: dict[str, Any] = {
            "channels": list(channels), "kernel_size": kernel_size, "momentum": momentum,
        }  # fmt: skip
        (C, H, W), n = linear.image_shape, len(channels)
        self._sizes = sizes = grids((H, W), n, None)
        check_grids(sizes, n, kernel_size)
        # Pixels of a position of the grid along each axis, from the coarsest grid on.
        self._factors = [2**i for i in reversed(range(n))]
        self.mixing = nn.Parameter(torch.empty(linear.n_channels, channels[0]))
        nn.init.kaiming_normal_(self.mixing.T, nonlinearity="relu")
        # The estimate of the image enters every grid, by a product at each position.
        pixels = [C * factor**2 for factor in self._factors]
        self.sides = nn.ParameterList(
            nn.Parameter(torch.empty(m, width).normal_(0, m**-0.5)) for m, width in zip(pixels, channels, strict=True)
        )
        self.convolutions = nn.ModuleList(
            UpsampledConv2d(channels[i], channels[i + 1], kernel_size, sizes[i], sizes[i + 1]) for i in range(n - 1)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(width, eps=1e-3, momentum=momentum) for width in channels)
        self.last = UpsampledConv2d(channels[-1], C, kernel_size, (H, W), (H, W))
        nn.init.zeros_(self.last.weight)
        self.bias = nn.Parameter(torch.zeros(C))
        maps = linear.coefficients
        if linear.grid != sizes[0]:  # sizes that 2^J does not divide
            maps = F.interpolate(maps, size=sizes[0], mode="bilinear", align_corners=False)
        # The linear maps as matrices, in the range of the images, [-1, 1]; stored with the least squares, not here.
        self.register_buffer("to_coefficients", maps.permute(0, 2, 3, 1).flatten(1).contiguous(), persistent=False)
        self.register_buffer("to_image", (2 * linear.weight).contiguous(), persistent=False)
        self.register_buffer("mean_image", 2 * linear.mean.flatten() - 1, persistent=False)
        self._half: dict[str, Tensor] = {}

    def forward(self, z: Tensor) -> Tensor:
        """Images in or near the range [-1, 1], (N, C, H, W), of codes (N, d) in their precision."""
        self.check_codes(z)
        estimate = (self._product(z, "to_image") + self.mean_image).unflatten(1, self.image_shape)
        features = self._product(z, "to_coefficients").unflatten(1, (*self._sizes[0], -1)) @ self.mixing
        for i, norm in enumerate(self.norms):
            if i > 0:
                features = self.convolutions[i - 1](features)
            side = _pixels_under(estimate, self._sizes[i], self._factors[i])
            features = features + side.to(features.dtype) @ self.sides[i]
            # A permuted view of a channels-last array is PyTorch's channels_last: no copy.
            normalized = F.relu_(norm(features.permute(0, 3, 1, 2)))
            features = normalized.permute(0, 2, 3, 1)
        correction = self.last(features).to(z.dtype) + self.bias
        return estimate + correction.permute(0, 3, 1, 2)

    def _product(self, z: Tensor, name: str) -> Tensor:
        """Product with a fixed map, in z's precision; under autocast of rounded factors."""
        matrix: Tensor = getattr(self, name)
        kind = z.device.type
        if not torch.is_autocast_enabled(kind):
            return z @ matrix.to(z.dtype)
        # Autocast would round the map, which never changes, in every step.
        dtype = torch.get_autocast_dtype(kind)
        rounded = self._half.get(name)
        if rounded is None or rounded.device != matrix.device or rounded.dtype != dtype:
            rounded = self._half[name] = matrix.to(dtype)
        return (z.to(dtype) @ rounded).to(z.dtype)


def _pixels_under(images: Tensor, size: tuple[int, int], factor: int) -> Tensor:
    """Pixels of each position of a grid, (N, h, w, C·factor²), of images (N, C, H, W)."""
    if factor == 1:
        return images.permute(0, 2, 3, 1)
    # The grid may reach past the image.
    right, bottom = size[1] * factor - images.shape[3], size[0] * factor - images.shape[2]
    padded = F.pad(images, (0, right, 0, bottom), mode="replicate") if right or bottom else images
    return F.pixel_unshuffle(padded, factor).permute(0, 2, 3, 1).contiguous()
