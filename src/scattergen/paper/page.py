"""The page of a reproduction: sections that each say what agrees with the paper, and how they came.

Every section names the table or figure of the paper, a verdict with one sentence of reasons, and
the number of images, seed, time and machine of its measurements.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from matplotlib.figure import Figure
from torch import Tensor

from scattergen.image_grid import image_grid, png
from scattergen.paper.stage_cache import Measured
from scattergen.report.draft import duration
from scattergen.report.html import Html, Page, image, joined, table, tag
from scattergen.report.plots import DARK, LIGHT, Theme, figure_png

Verdict = Literal["agrees", "agrees in part", "disagrees", "cannot be compared"]

_CLASSES: dict[Verdict, str] = {
    "agrees": "agrees",
    "agrees in part": "partly",
    "disagrees": "disagrees",
    "cannot be compared": "open",
}


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


class ReproductionPage:
    """Builds the page.

    Args:
        title: The heading.
        command: The command line that makes the page again.
        seed: Of everything random.
        version: Of scattergen.

    Attributes:
        findings: One per section so far.
    """

    def __init__(self, title: str, command: str, seed: int, version: str) -> None:
        self.page = Page(title, eyebrow=f"scattergen {version}, reproduction of a paper")
        self.command, self.seed = command, seed
        self.findings: list[Finding] = []

    def section(
        self,
        title: str,
        finding: Finding,
        content: Sequence[Html],
        sources: Sequence[Measured],
        n: str,
        wide: bool = False,
    ) -> None:
        """Append a section.

        Args:
            title: Its heading.
            finding: Shown first.
            content: Figures, tables and paragraphs.
            sources: The stages that measured what is shown.
            n: Sizes of what was measured, in words.
            wide: Give the content the whole width.
        """
        self.findings.append(finding)
        seconds = sum(source.seconds for source in sources)
        machines = {_machine(source) for source in sources}
        provenance = tag(
            "p",
            tag("code", self.command),
            f" · {n} · seed {self.seed} · {duration(seconds)} on {'; '.join(sorted(machines))}",
            class_="provenance",
        )
        verdict = tag(
            "p",
            tag("b", f"{finding.verdict.capitalize()}. ", class_=_CLASSES[finding.verdict]),
            finding.because,
            class_="verdict",
        )
        self.page.section(title, verdict, *content, provenance, note=finding.item, wide=wide)

    def themed(self, alt: str, draw: Callable[[Theme], Figure]) -> Html:
        """A figure for readers in light and in dark mode."""
        light = draw(LIGHT)
        return image(
            figure_png(light),
            alt,
            dark=figure_png(draw(DARK)),
            width=round(100 * light.get_figwidth()),
        )

    def grid(self, images: Tensor, columns: int, alt: str, side: int = 56) -> Html:
        """Images in rows, enlarged by a whole number to about a number of pixels a side."""
        scale = max(1, round(side / max(images.shape[-2:])))
        picture = image_grid(images, columns=columns, pad=4, scale=scale, fill=None)
        return tag("div", image(png(picture), alt), class_="pixels")

    def render(self, lead: str, remarks: Sequence[str]) -> str:
        """The whole page.

        Args:
            lead: A sentence below the heading.
            remarks: Paragraphs of the last section, on what it takes to make the page again.

        Returns:
            HTML text.
        """
        rows = [
            [
                finding.item,
                joined([tag("b", finding.verdict, class_=_CLASSES[finding.verdict]), ". "]),
                finding.because,
            ]
            for finding in self.findings
        ]
        summary = tag(
            "div", table(["in the paper", "verdict", "why"], rows), class_="words findings"
        )
        self.page.header += [tag("p", lead, class_="lead"), summary]
        self.page.section(
            "Making this page", tag("pre", self.command), *(tag("p", text) for text in remarks)
        )
        return self.page.render()


def paragraph(*words: object) -> Html:
    """A paragraph of text and markup."""
    return tag("p", *words)


def panels(*pictures: Html) -> Html:
    """Figures side by side where there is room."""
    return tag("div", *pictures, class_="panels")


def titled(title: str, *content: Html) -> Html:
    """Content under a small heading."""
    return tag("div", tag("h3", title), *content)


def _machine(measured: Measured) -> str:
    facts = measured.machine
    threads = facts.get("threads", "?")
    return (
        f"{facts.get('processor', 'an unknown processor')}, {threads} "
        f"thread{'' if threads == '1' else 's'}, torch {facts.get('torch', '?')}"
    )
