"""Measures of what a model produces: here, how faithful single images are."""

from scattergen.image_quality import psnr, ssim

__all__ = ["psnr", "ssim"]
