"""Clusters: first means by k-means++, and Lloyd's iterations."""

import math

import numpy as np
import torch
from torch import Tensor

_SEEDING_CODES = 20_000  # k-means++ looks at no more codes than this
_ROWS = 8192  # codes per matrix product, to bound memory


def seed_means(x: Tensor, K: int, generator: np.random.Generator) -> Tensor:
    """First means by k-means++: K of the codes (N, d), drawn with probability proportional to the squared distance.

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


def lloyd(x: Tensor, means: Tensor, iterations: int = 20) -> tuple[Tensor, Tensor]:
    """Lloyd's iterations: each code (N, d) joins its nearest mean (K, d), which moves to the mean of its codes.

    They end when no code changes its cluster. A mean that loses all its codes stays where it is. Returned are the means
    and the number of the nearest to each code, (N,).
    """
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
    """Number of the nearest mean (K, d) to every code (N, d), (N,)."""
    offset = 0.5 * means.square().sum(1)
    return torch.cat([(part @ means.T - offset).argmax(1) for part in x.split(_ROWS)])
