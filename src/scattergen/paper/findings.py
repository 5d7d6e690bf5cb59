"""What a stage of a reproduction is, depends on and finds, and the page of sections that show it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from scattergen.display.machine import __version__, machine
from scattergen.paper.material import Material
from scattergen.report.html import render
from scattergen.runs import Result, Stages

Verdict = Literal["agrees", "agrees in part", "disagrees", "cannot be compared"]
Facts = Mapping[str, Any]

OTHER = "other_decoder"  # stage in which the decoder that is not the run's is trained
# Angles and Mallat divide codes by their norms in 2018, in print and in the code that they published, and in 2019 no
# longer. The paper follows those of 2018 "faithfully" and does not mention norms, so the first is taken as its setting.
UNIT, PLAIN = "codes of unit norm", "codes as they are"
SETTINGS = {True: UNIT, False: PLAIN}  # of the decoder, by its keyword "unit_norm"


@dataclass(frozen=True)
class Measured:
    """What a stage found: facts that `json` can write, tensors, and how long that took on which machine."""

    facts: dict[str, Any]
    tensors: dict[str, Tensor] = field(default_factory=dict)
    seconds: float = 0.0  # interruptions not counted; 0 if nobody has said so
    machine: str = ""  # in words


Results = Mapping[str, Measured]


@dataclass(frozen=True)
class Stage:
    """One computation whose result is kept, and what this depends on besides what all results do."""

    measure: Callable[[Material, Path], Measured]  # given the folder of what it needs to be resumed
    parts: Sequence[str] = ()  # of the run; "densities" are all that are shown
    others: Callable[[Material], Facts] = lambda material: {}

    def key(self, material: Material) -> dict[str, Any]:
        """All that its result depends on."""
        parts = {name: material.run.digest(name) for name in material.parts(*self.parts)}
        return {**material.depends, **parts, **self.others(material)}


def measured(stages: Stages, name: str, depends: Facts, measure: Callable[[Path], Measured]) -> tuple[Measured, bool]:
    """The result of a stage, and whether it was found whole in the run; if not, it is made and kept there."""

    def make(work: Path | None) -> Result:
        assert work is not None, "a reproduction has a run"
        found = measure(work)
        seconds = {"seconds": found.seconds} if found.seconds else {}  # if not, those that `Stages` measures
        return Result(found.tensors, {"facts": found.facts, "machine": machine()}, seconds)

    result = stages.get(f"paper/{name}", depends, make)
    this = result.metadata["machine"]
    threads = f"{this['threads']} thread{'' if this['threads'] == '1' else 's'}"
    words = f"{this['processor']}, {threads}, torch {this['torch']}"
    return Measured(result.metadata["facts"], result.tensors, result.facts["seconds"], words), result.found


@dataclass(frozen=True)
class Finding:
    """How an item of the paper, such as "Table 1", compares with what was measured, and why in one or two sentences."""

    item: str
    verdict: Verdict
    because: str


def graded(*answers: bool) -> Verdict:
    """The verdict where several answers of the paper's are right or wrong."""
    if all(answers):
        return "agrees"
    return "agrees in part" if any(answers) else "disagrees"


def judge(item: str, verdict: Verdict, name: str, **facts: object) -> Finding:
    """A finding whose words are in the template of a name."""
    words = render(f"paper/because/{name}.html.j2", verdict=verdict, **facts)
    return Finding(item, verdict, " ".join(words.split()))


@dataclass(frozen=True)
class Section:
    """A section of the page; what it says beyond its verdict is in the template of its name."""

    name: str
    finding: Finding | None = None
    sources: Sequence[Measured] = ()  # the stages that measured what is shown, the template's facts first
    shown: Facts = field(default_factory=dict)  # what else the template is given


def by_setting(results: Results, material: Material, own: Facts, kind: str) -> dict[str, Any]:
    """By setting, the paper's first: the run's `own`, and the other decoder's "pictures" or facts of a `kind`."""
    found = {SETTINGS[material.model.decoder.hyperparameters["unit_norm"]]: own}
    if OTHER in results:
        other = results[OTHER]
        found[SETTINGS[other.facts["unit_norm"]]] = other.tensors if kind == "pictures" else other.facts[kind]
    return {name: found[name] for name in SETTINGS.values() if name in found}


def with_other(name: str, results: Results) -> list[Measured]:
    """What measured a section that shows both settings."""
    return [results[stage] for stage in (name, OTHER) if stage in results]


def render_page(sections: Sequence[Section], material: Material, command: str, seconds: float) -> str:
    """The whole page as HTML text, with the command that makes it again and the time that all stages took."""
    facts = {"parts": sections, "material": material, "command": command, "seconds": seconds}
    return render("paper/page.html.j2", title="A paper, measured again", version=__version__, **facts)
