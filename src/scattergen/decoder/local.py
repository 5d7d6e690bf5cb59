"""Least squares from codes, and the local decoder: these corrected place by place by a small network."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scattergen.datasets import ImageSource
from scattergen.decoder.generator import CodeDecoder, check_layers, grids
from scattergen.decoder.upsampled_convolution import UpsampledConv2d
from scattergen.display.progress import SILENT, Progress
from scattergen.encoder.scattering_encoder import ScatteringEncoder
from scattergen.errors import InputError
from scattergen.files.tensors import check_shapes

_MOST_IMAGES = 20_000  # more change least squares of at most a few hundred components no more
_BATCH_FLOATS = 1 << 24


class LinearDecoder:
    r"""Images from codes by least squares, the baseline of every decoder.

    $\hat x(z) = \bar x + W^\top (z - \bar z)$ with W minimising $\sum_i \lVert x_i - \hat x(z_i) \rVert^2$ over the
    training images. It also keeps the linear estimate of the scattering coefficients that whitening leaves, on their
    grid of positions and reduced to the leading principal components of the channels: what a code says of each place.

    Args:
        n_components, image_shape: Dimension d of the codes, and (C, H, W).
        grid, n_channels: Positions (h, w) of the coefficients, and how many are kept at each.

    Example:
        >>> x = torch.rand(60, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        >>> encoder = ScatteringEncoder((1, 8, 8), J=1, L=4, n_components=20).fit(x)
        >>> linear = LinearDecoder.of(encoder, n_channels=4).fit(encoder.transform(x), x)
        >>> linear.decode(encoder.transform(x)).shape
        torch.Size([60, 1, 8, 8])
    """

    mean: Tensor  # of the images, (C, H, W)
    weight: Tensor  # W, (d, C·H·W)
    coefficients: Tensor  # standardised ones of a code's components, (d, n_channels, h, w)

    def __init__(
        self, n_components: int, image_shape: tuple[int, int, int], grid: tuple[int, int], n_channels: int
    ) -> None:
        self.n_components, self.image_shape = n_components, image_shape
        self.grid, self.n_channels = grid, n_channels
        self.hyperparameters: dict[str, Any] = {
            "n_components": n_components, "image_shape": list(image_shape),
            "grid": list(grid), "n_channels": n_channels,
        }  # fmt: skip

    @classmethod
    def of(cls, encoder: ScatteringEncoder, n_channels: int = 128) -> Self:
        """For the codes of a fitted encoder, of which it takes over at most so many coefficients at each position."""
        linear = cls.shaped(encoder, n_channels)
        (h, w), whitening = linear.grid, encoder.whitening
        scale = whitening.explained_variance_.sqrt().to(whitening.components_)
        maps = (whitening.components_ * scale[:, None]).view(linear.n_components, -1, h, w)
        # Every coefficient counts alike, weak ones of high order too; one that never varies not.
        power = maps.square().sum(0).mean((1, 2))
        varies = power > power.max() * torch.finfo(torch.float32).eps
        maps = maps * torch.where(varies, power, torch.inf).rsqrt()[:, None, None]
        by_channel = maps.transpose(0, 1).flatten(1)
        variances, directions = torch.linalg.eigh((by_channel @ by_channel.T).double())
        kept = directions.flip(1)[:, : linear.n_channels]
        # The sign of a principal component is arbitrary: that of its largest entry decides.
        kept = kept * kept.gather(0, kept.abs().argmax(0, keepdim=True)).sign()
        spread = (variances.flip(0)[: linear.n_channels].clamp(min=0) / (h * w)).sqrt()
        kept = kept / spread.clamp(min=spread[0] * 1e-3)
        linear.coefficients = torch.einsum("dkhw,kc->dchw", maps, kept.float()).contiguous()
        return linear

    @classmethod
    def shaped(cls, encoder: ScatteringEncoder, n_channels: int = 128) -> Self:
        """One with tensors on the device "meta", to make and check decoders before anything is fitted."""
        (C, _, _), (K, h, w) = encoder.image_shape, encoder.scattering.output_shape
        linear = cls(encoder.whitening.n_components, encoder.image_shape, (h, w), min(n_channels, C * K))
        for name, shape in linear._shapes().items():
            setattr(linear, name, torch.empty(shape, device="meta"))
        return linear

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        d, maps = self.n_components, (self.n_channels, *self.grid)
        return {"mean": tuple(self.image_shape), "weight": (d, math.prod(self.image_shape)), "coefficients": (d, *maps)}

    def fit(
        self, codes: Tensor, images: ImageSource | Tensor, mirrored: Tensor | None = None, *, n: int | None = None,
        progress: Progress = SILENT,
    ) -> Self:  # fmt: skip
        """Fit the linear map to up to 20,000 of the first n of N images (by default all), evenly spread.

        Mirrored images, if their codes are given too, (N, d) as the others, count as much. Unequal numbers of codes and
        images are an `InputError`.
        """
        if len(codes) != len(images):
            raise InputError(f"{len(codes)} codes do not fit {len(images)} images: give one each.")
        d, size = codes.shape[1], math.prod(self.image_shape)
        n = len(codes) if n is None else n
        chosen = torch.linspace(0, n - 1, min(n, _MOST_IMAGES)).round().long()
        products, images_sum = torch.zeros(d, size, dtype=torch.float64), torch.zeros(size).double()
        gram, codes_sum = torch.zeros(d, d, dtype=torch.float64), torch.zeros(d).double()
        with progress.task("least squares", len(chosen)) as task:
            for rows in chosen.split(max(1, _BATCH_FLOATS // size)):
                x = images[rows]
                for z, y in [(codes[rows], x)] + ([] if mirrored is None else [(mirrored[rows], x.flip(3))]):
                    z, y = z.double(), y.flatten(1)
                    # Sums over a batch in float32 lose less than least squares of images can tell.
                    products += z.float().T @ y
                    images_sum += y.sum(0, dtype=torch.float64)
                    gram += z.T @ z
                    codes_sum += z.sum(0)
                task.advance(len(rows))
        count = len(chosen) * (1 if mirrored is None else 2)
        x_mean, z_mean = images_sum / count, codes_sum / count
        gram -= count * torch.outer(z_mean, z_mean)
        products -= count * torch.outer(z_mean, x_mean)
        # Components of fewer images than codes are not independent: the smallest solution.
        gram.diagonal().add_(1e-6 * max(gram.diagonal().mean().item(), 1e-12))
        weight = torch.linalg.solve(gram, products)
        self.weight = weight.float()
        self.mean = (x_mean - z_mean @ weight).float().view(self.image_shape)
        return self

    def decode(self, z: Tensor) -> Tensor:
        """Images in [0, 1], (N, C, H, W), of codes (N, d)."""
        images = self.mean.flatten() + z.to(self.weight) @ self.weight
        return images.clamp_(0, 1).unflatten(1, self.image_shape)

    def state_dict(self) -> dict[str, Tensor]:
        """Everything fitted, as named tensors."""
        return {"mean": self.mean, "weight": self.weight, "coefficients": self.coefficients}

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Become the fitted decoder that `state_dict` was taken from; others' tensors are a `RunFolderError`."""
        check_shapes("linear decoder", tensors, self._shapes())
        self.mean, self.weight, self.coefficients = (tensors[name].float() for name in self._shapes())


class LocalDecoder(CodeDecoder):
    r"""Images from codes: least squares, and a convolutional correction, which is zero before the training.

    $G(z) = \hat x(z) + R(\hat s(z), \hat x(z))$ with the image $\hat x$ and scattering coefficients $\hat s$ on their
    grid by `LinearDecoder`. The network R mixes the coefficients' channels at every position; each block upsamples its
    grid bilinearly by two, convolves it and adds the pixels of $\hat x$ that lie under each position (like Dong, Loy,
    He, Tang, "Image super-resolution using deep convolutional networks", 2016). What is learned is the same everywhere
    in the image, so that few images teach it (docs/decoder.md). An `InputError` if an argument is out of range or the
    grid becomes too small for the filters.

    Args:
        linear: Fitted.
        channels: Width of each grid, from the coarsest to the image's.
        kernel_size, momentum: As of `Decoder`.

    Example:
        >>> x = torch.rand(60, 1, 16, 16, generator=torch.Generator().manual_seed(0))
        >>> encoder = ScatteringEncoder((1, 16, 16), J=1, L=4, n_components=20).fit(x)
        >>> codes = encoder.transform(x)
        >>> linear = LinearDecoder.of(encoder).fit(codes, x)
        >>> torch.allclose(LocalDecoder(linear, channels=(16, 8)).decode(codes), linear.decode(codes), atol=1e-6)
        True
    """

    mean_image: Tensor

    def __init__(
        self, linear: LinearDecoder, channels: Sequence[int] = (128, 64, 32, 16), kernel_size: int = 3,
        momentum: float = 0.1,
    ) -> None:  # fmt: skip
        super().__init__()
        check_layers(channels, kernel_size, momentum)
        self.linear = linear
        self.n_components, self.image_shape = linear.n_components, linear.image_shape
        self.hyperparameters = {"channels": list(channels), "kernel_size": kernel_size, "momentum": momentum}
        (C, H, W), n = linear.image_shape, len(channels)
        self._sizes = sizes = grids((H, W), n, None)
        self.mixing = nn.Parameter(torch.empty(linear.n_channels, channels[0]))
        nn.init.kaiming_normal_(self.mixing.T, nonlinearity="relu")
        # The estimate of the image enters every grid, by a product at each position.
        pixels = [C * 4**i for i in reversed(range(n))]
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
        if z.shape[0] == 0:  # whose pixels PyTorch does not put under positions
            return z.new_empty(0, *self.image_shape)
        estimate = (self._product(z, "to_image") + self.mean_image).unflatten(1, self.image_shape)
        features = self._product(z, "to_coefficients").unflatten(1, (*self._sizes[0], -1)) @ self.mixing
        for i, norm in enumerate(self.norms):
            if i > 0:
                features = self.convolutions[i - 1](features)
            side = _pixels_under(estimate, self._sizes[i], 2 ** (len(self.norms) - 1 - i))
            features = features + side.to(features.dtype) @ self.sides[i]
            # A permuted view of a channels-last array is PyTorch's channels_last: no copy.
            features = F.relu_(norm(features.permute(0, 3, 1, 2))).permute(0, 2, 3, 1)
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
