"""Images to codes: scattering, and whitened principal components of its coefficients."""

from scattergen.calls.state import guard
from scattergen.encoder.scattering_encoder import ScatteringEncoder, reconstruct_codes
from scattergen.encoder.whitening import PCAWhitening

__all__ = ["PCAWhitening", "ScatteringEncoder", "reconstruct_codes"]

guard(PCAWhitening, "fit", "fit_samples", "transform", "inverse_transform")
guard(ScatteringEncoder, "features", "fit", "transform", "state_dict")
