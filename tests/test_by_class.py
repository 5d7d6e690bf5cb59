"""Classes and temperature through models, runs and the command line."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import scattergen as sg
from scattergen import densities
from scattergen.datasets import ClassLabels, Dataset, ImageArray, Subset, class_labels, mnist, open_dataset
from scattergen.densities import ClassConditional, Gaussian
from scattergen.display.progress import SILENT
from scattergen.errors import InputError
from scattergen.pipeline.fit import FitOptions, fit_run
from scattergen.runs import RunFolder, Stages
from scattergen.stages.density import default_by_class
from scattergen.stages.fit import fit_parts

DIGITS = tuple("0123456789")


def arrays(path):
    with np.load(path) as archive:
        return dict(archive)


def size(path):
    with Image.open(path) as picture:
        return picture.size


@pytest.fixture(scope="module")
def by_class(scattergen, fitted, tmp_path_factory):
    """A run with a mixture per class, not to be changed."""
    run = shutil.copytree(fitted, tmp_path_factory.mktemp("by-class") / "run")
    args = ["density", run, "mixture", "--by-class", "--set", "n_components=1", "-q"]
    shown = scattergen(*args).out
    picture = run / "pictures" / "density-mixture-by-class.png"
    assert shown == f"Samples: {picture}\nIts rows: {', '.join(DIGITS)}\n"
    assert size(picture) == (8 * 84 + 7 * 2, 10 * 84 + 9 * 2)
    again = scattergen(*args)
    assert "nothing to do" in again.out
    assert json.loads(scattergen(*args, "--json").out) == {
        "density": "mixture-by-class", "picture": str(picture), "rows": list(DIGITS),
        "finished_before": True,
    }  # fmt: skip
    return run


# Labels of images


def test_classes_of_sources():
    labels, classes = class_labels(mnist().test)
    assert classes == DIGITS
    assert torch.equal(labels, mnist().test.labels)
    images = np.zeros((4, 8, 8), np.uint8)
    assert class_labels(ImageArray(images)) is None
    assert class_labels(torch.zeros(4, 1, 8, 8)) is None
    gaps = class_labels(ImageArray(images, [7, 3, -1, 3]))
    assert gaps.labels.tolist() == [2, 1, 0, 1]
    assert gaps.classes == ("-1", "3", "7")
    named = ImageArray(images, [2, 0, 2, 0], classes=["cat", "dog", "emu"])
    assert class_labels(named).classes == ("cat", "emu")
    assert class_labels(named).labels.tolist() == [1, 0, 1, 0]
    part = Subset(named, torch.tensor([1, 3]))
    assert class_labels(part).classes == ("cat",)
    with pytest.raises(InputError, match="Label 2 of the images has no name"):
        class_labels(ImageArray(images, [2, 0, 2, 0], classes=["cat", "dog"]))
    named.labels = torch.zeros(4)
    with pytest.raises(InputError, match=r"labels of the images are float32 of shape \(4,\)"):
        class_labels(named)


def test_an_archive_names_its_classes(tmp_path):
    path = tmp_path / "pets.npz"
    images = np.zeros((4, 8, 8), np.uint8)
    np.savez(path, images=images, labels=[0, 1, 1, 0], classes=["cat", "dog"])
    assert class_labels(open_dataset(path, test_fraction=0).train).classes == ("cat", "dog")


def test_a_run_keeps_the_labels(fitted, digits):
    tensors, metadata = RunFolder.open(fitted).read("codes")
    assert tensors["labels"].tolist() == arrays(digits)["y_train"].tolist()
    assert metadata == {"classes": list(DIGITS)}


def test_sub_folders_are_classes(scattergen, tmp_path):
    generator = np.random.default_rng(0)
    for i, kind in enumerate(("dark cats", "light dogs")):
        (tmp_path / "pets" / kind).mkdir(parents=True)
        for k in range(25):
            pixels = generator.integers(120 * i, 120 * i + 60, (16, 16), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pets" / kind / f"{k}.png")
    run, out = tmp_path / "run", tmp_path / "a.npz"
    options = ["encoder.n_components=4", "decoder.channels=[8,4]", "training.epochs=1"]
    options += ["densities.class_conditional.density=gaussian"]
    sets = [word for option in options for word in ("--set", option)]
    scattergen("fit", tmp_path / "pets", "--out", run, "-q", "--densities", "class_conditional", *sets)
    scattergen("sample", run, "--label", "light dogs,dark cats", "-n", 7, "--out", out, "-q")
    made = arrays(out)
    assert made["classes"].tolist() == ["dark cats", "light dogs"]
    assert made["labels"].tolist() == [1, 1, 1, 1, 0, 0, 0]
    model = sg.load(run)
    assert isinstance(model.densities["class_conditional"], ClassConditional)
    codes, labels = (RunFolder.open(run).read("codes")[0][name] for name in ("codes", "labels"))
    centres = torch.stack([codes[labels == c].mean(0) for c in range(2)])
    nearest = torch.cdist(torch.from_numpy(made["codes"]), centres).argmin(1)
    assert nearest.tolist() == made["labels"].tolist()
    error = scattergen("sample", run, "--label", "birds", "--out", out, code=2).err
    assert "no class 'birds': choose among dark cats, light dogs" in error
    scattergen("density", run, "class_conditional", "-q", "--as", "again", "--set", "density=gaussian")
    again = sg.load(run).densities["again"].sample(5)
    assert torch.equal(again, model.densities["class_conditional"].sample(5))
    replace = ["density", run, "class_conditional", "--overwrite", "-q", "--set"]
    scattergen(*replace, "density=gaussian")  # the same again
    assert "whose report shows it" in scattergen(*replace, "density=mixture", code=2).err


# Sampling classes


def test_samples_of_a_class(scattergen, by_class, tmp_path):
    def drawn(name, *options):
        scattergen("sample", by_class, "-q", "--seed", 4, "--out", tmp_path / name, *options)
        return tmp_path / name

    density = sg.load(by_class).densities["mixture-by-class"]
    threes = arrays(drawn("a.npz", "--label", 3))
    assert len(threes["images"]) == 64
    assert set(threes["labels"].tolist()) == {3}
    expected = density.sample(64, seed=4, labels=3)
    assert torch.equal(torch.from_numpy(threes["codes"]), expected)
    both = arrays(drawn("b.npz", "--label", "3,5", "--label", 0))
    assert both["labels"].tolist() == [3] * 8 + [5] * 8 + [0] * 8
    assert both["codes"][:8].tobytes() == threes["codes"][:8].tobytes()
    assert open_dataset(tmp_path / "b.npz", test_fraction=0).train.labels.tolist() == list(both["labels"])
    assert size(drawn("b.png", "--label", "3,5", "--label", 0))[1] == 3 * 84 + 2 * 2
    width, height = size(drawn("row.png", "--label", "3,5", "-n", 6))
    assert (width, height) == (3 * 84 + 2 * 2, 2 * 84 + 2)  # a row for each, of three
    parts = arrays(drawn("c.npz", "--label", "3,5,7", "-n", 8))
    assert parts["labels"].tolist() == [3, 3, 3, 5, 5, 5, 7, 7]
    assert parts["classes"].tolist() == list(DIGITS)
    named = arrays(drawn("d.npz", "--label", 3, "--density", "mixture-by-class", "-n", 5))
    assert named["codes"].tobytes() == threes["codes"][:5].tobytes()
    assert set(arrays(drawn("e.npz", "--density", "mixture-by-class", "-n", 5))) == {"images", "codes"}
    cold = arrays(drawn("f.npz", "--label", 3, "--temperature", 0.5))
    expected = density.sample(64, seed=4, labels=3, temperature=0.5)
    assert torch.equal(torch.from_numpy(cold["codes"]), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--label", "ten"], "no class 'ten': choose among 0, 1, 2"),
        (["--label", "3,"], "lacks a class: separate classes by commas, as in --label 3,5"),
        (["--label", "3,5", "-n", "1"], "-n 1 images cannot show 2 classes"),
        (["--label", "3", "--density", "mixture"], "The density mixture is not class-conditional: leave out"),
        (["--temperature", "-1"], "temperature=-1.0: give a number of at least 0"),
        (["--temperature", "nan"], "temperature=nan: give a number"),
        (["--temperature", "inf"], "temperature=inf: give a number"),
    ],
)
def test_classes_and_temperatures_that_cannot_be_sampled(scattergen, by_class, tmp_path, options, message):
    error = scattergen("sample", by_class, "--out", tmp_path / "a.png", *options, code=2).err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "a.png").exists()


def test_without_a_density_of_classes_a_label_says_how_to_fit_one(scattergen, fitted, tmp_path):
    error = scattergen("sample", fitted, "--label", 3, "--out", tmp_path / "a.png", code=2).err
    assert "no class-conditional density: fit one with" in error
    assert "mixture --by-class" in error


def test_temperature(scattergen, fitted, tmp_path):
    out = tmp_path / "a.npz"
    scattergen("sample", fitted, "-n", 5, "--temperature", 0.5, "-q", "--out", out)
    model = sg.load(fitted)
    expected = model.densities[model.best].sample(5, temperature=0.5)
    assert torch.equal(torch.from_numpy(arrays(out)["codes"]), expected)
    assert torch.equal(model.sample_codes(5, temperature=0.5), expected)
    assert torch.equal(model.sample(5, temperature=0.5), model.decode(expected))
    assert not torch.equal(model.sample_codes(5), expected)


def test_models_sample_classes(by_class):
    model = sg.load(by_class)
    codes = model.densities["mixture-by-class"].sample(4, seed=2, labels=["3", 5, 5, "0"])
    assert torch.equal(model.sample_codes(4, seed=2, labels=["3", 5, 5, "0"]), codes)
    assert torch.equal(model.sample(4, seed=2, labels=["3", 5, 5, "0"]), model.decode(codes))
    with pytest.raises(InputError, match="GaussianMixture is not class-conditional"):
        model.sample(4, "mixture", labels=3)
    del model.densities["mixture-by-class"]
    with pytest.raises(InputError, match="no class-conditional density: fit one"):
        model.sample(4, labels=3)


def test_models_fit_classes(fitted, tmp_path):
    model = sg.load(fitted)
    stored = RunFolder.open(fitted).read("codes")[0]
    density = model.fit_density("gaussian", stored["codes"], ClassLabels(stored["labels"], DIGITS))
    assert model.densities["gaussian-by-class"] is density
    model.save(tmp_path / "saved")
    loaded = sg.load(tmp_path / "saved")
    assert torch.equal(loaded.sample_codes(5, labels="7"), model.sample_codes(5, labels="7"))


# Fitting classes


def test_runs_without_labels_load_and_say_what_to_do(scattergen, run_copy, tmp_path):
    run = RunFolder.open(run_copy)
    codes = run.read("codes")[0]["codes"]
    # As before labels were kept.
    after = {"encoder": run.key("encoder")}
    run.write("codes", run.key("codes"), {"codes": codes}, {}, run.stages["codes"], after)
    scattergen("sample", run_copy, "-q", "--out", tmp_path / "a.png")
    scattergen("density", run_copy, "gaussian", "--as", "more", "-q")
    for name in ("mixture", "class_conditional"):
        error = scattergen("density", run_copy, name, "--by-class", "-q", code=2).err
        assert "holds no labels: fit it again from images with classes" in error
        assert error.count("\n") == 1


def test_a_fit_by_class_of_images_without_labels_is_refused_at_once(scattergen, tmp_path):
    np.save(tmp_path / "a.npy", np.random.default_rng(0).integers(0, 256, (60, 16, 16), np.uint8))
    fit = ["fit", tmp_path / "a.npy", "--out", tmp_path / "run", "-q"]
    error = scattergen(*fit, "--densities", "class_conditional", code=2).err
    assert 'density "class_conditional" needs images with classes' in error
    assert not (tmp_path / "run").exists()


def test_improved_keywords_under_the_users(scattergen, run_copy, monkeypatch):
    monkeypatch.setitem(densities.IMPROVED["vae"], "widths", [16])
    args = ["density", run_copy, "vae", "--improved", "-q", "--set", "epochs=1"]
    scattergen(*args, "--set", "beta=0.5")
    improved = sg.load(run_copy).densities["vae-improved"]
    assert (improved.beta, improved.widths, improved.noise) == (0.5, (16,), "full")
    args = ["density", run_copy, "gan", "--improved", "--by-class", "-q", "--set", "epochs=1"]
    scattergen(*args, "--set", "widths=[16]")
    both = sg.load(run_copy).densities["gan-improved-by-class"]
    assert both.classes_ == DIGITS
    assert both.keywords["loss"] == "relativistic"
    assert both.keywords["widths"] == [16]
    error = scattergen("density", run_copy, "mixture", "--improved", code=2).err
    assert '"mixture" has no improved variant' in error
    assert "no density" in scattergen("density", run_copy, "best", "--improved", code=2).err


def test_a_killed_density_by_class_keeps_its_finished_classes(scattergen, run_copy, monkeypatch, assert_nothing_left):
    gaussian = densities.Gaussian
    fit, fits = gaussian.fit, []

    class Kill(BaseException):
        pass

    def counted(self, z, **keywords):
        fits.append(len(z))
        if len(fits) == 4:
            raise Kill
        return fit(self, z, **keywords)

    monkeypatch.setattr(gaussian, "fit", counted)
    args = ["density", run_copy, "gaussian", "--by-class", "-q"]
    with pytest.raises(Kill):
        scattergen(*args)
    scattergen(*args)
    assert len(fits) == 11  # the fourth of ten twice
    assert_nothing_left(run_copy)


def test_a_class_with_too_few_codes_is_named(scattergen, run_copy):
    error = scattergen("density", run_copy, "mixture", "--by-class", "--set", "n_components=20", "-q", code=2).err
    assert 'error: Class "' in error
    assert "codes to fit to are too few for n_components=20" in error


def test_a_class_with_too_few_images_is_named_before_the_encoder_is_fitted(tmp_path):
    labels = torch.zeros(80, dtype=torch.int64)
    labels[7] = 1
    images = ImageArray(torch.rand(80, 1, 8, 8), labels)
    options = {
        "encoder": {"J": 1, "n_components": 6},
        "decoder": {"channels": [8, 4]},
        "training": {"epochs": 1},
        "densities": {"gaussian-by-class": {}},
    }
    with pytest.raises(InputError, match='Class "1": 1 codes are too few'):
        fit_run(Dataset("two classes", images, None), tmp_path / "run", FitOptions("auto", options))
    assert not (tmp_path / "run").exists()


# Keys that say what a density is


def test_the_density_command_takes_keys_too(scattergen, run_copy):
    args = ["density", run_copy, "gaussian-by-class", "-q", "--json"]
    assert json.loads(scattergen(*args).out)["density"] == "gaussian-by-class"
    assert isinstance(sg.load(run_copy).densities["gaussian-by-class"], ClassConditional)


def test_a_fit_takes_keys_with_endings(tmp_path):
    generator = torch.Generator().manual_seed(0)
    images = ImageArray(torch.rand(80, 1, 8, 8, generator=generator), torch.arange(80) % 2)
    run = RunFolder.start(tmp_path / "run", {})
    options = {
        "encoder": {"J": 1, "n_components": 6},
        "decoder": {"channels": [8, 4]},
        "training": {"epochs": 1},
        "densities": {"gaussian-by-class": {}, "vae-improved": {"epochs": 1, "n_components": 1, "n_latent": 2}},
    }
    model = sg.GenerativeScatteringNetwork(**vars(fit_parts(images, options, Stages(run, SILENT))))
    by_class, vae = model.densities.values()
    assert isinstance(by_class, ClassConditional)
    assert by_class.density == "gaussian"
    expected = {**densities.IMPROVED["vae"], "epochs": 1, "n_latent": 2, "n_components": 1}
    assert {name: densities.hyperparameters(vae)[name] for name in expected} == expected
    assert sg.load(run).densities.keys() == model.densities.keys()
    options["densities"] = {"gaussian-by-class": {}}
    with pytest.raises(InputError, match="needs images with classes"):
        sg.GenerativeScatteringNetwork.fit(images[:], options=options)
    for key, sentence in {
        "gaussian-improved": '"gaussian" has no improved variant',
        "diffusion-improved": 'no density "diffusion"',
    }.items():
        options["densities"] = {key: {}}
        with pytest.raises(InputError, match=sentence):
            sg.GenerativeScatteringNetwork.fit(images, options=options)


def test_classes_are_sampled_from_the_best_density_that_has_them():
    fitted = {"mixture-by-class": ClassConditional, "gaussian": Gaussian, "parzen-by-class": ClassConditional}
    assert default_by_class(fitted) == "mixture-by-class"
    assert default_by_class(fitted, "parzen-by-class") == "parzen-by-class"
    assert default_by_class(fitted, "gaussian") == "mixture-by-class"
