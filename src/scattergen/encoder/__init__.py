"""Images to codes: scattering, and whitened principal components of its coefficients."""

from scattergen.encoder.scattering_encoder import ScatteringEncoder, reconstruct_codes
from scattergen.encoder.whitening import PCAWhitening

__all__ = ["PCAWhitening", "ScatteringEncoder", "reconstruct_codes"]
