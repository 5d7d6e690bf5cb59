"""Angles & Mallat's convolutional generator, from whitened codes to images, and what it shares with other decoders."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

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


_PART_BYTES = 2_500_000  # of what lies between the upsampling of rows and that of columns
_NARROW = 16  # with fewer mixed channels, products per tap and per row are too narrow to run fast


def tap_matrices(size: int, output_size: int, kernel_size: int) -> Tensor:
    """Matrices (taps, output_size, size) that upsample an axis, pad it by reflection and shift it by each tap."""
    impulses = torch.eye(size)[None]  # one signal per input position
    responses = F.interpolate(impulses, size=output_size, mode="linear", align_corners=False)
    padded = F.pad(responses, (kernel_size // 2,) * 2, mode="reflect")[0]
    return padded.T.unfold(0, output_size, 1).transpose(1, 2).contiguous()


def _parts(x: Tensor, n_numbers: int) -> list[slice]:
    """Parts of a batch of which so many numbers for each example stay in the cache of a CPU; all at once elsewhere."""
    if x.device.type != "cpu" or torch.compiler.is_compiling() or len(x) == 0:  # a program for batches of any size
        return [slice(None)]
    n_parts = min(len(x), -(-len(x) * n_numbers * x.element_size() // _PART_BYTES))
    size = -(-len(x) // n_parts)
    return [slice(start, start + size) for start in range(0, len(x), size)]


def _upsampled(x: Tensor, taps: Tensor, rows: Tensor, columns: Tensor, to: Tensor | None = None) -> Tensor:
    """Mix channels for each tap, upsample rows, then columns, perhaps to a place that is there."""
    n, h, w, channels = x.shape
    k, out = taps.shape[0], taps.shape[2] // taps.shape[0]
    H, W = rows.shape[1], columns.shape[0]
    pixels, tall = x.reshape(-1, channels), x.new_empty(n, H, w * k * out)
    for a in range(k):
        mixed = (pixels @ taps[a]).view(n, h, w * k * out)
        torch.baddbmm(tall, rows[a].expand(n, H, h), mixed, beta=0 if a == 0 else 1, out=tall)
    spread, to = columns.expand(n * H, W, w * k), None if to is None else to.view(n * H, W, out)
    return torch.bmm(spread, tall.view(n * H, w * k, out), out=to).view(n, H, W, out)


class _UpsampledConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        out, channels, k, _ = weight.shape
        H, W = rows.shape[1], columns.shape[0]
        taps = weight.permute(2, 1, 3, 0).reshape(k, channels, k * out).to(x.dtype)
        ctx.save_for_backward(x, taps, rows, columns)
        ctx.weight_dtype = weight.dtype
        parts = _parts(x, H * x.shape[2] * k * out)
        if len(parts) == 1:
            return _upsampled(x, taps, rows, columns)
        result = x.new_empty(len(x), H, W, out)
        for part in parts:
            _upsampled(x[part], taps, rows, columns, result[part])
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        x, taps, rows, columns = ctx.saved_tensors
        _, h, w, channels = x.shape
        k, out = taps.shape[0], taps.shape[2] // taps.shape[0]
        H, W = rows.shape[1], columns.shape[0]
        x_gradient = x.new_empty(x.shape)
        taps_gradient = taps.new_zeros(taps.shape, dtype=ctx.weight_dtype)
        gather, lifts = columns.T.contiguous(), [matrix.T.contiguous() for matrix in rows]
        for part in _parts(x, H * w * k * out):
            pixels, n = x[part].reshape(-1, channels), len(x[part])
            wide = gradient[part].reshape(n * H, W, out)
            tall = torch.bmm(gather.expand(n * H, w * k, W), wide).view(n, H, w * k * out)
            ours = x_gradient[part].view(-1, channels)
            for a in range(k):
                mixed = torch.bmm(lifts[a].expand(n, h, H), tall).view(-1, k * out)
                torch.addmm(ours, mixed, taps[a].T, beta=0 if a == 0 else 1, out=ours)
                taps_gradient[a] += pixels.T @ mixed
        weight_gradient = taps_gradient.view(k, channels, k, out).permute(3, 1, 0, 2)
        return x_gradient, weight_gradient, None, None


def _narrow_convolution(x: Tensor, weight: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """The same for few output channels: all taps in one product, rows and columns after."""
    batch, h, w, channels = x.shape
    out, _, k, _ = weight.shape
    taps = weight.permute(1, 2, 0, 3).reshape(channels, k * out * k).to(x.dtype)
    mixed = (x.reshape(-1, channels) @ taps).view(batch, h, w, k, out, k)
    stacked = mixed.permute(0, 4, 3, 1, 2, 5).reshape(batch * out, k * h, w * k)
    rows = rows.permute(1, 0, 2).flatten(1)  # (H, k·h)
    tall = torch.bmm(rows.expand(batch * out, *rows.shape), stacked)
    return (tall @ columns.T).unflatten(0, (batch, out)).permute(0, 2, 3, 1)


class _Planes(torch.autograd.Function):
    """One plane of pixels for each tap, (B, taps, pixels), of features (B, pixels, channels) and (taps, channels)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, taps: Tensor) -> Tensor:
        ctx.save_for_backward(x, taps)
        return torch.bmm(taps.expand(len(x), *taps.shape), x.mT)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        x, taps = ctx.saved_tensors
        # Channels last, as whatever made the features wants their gradient; autograd's would have them first.
        return torch.bmm(gradient.mT, taps.expand(len(x), *taps.shape)), torch.bmm(gradient, x).sum(0)


def _thin_convolution(x: Tensor, weight: Tensor) -> Tensor:
    """Padding by reflection and convolution for fewer taps of all outputs than channels: mixed first, then shifted."""
    batch, h, w, channels = x.shape
    k = weight.shape[2]
    taps = weight.flip(2, 3).permute(0, 2, 3, 1).reshape(-1, channels)
    planes = _Planes.apply(x.reshape(batch, h * w, channels), taps).unflatten(2, (h, w))
    padded = F.pad(planes, (k // 2,) * 4, mode="reflect").flatten(2)
    return F.fold(padded, (h, w), k, padding=k - 1).permute(0, 2, 3, 1)


class UpsampledConv2d(nn.Module):
    r"""Bilinear upsampling, reflection padding and a convolution without bias, (N, h, w, in) -> (N, H, W, out).

    Equal to `conv2d(pad(interpolate(x, output_size), k // 2, "reflect"), weight)` with `align_corners=False` and odd k.
    Positions and channels commute, so the channels are mixed where there are fewer pixels: Σ_ab R_a (x W_ab) C_bᵀ, with
    R_a the matrix that upsamples, pads and shifts rows by tap a, and C_b the same for columns.
    """

    rows: Tensor
    columns: Tensor

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, size: tuple[int, int], output_size: tuple[int, int]
    ) -> None:
        super().__init__()
        if min(output_size) <= kernel_size // 2:
            problem = f"Filters of side {kernel_size} do not fit a grid of {min(output_size)} pixels"
            raise InputError(f"{problem}: use fewer channels (blocks), smaller filters or larger images.")
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, kernel_size, kernel_size))
        nn.init.kaiming_normal_(self.weight, nonlinearity="relu")
        self.upsamples = tuple(size) != tuple(output_size)
        # (k, W, w) -> (W, w·k): one product sums over positions and taps.
        columns = tap_matrices(size[1], output_size[1], kernel_size).permute(1, 2, 0).flatten(1)
        self.register_buffer("rows", tap_matrices(size[0], output_size[0], kernel_size), persistent=False)
        self.register_buffer("columns", columns.contiguous(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Upsample, pad and convolve; runs in bfloat16 or float16 under autocast."""
        kind, k = x.device.type, self.weight.shape[2]
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        x, rows, columns = x.to(dtype), self.rows.to(dtype), self.columns.to(dtype)
        # Then PyTorch's convolution takes up to twice as long on CPUs, mostly for its gradients.
        thin = self.weight[:, 0].numel() < x.shape[3] and dtype in (torch.float32, torch.float64)
        if thin and not self.upsamples and kind == "cpu":
            return _thin_convolution(x, self.weight.to(dtype))
        # Reflection padding of bfloat16 images with trailing channels is slow on CPUs.
        if not self.upsamples and (kind != "cpu" or dtype != torch.bfloat16):
            padded = F.pad(x.permute(0, 3, 1, 2), (k // 2,) * 4, mode="reflect")
            in_order = padded.contiguous(memory_format=torch.channels_last)
            return F.conv2d(in_order, self.weight.to(dtype)).permute(0, 2, 3, 1)
        if self.weight.shape[0] * k < _NARROW:
            return _narrow_convolution(x, self.weight, rows, columns)
        return _UpsampledConvolution.apply(x, self.weight, rows, columns)
