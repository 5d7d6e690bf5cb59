"""A convolutional variational autoencoder of pixels, trained end to end."""

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scattergen.densities.mixture import GaussianMixture
from scattergen.densities.networks import load_network
from scattergen.densities.protocol import History, history_state, take_history
from scattergen.densities.sampling import CHUNK
from scattergen.errors import InputError
from scattergen.keywords import whole_number
from scattergen.paper.pixel_models import networks
from scattergen.progress import SILENT, Progress
from scattergen.tensor_files import flatten_state, take_state
from scattergen.training.loop import Batch, train
from scattergen.training.settings import TrainingSettings

_BOUND = 10.0  # of log-variances


class PixelVAE:
    r"""Convolutional variational autoencoder of pixels.

    The encoder gives $q(h|x) = N(m(x), \mathrm{diag}\, v(x))$, the decoder an image g(h), and the prior is $p(h) = N(0,
    I_H)$. Training minimises the negative evidence lower bound in nats per image,

    $$-\log p(x|h) + \beta \sum_{j=1}^{H} \tfrac12 \left(m_j^2 + v_j - \log v_j - 1\right), \qquad h \sim q(h|x)$$

    with β = 1, or another weight. Two likelihoods can be chosen:

    * "bernoulli", for drawings, nearly black and white: grey value x is the probability of a white pixel. The bound is
      averaged over images binarised so, which makes the first term the cross-entropy
      $-\sum_i x_i \log g_i + (1 - x_i) \log(1 - g_i)$.
    * "gaussian": $p(x|h) = N(g(h), \sigma^2 I)$ with one σ for all pixels, which takes its optimal value, the root mean
      squared error, in every batch; the first term is then $\tfrac{D}{2} \log \sigma^2$ up to a constant.

    Samples are g(h) with h from the prior: the decoder's mean, without its noise, as is usual. With `prior="mixture"` h
    comes instead from a Gaussian mixture, fitted after the training to draws h ~ q(h|x) of all images, whose
    distribution is not quite N(0, I).

    Args:
        n_latent: Number H of latent variables.
        channels: Features of the grids, the coarsest first, as in `DCGAN`.
        beta: Weight β of the divergence.
        prior: Distribution of h in samples: "normal" or "mixture".
        n_components: Of the mixture.
        learning_rate: Peak of the one-cycle schedule.
        precision: "float32", "bfloat16" or "auto": bfloat16 where the processor has it.

    Attributes:
        encoder_: Images to means and log-variances (these are then bounded by ±10).
        decoder_: H numbers to images before the logistic function.
        prior_: The mixture; None for "normal".
        image_shape_: (C, H, W).
        history_: One row per epoch: "epoch", "seconds", "loss" (nats per image), "learning_rate".

    References:
        Kingma, Welling, "Auto-encoding variational Bayes", 2013.
        Higgins et al., "beta-VAE", 2017.
        Ghosh et al., "From variational to deterministic autoencoders", 2019 (density of h fitted afterwards).
        Rybkin, Daniilidis, Levine, "Simple and effective VAE training with calibrated decoders", 2020.
    """

    encoder_: nn.Module
    decoder_: nn.Module
    prior_: GaussianMixture | None
    image_shape_: networks.Shape
    history_: History

    def __init__(
        self,
        n_latent: int = 16,
        channels: Sequence[int] = (64, 32),
        beta: float = 1.0,
        likelihood: Literal["bernoulli", "gaussian"] = "bernoulli",
        prior: Literal["normal", "mixture"] = "normal",
        n_components: int = 50,
        epochs: int = 20,
        batch_size: int = 128,
        learning_rate: float = 2e-3,
        precision: str = "auto",
    ) -> None:
        if n_latent < 1:
            raise InputError(f"n_latent={n_latent}: use at least 1 latent variable.")
        if beta < 0:
            raise InputError(f"beta={beta}: the weight of the divergence cannot be negative.")
        if likelihood not in ("bernoulli", "gaussian"):
            raise InputError(f'likelihood="{likelihood}" is unknown: choose "bernoulli" or "gaussian".')
        if prior not in ("normal", "mixture"):
            raise InputError(f'prior="{prior}" is unknown: choose "normal" or "mixture".')
        if n_components < 1:
            raise InputError(f"n_components={n_components}: use at least 1.")
        if batch_size < 2:
            raise InputError(f"batch_size={batch_size}: batch normalisation needs 2 or more.")
        self.n_latent, self.channels = n_latent, networks.check_channels(channels)
        self.beta, self.likelihood = beta, likelihood
        self.prior, self.n_components = prior, n_components
        self.epochs, self.batch_size = epochs, batch_size
        self.learning_rate, self.precision = learning_rate, precision
        TrainingSettings.of(self)  # which refuses the rest

    @property
    def description(self) -> str:
        """One line for reports."""
        widths = "-".join(map(str, self.channels))
        text = f"pixel VAE, H = {self.n_latent}, channels {widths}, {self.likelihood}, β = {self.beta:g}"
        if self.prior == "mixture":
            text += f", prior of {self.n_components} Gaussians"
        if hasattr(self, "image_shape_"):
            text += networks.in_words(self.image_shape_, self.encoder_, self.decoder_)
        return text

    def fit(
        self,
        images: networks.AnyImages,
        *,
        seed: int = 0,
        progress: Progress = SILENT,
        device: str = "cpu",
        checkpoint: Path | None = None,
        max_seconds: float | None = None,
        on_step: Callable[[float], None] | None = None,
    ) -> Self:
        """Train encoder and decoder together, as `DCGAN.fit` does; then fit the prior, if asked for."""
        data = networks.Images(images)
        if self.prior == "mixture":
            self._new_prior().check_count(len(data))
        encoder, decoder = self._build(data.shape, seed)
        self.encoder_, self.decoder_, self.image_shape_ = encoder, decoder, data.shape
        self.prior_ = None
        both = _Bound(encoder, decoder)
        self.history_ = train(
            {"vae": both},
            {"vae": self._loss},
            data,
            TrainingSettings.of(self, seed=seed, device=device, max_seconds=max_seconds, description="pixel VAE"),
            checkpoint=checkpoint,
            on_step=on_step,
            progress=progress,
        )
        both.cpu()
        return self.fit_prior(images, seed=seed)

    def fit_prior(self, images: networks.AnyImages, *, seed: int = 0) -> Self:
        """Fit the prior of the present networks to the images of the training, if it is a mixture."""
        networks.check_fitted(self)
        if self.prior == "normal":
            return self
        data, generator = networks.Images(images), torch.Generator().manual_seed(seed)
        encoder = copy.deepcopy(self.encoder_).cpu().eval()
        draws = []
        with torch.no_grad():
            for rows in torch.arange(len(data)).split(1000):
                mean, log_variance = _moments(encoder(*data[rows]))
                noise = torch.randn(mean.shape, generator=generator)
                draws.append(mean + (0.5 * log_variance).exp() * noise)
        self.prior_ = self._new_prior().fit(torch.cat(draws), seed=seed)
        return self

    def _new_prior(self) -> GaussianMixture:
        return GaussianMixture(self.n_components, leading=None)

    def _build(self, image_shape: networks.Shape, seed: int) -> tuple[nn.Module, nn.Module]:
        encoder = networks.convolutions(image_shape, self.channels, 2 * self.n_latent, seed=2 * seed, first_norm=True)
        decoder = networks.transposed_convolutions(self.n_latent, image_shape, self.channels, seed=2 * seed + 1)
        return encoder, decoder

    def _loss(self, modules: Mapping[str, nn.Module], batch: Batch, generator: torch.Generator) -> Tensor:
        (x,) = batch
        noise = torch.randn(len(x), self.n_latent, generator=generator).to(x)
        logits, divergence = modules["vae"](x, noise)
        if self.likelihood == "bernoulli":
            error = F.binary_cross_entropy_with_logits(logits, x, reduction="sum") / len(x)
        else:
            variance = (torch.sigmoid(logits) - x).square().mean()
            # With grey values of 8 bits, an error below a grey level is none.
            error = 0.5 * x[0].numel() * variance.clamp(min=255**-2).log()
        return error + self.beta * divergence.sum(1).mean()

    def sample(self, n: int, *, seed: int = 0) -> Tensor:
        """Images (n, C, H, W) in [0, 1]; image k depends on this fit, `seed` and k only."""
        networks.check_fitted(self)
        n = whole_number("n", n)
        if self.prior_ is None:
            return torch.sigmoid(networks.draw_images(n, seed, self.decoder_, self.n_latent))
        # Codes are decoded in the chunks that they are drawn in: the same numbers for every n.
        codes = self.prior_.sample(max(1, -(-n // CHUNK)) * CHUNK, seed=seed)
        decoder = copy.deepcopy(self.decoder_).cpu().eval()
        with torch.no_grad():
            x = torch.cat([decoder(part) for part in codes.split(CHUNK)])
        return torch.sigmoid(x[:n])

    def state_dict(self) -> dict[str, Tensor]:
        """Everything fitted, as named tensors."""
        networks.check_fitted(self)
        state = flatten_state("encoder", self.encoder_.state_dict())
        state |= flatten_state("decoder", self.decoder_.state_dict())
        if self.prior_ is not None:
            state |= flatten_state("prior", self.prior_.state_dict())
        return state | {"image_shape": torch.tensor(self.image_shape_)} | history_state(self.history_)

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Become the fitted model that `state_dict` was taken from."""
        image_shape = networks.take_shape(tensors)
        self.encoder_, self.decoder_ = self._build(image_shape, seed=0)
        load_network(self.encoder_, tensors, "encoder")
        load_network(self.decoder_, tensors, "decoder")
        self.prior_ = None
        if self.prior == "mixture":
            self.prior_ = self._new_prior()
            self.prior_.load_state_dict(take_state(tensors, "prior"))
        self.image_shape_, self.history_ = image_shape, take_history(tensors)


class _Bound(nn.Module):
    """Both networks as one module, as the training loop wants them."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def forward(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the pixels, (N, C, H, W), and every variable's divergence, (N, H)."""
        mean, log_variance = _moments(self.encoder(x))
        h = mean + (0.5 * log_variance).exp() * noise
        divergence = 0.5 * (mean.square() + log_variance.exp() - log_variance - 1)
        return self.decoder(h), divergence


def _moments(output: Tensor) -> tuple[Tensor, Tensor]:
    """Means and log-variances of q(h|x), (N, H) each, from what the encoder gives."""
    mean, log_variance = output.float().chunk(2, dim=1)
    # Bounded, since the exponential of an outlier's would overflow.
    return mean, _BOUND * torch.tanh(log_variance / _BOUND)
