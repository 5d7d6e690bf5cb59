"""Fully connected networks, and what the densities made of them share."""

import copy
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn

from scattergen.calls.keywords import check_values
from scattergen.densities.mixture import GaussianMixture
from scattergen.errors import InputError, RunFolderError
from scattergen.files.tensors import take_state
from scattergen.training import TrainingSettings

FEWEST_CODES = 24  # of a density with early stopping
STOPPING_SHARE = 1 / 12  # of the codes is held out for it: 5,000 of 60,000
_BOUND = 20.0  # of log-variances


def fully_connected(
    widths: Sequence[int], *, seed: int, slope: float = 0.0, batch_norm: bool = False, dropout: float = 0.0,
    initialization: Literal["he", "uniform"] = "he",
) -> nn.Sequential:  # fmt: skip
    """Linear layers with leaky ReLUs (a slope of 0: ReLUs) between them, (N, widths[0]) -> (N, widths[-1]).

    "he" draws weights from N(0, 2/fan_in), of the last layer from N(0, 1/fan_in), with biases 0, which keeps the size
    of features (He et al., 2015); "uniform" draws both from ±fan_in^-1/2, PyTorch's default, with which they shrink.
    """
    generator = torch.Generator().manual_seed(seed)
    layers: list[nn.Module] = []
    for i, (fan_in, fan_out) in enumerate(pairwise(widths)):
        is_last = i == len(widths) - 2
        linear = nn.utils.skip_init(nn.Linear, fan_in, fan_out)
        if initialization == "he":
            nn.init.normal_(linear.weight, 0.0, math.sqrt((1 if is_last else 2) / fan_in), generator=generator)
            nn.init.zeros_(linear.bias)
        else:
            for parameter in (linear.weight, linear.bias):
                nn.init.uniform_(parameter, -(fan_in**-0.5), fan_in**-0.5, generator=generator)
        layers.append(linear)
        if not is_last:
            if batch_norm:
                layers.append(nn.BatchNorm1d(fan_out))
            activation = nn.LeakyReLU(slope) if slope else nn.ReLU()
            # As one layer, so that the numbers of the others, by which they are stored, stay.
            layers.append(nn.Sequential(activation, Dropout(dropout)) if dropout else activation)
    return nn.Sequential(*layers)


class Dropout(nn.Module):
    """Sets a part of the features to 0 in training, with randomness that a resumed training has again."""

    def __init__(self, part: float) -> None:
        super().__init__()
        self.part = part
        self.generator: torch.Generator | None = None  # set by whoever trains; None is PyTorch's own

    def forward(self, x: Tensor) -> Tensor:
        """Features of the same shape."""
        if not self.training:
            return x
        kept = torch.rand(x.shape, generator=self.generator) >= self.part
        return x * kept.to(x) / (1 - self.part)


def set_dropout_generator(module: nn.Module, generator: torch.Generator | None) -> None:
    """Let all dropout within a network draw from one source."""
    for layer in module.modules():
        if isinstance(layer, Dropout):
            layer.generator = generator


def check_options(density: Any, **least: float) -> None:
    """Refuse keywords out of range: those of the training and of the mixture, widths, and as `check_values` does."""
    check_values(density, **least)
    TrainingSettings.of(density)
    GaussianMixture(density.n_components, leading=getattr(density, "leading", None))
    for name in ("widths", "discriminator_widths"):
        widths = getattr(density, name, [1])
        if len(widths) == 0 or min(widths) < 1:
            raise InputError(f"{name}={list(widths)}: give the width of at least one hidden layer.")


def load_network(module: nn.Module, tensors: Mapping[str, Tensor], name: str) -> None:
    """Load the tensors "NAME/…" of a density's state into a module of the right architecture."""
    try:
        module.load_state_dict(take_state(tensors, name))
    except RuntimeError as error:
        problem = f'The stored tensors "{name}/…" do not belong to a network of these hyper-parameters'
        raise RunFolderError(f"{problem}: fit the density again.") from error
    module.eval()


def in_float64(module: nn.Module) -> nn.Module:
    """A copy of a network for sampling; see `sampling.Noise` for the reason."""
    return copy.deepcopy(module).double().eval()


def count_parameters(*modules: nn.Module) -> int:
    """Number of trained numbers in all networks."""
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def posterior(encoder: nn.Module, z: Tensor, bound: float = _BOUND) -> tuple[Tensor, Tensor]:
    """Mean and log-variance of q(h|z), each (N, H), by an encoder (N, …) -> (N, 2H) of a variational autoencoder."""
    mean, log_variance = encoder(z).to(z.dtype).chunk(2, dim=1)  # bfloat16 is not enough for them
    # Bounded, since the exponential of an outlier's would overflow.
    return mean, bound * torch.tanh(log_variance / bound)


class VariationalNetworks(nn.Module):
    """Encoder and decoder of a variational autoencoder, and its noise variances if they are learnt, from first ones.

    The log-variances of q(h|z) stay within ± the bound.
    """

    def __init__(
        self, encoder: nn.Module, decoder: nn.Module, variances: Tensor | None = None, bound: float = _BOUND
    ) -> None:
        super().__init__()
        self.encoder, self.decoder, self.bound = encoder, decoder, bound
        self.log_variance = None if variances is None else nn.Parameter(variances.clamp(min=1e-8).log())

    def error(self, squares: Tensor) -> Tensor:
        """The loss without the divergence, from the mean squared error of every component."""
        if self.log_variance is None:
            return squares.mean()
        # Bounded, since a component without variance would draw it to minus infinity.
        bounded = self.log_variance.clamp(-_BOUND, _BOUND)
        return 0.5 * ((-bounded).exp() * squares + bounded).mean()

    def forward(self, z: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Draws h (N, H), what the decoder makes of them, (N, …), and every variable's divergence (N, H)."""
        mean, log_variance = posterior(self.encoder, z, self.bound)
        h = mean + (0.5 * log_variance).exp() * noise
        divergence = 0.5 * (mean.square() + log_variance.exp() - log_variance - 1)
        return h, self.decoder(h), divergence


class AverageNetwork(nn.Module):
    """Exponential moving average of a network over the steps of its training; at first it moves faster."""

    updates: Tensor

    def __init__(self, network: nn.Module, decay: float) -> None:
        super().__init__()
        self.average, self.decay = copy.deepcopy(network).requires_grad_(False), decay
        self.register_buffer("updates", torch.zeros(()))

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Move the average towards the network, with what its batch normalisation counts."""
        self.updates += 1
        n, tensors = self.updates.item(), network.state_dict()
        weight = 1 - min(self.decay, n / (n + 9))
        for name, mean in self.average.state_dict().items():
            if mean.is_floating_point():
                mean.lerp_(tensors[name], weight)
            else:
                mean.copy_(tensors[name])
