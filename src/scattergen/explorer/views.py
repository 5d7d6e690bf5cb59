"""What each part of the page shows: values of its components by their names, from those that a visitor has set."""

import html
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from scattergen.errors import InputError
from scattergen.explorer.drawing import coefficient_table, heat_map, scatter
from scattergen.explorer.session import N_SAMPLES, Draw, Explorer
from scattergen.image_files import image_grid
from scattergen.image_quality import psnr
from scattergen.stages.density import default_density
from scattergen.wording import number

N_SLIDERS = 8
Given = Mapping[str, Any]
Shown = dict[str, Any]  # a dict in it holds properties of a component, such as its choices

_ANY = "any"
_STEPS = [k / 8 for k in range(9)]
_MOST_PAIRS = 10


def pictures(images: Tensor) -> list[Image.Image]:
    """A picture of each of N images."""
    return [image_grid(image[None], pad=0) for image in images]


def draw_of(given: Given) -> Draw:
    """What the samples are drawn by."""
    label = None if given["label"] in (None, _ANY) else str(given["label"])
    return Draw(given["density"], label, float(given["temperature"]), int(given["seed"] or 0))


def begin(explorer: Explorer, given: Given) -> Shown:
    """The first sight of the page."""
    model, stages = explorer.model, explorer.run.stages
    channels, height, width = model.decoder.image_shape
    d, n = model.decoder.n_components, stages.get("codes", {}).get("n")
    facts = [f"{width}×{height} pixels in {'grey' if channels == 1 else 'colour'}", f"{d:,} components"]
    facts = ([f"{n:,} training images"] if n else []) + facts
    if "psnr" in stages.get("report", {}):
        facts.append(f"test images restored with {stages['report']['psnr']:.1f} dB")
    title = f"# {_plain(explorer.path.resolve().name)}\n{_plain(explorer.path)}: {', '.join(facts)}."
    shares = 100 * model.encoder.whitening.explained_variance_ratio_
    labels = [f"Component {k + 1} ({share:.1f} % of the variance)" for k, share in enumerate(shares[:N_SLIDERS])]
    sliders = {f"component-{k}": {"label": label, "visible": True} for k, label in enumerate(labels)}
    keys = [*model.densities]
    density = given["density"] if given["density"] in keys else default_density(keys, model.best)
    chosen = {"density": {"choices": keys, "value": density}}
    return {"title": title, **sliders, **resample(explorer, {**given, "density": density}), **chosen}


def resample(explorer: Explorer, given: Given) -> Shown:
    """Samples of a density, a class, a temperature and a seed, and what is shown of the chosen one."""
    if given["density"] not in explorer.model.densities:
        raise InputError(f"This run has no density {given['density']}: reload the page.")
    classes = explorer.classes(given["density"])
    label = given["label"] if given["label"] in classes else _ANY
    given = {**given, "label": label}
    draw = draw_of(given)
    words = ["scattergen sample", str(explorer.path), "--density", draw.density, "-n", str(N_SAMPLES)]
    words += ["--seed", str(draw.seed), "--temperature", f"{draw.temperature:g}"]
    words += ["--label", draw.label] if draw.label else []
    shown = pictures(explorer.decode(explorer.samples(draw)))
    return {
        "samples": {"value": shown, "selected_index": given["chosen"]},
        "label": {"choices": [_ANY, *classes], "value": label, "visible": bool(classes)},
        "command": f"`{' '.join(words)} --out samples.png`", **look(explorer, given),
    }  # fmt: skip


def others(explorer: Explorer, given: Given) -> Shown:
    """Samples of the next seed."""
    seed = int(given["seed"] or 0) + 1
    return {"seed": seed, **resample(explorer, {**given, "seed": seed})}


def look(explorer: Explorer, given: Given) -> Shown:
    """The part of the page that is open."""
    return TABS[given["tab"]](explorer, given)


def level(explorer: Explorer, given: Given) -> Shown:
    """No component changed."""
    zero: Shown = {f"component-{k}": 0 for k in range(N_SLIDERS)}
    return {**zero, **look(explorer, {**given, **zero})}


def nearest(explorer: Explorer, given: Given) -> Shown:
    """The chosen sample beside training images."""
    z = _chosen(explorer, given)
    found = explorer.nearest(z)
    titles = [f"no. {row:,} at {distance:.2f}" for row, distance in zip(found.rows, found.distances, strict=True)]
    images = pictures(torch.cat([explorer.decode(z[None]), explorer.training(found.rows)]))
    text = (
        f"The sample lies at a distance of {found.distances[0]:.2f} from the nearest training image, which itself lies "
        f"{found.usual:.2f} from its own nearest: a copy would be much nearer than training images are to each other."
    )
    if explorer.training_images is None:
        text += " The training images are not at hand, so their stored codes are decoded here; name them by `--images`."
    return {"neighbours": [*zip(images, ["the sample", *titles], strict=True)], "neighbours-text": text}


def components(explorer: Explorer, given: Given) -> Shown:
    """The chosen sample before and after its leading components are changed."""
    z = _chosen(explorer, given)
    added = [float(given[f"component-{k}"] or 0) for k in range(N_SLIDERS)]
    before, after = pictures(torch.cat([explorer.decode(z[None]), explorer.edit(z, added)]))
    return {"before": before, "after": after}


def morph(explorer: Explorer, given: Given) -> Shown:
    """Steps between two images, and one place between them."""
    start = _code(explorer, given, "from", given["chosen"])
    stop = _code(explorer, given, "to", (given["chosen"] + 1) % N_SAMPLES)
    *steps, here = pictures(explorer.morph(start, stop, [*_STEPS, float(given["position"])]))
    return {"steps": [*zip(steps, (f"{100 * step:.0f} %" for step in _STEPS), strict=True)], "between": here}


def scattering(explorer: Explorer, given: Given) -> Shown:
    """An image, what its code keeps of it, and its first-order coefficients."""
    image = _upload(explorer, given, "picture")
    if image is None:
        image = explorer.decode(_chosen(explorer, given)[None])
    model = explorer.model
    code = model.encode(image)
    restored = {"decoder": model.decode(code)}
    if model.linear is not None:
        restored["least squares"] = model.linear.decode(code)
    titles = [f"{name}: {number(psnr(image, x).item(), 1)} dB" for name, x in restored.items()]
    shown = pictures(torch.cat([image, *restored.values()]))
    table = coefficient_table(explorer.coefficients(image))
    return {"restored": [*zip(shown, ["as the model sees it", *titles], strict=True)], "coefficients": table}


def dependence(explorer: Explorer, given: Given) -> Shown:
    """How components depend on each other, in the codes and in samples, and one pair of them."""
    density = given["density"]
    of_codes, of_samples = explorer.dependence(), explorer.dependence(density)
    pairs = {f"{i + 1} and {j + 1}": (i, j) for i, j in of_codes.dependent(1.0)[:_MOST_PAIRS]}
    pair = given["pair"] if given["pair"] in pairs else next(iter(pairs))
    name = html.escape(density)
    points = [("training codes", explorer.tested), (f"samples of {name}", explorer.drawn(density))]
    map_of = heat_map(of_codes.correlation, of_samples.correlation, name)
    shown = {"map": map_of, "points": scatter(points, pairs[pair])}
    return {**shown, "pair": {"choices": [*pairs], "value": pair}}


TABS: dict[str, Callable[[Explorer, Given], Shown]] = {
    "nearest": nearest, "components": components, "morph": morph, "scattering": scattering, "dependence": dependence,
}  # fmt: skip


def _chosen(explorer: Explorer, given: Given, index: int | None = None) -> Tensor:
    return explorer.samples(draw_of(given))[given["chosen"] if index is None else index]


def _upload(explorer: Explorer, given: Given, name: str) -> Tensor | None:
    """The image (1, C, H, W) of a file that was uploaded; Gradio has checked that it was."""
    file = given[name]
    if not file:
        return None
    if not file.get("path"):
        raise InputError("The picture did not arrive: upload it as a file.")
    return explorer.picture(Path(file["path"]).read_bytes())


def _code(explorer: Explorer, given: Given, name: str, index: int) -> Tensor:
    """The code (d,) of an upload, or of a sample if there is none."""
    image = _upload(explorer, given, name)
    return _chosen(explorer, given, index) if image is None else explorer.model.encode(image)[0]


def _plain(text: object) -> str:
    """A text in which neither Markdown nor HTML is heeded."""
    return "".join(f"&#{ord(c)};" if not (c.isalnum() or c in " /.") else c for c in str(text))
