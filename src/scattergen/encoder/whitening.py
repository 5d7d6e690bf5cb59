"""Whitened principal components, fitted on batches that need not fit in memory together."""

import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from scattergen.calls.keywords import whole_number
from scattergen.datasets.containers import as_tensor
from scattergen.display.progress import SILENT, Progress
from scattergen.encoder.principal_components import Samples, principal_components
from scattergen.errors import InputError
from scattergen.processes import ALONE

Batches = Callable[[], Iterable[Any]]
"""Starts a pass over the data; yields batches of features, (n, D), tensors or arrays."""


class PCAWhitening:
    r"""Projection on the leading principal components, scaled to unit variance.

    $z = \Lambda^{-1/2} V^\top (s - \mu)$ with $V$ the leading eigenvectors of the covariance of $s$, the entry of
    largest magnitude of each positive, and $\Lambda$ their eigenvalues, in decreasing order (Kessy, Lewin, Strimmer,
    "Optimal whitening and decorrelation", 2018). Of at most 4,096 samples (800 MB in all) with more features, or of up
    to 10,000 features, they are exact; of more of both, they come from block subspace iteration (Halko, Martinsson,
    Tropp, "Finding structure with randomness", 2011) in memory proportional to D·n_components.

    Args:
        n_components: Number d of components to keep.
        n_passes: Passes over the data of the subspace iteration.
        cache_bytes: Largest size of data that are kept in memory between passes.
        allow_fewer: Keep fewer components, with a warning, if the data vary in fewer ways.

    Attributes:
        n_components: As given; after a fit, those kept.
        mean_, components_: (D,) and eigenvectors as rows, (d, D), float32.
        explained_variance_, explained_variance_ratio_: Eigenvalues, and as parts of the total variance, (d,), float64.
        n_samples_: How many samples it was fitted to.

    Example:
        >>> s = torch.randn(1000, 20) @ torch.randn(20, 20)
        >>> whitening = PCAWhitening(n_components=5).fit(lambda: s.split(100))
        >>> z = whitening.transform(s)
        >>> torch.allclose(z.T @ z / 1000, torch.eye(5), atol=1e-3)
        True
    """

    def __init__(
        self, n_components: int = 512, n_passes: int = 4, cache_bytes: int = 1 << 31, allow_fewer: bool = False
    ) -> None:
        self.n_components, self.n_passes = whole_number("n_components", n_components, least=1), n_passes
        self.cache_bytes, self.allow_fewer = cache_bytes, allow_fewer

    def fit(self, batches: Batches | Any) -> Self:
        """Fit to a table (N, D), a tensor or an array, or to the batches of one that each call of a function gives.

        An `InputError` if there are too few samples or features, if they vary too little, or one is NaN or infinite.
        """
        samples = _BatchesAsSamples(batches if callable(batches) else lambda: [batches], self.cache_bytes)
        if samples.n_samples == 0:
            raise InputError("There are no samples to find principal components of.")
        return self.fit_samples(samples)

    def fit_samples(
        self, samples: Samples, n: int | None = None, *, checkpoint: Path | None = None,
        checkpoint_seconds: float = 20.0, device: str = "cpu", progress: Progress = SILENT,
    ) -> Self:  # fmt: skip
        """Fit to samples in chunks, such as a `FeatureStore`, or the first n, by all their processes together.

        A stopped fit continues from its checkpoint and ends, with as many threads, with the bits of one never stopped.
        """
        n, d, D = samples.n_samples if n is None else n, self.n_components, samples.n_features
        mean, components, variances, total_variance = principal_components(
            samples, n, d, self.n_passes, checkpoint, checkpoint_seconds, device, progress
        )
        # Features of equal images differ by rounding, which depends on their place in a batch.
        eps = torch.finfo(torch.float32).eps
        if total_variance <= (8 * eps * mean.norm().item()) ** 2:
            problem = "All samples have the same features, so that there are no principal components"
            raise InputError(f"{problem}: give images that differ.")
        most = min(n - 1, D)
        if d > most:
            problem = f"{d} components were asked of {n} samples with {D} features each"
            remedy = f"use more samples or set n_components to at most {most} (--set encoder.n_components={most})"
            raise InputError(f"{problem}: {remedy}.")
        # float32 features leave rounding noise of about eps times the largest variance.
        rank = int((variances > eps * variances[0]).sum())
        ways = f"The features vary in {rank} {'way' if rank == 1 else 'ways'} only"
        if rank < d and not self.allow_fewer:
            remedy = f"use more varied images or set n_components to at most {rank} (--set encoder.n_components={rank})"
            raise InputError(f"{ways}, but {d} components were asked: {remedy}.")
        if rank < d and samples.processes.rank == 0:
            warnings.warn(f"{ways}: codes have {rank} components, not {d}.", stacklevel=3)
        components, variances = components[:rank], variances[:rank]
        largest = components.gather(1, components.abs().argmax(1, keepdim=True))
        self.n_components, self.n_samples_ = rank, n
        self.components_, self.mean_ = components.mul_(largest.sign()), mean.float()
        self.explained_variance_, self.explained_variance_ratio_ = variances, variances / total_variance
        return self

    def keep(self, n_components: int) -> None:
        """Leave out all but the leading components; an `InputError` if there are not so many."""
        self.n_components = whole_number("n_components", n_components, least=1, most=len(self.components_))
        for name in ("components_", "explained_variance_", "explained_variance_ratio_"):
            setattr(self, name, getattr(self, name)[:n_components].clone())

    def transform(self, s: Tensor | Any) -> Tensor:
        """Codes (N, d), of unit variance on the data of the fit, of features (N, D); another D is an `InputError`."""
        s = self._checked(s, "features", 1)
        mean, components = self.mean_.to(s.device), self.components_.to(s.device)
        return (s - mean) @ components.T / self._scale().to(s.device)

    def inverse_transform(self, z: Tensor | Any) -> Tensor:
        """Features (N, D), in the span of the components, whose codes are z (N, d); another d is an `InputError`."""
        z = self._checked(z, "codes", 0)
        return self.mean_ + z @ (self.components_ * self._scale()[:, None])

    def _checked(self, rows: Any, what: str, axis: int) -> Tensor:
        if not hasattr(self, "components_"):
            raise InputError("The principal components are not known yet: call fit first.")
        rows, width = as_tensor(rows, what), self.components_.shape[axis]
        if rows.ndim != 2 or rows.shape[1] != width:
            remedy = "use those of the model that these components belong to"
            raise InputError(f"Expected {what} of shape (N, {width}) but got {tuple(rows.shape)}: {remedy}.")
        return rows.float()

    def _scale(self) -> Tensor:
        return self.explained_variance_.sqrt().to(self.components_)


class _BatchesAsSamples:
    """Batches of an unknown number of samples, counted by reading them once, and kept then if they are small."""

    processes = ALONE

    def __init__(self, batches: Batches, cache_bytes: int) -> None:
        self._batches: Callable[[], Iterable[Tensor]] = lambda: map(_table, batches())
        self.n_samples, self.n_features, size = 0, 0, 0
        kept: list[Tensor] = []
        for batch in self._batches():
            if self.n_samples == 0 and len(batch):
                self.n_features = batch.shape[1]
                self._shift = batch.double().mean(0).float()
            self.n_samples += len(batch)
            size += batch.nbytes
            kept.append(batch)
            if size > cache_bytes:
                kept.clear()
        if size <= cache_bytes:
            self._batches = lambda: kept

    def shift(self) -> Tensor:
        return self._shift

    def deviations(self, start: int = 0) -> Iterator[tuple[int, Tensor]]:
        row = 0
        for number, batch in enumerate(self._batches()):
            if number >= start:
                yield row, (batch - self._shift).float()
            row += len(batch)


def _table(batch: Any) -> Tensor:
    table = as_tensor(batch, "features").detach()
    if table.ndim != 2:
        raise InputError(f"Expected features of shape (N, D) but got {tuple(table.shape)}: give each sample a row.")
    return table
