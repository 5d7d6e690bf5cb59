"""Generative models from wavelet scattering: images to codes, codes to new images."""

from collections.abc import Collection
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scattergen.display.machine import __version__ as __version__
from scattergen.errors import InputError, RunFolderError, ScattergenError

if TYPE_CHECKING:
    from scattergen import datasets, densities, diagnostics, evaluation, report, scattering
    from scattergen.decoder.generator import Decoder
    from scattergen.display.progress import Progress
    from scattergen.encoder.scattering_encoder import ScatteringEncoder
    from scattergen.encoder.whitening import PCAWhitening
    from scattergen.model import DecoderLike, EncoderLike, GenerativeScatteringNetwork
    from scattergen.scattering import Scattering2D

__all__ = ["Decoder", "GenerativeScatteringNetwork", "PCAWhitening", "Progress", "Scattering2D", "ScatteringEncoder"]
__all__ += ["DecoderLike", "EncoderLike", "InputError", "RunFolderError", "ScattergenError", "load"]
__all__ += ["datasets", "densities", "diagnostics", "evaluation", "report", "scattering"]

# Imported when first used, so that `import scattergen` and `scattergen --help` wait for nothing.
_HOMES = {
    "Decoder": "decoder",
    "DecoderLike": "model",
    "EncoderLike": "model",
    "GenerativeScatteringNetwork": "model",
    "PCAWhitening": "encoder",
    "Progress": "display.progress",
    "Scattering2D": "scattering",
    "ScatteringEncoder": "encoder",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"scattergen.{_HOMES[name]}"), name)
    if name in __all__:
        return import_module(f"scattergen.{name}")
    raise AttributeError(f"module 'scattergen' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def load(
    path: Path | str, device: str = "cpu", densities: Collection[str] | None = None
) -> "GenerativeScatteringNetwork":
    """The model of a run folder made by `scattergen fit` or `GenerativeScatteringNetwork.save`; executes nothing in it.

    "hf:USER/NAME" is one on the Hugging Face Hub, "hf:USER/NAME@REVISION" an older one (extra `hub`).
    `densities` are keys of those to load; all by default. A `RunFolderError` if the folder is incomplete, damaged,
    changed or of a newer format, or holds a density of a kind that is not known here.

    Example:
        >>> load("nowhere")
        Traceback (most recent call last):
        ...
        scattergen.errors.RunFolderError: There is no run folder nowhere: ...
    """
    from scattergen.model import GenerativeScatteringNetwork

    if str(path).startswith("hf:"):
        from scattergen.sharing.hub import fetch

        path = fetch(str(path))
    return GenerativeScatteringNetwork.load(path, device, densities)
