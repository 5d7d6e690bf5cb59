"""Presets: complete options of a fit, as plain dictionaries of constructor keywords."""

import copy
from collections.abc import Iterable, Iterator, Mapping
from math import floor, log2
from typing import Any

from scattergen.calls.keywords import json_value
from scattergen.errors import InputError

Options = dict[str, Any]

_FEWEST_FOR_ALL = 24  # images: the VAE holds out one code in twelve
_SHARPEN = 0.7  # more makes crisper images, less ones that are closer to real ones (docs/notes/log.md)
_IMAGES_SEEN = 60_000  # by the decoder in training: more epochs for fewer images
_ENOUGH_WITHOUT_FLIPS = 10_000  # images: mirrored ones, too, make all parts better by up to 0.6 dB where there are few


def preset(name: str, image_shape: tuple[int, int, int], n: int) -> Options:
    """Options of a fit to n training images (C, H, W), by the name of a preset: keywords, by section.

    "mnist" and "celeba" are the founding paper's settings, "celeba-light" has a decoder that two processor cores can
    train, and "celeba-2019" Angles & Mallat's later generator; "celeba" of 64×64 images is "celeba-light". "auto"
    chooses scale, number of components, widths and epochs from the images.
    """
    if name == "auto":
        return _auto(image_shape, n)
    if name == "mnist":
        return copy.deepcopy(_MNIST)
    if name not in _CELEBAS:
        known = ", ".join(f'"{known}"' for known in ("mnist", *CELEBA_PRESETS))
        raise InputError(f'There is no preset "{name}": choose {known} or "auto".')
    settings = {(3, side, side): options for side, options in _CELEBAS[name].items()}
    if image_shape not in settings:
        shapes = " or ".join("×".join(map(str, shape)) for shape in settings)
        what = f'The preset "{name}" is for images of {shapes}, not of {"×".join(map(str, image_shape))}'
        cut = "cut the centre out of CelebA's aligned images by scattergen.datasets.celeba (resized by --size 64)"
        raise InputError(f"{what}: {cut}, or use the preset auto.")
    return copy.deepcopy(settings[image_shape])


# The paper's representation and generator; codes divided by their norms, as Angles & Mallat, 2018, did. Two epochs
# more make better reconstructions by 0.4 dB, and samples as good (docs/decoder.md). Its GAN, which takes longest and
# is least good, is fitted by `scattergen reproduce`.
_MNIST: Options = {
    "encoder": {"J": 2, "L": 8, "max_order": 2, "n_components": 512},
    "decoder": {"channels": [128, 64, 32], "kernel_size": 3, "unit_norm": True},
    "training": {"epochs": 4, "batch_size": 32, "learning_rate": 2e-2},
    "densities": {"gaussian": {}, "mixture": {}, "vae": {}, "vae-improved": {}},
}

_WEIGHTS = {"initialization": "normal", "momentum": 0.9}  # of the generators of Angles & Mallat
# 128×128 crops, as in the founding paper, with the generator and the training of Angles & Mallat, 2018; its VAE and
# GAN. How long the decoder was trained is not stated but for its 27 h 45 min.
_CELEBA: Options = {
    "encoder": {"J": 4, "L": 8, "max_order": 2, "n_components": 512},
    "decoder": {"channels": [1024, 512, 256, 128, 64, 32], "kernel_size": 7, "unit_norm": True, **_WEIGHTS},
    "training": {"epochs": 50, "batch_size": 128, "learning_rate": 1e-3, "betas": [0.9, 0.999]},
    "densities": {"gaussian": {}, "mixture": {}, "vae": {"beta": 0.0025, "epochs": 96}, "gan": {"epochs": 38}},
}

# The same at half the resolution: one scale less, and a decoder with fewer and smaller filters, trained by more and
# smaller steps, on mirrored faces too; and a VAE that makes faces, beside the paper's.
_CELEBA_HALF: Options = {
    "encoder": {"J": 3, "L": 8, "max_order": 2, "n_components": 512},
    "decoder": {"channels": [192, 128, 64, 32, 16], "kernel_size": 3, "unit_norm": True},
    "training": {"epochs": 26, "batch_size": 16, "learning_rate": 2e-2, "flips": True},
    "densities": {**_CELEBA["densities"], "vae-improved": {}},
}

# That decoder with one block more, for 128×128.
_CELEBA_LIGHT: Options = {
    **_CELEBA_HALF, "encoder": _CELEBA["encoder"],
    "decoder": {"channels": [192, 128, 64, 32, 16, 8], "kernel_size": 3, "unit_norm": True},
}  # fmt: skip

# The generator of Angles & Mallat, 2019: fewer channels, smaller filters, codes as they are. Its training is taken
# to be that of 2018; J = 3 is ours.
_CELEBA_2019: Options = {
    "encoder": _CELEBA_HALF["encoder"],
    "decoder": {"channels": [512, 256, 128, 64, 32], "kernel_size": 5, **_WEIGHTS},
    "training": _CELEBA["training"], "densities": _CELEBA["densities"],
}  # fmt: skip

_CELEBAS: dict[str, dict[int, Options]] = {  # by the side of the images
    "celeba": {128: _CELEBA, 64: _CELEBA_HALF},
    "celeba-light": {128: _CELEBA_LIGHT, 64: _CELEBA_HALF},
    "celeba-2019": {64: _CELEBA_2019},
}

CELEBA_PRESETS = tuple(_CELEBAS)  # for CelebA's aligned images, which are opened by `scattergen.datasets.celeba`


def _auto(image_shape: tuple[int, int, int], n: int) -> Options:
    n_channels, height, width = image_shape
    side = min(height, width)
    if side < 8:
        remedy = "give images of at least 8x8 pixels"
        raise InputError(f"Images of {height}x{width} pixels are too small for a scattering transform: {remedy}.")
    if n < 3:
        few = f"{n} training image{'s are' if n != 1 else ' is'} too few to model"
        raise InputError(f"{few}: give at least 3, beside those that are held out for tests.")
    # About seven positions of the low-pass along the shorter side, as for the paper's 28 at J = 2 and 128 at J = 4.
    J = max(1, floor(log2(side / 7)))
    n_coefficients = n_channels * (1 + 8 * J + 32 * J * (J - 1)) * (height >> J) * (width >> J)
    flips = n <= _ENOUGH_WITHOUT_FLIPS
    channels = [min((32 if side < 64 else 16) * 2**j, 128) for j in range(J, -1, -1)]
    epochs = max(8, min(100, round(_IMAGES_SEEN / n)))
    # The winners on all kinds of own images (docs/own-images.md), and the baseline that nonlinear densities must beat.
    densities = ["gaussian", "mixture"] + (["parzen", "vae-improved"] if n >= _FEWEST_FOR_ALL else [])
    return {
        "encoder": {
            "J": J, "L": 8, "max_order": 2, "n_components": min(512, n - 2, n_coefficients), "allow_fewer": True,
            "flips": flips, "held_out": 0.1,
        },
        "decoder": {"kind": "local", "channels": channels},
        "training": {
            "epochs": epochs, "batch_size": min(16, max(2, n // 4)), "learning_rate": 1e-2, "loss": "scattering",
            "flips": flips, "shortened": 0.5, "patience": max(5, epochs // 3),
        },
        "sampling": {"n_components": "auto", "sharpen": _SHARPEN},
        "densities": {name: {} for name in densities},
    }  # fmt: skip


def changed(
    options: Mapping[str, Any], changes: Mapping[str, Any], densities: Iterable[str] | Mapping[str, Any] | None = None
) -> Options:
    """New options with some values replaced, by dotted or nested names, and these densities, if any are given.

    These are names, or keywords by name; keywords that are not given stay those of the options.
    """
    result = dict(options)
    if densities is not None:
        keywords = densities if isinstance(densities, Mapping) else {key: {} for key in densities}
        before = options["densities"]
        result["densities"] = {key: {**before.get(key, {}), **json_value(given)} for key, given in keywords.items()}
    changes = dict(_dotted(changes, result))
    result = override(result, changes)
    if "encoder.n_components" in changes and "encoder.held_out" not in changes:
        result["encoder"].pop("held_out", None)  # a number that was asked for is not changed
    return result


def _dotted(changes: Mapping[str, Any], options: Mapping[str, Any], section: str = "") -> Iterator[tuple[str, Any]]:
    """Nested changes by dotted names, as deep as the options have sections."""
    for name, value in changes.items():
        if isinstance(value, Mapping) and isinstance(options.get(name), Mapping):
            yield from _dotted(value, options[name], f"{section}{name}.")
        else:
            yield f"{section}{name}", value


def override(options: Mapping[str, Any], changes: Mapping[str, Any]) -> Options:
    """New options with some values replaced, such as {"encoder.J": 3, "densities.vae.beta": 0.01}."""
    result = copy.deepcopy(dict(options))
    for name, value in changes.items():
        *path, keyword = name.split(".")
        section = result
        for part in path:
            if not isinstance(section.get(part), dict):
                raise InputError(_no_such_option(name, part, options))
            section = section[part]
        if not path or (isinstance(section.get(keyword), dict) and not isinstance(value, dict)):
            raise InputError(_no_such_option(name, keyword, options))
        section[keyword] = json_value(value)
    return result


def _no_such_option(name: str, part: str, options: Mapping[str, Any]) -> str:
    if name.startswith("densities.") and part not in options.get("densities", {}):
        why = f"is not among the densities to fit ({', '.join(options['densities'])}): add it to these (--densities)"
        return f'There is no option "{name}", since "{part}" {why}.'
    how = f"write SECTION.NAME with one of the sections {', '.join(options)}"
    return f'There is no option "{name}": {how}, as in encoder.J=3 or densities.vae.beta=0.01.'
