"""Convolutional networks of the pixel baselines, and the images that they are trained on."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from scattergen.datasets import ImageSource, as_images
from scattergen.densities.networks import fully_connected
from scattergen.densities.protocol import take_tensor
from scattergen.densities.sampling import Noise, draw_in_chunks
from scattergen.errors import InputError
from scattergen.training.loop import Batch

Shape = tuple[int, int, int]


class Images:
    """Images as examples for `training.train`.

    Args:
        images: A source, or images (N, C, H, W) in [0, 1].
        minimum: Smallest usable N.

    Attributes:
        shape: (C, H, W).

    Raises:
        InputError: If they are no images or too few.

    Example:
        >>> data = Images(torch.zeros(4, 1, 8, 8))
        >>> data.shape, data[torch.tensor([0, 2])][0].shape
        ((1, 8, 8), torch.Size([2, 1, 8, 8]))
    """

    def __init__(
        self, images: ImageSource | Tensor | NDArray[Any], *, minimum: int = 2
    ) -> None:  # batch normalisation needs two images
        self._images = as_images(images)
        shape = self._images.shape[-3:]
        self.shape: Shape = (shape[0], shape[1], shape[2])
        if len(self) < minimum:
            raise InputError(f"{len(self)} images are too few: at least {minimum} are needed.")

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: Tensor) -> Batch:
        return (self._images[index],)


def check_channels(channels: Sequence[int]) -> tuple[int, ...]:
    """Widths of the grids of features as a tuple.

    Args:
        channels: Given by the user.

    Returns:
        The widths.

    Raises:
        InputError: If there is none or one is not positive.
    """
    if len(channels) == 0 or min(channels) < 1:
        raise InputError(f"channels={list(channels)}: give one positive width per grid.")
    return tuple(channels)


def convolutions(
    image_shape: Shape, channels: Sequence[int], n_outputs: int, *, seed: int, first_norm: bool
) -> nn.Sequential:
    """An image to numbers: convolutions of stride 2 and a linear layer.

    Each convolution, of 4×4 pixels, halves the grid, rounding down; batch normalisation and a leaky
    ReLU of slope 0.2 follow.

    Args:
        image_shape: (C, H, W).
        channels: Features of the grids, the coarsest first, as in `transposed_convolutions`.
        n_outputs: Number of outputs.
        seed: Of the initial weights.
        first_norm: Whether the first convolution is normalised; DCGAN's discriminator does not.

    Returns:
        The network, (N, C, H, W) -> (N, n_outputs).

    Raises:
        InputError: If the images are too small for so many grids.

    Example:
        >>> network = convolutions((1, 28, 28), (16, 8), 3, seed=0, first_norm=True)
        >>> network(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 3])
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
    """Numbers to an image: a linear layer and transposed convolutions of stride 2.

    Each of these, of 4×4 pixels, doubles the grid, to the size that halving came from; batch
    normalisation and a ReLU stand before it.  Nothing follows the last one.

    Args:
        n_inputs: Number of inputs.
        image_shape: (C, H, W).
        channels: Features of the grids, the coarsest first.
        seed: Of the initial weights.

    Returns:
        The network, (N, n_inputs) -> (N, C, H, W).

    Raises:
        InputError: If the images are too small for so many grids.

    Example:
        >>> network = transposed_convolutions(5, (3, 30, 19), (16, 8), seed=0)
        >>> network(torch.zeros(2, 5)).shape
        torch.Size([2, 3, 30, 19])
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
    """Images of standard normal noise; image k depends on the network, `seed` and k only.

    Args:
        n: Number of images.
        seed: 0 or more.
        network: (N, n_inputs) -> (N, C, H, W), on any device, whose mode is left alone.
        n_inputs: Number of noise variables.

    Returns:
        What the network makes of them, in evaluation mode, (n, C, H, W), float32.
    """
    network = copy.deepcopy(network).cpu().eval()

    def draw(noise: Noise, size: int) -> Tensor:
        return network(noise.normal(size, n_inputs).float())

    return draw_in_chunks(n, seed, draw)


def check_fitted(model: object) -> None:
    """Refuse to use a baseline that has not been fitted.

    Args:
        model: Any of them.

    Raises:
        InputError: If it has neither been fitted nor loaded.
    """
    if not hasattr(model, "image_shape_"):
        raise InputError(f"This {type(model).__name__} has not been fitted: call fit(images) or load a fitted one.")


def shape_state(image_shape: Shape) -> dict[str, Tensor]:
    """The shape of the images as a part of a state.

    Args:
        image_shape: (C, H, W).

    Returns:
        "image_shape" to three numbers.
    """
    return {"image_shape": torch.tensor(image_shape)}


def take_shape(tensors: Mapping[str, Tensor]) -> Shape:
    """The shape that `shape_state` stored.

    Args:
        tensors: A state that holds it.

    Returns:
        (C, H, W).

    Raises:
        RunFolderError: If it is missing.
    """
    channels, height, width = take_tensor(tensors, "image_shape", (3,)).tolist()
    return channels, height, width


def size_of(image_shape: Shape) -> str:
    """The shape in words.

    Args:
        image_shape: (C, H, W).

    Returns:
        Such as "1×28×28".
    """
    return "×".join(map(str, image_shape))
