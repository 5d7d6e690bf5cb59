"""Where a run on CelebA departs from the paper's setting, and what that changes."""

from collections.abc import Mapping
from typing import NamedTuple

from scattergen.datasets.published import N_TEST, N_TRAIN
from scattergen.paper.findings import Measured, Section
from scattergen.paper.material import Material

_SIDE, _J, _D = 128, 4, 512
_COEFFICIENTS = 3 * 417 * 64
_CHANNELS, _KERNEL_SIZE = [1024, 512, 256, 128, 64, 32], 7


class Departure(NamedTuple):
    """One thing that is not as in the paper."""

    what: str
    paper: str
    here: str
    changes: str


def departures(material: Material) -> list[Departure]:
    """What differs from the paper's setting for CelebA: nothing for a run in it."""
    encoder, decoder = material.model.encoder, material.model.decoder
    side, J = encoder.image_shape[1], encoder.scattering.J
    widths, kernel = (decoder.hyperparameters[key] for key in ("channels", "kernel_size"))
    same = side >> J == _SIDE >> _J
    rows = [
        (
            side != _SIDE, "images", f"{_SIDE}×{_SIDE}", f"{side}×{side}",
            "The finest details are not in the images, nor in any code, count or sample.",
        ), (
            len(material.train) != N_TRAIN,
            "training images", f"{N_TRAIN:,}", f"{len(material.train):,}",
            "With other images, all that is fitted differs: from fewer, the trailing components are less certain, "
            "decoder and densities see less variety, and as many epochs are fewer steps and less time.",
        ), (
            len(material.test) != N_TEST,
            "test images", f"{N_TEST:,} (Angles and Mallat)", f"{len(material.test):,}",
            "From fewer, tests have less power and distances are less precise.",
        ), (
            not same or J != _J, "scale J", f"{_J}", f"{J}",
            f"Coefficients are averages over windows of {2**J} pixels, not {2**_J}: "
            f"{'as large a part of the face' if same else 'another part of it'}.",
        ), (
            encoder.n_features != _COEFFICIENTS,
            "coefficients of an image", f"{_COEFFICIENTS:,}", f"{encoder.n_features:,}",
            "Other coefficients have other principal components.",
        ), (
            encoder.whitening.n_components != _D,
            "components", f"{_D}", f"{encoder.whitening.n_components}",
            "Counts of components are out of another number.",
        ), (
            (widths, kernel) != (_CHANNELS, _KERNEL_SIZE),
            "decoder", _network(_CHANNELS, _KERNEL_SIZE), _network(widths, kernel),
            "A smaller decoder is trained in minutes and makes softer images, whatever the density.",
        ),
    ]  # fmt: skip
    return [Departure(*row) for differs, *row in rows if differs]


def _network(widths: list[int], kernel_size: int) -> str:
    return f"{', '.join(map(str, widths))} channels, {kernel_size}×{kernel_size} filters"


def show(results: Mapping[str, Measured], material: Material) -> Section:
    """Where the run departs from the paper's setting."""
    epochs = material.run.options.get("training", {}).get("epochs", "unknown")
    found = {"departures": departures(material), "epochs": epochs, "n_train": N_TRAIN}
    return Section("paper_setting", shown=found)
