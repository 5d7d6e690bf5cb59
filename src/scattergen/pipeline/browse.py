"""Runs looked at: all below a folder, some side by side, and training images that others are like."""

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from scattergen.encoder import ScatteringEncoder
from scattergen.errors import InputError, ScattergenError
from scattergen.evaluation.judgement import Judgement
from scattergen.evaluation.tables import nearest
from scattergen.files import read_json
from scattergen.model import GenerativeScatteringNetwork
from scattergen.runs import LAST_STAGE, RunFolder, fit_seconds
from scattergen.runs.index import differences, flatten
from scattergen.runs.layout import INDEX
from scattergen.runs.schema import EVALUATION, misfit
from scattergen.stages.density import best_density, density_to_sample
from scattergen.stages.meanings import default_options


def runs_below(folder: Path) -> list[dict[str, Any]]:
    """What `summary_of_run` says of the runs in a folder and its sub-folders, by their names."""
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder}: name one with runs in it.")
    found = []
    for place, folders, files in os.walk(folder):
        if INDEX in files:
            found.append(summary_of_run(Path(place)))
            folders.clear()  # all that is in it belongs to the run
    return sorted(found, key=lambda run: str(run["run"]))


def summary_of_run(path: Path) -> dict[str, Any]:
    """Data, image shape, densities, dB of reconstructions, date, state and bytes of a run, for JSON, or its problem."""
    try:
        run, files = RunFolder.open(path), [*path.rglob("*")]
        data = run.options.get("data", {})
        return {
            "run": str(path), "data": data.get("name"), "n": data.get("n"),
            "image_shape": run.metadata("encoder")["image_shape"] if run.has("encoder") else None,
            "densities": run.names("densities"), "best": best_density(run),
            "psnr": run.psnr, "complete": run.finished,
            "changed": datetime.fromtimestamp((path / INDEX).stat().st_mtime).isoformat(" ", "minutes"),
            "bytes": sum(file.lstat().st_size for file in files if file.is_file()),
        }  # fmt: skip
    except (ScattergenError, OSError) as error:
        return {"run": str(path), "problem": str(error)}


def compare_runs(runs: Sequence[RunFolder]) -> dict[str, dict[str, list[Any]]]:
    """Of runs side by side, what each has of "options" that differ, and of what was "measured"; None where it lacks it.

    A number with a standard error is a pair of both. Kernel distances are of runs judged as the first that was.
    """
    shown = [run.shown_options for run in runs]
    options = [default_options(one) | flatten(one) for one in shown]
    names = sorted({name for one in shown[1:] for name in differences(shown[0], one)} - {"data.fingerprint"})
    valued = {name: [one.get(name) for one in options] for name in names}
    measured = [_measured(run) for run in runs]
    for judge, distances in (("judged by", "kernel·1000, "), ("evaluated by", "Fréchet, ")):
        first = next((one[judge] for one in measured if judge in one), None)
        for one in measured:  # distances in other features are on another scale
            if one.get(judge) != first:
                one.update({row: None for row in one if row.startswith(distances)})
    rows = dict.fromkeys(row for one in measured for row in one)
    kinds = [row.partition(", ")[:2] for row in rows]  # such as "seconds", and "seconds, " of each density
    return {
        # Neither a default that the other names, nor what is empty wherever it is.
        "options": {
            name: row
            for name, row in valued.items()
            if any(value != row[0] for value in row) and any(value not in (None, {}, []) for value in row)
        },
        "measured": {
            row: [one.get(row) for one in measured]
            for row in sorted(rows, key=lambda row: kinds.index(row.partition(", ")[:2]))
        },
    }


def _measured(run: RunFolder) -> dict[str, Any]:
    stages, keys = run.stages, run.names("densities")
    end, evaluated = stages.get(LAST_STAGE, {}), read_products(run, "evaluation", EVALUATION)
    took = fit_seconds(run)
    whole = sum(took.values()) if "encoder" in took else None  # of a model saved from Python some densities at most
    told: dict[str, Any] = {"seconds, all stages": whole, "best density": best_density(run), "dB PSNR": run.psnr}
    if "judgement" in end:
        judgement = Judgement.of(end["judgement"])
        told["judged by"] = f"{' '.join(judgement.features)}, {judgement.n_test:,} test images"
        scored = {key: judgement.rows[key] for key in keys if key in judgement.rows}
        told |= {f"kernel·1000, {key}": (row.kernel, row.standard_error) for key, row in scored.items()}
    for scores in evaluated.values():
        against, n, features = (scores[name] for name in ("against", "n", "features"))
        told["evaluated by"] = f"{features['name']} {features['version']}, {n:,} images against {against}"
        frechet = {key: scores["rows"][key]["frechet"] for key in keys if key in scores["rows"]}
        told |= {f"Fréchet, {key}": (score["value"], score["standard_error"]) for key, score in frechet.items()}
    return told | {f"seconds, {key}": stages.get(f"densities/{key}", {}).get("seconds") for key in keys}


def read_products(run: RunFolder, start: str, form: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What the files STEM.json of a run hold, by their stems, of parts that are still there; not if it was changed."""
    found = {}
    for stem in (name for name in run.keys if name.startswith(start)):
        with suppress(OSError, ValueError, ScattergenError):
            content = read_json(run.path / f"{stem}.json")
            if misfit(content, form) is None:
                found[stem] = content
    return found


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


def nearest_training_images(run: RunFolder, encoder: ScatteringEncoder, codes: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Distances (n, k) of codes (n, d) to those of the k nearest training images, and the numbers of these images.

    The distances are those of the scattering coefficients that codes stand for: in whitened ones the last components,
    which are the least of an image, would count as much as the first, and images of few strokes be near to all. Only
    components that the codes have are compared: those of samples may be zero beyond the leading ones.
    """
    known, used = run.read("codes")[0]["codes"], codes.any(0)
    if k > len(known):
        raise InputError(f"{run.path} was fitted to {len(known)} images, so that {k} cannot be near: ask for fewer.")
    scale = encoder.whitening.explained_variance_[used].sqrt()
    return nearest(codes[:, used] * scale, known[:, used] * scale, k)


def edited(code: Tensor, changes: Mapping[int, float], steps: int) -> Tensor:
    """Codes (steps, d) from one, (d,), to that whose components, numbered from 1, are changed by so many deviations."""
    end = code.clone()
    for component, change in changes.items():
        if not 1 <= component <= len(code):
            raise InputError(f"There is no component {component}: this model's codes have 1 to {len(code)}.")
        end[component - 1] += change  # whitened codes have deviation 1
    return torch.lerp(code, end, torch.linspace(0, 1, steps)[:, None])
