"""One Gaussian: independent components as in Angles & Mallat, or a full covariance; and what mixtures are made of."""

import math
import time
from collections.abc import Iterable, Mapping
from typing import Literal, Self

import torch
from torch import Tensor

from scattergen.calls.keywords import check_values
from scattergen.densities.display import DisplayedDensity
from scattergen.densities.protocol import File, check_codes, check_fitted, history_state, take_history, take_tensor
from scattergen.densities.sampling import Noise, draw_in_chunks
from scattergen.display.progress import SILENT, Progress
from scattergen.errors import InputError

ROWS = 8192  # codes per matrix product, to bound memory
_BLOCK = 128  # rows of a triangular matrix per product


def _share_of_target(covariance: Tensor, n: int) -> float:
    """ρ of Chen et al., 2010, for a sample covariance (d, d) of n codes."""
    d = len(covariance)
    squares, trace = covariance.square().sum().item(), covariance.trace().item()
    spread = (n + 1 - 2 / d) * (squares - trace**2 / d)
    numerator = (1 - 2 / d) * squares + trace**2
    return 1.0 if spread <= numerator else numerator / spread


def shrink_to_identity(covariance: Tensor, n: int, ridge: float = 0.0) -> Tensor:
    """Sample covariance S (d, d) of n codes, shrunk: (1 - ρ) S + (ρ tr S/d + ridge) I, ρ of Chen et al., 2010."""
    rho = _share_of_target(covariance, n)
    shrunk = (1 - rho) * covariance
    shrunk.diagonal().add_(rho * covariance.trace().item() / len(covariance) + ridge)
    return shrunk


def shrink_to_diagonal(covariance: Tensor, n: int) -> Tensor:
    """Sample covariance S, shrunk: (1 - ρ) S + ρ diag S, with the ρ of its correlations: in any units of components."""
    variances = covariance.diagonal()
    scale = variances.where(variances > 0, 1.0).rsqrt()
    rho = _share_of_target(scale[:, None] * covariance * scale, n)
    shrunk = (1 - rho) * covariance
    shrunk.diagonal().add_(rho * variances)
    return shrunk


def precision_factor(covariance: Tensor) -> Tensor:
    """Lower triangular P with P^T P the inverse of the covariance (d, d)."""
    # The factorization needs float64 where directions have little variance; its inversion does not.
    return inverse_of_lower(torch.linalg.cholesky(covariance.double()).to(covariance))


def inverse_of_lower(lower: Tensor) -> Tensor:
    """Inverse of a lower triangular matrix, in its own type."""
    return torch.linalg.solve_triangular(lower, torch.eye(len(lower)).to(lower), upper=False)


def from_white(white: Tensor, lower: Tensor, means: Tensor, chosen: Tensor) -> Tensor:
    """means[k] + lower[k] @ white, row by row, with k = chosen: (N, d) in float64."""
    codes = means.double()[chosen]
    for k in chosen.unique().tolist():
        rows = (chosen == k).nonzero()[:, 0]
        codes[rows] += white[rows] @ lower[k].double().T
    return codes


def log_joint(x: Tensor, weight: Tensor, mean: Tensor, factor: Tensor) -> Tensor:
    """Logarithm of weight × N(x; mean, covariance) for codes x (N, d), in nats; `factor` is `precision_factor`'s."""
    constant = weight.log() + factor.diagonal().log().sum() - 0.5 * len(mean) * math.log(2 * math.pi)
    # In blocks of rows, most of the zeros above the diagonal are left out, which pays off if there are three or more.
    size = _BLOCK if len(mean) > 2 * _BLOCK else len(mean)
    squares = []
    for part in x.split(ROWS):
        centred = part - mean
        ends = [(start, start + size) for start in range(0, len(mean), size)]
        first, *others = ((centred[:, :end] @ factor[start:end, :end].T).square().sum(1) for start, end in ends)
        squares.append(sum(others, first))
    return constant - 0.5 * torch.cat(squares)


def log_mixture(x: Tensor, weights: Tensor, means: Tensor, factors: Iterable[Tensor]) -> Tensor:
    """Logarithm of a Gaussian mixture at codes x (N, d), in nats; `factors` are those of `precision_factor`."""
    total = torch.full_like(x[:, 0], -math.inf)
    for weight, mean, factor in zip(weights, means, factors, strict=True):
        total = torch.logaddexp(total, log_joint(x, weight, mean, factor))
    return total


class Gaussian(DisplayedDensity):
    r"""One Gaussian, of independent components: $p(z) = \prod_i N(z_i; \mu_i, \sigma_i^2)$.

    On whitened codes this is N(0, I) (Angles, Mallat, "Generative networks as inverse problems with scattering
    transforms", 2018). For others, such as raw scattering coefficients, there is $p(z) = N(\mu, \Sigma)$, with Σ shrunk
    towards its diagonal, which matters only for few codes (Chen, Wiesel, Eldar, Hero, "Shrinkage algorithms for MMSE
    covariance estimation", 2010, of correlations). Keywords out of range raise an `InputError`.

    Args:
        n_effective: Number k of components that are drawn and that `log_prob` is of, the others being 0; None: all.
        covariance: "diagonal" (independent components) or "full".

    Attributes:
        mean_, std_: Means and standard deviations, (d,) float32; zero after the first k.
        cholesky_: Lower triangular factor of Σ of the first k components, (k, k) float32; None for "diagonal".

    Example:
        >>> density = Gaussian().fit(torch.randn(1000, 4) * 2)
        >>> density.sample(3, seed=0).shape, density.log_prob(torch.zeros(5, 4)).shape
        (torch.Size([3, 4]), torch.Size([5]))
    """

    def __init__(self, n_effective: int | None = None, covariance: Literal["diagonal", "full"] = "diagonal") -> None:
        self.n_effective, self.covariance = n_effective, covariance
        check_values(self, n_effective=1)

    @property
    def description(self) -> str:
        """One line for reports."""
        full = self.covariance == "full"
        kind = "a Gaussian with full covariance" if full else "independent Gaussians"
        if not hasattr(self, "n_features_"):
            return kind if self.n_effective is None else f"{kind} of the first {self.n_effective} components"
        d, k = self.n_features_, self._count(self.n_features_)
        numbers = k + k * (k + 1) // 2 if full else 2 * k
        text = f"{kind} of {k} components" if full else f"{k} {kind}"
        return text + (f" and {d - k} zeros" if k < d else "") + f", {numbers:,} parameters"

    def _count(self, d: int) -> int:
        """Number k of components that are drawn, of d."""
        return d if self.n_effective is None else min(self.n_effective, d)

    def fit(
        self, z: Tensor, *, seed: int = 0, progress: Progress = SILENT, device: str = "cpu", checkpoint: File = None
    ) -> Self:
        """Estimate mean and standard deviations, or the covariance, as `Density.fit` says, with nothing random."""
        start = time.monotonic()
        z = check_codes(z, self).detach().to(device)
        N, d = z.shape
        k = self._count(d)
        x = z[:, :k]
        constant = (x.amax(0) == x.amin(0)).nonzero()
        if len(constant):
            raise InputError(f"Component {int(constant[0])} of the codes is constant: encode with fewer components.")
        mean, std = torch.zeros(d), torch.zeros(d)
        self.cholesky_ = None
        with progress.task("gaussian", total=1) as task:
            mean[:k] = x.mean(0, dtype=torch.float64).float().cpu()
            if self.covariance == "full":
                scatter = torch.zeros(k, k, dtype=torch.float64, device=z.device)
                for part in x.split(ROWS):  # a float64 copy of all codes would double the memory
                    centred = part.double() - mean[:k].to(z.device).double()
                    scatter += centred.T @ centred
                covariance = shrink_to_diagonal(scatter / N, N)
                self.cholesky_ = torch.linalg.cholesky(covariance).float().cpu()
                std[:k] = covariance.diagonal().sqrt().float().cpu()
            else:
                parts = [part.double().std(0, correction=0) for part in x.split(64, dim=1)]
                std[:k] = torch.cat(parts).float().cpu()
            task.advance()
        self.mean_, self.std_, self.n_features_ = mean, std, d
        self.history_ = [{"epoch": 1, "seconds": time.monotonic() - start}]
        return self

    def sample(self, n: int, *, seed: int = 0, temperature: float = 1.0) -> Tensor:
        """Draw codes (n, d), as `Density.sample` says."""
        check_fitted(self)
        mean, k = self.mean_.double(), self._count(self.n_features_)

        def draw(noise: Noise, size: int) -> Tensor:
            white = noise.normal(size, self.n_features_)
            if self.cholesky_ is None:
                return mean + self.std_.double() * white
            codes = mean.repeat(size, 1)
            codes[:, :k] += white[:, :k] @ self.cholesky_.double().T
            return codes

        return draw_in_chunks(n, seed, draw, temperature)

    def log_prob(self, z: Tensor) -> Tensor:
        """Exact logarithm of the density of the components that are drawn, in nats: codes (N, d) to (N,)."""
        check_fitted(self)
        z = check_codes(z, n_features=self.n_features_)
        k = self._count(self.n_features_)
        x, mean = z[:, :k], self.mean_[:k].to(z)
        if self.cholesky_ is not None:
            factor = inverse_of_lower(self.cholesky_.double()).to(z)
            return log_joint(x, torch.ones((), dtype=z.dtype, device=z.device), mean, factor)
        std = self.std_[:k].to(z)
        return -0.5 * ((x - mean) / std).square().sum(1) - (std.log().sum() + 0.5 * k * math.log(2 * math.pi))

    def state_dict(self) -> dict[str, Tensor]:
        """Everything fitted, as named tensors."""
        check_fitted(self)
        factor = {} if self.cholesky_ is None else {"cholesky": self.cholesky_}
        return {"mean": self.mean_, "std": self.std_, **factor, **history_state(self.history_)}

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Become the fitted density that `state_dict` was taken from."""
        self.mean_ = take_tensor(tensors, "mean", (None,))
        d, k = len(self.mean_), self._count(len(self.mean_))
        self.std_ = take_tensor(tensors, "std", (d,))
        self.cholesky_ = take_tensor(tensors, "cholesky", (k, k)) if self.covariance == "full" else None
        self.n_features_, self.history_ = d, take_history(tensors)
