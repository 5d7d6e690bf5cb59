"""Fitting in a run folder: from a named source of images to a model with its report, resumable."""

import copy
import json
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from scattergen.datasets import Dataset, class_labels
from scattergen.errors import InputError, RunFolderError, ScattergenError
from scattergen.evaluation.judgement import Judgement, in_words
from scattergen.files import check_space
from scattergen.model import GenerativeScatteringNetwork
from scattergen.pipeline.estimate import epochs_within
from scattergen.pipeline.judge import judge
from scattergen.pipeline.report import MEASURES, write_run_report
from scattergen.processes import ALONE, Processes
from scattergen.progress import SILENT, Progress
from scattergen.runs import LAST_STAGE, RunFolder, Stages, differences
from scattergen.runs.layout import products_in
from scattergen.stages import presets
from scattergen.stages.fit import fit_parts
from scattergen.stages.options import bytes_of_run, check_options, stage_of

_AT_ONCE = 256  # test images


class FitOptions(NamedTuple):
    """The name of a preset, and complete options."""

    preset: str
    options: presets.Options


@dataclass(frozen=True)
class FittedRun:
    """Outcome of a fit."""

    run: RunFolder
    finished_before: bool
    measurements: dict[str, float]
    """Mean "psnr" (dB) and "ssim" of reconstructed test images, and "seconds" of all stages; of rank 0 only."""

    @property
    def expectation(self) -> str | None:
        """How good the model is, in plain words, if there were test images to tell."""
        stage = self.run.stages.get(LAST_STAGE, {})
        if "judgement" not in stage:
            return None
        return in_words(Judgement.of(stage["judgement"]), self.run.options["data"]["n"])

    @property
    def report(self) -> Path:
        """The HTML page."""
        return self.run.path / "report.html"


def fit_run(
    data: Dataset,
    out: Path | str,
    choice: FitOptions | None = None,
    *,
    seed: int = 0,
    max_seconds: float | None = None,
    device: str = "cpu",
    overwrite: bool = False,
    command: str = "",
    processes: Processes = ALONE,
    progress: Progress = SILENT,
) -> FittedRun:
    """Fit a model to a dataset in a run folder and write its report, or continue doing so.

    With `max_seconds` the decoder is trained for fewer epochs, if need be, so that the fit ends in about that time; a
    fit that is continued keeps the number that it began with.  `overwrite` replaces a run that is there, once the new
    one is finished.  Processes that fit together all call this with the same arguments and see the same images and run
    folder, in which rank 0 alone writes results.
    """
    preset, options = choice or options_of_fit(data)
    options = copy.deepcopy(options)
    shape, n = data.train.shape, len(data.train)
    # Before anything is stored:
    check_options(options, shape, n, class_labels(data.train), processes.world_size)
    # How files were cropped and how many were taken, so that later commands do the same.
    taken = {"crop": data.crop, "limit": data.limit}
    taken = {name: value for name, value in taken.items() if value is not None}
    identity: dict[str, Any] = {
        "data": {"name": data.name, "fingerprint": data.train.fingerprint, "n": n, **taken},
        "preset": preset,
        "seed": seed,
        **options,
    }
    if max_seconds is not None:
        options["training"]["epochs"] = _epochs(out, identity, max_seconds, data, device, processes)
        identity["max_seconds"] = max_seconds
    _check_agreement(identity, processes)
    mine = None
    if processes.rank == 0:
        mine = RunFolder.start(out, identity, overwrite=overwrite, may_change=_may_change)
    run = processes.broadcast(mine)
    assert run is not None, "that of rank 0"
    if processes.broadcast(processes.rank == 0 and _is_finished(run, data)):
        processes.leave()
        if processes.rank > 0:
            return FittedRun(run, True, {})
        run.check()
        run.tidy()
        return FittedRun(run, True, _measurements(run))
    try:
        if processes.rank == 0 and not run.has("encoder"):
            check_space(run.path, bytes_of_run(options, shape, n))
            _read_test_images(data, progress)
        parts = fit_parts(data.train, options, Stages(run, progress, processes), seed=seed, device=device)
    except ScattergenError:
        if processes.rank == 0:
            run.discard_if_empty()
        raise
    if processes.rank > 0:
        return FittedRun(run, False, {})
    _report(run, GenerativeScatteringNetwork(**vars(parts)), data, seed, command, progress)
    run.finish()
    return FittedRun(run, False, _measurements(run))


def _report(
    run: RunFolder, model: GenerativeScatteringNetwork, data: Dataset, seed: int, command: str, progress: Progress
) -> None:
    """Judge the model and write its report, the last stage of a fit."""
    made_from = [name for name in run.stages if name in _stages_of(run.options)]
    tested_on = None if data.test is None else data.test.fingerprint
    key = Stages(run, progress).key(LAST_STAGE, {"tested_on": tested_on, "seed": seed}, made_from)
    with run.working(LAST_STAGE, key) as work:
        start = time.monotonic()
        judgement = judge(model, data.train, data.test, digits=data.name == "mnist", seed=seed, progress=progress)
        quality = write_run_report(
            run, model, data, work, judgement=judgement, seed=seed, command=command, progress=progress
        )
        facts: dict[str, Any] = {"seconds": time.monotonic() - start, **quality}
        if judgement is not None:
            facts |= {"best": judgement.best, "judgement": judgement.summary()}
        facts["tested_on"] = tested_on
        run.preview.unlink(missing_ok=True)  # the report's pictures say more
        run.log({"stage": LAST_STAGE, **facts})
        run.note(LAST_STAGE, key, facts, made_from, products_in(work))


def options_of_fit(
    data: Dataset,
    preset: str | None = None,
    changes: Mapping[str, Any] | None = None,
    densities: list[str] | None = None,
) -> FitOptions:
    """The options that a dataset is fitted with: those of a preset with changes, such as {"encoder.J": 3}.

    The preset is by default "mnist" for all of MNIST and "auto" for everything else.  `densities` are keys of those to
    fit, such as "vae-improved" or "mixture-by-class"; those of the preset by default.
    """
    changes = changes or {}
    preset = preset or ("mnist" if data.name == "mnist" and data.limit is None else "auto")
    options = presets.preset(preset, data.train.shape, len(data.train))
    if densities is not None:
        options["densities"] = {name: options["densities"].get(name, {}) for name in densities}
    options = presets.override(options, changes)
    if "encoder.n_components" in changes and "encoder.held_out" not in changes:
        options["encoder"].pop("held_out", None)  # a number that was asked for is not changed
    return FitOptions(preset, options)


def _epochs(
    out: Path | str, identity: Mapping[str, Any], max_seconds: float, data: Dataset, device: str, processes: Processes
) -> int:
    """Epochs that fit the time, or those of a run that was begun with the same limit."""
    with suppress(RunFolderError):
        begun = RunFolder.begun(out).options  # of the run that will be continued
        wanted = json.loads(json.dumps({**identity, "max_seconds": max_seconds}))
        if differences(begun, wanted) in ([], ["training.epochs"]):
            epochs: int = begun["training"]["epochs"]
            return epochs
    found = 0
    if processes.rank == 0:
        found = epochs_within(max_seconds, data, identity, device)
    return processes.broadcast(found)


def _read_test_images(data: Dataset, progress: Progress) -> None:
    """Read all test images, so that one that cannot be read is found before the fit rather than in its report."""
    if data.test is None:
        return
    with progress.task("look at test images", len(data.test)) as task:
        for start in range(0, len(data.test), _AT_ONCE):
            task.advance(len(data.test[start : start + _AT_ONCE]))


def _check_agreement(identity: Mapping[str, Any], processes: Processes) -> None:
    """Refuse processes that see other images, such as files on a disk of their own machine."""
    same = processes.broadcast(identity) == identity
    if processes.all_reduce(torch.tensor(float(not same))) > 0:
        raise InputError(
            "The processes do not all see the same images: name a folder or file that every machine has, with the same "
            "content."
        )


def _is_finished(run: RunFolder, data: Dataset) -> bool:
    """Whether nothing is left to do, or to be made again since its file is damaged."""
    tested_on = None if data.test is None else data.test.fingerprint
    return (
        run.finished
        and not run.replaces
        and run.stages[LAST_STAGE].get("tested_on") == tested_on
        and (run.path / "report.html").is_file()
        # What a version before 0.2 stored is never made again.
        and all(run.is_whole(one) for one in _stages_of(run.options) if run.key(one))
    )


def _stages_of(options: Mapping[str, Any]) -> list[str]:
    densities = [f"densities/{key}" for key in options["densities"]]
    return ["encoder", "codes", "linear", "decoder", "sampling", *densities]


def _may_change(run: RunFolder, option: str) -> bool:
    """Whether an unfinished run has yet to reach the stage that an option concerns.

    A density or a decoder that could not be trained can so be given other options without the work before being lost.
    """
    if option == "encoder.store":  # where coefficients are kept meanwhile, which changes no result
        return True
    stage = stage_of(option)
    if stage == "encoder" and run.has_work():  # coefficients, which other options would lose
        return False
    return stage is not None and stage not in run.stages and not run.finished


def _measurements(run: RunFolder) -> dict[str, float]:
    stages = run.stages
    quality = {name: stages[LAST_STAGE][name] for name in MEASURES if name in stages[LAST_STAGE]}
    return {**quality, "seconds": sum(stage.get("seconds", 0.0) for stage in stages.values())}
