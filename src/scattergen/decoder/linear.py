"""Least squares from codes: linear estimates of the image and of its scattering coefficients."""

import math
from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor

from scattergen.datasets import ImageSource
from scattergen.encoder.scattering_encoder import ScatteringEncoder
from scattergen.errors import InputError
from scattergen.progress import SILENT, Progress
from scattergen.tensor_files import check_shapes

_MOST_IMAGES = 20_000  # more change least squares of at most a few hundred components no more
_BATCH_FLOATS = 1 << 24


class LinearDecoder:
    r"""Images from codes by least squares, the baseline of every decoder.

    $\hat x(z) = \bar x + W^\top (z - \bar z)$ with W minimising $\sum_i \lVert x_i - \hat x(z_i) \rVert^2$ over the
    training images. It also keeps the linear estimate of the scattering coefficients that whitening leaves, on their
    grid of positions and reduced to the leading principal components of the channels: what a code says of each place.

    Args:
        n_components: Dimension d of the codes.
        image_shape: (C, H, W).
        grid: Positions (h, w) of the coefficients.
        n_channels: Coefficients kept at each position.

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
        self,
        codes: Tensor,
        images: ImageSource | Tensor,
        mirrored: Tensor | None = None,
        *,
        n: int | None = None,
        progress: Progress = SILENT,
    ) -> Self:
        """Fit the linear map to images and their codes, up to 20,000 of them, evenly spread.

        Args:
            codes: (N, d).
            images: The N images.
            mirrored: Codes of the mirrored images, (N, d), which then count as much.
            n: Use the first n images only; all by default.
            progress: Where to report.

        Raises:
            InputError: If the numbers of codes and images differ.
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

    @property
    def hyperparameters(self) -> dict[str, int | list[int]]:
        """Keywords of the constructor."""
        return {
            "n_components": self.n_components, "image_shape": list(self.image_shape),
            "grid": list(self.grid), "n_channels": self.n_channels,
        }  # fmt: skip

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Become the fitted decoder that `state_dict` was taken from; others' tensors are a `RunFolderError`."""
        check_shapes("linear decoder", tensors, self._shapes())
        self.mean, self.weight = tensors["mean"].float(), tensors["weight"].float()
        self.coefficients = tensors["coefficients"].float()
