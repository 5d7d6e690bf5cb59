"""Gaussian mixtures, fitted by expectation–maximisation."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
import torch
from torch import Tensor

import scattergen.densities.expectation_maximization as em
from scattergen.calls.keywords import check_seed, check_values
from scattergen.densities.display import DisplayedDensity
from scattergen.densities.gaussian import from_white, inverse_of_lower, log_mixture
from scattergen.densities.protocol import File, check_codes, check_fitted, history_state, take_history, take_tensor
from scattergen.densities.sampling import Noise, draw_in_chunks
from scattergen.display.progress import SILENT, Progress
from scattergen.errors import InputError

_CODES_PER_COMPONENT = 300  # of an automatic choice
MOST_COMPONENTS = 200
RIDGE = 1e-5  # of each component's variance; added to variances, so that repeated codes do no harm


@dataclass(eq=False, repr=False)
class GaussianMixture(DisplayedDensity):
    r"""Gaussian mixture, $p(z) = \sum_k w_k\, N(z; \mu_k, \Sigma_k)$.

    EM (Dempster et al., 1977) of standardized codes starts from the clusters of greedy k-means++ (Arthur,
    Vassilvitskii, 2007). With $N_k$ codes in component k, scatter $S_k$ about its mean and the pooled
    $W = \sum_k S_k / N$, shrunk towards the identity (Chen et al., "Shrinkage algorithms for MMSE covariance
    estimation", 2010),

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
        batch_size: Codes per step of EM, the t-th blended in with weight $t^{-0.6}$ (Cappé, Moulines, 2009); None: all.
        max_iterations: Of EM.
        tolerance: EM stops when the mean log-likelihood per code gains less nats than this.

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
        check_values(self, n_components=1, shrinkage=0, leading=1, batch_size=2, max_iterations=1, tolerance=0)

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
        codes = check_codes(z, self).detach().float().to(device)
        N, d = codes.shape
        differ = codes.amax(0) > codes.amin(0)
        if not differ.any():
            raise InputError("All codes are equal: there is no distribution to model.")
        # Squares of numbers far from 0 would cancel; and no unit of a component is to count for more than another.
        centre = codes.mean(0, dtype=torch.float64).float()
        codes = codes - centre
        scale = (torch.linalg.vector_norm(codes, dim=0, dtype=torch.float64) / N**0.5).float()
        scale = scale.where(differ, scale[differ].double().square().mean().sqrt().float())
        codes /= scale
        generator = np.random.default_rng(check_seed(seed))
        partly = self.leading is not None and self.leading < d
        x = codes[:, : self.leading].contiguous() if partly else codes
        stretch = scale[: x.shape[1]].log().sum().item()
        history: list[dict[str, float]] = []

        def weights_of(x: Tensor, labels: Tensor, K: int) -> em.Shrinkage:
            if isinstance(self.shrinkage, str):
                return em.choose_shrinkage(x, labels, K, self.leading or x.shape[1], RIDGE, generator)
            return [(x.shape[1], float(self.shrinkage))]

        ascent = em.Ascent(weights_of, RIDGE, self.batch_size, self.max_iterations, self.tolerance, generator)
        if isinstance(self.n_components, str):
            K = ascent.choose_components(x, progress)
        else:
            K = self.n_components or min(max(N // _CODES_PER_COMPONENT, 1), MOST_COMPONENTS)
        with progress.task("mixture", total=self.max_iterations) as task:

            def keep(log_likelihood: float, counts: Tensor) -> None:
                log_likelihood -= stretch
                row = {"epoch": len(history) + 1, "seconds": time.monotonic() - start, "log_likelihood": log_likelihood}
                history.append(row | {"smallest": counts.min().item(), "largest": counts.max().item()})
                task.advance(1, f"log-likelihood {log_likelihood:.2f}")

            components, candidates = ascent.climb(x, K, on_iteration=keep)
            if partly:
                found = em.expectation(x, candidates, components)
                statistics = em.Statistics.of(codes, found, codes.new_zeros(K, d))
                components = em.maximization(statistics, weights_of(codes, found.best(1)[:, 0], K), RIDGE)
        self.weights_, self.means_ = components.weights.cpu(), (components.means * scale + centre).cpu()
        factors = [torch.linalg.cholesky(covariance.double()).float() for covariance in components.covariances]
        self.cholesky_ = torch.stack(factors).mul_(scale[:, None]).cpu()
        history[-1]["seconds"] = time.monotonic() - start  # with the M-step over all components
        self.n_features_, self.history_ = d, history
        return self

    def check_count(self, n: int) -> None:
        """Refuse fewer codes than the components need."""
        if isinstance(self.n_components, int) and self.n_components > n // 2:
            problem = f"{n} codes to fit to are too few for n_components={self.n_components}"
            problem += f": use at most {n // 2} components"
            raise InputError(f"{problem}, or null, which chooses by the number of codes.")

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
        z = check_codes(z, n_features=self.n_features_)
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
