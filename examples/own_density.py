"""A density of your own: codes resampled with a little noise (Parzen windows).

Run with `python examples/own_density.py`; docs/own-parts.md explains it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor

from scattergen.densities import DENSITIES, DisplayedDensity, Noise, draw_in_chunks, hyperparameters, make
from scattergen.densities.protocol import check_codes, check_fitted, take_tensor
from scattergen.display.progress import SILENT, Progress


class ParzenWindows(DisplayedDensity):
    """Normal kernels on a random part of the codes.

    Args:
        bandwidth: Standard deviation of the kernels.
        n_kernels: Number of codes that are kept.
    """

    def __init__(self, bandwidth: float = 0.5, n_kernels: int = 5000) -> None:
        self.bandwidth, self.n_kernels = bandwidth, n_kernels

    @property
    def description(self) -> str:
        """One line for reports."""
        return f"{self.n_kernels} Parzen windows of width {self.bandwidth:g}"

    def fit(
        self,
        z: Tensor,
        *,
        seed: int = 0,
        progress: Progress = SILENT,
        device: str = "cpu",
        checkpoint: Path | None = None,
    ) -> Self:
        """Keep some codes."""
        z = check_codes(z)
        rows = np.random.default_rng(seed).permutation(len(z))[: self.n_kernels]
        self.centres_ = z[torch.from_numpy(rows)].clone()
        self.n_features_, self.history_ = z.shape[1], [{"epoch": 1, "seconds": 0.0}]
        return self

    def sample(self, n: int, *, seed: int = 0, temperature: float = 1.0) -> Tensor:
        """Draw codes; all randomness comes from the chunk's noise, which has the temperature."""
        check_fitted(self)
        weights = torch.ones(len(self.centres_))

        def draw(noise: Noise, size: int) -> Tensor:
            chosen = noise.choice(weights, size)
            return self.centres_[chosen] + self.bandwidth * noise.normal(size, self.n_features_)

        return draw_in_chunks(n, seed, draw, temperature)

    def state_dict(self) -> dict[str, Tensor]:
        """Everything fitted."""
        check_fitted(self)
        return {"centres": self.centres_}

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Become the density that was stored."""
        self.centres_ = take_tensor(tensors, "centres", (None, None))
        self.n_features_, self.history_ = self.centres_.shape[1], []


DENSITIES["windows"] = ParzenWindows

if __name__ == "__main__":
    codes = torch.randn(1000, 8, generator=torch.Generator().manual_seed(0))
    density = make("windows", bandwidth=0.3).fit(codes)
    print(density)  # by DisplayedDensity, as a notebook shows it
    print(tuple(density.sample(3, seed=0).shape))

    # What a run folder does: the name, the keywords and the tensors are enough to come back.
    copy = make("windows", **hyperparameters(density))
    copy.load_state_dict(density.state_dict())
    assert torch.equal(copy.sample(100, seed=1), density.sample(100, seed=1))
