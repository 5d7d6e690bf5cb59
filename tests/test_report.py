"""The report: exact pictures, a page that is well formed and needs nothing else, honest numbers."""

import base64
import dataclasses
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from scattergen.diagnostics import RejectionRate, count_rejections, effect_sizes, rejections_by_sample_size
from scattergen.errors import InputError, ScattergenError
from scattergen.evaluation import psnr, ssim
from scattergen.report import (
    DensityEntry,
    FitReport,
    VisualisationMatrix,
    image_grid,
    save_image_grid,
    write_fit_report,
)
from scattergen.report.html import themed
from scattergen.report.paper import exceeded_at
from scattergen.report.plots import (
    DARK,
    LIGHT,
    cumulative_variance,
    density_grids,
    figure_png,
    reconstruction_pairs,
    rejections_by_n,
    visualisation_matrix,
)

pytestmark = pytest.mark.usefixtures("drawn_figures")

VOID = {"img", "meta", "source", "col", "wbr"}


class Checker(HTMLParser):
    """Fails on unbalanced elements; collects text, elements and the addresses a browser loads."""

    def __init__(self, page):
        super().__init__()
        self.open, self.elements, self.addresses, self.words, self.goes_on = [], [], [], [], False
        self.feed(page)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, element, attributes):
        self.elements.append(element)
        self.goes_on = element == "wbr"  # where a word may be broken
        for name, value in attributes:
            if name in ("src", "srcset", "href", "data", "action"):
                self.addresses.append(value)
        if element not in VOID:
            self.open.append(element)

    def handle_endtag(self, element):
        assert self.open.pop() == element

    def handle_data(self, data):
        if self.goes_on:
            self.words[-1] += data
        elif self.open and self.open[-1] != "style":
            self.words.append(data)
        self.goes_on = False

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def images(count, channels=1, side=28, seed=0):
    return torch.rand(count, channels, side, side, generator=torch.Generator().manual_seed(seed))


def pixels(figure):
    return np.asarray(Image.open(io.BytesIO(figure_png(figure))).convert("RGB"))


def contains(haystack, picture):
    """Whether an RGB array holds a picture somewhere, pixel for pixel."""
    picture = np.asarray(picture.convert("RGB"))
    height, width = picture.shape[:2]
    starts = np.argwhere((haystack[: 1 - height, : 1 - width] == picture[0, 0]).all(-1))
    return any(np.array_equal(haystack[top : top + height, left : left + width], picture) for top, left in starts)


@pytest.fixture(scope="module")
def facts():
    x, y = images(6), images(6, seed=1)
    z = torch.randn(200, 30, generator=torch.Generator().manual_seed(0)).pow(3)
    skewness, kurtosis = effect_sizes(z)
    values = (-10.0, -5.0, 5.0, 10.0)
    return FitReport(
        dataset="mnist",
        image_shape=(1, 28, 28),
        n_train=60000,
        n_test=10000,
        seed=3,
        version="0.1.0",
        command="scattergen fit mnist --out runs/a&b",
        config={"preset": "mnist", "decoder": {"channels": (128, 64)}},
        machine={"threads": 2},
        stages=[("scattering", 12.0), ("decoder", 283.0)],
        eigenvalues=0.5 ** torch.arange(30.0),
        explained_variance=0.9876,
        originals=x,
        reconstructions=y,
        psnr=psnr(x, y),
        ssim=ssim(x, y),
        densities=[
            DensityEntry("gaussian", {}, 0.001, images(16)),
            DensityEntry("vae", {"beta": 0.001}, 65.0, images(16), 31, "512 → 64 → 512"),
            DensityEntry("gan", {}, 44.0, images(16), 17),
        ],
        visualisation=[VisualisationMatrix("Values", images(16), values, values, (0.5, 0.4), paper=True)],
        normality=count_rejections(z),
        rejections=rejections_by_sample_size(z, sizes=[20, 200], repeats=1),
        skewness=skewness,
        excess_kurtosis=kurtosis,
        history=[{"seconds": 10.0 * i, "loss": 1 / i, "validation/psnr": 20.0 + i} for i in (1, 2, 3)],
    )


@pytest.fixture(scope="module")
def folder(facts, tmp_path_factory):
    """A report of all facts, for tests that only read it."""
    folder = tmp_path_factory.mktemp("report")
    write_fit_report(facts, folder)
    return folder


def test_the_decoders_training_is_drawn(folder):
    assert {"training-loss.png", "validation-psnr.png"} <= {path.name for path in (folder / "pictures").iterdir()}


def written(facts, folder):
    return write_fit_report(facts, folder).read_text(encoding="utf-8")


def test_a_grid_holds_every_pixel_in_its_place():
    x = images(5, channels=3, side=6)
    grid = np.asarray(image_grid(x, columns=3, pad=2, scale=4, fill=128))
    assert grid.shape == (2 * 24 + 2, 3 * 24 + 2 * 2, 3)
    for index in range(5):
        top, left = index // 3 * 26, index % 3 * 26
        cell = grid[top : top + 24, left : left + 24]
        expected = np.round(x[index].permute(1, 2, 0).numpy() * 255).astype(np.uint8)
        assert np.array_equal(cell, expected.repeat(4, axis=0).repeat(4, axis=1))
    assert (grid[24:26] == 128).all()
    assert (grid[:, 24:26] == 128).all()
    assert (grid[26:, 52:] == 128).all()  # the sixth cell is empty


def test_grids_are_grey_for_one_channel_and_transparent_between_images_on_request():
    x = torch.tensor([0.0, 0.5, 1.0, 2.0]).view(4, 1, 1, 1).expand(4, 1, 2, 2)
    grid = image_grid(x, columns=4, pad=1, scale=1)
    assert grid.mode == "L"
    assert np.asarray(grid)[0, ::3].tolist() == [0, 128, 255, 255]
    clear = np.asarray(image_grid(x, columns=4, pad=1, scale=1, fill=None))
    assert clear[0, :, 1].tolist() == [255, 255, 0, 255, 255, 0, 255, 255, 0, 255, 255]


@pytest.mark.parametrize(("side", "scale"), [(8, 8), (28, 3), (64, 1), (128, 1)])
def test_small_images_are_enlarged_by_default(side, scale):
    assert image_grid(images(1, side=side)).size == (side * scale, side * scale)


@pytest.mark.parametrize(
    ("x", "options", "message"),
    [
        (torch.zeros(0, 1, 8, 8), {}, "at least one image"),
        (torch.zeros(2, 2, 8, 8), {}, "1 or 3 channels"),
        (torch.zeros(8, 8), {}, "shape"),
        (torch.zeros(1, 1, 8, 8, dtype=torch.uint8), {}, "float"),
        (torch.full((1, 1, 8, 8), torch.nan), {}, "NaN"),
        (torch.zeros(1, 1, 8, 8), {"columns": 0}, "columns"),
        (torch.zeros(1, 1, 8, 8), {"scale": 0}, "scale"),
    ],
)
def test_what_cannot_be_a_picture_is_refused(x, options, message):
    with pytest.raises(InputError, match=message):
        image_grid(x, **options)


def test_saving_replaces_whole_files_and_leaves_nothing_beside_them(tmp_path, monkeypatch):
    path = save_image_grid(images(4), tmp_path / "new" / "grid.png")
    first = path.read_bytes()

    def fail(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(ScattergenError, match=r"Cannot write .*grid\.png: No space left"):
        save_image_grid(images(9), path)
    assert path.read_bytes() == first
    assert [entry.name for entry in path.parent.iterdir()] == ["grid.png"]


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path, facts):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ScattergenError, match=r"Cannot write .*choose another place"):
        write_fit_report(facts, tmp_path / "file" / "report")


def test_panels_copy_images_without_resampling():
    x, y = images(3), images(3, seed=1)
    sheet = pixels(reconstruction_pairs(x, y, ["a", "b", "c"], columns=2))
    for pair in torch.stack([x, y], 1):
        assert contains(sheet, image_grid(pair, columns=2, pad=0))
    sheet = pixels(density_grids({"a": x, "$b_1$": y}, {"a": "", "$b_1$": "slow"}))
    for image in [*x, *y]:
        assert contains(sheet, image_grid(image[None], scale=2))


def test_the_first_component_of_a_visualisation_matrix_grows_downwards():
    x = images(6)
    sheet = pixels(visualisation_matrix(x, [-1, 0, 1], [-1, 1], sigma=(1.0, 1.0)))
    cells = [np.asarray(image_grid(image[None], scale=4).convert("RGB")) for image in x]
    row = np.concatenate([cells[0], np.zeros((112, 8, 3), np.uint8), cells[1]], axis=1)
    row[:, 112:120] = np.array([0xFD, 0xFC, 0xF9])  # the gap shows the sheet
    assert contains(sheet, Image.fromarray(row))
    assert not contains(sheet, Image.fromarray(np.concatenate([row[:, 120:], row[:, :120]], 1)))


def test_panels_refuse_what_does_not_fit():
    with pytest.raises(InputError, match="got 3 images"):
        visualisation_matrix(images(3), [1, 2], [1, 2], (1.0, 1.0))
    with pytest.raises(InputError, match="standard deviations"):
        visualisation_matrix(images(4), [1, 2], [1, 2], (1.0, 0.0))


def test_curves_survive_degenerate_facts():
    figure_png(cumulative_variance([0.0, 0.0], 0.0))
    line = cumulative_variance(torch.tensor([3.0, 1.0]), 0.8).axes[0].lines[0]
    # 3/4 of 80 % and all of it, to float64 rounding.
    np.testing.assert_allclose(line.get_ydata(), [60, 80], rtol=1e-12)


@pytest.mark.parametrize("kind", ["curves", "legend below", "sheet"])
def test_figures_of_a_page_are_what_matplotlib_saves(kind, facts):
    """In light and in dark mode, though laid out once."""

    def draw(theme):
        if kind == "sheet":
            return visualisation_matrix(images(1), [0], [0], (1, 1), theme)
        if kind == "curves":
            return cumulative_variance([5.0, 2.0, 1.0], 0.9, theme)
        return rejections_by_n(facts.rejections, "K2", facts.normality.d, None, theme)

    saved = []
    for theme in (LIGHT, DARK):
        saved.append(io.BytesIO())
        draw(theme).savefig(saved[-1], format="png")
    picture = themed(draw)
    assert (picture.png, picture.dark) == tuple(one.getvalue() for one in saved)


def test_everything_from_outside_is_escaped(tmp_path):
    attack = "<script>alert('x')</script>\"&"
    facts = FitReport(
        attack, (1, 28, 28), n_train=9, version=attack, command=attack, config={attack: attack},
        machine={attack: attack}, stages=[(attack, 1.0)],
        densities=[DensityEntry(attack, {attack: attack}, 1.0, images(4), layers=attack)],
    )  # fmt: skip
    text = written(facts, tmp_path)
    assert "<script" not in text
    # Tab, heading and eyebrow; the density above all, with its samples (name, option, value,
    # layers) and in the table; command and stage; data set, option and value, machine (2), version.
    assert Checker(text).text.count(attack) == 3 + 1 + 4 + 1 + 2 + 6


def test_the_page_is_well_formed_and_loads_nothing(folder):
    text = (folder / "report.html").read_text(encoding="utf-8")
    page = Checker(text)
    assert text.startswith("<!DOCTYPE html>")
    assert page.elements.count("h1") == 1
    assert not {"script", "link", "iframe", "object"} & set(page.elements)
    assert all(address.startswith("data:image/png;base64,") for address in page.addresses)
    assert not re.search(r"https?:|@import|url\(", text)
    assert "default-src 'none'" in text.replace("&#x27;", "'")
    for address in page.addresses:
        Image.open(io.BytesIO(base64.b64decode(address.split(",")[1]))).verify()


def test_the_sample_picture_in_the_page_and_its_file_are_the_grid(facts, folder):
    text = (folder / "report.html").read_text(encoding="utf-8")
    expected = image_grid(facts.densities[1].samples, columns=8, pad=4, scale=2, fill=None)
    file = Image.open(folder / "pictures" / "samples-vae.png")
    assert np.array_equal(np.asarray(file), np.asarray(expected))
    embedded = base64.b64encode((folder / "pictures" / "samples-vae.png").read_bytes()).decode()
    assert embedded in text


def test_the_page_says_the_numbers_and_the_papers_beside_them(facts, folder):
    text = Checker((folder / "report.html").read_text(encoding="utf-8")).text
    counts = facts.normality.counts
    k2, jb = counts["K2"], counts["JB"]
    assert f"D’Agostino K² {k2[0]} 41 {k2[1]} 12" in text
    assert f"Jarque–Bera {jb[0]} 35 {jb[1]} 16" in text
    assert "does not state its n" in text
    assert "vae 31 1 min 05 s 31 9 min" in text
    assert "gan 17 44 s 30 5 min" in text
    assert "20 to 25 standard deviations" not in text  # values of 5 are nearer
    assert "10 to 25 standard deviations" in text  # 5 / 0.5 and 10 / 0.4
    assert f"PSNR, dB {facts.psnr.mean():.2f}" in text
    assert f"SSIM {facts.ssim.mean():.4f}" in text
    for words in ("98.76 %", "decoder.channels 128, 64", "runs/a&b", "all stages 4 min 55 s"):
        assert words in text


def test_to_a_decoder_of_unit_norm_the_papers_values_are_directions(facts, tmp_path):
    directions = dataclasses.replace(facts, config={"decoder": {"unit_norm": True}})
    text = Checker(written(directions, tmp_path)).text
    assert "(5, 5) is the same as (10, 10)" in text
    assert "standard deviations out on our codes" not in text


def test_the_papers_numbers_stand_only_beside_mnist(facts, tmp_path):
    text = Checker(written(dataclasses.replace(facts, dataset="digits.npz"), tmp_path)).text
    assert "paper" not in text
    assert "density epochs time gaussian – < 0.01 s vae 31 1 min 05 s gan 17 44 s Setup" in text
    without_lines = figure_png(rejections_by_n(facts.rejections, "K2", facts.normality.d))
    assert (tmp_path / "pictures" / "rejections-k2.png").read_bytes() == without_lines
    k2, jb = (facts.normality.counts[test] for test in ("K2", "JB"))
    assert f"D’Agostino K² {k2[0]} {k2[1]} Jarque–Bera {jb[0]} {jb[1]} " in text


def test_a_report_needs_none_of_its_sections(tmp_path):
    page = Checker(written(FitReport("faces", (3, 64, 64), n_train=10), tmp_path))
    assert page.elements.count("section") == 1  # setup
    assert not (tmp_path / "pictures").exists()


@pytest.mark.parametrize(
    "missing",
    [
        ("stages", "psnr", "explained_variance", "visualisation", "history", "skewness"),
        ("densities", "ssim", "eigenvalues", "rejections", "originals"),
        ("normality", "command", "config", "machine", "version", "n_test"),
    ],
)
def test_facts_may_be_missing(facts, tmp_path, missing):
    empty = FitReport(dataset="", image_shape=(1, 1, 1), n_train=0)
    Checker(written(dataclasses.replace(facts, **{f: getattr(empty, f) for f in missing}), tmp_path))


@pytest.mark.parametrize(("lowest", "said"), [(50.0, True), (10.0, False)])
def test_that_no_n_reproduces_the_paper_is_said_only_if_so(facts, tmp_path, lowest, said):
    rates = [
        RejectionRate(n, test, level, lowest if test == "JB" else 400.0, 20.0)
        for n in (20, 1000)
        for test in ("K2", "JB")
        for level in (0.05, 0.01, 0.1)  # the last is not in the paper
    ]
    few = FitReport("mnist", (1, 28, 28), n_train=60000, normality=facts.normality, rejections=rates)
    assert ("No n reproduces" in written(few, tmp_path)) == said


def test_a_paper_is_exceeded_at_the_smallest_sample_size_alone():
    def rates(at_20, at_1000):
        return [RejectionRate(20, "K2", 0.05, at_20, 2.0), RejectionRate(1000, "K2", 0.05, at_1000, 2.0)]

    assert exceeded_at(rates(42.0, 3.0), {"K2": {0.05: 41}}) == 20
    assert exceeded_at(rates(40.0, 300.0), {"K2": {0.05: 41}}) is None


def test_tiny_colour_images_and_perfect_reconstructions(tmp_path):
    x = images(3, channels=3, side=8)
    small = FitReport("toy", (3, 8, 8), n_train=9, originals=x, reconstructions=x, psnr=psnr(x, x))
    text = Checker(written(small, tmp_path)).text
    assert "∞ dB" in text
    assert "SSIM" not in text


def test_settings_are_in_words_and_empty_ones_are_left_out(tmp_path):
    keywords = {"density": "parzen", "keywords": {"n_neighbors": 4}, "n_components": None}
    entries = [DensityEntry("parzen-by-class", keywords, 1.0, images(4))]
    config = {"data": {"name": "toy", "converted": []}, "densities": {}}
    text = written(FitReport("toy", (1, 28, 28), n_train=10, densities=entries, config=config), tmp_path)
    assert "<code>density=parzen, n_neighbors=4</code>" in text
    assert "converted" not in text
    assert "settings under Samples: parzen-by-class." in text


def test_names_of_densities_cannot_leave_the_folder(tmp_path):
    names = ["../../up", "a b", "a/b", "<b>"]
    entries = [DensityEntry(name, {}, 1.0, images(4)) for name in names]
    few = FitReport("toy", (1, 28, 28), n_train=10, densities=entries)
    text = written(few, tmp_path / "out")
    assert "&lt;b&gt;" in text
    assert "<h3><b>" not in text
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]
    files = {p.name for p in (tmp_path / "out" / "pictures").glob("samples-*.png")}
    assert len(files) == len(names)


def test_the_same_facts_make_the_same_page(facts, folder, tmp_path):
    assert written(facts, tmp_path) == (folder / "report.html").read_text(encoding="utf-8")
