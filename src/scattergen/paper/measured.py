"""What a stage of a reproduction finds, and the run in which it is kept and found again."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from scattergen.machine import machine
from scattergen.runs import Result, Stages
from scattergen.version import __version__


@dataclass(frozen=True)
class Measured:
    """What a stage found.

    Attributes:
        facts: Anything that `json` can write.
        tensors: Name to tensor, such as images.
        seconds: Time that it took, interruptions not counted; 0 if nobody has said so.
        machine: What it ran on.
    """

    facts: dict[str, Any]
    tensors: dict[str, Tensor] = field(default_factory=dict)
    seconds: float = 0.0
    machine: dict[str, str] = field(default_factory=dict)


Measure = Callable[[Path], Measured]
"""Computes a stage; may keep what it needs to be resumed in the folder that it is given."""


def measured(stages: Stages, name: str, depends: Mapping[str, Any], measure: Measure) -> tuple[Measured, bool]:
    """The result of a stage, found in the run or computed and kept there.

    A stage is computed anew if anything that it depends on has changed, or if its file is missing
    or damaged. A process that is killed loses the stage that it was computing, and not even that if
    the stage saves its progress.

    Args:
        stages: Of the run.
        name: Of the stage.
        depends: All that its result depends on besides the version of this software; anything that
            `json` can write.
        measure: Computes it.

    Returns:
        The result, and whether it was found.
    """

    def make(work: Path | None) -> Result:
        assert work is not None, "a reproduction has a run"
        start = time.monotonic()
        found = measure(work)
        seconds = found.seconds or time.monotonic() - start
        return Result(found.tensors, {"facts": found.facts, "machine": machine()}, {"seconds": seconds})

    result = stages.get(f"paper/{name}", {**depends, "version": __version__}, make)
    content, seconds = result.metadata, result.facts["seconds"]
    return Measured(content["facts"], result.tensors, seconds, content["machine"]), result.found
