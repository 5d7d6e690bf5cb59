"""Central crops, CelebA's layout and presets, and `scattergen reproduce celeba`."""

import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import scattergen as sg
from scattergen.cli.arguments import READING, Reading
from scattergen.cli.opening import open_of_run
from scattergen.datasets import ImageFolder, celeba, open_dataset
from scattergen.datasets.reading import decode
from scattergen.errors import InputError
from scattergen.paper import fit_command, reproduce_run
from scattergen.paper import reproduce as orchestration
from scattergen.paper.density_samples import DECODED, REAL, RECONSTRUCTED
from scattergen.report import paper
from scattergen.runs import RunFolder
from scattergen.stages.options import check_options
from scattergen.stages.presets import preset
from test_report import Checker
from test_reproduction import TINY

FACES = Path(__file__).parents[2] / "shared" / "data" / "celeba-half.tar"
HALF, FULL = (89, 109), (178, 218)
OPTIONS = {
    "encoder.n_components": "20",
    "decoder.channels": "[8,8,8,4,4]",
    "training.epochs": "1",
    "densities.vae.epochs": "2",
    "densities.vae.widths": "[16]",
    "densities.gan.epochs": "2",
    "densities.gan.widths": "[16]",
}


def draw_faces(folder, n, size=HALF, mode="RGB", first=0):
    """JPEGs of smooth random colours, named like CelebA's."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng([n, first])
    for number in range(first, first + n):
        pixels = random.integers(0, 256, (7, 5, 3), dtype=np.uint8)
        image = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).convert(mode)
        image.save(folder / f"{number + 1:06}.jpg")
    return folder


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """160 images in the layout of CelebA at half resolution, 20 of them for tests."""
    return draw_faces(tmp_path_factory.mktemp("celeba"), 160)


@pytest.fixture(scope="module")
def fitted_faces(scattergen, faces, tmp_path_factory):
    """A small run with the preset; not to be changed but for its reproduction."""
    run = tmp_path_factory.mktemp("runs") / "celeba"
    options = [word for name, value in OPTIONS.items() for word in ("--set", f"{name}={value}")]
    scattergen("fit", faces, "--preset", "celeba", "--out", run, "-q", *options)
    return run


def numbered(width, height):
    """An image in which every pixel says where it is."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows, columns, rows + columns], axis=2).astype(np.uint8)


@pytest.mark.parametrize(("width", "height", "left", "top"), [(12, 9, 4, 2), (9, 12, 2, 4)])
def test_a_crop_keeps_the_central_pixels_as_they_are(tmp_path, width, height, left, top):
    pixels = numbered(width, height)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    images = ImageFolder(tmp_path, crop=4)
    assert images.shape == (3, 4, 4)
    central = pixels[top : top + 4, left : left + 4].transpose(2, 0, 1)
    assert torch.equal(images[:][0], torch.from_numpy(central).float() / 255)


def test_a_crop_is_of_the_upright_image_and_comes_before_the_size(tmp_path):
    pixels = numbered(40, 20)
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90° clockwise
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    upright = np.rot90(pixels, -1)  # 20 wide, 40 high
    found = decode(tmp_path / "a.png", "RGB", crop=16)
    np.testing.assert_array_equal(found, upright[12:28, 2:18].transpose(2, 0, 1))
    square = Image.fromarray(np.ascontiguousarray(upright[12:28, 2:18]))
    smaller = np.asarray(square.resize((8, 8), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    np.testing.assert_array_equal(decode(tmp_path / "a.png", "RGB", 8, 16), smaller)
    assert ImageFolder(tmp_path, crop=16, size=8).shape == (3, 8, 8)


def test_cropped_images_are_other_images(tmp_path):
    Image.fromarray(numbered(12, 9)).save(tmp_path / "a.png")
    plain, other, cropped = (ImageFolder(tmp_path, crop=crop) for crop in (None, 4, 8))
    assert len({images.fingerprint for images in (plain, other, cropped)}) == 3


def test_images_of_any_size_can_be_cropped_unless_they_are_smaller(tmp_path):
    Image.fromarray(numbered(12, 9)).save(tmp_path / "a.png")
    Image.fromarray(numbered(8, 15)).save(tmp_path / "b.png")
    assert ImageFolder(tmp_path, crop=8)[:].shape == (2, 3, 8, 8)
    with pytest.raises(InputError, match=r"b\.png has 8×15 pixels, too few to cut 9×9 from"):
        ImageFolder(tmp_path, crop=9)
    with pytest.raises(InputError, match="crop=0 is not a number of pixels"):
        ImageFolder(tmp_path, crop=0)


def test_only_folders_are_cropped(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((4, 12, 12), np.uint8))
    for source in ("mnist", tmp_path / "x.npy"):
        with pytest.raises(InputError, match="only files of images are cropped: leave --crop out"):
            open_dataset(source, crop=8)


def test_commands_crop_as_the_run_did(scattergen, tmp_path):
    for part, n, first in (("train", 60, 0), ("test", 4, 60)):
        draw_faces(tmp_path / "data" / part, n, (30, 26), first=first)
    run, data, out = tmp_path / "run", tmp_path / "data", tmp_path / "codes.npz"
    small = ("encoder.n_components=16", "decoder.channels=[8,4]", "training.epochs=1")
    options = [word for option in small for word in ("--set", option)]
    fit = ["fit", data, "--out", run, "-q", "--densities", "gaussian", *options]
    scattergen(*fit, "--crop", 24)
    assert RunFolder.open(run).options["data"]["crop"] == 24
    scattergen("encode", run, data, "--part", "train", "--out", out, "-q")
    stored = RunFolder.open(run).read("codes")[0]["codes"].numpy()
    with np.load(out) as arrays:
        np.testing.assert_array_equal(arrays["codes"], stored)
    # Another crop makes other images, which do not have the run's shape or are not its images.
    scattergen("encode", run, data, "--crop", 20, "--part", "train", "--out", out, "-q")
    with np.load(out) as arrays:
        assert not np.allclose(arrays["codes"], stored, atol=0.1)
    error = scattergen(*fit, "--crop", 22, code=2).err
    assert "data.crop=24 there, 22 now" in error


@pytest.mark.parametrize(("size", "side"), [(HALF, 64), (FULL, 128)])
def test_the_layout_of_celeba(tmp_path, size, side):
    folder = draw_faces(tmp_path / "img_align_celeba", 17, size)
    faces = celeba(tmp_path)
    assert (faces.name, len(faces.train), len(faces.test)) == ("celeba", 15, 2)
    assert faces.train.shape == (3, side, side)
    assert faces.crop == side
    pixels = np.array(Image.open(folder / "000017.jpg"))  # the last by name
    left, top = (size[0] - side) // 2, (size[1] - side) // 2
    central = pixels[top : top + side, left : left + side].transpose(2, 0, 1)
    assert torch.equal(faces.test[1:][0], torch.from_numpy(central).float() / 255)
    half = celeba(folder, size=side // 2)
    assert half.test.shape == (3, side // 2, side // 2)
    assert celeba(folder, size=side).train.fingerprint == faces.train.fingerprint


def test_of_enough_images_the_papers_numbers_are_taken(tmp_path, monkeypatch):
    module = sys.modules[celeba.__module__]
    monkeypatch.setattr(module, "N_TRAIN", 6)
    monkeypatch.setattr(module, "N_TEST", 3)
    draw_faces(tmp_path, 10)
    faces, every = celeba(tmp_path), ImageFolder(tmp_path, crop=64)
    assert torch.equal(faces.train[:], every[:6])
    assert torch.equal(faces.test[:], every[-3:])


def test_folders_that_are_not_celeba(tmp_path):
    with pytest.raises(InputError, match="has 90×109 pixels, but CelebA's aligned images have"):
        celeba(draw_faces(tmp_path / "size", 8, (90, 109)))
    with pytest.raises(InputError, match="is grey, but CelebA is in colour"):
        celeba(draw_faces(tmp_path / "grey", 8, mode="L"))
    with pytest.raises(InputError, match="holds 7 images, too few"):
        celeba(draw_faces(tmp_path / "few", 7))
    mixed = draw_faces(tmp_path / "mixed", 8)
    draw_faces(mixed, 1, FULL, first=8)
    with pytest.raises(InputError, match="different sizes, such as 89×109 and 178×218"):
        celeba(mixed)
    broken = draw_faces(tmp_path / "broken", 9)
    (broken / "000001.jpg").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"000001\.jpg cannot be read"):
        celeba(broken)
    assert len(celeba(broken, strict=False).skipped) == 1


def test_the_presets_are_complete_options():
    full, half = (preset("celeba", (3, side, side), 65_536) for side in (128, 64))
    check_options(half, (3, 64, 64), 7000)
    for options in (full, half):
        assert options["encoder"]["n_components"] == 512
        assert options["densities"]["vae"]["beta"] == paper.CELEBA.beta
        for key, (epochs, _) in paper.CELEBA.training.items():
            assert options["densities"][key]["epochs"] == epochs
    assert full["encoder"]["J"] == 4
    # Angles & Mallat, c = 32: 32·c channels at 4×4, then 16c, 8c, 4c, 2c, c up to 128×128.
    assert full["decoder"]["channels"] == [32 * c for c in (32, 16, 8, 4, 2, 1)]
    assert full["decoder"]["kernel_size"] == 7
    with pytest.raises(InputError, match="for images of 3×128×128 or 3×64×64, not of 1×28×28"):
        preset("celeba", (1, 28, 28), 60_000)


def test_the_preset_opens_its_own_images(scattergen, faces, tmp_path):
    fit = ["--preset", "celeba", "--out", tmp_path / "run", "-q"]
    for option in (("--crop", 60), ("--mode", "L")):
        assert "leave out --crop and --mode" in scattergen("fit", faces, *fit, *option, code=2).err
    assert "not for mnist: name the folder" in scattergen("fit", "mnist", *fit, code=2).err
    assert not (tmp_path / "run").exists()


def test_the_light_preset_decodes_in_processes_and_is_opened_again(scattergen, faces, tmp_path):
    run = tmp_path / "run"
    small = {"encoder.n_components": 8, "decoder.channels": "[8,8,8,4,4]", "training.epochs": 1}
    options = [word for name, value in small.items() for word in ("--set", f"{name}={value}")]
    fit = ["fit", faces, "--preset", "celeba-light", "--out", run, "--densities", "gaussian", "-q"]
    scattergen(*fit, *options, "--workers", 1)
    assert "nothing to do" in scattergen(*fit, *options).out  # threads make the same images
    opened = open_of_run(run, str(faces), READING)
    assert opened.train.fingerprint == celeba(faces).train.fingerprint


@pytest.fixture(scope="module")
def reproduced(fitted_faces, faces):
    return reproduce_run(fitted_faces, celeba(faces), name="celeba", effort=TINY)


def test_the_page_says_that_it_is_a_proxy(reproduced):
    page = Checker(reproduced.page.read_text(encoding="utf-8")).text
    assert "It is a proxy, not the paper’s setting: faces of half the resolution" in page
    for row in ("128×128 64×64", "65,536 140", "8,192 (Angles and Mallat) 20", "4 3", "512 20"):
        assert row in page
    assert "1024, 512, 256, 128, 64, 32 channels, 7×7 filters 8, 8, 8, 4, 4 channels" in page


def test_celebas_numbers_stand_beside_ours(reproduced):
    page = Checker(reproduced.page.read_text(encoding="utf-8")).text
    for words in ("the paper ? 46 19 51 24", "vae (Table 2) 0.0025 0.0025 2 96", "2 38", "17 min"):
        assert words in page
    assert "27 h 45 min" in page
    assert "41 12" not in page
    items = [found.item for found in reproduced.findings]
    expected = ["Figure 1", "Table 1", "Figure 3", "Tables 2 and 3", "Angles and Mallat, 2018"]
    assert [item for item in items if item in expected] == expected


def test_decoded_samples_are_compared_with_decoded_test_images(reproduced):
    run = RunFolder.open(reproduced.page.parent)
    references = run.read("paper/quick-density_samples")[1]["facts"]["references"]
    assert references.keys() == {REAL, DECODED, RECONSTRUCTED}
    # One epoch of eight channels makes no images: only what is decoded too is anywhere near.
    assert abs(references[DECODED]) < 0.1 * references[RECONSTRUCTED]


def test_again_nothing_is_computed(reproduced, fitted_faces, faces, scattergen, monkeypatch):
    monkeypatch.setattr("scattergen.paper.QUICK", TINY)
    command = ["reproduce", "celeba", "--images", faces, "--run", fitted_faces, "--quick", "-q"]
    before = {p: p.stat().st_mtime_ns for p in (fitted_faces / "paper").iterdir()}
    stages = RunFolder.open(fitted_faces).names("paper")
    assert {*stages} == {f"quick-{name}" for name in orchestration.CELEBA_STAGES}
    assert len(before) == len(stages)
    found = scattergen(*command).out
    assert "Figure 3: " in found
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert "nothing to do" in scattergen(*command).out


def test_what_cannot_be_reproduced(scattergen, fitted_faces, faces, fitted, tmp_path):
    command = ["reproduce", "celeba", "-q"]
    assert "name the folder of its aligned images" in scattergen(*command, code=2).err
    missing = tmp_path / "none"
    error = scattergen(*command, "--images", faces, "--run", missing, code=2).err
    assert f"fit it by `{fit_command('celeba', str(faces), str(missing))}`" in error
    error = scattergen(*command, "--images", missing, "--run", missing, code=2).err
    assert f"{missing} is no folder: name that of CelebA's aligned images" in error
    others = draw_faces(tmp_path / "others", 160, first=1)
    for images, run in ((others, fitted_faces), (faces, fitted)):
        error = scattergen(*command, "--images", images, "--run", run, code=2).err
        assert "was not fitted to celeba" in error
        assert "`scattergen fit DIR --preset celeba --out runs/celeba`" in error
    error = scattergen("reproduce", "mnist", "--images", faces, code=2).err
    assert "leave out --images" in error
    with pytest.raises(InputError, match="is of the paper's MNIST, with images of 1 × 28 × 28"):
        reproduce_run(fitted_faces, celeba(faces), effort=TINY)


def test_other_commands_open_the_runs_images(fitted_faces, faces):
    opened = open_of_run(fitted_faces, str(faces), READING)
    assert opened.train.fingerprint == celeba(faces).train.fingerprint
    assert len(opened.test) == 20
    with pytest.raises(InputError, match="leave out --crop and --mode"):
        open_of_run(fitted_faces, str(faces), Reading(crop=60))


@pytest.mark.skipif(not FACES.is_file(), reason="CelebA at half resolution is not here")
def test_real_faces(tmp_path):
    with tarfile.open(FACES) as archive:
        members = [archive.next() for _ in range(16)]
        archive.extractall(tmp_path, members, filter="data")
    faces = celeba(tmp_path)
    assert faces.train.shape == (3, 64, 64)
    assert (len(faces.train), len(faces.test)) == (14, 2)
    red, _, blue = faces.train[:].mean(dim=(0, 2, 3))
    assert red > blue  # of skin


def test_parts_are_those_of_the_preset(scattergen, faces, fitted_faces, tmp_path):
    for part, images in (("train", celeba(faces).train), ("test", celeba(faces).test)):
        scattergen("encode", fitted_faces, faces, "--part", part, "--out", tmp_path / "codes.npy", "-q")
        codes = torch.from_numpy(np.load(tmp_path / "codes.npy"))
        # Batches of other sizes, whose sums differ in their last bits.
        torch.testing.assert_close(codes, sg.load(fitted_faces).encode(images), rtol=1e-4, atol=1e-4)
