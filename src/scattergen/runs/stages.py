"""The stages of a fit: made, or found if they were made before from the same things; and those made elsewhere."""

import hashlib
import json
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scattergen.display.progress import Progress
from scattergen.errors import RunFolderError
from scattergen.processes import ALONE, Processes
from scattergen.runs.folder import RunFolder
from scattergen.runs.index import LAST_STAGE
from scattergen.runs.layout import INDEX, PAPER
from scattergen.training.recording import STAGE

# Versions of the code of stages or folders of them, if not 1: raise one when the same options give another result.
VERSIONS: dict[str, int] = {}

Part = tuple[Mapping[str, Tensor], Mapping[str, Any]]  # tensors and metadata of a stage that was made elsewhere


@dataclass(frozen=True)
class Result:
    """What a stage makes."""

    tensors: dict[str, Tensor]
    metadata: Any = None  # what is needed to use them; anything that `json` can write
    facts: dict[str, Any] = field(default_factory=dict)  # what was measured; "seconds" is added
    found: bool = False  # whether it was made before


class Stages:
    """The stages of one fit, each known by its `key`, with or without a folder, to which rank 0 alone writes."""

    def __init__(self, run: RunFolder | None, progress: Progress, processes: Processes = ALONE) -> None:
        self.run, self.progress, self.processes = run, progress, processes
        self._writes = processes.rank == 0
        self._keys: dict[str, str] = {}
        self._held: set[str] = set()  # keys of the stages that this process works on

    def key(self, name: str, depends: Mapping[str, Any], after: Sequence[str] = ()) -> str:
        """The key of a stage: what it depends on (anything `json` can write) and the stages it is made from, hashed."""
        content = [name, VERSIONS.get(name.partition("/")[0], 1), depends, self._keys_of(after)]
        text = json.dumps(content, sort_keys=True, default=list)
        self._keys[name] = hashlib.sha256(text.encode()).hexdigest()[:16]
        return self._keys[name]

    def _keys_of(self, names: Sequence[str]) -> dict[str, str]:
        known = {} if self.run is None else {name: self.run.key(name) for name in names}
        return {name: self._keys.get(name, known.get(name, "")) for name in names}

    def get(
        self, name: str, depends: Mapping[str, Any], make: Callable[[Path | None], Result], after: Sequence[str] = ()
    ) -> Result:
        """The result of a stage, made in a folder for what it needs to be resumed, or found; see `key`."""
        key = self.key(name, depends, after)
        if self.run is None:
            self.progress.message(name)
            return make(None)
        found = self.run.find(name, key) if self._writes else None
        if self._writes and found is None and not self.run.is_whole(name):
            file = self.run.file(name)
            if file.is_dir():  # in the way of what would be made
                self.run.read(name)
            warnings.warn(f"{file} is missing or damaged: it is made again.", stacklevel=3)
        found = self.processes.broadcast(found)
        if found is not None:
            self.progress.message(f"{name}: done before")
            self.run.learn(name, found)
            tensors, metadata = self.run.read(name) if self.run.has(name) else ({}, None)
            return Result(tensors, metadata, found.facts, found=True)
        with self.working(name, key) as work:
            self.progress.message(name)
            start = time.monotonic()
            STAGE.set(name)
            result = make(work)
            facts = {"seconds": time.monotonic() - start, **result.facts}
            if self._writes:
                self.run.write(name, key, result.tensors, result.metadata, facts, self._keys_of(after))
                self.run.log({"stage": name, **{one: value for one, value in facts.items() if one != "history"}})
        metadata, facts = json.loads(json.dumps([result.metadata, facts]))  # as if found
        return Result(result.tensors, metadata, facts)

    @contextmanager
    def working(self, name: str, key: str) -> Iterator[Path | None]:
        """The folder of a stage's unfinished work, kept from other fits meanwhile; None if nothing is kept."""
        if self.run is None:
            yield None
        elif not self._writes or key in self._held:
            yield self.run.work(key)
        else:
            with self.run.working(name, key) as folder:
                self._held.add(key)
                yield folder
            self._held.discard(key)


def fit_seconds(run: RunFolder) -> dict[str, float]:
    """What each stage of a model took, as far as is known: not the report, which shows them, and not the paper's."""
    stages = {name: facts for name, facts in run.stages.items() if not name.startswith((LAST_STAGE, f"{PAPER}/"))}
    return {name: facts["seconds"] for name, facts in stages.items() if "seconds" in facts}


def save_run(
    path: Path | str, options: Mapping[str, Any], content: Mapping[str, Part], facts: Mapping[str, Mapping[str, Any]],
    *, overwrite: bool = False,
) -> None:  # fmt: skip
    """Write named tensors as a run, or add what is new to the one that is there, or replace that one by them alone."""
    path = Path(path)
    if not overwrite and (path / INDEX).exists():
        there = RunFolder.start(path, options)
        stored = [name for name in ("encoder", "decoder") if there.has(name)]
        for name in [*stored, *(f"densities/{key}" for key in there.names("densities"))]:
            if name not in content or not _equal(there.read(name), content[name]):
                found = f"another {name} than this model" if name in content else f"{name}, which this model lacks"
                remedy = "name another folder, or pass overwrite=True to replace the run"
                raise RunFolderError(f"{there.path} holds {found}: {remedy}.")
    run = RunFolder.start(path, options, overwrite=overwrite, afresh=True)
    for name, (tensors, metadata) in content.items():
        key = _key_of_content(name, tensors, metadata)
        # The run being replaced may own a file with the same tensors and facts, which is then used as it is.
        known = facts.get(name, {})
        if not run.has(name) and not ((entry := run.find(name, key)) and known.items() <= entry.facts.items()):
            run.write(name, key, tensors, metadata, known)
    if overwrite:
        run.finish()


def _key_of_content(name: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> str:
    found = hashlib.sha256(json.dumps([name, metadata], sort_keys=True, default=list).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()[:16]


def _equal(stored: Part, new: Part) -> bool:
    """Whether tensors are the same, and metadata where both have them."""
    (old_tensors, old_metadata), (tensors, metadata) = stored, new
    return (
        old_tensors.keys() == tensors.keys()
        and all(torch.equal(old_tensors[name], tensors[name].cpu()) for name in tensors)
        and all(old_metadata.get(name) == value for name, value in metadata.items())
    )
