"""A small builder for one self-contained HTML page.

Every value that is not :class:`Html` already is escaped on its way in, so text from a user (file
names, options, a command line) can never become markup. Pictures are embedded; the page declares
a content security policy under which a browser refuses to load anything from elsewhere.
"""

import base64
import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib import resources


class Html(str):
    """Text that is markup already and is not escaped again."""

    __slots__ = ()


def escape(value: object) -> Html:
    """The value as HTML text; an Html value is returned as it is.

    Args:
        value: anything with a ``str``.

    Returns:
        Markup that shows the value.

    Example:
        >>> escape("a < b")
        'a &lt; b'
        >>> escape(tag("b", "x"))
        '<b>x</b>'
    """
    return value if isinstance(value, Html) else Html(html.escape(str(value)))


VOID_ELEMENTS = {"img", "meta", "source", "col"}


def tag(element: str, *children: object, **attributes: object) -> Html:
    """An HTML element; children and attribute values are escaped.

    Args:
        element: its name.
        children: text, or Html from another call.
        attributes: values that are None are left out; a trailing underscore of a name is dropped
            (``class_``), other underscores become hyphens (``http_equiv``).

    Returns:
        The markup.

    Example:
        >>> tag("p", "1 < 2, ", tag("b", "bold"), class_="note")
        '<p class="note">1 &lt; 2, <b>bold</b></p>'
    """
    text = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for name, value in attributes.items()
        if value is not None
    )
    inside = "".join(escape(child) for child in children)
    end = "" if element in VOID_ELEMENTS else f"{inside}</{element}>"
    return Html(f"<{element}{text}>{end}")


def joined(parts: Iterable[object]) -> Html:
    """The parts one after another, each escaped unless it is markup.

    Args:
        parts: text or Html.

    Returns:
        The markup.

    Example:
        >>> joined(["a&", tag("i", "b")])
        'a&amp;<i>b</i>'
    """
    return Html("".join(escape(part) for part in parts))


def image(png: bytes, alt: str, dark: bytes | None = None, width: int | None = None) -> Html:
    """An embedded picture.

    Args:
        png: the content of a PNG file.
        alt: what a reader who cannot see it is told.
        dark: another version for readers whose system is in dark mode.
        width: the width to show it at, in CSS pixels; it shrinks where there is less room.

    Returns:
        The markup.

    Example:
        >>> image(b"", "nothing", width=8)
        '<img src="data:image/png;base64," alt="nothing" width="8">'
    """
    light = tag("img", src=_data_uri(png), alt=alt, width=width)
    if dark is None:
        return light
    source = tag("source", srcset=_data_uri(dark), media="(prefers-color-scheme: dark)")
    return tag("picture", source, light)


def table(
    header: Sequence[object],
    rows: Iterable[Sequence[object]],
    caption: object | None = None,
) -> Html:
    """A table whose first column holds words and whose other columns hold numbers or words.

    Args:
        header: one cell per column; a header of empty cells is left out.
        rows: cells; the first heads its row.
        caption: shown above.

    Returns:
        The markup, in a box that scrolls sideways on a narrow screen.

    Example:
        >>> "<td>41</td>" in table(["test", "count"], [["K2", 41]])
        True
    """
    rows = [list(row) for row in rows]
    kinds = [None, *map(_kind, zip(*(row[1:] for row in rows), strict=True))]
    kinds += [None] * (len(header) - len(kinds))  # of a table without rows
    head = tag(
        "tr",
        *(
            tag("th", cell, scope="col", class_=kind)
            for cell, kind in zip(header, kinds, strict=True)
        ),
    )
    body = [
        tag(
            "tr",
            tag("th", first, scope="row"),
            *(tag("td", cell, class_=kind) for cell, kind in zip(rest, kinds[1:], strict=True)),
        )
        for first, *rest in rows
    ]
    parts = [tag("caption", caption)] if caption is not None else []
    if any(header):
        parts.append(tag("thead", head))
    content = tag("table", *parts, tag("tbody", *body))
    return tag("div", content, class_="table", tabindex="0")


def _kind(column: tuple[object, ...]) -> str | None:
    """Class of a column's cells: "text" where most of them do not begin like a number."""
    cells = [str(cell).strip() for cell in column if str(cell).strip()]
    numbers = sum(cell[0] in "0123456789+-−<>≤≥±.–—" for cell in cells)
    return "text" if 2 * numbers < len(cells) else None


@dataclass
class Page:
    """A page: a header, then sections whose titles stand in the margin.

    Args:
        title: the heading and the name of the browser's tab.
        eyebrow: a small line above the heading.

    Example:
        >>> page = Page("Digits", eyebrow="report")
        >>> page.section("Samples", tag("p", "64 of them"))
        >>> page.render().count("<h2")
        1
    """

    title: str
    eyebrow: str = ""
    header: list[Html] = field(default_factory=list)
    sections: list[Html] = field(default_factory=list)
    footer: list[Html] = field(default_factory=list)
    figures: int = 0

    def section(self, title: str, *content: object, note: str = "", wide: bool = False) -> None:
        """Append a section.

        Args:
            title: its heading.
            content: text or Html.
            note: a small line under the heading.
            wide: give the content the whole width, below the title.
        """
        margin = tag("h2", title), tag("p", note, class_="note") if note else ""
        self.sections.append(
            tag(
                "section",
                tag("div", *margin, class_="margin"),
                tag("div", *content, class_="content"),
                class_="wide" if wide else None,
            )
        )

    def figure(
        self, content: object, caption: object, paper: str | None = None, class_: str | None = None
    ) -> Html:
        """A numbered figure; figures are numbered in the order of these calls.

        Args:
            content: pictures or a table.
            caption: what is shown, with n and seed.
            paper: the figure or table of the paper that it stands beside.
            class_: a CSS class of the figure.

        Returns:
            The markup, to be put in a section.
        """
        self.figures += 1
        label = [tag("b", f"Figure {self.figures}. ")]
        if paper is not None:
            label.append(tag("span", f"paper: {paper}", class_="paper"))
        return tag("figure", content, tag("figcaption", *label, Html(" "), caption), class_=class_)

    def render(self) -> str:
        """The whole page as HTML text."""
        style = resources.files(__package__).joinpath("style.css").read_text(encoding="utf-8")
        policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
        head = tag(
            "head",
            tag("meta", charset="utf-8"),
            tag("meta", http_equiv="Content-Security-Policy", content=policy),
            tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
            tag("meta", name="color-scheme", content="light dark"),
            tag("title", self.title),
            tag("style", Html(style)),
        )
        top = tag(
            "header", tag("p", self.eyebrow, class_="eyebrow"), tag("h1", self.title), *self.header
        )
        body = tag("body", top, tag("main", *self.sections), tag("footer", *self.footer))
        return f"<!DOCTYPE html>\n{tag('html', head, body, lang='en')}\n"


def _data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"
