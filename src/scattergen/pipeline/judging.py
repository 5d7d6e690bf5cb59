"""How a run's model is judged: samples and reconstructions beside test images, of which features are kept."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from scattergen.datasets import ImageSource
from scattergen.datasets.source import some_of
from scattergen.display.progress import SILENT, Progress
from scattergen.errors import ScattergenError
from scattergen.evaluation import FeatureExtractor, kernel_distance
from scattergen.evaluation.judgement import DECODER, LEAST_SQUARES, REAL, Judgement, Row, best_of
from scattergen.evaluation.memorisation import FEWEST, image_cells, memorisation
from scattergen.image_quality import WINDOW_SIZE, psnr, share_of_detail, sharpness, ssim
from scattergen.model import GenerativeScatteringNetwork
from scattergen.runs import RunFolder, Stages
from scattergen.runs.layout import FEATURES

PARTS = ("encoder", "codes", "linear", "decoder", "sampling")  # stages of a fit, before its densities
REFERENCE = "reference"  # the stage that keeps what a report needs of images, so that it can do without them later
MOST_JUDGED, LEAST_JUDGED = 1000, 100  # images in a row
FEWEST_TEST_IMAGES = 3  # that a kernel distance is of
_LARGEST_KEPT = 1 << 28  # bytes of features; those of 50,000 images as a network of photographs sees them


@dataclass
class Standard:
    """What the densities of a model are compared with."""

    features: tuple[str, str]  # name and version of what made the tables
    wanted: Tensor  # features of test images, (n, k)
    seen: Tensor  # those of training images, (m, k)
    detail: float  # mean sharpness of the test images
    seed: int
    rows: dict[str, Row]  # of real images, and of what restores the test images

    def row(self, images: Tensor, features: Tensor, **known: float | None) -> Row:
        """What some images, of these features, score, with what else is known of them."""
        distance = kernel_distance(self.wanted, features)
        share = share_of_detail(sharpness(images).mean().item(), self.detail)
        return Row(1000 * distance.value, 1000 * distance.standard_error, share, **known)

    @cached_property
    def _cells(self) -> Tensor | None:
        tested = min(len(self.seen), len(self.wanted)) >= FEWEST
        return image_cells(self.seen, self.wanted, seed=self.seed) if tested else None

    def of_density(self, model: GenerativeScatteringNetwork, key: str, extract: FeatureExtractor) -> Row:
        """What samples of a model's density score."""
        images = model.sample(min(MOST_JUDGED, max(LEAST_JUDGED, len(self.wanted))), key, self.seed)
        features, cells, copying = extract(images), self._cells, None
        if cells is not None:
            found = memorisation(self.seen, self.wanted, features, cells=cells, seed=self.seed)
            copying = found.copying_pvalue
        return self.row(images, features, copying_pvalue=copying)

    def judgement(self, densities: Mapping[str, Row]) -> Judgement:
        """All scores, and the best of the densities."""
        rows = {**self.rows, **densities}
        return Judgement(self.features, MOST_JUDGED, len(self.wanted), rows, best_of(densities))


def standard_of(
    model: GenerativeScatteringNetwork, train: ImageSource, test: ImageSource | None, extract: FeatureExtractor,
    seed: int = 0, progress: Progress = SILENT,
) -> Standard | None:  # fmt: skip
    """Up to 1,000 test images to judge by, and what reconstructions score beside them; None with fewer than 3."""
    if test is None or len(test) < FEWEST_TEST_IMAGES:
        return None
    real, trained_on = (some_of(images, MOST_JUDGED, seed)[:] for images in (test, train))
    codes = model.encode(real)
    restored = {DECODER: model.decode(codes)}
    if model.linear is not None:
        restored[LEAST_SQUARES] = model.linear.decode(codes)
    with progress.task("judge reconstructions", len(restored) + 1) as task:
        seen = extract(trained_on)
        found = Standard(
            (extract.name, extract.version), extract(real), seen, sharpness(real).mean().item(), seed, rows={}
        )
        if len(train) >= FEWEST_TEST_IMAGES:
            found.rows[REAL] = found.row(trained_on, seen)
        task.advance()
        for name, images in restored.items():
            quality = psnr(real, images).clamp(max=100).mean().item()
            likeness = ssim(real, images).mean().item() if min(real.shape[2:]) >= WINDOW_SIZE else None
            found.rows[name] = found.row(images, extract(images), psnr=quality, ssim=likeness)
            task.advance()
    return found


def kept_features(
    run: RunFolder, part: str, images: ImageSource, extract: FeatureExtractor, progress: Progress = SILENT
) -> Tensor:
    """Features (N, k) of a part of a run's images, which the run keeps for next time: of the last extractor only."""
    name = f"{FEATURES}{part}"
    depends = {"images": images.fingerprint, "features": (extract.name, extract.version)}
    key = Stages(run, progress).key(name, depends)
    with suppress(ScattergenError):  # damaged ones are made again
        found = run.read(name)[0].get("features") if run.find(name, key) is not None else None
        if found is not None and found.ndim == 2 and len(found) == len(images):
            return found
    features = extract(images, progress)
    if features.nbytes <= _LARGEST_KEPT:
        with suppress(ScattergenError), run.working(name, key):  # as on a disk that is full or can only be read
            run.write(name, key, {"features": features}, None)
    return features
