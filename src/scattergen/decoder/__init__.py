"""Codes to images: the paper's generator, least squares, these corrected, and fitting them."""

from scattergen.calls.state import guard
from scattergen.decoder.fit import DecoderTraining, OverfittingWarning
from scattergen.decoder.generator import CodeDecoder, Decoder
from scattergen.decoder.local import LinearDecoder, LocalDecoder
from scattergen.decoder.scattering_loss import ScatteringLoss
from scattergen.decoder.sharpening import Sharpening

__all__ = ["Decoder", "DecoderTraining", "LinearDecoder", "LocalDecoder", "OverfittingWarning", "ScatteringLoss"]

for _class in (CodeDecoder, Decoder, DecoderTraining, LinearDecoder, LocalDecoder, ScatteringLoss, Sharpening):
    guard(_class, "__init__", "of", "fit", "decode", "__call__")
