"""What a model scored on images that it was not fitted to, by which features, and the same in words."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from scattergen.evaluation.digit_classifier import DigitFeatures
from scattergen.evaluation.features import FeatureExtractor, ScatteringFeatures
from scattergen.evaluation.memorisation import REJECTED
from scattergen.evaluation.perceptual import PerceptualFeatures

DECODER, LEAST_SQUARES, REAL = "decoder", "least squares", "training images"
MEASURES = ("psnr", "ssim")  # of reconstructed test images, in the order of the report's table


def default_features(image_shape: tuple[int, int, int], *, digits: bool = False) -> FeatureExtractor:
    """The best features there are for images of a shape (C, H, W), which are the embedded MNIST or not.

    Those of `digits`, else of photographs if their weights are installed, else scattering features.

    Example:
        >>> default_features((1, 28, 28), digits=True).name
        'mnist-classifier'
    """
    if digits and image_shape == (1, 28, 28):
        return DigitFeatures()
    if PerceptualFeatures.installed() and image_shape[0] in (1, 3):
        return PerceptualFeatures()
    return ScatteringFeatures(image_shape)


@dataclass(frozen=True)
class Row:
    """What some images scored against test images."""

    kernel: float  # distance, times 1,000
    standard_error: float  # of it
    sharpness: float  # share of the fine detail of test images; about 1 for images as sharp
    psnr: float | None = None  # mean over test images in dB, of what restores them
    copying_pvalue: float | None = None  # of samples: whether they are copies of training images (see `memorisation`)

    @property
    def copies(self) -> bool:
        """Whether the test of memorisation rejects."""
        return self.copying_pvalue is not None and self.copying_pvalue < REJECTED


@dataclass(frozen=True)
class Judgement:
    """How good a model is on images that it was not fitted to."""

    features: tuple[str, str]  # name and version of those that distances are between
    n: int  # most images in a row
    n_test: int  # images that they are compared with
    rows: Mapping[str, Row]  # "training images", "decoder" and "least squares" (both of test images), and each density
    best: str | None  # density of the least kernel distance (see `best_of`)

    def summary(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {**asdict(self), "features": list(self.features)}

    @classmethod
    def of(cls, summary: Mapping[str, Any]) -> "Judgement":
        """The judgement that `summary` was taken of."""
        name, version = summary["features"]
        rows = {key: Row(**row) for key, row in summary["rows"].items()}
        return cls(**{**summary, "features": (name, version), "rows": rows})


def best_of(rows: Mapping[str, Row]) -> str | None:
    """The density of least kernel distance, "mixture" if less than a standard error behind it; copies come last."""
    rows = {key: row for key, row in rows.items() if not row.copies} or rows
    if not rows:
        return None
    best = min(rows, key=lambda key: rows[key].kernel)
    if "mixture" in rows:
        ahead = rows["mixture"].kernel - rows[best].kernel
        if ahead < max(rows["mixture"].standard_error, rows[best].standard_error):
            return "mixture"
    return best


def in_words(judgement: Judgement, n_train: int) -> str:
    """What a person may expect of a model that was fitted to `n_train` images, in a sentence or two."""
    decoder = judgement.rows[DECODER]
    look = "sharp" if decoder.sharpness >= 0.8 else "a little soft"
    if decoder.sharpness < 0.45:
        look = "soft"
    words = [f"Unseen images come back at {decoder.psnr:.1f} dB, {look}"]
    if LEAST_SQUARES in judgement.rows:
        words[0] += f" (least squares: {judgement.rows[LEAST_SQUARES].psnr:.1f} dB)"
    if n_train < 1000:
        words.append(f"{n_train:,} images are few: more would help most")
    if judgement.best is not None:
        best = judgement.rows[judgement.best]
        # Two standard errors cannot be told from nothing.
        ratio = best.kernel / max(decoder.kernel, 2 * best.standard_error, 1e-12)
        how = "about as real as" if ratio < 1.5 else f"{ratio:.1f} times as far from real ones as"
        if ratio >= 10:
            how = "much further from real ones than"
        blends = ", and each a blend of a few training images" if judgement.best.startswith("parzen") else ""
        words.append(f"New images are best from the density {judgement.best}: {how} these reconstructions{blends}")
        if copying := [key for key, row in judgement.rows.items() if row.copies]:
            words.append(f"Those of {' and '.join(copying)} are too near to training images to count as new")
    return ". ".join(words) + "."
