"""How much a scattering transform can change when an image does."""

from math import sqrt

import torch
from torch import Tensor

from scattergen.scattering.filters import FilterBank, low_frequencies

# Floats of the Gram matrices that are in memory at a time.
_GRAM_FLOATS = 2**24


def layer_bound(bank: FilterBank, level: int, scales: range) -> float:
    r"""Largest energy that a layer with wavelets of these scales, or none, makes of a unit at resolution 2^-level.

    $\max_{\|u\| = 1} \|2^J\, u \star \phi_{\downarrow J}\|^2 + \sum_{j, \theta}
    \|2^j\, u \star \psi_{j, \theta \downarrow j}\|^2$ over real u, relative to the resolution of u; some image attains
    it if no output is cropped. Without subsampling it would be the maximum of the Littlewood-Paley sum. Subsampling
    adds aliases, which mix only frequencies that differ by multiples of the outputs' sampling rate: the layer is a
    matrix for each set of these.
    """
    J, _, M, N = bank.psi.shape
    rows, columns = low_frequencies(M, level), low_frequencies(N, level)
    low_pass = torch.outer(bank.phi_rows[rows], bank.phi_columns[columns])[None]
    filters = [(low_pass, 2 ** (J - level))]
    filters += [(bank.psi[j][:, rows[:, None], columns], 2 ** (j - level)) for j in scales]
    n_aliases = 2 ** (J - level)  # along either axis
    groups = [
        (_by_aliases(spectra, n_aliases), _congruent(n_aliases, n_aliases // factor)) for spectra, factor in filters
    ]
    if not scales:  # one filter, symmetric: matrices of rank one
        return groups[0][0].square().sum((1, 2)).max().item()
    bound = 0.0
    n_sets = groups[0][0].shape[0]
    for part in torch.arange(n_sets).split(max(1, _GRAM_FLOATS // n_aliases**4)):
        gram = torch.zeros(len(part), n_aliases**2, n_aliases**2, dtype=torch.float64)
        for values, together in groups:
            gram += together * (values[part].mT @ values[part])
        bound = max(bound, torch.linalg.eigvalsh(gram)[:, -1].max().item())
    return bound


def _by_aliases(spectra: Tensor, n: int) -> Tensor:
    """Filters (F, m, n) by sets of aliases: (sets, 2F, aliases), whose squares add up to energy.

    A real image has equal energy at opposite frequencies: half of each filter is mirrored.
    """
    mirrored = spectra.flip(1, 2).roll((1, 1), (1, 2))
    both = torch.cat([spectra, mirrored]) * sqrt(0.5)
    both = both.unflatten(2, (n, -1)).unflatten(1, (n, -1))  # filters, alias, row, alias, column
    return both.permute(2, 4, 0, 1, 3).flatten(3).flatten(0, 1)


def _congruent(n: int, period: int) -> Tensor:
    """Which pairs of the n² aliases, (n², n²), meet in a spectrum that has `period` of them per axis."""
    alias = torch.arange(n)
    axis = (alias[:, None] - alias) % period == 0
    return torch.kron(axis.double(), axis.double())


def lipschitz_constant(bank: FilterBank, max_order: int = 2) -> float:
    r"""Bound c of the subsampled transform: $2^J \|Sx - Sy\| \le c\, \|x - y\|$ on the padded grid.

    Layers multiply the energy of a difference by at most their bounds, and the modulus does not enlarge it. With
    y = 0 it bounds the energy of the coefficients; 2^J makes up for their number.

    Args:
        bank: Filters of the padded grid.
        max_order: 0, 1 or 2.

    Returns:
        c, which is about 1.

    References:
        Mallat, "Group invariant scattering", 2012.

    Example:
        >>> from scattergen.scattering.filters import filter_bank
        >>> round(lipschitz_constant(filter_bank((36, 36), 2, 8)), 3)
        1.028
    """
    J = len(bank.psi)
    none = range(0)
    if max_order == 0:
        return sqrt(layer_bound(bank, 0, none))
    if max_order == 1:
        last = max(layer_bound(bank, j, none) for j in range(J))
        return sqrt(layer_bound(bank, 0, range(J)) * max(1.0, last))
    last = max(layer_bound(bank, j, none) for j in range(1, J)) if J > 1 else 1.0
    second = max(layer_bound(bank, j, range(j + 1, J)) for j in range(J))
    return sqrt(layer_bound(bank, 0, range(J)) * max(1.0, second * max(1.0, last)))
