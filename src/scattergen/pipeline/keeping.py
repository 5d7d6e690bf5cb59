"""What an evaluation and a diagnosis of a run share: what they are of, and keeping what they find with the run."""

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from scattergen.datasets import Dataset
from scattergen.errors import InputError, ScattergenError
from scattergen.files import atomic_path, write_json
from scattergen.progress import SILENT
from scattergen.report.plots import figure_png
from scattergen.runs import RunFolder, Stages


def check_densities(run: RunFolder, keys: Iterable[str]) -> None:
    """Refuse keys of densities that a run does not have."""
    there = run.names("densities")
    for key in keys:
        if key not in there:
            raise InputError(f'{run.path} has no density "{key}": it has {", ".join(there) or "none"}.')


def check_data(run: RunFolder, data: Dataset) -> None:
    """Refuse a dataset that a run was not fitted to."""
    fitted_to = run.options.get("data", {}).get("fingerprint")
    if fitted_to not in (None, data.train.fingerprint):
        raise InputError(
            f"{data.name} does not hold the images that {run.path} was fitted to: name those, with the same --size and "
            "--mode."
        )


def keep(
    run: RunFolder,
    what: str,
    stem: str,
    summary: Mapping[str, Any],
    pictures: Mapping[str, Callable[[], Figure]],
    depends: Mapping[str, Any],
    made_from: Sequence[str],
) -> bool:
    """Write STEM.json and pictures by their names into a run, or warn that `what` cannot be kept there.

    The disk may be full or read-only, or another process may have replaced what they were made from.
    """
    made_from = [name for name in made_from if run.has(name)]
    key = Stages(run, SILENT).key(stem, depends, made_from)
    try:
        with run.working(stem, key) as folder:
            products: dict[str, Path] = {f"{stem}.json": folder / f"{stem}.json"}
            write_json(folder / f"{stem}.json", summary)
            for name, draw in pictures.items():
                products[f"pictures/{name}.png"] = folder / f"{name}.png"
                with atomic_path(folder / f"{name}.png") as temporary:
                    temporary.write_bytes(figure_png(draw()))
            run.note(stem, key, {}, made_from, products)
    except ScattergenError as error:
        warnings.warn(f"The {what} are not kept with the run. {error}", stacklevel=3)
        return False
    return True
