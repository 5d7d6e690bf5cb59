"""Gaussian mixtures, fitted by expectation–maximisation: of codes, and of leading components that the rest follow."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Self

import numpy as np
import torch
from torch import Tensor

import scattergen.densities.expectation_maximization as em
from scattergen.calls.keywords import check_seed, check_values
from scattergen.densities.display import DisplayedDensity
from scattergen.densities.gaussian import from_white, inverse_of_lower, log_mixture, shrink_to_diagonal
from scattergen.densities.protocol import File, check_codes, check_fitted, history_state, take_history, take_tensor
from scattergen.densities.sampling import Noise, draw_in_chunks
from scattergen.display.progress import SILENT, Progress
from scattergen.errors import InputError

_CODES_PER_COMPONENT = 300  # of an automatic choice
_MOST_COMPONENTS = 200
_RIDGE = 1e-5  # of each component's variance; added to variances, so that repeated codes do no harm
_CODES_PER_LEADING_COMPONENT = 275  # of an automatic choice
_LEADING_SHRINKAGE = 16.0  # of the mixture of the leading components, in codes
_LEADING_TOLERANCE = 0.5  # of the EM for it, in nats
_SLOPE_SHRINKAGE = 32.0  # of the regressions, in codes
_ROWS = 1024  # codes per array (rows, K, m), to bound memory


@dataclass(eq=False, repr=False)
class GaussianMixture(DisplayedDensity):
    r"""Gaussian mixture, $p(z) = \sum_k w_k\, N(z; \mu_k, \Sigma_k)$.

    EM (Dempster et al., 1977) of standardized codes starts from the clusters of greedy k-means++ (Arthur,
    Vassilvitskii, 2007). With $N_k$ codes in component k, scatter $S_k$ about its mean and the pooled
    $W = \sum_k S_k / N$, shrunk towards its diagonal (Chen et al., "Shrinkage algorithms for MMSE covariance
    estimation", 2010, of correlations),

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
        scale = (torch.linalg.vector_norm(codes, dim=0, dtype=torch.float64) / N**0.5).float().where(differ, 1.0)
        codes /= scale
        generator = np.random.default_rng(check_seed(seed))
        partly = self.leading is not None and self.leading < d
        x = codes[:, : self.leading].contiguous() if partly else codes
        stretch = scale[: x.shape[1]].log().sum().item()
        history: list[dict[str, float]] = []

        def weights_of(x: Tensor, labels: Tensor, K: int) -> em.Shrinkage:
            if isinstance(self.shrinkage, str):
                return em.choose_shrinkage(x, labels, K, self.leading or x.shape[1], _RIDGE, generator)
            return [(x.shape[1], float(self.shrinkage))]

        ascent = em.Ascent(weights_of, _RIDGE, self.batch_size, self.max_iterations, self.tolerance, generator)
        if isinstance(self.n_components, str):
            K = ascent.choose_components(x, progress)
        else:
            K = self.n_components or min(max(N // _CODES_PER_COMPONENT, 1), _MOST_COMPONENTS)
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
                components = em.maximization(statistics, weights_of(codes, found.best(1)[:, 0], K), _RIDGE)
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


@dataclass
class LeadingComponents:
    r"""Standardized leading components x of a code, and p(trailing | x).

    With $x = (z_{1 \ldots m} - \mu) / \sigma$, a Gaussian mixture $\sum_k w_k N(x; \mu_k, \Sigma_k)$ and $p(k|x)$ its
    posterior, the trailing components are a mixture of linear regressions with one residual covariance up to a factor,

    $$p(z_{m+1 \ldots d} \mid x) = \sum_k p(k|x)\, N(b_k + B_k L_k^{-1} (x - \mu_k),\, s_k C),
    \qquad L_k L_k^T = \Sigma_k$$

    A density of x, such as the mixture, becomes one of z: $p(z) = p(x)\, p(z_{m+1 \ldots d}|x) / \prod_i \sigma_i$.
    """

    shift: Tensor  # μ, (m,)
    scale: Tensor  # σ, (m,)
    weights: Tensor  # (K,)
    means: Tensor  # (K, m)
    cholesky: Tensor  # L, (K, m, m)
    trailing: Tensor  # b, (K, d - m)
    slopes: Tensor  # B, (K, d - m, m)
    factors: Tensor  # s, (K,)
    residual: Tensor  # Cholesky factor of C, (d - m, d - m)

    @classmethod
    def fit(cls, z: Tensor, leading: int | None, n_components: int | None, seed: int, mixture: bool) -> Self:
        """Fit mixture and regressions to float32 codes (N, d); without `mixture`, no mixture if all are leading."""
        N, d = z.shape
        m = d if leading is None else min(leading, d)
        scale, shift = torch.std_mean(z[:, :m].double(), 0, correction=0)
        if (z[:, :m].amax(0) == z[:, :m].amin(0)).any():
            raise InputError("A leading component of the codes is constant: encode with fewer components.")
        shift, scale = shift.float(), scale.float()
        x = (z[:, :m] - shift) / scale
        K, gaussians = 1, (torch.ones(1), torch.zeros(1, m), torch.eye(m)[None])
        if m < d or mixture:
            K = n_components or min(max(N // _CODES_PER_LEADING_COMPONENT, 1), _MOST_COMPONENTS)
            found = GaussianMixture(K, shrinkage=_LEADING_SHRINKAGE, leading=None, tolerance=_LEADING_TOLERANCE)
            found.fit(x, seed=seed)
            gaussians = found.weights_, found.means_, found.cholesky_
        nothing = torch.zeros(K, d - m), torch.zeros(K, d - m, m), torch.ones(K), torch.eye(d - m)
        self = cls(shift, scale, *gaussians, *nothing)
        if m < d:
            self._regress(x, z[:, m:])
        return self

    def _regress(self, x: Tensor, y: Tensor) -> None:
        """Fit the regressions of trailing components y on leading ones x."""
        # Every code belongs to its most probable component, in whose coordinates u the leading ones are white; the
        # products of all components together are what the slopes are shrunk to.
        K, m, (N, rest) = len(self.weights), x.shape[1], y.shape
        labels = self.log_posterior(x).argmax(1)
        counts = torch.bincount(labels, minlength=K)
        everywhere = y.mean(0)
        parts = []
        for k, rows in enumerate(labels.argsort(stable=True).split(counts.tolist())):
            self.trailing[k] = (y[rows].sum(0) + everywhere) / (len(rows) + 1)
            u = (x[rows] - self.means[k]) @ inverse_of_lower(self.cholesky[k]).T
            parts.append((u, y[rows] - self.trailing[k]))
        gram = sum((u.T @ u for u, _ in parts), torch.zeros(m, m)) / N
        cross = sum((u.T @ v for u, v in parts), torch.zeros(m, rest)) / N
        squares = torch.zeros(K)
        for k, (u, v) in enumerate(parts):
            left = u.T @ u + _SLOPE_SHRINKAGE * (gram + _RIDGE * torch.eye(m))
            right = u.T @ v + _SLOPE_SHRINKAGE * cross
            self.slopes[k] = torch.linalg.solve(left.double(), right.double()).T.float()
            squares[k] = (v - u @ self.slopes[k].T).square().sum()
        mean_square, shrunk_counts = squares.sum() / N, counts + _SLOPE_SHRINKAGE
        self.factors = (squares + _SLOPE_SHRINKAGE * mean_square) / (shrunk_counts * mean_square.clamp(min=1e-30))
        covariance = torch.zeros(rest, rest)
        for k, (u, v) in enumerate(parts):
            residual = v - u @ self.slopes[k].T
            covariance += residual.T @ residual / self.factors[k]
        variances = y.var(0, correction=0)
        covariance = shrink_to_diagonal(covariance / N, N, _RIDGE * variances.where(variances > 0, 1.0))
        self.residual = torch.linalg.cholesky(covariance.double()).float()

    @cached_property
    def _precision_factors(self) -> Tensor:
        return torch.stack([inverse_of_lower(lower.double()) for lower in self.cholesky])

    def standardize(self, z: Tensor) -> Tensor:
        """Leading components x of codes: (N, d) -> (N, m)."""
        return (z[:, : len(self.shift)] - self.shift.to(z)) / self.scale.to(z)

    def _log_joints(self, x: Tensor) -> Tensor:
        """Logarithms of weight × N(x; …), (N, K)."""
        factors = self._precision_factors.to(x)
        constants = (self.weights.double() / self.weights.double().sum()).log().to(x)
        constants = constants + factors.diagonal(dim1=1, dim2=2).log().sum(1)
        constants = constants - 0.5 * x.shape[1] * math.log(2 * math.pi)
        offsets = torch.einsum("kij,kj->ki", factors, self.means.to(x))
        projected = (part @ factors.flatten(0, 1).T for part in x.split(_ROWS))
        squares = [(part.unflatten(1, offsets.shape) - offsets).square().sum(2) for part in projected]
        return constants - 0.5 * torch.cat(squares)

    def log_posterior(self, x: Tensor) -> Tensor:
        """Logarithms of p(k|x) for leading components: (N, m) -> (N, K)."""
        return self._log_joints(x).log_softmax(1)

    def mixture_log_prob(self, x: Tensor) -> Tensor:
        """Logarithm of the mixture at leading components, in nats: (N, m) -> (N,)."""
        return self._log_joints(x).logsumexp(1)

    def draw_mixture(self, noise: Noise, size: int) -> Tensor:
        """Leading components drawn from the mixture, (size, m), float64."""
        chosen = noise.choice(self.weights, size)
        return from_white(noise.normal(size, len(self.shift)), self.cholesky, self.means, chosen)

    def complete(self, x: Tensor, noise: Noise) -> Tensor:
        """Codes (N, d) of leading components x (N, m), the trailing ones drawn from p(trailing | x); in float64."""
        first = self.shift.double() + self.scale.double() * x
        if self.trailing.shape[1] == 0:
            return first
        cumulative = self.log_posterior(x).exp().cumsum(1)
        uniform = noise.uniform(len(x))[:, None]
        chosen = torch.searchsorted(cumulative / cumulative[:, -1:], uniform)[:, 0]
        white = torch.einsum("nij,nj->ni", self._precision_factors[chosen], x - self.means.double()[chosen])
        residuals = noise.normal(len(x), self.trailing.shape[1]) @ self.residual.double().T
        rest = from_white(white, self.slopes, self.trailing, chosen)
        rest += self.factors.double().sqrt()[chosen, None] * residuals
        return torch.cat([first, rest], dim=1)

    def log_prob_rest(self, z: Tensor) -> Tensor:
        """What is to be added to log p(x) to get log p(z), in nats: (N, d) -> (N,)."""
        x, rest = self.standardize(z), self.trailing.shape[1]
        stretch = self.scale.double().log().sum().to(z)
        if rest == 0:
            return (-stretch).expand(len(z))
        inverse = inverse_of_lower(self.residual.double())
        y = z[:, x.shape[1] :] @ inverse.T.to(z)
        log_determinant = -inverse.diagonal().log().sum().to(z)
        logs = self.log_posterior(x)
        total = torch.full_like(logs[:, 0], -math.inf)
        for k, precision in enumerate(self._precision_factors):
            white = (x - self.means[k].to(z)) @ precision.T.to(z)
            mean = self.trailing[k].double() @ inverse.T
            slopes = inverse @ self.slopes[k].double()
            squares = (y - mean.to(z) - white @ slopes.T.to(z)).square().sum(1)
            factor = self.factors[k].to(z)
            constant = log_determinant + 0.5 * rest * (2 * math.pi * factor).log()
            total = torch.logaddexp(total, logs[:, k] - 0.5 * squares / factor - constant)
        return total - stretch

    def state(self) -> dict[str, Tensor]:
        """Everything fitted, as tensors named "leading/…"."""
        return {f"leading/{name}": getattr(self, name) for name in self.__dataclass_fields__}

    @classmethod
    def from_state(cls, tensors: Mapping[str, Tensor], m: int | None = None, rest: int | None = None) -> Self:
        """The object that `state` was taken from, of m leading and `rest` trailing components; None is any number."""
        K, m = take_tensor(tensors, "leading/means", (None, m)).shape
        rest = take_tensor(tensors, "leading/trailing", (K, rest)).shape[1]
        shapes = {
            "shift": (m,), "scale": (m,), "weights": (K,), "means": (K, m), "cholesky": (K, m, m),
            "trailing": (K, rest), "slopes": (K, rest, m), "factors": (K,), "residual": (rest, rest),
        }  # fmt: skip
        return cls(**{n: take_tensor(tensors, f"leading/{n}", s) for n, s in shapes.items()})

    @property
    def n_features(self) -> int:
        """Number d of components of a code."""
        return len(self.shift) + self.trailing.shape[1]

    @property
    def description(self) -> str:
        """What the trailing components follow, for one line of a report."""
        d, m = self.n_features, len(self.shift)
        if m == d:
            return f"all {d} components"
        return f"{m} of {d} components, the other {d - m} by {len(self.weights)} linear regressions"
