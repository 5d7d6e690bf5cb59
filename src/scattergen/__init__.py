"""Generative models from wavelet scattering: images to codes, codes to new images."""

from scattergen import datasets, densities, diagnostics, evaluation, report, scattering
from scattergen.decoder import Decoder
from scattergen.encoder import ScatteringEncoder
from scattergen.errors import InputError, RunFolderError, ScattergenError
from scattergen.model import GenerativeScatteringNetwork
from scattergen.progress import Progress
from scattergen.scattering import Scattering2D
from scattergen.whitening import PCAWhitening

__version__ = "0.1.0"

load = GenerativeScatteringNetwork.load

__all__ = [
    "Decoder",
    "GenerativeScatteringNetwork",
    "InputError",
    "PCAWhitening",
    "Progress",
    "RunFolderError",
    "ScattergenError",
    "Scattering2D",
    "ScatteringEncoder",
    "datasets",
    "densities",
    "diagnostics",
    "evaluation",
    "load",
    "report",
    "scattering",
]
