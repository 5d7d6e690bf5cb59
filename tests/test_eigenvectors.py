"""Leading eigenvectors against LAPACK's of the whole matrix."""

import pytest
import torch
from torch import Tensor

from scattergen.encoder import eigenvectors
from scattergen.encoder.eigenvectors import leading_eigenvectors

D = 700


@pytest.fixture(autouse=True)
def of_small_matrices_too(monkeypatch):
    monkeypatch.setattr(eigenvectors, "_LARGE", 300)


def symmetric(values: Tensor) -> Tensor:
    drawn = torch.Generator().manual_seed(1)
    vectors = torch.linalg.qr(torch.randn(len(values), len(values), generator=drawn, dtype=torch.float64))[0]
    matrix = (vectors * values) @ vectors.T
    return (matrix + matrix.T) / 2


def falling(power: float) -> Tensor:
    return torch.arange(1, D + 1, dtype=torch.float64) ** -power


def check(matrix: Tensor, d: int, found: tuple[Tensor, Tensor]) -> None:
    values, vectors = found
    wanted = torch.linalg.eigvalsh(matrix).flip(0)[:d]
    assert values.shape == (d,)
    assert vectors.shape == (len(matrix), d)
    # A Ritz value is off by its residual squared, at most 1e-16 of the least, over a gap: LAPACK's rounding is more.
    assert torch.allclose(values, wanted, rtol=0, atol=1e-13 * wanted[0].item())
    # Products of 700 numbers of float64, whose rounding is 700 · 1e-16 at most.
    torch.testing.assert_close(vectors.T @ vectors, torch.eye(d, dtype=torch.float64), rtol=0, atol=1e-12)
    residuals = (matrix @ vectors - vectors * values).norm(dim=0)
    assert residuals.max() <= max(1.1e-8 * wanted[-1], 1e-13 * wanted[0])


@pytest.mark.parametrize("d", [2, 60, 116, 117, 175, 176, D])  # either side of a sixth and a quarter of D
@pytest.mark.parametrize("values", [falling(3.0), torch.exp(-0.05 * torch.arange(D).double())], ids=["power", "exp"])
def test_the_largest_eigenvalues_and_their_eigenvectors(values, d):
    matrix = symmetric(values)
    check(matrix, d, leading_eigenvectors(matrix.triu(), d))


@pytest.mark.parametrize("units", [1e-9, 1.0, 1e9])
def test_falling_eigenvalues_are_found_in_a_krylov_basis(monkeypatch, units):
    monkeypatch.setattr(torch.linalg, "eigh", small_only(torch.linalg.eigh))
    matrix = units * symmetric(torch.exp(-0.05 * torch.arange(D).double()))
    values, vectors = leading_eigenvectors(matrix.triu(), 60)
    check(matrix / units, 60, (values / units, vectors))


def small_only(decompose):
    """Refuses whole matrices, so that nothing is left to LAPACK."""

    def decompose_small(matrix):
        assert len(matrix) < D / 2
        return decompose(matrix)

    return decompose_small


@pytest.mark.parametrize("d", [1, 60, 116])
def test_equal_eigenvalues_of_noise_are_left_to_lapack(d):
    noise = torch.randn(3 * D, D, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    matrix = noise.T @ noise / len(noise)
    if d > 1:
        assert eigenvectors._by_lanczos(matrix, d) is None
    check(matrix, d, leading_eigenvectors(matrix.triu(), d))


@pytest.mark.parametrize("rank", [1, 40])
def test_a_matrix_of_low_rank(rank):
    values = torch.where(torch.arange(D) < rank, falling(1.0), 0.0)
    matrix = symmetric(values)
    check(matrix, 60, leading_eigenvectors(matrix.triu(), 60))


@pytest.mark.parametrize(("rank", "power"), [(3, 1), (40, 0.5), (60, 1), (100, 1), (150, 1), (150, 3)])
def test_features_that_never_vary(rank, power):
    """Zeros, as in coefficients at the border: a basis that goes on after it holds all else loses orthogonality."""
    matrix = torch.diag(torch.where(torch.arange(D) < rank, falling(power), 0.0))
    check(matrix, 60, leading_eigenvectors(matrix.triu(), 60))
    matrix[:rank, :rank] = symmetric(falling(power)[:rank])
    check(matrix, 60, leading_eigenvectors(matrix.triu(), 60))


@pytest.mark.parametrize("next_ones", [1e-4, 0.99])
@pytest.mark.parametrize("start", [0, 5, 50])
def test_eigenvalues_that_occur_many_times(start, next_ones):
    """More often than vectors are multiplied at once."""
    values = torch.exp(-0.05 * torch.arange(D).double())
    values[start : start + 100] = values[start]
    values[start + 100 :] = next_ones * values[start] * torch.exp(-0.05 * torch.arange(D - start - 100))
    matrix = symmetric(values)
    check(matrix, 60, leading_eigenvectors(matrix.triu(), 60))


def test_twice_the_same_bits():
    matrix = symmetric(falling(3.0))
    first, second = (leading_eigenvectors(matrix.triu(), 60) for _ in range(2))
    assert all(map(torch.equal, first, second))


def test_only_the_upper_triangle_is_read():
    matrix = symmetric(falling(3.0))
    check(matrix, 60, leading_eigenvectors(matrix.triu() + torch.full_like(matrix, 7.0).tril(-1), 60))
