"""How many components codes should have, by images that were held out from their fit."""

from collections.abc import Iterator

import torch
from torch import Tensor

from scattergen.datasets import WithMirrored
from scattergen.encoder.feature_store import FeatureStore
from scattergen.encoder.whitening import PCAWhitening
from scattergen.progress import SILENT, Progress

# Images that least squares are fitted to and tested on: more would not change the choice.
_MOST_FITTED, _MOST_HELD_OUT = 8192, 2048

# Fewer components are taken for an error larger by this part.
_INDIFFERENCE = 0.01


class FirstSamples:
    """The first samples of a store, for a fit that must not see the others."""

    def __init__(self, store: FeatureStore, n_samples: int) -> None:
        self.store, self.n_samples = store, n_samples
        self.n_features, self.processes = store.n_features, store.processes
        self.shift = store.shift

    def deviations(self, start: int = 0) -> Iterator[tuple[int, Tensor]]:
        """See `FeatureStore.deviations`."""
        for row, deviations in self.store.deviations(start):
            if row >= self.n_samples:
                return
            yield row, deviations[: self.n_samples - row]


def best_number_of_components(
    whitening: PCAWhitening, features: FeatureStore, images: WithMirrored, progress: Progress = SILENT
) -> int:
    r"""The number of leading components from which least squares restore held-out images best.

    Each further component brings the images that it was fitted to closer, whether it is a property of all images or
    an accident of these; the error of those held out, $\sum_i \lVert x_i - \bar x - W_{1 \ldots d}^T
    z_{i, 1 \ldots d} \rVert^2$, falls and then rises again. The smallest number is taken, on a grid of two per octave,
    whose error is within a hundredth of the least.
    """
    most, n_fit, step = whitening.n_components, images.n_fit, features.chunk_size
    steps = [size for k in range(1, 12) for size in (2**k, 3 * 2 ** (k - 1))]
    grid = [size for size in sorted(steps) if size < most] + [most]
    chunks = [features.rows(i) for i in range(features.n_chunks)]
    fitted = _spread([i for i, rows in enumerate(chunks) if rows.start < n_fit], _MOST_FITTED, step)
    rest = [i for i, rows in enumerate(chunks) if rows.stop > n_fit]
    held_out = _spread(rest, _MOST_HELD_OUT, step)
    size = images[:1].numel()
    products, total, count = torch.zeros(most, size), torch.zeros(size, dtype=torch.float64), 0
    gram, codes = torch.zeros(most, most), torch.zeros(most)
    errors = torch.zeros(len(grid), dtype=torch.float64)
    with progress.task("choose components", len(fitted) + len(held_out)) as task:
        for i in fitted:
            start, stop = chunks[i].start, min(chunks[i].stop, n_fit)
            z = whitening.transform(features.chunk(i)[: stop - start])
            x = images[start:stop].flatten(1)
            gram += z.T @ z
            codes += z.sum(0)
            products += z.T @ x
            total += x.sum(0, dtype=torch.float64)
            count += len(x)
            task.advance()
        mean, z_mean = (total / count).float(), codes / count
        # Codes are white over all images of the fit, and nearly so over some of them: yet the
        # products with images, which are far from zero, need their means.
        products -= torch.outer(codes, mean)
        gram -= torch.outer(codes, z_mean)
        gram.diagonal().add_(1e-6 * count)  # fewer images than components have many solutions
        weights = [torch.linalg.solve(gram[:d, :d], products[:d]) for d in grid]
        for i in held_out:
            start, stop = max(chunks[i].start, n_fit), chunks[i].stop
            z = whitening.transform(features.chunk(i)[start - chunks[i].start :]) - z_mean
            x = images[start:stop].flatten(1) - mean
            for k, d in enumerate(grid):
                errors[k] += (x - z[:, :d] @ weights[k]).square().sum(dtype=torch.float64)
            task.advance()
    enough = errors <= (1 + _INDIFFERENCE) * errors.min()
    best = grid[int(enough.int().argmax())]
    progress.message(f"  {best} components: held-out images are restored no better from more")
    return best


def _spread(numbers: list[int], most: int, chunk_size: int) -> list[int]:
    """Chunks that hold at most about so many samples, evenly spread."""
    count = max(1, most // chunk_size)
    return numbers[:: max(1, -(-len(numbers) // count))]
