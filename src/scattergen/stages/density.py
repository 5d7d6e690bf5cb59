"""The stage of a fit that makes one density of the codes."""

import hashlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from scattergen.datasets import ClassLabels
from scattergen.densities import Density, make, make_for_classes
from scattergen.densities.class_conditional import check_labels
from scattergen.errors import ScattergenError
from scattergen.runs import Result, Stages, refuse_differences
from scattergen.stages.model_parts import density_metadata


def fit_density(
    name: str,
    key: str,
    codes: Tensor,
    labels: ClassLabels | Tensor | NDArray[Any] | Sequence[int] | None,
    stages: Stages,
    *,
    keywords: Mapping[str, Any] | None = None,
    seed: int = 0,
    device: str = "cpu",
    overwrite: bool = False,
) -> Density:
    """Fit a density to codes (N, d), or one for each class if there are labels, unless it is finished already.

    It is kept under its key, and refused if it is finished with other hyper-parameters; `overwrite` fits it again.
    """
    labels, classes = labels if isinstance(labels, ClassLabels) else (labels, None)
    density = make_density(name, keywords, by_class=labels is not None, classes=classes)
    stage, metadata = f"densities/{key}", density_metadata(density, seed)
    run = stages.run
    if run is not None and run.has(stage) and run.is_whole(stage) and not overwrite:
        tensors, kept = run.read(stage)
        refuse_differences(run.path / stage, kept, metadata)
        density.load_state_dict(tensors)
        stages.progress.message(f"{stage}: done before")
        return density

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
                f"The density {key} draws infinite or NaN codes, so it is not kept: change its options and run the "
                "command again."
            )
        history = getattr(density, "history_", [])
        # The training loop counts epochs; other fits have iterations, or one row.
        unit = "epochs" if history and "learning_rate" in history[0] else "iterations"
        facts = {unit: len(history), "description": density.description}
        # The history counts the parts before an interruption, too, but not what a fit does before and after its epochs.
        facts["seconds"] = time.monotonic() - start
        if history:
            facts["seconds"] = max(facts["seconds"], history[-1]["seconds"])
        return Result(density.state_dict(), metadata, facts)

    # Whoever calls this from Python may give other codes than those of the run.
    given = [codes] if labels is None else [codes, check_labels(labels, len(codes))]
    depends = {**metadata, "fitted_to": [_digest(one) for one in given]}
    after = ["codes"] if run is not None and run.has("codes") else []
    result = stages.get(stage, depends, fit, after)
    if result.found:
        density.load_state_dict(result.tensors)
    return density


def make_density(
    name: str, keywords: Mapping[str, Any] | None, *, by_class: bool, classes: Sequence[str] | None = None
) -> Density:
    """A density that is yet to be fitted, or one for each class."""
    return make_for_classes(name, keywords, classes) if by_class else make(name, **(keywords or {}))


def _digest(tensor: Tensor) -> str:
    content = tensor.detach().cpu().contiguous()
    return hashlib.sha256(content.view(-1).view(torch.uint8).numpy().data).hexdigest()
