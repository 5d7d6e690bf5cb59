"""The variational autoencoder of the founding paper, and what makes it a good density."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from scattergen.densities.covariances import shrink_to_identity
from scattergen.densities.leading import LeadingComponents, check_leading
from scattergen.densities.networks import (
    FEWEST_CODES,
    STOPPING_SHARE,
    VariationalNetworks,
    check_widths,
    count_parameters,
    fully_connected,
    in_float64,
    load_network,
)
from scattergen.densities.protocol import check_codes, check_fitted, history_state, take_history, take_tensor
from scattergen.densities.sampling import Noise, draw_in_chunks, hold_out
from scattergen.errors import InputError
from scattergen.progress import SILENT, Progress
from scattergen.tensor_files import flatten_state
from scattergen.training.loop import Batch, train
from scattergen.training.settings import TrainingSettings
from scattergen.training.state import Metrics

_FIRST_LOG_VARIANCE = -4.0
_RIDGE = 1e-5  # of the mean variance of the codes, in the covariance of the residuals


class VariationalAutoencoder:
    r"""Fully connected variational autoencoder.

    The encoder gives $q(h|z) = N(m(z), \mathrm{diag}\, v(z))$, the decoder $g(h)$ a code. The loss of a batch is, with
    a standard normal prior of h, the mean over its codes of

    $$\frac1d \sum_{i=1}^{d} (z_i - g(h)_i)^2 + \beta \sum_{j=1}^{H}
    \tfrac12 \left(m_j^2 + v_j - \log v_j - 1\right), \qquad h \sim q(h|z)$$

    so the squared error is a mean over the d components, and β weighs the Kullback–Leibler divergence, a sum over the H
    latent variables. Up to a factor this is the negative evidence lower bound of a decoder N(g(h), σ²) with σ² = βd/2,
    and a latent variable pays for itself where it explains more variance than σ².

    As in the paper, samples are g(h) with h from the prior N(0, I): the decoder's mean, without its noise. They are
    therefore shorter than codes, and good only through an image decoder that looks at the direction of a code
    (`unit_norm`). The widths are ours: the paper has them only in a figure that is not available. One code in twelve,
    evenly spaced, is held out for early stopping. docs/densities.md says more.

    Three keywords mend what this leaves out; `IMPROVED_VAE` has good values of all.

    * With `learn_variance`, component i of a code has a noise variance $\sigma_i^2$ of its own, which is learnt, in
      place of the squared error:

      $$\frac1d \sum_{i=1}^{d} \tfrac12 \left(\frac{(z_i - g(h)_i)^2}{\sigma_i^2} + \log
      \sigma_i^2\right) + \beta \sum_{j=1}^{H} \mathrm{KL}_j$$

      With β = 1/d this is the negative evidence lower bound per component, up to a constant.
    * `prior="mixture"` replaces N(0, I) by a Gaussian mixture, fitted after the training to draws h ~ q(h|z) of all
      codes: a small β leaves their distribution far from normal.
    * `noise` adds what the decoder leaves out. Residuals z - g(h) of all codes, h ~ q(h|z), have a mean and a
      covariance, or a diagonal one. With the mixture and "full", they moreover follow h by one linear regression per
      component of the mixture (see `LeadingComponents`, with h in the place of the leading components).

    Args:
        n_latent: Number H of latent variables.
        beta: Weight β of the divergence, summed over the latent variables.
        widths: Hidden layers of the encoder; the decoder has the same in reverse.
        epochs: Passes over the codes, at most.
        patience: Epochs without a lower held-out loss after which training stops; None never stops.
        batch_size: Codes per step.
        learning_rate: Adam's step size, or its peak.
        schedule: Of the step size: "constant" or "one_cycle".
        initialization: Of the weights: "uniform" or "he" (see `networks.fully_connected`).
        clip_norm: Largest norm of the gradient.
        learn_variance: Whether noise variances are learnt.
        prior: Distribution of h in samples: "normal" or "mixture".
        noise: Of samples around g(h): "none", "diagonal" or "full".
        n_components: Of the mixture; None takes one per 275 codes, at most 200.

    Attributes:
        encoder_: d -> widths -> 2H: means and log-variances (these are then bounded by ±20).
        decoder_: H -> reversed widths -> d.
        mixture_: The prior of h, for `noise="full"` with p(z - g(h) | h); None for "normal".
        residual_: Mean of the residuals, (d,), and a factor A of their covariance A Aᵀ: (d, d) for "full" noise, the
            standard deviations (d,) for "diagonal"; None if not used.
        history_: One row per epoch: "epoch", "seconds", "loss", "learning_rate", "validation/loss",
            "validation/squared_error" (mean over components), "validation/divergence" (sum, nats), "validation/active"
            (latent variables whose divergence exceeds 0.01 nats).

    Raises:
        InputError: If an argument is out of range.

    References:
        Ziomek, Farrahi, "Modelling nonlinear dependencies in the latent space of inverse scattering", 2022.
        Kingma, Welling, "Auto-encoding variational Bayes", 2013.
        Higgins et al., "beta-VAE", 2017.
        Ghosh et al., "From variational to deterministic autoencoders", 2019 (density of h fitted afterwards).
        Rybkin, Daniilidis, Levine, "Simple and effective VAE training with calibrated decoders", 2020.

    Example:
        >>> vae = VariationalAutoencoder(n_latent=2, widths=(16,), epochs=1)
        >>> vae.fit(torch.randn(600, 4)).sample(3, seed=0).shape
        torch.Size([3, 4])
    """

    def __init__(
        self,
        n_latent: int = 64,
        beta: float = 0.001,
        widths: Sequence[int] = (256, 128),
        epochs: int = 31,
        patience: int | None = 5,
        batch_size: int = 256,
        learning_rate: float = 1e-3,
        schedule: Literal["constant", "one_cycle"] = "constant",
        initialization: Literal["uniform", "he"] = "uniform",
        clip_norm: float = 1.0,
        learn_variance: bool = False,
        prior: Literal["normal", "mixture"] = "normal",
        noise: Literal["none", "diagonal", "full"] = "none",
        n_components: int | None = None,
    ) -> None:
        if n_latent < 1:
            raise InputError(f"n_latent={n_latent}: use at least 1 latent variable.")
        if beta < 0:
            raise InputError(f"beta={beta}: the weight of the divergence cannot be negative.")
        if initialization not in ("uniform", "he"):
            raise InputError(f'initialization="{initialization}": choose "uniform" or "he".')
        if prior not in ("normal", "mixture"):
            raise InputError(f'prior="{prior}" is unknown: choose "normal" or "mixture".')
        if noise not in ("none", "diagonal", "full"):
            raise InputError(f'noise="{noise}" is unknown: choose "none", "diagonal" or "full".')
        check_leading(None, n_components)
        self.n_latent, self.beta = n_latent, beta
        self.initialization, self.learn_variance = initialization, learn_variance
        self.prior, self.noise, self.n_components = prior, noise, n_components
        self.widths = check_widths("widths", widths)
        self.epochs, self.patience, self.batch_size = epochs, patience, batch_size
        self.learning_rate, self.schedule, self.clip_norm = learning_rate, schedule, clip_norm
        TrainingSettings.of(self)  # which refuses the rest

    @property
    def description(self) -> str:
        """One line for reports."""
        d = self.n_features_ if hasattr(self, "n_features_") else "d"
        down, up = "-".join(map(str, self.widths)), "-".join(map(str, self.widths[::-1]))
        text = f"encoder {d}-{down}-2×{self.n_latent}, decoder {self.n_latent}-{up}-{d}, ReLU; "
        text += f"H = {self.n_latent}, β = {self.beta:g}"
        text += ", learnt variances" if self.learn_variance else ""
        text += "" if self.prior == "normal" else ", mixture prior"
        text += "" if self.noise == "none" else f", {self.noise} noise"
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
        """Train encoder and decoder together, then fit the prior and the noise, if asked for, as `Density.fit` says.

        The seed decides the initial weights, the order of the codes, the noise and the mixture.

        Raises:
            InputError: If the codes cannot be used or are fewer than 24.
            ScattergenError: If the training diverges.
        """
        z = check_codes(z).float().cpu()
        self.check_count(len(z))
        held_out = hold_out(len(z), np.random.default_rng(seed), STOPPING_SHARE)
        networks = VariationalNetworks(*self._build(z.shape[1], seed))
        if self.learn_variance:
            networks.learn_variance(z)
        history = train(
            {"vae": networks},
            {"vae": lambda *arguments: self._loss(networks, *arguments)},
            TensorDataset(z[~held_out]),
            TrainingSettings.of(self, seed=seed, device=device, description="vae"),
            validate=lambda: self._validate(networks, z[held_out], seed),
            checkpoint=checkpoint,
            progress=progress,
        )
        networks.cpu().requires_grad_(False)
        self._fit_samples(networks, z, seed)
        self.encoder_, self.decoder_ = networks.encoder, networks.decoder
        self.n_features_, self.history_ = z.shape[1], history
        return self

    def _build(self, d: int, seed: int) -> tuple[nn.Sequential, nn.Sequential]:
        """The untrained encoder and decoder of codes (N, d)."""
        H, initialization = self.n_latent, self.initialization
        encoder = fully_connected([d, *self.widths, 2 * H], seed=2 * seed, initialization=initialization)
        decoder = fully_connected([H, *self.widths[::-1], d], seed=2 * seed + 1, initialization=initialization)
        # A narrow q(h|z) to begin with: the decoder sees codes before it sees noise. From v ≈ 1, or from He's weights,
        # the paper's β ends with every q(h|z) equal to the prior, and g(h) = 0.
        last = encoder[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight[H:])
        nn.init.constant_(last.bias[H:], _FIRST_LOG_VARIANCE)
        return encoder, decoder

    def _loss(
        self, networks: VariationalNetworks, modules: Mapping[str, nn.Module], batch: Batch, generator: torch.Generator
    ) -> Tensor:
        (z,) = batch
        noise = torch.randn(len(z), self.n_latent, generator=generator).to(z)
        _, reconstruction, divergence = modules["vae"](z, noise)
        squares = (z - reconstruction).square().mean(0)
        return networks.error(squares) + self.beta * divergence.sum(1).mean()

    def _validate(self, networks: VariationalNetworks, z: Tensor, seed: int) -> Metrics:
        # The same noise after every epoch, so that losses are compared and not draws.
        generator = torch.Generator().manual_seed(seed)
        device = next(networks.parameters()).device
        squares = torch.zeros(z.shape[1], device=device)
        divergence = torch.zeros(self.n_latent, device=device)
        for part in z.split(1000):
            noise = torch.randn(len(part), self.n_latent, generator=generator).to(device)
            _, reconstruction, terms = networks(part.to(device), noise)
            squares += (reconstruction - part.to(device)).square().sum(0)
            divergence += terms.sum(0)
        squares, divergence = squares / len(z), divergence / len(z)
        loss = networks.error(squares) + self.beta * divergence.sum()
        return {
            "loss": loss.item(),
            "squared_error": squares.mean().item(),
            "divergence": divergence.sum().item(),
            "active": float((divergence > 0.01).sum()),
        }

    @torch.no_grad()
    def _fit_samples(self, networks: VariationalNetworks, z: Tensor, seed: int) -> None:
        """Fit what samples need besides the decoder, to one draw h ~ q(h|z) per code."""
        self.mixture_, self.residual_ = None, None
        if self.prior == "normal" and self.noise == "none":
            return
        generator = torch.Generator().manual_seed(seed)
        latent, residuals = [], []
        for part in z.split(1000):
            noise = torch.randn(len(part), self.n_latent, generator=generator)
            h, reconstruction, _ = networks(part, noise)
            latent.append(h)
            residuals.append(part - reconstruction)
        h, residual = torch.cat(latent), torch.cat(residuals)
        if self.prior == "mixture":
            both = torch.cat([h, residual], dim=1) if self.noise == "full" else h
            self.mixture_ = LeadingComponents.fit(both, self.n_latent, self.n_components, seed, mixture=True)
            if self.noise == "full":
                return
        if self.noise == "diagonal":
            self.residual_ = residual.mean(0), residual.std(0, correction=0)
        elif self.noise == "full":
            ridge = _RIDGE * z.var(0, correction=0).mean().item()
            covariance = shrink_to_identity(residual.T.cov(correction=0), len(z), ridge)
            self.residual_ = residual.mean(0), torch.linalg.cholesky(covariance.double()).float()

    def sample(self, n: int, *, seed: int = 0, temperature: float = 1.0) -> Tensor:
        """Decode draws of h to codes (n, d), as `Density.sample` says; the temperature scales h and the noise."""
        check_fitted(self)
        decoder, H = in_float64(self.decoder_), self.n_latent

        def draw(noise: Noise, size: int) -> Tensor:
            if self.mixture_ is None:
                codes = decoder(noise.normal(size, H))
            else:
                both = self.mixture_.complete(self.mixture_.draw_mixture(noise, size), noise)
                codes = decoder(both[:, :H])
                if self.noise == "full":
                    codes = codes + both[:, H:]
            if self.residual_ is not None:
                mean, factor = (tensor.double() for tensor in self.residual_)
                white = noise.normal(size, self.n_features_)
                codes = codes + mean + (white * factor if factor.ndim == 1 else white @ factor.T)
            return codes

        return draw_in_chunks(n, seed, draw, temperature)

    def check_count(self, n: int) -> None:
        """Refuse fewer codes than training and validation need (see `densities.check_count`)."""
        if n < FEWEST_CODES:
            raise InputError(f"{n} codes are too few for a VAE: use at least {FEWEST_CODES}, or another density.")
        if self.prior == "mixture" and (self.n_components or 1) > n // 2:
            raise InputError(f"{n} codes are too few for n_components={self.n_components}: use at most {n // 2}.")

    def state_dict(self) -> dict[str, Tensor]:
        """Everything fitted, as named tensors."""
        check_fitted(self)
        networks = flatten_state("encoder", self.encoder_.state_dict())
        networks |= flatten_state("decoder", self.decoder_.state_dict())
        if self.mixture_ is not None:
            networks |= self.mixture_.state()
        if self.residual_ is not None:
            networks["residual/mean"], networks["residual/factor"] = self.residual_
        return networks | history_state(self.history_)

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Become the fitted density that `state_dict` was taken from."""
        d = take_tensor(tensors, "encoder/0.weight", (self.widths[0], None)).shape[1]
        self.encoder_, self.decoder_ = self._build(d, seed=0)
        load_network(self.encoder_, tensors, "encoder")
        load_network(self.decoder_, tensors, "decoder")
        self.mixture_, self.residual_ = None, None
        if self.prior == "mixture":
            self.mixture_ = LeadingComponents.from_state(tensors)
            take_tensor(tensors, "leading/means", (None, self.n_latent))
            take_tensor(tensors, "leading/trailing", (None, d if self.noise == "full" else 0))
        if self.noise == "diagonal" or (self.noise == "full" and self.prior == "normal"):
            mean = take_tensor(tensors, "residual/mean", (d,))
            shape = (d, d) if self.noise == "full" else (d,)
            self.residual_ = mean, take_tensor(tensors, "residual/factor", shape)
        self.n_features_, self.history_ = d, take_history(tensors)


IMPROVED_VAE: dict[str, Any] = {
    "n_latent": 32, "beta": 2e-5, "widths": [512, 256], "learn_variance": True,
    "learning_rate": 2e-3, "schedule": "one_cycle", "initialization": "he",
    "prior": "mixture", "noise": "full",
}  # fmt: skip
"""Keywords of `VariationalAutoencoder` for good samples: chosen on held-out codes of MNIST."""
