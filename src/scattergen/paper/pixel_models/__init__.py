"""End-to-end models of pixels, which scattering networks are compared with."""

from scattergen.paper.pixel_models.dcgan import DCGAN
from scattergen.paper.pixel_models.pixel_vae import PixelVAE

__all__ = ["DCGAN", "PixelVAE"]
