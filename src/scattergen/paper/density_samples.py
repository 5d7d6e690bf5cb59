"""Figures 2 and 3 and Tables 2 and 3: samples of the densities, their quality, their training."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scattergen.paper.findings import Finding, Measured, Results, Section, Stage, by_setting, graded, judge, with_other
from scattergen.paper.material import PAPER_DENSITIES, SHOWN, Material
from scattergen.report import paper

NAME = "density_samples"
REAL, DECODED = "training images", "decoded training codes"
RECONSTRUCTED = "reconstructed test images, against test images"


def _training(material: Material) -> dict[str, Any]:
    """What the run knows about the training of its parts."""
    parts = material.parts("encoder", "codes", "decoder", "densities")
    known = {name: dict(material.run.stages.get(name, {})) for name in parts}
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
            distance, description = material.distance_of_codes(codes), model.densities[key].description
            stored = material.run.metadata(f"densities/{key}")
            rows[key] = {"distance": distance, "description": description, **stored}
            pictures[key] = model.decode(codes[:SHOWN])
            task.advance()
    return Measured({"n": n, "references": distances, "rows": rows, "stages": _training(material)}, pictures)


STAGES = {NAME: Stage(
    __name__, measure, parts=("encoder", "codes", "decoder", "densities"), distances=True,
    others=lambda material: {"stages": _training(material)},
)}  # fmt: skip


def seconds_of(facts: Mapping[str, Any], stage: str) -> float:
    """Time that a stage of the run's fit took, as facts of this stage have it; 0 if the run does not say."""
    return float(facts["stages"][stage].get("seconds", 0.0))


def distances_by_setting(results: Results, material: Material) -> dict[str, Mapping[str, float]]:
    """Distances of all densities and of decoded training codes, by setting of the decoder, the paper's first."""
    facts = results[NAME].facts
    own = {key: row["distance"] for key, row in facts["rows"].items()}
    return by_setting(results, material, {**own, DECODED: facts["references"][DECODED]}, "distances")


def show_samples(results: Results, material: Material) -> Section:
    """The paper’s figure of samples, and their distances."""
    facts, distances = results[NAME].facts, distances_by_setting(results, material)
    pictures = by_setting(results, material, results[NAME].tensors, "pictures")
    shown = {"distances": distances, "pictures": pictures, "count": SHOWN}
    return Section(NAME, _finding(facts, distances, material.paper), with_other(NAME, results), shown)


def _finding(
    facts: Mapping[str, Any], distances: Mapping[str, Mapping[str, float]], theirs: paper.Results = paper.MNIST
) -> Finding:
    found = next(iter(distances.values()))
    better = [key for key in ("vae", "gan") if found[key] < found["gaussian"]]
    others = [key for key in facts["rows"] if key not in PAPER_DENSITIES]
    best = min(others, key=lambda key: found[key], default=None)
    words = {"distances": distances, "better": better, "best": best}
    if theirs is paper.MNIST:
        return judge(theirs.figure, graded("vae" in better, "gan" in better), NAME, **words)
    return judge(theirs.figure, "cannot be compared", NAME, **words)


def show_training(results: Results, material: Material) -> Section:
    """Tables 2 and 3: the training of the paper's two models."""
    measured, theirs = results[NAME], material.paper.training
    ours = {key: measured.facts["stages"][f"densities/{key}"] for key in ("vae", "gan")}
    seconds = {key: seconds_of(measured.facts, f"densities/{key}") for key in ours}
    faster = all(seconds[key] < 60 * int(theirs[key][1].split()[0]) for key in ours)
    same = all(stage.get("epochs") == theirs[key][0] for key, stage in ours.items())
    words = {"seconds": seconds, "ours": ours, "theirs": theirs, "same": same}
    finding = judge("Tables 2 and 3", "agrees" if faster and same else "agrees in part", "latent_training", **words)
    return Section("latent_training", finding, [measured])
