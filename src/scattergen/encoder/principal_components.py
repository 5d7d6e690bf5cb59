"""Leading principal components of samples that are read in chunks, resumable at any chunk."""

import math
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from scattergen.display.progress import Progress, Task
from scattergen.encoder.eigenvectors import leading_eigenvectors
from scattergen.errors import InputError
from scattergen.files.tensors import read_tensors_if_whole, write_tensors
from scattergen.processes import Processes
from scattergen.scattering.threads import in_threads

# Of at most so many samples, and so many numbers in all (800 MB), the Gram matrix and its eigenvectors cost less than
# subspace iteration; of at most so many features, the covariance (8 D² bytes) and its eigenvectors are affordable.
_MOST_FOR_GRAM, _LARGEST_GRAM_INPUT, _MOST_FOR_COVARIANCE = 4096, 200_000_000, 10_000
_OVERSAMPLING = 64
_PASSES = {"_from_gram": 2, "_from_covariance": 1}
_GRAM_COLUMNS = 4096  # features whose products are summed in float32
_PART_OF_TIME_WRITING = 0.05
_TILE = 448  # rows and columns of a matrix of products that a thread adds at once


class Samples(Protocol):
    """Samples in chunks, shared out to processes, the same at every reading."""

    n_samples: int
    n_features: int
    processes: Processes

    def shift(self) -> Tensor:
        """A point near the mean, (D,) float32, the same everywhere, so that sums of deviations lose no digits to it."""

    def deviations(self, start: int = 0) -> Iterator[tuple[int, Tensor]]:
        """Chunks of this process from its `start`-th on: first row, samples less the shift."""


def principal_components(
    samples: Samples, n: int, d: int, n_passes: int, path: Path | None, seconds: float, device: str, progress: Progress
) -> tuple[Tensor, Tensor, Tensor, float]:
    """Leading principal components (Halko, Martinsson, Tropp, "Finding structure with randomness", 2011).

    All processes call this together and get, of the first n samples, the mean (D,) in float64, components, orthonormal
    rows (d, D), and decreasing variances (d,) in float64, fewer than d if there are no more, and the sum of all. Every
    so many seconds `path` is written, by several processes after passes only. The device needs float64.
    """
    method = _method(n, samples.n_features)
    total_passes = _PASSES.get(method.__name__, n_passes)
    settings = {"method": method.__name__, "n": n, "D": samples.n_features, "d": d, "passes": total_passes}
    with progress.task("principal components", total_passes * n) as task:
        passes = _Passes(samples, settings, task, path, seconds, device)
        passes.resume()
        variances, components = method(passes, d)
    offset, broadcast = passes.offset(), samples.processes.broadcast
    mean, total_variance = samples.shift() + offset, passes.squares.item() / n - offset.square().sum().item()
    return mean, broadcast(components.cpu()), broadcast(variances.cpu()), total_variance


def passes_and_order(n: int, D: int, n_passes: int) -> tuple[int, int]:
    """Passes over n samples of D features, and the order of the matrix whose eigenvectors end them; 0 if small."""
    name = _method(n, D).__name__
    return _PASSES.get(name, n_passes), {"_from_gram": n, "_from_covariance": D}.get(name, 0)


def _method(n: int, D: int) -> "Callable[[_Passes, int], tuple[Tensor, Tensor]]":
    """The way to the leading eigenvalues (d,) and eigenvectors (d, D) of the covariance of n samples of D features."""
    if n <= min(D, _MOST_FOR_GRAM, _LARGEST_GRAM_INPUT // D):
        return _from_gram
    return _from_covariance if D <= _MOST_FOR_COVARIANCE else _by_subspace_iteration


class _Passes:
    """Passes over samples, each of which adds something up; resumable at any chunk with the same settings."""

    def __init__(
        self, samples: Samples, settings: dict[str, Any], task: Task, path: Path | None, seconds: float, device: str
    ) -> None:
        self.samples, self.settings, self.task = samples, settings, task
        self.n: int = settings["n"]
        self.path, self.checkpoint_seconds, self.device = path, seconds, torch.device(device)
        self.number, self.basis = 0, torch.empty(0)  # passes finished; what the next projects on, (D, w)
        # Sums of the deviations, (D,), and of their squares, both made in the first pass.
        self.total = torch.zeros(samples.n_features, dtype=torch.float64)
        self.squares = torch.zeros((), dtype=torch.float64)
        self._done, self._sum = 0, torch.empty(0)  # chunks of the pass under way, and its sum
        # The clock starts after the first chunk, which may include compiling the transform; how long writing takes is
        # a guess at first, so that fits of seconds write nothing.
        self._saved, self._writing = math.inf, 0.25

    def offset(self) -> Tensor:
        """The mean less the shift, (D,) float64, on the CPU."""
        return self.total / self.n

    def run(self, zero: Tensor, add: Callable[[Tensor, int, Tensor], Any], save: bool = True) -> Tensor:
        """One pass, or what is left: the sum that `add` adds all chunks to, given it, first rows and deviations."""
        if self._done == 0:
            self._sum = zero
        processes = self.samples.processes
        note = f"pass {self.number + 1} of {self.settings['passes']}"
        for row, read in self.samples.deviations(self._done):
            if row >= self.n:
                break
            deviation = read[: self.n - row].to(self.device)
            if self.number == 0:
                # PyTorch's sums in float32 are pairwise. Its norms are not: those of single samples lose least.
                self.total += deviation.sum(0).double().cpu()
                self.squares += torch.linalg.vector_norm(deviation, dim=1).double().square().sum().cpu()
            add(self._sum, row, deviation)
            self._done += 1
            self.task.advance(self.number * self.n + row + len(deviation) - self.task.completed, note)
            self._saved = min(self._saved, time.monotonic())
            if save and processes.world_size == 1:
                self._save(self.checkpoint_seconds)
        if self.number == 0:
            self.total = processes.all_reduce(self.total)
            self.squares = processes.all_reduce(self.squares)
            if not torch.isfinite(self.squares):
                raise InputError("The features hold NaN or infinite values: check the images for them.")
        result, self._sum = processes.all_reduce(self._sum), torch.empty(0)
        self.number, self._done = self.number + 1, 0
        return result

    def project_on(self, basis: Tensor) -> None:
        """Use the first process's basis from the next pass on."""
        processes = self.samples.processes
        # In one layout and alignment, whether from a QR or a file: the last bits of products depend on these.
        self.basis = processes.broadcast(basis).to(self.device).contiguous()
        if processes.rank == 0:
            self._save(0)

    def _save(self, seconds: float) -> None:
        """Make a checkpoint, unless one was made in the last `seconds` or writing would take too much of the time."""
        start = time.monotonic()
        if self.path is None or start - self._saved < max(seconds, self._writing / _PART_OF_TIME_WRITING):
            return
        tensors = {"total": self.total, "squares": self.squares, "basis": self.basis, "sum": self._sum}
        write_tensors(self.path, tensors, {"settings": self.settings, "number": self.number, "done": self._done})
        self._saved = time.monotonic()
        self._writing = self._saved - start

    def resume(self) -> None:
        """Become the state of the checkpoint, if there is one."""
        if self.path is None or not self.path.exists():
            return
        tensors, metadata = read_tensors_if_whole(self.path) or ({}, None)
        if not isinstance(metadata, dict) or metadata.get("settings") != self.settings:
            found = f"{self.path} is damaged or of other settings"
            warnings.warn(f"{found}: the principal components are begun anew.", stacklevel=2)
            return
        if metadata["done"] > 0 and self.samples.processes.world_size > 1:
            if metadata["number"] == 0:
                return
            tensors["sum"], metadata["done"] = torch.empty(0), 0  # the chunks done were not those of this process
        self.number, self._done = metadata["number"], metadata["done"]
        self.total, self.squares = tensors["total"], tensors["squares"]
        self.basis = tensors["basis"].to(self.device, copy=True)
        self._sum = tensors["sum"].to(self.device, copy=True)
        self.task.advance(self.number * self.n)


def _from_covariance(passes: _Passes, d: int) -> tuple[Tensor, Tensor]:
    """Eigenvectors of the covariance, which is summed in one pass."""
    n, D = passes.n, passes.samples.n_features
    upper = torch.zeros(D, D, dtype=torch.float64, device=passes.device)
    upper = passes.run(upper, lambda upper, _, deviation: _add_upper(upper, deviation.T))
    if passes.samples.processes.rank > 0:
        return torch.empty(0), torch.empty(0)  # the first process will send them
    offset = passes.offset().to(upper)
    upper.div_(n).addr_(offset, offset, alpha=-1)
    values, vectors = leading_eigenvectors(upper, d)
    return values, vectors.T.float().contiguous()


def _from_gram(passes: _Passes, d: int) -> tuple[Tensor, Tensor]:
    """Eigenvectors of the covariance of few samples, from those of their Gram matrix."""
    n, D = passes.n, passes.samples.n_features

    def add(rows: Tensor, row: int, deviation: Tensor) -> None:
        rows[row : row + len(deviation)] = deviation

    if passes.number == 0:
        rows = passes.run(torch.zeros(n, D, device=passes.device), add, save=False)
        basis = torch.empty(0)
        if passes.samples.processes.rank == 0:
            rows -= passes.offset().to(rows)
            gram = torch.zeros(n, n, dtype=torch.float64, device=passes.device)
            for columns in rows.split(_GRAM_COLUMNS, 1):
                _add_upper(gram, columns)
            basis = torch.linalg.qr(rows.T @ leading_eigenvectors(gram, d)[1].float())[0]
        del rows
        passes.project_on(basis)
    return _rayleigh_ritz(passes, d)


def _by_subspace_iteration(passes: _Passes, d: int) -> tuple[Tensor, Tensor]:
    """Eigenvectors of the covariance, which is applied to a basis but never formed."""
    n, D = passes.n, passes.samples.n_features
    width = min(d + _OVERSAMPLING, D)

    def add(image: Tensor, _: int, deviation: Tensor) -> None:
        image.addmm_(deviation.T, deviation @ passes.basis)

    if not len(passes.basis):
        generator = torch.Generator().manual_seed(0)
        passes.basis = torch.randn(D, width, generator=generator).to(passes.device) / D**0.5
    while passes.number < passes.settings["passes"] - 1:
        # The sum of a pass is float32: it only turns the basis, which the next pass corrects.
        image = passes.run(torch.zeros(D, width, device=passes.device), add)
        if passes.samples.processes.rank == 0:
            offset = passes.offset().to(image)
            image.div_(n).addr_(offset, passes.basis.T @ offset, alpha=-1)
            image = torch.linalg.qr(image)[0]
        passes.project_on(image)
    return _rayleigh_ritz(passes, d)


def _rayleigh_ritz(passes: _Passes, d: int) -> tuple[Tensor, Tensor]:
    """The best eigenvalues and eigenvectors within the span of the basis, in one pass."""
    n, basis = passes.n, passes.basis
    D, width = basis.shape

    def add(products: Tensor, _: int, deviation: Tensor) -> None:
        projected = (deviation @ basis).double()
        products.addmm_(projected.T, projected)

    products = passes.run(torch.zeros(width, width, dtype=torch.float64, device=passes.device), add)
    if passes.samples.processes.rank > 0:
        return torch.empty(0), torch.empty(0)  # the first process will send them
    centre = (basis.T @ passes.offset().to(basis)).double()
    products.div_(n).addr_(centre, centre, alpha=-1)
    # The basis is orthonormal up to float32 rounding (at random, if it is the first one): its own products, in float64,
    # make up for that.
    overlaps = torch.zeros_like(products)
    for part in basis.split(_GRAM_COLUMNS):
        overlaps.addmm_(part.T.double(), part.double())
    lower = torch.linalg.cholesky(overlaps)
    half = torch.linalg.solve_triangular(lower, products, upper=False)
    values, vectors = torch.linalg.eigh(torch.linalg.solve_triangular(lower, half.T, upper=False))
    vectors = vectors.flip(1)[:, :d].contiguous()
    rotation = torch.linalg.solve_triangular(lower.T, vectors, upper=True)
    components = torch.empty(min(d, width), D)
    for part, out in zip(basis.split(_GRAM_COLUMNS), components.split(_GRAM_COLUMNS, 1), strict=True):
        out[:] = (part.double() @ rotation).T
    return values.flip(0)[:d].clone(), components


def _add_upper(products: Tensor, rows: Tensor) -> None:
    """Add the products of all pairs of rows to the upper triangle of a matrix, in place."""
    on_cpu = products.device.type == "cpu"
    # In tiles, which stay in a CPU's cache until they are added; on others in four rows of tiles.
    size = _TILE if on_cpu else max(1, -(-len(rows) // 4))
    starts = range(0, len(rows), size)
    tiles = iter([(i, j) for i in starts for j in starts if i <= j])  # shared by the threads

    def add() -> None:
        for i, j in tiles:
            products[i : i + size, j : j + size] += rows[i : i + size] @ rows[j : j + size].T

    in_threads(add, torch.get_num_threads() if on_cpu else 1)
