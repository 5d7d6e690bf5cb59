"""Results of stages, kept in files and found there again while what they depend on is the same."""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

import scattergen
from scattergen.errors import RunFolderError
from scattergen.progress import SILENT, Progress
from scattergen.report.run_report import machine
from scattergen.tensor_files import read_tensors, write_tensors


@dataclass(frozen=True)
class Measured:
    """What a stage found.

    Attributes:
        facts: Anything that `json` can write.
        tensors: Name to tensor, such as images.
        seconds: Time that it took, interruptions not counted; 0 lets the cache take it.
        machine: What it ran on.
    """

    facts: dict[str, Any]
    tensors: dict[str, Tensor] = field(default_factory=dict)
    seconds: float = 0.0
    machine: dict[str, str] = field(default_factory=dict)


Measure = Callable[[Path], Measured]
"""Computes a stage; may keep what it needs to be resumed in the folder that it is given."""


class StageCache:
    """One file per stage, which is whole or absent.

    A stage is computed anew if anything that it depends on has changed, which is told by a digest,
    or if its file is missing or damaged. A process that is killed loses the stage that it was
    computing, and not even that if the stage saves its progress.

    Args:
        folder: Where the files are; made if it does not exist.
        progress: Where to report.

    Attributes:
        computed: Names of the stages that were not found.

    Example:
        >>> import tempfile
        >>> cache = StageCache(Path(tempfile.mkdtemp()))
        >>> cache.get("answer", {"question": 6}, lambda work: Measured({"n": 42})).facts
        {'n': 42}
        >>> cache.get("answer", {"question": 6}, lambda work: Measured({"n": 0})).facts
        {'n': 42}
    """

    def __init__(self, folder: Path, progress: Progress = SILENT) -> None:
        self.folder, self.progress = folder, progress
        self.computed: list[str] = []

    def get(self, name: str, depends: Mapping[str, Any], measure: Measure) -> Measured:
        """The result of a stage, from its file or computed.

        Args:
            name: Of the stage, and of its file.
            depends: All that its result depends on; anything that `json` can write.
            measure: Computes it.

        Returns:
            The result, the same whether it was found or computed.
        """
        file = self.folder / f"{name}.safetensors"
        key = stage_key(name, depends)
        found = _read(file, key)
        if found is not None:
            self.progress.message(f"{name}: done before")
            return found
        self.progress.message(name)
        at_work = self.folder / "unfinished" / name
        for other in at_work.glob("*"):
            if other.name != key[:16]:  # of a stage that depended on something else
                shutil.rmtree(other)
        start = time.monotonic()
        result = measure(at_work / key[:16])
        content = {
            "key": key,
            "facts": result.facts,
            "seconds": result.seconds or time.monotonic() - start,
            "machine": machine(),
        }
        write_tensors(file, result.tensors, content)
        shutil.rmtree(at_work, ignore_errors=True)
        self.computed.append(name)
        written = _read(file, key)
        assert written is not None
        return written


def stage_key(name: str, depends: Mapping[str, Any]) -> str:
    """A digest of a stage's name, of what it depends on, and of the version of this software.

    Args:
        name: Of the stage.
        depends: Anything that `json` can write.

    Returns:
        64 hexadecimal digits.

    Example:
        >>> stage_key("a", {"n": 1}) == stage_key("a", {"n": 2})
        False
    """
    content = [name, scattergen.__version__, depends]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _read(file: Path, key: str) -> Measured | None:
    """A stored result; None if there is none with this key."""
    try:
        tensors, content = read_tensors(file)
        if content["key"] != key:
            return None
        return Measured(content["facts"], tensors, content["seconds"], content["machine"])
    except (RunFolderError, KeyError, TypeError):
        return None  # it is made again, which is always possible
