"""A run to be explored: what the page computes of it, each within a fraction of a second."""

from functools import cached_property, lru_cache
from pathlib import Path

import torch
from torch import Tensor

from scattergen.datasets import Dataset, ImageSource, limit, mnist
from scattergen.datasets.decoding import Encoded, decode
from scattergen.datasets.source import MNIST
from scattergen.diagnostics.dependence import pairwise_dependence
from scattergen.diagnostics.monte_carlo import FEWEST_CODES, Floats
from scattergen.errors import BadImageError, InputError
from scattergen.model import GenerativeScatteringNetwork
from scattergen.runs import RunFolder
from scattergen.stages.density import default_density

N_SAMPLES = 16
_TESTED, _COMPONENTS = 768, 16  # codes and leading components whose dependence is shown


class Explorer:
    """A run, and with `images` those that it was fitted to; its files are read when they are first needed, and kept."""

    def __init__(self, run: Path | str, images: Dataset | None = None, device: str = "cpu") -> None:
        self.run, self.device, self._given = RunFolder.open(run), device, images
        self.samples, self.dependence = lru_cache(64)(self._samples), lru_cache(64)(self._dependence)

    @cached_property
    def model(self) -> GenerativeScatteringNetwork:
        """The model with all densities."""
        self.run.require("decoder")
        return GenerativeScatteringNetwork.load(self.run, self.device)

    @property
    def density(self) -> str:
        """The density to begin with."""
        return default_density([*self.model.densities], self.model.best)

    @cached_property
    def codes(self) -> Tensor:
        """Codes (N, d) of the training images."""
        if not self.run.has("codes"):
            remedy = "explore the run folder that `scattergen fit` made"
            raise InputError(f"{self.run.path} does not hold the codes of its training images: {remedy}.")
        return self.run.read("codes")[0]["codes"]

    @cached_property
    def training_images(self) -> ImageSource | None:
        """The images that the run was fitted to, if they were given or are the embedded MNIST."""
        data, fitted_to = self._given, self.run.options.get("data", {})
        if data is not None:
            from scattergen.pipeline.evaluate import check_data

            check_data(self.run, data)
        elif fitted_to.get("name") == MNIST:
            most = fitted_to.get("limit")
            data = mnist() if most is None else limit(mnist(), most)
            data = data if data.train.fingerprint == fitted_to.get("fingerprint") else None
        return None if data is None else data.train

    def warm(self) -> None:
        """Read and prepare everything, so that no click waits for it; refuse a run that cannot be used."""
        z = self.samples(self.density)[:1]
        self.model.encode(self.decode(z))
        if self.run.has("codes"):
            self.training(self.nearest(z[0], 1)[1])
            for density in (None, self.density) if len(self.codes) >= FEWEST_CODES else ():
                self.dependence(density)

    def _samples(self, density: str, label: str | None = None, temperature: float = 1.0, seed: int = 0) -> Tensor:
        """Codes (16, d) of a density."""
        return self.model.sample_codes(N_SAMPLES, density, seed, temperature, label)

    def decode(self, z: Tensor) -> Tensor:
        """New images (N, C, H, W) of codes (N, d), sharpened as the run's samples are."""
        return self.model.decode(z, sharpen=self.model.sharpen)

    def picture(self, content: bytes) -> Tensor:
        """An image file as the encoder sees it, (1, C, H, W): cropped, resized and converted as `encode` does."""
        channels, height, width = self.model.decoder.image_shape
        crop, size = self.run.options.get("data", {}).get("crop"), height if height == width else None
        try:
            pixels = decode(Encoded("The picture", content), "L" if channels == 1 else "RGB", size, crop)
        except BadImageError as error:
            remedy = "choose a JPEG, PNG, WebP, GIF, BMP or TIFF file"
            raise InputError(f"The picture cannot be read as an image: {remedy}.") from error
        return torch.from_numpy(pixels.copy())[None].float() / 255

    @cached_property
    def _variances(self) -> tuple[Tensor, Tensor]:
        """Variances of the components that samples have, (d,), and codes' squares weighted by them, (N,)."""
        variances = self.model.encoder.whitening.explained_variance_.float()
        if self.model.n_leading is not None:
            variances[self.model.n_leading :] = 0
        return variances, self.codes.square() @ variances

    def nearest(self, z: Tensor, k: int) -> tuple[list[float], list[int]]:
        r"""Distances to the k nearest training images of a code z, (d,), and their numbers.

        $\bigl(\sum_i \lambda_i (z_i - z'_i)^2\bigr)^{1/2}$ is the distance of scattering coefficients, within the
        components that samples have. As `nearest_training_images`, but from norms that are kept: a click cannot wait.
        """
        variances, norms = self._variances
        squared = norms - 2 * (self.codes @ (variances * z)) + z.square() @ variances
        found = squared.topk(min(k, len(squared)), largest=False)
        return found.values.clamp(min=0).sqrt().tolist(), found.indices.tolist()

    def training(self, rows: list[int]) -> Tensor:
        """Training images (n, C, H, W) of these numbers, or their codes decoded where the images are not at hand."""
        images = self.training_images
        return self.model.decode(self.codes[rows]) if images is None else images[torch.tensor(rows)]

    def _dependence(self, density: str | None) -> tuple[Tensor, Floats]:
        """Leading components of training codes or of samples, (n, m), and distance correlations of their ranks."""
        rows = torch.linspace(0, len(self.codes) - 1, min(_TESTED, len(self.codes))).long()
        table = self.codes[rows] if density is None else self.model.sample_codes(len(rows), density)
        table = table[:, : min(_COMPONENTS, self.model.n_leading or _COMPONENTS)]
        return table, pairwise_dependence(table, n_simulations=19).correlation
