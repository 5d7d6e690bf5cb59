"""Tables of the compiled CPU kernel: what of a transform does not depend on the image."""

from functools import lru_cache
from itertools import chain, count
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scattergen.calls.state import usual_state
from scattergen.scattering.filters import FilterBank, cropped, low_pass_matrix, padding_sources

LANES = 8  # numbers in one vector: as many as the usual orientations, and an AVX2 register of float32
COMPLEX = 2 * LANES  # numbers in a complex vector: real parts, then imaginary parts

Floats = NDArray[np.floating]
Integers = NDArray[np.int64]


class Axis(NamedTuple):
    """FFTs and low-pass along one axis at every resolution; what a level has starts at its `start`, (J,)."""

    radices: Integers  # factors of each level's length, (J, R), filled with zeros
    twiddles: Floats  # exp(-2πi k / n), real and imaginary parts in turn
    start: Integers
    low_pass: Floats  # matrices (n, outputs), outputs filled up to a multiple of LANES
    low_pass_start: Integers


class Products(NamedTuple):
    """Products of spectra with wavelets, periodised: each row of a result is a sum over blocks of source rows."""

    rows: Integers  # (number of rows, 4): stored blocks, mirrored blocks, first block, first weight
    blocks: Integers  # position in the source of each block's first element
    weights: Floats  # wavelets, block by block
    first: Integers  # first row of ψ_j1 on the image's spectrum, (J,)
    second: Integers  # first row of ψ_j2 on the spectrum of |x * ψ_j1|, (J, J)


class Plan(NamedTuple):
    """Everything that the kernel needs besides images."""

    J: int
    L: int
    order: int  # 0, 1 or 2
    source_rows: Integers  # row of the image at every padded row, (M,)
    source_columns: Integers
    outputs: tuple[int, int, int]  # (K, H', W') of an image
    rows_axis: Axis  # of columns, which run along the rows' axis
    columns_axis: Axis
    constants: Floats  # cos, sin of 2π/3, 2π/5 and 4π/5
    products: Products


@lru_cache(maxsize=8)
@usual_state()
def build_plan(
    bank: FilterBank, shape: tuple[int, int], padding: str, outputs: tuple[int, int, int], order: int,
    dtype: torch.dtype,
) -> Plan:  # fmt: skip
    """Tables of the transform of images of one shape in one precision, of which a few are kept."""
    J, L, M, N = bank.psi.shape
    precision = torch.empty(0, dtype=dtype).numpy().dtype
    angles = 2 * np.pi / np.array([3, 5, 2.5])
    constants = np.stack([np.cos(angles), np.sin(angles)], 1).ravel().astype(precision)
    source_rows, source_columns = (source.numpy() for source in padding_sources(shape, (M, N), padding))
    margin = int(padding != "periodic")
    rows, columns = (_axis(phi, J, margin, precision) for phi in (bank.phi_rows, bank.phi_columns))
    products = _products(bank, order, precision)
    return Plan(J, L, order, source_rows, source_columns, outputs, rows, columns, constants, products)


def _radices(n: int) -> list[int]:
    if n == 1:
        return []
    radix = next(radix for radix in chain((4, 2, 3), count(5, 2)) if n % radix == 0)
    return [radix, *_radices(n // radix)]


def _axis(phi: Tensor, J: int, margin: int, precision: np.dtype) -> Axis:
    sizes = [len(phi) >> level for level in range(J)]
    factors = [_radices(n) for n in sizes]
    radices = np.zeros((J, max(map(len, factors))), np.int64)
    twiddles, matrices = [], []
    for level, n in enumerate(sizes):
        radices[level, : len(factors[level])] = factors[level]
        angles = 2 * np.pi / n * np.arange(n)
        twiddles.append(np.stack([np.cos(angles), -np.sin(angles)], 1).ravel())
        matrix = low_pass_matrix(phi, level, J, margin).T.numpy()
        matrices.append(np.pad(matrix, ((0, 0), (0, -matrix.shape[1] % LANES))).ravel())
    return Axis(radices, *_joined(twiddles, precision), *_joined(matrices, precision))


def _joined(arrays: list[Floats], precision: np.dtype) -> tuple[Floats, Integers]:
    """Arrays one after another, and where each starts."""
    return np.concatenate(arrays).astype(precision), np.cumsum([0] + [a.size for a in arrays[:-1]])


def _products(bank: FilterBank, order: int, precision: np.dtype) -> Products:
    J, L, M, N = bank.psi.shape
    parts: list[tuple[Integers, Integers, Floats]] = []
    first, second = np.zeros(J, np.int64), np.zeros((J, J), np.int64)
    counts = np.zeros(3, np.int64)  # of rows, blocks and weights so far

    def append(psi: Floats, factor: int, group: int) -> int:
        start = int(counts[0])
        table, blocks, weights = _periodised_product(psi, factor, group, precision)
        table[:, 2:] += counts[1:]
        parts.append((table, blocks, weights))
        counts[:] += [len(table), blocks.size, weights.size]
        return start

    lanes = np.zeros((J, -(-L // LANES) * LANES, M, N))  # unused lanes have the wavelet 0
    lanes[:, :L] = bank.psi.numpy()
    for j1 in range(J):
        first[j1] = append(lanes[j1], 2**j1, LANES)
        for j2 in range(j1 + 1, J if order == 2 else 0):
            second[j1, j2] = append(cropped(bank.psi[j2], j1).numpy(), 2 ** (j2 - j1), 1)
    rows, blocks, weights = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return Products(rows, blocks, weights, first, second)


def _periodised_product(psi: Floats, factor: int, group: int, precision: np.dtype) -> tuple[Integers, Integers, Floats]:
    """Rows, blocks and weights of the wavelets (L, m, n) of one scale at one resolution.

    They come in groups of LANES, with vectors as weights, if they meet one spectrum, the image's; if every lane holds a
    spectrum of its own, in groups of one, with numbers. Source rows above the middle are stored, others are mirrored.
    """
    L, m, n = psi.shape
    rows, columns = m // factor, n // factor
    pieces = psi.reshape(L // group, group, factor, rows, factor, columns)
    pieces = pieces.transpose(0, 3, 2, 4, 5, 1)  # wavelets, rows, blocks down, across, columns, θ
    # Relative to the largest value, less than a sixteenth of a rounding is lost.
    present = np.abs(pieces).max((4, 5)) > np.finfo(precision).eps * np.abs(psi).max() / 16
    wavelet, row, down, across = np.nonzero(present)  # sorted by wavelet and row, then stored first
    source = down * rows + row
    stored = source <= m // 2
    source = np.where(stored, source, m - source)
    column = np.where(stored, across * columns, n - across * columns)
    # Rows of the image's spectrum are in lanes.
    blocks = (source // group * (n + 1) + column) * COMPLEX + source % group
    owner = wavelet * rows + row
    table = np.zeros((L // group * rows, 4), np.int64)
    np.add.at(table[:, 0], owner[stored], 1)
    np.add.at(table[:, 1], owner[~stored], 1)
    table[1:, 2] = np.cumsum(table[:-1, 0] + table[:-1, 1])
    table[:, 3] = table[:, 2] * columns * group
    # 1/factor² makes the sum of aliases their mean, 1/(rows·columns) normalises the inverse FFT, 1/2 completes the
    # kernel's separation of two real transforms that share a complex one.
    scale = 1 / (2 * factor**2 * rows * columns)
    return table, blocks, (pieces[present] * scale).ravel().astype(precision)
