"""The stage of a fit that finds what new images are made from: leading components of codes, and sharpening."""

import warnings
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from scattergen.decoder.augmentation import fewest_leading
from scattergen.decoder.sharpening import Sharpening
from scattergen.densities import make
from scattergen.evaluation import FeatureExtractor, default_features, kernel_distance
from scattergen.progress import SILENT, Progress
from scattergen.runs import Result, Stages
from scattergen.stages.options import AnyDecoder, Images
from scattergen.stages.presets import Options

_SHARPENING_IMAGES = 1000  # that the power of frequencies is measured on
_MOST_SAMPLES, _LEAST_SAMPLES = 400, 100
_MOST_IMAGES = 1000
_MOST_CODES = 10_000  # that the trial densities are fitted to
_FEWEST_CODES = 100


def fit_sampling(
    decoder: AnyDecoder, options: Options, codes: Tensor, images: Images, stages: Stages, *, seed: int
) -> tuple[int | None, Sharpening | None]:
    """What new images are made from: the number of leading components, as asked or best, and sharpening.

    None stands for all components, and for no sharpening.
    """
    if "sampling" not in options:
        return None, None
    asked = options["sampling"].get("n_components")
    sharpened = options["sampling"].get("sharpen", 0) > 0

    def choose(_: Path | None) -> Result:
        gains = {"gains": _gains(decoder, codes, images)} if sharpened else {}
        if asked != "auto":
            n = codes.shape[1] if asked is None else min(int(asked), codes.shape[1])
            return Result(gains, facts={"n_components": n})
        extract = default_features(decoder.image_shape)
        n, kernel = choose_leading(decoder, codes, images, extract, seed, stages.progress)
        tried = {str(m): value for m, value in kernel.items()}
        features = [extract.name, extract.version]
        return Result(gains, facts={"n_components": n, "features": features, "kernel": tried})

    depends = {"n_components": asked, "seed": seed, "sharpened": sharpened}
    result = stages.get("sampling", depends, choose, ["decoder"])
    sharpening = Sharpening(result.tensors["gains"]) if sharpened else None
    return result.facts["n_components"], sharpening


def _gains(decoder: AnyDecoder, codes: Tensor, images: Images) -> Tensor:
    some = torch.linspace(0, len(codes) - 1, min(len(codes), _SHARPENING_IMAGES)).round().long()
    made = [decoder.decode(part.to(decoder.device)).cpu() for part in codes[some].split(100)]
    return Sharpening.fit(images[some], torch.cat(made)).gains


def choose_leading(
    decoder: AnyDecoder,
    codes: Tensor,
    images: Images,
    extract: FeatureExtractor,
    seed: int = 0,
    progress: Progress = SILENT,
) -> tuple[int, dict[int, float]]:
    """The number of leading components of codes (N, d) from which a quickly fitted density makes the best images.

    A density does better with fewer components to model, and an image with more that its decoder is told: the best
    number lies between.  Mixtures are fitted to 4, 8, 16 … d components, as the decoder's training with `shortened`
    codes allows, and their decoded samples compared with the last tenth of the images, which decoders are not trained
    on by default.  With fewer than 100 codes to judge by, all components are chosen.

    Returned are the number, and for each that was tried the kernel distance (times 1,000) of new from held-out images.
    """
    n, d = codes.shape
    if n < _FEWEST_CODES:
        return d, {}
    n_held_out, n_samples = _sizes(n)
    held_out = torch.linspace(n - max(1, n // 10), n - 1, n_held_out).long()
    real = extract(images[held_out])
    some = codes[torch.linspace(0, n - 1, min(n, _MOST_CODES)).long()]
    numbers = _numbers(d)
    found = {}
    with progress.task("choose leading components", len(numbers)) as task:
        for m in numbers:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of trials
                drawn = make("mixture").fit(some[:, :m], seed=seed).sample(n_samples, seed=seed)
            z = functional.pad(drawn, (0, d - m))
            made = [decoder.decode(part.to(decoder.device)).cpu() for part in z.split(100)]
            distance = kernel_distance(real, extract(torch.cat(made)))
            found[m] = (1000 * distance.value, 1000 * distance.standard_error)
            task.advance(1, f"{m}: {1000 * distance.value:.0f}")
    best, error = min(found.values(), key=lambda score: score[0])
    chosen = min(m for m, (value, _) in found.items() if value <= best + error / 2)
    progress.message(f"  densities are fitted to the {chosen} leading components of {d}")
    return chosen, {m: value for m, (value, _) in found.items()}


def trial_sizes(n: int, d: int) -> tuple[int, int]:
    """How many images a choice for n codes of d components decodes, and how many real ones it looks at.

    Example:
        >>> trial_sizes(7000, 512)
        (2400, 700)
    """
    if n < _FEWEST_CODES:
        return 0, 0
    n_held_out, n_samples = _sizes(n)
    return n_samples * len(_numbers(d)), n_held_out


def _sizes(n: int) -> tuple[int, int]:
    """Held-out images and samples that are compared."""
    n_held_out = min(max(1, n // 10), _MOST_IMAGES)
    return n_held_out, min(_MOST_SAMPLES, max(_LEAST_SAMPLES, n_held_out))


def _numbers(d: int) -> list[int]:
    """Numbers of leading components that are tried."""
    return sorted({min(fewest_leading(d) * 2**k, d) for k in range(12)})
