"""Drawing codes so that each depends on its own number only."""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from scattergen.keywords import check_seed, whole_number

CHUNK = 256
"""Codes that are drawn from one generator; part of what a seed means, so it never changes."""

Draw = Callable[[np.random.Generator, int], Tensor]
"""Draws `size` codes, (size, d), with all randomness from the generator."""


def draw_in_chunks(n: int, seed: int, draw: Draw) -> Tensor:
    """Draw codes of which number k depends on the density, the seed and k only.

    Chunk c holds the codes 256c … 256c + 255. It has a generator of its own, seeded by (seed, c),
    and is always drawn as a whole, so that the same numbers pass through the same operations
    whatever `n` is.

    NumPy's generator is used, since PyTorch's on the CPU keeps only 32 bits of its seed: some
    chunks of large samples would be equal.

    Args:
        n: Number of codes, 0 or more.
        seed: 0 or more.
        draw: Draws one chunk.

    Returns:
        Codes, (n, d), float32.

    Raises:
        InputError: If `n` or `seed` is negative or no whole number.

    Example:
        >>> draw = lambda generator, size: standard_normal(generator, size, 2)
        >>> bool((draw_in_chunks(300, 0, draw)[:10] == draw_in_chunks(10, 0, draw)).all())
        True
    """
    n, seed = whole_number("n", n), check_seed(seed)
    chunks = []
    with torch.no_grad():
        for chunk in range(max(1, math.ceil(n / CHUNK))):  # n = 0 needs the number of columns too
            generator = np.random.default_rng([seed, chunk])
            chunks.append(draw(generator, CHUNK).float())
    return torch.cat(chunks)[:n].clone()


def standard_normal(generator: np.random.Generator, size: int, n_features: int) -> Tensor:
    """Independent N(0, 1) numbers.

    They are float64, and what is computed from them should be, until `draw_in_chunks` rounds the
    codes: the last bits, which depend on the number of threads, then hardly ever survive.

    Args:
        generator: Source of randomness.
        size: Number N of rows.
        n_features: Number d of columns.

    Returns:
        (N, d), float64.

    Example:
        >>> standard_normal(np.random.default_rng(0), 2, 3).shape
        torch.Size([2, 3])
    """
    return torch.from_numpy(generator.standard_normal((size, n_features)))
