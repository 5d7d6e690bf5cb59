"""End-to-end models of pixels, which scattering networks are compared with."""

from scattergen.baselines.dcgan import DCGAN
from scattergen.baselines.pixel_vae import PixelVAE

__all__ = ["DCGAN", "PixelVAE"]
