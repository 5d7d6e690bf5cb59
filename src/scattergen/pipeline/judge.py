"""How good a fitted model is: its decoder beside least squares, and which density is the best."""

from torch import Tensor

from scattergen.datasets import ImageSource
from scattergen.datasets.source import some_of
from scattergen.evaluation import default_features, kernel_distance
from scattergen.evaluation.judgement import DECODER, LEAST_SQUARES, REAL, Judgement, Row, best_of
from scattergen.image_quality import psnr, sharpness
from scattergen.model import GenerativeScatteringNetwork
from scattergen.progress import SILENT, Progress

MOST_JUDGED, LEAST_JUDGED = 1000, 100  # images in a row
FEWEST_TEST_IMAGES = 3  # that a kernel distance is of


def judge(
    model: GenerativeScatteringNetwork,
    train: ImageSource,
    test: ImageSource | None,
    *,
    digits: bool = False,
    seed: int = 0,
    progress: Progress = SILENT,
) -> Judgement | None:
    """Score a model's reconstructions and samples against up to 1,000 test images; None with fewer than 3 of these.

    Features are those of digits for the embedded MNIST (`digits`), of photographs if their weights are installed, else
    of scattering.
    """
    if test is None or len(test) < FEWEST_TEST_IMAGES:
        return None
    extract = default_features(model.decoder.image_shape, digits=digits)
    real = some_of(test, MOST_JUDGED, seed)[:]
    codes = model.encode(real)
    restored = {DECODER: model.decode(codes)}
    if model.linear is not None:
        restored[LEAST_SQUARES] = model.linear.decode(codes)
    wanted, detail = extract(real), sharpness(real).mean()

    def row(images: Tensor, restores: bool = False) -> Row:
        distance = kernel_distance(wanted, extract(images))
        return Row(
            kernel=1000 * distance.value,
            standard_error=1000 * distance.standard_error,
            sharpness=(sharpness(images).mean() / detail.clamp(min=1e-12)).item(),
            psnr=psnr(real, images).clamp(max=100).mean().item() if restores else None,
        )

    rows = {}
    with progress.task("judge", len(restored) + len(model.densities) + 1) as task:
        if len(train) >= FEWEST_TEST_IMAGES:
            rows[REAL] = row(some_of(train, MOST_JUDGED, seed)[:])
        task.advance()
        for name, images in restored.items():
            rows[name] = row(images, restores=True)
            task.advance()
        for key in model.densities:
            rows[key] = row(model.sample(min(MOST_JUDGED, max(LEAST_JUDGED, len(real))), key, seed))
            task.advance(1, key)
    best = best_of({key: rows[key] for key in model.densities})
    return Judgement((extract.name, extract.version), MOST_JUDGED, len(real), rows, best)
