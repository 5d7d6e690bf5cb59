"""Folders of image files: what is found, how it is decoded, and what is refused."""

import os
import struct
import tarfile
import threading
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from scattergen.datasets import ImageFolder, ImageSource, Subset, mnist, open_dataset, reading
from scattergen.errors import InputError

CELEBA = Path(__file__).resolve().parents[2] / "shared" / "data" / "celeba-half.tar"
ORIENTATION = 0x0112


def levels(height=6, width=8, channels=3, seed=0):
    shape = (height, width) if channels == 1 else (height, width, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def save(path, pixels=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(levels() if pixels is None else pixels).save(path, **options)


def only_image(root, **options):
    """The pixels of the folder's only image as (H, W, C) or (H, W) uint8."""
    images = ImageFolder(root, **options)
    assert len(images) == 1
    pixels = (images[:][0] * 255).round().byte().permute(1, 2, 0).numpy()
    return pixels[..., 0] if images.mode == "L" else pixels


# What is found


def test_images_at_any_depth_sorted_by_name_and_nothing_else(tmp_path):
    names = ["b.png", "a/z.BMP", "a/deep/er/c.gif", "a.tiff", "B.PPM"]
    for seed, name in enumerate(names):
        save(tmp_path / name, levels(seed=seed))
    for other in ["notes.txt", ".hidden.png", ".thumbs/a.png", "__MACOSX/b.png"]:
        (tmp_path / other).parent.mkdir(exist_ok=True)
        (tmp_path / other).write_text("not an image")
    with pytest.warns(UserWarning, match=r"Left out of .*: files that programs keep there: 3, such as "):
        images = ImageFolder(str(tmp_path))
    found = [file.relative_to(tmp_path).as_posix() for file in images.files]
    assert found == sorted(names)
    assert isinstance(images, ImageSource)
    assert images.labels is None
    assert images.skipped == ()


@pytest.mark.parametrize(
    ("channels", "options", "converted"),
    [((3, 3), {}, []), ((3, 1), {}, ["mode"]), ((3, 3), {"mode": "L"}, ["mode"]), ((1, 1), {"size": 4}, ["size"])],
)
def test_a_folder_tells_what_was_changed_of_its_images(tmp_path, channels, options, converted):
    for number, n in enumerate(channels):
        save(tmp_path / f"{number}.png", levels(channels=n))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a note on grey images among colour ones
        assert ImageFolder(tmp_path, **options).converted == converted


def test_links_to_folders_are_followed_once(tmp_path):
    root, elsewhere = tmp_path / "images", tmp_path / "elsewhere"
    save(root / "a.png")
    save(elsewhere / "deep" / "b.png")
    (root / "linked").symlink_to(elsewhere)
    (root / "again").symlink_to(elsewhere)
    (root / "above").symlink_to(tmp_path)
    save(root / "inside" / "c.png")
    (root / "same").symlink_to(root / "inside")
    (elsewhere / "deep" / "back").symlink_to(root)
    (elsewhere / "deep" / "self").symlink_to(elsewhere / "deep")
    names = [file.name for file in ImageFolder(root).files]
    assert sorted(names) == ["a.png", "b.png", "c.png"]


def test_the_fingerprint_of_a_part_is_that_of_its_files(tmp_path):
    for number in range(4):
        save(tmp_path / f"{number}.png", levels(seed=number))
    parts = slice(3), slice(2, 4), slice(None)
    before = [Subset(ImageFolder(tmp_path), part).fingerprint for part in parts]
    save(tmp_path / "3.png", levels(seed=4))
    images = ImageFolder(tmp_path)
    after = [Subset(images, part).fingerprint for part in parts]
    assert [a == b for a, b in zip(after, before, strict=True)] == [True, False, False]
    assert images.fingerprint == images.fingerprint_of(range(4))


@pytest.mark.parametrize("cache_bytes", [0, 1 << 30])
@pytest.mark.parametrize("channels", [1, 3])
def test_lossless_files_come_back_exactly_in_any_order(tmp_path, channels, cache_bytes):
    pixels = np.stack([levels(channels=channels, seed=seed) for seed in range(7)])
    for number, image in enumerate(pixels):
        save(tmp_path / f"{number}.png", image)
    images = ImageFolder(tmp_path, cache_bytes=cache_bytes)
    planes = pixels[:, None] if channels == 1 else pixels.transpose(0, 3, 1, 2)
    expected = torch.from_numpy(planes.copy()).float() / 255
    assert images.shape == (channels, 6, 8)
    for index in ([3, 3, -1, 0], [], list(range(7))):
        assert torch.equal(images[torch.tensor(index, dtype=torch.int64)], expected[index])
    assert torch.equal(images[::2], expected[::2])
    assert torch.equal(images[5:1:-2], expected[[5, 3]])


def test_the_cache_decodes_each_file_once(tmp_path, monkeypatch):
    for number in range(4):
        save(tmp_path / f"{number}.png")
    decoded, lock, decode = [], threading.Lock(), reading.decode

    def counting_decode(path, mode, size, crop):
        with lock:
            decoded.append(path.name)
        return decode(path, mode, size, crop)

    monkeypatch.setattr(reading, "decode", counting_decode)
    total = 4 * 3 * 6 * 8
    for cache_bytes, times in [(total + 1, 1), (total, 3)]:
        decoded.clear()
        images = ImageFolder(tmp_path, cache_bytes=cache_bytes)
        assert decoded == []
        batch = images[:2]
        batch.zero_()  # the caller's own copy
        again, whole = images[:2], images[:]
        assert torch.equal(again, whole[:2])
        assert again.max() > 0
        assert decoded.count("0.png") == times


# How it is decoded


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
def test_exif_orientation_is_applied(tmp_path, orientation, suffix):
    # A white left half: where it ends up tells the orientations 1, 2, 6, 8 (and mirrors) apart.
    pixels = np.zeros((32, 64, 3), np.uint8)
    pixels[:, :32] = 255
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    save(tmp_path / f"a{suffix}", pixels, exif=exif)
    # EXIF 2.3, tag 0x0112: the side on which the stored left edge is to be shown.
    sides = ["left", "right", "right", "left", "top", "top", "bottom", "bottom"]
    side = sides[orientation - 1]
    image = only_image(tmp_path)
    assert image.shape == ((32, 64, 3) if orientation < 5 else (64, 32, 3))
    halves = {"left": image[:, :32], "right": image[:, 32:], "top": image[:32], "bottom": image[32:]}
    # Lossy formats err by a few levels; a wrong half would be near 0.
    assert halves[side].mean() > 245


def test_transparency_is_composited_on_white(tmp_path):
    pixels = np.zeros((2, 2, 4), np.uint8)
    pixels[..., 0] = 200
    pixels[..., 3] = [[0, 255], [51, 255]]
    save(tmp_path / "a.png", pixels)
    # 51 / 255 = 0.2: red 0.2 · 200 + 0.8 · 255 = 244, green and blue 0.8 · 255 = 204.
    expected = [[[255, 255, 255], [200, 0, 0]], [[244, 204, 204], [200, 0, 0]]]
    assert only_image(tmp_path).tolist() == expected


def test_grey_with_transparency_stays_grey(tmp_path):
    save(tmp_path / "a.png", np.array([[[100, 255], [100, 0]]], np.uint8))
    assert only_image(tmp_path).tolist() == [[100, 255]]


def test_transparent_palette_colours_are_white(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putdata([0, 1])
    image.save(tmp_path / "a.png", transparency=1)
    assert only_image(tmp_path).tolist() == [[[255, 0, 0], [255, 255, 255]]]


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path):
    # 257 · v stands for the 8-bit v; 128 more is just short of the next one's rounding limit.
    deep = np.array([[0, 128, 129, 257, 257 * 100 + 128, 65535]], np.uint16)
    save(tmp_path / "a.png", deep)
    assert only_image(tmp_path).tolist() == [[0, 0, 1, 1, 100, 255]]


def test_sixteen_bit_colour_keeps_its_high_byte(tmp_path):
    def chunk(kind, content):
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    # Pillow writes no such files: one pixel of 16 bits, colour type 2, then 6, which has an alpha.
    for kind, values in ((2, [0x0102, 0x80FF, 0xFFFF]), (6, [0x0102, 0x80FF, 0xFFFF, 0xFFFF])):
        header = struct.pack(">IIBBBBB", 1, 1, 16, kind, 0, 0, 0)
        row = zlib.compress(b"\0" + struct.pack(f">{len(values)}H", *values))
        parts = chunk(b"IHDR", header) + chunk(b"IDAT", row) + chunk(b"IEND", b"")
        (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + parts)
        assert only_image(tmp_path).tolist() == [[[1, 0x80, 255]]]


def test_cmyk_and_opaque_palettes_become_rgb(tmp_path):
    image = Image.new("CMYK", (8, 8), (0, 255, 255, 0))  # magenta and yellow ink
    image.save(tmp_path / "a.jpg", quality=100)
    # JPEG of a constant errs by rounding alone, a level or two for each of the ink's conversions.
    assert np.abs(only_image(tmp_path).astype(int) - [255, 0, 0]).max() <= 4
    (tmp_path / "a.jpg").unlink()
    palette = Image.new("P", (2, 1))
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putdata([0, 1])
    palette.save(tmp_path / "a.png")
    assert only_image(tmp_path).tolist() == [[[255, 0, 0], [0, 0, 255]]]


def test_one_bit_images_are_black_and_white(tmp_path):
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "a.png")
    assert only_image(tmp_path).tolist() == [[255, 0]]


def test_mode_converts_by_luma(tmp_path):
    save(tmp_path / "a.png", np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]]], np.uint8))
    # ITU-R 601: 0.299, 0.587, 0.114 of 255.
    assert only_image(tmp_path, mode="L").tolist() == [[76, 150, 29]]
    save(tmp_path / "a.png", np.array([[7, 9]], np.uint8))
    assert only_image(tmp_path, mode="RGB").tolist() == [[[7] * 3, [9] * 3]]


def test_the_first_frame_of_an_animation_is_taken(tmp_path):
    frames = [Image.new("L", (2, 2), level) for level in (40, 200)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert only_image(tmp_path, mode="L").tolist() == [[40, 40], [40, 40]]


def test_size_crops_the_centre_without_resampling_when_it_can(tmp_path):
    for name, pixels in [("wide", levels(6, 11)), ("tall", levels(11, 6))]:
        save(tmp_path / name / "a.png", pixels)
    # (11 − 6) // 2 = 2 pixels go on the left or top, the other 3 on the right or bottom.
    wide, tall = only_image(tmp_path / "wide", size=6), only_image(tmp_path / "tall", size=6)
    assert np.array_equal(wide, levels(6, 11)[:, 2:8])
    assert np.array_equal(tall, levels(11, 6)[2:8])


def test_size_unifies_mixed_sizes_and_enlarges(tmp_path):
    for number, (height, width) in enumerate([(40, 60), (61, 37), (9, 33), (16, 16)]):
        save(tmp_path / f"{number}.png", np.full((height, width, 3), 10 * number, np.uint8))
    images = ImageFolder(tmp_path, size=16)
    assert images.shape == (3, 16, 16)
    # Resampling a constant gives the constant: bicubic weights sum to one.
    assert (images[:] * 255).round().amax(dim=(1, 2, 3)).tolist() == [0, 10, 20, 30]
    assert (images[:] * 255).round().amin(dim=(1, 2, 3)).tolist() == [0, 10, 20, 30]


# Labels and splits


def test_labels_are_the_first_level_sub_folders(tmp_path):
    for name in ["cat/x/1.png", "dog/1.png", "cat/2.png", "emu/1.png"]:
        save(tmp_path / name)
    images = ImageFolder(tmp_path)
    assert images.classes == ("cat", "dog", "emu")
    assert images.labels.tolist() == [0, 0, 1, 2]
    save(tmp_path / "stray.png")
    assert ImageFolder(tmp_path).labels is None


def test_one_sub_folder_is_no_class(tmp_path):
    save(tmp_path / "images" / "a.png")
    assert ImageFolder(tmp_path).labels is None


def test_train_and_test_folders_are_the_split(tmp_path):
    for name in ["train/a/1.png", "train/b/1.png", "train/c/1.png", "test/c/9.png", "other.png"]:
        save(tmp_path / name)
    dataset = open_dataset(tmp_path)
    assert dataset.name == tmp_path.name
    assert (len(dataset.train), len(dataset.test)) == (3, 1)
    assert dataset.test.labels.tolist() == [2]
    save(tmp_path / "test" / "d" / "1.png")
    with pytest.raises(InputError, match=r"test.d is not one of the classes a, b, c"):
        open_dataset(tmp_path)


def test_train_and_test_must_have_one_shape(tmp_path):
    save(tmp_path / "train" / "1.png", levels(8, 8))
    save(tmp_path / "test" / "1.png", levels(9, 9))
    with pytest.raises(InputError, match=r"shape \(3, 8, 8\) but test images \(3, 9, 9\)"):
        open_dataset(tmp_path)
    assert open_dataset(tmp_path, size=8).test.shape == (3, 8, 8)


def test_the_split_of_a_folder_is_fixed_and_takes_from_all_classes(tmp_path):
    names = [f"{digit}/{number:02}.png" for digit in range(3) for number in range(30)]
    for number, name in enumerate(names):
        save(tmp_path / name, np.full((2, 2), number, np.uint8))
    dataset = open_dataset(tmp_path)
    train, test = ((part[:][:, 0, 0, 0] * 255).round().int() for part in (dataset.train, dataset.test))
    assert len(test) == 9
    assert sorted(train.tolist() + test.tolist()) == list(range(90))
    assert train.tolist() == sorted(train.tolist())
    assert torch.unique(dataset.test.labels).tolist() == [0, 1, 2]
    # One more file changes the side of at most one other.
    save(tmp_path / "0" / "new.png", np.full((2, 2), 255, np.uint8))
    after = (open_dataset(tmp_path).test[:][:, 0, 0, 0] * 255).round().int()
    assert len(set(test.tolist()) ^ set(after.tolist()) - {255}) <= 1


def test_fingerprint_changes_with_files_and_settings(tmp_path):
    for name in "ab":
        save(tmp_path / f"{name}.png", levels(8, 8))
    first = ImageFolder(tmp_path).fingerprint
    assert ImageFolder(tmp_path).fingerprint == first
    prints = {first, ImageFolder(tmp_path, size=4).fingerprint}
    prints.add(ImageFolder(tmp_path, mode="L").fingerprint)
    save(tmp_path / "a.png", levels(8, 8, seed=1))
    prints.add(ImageFolder(tmp_path).fingerprint)
    (tmp_path / "b.png").rename(tmp_path / "c.png")
    prints.add(ImageFolder(tmp_path).fingerprint)
    assert len(prints) == 5


# What is refused


def broken_files(root):
    """Files that end with .png and are none, by what is wrong with them."""
    save(root / "good.png", levels(64, 64))
    content = (root / "good.png").read_bytes()
    (root / "good.png").unlink()
    corrupt = bytearray(content)
    corrupt[len(content) // 2] ^= 0xFF
    return {
        "empty": b"",
        "text": b"This is no picture at all.",
        "truncated": content[: len(content) // 2],
        "header": content[:20],
        "corrupt": bytes(corrupt),
    }


BROKEN = ["empty", "text", "truncated", "header", "corrupt"]


@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_broken_files_are_named_or_skipped(tmp_path, kind, suffix):
    bad = tmp_path / f"bad{suffix}"
    bad.write_bytes(broken_files(tmp_path)[kind])
    for name in ("a.png", "z.png"):
        save(tmp_path / name, levels(64, 64))
    with pytest.raises(InputError) as caught:
        ImageFolder(tmp_path)[:]
    message = str(caught.value)
    assert message.startswith(f"{bad} cannot be read as an image (")
    assert "strict=False" in message
    assert "\n" not in message
    dataset = open_dataset(tmp_path, strict=False)
    assert (len(dataset.train), len(dataset.test)) == (1, 1)
    assert dataset.train[:].shape == (1, 3, 64, 64)
    assert dataset.skipped == (message,)


def test_truncated_jpeg_is_named(tmp_path):
    save(tmp_path / "a.jpg", levels(64, 64))
    content = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "b.jpg").write_bytes(content[: len(content) // 2])
    images = ImageFolder(tmp_path)
    assert images[:1].shape == (1, 3, 64, 64)
    with pytest.raises(InputError, match=r"b\.jpg cannot be read as an image .*truncated"):
        images[:]


def test_only_broken_files(tmp_path):
    (tmp_path / "a.png").touch()
    with pytest.raises(InputError, match=r"None of the 1 image files .*a\.png .*file is empty"):
        ImageFolder(tmp_path, strict=False)


def test_a_file_that_vanishes_is_named(tmp_path):
    save(tmp_path / "a.png")
    images = ImageFolder(tmp_path)
    (tmp_path / "a.png").unlink()
    with pytest.raises(InputError, match=r"a\.png cannot be read as an image \(No such file"):
        images[:]


def test_a_file_that_changes_its_size_is_named(tmp_path):
    for name in "ab":
        save(tmp_path / f"{name}.png", levels(6, 8))
    images = ImageFolder(tmp_path)
    save(tmp_path / "b.png", levels(5, 7))
    with pytest.raises(InputError, match=r"b\.png decodes to 7×5 pixels, not the 8×6"):
        images[:]


def test_a_fingerprint_of_a_vanished_file_is_refused(tmp_path):
    save(tmp_path / "a.png")
    images = ImageFolder(tmp_path)
    (tmp_path / "a.png").unlink()
    with pytest.raises(InputError, match=r"a\.png .*No such file"):
        _ = images.fingerprint


def test_huge_and_32_bit_images_are_refused(tmp_path, monkeypatch):
    save(tmp_path / "a.tif", np.zeros((4, 4), np.float32))
    with pytest.raises(InputError, match=r"a\.tif cannot be read as an image \(32-bit values"):
        ImageFolder(tmp_path)[:]
    save(tmp_path / "a.tif", levels(20, 20))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(InputError, match=r"a\.tif cannot be read as an image \(it says .* 20×20 pixels, more than 200"):
        ImageFolder(tmp_path)


def test_mixed_sizes_name_the_first_two_that_differ(tmp_path):
    for name, width in [("a", 8), ("b", 8), ("c", 9), ("d", 10)]:
        save(tmp_path / f"{name}.png", levels(6, width))
    with pytest.raises(InputError, match=r"a\.png has 8×6 pixels but .*c\.png has 9×6: .*--size N"):
        ImageFolder(tmp_path)


def test_size_comparison_is_after_rotation(tmp_path):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    save(tmp_path / "a.jpg", levels(6, 8))
    save(tmp_path / "b.jpg", levels(8, 6), exif=exif)
    assert ImageFolder(tmp_path)[:].shape == (2, 3, 6, 8)
    save(tmp_path / "b.jpg", levels(6, 8), exif=exif)
    with pytest.raises(InputError, match=r"b\.jpg has 6×8"):
        ImageFolder(tmp_path)


@pytest.mark.parametrize("first_is_grey", [True, False])
def test_grey_images_among_colour_ones_become_rgb_with_a_note(tmp_path, first_is_grey):
    save(tmp_path / "a.png", levels(channels=1 if first_is_grey else 3))
    save(tmp_path / "b.png", levels(channels=3 if first_is_grey else 1))
    grey = "a" if first_is_grey else "b"
    with pytest.warns(UserWarning, match=rf"1 of 2 images are grey, such as .*{grey}\.png: .*RGB"):
        mixed = ImageFolder(tmp_path)
    asked = ImageFolder(tmp_path, mode="RGB")
    assert mixed[:].equal(asked[:])
    assert mixed.fingerprint == asked.fingerprint
    assert ImageFolder(tmp_path, mode="L")[:].shape == (2, 1, 6, 8)


@pytest.mark.parametrize("options", [{"size": 0}, {"size": -3}, {"mode": "CMYK"}])
def test_bad_options_are_named(tmp_path, options):
    save(tmp_path / "a.png")
    ((name, value),) = options.items()
    with pytest.raises(InputError, match=f"^{name}={value!r} is "):
        ImageFolder(tmp_path, **options)


def test_folders_without_images_say_what_they_hold(tmp_path):
    with pytest.raises(InputError, match=r"There are no images in .*: give a folder with JPEG"):
        open_dataset(tmp_path)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(InputError, match=r"it holds 1 other file, notes\.txt"):
        open_dataset(tmp_path)
    (tmp_path / "more.txt").touch()
    with pytest.raises(InputError, match=r"it holds 2 other files such as (notes|more)\.txt"):
        open_dataset(tmp_path)
    with pytest.raises(InputError, match="is not a folder"):
        ImageFolder(tmp_path / "notes.txt")
    with pytest.raises(InputError, match="does not exist"):
        ImageFolder(tmp_path / "nowhere")


def test_unreadable_folder_is_named(tmp_path, monkeypatch):
    # By replacing scandir, since the superuser may read everything.
    save(tmp_path / "sub" / "a.png")
    scandir = os.scandir

    def refuse(path):
        if Path(path).name == "sub":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(InputError, match=r"folder .*sub cannot be read \(Permission denied\)"):
        ImageFolder(tmp_path)


# Real data


def test_mnist_as_pngs_equals_mnist(tmp_path):
    digits = mnist().train[:20]
    for number, image in enumerate(digits):
        save(tmp_path / f"{number:02}.png", (image[0] * 255).round().byte().numpy())
    images = ImageFolder(tmp_path)
    assert images.mode == "L"
    assert torch.equal(images[:], digits)


@pytest.mark.skipif(not CELEBA.exists(), reason="needs the CelebA faces, which are not shipped")
def test_faces_are_squared(tmp_path):
    with tarfile.open(CELEBA) as archive:
        for member in archive.getmembers()[:30]:
            archive.extract(member, tmp_path, filter="data")
    dataset = open_dataset(tmp_path, size=64)
    assert (len(dataset.train), len(dataset.test)) == (27, 3)
    assert dataset.train.shape == (3, 64, 64)
    # Photographs: neither black nor white on average.
    assert 0.2 < dataset.train[:].mean() < 0.8
