"""Notebooks: whether this is one, and the cards of objects that it shows, in the colours that it has."""

import base64
import io
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from scattergen.display.words import visible

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

_LONGEST_LINE = 100  # of a `repr`; a longer one has a line for each fact
_SIDE, _PICTURE_BYTES = 64, 60_000  # of a small picture; of all of a card's
_CELL = "text-align:left;vertical-align:top;padding:0 1em 0 0"


def shell() -> Any:
    """The IPython shell of a notebook's kernel; None in a script and in IPython's terminal."""
    ipython = sys.modules.get("IPython")
    found = None if ipython is None else ipython.get_ipython()
    return found if hasattr(found, "kernel") else None


class Card(NamedTuple):
    """What there is to tell of an object: a title, facts by name, and perhaps a picture, with what it shows."""

    title: str
    facts: Mapping[str, object]
    shows: str = ""
    draw: "Callable[[], Image.Image] | None" = None


class Displayed(ABC):
    """A `repr` in a line or a few, and a card in notebooks, of what `_card` tells."""

    @abstractmethod
    def _card(self) -> Card: ...

    def __repr__(self) -> str:
        card = self._card()
        parts = [visible(card.title), *(f"{name}: {visible(fact)}" for name, fact in card.facts.items())]
        line = "; ".join(parts)
        return line if len(line) <= _LONGEST_LINE else "\n  ".join(parts)

    def _repr_html_(self) -> str:
        card, picture = self._card(), ""
        if card.draw is not None:
            try:
                source = base64.b64encode(_small_png(card.draw())).decode()
                style = "display:block;margin-top:.5em;max-width:100%;image-rendering:pixelated"
                picture = f'<img style="{style}" alt="{_html(card.shows)}" src="data:image/png;base64,{source}">'
            except Exception:  # whatever is the matter with an image, the facts are there
                picture = f"<i>No picture of {_html(card.shows)} can be made.</i>"
        rows = (
            f'<tr style="background:none"><th style="{_CELL};font-weight:normal;opacity:.7">{_html(name)}</th>'
            f'<td style="{_CELL}">{_html(fact)}</td></tr>' for name, fact in card.facts.items()
        )  # fmt: skip
        table = f'<table style="border:none;margin:.3em 0;color:inherit;font-size:inherit">{"".join(rows)}</table>'
        return f"<div><b>{_html(card.title)}</b>{table}{picture}</div>"


def _html(text: object) -> str:
    return escape(visible(text))


def strip(images: "Iterable[Tensor]") -> "Image.Image":
    """Small images, each (C, H, W) in [0, 1], in a row, with transparent gaps; at least one."""
    from PIL import Image

    small = []
    for image in images:
        pixels = (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
        picture = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
        factor = max(1, _SIDE // max(picture.size))
        picture = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
        picture.thumbnail((_SIDE, _SIDE))
        small.append(picture)
    width, height = small[0].size
    row = Image.new("RGBA", (len(small) * (width + 4) - 4, height))
    for i, picture in enumerate(small):
        row.paste(picture, (i * (width + 4), 0))
    return row


def reduced(file: Path) -> "Image.Image":
    """The picture in a file, of at most 512 pixels a side."""
    from PIL import Image

    with Image.open(file) as picture:
        picture.thumbnail((512, 512))
        return picture.convert("RGBA")


def _small_png(picture: "Image.Image") -> bytes:
    """A picture's PNG file, of half the size until it has few bytes."""
    while True:
        buffer = io.BytesIO()
        picture.save(buffer, format="PNG")
        if buffer.tell() <= _PICTURE_BYTES:
            return buffer.getvalue()
        picture = picture.reduce(2)
