"""Image tensors as pictures: pixel-exact grids as PIL images and PNG files."""

import io
import math
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from scattergen.errors import InputError
from scattergen.files import atomic_path

COMFORTABLE_SIDE = 64
"""Smaller images are enlarged by default, so that 28 x 28 digits can be seen without a magnifying glass."""


def image_grid(
    x: Tensor, columns: int | None = None, pad: int = 2, scale: int | None = None, fill: int | None = 255
) -> Image.Image:
    """Arrange images in a grid, row by row: a picture of mode "L" or "RGB"; every pixel value is kept exactly.

    Args:
        x: images in [0, 1], (N, C, H, W) with one (grey) or three (RGB) channels; values outside are clipped.
        columns: images in a row; by default the grid is as square as it can be.
        pad: gap between images, in pixels of the result; there is no outer border.
        scale: every pixel becomes a block of scale x scale; by default the longer side has at least 64 pixels.
        fill: grey value from 0 to 255 of gaps and of empty cells; None leaves them transparent (mode "LA" or "RGBA").

    Raises:
        InputError: if x is not of this form, is empty or holds NaN, or columns, pad or scale is out of range.

    Example:
        >>> image_grid(torch.zeros(6, 1, 28, 28), columns=3, pad=2, scale=1).size
        (88, 58)
    """
    pixels = _to_bytes(x)
    count, height, width, _ = pixels.shape
    columns = math.ceil(math.sqrt(count)) if columns is None else columns
    scale = -(-COMFORTABLE_SIDE // max(height, width)) if scale is None else scale
    if columns < 1 or pad < 0 or scale < 1:
        raise InputError(
            f"an image grid needs columns >= 1, pad >= 0 and scale >= 1, got columns={columns}, pad={pad}, "
            f"scale={scale}."
        )
    if fill is None:
        pixels = np.pad(pixels, ((0, 0), (0, 0), (0, 0), (0, 1)), constant_values=255)  # opaque
    pixels = pixels.repeat(scale, axis=1).repeat(scale, axis=2)
    _, height, width, channels = pixels.shape
    rows = -(-count // columns)
    canvas = np.full((rows * (height + pad) - pad, columns * (width + pad) - pad, channels), fill or 0, np.uint8)
    for index, picture in enumerate(pixels):
        top, left = (index // columns) * (height + pad), (index % columns) * (width + pad)
        canvas[top : top + height, left : left + width] = picture
    return Image.fromarray(canvas[..., 0] if channels == 1 else canvas)


def png(picture: Image.Image) -> bytes:
    """The content of a picture's PNG file."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def save_image_grid(x: Tensor, path: str | Path, columns: int | None = None, scale: int | None = None) -> Path:
    """Write a grid of images as a PNG file, atomically, in the place of an existing one, and return the path.

    Args:
        x: images in [0, 1], (N, C, H, W); see `image_grid`, as for the columns and the scale.
        path: where to write.
        columns: images in a row.
        scale: integer enlargement.

    Raises:
        InputError: as for `image_grid`.
        ScattergenError: if the file cannot be written.

    Example:
        >>> import tempfile
        >>> save_image_grid(torch.zeros(4, 1, 28, 28), Path(tempfile.mkdtemp()) / "samples.png").name
        'samples.png'
    """
    content = png(image_grid(x, columns=columns, scale=scale))
    with atomic_path(Path(path)) as temporary:
        temporary.write_bytes(content)
    return Path(path)


def _to_bytes(x: Tensor) -> NDArray[np.uint8]:
    """(N, C, H, W) in [0, 1] -> (N, H, W, C) in 0..255, rounded to nearest."""
    if x.ndim != 4 or x.shape[1] not in (1, 3) or x.numel() == 0 or not x.is_floating_point():
        raise InputError(
            "a picture needs float images of shape (N, C, H, W) with 1 or 3 channels and at least one image, got shape "
            f"{tuple(x.shape)} of {x.dtype}."
        )
    if torch.isnan(x).any():
        raise InputError("a picture cannot be made of images that hold NaN values.")
    levels = x.detach().float().clamp(0, 1).mul(255).round().to(torch.uint8)
    return np.ascontiguousarray(levels.cpu().permute(0, 2, 3, 1).numpy())
