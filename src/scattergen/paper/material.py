"""What the stages of a reproduction work on, each part made when it is first asked for."""

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from scattergen.datasets import Dataset, ImageSource, Subset
from scattergen.datasets.source import random_rows
from scattergen.diagnostics.component_grid import PAPER_VALUES, SIGMA_VALUES, component_grid
from scattergen.display.progress import Progress
from scattergen.evaluation import DigitFeatures, FeatureExtractor, ScatteringFeatures, frechet_distance, kernel_distance
from scattergen.image_quality import psnr
from scattergen.model import GenerativeScatteringNetwork
from scattergen.report import paper
from scattergen.runs import RunFolder

PAPER_DENSITIES = ("gaussian", "vae", "gan")  # of its Figure 2, in its order
_DENSITIES = (*PAPER_DENSITIES, "mixture", "vae-improved", "gan-improved")
SHOWN = 64  # samples of each density
_PIECE = 1024  # images that are decoded and turned into features at a time
Decode = Callable[[Tensor], Tensor]  # codes (n, d) to images in [0, 1], (n, C, H, W)


class Trials(NamedTuple):
    """Short trainings of one method after another, at several learning rates."""

    seconds: float  # nominally, of each training: they set its number of steps
    factors: tuple[float, ...]  # of each method's own learning rate
    seeds: int
    n_images: int  # that each is scored by


@dataclass(frozen=True)
class Effort:
    """How much is spent on a reproduction."""

    name: Literal["full", "quick"]
    pixel_seconds: float  # training time of each pixel baseline
    snapshots: tuple[float, ...]  # seconds of training at which their samples are scored, before the last
    n_images: int  # in every set between which a distance is measured
    repeats: int  # random samples of codes at each sample size of the normality tests
    draws: int  # the same in the search for the paper's counts
    n_scattered: int  # images whose scattering coefficients are decomposed anew
    scales: tuple[int, ...]  # of the scattering transform, in the test of the central-limit argument
    n_diagnosed: int  # codes, and samples of each density, in the tests of dependence
    components_diagnosed: int  # leading components in these
    simulations: int  # simulations or shuffles of each of these
    n_raw: int  # images whose raw scattering coefficients a network learns to generate
    raw_epochs: int
    n_inverted: int  # generated coefficients that are inverted
    trials: Trials
    decoder_epochs: int | None = None  # of the decoder that is not the run's; None: as many as the run's has


FULL = Effort(
    "full", 240, (15, 30, 60, 120), 10_000, 8, 15, 3000, (1, 2, 3, 4), 2500, 64, 39,
    10_000, 3, 48, Trials(1.5, (0.1, 1 / 3, 1, 3, 10), 2, 2000),
)  # fmt: skip
QUICK = Effort(
    "quick", 15, (4, 8), 2000, 3, 6, 1000, (1, 2, 3), 1000, 32, 19, 3000, 2, 32, Trials(1.0, (0.1, 1, 10), 1, 1000), 1
)


class Distance(NamedTuple):
    """A distance between two sets of images by their features; lower is better."""

    title: str
    extract: FeatureExtractor
    to_decoded: bool  # whether decoded codes are compared with decoded test codes, not test images
    between: Callable[[Tensor, Tensor], float]  # of features of real images, and of others


def mean_psnr(images: Tensor, decoded: Tensor) -> float:
    """Mean PSNR in dB, of which JSON can hold no infinite ones."""
    return psnr(images, decoded).clamp(max=100).mean().item()


def code_digest() -> str:
    """A digest of the text of this package, any line of which a result may have been computed by."""
    text = hashlib.sha256()
    for path in sorted(Path(__file__).parents[1].rglob("*.py")):
        text.update(path.read_bytes())
    return text.hexdigest()


class Material:
    """A finished run, its data with test images, and what several stages compute from them."""

    def __init__(
        self, run: RunFolder, data: Dataset, effort: Effort, seed: int, device: str, progress: Progress,
        results: paper.Results = paper.MNIST,
    ) -> None:  # fmt: skip
        assert data.test is not None
        self.run, self.train, self.test, self.paper = run, data.train, data.test, results
        self.effort, self.seed, self.device, self.progress = effort, seed, device, progress

    @property
    def densities(self) -> list[str]:
        """Keys of the densities that are shown."""
        return [key for key in _DENSITIES if self.run.has(f"densities/{key}")]

    def parts(self, *names: str) -> list[str]:
        """Names of parts of the run, where "densities" are all that are shown."""
        shown = [f"densities/{key}" for key in self.densities]
        return [part for name in names for part in (shown if name == "densities" else [name])]

    @cached_property
    def depends(self) -> dict[str, Any]:
        """What every result depends on."""
        images = {"train": self.train.fingerprint, "test": self.test.fingerprint}
        return {**images, "effort": asdict(self.effort), "seed": self.seed, "code": code_digest()}

    @cached_property
    def model(self) -> GenerativeScatteringNetwork:
        """The run's model with these densities."""
        return GenerativeScatteringNetwork.load(self.run, self.device, self.densities)

    @cached_property
    def training_codes(self) -> Tensor:
        """Codes that the densities were fitted to, (N, d)."""
        return self.run.read("codes")[0]["codes"]

    @cached_property
    def test_codes(self) -> Tensor:
        """Codes of all test images, (n, d)."""
        return self.model.encode(self.test, self.progress)

    @cached_property
    def measure(self) -> Distance:
        """How distances to test images are measured."""
        if self.paper is paper.MNIST:
            return Distance("Fréchet distance", DigitFeatures(), False, frechet_distance)
        # Faces have no classifier made for them, nor 10,000 test images for a Fréchet distance: scattering coefficients
        # see above all how soft decoded images are, and few images do not bias a kernel distance.
        features = ScatteringFeatures(self.train.shape)
        return Distance("kernel distance", features, True, lambda real, x: 1000 * kernel_distance(real, x).value)

    @cached_property
    def n_images(self) -> int:
        """Images in every set: fewer than asked for if there are fewer test images."""
        return min(self.effort.n_images, len(self.test))

    @cached_property
    def _real(self) -> Tensor:
        return self.measure.extract(self.some(self.test, self.n_images), self.progress)

    @cached_property
    def _decoded_test(self) -> Tensor:
        """Features that decoded codes are compared with."""
        if not self.measure.to_decoded:
            return self._real
        return self._features(self.test_codes[self.numbers(len(self.test), self.n_images)], self.model.decode)

    def _features(self, x: ImageSource | Tensor, decode: Decode = lambda images: images) -> Tensor:
        """Of images, or of decoded codes, piece by piece."""
        pieces = (decode(x[i : i + _PIECE]) for i in range(0, len(x), _PIECE))
        return torch.cat([self.measure.extract(piece) for piece in pieces])

    def numbers(self, N: int, n: int, stream: int = 0) -> Tensor:
        """A random choice of n of the numbers below N, the same for the same seed and stream."""
        return random_rows(N, n, [self.seed, stream])

    def some(self, source: ImageSource, n: int, stream: int = 0) -> ImageSource:
        """The images of such a choice."""
        return Subset(source, self.numbers(len(source), n, stream))

    def distance(self, images: ImageSource | Tensor) -> float:
        """Distance of images to test images."""
        return self.measure.between(self._real, self._features(images))

    def distance_of_codes(self, codes: Tensor, decode: Decode | None = None) -> float:
        """Distance of codes, decoded by the run's model or as is said, to test images or to decoded test codes."""
        return self.measure.between(self._decoded_test, self._features(codes, decode or self.model.decode))

    def kernel_distance(self, images: Tensor, decoded: bool = False) -> list[float]:
        """Kernel distance of images, decoded or not, and its standard error; few images do not bias it."""
        found = kernel_distance(self._decoded_test if decoded else self._real, self.measure.extract(images))
        return [found.value, found.standard_error]

    def distance_of_reconstructions(self) -> float:
        """Distance of reconstructed test images to test images: what the decoder alone costs."""
        return self.measure.between(self._real, self._decoded_test)

    def matrices(self, decode: Decode) -> dict[str, Tensor]:
        """Images of Figure 1: of the paper's values of two components, and of standard deviations."""
        grid = partial(component_grid, self.model.encoder.whitening.explained_variance_)
        return {"paper": decode(grid(PAPER_VALUES)), "sigma": decode(grid(SIGMA_VALUES, in_sigma=True))}
