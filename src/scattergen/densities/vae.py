"""The variational autoencoder of the founding paper."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from scattergen.densities.networks import (
    check_widths,
    count_parameters,
    fully_connected,
    in_float64,
    load_network,
)
from scattergen.densities.protocol import (
    History,
    check_codes,
    check_fitted,
    history_state,
    take_history,
    take_tensor,
)
from scattergen.densities.sampling import draw_in_chunks, standard_normal
from scattergen.errors import InputError
from scattergen.progress import SILENT, Progress
from scattergen.storage import flatten_state
from scattergen.training import Batch, Metrics, check_settings, train

_FIRST_LOG_VARIANCE = -4.0
_BOUND = 20.0  # of log-variances
_EVERY = 12  # one code in twelve is held out: 5,000 of MNIST's 60,000


class VariationalAutoencoder:
    r"""Fully connected variational autoencoder with a standard normal prior.

    The encoder gives $q(h|z) = N(m(z), \mathrm{diag}\, v(z))$, the decoder $g(h)$ a code. The loss
    of a batch is the mean over its codes of

    $$\frac1d \sum_{i=1}^{d} (z_i - g(h)_i)^2 + \beta\, \frac1H \sum_{j=1}^{H}
    \tfrac12 \left(m_j^2 + v_j - \log v_j - 1\right), \qquad h \sim q(h|z)$$

    so both the squared error and the Kullback–Leibler divergence are *means*: over the d components
    and over the H latent variables. Up to a factor this is the negative evidence lower bound of a
    decoder N(g(h), σ²) with σ² = βd/(2H): the paper's β = 0.001 with d = 512 and H = 64 means σ² =
    0.004. A latent variable pays for itself where it explains more than σ² of variance in some
    direction, so that at this β all of them stay in use. (With the *sum* over the latent variables
    instead, σ² is 64 times larger and training on whitened MNIST codes collapses to the prior.)

    As in the paper, samples are g(h) with h from the prior N(0, I): the decoder's mean, without its
    noise. The paper gives H, β and the number of epochs, but its layer widths only in a figure that
    is not available; those here are ours. One code in twelve, evenly spaced, is held out for early
    stopping.

    Args:
        n_latent: Number H of latent variables.
        beta: Weight β of the divergence, in the convention above.
        widths: Hidden layers of the encoder; the decoder has the same in reverse.
        epochs: Passes over the codes, at most.
        patience: Epochs without a lower held-out loss after which training stops; None never stops.
        batch_size: Codes per step.
        learning_rate: Peak of the one-cycle schedule.
        clip_norm: Largest norm of the gradient.

    Attributes:
        encoder_: d -> widths -> 2H: means and log-variances (these are then bounded by ±20).
        decoder_: H -> reversed widths -> d.
        n_features_: d.
        history_: One row per epoch: "epoch", "seconds", "loss", "learning_rate", "validation/loss",
            "validation/squared_error" (mean over components), "validation/divergence" (sum, nats),
            "validation/active" (latent variables whose divergence exceeds 0.01 nats).

    Raises:
        InputError: If an argument is out of range.

    References:
        Ziomek, Farrahi, "Modelling nonlinear dependencies in the latent space of inverse
            scattering".
        Kingma, Welling, "Auto-encoding variational Bayes", 2013.
        Higgins et al., "beta-VAE", 2017.

    Example:
        >>> vae = VariationalAutoencoder(n_latent=2, widths=(16,), epochs=1)
        >>> vae.fit(torch.randn(600, 4)).sample(3, seed=0).shape
        torch.Size([3, 4])
    """

    encoder_: nn.Module
    decoder_: nn.Module
    n_features_: int
    history_: History

    def __init__(
        self,
        n_latent: int = 64,
        beta: float = 0.001,
        widths: Sequence[int] = (256, 128),
        epochs: int = 31,
        patience: int | None = 5,
        batch_size: int = 256,
        learning_rate: float = 2e-3,
        clip_norm: float = 1.0,
    ) -> None:
        if n_latent < 1:
            raise InputError(f"n_latent={n_latent}: use at least 1 latent variable.")
        if beta < 0:
            raise InputError(f"beta={beta}: the weight of the divergence cannot be negative.")
        self.n_latent, self.beta = n_latent, beta
        self.widths = check_widths("widths", widths)
        self.epochs, self.patience, self.batch_size = epochs, patience, batch_size
        self.learning_rate, self.clip_norm = learning_rate, clip_norm
        check_settings(
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            clip_norm=clip_norm,
            patience=patience,
        )

    @property
    def description(self) -> str:
        """One line for reports."""
        d = self.n_features_ if hasattr(self, "n_features_") else "d"
        down, up = "-".join(map(str, self.widths)), "-".join(map(str, self.widths[::-1]))
        text = f"encoder {d}-{down}-2×{self.n_latent}, decoder {self.n_latent}-{up}-{d}, ReLU; "
        text += f"H = {self.n_latent}, β = {self.beta:g}"
        if hasattr(self, "n_features_"):
            text += f"; {count_parameters(self.encoder_, self.decoder_):,} parameters"
        return text

    def fit(
        self,
        z: Tensor,
        *,
        seed: int = 0,
        progress: Progress = SILENT,
        device: str = "cpu",
        checkpoint: Path | None = None,
    ) -> Self:
        """Train encoder and decoder together.

        Args:
            z: Codes, (N, d), at least 24.
            seed: Of the initial weights, the order of the codes and the noise.
            progress: Where to report.
            device: "cpu", "cuda", "cuda:1" …
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
        networks = _Networks(*self._build(z.shape[1], seed))
        history = train(
            {"vae": networks},
            {"vae": self._loss},
            TensorDataset(z[~held_out]),
            epochs=self.epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            clip_norm=self.clip_norm,
            validate=lambda: self._validate(networks, z[held_out], seed),
            patience=self.patience,
            seed=seed,
            device=device,
            checkpoint=checkpoint,
            progress=progress,
            description="vae",
        )
        networks.cpu()
        self.encoder_, self.decoder_ = networks.encoder, networks.decoder
        self.n_features_, self.history_ = z.shape[1], history
        return self

    def _build(self, d: int, seed: int) -> tuple[nn.Sequential, nn.Sequential]:
        encoder = fully_connected([d, *self.widths, 2 * self.n_latent], seed=2 * seed)
        # A narrow q(h|z) to begin with: the decoder sees codes before it sees noise.
        last = encoder[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight[self.n_latent :])
        nn.init.constant_(last.bias[self.n_latent :], _FIRST_LOG_VARIANCE)
        decoder = fully_connected([self.n_latent, *self.widths[::-1], d], seed=2 * seed + 1)
        return encoder, decoder

    def _loss(
        self, modules: Mapping[str, nn.Module], batch: Batch, generator: torch.Generator
    ) -> Tensor:
        (z,) = batch
        noise = torch.randn(len(z), self.n_latent, generator=generator).to(z)
        reconstruction, divergence = modules["vae"](z, noise)
        return F.mse_loss(reconstruction, z) + self.beta * divergence.mean()

    def _validate(self, networks: nn.Module, z: Tensor, seed: int) -> Metrics:
        # The same noise after every epoch, so that losses are compared and not draws.
        generator = torch.Generator().manual_seed(seed)
        device = next(networks.parameters()).device
        error, divergence = 0.0, torch.zeros(self.n_latent, device=device)
        for part in z.split(1000):
            noise = torch.randn(len(part), self.n_latent, generator=generator).to(device)
            reconstruction, terms = networks(part.to(device), noise)
            error += F.mse_loss(reconstruction, part.to(device), reduction="sum").item()
            divergence += terms.sum(0)
        error, divergence = error / z.numel(), divergence / len(z)
        return {
            "loss": error + self.beta * divergence.mean().item(),
            "squared_error": error,
            "divergence": divergence.sum().item(),
            "active": float((divergence > 0.01).sum()),
        }

    def sample(self, n: int, *, seed: int = 0) -> Tensor:
        """Decode draws from the prior; code k depends on the fitted density, `seed` and k only.

        Args:
            n: Number of codes.
            seed: 0 or more.

        Returns:
            Codes, (n, d), float32.
        """
        check_fitted(self)
        decoder = in_float64(self.decoder_)
        return draw_in_chunks(
            n,
            seed,
            lambda generator, size: decoder(standard_normal(generator, size, self.n_latent)),
        )

    def check_count(self, n: int) -> None:
        """Refuse fewer codes than training and validation need (see `densities.check_count`)."""
        if n < 2 * _EVERY:
            raise InputError(
                f"{n} codes are too few for a VAE: use at least {2 * _EVERY}, or another density."
            )

    def state_dict(self) -> dict[str, Tensor]:
        """Everything fitted, as named tensors."""
        check_fitted(self)
        networks = flatten_state("encoder", self.encoder_.state_dict())
        networks |= flatten_state("decoder", self.decoder_.state_dict())
        return networks | history_state(self.history_)

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Become the fitted density that `state_dict` was taken from."""
        d = take_tensor(tensors, "encoder/0.weight", (self.widths[0], None)).shape[1]
        self.encoder_, self.decoder_ = self._build(d, seed=0)
        load_network(self.encoder_, tensors, "encoder")
        load_network(self.decoder_, tensors, "decoder")
        self.n_features_, self.history_ = d, take_history(tensors)


class _Networks(nn.Module):
    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def forward(self, z: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Reconstructions (N, d) and the divergence of every latent variable (N, H)."""
        mean, log_variance = self.encoder(z).chunk(2, dim=1)
        # Bounded, since the exponential of an outlier's would overflow.
        log_variance = _BOUND * torch.tanh(log_variance / _BOUND)
        h = mean + (0.5 * log_variance).exp() * noise
        divergence = 0.5 * (mean.square() + log_variance.exp() - log_variance - 1)
        return self.decoder(h), divergence
