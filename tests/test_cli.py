"""Every command of the command line, from the arguments to the files and what is printed."""

import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
import typer
from PIL import Image

import scattergen as sg
from scattergen import ScattergenError
from scattergen.cli import app
from scattergen.datasets import mnist
from scattergen.decoder import LinearDecoder
from scattergen.encoder import ScatteringEncoder
from scattergen.pipeline import fit as fitting
from scattergen.pipeline import report
from scattergen.runs import RunFolder
from scattergen.runs.index import read_index

COMMANDS = [
    "fit", "density", "sample", "encode", "decode", "reconstruct", "interpolate", "info", "report",
    "evaluate", "diagnose", "export", "push", "reproduce", "explore", "list", "compare", "nearest", "edit", "options",
]  # fmt: skip
# A second decoding in other batches reorders float32 sums of at most 150 products in each of four
# layers: 4 * 150 * 6e-8 = 4e-5 of values of order 1, halved from [-1, 1] to [0, 1].
REORDERED = 4e-5


def arrays(path):
    with np.load(path) as archive:
        return dict(archive)


def stored(run, name):
    """The file of a part of a run."""
    return RunFolder.open(run).file(name)


def size(path):
    with Image.open(path) as picture:
        picture.load()
        return picture.size


@pytest.fixture(scope="module")
def small_images():
    """60 images of 16x16 pixels, crops of digits."""
    return (mnist().train[:60][:, 0, 6:22, 6:22].numpy() * 255).round().astype(np.uint8)


SMALL = [
    "--quiet", "--densities", "gaussian", "--set", "encoder.n_components=4", "--set",
    "decoder.channels=[8,4]", "--set", "training.epochs=1",
]  # fmt: skip


# Help


def test_commands_are_known():
    assert [command.name for command in app.registered_commands] == COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example(scattergen, command):
    shown = scattergen(command, "--help").out
    assert "Example" in shown
    assert f"scattergen {command} " in shown
    assert "\\[" not in shown  # as markup has it


def test_help_lists_commands_with_their_whole_first_sentences(scattergen):
    shown = " ".join(scattergen("--help").out.split())
    for command in app.registered_commands:
        assert command.callback.__doc__.strip().partition("\n")[0] in shown


def test_files_cannot_be_made_rectangular(scattergen, tmp_path):
    encoder = sg.ScatteringEncoder((1, 8, 12), J=1, n_components=4).fit(torch.rand(30, 1, 8, 12))
    model = sg.GenerativeScatteringNetwork(encoder, sg.decoder.Decoder(4, (1, 8, 12), channels=(4,)))
    model.save(tmp_path / "run")
    Image.new("L", (16, 16)).save(tmp_path / "square.png")
    for more in ((), ("--size", "8")):
        told = scattergen(
            "encode", tmp_path / "run", tmp_path / "square.png", "--out", tmp_path / "z.npz", *more, code=2
        )
        assert "make them 12×8 pixels first, as --size and --crop make squares" in told.err
    np.save(tmp_path / "colour.npy", np.zeros((3, 8, 12, 3), np.uint8))
    told = scattergen("encode", tmp_path / "run", tmp_path / "colour.npy", "--out", tmp_path / "z.npz", code=2)
    assert "convert the array, or give files" in told.err


def test_help_of_the_module_tells_what_the_command_is_called():
    """Completion is installed under this name, too; that of `python` would be broken by ours."""
    shown = subprocess.run(
        [sys.executable, "-m", "scattergen", "fit", "-h"], capture_output=True, text=True, check=True
    )
    assert shown.stdout.startswith("Usage: scattergen fit ")


def test_numbers_have_short_names_in_help(scattergen):
    shown = scattergen("sample", "--help").out
    assert "--seed N " in shown
    assert "--temperature X " in shown
    assert "INTEGER" not in shown


def test_help_is_coloured_where_colours_are_seen(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    command = typer.main.get_command(app)
    coloured = command.get_help(typer.Context(command, info_name="scattergen"))
    assert "\x1b[1mUsage:\x1b[0m" in coloured
    for name, value in (("TERM", "dumb"), ("NO_COLOR", "1")):
        monkeypatch.setenv(name, value)
        plain = command.get_help(typer.Context(command, info_name="scattergen"))
        assert re.sub(r"\x1b\[\d+m", "", coloured) == plain
        monkeypatch.setenv("TERM", "xterm")


@pytest.mark.parametrize(
    ("typed", "completed"), [("", "reconstruct"), ("recons", "reconstruct"), ("sample --temp", "--temperature")]
)
def test_what_is_typed_is_completed(typed, completed):
    words = f"scattergen {typed}"
    around = {"_SCATTERGEN_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    code = "import sys; sys.argv = ['scattergen']; from scattergen.cli import main; main()"
    run = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | around, capture_output=True, text=True, check=False
    )
    assert completed in run.stdout.split()
    assert run.stderr == ""


def test_each_example_of_help_has_a_line_of_its_own(scattergen):
    lines = [line.strip() for line in scattergen("sample", "--help").out.splitlines()]
    for ends in ("--out samples.png", "--temperature 0.8 --out alike.png"):
        assert f"scattergen sample runs/mnist {ends}" in lines


def test_paragraphs_of_help_break_where_the_terminal_ends(scattergen):
    assert "holds the codes. With several classes" in scattergen("sample", "--help").out


def test_version_and_no_arguments(scattergen):
    assert scattergen("--version").out == f"scattergen {sg.__version__}\n"
    assert "Commands" in scattergen(code=2).out
    assert "Commands" in scattergen("--", code=2).out


# Fit


def test_fit_writes_a_run_a_report_and_pictures(fitted, assert_nothing_left):
    files = {path.relative_to(fitted).as_posix() for path in fitted.rglob("*") if path.is_file()}
    densities = ["gaussian", "mixture", "vae", "gan"]
    assert files > {
        "run.json", "metrics.jsonl", "report.html",
        "pictures/reconstructions.png", "pictures/densities.png",
        *(f"pictures/samples-{name}.png" for name in densities),
    }  # fmt: skip
    for name in ("encoder", "codes", "decoder", *(f"densities/{name}" for name in densities)):
        file = stored(fitted, name).relative_to(fitted).as_posix()
        assert file in files
        assert re.fullmatch(rf"{name}-[0-9a-f]{{16}}\.safetensors", file)
    assert_nothing_left(fitted)
    assert all(size(path) for path in (fitted / "pictures").glob("*.png"))
    page = (fitted / "report.html").read_text()
    assert "scattergen fit " in page
    assert all(name in page for name in densities)
    records = [json.loads(line) for line in (fitted / "metrics.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in records if "validation/psnr" in record] == [1, 2, 3]
    assert records[-1]["stage"] == "report"


def test_fit_again_does_nothing_and_says_so(scattergen, digits, tiny, run_copy):
    def contents():
        return {path: path.read_bytes() for path in run_copy.rglob("*") if path.is_file()}

    before = contents()
    again = scattergen("fit", digits, "--out", run_copy, *tiny)
    assert f"{run_copy} was finished before with the same options: nothing to do." in again.out
    assert again.err == ""
    assert contents() == before
    facts = json.loads(scattergen("fit", digits, "--out", run_copy, "--json", *tiny).out)
    assert facts["finished_before"] is True
    assert facts["run"] == str(run_copy)
    assert 5 < facts["psnr"] < 40


def test_fit_with_other_options_names_them(scattergen, digits, tiny, run_copy):
    other = ["--seed", "1", "--set", "encoder.L=6", "--set", "densities.vae.beta=0.5"]
    error = scattergen("fit", digits, "--out", run_copy, *tiny, *other, code=2).err
    assert "densities.vae.beta=unset there, 0.5 now" in error
    assert "encoder.L=8 there, 6 now" in error
    assert "seed=0 there, 1 now" in error
    assert "--overwrite" in error
    assert sg.load(run_copy).encoder.hyperparameters["L"] == 8


def test_overwrite_replaces_a_run(scattergen, small_images, run_copy, assert_nothing_left, tmp_path):
    np.save(tmp_path / "small.npy", small_images)
    (run_copy / "notes.txt").write_text("mine")
    fit = ["fit", tmp_path / "small.npy", "--out", run_copy, *SMALL]
    scattergen(*fit, code=2)
    scattergen(*fit, "--overwrite")
    model = sg.load(run_copy)
    assert model.decoder.image_shape == (1, 16, 16)
    assert list(model.densities) == ["gaussian"]
    assert [*(run_copy / "densities").iterdir()] == [stored(run_copy, "densities/gaussian")]
    assert not (run_copy / "pictures" / "samples-vae.png").exists()
    assert (run_copy / "notes.txt").read_text() == "mine"
    assert_nothing_left(run_copy)
    records = [json.loads(line) for line in (run_copy / "metrics.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in records if "validation/psnr" in record] == [1]
    assert "nothing to do" in scattergen(*fit).out


def test_overwrite_makes_again_only_what_depends_on_other_options(
    scattergen, digits, tiny, run_copy, assert_nothing_left, monkeypatch
):
    kept = ["encoder", "codes", "linear", *(f"densities/{name}" for name in ("vae", "gan"))]
    before = {name: (stored(run_copy, name), stored(run_copy, name).read_bytes()) for name in kept}
    decoder = stored(run_copy, "decoder")
    fit = ["fit", digits, "--out", run_copy, "-q", *tiny, "--set", "training.epochs=1"]
    for made in (ScatteringEncoder, LinearDecoder):
        monkeypatch.setattr(made, "fit", None)
    for density in ("vae", "gan"):
        monkeypatch.setattr(f"scattergen.densities.{density}.train", None)
    scattergen(*fit, "--overwrite")
    for name, (path, content) in before.items():
        assert stored(run_copy, name) == path
        assert path.read_bytes() == content
    assert stored(run_copy, "decoder") != decoder
    assert len(RunFolder.open(run_copy).stages["decoder"]["history"]) == 1
    assert_nothing_left(run_copy)


def test_overwrite_with_the_same_options_has_nothing_to_do(scattergen, digits, tiny, run_copy):
    before = {path: path.read_bytes() for path in run_copy.rglob("*") if path.is_file()}
    shown = scattergen("fit", digits, "--out", run_copy, *tiny, "--overwrite").out
    assert "nothing to do" in shown
    assert {path: path.read_bytes() for path in run_copy.rglob("*") if path.is_file()} == before


def test_a_run_stays_until_its_replacement_is_finished(
    scattergen, small_images, run_copy, assert_nothing_left, tmp_path, monkeypatch
):
    """A fit that fails late leaves the old run as it was; the same command then continues."""
    np.save(tmp_path / "small.npy", small_images)
    fit = ["fit", tmp_path / "small.npy", "--out", run_copy, "--overwrite", "-q", *SMALL]
    before = {path: path.read_bytes() for path in run_copy.rglob("*") if path.is_file()}
    index = json.loads(before.pop(run_copy / "run.json"))

    def fail(*_, **__):
        raise ScattergenError("It failed late.")

    with monkeypatch.context() as patch:
        patch.setattr(report, "write_run_report", fail)
        assert scattergen(*fit, code=2).err == "error: It failed late.\n"
    assert {path: path.read_bytes() for path in before} == before
    now = json.loads((run_copy / "run.json").read_text())
    assert {name: now[name] for name in index if name != "digest"} == {
        name: value for name, value in index.items() if name != "digest"
    }
    scattergen("sample", run_copy, "-q", "--out", tmp_path / "a.png")
    assert "A run to replace it is unfinished" in scattergen("info", run_copy).out
    with monkeypatch.context() as patch:
        patch.setattr(sg.decoder.DecoderTraining, "fit", fail)  # as it is trained already
        scattergen(*fit)
    assert sg.load(run_copy).decoder.image_shape == (1, 16, 16)
    assert_nothing_left(run_copy)


def test_images_that_fail_late_leave_the_old_run(scattergen, run_copy, tmp_path):
    """A picture whose middle is damaged is found only when all have been read."""
    folder = tmp_path / "folder"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (40, 16, 16), dtype=np.uint8)
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{i:02}.png")
    whole = bytearray((folder / "20.png").read_bytes())
    whole[len(whole) // 2] ^= 255
    (folder / "20.png").write_bytes(whole)
    before = {path: path.read_bytes() for path in run_copy.rglob("*") if path.is_file()}
    fit = ["fit", folder, "--out", run_copy, "--overwrite", "-q"]
    assert "20.png" in scattergen(*fit, "--set", "encoder.n_components=4", code=2).err
    assert {path: path.read_bytes() for path in run_copy.rglob("*") if path.is_file()} == before


def test_a_fit_begun_with_overwrite_continues(scattergen, small_images, assert_nothing_left, tmp_path, monkeypatch):
    np.save(tmp_path / "small.npy", small_images)
    fit = ["fit", tmp_path / "small.npy", "--out", tmp_path / "run", "--overwrite", *SMALL]
    for _ in range(2):  # the first run of the folder, then one that replaces it
        diverging = [*fit, "--set", "training.learning_rate=1e30"]
        assert "run the command again" in scattergen(*diverging, code=2).err
        with monkeypatch.context() as patch:
            patch.setattr(ScatteringEncoder, "fit", None)  # it is there
            scattergen(*fit)
        assert "training.learning_rate=1e30" not in scattergen("info", tmp_path / "run").out
        assert_nothing_left(tmp_path / "run")


def test_an_unfinished_run_is_overwritten_by_one_that_keeps_what_fits(
    scattergen, small_images, assert_nothing_left, tmp_path, monkeypatch
):
    np.save(tmp_path / "small.npy", small_images)
    run = tmp_path / "run"
    fit = ["fit", tmp_path / "small.npy", "--out", run, "-q", *SMALL]

    def fail(*_, **__):
        raise ScattergenError("It failed late.")

    with monkeypatch.context() as patch:
        patch.setattr(report, "write_run_report", fail)
        scattergen(*fit, "--densities", "gaussian,mixture", code=2)
    encoder, decoder = stored(run, "encoder"), stored(run, "decoder")
    other = [*fit, "--set", "training.learning_rate=1e-4"]
    assert "training.learning_rate=" in scattergen(*other, code=2).err
    assert stored(run, "decoder") == decoder
    monkeypatch.setattr(ScatteringEncoder, "fit", None)  # it is there
    scattergen(*other, "--overwrite")
    assert stored(run, "encoder") == encoder
    assert stored(run, "decoder") != decoder
    assert sg.load(run).densities.keys() == {"gaussian"}  # which alone was asked for
    assert_nothing_left(run)


def test_a_changed_test_set_is_reported_anew(scattergen, tmp_path, small_images):
    arrays = {"x_train": small_images[:-20], "x_test": small_images[-20:]}
    np.savez(tmp_path / "data.npz", **arrays)
    fit = ["fit", tmp_path / "data.npz", "--out", tmp_path / "run", "--json", *SMALL]
    first = json.loads(scattergen(*fit).out)
    np.savez(tmp_path / "data.npz", **(arrays | {"x_test": small_images[-10:]}))
    second = json.loads(scattergen(*fit).out)
    assert not second["finished_before"]
    assert second["psnr"] != first["psnr"]
    assert json.loads(scattergen(*fit).out)["finished_before"]


def test_a_file_called_mnist_is_not_mnist(scattergen, small_images, tmp_path):
    np.save(tmp_path / "mnist.npy", small_images)
    scattergen("fit", tmp_path / "mnist.npy", "--out", tmp_path / "run", *SMALL)
    facts = json.loads(scattergen("info", tmp_path / "run", "--json").out)
    assert facts["options"]["preset"] == "auto"
    assert "paper: Table" not in (tmp_path / "run" / "report.html").read_text()


def test_a_folder_reached_by_a_link_says_what_is_wrong(scattergen, tmp_path, monkeypatch):
    np.save(tmp_path / "same.npy", np.full((30, 16, 16), 7, np.uint8))
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    fit = ["fit", tmp_path / "same.npy", "--out"]
    assert "images that differ" in scattergen(*fit, tmp_path / "link", *SMALL, code=2).err
    monkeypatch.chdir(tmp_path / "folder")
    assert "images that differ" in scattergen(*fit, ".", *SMALL, code=2).err


def test_the_training_part_can_be_encoded(scattergen, digits, fitted, tmp_path):
    for part, n in (("train", 300), ("test", 40)):
        out = tmp_path / "codes.npz"
        scattergen("encode", fitted, digits, "--part", part, "-q", "--out", out)
        assert arrays(out)["codes"].shape == (n, 16)


def test_a_killed_replacement_of_a_density_leaves_no_old_picture(scattergen, run_copy, monkeypatch):
    args = ["density", run_copy, "mixture", "-q", "--as", "mine", "--set"]
    scattergen(*args, "n_components=2")
    picture = run_copy / "pictures" / "density-mine.png"
    old = picture.read_bytes()

    class Kill(BaseException):
        pass

    def kill(*_, **__):
        raise Kill

    with monkeypatch.context() as patch, pytest.raises(Kill):  # noqa: PT012
        patch.setattr(fitting, "save_image_grid", kill)
        scattergen(*args, "n_components=9", "--overwrite")
    scattergen(*args, "n_components=9")
    assert picture.read_bytes() != old


def test_options_of_stages_that_are_not_reached_may_change(scattergen, small_images, tmp_path, monkeypatch):
    np.save(tmp_path / "small.npy", small_images)
    fit = ["fit", tmp_path / "small.npy", "--out", tmp_path / "run", "-q", *SMALL]
    diverging = [*fit, "--set", "training.learning_rate=1e30"]
    assert "lower the learning rate" in scattergen(*diverging, code=2).err
    with monkeypatch.context() as patch:  # the encoder is there
        patch.setattr(ScatteringEncoder, "fit", None)
        scattergen(*fit)
    assert sg.load(tmp_path / "run").densities.keys() == {"gaussian"}
    assert "learning_rate" in scattergen(*diverging, code=2).err
    assert "densities.vae" in scattergen(*fit, "--densities", "gaussian,vae", code=2).err


def test_a_report_that_was_deleted_is_written_again(scattergen, digits, tiny, run_copy):
    (run_copy / "report.html").unlink()
    facts = json.loads(scattergen("fit", digits, "--out", run_copy, "-q", "--json", *tiny).out)
    assert facts["finished_before"] is False
    assert (run_copy / "report.html").is_file()


def test_fit_folder_with_classes(scattergen, tmp_path):
    generator = np.random.default_rng(0)
    for kind in ("cats", "dogs"):
        (tmp_path / "pets" / kind).mkdir(parents=True)
        for i in range(20):
            pixels = generator.integers(0, 256, (20, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pets" / kind / f"{i}.png")
    (tmp_path / "pets" / "cats" / "broken.png").write_bytes(b"no image")
    fit = ["fit", tmp_path / "pets", "--size", 16, "--out", tmp_path / "run", *SMALL]
    assert "broken.png" in scattergen(*fit, code=2).err
    result = scattergen(*fit, "--no-strict", showing_warnings=True)
    assert result.err.count("warning: ") == 2
    assert "broken.png cannot be read as an image" in result.err
    assert f"Files left out of {tmp_path / 'pets'}: 1; 40 are used." in result.err
    model = sg.load(tmp_path / "run")
    assert model.decoder.image_shape == (3, 16, 16)
    assert model.options["data"]["name"] == "pets"
    assert model.options["data"]["n"] == 36
    # Images of a folder are resized as the model needs them, and converted.
    (tmp_path / "grey").mkdir()
    Image.new("L", (40, 30), 128).save(tmp_path / "grey" / "a.png")
    out = tmp_path / "codes.npy"
    said = scattergen("encode", tmp_path / "run", tmp_path / "grey", "--out", out, "-q", showing_warnings=True).err
    assert "are made colour, as those" in said  # and resized, as were those of the run
    assert np.load(out).shape == (1, 4)
    known = sg.load(tmp_path / "run").options["data"]
    assert (known["size"], known["converted"]) == (16, ["size"])
    for command in ("encode", "reconstruct"):
        use = [command, tmp_path / "run", tmp_path / "pets" / "dogs", "--out", tmp_path / "out.npz", "-q"]
        assert scattergen(*use, showing_warnings=True).err == ""
    # A run of a version that did not keep this goes on, and warns.
    index = read_index(tmp_path / "run")
    del index.current.options["data"]["converted"], index.current.options["data"]["size"]
    index.write(tmp_path / "run")
    assert "nothing to do" in scattergen(*fit, "--no-strict", showing_warnings=True).out
    assert "are resized from 24×20 to 16×16" in scattergen(*use, showing_warnings=True).err


@pytest.mark.parametrize("said", [["--size", 16], []])
def test_later_commands_read_images_that_have_the_size_already(scattergen, tmp_path, said):
    generator = np.random.default_rng(0)
    (tmp_path / "pets").mkdir()
    for i in range(30):
        Image.fromarray(generator.integers(0, 256, (16, 16), dtype=np.uint8)).save(tmp_path / "pets" / f"{i}.png")
    scattergen("fit", tmp_path / "pets", *said, "--out", tmp_path / "run", *SMALL)
    found = ["nearest", tmp_path / "run", "--images", tmp_path / "pets", "-n", 2, "--out", tmp_path / "near.png"]
    assert ".png (" in scattergen(*found).out


def test_fit_npy_of_oblong_images_and_use_them_from_a_folder(scattergen, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (40, 37, 50), dtype=np.uint8)
    np.save(tmp_path / "oblong.npy", images)
    run = tmp_path / "run"
    scattergen("fit", tmp_path / "oblong.npy", "--out", run, *SMALL)
    (tmp_path / "images").mkdir()
    for i in range(3):
        Image.fromarray(images[i]).save(tmp_path / "images" / f"{i}.png")
    scattergen("encode", run, tmp_path / "images", "--out", tmp_path / "a.npy", "-q")
    scattergen("encode", run, tmp_path / "oblong.npy", "--out", tmp_path / "b.npy", "-q")
    # In another batch, sums of 81 * 108 float32 coefficients of order 1 are reordered and divided
    # by standard deviations above 0.1: 9000 * 6e-8 / 0.1 < 1e-2, at worst.
    np.testing.assert_allclose(np.load(tmp_path / "a.npy"), np.load(tmp_path / "b.npy")[:3], rtol=0, atol=1e-2)


@pytest.mark.slow
def test_512_components_of_513_colour_images(scattergen, tmp_path):
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (533, 32, 32, 3), dtype=np.uint8)
    np.savez(tmp_path / "all.npz", x_train=images[:513], x_test=images[513:])
    fit = ["fit", tmp_path / "all.npz", "--out", tmp_path / "run", *SMALL]
    scattergen(*fit, "--set", "encoder.n_components=512", "--set", "encoder.J=1")
    model = sg.load(tmp_path / "run")
    assert model.sample(2).shape == (2, 3, 32, 32)
    np.savez(tmp_path / "fewer.npz", x_train=images[:512], x_test=images[512:])
    fit = ["fit", tmp_path / "fewer.npz", "--out", tmp_path / "new", *SMALL]
    error = scattergen(*fit, "--set", "encoder.n_components=512", code=2).err
    assert "set n_components to at most 511 (--set encoder.n_components=511)" in error


# Density


def test_density(scattergen, run_copy):
    args = ["density", run_copy, "mixture", "--set", "n_components=3", "--as", "mixture-3", "-q"]
    first = scattergen(*args)
    picture = run_copy / "pictures" / "density-mixture-3.png"
    assert first.out == f"Samples: {picture}\n"
    assert size(picture) == (8 * 84 + 7 * 2,) * 2  # 64 digits, enlarged three times
    assert sg.load(run_copy).densities["mixture-3"].n_components == 3
    file = stored(run_copy, "densities/mixture-3")
    before = file.read_bytes()
    again = scattergen(*args)
    assert "nothing to do" in again.out
    assert json.loads(scattergen(*args, "--json").out) == {
        "density": "mixture-3", "picture": str(picture), "finished_before": True
    }  # fmt: skip
    error = scattergen(*args, "--set", "shrinkage=1", "--seed", 4, code=2).err
    assert 'hyperparameters.shrinkage="auto" there, 1 now' in error
    assert "seed=0 there, 4 now" in error
    assert file.read_bytes() == before
    scattergen(*args, "--set", "shrinkage=1", "--overwrite")
    assert sg.load(run_copy).densities["mixture-3"].shrinkage == 1
    assert not file.exists()


def test_a_density_that_the_report_shows_is_not_replaced_by_another(scattergen, run_copy):
    replace = ["density", run_copy, "vae", "-q", "--overwrite", "--set", "beta=0.5"]
    file = stored(run_copy, "densities/vae")
    before = file.read_bytes()
    error = scattergen(*replace, code=2).err
    assert "whose report shows it" in error
    assert "--as NAME" in error
    assert file.read_bytes() == before
    scattergen("density", run_copy, "gaussian", "-q", "--overwrite")  # the same again


def test_a_refused_density_leaves_the_old_one_and_blocks_nothing(scattergen, run_copy):
    args = ["density", run_copy, "mixture", "-q", "--as", "fine", "--set"]
    assert "use at most 150" in scattergen(*args, "n_components=200", code=2).err
    scattergen(*args, "n_components=2")
    file = stored(run_copy, "densities/fine")
    before = file.read_bytes()
    assert "use at most 150" in scattergen(*args, "n_components=200", "--overwrite", code=2).err
    assert file.read_bytes() == before


# Sample


def test_samples_depend_on_seed_and_number_only(scattergen, fitted, tmp_path):
    def drawn(name, *options):
        out = tmp_path / f"{name}.npz"
        scattergen("sample", fitted, "--seed", 7, "-q", "--out", out, *options)
        return arrays(out)

    first, again = drawn("first", "-n", 64), drawn("again", "-n", 64)
    batches, few = drawn("batches", "-n", 64, "--batch-size", 9), drawn("few", "-n", 10)
    assert first["codes"].shape == (64, 16)
    assert first["images"].shape == (64, 1, 28, 28)
    assert first["images"].tobytes() == again["images"].tobytes()
    for other in (again, batches, few):
        n = len(other["codes"])
        assert other["codes"].tobytes() == first["codes"][:n].tobytes()
        np.testing.assert_allclose(other["images"], first["images"][:n], rtol=0, atol=REORDERED)
    other_seed = drawn("seed", "-n", 64, "--seed", 8)
    assert not np.isclose(other_seed["codes"], first["codes"]).any(1).all()
    model = sg.load(fitted)
    default = model.densities[model.best].sample(64, seed=7)
    assert torch.equal(torch.from_numpy(first["codes"]), default)


@pytest.mark.parametrize("density", ["gaussian", "vae", "gan"])
def test_the_density_is_chosen_by_name(scattergen, fitted, tmp_path, density):
    out = tmp_path / "a.npz"
    scattergen("sample", fitted, "--density", density, "-n", 5, "-q", "--out", out)
    expected = sg.load(fitted).densities[density].sample(5, seed=0)
    assert torch.equal(torch.from_numpy(arrays(out)["codes"]), expected)


def test_samples_in_every_form(scattergen, fitted, tmp_path):
    def sample(name):
        scattergen("sample", fitted, "-n", 10, "-q", "--out", tmp_path / name)
        return tmp_path / name

    images = arrays(sample("a.npz"))["images"]
    assert np.array_equal(np.load(sample("a.npy")), images)
    assert size(sample("a.png")) == (4 * 84 + 3 * 2, 3 * 84 + 2 * 2)
    folder = sample("new/folder")
    assert sorted(path.name for path in folder.iterdir()) == [f"{i}.png" for i in range(10)]
    pixels = np.stack([np.asarray(Image.open(folder / f"{i}.png")) for i in range(10)])
    assert np.array_equal(pixels, np.rint(images[:, 0] * 255).astype(np.uint8))
    sample("new/folder")  # the same files are replaced
    mixed = scattergen("sample", fitted, "-n", 9, "-q", "--out", folder, code=2).err
    assert "9.png" in mixed
    assert "new folder" in mixed


# Encode, decode, reconstruct, interpolate


def test_decoding_codes_is_reconstructing(scattergen, digits, fitted, tmp_path):
    codes, decoded, rebuilt = (tmp_path / f"{name}.npz" for name in ("codes", "decoded", "rebuilt"))
    scattergen("encode", fitted, digits, "--out", codes, "-q")
    scattergen("decode", fitted, codes, "--out", decoded, "-q")
    shown = json.loads(scattergen("reconstruct", fitted, digits, "--out", rebuilt, "-q", "--json").out)
    assert arrays(codes)["codes"].shape == (40, 16)
    assert arrays(decoded)["images"].tobytes() == arrays(rebuilt)["images"].tobytes()
    assert arrays(decoded)["codes"].tobytes() == arrays(codes)["codes"].tobytes()
    assert shown["n"] == 40
    stages = json.loads(scattergen("info", fitted, "--json").out)["stages"]
    assert shown["psnr"] == pytest.approx(stages["report"]["psnr"])
    scattergen("encode", fitted, digits, "--out", tmp_path / "codes.npy", "-q")
    assert np.array_equal(np.load(tmp_path / "codes.npy"), arrays(codes)["codes"])
    scattergen("decode", fitted, tmp_path / "codes.npy", "--out", tmp_path / "images.npy", "-q")
    assert np.array_equal(np.load(tmp_path / "images.npy"), arrays(decoded)["images"])


def test_reconstruct_shows_originals_above_reconstructions(scattergen, digits, fitted, tmp_path):
    out = tmp_path / "pairs.png"
    result = scattergen("reconstruct", fitted, digits, "-n", 10, "--out", out, "-q")
    assert re.fullmatch(rf"{re.escape(str(out))}: 10 items\.\nPSNR: \d+\.\d\d dB\n", result.out)
    assert size(out) == (8 * 84 + 7 * 2, 4 * 84 + 3 * 2)  # rows of 8, 8, 2 and 2
    scattergen("reconstruct", fitted, digits, "-n", 10, "--out", tmp_path / "images.npz", "-q")
    rebuilt = (arrays(tmp_path / "images.npz")["images"][:, 0] * 255).round().astype(np.uint8)
    # Enlarged three times, two pixels apart.
    for row, column, expected in [
        (0, 0, arrays(digits)["x_test"][0]),
        (1, 0, rebuilt[0]),
        (2, 1, arrays(digits)["x_test"][9]),
        (3, 1, rebuilt[9]),
    ]:
        whole = np.asarray(Image.open(out))[row * 86 :, column * 86 :]
        assert np.array_equal(whole[:84:3, :84:3], expected)
    assert (np.asarray(Image.open(out))[2 * 86 :, 2 * 86 :] == 255).all()


def test_interpolation_ends_at_the_reconstructions(scattergen, digits, fitted, tmp_path):
    out, rebuilt = tmp_path / "morph.npz", tmp_path / "rebuilt.npz"
    scattergen("interpolate", fitted, digits, "--from", 3, "--to", 9, "--steps", 5, "--out", out, "-q")
    scattergen("reconstruct", fitted, digits, "--out", rebuilt, "-q")
    morph, ends = arrays(out)["images"], arrays(rebuilt)["images"][[3, 9]]
    assert morph.shape == (5, 1, 28, 28)
    # Encoding in another batch reorders sums of 3969 coefficients of order 1 over standard
    # deviations above 0.1: codes differ by up to 4000 * 6e-8 / 0.1 = 2e-3, in practice by 1e-5.
    np.testing.assert_allclose(morph[[0, -1]], ends, rtol=0, atol=2e-3)
    scattergen("interpolate", fitted, digits, "--out", tmp_path / "morph.png", "-q")
    assert size(tmp_path / "morph.png") == (8 * 84 + 7 * 2, 84)
    error = scattergen("interpolate", fitted, digits, "--to", 40, "--out", out, code=2).err
    assert "no image 40" in error
    assert "0 to 39" in error


def test_mnist_stands_for_its_test_images(scattergen, fitted, tmp_path):
    scattergen("reconstruct", fitted, "mnist", "-n", 3, "--out", tmp_path / "a.npz", "-q")
    model = sg.load(fitted)
    expected = model.reconstruct(mnist().test[:3])
    assert torch.equal(torch.from_numpy(arrays(tmp_path / "a.npz")["images"]), expected)


# Info


def test_info(scattergen, fitted):
    shown = scattergen("info", fitted).out
    assert shown.startswith(f"{fitted}: complete; made by scattergen {sg.__version__}; files intact.")
    assert "densities/vae" in shown
    assert "dB PSNR" in shown
    facts = json.loads(scattergen("info", fitted, "--json").out)
    assert facts["complete"] is True
    assert facts["densities"] == ["gaussian", "mixture", "vae", "gan"]
    assert facts["options"]["encoder"]["n_components"] == 16
    assert list(facts["stages"])[:3] == ["encoder", "codes", "linear"]


@pytest.mark.parametrize(
    ("chosen", "said"),
    [(None, "16 components."), (16, "16 components."), (5, "16 components, of which densities model the first 5.")],
)
@pytest.mark.parametrize("saved", [False, True])
def test_info_says_how_many_components_densities_model(scattergen, fitted, monkeypatch, chosen, said, saved):
    """A fit may choose the number, which then is in its stage; models saved from Python have it in their options."""
    run, facts = RunFolder.open(fitted), {"n_components": chosen}
    stages = {name: stage for name, stage in run.stages.items() if name != "sampling"}
    monkeypatch.setattr(RunFolder, "stages", stages if saved else {**stages, "sampling": facts})
    monkeypatch.setattr(RunFolder, "options", {**run.options, "sampling": facts if saved else {"n_components": "auto"}})
    assert f"\nCodes: {said}\n" in scattergen("info", fitted).out


def test_info_of_a_model_saved_from_python(scattergen, fitted, tmp_path):
    sg.load(fitted).save(tmp_path / "saved")
    assert "complete" in scattergen("info", tmp_path / "saved").out
    error = scattergen("density", tmp_path / "saved", "mixture", "--as", "m", "-q", code=2).err
    assert "has no codes: " in error


# Options common to all


def test_quiet_and_progress(scattergen, fitted, tmp_path):
    loud = scattergen("sample", fitted, "--out", tmp_path / "a.npz")
    assert "decode" in loud.err
    assert "decode" not in loud.out
    assert scattergen("sample", fitted, "--out", tmp_path / "a.npz", "--quiet").err == ""
    assert json.loads(scattergen("sample", fitted, "--out", tmp_path / "a.npz", "--json").out) == {
        "out": str(tmp_path / "a.npz"), "n": 64, "density": sg.load(fitted).best, "seed": 0, "temperature": 1.0,
        "sharpen": 0
    }  # fmt: skip


def test_threads(scattergen, fitted, tmp_path):
    scattergen("sample", fitted, "--out", tmp_path / "a.npz", "-q", "--threads", 3)
    assert torch.get_num_threads() == 3


def test_ctrl_c_says_whether_work_is_kept(scattergen, digits, tiny, fitted, run_copy, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(sg.GenerativeScatteringNetwork, "decode", interrupted)
    result = scattergen("sample", fitted, "--out", run_copy / "a.npz", "-q", code=130)
    assert result.err == "interrupted: run it again.\n"
    monkeypatch.setattr(sg.GenerativeScatteringNetwork, "fit", interrupted)
    fit = ["fit", digits, "--out", run_copy, "-q", "--overwrite", "--seed", 1, *tiny]
    assert "the same command continues where it stopped" in scattergen(*fit, code=130).err


def test_a_run_can_be_moved(scattergen, run_copy, tmp_path):
    moved = shutil.move(run_copy, tmp_path / "elsewhere")
    scattergen("sample", moved, "--out", tmp_path / "a.npz", "-q")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["options", "mist"], "'mist' is unknown: choose one of 'mnist', 'celeba'"),
        (["fit", "mnist", "--limit", "x"], "'--limit': give an integer."),
        (["fit", "mnist", "--limit", "it's few"], "'--limit': give an integer."),
        (["fit", "mnist", "--limit", "1"], "'--limit': give at least 3."),
        (["sample", "run", "--out", "a.png", "--temperature", "x"], "'--temperature': give a number."),
        (["sample", "run", "--out", "a.png", "--sharpen", "2"], ("'--sharpen': give 0 to 1.", "give at most 1.")),
        (["fit", "mnist"], "name a new folder by --out."),
        (["samle", "run"], "No such command 'samle'. Did you mean 'sample'?"),
        (["samle\x1b[2J"], "No such command 'samle\\x1b[2J'."),
        (["sample", "run", "--outt", "a.png"], "No such option: --outt"),
        (["sample"], "Missing argument 'RUN'."),
    ],
)
def test_mistaken_arguments_are_refused_in_one_plain_sentence(scattergen, arguments, said):
    result = scattergen(*arguments, code=2)
    assert result.err.startswith("error: ")
    assert result.err.count("\n") == 1
    # Versions of typer say the first or the second.
    assert any(one in result.err for one in ([said] if isinstance(said, str) else said))
    assert result.out == ""


def test_without_arguments_the_commands_are_shown(scattergen):
    result = scattergen(code=2)
    assert "Fit encoder, decoder and densities" in result.out
    assert result.err == ""
