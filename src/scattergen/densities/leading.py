"""Leading components of codes, and the trailing ones that follow them by regression."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

from scattergen.densities.gaussian import from_white, inverse_of_lower, shrink_to_diagonal
from scattergen.densities.mixture import MOST_COMPONENTS, RIDGE, GaussianMixture
from scattergen.densities.protocol import take_tensor
from scattergen.densities.sampling import Noise
from scattergen.errors import InputError

_CODES_PER_COMPONENT = 275  # of an automatic choice
_SHRINKAGE = 16.0  # of the mixture of the leading components, in codes
_TOLERANCE = 0.5  # of the EM for it, in nats
_SLOPE_SHRINKAGE = 32.0  # of the regressions, in codes
_ROWS = 1024  # codes per array (rows, K, m), to bound memory


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
            K = n_components or min(max(N // _CODES_PER_COMPONENT, 1), MOST_COMPONENTS)
            found = GaussianMixture(K, shrinkage=_SHRINKAGE, leading=None, tolerance=_TOLERANCE)
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
            left = u.T @ u + _SLOPE_SHRINKAGE * (gram + RIDGE * torch.eye(m))
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
        covariance = shrink_to_diagonal(covariance / N, N)
        covariance.diagonal().add_(RIDGE * variances.where(variances > 0, variances.mean()))
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
