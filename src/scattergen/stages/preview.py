"""Pictures of a decoder in training: what it makes of held-out images, and new ones."""

import warnings
from pathlib import Path

import torch
from torch import Tensor

from scattergen.datasets import ImageSource
from scattergen.decoder.generator import Decoder
from scattergen.decoder.linear import LinearDecoder
from scattergen.decoder.local import LocalDecoder
from scattergen.densities import make
from scattergen.image_grid import save_image_grid

_COLUMNS = 8
_MOST_CODES = 4000  # of the density, so that it takes a second


class Preview:
    """A picture that is replaced after every epoch of the decoder.

    Its rows are: held-out images; least squares from their codes; the decoder's images of these;
    and two rows of new images, from a density that is fitted in a second and drawn with one seed.

    Args:
        path: Of the picture.
        images: Source of N images, or a tensor (N, C, H, W); the last ones are shown.
        codes: Of these, (N, d).
        linear: Least squares.
        device: Where the decoder is.
    """

    def __init__(
        self, path: Path, images: ImageSource | Tensor, codes: Tensor, linear: LinearDecoder, device: str = "cpu"
    ) -> None:
        self.path, self.device = path, device
        n = min(_COLUMNS, len(codes))
        rows = torch.linspace(len(codes) * 9 // 10, len(codes) - 1, n).round().long()
        self.shown = torch.cat([images[rows], linear.decode(codes[rows])])
        some = codes[torch.linspace(0, len(codes) - 1, min(len(codes), _MOST_CODES)).long()]
        name = "mixture" if len(some) >= 100 else "gaussian"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a mixture of few codes; it is but a preview
            drawn = make(name).fit(some).sample(2 * n)
        self.codes, self.columns = torch.cat([codes[rows], drawn]), n

    def __call__(self, decoder: Decoder | LocalDecoder) -> None:
        """Draw the picture anew.

        Args:
            decoder: As far as it is trained.
        """
        images = decoder.decode(self.codes.to(self.device)).cpu()
        save_image_grid(torch.cat([self.shown, images]), self.path, columns=self.columns)
