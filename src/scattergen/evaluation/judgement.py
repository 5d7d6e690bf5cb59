"""What a model scored on images that it was not fitted to, and the same in words."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

DECODER, LEAST_SQUARES, REAL = "decoder", "least squares", "training images"
_FEW = 1000


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
        rows: "training images" (what perfect samples would score), "decoder" and "least squares" (codes of test images
            decoded), and each density.
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


def best_of(rows: Mapping[str, Row]) -> str | None:
    """The density with the least kernel distance, or "mixture" if that is less than a standard error behind."""
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
    words = [f"Unseen images come back at {decoder.psnr:.1f} dB, {_look(decoder.sharpness)}"]
    if LEAST_SQUARES in judgement.rows:
        words[0] += f" (least squares: {judgement.rows[LEAST_SQUARES].psnr:.1f} dB)"
    if n_train < _FEW:
        words.append(f"{n_train:,} images are few: more would help most")
    if judgement.best is not None:
        best = judgement.rows[judgement.best]
        # Two standard errors cannot be told from nothing.
        ratio = best.kernel / max(decoder.kernel, 2 * best.standard_error, 1e-12)
        how = "about as real as" if ratio < 1.5 else f"{ratio:.1f} times as far from real ones as"
        if ratio >= 10:
            how = "much further from real ones than"
        words.append(f"New images are best from the density {judgement.best}: {how} these reconstructions")
    return ". ".join(words) + "."


def _look(share: float) -> str:
    if share >= 0.8:
        return "sharp"
    return "a little soft" if share >= 0.45 else "soft"
