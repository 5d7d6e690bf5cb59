"""Figures 2 and 3 and Tables 2 and 3: samples of the densities, their quality, their training."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scattergen.paper.decoder_settings import DECODED, OTHER, SHOWN, by_setting, name_of, with_other
from scattergen.paper.findings import Finding, Measured, Section, Verdict
from scattergen.paper.material import PAPER_DENSITIES, Material
from scattergen.report import paper
from scattergen.wording import duration, number

NAME = "density_samples"
REAL = "training images"
RECONSTRUCTED = "reconstructed test images, against test images"


def depends(material: Material) -> dict[str, Any]:
    """What the stage depends on."""
    parts = material.depends_on_model("encoder", "codes", "decoder", *material.parts)
    return {**parts, **material.depends_on_distances(), "stages": _training(material)}


def _training(material: Material) -> dict[str, Any]:
    """What the run knows about the training of its parts."""
    names = ["encoder", "codes", "decoder", *material.parts]
    known = {name: dict(material.run.stages.get(name, {})) for name in names}
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
        distances = {REAL: material.distance(material.some(material.train, n, stream=2))}
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
    return Measured({"n": n, "references": distances, "rows": rows, "stages": _training(material)}, pictures)


def seconds_of(facts: Mapping[str, Any], stage: str) -> float:
    """Time that a stage of the run's fit took, as facts of this stage have it; 0 if the run does not say."""
    return float(facts["stages"][stage].get("seconds", 0.0))


def distances_by_setting(results: Mapping[str, Measured], material: Material) -> dict[str, Mapping[str, float]]:
    """Distances of all densities and of decoded training codes, by setting of the decoder, the paper's first."""
    facts = results[NAME].facts
    own = {key: row["distance"] for key, row in facts["rows"].items()}
    own[DECODED] = facts["references"][DECODED]
    return by_setting(results, material, own, "distances")


def show_samples(results: Mapping[str, Measured], material: Material) -> Section:
    """The paper’s figure of samples, and their distances."""
    measured = results[NAME]
    distances = distances_by_setting(results, material)
    pictures = by_setting(results, material, measured.tensors, "pictures")
    shown: dict[str, Any] = {"distances": distances, "pictures": pictures, "count": SHOWN, "other": None}
    if OTHER in results:
        other = results[OTHER].facts
        shown |= {"other": other, "own": name_of(not other["unit_norm"]), "theirs": name_of(other["unit_norm"])}
    finding = _finding(measured.facts, distances, material.paper)
    return Section(NAME, finding, with_other(measured, results), shown)


def _finding(
    facts: Mapping[str, Any], distances: Mapping[str, Mapping[str, float]], theirs: paper.Results = paper.MNIST
) -> Finding:
    setting, found = next(iter(distances.items()))
    base = found["gaussian"]
    better = [key for key in ("vae", "gan") if found[key] < base]
    own = _scores(found)
    because = f"The paper finds its VAE and GAN better than Gaussian noise, by eye. Here, with {setting}: {own}. "
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
        because += f" With {name}: {_scores(scores)}."
    if best is not None and others[best] < base:
        because += f" The density {best}, which is not in the paper, scores {number(others[best], 1)}."
    verdicts: tuple[Verdict, ...] = ("disagrees", "agrees in part", "agrees")
    return Finding(theirs.figure, verdicts[len(better)], because)


def _scores(distances: Mapping[str, float]) -> str:
    return ", ".join(f"{key} {number(distances[key], 1)}" for key in PAPER_DENSITIES)


def show_training(results: Mapping[str, Measured], material: Material) -> Section:
    """Tables 2 and 3: the training of the paper's two models."""
    measured, theirs = results[NAME], material.paper.training
    ours = {key: measured.facts["stages"][f"densities/{key}"] for key in ("vae", "gan")}
    seconds = {key: seconds_of(measured.facts, f"densities/{key}") for key in ours}
    faster = all(seconds[key] < 60 * int(theirs[key][1].split()[0]) for key in ours)
    same = all(stage.get("epochs") == theirs[key][0] for key, stage in ours.items())
    epochs = " and ".join(str(stage.get("epochs", "–")) for stage in ours.values())
    their_epochs = " and ".join(str(theirs[key][0]) for key in ours)
    how = f"after {epochs} epochs, the paper’s after {their_epochs}"
    because = (
        f"VAE and GAN take {' and '.join(map(duration, seconds.values()))}, the paper’s {theirs['vae'][1]} and "
        f"{theirs['gan'][1]}, {'with as many epochs' if same else how}. Times are of other hardware, the paper’s being "
        "unknown, and its layer widths are in figures that are not available, so those here are ours."
    )
    verdict: Verdict = "agrees" if faster and same else "agrees in part"
    return Section("latent_training", Finding("Tables 2 and 3", verdict, because), [measured])
