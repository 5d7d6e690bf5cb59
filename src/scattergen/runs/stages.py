"""The stages of a fit: made, or found if they were made before from the same things."""

import hashlib
import json
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from scattergen.processes import ALONE, Processes
from scattergen.progress import Progress
from scattergen.runs.folder import RunFolder
from scattergen.runs.index import Entry
from scattergen.training.state import History

# Version of the code of a stage, or of a folder of stages, where it is not 1: raise it when the same
# options give another result, so that runs make the stage again.
VERSIONS: dict[str, int] = {}


@dataclass(frozen=True)
class Result:
    """What a stage makes."""

    tensors: dict[str, Tensor]
    metadata: Any = None  # what is needed to use them; anything that `json` can write
    facts: dict[str, Any] = field(default_factory=dict)  # what was measured; "seconds" is added
    found: bool = False  # whether it was made before


class Stages:
    """The stages of one fit, with or without a folder to keep them in.

    A stage is known by its key: a hash of its name, of everything it depends on itself, and of the keys
    of the stages it is made from.  Nothing is made twice under one key.  Several processes share the
    folder, and only rank 0 writes to it.
    """

    def __init__(self, run: RunFolder | None, progress: Progress, processes: Processes = ALONE) -> None:
        self.run, self.progress, self.processes = run, progress, processes
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
        """The result of a stage, the same whether it is made now or found; see `key` for what it depends on.

        `make` is given a folder for whatever it needs to be resumed.
        """
        key = self.key(name, depends, after)
        if self.run is None:
            self.progress.message(name)
            return make(None)
        found = self.processes.broadcast(self._found(self.run, name, key) if self._writes else None)
        if found is not None:
            self.progress.message(f"{name}: done before")
            self._keys[name] = found.key  # empty if a version before 0.2 made it
            self.run.learn(name, found)
            tensors, metadata = self.run.read(name) if self.run.has(name) else ({}, None)
            return Result(tensors, metadata, found.facts, found=True)
        with self.working(name, key) as work:
            self.progress.message(name)
            start = time.monotonic()
            result = make(work)
            facts = {"seconds": time.monotonic() - start, **result.facts}
            if self._writes:
                self.run.write(name, key, result.tensors, result.metadata, facts, self._keys_of(after))
                brief = {one: value for one, value in facts.items() if one != "history"}
                self.run.log({"stage": name, **brief})
        metadata, facts = json.loads(json.dumps([result.metadata, facts]))  # as if found
        return Result(result.tensors, metadata, facts)

    @property
    def _writes(self) -> bool:
        return self.processes.rank == 0

    def _found(self, run: RunFolder, name: str, key: str) -> Entry | None:
        found = run.find(name, key)
        if found is None and not run.is_whole(name):
            file = run.file(name)
            if file.is_dir():  # in the way of what would be made
                run.read(name)
            warnings.warn(f"{file} is missing or damaged: it is made again.", stacklevel=4)
        return found

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

    def log_epoch(self, name: str) -> Callable[[History], None] | None:
        """A function that appends each epoch of a stage to the metrics of the run."""
        if self.run is None or not self._writes:
            return None
        run = self.run
        return lambda history: run.log({"stage": name, **history[-1]})
