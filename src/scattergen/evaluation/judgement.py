"""What a model scored on images that it was not fitted to, by which features, and the same in words."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scattergen.evaluation.digit_classifier import DigitFeatures
from scattergen.evaluation.features import FeatureExtractor, ScatteringFeatures
from scattergen.evaluation.memorisation import FEWEST, REJECTED
from scattergen.evaluation.perceptual import PerceptualFeatures

DECODER, LEAST_SQUARES, REAL = "decoder", "least squares", "training images"
_BLURRED = 0.3  # sharpness below which little more than coarse shapes is left
_LOOKS = ((0.8, "sharp"), (0.45, "a little soft"), (_BLURRED, "soft"), (-math.inf, "blurred"))  # from which sharpness
_STRANGE = 20.0, 0.4  # dB and SSIM below which fine detail, if there is any, is not that of the images
_TELLING = 0.1  # part of the largest distance of all rows that is little, and that two standard errors may be at most
MEASURES = ("psnr", "ssim")  # of reconstructed test images, in the order of the report's table


def default_features(image_shape: tuple[int, int, int], *, digits: bool = False) -> FeatureExtractor:
    """The best features there are for images of a shape (C, H, W).

    `DigitFeatures` for `digits`, the embedded MNIST; else perceptual ones if their weights are installed, else those of
    scattering.

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
    ssim: float | None = None  # the same, of structural similarity
    copying_pvalue: float | None = None  # of samples: whether they are copies of training images (see `memorisation`)

    @property
    def copies(self) -> bool:
        """Whether the test of memorisation rejects."""
        return self.copying_pvalue is not None and self.copying_pvalue < REJECTED


@dataclass(frozen=True)
class Judgement:
    """How good a model is on images that it was not fitted to."""

    features: Sequence[str]  # name and version of those that distances are between
    n: int  # most images in a row
    n_test: int  # images that they are compared with
    rows: Mapping[str, Row]  # "training images", "decoder" and "least squares" (both of test images), and each density
    best: str | None  # density of the least kernel distance (see `best_of`)

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> "Judgement":
        """The judgement that was stored by `asdict` as JSON."""
        rows = {key: Row(**row) for key, row in stored["rows"].items()}
        return cls(**{**stored, "rows": rows})


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
    rows, decoder = judgement.rows, judgement.rows[DECODER]
    look = next(word for least, word in _LOOKS if decoder.sharpness >= least)
    if _is_strange(decoder):
        look = "hardly to be recognized"
    far = _is_far(rows)
    words = [f"Unseen images come back at {decoder.psnr:.1f} dB, {look}{' and far from real ones' if far else ''}"]
    if LEAST_SQUARES in rows:
        words[0] += f" (least squares: {rows[LEAST_SQUARES].psnr:.1f} dB)"
    if n_train < 1000:
        words.append(f"{n_train:,} images are few: more would help most")
    if judgement.best is not None:
        blends = ", and each a blend of a few training images" if judgement.best.startswith("parzen") else ""
        how = _beside(rows[judgement.best], decoder, max(row.kernel for row in rows.values()), far)
        words.append(f"New images are best from the density {judgement.best}: {how}{blends}")
        if judgement.n_test < FEWEST:
            words.append(
                f"{judgement.n_test} test images do not tell whether they are copies: look at the nearest ones"
            )
        if copying := [key for key, row in rows.items() if row.copies]:
            words.append(f"Those of {' and '.join(copying)} are too near to training images to count as new")
    return ". ".join(words) + "."


def _is_far(rows: Mapping[str, Row]) -> bool:
    """Whether reconstructions are blurred, strange, or told from real ones and no nearer to them than least squares."""
    decoder, floor = rows[DECODER], rows.get(REAL, Row(0.0, 0.0, 1.0))
    if decoder.sharpness < _BLURRED or _is_strange(decoder):
        return True
    above = decoder.kernel - floor.kernel > _error_of(decoder, floor)
    return above and LEAST_SQUARES in rows and decoder.kernel >= rows[LEAST_SQUARES].kernel


def _is_strange(decoder: Row) -> bool:
    if decoder.psnr is None or decoder.ssim is None:
        return False
    return decoder.psnr < _STRANGE[0] and decoder.ssim < _STRANGE[1]


def _beside(best: Row, decoder: Row, largest: float, far: bool) -> str:
    """How near to real images new ones are beside reconstructions, if that can be told."""
    gap, error = best.kernel - decoder.kernel, _error_of(best, decoder)
    if gap > max(error, decoder.kernel / 2):
        ratio = best.kernel / decoder.kernel if decoder.kernel > 2 * decoder.standard_error else math.inf
        times = "much further" if ratio >= 10 else f"{ratio:.1f} times as far"
        if ratio == math.inf:  # reconstructions cannot be told from real images
            times = "a little further" if gap < _TELLING * largest else "further"
        return f"{times} from real ones {'than' if ratio >= 10 else 'as'} these reconstructions"
    if error > max(decoder.kernel, _TELLING * largest):
        return "there are too few test images to tell how real they are"
    return f"about as {'far from real ones' if far else 'real'} as these reconstructions"


def _error_of(a: Row, b: Row) -> float:
    """Two standard errors of the difference of two distances: a smaller one cannot be told from nothing."""
    return 2 * math.hypot(a.standard_error, b.standard_error)
