"""Image files to 8-bit grey or RGB pixels."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, TiffImagePlugin, UnidentifiedImageError

from scattergen.errors import InputError

Mode = Literal["L", "RGB"]

# The formats of photographs and pictures. Pillow opens many more, some by running other programs.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
# fmt: off
SUFFIXES = frozenset({
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff",
    ".pbm", ".pgm", ".ppm", ".pnm",
})
# fmt: on
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
    """The mode and size, upright, that an image file declares.

    Args:
        file: where it is, or what is in it.

    Returns:
        "L" for grey images (with or without transparency), "RGB" for all others, and the size in
        pixels after the EXIF rotation.

    Raises:
        InputError: if the file cannot be read or is not an image.
    """
    with _opened(file) as image:
        mode: Mode = "L" if image.mode in ("1", "L", "LA", "La") or _is_16_bit(image) else "RGB"
        width, height = image.size
        if isinstance(image, TiffImagePlugin.TiffImageFile):
            # Whether `size` of a TIFF is already upright depends on Pillow's version; its tags are
            # not.
            width, height = (image.tag_v2[tag] for tag in _TIFF_SIZE)
        # Asking a PNG for EXIF data that it does not hold would decode the whole image.
        if image.format != "PNG" or "exif" in image.info:
            # Orientations 5 to 8 swap the axes.
            turned = image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
            width, height = (height, width) if turned else (width, height)
    return Header(mode, width, height)


def decode(file: File, mode: Mode, size: int | None = None, crop: int | None = None) -> NDArray[np.uint8]:
    """The pixels of an image file.

    The image is turned upright by its EXIF orientation; transparency is composited on white; 16-bit
    grey is rounded to 8 bits; of an animation the first frame is taken. Then `crop` keeps the
    central square of its own pixels, and then `size` resizes the shorter side of what is left
    (bicubic, antialiased) and keeps the central square of that.

    Args:
        file: where it is, or what is in it.
        mode: "L" (grey, by the ITU-R 601 luma) or "RGB".
        size: side of the square result in pixels, or None to keep the size.
        crop: side of the central square in pixels of the file, or None for the whole image.

    Returns:
        uint8 pixels, shape (1, H, W) or (3, H, W).

    Raises:
        InputError: if the file cannot be read, is truncated, is not an 8- or 16-bit image, or is
            smaller than the crop.
    """
    with _opened(file) as opened:
        image = _to_mode(ImageOps.exif_transpose(opened), mode)
    if crop is not None:
        check_crop(file, image.width, image.height, crop)
        image = _central_square(image, crop)
    if size is not None:
        image = _resize_and_crop(image, size)
    pixels = np.asarray(image)
    return pixels[None] if mode == "L" else pixels.transpose(2, 0, 1)


def check_crop(file: File | str, width: int, height: int, crop: int) -> None:
    """Refuse an image that a central square cannot be cut from.

    Args:
        file: of the image, or what messages call it.
        width: of the image, upright, in pixels.
        height: likewise.
        crop: side of the square in pixels.

    Raises:
        InputError: if the image is smaller.
    """
    if min(width, height) < crop:
        raise InputError(
            f"{file} has {width}×{height} pixels, too few to cut {crop}×{crop} from: choose a "
            "smaller crop (--crop), or resize instead of cropping (--size N)."
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
        raise InputError(
            f"{file} cannot be read as an image ({_reason(file, error)}): replace or remove it, "
            "or leave such files out with strict=False (--no-strict)."
        ) from error


def _reason(file: File, error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        size = file.stat().st_size if isinstance(file, Path) else len(file.content)
        return "not an image" if size else "the file is empty"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__


def _is_16_bit(image: Image.Image) -> bool:
    return image.mode.startswith("I;16")


def _to_mode(image: Image.Image, mode: Mode) -> Image.Image:
    if image.mode in ("I", "F"):
        raise ValueError("32-bit values have no fixed white; convert it to 8 or 16 bits")
    if _is_16_bit(image):
        # Pillow's own conversion clips at 255 instead of scaling; 65535 / 255 = 257.
        values = np.asarray(image).astype(np.uint32)
        image = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(mode)


def _resize_and_crop(image: Image.Image, size: int) -> Image.Image:
    width, height = image.size
    shorter = min(width, height)
    if shorter != size:
        # At least `size` on both axes, since both sides are at least `shorter`.
        width, height = round(width * size / shorter), round(height * size / shorter)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    return _central_square(image, size)


def _central_square(image: Image.Image, side: int) -> Image.Image:
    """The central pixels; of two equally central choices the left or upper one."""
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))
