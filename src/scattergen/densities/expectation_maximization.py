"""Expectation–maximisation for Gaussian mixtures with full covariances in high dimension."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

_SEEDING_CODES = 20_000  # k-means++ looks at no more codes than this
_NEGLIGIBLE = 1e-6  # smaller responsibilities are taken as 0
_ROWS = 8192  # codes per matrix product, to bound memory


def seed_means(x: Tensor, K: int, generator: np.random.Generator) -> Tensor:
    """First means by k-means++: codes drawn with probability proportional to the squared distance.

    Args:
        x: Codes, (N, d).
        K: Number of means.
        generator: Source of randomness.

    Returns:
        (K, d), some of the codes.

    References:
        Arthur, Vassilvitskii, "k-means++: the advantages of careful seeding", 2007.
    """
    if len(x) > _SEEDING_CODES:
        rows = np.sort(generator.choice(len(x), _SEEDING_CODES, replace=False))
        x = x[torch.from_numpy(rows).to(x.device)]
    chosen = [int(generator.integers(len(x)))]
    squared_norms = x.square().sum(1)
    distances = torch.full_like(squared_norms, math.inf)
    for _ in range(K - 1):
        mean = x[chosen[-1]]
        to_mean = squared_norms - 2 * (x @ mean) + mean.square().sum()
        distances = torch.minimum(distances, to_mean.clamp(min=0))
        distances[chosen[-1]] = 0.0
        weights = distances.double().cpu().numpy()
        total = weights.sum()  # 0 if there are fewer different codes than means
        chosen.append(int(generator.choice(len(x), p=weights / total if total > 0 else None)))
    return x[torch.tensor(chosen, device=x.device)]


def shrink_to_identity(covariance: Tensor, n: int, ridge: float = 0.0) -> Tensor:
    r"""Covariance shrunk towards a multiple of the identity by the oracle approximating formula.

    $(1 - \rho) S + \rho\, \mathrm{tr}(S)/d\; I$ with
    $\rho = \min(1, \frac{(1 - 2/d)\,\mathrm{tr} S^2 + \mathrm{tr}^2 S}{(n + 1 - 2/d)
    (\mathrm{tr} S^2 - \mathrm{tr}^2 S / d)})$.

    Args:
        covariance: Sample covariance S, (d, d).
        n: Number of samples it was made from.
        ridge: Added to the variances.

    Returns:
        (d, d).

    References:
        Chen, Wiesel, Eldar, Hero, "Shrinkage algorithms for MMSE covariance estimation", 2010.
    """
    d = len(covariance)
    squares, trace = covariance.square().sum().item(), covariance.trace().item()
    spread = (n + 1 - 2 / d) * (squares - trace**2 / d)
    numerator = (1 - 2 / d) * squares + trace**2
    rho = 1.0 if spread <= numerator else numerator / spread
    shrunk = (1 - rho) * covariance
    shrunk.diagonal().add_(rho * trace / d + ridge)
    return shrunk


def precision_factor(covariance: Tensor) -> Tensor:
    """Lower triangular P with P^T P the inverse of the covariance.

    Args:
        covariance: (d, d), positive definite.

    Returns:
        (d, d), with the type of the covariance.
    """
    # The factorization needs float64 where directions have little variance; its inversion does not.
    return inverse_of_lower(torch.linalg.cholesky(covariance.double()).to(covariance))


def inverse_of_lower(lower: Tensor) -> Tensor:
    """Inverse of a lower triangular matrix, in its own type.

    Args:
        lower: (d, d).

    Returns:
        (d, d), lower triangular.
    """
    identity = torch.eye(len(lower), dtype=lower.dtype, device=lower.device)
    return torch.linalg.solve_triangular(lower, identity, upper=False)


def log_joint(x: Tensor, weight: Tensor, mean: Tensor, factor: Tensor) -> Tensor:
    """Logarithm of weight × N(x; mean, covariance), in nats.

    Args:
        x: Codes, (N, d).
        weight: Of the component, a scalar.
        mean: (d,).
        factor: `precision_factor` of its covariance, (d, d).

    Returns:
        (N,).
    """
    constant = (
        weight.log() + factor.diagonal().log().sum() - 0.5 * len(mean) * math.log(2 * math.pi)
    )
    squares = [((part - mean) @ factor.T).square().sum(1) for part in x.split(_ROWS)]
    return constant - 0.5 * torch.cat(squares)


@dataclass
class Components:
    """Weights (K,), means (K, d), covariances (K, d, d) and pooled covariance (d, d)."""

    weights: Tensor
    means: Tensor
    covariances: Tensor
    pooled: Tensor


@dataclass
class Expectation:
    """What the E-step finds for every code and each of its candidates."""

    candidates: Tensor
    """Numbers of components, (N, T); -1 stands for none."""
    log_joints: Tensor
    """`log_joint` of each, (N, T)."""

    @property
    def log_likelihood(self) -> float:
        """Mean per code, in nats; a lower bound of the exact one."""
        return self.log_joints.logsumexp(1).mean(dtype=torch.float64).item()

    def best(self, count: int) -> Tensor:
        """The best candidates of every code, (N, count)."""
        return self.candidates.gather(1, self.log_joints.topk(count, dim=1).indices)


def shared_covariance_em(
    x: Tensor, means: Tensor, iterations: int, ridge: float, generator: np.random.Generator
) -> Components:
    """EM for a mixture whose components have one covariance; N·d·K operations an iteration.

    Args:
        x: Codes, (N, d).
        means: First means, (K, d).
        iterations: Number of iterations.
        ridge: Added to the variances.
        generator: Chooses new means for components that lost all their codes.

    Returns:
        Components whose covariances are views of the pooled one.
    """
    (N, d), K = x.shape, len(means)
    second_moment = torch.zeros(d, d, dtype=torch.float64, device=x.device)
    for part in x.split(_ROWS):
        second_moment += (part.T @ part).double()
    centre = x.mean(0, dtype=torch.float64)
    pooled = shrink_to_identity(second_moment / N - centre.outer(centre), N, ridge).float()
    weights = torch.full((K,), 1 / K, device=x.device)
    for _ in range(iterations):
        counts = torch.zeros(K, device=x.device)
        sums = torch.zeros_like(means)
        project, offset = _shared_scores(weights, means, pooled)
        for part in x.split(_ROWS):
            responsibilities = (part @ project + offset).softmax(1)
            counts += responsibilities.sum(0)
            sums += responsibilities.T @ part
        means = sums / counts.clamp(min=_NEGLIGIBLE)[:, None]
        scatter = second_moment - (counts.double() * means.double().T) @ means.double()
        pooled = shrink_to_identity(scatter / N, N, ridge).float()
        weights = counts / N
        for k in (counts < 1).nonzero()[:, 0].tolist():
            means[k], weights[k] = x[int(generator.integers(N))], 1 / N
    return Components(weights, means, pooled.expand(K, d, d), pooled)


def _shared_scores(weights: Tensor, means: Tensor, pooled: Tensor) -> tuple[Tensor, Tensor]:
    # With one covariance the quadratic term is common: scores are x @ project + offset.
    factor = precision_factor(pooled)
    project = factor.T @ (factor @ means.T)
    return project, weights.log() - 0.5 * (means.T * project).sum(0)


def propose(x: Tensor, components: Components, count: int) -> Tensor:
    """The components that fit each code best if all had the pooled covariance.

    Args:
        x: Codes, (N, d).
        components: Parameters.
        count: Number of candidates.

    Returns:
        (N, count), different numbers of components.
    """
    project, offset = _shared_scores(components.weights, components.means, components.pooled)
    scores = (part @ project + offset for part in x.split(_ROWS))
    return torch.cat([part.topk(count, dim=1).indices for part in scores])


def unite(first: Tensor, second: Tensor) -> Tensor:
    """Candidates that are in one or the other, with -1 in place of repetitions.

    Args:
        first: (N, T).
        second: (N, U).

    Returns:
        (N, T + U).

    Example:
        >>> unite(torch.tensor([[2, 0]]), torch.tensor([[1, 2]]))
        tensor([[ 0,  1,  2, -1]])
    """
    united = torch.cat([first, second], dim=1).sort(dim=1).values
    united[:, 1:][united[:, 1:] == united[:, :-1]] = -1
    return united


def expectation(x: Tensor, candidates: Tensor, components: Components) -> Expectation:
    """E-step over the candidates of every code.

    Args:
        x: Codes, (N, d).
        candidates: Numbers of components, (N, T); -1 stands for none.
        components: Parameters.

    Returns:
        Log joint densities.
    """
    log_joints = torch.full(candidates.shape, -math.inf, device=x.device)
    for k, (rows, columns) in enumerate(_by_component(candidates, len(components.means))):
        factor = precision_factor(components.covariances[k])
        for row, column in zip(rows.split(_ROWS), columns.split(_ROWS), strict=True):
            log_joints[row, column] = log_joint(
                x[row], components.weights[k], components.means[k], factor
            )
    return Expectation(candidates, log_joints)


def maximization(
    x: Tensor,
    found: Expectation,
    components: Components,
    kappa: float,
    ridge: float,
    generator: np.random.Generator,
) -> Components:
    """M-step with covariances shrunk towards the pooled within-component covariance.

    Args:
        x: Codes, (N, d).
        found: Of the E-step.
        components: Parameters before; their covariances are overwritten.
        kappa: Weight of the pooled covariance, in codes.
        ridge: Added to the variances.
        generator: Chooses new means for components that lost all their codes.

    Returns:
        Parameters after.
    """
    (N, d), K = x.shape, len(components.means)
    responsibilities = found.log_joints.softmax(1)
    kept = found.candidates.where(responsibilities > _NEGLIGIBLE, -1)
    counts = torch.zeros(K, device=x.device)
    means = components.means.clone()
    covariances = components.covariances
    if covariances.stride(0) == 0:  # a view of the pooled one
        covariances = torch.empty(K, d, d, device=x.device)
    for k, (rows, columns) in enumerate(_by_component(kept, K)):
        r = responsibilities[rows, columns]
        counts[k] = r.sum()
        codes = x[rows]
        if len(rows) > 0:
            means[k] = r @ codes / counts[k]
        codes.sub_(means[k]).mul_(r.sqrt()[:, None])
        covariances[k] = codes.T @ codes
    pooled = shrink_to_identity(covariances.sum(0) / N, N, ridge)
    for k in range(K):
        covariances[k].add_(pooled, alpha=kappa).div_(counts[k].clamp(min=_NEGLIGIBLE) + kappa)
        covariances[k].diagonal().add_(ridge)
    weights = counts / N
    for k in (counts < 1).nonzero()[:, 0].tolist():
        means[k], weights[k] = x[int(generator.integers(N))], 1 / N
        covariances[k] = pooled
    return Components(weights, means, covariances, pooled)


def _by_component(candidates: Tensor, K: int) -> list[tuple[Tensor, Tensor]]:
    """For every component the rows and columns at which it is a candidate."""
    flat = candidates.flatten()
    order = flat.argsort(stable=True)
    counts = torch.bincount(flat + 1, minlength=K + 1).tolist()
    T = candidates.shape[1]
    return [(group // T, group % T) for group in order.split(counts)[1:]]
