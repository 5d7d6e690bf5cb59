"""`scattergen evaluate`: scores of a run's densities beside those of real images."""

import json
import statistics

import numpy as np
import pytest
import torch
from PIL import Image

import scattergen as sg
from scattergen.datasets import open_dataset
from scattergen.evaluation import DigitFeatures, evaluate
from scattergen.runs import RunFolder

REFERENCES = ["training images", "decoded training codes", "decoded test codes"]
DENSITIES = ["gaussian", "mixture", "vae", "gan"]


@pytest.fixture
def evaluated(scattergen, digits, run_copy):
    """Evaluates the copy of the small run with the digits' features."""

    def call(*arguments, **how):
        every = ["--images", digits, "--features", "digits", "-n", 40, "-q"]
        return scattergen("evaluate", run_copy, *every, *arguments, **how)

    return call


def test_the_table_names_references_and_densities(drawing, evaluated, run_copy):
    lines = evaluated().out.splitlines()
    assert lines[0] == "40 images in a row against digits, test; features mnist-classifier 1; seed 0."
    names = [line.split("  ")[0] for line in lines[2:]]
    assert names[:7] == [*REFERENCES, *DENSITIES]
    assert lines[-2:] == [
        f"Scores:  {run_copy / 'evaluation.json'}",
        f"Picture: {run_copy / 'pictures' / 'evaluation.png'}",
    ]
    with Image.open(run_copy / "pictures" / "evaluation.png") as picture:
        assert picture.size == (800, 700)


def test_scores_are_those_of_the_features(evaluated, digits, run_copy):
    found = json.loads(evaluated("--density", "mixture", "--json", "--seed", 5).out)
    assert found == json.loads((run_copy / "evaluation.json").read_text())
    assert list(found["rows"]) == [*REFERENCES, "mixture"]
    assert found["features"] == {"name": "mnist-classifier", "version": "1"}
    data, model, extract = open_dataset(digits), sg.load(run_copy), DigitFeatures()
    numbers = np.sort(np.random.default_rng(5).choice(300, 40, replace=False))
    tables = {
        "training images": extract(data.train[:])[numbers],
        "decoded test codes": extract(model.reconstruct(data.test)),
        "mixture": extract(model.sample(40, "mixture", seed=5)),
    }
    expected = evaluate(tables, extract(data.test), train=extract(data.train), seed=5)
    for name, row in expected.items():
        # Other batches round the features otherwise, by about 1e-6 of distances of order 1 to 100.
        assert found["rows"][name]["frechet"]["value"] == pytest.approx(row.frechet.value, rel=1e-3, abs=1e-4)
    stages = RunFolder.open(run_copy).stages
    assert found["rows"]["mixture"]["training_seconds"] == stages["densities/mixture"]["seconds"]
    assert found["rows"]["mixture"]["images_per_second"] > 0
    assert found["rows"]["training images"]["training_seconds"] is None
    assert found["rows"]["mixture"]["frechet_by_seed"] == [found["rows"]["mixture"]["frechet"]["value"]]


def test_likelihoods_are_those_of_codes(evaluated, digits, run_copy):
    table = evaluated("--seed", 5).out
    rows = json.loads((run_copy / "evaluation.json").read_text())["rows"]
    data, model = open_dataset(digits), sg.load(run_copy)
    assert len(data.test) <= 40  # so that all are taken
    z = model.encode(data.test)
    for key in ("gaussian", "mixture"):
        values = model.densities[key].log_prob(z).double()
        error = (values.var() / len(z)).sqrt().item()
        found = rows[key]["log_likelihood"]
        # Other batches round float32 codes otherwise, by about 1e-6.
        assert found["value"] == pytest.approx(values.mean().item(), rel=1e-4)
        assert found["standard_error"] == pytest.approx(error, rel=1e-3)
        assert f"{found['value']:.1f} ± {found['standard_error']:.1f}" in table
        numbers = np.sort(np.random.default_rng(6).choice(300, 40, replace=False))
        trained_on = model.densities[key].log_prob(model.encode(data.train[torch.from_numpy(numbers)]))
        found = rows[key]["training_log_likelihood"]["value"]
        assert found == pytest.approx(trained_on.mean().item(), rel=1e-4)
    for key in ("vae", "gan", "training images"):
        assert rows[key]["log_likelihood"] is rows[key]["training_log_likelihood"] is None
    assert next(x for x in table.splitlines() if x.startswith("gan") and "-" in x).split()[1] == "-"


def test_an_impossible_code_has_no_likelihood_in_json(evaluated, run_copy, monkeypatch):
    def impossible(self, z):
        return torch.full((len(z),), -torch.inf).index_fill(0, torch.tensor([0]), -1.0)

    monkeypatch.setattr(sg.densities.Gaussian, "log_prob", impossible)
    assert "-inf" in evaluated("--density", "gaussian").out
    row = json.loads((run_copy / "evaluation.json").read_text())["rows"]["gaussian"]
    assert row["log_likelihood"] is None


def test_repeats_are_the_scores_of_the_next_seeds(evaluated, run_copy):
    one = ["--density", "mixture,gaussian", "--json"]
    alone = [json.loads(evaluated(*one, "--seed", seed).out)["rows"] for seed in (3, 4, 5)]
    table = evaluated(*one[:2], "--seed", 3, "--repeats", 3).out
    rows = json.loads((run_copy / "evaluation.json").read_text())["rows"]
    for key in ("mixture", "gaussian"):
        values = rows[key]["frechet_by_seed"]
        assert values == [row[key]["frechet"]["value"] for row in alone]
        assert rows[key]["frechet"] == alone[0][key]["frechet"]
        assert f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}" in table
    assert "Fréchet, 3 seeds" in table
    assert "seeds" not in evaluated(*one[:2]).out


def test_few_images_are_compared_with_a_thousand_samples(scattergen, digits, run_copy):
    shown = scattergen("evaluate", run_copy, "--images", digits, "--density", "gaussian", "--json", "-q")
    assert json.loads(shown.out)["n"] == 1000


def test_copies_are_named(evaluated, digits, run_copy, monkeypatch):
    assert "copies training" not in evaluated().out
    train = open_dataset(digits).train
    # The decoder of this small run blurs, so that even decoded training codes are no copies.
    monkeypatch.setattr(
        sg.GenerativeScatteringNetwork, "decode", lambda self, z, *_, **__: train[torch.arange(len(z)) % len(train)]
    )
    lines = evaluated("-n", 300, "--density", "mixture").out.splitlines()
    line = lines[-3]
    assert line.startswith("The density mixture copies training images (p = 0.0001): 100.0%")
    assert sum("copies training" in line for line in lines) == 1  # not of the references
    found = json.loads((run_copy / "evaluation.json").read_text())["rows"]
    assert found["mixture"]["memorisation"]["copies"] is True
    # Compared with training images, nobody can tell.
    assert "copies training" not in evaluated("-n", 100, "--against", "train").out
    found = json.loads((run_copy / "evaluation.json").read_text())["rows"]
    assert found["mixture"]["memorisation"] is None


def test_other_images_to_compare_with(evaluated, digits, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    for i, image in enumerate(open_dataset(digits).test[:25]):
        pixels = Image.fromarray((image[0] * 255).byte().numpy()).convert("RGB").resize((56, 56))
        pixels.save(folder / f"{i:02}.png")
    few = ["--density", "gaussian", "--json", "--against"]
    shown = evaluated(*few, folder, showing_warnings=True)
    assert f"The images of {folder} are made grey and resized from 56×56 to 28×28, as those of the run" in shown.err
    found = json.loads(shown.out)
    assert found["against"] == "folder"
    assert found["rows"]["gaussian"]["n_reference"] == 25
    found = json.loads(evaluated(*few, "train").out)
    assert found["against"] == "digits, training"
    assert found["rows"]["gaussian"]["n_reference"] == 40
    # Other training images: compared with itself, a table would be at 0.
    assert found["rows"]["training images"]["frechet"]["value"] > 1e-3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--density", "diffusion"], 'no density "diffusion": it has gaussian, mixture, vae, gan'),
        (["--density", "gaussian,"], "lacks a name"),
        (["--against", "nowhere/"], "nowhere"),
        (["--repeats", "0"], "give at least 1."),
        (["-n", "1000000000000"], "GiB of memory and this machine has"),
        (["-n", "5"], "give at least 20."),
        (["--images", "mnist"], "mnist does not hold the images that"),
    ],
)
def test_mistakes(evaluated, run_copy, arguments, words):
    assert words in evaluated(*arguments, code=2).err
    assert not (run_copy / "evaluation.json").exists()


def test_images_must_be_named(scattergen, fitted):
    error = scattergen("evaluate", fitted, code=2).err
    assert "does not hold the images that it was fitted to: name them by --images" in error


def test_images_without_a_test_set(scattergen, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (30, 16, 16), dtype=np.uint8)
    np.save(tmp_path / "images.npy", images)
    small = ["-q", "--densities", "gaussian", "--set", "encoder.n_components=4"]
    small += ["--set", "decoder.channels=[8,4]", "--set", "training.epochs=1"]
    run = tmp_path / "run"
    scattergen("fit", tmp_path / "images.npy", "--out", run, *small)
    evaluate_run = ["evaluate", run, "--images", tmp_path / "images.npy", "-q", "-n", 20]
    error = scattergen(*evaluate_run, code=2).err  # three test images
    assert "images has 3 test images, and 20 are needed to compare with: use --against train, or name" in error
    np.save(tmp_path / "few.npy", images[:5])
    error = scattergen(*evaluate_run, "--against", tmp_path / "few.npy", code=2).err
    assert "few has 5 images, and 20 are needed to compare with" in error or "few has 4 images" in error
    assert "28" in scattergen(*evaluate_run, "--against", "train", "--features", "digits", code=2).err
    found = json.loads(scattergen(*evaluate_run, "--against", "train", "--json").out)
    assert found["features"]["name"] == "scattering"
    row = found["rows"]["gaussian"]
    assert row["log_likelihood"] is None
    assert row["training_log_likelihood"]["value"] < 0
