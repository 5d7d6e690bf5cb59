"""Table 4: what training latent models and end-to-end models of pixels takes on this machine, and what it buys."""

import json
import math
from functools import partial
from pathlib import Path
from typing import Any

from scattergen.display.machine import machine
from scattergen.display.words import duration
from scattergen.files import write_json
from scattergen.paper.density_samples import SAMPLES, seconds_of
from scattergen.paper.findings import Facts, Finding, Measured, Results, Section, Stage, judge
from scattergen.paper.material import SHOWN, Material
from scattergen.paper.pixel_models import DCGAN, PixelVAE
from scattergen.report.html import themed
from scattergen.report.plots import quality_by_time

PIXEL_MODELS = {"pixel_vae": "pixel VAE", "pixel_gan": "pixel GAN"}
_ENDLESS = 100_000  # epochs: the clock stops the training
_CODES_PER_COMPONENT = 20  # of the mixture prior, if there are few images


def _keywords(name: str, material: Material) -> dict[str, Any]:
    """Those of `benchmarks/peers.py`, chosen there by short runs on training images."""
    if name == "pixel_gan":
        return {"learning_rate": 5e-4, "batch_size": 64}
    most = max(1, len(material.train) // _CODES_PER_COMPONENT)
    return {"n_latent": 32, "beta": 0.3, "n_components": min(150, most)}


def measure(name: str, material: Material, work: Path) -> Measured:
    """Train one model for a fixed time, making snapshots not counted; score it at each of them and at its end."""
    effort, seed = material.effort, material.seed
    kind: type[DCGAN] | type[PixelVAE] = DCGAN if name == "pixel_gan" else PixelVAE
    model = kind(epochs=_ENDLESS, **_keywords(name, material))

    def score() -> float:
        model.fit_prior(material.train, seed=seed)
        return material.distance(model.sample(material.n_images, seed=seed))

    def snapshot(seconds: float) -> None:  # if a moment has come that has not been scored yet
        passed = [work / f"snapshot-{moment:08.1f}.json" for moment in effort.snapshots if seconds >= moment]
        if passed and not passed[-1].exists():
            write_json(passed[-1], {"seconds": seconds, "distance": score()})

    model.fit(
        material.train, seed=seed, device=material.device, progress=material.progress,
        checkpoint=work / "checkpoint.safetensors", max_seconds=effort.pixel_seconds, on_step=snapshot,
    )  # fmt: skip
    snapshots = [json.loads(path.read_text()) for path in sorted(work.glob("snapshot-*.json"))]
    last = model.history_[-1]
    curve = [*([row["seconds"], row["distance"]] for row in snapshots), [last["seconds"], score()]]
    facts = {"epochs": int(last["epoch"]), "seconds": last["seconds"], "curve": curve, "n": material.n_images}
    facts["description"] = model.description
    return Measured(facts, {"samples": model.sample(SHOWN, seed=seed)}, seconds=last["seconds"])


def _clock(material: Material) -> dict[str, str]:
    """What decides how much is trained before the clock stops it."""
    this = machine()
    return {"processor": this["processor"], "threads": this["threads"]}


STAGES = {name: Stage(partial(measure, name), others=_clock) for name in PIXEL_MODELS}


def refits_to_win(once: float, latent: float, pixel: float) -> int | None:
    """Fits after which the latent route has taken less time, if ever: the smallest k with once + k·latent < k·pixel."""
    return None if pixel <= latent else math.floor(once / (pixel - latent)) + 1


def time_to_reach(curve: list[list[float]], distance: float) -> float | None:
    """Seconds of training at the first (seconds, distance) pair that is at least as good."""
    return next((seconds for seconds, found in curve if found <= distance), None)


def show(results: Results, material: Material) -> Section:
    """Table 4: training times, quality against them, and how many fits it takes to win."""
    samples = results[SAMPLES]
    facts, pixels = samples.facts, {name: results[name] for name in PIXEL_MODELS}
    once = sum(seconds_of(facts, stage) for stage in ("encoder", "codes", "decoder"))
    curves = {PIXEL_MODELS[name]: found.facts["curve"] for name, found in pixels.items()}
    # An instant fit, such as that of the Gaussian, has no place on a logarithmic axis.
    seconds = {key: max(seconds_of(facts, f"densities/{key}"), 0.1) for key in facts["rows"]}
    points = {key: (seconds[key], row["distance"]) for key, row in facts["rows"].items()}
    shown = {
        "once": once, "against": _against(facts, pixels, once),
        "pixels": {PIXEL_MODELS[name]: found for name, found in pixels.items()},
        "curves": themed(partial(quality_by_time, points, {}, "Fréchet distance to test images", curves=curves)),
    }  # fmt: skip
    finding = _finding(facts, pixels, once, duration(material.effort.pixel_seconds))
    return Section("training_time", finding, [samples, *pixels.values()], shown)


def _against(facts: Facts, pixels: Results, once: float) -> dict[str, list[dict[str, Any]]]:
    """For every density, when each model of pixels is as good, and from which fit on the density is cheaper."""
    found: dict[str, list[dict[str, Any]]] = {}
    for key, row in facts["rows"].items():
        fit, found[key] = seconds_of(facts, f"densities/{key}"), []
        for pixel in (measured.facts for measured in pixels.values()):
            equal, total = time_to_reach(pixel["curve"], row["distance"]), pixel["seconds"]
            at_equal = None if equal is None else refits_to_win(once, fit, equal)
            costs = {"total": total, "equal": equal, "sooner": equal is not None and at_equal is None}
            wins = {"at_equal_quality": at_equal, "at_full_time": refits_to_win(once, fit, total)}
            found[key].append({**costs, **wins})
    return found


def _finding(facts: Facts, pixels: Results, once: float, budget: str) -> Finding:
    rows, against = facts["rows"], _against(facts, pixels, once)
    best = min(rows, key=lambda key: rows[key]["distance"])
    distance = rows[best]["distance"]
    final = {PIXEL_MODELS[name]: found.facts["curve"][-1][1] for name, found in pixels.items()}
    better = all(distance < value for value in final.values())
    known = [found["at_full_time"] for found in against[best] if found["at_full_time"] is not None]
    sooner = [key for key in ("vae", "gan") if any(found["sooner"] for found in against[key])]
    own = {"best": best, "distance": distance, "seconds": seconds_of(facts, f"densities/{best}"), "once": once}
    others = {"budget": budget, "final": final, "better": better, "known": known, "sooner": sooner}
    return judge("Table 4", "agrees in part" if known or better else "disagrees", "training_time", **own, **others)
