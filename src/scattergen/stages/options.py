"""The options of a fit: checked as a whole before any work, and passed to what they are for."""

import inspect
from collections.abc import Callable, Collection, Iterable, Mapping
from itertools import chain
from typing import Any, TypeVar

from torch import Tensor

from scattergen.calls.keywords import check_keywords, nearest_name
from scattergen.calls.state import seeded
from scattergen.datasets import ClassLabels, ImageSource
from scattergen.decoder.fit import DecoderTraining
from scattergen.decoder.generator import Decoder
from scattergen.decoder.local import LinearDecoder, LocalDecoder
from scattergen.densities import check_count, make, names
from scattergen.encoder.scattering_encoder import ScatteringEncoder
from scattergen.errors import InputError
from scattergen.stages import presets
from scattergen.stages.density import choice_of_key

AnyDecoder = Decoder | LocalDecoder
Images = ImageSource | Tensor
Shape = tuple[int, int, int]
Built = TypeVar("Built")

SECTIONS = ("encoder", "decoder", "training", "densities")  # that all options have; "sampling" may be missing


def options_of(
    preset: str, image_shape: Shape, n: int, given: Mapping[str, Any], short: Mapping[str, Any],
    densities: Iterable[str] | Mapping[str, Any] | None = None,
) -> presets.Options:  # fmt: skip
    """Options of a preset, or complete ones that are given, with what is given of them, by full and by short names."""
    if not isinstance(given, Mapping):
        raise InputError(f'options={given!r}: give names and values, such as {{"training.epochs": 3}}.')
    sections = {name: value for name, value in given.items() if "." not in name}
    complete = all(isinstance(sections.get(name), Mapping) for name in SECTIONS)
    base = sections if complete else presets.preset(preset, image_shape, n)
    base = presets.changed(base, {}, [densities] if isinstance(densities, str) else densities)
    changes = {name: value for name, value in given.items() if not complete or "." in name}
    local = presets.changed(base, changes)["decoder"].get("kind") == "local"
    # With how many arguments that are not the user's.
    decoder: tuple[Any, int] = (LocalDecoder, 1) if local else (Decoder, 2)
    made = {"encoder": (ScatteringEncoder, 1), "decoder": decoder, "training": (DecoderTraining, 0)}
    known = {section: [*inspect.signature(make).parameters][own:] for section, (make, own) in made.items()}
    for name, value in short.items():
        found = [section for section, names in known.items() if name in names]
        if name == "labels":
            remedy = 'give ImageArray(x, labels) as images, and ask for a density such as "mixture-by-class"'
            raise InputError(f"Labels belong to images: {remedy}.")
        if not found and (near := nearest_name(name, chain(*known.values()))):
            raise InputError(f'There is no option "{name}": "{near}" may be meant.')
        if len(found) > 1:
            both, either = " and the ".join(found), " or ".join(f"{one}.{name}" for one in found)
            how = f'in full, {either} (in Python options={{"{found[-1]}.{name}": {value!r}}})'
            raise InputError(f"{name}={value!r}: the {both} have an option of that name; write it {how}.")
        changes[".".join([*found, name])] = value
    return presets.changed(base, changes)


def check_options(
    options: Mapping[str, Any], image_shape: Shape, n: int, classes: ClassLabels | None = None, n_processes: int = 1
) -> None:
    """Refuse options that a fit to n images (C, H, W) could not use, before anything is computed or stored."""
    for section in SECTIONS:
        if not isinstance(options, Mapping) or not isinstance(options.get(section), Mapping):
            raise InputError(f'The options need a section "{section}": make them by scattergen.stages.presets.preset.')
    encoder = build("encoder", ScatteringEncoder, options["encoder"], image_shape, device="cpu")
    encoder.check_count(n)
    make_decoder(options["decoder"], LinearDecoder.shaped(encoder))
    _check_sampling(options.get("sampling", {}), encoder.whitening.n_components, options["densities"])
    build("training", DecoderTraining, options["training"]).check(n, n_processes)
    for key, keywords in options["densities"].items():
        _check_density(key, keywords, n, classes)


def _check_sampling(options: Mapping[str, Any], d: int, densities: Collection[str]) -> None:
    unknown = [name for name in options if name not in ("n_components", "density", "sharpen")]
    if unknown:
        raise InputError(f'There is no option "sampling.{unknown[0]}": there are n_components, density and sharpen.')
    strength = options.get("sharpen", 0)
    if isinstance(strength, bool) or not isinstance(strength, int | float) or not 0 <= strength <= 1:
        raise InputError(f"sampling.sharpen={strength!r}: give a number from 0 to 1.")
    density = options.get("density")
    if not isinstance(density, str | None):
        raise InputError(f"sampling.density={density!r}: give the name of a density, or null.")
    if density is not None and density not in densities and choice_of_key(density).name not in names():
        fitted = ", ".join(densities)
        raise InputError(f'sampling.density="{density}" is not among the densities to fit, {fitted}, nor one to add.')
    value = options.get("n_components")
    number = isinstance(value, int) and not isinstance(value, bool)
    if value not in (None, "auto") and not (number and 1 <= value <= d):
        raise InputError(f'sampling.n_components={value!r}: give a number from 1 to {d}, "auto" or null.')


def _check_density(key: str, keywords: Any, n: int, classes: ClassLabels | None) -> None:
    if not isinstance(keywords, Mapping):
        raise InputError(f"densities.{key}={keywords!r} names no option: write densities.{key}.NAME=VALUE.")
    choice = choice_of_key(key, keywords)
    density = make(choice.name, **choice.keywords)
    check_count(density, n)
    if not choice.by_class:
        return
    if classes is None:
        remedy = "give a folder with a sub-folder for each, or an .npz file with labels"
        raise InputError(f'The density "{key}" needs images with classes: {remedy}.')
    for label, count in zip(classes.classes, classes.labels.bincount().tolist(), strict=True):
        try:
            check_count(density, count)
        except InputError as error:
            raise InputError(f'Class "{label}": {error}') from error


def bytes_of_run(options: Mapping[str, Any], image_shape: Shape, n: int) -> int:
    """Room on the disk for encoder, codes and decoder of a fit, its checkpoints included, coefficients not."""
    encoder = build("encoder", ScatteringEncoder, options["encoder"], image_shape)
    d, linear = encoder.whitening.n_components, LinearDecoder.shaped(encoder)
    weights = sum(parameter.numel() for parameter in make_decoder(options["decoder"], linear).parameters())
    maps = sum(tensor.numel() for tensor in linear.state_dict().values())
    # A checkpoint has the weights and two moments of each, and is written beside the last one.
    return 4 * (d * encoder.n_features + (1 + encoder.flips) * n * d + maps + 6 * weights)


def make_decoder(options: Mapping[str, Any], linear: LinearDecoder, seed: int = 0) -> AnyDecoder:
    """A decoder that is yet to be trained, by its "kind" and keywords, with the seed of its weights."""
    keywords = dict(options)
    kind = keywords.pop("kind", "generator")
    with seeded(seed):
        if kind == "local":
            return build("decoder", LocalDecoder, keywords, linear)
        if kind == "generator":
            return build("decoder", Decoder, keywords, linear.n_components, linear.image_shape)
    raise InputError(f'decoder.kind="{kind}" is unknown: choose "local" or "generator".')


def build(section: str, make: Callable[..., Built], options: Mapping[str, Any], *arguments: Any, **fixed: Any) -> Built:
    """Call a constructor with positional arguments, checked keywords of a user, and keywords that are not theirs."""
    own = [*list(inspect.signature(make).parameters)[: len(arguments)], *fixed]
    check_keywords(f"the {section}", make, options, own)
    return make(*arguments, **options, **fixed)
