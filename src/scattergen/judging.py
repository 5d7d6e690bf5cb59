"""How good a fitted model is: its decoder beside least squares, and which density is the best."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scattergen.datasets import ImageSource, Subset
from scattergen.evaluation import default_features, kernel_distance
from scattergen.image_quality import psnr, sharpness
from scattergen.model import GenerativeScatteringNetwork
from scattergen.progress import SILENT, Progress

_MOST, _LEAST = 1000, 100  # images in a row
FEWEST_TEST_IMAGES = 3  # that a kernel distance is of

DECODER, LEAST_SQUARES, REAL = "decoder", "least squares", "training images"


@dataclass(frozen=True)
class Row:
    """What some images scored against test images.

    Attributes:
        kernel: Kernel distance, times 1,000.
        standard_error: Of it.
        sharpness: Share of the fine detail of test images; about 1 for images as sharp.
        psnr: Mean over test images in dB, of what restores them; else None.
    """

    kernel: float
    standard_error: float
    sharpness: float
    psnr: float | None = None


@dataclass(frozen=True)
class Judgement:
    """How good a model is on images that it was not fitted to.

    Attributes:
        features: Name and version of the features that distances are between.
        n: Most images in a row.
        n_test: Test images that they are compared with.
        rows: "training images" (what perfect samples would score), "decoder" and "least squares"
            (codes of test images decoded), and each density.
        best: Density of the least kernel distance; "mixture" if none is better by a standard error.
    """

    features: tuple[str, str]
    n: int
    n_test: int
    rows: Mapping[str, Row]
    best: str | None

    def summary(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {**asdict(self), "features": list(self.features)}

    @classmethod
    def of(cls, summary: Mapping[str, Any]) -> "Judgement":
        """The judgement that `summary` was taken of."""
        name, version = summary["features"]
        rows = {key: Row(**row) for key, row in summary["rows"].items()}
        return cls(**{**summary, "features": (name, version), "rows": rows})


def judge(
    model: GenerativeScatteringNetwork,
    train: ImageSource,
    test: ImageSource | None,
    *,
    digits: bool = False,
    seed: int = 0,
    progress: Progress = SILENT,
) -> Judgement | None:
    """Score a model's reconstructions and samples against test images.

    Features are those of photographs if their weights are installed, else scattering features.

    Args:
        model: Fitted.
        train: The images that it was fitted to.
        test: Others, of which up to 1,000 are used.
        digits: Whether they are the embedded MNIST, for which there are features of digits.
        seed: Of samples and choices.
        progress: Where to report.

    Returns:
        The scores; None with fewer than 3 test images.
    """
    if test is None or len(test) < FEWEST_TEST_IMAGES:
        return None
    extract = default_features(model.decoder.image_shape, digits=digits)
    real = choose(test, _MOST, seed)[:]
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
            rows[REAL] = row(choose(train, _MOST, seed)[:])
        task.advance()
        for name, images in restored.items():
            rows[name] = row(images, restores=True)
            task.advance()
        for key in model.densities:
            rows[key] = row(model.sample(min(_MOST, max(_LEAST, len(real))), key, seed))
            task.advance(1, key)
    best = best_of({key: rows[key] for key in model.densities})
    return Judgement((extract.name, extract.version), _MOST, len(real), rows, best)


def best_of(rows: Mapping[str, Row]) -> str | None:
    """The density with the least kernel distance, if that is no accident.

    Args:
        rows: Density to its scores.

    Returns:
        "mixture", which is fitted in seconds, unless another is better by a standard error.

    Example:
        >>> scores = {"mixture": Row(2.0, 0.5, 1.0), "vae": Row(1.8, 0.5, 1.0)}
        >>> best_of(scores), best_of({**scores, "vae": Row(1.2, 0.5, 1.0)})
        ('mixture', 'vae')
    """
    if not rows:
        return None
    best = min(rows, key=lambda key: rows[key].kernel)
    if "mixture" in rows:
        ahead = rows["mixture"].kernel - rows[best].kernel
        if ahead < max(rows["mixture"].standard_error, rows[best].standard_error):
            return "mixture"
    return best


def choose(source: ImageSource, n: int, seed: int) -> ImageSource:
    """Some n images of a source, or all of fewer.

    Args:
        source: Of images.
        n: How many.
        seed: Of the choice.

    Returns:
        In the order of the source.
    """
    return source if n >= len(source) else Subset(source, numbers(len(source), n, seed))


def numbers(N: int, n: int, seed: int) -> Tensor:
    """Numbers of n of N images, all if there are fewer; without order, neighbours being alike.

    Args:
        N: Number of images.
        n: How many to choose.
        seed: Of the choice.

    Returns:
        Sorted, (min(n, N),).

    Example:
        >>> numbers(3, 5, 0)
        tensor([0, 1, 2])
    """
    if n >= N:
        return torch.arange(N)
    return torch.from_numpy(np.random.default_rng(seed).choice(N, n, replace=False)).sort().values


def in_words(judgement: Judgement, n_train: int) -> str:
    """What a person may expect of a model, in a sentence or two.

    Args:
        judgement: Of the model.
        n_train: Images it was fitted to.

    Returns:
        Plain text.

    Example:
        >>> rows = {"decoder": Row(90.0, 5.0, 0.3, 24.2), "mixture": Row(300.0, 9.0, 0.3)}
        >>> in_words(Judgement(("scattering", "1"), 1000, 30, rows, "mixture"), 270)
        'Unseen images come back at 24.2 dB, soft. 270 images are few: more would help most. ...'
    """
    decoder = judgement.rows[DECODER]
    words = [f"Unseen images come back at {decoder.psnr:.1f} dB, {_look(decoder.sharpness)}"]
    if LEAST_SQUARES in judgement.rows:
        words[0] += f" (least squares: {judgement.rows[LEAST_SQUARES].psnr:.1f} dB)"
    if n_train < _FEW:
        words.append(f"{n_train:,} images are few: more would help most")
    if judgement.best is not None:
        best = judgement.rows[judgement.best]
        ratio = best.kernel / max(decoder.kernel, best.standard_error, 1e-12)
        how = "about as real as" if ratio < 1.5 else f"{ratio:.1f} times as far from real ones as"
        if ratio >= 10:
            how = "much further from real ones than"
        words.append(
            f"New images are best from the density {judgement.best}: {how} these reconstructions"
        )
    return ". ".join(words) + "."


_FEW = 1000


def _look(share: float) -> str:
    if share >= 0.8:
        return "sharp"
    return "a little soft" if share >= 0.45 else "soft"
