"""Convolutional networks of the pixel baselines."""

import copy
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from scattergen.densities.networks import fully_connected
from scattergen.densities.sampling import Noise, draw_in_chunks
from scattergen.errors import InputError

Shape = tuple[int, int, int]


def convolutions(
    image_shape: Shape, channels: Sequence[int], n_outputs: int, *, seed: int, first_norm: bool
) -> nn.Sequential:
    """Convolutions that halve the grid, rounding down, and a linear layer; `channels` begin with the coarsest grid."""
    height, width = _grids(image_shape, len(channels))[0]
    layers: list[nn.Module] = []
    for i, (fan_in, fan_out) in enumerate(pairwise([image_shape[0], *reversed(channels)])):
        normed = i > 0 or first_norm
        layers.append(nn.utils.skip_init(nn.Conv2d, fan_in, fan_out, 4, stride=2, padding=1, bias=not normed))
        layers += [nn.BatchNorm2d(fan_out), nn.LeakyReLU(0.2)] if normed else [nn.LeakyReLU(0.2)]
    _initialize(layers, 2 * seed)
    last = fully_connected([channels[0] * height * width, n_outputs], seed=2 * seed + 1)
    return nn.Sequential(*layers, nn.Flatten(), *last)


def transposed_convolutions(n_inputs: int, image_shape: Shape, channels: Sequence[int], *, seed: int) -> nn.Sequential:
    """A linear layer and transposed convolutions that double the grid, to the size that halving came from."""
    (height, width), *finer = _grids(image_shape, len(channels))
    first = nn.utils.skip_init(nn.Linear, n_inputs, channels[0] * height * width, bias=False)
    layers: list[nn.Module] = [first, nn.Unflatten(1, (channels[0], height, width))]
    for (fan_in, fan_out), (rows, columns) in zip(pairwise([*channels, image_shape[0]]), finer, strict=True):
        layers += [nn.BatchNorm2d(fan_in), nn.ReLU(), nn.utils.skip_init(
            nn.ConvTranspose2d, fan_in, fan_out, 4, stride=2, padding=1, output_padding=(rows % 2, columns % 2),
            bias=(rows, columns) == image_shape[1:],
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


def draw_images(n: int, seed: int, network: nn.Module, latent: Callable[[Noise, int], Tensor]) -> Tensor:
    """What a network makes of latent variables, in evaluation mode; image k depends on them, it, `seed` and k only."""
    network = copy.deepcopy(network).cpu().eval()
    return draw_in_chunks(n, seed, lambda noise, size: network(latent(noise, size).float()))
