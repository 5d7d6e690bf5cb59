"""Runs looked at: all below a folder, some side by side, and training images that others are like."""

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from scattergen.errors import InputError, ScattergenError
from scattergen.evaluation.judgement import Judgement
from scattergen.evaluation.tables import nearest
from scattergen.files import read_json
from scattergen.model import GenerativeScatteringNetwork
from scattergen.runs import LAST_STAGE, RunFolder
from scattergen.runs.index import differences, flatten
from scattergen.runs.layout import INDEX
from scattergen.stages.density import best_density, density_to_sample


@dataclass(frozen=True)
class RunSummary:
    """What a list of runs says of one."""

    run: str
    data: str | None = None
    n: int | None = None  # training images
    image_shape: tuple[int, ...] | None = None
    densities: tuple[str, ...] = ()
    best: str | None = None
    psnr: float | None = None  # of reconstructed test images, in dB
    made: str | None = None  # when it was last changed
    complete: bool = False
    bytes: int = 0
    problem: str | None = None  # why it cannot be opened


def runs_below(folder: Path) -> list[RunSummary]:
    """The runs in a folder and its sub-folders, damaged ones included, by their names."""
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder}: name one with runs in it.")
    found = []
    for place, folders, files in os.walk(folder):
        if INDEX in files:
            found.append(summary_of_run(Path(place)))
            folders.clear()  # all that is in it belongs to the run
    return sorted(found, key=lambda run: run.run)


def summary_of_run(path: Path) -> RunSummary:
    """What there is to say of a run, or why it cannot be opened."""
    size = 0
    for place, _, files in os.walk(path):
        for name in files:
            with suppress(OSError):  # of a file that another process has just deleted
                size += Path(place, name).lstat().st_size
    try:
        run = RunFolder.open(path)
        data, made = run.options.get("data", {}), datetime.fromtimestamp((path / INDEX).stat().st_mtime)
        shape = run.metadata("encoder")["image_shape"] if run.has("encoder") else None
        return RunSummary(
            str(path), data.get("name"), data.get("n"), None if shape is None else tuple(shape),
            tuple(run.names("densities")), best_density(run), run.stages.get(LAST_STAGE, {}).get("psnr"),
            made.isoformat(" ", "minutes"), run.finished, size,
        )  # fmt: skip
    except (ScattergenError, OSError) as error:
        return RunSummary(str(path), bytes=size, problem=str(error))


def compare_runs(runs: Sequence[RunFolder]) -> dict[str, dict[str, list[Any]]]:
    """Of runs side by side, what each has of "options" that differ, and of what was "measured"; None where it lacks it.

    A number with a standard error is a pair of both.
    """
    options = [flatten(run.shown_options) for run in runs]
    names = sorted({name for one in options[1:] for name in differences(options[0], one)} - {"data.fingerprint"})
    measured = [_measured(run) for run in runs]
    rows = dict.fromkeys(row for one in measured for row in one)
    return {
        "options": {name: [one.get(name) for one in options] for name in names},
        "measured": {row: [one.get(row) for one in measured] for row in rows},
    }


def _measured(run: RunFolder) -> dict[str, Any]:
    stages, keys = run.stages, run.names("densities")
    told: dict[str, Any] = {"seconds": sum(stage.get("seconds", 0.0) for stage in stages.values())}
    told["best density"] = best_density(run)
    told["dB PSNR"] = stages.get(LAST_STAGE, {}).get("psnr")
    found = stages.get(LAST_STAGE, {}).get("judgement")
    if found is not None:
        judgement = Judgement.of(found)
        told["judged by"] = f"{' '.join(judgement.features)}, {judgement.n_test:,} test images"
        scored = {key: judgement.rows[key] for key in keys if key in judgement.rows}
        told |= {f"kernel·1000, {key}": (row.kernel, row.standard_error) for key, row in scored.items()}
    with suppress(OSError, ValueError, LookupError, TypeError):  # not evaluated yet, or changed by somebody
        rows = read_json(run.path / "evaluation.json")["rows"]
        scores = {key: rows[key]["frechet"] for key in keys if key in rows}
        told |= {f"Fréchet, {key}": (score["value"], score["standard_error"]) for key, score in scores.items()}
    seconds = {key: stages.get(f"densities/{key}", {}).get("seconds") for key in keys}
    return told | {f"seconds, {key}": value for key, value in seconds.items()}


def samples_of_runs(runs: Sequence[RunFolder], n: int, seed: int = 0, device: str = "cpu") -> Tensor:
    """Some samples, n, of the best density of each run, one run after the other, enlarged to the largest image."""
    drawn = []
    for run in runs:
        key = density_to_sample(run, None, by_class=False)
        model = GenerativeScatteringNetwork.load(run, device, densities=[key])
        drawn.append(model.sample(n, key, seed))
    channels, height, width = (max(sides) for sides in zip(*(images.shape[1:] for images in drawn), strict=True))
    same = [functional.interpolate(images, (height, width)).expand(-1, channels, -1, -1) for images in drawn]
    return torch.cat(same)


def nearest_training_images(run: RunFolder, codes: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Distances (n, k) of codes (n, d) to the codes of the k nearest training images, and the numbers of these images.

    Components that are 0 in all codes, such as those that densities leave out, do not count.
    """
    known = run.read("codes")[0]["codes"]
    if k > len(known):
        raise InputError(f"{run.path} was fitted to {len(known)} images, so that {k} cannot be near: ask for fewer.")
    used = codes.any(0)
    return nearest(codes[:, used], known[:, used], k)


def edited(code: Tensor, changes: Mapping[int, float], steps: int) -> Tensor:
    """Codes (steps, d) from one, (d,), to that whose components, numbered from 1, are changed by so many deviations."""
    end = code.clone()
    for component, change in changes.items():
        if not 1 <= component <= len(code):
            raise InputError(f"There is no component {component}: this model's codes have 1 to {len(code)}.")
        end[component - 1] += change  # whitened codes have deviation 1
    return torch.lerp(code, end, torch.linspace(0, 1, steps)[:, None])
