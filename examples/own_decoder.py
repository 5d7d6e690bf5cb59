"""A decoder of your own: the mean of the training images whose codes are nearest, weighted by how near they are.

Run with `python examples/own_decoder.py`; docs/notebooks.md explains it.
"""

import torch
from torch import Tensor

import scattergen as sg


class NearestNeighbours:
    """Images as weighted means of training images.

    Args:
        codes: Of the training images, (N, d).
        images: (N, C, H, W).
        k: Number of neighbours.
    """

    def __init__(self, codes: Tensor, images: Tensor, k: int = 5) -> None:
        self.codes, self.images, self.k = codes, images, k
        # All that a model asks of a decoder, beside `decode`.
        self.n_components = codes.shape[1]
        self.image_shape = (images.shape[1], images.shape[2], images.shape[3])

    def decode(self, z: Tensor) -> Tensor:
        """Images (N, C, H, W) in [0, 1] of codes (N, d)."""
        distances, nearest = torch.cdist(z, self.codes).topk(self.k, largest=False)
        weights = torch.softmax(-distances, 1)
        return torch.einsum("nk,nkchw->nchw", weights, self.images[nearest])


if __name__ == "__main__":
    images = sg.datasets.mnist().train[:500]
    encoder = sg.ScatteringEncoder((1, 28, 28), J=2, n_components=32).fit(images)
    codes = encoder.transform(images)

    model = sg.GenerativeScatteringNetwork(encoder, NearestNeighbours(codes, images))
    model.fit_density("mixture", codes, keywords={"n_components": 5})
    print("samples:", tuple(model.sample(4, seed=0).shape))
    print("morph:", tuple(model.interpolate(images[0], images[1], steps=5).shape))
