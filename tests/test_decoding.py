"""Odd, hostile and foreign image files: what is read, to which pixels, and what is refused in one sentence."""

import os
import random
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin, TiffImagePlugin

from scattergen.cli import opening
from scattergen.datasets import Dataset, ImageFolder
from scattergen.datasets.arrays import ImageArray
from scattergen.datasets.decoding import Encoded, decode, read_header
from scattergen.errors import InputError

ORIENTATION = 0x0112


def levels(height=6, width=8, channels=3):
    shape = (height, width) if channels == 1 else (height, width, channels)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def pixels_of(file, size=None):
    """Mode and pixels, (H, W) or (H, W, C), of an image file, which must have the size that its header says."""
    header = read_header(file)
    pixels = decode(file, header.mode, size)
    if size is None:
        assert pixels.shape[1:] == (header.height, header.width)
    return header.mode, pixels[0] if header.mode == "L" else pixels.transpose(1, 2, 0)


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(rows, bits, colour, width, before=(), after=()):
    """The bytes of a PNG from its rows of samples, with more chunks before and after its pixels."""
    header = struct.pack(">IIBBBBB", width, len(rows), bits, colour, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = [chunk(b"IHDR", header), *before, chunk(b"IDAT", data), *after, chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


# EXIF


def exif_bytes(entries, order=">"):
    """EXIF data of entries (tag, type, count, four bytes), however odd."""
    packed = b"".join(struct.pack(f"{order}HHI", *entry[:3]) + entry[3] for entry in entries)
    mark = b"MM\0*" if order == ">" else b"II*\0"
    return b"Exif\0\0" + mark + struct.pack(f"{order}IH", 8, len(entries)) + packed + b"\0\0\0\0"


def turned(order=">"):
    return (ORIENTATION, 3, 1, struct.pack(f"{order}HH", 6, 0))


ODD_EXIF = {
    "text where a fraction belongs": ([turned(), (0x011A, 2, 3, b"72\0\0")], ">"),
    "whole numbers for a text": ([(0x010F, 3, 1, b"\0\7\0\0"), turned()], ">"),
    "an unknown type": ([turned(), (0x0110, 99, 1, b"abcd")], ">"),
    "text of which the data hold nothing": ([(0x010E, 2, 4000, b"\0\0\xff\0"), turned()], ">"),
    "a fraction beyond the end": ([(0x011A, 5, 1, b"\0\0\xff\xff"), turned()], ">"),
    "a part that is not there": ([turned(), (0x8769, 4, 1, b"\0\xff\0\0")], ">"),
    "a part that is a text": ([turned(), (0x8825, 2, 4, b"GPS\0")], ">"),
    "little end first, negative numbers": ([(0x0100, 9, 1, b"\xff" * 4), turned("<")], "<"),
    "more numbers than one": ([turned(), (0x0128, 3, 2, b"\0\2\0\3")], ">"),
    "an orientation of 32 bits": ([(0x0128, 7, 3, b"abc\0"), (ORIENTATION, 4, 1, b"\0\0\0\6")], ">"),
}


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
@pytest.mark.parametrize("kind", ODD_EXIF)
def test_of_odd_exif_data_the_orientation_is_used(tmp_path, kind, suffix):
    file = tmp_path / f"a.{suffix}"
    # A white left half is shown above, by orientation 6; by Pillow's way to write the data, most of these fail.
    image = Image.fromarray(np.repeat(np.uint8([255, 0]), 32)[None].repeat(32, 0)).convert("RGB")
    image.save(file, exif=exif_bytes(*ODD_EXIF[kind]))
    mode, pixels = pixels_of(file)
    assert (mode, pixels.shape) == ("RGB", (64, 32, 3))
    assert pixels[:24].mean() > 240 > 15 > pixels[40:].mean()


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
@pytest.mark.parametrize(
    "data",
    [b"Exif\0\0", b"Exif\0\0nonsense", exif_bytes([turned()])[:12], exif_bytes([(ORIENTATION, 2, 2, b"6\0\0\0")]),
     exif_bytes([(ORIENTATION, 3, 1, b"\0\x63\0\0")]), exif_bytes([(ORIENTATION, 3, 1, b"\0\0\0\0")])],
    ids=["empty", "nonsense", "cut off", "text", "99", "0"],
)  # fmt: skip
def test_images_whose_exif_data_say_nothing_are_upright(tmp_path, data, suffix):
    file = tmp_path / f"a.{suffix}"
    Image.fromarray(levels(16, 32)).save(file, exif=data)
    assert pixels_of(file)[1].shape == (16, 32, 3)


@pytest.mark.parametrize("tag", [(271, 3, 7), (306, 4, 7), (700, 1, b"x"), (34665, 2, "no part"), (282, 2, "72")])
def test_tiff_files_with_odd_tags_are_upright(tmp_path, tag):
    number, kind, value = tag
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags.tagtype[number] = kind
    tags[number] = value
    tags[ORIENTATION] = 6
    Image.fromarray(levels(4, 8)).save(tmp_path / "a.tif", tiffinfo=tags)
    assert np.array_equal(pixels_of(tmp_path / "a.tif")[1], np.rot90(levels(4, 8), -1))


def test_a_png_is_turned_as_its_xmp_data_say(tmp_path):
    texts = PngImagePlugin.PngInfo()
    texts.add_itxt("XML:com.adobe.xmp", '<rdf:Description tiff:Orientation="6"/>')
    Image.fromarray(levels(4, 8)).save(tmp_path / "a.png", pnginfo=texts)
    assert np.array_equal(pixels_of(tmp_path / "a.png")[1], np.rot90(levels(4, 8), -1))


@pytest.mark.parametrize("where", ["before", "after"])
@pytest.mark.parametrize("kind", ["eXIf", "iTXt"])
def test_the_header_of_a_png_is_turned_by_what_stands_before_or_after_its_pixels(kind, where):
    xmp = b"XML:com.adobe.xmp\0\0\0\0\0" + b'<rdf:Description tiff:Orientation="6"/>'
    content = {"eXIf": exif_bytes([turned()])[6:], "iTXt": xmp}[kind]
    file = Encoded("a.png", png([b"\1\2\3"], 8, 0, 3, **{where: [chunk(kind.encode(), content)]}))
    assert read_header(file) == ("L", 1, 3)
    assert pixels_of(file)[1].tolist() == [[1], [2], [3]]


# PNG with long texts


LONG = b"x" * (3 << 20)
TEXTS = {
    "zTXt": chunk(b"zTXt", b"Comment\0\0" + zlib.compress(LONG)),
    "iTXt": chunk(b"iTXt", b"Comment\0\1\0\0\0" + zlib.compress(LONG)),
    "iCCP": chunk(b"iCCP", b"profile\0\0" + zlib.compress(os.urandom(3 << 20), 1)),
    "many": chunk(b"tEXt", b"Comment\0" + LONG) * 23,  # 69 MB
}


@pytest.mark.parametrize("where", ["before", "after"])
@pytest.mark.parametrize("kind", TEXTS)
def test_long_texts_and_profiles_of_a_png_do_no_harm(tmp_path, kind, where):
    (tmp_path / "a.png").write_bytes(png([b"\1\2", b"\3\4"], 8, 0, 2, **{where: [TEXTS[kind]]}))
    mode, pixels = pixels_of(tmp_path / "a.png")
    assert (mode, pixels.tolist()) == ("L", [[1, 2], [3, 4]])


def test_a_png_with_long_texts_is_turned_by_its_exif_data():
    exif = chunk(b"eXIf", exif_bytes([turned()])[6:])
    file = Encoded("a.png", png([b"\1\2\3"], 8, 0, 3, before=[TEXTS["zTXt"], exif]))
    assert pixels_of(file)[1].tolist() == [[1], [2], [3]]


# Grey of more than 8 bits


@pytest.mark.parametrize("white", [256, 1023, 4095, 10000, 65535])
@pytest.mark.parametrize("plain", [False, True])
def test_grey_maps_are_divided_by_their_largest_value(tmp_path, white, plain):
    values = np.array([[0, 1, white // 3], [white // 2, white - 1, white]])
    head = f"{'P2' if plain else 'P5'} 3 2 {white}\n".encode()
    text = " ".join(map(str, values.ravel())).encode()
    (tmp_path / "a.pgm").write_bytes(head + (text if plain else values.astype(">u2").tobytes()))
    mode, pixels = pixels_of(tmp_path / "a.pgm")
    assert mode == "L"
    # Pillow stretches to 65535 first: half a level of that, 1 / 514 of an 8-bit one, may turn a tie.
    assert np.abs(pixels - values * 255 / white).max() <= 0.5 + 1 / 257


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("bits", "white_is_zero"), [(16, False), (16, True), (12, False)])
def test_deep_tiff_files_are_divided_by_their_white(order, bits, white_is_zero):
    if order == ">" and (bits == 12 or white_is_zero):
        return  # which Pillow does not read
    white = 2**bits - 1
    values = np.array([0, 17, white // 2, white])  # four: two of 12 bits fill three bytes
    data = values.astype(f"{order}u2").tobytes()
    if bits == 12:
        data = bytes.fromhex("".join(f"{value:03x}" for value in values))
    tags = [(256, 4), (257, 1), (258, bits), (259, 1), (262, int(not white_is_zero)), (277, 1), (278, 1),
            (279, len(data)), (273, 8)]  # fmt: skip
    entries = b"".join(
        struct.pack(f"{order}HHII"[:4], tag, 4, 1) + struct.pack(f"{order}I", v) for tag, v in sorted(tags)
    )
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8 + len(data))
    file = Encoded("a.tif", head + data + struct.pack(f"{order}H", len(tags)) + entries + b"\0\0\0\0")
    expected = [0, round(17 * 255 / white), 127, 255]
    mode, pixels = pixels_of(file)
    assert (mode, pixels.tolist()) == ("L", [[255 - v for v in expected] if white_is_zero else expected])


# Transparency


def test_deep_grey_with_alpha_is_as_its_shallow_twin():
    grey, alpha = levels(4, 5, 1), levels(4, 5, 3)[..., 0]
    shallow = np.stack([grey, alpha], -1)
    deep = (shallow.astype(">u2") * 257).astype(">u2")
    twins = [png([row.tobytes() for row in part], bits, 4, 5) for part, bits in ((shallow, 8), (deep, 16))]
    (mode, expected), (deep_mode, found) = (pixels_of(Encoded("a.png", twin)) for twin in twins)
    assert (mode, deep_mode) == ("L", "L")
    assert np.array_equal(found, expected)


def test_deep_grey_with_alpha_is_rounded_not_cut():
    values = struct.pack(">4H", 128, 65535, 129, 65535)
    assert pixels_of(Encoded("a.png", png([values], 16, 4, 2)))[1].tolist() == [[0, 1]]


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_a_transparent_grey_is_white_at_any_depth(bits):
    values = [0, 1] * 4
    row = np.array(values, ">u2").tobytes() if bits == 16 else bytes(values)
    if bits < 8:
        row = int("".join(f"{value:0{bits}b}" for value in values), 2).to_bytes(bits)
    clear = chunk(b"tRNS", struct.pack(">H", 0))
    one = 255 if bits == 1 else round(255 / (2**bits - 1))
    file = Encoded("a.png", png([row], bits, 0, 8, before=[clear]))
    assert pixels_of(file) == ("L", pytest.approx(np.array([[255, one] * 4])))
    file = Encoded("a.png", png([row], bits, 0, 8, before=[chunk(b"tRNS", struct.pack(">H", 1))]))
    assert pixels_of(file)[1].tolist() == [[0, 255] * 4]


@pytest.mark.parametrize("bits", [8, 16])
def test_a_transparent_colour_is_white_at_any_depth(bits):
    colours = np.array([[1, 2, 3], [9, 8, 7]]) * (1 if bits == 8 else 256) + (0 if bits == 8 else 77)
    clear = chunk(b"tRNS", struct.pack(">3H", *colours[0].tolist()))
    row = colours.astype(">u2" if bits == 16 else "u1").tobytes()
    file = Encoded("a.png", png([row], bits, 2, 2, before=[clear]))
    assert pixels_of(file)[1].tolist() == [[[255, 255, 255], [9, 8, 7]]]


def bitmap(alpha):
    """A BMP of 32 bits with a mask for alpha: two pixels, of (9, 8, 7) and (1, 2, 3)."""
    head = struct.pack("<IiiHHIIiiII5I", 56, 2, 1, 1, 32, 3, 8, 0, 0, 0, 0, 0xFF0000, 0xFF00, 0xFF, 0xFF000000, 0)[:56]
    data = bytes([7, 8, 9, alpha[0], 3, 2, 1, alpha[1]])
    return b"BM" + struct.pack("<IHHI", 14 + len(head) + 8, 0, 0, 14 + len(head)) + head + data


@pytest.mark.parametrize(
    ("alpha", "expected"),
    [((0, 0), [[9, 8, 7], [1, 2, 3]]), ((255, 255), [[9, 8, 7], [1, 2, 3]]), ((0, 255), [[255] * 3, [1, 2, 3]])],
)
def test_an_alpha_channel_of_a_bitmap_that_is_all_zero_means_nothing(alpha, expected):
    assert pixels_of(Encoded("a.bmp", bitmap(alpha)))[1].tolist() == [expected]


# What read right stays as it was


def test_ordinary_files_have_the_pixels_that_pillow_gives(tmp_path):
    image = Image.fromarray(levels(30, 40))
    files = {
        "cmyk.jpg": (image.convert("CMYK"), {}), "grey.jpg": (image.convert("L"), {}),
        "progressive.jpg": (image, {"progressive": True}), "a.webp": (image, {}), "a.gif": (image.convert("P"), {}),
        "a.tif": (image, {"compression": "tiff_lzw"}), "a.bmp": (image, {}), "a.ppm": (image, {}),
        "a.png": (image.convert("1"), {}), "b.png": (image.convert("P"), {}),
    }  # fmt: skip
    for name, (picture, options) in files.items():
        picture.save(tmp_path / name, **options)
        with Image.open(tmp_path / name) as opened:
            expected = np.asarray(opened.convert(read_header(tmp_path / name).mode))
        assert np.array_equal(pixels_of(tmp_path / name)[1], expected), name


@pytest.mark.parametrize("suffix", ["png", "webp", "tif"])
def test_transparency_is_on_white_in_every_format(tmp_path, suffix):
    pixels = np.full((8, 8, 4), 100, np.uint8)
    pixels[..., 3] = np.uint8([0, 255]).repeat(4)
    Image.fromarray(pixels).save(tmp_path / f"a.{suffix}", **({"lossless": True} if suffix == "webp" else {}))
    found = pixels_of(tmp_path / f"a.{suffix}")[1]
    assert found[:, :4].min() == 255
    assert (found[:, 4:] == 100).all()


# Hostile files


def strip(path, width, height):
    Image.new("L", (width, height), 90).save(path)
    return path


@pytest.mark.parametrize(("width", "height"), [(80_000_000, 1), (1_000_000, 1), (1, 1_000_000), (300_000, 2)])
@pytest.mark.parametrize("size", [16, 128])
def test_strips_are_cut_before_they_are_resized(tmp_path, width, height, size):
    if width > 1_000_000 and size > 16:
        return  # seconds, for nothing else
    pixels = decode(strip(tmp_path / "a.png", width, height), "L", size)
    assert pixels.shape == (1, size, size)
    assert (pixels == 90).all()


def test_a_strip_that_is_cut_has_the_pixels_of_one_that_is_not(tmp_path, monkeypatch):
    Image.fromarray(levels(7, 500)).save(tmp_path / "a.png")
    whole = decode(tmp_path / "a.png", "RGB", 16).astype(int)
    monkeypatch.setattr("scattergen.datasets.decoding._RESIZED_WHOLE", 0)
    # Where pixels begin differs in the last bit of a float, so that a level may be rounded to the other side.
    assert np.abs(decode(tmp_path / "a.png", "RGB", 16) - whole).max() <= 1


HUGE = png([b""], 8, 0, 1).replace(struct.pack(">II", 1, 1), struct.pack(">II", 50_000, 50_000))
HUGE = HUGE[:29] + struct.pack(">I", zlib.crc32(HUGE[12:29])) + HUGE[33:]


def test_the_limit_of_pixels_can_be_raised_and_is_pillows_by_default(tmp_path, monkeypatch):
    file = tmp_path / "a.png"
    file.write_bytes(HUGE)
    with pytest.raises(InputError, match=r"a\.png .*50000×50000 pixels, more than 178,956,970\).*PIXELS=2500000000"):
        read_header(file)
    monkeypatch.setenv("SCATTERGEN_MAX_PIXELS", "2500000000")
    assert read_header(file).width == 50_000
    Image.fromarray(levels(20, 20)).save(file)
    monkeypatch.setenv("SCATTERGEN_MAX_PIXELS", "399")
    with pytest.raises(InputError, match=r"20×20 pixels, more than 399"):
        read_header(file)
    monkeypatch.setenv("SCATTERGEN_MAX_PIXELS", "many")
    with pytest.raises(InputError, match=r"SCATTERGEN_MAX_PIXELS=many is not a number of pixels"):
        read_header(file)
    monkeypatch.delenv("SCATTERGEN_MAX_PIXELS")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)  # a user's choice
    file.write_bytes(HUGE)
    assert read_header(file).height == 50_000


def hostile(tmp_path, kind):
    file = tmp_path / "a.png"
    Image.fromarray(levels(64, 64)).save(file)
    content = file.read_bytes()
    if kind == "pipe":
        file.unlink()
        os.mkfifo(file)
    elif kind == "folder":
        file.unlink()
        file.mkdir()
    elif kind == "progressive":
        file = tmp_path / "a.jpg"
        Image.fromarray(levels(64, 64)).save(file, progressive=True)
        content = file.read_bytes()
        file.write_bytes(content[: len(content) * 9 // 10])
    else:
        file.write_bytes({
            "empty": b"", "text": b"no picture", "checksum": content[:30] + b"\0\0" + content[32:],
            "declared": content[:16] + struct.pack(">II", 13_000, 13_000) + content[24:],
            "zeros": bytes(1000),
            "cut text": content[:33] + chunk(b"zTXt", b"Comment\0\0" + zlib.compress(LONG))[:40],
            "random": content[:33] + random.Random(0).randbytes(500),
        }[kind])  # fmt: skip
    return file


KINDS = [
    "pipe", "folder", "progressive", "empty", "text", "checksum", "declared", "zeros", "cut text", "random",
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_hostile_file_is_one_sentence_with_its_name(tmp_path, kind):
    file = hostile(tmp_path, kind)
    with pytest.raises(InputError) as caught:
        decode(file, "RGB", 16)
    message = str(caught.value)
    assert message.startswith(f"{file} cannot be read as an image (")
    assert "\n" not in message


def test_want_of_memory_names_the_file(tmp_path, monkeypatch):
    Image.fromarray(levels()).save(tmp_path / "a.png")

    def refuse(*_):
        raise MemoryError

    monkeypatch.setattr(Image.Image, "resize", refuse)
    with pytest.raises(InputError, match=r"a\.png cannot be read as an image \(there is not enough memory"):
        decode(tmp_path / "a.png", "RGB", 3)


def test_uncompressed_files_are_not_mapped(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError

    monkeypatch.setattr("mmap.mmap", refuse)
    for suffix in ("bmp", "ppm", "tif"):
        Image.fromarray(levels(16, 16, 1)).save(tmp_path / f"a.{suffix}")
        assert np.array_equal(pixels_of(tmp_path / f"a.{suffix}")[1], levels(16, 16, 1))


# Pictures that are not read


@pytest.mark.parametrize(
    ("brand", "words"), [(b"heic", "HEIC file"), (b"mif1", "HEIC file"), (b"avif", "AVIF file"), (b"avis", "AVIF file")]
)
def test_photos_of_telephones_under_another_name_are_recognised(brand, words):
    with pytest.raises(InputError, match=rf"a\.jpg .*{words}.*: convert them to JPEG or PNG"):
        read_header(Encoded("a.jpg", b"\0\0\0\x18ftyp" + brand + bytes(40)))


@pytest.mark.parametrize("suffix", [".heic", ".HEIF", ".avif", ".jxl", ".JP2", ".psd", ".dng", ".svg"])
def test_pictures_that_are_left_out_are_counted(tmp_path, suffix):
    for i in range(3):
        Image.fromarray(levels()).save(tmp_path / f"{i}.png")
        (tmp_path / f"{i + 1}{suffix}").write_bytes(b"a picture")  # two of which were converted before
    (tmp_path / "notes.txt").write_text("no picture")
    words = rf"1 of 4 pictures in .* are left out, since \{suffix.lower()} is not read, such as 3\{suffix}: convert"
    with pytest.warns(UserWarning, match=words):
        assert len(ImageFolder(tmp_path)) == 3


# Big photos


def big(width, height, n=24):
    return Dataset("photos", ImageArray(np.broadcast_to(np.uint8(0), (n, 3, height, width))))


def test_what_a_fit_to_big_photos_takes_is_said_before(tmp_path):
    with pytest.warns(UserWarning, match=r"24 images of 2000×1500 pixels are fitted whole, .* 1\.7 GB .*--size 128"):
        opening.check_sides(str(tmp_path), big(2000, 1500))
    with pytest.warns(UserWarning, match=r"images in the array smaller"):
        opening.check_sides("photos.npy", big(2000, 1500))
    opening.check_sides(str(tmp_path), big(1024, 1024))  # nothing


def test_photos_too_big_for_the_memory_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(opening, "memory", lambda: 4 << 30)
    with pytest.raises(InputError, match=r"24 images of 4000×3000 .* 6\.9 GB of memory, and this .* 4\.3 GB: .*--size"):
        opening.check_sides(str(tmp_path), big(4000, 3000))


def test_fit_says_it_before_the_work(scattergen, tmp_path):
    for i in range(4):
        Image.new("L", (1200, 1000), 60 * i).save(tmp_path / f"{i}.png")
    fit = "fit", tmp_path, "--out", tmp_path.parent / "run", "--set", "encoder.n_components=oops"
    assert "images of 1200×1000 pixels are fitted whole" in scattergen(*fit, code=2, showing_warnings=True).err
