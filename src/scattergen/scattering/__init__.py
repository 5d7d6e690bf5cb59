"""Wavelet scattering: filters, the transform, and its inversion."""

from scattergen.scattering.filters import FilterBank, filter_bank, lipschitz_constant, littlewood_paley
from scattergen.scattering.inversion import Reconstruction, reconstruct
from scattergen.scattering.transform import Path, Scattering2D

__all__ = [
    "FilterBank", "Path", "Reconstruction", "Scattering2D",
    "filter_bank", "lipschitz_constant", "littlewood_paley", "reconstruct",
]  # fmt: skip
