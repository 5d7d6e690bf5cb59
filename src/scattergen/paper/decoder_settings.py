"""Two settings of the decoder: it sees codes divided by their norms, or codes as they are.

Angles and Mallat divide codes by their norms in 2018, in print and in the code that they published
(github.com/tomas-angles/generative-scattering-networks, whose codes are named "1norm"); in 2019
they no longer do. The paper follows those of 2018 "faithfully" and does not mention norms, so the
first is taken as its setting, and the second is shown beside it.
"""

from collections.abc import Mapping
from typing import Any

from scattergen.paper.material import Material
from scattergen.paper.measured import Measured

DECODED = "decoded training codes"
SHOWN = 64  # samples of each density
UNIT, PLAIN = "codes of unit norm", "codes as they are"
OTHER = "other_decoder"
"""Stage in which the decoder that is not the run's is trained."""


def name_of(unit_norm: bool) -> str:
    """What a page calls a setting."""
    return UNIT if unit_norm else PLAIN


def by_setting(
    results: Mapping[str, Measured], material: Material, own: Mapping[str, Any], kind: str
) -> dict[str, Mapping[str, Any]]:
    """Numbers or pictures of both settings, that of the paper first.

    Args:
        results: Of all stages; without `OTHER` only the run's setting is shown.
        material: Of the run.
        own: Those through the run's decoder.
        kind: Which of the other stage's: a key of its facts, or "pictures" for its tensors.

    Returns:
        Name of a setting to its mapping, with one or two entries.
    """
    found = {name_of(material.model.decoder.hyperparameters["unit_norm"]): own}
    if OTHER in results:
        other = results[OTHER]
        found[name_of(other.facts["unit_norm"])] = other.tensors if kind == "pictures" else other.facts[kind]
    return {name: found[name] for name in (UNIT, PLAIN) if name in found}


def with_other(measured: Measured, results: Mapping[str, Measured]) -> list[Measured]:
    """What a section that shows both settings was measured by."""
    return [measured, *([results[OTHER]] if OTHER in results else [])]
