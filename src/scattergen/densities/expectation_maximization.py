"""Expectation–maximisation for Gaussian mixtures with full covariances in high dimension."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from scattergen.densities.clustering import lloyd, seed_means
from scattergen.densities.covariances import log_joint, precision_factor, shrink_to_identity

_NEGLIGIBLE = 1e-6  # smaller responsibilities are taken as 0
_ROWS = 8192  # codes per matrix product, to bound memory
_MOST_CANDIDATES = 8  # components that a code is compared with in full
_FORGETTING = 0.6  # exponent of the steps of EM by batches

Shrinkage = list[tuple[int, float]]
"""Weights of the pooled covariance, in codes: of the components up to each stop, given those before."""


@dataclass
class Components:
    """Parameters of a mixture."""

    weights: Tensor  # (K,)
    means: Tensor  # (K, d)
    covariances: Tensor  # (K, d, d)
    pooled: Tensor  # within-component covariance of all together, (d, d)


@dataclass
class Expectation:
    """What the E-step finds for every code and each of its candidates."""

    candidates: Tensor  # numbers of components, (N, T); -1 stands for none
    log_joints: Tensor  # `log_joint` of each, (N, T)

    @property
    def log_likelihood(self) -> float:
        """Mean per code, in nats; a lower bound of the exact one."""
        return self.log_joints.logsumexp(1).mean(dtype=torch.float64).item()

    def best(self, count: int) -> Tensor:
        """The best candidates of every code, (N, count)."""
        return self.candidates.gather(1, self.log_joints.topk(count, dim=1).indices)


def first_components(x: Tensor, means: Tensor, labels: Tensor, shrinkage: Shrinkage, ridge: float) -> Components:
    """An M-step in which every code (N, d) belongs to its own cluster only; a cluster without codes keeps its mean."""
    certain = Expectation(labels[:, None], x.new_zeros(len(x), 1))
    return maximization(Statistics.of(x, certain, means), shrinkage, ridge)


def propose(x: Tensor, components: Components, count: int) -> Tensor:
    """The components that fit each code (N, d) best if all had the pooled covariance, (N, count)."""
    # With one covariance the quadratic term is common: scores are x @ project + offset.
    factor = precision_factor(components.pooled)
    project = factor.T @ (factor @ components.means.T)
    offset = components.weights.log() - 0.5 * (components.means.T * project).sum(0)
    scores = (part @ project + offset for part in x.split(_ROWS))
    return torch.cat([part.topk(count, dim=1).indices for part in scores])


def unite(first: Tensor, second: Tensor) -> Tensor:
    """Candidates (N, T + U) that are in the first (N, T) or the second (N, U), with -1 in place of repetitions."""
    united = torch.cat([first, second], dim=1).sort(dim=1).values
    united[:, 1:][united[:, 1:] == united[:, :-1]] = -1
    return united


def expectation(x: Tensor, candidates: Tensor, components: Components) -> Expectation:
    """E-step over the candidates of every code, (N, T)."""
    log_joints = torch.full(candidates.shape, -math.inf, device=x.device)
    for k, (rows, columns) in enumerate(_by_component(candidates, len(components.means))):
        factor = precision_factor(components.covariances[k])
        for row, column in zip(rows.split(_ROWS), columns.split(_ROWS), strict=True):
            log_joints[row, column] = log_joint(x[row], components.weights[k], components.means[k], factor)
    return Expectation(candidates, log_joints)


@dataclass
class Statistics:
    """What the M-step needs to know of the codes: sums and means weighted by the responsibilities."""

    counts: Tensor  # (K,)
    means: Tensor  # (K, d)
    scatters: Tensor  # squares about the means, (K, d, d)

    @classmethod
    def of(cls, x: Tensor, found: Expectation, means: Tensor, scatters: Tensor | None = None) -> "Statistics":
        """Statistics of codes; components without any keep their means, and `scatters` is memory to overwrite."""
        K, d = means.shape
        responsibilities = found.log_joints.softmax(1)
        kept = found.candidates.where(responsibilities > _NEGLIGIBLE, -1)
        counts, means = torch.zeros(K, device=x.device), means.clone()
        if scatters is None:
            scatters = torch.empty(K, d, d, device=x.device)
        for k, (rows, columns) in enumerate(_by_component(kept, K)):
            r = responsibilities[rows, columns]
            counts[k] = r.sum()
            codes = x[rows]
            if len(rows) > 0:
                means[k] = r @ codes / counts[k]
            codes.sub_(means[k]).mul_(r.sqrt()[:, None])
            scatters[k] = codes.T @ codes
        return cls(counts, means, scatters)

    def scale(self, factor: float) -> None:
        """Become the statistics of so many times the codes."""
        self.counts *= factor
        self.scatters *= factor

    def copy(self) -> "Statistics":
        """The same statistics in memory of their own."""
        return Statistics(self.counts.clone(), self.means.clone(), self.scatters.clone())

    def blend(self, new: "Statistics", share: float) -> None:
        """Become (1 - share) of these and share of new ones, which are overwritten, as if of one set of codes."""
        before, added = (1 - share) * self.counts, share * new.counts
        counts = before + added
        part = (added / counts.clamp(min=_NEGLIGIBLE))[:, None]
        difference = new.means - self.means
        self.means += part * difference
        self.scatters.mul_(1 - share).add_(new.scatters, alpha=share)
        between = (before[:, None] * part).sqrt() * difference
        self.scatters.baddbmm_(between[:, :, None], between[:, None, :])
        self.counts = counts

    def rescue(self, x: Tensor, generator: np.random.Generator) -> None:
        """Restart components that lost all their codes: one random code each, pooled covariance."""
        lost = (self.counts < 1).nonzero()[:, 0].tolist()
        if lost:
            pooled = self.scatters.sum(0) / self.counts.sum()
            for k in lost:
                self.counts[k], self.means[k] = 1, x[int(generator.integers(len(x)))]
                self.scatters[k] = pooled


def maximization(statistics: Statistics, shrinkage: Shrinkage, ridge: float) -> Components:
    """M-step with covariances shrunk towards the pooled one; the statistics' scatters become the covariances."""
    counts, covariances = statistics.counts, statistics.scatters
    N = counts.sum().item()
    pooled = shrink_to_identity(covariances.sum(0) / N, max(round(N), 1), ridge)
    for k, covariance in enumerate(covariances):
        covariance.copy_(_shrink(covariance, counts[k].item(), pooled, shrinkage))
        covariance.diagonal().add_(ridge)
    return Components(counts / N, statistics.means, covariances, pooled)


def _shrink(scatter: Tensor, count: float, pooled: Tensor, shrinkage: Shrinkage) -> Tensor:
    """The covariance of which each block, given those before, is that of its own weight."""
    _, kappa = shrinkage[0]
    if len(shrinkage) == 1:
        return (scatter + kappa * pooled) / max(count + kappa, _NEGLIGIBLE)
    lower = torch.zeros_like(scatter, dtype=torch.float64)
    start = 0
    for stop, kappa in shrinkage:
        both = (scatter + kappa * pooled)[:stop, :stop] / max(count + kappa, _NEGLIGIBLE)
        own = torch.linalg.cholesky(both.double())
        slopes = torch.linalg.solve_triangular(own[:start, :start], own[start:, :start], upper=False, left=False)
        lower[start:stop, :start] = slopes @ lower[:start, :start]
        lower[start:stop, start:stop] = own[start:, start:]
        start = stop
    return (lower @ lower.T).to(scatter)


def _by_component(candidates: Tensor, K: int) -> list[tuple[Tensor, Tensor]]:
    """For every component the rows and columns at which it is a candidate."""
    flat = candidates.flatten()
    order = flat.argsort(stable=True)
    counts = torch.bincount(flat + 1, minlength=K + 1).tolist()
    T = candidates.shape[1]
    return [(group // T, group % T) for group in order.split(counts)[1:]]


def climb(
    x: Tensor,
    K: int,
    weights_of: Callable[[Tensor, Tensor, int], Shrinkage],
    *,
    ridge: float,
    batch_size: int | None,
    max_iterations: int,
    tolerance: float,
    generator: np.random.Generator,
    on_iteration: Callable[[float, Tensor], None] = lambda *_: None,
) -> tuple[Components, Tensor]:
    """EM of K components from the clusters of k-means until the likelihood gains less than the tolerance, in nats.

    `weights_of` chooses the shrinkage from the codes, the cluster of each and K; `on_iteration` is told the mean
    log-likelihood and the components' numbers of codes. The result is the components, and candidates of every code,
    (N, T).
    """
    means, labels = lloyd(x, seed_means(x, K, generator))
    shrinkage = weights_of(x, labels, K)
    components = first_components(x, means, labels, shrinkage, ridge)
    T = min(K, _MOST_CANDIDATES)
    candidates = propose(x, components, T)
    batches = None if batch_size is None else _Batches(x, batch_size, T, shrinkage, ridge)
    before = -math.inf
    for _ in range(max_iterations):
        if batches is not None:
            components, log_likelihood = batches.one_pass(components, generator)
            counts = components.weights * len(x)
        else:
            found = expectation(x, candidates, components)
            log_likelihood = found.log_likelihood
            statistics = Statistics.of(x, found, components.means, components.covariances)
            counts = statistics.counts.clone()
            statistics.rescue(x, generator)
            components = maximization(statistics, shrinkage, ridge)
        on_iteration(log_likelihood, counts)
        if log_likelihood - before < tolerance:
            break
        before = log_likelihood
        if K > _MOST_CANDIDATES and batches is None:
            candidates = unite(found.best(3), propose(x, components, 2))
    return components, candidates if batches is None else propose(x, components, T)


@dataclass
class _Batches:
    """Stepwise EM: the statistics of every batch are blended into those of the batches before."""

    x: Tensor
    batch_size: int
    n_candidates: int
    shrinkage: Shrinkage
    ridge: float
    blended: Statistics | None = None
    steps: int = 0

    def one_pass(self, components: Components, generator: np.random.Generator) -> tuple[Components, float]:
        """A pass over all codes in random order: new components, the mean log-likelihood."""
        N, total = len(self.x), 0.0
        order = torch.from_numpy(generator.permutation(N)).to(self.x.device)
        for rows in order.split(self.batch_size):
            part = self.x[rows]
            candidates = propose(part, components, self.n_candidates)
            found = expectation(part, candidates, components)
            total += found.log_likelihood * len(rows)
            new = Statistics.of(part, found, components.means)
            new.scale(N / len(rows))
            self.steps += 1
            if self.blended is None:
                self.blended = new
            else:
                self.blended.blend(new, self.steps**-_FORGETTING)
            self.blended.rescue(self.x, generator)
            components = maximization(self.blended.copy(), self.shrinkage, self.ridge)
        return components, total / N
