"""Independent Gaussian components: the model of Angles & Mallat."""

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from scattergen.densities.protocol import (
    History,
    check_codes,
    check_fitted,
    history_state,
    take_history,
    take_tensor,
)
from scattergen.densities.sampling import draw_in_chunks
from scattergen.errors import InputError
from scattergen.progress import SILENT, Progress


class Gaussian:
    r"""Independent Gaussian components, $p(z) = \prod_i N(z_i; \mu_i, \sigma_i^2)$.

    Angles & Mallat draw whitened codes from N(0, I).  Mean and standard deviation are estimated
    here; on the codes that the whitening was fitted on they are 0 and 1 up to rounding, which makes
    it the same model.

    Attributes:
        mean_: (d,) float32.
        std_: Standard deviations, (d,), float32.
        n_features_: d.
        history_: One row: "epoch", "seconds".

    References:
        Angles, Mallat, "Generative networks as inverse problems with scattering transforms", 2018.

    Example:
        >>> density = Gaussian().fit(torch.randn(1000, 4) * 2)
        >>> density.sample(3, seed=0).shape, density.log_prob(torch.zeros(5, 4)).shape
        (torch.Size([3, 4]), torch.Size([5]))
    """

    mean_: Tensor
    std_: Tensor
    n_features_: int
    history_: History

    @property
    def description(self) -> str:
        """One line for reports."""
        if not hasattr(self, "n_features_"):
            return "independent Gaussians"
        return f"{self.n_features_} independent Gaussians, {2 * self.n_features_:,} parameters"

    def fit(
        self,
        z: Tensor,
        *,
        seed: int = 0,
        progress: Progress = SILENT,
        device: str = "cpu",
        checkpoint: Path | None = None,
    ) -> Self:
        """Estimate mean and standard deviation of every component.

        Args:
            z: Codes, (N, d), at least 2.
            seed: Not used: nothing is random.
            progress: Where to report.
            device: Where to compute.
            checkpoint: Not used: the fit takes a moment.

        Returns:
            This object.

        Raises:
            InputError: If the codes cannot be used or a component is constant.
        """
        start = time.monotonic()
        z = check_codes(z, minimum=2).to(device)
        with progress.task("gaussian", total=1) as task:
            mean = z.mean(0, dtype=torch.float64)
            # By columns in blocks: a float64 copy of all codes would double the memory.
            std = torch.cat([part.double().std(0, correction=0) for part in z.split(64, dim=1)])
            task.advance()
        constant = z.amax(0) == z.amin(0)
        if constant.any():
            raise InputError(
                f"Component {int(constant.nonzero()[0])} of the codes is constant: encode with "
                "fewer components."
            )
        self.mean_, self.std_ = mean.float().cpu(), std.float().cpu()
        self.n_features_ = z.shape[1]
        self.history_ = [{"epoch": 1, "seconds": time.monotonic() - start}]
        return self

    def sample(self, n: int, *, seed: int = 0, temperature: float = 1.0) -> Tensor:
        """Draw codes; code k depends on the fitted density, `seed` and k only.

        Args:
            n: Number of codes.
            seed: 0 or more.
            temperature: Factor of the noise, 0 or more.

        Returns:
            Codes, (n, d), float32.
        """
        check_fitted(self)
        d, mean, std = self.n_features_, self.mean_.double(), self.std_.double()
        return draw_in_chunks(
            n, seed, lambda noise, size: mean + std * noise.normal(size, d), temperature
        )

    def log_prob(self, z: Tensor) -> Tensor:
        """Exact logarithm of the density, in nats.

        Args:
            z: Codes, (N, d).

        Returns:
            (N,), with the type and device of `z`.
        """
        check_fitted(self)
        check_codes(z, n_features=self.n_features_)
        mean, std = self.mean_.to(z), self.std_.to(z)
        constant = std.log().sum() + 0.5 * self.n_features_ * math.log(2 * math.pi)
        return -0.5 * ((z - mean) / std).square().sum(1) - constant

    def state_dict(self) -> dict[str, Tensor]:
        """Everything fitted, as named tensors."""
        check_fitted(self)
        return {"mean": self.mean_, "std": self.std_} | history_state(self.history_)

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Become the fitted density that `state_dict` was taken from."""
        self.mean_ = take_tensor(tensors, "mean", (None,))
        self.n_features_ = len(self.mean_)
        self.std_ = take_tensor(tensors, "std", (self.n_features_,))
        self.history_ = take_history(tensors)
