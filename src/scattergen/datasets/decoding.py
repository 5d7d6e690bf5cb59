"""The bytes of one image file to 8-bit pixels."""

import io
import os
import stat
import struct
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile, JpegImagePlugin, TiffImagePlugin, UnidentifiedImageError

from scattergen.errors import BadImageError, InputError, one_line

Mode = Literal["L", "RGB"]

# The formats of photographs and pictures. Pillow opens many more, some by running other programs.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff",
    ".pbm", ".pgm", ".ppm", ".pnm"})  # fmt: skip
# Pictures, too, but only a converter reads them.
_FOREIGN = frozenset({
    ".heic", ".heif", ".hif", ".avif", ".jxl", ".jp2", ".j2k", ".jpf", ".jpx", ".psd", ".svg", ".tga", ".ico", ".pcx",
    ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2", ".exr", ".hdr", ".pfm",
})  # fmt: skip
MAX_PIXELS = "SCATTERGEN_MAX_PIXELS"  # an environment variable: the largest image that is decoded
_PNG = b"\x89PNG\r\n\x1a\n"
_DEEP = "16-bit grey and alpha"  # in `info` of a PNG
_RESIZED_WHOLE = 1 << 26  # pixels; of a strip that would have more, only what is kept is resized
_FLIPS = ("FLIP_LEFT_RIGHT", "ROTATE_180", "FLIP_TOP_BOTTOM", "TRANSPOSE", "ROTATE_270", "TRANSVERSE", "ROTATE_90")
_TURNS = {number: Image.Transpose[name] for number, name in enumerate(_FLIPS, 2)}  # by EXIF orientation


class _Jpeg(JpegImagePlugin.JpegImageFile):
    """A JPEG file whose EXIF data are not looked through for its resolution: they may be odd."""

    def _read_dpi_from_exif(self) -> None:
        pass


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
        mode = _mode_of(image)
        width, height = image.size
        if isinstance(image, TiffImagePlugin.TiffImageFile):
            # Whether `size` of a TIFF is already upright depends on Pillow's version; its tags are not.
            width, height = (image.tag_v2[tag] for tag in (TiffImagePlugin.IMAGEWIDTH, TiffImagePlugin.IMAGELENGTH))
        # Asking a PNG for EXIF data that it does not hold would decode the whole image. Orientations 5 to 8 swap axes.
        said = {"exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp"} & image.info.keys()
        if (image.format != "PNG" or said or _says_at_its_end(image)) and _orientation(image) in (5, 6, 7, 8):
            width, height = height, width
    return Header(mode, width, height)


def _says_at_its_end(image: Image.Image) -> bool:
    """Whether an opened PNG seems to hold EXIF or XMP data after its pixels, in its last 128 KB."""
    stream: IO[bytes] = image.fp  # type: ignore[attr-defined]
    place = stream.tell()
    stream.seek(max(place, stream.seek(0, io.SEEK_END) - (1 << 17)))
    end = stream.read()
    stream.seek(place)
    return any(word in end for word in (b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp"))


def decode(file: File, mode: Mode, size: int | None = None, crop: int | None = None) -> NDArray[np.uint8]:
    """The uint8 pixels (C, H, W) of an image file: upright, on white where transparent, the first frame if it moves.

    `crop` cuts the central square; then `size` resizes the shorter side (bicubic) and keeps the central square of that.
    """
    with _opened(file, whole=True) as opened:
        image = _upright(opened, mode)
        if crop is not None:
            check_crop(file, image.width, image.height, crop)
            image = _central_square(image, crop)
        if size is not None:
            image = _resized(image, size)
        pixels = np.asarray(image)
    return pixels[None] if mode == "L" else pixels.transpose(2, 0, 1)


def picture_pixels(image: Image.Image) -> NDArray[np.uint8]:
    """The uint8 pixels of a picture in memory, (H, W) or (H, W, 3), upright and on white as `decode` has them."""
    return np.asarray(_upright(image, _mode_of(image)))


def _mode_of(image: Image.Image) -> Mode:
    return "L" if image.mode in ("1", "L", "LA", "La") or _is_deep_grey(image) else "RGB"


def check_crop(file: File | str, width: int, height: int, crop: int) -> None:
    """Refuse an image that a central square cannot be cut from; `file` is what messages call it."""
    if min(width, height) < crop:
        remedy = "choose a smaller crop (--crop), or resize instead of cropping (--size N)"
        raise InputError(f"{file} has {width}×{height} pixels, too few to cut {crop}×{crop} from: {remedy}.")


def warn_of_foreign(root: Path, files: Sequence[Path]) -> None:
    """Say how many of a folder's files are pictures that are not read, and how to convert them."""
    read = {file.with_suffix("") for file in files if file.suffix.lower() in SUFFIXES}
    foreign = [file for file in files if file.suffix.lower() in _FOREIGN and file.with_suffix("") not in read]
    if foreign:
        first, kinds = foreign[0], ", ".join(sorted({file.suffix.lower() for file in foreign}))
        n = len(foreign) + sum(file.suffix.lower() in SUFFIXES for file in files)
        found = f"{len(foreign):,} of {n:,} pictures in {root} are left out, since {kinds} is not read"
        warnings.warn(f"{found}, such as {first.name}: {_converted(first.suffix)}.", stacklevel=5)


def _converted(suffix: str) -> str:
    return f"convert them to JPEG or PNG, as ImageMagick does by `magick mogrify -format png *{suffix}`"


@contextmanager
def _opened(file: File, whole: bool = False) -> Iterator[Image.Image]:
    """Open an image, `whole` with its pixels; whatever then goes wrong with the file is an InputError that names it."""
    try:
        if isinstance(file, Path) and not stat.S_ISREG(file.stat().st_mode):
            raise ValueError("no regular file")  # a pipe would be waited for
        with open(file, "rb") if isinstance(file, Path) else io.BytesIO(file.content) as stream:
            try:
                image = _identified(file, stream, whole)
            except ValueError:  # as of a PNG whose texts or colour profile are longer than Pillow allows
                stream.seek(0)
                if stream.read(8) != _PNG:
                    raise
                image = _identified(file, io.BytesIO(_without_texts(stream)), whole)
            yield image
    except InputError:
        raise
    # Pillow's parsers raise OSError, SyntaxError, ValueError, struct.error, … on damaged files.
    except Exception as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or one_line(error)
        if isinstance(error, MemoryError):
            reason = "there is not enough memory for it"
        remedy = "replace or remove it, or leave such files out with strict=False (--no-strict)"
        raise BadImageError(f"{file} cannot be read as an image ({reason}): {remedy}.") from error


def _identified(file: File, stream: IO[bytes], whole: bool) -> ImageFile.ImageFile:
    """What `Image.open` gives, with our limit of pixels, and not mapped: if a mapped file shrinks, the process ends."""
    prefix = stream.read(16)
    for name in _FORMATS:
        if name not in Image.OPEN:
            Image.init()
        factory, accepts = Image.OPEN[name]
        if accepts is None or accepts(prefix) is True:
            stream.seek(0)
            try:
                image = (_Jpeg if name == "JPEG" else factory)(stream, "")
            except (SyntaxError, IndexError, TypeError, struct.error) as error:
                raise UnidentifiedImageError(f"not an image, or a damaged {name}: {one_line(error)}") from error
            _check_pixels(file, *image.size)
            _mend_png(image)
            if whole:
                image.load()
            return image
    reason = "not an image" if prefix else "the file is empty"
    if prefix[4:8] == b"ftyp":
        suffix = ".avif" if prefix[8:11] == b"avi" else ".heic"
        reason = f"it is a {suffix[1:].upper()} file, or a film, whatever its name: {_converted(suffix)}"
    raise UnidentifiedImageError(reason)


def _check_pixels(file: File, width: int, height: int) -> None:
    """Refuse more pixels than the environment, or by default Pillow, allows, before they take any memory."""
    told = os.environ.get(MAX_PIXELS, "")
    if told and not told.isdecimal():
        raise InputError(f"{MAX_PIXELS}={told} is not a number of pixels: give one, such as 1000000000.")
    # Pillow warns of its limit and refuses twice as many.
    most = int(told) if told else 2 * (Image.MAX_IMAGE_PIXELS or width * height)
    if width * height > most:
        problem = f"{file} cannot be read as an image (it says that it has {width}×{height} pixels, more than {most:,})"
        remedy = f"if that is so, set the environment variable {MAX_PIXELS}={width * height}; if not"
        raise InputError(f"{problem}: {remedy}, replace or remove it, or use strict=False (--no-strict).")


def _without_texts(stream: IO[bytes]) -> bytes:
    """A PNG, of which the first bytes have been read, without its texts and colour profile, which are not needed."""
    kept = [_PNG]
    while head := stream.read(8):  # the length of what comes, and its kind
        content = stream.read(int.from_bytes(head[:4], "big") + 4)
        if head[4:] not in (b"tEXt", b"zTXt", b"iTXt", b"iCCP"):
            kept += [head, content]
    return b"".join(kept)


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, whatever else is in the EXIF data; 1 if there is none."""
    try:
        exif = image.info.get("exif", b"").removeprefix(b"Exif\0\0")
        order = {b"II": "<", b"MM": ">"}.get(exif[:2])
        if order and (found := _orientation_in(exif, order)):
            return found
        # A TIFF's tags; what a PNG has as XMP data or in a text.
        value = image.getexif().get(ExifTags.Base.Orientation)
        return int(value) if value in _TURNS else 1
    except Exception:  # Pillow's parser raises what it likes, and a photograph without EXIF data is one
        return 1


def _orientation_in(exif: bytes, order: str) -> int | None:
    """The orientation among the first entries of EXIF data, where it is a whole number."""
    (start,) = struct.unpack_from(f"{order}I", exif, 4)
    (entries,) = struct.unpack_from(f"{order}H", exif, start)
    for place in range(start + 2, start + 2 + 12 * entries, 12):
        tag, kind = struct.unpack_from(f"{order}HH", exif, place)
        if tag == ExifTags.Base.Orientation and kind in (3, 4):
            return int(struct.unpack_from(order + " HI"[kind - 2], exif, place + 8)[0])
    return None


def _mend_png(image: ImageFile.ImageFile) -> None:
    """Before a PNG's pixels are read: both bytes of grey with alpha, and the transparent colour in Pillow's scale."""
    raw, clear = image.tile[0][3] if image.format == "PNG" and image.tile else None, image.info.get("transparency")
    if raw == "LA;16B" and image.mode == "RGBA":  # of which Pillow would take the high bytes; now it takes all four
        image.tile = [image.tile[0]._replace(args="RGBA")]
        image.info[_DEEP] = True
    elif raw in ("L;2", "L;4") and isinstance(clear, int):
        image.info["transparency"] = clear * (85 if raw == "L;2" else 17)
    elif raw == "RGB;16B" and clear is not None:
        image.info["transparency"] = tuple(value >> 8 for value in clear)


def _is_deep_grey(image: Image.Image) -> bool:
    """Whether an image is grey of more than 8 bits; Pillow has that of a PGM as 32 bits, stretched to 65535."""
    return image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM") or _DEEP in image.info


def _upright(image: Image.Image, mode: Mode) -> Image.Image:
    """An image in a mode, on white where it is transparent, and turned by its EXIF orientation."""
    turn = _TURNS.get(_orientation(image))
    if _is_deep_grey(image):
        image = _shallow(image)
    if image.mode in ("I", "F"):
        raise ValueError("32-bit values have no fixed white; convert it to 8 or 16 bits")
    if image.format in ("BMP", "DIB") and image.mode == "RGBA" and image.getchannel("A").getextrema() == (0, 0):
        image = image.convert("RGB")  # programs that know no alpha leave it zero
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert(mode)
    return image if turn is None else image.transpose(turn)


def _shallow(image: Image.Image) -> Image.Image:
    """Grey of more than 8 bits, divided so that white is 255, with its transparency; Pillow would clip it at 255."""
    values, white, clear = np.asarray(image).astype(np.uint32), 65535, image.info.get("transparency")
    alpha = None if clear is None else np.where(values == clear, 0, 255)
    if _DEEP in image.info:
        values = values[..., 0::2] * 256 + values[..., 1::2]
        values, alpha = values[..., 0], (values[..., 1] + 128) // 257
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        white = 2 ** image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (16,))[0] - 1
        if image.tag_v2.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0:  # white is zero
            values = white - values
    grey = Image.fromarray(((values * 255 + white // 2) // white).astype(np.uint8))
    return grey if alpha is None else Image.merge("LA", (grey, Image.fromarray(alpha.astype(np.uint8))))


def _resized(image: Image.Image, size: int) -> Image.Image:
    """The shorter side resized to `size`, and the central square of that."""
    shorter = min(image.size)
    if shorter != size:
        # At least `size` on both axes, since both sides are at least `shorter`.
        width, height = (round(side * size / shorter) for side in image.size)
        if width * height > _RESIZED_WHOLE:
            x, y = image.width / width, image.height / height  # pixels that become one
            left, top = (width - size) // 2, (height - size) // 2
            box = (left * x, top * y, min((left + size) * x, image.width), min((top + size) * y, image.height))
            return image.resize((size, size), Image.Resampling.BICUBIC, box)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    return _central_square(image, size)


def _central_square(image: Image.Image, side: int) -> Image.Image:
    """The central pixels; of two equally central choices the left or upper one."""
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))
