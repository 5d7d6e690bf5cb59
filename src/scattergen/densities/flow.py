"""Normalizing flow of coupling layers, through zuko."""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import scattergen.densities.networks as nets
from scattergen.calls.keywords import check_seed
from scattergen.calls.state import seeded
from scattergen.densities.display import DisplayedDensity
from scattergen.densities.leading import LeadingComponents
from scattergen.densities.mixture import GaussianMixture
from scattergen.densities.protocol import File, check_codes, check_fitted, history_state, take_history
from scattergen.densities.sampling import Noise, draw_in_chunks, hold_out
from scattergen.display.progress import SILENT, Progress
from scattergen.errors import InputError
from scattergen.files.tensors import flatten_state
from scattergen.training import Batch, Metrics, TrainingSettings, train


@dataclass(eq=False, repr=False)
class Flow(DisplayedDensity):
    r"""Normalizing flow: neural spline coupling layers that map codes to a base density.

    With f the layers and b the base, N(0, I) or a Gaussian mixture, the first m components x of a code, standardized,
    have the density $p(x) = b(f(x))\, |\det \partial f / \partial x|$, which training maximizes; one code in twelve is
    held out for early stopping. Every layer moves one random half of the components by monotone rational quadratic
    splines that depend on the other half (Dinh, Sohl-Dickstein, Bengio, "Density estimation using Real NVP", 2016;
    Durkan, Bekasov, Murray, Papamakarios, "Neural spline flows", 2019). It needs the package zuko (`pip install
    scattergen[flow]`). Keywords out of range raise an `InputError`.

    Args:
        leading: Number m of components that are modelled, None: all; the rest follow by regression.
        base: "normal" or "mixture", which is fitted before and stays as it is.
        n_components: Of the mixture; None takes one per 275 codes, at most 200.
        layers: Number of coupling layers.
        widths: Hidden layers of the network of each.
        bins: Pieces of a spline.
        epochs, patience, batch_size, learning_rate, clip_norm: As in `training.TrainingSettings`.

    Attributes:
        flow_, leading_: zuko's flow, of which the transform is used; standardization, base and p(trailing | leading).
        history_: One row per epoch: "epoch", "seconds", "loss" (nats), "learning_rate", "validation/loss".

    Example:
        >>> flow = Flow(layers=2, widths=(16,), epochs=1).fit(torch.randn(600, 4))
        >>> flow.sample(3, seed=0).shape, flow.log_prob(torch.zeros(5, 4)).shape
        (torch.Size([3, 4]), torch.Size([5]))
    """

    leading: int | None = 32
    base: Literal["normal", "mixture"] = "mixture"
    n_components: int | None = None
    layers: int = 4
    widths: Sequence[int] = (256, 256)
    bins: int = 8
    epochs: int = 8
    patience: int | None = 3
    batch_size: int = 512
    learning_rate: float = 2e-3
    clip_norm: float = 5.0

    def __post_init__(self) -> None:
        nets.check_options(self, layers=1, bins=2)
        self.widths = tuple(self.widths)

    @property
    def description(self) -> str:
        """One line for reports."""
        text = f"neural spline flow, {self.layers} coupling layers of {self.bins} bins, networks "
        text += "-".join(map(str, self.widths)) + f", {self.base} base"
        if hasattr(self, "n_features_"):
            text += f", {nets.count_parameters(self.flow_):,} parameters; {self.leading_.description}"
        return text

    def check_count(self, n: int) -> None:
        """Refuse fewer codes than training and validation need."""
        if n < nets.FEWEST_CODES:
            raise InputError(f"{n} codes are too few: at least {nets.FEWEST_CODES} are needed.")
        GaussianMixture(self.n_components).check_count(n - int(nets.STOPPING_SHARE * n))

    def fit(
        self, z: Tensor, *, seed: int = 0, progress: Progress = SILENT, device: str = "cpu", checkpoint: File = None
    ) -> Self:
        """Train the coupling layers, after the mixture and the regressions, as `Density.fit` says."""
        z, seed = check_codes(z, self).detach().float().cpu(), check_seed(seed)
        held_out = hold_out(len(z), np.random.default_rng(seed), nets.STOPPING_SHARE)
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
            {"flow": flow}, {"flow": loss}, TensorDataset(x),
            TrainingSettings.of(self, seed=seed, device=device, description="flow"),
            validate=validate, checkpoint=checkpoint, progress=progress,
        )  # fmt: skip
        self.flow_, self.leading_, self.n_features_ = flow.cpu(), leading, z.shape[1]
        return self

    def _build(self, m: int, seed: int) -> nn.Module:
        """The untrained flow of m components."""
        if m < 2:
            raise InputError("A coupling flow needs at least 2 components: model more of them.")
        try:
            import zuko  # type: ignore[import-untyped]  # an extra
        except ImportError as error:
            problem = 'The density "flow" needs the package zuko'
            raise InputError(f'{problem}: run  pip install "scattergen[flow]".') from error
        with seeded(seed):
            return zuko.flows.NSF(
                m, transforms=self.layers, passes=2, randperm=True, bins=self.bins, hidden_features=self.widths
            )

    def _log_prob(self, flow: Any, leading: LeadingComponents, x: Tensor) -> Tensor:
        """Logarithm of p(x), in nats: (N, m) -> (N,)."""
        y, log_determinant = flow().transform.call_and_ladj(x)
        if self.base == "mixture":
            return leading.mixture_log_prob(y) + log_determinant
        return log_determinant - 0.5 * (y.square().sum(1) + x.shape[1] * math.log(2 * math.pi))

    def sample(self, n: int, *, seed: int = 0, temperature: float = 1.0) -> Tensor:
        """Draw codes (n, d) from the base, back through the layers, as `Density.sample` says."""
        check_fitted(self)
        leading = self.leading_
        backwards = nets.in_float64(self.flow_)().transform.inv

        def draw(noise: Noise, size: int) -> Tensor:
            y = leading.draw_mixture(noise, size) if self.base == "mixture" else noise.normal(size, len(leading.shift))
            return leading.complete(backwards(y), noise)

        return draw_in_chunks(n, seed, draw, temperature)

    @torch.no_grad()
    def log_prob(self, z: Tensor) -> Tensor:
        """Exact logarithm of the density, in nats: codes (N, d) to (N,)."""
        check_fitted(self)
        z = check_codes(z, n_features=self.n_features_)
        x = self.leading_.standardize(z)
        flow = copy.deepcopy(self.flow_).to(z)
        parts = [self._log_prob(flow, self.leading_, p) for p in x.split(1000)]
        return torch.cat(parts) + self.leading_.log_prob_rest(z)

    def state_dict(self) -> dict[str, Tensor]:
        """Everything fitted, as named tensors."""
        check_fitted(self)
        return flatten_state("flow", self.flow_.state_dict()) | self.leading_.state() | history_state(self.history_)

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Become the fitted density that `state_dict` was taken from."""
        self.leading_ = LeadingComponents.from_state(tensors)
        self.flow_ = self._build(len(self.leading_.shift), seed=0)
        nets.load_network(self.flow_, tensors, "flow")
        self.n_features_, self.history_ = self.leading_.n_features, take_history(tensors)
