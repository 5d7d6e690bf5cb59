"""Gaussian mixture with full covariances, fitted by expectation–maximisation."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
import torch
from torch import Tensor

import scattergen.densities.expectation_maximization as em
from scattergen.densities.covariances import from_white, inverse_of_lower, log_mixture
from scattergen.densities.protocol import File, check_codes, check_fitted, history_state, take_history, take_tensor
from scattergen.densities.sampling import Noise, draw_in_chunks
from scattergen.errors import InputError
from scattergen.progress import SILENT, Progress

_CODES_PER_COMPONENT = 300  # of an automatic choice
_MOST_COMPONENTS = 200
_RIDGE = 1e-5  # of the mean variance; added to variances, so that repeated codes do no harm


def check_components(leading: int | None, n_components: int | None) -> None:
    """Refuse numbers of leading components and of Gaussians that there cannot be."""
    if leading is not None and leading < 1:
        raise InputError(f"leading={leading}: use at least 1 component, or None for all.")
    if n_components is not None and n_components < 1:
        raise InputError(f"n_components={n_components}: use at least 1, or None to choose.")


@dataclass(eq=False)
class GaussianMixture:
    r"""Gaussian mixture, $p(z) = \sum_k w_k\, N(z; \mu_k, \Sigma_k)$.

    EM (Dempster et al., 1977) starts from the clusters of k-means++ (Arthur, Vassilvitskii, 2007). With $N_k$ codes in
    component k, scatter $S_k$ about its mean and the pooled $W = \sum_k S_k / N$, shrunk towards the identity (Chen et
    al., "Shrinkage algorithms for MMSE covariance estimation", 2010),

    $$\Sigma_k = (S_k + \kappa W) / (N_k + \kappa)$$

    so κ (`shrinkage`) counts as that many codes of an average component, and κ = 0 is maximum likelihood. One M-step
    over all components follows after EM of the `leading` ones, beside which the others are mostly noise. Each code is
    compared with a few candidates: its best ones of the iteration before and the best under the pooled covariance, a
    variational EM (Forster, Lücke, 2018) that is exact with up to eight components. A component left with less than one
    code restarts from a random code. Keywords out of range raise an `InputError`.

    Args:
        n_components: Number K of components; None takes one per 300 codes, at most 200; "auto" the power of two under
            which held-out codes are most likely (what EM sees of them), for two or three times the time.
        shrinkage: Weight κ of the pooled covariance, in codes, or "auto": the powers of two under which held-out codes
            are most likely, one for each octave of components given those before (1 … `leading`, as many more …).
        leading: Number of components of the codes that EM sees; None lets it see all.
        batch_size: Codes per step of EM, the t-th blended into those before with weight $t^{-0.6}$ (Cappé, Moulines,
            2009); None takes all.
        max_iterations, tolerance: Of EM, which stops when the mean log-likelihood per code gains less nats than this.

    Attributes:
        weights_, means_, cholesky_: (K,), (K, d), and lower triangular factors of covariances, (K, d, d), float32.
        history_: One row per iteration of EM: "epoch", "seconds", "log_likelihood" (mean per code, before the update,
            in nats; of what EM sees), "smallest", "largest" (component, in codes).

    Example:
        >>> z = torch.randn(1000, 2, generator=torch.Generator().manual_seed(0))
        >>> z[:300] += 10
        >>> sorted(round(weight, 2) for weight in GaussianMixture(n_components=2).fit(z).weights_.tolist())
        [0.3, 0.7]
    """

    n_components: int | Literal["auto"] | None = None
    shrinkage: float | Literal["auto"] = "auto"
    leading: int | None = 32
    batch_size: int | None = None
    max_iterations: int = 15
    tolerance: float = 0.1

    def __post_init__(self) -> None:
        if isinstance(self.n_components, str) and self.n_components != "auto":
            raise InputError(f'n_components="{self.n_components}": give a number, "auto" or null.')
        check_components(self.leading, None if isinstance(self.n_components, str) else self.n_components)
        if isinstance(self.shrinkage, str) and self.shrinkage != "auto":
            raise InputError(f'shrinkage="{self.shrinkage}": give a number or "auto".')
        if not isinstance(self.shrinkage, str) and not self.shrinkage >= 0:
            raise InputError(f"shrinkage={self.shrinkage}: a weight cannot be negative.")
        if self.max_iterations < 1:
            raise InputError(f"max_iterations={self.max_iterations}: at least 1 is needed.")
        if self.batch_size is not None and self.batch_size < 2:
            raise InputError(f"batch_size={self.batch_size}: use at least 2 codes, or None for all.")

    @property
    def description(self) -> str:
        """One line for reports."""
        kappa = self.shrinkage if isinstance(self.shrinkage, str) else f"{self.shrinkage:g}"
        if not hasattr(self, "n_features_"):
            return f"Gaussian mixture, κ = {kappa}"
        K, d = self.means_.shape
        numbers = K - 1 + K * d + K * d * (d + 1) // 2
        size = f"{K} {'Gaussian' if K == 1 else 'Gaussians'} with {d} × {d} covariances"
        return f"{size}, κ = {kappa}, {len(self.history_)} iterations; {numbers:,} parameters"

    def fit(
        self, z: Tensor, *, seed: int = 0, progress: Progress = SILENT, device: str = "cpu", checkpoint: File = None
    ) -> Self:
        """Fit by EM, as `Density.fit` says; without `checkpoint`, as it is faster repeated than stored."""
        start = time.monotonic()
        codes = check_codes(z, minimum=2).float().to(device)
        N, d = codes.shape
        # Squares of numbers far from 0 would cancel.
        centre = codes.mean(0, dtype=torch.float64).float()
        codes = codes - centre
        if not (codes.amax(0) > codes.amin(0)).any():
            raise InputError("All codes are equal: there is no distribution to model.")
        self.check_count(N)
        generator = np.random.default_rng(seed)
        partly = self.leading is not None and self.leading < d
        x = codes[:, : self.leading].contiguous() if partly else codes
        ridge = _RIDGE * codes.var(0, correction=0).mean().item()
        history: list[dict[str, float]] = []

        def weights_of(x: Tensor, labels: Tensor, K: int) -> em.Shrinkage:
            if isinstance(self.shrinkage, str):
                return em.choose_shrinkage(x, labels, K, self.leading or x.shape[1], ridge, generator)
            return [(x.shape[1], float(self.shrinkage))]

        ascent = em.Ascent(weights_of, ridge, self.batch_size, self.max_iterations, self.tolerance, generator)
        if isinstance(self.n_components, str):
            K = ascent.choose_components(x, progress)
        else:
            K = self.n_components or min(max(N // _CODES_PER_COMPONENT, 1), _MOST_COMPONENTS)
        with progress.task("mixture", total=self.max_iterations) as task:

            def keep(log_likelihood: float, counts: Tensor) -> None:
                row = {"epoch": len(history) + 1, "seconds": time.monotonic() - start, "log_likelihood": log_likelihood}
                history.append(row | {"smallest": counts.min().item(), "largest": counts.max().item()})
                task.advance(1, f"log-likelihood {log_likelihood:.2f}")

            components, candidates = ascent.climb(x, K, on_iteration=keep)
            if partly:
                found = em.expectation(x, candidates, components)
                statistics = em.Statistics.of(codes, found, codes.new_zeros(K, d))
                components = em.maximization(statistics, weights_of(codes, found.best(1)[:, 0], K), ridge)
        self.weights_, self.means_ = components.weights.cpu(), (components.means + centre).cpu()
        factors = [torch.linalg.cholesky(covariance.double()).float() for covariance in components.covariances]
        self.cholesky_ = torch.stack(factors).cpu()
        history[-1]["seconds"] = time.monotonic() - start  # with the M-step over all components
        self.n_features_, self.history_ = d, history
        return self

    def check_count(self, n: int) -> None:
        """Refuse fewer codes than the components need."""
        if n < 2:
            raise InputError(f"{n} codes are too few: at least 2 are needed.")
        if isinstance(self.n_components, int | np.integer) and self.n_components > n // 2:
            raise InputError(
                f"{n} codes are too few for n_components={self.n_components}: use at most {n // 2} "
                "components, or null, which chooses by the number of codes."
            )

    def sample(self, n: int, *, seed: int = 0, temperature: float = 1.0) -> Tensor:
        """Draw codes (n, d), as `Density.sample` says; the temperature scales the noise around components' means."""
        check_fitted(self)

        def draw(noise: Noise, size: int) -> Tensor:
            chosen = noise.choice(self.weights_, size)
            return from_white(noise.normal(size, self.n_features_), self.cholesky_, self.means_, chosen)

        return draw_in_chunks(n, seed, draw, temperature)

    def log_prob(self, z: Tensor) -> Tensor:
        """Exact logarithm of the density, in nats: codes (N, d) to (N,); in float32 to some 1e-3 nats at d = 512."""
        check_fitted(self)
        check_codes(z, n_features=self.n_features_)
        weights = self.weights_.double() / self.weights_.double().sum()
        factors = (inverse_of_lower(lower.double()).to(z) for lower in self.cholesky_)
        return log_mixture(z, weights.to(z), self.means_.to(z), factors)

    def state_dict(self) -> dict[str, Tensor]:
        """Everything fitted, as named tensors; of the triangular factors only the lower halves."""
        check_fitted(self)
        rows, columns = torch.tril_indices(self.n_features_, self.n_features_)
        tensors = {"weights": self.weights_, "means": self.means_, "cholesky": self.cholesky_[:, rows, columns]}
        return tensors | history_state(self.history_)

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Become the fitted density that `state_dict` was taken from."""
        self.weights_ = take_tensor(tensors, "weights", (None,))
        self.means_ = take_tensor(tensors, "means", (len(self.weights_), None))
        K, d = self.means_.shape
        rows, columns = torch.tril_indices(d, d)
        self.cholesky_ = torch.zeros(K, d, d)
        self.cholesky_[:, rows, columns] = take_tensor(tensors, "cholesky", (K, d * (d + 1) // 2))
        self.n_features_, self.history_ = d, take_history(tensors)
