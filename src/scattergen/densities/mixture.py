"""Gaussian mixture with full covariances, fitted by expectation–maximisation."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor

from scattergen.densities.expectation_maximization import (
    Components,
    expectation,
    inverse_of_lower,
    log_joint,
    maximization,
    propose,
    seed_means,
    shared_covariance_em,
    unite,
)
from scattergen.densities.protocol import (
    History,
    check_codes,
    check_fitted,
    history_state,
    take_history,
    take_tensor,
)
from scattergen.densities.sampling import draw_in_chunks, standard_normal
from scattergen.errors import InputError
from scattergen.progress import SILENT, Progress

_CODES_PER_COMPONENT = 300  # of an automatic choice
_MOST_COMPONENTS = 200
_SHARED_ITERATIONS = 12
_RIDGE = 1e-5  # of the mean variance; added to variances, so that repeated codes do no harm
_MOST_CANDIDATES = 8  # components that a code is compared with in full


class GaussianMixture:
    r"""Gaussian mixture with full covariances, $p(z) = \sum_k w_k\, N(z; \mu_k, \Sigma_k)$.

    The means are seeded by k-means++ and moved by EM with one covariance for all components, which
    is cheap. Full EM follows: with $N_k$ codes in component k, scatter $S_k$ about its mean and
    the pooled $W = \sum_k S_k / N$,

    $$\Sigma_k = (S_k + \kappa W) / (N_k + \kappa)$$

    so κ (`shrinkage`) counts as that many codes of an average component: the directions that a
    component has too few codes for come from all of them. With κ = 0 this is maximum likelihood.
    W itself is shrunk towards a multiple of the identity by the oracle approximating formula, which
    matters only when N is not much larger than d.

    In high dimension nearly every code belongs to one component, so each code is compared with a
    few candidates only: its best ones of the iteration before and the best under the shared
    covariance. This truncation is a variational EM; with up to eight components it is exact. A
    component left with less than one code restarts from a code of the largest one.

    Args:
        n_components: Number K of components; None takes one per 300 codes, at least 1 and at most
        200.
        shrinkage: Weight κ of the pooled covariance, in codes.
        leading: EM sees the first so many components of the codes only, and one M-step over all of
            them follows; None lets it see all.  Trailing components of whitened codes are mostly
            noise to the assignment of codes to Gaussians, and cost most of the time.
        leading_shrinkage: κ while EM sees the leading components only.
        max_iterations: Of full EM.
        tolerance: EM stops when the mean log-likelihood per code gains less than this, in nats.

    Attributes:
        weights_: (K,) float32.
        means_: (K, d) float32.
        cholesky_: Lower triangular factors of the covariances, (K, d, d), float32.
        n_features_: d.
        history_: One row per iteration of full EM: "epoch", "seconds", "log_likelihood" (mean per
            code, before the update, in nats; of the leading components if EM sees only these),
            "smallest", "largest" (component, in codes).

    Raises:
        InputError: If an argument is out of range.

    References:
        Dempster, Laird, Rubin, "Maximum likelihood from incomplete data via the EM algorithm",
            1977.
        Arthur, Vassilvitskii, "k-means++: the advantages of careful seeding", 2007.
        Chen, Wiesel, Eldar, Hero, "Shrinkage algorithms for MMSE covariance estimation", 2010.
        Forster, Lücke, "Can clustering scale sublinearly with its clusters?", 2018.

    Example:
        >>> z = torch.cat([torch.randn(300, 2) - 5, torch.randn(700, 2) + 5])
        >>> mixture = GaussianMixture(n_components=2).fit(z)
        >>> sorted(round(weight, 2) for weight in mixture.weights_.tolist())
        [0.3, 0.7]
    """

    weights_: Tensor
    means_: Tensor
    cholesky_: Tensor
    n_features_: int
    history_: History

    def __init__(
        self,
        n_components: int | None = None,
        shrinkage: float = 32.0,
        max_iterations: int = 15,
        tolerance: float = 0.5,
        leading: int | None = None,
        leading_shrinkage: float = 8.0,
    ) -> None:
        if n_components is not None and n_components < 1:
            raise InputError(f"n_components={n_components}: use at least 1, or None to choose.")
        for name, weight in {
            "shrinkage": shrinkage,
            "leading_shrinkage": leading_shrinkage,
        }.items():
            if not weight >= 0:
                raise InputError(f"{name}={weight}: a weight cannot be negative.")
        if leading is not None and leading < 1:
            raise InputError(f"leading={leading}: use at least 1 component, or None for all.")
        if max_iterations < 1:
            raise InputError(f"max_iterations={max_iterations}: at least 1 is needed.")
        self.n_components, self.shrinkage = n_components, shrinkage
        self.max_iterations, self.tolerance = max_iterations, tolerance
        self.leading, self.leading_shrinkage = leading, leading_shrinkage

    @property
    def description(self) -> str:
        """One line for reports."""
        if not hasattr(self, "n_features_"):
            return f"Gaussian mixture, full covariances, κ = {self.shrinkage:g}"
        K, d = self.means_.shape
        numbers = K - 1 + K * d + K * d * (d + 1) // 2
        return (
            f"{K} {'Gaussian' if K == 1 else 'Gaussians'} with full {d} × {d} covariances, "
            f"κ = {self.shrinkage:g}, {len(self.history_)} iterations; {numbers:,} parameters"
        )

    def fit(
        self,
        z: Tensor,
        *,
        seed: int = 0,
        progress: Progress = SILENT,
        device: str = "cpu",
        checkpoint: Path | None = None,
    ) -> Self:
        """Fit by EM.

        Args:
            z: Codes, (N, d); at least 2, and 2 per component.
            seed: Of the first means.
            progress: Where to report.
            device: Where to compute.
            checkpoint: Not used: an interrupted fit is faster repeated than stored.

        Returns:
            This object.

        Raises:
            InputError: If the codes cannot be used or are too few.
        """
        start = time.monotonic()
        codes = check_codes(z, minimum=2).float().to(device)
        N, d = codes.shape
        K = self.count_components(N)
        if not (codes.amax(0) > codes.amin(0)).any():
            raise InputError("All codes are equal: there is no distribution to model.")
        generator = np.random.default_rng(seed)
        partly = self.leading is not None and self.leading < d
        x = codes[:, : self.leading].contiguous() if partly else codes
        kappa = self.leading_shrinkage if partly else self.shrinkage
        ridge = _RIDGE * codes.var(0, correction=0).mean().item()
        history: History = []
        with progress.task("mixture", total=self.max_iterations) as task:
            components = shared_covariance_em(
                x, seed_means(x, K, generator), _SHARED_ITERATIONS, ridge, generator
            )
            candidates = propose(x, components, min(K, _MOST_CANDIDATES))
            for iteration in range(1, self.max_iterations + 1):
                found = expectation(x, candidates, components)
                components = maximization(x, found, components, kappa, ridge, generator)
                counts, log_likelihood = N * components.weights, found.log_likelihood
                row = {"epoch": iteration, "seconds": time.monotonic() - start}
                row |= {"log_likelihood": log_likelihood}
                row |= {"smallest": counts.min().item(), "largest": counts.max().item()}
                history.append(row)
                task.advance(1, f"log-likelihood {log_likelihood:.2f}")
                if iteration > 1:
                    gain = log_likelihood - history[-2]["log_likelihood"]
                    if gain < self.tolerance:
                        break
                if K > _MOST_CANDIDATES:
                    candidates = unite(found.best(3), propose(x, components, 2))
            if partly:
                found = expectation(x, candidates, components)
                zeros = (codes.new_zeros(size) for size in ((K, d), (K, d, d), (d, d)))
                components = Components(components.weights, *zeros)
                components = maximization(
                    codes, found, components, self.shrinkage, ridge, generator
                )
        self.weights_, self.means_ = components.weights.cpu(), components.means.cpu()
        self.cholesky_ = torch.stack([_factor(c) for c in components.covariances]).cpu()
        self.n_features_, self.history_ = d, history
        return self

    def count_components(self, N: int) -> int:
        """Number of components that a fit to N codes has.

        Args:
            N: Number of codes.

        Returns:
            `n_components`, or what is chosen for so many codes.

        Raises:
            InputError: If the codes are too few for `n_components`.
        """
        if self.n_components is None:
            return min(max(N // _CODES_PER_COMPONENT, 1), _MOST_COMPONENTS)
        self.check_count(N)
        return self.n_components

    def check_count(self, n: int) -> None:
        """Refuse fewer codes than the components need (see `densities.check_count`)."""
        if self.n_components is not None and self.n_components > n // 2:
            raise InputError(
                f"{n} codes are too few for n_components={self.n_components}: use at most {n // 2} "
                "components, or null, which chooses by the number of codes."
            )

    def sample(self, n: int, *, seed: int = 0) -> Tensor:
        """Draw codes; code k depends on the fitted density, `seed` and k only.

        Args:
            n: Number of codes.
            seed: 0 or more.

        Returns:
            Codes, (n, d), float32.
        """
        check_fitted(self)
        weights = self.weights_.double().numpy()
        means = self.means_.double()

        def draw(generator: np.random.Generator, size: int) -> Tensor:
            chosen = generator.choice(len(weights), size, p=weights / weights.sum())
            noise = standard_normal(generator, size, self.n_features_)
            codes = means[torch.from_numpy(chosen)]
            for k in np.unique(chosen):
                rows = torch.from_numpy(np.flatnonzero(chosen == k))
                codes[rows] += noise[rows] @ self.cholesky_[k].double().T
            return codes

        return draw_in_chunks(n, seed, draw)

    def log_prob(self, z: Tensor) -> Tensor:
        """Exact logarithm of the density, in nats: all components count.

        In float32 its error is about 1e-6 of the squared Mahalanobis distance, some 1e-3 nats at
        d = 512; give float64 codes for more.

        Args:
            z: Codes, (N, d).

        Returns:
            (N,), with the type and device of `z`.
        """
        check_fitted(self)
        check_codes(z, n_features=self.n_features_)
        total = torch.full_like(z[:, 0], -torch.inf)
        weights = self.weights_.double() / self.weights_.double().sum()
        for weight, mean, lower in zip(weights, self.means_, self.cholesky_, strict=True):
            factor = inverse_of_lower(lower.double()).to(z)
            total = torch.logaddexp(total, log_joint(z, weight.to(z), mean.to(z), factor))
        return total

    def state_dict(self) -> dict[str, Tensor]:
        """Everything fitted, as named tensors; of the triangular factors only the lower halves."""
        check_fitted(self)
        rows, columns = torch.tril_indices(self.n_features_, self.n_features_)
        return {
            "weights": self.weights_,
            "means": self.means_,
            "cholesky": self.cholesky_[:, rows, columns],
        } | history_state(self.history_)

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Become the fitted density that `state_dict` was taken from."""
        self.weights_ = take_tensor(tensors, "weights", (None,))
        K = len(self.weights_)
        self.means_ = take_tensor(tensors, "means", (K, None))
        d = self.means_.shape[1]
        rows, columns = torch.tril_indices(d, d)
        self.cholesky_ = torch.zeros(K, d, d)
        self.cholesky_[:, rows, columns] = take_tensor(tensors, "cholesky", (K, d * (d + 1) // 2))
        self.n_features_, self.history_ = d, take_history(tensors)


def _factor(covariance: Tensor) -> Tensor:
    return torch.linalg.cholesky(covariance.double()).float()
