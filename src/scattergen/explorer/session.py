"""What the page of a run shows, computed: every method answers a click within a fraction of a second."""

from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from scattergen.datasets import Dataset, ImageSource, limit, mnist
from scattergen.datasets.decoding import Encoded, decode
from scattergen.datasets.source import MNIST
from scattergen.diagnostics.dependence import PairwiseDependence, pairwise_dependence
from scattergen.errors import BadImageError, InputError
from scattergen.model import GenerativeScatteringNetwork
from scattergen.runs import RunFolder
from scattergen.stages.density import default_density

N_SAMPLES = 16
TESTED, COMPONENTS = 1024, 16  # codes and leading components of the dependence map
FEWEST_TESTED = 40


class Draw(NamedTuple):
    """What the samples on the page depend on."""

    density: str
    label: str | None = None
    temperature: float = 1.0
    seed: int = 0


class Neighbours(NamedTuple):
    """Training images nearest to a code, nearest first."""

    rows: list[int]
    distances: list[float]
    usual: float  # distance of the first one to its own nearest training image


class Explorer:
    """A run to be explored: its model, and with `images` its training images; read when they are first needed."""

    def __init__(self, run: Path | str, images: Dataset | None = None, device: str = "cpu") -> None:
        self.path, self.device, self._given = Path(run), device, images
        self.samples = lru_cache(64)(self._samples)
        self.dependence = lru_cache(16)(self._dependence)

    @cached_property
    def run(self) -> RunFolder:
        """The opened run."""
        return RunFolder.open(self.path)

    @cached_property
    def model(self) -> GenerativeScatteringNetwork:
        """The model with all densities."""
        self.run.require("decoder")
        model = GenerativeScatteringNetwork.load(self.run, self.device)
        if not model.densities:
            raise InputError(f"{self.path} has no density: fit one with `scattergen density {self.path} mixture`.")
        return model

    @cached_property
    def codes(self) -> Tensor:
        """Codes (N, d) of the training images."""
        if not self.run.has("codes"):
            remedy = "explore the run folder that `scattergen fit` made"
            raise InputError(f"{self.path} does not hold the codes of its training images: {remedy}.")
        return self.run.read("codes")[0]["codes"]

    @cached_property
    def training_images(self) -> ImageSource | None:
        """The images that the run was fitted to, if they were given or are the embedded MNIST."""
        if self._given is not None:
            from scattergen.pipeline.evaluate import check_data

            check_data(self.run, self._given)
            return self._given.train
        fitted_to = self.run.options.get("data", {})
        if fitted_to.get("name") != MNIST:
            return None
        most = fitted_to.get("limit")
        digits = mnist() if most is None else limit(mnist(), most)
        return digits.train if digits.train.fingerprint == fitted_to.get("fingerprint") else None

    def warm(self) -> None:
        """Read and prepare everything, so that no click waits for it; a `ScattergenError` if the run cannot be used."""
        z = self.samples(Draw(default_density([*self.model.densities], self.model.best)))[:1]
        self.model.encode(self.decode(z))
        if self.run.has("codes"):
            self.training(self.nearest(z[0]).rows)

    def classes(self, density: str) -> tuple[str, ...]:
        """Names of the classes that a density can sample; none if it knows no classes."""
        return tuple(getattr(self.model.densities[density], "classes_", ()))

    def _samples(self, draw: Draw) -> Tensor:
        label = draw.label if draw.label in self.classes(draw.density) else None
        return self.model.sample_codes(N_SAMPLES, draw.density, draw.seed, draw.temperature, label)

    def decode(self, z: Tensor) -> Tensor:
        """New images (N, C, H, W) of codes (N, d), sharpened as the run's samples are."""
        return self.model.decode(z, sharpen=self.model.sharpen)

    def edit(self, z: Tensor, added: Sequence[float]) -> Tensor:
        """The image (1, C, H, W) of a code (d,) whose leading components are changed, in standard deviations."""
        change = torch.zeros_like(z)
        change[: len(added)] = torch.tensor(added[: len(z)])
        return self.decode((z + change)[None])

    def morph(self, start: Tensor, stop: Tensor, positions: Sequence[float]) -> Tensor:
        """Images (n, C, H, W) at positions from 0 to 1 on the line between two codes (d,)."""
        return self.decode(torch.lerp(start[None], stop[None], torch.tensor(positions)[:, None]))

    def picture(self, content: bytes) -> Tensor:
        """An image file as the encoder sees it, (1, C, H, W): cropped, resized and converted as `encode` does."""
        channels, height, width = self.model.decoder.image_shape
        crop, mode = self.run.options.get("data", {}).get("crop"), "L" if channels == 1 else "RGB"
        try:
            pixels = decode(Encoded("The picture", content), mode, height if height == width else None, crop)
        except BadImageError as error:
            remedy = "choose a JPEG, PNG, WebP, GIF, BMP or TIFF file"
            raise InputError(f"The picture cannot be read as an image: {remedy}.") from error
        return torch.from_numpy(pixels.copy())[None].float() / 255

    def coefficients(self, image: Tensor) -> Tensor:
        """First-order coefficients (J, L, H', W') of an image (1, C, H, W), the mean over its channels."""
        scattering = self.model.encoder.scattering
        if scattering.max_order == 0:
            raise InputError(f"{self.path} keeps an average of its images only (max_order=0): it has no wavelets.")
        s = scattering(image)[0].mean(0)[1 : 1 + scattering.J * scattering.L]
        return s.unflatten(0, (scattering.J, scattering.L))

    @cached_property
    def _weights(self) -> tuple[Tensor, Tensor]:
        """Variances of the components that samples have, (d,), and the weighted squares of the codes, (N,)."""
        variances = self.model.encoder.whitening.explained_variance_.float()
        if self.model.n_leading is not None:
            variances[self.model.n_leading :] = 0
        return variances, self.codes.square() @ variances

    def nearest(self, z: Tensor, k: int = 5) -> Neighbours:
        r"""The training images of which the coefficients are nearest to those of a code z, (d,).

        The distance is $\bigl(\sum_i \lambda_i (z_i - z'_i)^2\bigr)^{1/2}$: that of scattering coefficients, within the
        components that samples have.
        """
        distances, rows = self._nearest(z, k + 1)
        again, _ = self._nearest(self.codes[rows[0]], 2)
        return Neighbours(rows[:k].tolist(), distances[:k].tolist(), again[-1].item())

    def _nearest(self, z: Tensor, k: int) -> tuple[Tensor, Tensor]:
        variances, norms = self._weights
        squared = norms - 2 * (self.codes @ (variances * z)) + (z.square() @ variances)
        found = squared.topk(min(k, len(squared)), largest=False)
        return found.values.clamp(min=0).sqrt(), found.indices

    def training(self, rows: list[int]) -> Tensor:
        """Training images (n, C, H, W) of these numbers, or their codes decoded where the images are not at hand."""
        if self.training_images is None:
            return self.model.decode(self.codes[rows])
        return self.training_images[torch.tensor(rows)]

    @cached_property
    def tested(self) -> Tensor:
        """Leading components of training codes, (n, m), evenly spread over them."""
        if len(self.codes) < FEWEST_TESTED:
            raise InputError(f"{len(self.codes)} codes are too few to measure dependence: {FEWEST_TESTED} are needed.")
        rows = torch.linspace(0, len(self.codes) - 1, min(TESTED, len(self.codes))).long()
        return self.codes[rows, : min(COMPONENTS, self.model.n_leading or COMPONENTS)]

    def drawn(self, density: str) -> Tensor:
        """As many samples of a density, (n, m)."""
        return self.model.sample_codes(len(self.tested), density)[:, : self.tested.shape[1]]

    def _dependence(self, density: str | None = None) -> PairwiseDependence:
        """How the leading components depend on each other: of the training codes, or of samples of a density."""
        table = self.tested if density is None else self.drawn(density)
        return pairwise_dependence(table, n_simulations=19)
