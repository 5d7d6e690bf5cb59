"""The commands that look around, files of options, pictures of every kind, and the page that lists all commands."""

import importlib.util
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from PIL import Image

import scattergen as sg
from scattergen.cli import app
from scattergen.cli.arguments import parse_changes
from scattergen.datasets.image_files import write_images
from scattergen.densities import improved_keywords, names
from scattergen.display.words import duration
from scattergen.errors import InputError
from scattergen.pipeline.browse import compare_runs
from scattergen.pipeline.estimate import StageEstimate, shortened
from scattergen.runs import RunFolder
from scattergen.stages.config import config_of, read_config, to_toml
from scattergen.stages.meanings import BY_IMAGES, density_options, fit_options
from scattergen.stages.options import check_options
from scattergen.stages.presets import override, preset

PAGE = Path(__file__).parents[1] / "docs" / "commands.md"


def arrays(path):
    with np.load(path) as archive:
        return dict(archive)


@pytest.fixture(scope="module")
def model(fitted):
    return sg.load(fitted)


@pytest.fixture(scope="module")
def other(model, tmp_path_factory):
    """The same model with other options, and one density, saved from Python: nothing of it was measured."""
    saved = sg.GenerativeScatteringNetwork(
        model.encoder, model.decoder, {"gaussian": model.densities["gaussian"]}, model.linear,
        options=override(model.options, {"training.epochs": 9, "training.shifts": 2}),
    )  # fmt: skip
    path = tmp_path_factory.mktemp("other") / "saved"
    saved.save(path)
    return path


# List, compare


def test_list_tells_of_every_run_below_a_folder(scattergen, fitted, tmp_path):
    (tmp_path / "a" / "damaged").mkdir(parents=True)
    (tmp_path / "a" / "damaged" / "run.json").write_text("{")
    (tmp_path / "a" / "no run").mkdir()
    shutil.copytree(fitted, tmp_path / "b")
    damaged, run = json.loads(scattergen("list", tmp_path, "--json").out)
    assert "is damaged" in damaged["problem"]
    facts = RunFolder.open(fitted).stages["report"]
    assert run["run"] == str(tmp_path / "b")
    assert (run["data"], run["n"], run["image_shape"], run["complete"]) == ("digits", 300, [1, 28, 28], True)
    assert (run["psnr"], run["best"]) == (facts["psnr"], facts["best"])
    assert run["densities"] == ["gaussian", "mixture", "vae", "gan"]
    assert run["bytes"] == sum(file.stat().st_size for file in fitted.rglob("*") if file.is_file())
    shown = scattergen("list", tmp_path).out
    assert "300 of digits" in shown
    assert f"{facts['psnr']:.4g}" in shown
    assert f"{facts['best']} (best)" in shown
    assert "run.json is damaged" in shown
    assert "There is no folder" in scattergen("list", tmp_path / "c", code=2).err
    assert scattergen("list", tmp_path / "a" / "no run").out == f"There are no runs in {tmp_path / 'a' / 'no run'}.\n"
    assert json.loads(scattergen("list", tmp_path / "a" / "no run", "--json").out) == []


def test_compare_shows_what_differs(scattergen, fitted, other, model, tmp_path):
    out = tmp_path / "rows.png"
    found = json.loads(scattergen("compare", fitted, other, "--json", "--out", out, "-n", 3).out)
    assert found["options"]["training.epochs"] == [3, 9]
    assert found["options"]["training.shifts"] == [0, 2]  # of which the first is the default
    assert all(any(value not in (None, {}, []) for value in row) for row in found["options"].values())
    assert "encoder.n_components" not in found["options"]
    stages = RunFolder.open(fitted).stages
    row = stages["report"]["judgement"]["rows"]["vae"]
    assert found["measured"]["kernel·1000, vae"] == [[row["kernel"], row["standard_error"]], None]
    assert found["measured"]["seconds, vae"] == [stages["densities/vae"]["seconds"], None]
    seconds = found["measured"]["seconds, all stages"][0]
    assert seconds == sum(stage.get("seconds", 0) for name, stage in stages.items() if name != "report")
    assert f"<b>{duration(seconds)}</b>".replace(" ", "\N{NO-BREAK SPACE}") in (fitted / "report.html").read_text()
    assert found["measured"]["dB PSNR"] == [stages["report"]["psnr"], None]
    write_images(tmp_path / "alone.png", model.sample(3, "gaussian", 0), columns=3)
    below = np.asarray(Image.open(out))[86:]
    assert np.array_equal(below, np.asarray(Image.open(tmp_path / "alone.png")))
    assert "training.epochs" in scattergen("compare", fitted, other).out
    rows = json.loads(scattergen("compare", other, fitted, "--json").out)["measured"]
    assert [row for row in rows if "vae" in row or "gan" in row] == [
        "seconds, vae", "seconds, gan", "kernel·1000, vae", "kernel·1000, gan"
    ]  # fmt: skip
    assert "name two runs" in scattergen("compare", fitted, code=2).err


def test_distances_in_other_features_are_not_compared(fitted, run_copy):
    run = RunFolder.open(run_copy)
    run._record.stages["report"].facts["judgement"] |= {"features": ["other", "1"], "n_test": 100}
    found = compare_runs([RunFolder.open(fitted), run])["measured"]
    assert found["judged by"][1] == "other 1, 100 test images"
    assert [one is None for one in found["kernel·1000, vae"]] == [False, True]


def test_compared_samples_of_other_sizes_are_enlarged(scattergen, fitted, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (30, 14, 14, 3), dtype=np.uint8)
    small = {"encoder": {"J": 1, "n_components": 4}, "decoder": {"channels": [4, 4]}}
    options = {**small, "training": {"epochs": 1}, "densities": {"gaussian": {}}}
    sg.GenerativeScatteringNetwork.fit(pixels, options=options).save(tmp_path / "small")
    scattergen("compare", fitted, tmp_path / "small", "-n", 2, "--out", tmp_path / "rows.npy")
    assert np.load(tmp_path / "rows.npy").shape == (4, 3, 28, 28)


# Nearest, edit


def test_training_images_are_nearest_to_themselves(scattergen, fitted, digits, model, tmp_path):
    own = arrays(digits)["x_train"][[7, 2, 299]]
    np.save(tmp_path / "own.npy", own)
    command = ["nearest", fitted, tmp_path / "own.npy", "--images", digits, "-k", 2, "-q"]
    found = json.loads(scattergen(*command, "--json", "--out", tmp_path / "a.npy").out)
    assert [row[0] for row in found["nearest"]] == [7, 2, 299]
    # In another batch 4,000 sums of coefficients of order 1 are rounded otherwise.
    assert max(row[0] for row in found["distances"]) < 4000 * 6e-8
    assert min(row[1] for row in found["distances"]) > 0.01
    coefficients = model.encoder.features(torch.from_numpy(arrays(digits)["x_train"][:, None] / np.float32(255)))
    leading = (coefficients @ model.encoder.whitening.components_.float().T).double()
    assert found["nearest"] == torch.cdist(leading[[7, 2, 299]], leading).argsort(1)[:, :2].tolist()
    shown = (np.load(tmp_path / "a.npy").reshape(3, 3, 28, 28) * 255).round()
    assert np.array_equal(shown[:, 0], own)
    assert np.array_equal(shown[:, 1], own)
    assert "299 (0.00)" in scattergen(*command).out


def test_nearest_to_samples(scattergen, fitted, model):
    found = json.loads(scattergen("nearest", fitted, "--density", "vae", "--seed", 3, "-n", 5, "--json").out)
    # Principal components before whitening, from the coefficients themselves.
    known = RunFolder.open(fitted).read("codes")[0]["codes"].double()
    scale = model.encoder.whitening.explained_variance_.sqrt()
    distances = torch.cdist(model.sample_codes(5, "vae", 3) * scale, known * scale)
    assert found["nearest"] == distances.argsort(1)[:, :5].tolist()
    np.testing.assert_allclose(found["distances"], distances.sort(1).values[:, :5], rtol=1e-6)


def test_what_nearest_cannot_use(scattergen, fitted, digits, other, tmp_path):
    out = ["--out", tmp_path / "a.png"]
    assert "fitted to: name them by --images" in scattergen("nearest", fitted, *out, code=2).err
    assert "does not hold the images" in scattergen("nearest", fitted, *out, "--images", "mnist", code=2).err
    assert "ask for fewer" in scattergen("nearest", fitted, "-k", 301, code=2).err
    assert "--density" in scattergen("nearest", fitted, digits, "--density", "vae", code=2).err
    assert "has no codes" in scattergen("nearest", other, code=2).err
    assert not (tmp_path / "a.png").exists()


def test_edit_moves_components(scattergen, fitted, digits, model, tmp_path):
    edit = ["edit", fitted, "--component", "2=+1.5", "--component", "16=-3", "-q", "--out", tmp_path / "a.npy"]
    code = model.sample_codes(5, model.best, 7)[4:]
    ends = torch.cat([code, code])
    ends[1, 1] += 1.5
    ends[1, 15] -= 3
    facts = json.loads(scattergen(*edit, "--seed", 7, "--row", 4, "--json").out)
    assert facts["components"] == {"2": 1.5, "16": -3.0}
    assert facts["density"] == model.best
    np.testing.assert_allclose(np.load(tmp_path / "a.npy"), model.decode(ends, sharpen=model.sharpen), atol=1e-5)
    scattergen(*edit, "--image", digits, "--row", 4, "--steps", 3)
    expected = model.reconstruct(torch.from_numpy(arrays(digits)["x_test"][4:5, None] / np.float32(255)))
    np.testing.assert_allclose(np.load(tmp_path / "a.npy")[:1], expected, atol=1e-5)
    assert np.load(tmp_path / "a.npy").shape == (3, 1, 28, 28)
    assert "1 to 16" in scattergen(*edit, "--component", "17=1", code=2).err
    assert "0 to 39" in scattergen(*edit, "--image", digits, "--row", 40, code=2).err


@pytest.mark.parametrize("text", ["3", "=2", "3=", "x=1", "3=nan", "3=inf", "-1=2", "3=1=2", ""])
def test_changes_that_are_none(text):
    with pytest.raises(InputError, match="write NUMBER=CHANGE"):
        parse_changes([text])


# Pictures


def test_pictures_of_every_kind(scattergen, fitted, tmp_path):
    kinds = {"a.jpg": "JPEG", "a.JPEG": "JPEG", "a.webp": "WEBP", "a.png": "PNG"}
    pixels = {}
    for name, kind in kinds.items():
        scattergen("sample", fitted, "-n", 6, "-q", "--out", tmp_path / name)
        with Image.open(tmp_path / name) as picture:
            assert picture.format == kind
            pixels[name] = np.asarray(picture.convert("L")).astype(int)
    assert np.array_equal(pixels["a.webp"], pixels["a.png"])  # lossless
    assert np.abs(pixels["a.jpg"] - pixels["a.png"]).mean() < 4  # of 255, at quality 95
    sg.report.save_image_grid(torch.zeros(1, 1, 8, 8), tmp_path / "b.jpg")
    assert (tmp_path / "b.jpg").read_bytes().startswith(b"\xff\xd8")


def test_a_picture_that_is_too_large_for_its_format(tmp_path):
    with pytest.raises(InputError, match=r"cannot be a WEBP file .*: name a \.png"):
        write_images(tmp_path / "a.webp", torch.zeros(1, 1, 2, 17_000))
    assert not [*tmp_path.iterdir()]


def test_a_morph_of_classes_goes_there_and_back(scattergen, fitted, digits, tmp_path):
    labels = arrays(digits)["y_test"].tolist()
    rows = [labels.index(7), labels.index(1)]
    morph = ["interpolate", fitted, digits, "-q", "--steps", 5]
    by_label = [*morph, "--from-label", 7, "--to-label", 1, "--out"]
    assert json.loads(scattergen(*by_label, tmp_path / "a.gif", "--json").out)["rows"] == rows
    scattergen(*morph, "--from", rows[0], "--to", rows[1], "--out", tmp_path / "a.npy")
    expected = (np.load(tmp_path / "a.npy")[:, 0] * 255).round()
    with Image.open(tmp_path / "a.gif") as film:
        assert film.n_frames == 8
        assert film.info["loop"] == 0
        for frame, still in enumerate((0, 1, 2, 3, 4, 3, 2, 1)):
            film.seek(frame)
            assert np.array_equal(np.asarray(film.convert("L"))[::3, ::3], expected[still])


def test_classes_that_are_not_there(scattergen, fitted, digits, tmp_path):
    morph = ["interpolate", fitted, digits, "--out", tmp_path / "a.gif"]
    assert "its classes are 0, 1, 2" in scattergen(*morph, "--to-label", "x", code=2).err
    assert "leave out one" in scattergen(*morph, "--from", 1, "--from-label", 7, code=2).err
    np.save(tmp_path / "plain.npy", arrays(digits)["x_test"])
    morph[2] = tmp_path / "plain.npy"
    assert "have no classes" in scattergen(*morph, "--to-label", "1", code=2).err


def test_sample_tells_how_samples_were_made(scattergen, fitted, tmp_path):
    sample = ["sample", fitted, "-n", 2, "--seed", 5, "--temperature", 0.5, "--out", tmp_path / "a.png", "--json"]
    told = {"out": str(tmp_path / "a.png"), "n": 2, "density": "vae", "seed": 5, "temperature": 0.5, "sharpen": 0}
    assert json.loads(scattergen(*sample, "--density", "vae").out) == told
    assert "has no sharpening" in scattergen(*sample, "--sharpen", 0.5, code=2).err
    assert json.loads(scattergen(*sample, "--sharpen", 0).out)["sharpen"] == 0


# Files of options


def test_a_file_of_options_fits_the_same(scattergen, fitted, digits, tmp_path):
    """Finished before with the same options: seed, preset, densities and all that was set."""
    file = tmp_path / "fit.toml"
    file.write_text(scattergen("info", fitted, "--config").out)
    told = json.loads(scattergen("info", fitted, "--config", "--json").out)
    assert to_toml(told) == file.read_text()
    fit = ["fit", digits, "--out", fitted, "-q", "--config", file]
    assert json.loads(scattergen(*fit, "--json").out)["finished_before"]
    # The command line goes before the file.
    assert "seed=0 there, 1 now" in scattergen(*fit, "--seed", 1, code=2).err
    error = scattergen(*fit, "--set", "densities.vae.beta=0.5", code=2).err
    assert "other options (densities.vae.beta=unset there, 0.5 now)" in error
    file.write_text(f'images = "{digits}"\nout = "{fitted}"\n{file.read_text()}')
    assert json.loads(scattergen("fit", "-q", "--config", file, "--json").out)["finished_before"]


def test_a_file_of_options_says_how_images_were_read(tmp_path):
    made = {
        "preset": "auto",
        "seed": 2,
        "training": {"patience": None, "loss": "a\x7f\u202eé😀"},
        "densities": {"a.b": {}},
    }
    read = {"limit": 9, "crop": 20, "converted": ["size"]}
    for preset_name, data, channels, wanted in [
        ("auto", {**read, "size": 16}, None, {"limit": 9, "crop": 20, "size": 16}),
        ("auto", {**read, "size": None}, 1, {"limit": 9, "crop": 20}),  # as grey as the files are
        ("auto", {"converted": []}, 3, {}),  # no files, so that they have no size
        ("auto", {"converted": [], "size": 16}, 1, {"size": 16}),
        ("auto", {"converted": ["mode"], "size": None}, None, {}),
        ("auto", {"converted": ["mode"], "size": None}, 1, {"mode": "L"}),
        ("auto", {"converted": ["mode"], "size": None}, 3, {"mode": "RGB"}),
        ("celeba", {**read, "size": 64}, 3, {"limit": 9, "size": 64}),  # which crops by itself,
        ("celeba", {"converted": ["mode"], "size": 64}, 3, {"size": 64}),  # and is in colour
    ]:
        (tmp_path / "a.toml").write_text(to_toml(config_of({**made, "preset": preset_name, "data": data}, channels)))
        names = ["preset", "seed", "densities", "limit", "crop", "size", "mode"]
        arguments, changes = read_config(tmp_path / "a.toml", names)
        assert arguments == {"preset": preset_name, "seed": 2, "densities": "a.b", **wanted}
        assert changes == {"training.patience": None, "training.loss": "a\x7f\u202eé😀"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("epochs = 3", 'has "epochs", which is no argument of fit'),
        ("training = 3", 'has "training", which is no argument of fit'),
        ("[densities]\nvae = 3", "make it a section, [densities.vae]"),
        ("[encoder\n", "is no TOML file"),
        ("\xff", "is no TOML file"),
        ("[encoder]\nJJ = 3", 'has no option "JJ"'),
        ('densities = ["gaussian", "x"]', 'There is no density "x"'),
        ("[sampling]\ndensity = 1979-05-27", "give the name of a density, or null"),
        ('[sampling]\ndensity = "x"', 'sampling.density="x" is not among'),
        ("[densities.x]\n", 'There is no density "x"'),
        ('seed = "x"', "--seed"),
        (None, "cannot be read"),
    ],
)
def test_files_of_options_that_cannot_be_used(scattergen, digits, tmp_path, content, said):
    if content is not None:
        (tmp_path / "fit.toml").write_bytes(content.encode("latin-1"))
    fit = ["fit", digits, "--out", tmp_path / "run", "-q", "--config", tmp_path / "fit.toml"]
    error = scattergen(*fit, code=2).err
    assert said in " ".join(error.replace("│", " ").split())
    assert not (tmp_path / "run").exists()


# Options


@pytest.mark.parametrize("name", ["auto", "mnist", "celeba", "celeba-light", "celeba-2019"])
def test_every_option_is_listed_with_its_value_and_meaning(name):
    shape = {"mnist": (1, 28, 28), "celeba-2019": (3, 64, 64)}.get(name, (3, 128, 128))
    wanted = preset(name, shape, 20_000)
    found = fit_options(name)
    listed = {option.name: option.value for option in found}
    assert all(re.match(r'[A-Z"]', option.meaning) and len(option.meaning) < 250 for option in found)
    for section in ("encoder", "decoder", "training", "sampling"):
        for keyword, value in wanted.get(section, {}).items():
            assert listed[f"{section}.{keyword}"] in (value, BY_IMAGES)
    known = {one: value for one, value in listed.items() if value != BY_IMAGES}
    check_options(override({"sampling": {}, **wanted}, known), shape, 20_000)  # which takes them all


def test_the_density_to_sample_may_be_one_to_add():
    options = {**preset("mnist", (1, 28, 28), 20_000), "sampling": {"density": "gan"}}
    assert "gan" not in options["densities"]
    check_options(options, (1, 28, 28), 20_000)


@pytest.mark.parametrize("name", names())
def test_every_option_of_a_density_is_listed(name):
    assert all(option.meaning for option in density_options(name))


def test_meanings_name_nothing_internal():
    told = [one.meaning for name in ("auto", "mnist") for one in fit_options(name)]
    told += [one.meaning for name in names() for one in density_options(name)]
    assert not [one for one in told if re.search(r"[a-z]{2}[A-Z][a-z]|[A-Z]{6}|\bsee [a-z]*[A-Z._]", one)]


def test_options_are_shown(scattergen):
    shown = scattergen("options", "mnist").out
    assert re.search(r"training\.epochs +4 +Passes over the data", shown)
    beta = {row["name"]: row for row in json.loads(scattergen("options", "--density", "vae-improved", "--json").out)}
    assert beta["beta"]["value"] == improved_keywords("vae")["beta"]
    assert 'no density "x"' in scattergen("options", "--density", "x", code=2).err


# Metrics elsewhere


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="the extra tensorboard is not installed")
def test_tensorboard_is_told_of_trainings(scattergen, run_copy):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    density = ["density", run_copy, "vae", "-q", "--set", "epochs=3", "--set", "widths=[8]", "--as"]
    scattergen(*density, "mine")
    assert not (run_copy / "tensorboard").exists()
    scattergen(*density, "other", "--log", "tensorboard")
    events = EventAccumulator(str(run_copy / "tensorboard")).Reload()
    history = sg.load(run_copy, densities=["other"]).densities["other"].history_
    for name in ("loss", "validation/loss"):
        told = events.Scalars(f"densities/other/{name}")
        assert [event.value for event in told] == pytest.approx([row[name] for row in history])
    assert json.loads(scattergen("info", run_copy, "--json").out)["complete"]


def test_tensorboard_that_is_missing(scattergen, fitted, monkeypatch):
    for name in ("_TENSORBOARD_AVAILABLE", "_TENSORBOARDX_AVAILABLE"):
        monkeypatch.setattr(f"lightning_fabric.loggers.tensorboard.{name}", False)
    density = ["density", fitted, "vae", "-q", "--as", "more", "--log", "tensorboard"]
    assert "pip install 'scattergen[tensorboard]'" in scattergen(*density, code=2).err


# All commands


@pytest.mark.skipif(not PAGE.exists(), reason="the documentation is not in this copy")
def test_the_page_names_every_command_and_option():
    sections = re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)
    texts = {section.partition("\n")[0].strip("`"): section for section in sections}
    for name, command in typer.main.get_command(app).commands.items():
        assert f"scattergen {name}" in texts[name]
        options = [one.opts[0] for one in command.params if one.param_type_name == "option" and one.name != "help"]
        missing = [option for option in options if f"`{option}" not in sections[0] + texts[name]]
        assert not missing, f"{PAGE.name} does not name {missing} of {name}"


@pytest.mark.skipif(not PAGE.exists(), reason="the documentation is not in this copy")
def test_the_file_on_the_page_can_be_used(tmp_path):
    (tmp_path / "fit.toml").write_text(PAGE.read_text().partition("```toml\n")[2].partition("```")[0])
    arguments, changes = read_config(tmp_path / "fit.toml", ["preset", "seed", "size", "densities"])
    assert arguments == {"preset": "auto", "seed": 0, "size": 64, "densities": "mixture,vae"}
    options = preset("auto", (3, 64, 64), 2000) | {"densities": {"mixture": {}, "vae": {}}}
    check_options(override(options, changes), (3, 64, 64), 2000)


# What is told of a run


def test_how_wide_codes_are(scattergen, fitted, other):
    assert "Codes: 16 components.\n" in scattergen("info", fitted).out
    measured = json.loads(scattergen("compare", fitted, other, "--json").out)["measured"]
    assert measured["seconds, all stages"][0] > 0
    assert measured["seconds, all stages"][1] is None  # of a model saved from Python


def test_a_damaged_density_is_made_again(scattergen, run_copy):
    file = RunFolder.open(run_copy).file("densities/gaussian")
    content = file.read_bytes()
    file.write_bytes(content[:-1] + b"x")
    other = ["density", run_copy, "gaussian", "-q", "--set", "n_effective=5"]
    assert "belongs to the fit" in scattergen(*other, code=2).err
    for _ in range(2):  # without and with its picture
        assert "is made again" in scattergen("density", run_copy, "gaussian", "-q", showing_warnings=True).err
        assert file.read_bytes()[-1:] == content[-1:]
        file.write_bytes(content[:-1] + b"x")
    scattergen("density", run_copy, "gaussian", "-q", showing_warnings=True)
    assert "files intact" in scattergen("info", run_copy).out


def test_an_estimate_within_a_time(scattergen, digits, tiny):
    estimate = ["fit", digits, "--estimate", "-q", *tiny]
    assert "takes at least" in scattergen(*estimate, "--max-time", "0.01s", code=2).err


def test_an_estimate_of_a_shortened_training():
    stages = [StageEstimate("encoder", 5.0, 1), StageEstimate("decoder", 40.0, 2), StageEstimate("report", 1.0, 1)]
    found = shortened(stages, {"training": {"epochs": 4}}, 27.0)  # 21 s for the decoder, 10 an epoch
    assert [one.seconds for one in found] == [5.0, 20.0, 1.0]
    assert shortened(stages, {"training": {"epochs": 4}}, 99.0) == stages


def test_distances_by_other_means_are_not_compared(scattergen, fitted, run_copy, digits, tmp_path):
    other = shutil.copytree(fitted, tmp_path / "other")
    for path, n in ((run_copy, 40), (other, 30)):
        scattergen("evaluate", path, "--images", digits, "--density", "gaussian", "-n", n, "-q")
    measured = json.loads(scattergen("compare", run_copy, other, "--json").out)["measured"]
    assert [one.partition(", ")[2] for one in measured["evaluated by"]] == [
        "40 images against digits, test",
        "30 images against digits, test",
    ]
    assert measured["Fréchet, gaussian"][0] is not None
    assert measured["Fréchet, gaussian"][1] is None
