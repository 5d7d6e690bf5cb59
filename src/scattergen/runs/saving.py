"""Saving a finished model as a run, without replacing another one unasked."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scattergen.errors import RunFolderError
from scattergen.runs import place
from scattergen.runs.folder import RunFolder

Content = Mapping[str, tuple[Mapping[str, Tensor], Mapping[str, Any]]]


def save_run(
    path: Path | str, options: Mapping[str, Any], content: Content, *, overwrite: bool = False
) -> None:
    """Write named tensors as a run, or add what is new to the run that is there.

    Args:
        path: The folder.
        options: What the model was fitted with.
        content: Name to tensors and metadata.
        overwrite: Replace a run that is there by this content alone, once all of it is written.

    Raises:
        RunFolderError: If the folder holds something else, or a run that would change.
    """
    path = Path(path)
    if not overwrite and (path / place.INDEX).exists():
        _refuse_change(RunFolder.start(path, options), content)
    run = RunFolder.start(path, options, overwrite=overwrite, afresh=True)
    with run.locked():
        for name, (tensors, metadata) in content.items():
            if not run.has(name):
                run.write(name, tensors, metadata)
        run.take_place()


def _refuse_change(run: RunFolder, content: Content) -> None:
    stored = [name for name in ("encoder", "decoder") if run.has(name)]
    stored += [f"densities/{key}" for key in run.names("densities")]
    for name in stored:
        if name not in content:
            raise RunFolderError(
                f"{run.path} holds {name}, which this model lacks: name another folder, or pass "
                "overwrite=True to replace the run."
            )
        if not _equal(run.read(name), content[name]):
            raise RunFolderError(
                f"{run.path} holds another {name} than this model: name another folder, or pass "
                "overwrite=True to replace the run."
            )


def _equal(
    stored: tuple[Mapping[str, Tensor], Mapping[str, Any]],
    new: tuple[Mapping[str, Tensor], Mapping[str, Any]],
) -> bool:
    """Whether tensors are the same, and metadata where both have them."""
    (old_tensors, old_metadata), (tensors, metadata) = stored, new
    return (
        old_tensors.keys() == tensors.keys()
        and all(torch.equal(old_tensors[name], tensors[name].cpu()) for name in tensors)
        and all(old_metadata.get(name) == value for name, value in metadata.items())
    )
