"""Saving a finished model as a run, without replacing another one unasked."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scattergen.errors import RunFolderError
from scattergen.runs.folder import RunFolder
from scattergen.runs.layout import INDEX

Part = tuple[Mapping[str, Tensor], Mapping[str, Any]]  # tensors and metadata
Content = Mapping[str, Part]


def save_run(path: Path | str, options: Mapping[str, Any], content: Content, *, overwrite: bool = False) -> None:
    """Write named tensors as a run, or add what is new to the run that is there.

    `overwrite` replaces that run by this content alone, once all of it is written.
    """
    path = Path(path)
    if not overwrite and (path / INDEX).exists():
        _refuse_change(RunFolder.start(path, options), content)
    run = RunFolder.start(path, options, overwrite=overwrite, afresh=True)
    for name, (tensors, metadata) in content.items():
        key = _key(name, tensors, metadata)
        # The run being replaced may own a file with the same tensors, which is then used as it is.
        if not run.has(name) and run.find(name, key) is None:
            run.write(name, key, tensors, metadata)
    if overwrite:
        run.finish()


def _key(name: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> str:
    """The key of what was made elsewhere: a hash of its content alone."""
    found = hashlib.sha256(json.dumps([name, metadata], sort_keys=True, default=list).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()[:16]


def _refuse_change(run: RunFolder, content: Content) -> None:
    stored = [name for name in ("encoder", "decoder") if run.has(name)]
    stored += [f"densities/{key}" for key in run.names("densities")]
    for name in stored:
        if name not in content:
            found = f"{name}, which this model lacks"
        elif not _equal(run.read(name), content[name]):
            found = f"another {name} than this model"
        else:
            continue
        raise RunFolderError(
            f"{run.path} holds {found}: name another folder, or pass overwrite=True to replace the run."
        )


def _equal(stored: Part, new: Part) -> bool:
    """Whether tensors are the same, and metadata where both have them."""
    (old_tensors, old_metadata), (tensors, metadata) = stored, new
    return (
        old_tensors.keys() == tensors.keys()
        and all(torch.equal(old_tensors[name], tensors[name].cpu()) for name in tensors)
        and all(old_metadata.get(name) == value for name, value in metadata.items())
    )
