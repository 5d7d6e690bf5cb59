"""Convolutions of upsampled grids, which mix channels before they upsample."""

from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from scattergen.calls.state import usual_state
from scattergen.errors import InputError
from scattergen.scattering.transform import compiled_kernels, is_plain

_PART_BYTES = 2_500_000  # of what lies between the upsampling of rows and that of columns
_MOST_WEIGHTS = 2**18  # which each thread reads for each part of its images
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


@lru_cache
def _kernel() -> Any:
    if compiled_kernels() is None:
        return None
    from scattergen.decoder import upsampling_kernel

    return upsampling_kernel


Terms = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.floating]]  # where each sum starts, offsets, weights


@lru_cache
@usual_state()
def _terms(size: int, outputs: int, kernel_size: int, number: torch.dtype, steps: tuple[int, int]) -> Terms:
    """What `tap_matrices` sum for each output, of numbers so many steps apart by position and by tap."""
    taps = tap_matrices(size, outputs, kernel_size).to(number).permute(1, 2, 0).numpy()
    output, position, tap = np.nonzero(taps)
    start = np.searchsorted(output, np.arange(outputs + 1))
    return start, position * steps[0] + tap * steps[1], taps[output, position, tap]


@lru_cache
@usual_state()
def _gradient_terms(size: int, outputs: int, kernel_size: int, number: torch.dtype, step: int) -> Terms:
    """What their transposes sum for each position and tap, of numbers so many steps apart by output."""
    taps = tap_matrices(size, outputs, kernel_size).to(number).permute(2, 0, 1).flatten(0, 1).numpy()
    position, output = np.nonzero(taps)
    return np.searchsorted(position, np.arange(len(taps) + 1)), output * step, taps[position, output]


class _ConvolutionBySums(torch.autograd.Function):
    """Mix channels for all taps at once, then upsample by a kernel that skips the zeros of the matrices."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, output_size: tuple[int, int]) -> Tensor:
        n, h, w, _ = x.shape
        out, _, k, _ = weight.shape
        # Detached, as other threads would record what they do for gradients.
        x, taps = x.detach().contiguous(), weight.detach().permute(1, 2, 3, 0).contiguous()
        ctx.save_for_backward(x, taps)
        rows = _terms(h, output_size[0], k, x.dtype, (w * k * k * out, k * out))
        columns = _terms(w, output_size[1], k, x.dtype, (k * out, out))
        result = x.new_empty(n, *output_size, out)
        _kernel().convolve(x, taps, result, rows, columns)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        x, taps = ctx.saved_tensors
        _, h, w, _ = x.shape
        _, H, W, out = gradient.shape
        k = taps.shape[1]
        rows = _gradient_terms(h, H, k, x.dtype, w * k * out)
        columns = _gradient_terms(w, W, k, x.dtype, out)
        gradient = gradient.detach().contiguous()
        x_gradient, taps_gradient = _kernel().gradients(x, taps, gradient, rows, columns)
        return x_gradient, taps_gradient.permute(3, 0, 1, 2), None


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
        # Not len(x), which a program for any number of images would take for a number of its own.
        return torch.bmm(taps.expand(x.shape[0], *taps.shape), x.mT)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        x, taps = ctx.saved_tensors
        # Channels last, as whatever made the features wants their gradient; autograd's would have them first.
        return torch.bmm(gradient.mT, taps.expand(x.shape[0], *taps.shape)), torch.bmm(gradient, x).sum(0)


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
        if self._skips_zeros(x):
            return _ConvolutionBySums.apply(x, self.weight, (rows.shape[1], columns.shape[0]))
        return _UpsampledConvolution.apply(x, self.weight, rows, columns)

    def _skips_zeros(self, x: Tensor) -> bool:
        """Whether the kernel can take x, and is worth it."""
        weight, sizes = self.weight, (self.rows.shape[2], self.columns.shape[1] // self.weight.shape[2])
        return (
            self.training  # models in use would take longer to import the compiler than to decode some hundred images
            and x.device.type == "cpu"
            and x.dtype in (torch.float32, torch.float64)
            and x.dtype == weight.dtype
            and x.shape[1:] == (*sizes, weight.shape[1])
            and len(x) >= torch.get_num_threads()
            and weight.numel() <= _MOST_WEIGHTS
            and is_plain(x)
            and is_plain(weight)
            and _kernel() is not None
        )
