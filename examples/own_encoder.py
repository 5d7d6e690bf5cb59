"""An encoder of your own: whitened principal components of the pixels themselves.

Run with `python examples/own_encoder.py`; docs/notebooks.md explains it.
"""

from typing import Self

import torch
from torch import Tensor

import scattergen as sg
from scattergen.datasets import ImageSource
from scattergen.decoder import DecoderTraining
from scattergen.display.progress import SILENT, Progress

BATCH = 1000


class PixelEncoder:
    """Codes of pixels, without scattering.

    Args:
        n_components: Dimension of the codes.
    """

    def __init__(self, n_components: int = 32) -> None:
        self.whitening = sg.PCAWhitening(n_components)

    def fit(self, images: ImageSource | Tensor) -> Self:
        """Find the components, batch by batch, so that the images need not fit in memory."""
        self.whitening.fit(lambda: (images[i : i + BATCH].flatten(1) for i in range(0, len(images), BATCH)))
        return self

    def transform(self, images: ImageSource | Tensor, progress: Progress = SILENT) -> Tensor:
        """Codes (N, d): all that a model needs of an encoder."""
        codes = []
        with progress.task("encode", len(images)) as task:
            for i in range(0, len(images), BATCH):
                codes.append(self.whitening.transform(images[i : i + BATCH].flatten(1)))
                task.advance(len(codes[-1]))
        return torch.cat(codes)


if __name__ == "__main__":
    images = sg.datasets.mnist().train[:500]
    encoder = PixelEncoder().fit(images)
    codes = encoder.transform(images)

    # A decoder of the package, trained on codes that are not the package's.
    decoder = sg.Decoder(32, (1, 28, 28), channels=(16, 8))
    DecoderTraining(epochs=2).fit(decoder, codes, images)

    model = sg.GenerativeScatteringNetwork(encoder, decoder)
    model.fit_density("mixture", codes, keywords={"n_components": 5})
    print("samples:", tuple(model.sample(4, seed=0).shape))
    print("morph:", tuple(model.interpolate(images[0], images[1], steps=5).shape))
