# mypy: ignore-errors
# Numba compiles such functions: what they compute with has no Python types.
"""Distances between scattering coefficients, and their gradients, in one pass (needs Numba)."""

import numpy as np
import torch
from torch import Tensor

from scattergen.scattering.kernel_cache import kept
from scattergen.scattering.threads import in_threads


@kept
def _measure(found, wanted, weights, region, values, gradient):
    """Distances between coefficients (B, K, H, W), (B,), and their gradients in those found; see `distance_batch`."""
    _, K, H, W = found.shape
    down, across = (H + region - 1) // region, (W + region - 1) // region
    number = found.dtype.type
    difference, line = np.empty((K, H, W), number), np.empty(W, number)
    means, mean = np.empty((K, down, across), number), np.empty(K, number)
    here, there = np.empty((H, W), number), np.empty((down, across), number)
    for image in range(len(found)):
        here[:] = 0
        there[:] = 0
        everywhere = total = 0.0
        for k in range(K):
            weight, whole = weights[k], number(0)
            for i in range(down):
                first, last = i * region, min(H, i * region + region)
                line[:] = 0
                for h in range(first, last):
                    for w in range(W):
                        d = (found[image, k, h, w] - wanted[image, k, h, w]) * weight
                        difference[k, h, w] = d
                        here[h, w] += d * d
                        line[w] += d
                for j in range(across):
                    columns, part = min(region, W - j * region), number(0)
                    for w in range(columns):
                        part += line[j * region + w]
                    whole += part
                    part /= (last - first) * columns
                    means[k, i, j] = part
                    there[i, j] += part * part
            mean[k] = whole / (H * W)
            everywhere += mean[k] * mean[k]
        # Norms over paths become the factors of their gradients: one over the norm and the number of places.
        for h in range(H):
            for w in range(W):
                norm = np.sqrt(here[h, w])
                total += norm / (H * W)
                here[h, w] = 1 / (norm * (H * W)) if norm > 0 else 0
        for i in range(down):
            for j in range(across):
                norm = np.sqrt(there[i, j])
                total += norm / (down * across)
                area = min(region, H - i * region) * min(region, W - j * region)
                there[i, j] = 1 / (norm * (down * across * area)) if norm > 0 else 0
        norm = np.sqrt(everywhere)
        values[image] = total + norm
        everywhere = 1 / (norm * (H * W)) if norm > 0 else 0.0
        for k in range(K):
            weight, whole = weights[k], number(mean[k] * everywhere)
            for i in range(down):
                for j in range(across):
                    part = whole + means[k, i, j] * there[i, j]
                    for w in range(j * region, min(W, j * region + region)):
                        line[w] = part
                for h in range(i * region, min(H, i * region + region)):
                    for w in range(W):
                        gradient[image, k, h, w] = (difference[k, h, w] * here[h, w] + line[w]) * weight


def distance_batch(found: Tensor, wanted: Tensor, weights: Tensor, region: int) -> tuple[Tensor, Tensor]:
    r"""Distances between coefficients (B, K, H, W), (B,), and their gradients in those found, (B, K, H, W).

    $\sum_r \operatorname{mean} \lVert \langle w\,(s - t) \rangle_r \rVert$, with the Euclidean norm over the K paths of
    their weights w times the differences, averaged over one position, over region × region and over all, and the mean
    over places; the gradient of a norm is 0 at 0.
    """
    values, gradient = found.new_empty(len(found)), found.new_empty(found.shape)
    tensors = (found.contiguous(), wanted.contiguous(), values, gradient)
    parts = [*zip(*(tensor.chunk(torch.get_num_threads()) for tensor in tensors), strict=True)]
    left = iter(parts)

    def work() -> None:
        for part in left:
            one, other, value, slope = (tensor.numpy() for tensor in part)
            _measure(one, other, weights.numpy(), region, value, slope)

    in_threads(work, len(parts))
    return values, gradient
