"""What people's own images become: `auto` from 300 images to 7,000, beside least squares and L1.

    python benchmarks/own_images.py [--faces DIR] [--emoji DIR] [--folder runs/own-images]
        [--seconds 3600] [--only LABEL …]

A row is a fit by the preset `auto` (or one of the generator of Angles & Mallat by the error of
pixels, to compare with), scored on test images that it has not seen, in perceptual features: PSNR,
kernel distance · 1000 and sharpness of reconstructions, of least squares from the same codes, and
of the samples of the best density; the p-value of the test of memorisation of each density; the
seconds of the fit, and those that were estimated before. Each row is kept in the folder as soon as
it is made, with a picture (test images; least squares; the decoder; samples) and another one, of
samples and the two training images that are nearest to each in pixels: the benchmark can be
stopped, or told by --seconds to start nothing more, and continues.

Images: colour shapes made here; 32×32 pieces of the two photographs of scikit-learn; a folder of
CelebA's aligned faces and one of emoji in sub-folders, where they are given.
"""

import argparse
import colorsys
import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from scattergen import load
from scattergen.datasets import Dataset, ImageArray, ImageSource, Subset, celeba, open_dataset
from scattergen.display.machine import machine
from scattergen.display.progress import Progress
from scattergen.evaluation import PerceptualFeatures, evaluate
from scattergen.evaluation.judgement import Judgement
from scattergen.files import write_json
from scattergen.pipeline.estimate import estimate_fit
from scattergen.pipeline.fit import fit_run, options_of_fit
from scattergen.report import save_image_grid

COLUMNS = 10
NEAREST = 12  # samples that are shown beside the nearest training images

# The generator of Angles & Mallat by the error of pixels, as preset celeba has it, for 8 epochs.
GENERATOR = {"preset": "celeba", "changes": {"training.epochs": 8}, "densities": ["mixture", "vae-improved"]}


def shapes(n: int, seed: int) -> ImageArray:
    """Discs, rectangles and triangles of one colour on a pale ground, 32×32."""
    generator = np.random.default_rng(seed)
    scale, images = 4, []
    for _ in range(n):
        hue = generator.random(3)
        ground = colorsys.hsv_to_rgb(hue[0], 0.4 * hue[1], 0.6 + 0.4 * hue[2])
        hue = generator.random(3)
        paint = colorsys.hsv_to_rgb(hue[0], 0.6 + 0.4 * hue[1], 0.3 + 0.7 * hue[2])
        image = Image.new("RGB", (32 * scale, 32 * scale), _bytes(ground))
        draw, (x, y) = ImageDraw.Draw(image), generator.uniform(10, 22, 2) * scale
        size, kind = generator.uniform(5, 10) * scale, generator.integers(3)
        if kind == 0:
            draw.ellipse((x - size, y - size, x + size, y + size), fill=_bytes(paint))
        elif kind == 1:
            top, bottom = generator.uniform(0.6, 1), 0.8
            box = (x - size, y - size * top, x + size, y + size * bottom)
            draw.rectangle(box, fill=_bytes(paint))
        else:
            angles = generator.uniform(0, 2 * np.pi) + np.array([0, 2.1, 4.2])
            corners = [(x + size * np.cos(a), y + size * np.sin(a)) for a in angles]
            draw.polygon(corners, fill=_bytes(paint))
        images.append(np.asarray(image.resize((32, 32), Image.Resampling.LANCZOS)))
    return ImageArray(np.stack(images).transpose(0, 3, 1, 2), name=f"shapes {seed}")


def photos(n: int, seed: int) -> ImageArray:
    """Squares of 40 to 160 pixels of two photographs, 32×32."""
    from sklearn.datasets import load_sample_images

    generator = np.random.default_rng(seed)
    whole = [Image.fromarray(image) for image in load_sample_images().images]
    images = []
    for i in range(n):
        image, side = whole[i % 2], int(generator.integers(40, 160))
        left = int(generator.integers(0, image.width - side))
        top = int(generator.integers(0, image.height - side))
        square = image.crop((left, top, left + side, top + side))
        images.append(np.asarray(square.resize((32, 32), Image.Resampling.BICUBIC)))
    return ImageArray(np.stack(images).transpose(0, 3, 1, 2), name=f"photos {seed}")


def _bytes(colour: tuple[float, float, float]) -> tuple[int, ...]:
    return tuple(int(255 * value) for value in colour)


def given(folder: Path | None, option: str) -> Path:
    """A folder that was named; FileNotFoundError if none was."""
    if folder is None:
        raise FileNotFoundError(f"name its folder by {option}")
    return folder


def emoji(folder: Path | None, n: int | None) -> Dataset:
    """Emoji in nine classes; a tenth is for tests whatever n is."""
    data = open_dataset(given(folder, "--emoji"), mode="RGB")
    return Dataset("emoji", first(data.train, n), data.test)


def faces(folder: Path | None, n: int | None) -> Dataset:
    """Faces of 64×64."""
    data = celeba(given(folder, "--faces"), size=64)
    return Dataset("faces", first(data.train, n), data.test)


def first(images: ImageSource, n: int | None) -> ImageSource:
    """The first images of a random order."""
    if n is None:
        return images
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    return Subset(images, order[:n].sort().values)


def rows(
    face_folder: Path | None, emoji_folder: Path | None
) -> dict[str, tuple[Callable[[], Dataset], dict[str, Any]]]:
    """Label to the images, and keywords of `options_of_fit`; none for `auto`."""
    made: dict[str, tuple[Callable[[], Dataset], dict[str, Any]]] = {}
    for n in (300, 1000):
        made[f"shapes {n}"] = (lambda n=n: Dataset("shapes", shapes(n, 0), shapes(500, 1)), {})
        made[f"photos {n}"] = (lambda n=n: Dataset("photos", photos(n, 0), photos(500, 1)), {})
        made[f"faces {n}"] = (lambda n=n: faces(face_folder, n), {})
        made[f"emoji {n}"] = (lambda n=n: emoji(emoji_folder, n), {})
    made["emoji"] = (lambda: emoji(emoji_folder, None), {})
    made["faces"] = (lambda: faces(face_folder, None), {})
    made["faces, generator by pixels"] = (lambda: faces(face_folder, None), GENERATOR)
    return made


def measure(data: Dataset, how: dict[str, Any], folder: Path, name: str) -> dict[str, Any]:
    """One row: what `scattergen fit` does."""
    progress, picture = Progress(), folder / "pictures" / f"{name}.png"
    choice = options_of_fit(data, **how)
    estimate = sum(stage.seconds for stage in estimate_fit(data, choice.options))
    start = time.monotonic()
    fitted = fit_run(data, folder / "models" / name, choice, progress=progress)
    seconds = time.monotonic() - start
    model = load(folder / "models" / name)
    judgement = Judgement.of(fitted.run.stages["report"]["judgement"])
    assert data.test is not None, "all have test images"
    extract = PerceptualFeatures()
    drawn = {key: extract(model.sample(500, key)) for key in model.densities}
    scored = evaluate(drawn, extract(data.test), train=extract(data.train), progress=progress)
    copies = {key: row.memorisation.copying_pvalue for key, row in scored.items() if row.memorisation}
    codes = model.encode(data.test[:COLUMNS])
    shown = [data.test[:COLUMNS], model.decode(codes)]
    if model.linear is not None:
        shown.insert(1, model.linear.decode(codes))
    shown.append(model.sample(3 * COLUMNS, judgement.best))
    picture.parent.mkdir(parents=True, exist_ok=True)
    save_image_grid(torch.cat(shown), picture, columns=COLUMNS)
    new, train = model.sample(NEAREST, judgement.best, seed=1), data.train[:]
    near = torch.cdist(new.flatten(1), train.flatten(1)).topk(2, largest=False).indices
    grid = torch.cat([new, train[near[:, 0]], train[near[:, 1]]])
    save_image_grid(grid, picture.with_stem(f"{name}-nearest"), columns=NEAREST)
    return {
        **asdict(judgement), "in_a_row": judgement.n, "n": len(data.train),
        "d": model.encoder.whitening.n_components, "leading": model.n_leading,
        "seconds": seconds, "estimated": estimate, "copying_pvalue": copies,
        "machine": machine(),
    }  # fmt: skip


def table(kept: dict[str, dict[str, Any]]) -> None:
    """Print what there is."""
    print(
        f"{'images':28}{'d':>5}{'m':>5}{'s':>6}{'est.':>6}  {'PSNR (least sq.)':18}"
        f"{'kernel: decoder (l.sq.)':25}{'samples':>8}{'sharp':>7}{'of s.':>7}  best (copying, p)"
    )
    for label, row in kept.items():
        scores, best = row["rows"], row["best"]
        decoder, linear, samples = scores["decoder"], scores["least squares"], scores[best]
        print(
            f"{label:28}{row['d']:5}{row['leading'] or row['d']:5}{row['seconds']:6.0f}"
            f"{row['estimated']:6.0f}  "
            + f"{decoder['psnr']:.2f} ({linear['psnr']:.2f})".ljust(18)
            + f"{decoder['kernel']:.0f} ({linear['kernel']:.0f})".ljust(25)
            + f"{samples['kernel']:8.0f}{decoder['sharpness']:7.2f}{samples['sharpness']:7.2f}  "
            + f"{best} ({row['copying_pvalue'][best]:.2f})"
        )


def main() -> None:
    """Measure what is missing, and print all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faces", type=Path, help="folder of CelebA's aligned images")
    parser.add_argument("--emoji", type=Path, help="folder of emoji, a sub-folder for each class")
    parser.add_argument("--folder", type=Path, default=Path("runs/own-images"))
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument(
        "--only", nargs="*", metavar="LABEL", choices=list(rows(None, None)), help="of rows: %(choices)s"
    )
    parser.add_argument("--set", nargs="*", default=[], help="NAME=VALUE over auto, to try things")
    arguments = parser.parse_args()
    changes = {name: json.loads(value) for name, value in (s.split("=", 1) for s in arguments.set)}
    suffix = "".join(f" {setting}" for setting in arguments.set)
    stop_at = time.monotonic() + arguments.seconds
    path = arguments.folder / "rows.json"
    arguments.folder.mkdir(parents=True, exist_ok=True)
    kept: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.exists() else {}
    for label, (images, how) in rows(arguments.faces, arguments.emoji).items():
        if (arguments.only and label not in arguments.only) or label + suffix in kept:
            continue
        if time.monotonic() > stop_at:
            print(f"no time left for {label}")
            continue
        try:
            data = images()
        except FileNotFoundError as error:
            print(f"left out: {label} ({error})")
            continue
        name = "".join(c if c.isalnum() else "-" for c in label + suffix)
        how = {**how, "changes": {**how.get("changes", {}), **changes}}
        kept[label + suffix] = measure(data, how, arguments.folder, name)
        write_json(path, kept)
    table(kept)


if __name__ == "__main__":
    main()
