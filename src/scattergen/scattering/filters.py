"""Morlet wavelets and the Gaussian low-pass of the scattering transform, built in Fourier, and bounds of the energy."""

from dataclasses import dataclass
from functools import lru_cache
from math import ceil, cos, floor, hypot, pi, sin, sqrt

import numpy as np
import torch
from torch import Tensor

from scattergen.calls.state import usual_state

# By Poisson's formula, a filter sampled on a periodic grid has as its discrete Fourier transform the sum of the
# 2π-translates of its continuous one. All filters here are (differences of) Gaussians in Fourier: exact to rounding.

SIGMA = 0.8  # spatial standard deviation of the finest envelope, in pixels
XI = 3 * pi / 4  # centre frequency of the finest wavelet, in radians per pixel
# Translates of a Gaussian that are more standard deviations away than this contribute less than exp(-9.5²/2) = 3e-20,
# below float64 rounding of a filter whose maximum is about 1.
_REACH = 9.5
_GRAM_FLOATS = 2**24  # of Gram matrices in memory at a time


@dataclass(frozen=True, eq=False)
class FilterBank:
    """Fourier-domain filters of one padded grid (M, N), real, in float64; the 2-D low-pass is the outer product."""

    psi: Tensor  # wavelets, (J, L, M, N)
    phi_rows: Tensor  # low-pass along the rows' axis, (M,)
    phi_columns: Tensor  # along the columns' axis, (N,)


def _bins(size: int, centre: float, deviation: float) -> Tensor:
    """Bins of all periods of a spectrum in which a Gaussian matters, int64."""
    bins = size / (2 * pi)
    low, high = centre - _REACH * deviation, centre + _REACH * deviation
    return torch.arange(ceil(low * bins), floor(high * bins) + 1)


def _exp(x: Tensor) -> Tensor:
    # PyTorch's are computed by several threads, and in about one fresh process of 25 the bank had other last bits:
    # enough that a resumed fit differs from an uninterrupted one.
    return torch.from_numpy(np.exp(x.numpy()))


def gaussian(size: int, sigma: float) -> Tensor:
    r"""Spectrum of a periodised Gaussian of unit mass, (size,): $\sum_k e^{-\sigma^2 (\omega + 2\pi k)^2 / 2}$."""
    bins = _bins(size, 0.0, 1 / sigma)
    values = _exp(-0.5 * (2 * pi / size * sigma * bins.double()) ** 2)
    return values.new_zeros(size).index_add_(0, bins % size, values)


def morlet(shape: tuple[int, int], sigma: float, theta: float, xi: float, slant: float) -> Tensor:
    r"""Spectrum (M, N) of a periodised Morlet wavelet of direction theta, in radians from the rows' axis.

    $\hat g(\omega - \xi u_\theta) - \kappa\, \hat g(\omega)$, where $\hat g(\omega) =
    e^{-\sigma^2 (\omega_\parallel^2 + \omega_\perp^2 / s^2) / 2}$, s is the slant, and κ makes the mean zero.
    """
    # Standard deviations along and across the wave, and of the envelope's shadow on either axis.
    along, across = 1 / sigma, slant / sigma
    shadow = (hypot(along * cos(theta), across * sin(theta)), hypot(along * sin(theta), across * cos(theta)))

    def envelope(centre: float) -> Tensor:
        rows = _bins(shape[0], centre * cos(theta), shadow[0])
        columns = _bins(shape[1], centre * sin(theta), shadow[1])
        x = (2 * pi / shape[0] * rows.double() - centre * cos(theta)).reshape(-1, 1)
        y = 2 * pi / shape[1] * columns.double() - centre * sin(theta)
        u = (cos(theta) * x + sin(theta) * y).div_(along).square_()
        v = (cos(theta) * y - sin(theta) * x).div_(across).square_()
        spectrum = _exp(u.add_(v).mul_(-0.5))
        folded = spectrum.new_zeros(shape[0], len(columns)).index_add_(0, rows % shape[0], spectrum)
        return spectrum.new_zeros(shape).index_add_(1, columns % shape[1], folded)

    wave, still = envelope(xi), envelope(0.0)
    return wave - (wave[0, 0] / still[0, 0]) * still


@lru_cache(maxsize=16)
@usual_state()
def filter_bank(shape: tuple[int, int], J: int, L: int) -> FilterBank:
    r"""All filters of a scattering transform with J scales and L orientations on a padded grid.

    $\psi_{j,\theta}$ has σ = 0.8·2^j, ξ = 3π/(4·2^j), slant 4/L and angle (⌊L - L/2 - 1⌋ - θ)π/L for θ = 0 … L-1;
    φ is a Gaussian with σ = 0.8·2^(J-1) (Andreux et al., "Kymatio: scattering transforms in Python", 2020). The grid
    (M, N) has multiples of 2^J. A bank is computed once and shared, so its tensors must not be written to.

    Example:
        >>> filter_bank((36, 36), 2, 8).psi.shape
        torch.Size([2, 8, 36, 36])
    """
    # int(), not floor: for odd L the field's reference truncates towards zero.
    angles = [(int(L - L / 2 - 1) - theta) * pi / L for theta in range(L)]
    wavelets = [morlet(shape, SIGMA * 2**j, angle, XI / 2**j, 4 / L) for j in range(J) for angle in angles]
    psi = torch.stack(wavelets).unflatten(0, (J, L))
    sigma = SIGMA * 2 ** (J - 1)
    return FilterBank(psi, gaussian(shape[0], sigma), gaussian(shape[1], sigma))


def padding_sources(shape: tuple[int, int], padded: tuple[int, int], padding: str) -> list[Tensor]:
    """Row and column of the image at every padded row and column; H and W, zeros behind it, where zeros are padded.

    A reflection does not repeat the edge, and a periodic image is its own padded one.
    """
    sources = []
    for size, whole in zip(shape, padded, strict=True):
        before, last = (whole - size) // 2, size - 1  # `last` is at least 1
        position = torch.arange(-before, whole - before)
        reflected = last - (position % (2 * last) - last).abs()
        sources.append(torch.where(reflected == position, position, size) if padding == "zero" else reflected)
    return sources


def low_frequencies(size: int, level: int) -> Tensor:
    """Indices, in DFT order, of the bins that remain when a spectrum is cropped to resolution 2^-level."""
    half = size // 2 ** (level + 1)
    return torch.cat([torch.arange(half), torch.arange(size - half, size)])


def cropped(spectra: Tensor, level: int) -> Tensor:
    """Spectra (F, M, N) at resolution 2^-level, (F, M/2^level, N/2^level)."""
    rows, columns = (low_frequencies(size, level) for size in spectra.shape[1:])
    return spectra[:, rows[:, None], columns]


def low_pass_matrix(phi: Tensor, level: int, J: int, margin: int) -> Tensor:
    """Matrix (outputs, size / 2^level): averages by φ at resolution 2^-level, subsamples to 2^-J, crops the margin."""
    kernel = torch.fft.ifft(phi[low_frequencies(len(phi), level)]).real
    size, step = len(kernel), 2 ** (J - level)
    outputs = torch.arange(margin * step, size - margin * step, step)
    return kernel[(outputs[:, None] - torch.arange(size)) % size]


@usual_state()
def littlewood_paley(bank: FilterBank) -> tuple[float, float]:
    r"""Minimum and maximum of the Littlewood-Paley sum, which bound the energy that the wavelets keep.

    $A(\omega) = |\hat\phi|^2 + \tfrac12 \sum_{j,\theta} |\hat\psi_{j,\theta}(\omega)|^2 +
    |\hat\psi_{j,\theta}(-\omega)|^2$; a maximum of at most 1 makes the transform non-expansive (Mallat, "Group
    invariant scattering", 2012).

    Example:
        >>> littlewood_paley(filter_bank((64, 64), 3, 8))[0] > 0
        True
    """
    energy = bank.psi.square().sum((0, 1))
    mirrored = energy.flip(0, 1).roll((1, 1), (0, 1))
    total = torch.outer(bank.phi_rows, bank.phi_columns).square() + 0.5 * (energy + mirrored)
    return total.min().item(), total.max().item()


def layer_bound(bank: FilterBank, level: int, scales: range) -> float:
    r"""Largest energy that a layer with wavelets of these scales, or none, makes of a unit at resolution 2^-level.

    $\max_{\|u\| = 1} \|2^J\, u \star \phi_{\downarrow J}\|^2 + \sum_{j, \theta}
    \|2^j\, u \star \psi_{j, \theta \downarrow j}\|^2$ over real u. Subsampling mixes frequencies that differ by
    multiples of the outputs' sampling rate, the aliases: a matrix for each set of these.
    """
    J = len(bank.psi)
    n = 2 ** (J - level)  # aliases along either axis
    alias = torch.arange(n)
    layer = [(torch.outer(bank.phi_rows, bank.phi_columns)[None], J), *((bank.psi[j], j) for j in scales)]
    groups = []
    for filters, j in layer:
        spectra = cropped(filters, level)
        # A real image has equal energy at opposite frequencies: half of each filter is mirrored.
        both = torch.cat([spectra, spectra.flip(1, 2).roll((1, 1), (1, 2))]) * sqrt(0.5)
        both = both.unflatten(2, (n, -1)).unflatten(1, (n, -1))  # filters, alias, row, alias, column
        by_aliases = both.permute(2, 4, 0, 1, 3).flatten(3).flatten(0, 1)  # (sets, 2F, n²)
        # Pairs of aliases that meet in the output's spectrum, which has 2^(J-j) of them per axis.
        axis = ((alias[:, None] - alias) % 2 ** (J - j) == 0).double()
        groups.append((by_aliases, torch.kron(axis, axis)))
    if not scales:  # one filter, symmetric: matrices of rank one
        return groups[0][0].square().sum((1, 2)).max().item()
    bound = 0.0
    for part in torch.arange(len(groups[0][0])).split(max(1, _GRAM_FLOATS // n**4)):
        gram = torch.zeros(len(part), n**2, n**2, dtype=torch.float64)
        for values, together in groups:
            gram += together * (values[part].mT @ values[part])
        bound = max(bound, torch.linalg.eigvalsh(gram)[:, -1].max().item())
    return bound


@usual_state()
def lipschitz_constant(bank: FilterBank, max_order: int = 2) -> float:
    r"""Bound c, about 1, of the transform up to an order: $2^J \|Sx - Sy\| \le c\, \|x - y\|$ on the padded grid.

    Layers multiply the energy of a difference by at most their bounds, and the modulus does not enlarge it (Mallat,
    "Group invariant scattering", 2012). With y = 0 it bounds the energy of coefficients, for whose number 2^J makes up.

    Example:
        >>> round(lipschitz_constant(filter_bank((36, 36), 2, 8)), 3)
        1.028
    """
    J, none = len(bank.psi), range(0)
    if max_order == 0:
        return sqrt(layer_bound(bank, 0, none))
    last = [layer_bound(bank, j, none) for j in range(J)]
    later = max(last)
    if max_order > 1:
        later = max(layer_bound(bank, j, range(j + 1, J)) for j in range(J)) * max([1.0, *last[1:]])
    return sqrt(layer_bound(bank, 0, range(J)) * max(1.0, later))
