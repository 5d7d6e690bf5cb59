"""Wavelet scattering: filters and the transform."""

from scattergen.scattering.filters import FilterBank, filter_bank, littlewood_paley
from scattergen.scattering.transform import Path, Scattering2D

__all__ = ["FilterBank", "Path", "Scattering2D", "filter_bank", "littlewood_paley"]
