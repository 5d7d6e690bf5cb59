"""The report of a run: what its model does with its data, gathered and written."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from scattergen.datasets import Dataset, ImageSource
from scattergen.densities import hyperparameters
from scattergen.diagnostics import count_rejections, effect_sizes, rejections_by_sample_size
from scattergen.diagnostics.component_grid import PAPER_VALUES, SIGMA_VALUES, component_grid
from scattergen.evaluation.judgement import Judgement
from scattergen.image_quality import WINDOW_SIZE, psnr, ssim
from scattergen.machine import machine
from scattergen.model import GenerativeScatteringNetwork
from scattergen.progress import Progress
from scattergen.report.fit_report import DensityEntry, FitReport, VisualisationMatrix, write_fit_report
from scattergen.runs import RunFolder

_N_SAMPLES, _N_PAIRS = 64, 12
_MINIMUM_FOR_TESTS = 20  # K² and Jarque-Bera are not defined well below
MEASURES = ("psnr", "ssim")
"""What a report measures on test images, in the order of its table."""


def write_run_report(
    run: RunFolder,
    model: GenerativeScatteringNetwork,
    data: Dataset,
    folder: Path,
    *,
    judgement: Judgement | None,
    seed: int,
    command: str,
    progress: Progress,
) -> dict[str, float]:
    """Measure a run's model on its data and write report.html and pictures/ into a folder.

    Returned are the mean "psnr" (dB) and "ssim" of test images, if there are any.
    """
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
        for name in model.densities:
            densities.append(_density(run, model, name, seed))
            task.advance()
        whitening = model.encoder.whitening
        facts = FitReport(
            dataset=data.name,
            image_shape=model.decoder.image_shape,
            n_train=len(data.train),
            n_test=0 if data.test is None else len(data.test),
            seed=seed,
            version=run.version,
            command=command,
            config=run.options,
            machine=machine(),
            stages=[(name, stage["seconds"]) for name, stage in run.stages.items() if "seconds" in stage],
            eigenvalues=whitening.explained_variance_,
            explained_variance=whitening.explained_variance_ratio_.sum().item(),
            densities=densities,
            judgement=judgement,
            featured=None if judgement is None else judgement.best,
            visualisation=_matrices(model, beside_paper=data.name == "mnist"),
            history=_history(run),
            **quality,
            **statistics,
        )
        write_fit_report(facts, folder)
    return {name: quality[name].mean().item() for name in MEASURES if name in quality}


def _reconstruction(model: GenerativeScatteringNetwork, images: ImageSource, codes: torch.Tensor) -> dict[str, Any]:
    measured: dict[str, list[torch.Tensor]] = {"psnr": [], "ssim": []}
    large_enough = min(images.shape[1:]) >= WINDOW_SIZE
    shown: dict[str, Any] = {}
    for i in range(0, len(codes), 256):
        x, y = images[i : i + 256], model.decode(codes[i : i + 256])
        measured["psnr"].append(psnr(x, y).clamp(max=100))  # JSON has no infinity
        if large_enough:
            measured["ssim"].append(ssim(x, y))
        if i == 0:
            shown = {"originals": x[:_N_PAIRS], "reconstructions": y[:_N_PAIRS]}
    return shown | {name: torch.cat(parts) for name, parts in measured.items() if parts}


def _statistics(run: RunFolder, test_codes: torch.Tensor | None, seed: int) -> dict[str, Any]:
    """Whether test codes, or training codes if there are too few of those, are normal."""
    codes, split = test_codes, "test"
    if codes is None or len(codes) < _MINIMUM_FOR_TESTS:
        codes, split = run.read("codes")[0]["codes"], "training"
    if len(codes) < _MINIMUM_FOR_TESTS:
        return {}
    skewness, kurtosis = effect_sizes(codes)
    return {
        "normality": count_rejections(codes),
        "normality_split": split,
        "rejections": rejections_by_sample_size(codes, repeats=5, seed=seed),
        "skewness": skewness.tolist(),
        "excess_kurtosis": kurtosis.tolist(),
    }


def _density(run: RunFolder, model: GenerativeScatteringNetwork, name: str, seed: int) -> DensityEntry:
    stage, density = run.stages.get(f"densities/{name}", {}), model.densities[name]
    return DensityEntry(
        name=name,
        hyperparameters=hyperparameters(density),
        seconds=stage.get("seconds", 0.0),
        samples=model.sample(_N_SAMPLES, name, seed),
        epochs=stage.get("epochs"),
        layers=density.description,
        seed=seed,
    )


def _history(run: RunFolder) -> list[dict[str, float]]:
    names = {
        "epoch": "epoch",
        "seconds": "seconds",
        "train_loss": "loss",
        "val_loss": "validation/loss",
        "val_psnr": "validation/psnr",
    }
    records = run.stages.get("decoder", {}).get("history", [])
    return [{key: record[name] for key, name in names.items()} for record in records]


def _matrices(model: GenerativeScatteringNetwork, *, beside_paper: bool) -> list[VisualisationMatrix]:
    variances = model.encoder.whitening.explained_variance_
    if len(variances) < 2:
        return []
    sigma = (variances[0].sqrt().item(), variances[1].sqrt().item())

    def matrix(title: str, values: Sequence[float], paper: bool) -> VisualisationMatrix:
        first, second = (1.0, 1.0) if paper else sigma
        return VisualisationMatrix(
            title=title,
            images=model.decode(component_grid(variances, values, in_sigma=not paper)),
            first=[value * first for value in values],
            second=[value * second for value in values],
            sigma=sigma,
            paper=paper,
        )

    matrices = [matrix("One and two standard deviations", SIGMA_VALUES, paper=False)]
    return matrices + ([matrix("The paper’s values", PAPER_VALUES, paper=True)] if beside_paper else [])
