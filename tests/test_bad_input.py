"""A user's mistakes and damaged files: one sentence, exit code 2, and nothing lost or left behind.

Each case prepares the mistake in an empty folder `at` and returns the arguments of a command; its
decorator states what the sentence must name and which remedy it must give.
"""

import errno
import hashlib
import json
import os
import shutil
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

import scattergen as sg
from scattergen.files import atomic
from scattergen.files.tensors import read_tensors, write_tensors
from scattergen.runs import RunFolder

MISTAKES = []
DAMAGES = []


def mistake(culprit, remedy):
    def register(prepare):
        name = prepare.__name__.replace("_", "-")
        MISTAKES.append(pytest.param(prepare, culprit, remedy, id=name))
        return prepare

    return register


def contents(folder):
    """Everything below a folder; not the lock, which holds nothing."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
        if path.name != ".scattergen-lock"
    }


def assert_one_sentence(error, *needed):
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert error.endswith((".\n", ").\n"))
    assert error.count("error: ") == 1
    for words in needed:
        assert words in error


@pytest.fixture(scope="module")
def grey():
    return np.random.default_rng(0).integers(0, 256, (40, 16, 16), dtype=np.uint8)


def save(at, images, name="images.npy"):
    np.save(at / name, images)
    return at / name


def fit(at, images, *options):
    return ["fit", images, "--out", at / "out", *options]


# Folders of images


@mistake("empty", "give a folder with JPEG")
def empty_folder(at, **_):
    (at / "empty").mkdir()
    return fit(at, at / "empty")


@mistake("notes.txt", "give a folder with JPEG")
def folder_without_images(at, **_):
    (at / "folder").mkdir()
    (at / "folder" / "notes.txt").write_text("no image")
    return fit(at, at / "folder")


def folder_of(at, grey, suffix="png"):
    (at / "folder").mkdir()
    for i, pixels in enumerate(grey):
        Image.fromarray(pixels).save(at / "folder" / f"{i:02}.{suffix}")
    return at / "folder"


@mistake("05.jpg", "replace or remove it")
def truncated_jpeg(at, grey, **_):
    folder = folder_of(at, grey, "jpg")
    whole = (folder / "05.jpg").read_bytes()
    (folder / "05.jpg").write_bytes(whole[: len(whole) * 2 // 3])
    return fit(at, folder, "--set", "encoder.n_components=4")


@mistake("lies inside", "--out")
def run_among_the_images(at, grey, **_):
    return ["fit", folder_of(at, grey), "--out", at / "folder" / "runs" / "mine"]


@mistake("07.png", "--no-strict")
def zero_byte_image(at, grey, **_):
    (folder_of(at, grey) / "07.png").write_bytes(b"")
    return fit(at, at / "folder")


@mistake("07.png", "--no-strict")
def text_in_place_of_an_image(at, grey, **_):
    (folder_of(at, grey) / "07.png").write_text("not an image")
    return fit(at, at / "folder")


@mistake("09.png", "--size N")
def mixed_sizes(at, grey, **_):
    Image.new("L", (20, 16)).save(folder_of(at, grey) / "09.png")
    return fit(at, at / "folder")


@mistake("1 training image", "at least 3")
def single_image(at, grey, **_):
    return fit(at, folder_of(at, grey) / "05.png")


# Arrays


@mistake("Image 3 of", "remove or repair")
def array_with_nan(at, grey, **_):
    images = grey / np.float32(255)
    images[3, 2, 1] = np.nan
    return fit(at, save(at, images))


@mistake("Image 5 of", "remove or repair")
def array_with_infinity(at, grey, **_):
    images = grey / np.float32(255)
    images[5, 2, 1] = np.inf
    return fit(at, save(at, images))


@mistake("values from -1 to 1", "(x + 1) / 2")
def floats_out_of_range(at, grey, **_):
    images = np.tile(np.linspace(-1, 1, 16, dtype=np.float32), (40, 16, 1))
    return fit(at, save(at, images))


@mistake("int32", "astype('uint8')")
def array_of_int32(at, grey, **_):
    return fit(at, save(at, grey.astype(np.int32)))


@mistake("(40, 256)", "images[None]")
def array_with_two_axes(at, grey, **_):
    return fit(at, save(at, grey.reshape(40, 256)))


@mistake("(2, 2, 2, 5, 16, 16)", "expected (N, H, W)")
def array_with_six_axes(at, grey, **_):
    return fit(at, save(at, grey.reshape(2, 2, 2, 5, 16, 16)))


@mistake("no pixels", "give at least one image")
def empty_array(at, grey, **_):
    return fit(at, save(at, grey[:0]))


@mistake("images.npy", "numpy.save")
def array_of_objects(at, grey, **_):
    return fit(at, save(at, np.array([{"pickled": 1}], dtype=object)))


@mistake("images.npy", "numpy.save")
def truncated_npy(at, grey, **_):
    path = save(at, grey)
    path.write_bytes(path.read_bytes()[:2000])
    return fit(at, path)


@mistake("images.npz", "savez")
def damaged_npz(at, grey, **_):
    np.savez_compressed(at / "images.npz", images=grey)
    whole = bytearray((at / "images.npz").read_bytes())
    whole[1000] ^= 255
    (at / "images.npz").write_bytes(whole)
    return fit(at, at / "images.npz")


@mistake("train_x, other", "expected x_train")
def npz_with_other_names(at, grey, **_):
    np.savez(at / "images.npz", train_x=grey, other=grey)
    return fit(at, at / "images.npz")


@mistake("nowhere.npz", "give 'mnist'")
def missing_path(at, **_):
    return fit(at, at / "nowhere.npz")


@mistake(".csv", "give 'mnist'")
def unknown_extension(at, **_):
    (at / "images.csv").write_text("1,2,3")
    return fit(at, at / "images.csv")


# Too few, too small or too similar


@mistake("36 training images", "--set encoder.n_components=35")
def fewer_images_than_components(at, grey, **_):
    return fit(at, save(at, grey), "--set", "encoder.n_components=50")


@mistake("512 components", "use more than 512 images")
def mnist_preset_with_few_images(at, grey, **_):
    return fit(at, save(at, grey), "--preset", "mnist")


@mistake("1 training image is too few", "give at least 3")
def one_image(at, grey, **_):
    return fit(at, save(at, grey[:1]))


@mistake("1 training image", "give at least 3")
def two_images(at, grey, **_):
    return fit(at, save(at, grey[:2]))


@mistake("2 training images", "beside those that are held out for tests")
def three_images(at, grey, **_):
    return fit(at, save(at, grey[:3]))


@mistake("same features", "images that differ")
def constant_images(at, grey, **_):
    return fit(at, save(at, np.full_like(grey, 7)))


@mistake("vary in 17 ways only", "--set encoder.n_components=17")
def repeated_images(at, grey, **_):
    images = save(at, np.repeat(grey[:10], 6, axis=0))
    return fit(at, images, "--set", "encoder.allow_fewer=false")


@mistake("5x5", "at least 8x8")
def images_too_small(at, grey, **_):
    return fit(at, save(at, grey[:, :5, :5]))


@mistake("J=5", "choose J between 1 and 4")
def transform_too_large(at, grey, **_):
    return fit(at, save(at, grey), "--set", "encoder.J=5")


@mistake("side 7", "fewer channels")
def filters_too_large(at, grey, **_):
    options = ["--set", "decoder.kernel_size=7", "--set", "decoder.channels=[8,8,8,8,8]"]
    return fit(at, save(at, grey), *options)


@mistake("20 components were asked of 20 training images", "--set encoder.n_components=19")
def as_many_images_as_components(at, grey, **_):
    np.savez(at / "images.npz", x_train=grey[:20], x_test=grey[20:24])
    return fit(at, at / "images.npz", "--set", "encoder.n_components=20")


@mistake("cifar-10-batches-py", "binary version")
def pickled_cifar(at, **_):
    (at / "cifar-10-batches-py").mkdir()
    for name in ("data_batch_1", "batches.meta"):
        (at / "cifar-10-batches-py" / name).write_bytes(b"\x80\x02}q\x01.")
    return fit(at, at / "cifar-10-batches-py")


# Few images, odd sizes: these work


@pytest.mark.parametrize(
    ("shape", "n", "options"),
    [
        ((16, 16), 3, []),
        ((3, 32, 32), 60, []),
        ((37, 50), 30, []),
        ((16, 16), 21, ["--set", "encoder.n_components=20"]),
    ],
    ids=["three images", "as CIFAR", "37x50", "one image more than components"],
)
def test_odd_images_are_fitted_and_sampled(scattergen, tmp_path, shape, n, options):
    images = np.random.default_rng(0).integers(0, 256, (n + 2, *shape), dtype=np.uint8)
    if len(shape) == 3:  # channels last, with labels in a column, as Keras has them
        images = np.moveaxis(images, 1, -1)
    labels = np.arange(n + 2)[:, None] % 3
    path, run = tmp_path / "images.npz", tmp_path / "run"
    np.savez(path, x_train=images[:n], x_test=images[n:], y_train=labels[:n], y_test=labels[n:])
    fit_it = ["fit", path, "--out", run, "-q", "--set", "training.epochs=1", *options]
    scattergen(*fit_it, "--densities", "gaussian,mixture", "--set", "decoder.channels=[8,4]")
    scattergen("sample", run, "-n", 3, "--out", tmp_path / "x.npy", "-q")
    made = np.load(tmp_path / "x.npy")
    assert len(made) == 3
    assert sorted(made.shape[1:]) == sorted(images.shape[1:] if len(shape) == 3 else (*shape, 1))


def test_images_that_vary_in_few_ways_are_fitted_with_fewer_components(scattergen, tmp_path):
    """By preset auto; the same command goes on from the encoder that it made."""
    slopes = np.random.default_rng(0).random((60, 2), dtype=np.float32)
    images = (slopes @ np.mgrid[:16, :16].reshape(2, -1) / 30).reshape(60, 16, 16).astype("f4")
    run = tmp_path / "run"
    np.save(tmp_path / "images.npy", images)
    fit_it = ["fit", tmp_path / "images.npy", "--out", run, "-q", "--set", "training.epochs=1"]
    fit_it += ["--densities", "gaussian"]
    err = scattergen(*fit_it, showing_warnings=True).err
    d = len(sg.load(run).encoder.whitening.components_)
    assert d < 10
    assert f"vary in {d} ways only: codes have {d} components, not 52" in err
    for stage in ("densities/gaussian", "decoder", "codes"):
        RunFolder.open(run).file(stage).unlink()
    err = scattergen(*fit_it, showing_warnings=True).err
    assert err.count("warning: ") == err.count("is made again") == 3  # and no other one
    assert sg.load(run).encode(images[:3]).shape == (3, d)


def test_a_damaged_test_image_is_found_first_and_repaired_without_loss(scattergen, grey, tmp_path):
    folder = folder_of(tmp_path, grey, "jpg")
    data = sg.datasets.open_dataset(folder)
    held_out = data.test.source.files[int(data.test.numbers[0])]
    whole = held_out.read_bytes()
    fit_it = [*fit(tmp_path, folder, "--set", "encoder.n_components=4"), "--densities", "gaussian"]
    fit_it += ["--set", "training.epochs=1", "-q"]
    run = fit_it[fit_it.index("--out") + 1]
    held_out.write_bytes(whole[:-30])  # its header is whole
    assert held_out.name in scattergen(*fit_it, code=2).err
    assert not run.exists() or not any(run.iterdir())
    # Mended later, it does not concern what was fitted to the others.
    fingerprint = sg.datasets.open_dataset(folder).train.fingerprint
    held_out.write_bytes(whole)
    again = sg.datasets.open_dataset(folder)
    assert again.train.fingerprint == fingerprint
    scattergen(*fit_it)


def test_a_run_that_the_disk_has_no_room_for_is_refused_first(scattergen, digits, tiny, tmp_path, monkeypatch):
    Usage = namedtuple("Usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda place: Usage(0, 0, 10_000))
    err = scattergen("fit", digits, "--out", tmp_path / "run", *tiny, code=2).err
    assert "or more, but 0.00 GB are free: free some space" in err
    assert "principal components" not in err
    assert not (tmp_path / "run" / "run.json").exists()


# Options


@pytest.mark.parametrize(
    ("option", "culprit", "remedy"),
    [
        ("encoder.J=abc", "J='abc'", "give a whole number"),
        ("encoder.J=2.5", "J=2.5", "give a whole number"),
        ("encoder.L=true", "L=True", "give a whole number"),
        ("encoder.L=0", "L=0", "at least 1"),
        ("encoder.n_components=-1", "n_components=-1", "at least 1"),
        ("encoder.window=3", '"window"', "its options are J, L"),
        ("encoder.device=cuda", '"device"', "its options are J, L"),
        ("decoder.kernel_size=4", "kernel_size=4", "choose an odd number"),
        ("decoder.channels=64", "channels=64", "give a list"),
        ("decoder.channels=[]", "channels=()", "one positive width"),
        ("decoder.kind=odd", '"odd"', 'choose "local"'),
        ("training.epochs=0", "epochs=0", "at least 1"),
        ("training.epochs=99999999999999999999", "epochs=99999999999999999999", "a whole number"),
        ("training.shifts=99999999999999999999", "shifts=99999999999999999999", "a whole number"),
        ("training.patience=2.5", "patience=2.5", "a whole number"),
        ("densities.mixture.n_components=500", "n_components=500", "use at most 18 components"),
        ("training.batch_size=-3", "batch_size=-3", "at least 1"),
        ("training.learning_rate=-1", "learning_rate=-1", "above 0"),
        ("training.learning_rate=NaN", "learning_rate=nan", "give a number"),
        ("training.learning_rate=1e999", "learning_rate=inf", "give a number"),
        ("training.betas=[0.9]", "betas=[0.9]", "a list of 2"),
        ("training.betas=[0.9,1.0]", "1.0", "below 1"),
        ("training.precision=half", '"half"', 'choose "float32"'),
        ("training.n_validation=39", "36 images with 39", "leave at least 2"),
        ("training.shifts=-1", "shifts=-1", "0 or more"),
        ("training.flips=1", "flips=1", "true or false"),
        ("training.seed=3", '"seed"', "its options are loss"),
        ("densities.vae-improved.beta=-1", "beta=-1", "at least 0"),
        ("densities.vae-improved.epochs=0", "epochs=0", "at least 1"),
        ("densities.vae-improved.name=x", '"name"', "its options are n_latent"),
        ("sampling.n_components=0", "n_components=0", "from 1 to"),
        ("densities.mixture=5", '"densities.mixture"', "densities.vae.beta=0.01"),
        ("densities.diffusion.steps=5", '"diffusion"', "--densities"),
        ("epoch=5", '"epoch"', '"epochs" may be meant.'),
        ("hatchery=5", '"hatchery"', "SECTION.NAME"),
        ("flips=true", "flips=True", '{"training.flips": True}'),
        ("model.epochs=5", '"model.epochs"', "SECTION.NAME"),
        ("encoder.J.x=5", '"encoder.J.x"', "SECTION.NAME"),
        ("encoder.J", '"encoder.J"', "--set NAME=VALUE"),
        ("=5", '"=5"', "--set NAME=VALUE"),
    ],
)
def test_options_are_refused_before_anything_is_done(scattergen, grey, tmp_path, option, culprit, remedy):
    path = save(tmp_path, grey)
    error = scattergen("fit", path, "--out", tmp_path / "out", "--set", option, code=2).err
    assert_one_sentence(error, culprit, remedy)
    assert contents(tmp_path).keys() == {"images.npy"}


@mistake('has no option "annealing"', "another version of scattergen stored it, fit it again by")
def density_of_another_version(at, run, **_):
    copy = RunFolder.open(shutil.copytree(run, at / "copy"))
    tensors, metadata = copy.read("densities/vae")
    old = {**metadata["hyperparameters"], "annealing": 0.0}
    copy.write("densities/vae", "0" * 16, tensors, {**metadata, "hyperparameters": old})
    return ["sample", copy.path, "--density", "vae", "--out", at / "out.png"]


@mistake('"mixtrue"', '"mixture" may be meant')
def misspelt_density(at, run, **_):
    return ["density", run, "mixtrue"]


@mistake('"diffusion"', "choose one of gaussian")
def unknown_density_to_fit(at, grey, **_):
    return fit(at, save(at, grey), "--densities", "gaussian,diffusion")


@mistake('"abacus"', 'such as "cpu"')
def unknown_device(at, grey, **_):
    return fit(at, save(at, grey), "--device", "abacus")


@mistake('"meta"', 'such as "cpu"')
def device_that_computes_nothing(at, grey, **_):
    return fit(at, save(at, grey), "--device", "meta")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has the device")
def test_a_device_that_is_not_there(scattergen, fitted, tmp_path):
    out = tmp_path / "a.npz"
    error = scattergen("sample", fitted, "--out", out, "--device", "cuda:7", code=2).err
    assert_one_sentence(error, '"cuda:7"', 'such as "cpu"')


@mistake("--size", "only files of images are resized")
def size_of_an_array(at, grey, **_):
    return fit(at, save(at, grey), "--size", 12)


@mistake("images.npy is a file", "name a folder")
def run_in_place_of_a_file(at, grey, **_):
    path = save(at, grey)
    return ["fit", path, "--out", path]


@mistake("thesis.txt", "name another folder")
def run_in_a_folder_with_other_things(at, grey, **_):
    (at / "mine").mkdir()
    (at / "mine" / "thesis.txt").write_text("years of work")
    return ["fit", save(at, grey), "--out", at / "mine", "--overwrite"]


@mistake("holds .lock", "name another folder")
def folder_that_only_looks_like_a_run(at, grey, **_):
    (at / "mine" / "pictures").mkdir(parents=True)
    (at / "mine" / "pictures" / "thesis.txt").write_text("years of work")
    (at / "mine" / "thesis.txt").write_text("years of work")
    (at / "mine" / ".scattergen-lock").write_text("")
    (at / "mine" / ".lock").write_text("")
    return ["fit", save(at, grey), "--out", at / "mine", "--overwrite"]


@mistake("run.json is damaged or not one that scattergen wrote", "name another folder")
def run_in_place_of_another_programs_run(at, grey, **_):
    (at / "mine" / "checkpoints").mkdir(parents=True)
    (at / "mine" / "checkpoints" / "weights.pt").write_text("years of work")
    (at / "mine" / "run.json").write_text('{"format": 1, "name": "of another program"}')
    return ["fit", save(at, grey), "--out", at / "mine", "--overwrite"]


@mistake("source of images is empty", "give 'mnist'")
def empty_source(at, **_):
    return fit(at, "")


@mistake('"gaussian," lacks a name', "gaussian,vae")
def densities_with_an_empty_name(at, grey, **_):
    return fit(at, save(at, grey), "--densities", "gaussian,")


@mistake('"" cannot be the name of a file', "use letters")
def density_stored_under_no_name(at, run, **_):
    return ["density", run, "gaussian", "--as", ""]


@mistake("10,000,000,000 images take", "make fewer (-n), or parts")
def more_samples_than_memory_holds(at, run, **_):
    return ["sample", run, "-n", 10**10, "--out", at / "a.npz"]


@mistake("not enough memory", "a smaller network")
def network_that_memory_does_not_hold(at, grey, **_):
    return fit(at, save(at, grey), "--set", "decoder.channels=[1000000,1000000]")


@mistake("Cannot write /proc/", "choose another place")
def output_in_a_place_for_no_files(at, run, **_):
    return ["sample", run, "--out", "/proc/a.png"]


@mistake("Not a directory", "choose another place")
def run_below_a_file(at, grey, **_):
    path = save(at, grey)
    return ["fit", path, "--out", path / "run"]


# Using a finished run


@mistake('"diffusion"', "it has gaussian, mixture, vae, gan")
def sample_of_an_unknown_density(at, run, **_):
    return ["sample", run, "--density", "diffusion", "--out", at / "out.png"]


@mistake("out.bmp", "grid.png")
def output_with_an_unknown_ending(at, run, **_):
    return ["sample", run, "--out", at / "out.bmp"]


@mistake("file.txt", "choose another place")
def output_below_a_file(at, run, **_):
    (at / "file.txt").write_text("precious")
    return ["sample", run, "--out", at / "file.txt" / "new" / "out.png"]


@mistake("taken.png is a folder", "name a file")
def output_in_place_of_a_folder(at, run, **_):
    (at / "taken.png").mkdir()
    return ["sample", run, "--out", at / "taken.png"]


@mistake("taken is a file", "name a grid.png")
def folder_in_place_of_a_file(at, run, **_):
    (at / "taken").write_text("precious")
    return ["sample", run, "--out", at / "taken"]


@mistake("codes.txt", ".npz or .npy")
def codes_with_an_unknown_ending(at, run, digits, **_):
    return ["encode", run, digits, "--out", at / "codes.txt"]


@mistake("16×16 pixels, but", "a model of grey images of 28×28 pixels: convert the array")
def images_of_another_shape(at, run, grey, **_):
    return ["encode", run, save(at, grey), "--out", at / "out.npz"]


@mistake("codes.npy", "check its name")
def codes_that_are_missing(at, run, **_):
    return ["decode", run, at / "codes.npy", "--out", at / "out.png"]


@mistake("(5, 9)", "codes that this model's encoder made")
def codes_of_another_width(at, run, **_):
    codes = save(at, np.zeros((5, 9), np.float32), "codes.npy")
    return ["decode", run, codes, "--out", at / "out.png"]


@mistake("codes.npy holds NaN", "check where they come from")
def codes_with_nan(at, run, **_):
    codes = save(at, np.full((5, 16), np.nan, np.float32), "codes.npy")
    return ["decode", run, codes, "--out", at / "out.png"]


@mistake("int64", "scattergen encode")
def codes_of_integers(at, run, **_):
    codes = save(at, np.zeros((5, 16), np.int64), "codes.npy")
    return ["decode", run, codes, "--out", at / "out.png"]


@mistake("x_train", 'name the array "codes"')
def codes_under_another_name(at, run, digits, **_):
    return ["decode", run, digits, "--out", at / "out.png"]


@mistake('"diffusion"', "choose one of gaussian")
def unknown_density(at, run, **_):
    return ["density", run, "diffusion"]


@mistake('"gamma"', "its options are n_latent")
def unknown_option_of_a_density(at, run, **_):
    return ["density", run, "vae", "--set", "gamma=1", "--as", "new"]


@mistake("beta='much'", "give a number")
def wrong_type_of_an_option(at, run, **_):
    return ["density", run, "vae", "--set", "beta=much", "--as", "new"]


@mistake('"../../new"', "use letters, digits")
def name_that_leaves_the_run(at, run, **_):
    return ["density", run, "gaussian", "--as", "../../new"]


@mistake("200", "at most 150")
def density_with_too_many_parts(at, run, **_):
    return ["density", run, "mixture", "--set", "n_components=200", "--as", "new"]


@pytest.mark.parametrize(("prepare", "culprit", "remedy"), MISTAKES)
def test_a_mistake_is_one_sentence_and_changes_nothing(
    scattergen, fitted, digits, grey, tmp_path, prepare, culprit, remedy
):
    arguments = prepare(tmp_path, run=fitted, digits=digits, grey=grey)
    before, run_before = contents(tmp_path), contents(fitted)
    result = scattergen(*arguments, "--quiet", code=2)
    assert_one_sentence(result.err, culprit, remedy)
    assert result.out == ""
    assert contents(tmp_path) == before
    assert contents(fitted) == run_before


# Damaged runs


def damage(culprit, remedy="copy the run folder again as a whole"):
    def register(spoil):
        name = spoil.__name__.replace("_", "-")
        DAMAGES.append(pytest.param(spoil, culprit, remedy, id=name))
        return spoil

    return register


@damage("no run folder", "scattergen fit")
def missing_run(run):
    shutil.rmtree(run)


@damage("run.json is missing", "name one that `scattergen fit` made")
def no_run_at_all(run):
    shutil.rmtree(run)
    run.mkdir()


@damage("run.json is missing", "again as a whole")
def missing_index(run):
    (run / "run.json").unlink()


def file_of(run, name):
    """The file of a part of a run."""
    return RunFolder.open(run).file(name)


@damage("run.json was changed")
def edited_option(run):
    text = (run / "run.json").read_text()
    (run / "run.json").write_text(text.replace('"J": 2', '"J": 3'))


@damage("run.json was changed")
def edited_hash(run):
    path = file_of(run, "decoder")
    old = hashlib.sha256(path.read_bytes()).hexdigest()
    path.write_bytes(path.read_bytes() + b"0")
    new = hashlib.sha256(path.read_bytes()).hexdigest()
    (run / "run.json").write_text((run / "run.json").read_text().replace(old, new))


@damage("run.json is damaged")
def truncated_index(run):
    (run / "run.json").write_text((run / "run.json").read_text()[:-20])


@damage("run.json is damaged")
def index_without_digest(run):
    (run / "run.json").write_text("{}")


@damage("run.json is damaged")
def index_that_is_a_list(run):
    (run / "run.json").write_text("[]")


@damage("run.json is damaged")
def index_that_is_not_text(run):
    (run / "run.json").write_bytes(b"\xff\xfe\x00")


@damage("run format 3", "update scattergen")
def newer_version(run):
    content = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**content, "format": 3, "digest": "of format 3"}))


@damage("run format None", "update scattergen")
def version_that_is_no_number(run):
    content = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**content, "format": None}))


@pytest.mark.parametrize(("spoil", "culprit", "remedy"), DAMAGES)
def test_a_damaged_run_is_refused(scattergen, run_copy, digits, tiny, tmp_path, spoil, culprit, remedy):
    spoil(run_copy)
    before = contents(tmp_path)
    commands = [
        ["sample", run_copy, "--out", tmp_path / "out.npz"],
        ["encode", run_copy, digits, "--out", tmp_path / "out.npz"],
        ["density", run_copy, "gaussian", "--as", "new"],
        ["info", run_copy],
    ]
    if run_copy.exists() and any(run_copy.iterdir()):  # otherwise a new run is made
        commands.append(["fit", digits, "--out", run_copy, *tiny])
    for arguments in commands:
        assert_one_sentence(scattergen(*arguments, code=2).err, culprit, remedy)
    assert contents(tmp_path) == before


def test_a_run_with_a_changed_index_is_overwritten_by_one_that_uses_what_is_whole(
    scattergen, run_copy, digits, tiny, fitted, assert_same_model, assert_nothing_left, monkeypatch
):
    edited_option(run_copy)
    monkeypatch.setattr(sg.encoder.ScatteringEncoder, "fit", None)  # as it is there
    scattergen("fit", digits, "--out", run_copy, "-q", "--overwrite", *tiny)
    assert_same_model(run_copy, fitted)
    assert_nothing_left(run_copy)


def test_a_folder_whose_index_may_be_of_another_program_is_not_overwritten(scattergen, run_copy, digits, tiny):
    truncated_index(run_copy)
    before = contents(run_copy)
    error = scattergen("fit", digits, "--out", run_copy, "--overwrite", *tiny, code=2).err
    assert_one_sentence(error, "run.json is damaged or not one that scattergen wrote", "name anoth")
    assert contents(run_copy) == before


@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]])
def test_a_run_of_a_newer_version_is_not_overwritten(scattergen, run_copy, digits, tiny, overwrite):
    newer_version(run_copy)
    before = contents(run_copy)
    error = scattergen("fit", digits, "--out", run_copy, *overwrite, *tiny, code=2).err
    assert_one_sentence(error, "run format 3", "update scattergen")
    assert contents(run_copy) == before


def truncated(path):
    path.write_bytes(path.read_bytes()[:-100])


def changed(path):
    whole = bytearray(path.read_bytes())
    whole[-1] ^= 1
    path.write_bytes(whole)


def another_that_is_whole(path):
    """Other tensors, with all that a file says of itself."""
    with safe_open(path, "pt") as file:
        kept = json.loads(file.metadata()["json"])
    tensors, _ = read_tensors(path)
    write_tensors(path, {name: 2 * tensor if name == "mean" else tensor for name, tensor in tensors.items()}, kept)


SPOILT = {
    "densities/gaussian": (another_that_is_whole, "is not the file that was written there"),
    "encoder": (truncated, "is not the file that was written there"),
    "codes": (Path.unlink, "is missing"),
    "decoder": (changed, "is not the file that was written there"),
    "densities/vae": (truncated, "is not the file that was written there"),
}


@pytest.mark.parametrize("name", SPOILT)
def test_a_damaged_stage_is_refused_by_readers_and_made_again_by_a_fit(
    scattergen, run_copy, digits, tiny, fitted, assert_same_model, assert_nothing_left, tmp_path, name
):
    path, (spoil, culprit) = file_of(run_copy, name), SPOILT[name]
    spoil(path)
    before = contents(tmp_path)
    sample = ["sample", run_copy, "--out", tmp_path / "out.npz", "--density", name.partition("/")[2] or "vae"]
    commands = [["info", run_copy], sample]
    if name == "encoder":
        commands.append(["encode", run_copy, digits, "--out", tmp_path / "out.npz"])
    if name == "codes":  # of which samples are not made
        commands[1] = ["density", run_copy, "gaussian", "--as", "new"]
    for arguments in commands:
        error = scattergen(*arguments, code=2).err
        assert_one_sentence(error, f"{path} {culprit}", "copy the run folder again as a whole")
    assert contents(tmp_path) == before
    fit_it = ["fit", digits, "--out", run_copy, *tiny]
    err = scattergen(*fit_it, "-q", showing_warnings=True).err
    assert err == f"warning: {path} is missing or damaged: it is made again.\n"
    assert_same_model(run_copy, fitted)
    assert_nothing_left(run_copy)
    assert "nothing to do" in scattergen(*fit_it).out


def test_a_folder_in_place_of_a_stage_is_refused(scattergen, run_copy, digits, tiny):
    path = file_of(run_copy, "decoder")
    path.unlink()
    path.mkdir()
    (path / "notes.txt").write_text("mine")
    for command in (
        ["info", run_copy],
        ["sample", run_copy, "--out", run_copy / "a.png"],
        ["fit", digits, "--out", run_copy, "-q", *tiny],  # rather than after hours of training
    ):
        error = scattergen(*command, code=2).err
        assert_one_sentence(error, f"{path} cannot be read", "copy the run folder again")
    assert (path / "notes.txt").read_text() == "mine"


def test_a_damaged_density_is_in_the_way_of_no_other(scattergen, run_copy, digits, tmp_path):
    changed(file_of(run_copy, "densities/mixture"))
    sample = ["sample", run_copy, "-q", "--out", tmp_path / "out.npz", "--density"]
    for arguments in ([*sample, "mixture"], ["info", run_copy]):
        error = scattergen(*arguments, code=2).err
        assert_one_sentence(error, "is not the file", "copy the run folder")
        assert "densities/mixture-" in error
    scattergen(*sample, "gaussian")
    scattergen("encode", run_copy, digits, "-q", "--out", tmp_path / "out.npz")
    err = scattergen("density", run_copy, "mixture", "-q", "--overwrite", showing_warnings=True).err
    assert "it is made again" in err
    scattergen("info", run_copy)
    scattergen(*sample, "mixture")


# A full disk


class FullDisk:
    """Lets some files be written; then there is no space left until more is given."""

    def __init__(self, monkeypatch):
        self.left, self.fsync = 0, atomic.os.fsync
        monkeypatch.setattr(atomic.os, "fsync", self.write)

    def write(self, descriptor):
        if self.left == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.left -= 1
        self.fsync(descriptor)


@pytest.mark.slow
def test_a_disk_that_is_full_again_and_again(
    scattergen, digits, tiny, fitted, assert_same_model, assert_nothing_left, tmp_path, monkeypatch
):
    """At every file something was there before, and the same command goes on from it."""
    run, disk = tmp_path / "run", FullDisk(monkeypatch)
    fit = ["fit", digits, "--out", run, "--quiet", *tiny]
    unfinished = set()
    # Each file takes one fsync for its content and one for its name.
    for more in (0, 1, 2, 3, 5, 8, 6, 9, 7, 24):
        disk.left = more
        error = scattergen(*fit, code=2).err
        assert_one_sentence(error, f"Cannot write {tmp_path}", "Free some space", "run the same")
        assert not list(tmp_path.rglob(".writing-*"))
        if run.exists():
            assert "unfinished" in scattergen("info", run).out
            error = scattergen("sample", run, "--out", tmp_path / "a.png", code=2).err
            unfinished |= {name for name in ("encoder", "decoder", "density") if name in error}
        else:
            unfinished.add("nothing")
    disk.left = 1000
    scattergen(*fit)
    assert_same_model(run, fitted)
    assert_nothing_left(run)
    assert unfinished == {"nothing", "decoder", "density"}  # the failures were spread over the fit


def test_a_finished_run_survives_a_full_disk(scattergen, digits, tiny, run_copy, monkeypatch):
    before = contents(run_copy)
    del before["run.json"]
    disk = FullDisk(monkeypatch)
    for more in (0, 1, 2, 5, 12):
        disk.left = more
        other = ["fit", digits, "--out", run_copy, "-q", "--overwrite", "--seed", 1, *tiny]
        assert "Cannot write" in scattergen(*other, code=2).err
        disk.left = 0
        scattergen("info", run_copy)
        assert "nothing to do" in scattergen("fit", digits, "--out", run_copy, *tiny).out
        assert contents(run_copy).items() >= before.items()


def test_a_density_survives_a_full_disk_while_it_is_replaced(
    scattergen, run_copy, assert_nothing_left, tmp_path, monkeypatch
):
    """Whichever of its writes fails, the run can be used and the command repeated."""
    args = ["density", run_copy, "gaussian", "-q", "--as", "mine"]
    scattergen(*args)
    disk = FullDisk(monkeypatch)
    # The density, its picture, and run.json with each: every file takes one fsync for its content
    # and one for its name, another one if that changes.
    for more in range(10):
        disk.left = more
        error = scattergen(*args, "--seed", 1 + more, "--overwrite", code=2).err
        assert "Cannot write" in error
        disk.left = 1000
        scattergen("info", run_copy)
        scattergen("sample", run_copy, "-q", "--density", "mine", "--out", tmp_path / "a.png")
    disk.left = 10
    scattergen(*args, "--seed", 11, "--overwrite")
    assert_nothing_left(run_copy)


def test_an_old_output_survives_a_full_disk(scattergen, fitted, tmp_path, monkeypatch):
    disk = FullDisk(monkeypatch)
    for name in ("a.npz", "a.npy", "a.png"):
        (tmp_path / name).write_text("old")
        disk.left = 0
        error = scattergen("sample", fitted, "--out", tmp_path / name, "-q", code=2).err
        assert_one_sentence(error, f"Cannot write {tmp_path / name}: No space left", "Free some")
    assert contents(tmp_path) == {name: b"old" for name in ("a.npy", "a.npz", "a.png")}
