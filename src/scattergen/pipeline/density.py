"""Fitting one more density on the codes of a run, with a picture of its samples."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scattergen.datasets import ClassLabels
from scattergen.densities import improved_keywords, make, names, needs_labels
from scattergen.errors import RunFolderError
from scattergen.image_grid import save_image_grid
from scattergen.model import GenerativeScatteringNetwork
from scattergen.progress import SILENT, Progress
from scattergen.runs import RunFolder, Stages, check_name, differences, refuse_differences
from scattergen.stages.density import fit_density, make_density
from scattergen.stages.density_keys import choice_of_key, density_key
from scattergen.stages.model_parts import density_metadata

_ROWS, _COLUMNS = 10, 8  # of the picture of a class-conditional density


@dataclass(frozen=True)
class FittedDensity:
    """Outcome of the fit of one density."""

    key: str
    picture: Path
    """64 of its samples, or eight of every class in a row."""
    classes: tuple[str, ...]
    """Of the picture's rows, if it is class-conditional."""
    finished_before: bool


def fit_density_run(
    path: Path | str,
    name: str,
    *,
    keywords: Mapping[str, Any] | None = None,
    improved: bool = False,
    by_class: bool = False,
    stored_as: str | None = None,
    seed: int = 0,
    device: str = "cpu",
    overwrite: bool = False,
    progress: Progress = SILENT,
) -> FittedDensity:
    """Fit one more density on the codes of a run, by its name in the registry or a key such as "vae-improved".

    With `improved`, keywords that are not given are the improved ones, and `by_class` fits one density per class; both
    are part of the name under which it is stored by default.  `overwrite` replaces a density of that name, once the new
    one is fitted.
    """
    run = RunFolder.open(path)
    if name not in names():
        choice = choice_of_key(name, keywords)
        stored_as, name = stored_as or name, choice.name
        keywords, by_class = choice.keywords, by_class or choice.by_class
    key = density_key(name, improved=improved, by_class=by_class) if stored_as is None else stored_as
    stage = f"densities/{key}"
    check_name(stage)
    keywords = {**(improved_keywords(name) if improved else {}), **(keywords or {})}
    by_class = by_class or needs_labels(name)
    make(name, **keywords)  # which checks them before anything else
    classes = _classes(run) if by_class else None
    wanted = density_metadata(make_density(name, keywords, by_class=by_class, classes=classes), seed)
    picture = run.path / "pictures" / f"density-{key}.png"
    shown = tuple((classes or ())[:_ROWS])
    before = run.has(stage) and not overwrite
    if before and picture.is_file():
        refuse_differences(run.path / stage, run.read(stage)[1], wanted)
        return FittedDensity(key, picture, shown, True)
    if overwrite and key in run.options.get("densities", {}) and run.finished:
        _refuse_change(run, key, wanted, classes)
    if not run.has("codes"):
        raise RunFolderError(
            f"{run.path} holds no codes to fit on: run the `scattergen fit` command that made it again, to its end; to "
            "a model saved from Python add densities there."
        )
    # The others may be damaged, or of a package that is not installed here.
    model = GenerativeScatteringNetwork.load(run, device, densities=())
    stored = run.read("codes")[0]
    labels = None if classes is None else ClassLabels(stored["labels"], classes)
    model.densities[key] = fit_density(
        name, key, stored["codes"][:, : model.n_leading], labels, Stages(run, progress),
        keywords=keywords, seed=seed, device=device, overwrite=overwrite,
    )  # fmt: skip
    if classes is None:
        images = model.sample(_COLUMNS**2, key, seed)
    else:
        asked = [c for c in range(len(shown)) for _ in range(_COLUMNS)]
        images = model.sample(len(asked), key, seed, labels=asked)
    with run.drawing(stage) as folder:
        save_image_grid(images, folder / picture.name, columns=_COLUMNS)
        run.illustrate(stage, {f"pictures/{picture.name}": folder / picture.name})
    return FittedDensity(key, picture, shown, before)


def _classes(run: RunFolder) -> tuple[str, ...]:
    """Names of the classes that a run's codes have."""
    classes = run.metadata("codes").get("classes") if run.has("codes") else None
    if classes is None:
        raise RunFolderError(
            f"{run.path} holds no labels: fit it again from images with classes (a folder with a sub-folder for each, "
            "or an .npz file with labels), with --overwrite if it was fitted to these by a version that did not keep "
            "them."
        )
    return tuple(classes)


def _refuse_change(run: RunFolder, key: str, wanted: Mapping[str, Any], classes: tuple[str, ...] | None) -> None:
    """Refuse another density in the place of one that the run's options and report describe."""
    choice = choice_of_key(key, run.options["densities"][key])
    fitted = make_density(choice.name, choice.keywords, by_class=choice.by_class, classes=classes)
    changed = differences(density_metadata(fitted, run.options.get("seed")), wanted)
    if changed:
        raise RunFolderError(
            f"The density {key} of {run.path} belongs to the fit, whose report shows it, and would change "
            f"({', '.join(changed)}): store the new one beside it under another name (--as NAME)."
        )
