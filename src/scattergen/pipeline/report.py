"""The report of a run: the end of its fit, written again whenever the run holds what it does not show."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scattergen.datasets import Dataset
from scattergen.datasets.source import MNIST
from scattergen.densities import hyperparameters
from scattergen.diagnostics import count_rejections, effect_sizes, rejections_by_sample_size
from scattergen.diagnostics.component_grid import PAPER_VALUES, SIGMA_VALUES, component_grid
from scattergen.diagnostics.normality import NormalityTable, RejectionRate
from scattergen.display.machine import machine
from scattergen.display.progress import SILENT, Progress
from scattergen.errors import InputError, ScattergenError
from scattergen.evaluation import default_features
from scattergen.evaluation.digit_classifier import DigitFeatures
from scattergen.evaluation.judgement import MEASURES, Judgement, Row
from scattergen.files.tensors import check_shapes
from scattergen.image_quality import WINDOW_SIZE, psnr, ssim
from scattergen.model import GenerativeScatteringNetwork
from scattergen.pipeline.browse import nearest_training_images, read_products
from scattergen.pipeline.judging import MOST_JUDGED, PARTS, REFERENCE, Standard, standard_of
from scattergen.report.fit_report import DensityEntry, FitReport, VisualisationMatrix, write_fit_report
from scattergen.runs import LAST_STAGE, Result, RunFolder, Stages, fit_seconds
from scattergen.runs.layout import DENSITIES, products_in
from scattergen.runs.schema import DIAGNOSIS, EVALUATION
from scattergen.stages.density import default_density

_OF_FIT: tuple[str, ...] = ("command", "machine", "tested_on")  # facts that later reports take from earlier ones
_N_SAMPLES, _N_PAIRS, _N_NEAREST = 64, 12, 8
_N_MORPHS, _STEPS = 3, 8
_MINIMUM_FOR_TESTS = 20  # K² and Jarque-Bera are not defined well below


def write_run_report(
    run: RunFolder, model: GenerativeScatteringNetwork, data: Dataset, command: str, progress: Progress
) -> None:
    """End the fit of a run: measure its model, and write the report."""
    _reference(run, model, data, progress)
    tested_on = None if data.test is None else data.test.fingerprint
    added = [key for key in run.names(DENSITIES) if key not in model.densities]  # since an earlier report
    if added:
        model.densities |= GenerativeScatteringNetwork.load(run, densities=added).densities
    _write(run, model, {"command": command, "machine": machine(), "tested_on": tested_on}, progress)


def renew_report(path: Path | str, *, device: str = "cpu", progress: Progress = SILENT) -> bool:
    """Write the report of a finished fit again if it does not show all that the run holds; whether that was needed."""
    run = RunFolder.open(path)
    if not _has_report(run):
        what = "was not made by `scattergen fit`" if run.finished else "is not finished"
        raise InputError(f"{run.path} has no report, since it {what}: run its fit command to the end.")
    renewed = False
    while True:  # until nothing was added meanwhile
        if not (run.has(REFERENCE) and run.is_whole(REFERENCE)):
            lacks = f"{run.path} has lost what it kept of its images for a report"
            raise InputError(f"{lacks}: run its fit command again, which makes it again.")
        if run.key(LAST_STAGE) == _key(run)[0] and (run.path / "report.html").is_file():
            return renewed
        _write(run, GenerativeScatteringNetwork.load(run, device), run.stages[LAST_STAGE], progress)
        renewed = True
        run.refresh()


def show_in_report(run: RunFolder, *, device: str = "cpu", progress: Progress = SILENT) -> None:
    """As `renew_report`, after work that a report is not worth losing: if there is one, and it can be written."""
    if not _has_report(run):
        return
    try:
        renew_report(run.path, device=device, progress=progress)
    except ScattergenError as error:
        progress.message(f"report: not renewed. {error}")


def _has_report(run: RunFolder) -> bool:
    return LAST_STAGE in run.keys and {"name", "n"} <= run.options.get("data", {}).keys()


def _key(run: RunFolder) -> tuple[str, list[str]]:
    """The key of a report of what a run holds, and the stages of its fit, without which there is no report."""
    of_fit = {*PARTS, *(f"{DENSITIES}/{key}" for key in run.options.get("densities", {}))}
    shown = {
        name: key
        for name, key in run.keys.items()
        if name.startswith((f"{DENSITIES}/", "diagnosis")) or name in (REFERENCE, "evaluation")
    }
    made_from = [name for name in run.keys if name in of_fit]
    depends = {"shown": shown, "seed": run.options.get("seed"), "path": str(run.path.resolve())}
    return Stages(run, SILENT).key(LAST_STAGE, depends, made_from), made_from


def _write(run: RunFolder, model: GenerativeScatteringNetwork, told: dict[str, Any], progress: Progress) -> None:
    """Write report and pictures of a run that `told` knows the command, machine and test images of."""
    key, made_from = _key(run)
    with run.working(LAST_STAGE, key) as work:
        start = time.monotonic()
        measured = _page(run, model, work, told, progress)
        of_fit = {name: told[name] for name in _OF_FIT if name in told}
        facts = {"seconds": time.monotonic() - start, **measured, **of_fit}
        run.preview.unlink(missing_ok=True)  # the report's pictures say more
        run.log({"stage": LAST_STAGE, **facts})
        run.note(LAST_STAGE, key, facts, made_from, products_in(work))
    if "best" in told and facts.get("best") != told["best"]:
        progress.message(f"report: the best density is now {facts.get('best')}")


def _reference(run: RunFolder, model: GenerativeScatteringNetwork, data: Dataset, progress: Progress) -> None:
    """Keep what reports need of images: features, some test images, and how all come back and their codes spread."""
    extract, seed = default_features(model.decoder.image_shape, digits=data.is_mnist), run.options.get("seed", 0)
    test = data.test if data.test is not None and len(data.test) else None

    def measure(_: Path | None) -> Result:
        tensors: dict[str, Tensor] = {}
        codes = None if test is None else model.encode(test, progress)
        told: dict[str, Any] = {"n_test": 0, **_statistics(run, codes, seed)}
        if test is not None and codes is not None:
            told["n_test"] = len(test)
            tensors = {"originals": test[:_N_PAIRS], "codes": codes[:_N_PAIRS].clone()}
            measured: dict[str, list[Tensor]] = {}
            for i in range(0, len(codes), 256):
                x, y = test[i : i + 256], model.decode(codes[i : i + 256])
                measured.setdefault("psnr", []).append(psnr(x, y).clamp(max=100))  # JSON has no infinity
                if min(test.shape[1:]) >= WINDOW_SIZE:
                    measured.setdefault("ssim", []).append(ssim(x, y))
            tensors |= {name: torch.cat(parts) for name, parts in measured.items()}
        standard = standard_of(model, data.train, test, extract, seed, progress)
        if standard is not None:
            tensors |= {"wanted": standard.wanted, "seen": standard.seen}
            rows = {name: asdict(row) for name, row in standard.rows.items()}
            told |= {"features": standard.features, "detail": standard.detail, "rows": rows}
        return Result(tensors, told)

    depends = {
        "tested_on": None if test is None else test.fingerprint, "seed": seed,
        "features": (extract.name, extract.version), "n": MOST_JUDGED,
    }  # fmt: skip
    made_from = [name for name in PARTS if name != "sampling" and name in run.keys]
    Stages(run, progress).get(REFERENCE, depends, measure, made_from)


def _statistics(run: RunFolder, test_codes: Tensor | None, seed: int) -> dict[str, Any]:
    """Whether test codes, or training codes if there are too few of those, are normal."""
    codes, split = test_codes, "test"
    if codes is None or len(codes) < _MINIMUM_FOR_TESTS:
        codes, split = run.read("codes")[0]["codes"], "training"
    if len(codes) < _MINIMUM_FOR_TESTS:
        return {}
    skewness, kurtosis = effect_sizes(codes)
    return {
        "normality": asdict(count_rejections(codes)), "normality_split": split,
        "rejections": [asdict(rate) for rate in rejections_by_sample_size(codes, repeats=5, seed=seed)],
        "skewness": skewness.tolist(), "excess_kurtosis": kurtosis.tolist(),
    }  # fmt: skip


def _page(
    run: RunFolder, model: GenerativeScatteringNetwork, folder: Path, told: dict[str, Any], progress: Progress
) -> dict[str, Any]:
    """Write report.html and pictures/ into a folder, and return facts of the stage."""
    tensors, kept = _kept(run, model)
    options, seed = run.shown_options, run.options.get("seed", 0)
    judgement, judged = _judged(run, model, tensors, kept, progress)
    names = [*model.densities]
    measured: dict[str, Any] = {name: tensors[name] for name in MEASURES if name in tensors}
    best = default_density(names, None if judgement is None else judgement.best) if names else None
    densities: list[DensityEntry] = []
    with progress.task("report", len(model.densities) + 1) as task:
        for name, density in model.densities.items():
            stage, samples = run.stages.get(f"{DENSITIES}/{name}", {}), model.sample(_N_SAMPLES, name, seed)
            densities.append(DensityEntry(
                name, hyperparameters(density), stage.get("seconds", 0.0), samples, stage.get("epochs"),
                density.description, seed,
            ))  # fmt: skip
            task.advance()
        whitening = model.encoder.whitening
        facts = FitReport(
            options["data"]["name"], model.decoder.image_shape, options["data"]["n"], kept["n_test"], seed=seed,
            version=run.version, command=told.get("command", ""), config=options, machine=told.get("machine", {}),
            stages=[*fit_seconds(run).items()], eigenvalues=whitening.explained_variance_, run=str(run.path.resolve()),
            explained_variance=whitening.explained_variance_ratio_.sum().item(),
            densities=densities, judgement=judgement, featured=best,
            nearest=None if best is None else _nearest(run, model, best, seed),
            history=run.stages.get("decoder", {}).get("history", ()),
            visualisation=_matrices(model, beside_paper=options["data"]["name"] == MNIST),
            evaluation=read_products(run, "evaluation", EVALUATION).get("evaluation"),
            diagnoses=read_products(run, "diagnosis", DIAGNOSIS),
            **measured, **_shown(model, tensors), **_tested(kept),
        )  # fmt: skip
        write_fit_report(facts, folder)
        task.advance()
    facts_of_stage: dict[str, Any] = {name: values.mean().item() for name, values in measured.items()}
    if judgement is not None:
        facts_of_stage |= {"best": judgement.best, "judgement": asdict(judgement), "judged": judged}
    return facts_of_stage


def _kept(run: RunFolder, model: GenerativeScatteringNetwork) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `_reference` kept, in the shapes that it must have."""
    tensors, kept = run.read(REFERENCE)
    n, shape, width = kept["n_test"], model.decoder.image_shape, tensors.get("wanted", torch.empty(0, 0)).shape[-1:]
    shown, judged, trained = min(_N_PAIRS, n), min(MOST_JUDGED, n), min(MOST_JUDGED, run.options["data"]["n"])
    shapes: dict[str, tuple[int, ...]] = {
        "originals": (shown, *shape), "codes": (shown, model.decoder.n_components), "psnr": (n,), "ssim": (n,),
        "wanted": (judged, *width), "seen": (trained, *width),
    }  # fmt: skip
    needed = ["originals", "codes", "psnr"] * (n > 0) + ["wanted", "seen"] * ("features" in kept)
    check_shapes(REFERENCE, tensors, {name: shapes[name] for name in shapes if name in needed or name in tensors})
    return tensors, kept


def _judged(
    run: RunFolder, model: GenerativeScatteringNetwork, tensors: dict[str, Tensor], kept: dict[str, Any],
    progress: Progress,
) -> tuple[Judgement | None, dict[str, str]]:  # fmt: skip
    """The scores of all densities, those of the last report if it had them, and of what version each density was."""
    if "features" not in kept:
        return None, {}
    name, version = kept["features"]
    rows = {key: Row(**row) for key, row in kept["rows"].items()}
    seed = run.options.get("seed", 0)
    standard = Standard((name, version), tensors["wanted"], tensors["seen"], kept["detail"], seed, rows)
    before = run.stages.get(LAST_STAGE, {})
    known = (before.get("judgement") or {}).get("rows", {})
    extract, scores, judged = None, {}, {}
    with progress.task("judge", len(model.densities)) as task:
        for key in model.densities:
            of = f"{run.key(REFERENCE)} {run.key(f'{DENSITIES}/{key}')}"
            if key in known and before.get("judged", {}).get(key) == of:
                scores[key], judged[key] = Row(**known[key]), of
            elif key not in rows:  # nobody would know a density "decoder" from the decoder
                extract = extract or default_features(model.decoder.image_shape, digits=name == DigitFeatures.name)
                if (extract.name, extract.version) == (name, version):  # not if their package is gone
                    scores[key], judged[key] = standard.of_density(model, key, extract), of
            task.advance(1, key)
    return standard.judgement(scores), judged


def _shown(model: GenerativeScatteringNetwork, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Some test images, how they come back, and lines between the codes of some of them."""
    if "codes" not in tensors:
        return {}
    codes = tensors["codes"]
    shown = {"originals": tensors["originals"], "reconstructions": model.decode(codes)}
    pairs = codes[: 2 * min(_N_MORPHS, len(codes) // 2)].unflatten(0, (-1, 2))
    if len(pairs):
        steps = torch.linspace(0, 1, _STEPS)[:, None]
        shown["morphs"] = model.decode(torch.cat([torch.lerp(a, b, steps) for a, b in pairs]))
    return shown


def _tested(kept: dict[str, Any]) -> dict[str, Any]:
    """The statistics of codes, as they were before they became JSON."""
    if "normality" not in kept:
        return {}
    names = ("normality_split", "skewness", "excess_kurtosis")
    rates = [RejectionRate(**rate) for rate in kept["rejections"]]
    return {"normality": NormalityTable(**kept["normality"]), "rejections": rates, **{one: kept[one] for one in names}}


def _nearest(run: RunFolder, model: GenerativeScatteringNetwork, density: str, seed: int) -> tuple[Tensor, Tensor]:
    """Samples of a density, and the training image whose scattering coefficients are nearest to each, both decoded."""
    drawn, stored = model.sample_codes(_N_NEAREST, density, seed), run.read("codes")[0]["codes"]
    _, rows = nearest_training_images(run, model.encoder, drawn, 1)
    samples, images = (model.decode(z, sharpen=model.sharpen) for z in (drawn, stored[rows[:, 0]]))
    return samples, images


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
