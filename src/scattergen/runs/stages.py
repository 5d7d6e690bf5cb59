"""Stages of a fit, kept in a run folder as soon as they are finished and found there again."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from scattergen.processes import ALONE, Processes
from scattergen.progress import Progress
from scattergen.runs import place
from scattergen.runs.folder import RunFolder
from scattergen.training_state import History


class Done(Protocol):
    """Reports the results of a stage; call it once, as the stage's last act."""

    def __call__(
        self, tensors: Mapping[str, Tensor], metadata: Any, facts: Mapping[str, Any]
    ) -> None:
        """Keep tensors and facts."""
        ...


class Stages:
    """The stages of one fit, with or without a folder to keep them in.

    Args:
        run: The folder, or None to keep nothing.
        progress: Where to report.
        processes: Those that fit together, all with the same folder; rank 0 alone writes to it.
    """

    def __init__(
        self, run: RunFolder | None, progress: Progress, processes: Processes = ALONE
    ) -> None:
        self.run, self.progress, self.writes = run, progress, processes.rank == 0

    def restore(self, name: str, load: Callable[[Mapping[str, Tensor]], Any]) -> bool:
        """Load the results of a finished stage; False if there are none."""
        if self.run is None or not self.run.has(name):
            return False
        load(self.run.read(name)[0])
        if self.writes:  # a kill came after the results were kept and before these were deleted
            self.run.remove_checkpoints(name)
        self.progress.message(f"{name}: done before")
        return True

    @contextmanager
    def timed(self, name: str) -> Iterator[Done]:
        """Run a stage; what it reports is kept with the time it took."""
        self.progress.message(name)
        start = time.monotonic()

        def done(tensors: Mapping[str, Tensor], metadata: Any, facts: Mapping[str, Any]) -> None:
            if self.run is not None and self.writes:
                stage = {"seconds": time.monotonic() - start, **facts}
                self.run.write(name, tensors, metadata, stage)
                self.run.remove_checkpoints(name)
                brief = {key: value for key, value in stage.items() if key != "history"}
                self.run.log({"stage": name, **brief})

        yield done

    def checkpoint(self, name: str, metadata: Any = None) -> Path | None:
        """Where a stage may save its progress (see `RunFolder.checkpoint`)."""
        return None if self.run is None else self.run.checkpoint(name, metadata)

    def folder(self, name: str, metadata: Any = None) -> Path | None:
        """Where a stage may keep files until it is finished; what other options left is deleted."""
        if self.run is None:
            return None
        folder = self.run.checkpoint(name, metadata).with_suffix("")
        if self.writes:  # what the stage made with other options
            names = place.own_files(self.run.path, f"checkpoints/{name}")
            kept = (folder, folder.parent)
            others = [one for one in names if (self.run.path / one).parent not in kept]
            place.remove(self.run.path, others)
        return folder

    def log_epoch(self, name: str) -> Callable[[History], None] | None:
        """Appends a stage's epochs to the run's metrics."""
        if self.run is None or not self.writes:
            return None
        run = self.run
        return lambda history: run.log({"stage": name, **history[-1]})
