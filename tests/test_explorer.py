"""The page of `scattergen explore`: what it shows, without a server; the server; and a browser at it."""

import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from scattergen.cli import browsing
from scattergen.datasets.image_files import image_grid, png
from scattergen.diagnostics.dependence import pairwise_dependence
from scattergen.errors import InputError
from scattergen.explorer import page, views
from scattergen.explorer.serving import free_port
from scattergen.explorer.session import N_SAMPLES, Explorer
from scattergen.model import GenerativeScatteringNetwork

DOCS = Path(__file__).parents[1] / "docs" / "explorer.md"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
needs_gradio = pytest.mark.skipif(find_spec("gradio") is None, reason="needs the extra ui")


@pytest.fixture(scope="module")
def explorer(fitted):
    return Explorer(fitted)


@pytest.fixture
def given():
    """What a visitor has set at first."""
    start = {"density": "mixture", "label": "any", "temperature": 1, "seed": 0, "chosen": 0, "tab": "edit"}
    start |= {"from": None, "to": None, "picture": None, "pair": None, "position": 0.5}
    return start | {f"component-{k}": 0 for k in range(views.N_SLIDERS)}


def same(picture, image):
    """Whether a picture shows one image (C, H, W)."""
    return np.array_equal(np.asarray(picture), np.asarray(image_grid(image[None])))


def uploaded(tmp_path, content):
    """What the page gets of an uploaded file."""
    path = tmp_path / "upload.png"
    path.write_bytes(content)
    return {"path": str(path)}


def test_the_page_begins_with_the_default_density(explorer, given):
    shown = views.begin(explorer, given | {"density": None})
    assert shown["density"] == {"choices": ["gaussian", "mixture", "vae", "gan"], "value": explorer.density}
    expected = explorer.model.sample(N_SAMPLES, seed=0)
    assert all(map(same, shown["samples"]["value"], expected))
    assert "28×28" in shown["title"]
    assert shown["component-0"]["label"].startswith("Component 1 (")
    assert not shown["label"]["visible"]


def test_samples_are_those_of_the_command_that_is_shown(explorer, given, scattergen, tmp_path):
    shown = views.others(explorer, given | {"seed": 6, "density": "vae", "temperature": 0.5})
    assert shown["seed"] == 7
    command = re.sub(r"<.?code>|&#45;", lambda m: "-" if "45" in m[0] else "", shown["command"])
    words = ["--seed", "7", "--temperature", "0.5"]
    assert " ".join(words) in command
    scattergen("sample", explorer.run.path, "--density", "vae", *words, "-n", N_SAMPLES, "--out", tmp_path / "x.npz")
    with np.load(tmp_path / "x.npz") as arrays:
        assert all(map(same, shown["samples"]["value"], torch.from_numpy(arrays["images"])))


def test_a_class_can_be_chosen_where_the_density_knows_classes(run_copy, scattergen, given):
    scattergen("density", run_copy, "gaussian", "--by-class", "--quiet")
    explorer = Explorer(run_copy)
    shown = views.resample(explorer, given | {"density": "gaussian-by-class", "label": "3"})
    assert shown["label"]["visible"]
    assert shown["label"]["value"] == "3"
    expected = explorer.model.sample(N_SAMPLES, "gaussian-by-class", labels="3")
    assert all(map(same, shown["samples"]["value"], expected))
    assert views.resample(explorer, given | {"density": "mixture", "label": "3"})["label"]["value"] == "any"


def test_nearest_training_images_are_nearest_by_coefficients(explorer, given):
    z, codes = explorer.samples("mixture")[2].double(), explorer.codes.double()
    components = explorer.model.encoder.whitening.components_.double()
    deviations = explorer.model.encoder.whitening.explained_variance_.sqrt()
    distances = ((codes - z) * deviations @ components).norm(dim=1)  # of the coefficients themselves
    found, rows = explorer.nearest(z.float(), 5)
    assert rows == distances.argsort()[:5].tolist()
    # float32 squares that cancel: their rounding is some 1e-6 of the largest, which is below 10
    assert found == pytest.approx(distances.sort().values[:5].tolist(), rel=1e-3)
    shown = views.nearest(explorer, given | {"chosen": 2})
    assert same(shown["neighbours"][1][0], explorer.model.decode(explorer.codes[rows[:1]])[0])
    assert "--images" in shown["neighbours-text"]


def test_training_images_are_shown_where_they_are_at_hand(fitted, digits, given):
    from scattergen.datasets import open_dataset

    data = open_dataset(digits)
    explorer = Explorer(fitted, data)
    row = explorer.nearest(explorer.samples("mixture")[0], 1)[1][0]
    shown = views.nearest(explorer, given)
    assert same(shown["neighbours"][1][0], data.train[row : row + 1][0])
    assert "--images" not in shown["neighbours-text"]
    with pytest.raises(InputError, match="does not hold the images"):
        _ = Explorer(fitted, open_dataset("mnist")).training_images


def test_a_slider_adds_to_its_component(explorer, given):
    z = explorer.samples("mixture")[5].clone()
    z[3] += 2
    shown = views.look(explorer, given | {"chosen": 5, "component-3": 2})
    assert same(shown["before"], explorer.model.decode(explorer.samples("mixture")[5:6])[0])
    assert same(shown["after"], explorer.model.decode(z[None])[0])
    assert not same(shown["after"], explorer.model.decode(explorer.samples("mixture")[5:6])[0])
    again = views.level(explorer, given | {"chosen": 5, "component-3": 2})
    assert again["component-3"] == 0
    assert same(again["after"], explorer.model.decode(explorer.samples("mixture")[5:6])[0])


def test_a_morph_leads_from_one_end_to_the_other(explorer, given, tmp_path):
    shown = views.morph(explorer, given | {"chosen": 15, "position": 1})
    ends = explorer.model.decode(explorer.samples("mixture")[[15, 0]])
    assert same(shown["steps"][0], ends[0])
    assert same(shown["steps"][-1], ends[1])
    assert same(shown["between"], ends[1])
    image = torch.rand(1, 28, 28, generator=torch.Generator().manual_seed(0))
    file = uploaded(tmp_path, png(image_grid(image[None], scale=1)))
    shown = views.morph(explorer, given | {"from": file})
    assert same(shown["steps"][0], explorer.model.reconstruct((image * 255).round()[None] / 255)[0])


def test_uploads_are_read_as_encode_reads_files(explorer, scattergen, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (60, 41, 4), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "a.png")
    scattergen("encode", explorer.run.path, folder, "--out", tmp_path / "z.npy", showing_warnings=True)
    code = explorer.model.encode(explorer.picture((folder / "a.png").read_bytes()))
    assert np.array_equal(code.numpy(), np.load(tmp_path / "z.npy"))


def test_what_is_no_picture_is_refused_in_a_sentence(explorer, given, tmp_path):
    for content in (b"", b"%PDF-1.4 no image", b"\x89PNG\r\n\x1a\n" + bytes(99)):
        with pytest.raises(InputError, match="The picture cannot be read as an image: choose"):
            views.scattering(explorer, given | {"picture": uploaded(tmp_path, content)})
    with pytest.raises(InputError, match="did not arrive"):
        views.scattering(explorer, given | {"picture": {"path": None, "url": "data:image/png;base64,AA"}})


@pytest.mark.parametrize("angle", [0, 45, 90, 135])
def test_coefficients_tell_directions(explorer, given, tmp_path, angle):
    """Lines at an angle have most energy in the column of that angle."""
    down, right = np.mgrid[:28, :28]
    across = -np.sin(np.radians(angle)) * right - np.cos(np.radians(angle)) * down
    buffer = io.BytesIO()
    Image.fromarray((127 + 120 * np.cos(2 * across)).astype(np.uint8)).save(buffer, "PNG")
    shown = views.scattering(explorer, given | {"picture": uploaded(tmp_path, buffer.getvalue())})
    table = shown["coefficients"]
    angles = [float(one) for one in re.findall(r'title="([\d.]+)°"', table)]
    assert angles == sorted(angles)
    assert len(angles) == 8
    shares = np.array([float(one) for one in re.findall(r"<small>(\d+)</small>", table)]).reshape(-1, 8)
    assert len(shares) == explorer.model.encoder.scattering.J
    assert angles[shares.sum(0).argmax()] == angle
    assert shares.sum() == pytest.approx(100, abs=0.5 * shares.size)  # each is rounded
    assert [caption for _, caption in shown["restored"]] == ["input", "decoder", "least squares"]


def test_the_map_shows_the_dependence_of_codes_and_samples(explorer, given):
    shown = views.dependence(explorer, given | {"density": "gaussian"})
    values = re.findall(r"<title>components (\d+) and (\d+), (\w+): ([\d.]+)</title>", shown["map"])
    codes, samples = (
        pairwise_dependence(table, n_simulations=19).correlation
        for table in (explorer.codes, explorer.model.sample_codes(300, "gaussian"))
    )
    assert len(values) == 16 * 15
    for i, j, name, value in values:
        expected = (codes if name == "codes" else samples)[int(i) - 1, int(j) - 1]
        assert float(value) == pytest.approx(expected, abs=0.006)  # rounded to two digits
        assert name == ("codes" if int(j) > int(i) else "gaussian")
    first = np.unravel_index(np.triu(codes, 1).argmax(), codes.shape)
    assert shown["pair"]["value"] == f"{first[0] + 1} and {first[1] + 1}"
    assert shown["points"].count("<circle") == 2 * 300
    other = shown["pair"]["choices"][3]
    assert views.dependence(explorer, given | {"pair": other})["pair"]["value"] == other


def test_a_run_without_codes_shows_the_rest(fitted, given, tmp_path):
    GenerativeScatteringNetwork.load(fitted).save(tmp_path / "saved")
    explorer = Explorer(tmp_path / "saved")
    explorer.warm()
    for tab in ("edit", "morph", "scattering"):
        assert views.begin(explorer, given | {"tab": tab})["samples"]
    for tab in ("nearest", "dependence"):
        with pytest.raises(InputError, match="does not hold the codes"):
            views.look(explorer, given | {"tab": tab})


def test_mistakes_are_told_before_the_page_is_there(fitted, scattergen, monkeypatch, tmp_path):
    monkeypatch.setattr(browsing.signal, "signal", lambda *_: None)
    assert "There is no run folder" in scattergen("explore", tmp_path / "none", code=2).err
    assert "does not hold the images" in scattergen("explore", fitted, "--images", "mnist", code=2).err
    assert "cannot be used here" in scattergen("explore", fitted, "--device", "gpu", code=2).err
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = scattergen("explore", fitted, "--no-browser", "--port", port, code=2).err
        assert said == f"error: Port {port} is in use: choose another by --port.\n"
    assert "cannot be served at 192.0.2.1" in scattergen("explore", fitted, "--host", "192.0.2.1", code=2).err
    monkeypatch.setitem(sys.modules, "gradio", None)
    said = scattergen("explore", fitted, "--no-browser", code=2).err
    assert "pip install 'scattergen[ui]'" in said
    assert said.count("\n") == 1


def test_the_next_free_port_is_taken():
    with socket.create_server(("127.0.0.1", free_port("127.0.0.1", None))) as taken:
        assert free_port("127.0.0.1", None) > taken.getsockname()[1]


DOCUMENTED = """
import json, sys
import scattergen.explorer.page, gradio
launched = []
gradio.Blocks.launch = lambda self, **how: launched.append((self, how))
exec(sys.stdin.read(), {})
((blocks, how),) = launched
print(json.dumps({
    "style": how["css"] + how["theme"]._get_theme_css(), "history": how["run_history"],
    "tabs": [block.id for block in blocks.blocks.values() if isinstance(block, gradio.Tab)],
    "analytics": blocks.analytics_enabled, "torch": "torch" in sys.modules,
}))
"""


@needs_gradio
def test_the_documented_app_is_the_page(fitted):
    (code,) = re.findall(r"```python\n# app.py\n(.*?)```", DOCS.read_text(), flags=re.S)
    code = code.replace('"runs/mnist"', repr(str(fitted)))
    done = subprocess.run([sys.executable, "-c", DOCUMENTED], input=code, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert not re.search(r"url\(['\"]?http|@import", found.pop("style"))  # no fonts from elsewhere
    tabs = found.pop("tabs")
    assert tabs == list(page.TABS) == list(views.TABS)
    assert found == {"history": False, "analytics": False, "torch": False}


def fetch(url, data=None):
    """Status and content; never through a proxy."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    try:
        with opener.open(request, timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


@pytest.fixture(scope="module")
def served(fitted, tmp_path_factory):
    """The address of a page, served behind a proxy that is not there; it ends by Ctrl-C and leaves nothing behind."""
    folder = tmp_path_factory.mktemp("temporary")
    environment = os.environ | {"TMPDIR": str(folder), "HTTP_PROXY": "http://127.0.0.1:9", "http_proxy": ""}
    command = [sys.executable, "-m", "scattergen", "explore", str(fitted), "--no-browser", "--json"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        yield json.loads(process.stdout.readline())["address"]
        assert list(folder.glob("scattergen-*"))
        process.send_signal(signal.SIGINT)
        assert process.wait(120) == 0
        assert not list(folder.glob("scattergen-*"))
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@needs_gradio
def test_nothing_else_on_this_machine_can_be_read(served, fitted):
    assert served.startswith("http://127.0.0.1:")
    status, content = fetch(served)
    assert status == 200
    assert b"scattergen" in content
    for path in ("/etc/passwd", str(fitted / "run.json"), "../../../../../../etc/passwd", "run.json"):
        status, content = fetch(f"{served}gradio_api/file={path}")
        assert status in (403, 404), path
        assert b"root:" not in content
    config = json.loads(fetch(f"{served}config")[1])
    labels = {part["props"].get("label"): part["id"] for part in config["components"]}
    (change,) = (d for d in config["dependencies"] if [labels["Your picture"], "change"] in d["targets"])
    values = {part["id"]: part["props"].get("value") for part in config["components"]}
    stolen = {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}
    data = [stolen if one == labels["Your picture"] else values.get(one) for one in change["inputs"]]
    body = {"data": data, "fn_index": change["id"], "session_hash": "thief", "trigger_id": labels["Your picture"]}
    assert fetch(f"{served}gradio_api/queue/join", json.dumps(body).encode())[0] == 200
    told = fetch(f"{served}gradio_api/queue/data?session_hash=thief")[1].decode()
    assert '"success": false' in told.replace('":false', '": false')
    assert "root:" not in told


@needs_gradio
@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None or find_spec("playwright") is None, reason="needs chromium and playwright")
@pytest.mark.parametrize("width", [1280, 390])
def test_in_a_browser(served, tmp_path, width):
    from playwright.sync_api import sync_playwright

    (tmp_path / "bad.png").write_bytes(b"no picture")
    Image.fromarray(np.arange(4800, dtype=np.uint8).reshape(60, 80)).save(tmp_path / "good.png")
    asked, errors = [], []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        view = browser.new_page(viewport={"width": width, "height": 900})
        view.set_default_timeout(120_000)
        view.on("request", lambda request: asked.append(request.url))
        view.on("pageerror", lambda error: errors.append(str(error)))
        view.goto(served)

        def source(name, k=0):
            return view.locator(f"{name} img").nth(k).get_attribute("src")

        def changed(act, name, k=0):
            before = source(name, k)
            act()
            view.wait_for_function(
                "([n, k, s]) => document.querySelectorAll(n + ' img')[k]?.src !== s", arg=[name, k, before]
            )

        view.locator(".part-samples img").nth(15).wait_for()
        changed(lambda: view.locator(".part-samples button").nth(3).click(), ".part-neighbours")
        changed(lambda: view.get_by_role("button", name="Other samples").click(), ".part-samples")
        view.get_by_role("tab", name="Edit").click()
        view.locator(".part-after img").wait_for()
        changed(lambda: view.get_by_label("range slider for Component 2").press("End"), ".part-after")
        view.get_by_role("tab", name="Scattering").click()
        view.locator(".part-coefficients img").nth(15).wait_for()
        chooser = view.locator(".part-picture input[type=file]")
        changed(lambda: chooser.set_input_files(tmp_path / "good.png"), ".part-restored")
        view.locator(".part-picture").get_by_label("Remove Image").or_(
            view.locator(".part-picture").get_by_label("Clear")
        ).click()
        view.locator(".part-picture input[type=file]").set_input_files(tmp_path / "bad.png")
        view.get_by_text("The picture cannot be read as an image").wait_for()
        view.get_by_role("tab", name="Dependence").click()
        view.locator("svg.drawing circle").nth(100).wait_for(state="attached")
        assert view.evaluate("document.documentElement.scrollWidth") <= width + 1
        browser.close()
    assert [url for url in asked if not url.startswith((served, "data:", "blob:"))] == []
    assert errors == []
