"""Fitting in a run folder: a model to images, with a report and resumable, or one more density to its codes."""

import copy
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from scattergen.calls.state import usual_state
from scattergen.datasets import ClassLabels, Dataset, class_labels
from scattergen.datasets.image_files import save_image_grid
from scattergen.datasets.recognition import CONVERSIONS, identity_of, recognise, what_changed
from scattergen.densities import make
from scattergen.display.progress import SILENT, Progress
from scattergen.errors import InputError, RunFolderError, ScattergenError
from scattergen.evaluation.judgement import MEASURES, Judgement, in_words
from scattergen.files import check_space
from scattergen.model import GenerativeScatteringNetwork
from scattergen.pipeline.judging import PARTS, REFERENCE
from scattergen.processes import ALONE, Processes
from scattergen.runs import LAST_STAGE, RunFolder, Stages, check_name, differences, fit_seconds, refuse_differences
from scattergen.stages import presets
from scattergen.stages.density import choice_of_key, density_key, density_metadata, fit_density, make_density
from scattergen.stages.fit import fit_parts
from scattergen.stages.options import bytes_of_run, check_options, options_of

_AT_ONCE = 256  # test images
# That sections of options concern; the others concern all stages, or a density each.
_STAGES = {"encoder": "encoder", "decoder": "decoder", "training": "decoder", "sampling": "sampling"}
_ROWS, _COLUMNS = 10, 8  # of the picture of a class-conditional density


class FitOptions(NamedTuple):
    """The name of a preset, and complete options."""

    preset: str
    options: presets.Options


@dataclass(frozen=True)
class FittedRun:
    """Outcome of a fit."""

    run: RunFolder
    finished_before: bool

    @property
    def measurements(self) -> dict[str, float]:
        """Mean "psnr" (dB) and "ssim" of reconstructed test images, and "seconds" of all stages."""
        stages = self.run.stages
        quality = {name: stages[LAST_STAGE][name] for name in MEASURES if name in stages.get(LAST_STAGE, {})}
        return {**quality, "seconds": sum(fit_seconds(self.run).values())}

    @property
    def expectation(self) -> str | None:
        """How good the model is, in plain words, if there were test images to tell."""
        found = self.run.stages.get(LAST_STAGE, {}).get("judgement")
        return None if found is None else in_words(Judgement.of(found), self.run.options["data"]["n"])

    @property
    def report(self) -> Path:
        """The HTML page."""
        return self.run.path / "report.html"


@usual_state()
def fit_run(
    data: Dataset, out: Path | str, choice: FitOptions | None = None, *, seed: int = 0,
    max_seconds: float | None = None, device: str = "cpu", overwrite: bool = False, command: str = "",
    processes: Processes = ALONE, progress: Progress = SILENT,
) -> FittedRun:  # fmt: skip
    """Fit a model to a dataset in a run folder and write its report, or continue doing so.

    With `max_seconds` the decoder is trained for fewer epochs, if need be, so that the fit ends in about that time.
    Processes that fit together all call this with the same arguments; rank 0 alone writes results.
    """
    preset, options = copy.deepcopy(choice or options_of_fit(data))
    shape, n = data.train.shape, len(data.train)
    # Before anything is stored:
    check_options(options, shape, n, class_labels(data.train), processes.world_size)
    begun: RunFolder | None = None
    if processes.rank == 0:
        with suppress(RunFolderError):
            begun = RunFolder.begun(out)
    begun = processes.broadcast(begun)
    data = _recognised(data, begun, overwrite)
    known, had = identity_of(data), {} if begun is None else begun.options.get("data", {})
    if had.get("fingerprint") == known["fingerprint"]:  # a run of the same files keeps what it has of these
        known = {name: value for name, value in known.items() if name not in CONVERSIONS}
        known |= {name: value for name, value in had.items() if name in CONVERSIONS}
    identity: dict[str, Any] = {"data": known, "preset": preset, "seed": seed, **options}
    if max_seconds is not None:
        options["training"]["epochs"] = _epochs(begun, identity, max_seconds, data, device, processes, progress)
        identity["max_seconds"] = max_seconds
    elif begun is not None and "max_seconds" in begun.options:  # which once chose the epochs that are now asked for
        identity["max_seconds"] = begun.options["max_seconds"]
    # Such as files on a disk of their own machine.
    if processes.all_reduce(torch.tensor(float(processes.broadcast(identity) != identity))) > 0:
        remedy = "name a folder or file that every machine has, with the same content"
        raise InputError(f"The processes do not all see the same images: {remedy}.")
    mine = RunFolder.start(out, identity, overwrite=overwrite, may_change=_may_change) if processes.rank == 0 else None
    run = processes.broadcast(mine)
    assert run is not None, "that of rank 0"
    if processes.broadcast(processes.rank == 0 and _is_finished(run, data)):
        processes.leave()
        if processes.rank == 0:
            run.check()
            run.tidy()
        return FittedRun(run, finished_before=True)
    try:
        if processes.rank == 0 and not run.has("encoder"):
            check_space(run.path, bytes_of_run(options, shape, n))
            _read_test_images(data, progress)
        parts = fit_parts(data.train, options, Stages(run, progress, processes), seed=seed, device=device)
    except ScattergenError:
        if processes.rank == 0:
            run.discard_if_empty()
        raise
    if processes.rank == 0:
        from scattergen.pipeline.report import write_run_report  # only now: its plots take seconds to import

        write_run_report(run, GenerativeScatteringNetwork(**vars(parts)), data, command, progress)
        run.finish()
    return FittedRun(run, finished_before=False)


def _recognised(data: Dataset, begun: RunFolder | None, overwrite: bool) -> Dataset:
    """Data as a run of the same images knows it; files that changed since it made a stage of them are refused."""
    fitted_to = {} if begun is None else begun.options.get("data", {})
    if recognise(data, fitted_to):
        return replace(data, name=fitted_to.get("name", data.name))
    if begun is not None and begun.stages and not overwrite:
        problem = what_changed(data, fitted_to, begun.path)
        if problem is not None:
            raise RunFolderError(problem)
    return data


def options_of_fit(
    data: Dataset, preset: str | None = None, changes: Mapping[str, Any] = {}, densities: list[str] | None = None
) -> FitOptions:
    """Options of a preset (by default "mnist" for all of MNIST, else "auto") with changes by full or short names."""
    preset = preset or ("mnist" if data.is_mnist and data.limit is None else "auto")
    full = {name: value for name, value in changes.items() if "." in name}
    short = {name: value for name, value in changes.items() if name not in full}
    return FitOptions(preset, options_of(preset, data.train.shape, len(data.train), full, short, densities))


def _epochs(
    begun: RunFolder | None, identity: Mapping[str, Any], max_seconds: float, data: Dataset, device: str,
    processes: Processes, progress: Progress,
) -> int:  # fmt: skip
    """Epochs that fit the time, or those of a run that was begun with the same limit."""
    if begun is not None:
        wanted = json.loads(json.dumps({**identity, "max_seconds": max_seconds}))
        if differences(begun.options, wanted) in ([], ["training.epochs"]):
            return int(begun.options["training"]["epochs"])
    from scattergen.pipeline.estimate import epochs_within

    alone = processes.rank == 0
    return processes.broadcast(epochs_within(max_seconds, data, identity, device, progress) if alone else 0)


def _read_test_images(data: Dataset, progress: Progress) -> None:
    """Read all test images, so that one that cannot be read is found before the fit rather than in its report."""
    if data.test is None:
        return
    with progress.task("look at test images", len(data.test)) as task:
        for start in range(0, len(data.test), _AT_ONCE):
            task.advance(len(data.test[start : start + _AT_ONCE]))


def _is_finished(run: RunFolder, data: Dataset) -> bool:
    """Whether nothing is left to do, or to be made again since its file is damaged."""
    tested_on = None if data.test is None else data.test.fingerprint
    stages = [*PARTS, *(f"densities/{key}" for key in run.options["densities"]), REFERENCE]
    return (
        run.finished
        and not run.replaces
        and run.stages[LAST_STAGE].get("tested_on") == tested_on
        and (run.path / "report.html").is_file()
        and all(map(run.is_whole, stages))
    )


def _may_change(run: RunFolder, option: str) -> bool:
    """Whether an unfinished run has yet to reach the stage that an option concerns, so that no work is lost."""
    if option == "encoder.store":  # where coefficients are kept meanwhile, which changes no result
        return True
    if option in ("data.fingerprint", "data.size", "data.marks", "data.converted"):  # coefficients know their files
        return not run.stages
    section, *names = option.split(".")
    if section == "encoder" and run.has_work():  # coefficients, which other options would lose
        return False
    stage = f"densities/{names[0]}" if section == "densities" and names else _STAGES.get(section)
    return stage is not None and stage not in run.stages and not run.finished


@dataclass(frozen=True)
class FittedDensity:
    """Outcome of the fit of one density."""

    key: str
    picture: Path  # 64 of its samples, or eight of every class in a row
    classes: tuple[str, ...]  # of the picture's rows, if it is class-conditional
    finished_before: bool


@usual_state()
def fit_density_run(
    path: Path | str, name: str, *, keywords: Mapping[str, Any] | None = None, improved: bool = False,
    by_class: bool = False, stored_as: str | None = None, seed: int = 0, device: str = "cpu", overwrite: bool = False,
    progress: Progress = SILENT,
) -> FittedDensity:  # fmt: skip
    """Fit one more density on the codes of a run, by its name in the registry or a key such as "vae-improved".

    With `improved`, keywords that are not given are the improved ones, and `by_class` fits one density per class; both
    are part of the name under which it is stored by default.
    """
    from scattergen.pipeline.report import show_in_report  # only here: its plots take seconds to import

    run = RunFolder.open(path)
    name = density_key(name, improved=improved, by_class=by_class)
    choice, key = choice_of_key(name, keywords), name if stored_as is None else stored_as
    stage = f"densities/{key}"
    check_name(stage)
    make(choice.name, **choice.keywords)  # which checks them before anything else
    classes = _classes(run) if choice.by_class else None
    wanted = density_metadata(make_density(choice, classes), seed)
    picture = run.path / "pictures" / f"density-{key}.png"
    shown = tuple((classes or ())[:_ROWS])
    whole = run.is_whole(stage)
    before = run.has(stage) and whole and not overwrite
    if before and picture.is_file():
        refuse_differences(run.path / stage, run.read(stage)[1], wanted)
        show_in_report(run, device=device, progress=progress)  # which may have been interrupted
        return FittedDensity(key, picture, shown, True)
    if (overwrite or not whole) and key in run.options.get("densities", {}) and run.finished:
        fitted = make_density(choice_of_key(key, run.options["densities"][key]), classes)
        changed = ", ".join(differences(density_metadata(fitted, run.options.get("seed")), wanted))
        if changed:
            what = f"The density {key} of {run.path} belongs to the fit, whose report shows it, and would change"
            raise RunFolderError(f"{what} ({changed}): store the new one beside it under another name (--as NAME).")
    run.require("codes")
    # The others may be damaged, or of a package that is not installed here.
    model = GenerativeScatteringNetwork.load(run, device, densities=())
    stored = run.read("codes")[0]
    labels = None if classes is None else ClassLabels(stored["labels"], classes)
    model.densities[key] = fit_density(
        choice.name, key, stored["codes"], labels, Stages(run, progress), n_leading=model.n_leading,
        keywords=choice.keywords, seed=seed, device=device, overwrite=overwrite,
    )  # fmt: skip
    asked = None if classes is None else [c for c in range(len(shown)) for _ in range(_COLUMNS)]
    images = model.sample(_COLUMNS**2 if asked is None else len(asked), key, seed, labels=asked)
    with run.working(stage, run.key(stage)) as folder:
        save_image_grid(images, folder / picture.name, columns=_COLUMNS)
        run.illustrate(stage, {f"pictures/{picture.name}": folder / picture.name})
    show_in_report(run, device=device, progress=progress)
    return FittedDensity(key, picture, shown, before)


def _classes(run: RunFolder) -> tuple[str, ...]:
    """Names of the classes that a run's codes have."""
    classes = run.metadata("codes").get("classes") if run.has("codes") else None
    if classes is None:
        images = "images with classes (a folder with a sub-folder for each, or an .npz file with labels)"
        raise RunFolderError(f"{run.path} holds no labels: fit it again from {images}.")
    return tuple(classes)
