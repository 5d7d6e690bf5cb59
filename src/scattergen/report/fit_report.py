"""The report of a fit: one self-contained HTML page, and its pictures as PNG files."""

from pathlib import Path

from scattergen.files import atomic_path
from scattergen.report import number_sections, picture_sections
from scattergen.report.draft import Draft
from scattergen.report.facts import FitReport
from scattergen.report.html import Page


def write_fit_report(facts: FitReport, folder: str | Path) -> Path:
    """Write ``report.html`` and ``pictures/*.png``.

    The page needs no other file and loads nothing from elsewhere. Files appear whole or not at
    all, the page last; pictures of earlier reports in the folder are replaced by name.

    Args:
        facts: what the report says.
        folder: where to write; made when missing.

    Returns:
        The path of the page.

    Raises:
        InputError: the facts hold pictures or numbers that do not fit together.
        ScattergenError: a file cannot be written.

    Example:
        >>> import tempfile
        >>> facts = FitReport(dataset="toy", image_shape=(1, 28, 28), n_train=100)
        >>> write_fit_report(facts, tempfile.mkdtemp()).name
        'report.html'
    """
    folder = Path(folder)
    eyebrow = f"scattergen {facts.version}, report of a fit".replace(" ,", ",")
    draft = Draft(facts, Page(facts.title, eyebrow=eyebrow))
    for add in (
        picture_sections.add_header,
        number_sections.add_quality,
        picture_sections.add_reconstructions,
        picture_sections.add_samples,
        picture_sections.add_visualisation,
        number_sections.add_spectrum,
        number_sections.add_normality,
        number_sections.add_training,
        number_sections.add_setup,
    ):
        add(draft)
    page = draft.page.render()
    for name, content in draft.pictures.items():
        with atomic_path(folder / "pictures" / name) as temporary:
            temporary.write_bytes(content)
    path = folder / "report.html"
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path
