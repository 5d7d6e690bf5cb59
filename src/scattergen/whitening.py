"""Whitened principal components, fitted on batches that need not fit in memory together."""

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Self

import torch
from torch import Tensor

from scattergen.errors import InputError

Batches = Callable[[], Iterable[Tensor]]
"""Starts a pass over the data; yields batches of features, (n, D)."""

# Above this many features the covariance (8 D² bytes) and its eigenvectors cost more than repeated
# passes of subspace iteration, which need memory for D x (n_components + _OVERSAMPLING) only.
_LARGEST_COVARIANCE = 10_000
_OVERSAMPLING = 64


class PCAWhitening:
    r"""Projection on the leading principal components, scaled to unit variance.

    $z = \Lambda^{-1/2} V^\top (s - \mu)$ with $V$ the leading eigenvectors of the covariance of $s$
    and $\Lambda$ their eigenvalues, in decreasing order.

    Sums are kept in float64.  Up to 10,000 features the covariance is accumulated in one pass and
    decomposed exactly; above, block subspace iteration makes `n_passes` passes in memory
    proportional to D·n_components, reading the data once if they fit in `cache_bytes` and anew in
    every pass if they do not, with the same result.  The sign of each component is fixed so that
    its entry of largest magnitude is positive, which makes fits reproducible.

    Args:
        n_components: Number d of components kept.
        n_passes: Passes over the data of the subspace iteration.
        cache_bytes: Largest size in float32 of data that are kept in memory between passes.

    Attributes:
        mean_: (D,) float32.
        components_: Rows are eigenvectors, (d, D), float32.
        explained_variance_: Eigenvalues, (d,), float64.
        explained_variance_ratio_: The same as parts of the total variance, (d,), float64.
        n_samples_: Number of samples fitted on.

    References:
        Kessy, Lewin, Strimmer, "Optimal whitening and decorrelation", 2018.
        Halko, Martinsson, Tropp, "Finding structure with randomness", 2011.

    Example:
        >>> s = torch.randn(1000, 20) @ torch.randn(20, 20)
        >>> whitening = PCAWhitening(n_components=5).fit(lambda: s.split(100))
        >>> z = whitening.transform(s)
        >>> torch.allclose(z.T @ z / 1000, torch.eye(5), atol=1e-3)
        True
    """

    mean_: Tensor
    components_: Tensor
    explained_variance_: Tensor
    explained_variance_ratio_: Tensor
    n_samples_: int

    def __init__(
        self, n_components: int = 512, n_passes: int = 5, cache_bytes: int = 1 << 31
    ) -> None:
        if n_components < 1:
            raise InputError(f"n_components={n_components}: keep at least 1 component.")
        self.n_components, self.n_passes = n_components, n_passes
        self.cache_bytes = cache_bytes

    def fit(self, batches: Batches) -> Self:
        """Fit mean, components and variances.

        Args:
            batches: Returns an iterable over all features in batches (n, D).  It is called once for
                the first batch alone, which centres the sums, and then once per pass.

        Returns:
            This object.

        Raises:
            InputError: If there are too few samples or features for `n_components`, if they do not
                vary enough, or if a value is NaN or infinite.
        """
        first = next(iter(batches()), None)
        if first is None or len(first) == 0:
            raise InputError("There are no samples to find principal components of.")
        moments = _Moments(first)
        n_features = len(first[0])
        stream = moments.deviations(batches)
        few, complete = _take(stream, min(n_features, 2 * _LARGEST_COVARIANCE**2 // n_features))
        if complete:
            values, vectors = _from_samples(moments, torch.cat(few), self.n_components)
        elif n_features <= _LARGEST_COVARIANCE:
            covariance = moments.covariance(chain(few, stream))
            values, vectors = torch.linalg.eigh(covariance)
            values = values.flip(0)[: self.n_components]
            vectors = vectors.flip(1)[:, : self.n_components]
        else:
            passes = _Passes(
                chain(few, stream), lambda: moments.deviations(batches), self.cache_bytes
            )
            values, vectors = _subspace_iteration(moments, passes, self.n_components, self.n_passes)
        self._check_rank(values, moments)
        largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
        self.components_ = (vectors * largest.sign()).T.float().contiguous()
        self.mean_ = (moments.shift + moments.offset()).float()
        self.explained_variance_ = values
        self.explained_variance_ratio_ = values / moments.variance()
        self.n_samples_ = moments.n
        return self

    def _check_rank(self, values: Tensor, moments: "_Moments") -> None:
        d, n, D = self.n_components, moments.n, len(moments.shift)
        # Features of equal images differ by rounding, which depends on their place in a batch.
        eps = torch.finfo(torch.float32).eps
        mean = moments.shift + moments.offset()
        if moments.variance() <= (8 * eps * mean.norm().item()) ** 2:
            raise InputError(
                f"All {n} images give the same features, so they have no principal components: "
                "give images that differ."
            )
        if d > n - 1 or d > D:
            raise InputError(
                f"{d} components were asked of {n} images with {D} features each: use more images "
                f"or set n_components to at most {min(n - 1, D)} "
                f"(--set encoder.n_components={min(n - 1, D)})."
            )
        # float32 features leave rounding noise of about eps times the largest variance.
        rank = int((values > eps * values[0]).sum())
        if rank < d:
            raise InputError(
                f"The images' features vary in {rank} {'way' if rank == 1 else 'ways'} only, but "
                f"{d} components were asked: use more varied images or set n_components to at most "
                f"{rank} (--set encoder.n_components={rank})."
            )

    def transform(self, s: Tensor) -> Tensor:
        """Whitened codes of features.

        Args:
            s: Features, (N, D).

        Returns:
            Codes, (N, d), unit variance on the data of the fit.

        Raises:
            InputError: If D is not that of the fit.
        """
        self._check(s, "features", 1)
        return (s - self.mean_) @ self._whitener()

    def inverse_transform(self, z: Tensor) -> Tensor:
        """Features whose codes are z, the least-squares inverse of `transform`.

        Args:
            z: Codes, (N, d).

        Returns:
            Features, (N, D), in the span of the kept components.

        Raises:
            InputError: If d is not that of the fit.
        """
        self._check(z, "codes", 0)
        return self.mean_ + z @ (self.components_ * self._scale()[:, None])

    def _check(self, rows: Tensor, what: str, axis: int) -> None:
        if not hasattr(self, "components_"):
            raise InputError("The principal components are not known yet: call fit first.")
        width = self.components_.shape[axis]
        if rows.ndim != 2 or rows.shape[1] != width:
            raise InputError(
                f"Expected {what} of shape (N, {width}) but got {tuple(rows.shape)}: use those "
                "of the model that these components belong to."
            )

    def _scale(self) -> Tensor:
        return self.explained_variance_.sqrt().to(self.components_)

    def _whitener(self) -> Tensor:
        return self.components_.T / self._scale()


class _Moments:
    """Count, mean and second moments of features, accumulated in float64.

    Sums are of deviations from the first batch's mean: they lose no digits to a large mean, which
    lets the products of one batch be float32.
    """

    def __init__(self, first: Tensor) -> None:
        self.shift = first.double().mean(0)
        self.n = 0
        self.total = torch.zeros_like(self.shift)
        self.squares = 0.0

    def offset(self) -> Tensor:
        """The mean less the shift."""
        return self.total / self.n

    def variance(self) -> float:
        """Sum of the variances of all features."""
        return self.squares / self.n - self.offset().square().sum().item()

    def deviations(self, batches: Batches) -> Iterator[Tensor]:
        """One pass over the data, counted once: batches less the shift, in float32."""
        counted = self.n > 0
        for batch in batches():
            if not torch.isfinite(batch).all():
                raise InputError(
                    "The features hold NaN or infinite values: check the images for them."
                )
            deviation = (batch - self.shift).float()
            if not counted:
                self.n += len(batch)
                self.total += deviation.double().sum(0)
                self.squares += deviation.double().square().sum().item()
            yield deviation

    def covariance(self, deviations: Iterable[Tensor]) -> Tensor:
        """Covariance of the features, (D, D) float64, from the pass that counts."""
        D = len(self.shift)
        sums = torch.zeros(D, D, dtype=torch.float64)
        # The Gram matrix is symmetric: four strips of its upper triangle are 5/8 of the work.
        strips = [(D * i // 4, D * (i + 1) // 4) for i in range(4)]
        for deviation in deviations:
            for start, stop in strips:
                sums[start:stop, start:] += deviation[:, start:stop].T @ deviation[:, start:]
        upper = sums.triu()
        offset = self.offset()
        return (upper + upper.triu(1).T) / self.n - torch.outer(offset, offset)


def _take(stream: Iterator[Tensor], limit: int) -> tuple[list[Tensor], bool]:
    """Batches up to `limit` rows, and whether those were all."""
    taken: list[Tensor] = []
    rows = 0
    for batch in stream:
        taken.append(batch)
        rows += len(batch)
        if rows > limit:
            return taken, False
    return taken, True


def _from_samples(moments: _Moments, samples: Tensor, n_components: int) -> tuple[Tensor, Tensor]:
    """Leading eigenvalues and eigenvectors of few samples, from their Gram matrix."""
    centred = samples.double() - moments.offset()
    values, left = torch.linalg.eigh(centred @ centred.T / moments.n)
    values, left = values.flip(0)[:n_components], left.flip(1)[:, :n_components]
    vectors = centred.T @ left
    return values, vectors / vectors.norm(dim=0).clamp_min(torch.finfo(vectors.dtype).tiny)


class _Passes:
    """Repeated passes over deviations, kept in memory after the first one if they fit.

    Args:
        first: The first pass.
        again: Starts another one.
        cache_bytes: What may be kept.
    """

    def __init__(
        self, first: Iterable[Tensor], again: Callable[[], Iterable[Tensor]], cache_bytes: int
    ) -> None:
        self._next: Iterable[Tensor] | None = first
        self._again, self._left = again, cache_bytes
        self._kept: list[Tensor] = []

    def __iter__(self) -> Iterator[Tensor]:
        if self._next is None:
            yield from self._kept if self._left >= 0 else self._again()
            return
        first, self._next = self._next, None
        for deviation in first:
            self._left -= deviation.nbytes
            if self._left >= 0:
                self._kept.append(deviation)
            else:
                self._kept.clear()
            yield deviation


def _subspace_iteration(
    moments: _Moments, passes: Iterable[Tensor], n_components: int, n_passes: int
) -> tuple[Tensor, Tensor]:
    """Leading eigenvalues and eigenvectors of the covariance, which is never formed."""
    D = len(moments.shift)
    width = min(n_components + _OVERSAMPLING, D)
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(D, width, generator=generator))[0]
    for last in [False] * (n_passes - 1) + [True]:
        image = torch.zeros(D, width, dtype=torch.float64)  # of the basis under the covariance
        for deviation in passes:
            image += deviation.T @ (deviation @ basis)
        offset, wide = moments.offset(), basis.double()
        image = image / moments.n - torch.outer(offset, offset @ wide)
        if not last:
            basis = torch.linalg.qr(image)[0].float()
    values, rotation = torch.linalg.eigh(wide.T @ image)  # Rayleigh-Ritz in the last subspace
    values, rotation = values.flip(0)[:n_components], rotation.flip(1)[:, :n_components]
    return values, wide @ rotation
