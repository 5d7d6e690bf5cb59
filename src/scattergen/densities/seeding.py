"""First means of mixtures and clusters."""

import math

import numpy as np
import torch
from torch import Tensor

_SEEDING_CODES = 20_000  # k-means++ looks at no more codes than this


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
