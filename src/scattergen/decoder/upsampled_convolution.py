"""Convolution of an upsampled image, computed without ever making the upsampled image."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# With fewer mixed channels than this, products per tap and per row are too narrow to run fast.
_NARROW = 16


def tap_matrices(size: int, output_size: int, kernel_size: int) -> Tensor:
    """Matrices (taps, output_size, size) that upsample an axis, pad it by reflection and shift it by each tap."""
    impulses = torch.eye(size)[None]  # one signal per input position
    responses = F.interpolate(impulses, size=output_size, mode="linear", align_corners=False)
    radius = kernel_size // 2
    padded = F.pad(responses, (radius, radius), mode="reflect")[0]
    return padded.T.unfold(0, output_size, 1).transpose(1, 2).contiguous()


class _UpsampledConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        batch, h, w, channels = x.shape
        out, _, k, _ = weight.shape
        H, W = rows.shape[1], columns.shape[0]
        taps = weight.permute(2, 1, 3, 0).reshape(k, channels, k * out).to(x.dtype)
        ctx.save_for_backward(x, taps, rows, columns)
        ctx.weight_dtype = weight.dtype
        pixels = x.reshape(-1, channels)
        tall = x.new_empty(batch, H, w * k * out)
        for a in range(k):
            mixed = (pixels @ taps[a]).view(batch, h, w * k * out)
            shift = rows[a].expand(batch, H, h)
            torch.baddbmm(tall, shift, mixed, beta=0 if a == 0 else 1, out=tall)
        spread = columns.expand(batch * H, W, w * k)
        return torch.bmm(spread, tall.view(batch * H, w * k, out)).view(batch, H, W, out)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        x, taps, rows, columns = ctx.saved_tensors
        batch, h, w, channels = x.shape
        k, out = taps.shape[0], taps.shape[2] // taps.shape[0]
        H, W = rows.shape[1], columns.shape[0]
        gather = columns.T.contiguous().expand(batch * H, w * k, W)
        tall = torch.bmm(gather, gradient.reshape(batch * H, W, out)).view(batch, H, w * k * out)
        pixels = x.reshape(-1, channels)
        x_gradient = torch.empty_like(pixels)
        taps_gradient = taps.new_empty(taps.shape, dtype=ctx.weight_dtype)
        for a in range(k):
            shift = rows[a].T.contiguous().expand(batch, h, H)
            mixed = torch.bmm(shift, tall).view(-1, k * out)
            torch.addmm(x_gradient, mixed, taps[a].T, beta=0 if a == 0 else 1, out=x_gradient)
            taps_gradient[a] = pixels.T @ mixed
        weight_gradient = taps_gradient.view(k, channels, k, out).permute(3, 1, 0, 2)
        return x_gradient.view_as(x), weight_gradient, None, None


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


class UpsampledConv2d(nn.Module):
    r"""Bilinear upsampling, reflection padding and a convolution without bias, (N, h, w, in) -> (N, H, W, out).

    Equal to `conv2d(pad(interpolate(x, output_size), k // 2, "reflect"), weight)` with `align_corners=False` and odd k.
    Upsampling, padding and shifts act on positions, the weights on channels. The two commute, so the channels are mixed
    where there are fewer pixels: Σ_ab R_a (x W_ab) C_bᵀ, with R_a the matrix that upsamples, pads and shifts rows by
    tap a, and C_b the same for columns.
    """

    rows: Tensor
    columns: Tensor

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, size: tuple[int, int], output_size: tuple[int, int]
    ) -> None:
        super().__init__()
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
        # Reflection padding of bfloat16 images with trailing channels is slow on CPUs.
        if not self.upsamples and (kind != "cpu" or dtype != torch.bfloat16):
            padded = F.pad(x.permute(0, 3, 1, 2), (k // 2,) * 4, mode="reflect")
            in_order = padded.contiguous(memory_format=torch.channels_last)
            return F.conv2d(in_order, self.weight.to(dtype)).permute(0, 2, 3, 1)
        if self.weight.shape[0] * k < _NARROW:
            return _narrow_convolution(x, self.weight, rows, columns)
        return _UpsampledConvolution.apply(x, self.weight, rows, columns)
