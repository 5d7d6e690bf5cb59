"""Angles & Mallat's convolutional generator, from whitened codes to images, and what it shares with other decoders."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scattergen.decoder.upsampled_convolution import UpsampledConv2d
from scattergen.errors import InputError
from scattergen.files.tensors import check_shapes


class CodeDecoder(nn.Module):
    """A network from codes (N, d) to images (N, C, H, W) in or near [-1, 1]."""

    n_components: int  # d
    image_shape: tuple[int, int, int]  # (C, H, W)
    hyperparameters: dict[str, Any]  # for JSON

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self.parameters()).device

    def decode(self, z: Tensor) -> Tensor:
        """Images in [0, 1], (N, C, H, W), of codes (N, d), in evaluation mode and without gradients."""
        was_training = self.training
        self.eval()
        try:
            with torch.no_grad():
                return self(z).add_(1).mul_(0.5).clamp_(0, 1)
        finally:
            self.train(was_training)

    def check_codes(self, z: Tensor) -> None:
        """Refuse codes that are not (N, d)."""
        if z.ndim != 2 or z.shape[1] != self.n_components:
            problem = f"Expected codes of shape (N, {self.n_components}) but got {tuple(z.shape)}"
            raise InputError(f"{problem}: use codes that this model's encoder made.")

    def check_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Refuse stored tensors that are not those of this decoder, by a `RunFolderError`."""
        check_shapes("decoder", tensors, {name: tuple(tensor.shape) for name, tensor in self.state_dict().items()})

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As of every module, but a state of another decoder is a `RunFolderError`."""
        self.check_state(state_dict)
        return super().load_state_dict(state_dict, strict, assign)


class Decoder(CodeDecoder):
    r"""Generator of Angles & Mallat, from a code to an image.

    A linear layer without bias makes a small grid of `channels[0]` features; each block upsamples the grid bilinearly
    by two, pads it by reflection and convolves it; a last convolution makes the image. Batch normalisation follows
    every layer, then a ReLU, or tanh after the last one (Angles, Mallat, "Generative networks as inverse problems with
    scattering transforms", 2018). An `InputError` if an argument is out of range or the grid too small for the filters.

    Args:
        n_components, image_shape: Dimension d of the codes, and (C, H, W).
        channels: Features of the start grid and of each upsampling block, e.g. (128, 64, 32).
        kernel_size: Side of the filters: 3 (the founding paper's MNIST), 5 (Angles & Mallat 2019) or 7 (2018).
        start_grid: Size (h, w) of the first grid; by default the image's halved, rounding up, once per block. From
            another one the grids double, but for the last, which is the image's.
        unit_norm: Divide codes by their Euclidean norm first, as in the 2018 generator.
        initialization: "kaiming" filters and N(0, 0.01) in the first layer, which trains fastest, or "normal", the
            original N(0, 0.02) everywhere.
        momentum: Of the running statistics of the batch normalisation, in PyTorch's sense.

    Example:
        >>> decoder = Decoder(512, (1, 28, 28), channels=(128, 64, 32))
        >>> decoder.start_grid, decoder(torch.randn(2, 512)).shape
        ((7, 7), torch.Size([2, 1, 28, 28]))
    """

    def __init__(
        self, n_components: int, image_shape: tuple[int, int, int], channels: Sequence[int] = (128, 64, 32),
        kernel_size: int = 3, start_grid: Sequence[int] | None = None, unit_norm: bool = False,
        initialization: str = "kaiming", momentum: float = 0.1,
    ) -> None:  # fmt: skip
        super().__init__()
        check_layers(channels, kernel_size, momentum)
        if initialization not in ("kaiming", "normal"):
            raise InputError(f'initialization="{initialization}": choose "kaiming" or "normal".')
        C, H, W = image_shape
        sizes = grids((H, W), len(channels), start_grid)
        self.n_components, self.image_shape = n_components, (C, H, W)
        self.start_grid, self.unit_norm = sizes[0], unit_norm
        self.hyperparameters = {
            "n_components": n_components, "image_shape": [C, H, W],
            "channels": list(channels), "kernel_size": kernel_size, "start_grid": list(sizes[0]),
            "unit_norm": unit_norm, "initialization": initialization, "momentum": momentum,
        }  # fmt: skip
        # (d, features), not nn.Linear's transpose: a bfloat16 gradient would be copied by columns.
        self.linear = nn.Parameter(torch.empty(n_components, sizes[0][0] * sizes[0][1] * channels[0]))
        widths, ends = (*channels, C), (*sizes, sizes[-1])
        self.convolutions = nn.ModuleList(
            UpsampledConv2d(widths[i], widths[i + 1], kernel_size, ends[i], ends[i + 1]) for i in range(len(channels))
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(width, eps=1e-3, momentum=momentum) for width in widths)
        # Batch normalisation makes the scale of these weights irrelevant to the images, not to the training: the
        # smaller they are, the sooner Adam's steps, of a fixed size, turn them.
        nn.init.normal_(self.linear, 0.0, 0.02 if initialization == "normal" else 0.01)
        if initialization == "normal":
            for convolution in self.convolutions:
                nn.init.normal_(convolution.weight, 0.0, 0.02)  # type: ignore[arg-type]
            for norm in self.norms:
                nn.init.normal_(norm.weight, 1.0, 0.02)  # type: ignore[arg-type]

    def forward(self, z: Tensor) -> Tensor:
        """Images in [-1, 1], the tanh's range, (N, C, H, W), of codes (N, d) in their precision."""
        self.check_codes(z)
        if self.unit_norm:
            z = F.normalize(z, dim=1)
        features = self._first_layer(z).unflatten(1, (*self.start_grid, -1))  # channels last
        for norm, convolution in zip(self.norms, self.convolutions, strict=False):
            # A permuted view of a channels-last array is PyTorch's channels_last: no copy.
            features = convolution(F.relu_(norm(features.permute(0, 3, 1, 2))).permute(0, 2, 3, 1))
        return torch.tanh(self.norms[-1](features.permute(0, 3, 1, 2)).to(z.dtype))

    def _first_layer(self, z: Tensor) -> Tensor:
        """The first grid's features, (N, h·w·channels)."""
        # A CPU multiplies the few codes of a training's batch up to 1.6 times as fast if both matrices are transposed.
        # Models in use compute alike in batches of all sizes.
        on_cpu = z.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
        if self.training and on_cpu and not torch.compiler.is_compiling() and 16 <= len(z) <= 128:
            return (self.linear.T @ z.T).T.contiguous()
        return z @ self.linear


def check_layers(channels: Sequence[int], kernel_size: int, momentum: float) -> None:
    """Refuse widths, filters and momenta that no decoder can have."""
    if len(channels) < 1 or min(channels) < 1:
        raise InputError(f"channels={tuple(channels)}: give one positive width per grid.")
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise InputError(f"kernel_size={kernel_size}: choose an odd number, such as 3 or 5.")
    if not 0 < momentum <= 1:
        raise InputError(f"momentum={momentum}: choose a weight above 0 and at most 1.")


def grids(size: tuple[int, int], n_grids: int, start: Sequence[int] | None) -> list[tuple[int, int]]:
    """Sizes (h, w) of the grids of a decoder, from the start, or the image's halved once per block, to the image."""
    H, W = size
    if start is None:
        return [(-(-H >> i), -(-W >> i)) for i in reversed(range(n_grids))]  # rounded up
    if len(start) != 2 or not all(1 <= side <= full for side, full in zip(start, size, strict=True)):
        remedy = f"give a height and a width of at least 1 and at most the image's {H}x{W}"
        raise InputError(f"start_grid={tuple(start)}: {remedy}.")
    if n_grids == 1 and tuple(start) != size:
        problem = f"start_grid={tuple(start)} with one width in `channels` leaves no block to reach {H}x{W} pixels"
        raise InputError(f"{problem}: give more channels.")
    return [*((min(start[0] << i, H), min(start[1] << i, W)) for i in range(n_grids - 1)), size]
