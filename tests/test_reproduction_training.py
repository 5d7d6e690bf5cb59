"""Stages of `scattergen reproduce` that train small networks: raw coefficients, stability."""

import itertools
import math
from pathlib import Path

import pytest
import torch

from scattergen.datasets import open_dataset
from scattergen.display.progress import SILENT
from scattergen.errors import InputError, ScattergenError
from scattergen.paper import Effort, trainings
from scattergen.paper.findings import render_page
from scattergen.paper.material import Material, Trials
from scattergen.paper.precursors import _raw_finding as raw_finding
from scattergen.paper.precursors import measure_raw, show_raw
from scattergen.paper.trainings import _stability_finding as stability_finding
from scattergen.paper.trainings import sensitivity
from scattergen.report.plots import rate_curves
from scattergen.runs import RunFolder
from test_report import Checker

TINY = Effort("quick", 0.6, (0.1, 0.3), 30, 2, 2, 80, (1, 2), 60, 4, 19, 70, 1, 3, Trials(0.1, (1, 10), 2, 30))


@pytest.fixture
def material(fitted, digits):
    return Material(RunFolder.open(fitted), open_dataset(digits), TINY, 0, "cpu", SILENT)


def text_of(show, name, measured, material):
    section = show({name: measured}, material)
    return section.finding, Checker(render_page([section], material, "command", 0)).text


def test_raw_coefficients_twice_are_the_same_but_for_seconds(material):
    first, second = (measure_raw(material, Path()) for _ in range(2))
    timed = {"seconds", "training"}
    for key, value in first.facts.items():
        assert key in timed or second.facts[key] == value, key
    assert first.tensors.keys() == second.tensors.keys()
    assert all(torch.equal(x, second.tensors[key]) for key, x in first.tensors.items())


def test_control_images_are_recovered_and_samples_are_not(material):
    measured = measure_raw(material, Path())
    facts = measured.facts
    assert facts["dimensions"] == {"raw": 3969, "latent": 16}
    # Inversion stops at 1e-4, and 10 times that counts as solved; a network trained for one step
    # does not know what coefficients any image has.
    assert facts["control"]["residual"][1] < 1e-3
    assert facts["residual"][0] > 0.1
    # 16 components and a tiny decoder leave out what 3,969 coefficients know.
    assert facts["control"]["inverted"] > facts["control"]["decoded"] + 10
    finding, text = text_of(show_raw, "raw_coefficients", measured, material)
    assert text.count(finding.because) == 2
    assert "coefficients of no image" in text
    assert f"{finding.verdict.capitalize()}." in text


@pytest.mark.parametrize(
    ("slower", "raw", "verdict", "said"),
    [
        (100, 1.0, "agrees", "Its images are worse, too: kernel distance 1.00 against 0.50"),
        (100, 0.6, "agrees in part", "not worse after as many steps"),
        (100, 0.1, "agrees in part", "images are better after as many steps"),
        (9, 1.0, "disagrees", "less than 10 times"),
    ],
)
def test_the_verdict_on_raw_coefficients(slower, raw, verdict, said):
    facts = {
        "seconds": {"inversion": slower * 0.001, "decoder": 0.001},
        # Errors of 0.06 and 0.08 make one of 0.1 in the difference: two of them are 0.2.
        "kernel": {"inverted": [raw, 0.06], "latent": [0.5, 0.08]},
        "training": {"raw": {"seconds": 30.0}, "latent": {"seconds": 5.0}},
        "distance": {"decoded": 40.0, "latent": 50.0},
    }
    found = raw_finding(facts)
    assert found.verdict == verdict
    assert said in found.because
    assert "distance of 40.0, samples of codes 50.0." in found.because


def test_trials_are_as_many_steps_whatever_the_rate(material):
    measured = trainings.measure_stability(material, Path())
    rows = measured.facts["rows"]
    assert len(rows) == 3 * 2 * 2
    for name, steps in (("decoder", 12), ("latent GAN", 24), ("pixel GAN", 18)):
        found = {row["steps"] for row in rows if row["method"] == name}
        # Steps are made of whole epochs, of 9 batches of 32 or 4 of 64 of the 300 images.
        (count,) = found
        assert abs(count - steps) <= steps / 2
        assert measured.tensors[name].shape == (16, 1, 28, 28)
    assert all((row["psnr"] is None) == (row["method"] != "decoder") for row in rows)
    again = trainings.measure_stability(material, Path()).facts["rows"]
    assert [row["distance"] for row in again] == [row["distance"] for row in rows]
    first, second = (row["distance"] for row in rows[:2])
    assert first != second  # of two seeds


def test_a_training_that_diverges_is_shown_as_failed(material, monkeypatch):
    calls = itertools.count()

    def diverges(material, factor, seed):
        if factor == 10:
            raise ScattergenError("The training diverged")
        n = len(trainings._tests(material))
        return torch.full((n, 1, 28, 28), math.nan if next(calls) else 0.5), 1.0, 5

    def constant(material, factor, seed):
        return torch.full((len(trainings._tests(material)), 1, 28, 28), 0.25), 1.0, 5

    fake = {"decoder": constant, "latent GAN": diverges, "pixel GAN": constant}
    monkeypatch.setattr(trainings, "_TRAIN", fake)
    measured = trainings.measure_stability(material, Path())
    failures = [r["failure"] for r in measured.facts["rows"] if r["method"] == "latent GAN"]
    assert failures == ["all alike", "diverged", "diverged", "diverged"]
    assert {row["failure"] for row in measured.facts["rows"][:4]} == {"all alike"}
    finding, text = text_of(trainings.show_stability, "stability", measured, material)
    assert "4 of 4 of the decoder, 4 of 4 of the latent GAN" in finding.because
    assert finding.verdict != "agrees"
    # The latent GAN's row: one seed left at its own rate, none at ten times that, no finite ratio.
    assert "(1 diverged)* diverged 25 % ∞ ∞ 4 of 4" in text


def test_a_mistake_is_no_divergence(material, monkeypatch):
    def refused(*arguments):
        raise InputError("too few codes")

    monkeypatch.setattr(trainings, "_TRAIN", {"decoder": refused})
    with pytest.raises(InputError):
        trainings.measure_stability(material, Path())


def test_sensitivity_to_rates_and_seeds():
    rows = [
        {"factor": factor, "distance": distance, "failure": None}
        for factor, pair in ((0.1, (8.0, 2.0)), (1, (1.0, 4.0)), (10, (18.0, 2.0)))
        for distance in pair
    ]
    found = sensitivity(rows, 19.0)
    assert list(found["means"].values()) == pytest.approx([4, 2, 6])  # geometric
    assert found["rates"] == pytest.approx(3)
    assert found["seeds"] == 4  # the median of 4, 4 and 9
    # 18 is the way from 19, blank, to 1, the best: 11, 17, 18, 15, 1 and 17 of it.
    assert found["kept"] == pytest.approx(79 / 18 / 6)
    rows[0] |= {"distance": None, "failure": "diverged"}
    found = sensitivity(rows, 19.0)
    assert found["means"][0.1] == pytest.approx(2)
    assert (found["rates"], found["failed"]) == (math.inf, 1)
    assert found["kept"] == pytest.approx(68 / 18 / 6)
    assert sensitivity(rows[2:3], 19.0)["seeds"] is None
    assert sensitivity(rows[2:3], 1.0)["kept"] == 0  # its best is as bad as blank images


def trials(name, distances, failure=None):
    return [
        {"method": name, "factor": factor, "distance": distance, "failure": failure}
        for factor, pair in zip((0.1, 10), distances, strict=True)
        for distance in pair
    ]


STEADY, SAME_SEEDS, WILD = ((5, 6), (10, 12)), ((5, 5), (50, 50)), ((5, 25), (100, 500))


@pytest.mark.parametrize(
    ("decoder", "latent", "pixel", "failure", "verdict", "said"),
    [
        (STEADY, WILD, WILD, None, "agrees", "by every comparison"),
        (STEADY, WILD, WILD, "all alike", "agrees in part", "by 6 of 6 comparisons"),
        (STEADY, WILD, STEADY, None, "cannot be compared", "by 3 of 6 comparisons"),
        (STEADY, SAME_SEEDS, STEADY, None, "cannot be compared", "by 2 of 6 comparisons"),
        (WILD, STEADY, STEADY, None, "cannot be compared", "by 0 of 6 comparisons"),
        (STEADY, STEADY, STEADY, None, "cannot be compared", "by 0 of 6 comparisons"),
        (STEADY, WILD, ((5, None), (10, 10)), None, "agrees", "pixel GAN ∞"),
        (((5, None), (9, 9)), STEADY, STEADY, "diverged", "cannot be compared", "decoder ∞"),
    ],
)
def test_the_verdict_on_stability(decoder, latent, pixel, failure, verdict, said):
    # Between seeds: 1.2 of STEADY, 1 of SAME_SEEDS, 5 of WILD; over rates 2, 10 and 20; kept, with
    # blank images at 600, more than 0.99, 0.96 and 0.74.
    rows = [*trials("decoder", decoder, failure), *trials("latent GAN", latent), *trials("pixel GAN", pixel)]
    found = stability_finding({"rows": rows, "blank": 600.0})
    assert found.verdict == verdict
    assert said in found.because


def test_one_seed_is_judged_by_rates_alone():
    rows = [
        {"method": name, "factor": factor, "distance": distance, "failure": None}
        for name, last in (("decoder", 6.0), ("latent GAN", 7.0), ("pixel GAN", 8.0))
        for factor, distance in ((0.1, 3.0), (1, last))
    ]
    found = stability_finding({"rows": rows, "blank": 600.0})
    assert found.verdict == "agrees"
    assert "Between seeds" not in found.because


def test_a_diverged_training_is_a_cross_on_the_curve():
    figure = rate_curves({"a": {1: [2.0, 8.0], 10: [None, None]}}, "distance")
    line, crosses = figure.axes[0].lines
    assert line.get_ydata().tolist() == pytest.approx([4.0])
    assert crosses.get_xdata().tolist() == [10, 10]
    assert crosses.get_marker() == "x"
