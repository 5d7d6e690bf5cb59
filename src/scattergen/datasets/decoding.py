"""Image files to 8-bit grey or RGB pixels."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, TiffImagePlugin, UnidentifiedImageError

from scattergen.errors import InputError, one_line

Mode = Literal["L", "RGB"]

# The formats of photographs and pictures. Pillow opens many more, some by running other programs.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
SUFFIXES = frozenset({
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff", ".pbm", ".pgm", ".ppm",
    ".pnm",
})  # fmt: skip
_TIFF_SIZE = (TiffImagePlugin.IMAGEWIDTH, TiffImagePlugin.IMAGELENGTH)


class Encoded(NamedTuple):
    """An image file in memory, such as a row of a table holds, and what messages call it."""

    name: str
    content: bytes

    def __str__(self) -> str:
        return self.name


File = Path | Encoded


class Header(NamedTuple):
    """What a file says of its image before it is decoded."""

    mode: Mode
    width: int
    height: int


def read_header(file: File) -> Header:
    """What an image file declares, upright by its EXIF orientation; grey with transparency counts as "L"."""
    with _opened(file) as image:
        mode: Mode = "L" if image.mode in ("1", "L", "LA", "La") or image.mode.startswith("I;16") else "RGB"
        width, height = image.size
        if isinstance(image, TiffImagePlugin.TiffImageFile):
            # Whether `size` of a TIFF is already upright depends on Pillow's version; its tags are not.
            width, height = (image.tag_v2[tag] for tag in _TIFF_SIZE)
        # Asking a PNG for EXIF data that it does not hold would decode the whole image.
        exif = image.getexif() if image.format != "PNG" or "exif" in image.info else {}
        if exif.get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8):  # which swap the axes
            width, height = height, width
    return Header(mode, width, height)


def decode(file: File, mode: Mode, size: int | None = None, crop: int | None = None) -> NDArray[np.uint8]:
    """The uint8 pixels (C, H, W) of an image file: upright, on white where transparent, the first frame if it moves.

    First `crop` cuts the central square of so many pixels; then `size` resizes the shorter side of what is left
    (bicubic, antialiased) and keeps the central square of that.
    """
    with _opened(file) as opened:
        image = _to_mode(ImageOps.exif_transpose(opened), mode)
    if crop is not None:
        check_crop(file, image.width, image.height, crop)
        image = _central_square(image, crop)
    if size is not None:
        shorter = min(image.size)
        if shorter != size:
            # At least `size` on both axes, since both sides are at least `shorter`.
            sides = round(image.width * size / shorter), round(image.height * size / shorter)
            image = image.resize(sides, Image.Resampling.BICUBIC)
        image = _central_square(image, size)
    pixels = np.asarray(image)
    return pixels[None] if mode == "L" else pixels.transpose(2, 0, 1)


def check_crop(file: File | str, width: int, height: int, crop: int) -> None:
    """Refuse an image that a central square cannot be cut from; `file` is what messages call it."""
    if min(width, height) < crop:
        raise InputError(
            f"{file} has {width}×{height} pixels, too few to cut {crop}×{crop} from: choose a smaller crop (--crop), "
            "or resize instead of cropping (--size N)."
        )


@contextmanager
def _opened(file: File) -> Iterator[Image.Image]:
    """Open an image; whatever then goes wrong with the file is an InputError that names it."""
    try:
        source = file if isinstance(file, Path) else io.BytesIO(file.content)
        with Image.open(source, formats=_FORMATS) as image:
            yield image
    # Pillow's parsers raise OSError, SyntaxError, ValueError, struct.error, … on damaged files.
    except Exception as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or one_line(error)
        if isinstance(error, UnidentifiedImageError):
            size = file.stat().st_size if isinstance(file, Path) else len(file.content)
            reason = "not an image" if size else "the file is empty"
        raise InputError(
            f"{file} cannot be read as an image ({reason}): replace or remove it, "
            "or leave such files out with strict=False (--no-strict)."
        ) from error


def _to_mode(image: Image.Image, mode: Mode) -> Image.Image:
    if image.mode in ("I", "F"):
        raise ValueError("32-bit values have no fixed white; convert it to 8 or 16 bits")
    if image.mode.startswith("I;16"):
        # Pillow's own conversion clips at 255 instead of scaling; 65535 / 255 = 257.
        values = np.asarray(image).astype(np.uint32)
        image = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(mode)


def _central_square(image: Image.Image, side: int) -> Image.Image:
    """The central pixels; of two equally central choices the left or upper one."""
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))
