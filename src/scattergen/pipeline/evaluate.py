"""Evaluating a run: what its densities, its decoder and real images score, kept beside it."""

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from matplotlib.figure import Figure
from torch import Tensor

from scattergen import evaluation
from scattergen.datasets import Dataset, ImageSource, Subset
from scattergen.datasets.source import random_rows, some_of
from scattergen.densities import LikelihoodDensity
from scattergen.errors import InputError
from scattergen.evaluation import Estimate, Evaluation, FeatureExtractor
from scattergen.image_quality import sharpness
from scattergen.keywords import whole_number
from scattergen.machine import machine
from scattergen.model import GenerativeScatteringNetwork
from scattergen.pipeline.keeping import check_data, check_densities, keep
from scattergen.progress import SILENT, Progress
from scattergen.report.plots import quality_by_time
from scattergen.runs import RunFolder

FeatureName = Literal["digits", "scattering", "perceptual", "inception"]

TRAINING, DECODED_TRAINING, DECODED_TEST = ("training images", "decoded training codes", "decoded test codes")
_PIECE = 1024  # images that are decoded and turned into features at a time


@dataclass(frozen=True)
class RunEvaluation:
    """What a run scored."""

    rows: dict[str, Evaluation]
    """Name to scores: the references (training images, what perfect samples would score; decoded training codes,
    perfect codes; decoded test codes, the decoder's bound, paired with the reference and so optimistic), then the
    densities."""
    training_seconds: dict[str, float]
    images_per_second: dict[str, float]
    """Density to its speed of sampling and decoding."""
    log_likelihood: dict[str, Estimate]
    """Density with an exact likelihood to its mean logarithm over at least 20 codes of test images, in nats."""
    training_log_likelihood: dict[str, Estimate]
    """The same over codes of training images."""
    sharpness: dict[str, float]
    """Row to the share that its images have of the reference images' fine detail."""
    repeats: dict[str, list[float]]
    """Density to the Fréchet distances of its sets of samples, drawn with seeds `seed`, `seed` + 1, …"""
    features: tuple[str, str]
    """Name and version of the feature extractor."""
    against: str
    """Name of the reference images."""
    n: int
    seed: int
    kept: bool = True
    """Whether the run holds it all; its disk may be full or read-only."""

    def summary(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {
            "features": {"name": self.features[0], "version": self.features[1]},
            "against": self.against,
            "n": self.n,
            "seed": self.seed,
            "machine": machine(),
            "rows": {
                name: {
                    **row.summary(),
                    "training_seconds": self.training_seconds.get(name),
                    "images_per_second": self.images_per_second.get(name),
                    "log_likelihood": _for_json(self.log_likelihood.get(name)),
                    "training_log_likelihood": _for_json(self.training_log_likelihood.get(name)),
                    "frechet_by_seed": self.repeats.get(name),
                    "sharpness": self.sharpness.get(name),
                }
                for name, row in self.rows.items()
            },
        }


def evaluate_run(
    path: Path | str,
    data: Dataset,
    *,
    densities: Sequence[str] | None = None,
    reference: Dataset | None = None,
    n: int = 10_000,
    repeats: int = 1,
    features: FeatureName | None = None,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress = SILENT,
) -> RunEvaluation:
    """Compare samples of a run's densities, or some of these, with real images, and keep the scores with the run.

    They are those of the test part, or of the training part of another dataset, the `reference`.  A density draws
    `repeats` sets of n samples, with seeds `seed`, `seed` + 1, …: all scores are of the first, the Fréchet distance is
    of each.  Features are by default those of digits for the embedded MNIST, and of scattering for everything else.
    """
    repeats = whole_number("repeats", repeats, least=1)
    run = RunFolder.open(path)
    keys = run.names("densities") if densities is None else list(dict.fromkeys(densities))
    check_densities(run, keys)
    check_data(run, data)
    against = data.test if reference is None else reference.train
    if against is None:
        raise InputError(f"{data.name} has no test images to compare with: name others by --against.")
    model = GenerativeScatteringNetwork.load(run, device, densities=keys)
    extract = _extractor(features, model.decoder.image_shape, data.name, device)
    compared = some_of(against, min(n, len(against)), seed)
    real, real_detail = extract(compared, progress), _detail(compared)
    train = extract(data.train, progress)
    rows = _Rows(model, extract, n, seed, progress)
    rows.add_training_images(data.train, train, against)
    rows.add_decoded(data)
    rows.add_densities(keys, repeats, real)
    # Whoever is compared with training images cannot learn whether samples are nearer to these.
    unseen = against.fingerprint != data.train.fingerprint
    scores = evaluation.evaluate(rows.tables, real, train=train if unseen else None, seed=seed, progress=progress)
    stages = {key: run.stages.get(f"densities/{key}", {}) for key in keys}
    result = RunEvaluation(
        rows=scores,
        training_seconds={key: stage["seconds"] for key, stage in stages.items() if stage},
        images_per_second=rows.speed,
        log_likelihood=rows.likelihoods(DECODED_TEST, keys),
        training_log_likelihood=rows.likelihoods(DECODED_TRAINING, keys),
        sharpness={name: value / max(real_detail, 1e-12) for name, value in rows.detail.items()},
        repeats=rows.repeats,
        features=(extract.name, extract.version),
        against=f"{data.name}, test" if reference is None else reference.name,
        n=n,
        seed=seed,
    )
    pictures = {"evaluation": lambda: _quality(result)}
    depends = {"n": n, "seed": seed, "features": result.features, "against": result.against}
    made_from = ["encoder", "decoder", *(f"densities/{key}" for key in keys)]
    kept = keep(run, "scores", "evaluation", result.summary(), pictures, depends, made_from)
    return replace(result, kept=kept)


def _quality(result: RunEvaluation) -> Figure:
    distances = {name: row.frechet.value for name, row in result.rows.items()}
    return quality_by_time(
        {key: (t, distances[key]) for key, t in result.training_seconds.items()},
        {name: d for name, d in distances.items() if name not in result.images_per_second},
        f"Fréchet distance to {result.against}, {result.features[0]} features",
    )


@dataclass
class _Rows:
    """Features of the images of every row, and what is measured while they are made."""

    model: GenerativeScatteringNetwork
    extract: FeatureExtractor
    n: int
    seed: int
    progress: Progress
    tables: dict[str, Tensor] = field(default_factory=dict)  # row to features
    detail: dict[str, float] = field(default_factory=dict)  # row to mean sharpness
    codes: dict[str, Tensor] = field(default_factory=dict)  # of the rows that are decoded codes
    speed: dict[str, float] = field(default_factory=dict)  # density to images per second
    repeats: dict[str, list[float]] = field(default_factory=dict)  # density to the Fréchet distance of each set

    def add_training_images(self, images: ImageSource, features: Tensor, against: ImageSource) -> None:
        """Add some of the training images, of which all features are known."""
        # Not those whose codes will be decoded: a perfect model would not know them either.
        others = torch.arange(len(images))
        if against.fingerprint == images.fingerprint:  # nor is any image compared with itself
            used = torch.zeros(len(others), dtype=torch.bool)
            used[random_rows(len(others), min(self.n, len(against)), self.seed)] = True
            others = others[~used]
        if len(others) >= evaluation.FEWEST:
            chosen = others[random_rows(len(others), self.n, self.seed)]
            self.tables[TRAINING] = features[chosen]
            self.detail[TRAINING] = _detail(Subset(images, chosen))

    def add_decoded(self, data: Dataset) -> None:
        """Add decoded codes of training and of test images."""
        sources: dict[str, ImageSource] = {
            DECODED_TRAINING: Subset(data.train, random_rows(len(data.train), self.n, self.seed + 1))
        }
        if data.test is not None:
            sources[DECODED_TEST] = some_of(data.test, self.n, self.seed)
        for name, source in sources.items():
            if len(source) >= evaluation.FEWEST:
                self.codes[name] = self.model.encode(source, self.progress)
                self.tables[name], _, self.detail[name] = self._decoded(self.codes[name], name)

    def add_densities(self, keys: Sequence[str], repeats: int, real: Tensor) -> None:
        """Add samples of densities; `real` are features of the images to compare with."""
        for key in keys:
            for k in range(repeats):
                start = time.monotonic()
                drawn = self.model.sample_codes(self.n, key, self.seed + k)
                drawing = time.monotonic() - start
                table, decoding, fine = self._decoded(drawn, key, self.model.sharpen)
                self.repeats.setdefault(key, []).append(evaluation.frechet_distance(real, table))
                if k == 0:
                    self.tables[key], self.detail[key] = table, fine
                    self.speed[key] = self.n / (drawing + decoding)

    def likelihoods(self, name: str, keys: Sequence[str]) -> dict[str, Estimate]:
        """Mean log-likelihoods of a row's codes, under the densities that have exact ones."""
        if name not in self.codes:
            return {}
        densities = ((key, self.model.densities[key]) for key in keys)
        return {
            key: _mean_log_prob(density, self.codes[name])
            for key, density in densities
            if isinstance(density, LikelihoodDensity)
        }

    def _decoded(self, codes: Tensor, name: str, sharpen: float = 0.0) -> tuple[Tensor, float, float]:
        """Features of decoded codes, the seconds that decoding took, and the images' sharpness."""
        parts, seconds, detail = [], 0.0, 0.0
        with self.progress.task(f"decode {name}", len(codes)) as task:
            for piece in codes.split(_PIECE):
                start = time.monotonic()
                images = self.model.decode(piece, sharpen=sharpen)
                seconds += time.monotonic() - start
                parts.append(self.extract(images))
                detail += sharpness(images).sum().item()
                task.advance(len(piece))
        return torch.cat(parts), seconds, detail / len(codes)


def _extractor(name: FeatureName | None, shape: tuple[int, int, int], data: str, device: str) -> FeatureExtractor:
    if name is None:
        name = "digits" if data == "mnist" and shape == (1, 28, 28) else "scattering"
    if name == "digits":
        return evaluation.DigitFeatures()
    if name == "perceptual":
        return evaluation.PerceptualFeatures(device)
    return evaluation.ScatteringFeatures(shape) if name == "scattering" else evaluation.InceptionFeatures(device)


def _detail(images: ImageSource) -> float:
    """Mean sharpness of real images."""
    pieces = (sharpness(images[i : i + _PIECE]).sum() for i in range(0, len(images), _PIECE))
    return float(sum(pieces)) / len(images)


@torch.no_grad()
def _mean_log_prob(density: LikelihoodDensity, codes: Tensor) -> Estimate:
    """Mean log-likelihood of codes in nats."""
    modelled = codes[:, : getattr(density, "n_features_", codes.shape[1])]  # perhaps the leading components only
    values = torch.cat([density.log_prob(piece) for piece in modelled.split(_PIECE)]).double()
    return Estimate(values.mean().item(), values.std().item() / math.sqrt(len(values)))


def _for_json(estimate: Estimate | None) -> dict[str, float] | None:
    """An estimate, or None where a code is impossible and JSON has no −∞."""
    if estimate is None or not math.isfinite(estimate.value):
        return None
    return asdict(estimate)
