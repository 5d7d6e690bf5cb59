"""Gaussian mixture with full covariances, fitted by expectation–maximisation."""

import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Literal, Self

import numpy as np
import torch
from torch import Tensor

from scattergen.densities.covariances import inverse_of_lower, log_mixture
from scattergen.densities.expectation_maximization import Shrinkage, Statistics, climb, expectation, maximization
from scattergen.densities.mixture_selection import choose_components, choose_shrinkage
from scattergen.densities.protocol import History, check_codes, check_fitted, history_state, take_history, take_tensor
from scattergen.densities.sampling import Noise, draw_in_chunks
from scattergen.errors import InputError
from scattergen.progress import SILENT, Progress

_CODES_PER_COMPONENT = 300  # of an automatic choice
_MOST_COMPONENTS = 200
_RIDGE = 1e-5  # of the mean variance; added to variances, so that repeated codes do no harm


class GaussianMixture:
    r"""Gaussian mixture, $p(z) = \sum_k w_k\, N(z; \mu_k, \Sigma_k)$.

    EM starts from the clusters of k-means, seeded by k-means++. With $N_k$ codes in component k, scatter $S_k$ about
    its mean and the pooled $W = \sum_k S_k / N$,

    $$\Sigma_k = (S_k + \kappa W) / (N_k + \kappa)$$

    so κ (`shrinkage`) counts as that many codes of an average component: the directions that a component has too few
    codes for come from all of them. With κ = 0 this is maximum likelihood. "auto" takes the powers of two under which
    held-out codes are most likely, one for each octave of components given those before (1 … `leading`, as many more,
    twice as many …): on whitened codes few for the leading ones and many for the trailing ones. W itself is shrunk
    towards a multiple of the identity by the oracle approximating formula, which matters only when N is not much larger
    than d.

    Codes come from a principal component analysis, so that their first components decide how an image looks, and the
    trailing ones are mostly noise to the assignment of codes to Gaussians. EM therefore sees the `leading` components
    only, in which it takes seconds; one M-step over all of them follows.

    In high dimension nearly every code belongs to one component, so each code is compared with a few candidates only:
    its best ones of the iteration before and the best under the pooled covariance. This truncation is a variational EM;
    with up to eight components it is exact. A component left with less than one code restarts from a random code.

    With `batch_size`, EM is stepwise: after the t-th batch its statistics are blended into those of all before with
    weight $t^{-0.6}$, so that one pass makes many steps.

    Args:
        n_components: Number K of components; None takes one per 300 codes, at least 1 and at most 200; "auto" the power
            of two under which held-out codes are most likely (their leading components, if EM sees these only), for two
            or three times the time.
        shrinkage: Weight κ of the pooled covariance, in codes, or "auto".
        leading: Number of components of the codes that EM sees; None lets it see all.
        batch_size: Codes per step of EM; None takes all.
        max_iterations: Of EM, or passes over the batches.
        tolerance: EM stops when the mean log-likelihood per code gains less than this, in nats.

    Attributes:
        weights_: (K,) float32.
        means_: (K, d) float32.
        cholesky_: Lower triangular factors of the covariances, (K, d, d) float32.
        history_: One row per iteration of EM: "epoch", "seconds", "log_likelihood" (mean per code, before the update,
            in nats; of the leading components if EM sees only these), "smallest", "largest" (component, in codes).

    Raises:
        InputError: If an argument is out of range.

    References:
        Dempster, Laird, Rubin, "Maximum likelihood from incomplete data via the EM algorithm", 1977.
        Arthur, Vassilvitskii, "k-means++: the advantages of careful seeding", 2007.
        Cappé, Moulines, "On-line expectation-maximization algorithm for latent data models", 2009.
        Chen, Wiesel, Eldar, Hero, "Shrinkage algorithms for MMSE covariance estimation", 2010.
        Forster, Lücke, "Can clustering scale sublinearly with its clusters?", 2018.

    Example:
        >>> z = torch.randn(1000, 2, generator=torch.Generator().manual_seed(0))
        >>> z[:300] += 10
        >>> mixture = GaussianMixture(n_components=2).fit(z)
        >>> sorted(round(weight, 2) for weight in mixture.weights_.tolist())
        [0.3, 0.7]
    """

    def __init__(
        self,
        n_components: int | Literal["auto"] | None = None,
        shrinkage: float | Literal["auto"] = "auto",
        leading: int | None = 32,
        batch_size: int | None = None,
        max_iterations: int = 15,
        tolerance: float = 0.1,
    ) -> None:
        if isinstance(n_components, str):
            if n_components != "auto":
                raise InputError(f'n_components="{n_components}": give a number, "auto" or null.')
        elif n_components is not None and n_components < 1:
            raise InputError(f"n_components={n_components}: use at least 1, or None to choose.")
        if isinstance(shrinkage, str):
            if shrinkage != "auto":
                raise InputError(f'shrinkage="{shrinkage}": give a number or "auto".')
        elif not shrinkage >= 0:
            raise InputError(f"shrinkage={shrinkage}: a weight cannot be negative.")
        if leading is not None and leading < 1:
            raise InputError(f"leading={leading}: use at least 1 component, or None for all.")
        if max_iterations < 1:
            raise InputError(f"max_iterations={max_iterations}: at least 1 is needed.")
        if batch_size is not None and batch_size < 2:
            raise InputError(f"batch_size={batch_size}: use at least 2 codes, or None for all.")
        self.n_components, self.shrinkage, self.leading = n_components, shrinkage, leading
        self.batch_size, self.max_iterations, self.tolerance = batch_size, max_iterations, tolerance

    @property
    def description(self) -> str:
        """One line for reports."""
        kappa = self.shrinkage if isinstance(self.shrinkage, str) else f"{self.shrinkage:g}"
        if not hasattr(self, "n_features_"):
            return f"Gaussian mixture, κ = {kappa}"
        K, d = self.means_.shape
        numbers = K - 1 + K * d + K * d * (d + 1) // 2
        return (
            f"{K} {'Gaussian' if K == 1 else 'Gaussians'} with {d} × {d} covariances, "
            f"κ = {kappa}, {len(self.history_)} iterations; {numbers:,} parameters"
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
        """Fit by EM, as `Density.fit` says.

        The seed decides the first means, the held-out codes and the order of batches. `checkpoint` is not used: an
        interrupted fit is faster repeated than stored.

        Raises:
            InputError: If the codes cannot be used or are fewer than two, or than two per component.
        """
        start = time.monotonic()
        codes = check_codes(z, minimum=2).float().to(device)
        N, d = codes.shape
        # Squares of numbers far from 0 would cancel.
        centre = codes.mean(0, dtype=torch.float64).float()
        codes = codes - centre
        if not (codes.amax(0) > codes.amin(0)).any():
            raise InputError("All codes are equal: there is no distribution to model.")
        generator = np.random.default_rng(seed)
        partly = self.leading is not None and self.leading < d
        x = codes[:, : self.leading].contiguous() if partly else codes
        ridge = _RIDGE * codes.var(0, correction=0).mean().item()
        history: History = []

        def weights_of(x: Tensor, labels: Tensor, K: int) -> Shrinkage:
            if isinstance(self.shrinkage, str):
                return choose_shrinkage(x, labels, K, self.leading or x.shape[1], ridge, generator)
            return [(x.shape[1], float(self.shrinkage))]

        em = partial(
            climb,
            weights_of=weights_of,
            ridge=ridge,
            batch_size=self.batch_size,
            max_iterations=self.max_iterations,
            tolerance=self.tolerance,
            generator=generator,
        )
        if self.n_components == "auto":
            K = choose_components(x, lambda x, K: em(x, K)[0], generator, progress)
        else:
            K = self.count_components(N)
        with progress.task("mixture", total=self.max_iterations) as task:

            def keep(log_likelihood: float, counts: Tensor) -> None:
                row = {"epoch": len(history) + 1, "seconds": time.monotonic() - start, "log_likelihood": log_likelihood}
                history.append(row | {"smallest": counts.min().item(), "largest": counts.max().item()})
                task.advance(1, f"log-likelihood {log_likelihood:.2f}")

            components, candidates = em(x, K, on_iteration=keep)
            if partly:
                found = expectation(x, candidates, components)
                statistics = Statistics.of(codes, found, codes.new_zeros(K, d))
                shrinkage = weights_of(codes, found.best(1)[:, 0], K)
                components = maximization(statistics, shrinkage, ridge)
        self.weights_, self.means_ = components.weights.cpu(), (components.means + centre).cpu()
        factors = [torch.linalg.cholesky(covariance.double()).float() for covariance in components.covariances]
        self.cholesky_ = torch.stack(factors).cpu()
        history[-1]["seconds"] = time.monotonic() - start  # with the M-step over all components
        self.n_features_, self.history_ = d, history
        return self

    def count_components(self, N: int) -> int:
        """`n_components`, or what is chosen for N codes without a look at them.

        Raises:
            InputError: If the codes are too few for `n_components`.
        """
        if not isinstance(self.n_components, int | np.integer):
            return min(max(N // _CODES_PER_COMPONENT, 1), _MOST_COMPONENTS)
        self.check_count(N)
        return self.n_components

    def check_count(self, n: int) -> None:
        """Refuse fewer codes than the components need (see `densities.check_count`)."""
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
        means = self.means_.double()

        def draw(noise: Noise, size: int) -> Tensor:
            chosen = noise.choice(self.weights_, size)
            white = noise.normal(size, self.n_features_)
            codes = means[chosen]
            for k in chosen.unique().tolist():
                rows = (chosen == k).nonzero()[:, 0]
                codes[rows] += white[rows] @ self.cholesky_[k].double().T
            return codes

        return draw_in_chunks(n, seed, draw, temperature)

    def log_prob(self, z: Tensor) -> Tensor:
        """Exact logarithm of the density, in nats: codes (N, d) to (N,). All components count.

        In float32 its error is about 1e-6 of the squared Mahalanobis distance, some 1e-3 nats at d = 512; give float64
        codes for more.
        """
        check_fitted(self)
        check_codes(z, n_features=self.n_features_)
        weights = self.weights_.double() / self.weights_.double().sum()
        factors = (inverse_of_lower(lower.double()).to(z) for lower in self.cholesky_)
        return log_mixture(z, weights.to(z), self.means_.to(z), factors)

    def state_dict(self) -> dict[str, Tensor]:
        """Everything fitted, as named tensors; of the triangular factors only the lower halves."""
        check_fitted(self)
        rows, columns = torch.tril_indices(self.n_features_, self.n_features_)
        tensors = {"weights": self.weights_, "means": self.means_}
        tensors["cholesky"] = self.cholesky_[:, rows, columns]
        return tensors | history_state(self.history_)

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
