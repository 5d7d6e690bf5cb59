"""What notebooks show: cards of models, densities, images and runs, and one display of progress for a cell."""

import base64
import io
import re
import sys
import warnings
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import scattergen as sg
from scattergen import InputError
from scattergen.datasets import Dataset, ImageArray, ImageFolder, Subset
from scattergen.densities import DENSITIES, Gaussian, GaussianMixture
from scattergen.densities.display import DisplayedDensity
from scattergen.display import notebook
from scattergen.display.progress import Progress
from scattergen.runs import RunFolder

EXAMPLES = Path(__file__).parent.parent / "examples"


class Page(HTMLParser):
    """The texts, tags and pictures of a fragment whose tags are balanced."""

    def __init__(self, html):
        super().__init__()
        self.open, self.texts, self.tags, self.pictures = [], [], [], []
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag == "img":
            given = dict(attributes)
            assert given["alt"]
            kind, _, content = given["src"].partition(",")
            assert kind == "data:image/png;base64"
            self.pictures.append(Image.open(io.BytesIO(base64.b64decode(content))))
        else:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def page_of(displayed):
    html = displayed._repr_html_()
    assert len(html.encode()) <= 100_000
    assert "http" not in html
    assert not re.search(r"(?<!-)\bcolor:(?!inherit)|background:(?!none)", html)  # which no theme would suit
    return Page(html)


@pytest.fixture(scope="module")
def run(fitted):
    return RunFolder.open(fitted)


@pytest.fixture(scope="module")
def model(fitted):
    return sg.load(fitted)


# Cards


def test_a_model(model, run):
    lines = repr(model).splitlines()
    assert lines[0] == "GenerativeScatteringNetwork of 1×28×28 images"
    psnr = run.stages["report"]["psnr"]
    assert f"  reconstruction: {psnr:.2f} dB PSNR of unseen images" in lines
    assert "  densities: gaussian, mixture, vae, gan" in lines
    page = page_of(model)
    assert lines[0] in page.texts
    (picture,) = page.pictures
    assert picture.size == (8 * 60 - 4, 56)  # 28 pixels twice as large, and gaps
    drawn = model.sample(8, model.best)[0, 0].numpy()
    shown = np.asarray(picture)[::2, :56:2, 0]
    assert np.abs(shown / 255 - drawn).max() <= 0.5 / 255 + 1e-6


def test_an_encoder():
    encoder = sg.ScatteringEncoder((1, 8, 8), J=1, n_components=16)
    made_with = "image_shape=[1, 8, 8], J=1, L=8, max_order=2, n_components=16"
    assert repr(encoder) == f"ScatteringEncoder({made_with}); fitted: not yet"
    assert "fitted: yes" in repr(encoder.fit(torch.rand(50, 1, 8, 8)))


def test_a_run(run, fitted):
    assert repr(run).startswith(f"RunFolder {fitted}")
    assert "images: 300 of digits" in repr(run)
    assert "state: finished" in repr(run)
    assert len(page_of(run).pictures) == 1
    empty = RunFolder.start(fitted.parent / "begun", {"a": 1})
    assert "state: unfinished" in repr(empty)
    assert not page_of(empty).pictures


@pytest.mark.parametrize("name", [name for name in DENSITIES if name != "class_conditional"])
def test_densities(name):
    density = DENSITIES[name]()
    assert isinstance(density, DisplayedDensity)
    assert f"{type(density).__name__}()" in repr(density)
    assert "fitted: not yet" in repr(density)
    assert density.description in page_of(density).texts


def test_a_density_shows_what_is_changed_and_that_it_is_fitted():
    mixture = GaussianMixture(n_components=2, shrinkage="auto").fit(torch.randn(60, 4))
    assert repr(mixture).startswith("GaussianMixture(n_components=2)")
    assert "fitted: to codes of 4 components" in repr(mixture)
    assert "2 Gaussians" in repr(mixture)


def test_images_in_an_array():
    images = ImageArray(np.zeros((20, 8, 8), np.uint8), np.arange(20) % 2, classes=["cat", "<b>dog</b>\x1b[2J"])
    assert repr(images) == r"ImageArray: 20 images of 1×8×8; classes: cat, <b>dog</b>\x1b[2J"
    page = page_of(images)
    assert r"cat, <b>dog</b>\x1b[2J" in page.texts  # as text, since the tags are escaped
    assert page.pictures[0].size == (8 * 68 - 4, 64)
    assert "ImageArray: 1 images" in repr(ImageArray(np.zeros((1, 8, 8), np.uint8)))
    assert repr(Subset(images, slice(3))).startswith("Subset: 3 images of 1×8×8")
    data = repr(Dataset("pets", images, Subset(images, slice(3))))
    assert data.startswith("Dataset pets: images of 1×8×8")
    assert "test: 3 images" in data


def test_noise_in_colour_stays_small():
    noise = np.random.default_rng(0).integers(0, 256, (9, 300, 200, 3), dtype=np.uint8)
    assert len(page_of(ImageArray(noise)).pictures) == 1


def folder_of(path, n):
    path.mkdir()
    for i in range(n):
        Image.new("RGB", (40, 40), (20 * i, 0, 0)).save(path / f"{i}.png")
    return path


def test_a_folder_reads_a_few_files_and_survives_broken_ones(tmp_path, monkeypatch):
    images = ImageFolder(folder_of(tmp_path / "faces", 12))
    assert f"root: {tmp_path / 'faces'}" in repr(images)
    opened, decode = [], ImageFolder._decode
    monkeypatch.setattr(ImageFolder, "_decode", lambda self, rows: opened.extend(rows) or decode(self, rows))
    assert page_of(images).pictures[0].width == 8 * 44 - 4
    assert len(opened) == 8
    again = ImageFolder(tmp_path / "faces")
    (tmp_path / "faces" / "0.png").write_bytes(b"broken")
    assert page_of(again).pictures[0].width == 7 * 44 - 4
    broken = ImageFolder(folder_of(tmp_path / "gone", 3))
    for file in broken.files:
        file.unlink()
    assert "No picture of some of the images can be made." in page_of(broken).texts


# Progress


class Kernel:
    """Stands for the IPython shell of a notebook, and keeps what it is asked to show."""

    def __init__(self):
        self.kernel, self.execution_count, self.outputs, self.calls = object(), 1, {}, 0
        self.display_pub = SimpleNamespace(publish=self.publish)

    def publish(self, data, metadata, *, transient, update):
        assert update == (transient["display_id"] in self.outputs)
        self.outputs[transient["display_id"]] = data
        self.calls += 1


@pytest.fixture
def kernel(monkeypatch):
    kernel = Kernel()
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: kernel))
    return kernel


def test_a_cell_has_one_output_that_is_replaced(kernel, capsys):
    progress = Progress()
    for i in range(3):
        progress.message(f"stage {i} <b>")
        with progress.task("outer", 2) as outer:
            with progress.task("inner", 1000) as inner:
                for _ in range(1000):
                    inner.advance(1, "loss [1]")
            (data,) = kernel.outputs.values()
            assert "outer" in data["text/html"]
            outer.advance(2)
    (data,) = kernel.outputs.values()
    assert kernel.calls < 40  # of 3,000 steps
    assert [re.sub(r"\d\.\d", "0.0", line).strip() for line in data["text/plain"].splitlines()] == [
        line for i in range(3) for line in (f"stage {i} <b>", "inner: 0.0 s  loss [1]", "outer: 0.0 s")
    ]
    assert "stage 2 &lt;b&gt;" in data["text/html"]
    assert "progress" not in Page(data["text/html"]).tags
    assert capsys.readouterr() == ("", "")
    kernel.execution_count += 1
    progress.message("another cell")
    assert [*kernel.outputs.values()][1]["text/plain"] == "another cell"


def test_bars_of_nested_tasks(kernel):
    progress = Progress()
    with progress.task("outer <i>", 4) as outer:
        outer.advance(1)
        with progress.task("inner", 10):
            (data,) = kernel.outputs.values()
            page = Page(data["text/html"])
            assert page.tags.count("progress") == 2
            text = data["text/plain"].replace(", 0:00:00 left", "")
            assert text.split("\n")[1:] == ["  outer <i>: 1/4  ", "  inner: 0/10  "]


def test_an_error_in_a_cell_leaves_the_bar_where_it_was(kernel):
    progress = Progress()
    with pytest.raises(ZeroDivisionError), progress.task("fit", 3):
        _ = 1 // 0
    (data,) = kernel.outputs.values()
    assert "0/3" in data["text/plain"]
    progress.message("next")
    (data,) = kernel.outputs.values()
    assert data["text/plain"] == "next"


def test_silence_in_a_notebook(kernel):
    with Progress(show=False).task("fit", 3) as task:
        task.advance()
    assert not kernel.outputs


def test_ipythons_terminal_is_a_terminal(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: SimpleNamespace()))
    assert notebook.shell() is None
    Progress().message("hello")
    assert capsys.readouterr().err == "hello\n"


def test_nested_bars_of_a_terminal():
    from rich.console import Console

    progress, output = Progress(), io.StringIO()
    progress.console = Console(file=output, force_terminal=True, width=100)
    with progress.task("outer", 2) as outer:
        for _ in range(2):
            with progress.task("inner", 5) as inner:
                inner.advance(5)
            outer.advance()
    assert output.getvalue().count("inner: ") == 2
    assert "2/2" in output.getvalue()


def test_progress_where_somebody_watches(monkeypatch):
    monkeypatch.delattr(sys, "ps1", raising=False)
    assert not Progress.where_somebody_watches().show
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    assert Progress.where_somebody_watches().show


@pytest.mark.slow
def test_a_fit_in_a_real_kernel_has_one_output():
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    import nbformat

    code = (
        "import torch, scattergen as sg\n"
        "x = torch.rand(60, 1, 8, 8, generator=torch.Generator().manual_seed(0))\n"
        "model = sg.GenerativeScatteringNetwork.fit(x, epochs=3, n_components=8, channels=[8, 4])"
    )
    cells = [nbformat.v4.new_code_cell(code), nbformat.v4.new_code_cell("model")]
    book = nbformat.v4.new_notebook(cells=cells)
    nbclient.NotebookClient(book, timeout=280, kernel_name="python3").execute()
    fit, shown = (cell.outputs for cell in book.cells)
    kept = [output for output in fit if output.output_type != "stream"]  # a stream holds warnings
    assert len(kept) == 1
    assert "decoder" in kept[0].data["text/plain"]
    assert "<img" in shown[0].data["text/html"]


# Keywords of `fit`


def test_keywords_in_full_and_in_short():
    from scattergen.stages.options import options_of
    from scattergen.stages.presets import override, preset

    shape, n = (1, 16, 16), 100
    auto = preset("auto", shape, n)

    def found(given, densities=None, **short):
        return options_of("auto", shape, n, given, short, densities)

    changed = override(auto, {"training.epochs": 3})
    assert found({"training.epochs": 3}) == found({"training": {"epochs": 3}}) == found({}, epochs=3) == changed
    assert found({}, J=2, channels=[8, 4])["encoder"] == {**auto["encoder"], "J": 2}
    # A number of components that is asked for is not changed, as on the command line.
    assert "held_out" not in found({}, n_components=8)["encoder"]
    assert found({"encoder": {"n_components": 8, "held_out": 0.2}})["encoder"]["held_out"] == 0.2
    # Densities: chosen by name, or added and changed.
    assert found({}, ["vae", "gaussian"])["densities"] == {"vae": {}, "gaussian": {}}
    assert found({}, "vae")["densities"] == {"vae": {}}
    assert found({"densities.vae.beta": 1}, "vae")["densities"] == {"vae": {"beta": 1}}
    assert found({}, {"mixture": {"n_components": 2}})["densities"] == {"mixture": {"n_components": 2}}
    added = found({"densities": {"mixture": {"n_components": 2}, "gan": {"epochs": 1}}})["densities"]
    assert added == {**auto["densities"], "mixture": {"n_components": 2}, "gan": {"epochs": 1}}
    # Complete options are taken as they are, but for what is given besides.
    complete = {"encoder": {"J": 1}, "decoder": {}, "training": {}, "densities": {"gaussian": {}}}
    assert found(complete) == complete
    assert found(complete, epochs=2, start_grid=[4, 4])["decoder"] == {"start_grid": [4, 4]}
    assert found({**complete, "training.epochs": 2})["training"] == {"epochs": 2}
    assert complete["training"] == {}


@pytest.mark.parametrize(
    ("given", "short", "message"),
    [
        ({"Q": 3}, {}, r'no option "Q": write SECTION\.NAME with one of the sections encoder, decoder'),
        ({}, {"epoch": 3}, r'no option "epoch": "epochs" may be meant'),
        ({}, {"hatchery": 3}, r'no option "hatchery": write SECTION\.NAME'),
        ({}, {"image_shape": 3}, 'no option "image_shape"'),
        ({}, {"flips": True}, r'encoder and the training have .* encoder\.flips or training\.flips .*\{"training\.f'),
        ({"densities.gan.epochs": 1}, {}, '"gan" is not among the densities to fit'),
        (3, {}, "options=3: give names and values"),
    ],
)
def test_unknown_keywords(given, short, message):
    with pytest.raises(InputError, match=message):
        sg.GenerativeScatteringNetwork.fit(torch.rand(100, 1, 16, 16), options=given, **short)


def test_the_page_about_it(fitted):
    """Its snippets run, one after another, on fewer digits and in fewer epochs."""
    text = (EXAMPLES.parent / "docs" / "notebooks.md").read_text()
    for given, small in {"[:5000]": "[:60]", "epochs=4": "epochs=1", '"epochs": 4': '"epochs": 1'}.items():
        assert given in text
        text = text.replace(given, small)
    text = text.replace("n_components=64", "n_components=8, channels=[8, 4, 4]")
    text = text.replace('"encoder.J": 2', '"encoder.J": 2, "decoder.channels": [8, 4, 4]')
    text = text.replace("own.encode(images))", 'own.encode(images), keywords={"n_components": 2})')
    names = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of so few images
        for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
            exec(code, names)
    assert names["model"].options["densities"] == {"mixture": {"n_components": 10}, "gaussian": {}}
    assert not names["model"].options["encoder"]["flips"]
    assert names["own"].sample(4).shape == (4, 1, 28, 28)


def test_psnr_after_a_fit_is_that_of_the_images_held_out():
    x = torch.rand(60, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    model = sg.GenerativeScatteringNetwork.fit(x, n_components=8, channels=[8, 4], epochs=1, densities="gaussian")
    errors = (x[54:] - model.reconstruct(x[54:])).square().mean((1, 2, 3))
    assert model.psnr == pytest.approx(-10 * errors.log10().mean().item(), abs=1e-4)  # of sums in float32


# One's own parts


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_own_parts(part, tmp_path, capsys):
    import runpy

    made = runpy.run_path(str(EXAMPLES / f"own_{part}.py"), run_name="__main__")
    model, images = made["model"], made["images"]
    assert "samples" in capsys.readouterr().out
    z = model.encode(images[:3])
    assert z.shape == (3, model.decoder.n_components)
    for shown in (model.decode(z), model.reconstruct(images[:3]), model.sample(3), model.interpolate(*images[:2], 3)):
        assert shown.shape == (3, *model.decoder.image_shape)
        assert not shown.requires_grad
    assert type(getattr(model, part)).__name__ in repr(model)
    assert len(page_of(model).pictures) == 1
    with pytest.raises(InputError, match=f"{type(getattr(model, part)).__name__} is no encoder or decoder of scatt"):
        model.save(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_decoder_of_other_shapes_is_told(model):
    class Wrong:
        n_components, image_shape = 16, (1, 28, 28)

        def decode(self, z):
            return torch.zeros(len(z), 28, 28)

    wrong = sg.GenerativeScatteringNetwork(model.encoder, Wrong(), {"gaussian": Gaussian().fit(torch.randn(9, 16))})
    with pytest.raises(InputError, match=r"made images of shape \(2, 28, 28\): \(2, 1, 28, 28\) is expected"):
        wrong.sample(2)
