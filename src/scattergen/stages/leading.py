"""From how many leading components new images are made."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scattergen.datasets import ImageSource
from scattergen.decoder.augmentation import fewest_leading
from scattergen.decoder.generator import Decoder
from scattergen.decoder.local import LocalDecoder
from scattergen.densities import make
from scattergen.errors import InputError
from scattergen.evaluation import FeatureExtractor, kernel_distance
from scattergen.progress import SILENT, Progress

_MOST_SAMPLES, _LEAST_SAMPLES = 400, 100
_MOST_IMAGES = 1000
_MOST_CODES = 10_000  # that the trial densities are fitted to
FEWEST_CODES = 100


@dataclass(frozen=True)
class LeadingChoice:
    """How many leading components densities are fitted to.

    Attributes:
        n_components: The number.
        kernel: Number to the kernel distance (times 1,000) of new images from held-out ones.
    """

    n_components: int
    kernel: Mapping[int, float]


def choose_leading(
    decoder: Decoder | LocalDecoder,
    codes: Tensor,
    images: ImageSource | Tensor,
    extract: FeatureExtractor,
    *,
    device: str = "cpu",
    seed: int = 0,
    progress: Progress = SILENT,
) -> LeadingChoice:
    """The number of leading components from which a quickly fitted density makes the best images.

    A density is the better the fewer components it has to model, and an image the better the more
    its decoder is told: the best number lies between.  Mixtures are fitted to 4, 8, 16 … d
    components, as the decoder's training with `shortened` codes allows, and their decoded samples
    compared with the last tenth of the images, which decoders are not trained on by default.

    Args:
        decoder: Trained.
        codes: (N, d).
        images: The N images.
        extract: Features that distances are between.
        device: Where the decoder is.
        seed: Of the trials.
        progress: Where to report.

    Returns:
        The choice; all components where there are fewer than 100 codes to judge by.
    """
    n, d = codes.shape
    if n < FEWEST_CODES:
        return LeadingChoice(d, {})
    n_held_out, n_samples = _sizes(n)
    held_out = torch.linspace(n - max(1, n // 10), n - 1, n_held_out).long()
    real = extract(images[held_out])
    some = codes[torch.linspace(0, n - 1, min(n, _MOST_CODES)).long()]
    numbers = _numbers(d)
    found: dict[int, tuple[float, float]] = {}
    with progress.task("choose leading components", len(numbers)) as task:
        for m in numbers:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of trials
                drawn = make("mixture").fit(some[:, :m], seed=seed).sample(n_samples, seed=seed)
            z = torch.nn.functional.pad(drawn, (0, d - m))
            made = [decoder.decode(part.to(device)).cpu() for part in z.split(100)]
            distance = kernel_distance(real, extract(torch.cat(made)))
            found[m] = (1000 * distance.value, 1000 * distance.standard_error)
            task.advance(1, f"{m}: {1000 * distance.value:.0f}")
    best = min(found, key=lambda m: found[m][0])
    within = found[best][0] + found[best][1] / 2
    chosen = min(m for m, (value, _) in found.items() if value <= within)
    progress.message(f"  densities are fitted to the {chosen} leading components of {d}")
    return LeadingChoice(chosen, {m: value for m, (value, _) in found.items()})


def _sizes(n: int) -> tuple[int, int]:
    """Held-out images and samples that are compared."""
    n_held_out = min(max(1, n // 10), _MOST_IMAGES)
    return n_held_out, min(_MOST_SAMPLES, max(_LEAST_SAMPLES, n_held_out))


def _numbers(d: int) -> list[int]:
    """Numbers of leading components that are tried."""
    return sorted({min(fewest_leading(d) * 2**k, d) for k in range(12)})


def trial_sizes(n: int, d: int) -> tuple[int, int]:
    """How many images a choice decodes, and how many real ones it looks at.

    Args:
        n: Number of codes.
        d: Their components.

    Returns:
        Both numbers.

    Example:
        >>> trial_sizes(7000, 512)
        (2400, 700)
    """
    if n < FEWEST_CODES:
        return 0, 0
    n_held_out, n_samples = _sizes(n)
    return n_samples * len(_numbers(d)), n_held_out


def check_leading_option(options: Mapping[str, Any], d: int) -> None:
    """Refuse a number of leading components that there cannot be.

    Args:
        options: The section "sampling": "n_components" is a number, "auto", or null for all;
            "density" the key of the one that is sampled by default; "sharpen" the strength of
            sharpening, from 0 to 1.
        d: Most components that codes can have.

    Raises:
        InputError: If it is none of these.

    Example:
        >>> check_leading_option({"n_components": "auto"}, 64)
    """
    unknown = [name for name in options if name not in ("n_components", "density", "sharpen")]
    if unknown:
        raise InputError(f'There is no option "sampling.{unknown[0]}": there are n_components, density and sharpen.')
    strength = options.get("sharpen", 0)
    number = isinstance(strength, int | float) and not isinstance(strength, bool)
    if not number or not 0 <= strength <= 1:
        raise InputError(f"sampling.sharpen={strength!r}: give a number from 0 to 1.")
    value = options.get("n_components")
    if value is None or value == "auto":
        return
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= d:
        raise InputError(f'sampling.n_components={value!r}: give a number from 1 to {d}, "auto" or null.')
