"""Codes to images: the paper's generator, least squares, these corrected, and fitting them."""

from scattergen.decoder.fit import DecoderTraining, OverfittingWarning
from scattergen.decoder.generator import Decoder
from scattergen.decoder.local import LinearDecoder, LocalDecoder
from scattergen.decoder.scattering_loss import ScatteringLoss

__all__ = ["Decoder", "DecoderTraining", "LinearDecoder", "LocalDecoder", "OverfittingWarning", "ScatteringLoss"]
