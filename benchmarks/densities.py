"""Quality of latent densities against the seconds that their fit takes, on the codes of a run.

    python benchmarks/densities.py [--run runs/mnist] [--seeds 3] [--only mixture,vae]
        [--peers runs/peers] [--plot quality.png]

Fits each density with each seed, decodes 10,000 samples, and compares them with the 10,000 test
images. Every (density, seed) is kept in RUN/benchmark.jsonl as soon as it is measured, so that the
benchmark can be stopped and run in pieces; a row is measured again when its options, the features
or the run have changed. The table ends with the bars of the project, which were set on features
where the independent Gaussian scores 20.0 and training images 0.31: a bar b becomes
F + (b - 0.31)(G - F)/(20 - 0.31), with our Gaussian's score G and our floor F.

With --peers, models that benchmarks/peers.py trained on the same images from pixels are measured in
the same way, and a second table has the seconds from pixels to samples of all: those of a density
include the encoder, the codes and the decoder of the run, which serve all densities. With --plot,
the same as a picture.
"""

import argparse
import hashlib
import itertools
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from scattergen.datasets import mnist
from scattergen.densities import IMPROVED, LikelihoodDensity, hyperparameters, make, needs_labels
from scattergen.display.machine import machine
from scattergen.display.progress import Progress
from scattergen.evaluation import DigitFeatures, Evaluator, frechet_distance
from scattergen.model import GenerativeScatteringNetwork
from scattergen.runs import RunFolder

N = 10_000
FLOOR, GAUSSIAN = 0.31, 20.0  # of the features that the bars were set on
SHARED_STAGES = ("encoder", "codes", "decoder")

# Label to a registered density and its options.
ENTRIES: dict[str, tuple[str, dict[str, Any]]] = {
    "gaussian": ("gaussian", {}),
    "mixture": ("mixture", {}),
    "mixture_400": ("mixture", {"n_components": 400}),
    "mixture_by_class": ("class_conditional", {"density": "mixture"}),
    "parzen_2": ("parzen", {"n_neighbors": 2}),
    "parzen": ("parzen", {}),
    "parzen_8": ("parzen", {"n_neighbors": 8}),
    "vae": ("vae", {}),
    "vae_improved": ("vae", IMPROVED["vae"]),
    "gan": ("gan", {}),
    "gan_improved": ("gan", IMPROVED["gan"]),
    "flow": ("flow", {}),
}


class Rows:
    """Measured rows, one JSON line each."""

    def __init__(self, path: Path) -> None:
        self.path = path
        lines = path.read_text().splitlines() if path.exists() else []
        self.known = {row["key"]: row for row in map(json.loads, lines)}

    def add(self, row: dict[str, Any]) -> None:
        """Keep a row, on disk too."""
        self.known[row["key"]] = row
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")


def measure(
    label: str, seed: int, model: GenerativeScatteringNetwork, codes: Tensor, labels: Tensor,
    test_codes: Tensor, evaluator: Evaluator, progress: Progress,
) -> dict[str, Any]:  # fmt: skip
    name, keywords = ENTRIES[label]
    start = time.perf_counter()
    extra = {"labels": labels} if needs_labels(name) else {}
    density = make(name, **keywords).fit(codes, **extra, seed=seed, progress=progress)
    fitted = time.perf_counter()
    sampled = density.sample(N, seed=seed)
    seconds = {"fit": fitted - start, "sample": time.perf_counter() - fitted}
    start = time.perf_counter()
    images = [model.decode(part) for part in sampled.split(1000)]
    seconds["decode"] = time.perf_counter() - start
    extract = DigitFeatures()
    samples = torch.cat([extract(part) for part in images])
    likelihood = None
    if isinstance(density, LikelihoodDensity):
        parts = [density.log_prob(part) for part in test_codes.split(1000)]
        likelihood = torch.cat(parts).mean(dtype=torch.float64).item()
    return {
        "label": label, "seed": seed, "seconds": seconds, "threads": torch.get_num_threads(),
        "description": density.description, "log_likelihood": likelihood,
        "scores": evaluator(samples).summary(),
    }  # fmt: skip


def measure_peer(path: Path, reference: Tensor, evaluator: Evaluator) -> dict[str, Any]:
    """What a peer scored, and its curve of (seconds, Fréchet distance)."""
    extract = DigitFeatures()

    def features(images: Any) -> Tensor:
        return torch.cat([extract(torch.from_numpy(part)[:, None] / 255) for part in np.array_split(images, 10)])

    with np.load(path) as peer:
        curve = [
            (float(seconds), frechet_distance(reference, features(images)))
            for seconds, images in zip(peer["snapshot_seconds"], peer["snapshots"], strict=True)
        ]
        scores = evaluator(features(peer["images"])).summary()
        seconds = float(peer["seconds"])
        curve.append((seconds, scores["frechet"]["value"]))
        return {
            "label": path.stem, "seconds": seconds, "threads": int(peer["threads"]),
            "description": str(peer["description"]), "scores": scores, "curve": curve,
        }  # fmt: skip


def key_of_peer(path: Path) -> str:
    digest = hashlib.sha256(path.read_bytes())
    digest.update(DigitFeatures().version.encode())
    return digest.hexdigest()[:16]


def key_of(label: str, seed: int, run: RunFolder) -> str:
    name, keywords = ENTRIES[label]
    facts = {
        "name": name, "hyperparameters": hyperparameters(make(name, **keywords)), "seed": seed,
        "features": DigitFeatures().version, "codes": run.digest("codes"),
        "decoder": run.digest("decoder"),
    }  # fmt: skip
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def floor(train: Tensor, test: Tensor) -> float:
    """Mean distance of six sets of 10,000 training images that have none in common."""
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))
    parts = train[order].split(N)
    return statistics.mean(frechet_distance(test, part) for part in parts if len(part) == N)


def spread(values: list[float], digits: int) -> str:
    text = f"{statistics.mean(values):.{digits}f}"
    return text if len(values) == 1 else f"{text} ± {statistics.stdev(values):.{digits}f}"


def print_table(rows: list[dict[str, Any]], floor_score: float) -> None:
    by_label: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_label.setdefault(row["label"], []).append(row)
    gaussian = [row["scores"]["frechet"]["value"] for row in by_label.get("gaussian", [])]
    scale = (statistics.mean(gaussian) - floor_score) / (GAUSSIAN - FLOOR) if gaussian else None
    print(
        "density | seeds | fit, s | samples/s | Fréchet | on the bars' scale | kernel·1000 | "
        "precision | recall | coverage | classifier | bins | close (0.01) | train share (0.857) | "
        "copying, p | test log-likelihood"
    )
    for label, group in by_label.items():
        scores = [row["scores"] for row in group]

        def mean(*path: str, scores: list[dict[str, Any]] = scores) -> list[float]:
            values: list[Any] = scores
            for name in path:
                values = [value[name] for value in values]
            return values

        distance = mean("frechet", "value")
        likelihoods = [row["log_likelihood"] for row in group]
        scaled = [FLOOR + (d - floor_score) / scale for d in distance] if scale else []
        cells = [
            label,
            str(len(group)),
            spread([row["seconds"]["fit"] for row in group], 1),
            f"{statistics.mean(N / row['seconds']['sample'] for row in group):,.0f}",
            spread(distance, 2),
            spread(scaled, 2) if scaled else "",
            spread([1000 * value for value in mean("kernel", "value")], 1),
            *(spread(mean("manifolds", m, "value"), 3) for m in ("precision", "recall", "coverage")),
            spread(mean("two_sample", "accuracy"), 3),
            spread([float(b) for b in mean("bins", "different")], 0),
            spread(mean("memorisation", "close"), 4),
            spread(mean("memorisation", "train_share"), 3),
            " ".join(f"{p:.2g}" for p in mean("memorisation", "copying_pvalue")),
            "-" if None in likelihoods else spread(likelihoods, 0),
        ]
        print(" | ".join(cells))
    if scale:
        print(f"floor F = {floor_score:.3f}, Gaussian G = {statistics.mean(gaussian):.2f}; bars here:")
        bars = {b: floor_score + (b - FLOOR) * scale for b in (0.6, 1, 1.5, 1.9, 2.2, 3, 4, 5, 8)}
        print("  " + ", ".join(f"{bar:g} → {here:.2f}" for bar, here in bars.items()))


def print_totals(
    rows: list[dict[str, Any]], peers: list[dict[str, Any]], shared: float, seconds: dict[str, Any]
) -> None:
    stages = ", ".join(f"{name} {seconds[name]:.0f}" for name in SHARED_STAGES)
    print(f"From pixels to 10,000 samples; the densities' include {shared:.0f} s ({stages}):")
    print("model | s in all | Fréchet | kernel·1000 | precision | recall | coverage")
    table = [(row["label"], shared + sum(row["seconds"].values()), row["scores"]) for row in rows]
    table += [(peer["label"], peer["seconds"], peer["scores"]) for peer in peers]
    for label, total, scores in sorted(table, key=lambda entry: entry[2]["frechet"]["value"]):
        manifolds = scores["manifolds"]
        cells = [label, f"{total:.0f}", f"{scores['frechet']['value']:.2f}"]
        cells += [f"{1000 * scores['kernel']['value']:.1f}"]
        cells += [f"{manifolds[m]['value']:.3f}" for m in ("precision", "recall", "coverage")]
        print(" | ".join(cells))


def draw(rows: list[dict[str, Any]], peers: list[dict[str, Any]], shared: float, floor_score: float) -> Figure:
    """Quality against wall-clock time from pixels: a point per density, a curve per peer."""
    figure = Figure((7.2, 4.6), layout="constrained")
    axes = figure.add_subplot(xscale="log", yscale="log")
    for row in rows:
        x = shared + sum(row["seconds"].values())
        y = row["scores"]["frechet"]["value"]
        axes.plot(x, y, "o", color="tab:blue")
        axes.annotate(row["label"], (x, y), xytext=(5, 3), textcoords="offset points", fontsize=8, color="tab:blue")
    for peer, style in zip(peers, itertools.cycle(("s-", "^-", "D-")), strict=False):
        axes.plot(*zip(*peer["curve"], strict=True), style, label=peer["label"], markersize=4)
    axes.axhline(floor_score, color="grey", linestyle="--", label="training images")
    axes.set_xlabel("seconds from pixels to 10,000 samples")
    axes.set_ylabel("Fréchet distance to test images")
    axes.legend(frameon=False)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, default=Path("runs/mnist"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", help="labels, separated by commas")
    parser.add_argument("--peers", type=Path, help="folder that benchmarks/peers.py wrote")
    parser.add_argument("--plot", type=Path, help="picture to write")
    arguments = parser.parse_args()
    labels = arguments.only.split(",") if arguments.only else list(ENTRIES)
    unknown = [label for label in labels if label not in ENTRIES]
    if unknown:
        parser.error(f"{unknown[0]} is none of {', '.join(ENTRIES)}")
    run = RunFolder.open(arguments.run)
    model = GenerativeScatteringNetwork.load(run, densities=())
    codes, extract, data = run.read("codes")[0]["codes"], DigitFeatures(), mnist()
    digits = data.train.labels
    assert data.test is not None
    assert digits is not None
    train, test, test_codes = extract(data.train), extract(data.test), model.encode(data.test)
    rows = Rows(arguments.run / "benchmark.jsonl")
    progress = Progress()
    evaluator: Evaluator | None = None
    for seed in range(arguments.seeds):
        for label in labels:
            key = key_of(label, seed, run)
            if key not in rows.known:
                progress.message(f"{label}, seed {seed}")
                evaluator = evaluator or Evaluator(test, train=train)
                row = measure(label, seed, model, codes, digits, test_codes, evaluator, progress)
                rows.add({"key": key} | row)
    keys = [key_of(label, seed, run) for label in ENTRIES for seed in range(arguments.seeds)]
    measured = [rows.known[key] for key in keys if key in rows.known]
    floor_score = floor(train, test)
    print(machine())
    print_table(measured, floor_score)
    if arguments.peers is None and arguments.plot is None:
        return
    peers = []
    for path in sorted(arguments.peers.glob("*.npz")) if arguments.peers else []:
        key = key_of_peer(path)
        if key not in rows.known:
            evaluator = evaluator or Evaluator(test, train=train)
            rows.add({"key": key} | measure_peer(path, test, evaluator))
        peers.append(rows.known[key])
    seconds = {name: run.stages[name]["seconds"] for name in SHARED_STAGES}
    shared = sum(seconds.values())
    first = [row for row in measured if row["seed"] == 0]
    print_totals(first, peers, shared, seconds)
    for peer in peers:
        points = ", ".join(f"{second:.0f} s {distance:.2f}" for second, distance in peer["curve"])
        print(f"{peer['label']}: {peer['description']}; {peer['threads']} threads; {points}")
    if arguments.plot is not None:
        draw(first, peers, shared, floor_score).savefig(arguments.plot, dpi=140)
        print(arguments.plot)


if __name__ == "__main__":
    main()
