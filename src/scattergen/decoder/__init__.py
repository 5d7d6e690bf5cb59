"""Codes to images: the paper's generator, least squares, these corrected, and fitting them."""

from scattergen.decoder.fit import OverfittingWarning, fit_decoder
from scattergen.decoder.generator import Decoder
from scattergen.decoder.linear import LinearDecoder
from scattergen.decoder.local import LocalDecoder
from scattergen.decoder.scattering_loss import ScatteringLoss

__all__ = [
    "Decoder",
    "LinearDecoder",
    "LocalDecoder",
    "OverfittingWarning",
    "ScatteringLoss",
    "fit_decoder",
]
