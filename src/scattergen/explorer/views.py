"""What the parts of the page show: values of its components by their names, from those that a visitor has set."""

import base64
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from scattergen.datasets.image_files import image_grid, png
from scattergen.display.words import templates
from scattergen.errors import InputError
from scattergen.explorer.session import N_SAMPLES, Explorer
from scattergen.image_quality import psnr
from scattergen.model import GenerativeScatteringNetwork
from scattergen.pipeline.browse import edited

N_SLIDERS = 8
Given = Mapping[str, Any]
Shown = dict[str, Any]  # a dict in it holds properties of a component, such as its choices

_ANY = "any"  # class
_NEIGHBOURS, _STEPS, _PAIRS, _POINTS = 5, 10, 10, 500
_SMALLEST = 0.05  # dependence, below which everything is noise


def begin(explorer: Explorer, given: Given) -> Shown:
    """The first sight of the page."""
    model, (channels, height, width) = explorer.model, explorer.model.decoder.image_shape
    kind = f"{width}×{height} pixels in {'grey' if channels == 1 else 'colour'}"
    title = f"# {_plain(explorer.run.path.resolve().name)}\n{kind}, {model.decoder.n_components:,} components."
    shares = 100 * model.encoder.whitening.explained_variance_ratio_[:N_SLIDERS]
    labels = (f"Component {k + 1} ({share:.1f} % of the variance)" for k, share in enumerate(shares))
    sliders = {f"component-{k}": {"label": label, "visible": True} for k, label in enumerate(labels)}
    density = given["density"] if given["density"] in model.densities else explorer.density
    chosen = {"density": {"choices": [*model.densities], "value": density}}
    return {"title": title, **sliders, **resample(explorer, {**given, "density": density}), **chosen}


def resample(explorer: Explorer, given: Given) -> Shown:
    """Samples, and what is shown of the chosen one."""
    if given["density"] not in explorer.model.densities:
        raise InputError(f"This run has no density {given['density']}: reload the page.")
    classes = getattr(explorer.model.densities[given["density"]], "classes_", ())
    given = {**given, "label": given["label"] if given["label"] in classes else _ANY}
    words = ["scattergen", "sample", str(explorer.run.path)]
    words += ["--density", given["density"], "--seed", f"{given['seed']}"]
    words += ["--temperature", f"{given['temperature']:g}"] if given["temperature"] != 1 else []
    words += ["--label", given["label"]] if given["label"] != _ANY else []
    return {
        "samples": {"value": pictures(explorer.decode(_codes(explorer, given))), "selected_index": given["chosen"]},
        "label": {"choices": [_ANY, *classes], "value": given["label"], "visible": bool(classes)},
        "command": f"<code>{_plain(shlex.join([*words, '-n', '100', '--out', 'samples.png']))}</code>",
        **look(explorer, given),
    }


def others(explorer: Explorer, given: Given) -> Shown:
    """Samples of the next seed."""
    seed = {"seed": (given["seed"] or 0) + 1}
    return seed | resample(explorer, {**given, **seed})


def look(explorer: Explorer, given: Given) -> Shown:
    """What is shown in the tab that is open."""
    return TABS[given["tab"]](explorer, given)


def level(explorer: Explorer, given: Given) -> Shown:
    """No component changed."""
    zeros = {f"component-{k}": 0 for k in range(N_SLIDERS)}
    return zeros | look(explorer, {**given, **zeros})


def nearest(explorer: Explorer, given: Given) -> Shown:
    """The chosen sample beside training images."""
    z = _codes(explorer, given)[given["chosen"]]
    distances, rows = explorer.nearest(z, _NEIGHBOURS)
    usual = explorer.nearest(explorer.codes[rows[0]], 2)[0][-1]
    images = pictures(torch.cat([explorer.decode(z[None]), explorer.training(rows)]))
    numbers = ", ".join(f"{row:,}" for row in rows)
    text = f"Training images no. {numbers}, nearest first. The sample lies {distances[0]:.2f} from the first, which "
    text += f"lies {usual:.2f} from its own nearest: a copy would lie much nearer than they do to each other."
    if explorer.training_images is None:
        text += " They are not at hand, so what is shown are their codes, decoded; name the images by `--images`."
    captions = ["sample", *(f"{distance:.2f}" for distance in distances)]
    return {"neighbours": [*zip(images, captions, strict=True)], "neighbours-text": text}


def edit(explorer: Explorer, given: Given) -> Shown:
    """The chosen sample before and after its leading components are changed."""
    z = _codes(explorer, given)[given["chosen"]]
    changes = {k + 1: float(given[f"component-{k}"]) for k in range(min(N_SLIDERS, len(z)))}
    return dict(zip(("before", "after"), pictures(explorer.decode(edited(z, changes, steps=2))), strict=True))


def morph(explorer: Explorer, given: Given) -> Shown:
    """Steps between two images, and one place between them."""
    ends = []
    for name, index in (("from", given["chosen"]), ("to", (given["chosen"] + 1) % N_SAMPLES)):
        image = _upload(explorer, given[name])
        ends.append(_codes(explorer, given)[index] if image is None else explorer.model.encode(image)[0])
    places = torch.tensor([*np.linspace(0, 1, _STEPS), given["position"]], dtype=torch.float32)[:, None]
    *steps, between = pictures(explorer.decode(torch.lerp(ends[0], ends[1], places)))
    return {"steps": steps, "between": between}


def scattering(explorer: Explorer, given: Given) -> Shown:
    """An image, what its code keeps of it, and its first-order coefficients."""
    image = _upload(explorer, given["picture"])
    if image is None:
        image = explorer.decode(_codes(explorer, given)[given["chosen"]][None])
    model = explorer.model
    code = model.encode(image)
    restored = {"decoder": model.decode(code)}
    if model.linear is not None:
        restored["least squares"] = model.linear.decode(code)
    quality = [f"{name} {psnr(image, x).item():.1f} dB" for name, x in restored.items()]
    shown = zip(pictures(torch.cat([image, *restored.values()])), ["input", *restored], strict=True)
    told = {"restored-text": f"PSNR: {', '.join(quality)}.", "coefficients": _coefficients(model, image)}
    return {"restored": [*shown], **told}


def dependence(explorer: Explorer, given: Given) -> Shown:
    """How components depend on each other, in the codes and in samples, and one pair of them."""
    (codes, of_codes), (samples, of_samples) = explorer.dependence(None), explorer.dependence(given["density"])
    first, second = (axis.tolist() for axis in np.triu_indices(len(of_codes), k=1))
    found = sorted(zip(first, second, strict=True), key=lambda pair: -of_codes[pair])[:_PAIRS]
    pairs = {f"{i + 1} and {j + 1}": [i, j] for i, j in found}
    name = given["pair"] if given["pair"] in pairs else next(iter(pairs))
    shown = np.triu(of_codes, 1) + np.tril(of_samples, -1)
    points = [table[:_POINTS, pairs[name]].clamp(-4, 4).tolist() for table in (codes, samples)]
    facts = {"density": given["density"], "pair": pairs[name], "top": max(float(shown.max()), _SMALLEST)}
    return {
        "map": _render("dependence", shown=shown.tolist(), **facts),
        "points": _render("pair", codes=points[0], samples=points[1], **facts),
        "pair": {"choices": [*pairs], "value": name},
    }


TABS: dict[str, Callable[[Explorer, Given], Shown]] = {
    one.__name__: one for one in (nearest, edit, morph, scattering, dependence)
}


def pictures(images: Tensor) -> list[Image.Image]:
    """A picture of each of N images."""
    return [image_grid(image[None]) for image in images]


def _codes(explorer: Explorer, given: Given) -> Tensor:
    label = None if given["label"] in (None, _ANY) else given["label"]
    return explorer.samples(given["density"], label, given["temperature"], given["seed"])


def _upload(explorer: Explorer, file: Mapping[str, Any] | None) -> Tensor | None:
    """The image (1, C, H, W) of a file; Gradio has checked that it was uploaded."""
    if not file:
        return None
    if not file.get("path"):
        raise InputError("The picture did not arrive: upload it as a file.")
    return explorer.picture(Path(file["path"]).read_bytes())


def _coefficients(model: GenerativeScatteringNetwork, image: Tensor) -> str:
    """First-order coefficients of an image (1, C, H, W), the mean over channels, as maps with shares of the energy."""
    transform = model.encoder.scattering
    if transform.max_order == 0:
        return ""
    L = transform.L
    maps = transform(image)[0].mean(0)[1 : 1 + transform.J * L].unflatten(0, (transform.J, L))
    # Orientation θ answers to lines at (⌊L - L/2 - 1⌋ - θ) π/L above the horizontal.
    angles = {(int(L - L / 2 - 1) - theta) * 180 / L % 180: theta for theta in range(L)}
    maps = maps[:, [angles[angle] for angle in sorted(angles)]]
    shares = 100 * maps.square().sum((2, 3)) / maps.square().sum().clamp(min=1e-12)
    lit = maps / maps.amax((1, 2, 3), keepdim=True).clamp(min=1e-12)
    files = [[base64.b64encode(png(image_grid(one[None, None], scale=1))).decode() for one in row] for row in lit]
    rows = [[*zip(row, (f"{s:.0f}" for s in share), strict=True)] for row, share in zip(files, shares, strict=True)]
    return _render("coefficients", rows=rows, angles=[f"{angle:g}" for angle in sorted(angles)])


def _plain(text: str) -> str:
    """A text in which neither Markdown nor HTML is heeded."""
    return "".join(c if c.isalnum() or c in " /." else f"&#{ord(c)};" for c in text)


def _render(name: str, **facts: object) -> str:
    return str(templates(__package__).get_template(f"{name}.html.j2").render(facts))
