"""Expectation–maximisation for Gaussian mixtures in high dimension, and what held-out codes choose in them."""

import math
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from scattergen.densities.gaussian import ROWS, log_joint, log_mixture, precision_factor, shrink_to_identity
from scattergen.densities.sampling import hold_out
from scattergen.display.progress import Progress

_SEEDING_CODES = 20_000  # k-means++ looks at no more codes than this
_NEGLIGIBLE = 1e-6  # smaller responsibilities are taken as 0
_MOST_CANDIDATES = 8  # components that a code is compared with in full
_FORGETTING = 0.6  # exponent of the steps of EM by batches
_WEIGHTS = tuple(2.0**power for power in range(11))  # of shrinkage that are compared, in codes
_DEFAULT_WEIGHT = 32.0  # where there are no codes to choose it by
_FEWEST_CODES = 20  # per component, where held-out codes choose their number
_COMPONENTS_LOOKED_AT = 20  # in choosing weights; each costs a factorization for every weight
_LOOKED_AT_OF_ONE = 10_000  # divided by d, if that is more

Shrinkage = list[tuple[int, float]]
"""Weights of the pooled covariance, in codes: of the components up to each stop, given those before."""


def seed_means(x: Tensor, K: int, generator: np.random.Generator) -> Tensor:
    """First means by greedy k-means++: K of the codes (N, d), each the best of some that are drawn.

    They are drawn with probability proportional to the squared distance; the best leaves the least sum of those.
    """
    if len(x) > _SEEDING_CODES:
        rows = np.sort(generator.choice(len(x), _SEEDING_CODES, replace=False))
        x = x[torch.from_numpy(rows).to(x.device)]
    squared_norms = x.square().sum(1)
    first = int(generator.integers(len(x)))
    chosen, distances = [first], (x - x[first]).square().sum(1)
    for _ in range(K - 1):
        weights = distances.double().cpu().numpy()
        total = weights.sum()  # 0 if there are fewer different codes than means
        drawn = generator.choice(len(x), 2 + int(math.log(K)), p=weights / total if total > 0 else None)
        candidates = torch.from_numpy(drawn).to(x.device)
        left = squared_norms - 2 * (x[candidates] @ x.T) + squared_norms[candidates, None]
        left = torch.minimum(distances, left.clamp_(min=0))
        best = int(left.sum(1).argmin())
        chosen.append(int(drawn[best]))
        distances = left[best]
        distances[chosen[-1]] = 0.0
    return x[torch.tensor(chosen, device=x.device)]


def lloyd(x: Tensor, means: Tensor, iterations: int = 20) -> tuple[Tensor, Tensor]:
    """Lloyd's iterations from means (K, d): the last means, of which those without codes stayed, and clusters (N,)."""
    labels = _nearest(x, means)
    for _ in range(iterations):
        counts = torch.bincount(labels, minlength=len(means))[:, None]
        sums = torch.zeros_like(means).index_add_(0, labels, x)
        means = torch.where(counts > 0, sums / counts.clamp(min=1), means)
        before, labels = labels, _nearest(x, means)
        if torch.equal(before, labels):
            break
    return means, labels


def _nearest(x: Tensor, means: Tensor) -> Tensor:
    offset = 0.5 * means.square().sum(1)
    return torch.cat([(part @ means.T - offset).argmax(1) for part in x.split(ROWS)])


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
    scores = (part @ project + offset for part in x.split(ROWS))
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
        log_joints[rows, columns] = log_joint(x[rows], components.weights[k], components.means[k], factor)
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
            r, codes = responsibilities[rows, columns], x[rows]
            counts[k] = r.sum()
            if len(rows) > 0:
                means[k] = r @ codes / counts[k]
            codes.sub_(means[k]).mul_(r.sqrt()[:, None])
            scatters[k] = codes.T @ codes
        return cls(counts, means, scatters)

    def scale(self, factor: float) -> None:
        """Become the statistics of so many times the codes."""
        self.counts *= factor
        self.scatters *= factor

    def blend(self, new: "Statistics", share: float) -> None:
        """Become (1 - share) of these and share of new ones, as if of one set of codes."""
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
    if len(shrinkage) == 1:
        ((_, kappa),) = shrinkage
        return (scatter + kappa * pooled) / max(count + kappa, _NEGLIGIBLE)
    lower, start = torch.zeros_like(scatter, dtype=torch.float64), 0
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
    flat, T = candidates.flatten(), candidates.shape[1]
    counts = torch.bincount(flat + 1, minlength=K + 1).tolist()
    return [(group // T, group % T) for group in flat.argsort(stable=True).split(counts)[1:]]


@dataclass
class Ascent:
    """EM with its settings, of which `weights_of` chooses the shrinkage from codes, the cluster of each and K."""

    weights_of: Callable[[Tensor, Tensor, int], Shrinkage]
    ridge: float
    batch_size: int | None
    max_iterations: int
    tolerance: float
    generator: np.random.Generator

    def climb(
        self, x: Tensor, K: int, on_iteration: Callable[[float, Tensor], None] = lambda *_: None
    ) -> tuple[Components, Tensor]:
        """K components, climbed to from clusters, and each code's T candidates among them, (N, T).

        Every iteration calls `on_iteration` with the log-likelihood and the number of codes of every component.
        """
        means, labels = lloyd(x, seed_means(x, K, self.generator))
        shrinkage = self.weights_of(x, labels, K)
        components = first_components(x, means, labels, shrinkage, self.ridge)
        T, before = min(K, _MOST_CANDIDATES), -math.inf
        candidates = propose(x, components, T)
        passes = None if self.batch_size is None else self._passes(x, components, shrinkage)
        for _ in range(self.max_iterations):
            if passes is not None:
                components, log_likelihood = next(passes)
                counts = components.weights * len(x)
            else:
                found = expectation(x, candidates, components)
                log_likelihood = found.log_likelihood
                statistics = Statistics.of(x, found, components.means, components.covariances)
                counts = statistics.counts.clone()
                statistics.rescue(x, self.generator)
                components = maximization(statistics, shrinkage, self.ridge)
            on_iteration(log_likelihood, counts)
            if log_likelihood - before < self.tolerance:
                break
            before = log_likelihood
            if K > _MOST_CANDIDATES and passes is None:
                candidates = unite(found.best(3), propose(x, components, 2))
        return components, candidates if passes is None else propose(x, components, T)

    def _passes(self, x: Tensor, components: Components, shrinkage: Shrinkage) -> Iterator[tuple[Components, float]]:
        """Passes over all codes in random order, each batch blended into those before: components, mean likelihood."""
        N, T, steps = len(x), min(len(components.means), _MOST_CANDIDATES), 0
        blended: Statistics | None = None
        while True:
            total = 0.0
            for rows in torch.from_numpy(self.generator.permutation(N)).to(x.device).split(self.batch_size or N):
                part = x[rows]
                found = expectation(part, propose(part, components, T), components)
                total += found.log_likelihood * len(rows)
                new = Statistics.of(part, found, components.means)
                new.scale(N / len(rows))
                steps += 1
                if blended is None:
                    blended = new
                else:
                    blended.blend(new, steps**-_FORGETTING)
                blended.rescue(x, self.generator)
                components = maximization(deepcopy(blended), shrinkage, self.ridge)
            yield components, total / N

    def choose_components(self, x: Tensor, progress: Progress) -> int:
        """K under which held-out codes are most likely, of 1, 2, 4 … with 20 codes or more each, until that falls."""
        held_out = hold_out(len(x), self.generator)
        seen, others = x[~held_out], x[held_out]
        most = max(len(x) // _FEWEST_CODES, 1)
        best, best_likelihood, K = 1, -math.inf, 1
        with progress.task("mixture: components", most.bit_length()) as task:
            while most >= K:
                found, _ = self.climb(seen, K)
                factors = map(precision_factor, found.covariances)
                likelihood = log_mixture(others, found.weights, found.means, factors).mean(dtype=torch.float64).item()
                task.advance(1, f"{K}: log-likelihood {likelihood:.2f}")
                if likelihood < best_likelihood:
                    break
                best, best_likelihood, K = K, likelihood, 2 * K
        return best


def choose_shrinkage(
    x: Tensor, labels: Tensor, K: int, first: int, ridge: float, generator: np.random.Generator
) -> Shrinkage:
    """The weights κ of the pooled covariance under which held-out codes, of x (N, d) in K Gaussians, are most likely.

    Every block of components, up to `first`, 2 · first, 4 · first … d, has its own, as a normal density is the product
    of the densities of each component given those before: leading ones, in which Gaussians differ most, want less.
    """
    N, d = x.shape
    held_out = hold_out(N, generator).to(x.device)
    seen, labels_seen = x[~held_out], labels[~held_out]
    counts = torch.bincount(labels_seen, minlength=K)
    usable = ((counts > 1) & (labels[held_out].bincount(minlength=K) > 0)).nonzero()[:, 0]
    if len(usable) == 0:
        return [(d, _DEFAULT_WEIGHT)]
    means = torch.zeros(K, d, device=x.device).index_add_(0, labels_seen, seen) / counts.clamp(min=1)[:, None]
    seen = seen - means[labels_seen]
    pooled = shrink_to_identity(seen.T @ seen / len(seen), len(seen), ridge)
    looked_at = max(_COMPONENTS_LOOKED_AT, _LOOKED_AT_OF_ONE // d)
    order = torch.from_numpy(generator.permutation(len(usable)))[:looked_at].to(x.device)
    gains = torch.zeros(len(_WEIGHTS), d, dtype=torch.float64, device=x.device)
    for k in usable[order].tolist():
        codes = seen[labels_seen == k]
        scatter, others = codes.T @ codes, x[held_out & (labels == k)] - means[k]
        for row, kappa in enumerate(_WEIGHTS):
            lower = torch.linalg.cholesky(((scatter + kappa * pooled) / (counts[k] + kappa)).double())
            white = torch.linalg.solve_triangular(lower, others.double().T, upper=False)
            gains[row] -= 0.5 * white.square().sum(1) + len(others) * lower.diagonal().log()
    shrinkage: Shrinkage = []
    start, stop = 0, min(first, d)
    while start < d:
        kappa = _WEIGHTS[int(gains[:, start:stop].sum(1).argmax())]
        if shrinkage and shrinkage[-1][1] == kappa:
            shrinkage.pop()
        shrinkage.append((stop, kappa))
        start, stop = stop, min(2 * stop, d)
    return shrinkage
