"""Where a run on CelebA departs from the paper's setting, and what that changes."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from scattergen.datasets.celeba import N_TEST, N_TRAIN
from scattergen.paper.material import Material
from scattergen.paper.page import ReproductionPage
from scattergen.paper.stage_cache import Measured
from scattergen.report.html import table, tag

_SIDE, _J, _D = 128, 4, 512
_CHANNELS, _KERNEL_SIZE = [1024, 512, 256, 128, 64, 32], 7


class Departure(NamedTuple):
    """One thing that is not as in the paper."""

    what: str
    paper: str
    here: str
    changes: str


def departures(material: Material) -> list[Departure]:
    """What differs from the paper's setting for CelebA.

    Args:
        material: Of the run.

    Returns:
        Nothing for a run in that setting.
    """
    encoder, decoder = material.model.encoder, material.model.decoder
    side, J = encoder.image_shape[1], encoder.scattering.J
    found = []
    if side != _SIDE:
        found.append(
            Departure(
                "images", f"{_SIDE}×{_SIDE}", f"{side}×{side}",
                "The finest details are not in the images, nor in any code, count or sample.",
            )
        )  # fmt: skip
    if len(material.train) != N_TRAIN:
        found.append(
            Departure(
                "training images", f"{N_TRAIN:,}", f"{len(material.train):,}",
                "With other images, all that is fitted differs: from fewer, the trailing "
                "components are less certain, decoder and densities see less variety, and as many "
                "epochs are fewer steps and less time.",
            )
        )  # fmt: skip
    if len(material.test) != N_TEST:
        found.append(
            Departure(
                "test images", f"{N_TEST:,} (Angles and Mallat)", f"{len(material.test):,}",
                "From fewer, tests have less power and distances are less precise.",
            )
        )  # fmt: skip
    if side >> J != _SIDE >> _J or J != _J:
        same = " as large a part of the face" if side >> J == _SIDE >> _J else " another part of it"
        found.append(
            Departure(
                "scale J", f"{_J}", f"{J}",
                f"Coefficients are averages over windows of {2**J} pixels, not {2**_J}:{same}.",
            )
        )  # fmt: skip
    paths = f"{3 * 417 * 64:,}"
    if encoder.n_features != 3 * 417 * 64:
        found.append(
            Departure(
                "coefficients of an image", paths, f"{encoder.n_features:,}",
                "Other coefficients have other principal components.",
            )
        )  # fmt: skip
    if encoder.whitening.n_components != _D:
        found.append(
            Departure(
                "components", f"{_D}", f"{encoder.whitening.n_components}",
                "Counts of components are out of another number.",
            )
        )  # fmt: skip
    widths, kernel = (decoder.hyperparameters[key] for key in ("channels", "kernel_size"))
    if widths != _CHANNELS or kernel != _KERNEL_SIZE:
        found.append(
            Departure(
                "decoder", _network(_CHANNELS, _KERNEL_SIZE), _network(widths, kernel),
                "A smaller decoder is trained in minutes and makes softer images, whatever the "
                "density.",
            )
        )  # fmt: skip
    return found


def _network(widths: list[int], kernel_size: int) -> str:
    return f"{', '.join(map(str, widths))} channels, {kernel_size}×{kernel_size} filters"


def proxy_sentence(material: Material) -> str:
    """What a page says at its top of a run that is not in the paper's setting.

    Args:
        material: Of the run.

    Returns:
        A sentence after a space; nothing for MNIST, and for CelebA in the paper's setting.
    """
    if material.paper.name != "celeba" or not departures(material):
        return ""
    side = material.train.shape[1]
    small = "of half the resolution, " if side == _SIDE // 2 else ""
    return (
        f" It is a proxy, not the paper’s setting: faces {small}of {side}×{side} pixels, "
        f"{len(material.train):,} training images where the paper has {N_TRAIN:,}, and what else "
        "the first section lists, with what it changes."
    )


def show(page: ReproductionPage, results: Mapping[str, Measured], material: Material) -> None:
    """Add the section on the setting."""
    found = departures(material)
    training: Mapping[str, Any] = material.run.options.get("training", {})
    words = (
        f"Epochs of this run’s decoder: {training.get('epochs', 'unknown')}. The paper says only "
        "how long its own took, 27 h 45 min, and that it has the architecture of Angles and "
        "Mallat."
    )
    if not found:
        text = "The run is in the paper’s setting, as far as the paper states it."
        page.page.section("The setting", tag("p", text), tag("p", words), note="CelebA")
        return
    header: list[object] = ["", tag("span", "paper", class_="paper"), "here", "what it changes"]
    rows: list[list[object]] = [list(departure) for departure in found]
    page.page.section(
        "A proxy",
        tag(
            "p",
            "What follows is measured on a stand-in for the paper’s CelebA. Where it agrees, it "
            "supports the paper; where it disagrees, one of these differences may be the reason.",
        ),
        tag("div", table(header, rows), class_="words"),
        tag("p", words),
        note="CelebA",
    )
