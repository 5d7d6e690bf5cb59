"""Figures 2 and 3 and Tables 2 and 3: samples of the densities, their quality, their training."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from scattergen.paper.decoder_settings import (
    DECODED,
    OTHER,
    SHOWN,
    by_setting,
    name_of,
    with_other,
)
from scattergen.paper.material import PAPER_DENSITIES, Material
from scattergen.paper.page import Finding, ReproductionPage
from scattergen.paper.stage_cache import Measured
from scattergen.report import paper
from scattergen.report.draft import duration, number, sample_size, setting
from scattergen.report.html import Html, table, tag

NAME = "density_samples"
REAL = "training images"
RECONSTRUCTED = "reconstructed test images, against test images"


def depends(material: Material) -> dict[str, Any]:
    """What the stage depends on."""
    parts = [f"densities/{key}" for key in material.densities]
    return {
        **material.depends_on_model("encoder", "codes", "decoder", *parts),
        **material.depends_on_distances(),
        "stages": _training(material),
    }


def _training(material: Material) -> dict[str, Any]:
    """What the run knows about the training of its parts."""
    stages = material.run.stages
    names = ["encoder", "codes", "decoder", *(f"densities/{key}" for key in material.densities)]
    known = {name: dict(stages.get(name, {})) for name in names}
    for stage in known.values():
        if "history" in stage:
            stage["epochs"] = len(stage.pop("history"))
    return known


def measure(material: Material, work: Path) -> Measured:
    """Draw from every density; score the samples, training images and decoded training codes."""
    model, n = material.model, material.n_images
    rows: dict[str, dict[str, Any]] = {}
    pictures = {}
    with material.progress.task("densities", len(material.densities) + 2) as task:
        # Not the images whose codes are decoded: a perfect model would not know them either.
        some = material.some(material.train, n, stream=2)
        distances = {REAL: material.distance(some)}
        task.advance()
        others = material.numbers(len(material.train), n, stream=3)
        distances[DECODED] = material.distance_of_codes(material.training_codes[others])
        if material.measure.to_decoded:
            distances[RECONSTRUCTED] = material.distance_of_reconstructions()
        task.advance()
        for key in material.densities:
            codes = model.sample_codes(n, key, material.seed)
            rows[key] = {
                "distance": material.distance_of_codes(codes),
                "description": model.densities[key].description,
                **material.run.metadata(f"densities/{key}"),
            }
            pictures[key] = model.decode(codes[:SHOWN])
            task.advance()
    return Measured(
        {"n": n, "references": distances, "rows": rows, "stages": _training(material)}, pictures
    )


def seconds_of(facts: Mapping[str, Any], stage: str) -> float:
    """Time that a stage of the run's fit took, as the run has it.

    Args:
        facts: Of this stage of the reproduction.
        stage: Of the fit.

    Returns:
        Seconds; 0 if the run does not say.
    """
    return float(facts["stages"][stage].get("seconds", 0.0))


def distances_by_setting(
    results: Mapping[str, Measured], material: Material
) -> dict[str, Mapping[str, float]]:
    """Distances of all densities, and of decoded training codes.

    Args:
        results: Of all stages.
        material: Of the run.

    Returns:
        Setting of the decoder, that of the paper first, to these.
    """
    facts = results[NAME].facts
    own = {key: row["distance"] for key, row in facts["rows"].items()}
    own[DECODED] = facts["references"][DECODED]
    return by_setting(results, material, own, "distances")


def show_samples(
    page: ReproductionPage, results: Mapping[str, Measured], material: Material
) -> None:
    """Add the section of the paper’s figure of samples."""
    measured = results[NAME]
    facts, how = measured.facts, material.measure
    distances = distances_by_setting(results, material)
    pictures = by_setting(results, material, measured.tensors, "pictures")
    figures = [
        page.page.figure(
            tag(
                "div",
                *(
                    _card(page, key, pictures[setting][key], found[key], how.title)
                    for key in facts["rows"]
                ),
                class_="densities",
            ),
            f"The first {SHOWN} samples drawn from each density, none left out, through the "
            f"decoder of {setting}.",
            material.paper.figure,
        )
        for setting, found in distances.items()
    ]
    n = facts["n"]
    rows: list[list[object]] = [
        [
            f"{name} (reference)",
            *(number(found.get(name, value), 2) for found in distances.values()),
        ]
        for name, value in facts["references"].items()
    ]
    rows += [
        [key, *(number(found[key], 2) for found in distances.values())] for key in facts["rows"]
    ]
    scores = table(
        [how.title, *distances],
        rows,
        caption=f"Between {sample_size(n)} images and as many test images, {how.words} Decoded "
        "training codes are what a perfect density would score through this decoder.",
    )
    content: list[Html] = [*figures, scores]
    if OTHER in results:
        content.append(tag("p", _settings(results[OTHER].facts)))
    page.section(
        "Samples",
        _finding(facts, distances, material.paper),
        content,
        with_other(measured, results),
        f"{sample_size(n)} samples",
        wide=True,
    )


def _card(page: ReproductionPage, key: str, images: Tensor, distance: float, how: str) -> Html:
    grid = page.grid(
        images,
        8,
        f"{len(images)} images decoded from samples of the density {key}",
        side=28 if images.shape[-1] < 56 else 64,
    )
    where = f"{'abc'[PAPER_DENSITIES.index(key)]}) in" if key in PAPER_DENSITIES else "not in"
    words = f"{where} the paper; {how} {number(distance, 1)}"
    return tag("div", tag("h3", key), grid, tag("p", words), class_="density")


def _settings(other: Mapping[str, Any]) -> str:
    """Where the two decoders come from."""
    own, theirs = name_of(not other["unit_norm"]), name_of(other["unit_norm"])
    return (
        "Angles and Mallat divided codes by their norms in 2018; the paper, which says that it "
        "follows them faithfully, does not mention norms. So codes of unit norm are taken as its "
        f"setting. The run’s decoder is one of {own} (test images at "
        f"{number(other['run_psnr'], 2)} dB"
        + (f" after {other['run_epochs']} epochs" if other["run_epochs"] else "")
        + f"); that of {theirs} was trained for this page ({number(other['psnr'], 2)} dB after "
        f"{other['epochs']} epoch{'s' if other['epochs'] != 1 else ''})."
    )


def _finding(
    facts: Mapping[str, Any],
    distances: Mapping[str, Mapping[str, float]],
    theirs: paper.Results = paper.MNIST,
) -> Finding:
    setting, found = next(iter(distances.items()))
    base = found["gaussian"]
    words = ", ".join(f"{key} {number(found[key], 1)}" for key in PAPER_DENSITIES)
    better = [key for key in ("vae", "gan") if found[key] < base]
    because = (
        "The paper finds its VAE and GAN better than Gaussian noise, by eye. Here, with "
        f"{setting}: {words}. "
    )
    others = {key: found[key] for key in facts["rows"] if key not in PAPER_DENSITIES}
    best = min(others, key=lambda key: others[key], default=None)
    if theirs is not paper.MNIST:
        because += "These features see colours and textures, not faces, so the pictures decide."
        if best is not None:
            because += f" The density {best}, not in the paper, scores {number(others[best], 1)}."
        return Finding(theirs.figure, "cannot be compared", because)
    if len(better) == 2:
        because += "Both are."
    elif better:
        because += f"Only the {better[0].upper()} is better by this distance."
    else:
        because += "Neither is better by this distance."
    for name, scores in list(distances.items())[1:]:
        because += f" With {name}: " + ", ".join(
            f"{key} {number(scores[key], 1)}" for key in PAPER_DENSITIES
        )
        because += "."
    if best is not None and others[best] < base:
        because += (
            f" The density {best}, which is not in the paper, scores {number(others[best], 1)}."
        )
    if len(better) == 2:
        return Finding(theirs.figure, "agrees", because)
    return Finding(theirs.figure, "agrees in part" if better else "disagrees", because)


def show_training(
    page: ReproductionPage, results: Mapping[str, Measured], material: Material
) -> None:
    """Add the section of Tables 2 and 3."""
    measured, theirs = results[NAME], material.paper
    facts = measured.facts
    rows: list[list[object]] = []
    faster = []
    for key in ("vae", "gan"):
        stage, epochs_and_time = facts["stages"][f"densities/{key}"], theirs.training[key]
        beta = facts["rows"][key]["hyperparameters"].get("beta", "–")
        their_time = 60 * int(epochs_and_time[1].split()[0])
        faster.append(seconds_of(facts, f"densities/{key}") < their_time)
        rows.append(
            [
                f"{key} (Table {'2' if key == 'vae' else '3'})",
                setting(beta),
                setting(theirs.beta) if key == "vae" else "–",
                stage.get("epochs", "–"),
                epochs_and_time[0],
                duration(seconds_of(facts, f"densities/{key}")),
                epochs_and_time[1],
            ]
        )
    if theirs.decoding is not None:
        stage = facts["stages"]["decoder"]
        rows.append(
            [
                "decoder (Table 4)",
                "–",
                "–",
                stage.get("epochs", "–"),
                "–",
                duration(seconds_of(facts, "decoder")),
                theirs.decoding,
            ]
        )
    marked = [tag("span", f"paper: {what}", class_="paper") for what in ("β", "epochs", "time")]
    header: list[object] = ["", "β", marked[0], "epochs", marked[1], "time", marked[2]]
    layers: list[Html] = [
        tag("p", tag("b", key), ": ", facts["rows"][key]["description"], ".")
        for key in ("vae", "gan")
    ]
    caption = (
        "Training of the paper’s two models on the codes of this run, as its fit recorded it, "
        "which may have been on another machine than what is below."
    )
    same = all(
        facts["stages"][f"densities/{key}"].get("epochs") == theirs.training[key][0]
        for key in ("vae", "gan")
    )
    ours = {key: facts["stages"][f"densities/{key}"] for key in ("vae", "gan")}
    times = " and ".join(duration(stage.get("seconds", 0.0)) for stage in ours.values())
    epochs = " and ".join(str(stage.get("epochs", "–")) for stage in ours.values())
    because = (
        f"VAE and GAN take {times}, the paper’s {theirs.training['vae'][1]} and "
        f"{theirs.training['gan'][1]}, "
        + ("with as many epochs" if same else f"after {epochs} epochs, the paper’s after ")
        + ("" if same else " and ".join(str(theirs.training[key][0]) for key in ours))
        + ". Times are of other hardware, the paper’s being unknown, and its layer widths are in "
        "figures that are not available, so those here are ours."
    )
    verdict = Finding(
        "Tables 2 and 3", "agrees" if all(faster) and same else "agrees in part", because
    )
    content = [table(header, rows, caption=caption), *layers]
    n_train = f"{sample_size(len(material.train))} training codes"
    page.section("Training in latent space", verdict, content, [measured], n_train)
