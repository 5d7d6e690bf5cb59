"""What a run's densities, its decoder and real images score, and how its codes are distributed, kept beside it."""

import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from scattergen import evaluation
from scattergen.calls.keywords import whole_number
from scattergen.calls.state import usual_state
from scattergen.datasets import Dataset, ImageSource, Subset
from scattergen.datasets.recognition import recognise, what_changed
from scattergen.datasets.source import check_dataset, random_rows, some_of
from scattergen.densities import LikelihoodDensity
from scattergen.diagnostics import Battery, count_rejections, run_battery
from scattergen.diagnostics.monte_carlo import FEWEST_CODES, SIMULATIONS
from scattergen.display.machine import machine
from scattergen.display.progress import SILENT, Progress
from scattergen.errors import InputError, ScattergenError
from scattergen.evaluation import Estimate, Evaluation, FeatureExtractor, TwoSampleTest, classifier_two_sample_test
from scattergen.files import atomic_path, write_json
from scattergen.image_quality import share_of_detail, sharpness
from scattergen.model import GenerativeScatteringNetwork
from scattergen.pipeline.judging import kept_features
from scattergen.pipeline.report import show_in_report
from scattergen.report import diagnostic_plots as plots
from scattergen.report.plots import eigenvalue_spectrum, figure_png, quality_by_time
from scattergen.runs import RunFolder, Stages
from scattergen.runs.layout import products_in
from scattergen.stages.density import check_densities

FeatureName = Literal["digits", "scattering", "perceptual", "inception"]

TRAINING, DECODED_TRAINING, DECODED_TEST = ("training images", "decoded training codes", "decoded test codes")
_PIECE = 1024  # images that are decoded and turned into features at a time
COMPONENTS, CODES = 64, 5_000  # that are tested
_PAIRS = 6  # panels of scatter plots
_LEAST, _MOST = 1_000, 10_000  # samples that are compared, if nobody says how many


@dataclass(frozen=True)
class RunEvaluation:
    """What a run scored: rows of references (decoded test codes are paired with the reference), and of densities."""

    rows: dict[str, Evaluation]
    training_seconds: dict[str, float]  # of densities
    images_per_second: dict[str, float]  # density to its speed of sampling and decoding
    log_likelihood: dict[str, Estimate]  # density with an exact one to its mean over 20 test codes or more, in nats
    training_log_likelihood: dict[str, Estimate]  # the same over codes of training images
    sharpness: dict[str, float]  # row to the share that its images have of the reference images' fine detail
    repeats: dict[str, list[float]]  # density to the Fréchet distances of its sets of samples, by their seeds
    features: tuple[str, str]  # name and version of the feature extractor
    against: str  # name of the reference images
    n: int
    seed: int
    kept: bool = True  # whether the run holds it all; its disk may be full or read-only

    def summary(self) -> dict[str, Any]:
        """Everything, for JSON."""
        rows = {
            name: {
                **row.summary(), "training_seconds": self.training_seconds.get(name),
                "images_per_second": self.images_per_second.get(name),
                "log_likelihood": _for_json(self.log_likelihood.get(name)),
                "training_log_likelihood": _for_json(self.training_log_likelihood.get(name)),
                "frechet_by_seed": self.repeats.get(name), "sharpness": self.sharpness.get(name),
            }
            for name, row in self.rows.items()
        }  # fmt: skip
        told = {"against": self.against, "n": self.n, "seed": self.seed, "machine": machine(), "rows": rows}
        return {"features": {"name": self.features[0], "version": self.features[1]}, **told}


@usual_state()
def evaluate_run(
    path: Path | str, data: Dataset, *, densities: Sequence[str] | None = None, reference: Dataset | None = None,
    n: int | None = None, repeats: int = 1, features: FeatureName | None = None, seed: int = 0, device: str = "cpu",
    progress: Progress = SILENT,
) -> RunEvaluation:  # fmt: skip
    """Compare samples of a run's densities, or some of these, with real images, and keep the scores with the run.

    The images are of the test part, or of the training part of another dataset, the `reference`. A density draws
    `repeats` sets of n samples, by default as many as there are images, from 1,000 to 10,000, with seeds from `seed`
    on: the Fréchet distance is of each, all else of the first.
    """
    repeats = whole_number("repeats", repeats, least=1)
    run = RunFolder.open(path)
    keys = run.names("densities") if densities is None else list(dict.fromkeys(densities))
    check_densities(run, keys)
    check_data(run, data)
    check_dataset(data if reference is None else reference)
    against = data.test if reference is None else reference.train
    if against is None:
        raise InputError(f"{data.name} has no test images to compare with: name others by --against.")
    if (found := len(against)) < evaluation.FEWEST:
        has = f"{data.name} has {found} test images" if reference is None else f"{reference.name} has {found} images"
        remedy = "use --against train, or name others by --against"
        raise InputError(f"{has}, and {evaluation.FEWEST} are needed to compare with: {remedy}.")
    n = whole_number("n", min(max(found, _LEAST), _MOST) if n is None else n, least=evaluation.FEWEST)
    model = GenerativeScatteringNetwork.load(run, device, densities=keys)
    model.check_memory(n)
    extract = _extractor(features, model.decoder.image_shape, data.is_mnist, device)
    # Whoever is compared with training images cannot learn whether samples are nearer to these.
    unseen = against.fingerprint != data.train.fingerprint
    compared, rows_compared = some_of(against, n, seed), random_rows(len(against), n, seed)
    train = kept_features(run, "training", data.train, extract, progress)
    if reference is None:
        real = kept_features(run, "test", against, extract, progress)[rows_compared]
    else:
        real = extract(compared, progress) if unseen else train[rows_compared]
    rows = _Rows(model, extract, n, seed, progress)
    rows.add_training_images(data.train, train, against)
    rows.add_decoded(data)
    rows.add_densities(keys, repeats, real)
    real_detail = _detail(compared)
    scores = evaluation.evaluate(rows.tables, real, train=train if unseen else None, seed=seed, progress=progress)
    stages = {key: run.stages.get(f"densities/{key}", {}) for key in keys}
    result = RunEvaluation(
        rows=scores, images_per_second=rows.speed, repeats=rows.repeats,
        training_seconds={key: stage["seconds"] for key, stage in stages.items() if stage},
        log_likelihood=rows.likelihoods(DECODED_TEST, keys),
        training_log_likelihood=rows.likelihoods(DECODED_TRAINING, keys),
        sharpness={name: share_of_detail(value, real_detail) for name, value in rows.detail.items()},
        features=(extract.name, extract.version), n=n, seed=seed,
        against=f"{data.name}, test" if reference is None else reference.name,
    )  # fmt: skip
    distances = {name: row.frechet.value for name, row in scores.items()}
    picture = partial(
        quality_by_time, {key: (t, distances[key]) for key, t in result.training_seconds.items()},
        {name: d for name, d in distances.items() if name not in rows.speed},
        f"Fréchet distance to {result.against}, {extract.name} features",
    )  # fmt: skip
    made_from = ["encoder", "decoder", *(f"densities/{key}" for key in keys)]
    depends = {"n": n, "seed": seed, "repeats": repeats, "features": result.features, "against": against.fingerprint}
    kept = keep(run, "scores", "evaluation", result.summary(), {"evaluation": picture}, depends, made_from)
    if kept:
        show_in_report(run, device=device, progress=progress)
    return replace(result, kept=kept)


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
        free = torch.ones(len(images), dtype=torch.bool)
        if against.fingerprint == images.fingerprint:  # nor is any image compared with itself
            free[random_rows(len(images), min(self.n, len(against)), self.seed)] = False
        others = free.nonzero().flatten()
        if len(others) >= evaluation.FEWEST:
            chosen = others[random_rows(len(others), self.n, self.seed)]
            self.tables[TRAINING], self.detail[TRAINING] = features[chosen], _detail(Subset(images, chosen))

    def add_decoded(self, data: Dataset) -> None:
        """Add decoded codes of training and of test images."""
        rows = random_rows(len(data.train), self.n, self.seed + 1)
        sources: dict[str, ImageSource] = {DECODED_TRAINING: Subset(data.train, rows)}
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

    @torch.no_grad()
    def likelihoods(self, name: str, keys: Sequence[str]) -> dict[str, Estimate]:
        """Mean log-likelihoods in nats of a row's codes, under the densities that have exact ones."""
        found = {}
        for key in keys if name in self.codes else ():
            codes, density = self.codes[name], self.model.densities[key]
            if isinstance(density, LikelihoodDensity):  # perhaps of the leading components only
                leading = codes[:, : getattr(density, "n_features_", codes.shape[1])]
                values = density.log_prob(leading).double()  # at once: mixtures prepare each component for every call
                found[key] = Estimate(values.mean().item(), values.std().item() / math.sqrt(len(values)))
        return found


def _extractor(name: FeatureName | None, shape: tuple[int, int, int], mnist: bool, device: str) -> FeatureExtractor:
    if name == "digits" or (name is None and mnist and shape == (1, 28, 28)):
        return evaluation.DigitFeatures()
    if name in (None, "scattering"):
        return evaluation.ScatteringFeatures(shape)
    return evaluation.PerceptualFeatures(device) if name == "perceptual" else evaluation.InceptionFeatures(device)


def _detail(images: ImageSource) -> float:
    """Mean sharpness of real images."""
    pieces = (sharpness(images[i : i + _PIECE]).sum() for i in range(0, len(images), _PIECE))
    return float(sum(pieces)) / len(images)


def _for_json(estimate: Estimate | None) -> dict[str, float] | None:
    """An estimate, or None where a code is impossible and JSON has no −∞."""
    return asdict(estimate) if estimate is not None and math.isfinite(estimate.value) else None


def check_data(run: RunFolder, data: Dataset) -> None:
    """Refuse what is no dataset, and one that a run was not fitted to."""
    check_dataset(data)
    fitted_to = run.options.get("data", {})
    if "fingerprint" in fitted_to and not recognise(data, fitted_to):
        remedy = "name those, with the same --size and --mode"
        others = f"{data.name} does not hold the images that {run.path} was fitted to: {remedy}."
        raise InputError(what_changed(data, fitted_to, run.path) or others)


def keep(
    run: RunFolder, what: str, stem: str, summary: Mapping[str, Any], pictures: Mapping[str, Callable[[], Figure]],
    depends: Mapping[str, Any], made_from: Sequence[str],
) -> bool:  # fmt: skip
    """Write STEM.json and pictures by their names into a run, or warn that `what` cannot be kept, as on a full disk."""
    made_from = [name for name in made_from if run.has(name)]
    key = Stages(run, SILENT).key(stem, depends, made_from)
    try:
        with run.working(stem, key) as folder:
            write_json(folder / f"{stem}.json", summary)
            for name, draw in pictures.items():
                with atomic_path(folder / "pictures" / f"{name}.png") as temporary:
                    temporary.write_bytes(figure_png(draw()))
            run.note(stem, key, {}, made_from, products_in(folder))
    except ScattergenError as error:
        warnings.warn(f"The {what} are not kept with the run. {error}", stacklevel=4)
        return False
    return True


@dataclass(frozen=True)
class RunDiagnosis:
    """What the tests found."""

    tables: dict[str, Battery]  # the tests of "training codes" or "test codes", then of the density if there is one
    told_apart: TwoSampleTest | None  # how well a classifier told the density's samples from the codes
    rejections: dict[str, int]  # as `tables`, to the number of components that K² rejects at 0.05, uncorrected
    seed: int
    scores: Path | None  # file that has it all; None if it could not be kept, since the disk is full or read-only

    def summary(self) -> dict[str, Any]:
        """Everything but the files, for JSON."""
        rows = {key: {**one.summary(), "k2_rejects_at_0.05": self.rejections[key]} for key, one in self.tables.items()}
        apart = self.told_apart
        told = None if apart is None else {"accuracy": apart.accuracy, "pvalue": apart.pvalue, "n": apart.n}
        return {"seed": self.seed, "machine": machine(), "tables": rows, "told_apart": told}


@usual_state()
def diagnose_run(
    path: Path | str, *, density: str | None = None, data: Dataset | None = None, components: int = COMPONENTS,
    n: int = CODES, n_simulations: int = SIMULATIONS, seed: int = 0, device: str = "cpu", progress: Progress = SILENT,
) -> RunDiagnosis:  # fmt: skip
    """Test leading components of at most n training codes, or test codes of `data`, and of samples of a density."""
    components, n = whole_number("components", components, least=2), whole_number("n", n, least=FEWEST_CODES)
    run = RunFolder.open(path)
    keys = () if density is None else (density,)
    check_densities(run, keys)
    model = GenerativeScatteringNetwork.load(run, device, densities=keys)
    if data is None:
        name, codes = "training codes", run.read("codes")[0]["codes"]
    else:
        check_data(run, data)
        if data.test is None:
            raise InputError(f"{data.name} has no test images: leave out --part test.")
        name, codes = "test codes", model.encode(data.test, progress)
    codes = codes[random_rows(len(codes), n, seed)]
    if density is not None:  # which may model the leading components only
        modelled = getattr(model.densities[density], "n_features_", components)
        components = whole_number("components", min(components, modelled), least=2)
    tables = {name: codes[:, :components]}
    if density is not None:
        tables[density] = model.sample_codes(len(codes), density, seed)[:, :components]
    test = partial(run_battery, n_simulations=n_simulations, seed=seed, progress=progress)
    batteries = {key: test(z, description=key) for key, z in tables.items()}
    stem = "diagnosis" if density is None else f"diagnosis-{density}"
    drawn = _drawn(tables, batteries, model.encoder.whitening.explained_variance_)
    found = RunDiagnosis(
        tables=batteries, seed=seed, scores=run.path / f"{stem}.json",
        told_apart=None if density is None else classifier_two_sample_test(tables[name], tables[density], seed=seed),
        rejections={key: count_rejections(z).count("K2", 0.05) for key, z in tables.items()},
    )  # fmt: skip
    made_from = ["encoder", "codes", *(f"densities/{key}" for key in keys)]
    pictures = {f"{stem}-{one}": draw for one, draw in drawn.items()}
    depends = {"seed": seed, "n": len(codes), "of": name, "components": components, "simulations": n_simulations}
    kept = keep(run, "tests", stem, found.summary(), pictures, depends, made_from)
    if not kept:
        return replace(found, scores=None)
    show_in_report(run, device=device, progress=progress)
    return found


def _drawn(
    tables: dict[str, Tensor], batteries: dict[str, Battery], eigenvalues: Tensor
) -> dict[str, Callable[[], Figure]]:
    """What draws each picture of codes and perhaps, below or beside them, samples of a density."""
    codes, *others = (z.double().numpy() for z in tables.values())
    matrices = [battery.pairs.correlation for battery in batteries.values()]
    samples, below = (others[0], matrices[1]) if others else (None, None)
    name = [*tables][-1]
    first, second = np.triu_indices(len(matrices[0]), k=1)
    strongest = np.argsort(-matrices[0][first, second], kind="stable")[:_PAIRS]
    pairs = [(int(first[k]), int(second[k])) for k in strongest]
    return {
        "eigenvalues": lambda: eigenvalue_spectrum(eigenvalues),
        "marginals": lambda: plots.marginal_histograms(codes, samples, name),
        "quantiles": lambda: plots.normal_quantiles(codes, samples, name),
        "pairs": lambda: plots.component_pairs(codes, pairs, samples, name),
        "dependence": lambda: plots.dependence_heat_map(matrices[0], below, name),
    }
