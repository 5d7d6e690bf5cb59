"""The report of a run: what its model does with its data, gathered and written."""

from pathlib import Path
from typing import Any

import torch

from scattergen.datasets import Dataset
from scattergen.densities import hyperparameters
from scattergen.diagnostics import count_rejections, effect_sizes, rejections_by_sample_size
from scattergen.diagnostics.component_grid import PAPER_VALUES, SIGMA_VALUES, component_grid
from scattergen.evaluation.judgement import Judgement
from scattergen.image_quality import WINDOW_SIZE, psnr, ssim
from scattergen.machine import machine
from scattergen.model import GenerativeScatteringNetwork
from scattergen.progress import SILENT, Progress
from scattergen.report.facts import DensityEntry, FitReport, VisualisationMatrix
from scattergen.report.fit_report import write_fit_report
from scattergen.runs import RunFolder

_N_SAMPLES, _N_PAIRS = 64, 12
MEASURES = ("psnr", "ssim")
"""What a report measures on test images, in the order of its table."""

_MINIMUM_FOR_TESTS = 20  # K² and Jarque-Bera are not defined well below


def write_run_report(
    run: RunFolder,
    model: GenerativeScatteringNetwork,
    data: Dataset,
    folder: Path,
    *,
    judgement: Judgement | None = None,
    seed: int = 0,
    command: str = "",
    progress: Progress = SILENT,
) -> tuple[Path, dict[str, float]]:
    """Measure a fitted model on its data and write report.html and pictures/.

    Args:
        run: The run.
        model: Its model.
        data: The data that it was fitted to; the test images are what is measured on.
        folder: Where to write.
        judgement: How good the model is; the best density is then shown first.
        seed: Of the samples shown.
        command: The command line that made the run, to be shown.
        progress: Where to report.

    Returns:
        Path of the page, and the measurements: mean "psnr" (dB) and "ssim" of test images, if there
        are any.
    """
    densities, quality = [], dict[str, Any]()
    with progress.task("report", len(model.densities) + 2) as task:
        codes = None
        if data.test is not None and len(data.test):
            codes = model.encode(data.test)
            quality = _reconstruction(model, data, codes)
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
            n_test=len(data.test) if data.test is not None else 0,
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
        page = write_fit_report(facts, folder)
    return page, {str(name): quality[name].mean().item() for name in MEASURES if name in quality}


def _reconstruction(model: GenerativeScatteringNetwork, data: Dataset, codes: torch.Tensor) -> dict[str, Any]:
    assert data.test is not None
    measured: dict[str, list[torch.Tensor]] = {"psnr": [], "ssim": []}
    large_enough = min(data.test.shape[1:]) >= WINDOW_SIZE
    shown: dict[str, Any] = {}
    for i in range(0, len(codes), 256):
        x, y = data.test[i : i + 256], model.decode(codes[i : i + 256])
        measured["psnr"].append(psnr(x, y).clamp(max=100))  # JSON has no infinity
        if large_enough:
            measured["ssim"].append(ssim(x, y))
        if i == 0:
            shown = {"originals": x[:_N_PAIRS], "reconstructions": y[:_N_PAIRS]}
    return shown | {name: torch.cat(parts) for name, parts in measured.items() if parts}


def _statistics(run: RunFolder, test_codes: torch.Tensor | None, seed: int) -> dict[str, Any]:
    """Whether test codes, or training codes if those are too few, are normal."""
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
    matrices = []
    for title, values, in_sigma in (
        ("One and two standard deviations", SIGMA_VALUES, True),
        ("The paper’s values", PAPER_VALUES, False),
    )[: 2 if beside_paper else 1]:
        units = sigma if in_sigma else (1.0, 1.0)
        matrices.append(
            VisualisationMatrix(
                title=title,
                images=model.decode(component_grid(variances, values, in_sigma=in_sigma)),
                first=[value * units[0] for value in values],
                second=[value * units[1] for value in values],
                sigma=sigma,
                paper=not in_sigma,
            )
        )
    return matrices
