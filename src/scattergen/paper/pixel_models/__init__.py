"""End-to-end models of pixels, which scattering networks are compared with."""

from scattergen.paper.pixel_models.models import DCGAN, PixelVAE

__all__ = ["DCGAN", "PixelVAE"]
