"""The report shows what the run holds: densities added later, scores and tests; and `evaluate` keeps features."""

import html
import json
import re
import shlex
import shutil

import numpy as np
import pytest
import torch

import scattergen as sg
from scattergen.display.progress import SILENT
from scattergen.errors import RunFolderError
from scattergen.evaluation import DigitFeatures, ScatteringFeatures
from scattergen.pipeline import report
from scattergen.pipeline.browse import read_products
from scattergen.pipeline.judging import Standard, kept_features
from scattergen.runs import Result, RunFolder, Stages, fit_seconds
from scattergen.runs.schema import EVALUATION
from test_report import Checker


def page(run):
    return (run / "report.html").read_text(encoding="utf-8")


def scores(run):
    return RunFolder.open(run).stages["report"]["judgement"]["rows"]


def copied(text):
    """What the page tells to copy: Python, and command lines."""
    python, shell = (html.unescape(one) for one in re.findall(r"<pre tabindex=\"0\">(.*?)</pre>", text, re.DOTALL))
    return python, shell.splitlines()


@pytest.fixture
def judged(monkeypatch):
    """The densities that are judged from now on."""
    keys, judge = [], Standard.of_density
    monkeypatch.setattr(Standard, "of_density", lambda *what: keys.append(what[2]) or judge(*what))
    return keys


def test_a_density_that_was_added_is_judged_alone_as_the_end_of_the_fit_would(scattergen, run_copy, judged):
    before = scores(run_copy)
    scattergen("density", run_copy, "gaussian", "--as", "later", "-q")
    assert judged == ["later"]
    after = scores(run_copy)
    assert after.pop("later") == before["gaussian"]  # the same density, and the same samples
    assert after == before
    text = page(run_copy)
    assert "images decoded from samples of the density later" in text
    assert "Added later by “scattergen density”, with the settings under Samples: later." in text
    row = r"<th scope=\"row\">later</th>\s*<td class=\"distance\">" + re.escape(f"{before['gaussian']['kernel']:,.1f}")
    assert re.search(row, text)
    # With other parameters it is another density.
    scattergen("density", run_copy, "mixture", "--as", "later", "--overwrite", "-q", "--set", "n_components=3")
    assert judged == ["later", "later"]
    assert scores(run_copy)["later"] != before["gaussian"]
    assert scores(run_copy)["vae"] == before["vae"]


def test_a_report_is_written_only_if_it_would_show_something_else(scattergen, run_copy):
    moved = scattergen("report", run_copy, "-q", "--json").out
    assert json.loads(moved) == {"report": str(run_copy / "report.html"), "renewed": True}
    index, text = (run_copy / "run.json").read_bytes(), page(run_copy)
    assert "nothing to do" in scattergen("report", run_copy, "-q").out
    assert (run_copy / "run.json").read_bytes() == index
    (run_copy / "report.html").unlink()
    scattergen("report", run_copy, "-q")
    assert page(run_copy) == text


def test_a_report_that_could_not_be_renewed_is_renewed_by_the_same_command(scattergen, run_copy, monkeypatch):
    def fail(*_):
        raise RunFolderError("The disk is full: make room.")

    again = ["density", run_copy, "gaussian", "--as", "later"]
    with monkeypatch.context() as patch:
        patch.setattr(report, "_page", fail)
        assert "report: not renewed. The disk is full" in scattergen(*again).err
    assert "density later" not in page(run_copy)
    scattergen(*again)
    assert "density later" in page(run_copy)
    assert not (run_copy / "work").exists()


def test_the_times_of_a_model_are_not_those_of_the_papers_stages(run_copy):
    run = RunFolder.open(run_copy)
    before = fit_seconds(run)
    assert {"encoder", "decoder", "densities/vae", "reference"} <= before.keys()
    Stages(run, SILENT).get("paper/normality", {}, lambda _: Result({}, None, {"seconds": 1e6}))
    assert "seconds" in run.stages["paper/normality"]
    assert fit_seconds(run) == before
    assert "report" not in before


def test_the_best_density_is_the_one_that_is_drawn(scattergen, run_copy, monkeypatch):
    assert sg.load(run_copy).best != "later"
    monkeypatch.setattr("scattergen.pipeline.judging.best_of", lambda rows: "later")
    scattergen("density", run_copy, "gaussian", "--as", "later", "-q")
    model = sg.load(run_copy)
    assert model.best == "later"
    assert torch.equal(model.sample(3), model.sample(3, "later"))
    assert "density <b>later</b>" in page(run_copy)


def test_what_the_page_says_to_copy_works(scattergen, fitted, tmp_path, monkeypatch):
    run = shutil.copytree(fitted, tmp_path / "it's a run")
    scattergen("report", run, "-q")
    python, lines = copied(page(run))
    monkeypatch.chdir(tmp_path)
    space = {}
    exec(python, space)
    best = RunFolder.open(run).stages["report"]["best"]
    assert torch.equal(space["images"], sg.load(run).sample(64, best, 0))
    first = (tmp_path / "samples.png").read_bytes()
    for line in lines:
        scattergen(*shlex.split(line)[1:], "-q")
    assert (tmp_path / "samples.png").read_bytes() == first


def test_scores_and_tests_are_shown_until_what_they_are_of_is_replaced(scattergen, digits, run_copy):
    assert "Evaluation" not in page(run_copy)
    scattergen("density", run_copy, "gaussian", "--as", "later", "-q")
    scattergen("evaluate", run_copy, "--images", digits, "--density", "later", "-n", 20, "-q")
    scattergen("diagnose", run_copy, "--density", "mixture", "-n", 40, "--components", 3, "--simulations", 19, "-q")
    row = json.loads((run_copy / "evaluation.json").read_text())["rows"]["later"]["frechet"]
    tests = json.loads((run_copy / "diagnosis-mixture.json").read_text())["tables"]["mixture"]["tests"]
    text = Checker(page(run_copy)).text
    assert f"later {row['value']:.2f} ± {row['standard_error']:.2f}" in text.replace("\N{NO-BREAK SPACE}", " ")
    assert "The scoreboard has " in text  # which explains why its numbers differ
    assert "Diagnosis of mixture" in text
    assert f"{tests[0]['pvalue']:.2g} {tests[0]['effect']:.3f}" in text.replace("−", "-")
    assert Checker(page(run_copy)).elements.count("img") == len(re.findall(r'<img [^>]*alt="[^"]{9,}"', page(run_copy)))
    scattergen("density", run_copy, "mixture", "--as", "later", "--overwrite", "-q")
    assert "Evaluation" not in page(run_copy)
    assert "Diagnosis of mixture" in page(run_copy)


def test_scores_that_were_changed_are_left_out(run_copy):
    run = RunFolder.open(run_copy)
    with run.working("evaluation", "0" * 16) as folder:
        (folder / "evaluation.json").write_text("{}")
        run.note("evaluation", "0" * 16, {}, ["encoder"], {"evaluation.json": folder / "evaluation.json"})
    whole = {"against": "x", "n": 1, "seed": 0, "features": {"name": "a", "version": "1"}, "rows": {}}
    for content, count in ((whole, 1), (whole | {"features": {}}, 0), (whole | {"n": "1"}, 0), ([], 0)):
        (run_copy / "evaluation.json").write_text(json.dumps(content))
        assert len(read_products(run, "evaluation", EVALUATION)) == count
    (run_copy / "evaluation.json").write_text("{")
    assert report.renew_report(run_copy)
    assert "Evaluation" not in page(run_copy)


def test_what_a_run_keeps_of_its_images_is_made_again_by_its_fit(scattergen, digits, tiny, run_copy):
    before = scores(run_copy)
    RunFolder.open(run_copy).file("reference").unlink()
    assert "report: not renewed." in scattergen("density", run_copy, "gaussian", "--as", "later").err
    assert "later" not in page(run_copy)
    assert "run its fit command again" in scattergen("report", run_copy, code=2).err
    told = scattergen("fit", digits, "--out", run_copy, "-q", *tiny, showing_warnings=True).err
    assert "is missing or damaged: it is made again" in told
    assert scores(run_copy).keys() == {*before, "later"}
    assert "density later" in page(run_copy)


def test_a_reference_that_does_not_fit_is_one_sentence(scattergen, run_copy):
    run = RunFolder.open(run_copy)
    tensors, metadata = run.read("reference")
    model, key = sg.load(run_copy), "0123456789abcdef"
    wanted, seen = tensors["wanted"], tensors["seen"]
    for other in (
        {"codes": tensors["codes"][:, 1:]}, {"wanted": wanted[0, 0]}, {"wanted": wanted[:, 1:]}, {"seen": seen[1:]},
        {"psnr": tensors["psnr"][1:]}, {"more": wanted}, {"originals": tensors["originals"].long()},
    ):  # fmt: skip
        with run.working("reference", key):
            run.write("reference", key, tensors | other, metadata)
        with pytest.raises(RunFolderError, match="The stored reference does not fit"):
            report._kept(run, model)
    assert "The stored reference does not fit" in scattergen("report", run_copy, code=2).err
    scattergen("density", run_copy, "gaussian", "--as", "more", "-q")  # which is not lost for a report


def test_what_is_no_finished_fit_has_no_report(scattergen, fitted, tmp_path):
    sg.load(fitted).save(tmp_path / "saved")
    assert "was not made by `scattergen fit`" in scattergen("report", tmp_path / "saved", code=2).err


def test_a_density_with_the_name_of_a_row_is_shown_without_scores(scattergen, run_copy):
    before = scores(run_copy)
    scattergen("density", run_copy, "gaussian", "--as", "decoder", "-q")
    assert scores(run_copy) == before
    assert "samples of the density decoder" in page(run_copy)


@pytest.fixture
def seen(monkeypatch):
    """The numbers of images that features are computed of."""
    counts, call = [], DigitFeatures.__call__
    monkeypatch.setattr(DigitFeatures, "__call__", lambda self, x, *a: counts.append(len(x)) or call(self, x, *a))
    return counts


def test_evaluate_computes_features_of_real_images_once(scattergen, digits, run_copy, seen, assert_nothing_left):
    how = ["evaluate", run_copy, "--images", digits, "--features", "digits", "-n", 30, "-q", "--json", "--density"]

    def rows(*more):
        seen.clear()
        found = json.loads(scattergen(*how, *more).out)["rows"]
        return {name: (row["frechet"], row["kernel"], row["memorisation"]) for name, row in found.items()}

    first = rows("gaussian")
    assert sorted(seen) == [30, 30, 30, 40, 300]
    assert rows("gaussian") == first
    assert seen == [30, 30, 30]  # decoded training and test codes, and samples
    rows("gaussian", "--against", "train")
    assert seen == [30, 30, 30]
    assert_nothing_left(run_copy)


def test_kept_features_are_those_of_the_images_and_the_extractor(run_copy, seen, assert_nothing_left):
    run, test = RunFolder.open(run_copy), sg.datasets.mnist().test
    images, others = (sg.datasets.ImageArray(test[i : i + 25]) for i in (0, 1))

    def kept(images, extract):
        seen.clear()
        return kept_features(run, "test", images, extract)

    first = kept(images, DigitFeatures())
    assert seen == [25]
    assert torch.equal(kept(images, DigitFeatures()), first)
    assert not seen
    (file,) = run_copy.glob("features-test-*")
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    run.check()  # what is damaged is made again
    assert torch.equal(kept(images, DigitFeatures()), first)
    assert seen == [25]
    assert torch.equal(kept(images, DigitFeatures()), first)
    assert not seen  # it is whole again
    file.unlink()
    assert torch.equal(kept(images, DigitFeatures()), first)
    kept(images, ScatteringFeatures((1, 28, 28)))
    assert not torch.equal(kept(others, DigitFeatures()), first)
    assert seen == [25]
    assert len(list(run_copy.glob("features-*"))) == 1  # the last ones
    assert_nothing_left(run_copy)


def test_without_a_place_for_features_they_are_computed_again(run_copy, seen, monkeypatch):
    run, images = RunFolder.open(run_copy), sg.datasets.ImageArray(sg.datasets.mnist().test[:25])
    key = "0123456789abcdef"
    with monkeypatch.context() as patch:
        patch.setattr("scattergen.pipeline.judging._LARGEST_KEPT", 1000)
        kept_features(run, "test", images, DigitFeatures())
    monkeypatch.setattr(Stages, "key", lambda *_: key)
    with RunFolder.open(run_copy).working("features-test", key):  # another process is at it
        kept_features(run, "test", images, DigitFeatures())
    assert seen == [25, 25]
    assert not list(run_copy.glob("features-*"))


def test_scores_by_other_means_make_another_report(scattergen, run_copy):
    diagnose = ["diagnose", run_copy, "-n", 40, "--simulations", 19, "-q", "--components"]
    scattergen(*diagnose, 4)
    before = page(run_copy)
    scattergen(*diagnose, 3)
    assert page(run_copy) != before
    assert "nothing to do" in scattergen("report", run_copy, "-q").out


def test_images_of_the_same_name_are_others(scattergen, run_copy, digits, tmp_path):
    pages = []
    for folder, rows in (("a", slice(0, 40)), ("b", slice(100, 140))):
        (tmp_path / folder).mkdir()
        with np.load(digits) as arrays:
            np.savez(tmp_path / folder / "x.npz", images=arrays["x_train"][rows])
        against = ["--against", tmp_path / folder / "x.npz", "--density", "gaussian", "-n", 30, "-q"]
        scattergen("evaluate", run_copy, "--images", digits, *against)
        pages.append(page(run_copy))
    assert pages[0] != pages[1]
