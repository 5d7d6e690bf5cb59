"""The largest eigenvalues of a symmetric matrix, and their eigenvectors."""

from typing import Any

import torch
from torch import Tensor

_FEW, _LARGE = 1 / 6, 1500  # part of all eigenvectors, of a matrix of so many rows, that Lanczos finds soonest
_MOST_BY_THEMSELVES = 1 / 4  # part of all that LAPACK finds sooner without the others
_BLOCK = 32  # vectors that the matrix multiplies at once: with fewer it waits for memory, more need a larger basis
_TOLERANCE = 1e-8  # residual of an eigenvector, as a part of the least eigenvalue that is asked for
_ROUNDING = 1e-14  # the same as a part of the largest, which float64 cannot tell from nothing
_POWERS = 4  # of the matrix, in which eigenvectors that were missed show
_TILE = 512  # rows and columns that are mirrored at once


def leading_eigenvectors(upper: Tensor, d: int) -> tuple[Tensor, Tensor]:
    """At most d largest eigenvalues of a symmetric matrix, in decreasing order, and their eigenvectors as columns.

    Of the matrix, (D, D) in float64, the upper triangle is read, and all is lost. Few of many come from a Krylov basis
    of two to three times as many vectors, if eigenvalues fall as those of natural images do; all others from LAPACK.

    References:
        Golub, Underwood, "The block Lanczos method for computing eigenvalues", 1977.

    Example:
        >>> values, vectors = leading_eigenvectors(torch.diag(torch.arange(4.0).double()), 2)
        >>> values.tolist(), vectors.abs().argmax(0).tolist()
        ([3.0, 2.0], [3, 2])
    """
    D, on_cpu = len(upper), upper.device.type == "cpu"
    if on_cpu and D >= _LARGE and d <= D * _FEW:
        _mirror(upper)
        found = _by_lanczos(upper, d)
        if found is not None:
            return found
    if not on_cpu or d > D * _MOST_BY_THEMSELVES:
        values, vectors = torch.linalg.eigh(upper, UPLO="U")
        return values.flip(0)[:d].clone(), vectors.flip(1)[:, :d]
    from scipy.linalg import eigh

    # LAPACK's evr reads by columns: the transpose is no copy.
    how: dict[str, Any] = {"driver": "evr", "overwrite_a": True, "check_finite": False}
    values, vectors = map(torch.from_numpy, eigh(upper.numpy().T, lower=True, subset_by_index=(D - d, D - 1), **how))
    return values.flip(0), vectors.flip(1)


def _by_lanczos(matrix: Tensor, d: int) -> tuple[Tensor, Tensor] | None:
    """The same of a full matrix, which is kept; None if a basis of some 3 d vectors does not do."""
    D, check, step = len(matrix), 2 * d + d // 4, max(d // 2, 4 * _BLOCK)
    most = min(check + 2 * step + _BLOCK, D - _BLOCK)
    basis = torch.empty(most + _BLOCK, D, dtype=matrix.dtype)  # orthonormal rows
    projected = torch.zeros(most, most, dtype=matrix.dtype)  # the matrix in this basis, its lower triangle
    start = torch.randn(D, _BLOCK, generator=torch.Generator().manual_seed(0), dtype=matrix.dtype)
    basis[:_BLOCK] = torch.linalg.qr(start)[0].T
    for size in range(_BLOCK, most + 1, _BLOCK):
        known = basis[:size]
        image = known[-_BLOCK:] @ matrix
        projected[size - _BLOCK : size, :size] = products = image @ known.T
        rest, first = torch.linalg.qr(image.addmm_(products, known, alpha=-1).T)
        # Once more: of a small rest most is rounding, which is orthogonal to nothing.
        rest, second = torch.linalg.qr(rest - known.T @ (known @ rest))
        basis[size : size + _BLOCK] = rest.T
        if size >= check:
            values, vectors = torch.linalg.eigh(projected[:size, :size])
            values, vectors = values.flip(0)[:d], vectors.flip(1)[:, :d]
            residuals = torch.linalg.vector_norm(second @ first @ vectors[-_BLOCK:], dim=0)
            if residuals.max() <= max(_TOLERANCE * values[-1], _ROUNDING * values[0]):
                vectors = known.T @ vectors
                return (values.clone(), vectors) if _are_leading(matrix, values, vectors) else None
            check = size + step
    return None


def _are_leading(matrix: Tensor, values: Tensor, vectors: Tensor) -> bool:
    """Whether eigenvectors are orthonormal, and no eigenvector beside them has a larger eigenvalue than the least.

    The first fails where a basis went on after it held all that is not zero; the second where an eigenvalue occurs more
    often than vectors were multiplied at once.
    """
    overlaps = vectors.T @ vectors
    overlaps.diagonal().sub_(1)
    other = torch.randn(len(matrix), _BLOCK, generator=torch.Generator().manual_seed(1), dtype=matrix.dtype)
    for _ in range(_POWERS):
        rest = other - vectors @ (vectors.T @ other)
        other = torch.linalg.qr((rest.T @ matrix).T)[0]  # its rows by the matrix: sooner than the matrix by its columns
    other = torch.linalg.qr(other - vectors @ (vectors.T @ other))[0]
    largest = torch.linalg.eigvalsh(other.T @ matrix @ other)[-1]
    return bool(overlaps.abs().max() <= 1e-10 and largest <= values[-1] + 1e-6 * values[-1] + _ROUNDING * values[0])


def _mirror(upper: Tensor) -> None:
    """Make the lower triangle of a matrix that of a symmetric one, in place."""
    for i in range(0, len(upper), _TILE):
        tile = upper[i : i + _TILE, i : i + _TILE]
        tile.triu_().add_(tile.triu(1).T)
        upper[i + _TILE :, i : i + _TILE] = upper[i : i + _TILE, i + _TILE :].T
