"""Evaluating a run: what its densities, its decoder and real images score, kept beside it."""

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from scattergen.datasets import Dataset, ImageSource, Subset
from scattergen.densities import Density, LikelihoodDensity
from scattergen.errors import InputError
from scattergen.evaluation import (
    FEWEST,
    DigitFeatures,
    Estimate,
    Evaluation,
    FeatureExtractor,
    InceptionFeatures,
    PerceptualFeatures,
    ScatteringFeatures,
    evaluate,
    frechet_distance,
    sharpness,
)
from scattergen.files import atomic_path, write_json
from scattergen.judging import choose, numbers
from scattergen.keywords import whole_number
from scattergen.model import GenerativeScatteringNetwork
from scattergen.progress import SILENT, Progress
from scattergen.report.plots import figure_png, quality_by_time
from scattergen.report.run_report import machine
from scattergen.runs import RunFolder

FeatureName = Literal["digits", "scattering", "perceptual", "inception"]

TRAINING, DECODED_TRAINING, DECODED_TEST = (
    "training images", "decoded training codes", "decoded test codes",
)  # fmt: skip
_PIECE = 1024  # images that are decoded and turned into features at a time


@dataclass(frozen=True)
class RunEvaluation:
    """What a run scored.

    Attributes:
        rows: Name to scores: the references (training images, what perfect samples would score;
            decoded training codes, perfect codes; decoded test codes, the decoder's bound, paired
            with the reference and so optimistic), then the densities.
        training_seconds: Density to the time of its fit, where that is known.
        images_per_second: Density to its speed of sampling and decoding.
        log_likelihood: Density with an exact likelihood to its mean logarithm over codes of test
            images, in nats per code; only if there are at least 20.
        training_log_likelihood: The same over codes of training images.
        sharpness: Row to the share that its images have of the reference images' fine detail.
        repeats: Density to the Fréchet distances of its sets of samples, drawn with seeds
            `seed`, `seed` + 1, …
        features: Name and version of the feature extractor.
        against: Name of the reference images.
        n: Images in a row.
        seed: Of samples and choices of images.
    """

    rows: dict[str, Evaluation]
    training_seconds: dict[str, float]
    images_per_second: dict[str, float]
    log_likelihood: dict[str, Estimate]
    training_log_likelihood: dict[str, Estimate]
    sharpness: dict[str, float]
    repeats: dict[str, list[float]]
    features: tuple[str, str]
    against: str
    n: int
    seed: int

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
    """Compare samples of a run's densities with real images, and keep the result in the run.

    Writes evaluation.json and pictures/evaluation.png.

    Args:
        path: The run folder.
        data: The dataset that the run was fitted to.
        densities: Keys of those to evaluate; all by default.
        reference: Images to compare with, its training part; the test images by default.
        n: Images in every row; fewer where a set of real images is smaller.
        repeats: Sets of n samples that a density draws, with seeds `seed`, `seed` + 1, …; all
            scores are of the first, the Fréchet distance is of each.
        features: "digits" (28 × 28 grey images only), "scattering", "perceptual" or "inception";
            digits for the embedded MNIST and scattering for everything else by default.
        seed: Of samples and choices of images.
        device: Where to compute.
        progress: Where to report.

    Returns:
        The scores.

    Raises:
        InputError: If the data are not those of the run, there are no test images, a density is
            unknown, or `repeats` is less than 1.
        RunFolderError: If the run is damaged or incomplete.
    """
    repeats = whole_number("repeats", repeats, least=1)
    run = RunFolder.open(path)
    there = run.names("densities")
    keys = list(dict.fromkeys(there if densities is None else densities))
    for key in keys:
        if key not in there:
            raise InputError(f'{path} has no density "{key}": it has {", ".join(there) or "none"}.')
    fitted_to = run.options.get("data", {}).get("fingerprint")
    if fitted_to not in (None, data.train.fingerprint):
        raise InputError(
            f"{data.name} does not hold the images that {path} was fitted to: name those, with the "
            "same --size and --mode."
        )
    against = data.test if reference is None else reference.train
    if against is None:
        raise InputError(
            f"{data.name} has no test images to compare with: name others by --against."
        )
    model = GenerativeScatteringNetwork.load(run, device, densities=keys)
    extract = _extractor(features, model.decoder.image_shape, data.name, device)
    n_reference = min(n, len(against))
    compared = choose(against, n_reference, seed)
    real, real_detail = extract(compared, progress), _detail(compared)
    train = extract(data.train, progress)
    tables, speed, detail = {}, {}, {}
    # Not the images whose codes are decoded below: a perfect model would not know them either.
    others = torch.arange(len(data.train))
    if against.fingerprint == data.train.fingerprint:  # nor is any image compared with itself
        used = torch.zeros(len(others), dtype=torch.bool)
        used[numbers(len(others), n_reference, seed)] = True
        others = others[~used]
    if len(others) >= FEWEST:
        chosen = others[numbers(len(others), n, seed)]
        tables[TRAINING] = train[chosen]
        detail[TRAINING] = _detail(Subset(data.train, chosen))
    codes = {}
    for name, source in (
        (DECODED_TRAINING, Subset(data.train, numbers(len(data.train), n, seed + 1))),
        (DECODED_TEST, None if data.test is None else choose(data.test, n, seed)),
    ):
        if source is not None and len(source) >= FEWEST:
            codes[name] = model.encode(source, progress)
            tables[name], _, detail[name] = _decoded(model, codes[name], extract, progress, name)
    by_seed: dict[str, list[float]] = {}
    for key in keys:
        for k in range(repeats):
            start = time.monotonic()
            drawn = model.sample_codes(n, key, seed + k)
            drawing = time.monotonic() - start
            table, decoding, fine = _decoded(model, drawn, extract, progress, key)
            by_seed.setdefault(key, []).append(frechet_distance(real, table))
            if k == 0:
                tables[key], speed[key] = table, n / (drawing + decoding)
                detail[key] = fine
    # Whoever is compared with training images cannot learn whether samples are nearer to these.
    unseen = against.fingerprint != data.train.fingerprint
    rows = evaluate(tables, real, train=train if unseen else None, seed=seed, progress=progress)
    likelihoods = {
        name: {
            key: mean
            for key in keys
            if (mean := _mean_log_prob(model.densities[key], some)) is not None
        }
        for name, some in codes.items()
    }
    stages = {key: run.stages.get(f"densities/{key}", {}) for key in keys}
    result = RunEvaluation(
        rows=rows,
        training_seconds={key: stage["seconds"] for key, stage in stages.items() if stage},
        images_per_second=speed,
        log_likelihood=likelihoods.get(DECODED_TEST, {}),
        training_log_likelihood=likelihoods.get(DECODED_TRAINING, {}),
        sharpness={name: value / max(real_detail, 1e-12) for name, value in detail.items()},
        repeats=by_seed,
        features=(extract.name, extract.version),
        against=f"{data.name}, test" if reference is None else reference.name,
        n=n,
        seed=seed,
    )
    _keep(run, result)
    return result


def _extractor(
    name: FeatureName | None, shape: tuple[int, int, int], data: str, device: str
) -> FeatureExtractor:
    if name is None:
        name = "digits" if data == "mnist" and shape == (1, 28, 28) else "scattering"
    if name == "digits":
        return DigitFeatures()
    if name == "perceptual":
        return PerceptualFeatures(device)
    return ScatteringFeatures(shape) if name == "scattering" else InceptionFeatures(device)


def _decoded(
    model: GenerativeScatteringNetwork,
    codes: Tensor,
    extract: FeatureExtractor,
    progress: Progress,
    name: str,
) -> tuple[Tensor, float, float]:
    """Features of decoded codes, the seconds that decoding took, and the images' sharpness."""
    parts, seconds, detail = [], 0.0, 0.0
    with progress.task(f"decode {name}", len(codes)) as task:
        for piece in codes.split(_PIECE):
            start = time.monotonic()
            images = model.decode(piece)
            seconds += time.monotonic() - start
            parts.append(extract(images))
            detail += sharpness(images).sum().item()
            task.advance(len(piece))
    return torch.cat(parts), seconds, detail / len(codes)


def _detail(images: ImageSource) -> float:
    """Mean sharpness of real images."""
    pieces = (sharpness(images[i : i + _PIECE]).sum() for i in range(0, len(images), _PIECE))
    return float(sum(pieces)) / len(images)


@torch.no_grad()
def _mean_log_prob(density: Density, codes: Tensor) -> Estimate | None:
    """Mean log-likelihood of codes in nats; None if the density has no exact one."""
    if not isinstance(density, LikelihoodDensity):
        return None
    # Perhaps the leading components only.
    modelled = codes[:, : getattr(density, "n_features_", codes.shape[1])]
    values = torch.cat([density.log_prob(piece) for piece in modelled.split(_PIECE)]).double()
    return Estimate(values.mean().item(), values.std().item() / math.sqrt(len(values)))


def _for_json(estimate: Estimate | None) -> dict[str, float] | None:
    """An estimate, or None where a code is impossible and JSON has no −∞."""
    if estimate is None or not math.isfinite(estimate.value):
        return None
    return asdict(estimate)


def _keep(run: RunFolder, result: RunEvaluation) -> None:
    distances = {name: row.frechet.value for name, row in result.rows.items()}
    figure = quality_by_time(
        {key: (t, distances[key]) for key, t in result.training_seconds.items()},
        {name: d for name, d in distances.items() if name not in result.images_per_second},
        f"Fréchet distance to {result.against}, {result.features[0]} features",
    )
    with run.locked():
        write_json(run.path / "evaluation.json", result.summary())
        with atomic_path(run.path / "pictures" / "evaluation.png") as temporary:
            temporary.write_bytes(figure_png(figure))
