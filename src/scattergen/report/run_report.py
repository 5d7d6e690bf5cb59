"""The report of a run: what its model does with its data, gathered and written."""

import platform
from pathlib import Path
from typing import Any

import torch

from scattergen.datasets import Dataset
from scattergen.densities import hyperparameters
from scattergen.diagnostics import count_rejections, effect_sizes, rejections_by_sample_size
from scattergen.diagnostics.component_grid import PAPER_VALUES, SIGMA_VALUES, component_grid
from scattergen.image_quality import WINDOW_SIZE, psnr, ssim
from scattergen.judging import Judgement
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
    *,
    judgement: Judgement | None = None,
    seed: int = 0,
    command: str = "",
    progress: Progress = SILENT,
) -> tuple[Path, dict[str, float]]:
    """Measure a fitted model on its data and write report.html and pictures/ in its folder.

    Args:
        run: The run.
        model: Its model.
        data: The data that it was fitted to; the test images are what is measured on.
        judgement: How good the model is; the best density is then shown first.
        seed: Of the samples shown.
        command: The command line that made the run, to be shown.
        progress: Where to report.

    Returns:
        Path of the page, and the measurements: mean "psnr" (dB) and "ssim" of test images, if there
        are any.
    """
    quality: dict[str, Any] = {}
    with progress.task("report", len(model.densities) + 2) as task:
        codes = None
        if data.test is not None and len(data.test):
            codes = model.encode(data.test)
            quality = _reconstruction(model, data, codes)
        task.advance()
        tested, split = (codes, "test") if codes is not None else (None, "training")
        if tested is None or len(tested) < _MINIMUM_FOR_TESTS:
            tested, split = run.read("codes")[0]["codes"], "training"
        statistics: dict[str, Any] = {}
        if len(tested) >= _MINIMUM_FOR_TESTS:
            skewness, kurtosis = effect_sizes(tested)
            statistics = {
                "normality": count_rejections(tested),
                "normality_split": split,
                "rejections": rejections_by_sample_size(tested, repeats=5, seed=seed),
                "skewness": skewness.tolist(),
                "excess_kurtosis": kurtosis.tolist(),
            }
        task.advance()
        densities = []
        for name, density in model.densities.items():
            stage = run.stages.get(f"densities/{name}", {})
            densities.append(
                DensityEntry(
                    name=name,
                    hyperparameters=hyperparameters(density),
                    seconds=stage.get("seconds", 0.0),
                    samples=model.sample(_N_SAMPLES, name, seed),
                    epochs=stage.get("epochs"),
                    layers=density.description,
                    seed=seed,
                )
            )
            task.advance()
        variances = model.encoder.whitening.explained_variance_
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
            stages=[
                (name, stage["seconds"]) for name, stage in run.stages.items() if "seconds" in stage
            ],
            eigenvalues=variances,
            explained_variance=model.encoder.whitening.explained_variance_ratio_.sum().item(),
            densities=densities,
            judgement=judgement,
            featured=None if judgement is None else judgement.best,
            visualisation=_matrices(model, beside_paper=data.name == "mnist"),
            history=[
                {
                    "epoch": record["epoch"],
                    "seconds": record["seconds"],
                    "train_loss": record["loss"],
                    "val_loss": record["validation/loss"],
                    "val_psnr": record["validation/psnr"],
                }
                for record in run.stages.get("decoder", {}).get("history", [])
            ],
            **quality,
            **statistics,
        )
        page = write_fit_report(facts, run.path)
    return page, {str(name): quality[name].mean().item() for name in MEASURES if name in quality}


def _reconstruction(
    model: GenerativeScatteringNetwork, data: Dataset, codes: torch.Tensor
) -> dict[str, Any]:
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


def _matrices(
    model: GenerativeScatteringNetwork, *, beside_paper: bool
) -> list[VisualisationMatrix]:
    variances = model.encoder.whitening.explained_variance_
    if len(variances) < 2:
        return []
    sigma = (variances[0].sqrt().item(), variances[1].sqrt().item())
    matrices = []
    for title, values, in_sigma in (
        ("One and two standard deviations", SIGMA_VALUES, True),
        ("The paper's values", PAPER_VALUES, False),
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


def machine() -> dict[str, str]:
    """What the measurements were made on.

    Returns:
        Processor, number of threads, and versions.

    Example:
        >>> sorted(machine())
        ['processor', 'python', 'system', 'threads', 'torch']
    """
    processor = platform.processor() or platform.machine()
    cpu_info = Path("/proc/cpuinfo")
    if cpu_info.exists():
        names = [
            line for line in cpu_info.read_text().splitlines() if line.startswith("model name")
        ]
        processor = names[0].partition(":")[2].strip() if names else processor
    return {
        "processor": processor,
        "threads": str(torch.get_num_threads()),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.system(),
    }
