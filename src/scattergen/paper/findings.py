"""What a stage of a reproduction finds, kept in the run, and the page of sections that show it.

What a section says beyond its verdict is in the template of its name.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from scattergen.machine import machine
from scattergen.paper.material import Material
from scattergen.report.html import render
from scattergen.runs import Result, Stages
from scattergen.version import __version__

Verdict = Literal["agrees", "agrees in part", "disagrees", "cannot be compared"]


@dataclass(frozen=True)
class Measured:
    """What a stage found: facts that `json` can write, tensors, and how long that took on which machine."""

    facts: dict[str, Any]
    tensors: dict[str, Tensor] = field(default_factory=dict)
    seconds: float = 0.0  # interruptions not counted; 0 if nobody has said so
    machine: dict[str, str] = field(default_factory=dict)


def measured(
    stages: Stages, name: str, depends: Mapping[str, Any], measure: Callable[[Path], Measured]
) -> tuple[Measured, bool]:
    """The result of a stage and whether it was found in the run; else it is computed and kept there.

    It is computed anew if anything that it depends on has changed, the version of this software included, or if its
    file is missing or damaged. A process that is killed loses the stage that it was computing, and not even that if the
    stage saves its progress in the folder that `measure` is given.
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


@dataclass(frozen=True)
class Finding:
    """How an item of the paper, such as "Table 1", compares with what was measured, and why in one or two sentences."""

    item: str
    verdict: Verdict
    because: str


@dataclass(frozen=True)
class Section:
    """A section of the page."""

    name: str  # of its template
    finding: Finding | None = None
    sources: Sequence[Measured] = ()  # the stages that measured what is shown, the template's facts first
    shown: Mapping[str, Any] = field(default_factory=dict)  # what else the template is given

    @property
    def measured(self) -> Measured:
        """Of the first source."""
        return self.sources[0] if self.sources else Measured({})

    @property
    def seconds(self) -> float:
        """Time that its measurements took."""
        return sum(source.seconds for source in self.sources)

    @property
    def machines(self) -> list[str]:
        """What they were made on."""
        return sorted({_in_words(source.machine) for source in self.sources})


def _in_words(facts: Mapping[str, str]) -> str:
    processor, threads = facts.get("processor", "an unknown processor"), facts.get("threads", "?")
    return f"{processor}, {threads} thread{'' if threads == '1' else 's'}, torch {facts.get('torch', '?')}"


def render_page(sections: Sequence[Section], material: Material, command: str, seconds: float) -> str:
    """The whole page as HTML text, with the command that makes it again and the time that all stages took."""
    return render(
        "paper/page.html.j2",
        title="A paper, measured again",
        version=__version__,
        parts=sections,
        material=material,
        command=command,
        seconds=seconds,
    )
