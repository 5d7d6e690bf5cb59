"""Normalizing flow of coupling layers, through zuko."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from scattergen.densities.leading import LeadingComponents, check_leading, check_leading_count
from scattergen.densities.networks import (
    FEWEST_CODES,
    STOPPING_SHARE,
    check_widths,
    count_parameters,
    in_float64,
    load_network,
)
from scattergen.densities.protocol import check_codes, check_fitted, history_state, take_history
from scattergen.densities.sampling import Noise, draw_in_chunks, hold_out
from scattergen.errors import InputError
from scattergen.progress import SILENT, Progress
from scattergen.tensor_files import flatten_state
from scattergen.training.loop import Batch, train
from scattergen.training.settings import TrainingSettings
from scattergen.training.state import Metrics


class Flow:
    r"""Normalizing flow: neural spline coupling layers that map codes to a base density.

    With f the layers and b the base, N(0, I) or a Gaussian mixture, the first m components x of a code, standardized,
    have the density

    $$p(x) = b(f(x))\, |\det \partial f / \partial x|$$

    Every layer leaves one half of the components as they are and moves the others by monotone rational quadratic
    splines that depend on the first half; halves are permuted at random between layers. So the likelihood is exact and
    both directions are one pass. Training maximizes the likelihood; one code in twelve is held out for early stopping.

    It needs the package zuko (`pip install scattergen[flow]`).

    Args:
        leading: Number m of leading components that are modelled; the rest follow by regressions (see
            `LeadingComponents`). None models all.
        base: "normal" or "mixture", which is fitted before and stays as it is.
        n_components: Of the mixture; None takes one per 275 codes, at most 200.
        layers: Number of coupling layers.
        widths: Hidden layers of the network of each.
        bins: Pieces of a spline.
        epochs: Passes over the codes, at most.
        patience: Epochs without a lower held-out loss after which training stops; None never stops.
        batch_size: Codes per step.
        learning_rate: Peak of the one-cycle schedule.
        clip_norm: Largest norm of the gradient.

    Attributes:
        flow_: zuko's flow; only its transform is used.
        leading_: Standardization, base mixture, and p(trailing | leading).
        history_: One row per epoch: "epoch", "seconds", "loss" (mean of -log p(x), in nats), "learning_rate",
            "validation/loss".

    Raises:
        InputError: If an argument is out of range or zuko is not installed.

    References:
        Dinh, Sohl-Dickstein, Bengio, "Density estimation using Real NVP", 2016.
        Durkan, Bekasov, Murray, Papamakarios, "Neural spline flows", 2019.

    Example:
        >>> flow = Flow(layers=2, widths=(16,), epochs=1).fit(torch.randn(600, 4))
        >>> flow.sample(3, seed=0).shape, flow.log_prob(torch.zeros(5, 4)).shape
        (torch.Size([3, 4]), torch.Size([5]))
    """

    def __init__(
        self,
        leading: int | None = 32,
        base: Literal["normal", "mixture"] = "mixture",
        n_components: int | None = None,
        layers: int = 4,
        widths: Sequence[int] = (256, 256),
        bins: int = 8,
        epochs: int = 8,
        patience: int | None = 3,
        batch_size: int = 512,
        learning_rate: float = 2e-3,
        clip_norm: float = 5.0,
    ) -> None:
        check_leading(leading, n_components, base)
        if layers < 1 or bins < 2:
            raise InputError(f"layers={layers}, bins={bins}: give at least 1 layer and 2 bins.")
        self.leading, self.base, self.n_components = leading, base, n_components
        self.layers, self.widths, self.bins = layers, check_widths("widths", widths), bins
        self.epochs, self.patience, self.batch_size = epochs, patience, batch_size
        self.learning_rate, self.clip_norm = learning_rate, clip_norm
        TrainingSettings.of(self)  # which refuses the rest

    @property
    def description(self) -> str:
        """One line for reports."""
        text = f"neural spline flow, {self.layers} coupling layers of {self.bins} bins, networks "
        text += "-".join(map(str, self.widths)) + f", {self.base} base"
        if hasattr(self, "n_features_"):
            text += f", {count_parameters(self.flow_):,} parameters; {self.leading_.description}"
        return text

    def check_count(self, n: int) -> None:
        """Refuse fewer codes than training and validation need (see `densities.check_count`)."""
        if n < FEWEST_CODES:
            raise InputError(f"{n} codes are too few: at least {FEWEST_CODES} are needed.")
        check_leading_count(n - int(STOPPING_SHARE * n), self.n_components)

    def fit(
        self,
        z: Tensor,
        *,
        seed: int = 0,
        progress: Progress = SILENT,
        device: str = "cpu",
        checkpoint: Path | None = None,
    ) -> Self:
        """Train the coupling layers, after the mixture and the regressions, as `Density.fit` says.

        The seed decides the initial weights, the permutations, the order of the codes and the mixture; `device` is
        where the layers are trained.

        Raises:
            InputError: If the codes cannot be used, are fewer than 24, or have a single component.
            ScattergenError: If the training diverges.
        """
        z = check_codes(z).float().cpu()
        self.check_count(len(z))
        held_out = hold_out(len(z), np.random.default_rng(seed), STOPPING_SHARE)
        leading = LeadingComponents.fit(z[~held_out], self.leading, self.n_components, seed, self.base == "mixture")
        x, validation = leading.standardize(z[~held_out]), leading.standardize(z[held_out])
        flow = self._build(x.shape[1], seed)

        def loss(modules: Mapping[str, nn.Module], batch: Batch, generator: torch.Generator) -> Tensor:
            return -self._log_prob(flow, leading, batch[0]).mean()

        def validate() -> Metrics:
            device = next(flow.parameters()).device
            parts = [self._log_prob(flow, leading, p.to(device)) for p in validation.split(1000)]
            return {"loss": -torch.cat(parts).mean().item()}

        self.history_ = train(
            {"flow": flow},
            {"flow": loss},
            TensorDataset(x),
            TrainingSettings.of(self, seed=seed, device=device, description="flow"),
            validate=validate,
            checkpoint=checkpoint,
            progress=progress,
        )
        self.flow_, self.leading_ = flow.cpu(), leading
        self.n_features_ = z.shape[1]
        return self

    def _build(self, m: int, seed: int) -> nn.Module:
        """The untrained flow of m components."""
        if m < 2:
            raise InputError("A coupling flow needs at least 2 components: model more of them.")
        try:
            import zuko  # type: ignore[import-untyped]  # an extra
        except ImportError as error:
            raise InputError(
                'The density "flow" needs the package zuko: run  pip install "scattergen[flow]".'
            ) from error
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return zuko.flows.NSF(
                m, transforms=self.layers, passes=2, randperm=True, bins=self.bins, hidden_features=self.widths
            )

    def _log_prob(self, flow: Any, leading: LeadingComponents, x: Tensor) -> Tensor:
        """Logarithm of p(x), in nats: (N, m) -> (N,)."""
        y, log_determinant = flow().transform.call_and_ladj(x)
        if self.base == "mixture":
            return leading.mixture_log_prob(y) + log_determinant
        m = x.shape[1]
        return log_determinant - 0.5 * (y.square().sum(1) + m * math.log(2 * math.pi))

    def sample(self, n: int, *, seed: int = 0, temperature: float = 1.0) -> Tensor:
        """Draw codes (n, d) from the base, back through the layers, as `Density.sample` says."""
        check_fitted(self)
        leading = self.leading_
        backwards = in_float64(self.flow_)().transform.inv

        def draw(noise: Noise, size: int) -> Tensor:
            y = leading.draw_mixture(noise, size) if self.base == "mixture" else noise.normal(size, len(leading.shift))
            return leading.complete(backwards(y), noise)

        return draw_in_chunks(n, seed, draw, temperature)

    @torch.no_grad()
    def log_prob(self, z: Tensor) -> Tensor:
        """Exact logarithm of the density, in nats: codes (N, d) to (N,)."""
        check_fitted(self)
        check_codes(z, n_features=self.n_features_)
        x = self.leading_.standardize(z)
        flow = in_float64(self.flow_) if z.dtype == torch.float64 else self.flow_
        parts = [self._log_prob(flow.to(z.device), self.leading_, p) for p in x.split(1000)]
        return torch.cat(parts) + self.leading_.log_prob_rest(z)

    def state_dict(self) -> dict[str, Tensor]:
        """Everything fitted, as named tensors."""
        check_fitted(self)
        network = flatten_state("flow", self.flow_.state_dict())
        return network | self.leading_.state() | history_state(self.history_)

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Become the fitted density that `state_dict` was taken from."""
        self.leading_ = LeadingComponents.from_state(tensors)
        self.flow_ = self._build(len(self.leading_.shift), seed=0)
        load_network(self.flow_, tensors, "flow")
        self.n_features_, self.history_ = self.leading_.n_features, take_history(tensors)
