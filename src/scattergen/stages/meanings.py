"""Which options there are, their values, and what they mean, by the signatures and docstrings of what takes them."""

import inspect
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from scattergen.decoder.fit import DecoderTraining
from scattergen.decoder.generator import Decoder
from scattergen.decoder.local import LocalDecoder
from scattergen.densities import density_class
from scattergen.encoder.scattering_encoder import ScatteringEncoder
from scattergen.errors import ScattergenError
from scattergen.stages.density import choice_of_key
from scattergen.stages.presets import preset
from scattergen.training import TrainingSettings

_ELSEWHERE: dict[str, Callable[..., Any]] = {"TrainingSettings": TrainingSettings, "Decoder": Decoder}
BY_IMAGES = "chosen by the images"  # in place of a value
# Images that presets have options for; those of the preset auto differ with them.
_IMAGES: dict[str, list[tuple[tuple[int, int, int], int]]] = {
    "auto": [((3, 64, 64), 20_000), ((1, 32, 32), 100)], "celeba-2019": [((3, 64, 64), 60_000)]
}  # fmt: skip
# What no docstring says: options with their values if none is given, and their meanings.
_OTHERS: dict[str, tuple[Any, str]] = {
    "decoder.kind": ("generator", '"local", for anybody\'s images, or "generator", that of Angles & Mallat'),
    "sampling.n_components": (None, 'Leading components that densities model, "auto" to try numbers, or null for all'),
    "sampling.density": (None, "Which is sampled if none is named; null for the best by measurement"),
    "sampling.sharpen": (0, "How crisp new images are made, from 0 to 1"),
}


class KnownOption(NamedTuple):
    """An option that `--set` takes: its name, its value, for JSON, and its meaning."""

    name: str
    value: Any
    meaning: str


def fit_options(name: str) -> list[KnownOption]:
    """All options of a fit with their values in a preset."""
    presets = [preset(name, *images) for images in _IMAGES.get(name, [((3, 128, 128), 60_000)])]
    kind = presets[0]["decoder"].get("kind", "generator")
    known, found = _known(kind), []
    for option in sorted(known, key=lambda one: [*presets[0], "sampling"].index(one.partition(".")[0])):
        (section, _, keyword), (default, meaning) = option.partition("."), known[option]
        values = [options.get(section, {}).get(keyword, default) for options in presets]
        same = all(value == values[0] for value in values)
        found.append(KnownOption(option, values[0] if same else BY_IMAGES, meaning))
    return found


def density_options(key: str) -> list[KnownOption]:
    """The options of a density by its name, or with the values of a key such as "vae-improved"."""
    choice = choice_of_key(key)
    known = _defaults(density_class(choice.name)).items()
    return [KnownOption(name, choice.keywords.get(name, value), meaning) for name, (value, meaning) in known]


def default_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Values of what the options of a fit leave unsaid, by full names, in the sections that it has."""
    known = {name: default for name, (default, _) in _known(options.get("decoder", {}).get("kind")).items()}
    found = {name: default for name, default in known.items() if name.partition(".")[0] in options}
    for key in options.get("densities", {}):
        with suppress(ScattergenError):  # of a plugin that is not installed here
            found |= {f"densities.{key}.{option.name}": option.value for option in density_options(key)}
    return found


def _known(kind: str | None) -> dict[str, tuple[Any, str]]:
    """The options of a fit with a kind of decoder, to their defaults and meanings."""
    decoder = LocalDecoder if kind == "local" else Decoder
    owners = {"encoder": ScatteringEncoder, "decoder": decoder, "training": DecoderTraining}
    known = {f"{section}.{one}": said for section, owner in owners.items() for one, said in _defaults(owner).items()}
    return known | _OTHERS


def _defaults(owner: Callable[..., Any]) -> dict[str, tuple[Any, str]]:
    """Keyword to its default and its meaning, of those that users may set."""
    said = _meanings(owner)
    parameters = inspect.signature(owner).parameters.values()
    free = [one for one in parameters if one.default is not one.empty and one.name != "device"]
    return {one.name: (one.default, said.get(one.name, "")) for one in free}


def _meanings(owner: Callable[..., Any]) -> dict[str, str]:
    """The first sentence on each argument in the section Args of a docstring."""
    section = (inspect.getdoc(owner) or "").partition("Args:\n")[2].partition("\n\n")[0]
    found = {}
    for names, text in re.findall(r"^    (\w[\w, ]*): (.*(?:\n {8}.*)*)", section, re.MULTILINE):
        sentence = re.split(r"\.(?= [A-Z]|$)", re.sub(r"\s+", " ", text))[0]
        other = re.fullmatch(r"As (?:in|of) `(?:\w+\.)*(\w+)`", sentence)
        shown = re.sub(r"\bNone\b", "null", re.sub("[`$]", "", sentence))  # as `--set` takes it
        for name in names.split(", "):
            found[name] = shown if other is None else _meanings(_ELSEWHERE[other[1]]).get(name, "")
    return found
