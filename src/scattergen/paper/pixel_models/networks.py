"""Convolutional networks of the pixel baselines."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from scattergen.densities.networks import fully_connected
from scattergen.densities.sampling import draw_in_chunks
from scattergen.errors import InputError

Shape = tuple[int, int, int]


def convolutions(
    image_shape: Shape, channels: Sequence[int], n_outputs: int, *, seed: int, first_norm: bool
) -> nn.Sequential:
    """Convolutions that halve the grid, rounding down, and a linear layer; `channels` begin with the coarsest grid."""
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
    """A linear layer and transposed convolutions that double the grid, to the size that halving came from."""
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
    return draw_in_chunks(n, seed, lambda noise, size: network(noise.normal(size, n_inputs).float()))
