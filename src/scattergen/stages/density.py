"""The stage of a fit that makes one density of the codes."""

import hashlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from scattergen.densities import Density
from scattergen.densities.labels import check_labels
from scattergen.errors import ScattergenError
from scattergen.runs import Result, Stages, refuse_differences
from scattergen.stages.model_parts import density_metadata


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
    if run is not None and run.has(stage) and run.is_whole(stage) and not overwrite:
        tensors, kept = run.read(stage)
        refuse_differences(run.path / stage, kept, metadata)
        density.load_state_dict(tensors)
        stages.progress.message(f"{stage}: done before")
        return

    def fit(work: Path | None) -> Result:
        start = time.monotonic()
        density.fit(
            codes,
            *(() if labels is None else (labels,)),
            seed=seed,
            progress=stages.progress,
            device=device,
            checkpoint=None if work is None else work / "checkpoint.safetensors",
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
        return Result(density.state_dict(), metadata, facts)

    # Whoever calls this from Python may give other codes than those of the run.
    given = [codes, *(() if labels is None else (check_labels(labels, len(codes)),))]
    depends = {**metadata, "fitted_to": [_digest(one) for one in given]}
    after = ["codes"] if run is not None and run.has("codes") else []
    result = stages.get(stage, depends, fit, after)
    if result.found:
        density.load_state_dict(result.tensors)


def _digest(tensor: Tensor) -> str:
    content = tensor.detach().cpu().contiguous()
    return hashlib.sha256(content.view(-1).view(torch.uint8).numpy().data).hexdigest()
