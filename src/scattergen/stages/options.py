"""The options of a fit: checked as a whole before any work, and passed to what they are for."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch

from scattergen.datasets import ClassLabels
from scattergen.decoder.fit import DecoderTraining
from scattergen.decoder.generator import Decoder
from scattergen.decoder.linear import LinearDecoder
from scattergen.decoder.local import LocalDecoder
from scattergen.densities import Density, check_count, make
from scattergen.encoder.scattering_encoder import ScatteringEncoder
from scattergen.errors import InputError
from scattergen.keywords import check_keywords
from scattergen.stages.density_keys import choice_of_key
from scattergen.stages.leading import check_leading_option

Built = TypeVar("Built")

SECTIONS = ("encoder", "decoder", "training", "densities")


def check_options(
    options: Mapping[str, Any],
    image_shape: tuple[int, int, int],
    n: int,
    classes: ClassLabels | None = None,
    n_processes: int = 1,
) -> None:
    """Refuse options that a fit could not use, before anything is computed or stored.

    Args:
        options: Keywords of `ScatteringEncoder`, the decoder, `DecoderTraining` and the densities,
            in the sections "encoder", "decoder", "training" and "densities"; and perhaps
            "sampling", with the number "n_components" of leading components that densities model.
        image_shape: (C, H, W).
        n: Number of training images.
        classes: Of the images, if they have labels.
        n_processes: That fit together.

    Raises:
        InputError: If a section, a keyword or a value cannot be used, or the images are too few or
            lack labels.

    Example:
        >>> from scattergen.stages.presets import preset
        >>> check_options(preset("auto", (1, 16, 16), 100), (1, 16, 16), 100)
    """
    for section in SECTIONS:
        if not isinstance(options, Mapping) or not isinstance(options.get(section), Mapping):
            raise InputError(f'The options need a section "{section}": make them by scattergen.stages.presets.preset.')
    encoder = build("encoder", ScatteringEncoder, options["encoder"], image_shape, device="cpu")
    encoder.check_count(n)
    make_decoder(options["decoder"], LinearDecoder.shaped(encoder))
    check_leading_option(options.get("sampling", {}), encoder.whitening.n_components)
    build("training", DecoderTraining, options["training"]).check(n, n_processes)
    for name, keywords in options["densities"].items():
        if not isinstance(keywords, Mapping):
            raise InputError(f"densities.{name}={keywords!r} names no option: write densities.{name}.NAME=VALUE.")
        choice = choice_of_key(name, keywords)
        density = make(choice.name, **choice.keywords)
        check_count(density, n)
        if choice.by_class and classes is not None:
            for label, count in zip(classes.classes, classes.labels.bincount().tolist(), strict=True):
                _of_class(label, density, count)
        elif choice.by_class:
            raise InputError(
                f'The density "{name}" needs images with classes: give a folder with a sub-folder '
                "for each, or an .npz file with labels."
            )


def bytes_of_run(options: Mapping[str, Any], image_shape: tuple[int, int, int], n: int) -> int:
    """Room that encoder, codes and decoder of a fit take on the disk.

    Args:
        options: As of `check_options`.
        image_shape: (C, H, W).
        n: Number of training images.

    Returns:
        Bytes, with the checkpoints of the decoder's training and without coefficients.

    Example:
        >>> from scattergen.stages.presets import preset
        >>> bytes_of_run(preset("auto", (1, 16, 16), 100), (1, 16, 16), 100) > 1_000_000
        True
    """
    encoder = build("encoder", ScatteringEncoder, options["encoder"], image_shape)
    d = encoder.whitening.n_components
    linear = LinearDecoder.shaped(encoder)
    decoder = make_decoder(options["decoder"], linear)
    weights = sum(parameter.numel() for parameter in decoder.parameters())
    maps = sum(tensor.numel() for tensor in linear.state_dict().values())
    # A checkpoint has the weights and two moments of each, and is written beside the last one.
    return 4 * (d * encoder.n_features + (1 + encoder.flips) * n * d + maps + 6 * weights)


def make_decoder(options: Mapping[str, Any], linear: LinearDecoder, seed: int = 0) -> Decoder | LocalDecoder:
    """A decoder that is yet to be trained.

    Args:
        options: "kind" ("generator", the default, or "local"), and keywords of `Decoder` or
            `LocalDecoder`.
        linear: Least squares from the codes.
        seed: Of its weights; the caller's generator is left as it was.

    Returns:
        The decoder.

    Raises:
        InputError: If the kind, a keyword or a value cannot be used.

    Example:
        >>> encoder = ScatteringEncoder((1, 16, 16), n_components=8)
        >>> make_decoder({"channels": [8, 4]}, LinearDecoder.shaped(encoder)).start_grid
        (8, 8)
    """
    keywords = dict(options)
    kind = keywords.pop("kind", "generator")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        if kind == "local":
            return build("decoder", LocalDecoder, keywords, linear)
        if kind == "generator":
            shape = linear.image_shape
            return build("decoder", Decoder, keywords, linear.n_components, shape)
    raise InputError(f'decoder.kind="{kind}" is unknown: choose "local" or "generator".')


def _of_class(label: str, density: Density, count: int) -> None:
    try:
        check_count(density, count)
    except InputError as error:
        raise InputError(f'Class "{label}": {error}') from error


def stage_of(option: str) -> str | None:
    """The stage of a fit that an option concerns.

    Args:
        option: Name with its section, such as "training.epochs".

    Returns:
        Name of the stage; None for what concerns all of them.

    Example:
        >>> stage_of("training.epochs"), stage_of("densities.vae.beta"), stage_of("seed")
        ('decoder', 'densities/vae', None)
    """
    section, *rest = option.split(".")
    if section == "densities" and rest:
        return f"densities/{rest[0]}"
    stages = {"encoder": "encoder", "decoder": "decoder", "training": "decoder"}
    return {**stages, "sampling": "sampling"}.get(section)


def build(section: str, make: Callable[..., Built], options: Mapping[str, Any], *arguments: Any, **fixed: Any) -> Built:
    """Call a constructor or function with keywords that a user chose.

    Args:
        section: Name of these options, for messages.
        make: What to call.
        options: The user's keywords.
        *arguments: Positional arguments.
        **fixed: Keywords that are not the user's to choose.

    Returns:
        The result of the call.

    Raises:
        InputError: If `make` does not know one of the options, or its value has another type.

    Example:
        >>> def double(x: int, times: int = 1) -> int:
        ...     return x * 2**times
        >>> build("doubling", double, {"times": 3}, 1)
        8
    """
    own = [*list(inspect.signature(make).parameters)[: len(arguments)], *fixed]
    check_keywords(f"the {section}", make, options, own)
    return make(*arguments, **options, **fixed)
