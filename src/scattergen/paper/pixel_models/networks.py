"""Convolutional networks of the pixel baselines, and the images that they are trained on."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from scattergen.datasets import ImageSource, as_images
from scattergen.densities.networks import count_parameters, fully_connected
from scattergen.densities.protocol import take_tensor
from scattergen.densities.sampling import Noise, draw_in_chunks
from scattergen.errors import InputError
from scattergen.training.loop import Batch

Shape = tuple[int, int, int]
AnyImages = ImageSource | Tensor | NDArray[Any]


class Images:
    """Images, a source or (N, C, H, W) in [0, 1], as examples for `training.train`."""

    def __init__(self, images: AnyImages) -> None:
        self._images = as_images(images)
        channels, height, width = self._images.shape[-3:]
        self.shape: Shape = (channels, height, width)
        if len(self) < 2:  # which batch normalisation needs
            raise InputError(f"{len(self)} images are too few: at least 2 are needed.")

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: Tensor) -> Batch:
        return (self._images[index],)


def check_channels(channels: Sequence[int]) -> tuple[int, ...]:
    """Widths of the grids of features as a tuple; refuses none and what is not positive."""
    if len(channels) == 0 or min(channels) < 1:
        raise InputError(f"channels={list(channels)}: give one positive width per grid.")
    return tuple(channels)


def convolutions(
    image_shape: Shape, channels: Sequence[int], n_outputs: int, *, seed: int, first_norm: bool
) -> nn.Sequential:
    """An image (N, C, H, W) to numbers (N, n_outputs): convolutions of stride 2 and a linear layer.

    Each convolution, of 4×4 pixels, halves the grid, rounding down; batch normalisation, which DCGAN's discriminator
    leaves out in the first one, and a leaky ReLU of slope 0.2 follow. `channels` are of the grids, the coarsest first.
    """
    height, width = _grids(image_shape, len(channels))[0]
    widths = [image_shape[0], *reversed(channels)]
    layers: list[nn.Module] = []
    for i in range(len(channels)):
        normed = i > 0 or first_norm
        layers.append(nn.utils.skip_init(nn.Conv2d, widths[i], widths[i + 1], 4, stride=2, padding=1, bias=not normed))
        if normed:
            layers.append(nn.BatchNorm2d(widths[i + 1]))
        layers.append(nn.LeakyReLU(0.2))
    _initialize(layers, 2 * seed)
    last = fully_connected([channels[0] * height * width, n_outputs], seed=2 * seed + 1)
    return nn.Sequential(*layers, nn.Flatten(), *last)


def transposed_convolutions(n_inputs: int, image_shape: Shape, channels: Sequence[int], *, seed: int) -> nn.Sequential:
    """Numbers (N, n_inputs) to an image (N, C, H, W): a linear layer and transposed convolutions of stride 2.

    Each of these, of 4×4 pixels, doubles the grid, to the size that halving came from; batch normalisation and a ReLU
    stand before it. Nothing follows the last one.
    """
    grids = _grids(image_shape, len(channels))
    height, width = grids[0]
    first = nn.utils.skip_init(nn.Linear, n_inputs, channels[0] * height * width, bias=False)
    layers: list[nn.Module] = [first, nn.Unflatten(1, (channels[0], height, width))]
    widths = [*channels, image_shape[0]]
    for i in range(len(channels)):
        odd = (grids[i + 1][0] % 2, grids[i + 1][1] % 2)
        layers += [nn.BatchNorm2d(widths[i]), nn.ReLU(), nn.utils.skip_init(
            nn.ConvTranspose2d, widths[i], widths[i + 1], 4, stride=2, padding=1,
            output_padding=odd, bias=i == len(channels) - 1,
        )]  # fmt: skip
    _initialize(layers, seed)
    return nn.Sequential(*layers)


def _grids(image_shape: Shape, n: int) -> list[tuple[int, int]]:
    """Sizes from the coarsest of n grids of features to the image."""
    _, height, width = image_shape
    if min(height, width) < 2**n:
        raise InputError(
            f"Images of {height}x{width} pixels are too small to be halved {n} times: give fewer "
            "channels (grids) or larger images."
        )
    return [(height >> i, width >> i) for i in range(n, -1, -1)]


def _initialize(layers: Sequence[nn.Module], seed: int) -> None:
    """DCGAN's N(0, 0.02²) weights, without the global random state."""
    generator = torch.Generator().manual_seed(seed)
    for layer in layers:
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.normal_(layer.weight, 0.0, 0.02, generator=generator)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def draw_images(n: int, seed: int, network: nn.Module, n_inputs: int) -> Tensor:
    """What a network makes of standard normal noise, in evaluation mode; image k depends on it, `seed` and k only."""
    network = copy.deepcopy(network).cpu().eval()

    def draw(noise: Noise, size: int) -> Tensor:
        return network(noise.normal(size, n_inputs).float())

    return draw_in_chunks(n, seed, draw)


def check_fitted(model: object) -> None:
    """Refuse to use a baseline that has not been fitted."""
    if not hasattr(model, "image_shape_"):
        raise InputError(f"This {type(model).__name__} has not been fitted: call fit(images) or load a fitted one.")


def take_shape(tensors: Mapping[str, Tensor]) -> Shape:
    """The shape (C, H, W) of the images that a state is of."""
    channels, height, width = take_tensor(tensors, "image_shape", (3,)).tolist()
    return channels, height, width


def in_words(image_shape: Shape, *networks: nn.Module) -> str:
    """Size of the images and of the networks, for a description."""
    return f"; {'×'.join(map(str, image_shape))} images; {count_parameters(*networks):,} parameters"
