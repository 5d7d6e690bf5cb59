"""Two settings of the decoder: it sees codes divided by their norms, or codes as they are.

Angles and Mallat divide codes by their norms in 2018, in print and in the code that they published
(github.com/tomas-angles/generative-scattering-networks, whose codes are named "1norm"); in 2019 they no longer do.
The paper follows those of 2018 "faithfully" and does not mention norms, so the first is taken as its setting, and the
second is shown beside it.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from scattergen.diagnostics.component_grid import PAPER_VALUES, SIGMA_VALUES, component_grid
from scattergen.paper.findings import Measured
from scattergen.paper.material import Decode, Material

DECODED = "decoded training codes"
SHOWN = 64  # samples of each density
UNIT, PLAIN = "codes of unit norm", "codes as they are"
OTHER = "other_decoder"  # stage in which the decoder that is not the run's is trained


def name_of(unit_norm: bool) -> str:
    """What a page calls a setting."""
    return UNIT if unit_norm else PLAIN


def by_setting(
    results: Mapping[str, Measured], material: Material, own: Mapping[str, Any], kind: str
) -> dict[str, Mapping[str, Any]]:
    """Numbers or pictures of both settings, that of the paper first; without the other decoder, of the run's only.

    `own` are those through the run's decoder, and `kind` names the other stage's: a key of its facts, or "pictures" for
    its tensors.
    """
    found = {name_of(material.model.decoder.hyperparameters["unit_norm"]): own}
    if OTHER in results:
        other = results[OTHER]
        found[name_of(other.facts["unit_norm"])] = other.tensors if kind == "pictures" else other.facts[kind]
    return {name: found[name] for name in (UNIT, PLAIN) if name in found}


def decoded_matrices(variances: Tensor, decode: Decode) -> dict[str, Tensor]:
    """Images of Figure 1: of the paper's values of two components, and of standard deviations."""
    sigma = component_grid(variances, SIGMA_VALUES, in_sigma=True)
    return {"paper": decode(component_grid(variances, PAPER_VALUES)), "sigma": decode(sigma)}


def with_other(measured: Measured, results: Mapping[str, Measured]) -> list[Measured]:
    """What a section that shows both settings was measured by."""
    return [measured, *([results[OTHER]] if OTHER in results else [])]
