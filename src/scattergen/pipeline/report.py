"""The report of a run: how good its model is and what it does with its data, measured and written."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scattergen.datasets import Dataset, ImageSource
from scattergen.datasets.source import some_of
from scattergen.densities import hyperparameters
from scattergen.diagnostics import count_rejections, effect_sizes, rejections_by_sample_size
from scattergen.diagnostics.component_grid import PAPER_VALUES, SIGMA_VALUES, component_grid
from scattergen.evaluation import default_features, kernel_distance
from scattergen.evaluation.judgement import DECODER, LEAST_SQUARES, MEASURES, REAL, Judgement, Row, best_of
from scattergen.evaluation.memorisation import FEWEST, image_cells, memorisation
from scattergen.image_quality import WINDOW_SIZE, psnr, sharpness, ssim
from scattergen.model import GenerativeScatteringNetwork
from scattergen.progress import SILENT, Progress
from scattergen.report.fit_report import DensityEntry, FitReport, VisualisationMatrix, write_fit_report
from scattergen.runs import RunFolder
from scattergen.wording import machine

MOST_JUDGED, LEAST_JUDGED = 1000, 100  # images in a row
FEWEST_TEST_IMAGES = 3  # that a kernel distance is of
_N_SAMPLES, _N_PAIRS = 64, 12
_MINIMUM_FOR_TESTS = 20  # K² and Jarque-Bera are not defined well below


def write_run_report(
    run: RunFolder, model: GenerativeScatteringNetwork, data: Dataset, folder: Path, seed: int, command: str,
    progress: Progress,
) -> dict[str, Any]:  # fmt: skip
    """Judge and measure a run's model, write report.html and pictures/ into a folder, and return facts of the stage."""
    judgement = judge(model, data.train, data.test, digits=data.is_mnist, seed=seed, progress=progress)
    densities: list[DensityEntry] = []
    quality: dict[str, Any] = {}
    codes = None
    with progress.task("report", len(model.densities) + 2) as task:
        if data.test is not None and len(data.test):
            codes = model.encode(data.test)
            quality = _reconstruction(model, data.test, codes)
        task.advance()
        statistics = _statistics(run, codes, seed)
        task.advance()
        for name, density in model.densities.items():
            stage, samples = run.stages.get(f"densities/{name}", {}), model.sample(_N_SAMPLES, name, seed)
            densities.append(DensityEntry(
                name, hyperparameters(density), stage.get("seconds", 0.0), samples, stage.get("epochs"),
                density.description, seed,
            ))  # fmt: skip
            task.advance()
        whitening = model.encoder.whitening
        keys = ("epoch", "seconds", "train_loss", "val_loss", "val_psnr")
        names = ("epoch", "seconds", "loss", "validation/loss", "validation/psnr")
        epochs = run.stages.get("decoder", {}).get("history", [])
        facts = FitReport(
            data.name, model.decoder.image_shape, len(data.train), 0 if data.test is None else len(data.test),
            seed=seed, version=run.version, command=command, config=run.shown_options, machine=machine(),
            stages=[(name, stage["seconds"]) for name, stage in run.stages.items() if "seconds" in stage],
            eigenvalues=whitening.explained_variance_,
            explained_variance=whitening.explained_variance_ratio_.sum().item(),
            densities=densities, judgement=judgement, featured=None if judgement is None else judgement.best,
            visualisation=_matrices(model, beside_paper=data.is_mnist),
            history=[{key: epoch[name] for key, name in zip(keys, names, strict=True)} for epoch in epochs],
            **quality, **statistics,
        )  # fmt: skip
        write_fit_report(facts, folder)
    told = {name: quality[name].mean().item() for name in MEASURES if name in quality}
    return told if judgement is None else {**told, "best": judgement.best, "judgement": judgement.summary()}


def judge(
    model: GenerativeScatteringNetwork, train: ImageSource, test: ImageSource | None, *, digits: bool = False,
    seed: int = 0, progress: Progress = SILENT,
) -> Judgement | None:  # fmt: skip
    """Score reconstructions and samples against up to 1,000 test images by default features; None with fewer than 3."""
    if test is None or len(test) < FEWEST_TEST_IMAGES:
        return None
    extract = default_features(model.decoder.image_shape, digits=digits)
    real = some_of(test, MOST_JUDGED, seed)[:]
    codes = model.encode(real)
    restored = {DECODER: model.decode(codes)}
    if model.linear is not None:
        restored[LEAST_SQUARES] = model.linear.decode(codes)
    wanted, detail = extract(real), sharpness(real).mean()

    def row(images: Tensor, features: Tensor, quality: float | None = None, copying: float | None = None) -> Row:
        distance = kernel_distance(wanted, features)
        share = (sharpness(images).mean() / detail.clamp(min=1e-12)).item()
        return Row(1000 * distance.value, 1000 * distance.standard_error, share, quality, copying)

    rows = {}
    with progress.task("judge", len(restored) + len(model.densities) + 1) as task:
        trained_on = some_of(train, MOST_JUDGED, seed)[:]
        seen = extract(trained_on)
        if len(train) >= FEWEST_TEST_IMAGES:
            rows[REAL] = row(trained_on, seen)
        task.advance()
        for name, images in restored.items():
            rows[name] = row(images, extract(images), psnr(real, images).clamp(max=100).mean().item())
            task.advance()
        tested = min(len(seen), len(wanted)) >= FEWEST
        cells = image_cells(seen, wanted, seed=seed) if tested else None
        for key in model.densities:
            images = model.sample(min(MOST_JUDGED, max(LEAST_JUDGED, len(real))), key, seed)
            features = extract(images)
            copying = memorisation(seen, wanted, features, cells=cells, seed=seed).copying_pvalue if tested else None
            rows[key] = row(images, features, copying=copying)
            task.advance(1, key)
    best = best_of({key: rows[key] for key in model.densities})
    return Judgement((extract.name, extract.version), MOST_JUDGED, len(real), rows, best)


def _reconstruction(model: GenerativeScatteringNetwork, images: ImageSource, codes: Tensor) -> dict[str, Any]:
    measured: dict[str, list[Tensor]] = {"psnr": [], "ssim": []}
    shown: dict[str, Any] = {}
    for i in range(0, len(codes), 256):
        x, y = images[i : i + 256], model.decode(codes[i : i + 256])
        measured["psnr"].append(psnr(x, y).clamp(max=100))  # JSON has no infinity
        if min(images.shape[1:]) >= WINDOW_SIZE:
            measured["ssim"].append(ssim(x, y))
        if i == 0:
            shown = {"originals": x[:_N_PAIRS], "reconstructions": y[:_N_PAIRS]}
    return shown | {name: torch.cat(parts) for name, parts in measured.items() if parts}


def _statistics(run: RunFolder, test_codes: Tensor | None, seed: int) -> dict[str, Any]:
    """Whether test codes, or training codes if there are too few of those, are normal."""
    codes, split = test_codes, "test"
    if codes is None or len(codes) < _MINIMUM_FOR_TESTS:
        codes, split = run.read("codes")[0]["codes"], "training"
    if len(codes) < _MINIMUM_FOR_TESTS:
        return {}
    skewness, kurtosis = effect_sizes(codes)
    return {
        "normality": count_rejections(codes), "normality_split": split,
        "rejections": rejections_by_sample_size(codes, repeats=5, seed=seed),
        "skewness": skewness.tolist(), "excess_kurtosis": kurtosis.tolist(),
    }  # fmt: skip


def _matrices(model: GenerativeScatteringNetwork, *, beside_paper: bool) -> list[VisualisationMatrix]:
    variances = model.encoder.whitening.explained_variance_
    if len(variances) < 2:
        return []
    sigma = (variances[0].sqrt().item(), variances[1].sqrt().item())
    shown = [("One and two standard deviations", SIGMA_VALUES, False), ("The paper’s values", PAPER_VALUES, True)]
    matrices = []
    for title, values, paper in shown if beside_paper else shown[:1]:
        images = model.decode(component_grid(variances, values, in_sigma=not paper))
        first, second = ([value * one for value in values] for one in ((1.0, 1.0) if paper else sigma))
        matrices.append(VisualisationMatrix(title, images, first, second, sigma, paper))
    return matrices
