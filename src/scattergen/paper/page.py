"""The page of a reproduction: sections that each say what agrees with the paper, and how they came.

Every section names the table or figure of the paper, a verdict with one sentence of reasons, and
the number of images, seed, time and machine of its measurements. What it says beyond that is in the
template of its name.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from scattergen.paper.material import Material
from scattergen.paper.measured import Measured
from scattergen.report.html import render
from scattergen.version import __version__

Verdict = Literal["agrees", "agrees in part", "disagrees", "cannot be compared"]


@dataclass(frozen=True)
class Finding:
    """How something in the paper compares with what was measured.

    Attributes:
        item: Of the paper, such as "Table 1".
        verdict: In two words.
        because: One or two plain sentences.
    """

    item: str
    verdict: Verdict
    because: str


@dataclass(frozen=True)
class Section:
    """A section of the page.

    Attributes:
        name: Of its template.
        finding: Shown first; None if nothing is compared.
        sources: The stages that measured what is shown, the first of which the template is given.
        shown: What else the template is given.
    """

    name: str
    finding: Finding | None = None
    sources: Sequence[Measured] = ()
    shown: Mapping[str, Any] = field(default_factory=dict)

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
        return sorted({_machine(source.machine) for source in self.sources})


def _machine(facts: Mapping[str, str]) -> str:
    threads = facts.get("threads", "?")
    return (
        f"{facts.get('processor', 'an unknown processor')}, {threads} "
        f"thread{'' if threads == '1' else 's'}, torch {facts.get('torch', '?')}"
    )


def render_page(sections: Sequence[Section], material: Material, command: str, seconds: float) -> str:
    """The whole page.

    Args:
        sections: In order.
        material: What was measured on.
        command: The command line that makes the page again.
        seconds: Time that all stages took.

    Returns:
        HTML text.
    """
    return render(
        "paper/page.html.j2",
        title="A paper, measured again",
        version=__version__,
        parts=sections,
        material=material,
        command=command,
        seconds=seconds,
    )
