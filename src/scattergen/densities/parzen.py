"""Manifold Parzen windows: a Gaussian at every code, as wide as its nearest neighbours are apart."""

import time
from collections.abc import Mapping
from typing import Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from scattergen.calls.keywords import check_seed, check_values
from scattergen.densities.display import DisplayedDensity
from scattergen.densities.protocol import File, check_codes, check_fitted, history_state, take_history, take_tensor
from scattergen.densities.sampling import Noise, draw_in_chunks
from scattergen.display.progress import SILENT, Progress
from scattergen.errors import InputError, RunFolderError


class ManifoldParzen(DisplayedDensity):
    r"""A Gaussian for every training code and its nearest neighbours: $p(z) = \frac 1 N \sum_i N(z; m_i, S_i)$.

    $m_i$ and $S_i$ are the sample mean and covariance of code i and of the k codes at the smallest angles to it. (By
    Euclidean distance, the codes nearest to any other are those near the origin, and samples would be shrunk to it.)
    New codes so have all the components that codes of images have, and dependences that few parameters cannot say,
    without any training. In return each is a blend of k + 1 training codes, and lies nearer to them than the code of a
    new image would. There is no likelihood, as $S_i$ has rank k (Vincent, Bengio, "Manifold Parzen windows", 2003).

    Args:
        n_neighbors: Number k of neighbours; more make codes that are newer and less like those of images. Of at most k
            codes, all others are neighbours.
        max_codes: At most so many codes, chosen at random, are kept.

    Attributes:
        codes_: (N, d) float32.
        neighbors_: Rows of the k nearest codes of each, (N, k) int64.

    Example:
        >>> density = ManifoldParzen(n_neighbors=2).fit(torch.randn(100, 4))
        >>> density.sample(3, seed=0).shape
        torch.Size([3, 4])
    """

    all_components = True  # it is none the worse for them, so it is not given the leading ones only

    def __init__(self, n_neighbors: int = 4, max_codes: int = 20_000) -> None:
        self.n_neighbors, self.max_codes = n_neighbors, max_codes
        check_values(self, n_neighbors=1)
        if max_codes <= n_neighbors:
            raise InputError(f"max_codes={max_codes} leaves fewer than n_neighbors={n_neighbors} others: give more.")

    @property
    def description(self) -> str:
        """One line for reports."""
        which = f"each of a code and its {self.n_neighbors} nearest"
        if not hasattr(self, "codes_"):
            return f"Gaussians, {which}"
        return f"{len(self.codes_):,} Gaussians of {self.n_features_} components, {which}"

    def fit(
        self, z: Tensor, *, seed: int = 0, progress: Progress = SILENT, device: str = "cpu", checkpoint: File = None
    ) -> Self:
        """Find the neighbours of every code, as `Density.fit` says; random is which codes are kept of too many."""
        start = time.monotonic()
        z, seed = check_codes(z, self).detach(), check_seed(seed)
        if len(z) > self.max_codes:
            kept = np.random.default_rng(seed).choice(len(z), self.max_codes, replace=False)
            z = z[torch.from_numpy(np.sort(kept))]
        z = z.float().cpu()
        unit, found = functional.normalize(z).to(device), []
        with progress.task("parzen", total=len(z)) as task:
            for first, part in zip(range(0, len(z), 1024), unit.split(1024), strict=True):
                similar = part @ unit.T
                similar[torch.arange(len(part)), torch.arange(first, first + len(part))] = -torch.inf  # itself
                found.append(similar.topk(min(self.n_neighbors, len(z) - 1)).indices.cpu())
                task.advance(len(part))
        self.codes_, self.neighbors_, self.n_features_ = z.clone(), torch.cat(found), z.shape[1]
        self.history_ = [{"epoch": 1, "seconds": time.monotonic() - start}]
        return self

    def sample(self, n: int, *, seed: int = 0, temperature: float = 1.0) -> Tensor:
        """Draw codes (n, d), as `Density.sample` says."""
        check_fitted(self)
        every = torch.ones(len(self.codes_))

        def draw(noise: Noise, size: int) -> Tensor:
            chosen = noise.choice(every, size)
            near = self.codes_[torch.cat([chosen[:, None], self.neighbors_[chosen]], 1)].double()
            mean = near.mean(1, keepdim=True)
            weights = noise.normal(size, near.shape[1]) / (near.shape[1] - 1) ** 0.5
            return (mean + weights[:, None] @ (near - mean))[:, 0]

        return draw_in_chunks(n, seed, draw, temperature)

    def state_dict(self) -> dict[str, Tensor]:
        """Everything fitted, as named tensors."""
        check_fitted(self)
        return {"codes": self.codes_, "neighbors": self.neighbors_, **history_state(self.history_)}

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Become the fitted density that `state_dict` was taken from."""
        codes = take_tensor(tensors, "codes", (None, None))
        neighbors = take_tensor(tensors, "neighbors", (len(codes), min(self.n_neighbors, len(codes) - 1)))
        if neighbors.dtype != torch.int64 or not ((neighbors >= 0) & (neighbors < len(codes))).all():
            raise RunFolderError("The stored neighbours are no rows of the codes: fit the density again.")
        self.codes_, self.neighbors_, self.n_features_ = codes, neighbors, codes.shape[1]
        self.history_ = take_history(tensors)
