"""The variational autoencoder of the founding paper, and what makes it a good density."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import scattergen.densities.networks as nets
from scattergen.calls.keywords import check_seed
from scattergen.densities.display import DisplayedDensity
from scattergen.densities.gaussian import shrink_to_identity
from scattergen.densities.leading import LeadingComponents
from scattergen.densities.mixture import GaussianMixture
from scattergen.densities.protocol import File, check_codes, check_fitted, history_state, take_history, take_tensor
from scattergen.densities.sampling import Noise, draw_in_chunks, hold_out
from scattergen.display.progress import SILENT, Progress
from scattergen.errors import InputError
from scattergen.files.tensors import flatten_state
from scattergen.training import Batch, Metrics, TrainingSettings, train

_FIRST_LOG_VARIANCE = -4.0
_RIDGE = 1e-5  # of the mean variance of the codes, in the covariance of the residuals


@dataclass(eq=False, repr=False)
class VariationalAutoencoder(DisplayedDensity):
    r"""Fully connected variational autoencoder.

    The encoder gives $q(h|z) = N(m(z), \mathrm{diag}\, v(z))$, the decoder $g(h)$ a code. The loss of a code is

    $$\frac1d \sum_{i=1}^{d} e_i + \beta \sum_{j=1}^{H} \tfrac12 \left(m_j^2 + v_j - \log v_j - 1\right), \qquad
    e_i = (z_i - g(h)_i)^2, \qquad h \sim q(h|z)$$

    Up to a factor this is the negative evidence lower bound of a decoder N(g(h), σ²) with σ² = βd/2 (Kingma, Welling,
    2013; Higgins et al., 2017). As in the founding paper (Ziomek, Farrahi, 2022; the widths are ours), samples are
    g(h), h ~ N(0, I), without the decoder's noise: shorter than codes, and good only through an image decoder that
    looks at their direction (`unit_norm`). `prior` and `noise` mend that; `IMPROVED_VAE` has good values of all. One
    code in twelve is held out for early stopping. Keywords out of range raise an `InputError`.

    Args:
        n_latent: Number H of latent variables.
        beta: Weight β of the divergence, summed over them.
        widths: Hidden layers of the encoder; the decoder has the same in reverse.
        epochs, patience, batch_size, learning_rate, schedule, clip_norm: As in `training.TrainingSettings`.
        initialization: Of the weights: "uniform", ±fan_in^-1/2, or "he", normal with variance 2/fan_in.
        learn_variance: Whether the variances of the noise are learnt, too. With learnt σ_i,
            $e_i = \tfrac12 ((z_i - g(h)_i)^2 / \sigma_i^2 + \log \sigma_i^2)$ and with β = 1/d the loss is the bound
            (Rybkin et al., 2020).
        prior: Of h in samples: "normal", or "mixture", fitted afterwards to h ~ q(h|z) of codes (Ghosh et al., 2019).
        noise: Of samples around g(h): "none", or with mean and "diagonal" or "full" covariance of z - g(h); with the
            mixture and "full" it follows h by one linear regression per component.
        n_components: Of the mixture; None takes one per 275 codes, at most 200.

    Attributes:
        encoder_, decoder_: d -> widths -> 2H, means and log-variances (then bounded by ±20); H -> reversed widths -> d.
        mixture_: The prior of h, for `noise="full"` with p(z - g(h) | h); None for "normal".
        residual_: Mean of z - g(h), (d,), and its deviations, (d,), or a factor of its covariance, (d, d); or None.
        history_: One row per epoch: "epoch", "seconds", "loss", "learning_rate", and of the validation "loss",
            "squared_error" (mean), "divergence" (sum, nats), "active" (latent variables that exceed 0.01 nats).

    Example:
        >>> vae = VariationalAutoencoder(n_latent=2, widths=(16,), epochs=1)
        >>> vae.fit(torch.randn(600, 4)).sample(3, seed=0).shape
        torch.Size([3, 4])
    """

    n_latent: int = 64
    beta: float = 0.001
    widths: Sequence[int] = (256, 128)
    epochs: int = 31
    patience: int | None = 5
    batch_size: int = 256
    learning_rate: float = 1e-3
    schedule: Literal["constant", "one_cycle"] = "constant"
    initialization: Literal["uniform", "he"] = "uniform"
    clip_norm: float = 1.0
    learn_variance: bool = False
    prior: Literal["normal", "mixture"] = "normal"
    noise: Literal["none", "diagonal", "full"] = "none"
    n_components: int | None = None

    def __post_init__(self) -> None:
        nets.check_options(self, n_latent=1, beta=0)
        self.widths = tuple(self.widths)

    @property
    def description(self) -> str:
        """One line for reports."""
        H, d = self.n_latent, self.n_features_ if hasattr(self, "n_features_") else "d"
        down, up = "-".join(map(str, self.widths)), "-".join(map(str, self.widths[::-1]))
        text = f"encoder {d}-{down}-2×{H}, decoder {H}-{up}-{d}, ReLU; H = {H}, β = {self.beta:g}"
        text += ", learnt variances" if self.learn_variance else ""
        text += "" if self.prior == "normal" else ", mixture prior"
        text += "" if self.noise == "none" else f", {self.noise} noise"
        if hasattr(self, "n_features_"):
            text += f"; {nets.count_parameters(self.encoder_, self.decoder_):,} parameters"
        return text

    def fit(
        self, z: Tensor, *, seed: int = 0, progress: Progress = SILENT, device: str = "cpu", checkpoint: File = None
    ) -> Self:
        """Train encoder and decoder together, then fit the prior and the noise, if asked for, as `Density.fit` says."""
        z, seed = check_codes(z, self).detach().float().cpu(), check_seed(seed)
        held_out = hold_out(len(z), np.random.default_rng(seed), nets.STOPPING_SHARE)
        variances = z.var(0, correction=0) if self.learn_variance else None
        networks = nets.VariationalNetworks(*self._build(z.shape[1], seed), variances)

        def loss(modules: Mapping[str, nn.Module], batch: Batch, generator: torch.Generator) -> Tensor:
            (codes,) = batch
            noise = torch.randn(len(codes), self.n_latent, generator=generator).to(codes)
            _, reconstruction, divergence = modules["vae"](codes, noise)
            return networks.error((codes - reconstruction).square().mean(0)) + self.beta * divergence.sum(1).mean()

        history = train(
            {"vae": networks}, {"vae": loss}, TensorDataset(z[~held_out]),
            TrainingSettings.of(self, seed=seed, device=device, description="vae"),
            validate=lambda: self._validate(networks, z[held_out], seed), checkpoint=checkpoint, progress=progress,
        )  # fmt: skip
        networks.cpu().requires_grad_(False)
        self._fit_samples(networks, z, seed)
        self.encoder_, self.decoder_ = networks.encoder, networks.decoder
        self.n_features_, self.history_ = z.shape[1], history
        return self

    def _build(self, d: int, seed: int) -> tuple[nn.Sequential, nn.Sequential]:
        """The untrained encoder and decoder of codes (N, d)."""
        H, initialization = self.n_latent, self.initialization
        encoder = nets.fully_connected([d, *self.widths, 2 * H], seed=2 * seed, initialization=initialization)
        decoder = nets.fully_connected([H, *self.widths[::-1], d], seed=2 * seed + 1, initialization=initialization)
        # A narrow q(h|z) to begin with: the decoder sees codes before it sees noise. From v ≈ 1, or from He's weights,
        # the paper's β ends with every q(h|z) equal to the prior, and g(h) = 0.
        last = encoder[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight[H:])
        nn.init.constant_(last.bias[H:], _FIRST_LOG_VARIANCE)
        return encoder, decoder

    def _validate(self, networks: nets.VariationalNetworks, z: Tensor, seed: int) -> Metrics:
        # The same noise after every epoch, so that losses are compared and not draws.
        generator = torch.Generator().manual_seed(seed)
        device = next(networks.parameters()).device
        squares, divergence = torch.zeros(z.shape[1], device=device), torch.zeros(self.n_latent, device=device)
        for part in z.to(device).split(1000):
            noise = torch.randn(len(part), self.n_latent, generator=generator).to(device)
            _, reconstruction, terms = networks(part, noise)
            squares += (reconstruction - part).square().sum(0)
            divergence += terms.sum(0)
        squares, divergence = squares / len(z), divergence / len(z)
        loss = networks.error(squares) + self.beta * divergence.sum()
        found = {"loss": loss, "squared_error": squares.mean(), "divergence": divergence.sum()}
        return {name: value.item() for name, value in found.items()} | {"active": float((divergence > 0.01).sum())}

    @torch.no_grad()
    def _fit_samples(self, networks: nets.VariationalNetworks, z: Tensor, seed: int) -> None:
        """Fit what samples need besides the decoder, to one draw h ~ q(h|z) per code."""
        self.mixture_, self.residual_ = None, None
        if self.prior == "normal" and self.noise == "none":
            return
        generator = torch.Generator().manual_seed(seed)
        parts = []
        for part in z.split(1000):
            h, reconstruction, _ = networks(part, torch.randn(len(part), self.n_latent, generator=generator))
            parts.append((h, part - reconstruction))
        h, residual = (torch.cat(pieces) for pieces in zip(*parts, strict=True))
        if self.prior == "mixture":
            both = torch.cat([h, residual], dim=1) if self.noise == "full" else h
            self.mixture_ = LeadingComponents.fit(both, self.n_latent, self.n_components, seed, mixture=True)
        if self.noise == "diagonal":
            self.residual_ = residual.mean(0), residual.std(0, correction=0)
        elif self.noise == "full" and self.prior == "normal":
            ridge = _RIDGE * z.var(0, correction=0).mean().item()
            covariance = shrink_to_identity(residual.T.cov(correction=0), len(z), ridge)
            self.residual_ = residual.mean(0), torch.linalg.cholesky(covariance.double()).float()

    def sample(self, n: int, *, seed: int = 0, temperature: float = 1.0) -> Tensor:
        """Decode draws of h to codes (n, d), as `Density.sample` says; the temperature scales h and the noise."""
        check_fitted(self)
        decoder, H = nets.in_float64(self.decoder_), self.n_latent

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
        """Refuse fewer codes than training and validation need."""
        if n < nets.FEWEST_CODES:
            raise InputError(f"{n} codes are too few for a VAE: use at least {nets.FEWEST_CODES}, or another density.")
        if self.prior == "mixture":
            GaussianMixture(self.n_components).check_count(n)

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
        nets.load_network(self.encoder_, tensors, "encoder")
        nets.load_network(self.decoder_, tensors, "decoder")
        self.mixture_, self.residual_ = None, None
        if self.prior == "mixture":
            self.mixture_ = LeadingComponents.from_state(tensors, self.n_latent, d if self.noise == "full" else 0)
        if self.noise == "diagonal" or (self.noise == "full" and self.prior == "normal"):
            mean = take_tensor(tensors, "residual/mean", (d,))
            self.residual_ = mean, take_tensor(tensors, "residual/factor", (d, d) if self.noise == "full" else (d,))
        self.n_features_, self.history_ = d, take_history(tensors)


IMPROVED_VAE: dict[str, Any] = {
    "n_latent": 32, "beta": 2e-5, "widths": [512, 256], "learn_variance": True, "learning_rate": 2e-3,
    "schedule": "one_cycle", "initialization": "he", "prior": "mixture", "noise": "full",
}  # fmt: skip
"""Keywords of `VariationalAutoencoder` for good samples: chosen on held-out codes of MNIST."""
