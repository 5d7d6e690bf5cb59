"""What held-out codes choose in a mixture: the weight of shrinkage and the number of components."""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from scattergen.densities.covariances import log_mixture, precision_factor, shrink_to_identity
from scattergen.densities.expectation_maximization import Components, Shrinkage
from scattergen.densities.sampling import hold_out
from scattergen.progress import Progress

_WEIGHTS = tuple(2.0**power for power in range(11))  # of shrinkage that are compared, in codes
_DEFAULT = 32.0  # where there are no codes to choose it by
_FEWEST_CODES = 20  # per component, where held-out codes choose their number
_COMPONENTS_LOOKED_AT = 20  # in choosing weights; each costs a factorization for every weight
_LOOKED_AT_OF_ONE = 10_000  # divided by d, if that is more


def choose_shrinkage(
    x: Tensor, labels: Tensor, K: int, first: int, ridge: float, generator: np.random.Generator
) -> Shrinkage:
    """The weights κ of the pooled covariance under which held-out codes, of x (N, d) in K Gaussians, are most likely.

    A normal density is the product of the densities of each component given those before it, so that every block of
    components has a weight of its own: the leading ones, in which Gaussians differ most, want less of the pooled
    covariance than the trailing ones. The blocks end at `first`, 2 · first, 4 · first … d.
    """
    N, d = x.shape
    held_out = hold_out(N, generator).to(x.device)
    seen, labels_seen = x[~held_out], labels[~held_out]
    counts = torch.bincount(labels_seen, minlength=K)
    usable = ((counts > 1) & (torch.bincount(labels[held_out], minlength=K) > 0)).nonzero()[:, 0]
    if len(usable) == 0:
        return [(d, _DEFAULT)]
    means = torch.zeros(K, d, device=x.device).index_add_(0, labels_seen, seen)
    means /= counts.clamp(min=1)[:, None]
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


def choose_components(
    x: Tensor, fit: Callable[[Tensor, int], Components], generator: np.random.Generator, progress: Progress
) -> int:
    """The number of components, of 1, 2, 4, 8 … with 20 codes or more each, under which held-out codes are most likely.

    The numbers are tried in this order until the likelihood falls; `fit` fits so many components to codes.
    """
    held_out = hold_out(len(x), generator)
    seen, others = x[~held_out], x[held_out]
    most = max(len(x) // _FEWEST_CODES, 1)
    best, best_likelihood, K = 1, -math.inf, 1
    with progress.task("mixture: components", most.bit_length()) as task:
        while most >= K:
            found = fit(seen, K)
            factors = map(precision_factor, found.covariances)
            likelihood = log_mixture(others, found.weights, found.means, factors).mean(dtype=torch.float64).item()
            task.advance(1, f"{K}: log-likelihood {likelihood:.2f}")
            if likelihood < best_likelihood:
                break
            best, best_likelihood, K = K, likelihood, 2 * K
    return best
