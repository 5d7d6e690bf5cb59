"""The stage of a fit that makes one density of the codes."""

import time
from collections.abc import Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from scattergen.densities import Density
from scattergen.errors import ScattergenError
from scattergen.model_files import density_metadata
from scattergen.runs import Stages, refuse_differences


def fit_density_stage(
    density: Density,
    key: str,
    codes: Tensor,
    labels: Tensor | NDArray[Any] | Sequence[int] | None,
    stages: Stages,
    *,
    seed: int = 0,
    device: str = "cpu",
    overwrite: bool = False,
) -> None:
    """Fit a density to codes, unless it is among the finished stages, and keep it there.

    Args:
        density: Not fitted yet; fitted afterwards.
        key: Its name among the model's densities.
        codes: (N, d).
        labels: Class of every code, of a class-conditional density; else None.
        stages: Keep the result and the state of unfinished work.
        seed: Of everything random in the fit.
        device: Where to compute.
        overwrite: Fit again what is finished.

    Raises:
        InputError: If the codes or labels cannot be used.
        ScattergenError: If the fitted density draws infinite or NaN codes.
        RunFolderError: If the finished density has other hyper-parameters.

    Example:
        >>> from scattergen.densities import make
        >>> from scattergen.progress import SILENT
        >>> density = make("gaussian")
        >>> fit_density_stage(density, "gaussian", torch.randn(50, 4), None, Stages(None, SILENT))
        >>> density.sample(3).shape
        torch.Size([3, 4])
    """
    stage, metadata = f"densities/{key}", density_metadata(density, seed)
    run = stages.run
    if run is not None and run.has(stage) and not overwrite:
        refuse_differences(run.path / stage, run.read(stage)[1], metadata)
    if not overwrite and stages.restore(stage, density.load_state_dict):
        return
    with stages.timed(stage) as done:
        checkpoint, start = stages.checkpoint(stage, metadata), time.monotonic()
        density.fit(
            codes,
            *(() if labels is None else (labels,)),
            seed=seed,
            progress=stages.progress,
            device=device,
            checkpoint=checkpoint,
        )
        if not torch.isfinite(density.sample(1, seed=seed)).all():
            raise ScattergenError(
                f"The density {key} draws infinite or NaN codes, so it is not kept: change its "
                "options and run the command again."
            )
        history = getattr(density, "history_", [])
        # The training loop counts epochs; other fits have iterations, or one row.
        unit = "epochs" if history and "learning_rate" in history[0] else "iterations"
        facts = {unit: len(history), "description": density.description}
        # The history counts the parts before an interruption, too, but not what a fit does before
        # and after its epochs.
        facts["seconds"] = time.monotonic() - start
        if history:
            facts["seconds"] = max(facts["seconds"], history[-1]["seconds"])
        done(density.state_dict(), metadata, facts)
