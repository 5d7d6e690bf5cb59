"""A page in the browser that explores a run: its samples, what they are made of, and what is like them."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from scattergen.explorer.page import build, opening

if TYPE_CHECKING:
    from scattergen.datasets import Dataset


def app(run: Path | str, images: "Dataset | None" = None, device: str = "cpu") -> Any:
    """The page of a run, a `gradio.Blocks` with a method `launch`, which may be deployed as a Space.

    The model is loaded when the page is first seen. `images` are those that the run was fitted to, of which it shows
    the nearest; the embedded MNIST is found without. A `ScattergenError` if the extra `ui` is missing.
    """
    return build(opening(run, images, device))
