"""Flow matching: an ordinary differential equation that carries noise to codes."""

import copy
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Self

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from scattergen.densities.leading import LeadingComponents, check_leading, check_leading_count
from scattergen.densities.networks import count_parameters, in_float64, load_network
from scattergen.densities.protocol import (
    History,
    check_codes,
    check_fitted,
    history_state,
    take_history,
)
from scattergen.densities.sampling import Noise, draw_in_chunks
from scattergen.errors import InputError
from scattergen.progress import SILENT, Progress
from scattergen.storage import flatten_state
from scattergen.training import Batch, check_settings, train
from scattergen.training_state import Metrics

_EVERY = 12  # one code in twelve is held out
_FREQUENCIES = 8  # of the embedding of time
_EMBEDDING = 2 * _FREQUENCIES


class FlowMatching:
    r"""Conditional flow matching with a residual network.

    The first m components of a code, standardized, are x₁; x₀ is noise. The network v learns the
    velocity of the interpolation between them, and samples solve $\dot x = v(x, t)$ from noise at
    t = 0 to codes at t = 1:

    $$x_t = \cos(\tfrac\pi2 t)\, x_0 + \sin(\tfrac\pi2 t)\, x_1, \qquad
    \min_v\; E\, \|v(x_t, t) - \dot x_t\|^2, \qquad x_0 \sim N(0, I),\; t \sim U(0, 1)$$

    Whitened codes have the identity as covariance, and so has then x_t at every t: the best linear
    velocity is zero, which is where the network starts, and it has only to learn what is not
    Gaussian. Velocities are those of an average of the network over its last steps. One code in
    twelve is held out for early stopping.

    Args:
        leading: Number m of leading components that are modelled; the rest follow by regressions
            (see `LeadingComponents`). None models all.
        n_components: Of the mixture behind the regressions; None takes one per 275 codes, at most
            200.
        coupling: "independent" pairs x₀ and x₁ at random; "optimal" pairs those of a batch with the
            least total squared distance, which straightens the paths.
        width: Of the network's hidden layers.
        blocks: Number of its residual blocks, of two layers each.
        epochs: Passes over the codes, at most.
        patience: Epochs without a lower held-out loss after which training stops; None never stops.
        batch_size: Codes per step.
        learning_rate: Peak of the one-cycle schedule.
        clip_norm: Largest norm of the gradient.
        decay: Of the average of the network, per step: below 1; 0 takes the last step.
        solver_steps: Steps of the midpoint rule, with two evaluations of the network each.

    Attributes:
        velocity_: The averaged network, (N, m), (N,) -> (N, m).
        leading_: Standardization, and p(trailing | leading).
        n_features_: d.
        history_: One row per epoch: "epoch", "seconds", "loss", "learning_rate", "validation/loss".

    Raises:
        InputError: If an argument is out of range.

    References:
        Lipman, Chen, Ben-Hamu, Nickel, Le, "Flow matching for generative modeling", 2022.
        Albergo, Vanden-Eijnden, "Building normalizing flows with stochastic interpolants", 2022.
        Tong et al., "Improving and generalizing flow-based generative models with minibatch optimal
            transport", 2023.

    Example:
        >>> flow = FlowMatching(width=16, blocks=1, epochs=1)
        >>> flow.fit(torch.randn(600, 4)).sample(3, seed=0).shape
        torch.Size([3, 4])
    """

    velocity_: nn.Module
    leading_: LeadingComponents
    n_features_: int
    history_: History

    def __init__(
        self,
        leading: int | None = 32,
        n_components: int | None = None,
        coupling: Literal["independent", "optimal"] = "independent",
        width: int = 256,
        blocks: int = 3,
        epochs: int = 60,
        patience: int | None = 15,
        batch_size: int = 512,
        learning_rate: float = 2e-3,
        clip_norm: float = 1.0,
        decay: float = 0.998,
        solver_steps: int = 20,
    ) -> None:
        check_leading(leading, n_components)
        if coupling not in ("independent", "optimal"):
            raise InputError(
                f'coupling="{coupling}" is unknown: choose "independent" or "optimal".'
            )
        for name, value in {"width": width, "blocks": blocks, "solver_steps": solver_steps}.items():
            if value < 1:
                raise InputError(f"{name}={value}: give at least 1.")
        if not 0 <= decay < 1:
            raise InputError(f"decay={decay}: give a number of at least 0 and below 1.")
        check_settings(
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            clip_norm=clip_norm,
            patience=patience,
        )
        self.leading, self.n_components, self.coupling = leading, n_components, coupling
        self.width, self.blocks, self.epochs, self.patience = width, blocks, epochs, patience
        self.batch_size, self.learning_rate, self.clip_norm = batch_size, learning_rate, clip_norm
        self.decay, self.solver_steps = decay, solver_steps

    @property
    def description(self) -> str:
        """One line for reports."""
        text = f"flow matching, {self.blocks} residual blocks of width {self.width}, "
        text += f"{self.solver_steps} midpoint steps"
        if hasattr(self, "n_features_"):
            text += f", {count_parameters(self.velocity_):,} parameters; "
            text += self.leading_.description
        return text

    def check_count(self, n: int) -> None:
        """Refuse fewer codes than training and validation need (see `densities.check_count`)."""
        if n < 2 * _EVERY:
            raise InputError(f"{n} codes are too few: at least {2 * _EVERY} are needed.")
        check_leading_count(n - n // _EVERY, self.n_components)

    def fit(
        self,
        z: Tensor,
        *,
        seed: int = 0,
        progress: Progress = SILENT,
        device: str = "cpu",
        checkpoint: Path | None = None,
    ) -> Self:
        """Train the network, after the regressions of the trailing components.

        Args:
            z: Codes, (N, d), at least 24.
            seed: Of the initial weights, the order of the codes, the noise and the mixture.
            progress: Where to report.
            device: "cpu", "cuda", "cuda:1" … for the network.
            checkpoint: File to save progress in and to continue from.

        Returns:
            This object.

        Raises:
            InputError: If the codes cannot be used.
            ScattergenError: If the training diverges.
        """
        z = check_codes(z).float().cpu()
        self.check_count(len(z))
        held_out = torch.zeros(len(z), dtype=torch.bool)
        held_out[_EVERY - 1 :: _EVERY] = True
        leading = LeadingComponents.fit(
            z[~held_out], self.leading, self.n_components, seed, mixture=False
        )
        x, validation = leading.standardize(z[~held_out]), leading.standardize(z[held_out])
        networks = _Networks(self._build(x.shape[1], seed), self.decay)
        history = train(
            {"flow": networks},
            {"flow": lambda modules, batch, generator: self._loss(networks, batch, generator)},
            TensorDataset(x),
            epochs=self.epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            clip_norm=self.clip_norm,
            validate=lambda: self._validate(networks, validation, seed),
            patience=self.patience,
            seed=seed,
            device=device,
            checkpoint=checkpoint,
            progress=progress,
            description="flow_matching",
        )
        self.velocity_, self.leading_ = networks.average.cpu(), leading
        self.n_features_, self.history_ = z.shape[1], history
        return self

    def _build(self, m: int, seed: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return _Velocity(m, self.width, self.blocks)

    def _loss(self, networks: "_Networks", batch: Batch, generator: torch.Generator) -> Tensor:
        (x1,) = batch
        noise = torch.randn(x1.shape, generator=generator).to(x1)
        if self.coupling == "optimal":
            noise = _paired(noise, x1)
        t = torch.rand(len(x1), generator=generator).to(x1)
        networks.update()
        return _error(networks.network, noise, x1, t)

    def _validate(self, networks: "_Networks", x: Tensor, seed: int) -> Metrics:
        # The same noise and times after every epoch, so that losses are compared and not draws.
        generator = torch.Generator().manual_seed(seed)
        device = next(networks.parameters()).device
        total = 0.0
        for x1 in x.split(1000):
            noise = torch.randn(x1.shape, generator=generator).to(device)
            t = torch.rand(len(x1), generator=generator).to(device)
            total += _error(networks.average, noise, x1.to(device), t).item() * len(x1)
        return {"loss": total / len(x)}

    def sample(self, n: int, *, seed: int = 0, temperature: float = 1.0) -> Tensor:
        """Carry noise to codes by the midpoint rule on a fixed grid of times.

        Args:
            n: Number of codes.
            seed: 0 or more; code k depends on the fitted density, `seed` and k only.
            temperature: Factor of the noise, 0 or more.

        Returns:
            Codes, (n, d), float32.
        """
        check_fitted(self)
        velocity, m = in_float64(self.velocity_), len(self.leading_.shift)
        step = 1 / self.solver_steps

        def draw(noise: Noise, size: int) -> Tensor:
            x = noise.normal(size, m)
            for i in range(self.solver_steps):
                t = torch.full((size,), i * step, dtype=x.dtype)
                middle = x + step / 2 * velocity(x, t)
                x = x + step * velocity(middle, t + step / 2)
            return self.leading_.complete(x, noise)

        return draw_in_chunks(n, seed, draw, temperature)

    def state_dict(self) -> dict[str, Tensor]:
        """Everything fitted, as named tensors."""
        check_fitted(self)
        network = flatten_state("velocity", self.velocity_.state_dict())
        return network | self.leading_.state() | history_state(self.history_)

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Become the fitted density that `state_dict` was taken from."""
        self.leading_ = LeadingComponents.from_state(tensors)
        self.velocity_ = self._build(len(self.leading_.shift), seed=0)
        load_network(self.velocity_, tensors, "velocity")
        self.n_features_, self.history_ = self.leading_.n_features, take_history(tensors)


def _error(velocity: nn.Module, noise: Tensor, x1: Tensor, t: Tensor) -> Tensor:
    """Mean squared error of the velocity, in units in which that of N(0, I) is 1."""
    angle = (math.pi / 2 * t)[:, None]
    x = angle.cos() * noise + angle.sin() * x1
    wanted = angle.cos() * x1 - angle.sin() * noise  # times π/2, which scales the error only
    return (velocity(x, t) * (2 / math.pi) - wanted).square().mean()


def _paired(noise: Tensor, x1: Tensor) -> Tensor:
    """The noise in the order in which the sum of squared distances to x1 is least."""
    from scipy.optimize import linear_sum_assignment

    _, columns = linear_sum_assignment((-x1 @ noise.T).double().cpu().numpy())
    return noise[torch.from_numpy(columns).to(noise.device)]


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)

    def forward(self, h: Tensor) -> Tensor:
        return h + self.second(nn.functional.silu(self.first(self.norm(h))))


class _Velocity(nn.Module):
    """Residual network of (x, t) that starts as zero."""

    def __init__(self, m: int, width: int, blocks: int) -> None:
        super().__init__()
        self.first = nn.Linear(m + _EMBEDDING, width)
        self.blocks = nn.Sequential(*[_Block(width) for _ in range(blocks)])
        self.norm, self.last = nn.LayerNorm(width), nn.Linear(width, m)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        frequencies = torch.arange(1, _FREQUENCIES + 1, dtype=x.dtype, device=x.device)
        angles = math.pi / 2 * t[:, None] * frequencies
        h = self.first(torch.cat([x, angles.sin(), angles.cos()], dim=1))
        return (math.pi / 2) * self.last(self.norm(self.blocks(h)))


class _Networks(nn.Module):
    """The network that is trained and its exponential moving average."""

    updates: Tensor

    def __init__(self, network: nn.Module, decay: float) -> None:
        super().__init__()
        self.network, self.average = network, copy.deepcopy(network).requires_grad_(False)
        self.decay = decay
        self.register_buffer("updates", torch.zeros(()))

    @torch.no_grad()
    def update(self) -> None:
        """Move the average to the network; in the first steps faster than by its decay."""
        self.updates += 1
        n = self.updates.item()
        weight = 1 - min(self.decay, n / (n + 9))
        for mean, value in zip(self.average.parameters(), self.network.parameters(), strict=True):
            mean.lerp_(value, weight)
