"""End-to-end models of pixels, which scattering networks are compared with: a convolutional GAN and a VAE."""

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import StackDataset

import scattergen.densities.networks as nets
from scattergen.datasets import ImageSource, as_images
from scattergen.densities.mixture import GaussianMixture
from scattergen.densities.protocol import History
from scattergen.densities.sampling import CHUNK, draw_in_chunks
from scattergen.display.progress import SILENT, Progress
from scattergen.training import Batch, Loss, TrainingSettings, train

Images = ImageSource | Tensor  # a source, or (N, C, H, W) in [0, 1]
Shape = tuple[int, int, int]
_BOUND = 10.0  # of log-variances


class _PixelModel(ABC):
    """What both do alike: train two networks on images."""

    n_latent: int
    channels: Sequence[int]
    image_shape_: Shape
    history_: History
    _title: str

    def fit(
        self, images: Images, *, seed: int = 0, progress: Progress = SILENT, checkpoint: Path | None = None,
        device: str = "cpu", max_seconds: float | None = None, on_step: Callable[[float], None] | None = None,
    ) -> Self:  # fmt: skip
        """Train both networks on 2 images or more; then fit the prior, if there is one to be fitted.

        Progress is saved in `checkpoint`, and continued from. `max_seconds` end the training if `epochs` have not done
        so. `on_step` is called after each step with the seconds so far, to which it does not add; it may call
        `fit_prior` and `sample`.
        """
        source: Any = as_images(images)
        channels, height, width = source.shape[-3:]
        self.image_shape_ = channels, height, width
        modules, losses = self._begin(seed)
        settings = TrainingSettings.of(self, seed=seed, device=device, max_seconds=max_seconds, description=self._title)
        self.history_ = train(
            modules, losses, StackDataset(source), settings,
            checkpoint=checkpoint, on_step=on_step, progress=progress,
        )  # fmt: skip
        for module in modules.values():
            module.cpu()
        return self.fit_prior(images, seed=seed)

    def fit_prior(self, images: Images, *, seed: int = 0) -> Self:
        """Fit the prior of the present networks to the images of the training, if there is one to be fitted."""
        return self

    @abstractmethod
    def _begin(self, seed: int) -> tuple[dict[str, nn.Module], dict[str, Loss]]:
        """Make both networks for images of this shape: what is trained, and its losses."""

    def _in_words(self, details: str, *networks: nn.Module) -> str:
        channels, shape = "-".join(map(str, self.channels)), "×".join(map(str, self.image_shape_))
        sizes = f"{shape} images; {nets.count_parameters(*networks):,} parameters"
        return f"{self._title}, H = {self.n_latent}, channels {channels}, {details}; {sizes}"


@dataclass(eq=False, repr=False)
class DCGAN(_PixelModel):
    r"""Deep convolutional generative adversarial network of pixels.

    The generator g maps noise $h \sim N(0, I_H)$ to images in [-1, 1], the discriminator D gives the logit of "real".
    On every batch first D minimises $-E \log s(D(x)) - E \log s(-D(g(h)))$, then g minimises $-E \log s(D(g(h)))$,
    with $s$ the logistic function. The recipe is Radford's: strided convolutions, batch normalisation everywhere but in
    the first layer of D and the last of g, ReLUs in g, leaky ReLUs of slope 0.2 in D, weights from N(0, 0.02²), and
    Adam with β₁ = 0.5; but samples come from an exponential moving average of g, good after a short training.

    References:
        Radford, Metz, Chintala, "Unsupervised representation learning with deep convolutional generative adversarial
            networks", 2015.
        Goodfellow et al., "Generative adversarial nets", 2014.
        Yazıcı et al., "The unusual effectiveness of averaging in GAN training", 2018.
    """

    n_latent: int = 100  # noise variables H
    channels: Sequence[int] = (128, 64)  # of grids of g, the coarsest first, each with twice the side; in D in reverse
    epochs: int = 20
    batch_size: int = 128
    learning_rate: float = 2e-4
    decay: float = 0.999  # of the average of the generator, per step
    precision: str = "auto"

    _title, schedule, betas = "DCGAN", "constant", (0.5, 0.999)

    @property
    def description(self) -> str:
        """One line for reports."""
        return self._in_words(f"average of the generator ({self.decay:g})", self.generator_, self.discriminator_)

    def _begin(self, seed: int) -> tuple[dict[str, nn.Module], dict[str, Loss]]:
        # H numbers to images before the tanh; images in [-1, 1] to a logit.
        generator = transposed_convolutions(self.n_latent, self.image_shape_, self.channels, seed=2 * seed)
        discriminator = convolutions(self.image_shape_, self.channels, 1, seed=2 * seed + 1, first_norm=False)
        self._average = nets.AverageNetwork(generator, self.decay)
        self.generator_, self.discriminator_ = self._average.average, discriminator
        modules = {"discriminator": discriminator, "generator": generator, "average": self._average}
        return modules, {"discriminator": self._discriminator_loss, "generator": self._generator_loss}

    def _discriminator_loss(self, modules: Mapping[str, nn.Module], batch: Batch, generator: torch.Generator) -> Tensor:
        """Of real and generated images, each batch normalised for itself."""
        (x,) = batch
        noise = torch.randn(len(x), self.n_latent, generator=generator).to(x)
        self._fake = torch.tanh(modules["generator"](noise))
        real = F.softplus(-modules["discriminator"](2 * x - 1)).mean()  # -log s(x) = softplus(-x)
        return real + F.softplus(modules["discriminator"](self._fake.detach())).mean()

    def _generator_loss(self, modules: Mapping[str, nn.Module], batch: Batch, generator: torch.Generator) -> Tensor:
        """Of the same images, before the updated discriminator; the average follows the previous step."""
        self._average.update(modules["generator"])
        loss = F.softplus(-modules["discriminator"](self._fake)).mean()
        del self._fake
        return loss

    def sample(self, n: int, *, seed: int = 0) -> Tensor:
        """Images (n, C, H, W) in [0, 1]; image k depends on this fit, `seed` and k only."""
        network = copy.deepcopy(self.generator_).cpu().eval()
        logits = draw_in_chunks(n, seed, lambda noise, size: network(noise.normal(size, self.n_latent).float()))
        return (torch.tanh(logits) + 1) / 2


@dataclass(eq=False, repr=False)
class PixelVAE(_PixelModel):
    r"""Convolutional variational autoencoder of pixels.

    The encoder gives $q(h|x) = N(m(x), \mathrm{diag}\, v(x))$, the decoder an image g(h). Training minimises the
    negative evidence lower bound in nats per image for the prior $p(h) = N(0, I_H)$,

    $$-\log p(x|h) + \beta \sum_{j=1}^{H} \tfrac12 \left(m_j^2 + v_j - \log v_j - 1\right), \qquad h \sim q(h|x)$$

    Samples are g(h), without the decoder's noise, as is usual, with h from a mixture of Gaussians, fitted after the
    training to draws h ~ q(h|x) of all images. To the likelihood "bernoulli", for drawings, grey value x is the
    probability of a white pixel, and the first term, for images binarised so, the cross-entropy $-\sum_i x_i \log g_i +
    (1 - x_i) \log(1 - g_i)$. "gaussian" is $p(x|h) = N(g(h), \sigma^2 I)$ with one σ for all pixels, in every batch its
    optimal value, the root mean squared error; the first term is then $\tfrac{D}{2} \log \sigma^2$ up to a constant.

    References:
        Kingma, Welling, "Auto-encoding variational Bayes", 2013.
        Higgins et al., "beta-VAE", 2017.
        Ghosh et al., "From variational to deterministic autoencoders", 2019 (density of h fitted afterwards).
        Rybkin, Daniilidis, Levine, "Simple and effective VAE training with calibrated decoders", 2020.
    """

    n_latent: int = 16  # variables H
    channels: Sequence[int] = (64, 32)  # as of `DCGAN`
    beta: float = 1.0
    likelihood: Literal["bernoulli", "gaussian"] = "bernoulli"
    n_components: int = 50  # of the mixture
    epochs: int = 20
    batch_size: int = 128
    learning_rate: float = 2e-3  # at its peak
    precision: str = "auto"

    _title = "pixel VAE"

    @property
    def description(self) -> str:
        """One line for reports."""
        details = f"{self.likelihood}, β = {self.beta:g}, prior of {self.n_components} Gaussians"
        return self._in_words(details, self.encoder_, self.decoder_)

    def _begin(self, seed: int) -> tuple[dict[str, nn.Module], dict[str, Loss]]:
        # Images to means and log-variances, which are then bounded; H numbers to images before the logistic function.
        shape, H = self.image_shape_, self.n_latent
        self.encoder_ = convolutions(shape, self.channels, 2 * H, seed=2 * seed, first_norm=True)
        self.decoder_ = transposed_convolutions(H, shape, self.channels, seed=2 * seed + 1)
        networks = nets.VariationalNetworks(self.encoder_, self.decoder_, bound=_BOUND)
        return {"vae": networks}, {"vae": self._loss}

    def fit_prior(self, images: Images, *, seed: int = 0) -> Self:
        """Fit the mixture to draws of the present encoder."""
        source, generator = as_images(images), torch.Generator().manual_seed(seed)
        encoder = copy.deepcopy(self.encoder_).cpu().eval()
        draws = []
        with torch.no_grad():
            for rows in torch.arange(len(source)).split(1000):
                mean, log_variance = nets.posterior(encoder, source[rows], _BOUND)
                draws.append(mean + (0.5 * log_variance).exp() * torch.randn(mean.shape, generator=generator))
        self.prior_ = GaussianMixture(self.n_components, leading=None).fit(torch.cat(draws), seed=seed)
        return self

    def _loss(self, modules: Mapping[str, nn.Module], batch: Batch, generator: torch.Generator) -> Tensor:
        (x,) = batch
        noise = torch.randn(len(x), self.n_latent, generator=generator).to(x)
        _, logits, divergence = modules["vae"](x, noise)
        if self.likelihood == "bernoulli":
            error = F.binary_cross_entropy_with_logits(logits, x, reduction="sum") / len(x)
        else:
            variance = (torch.sigmoid(logits) - x).square().mean()
            # With grey values of 8 bits, an error below a grey level is none.
            error = 0.5 * x[0].numel() * variance.clamp(min=255**-2).log()
        return error + self.beta * divergence.sum(1).mean()

    @torch.no_grad()
    def sample(self, n: int, *, seed: int = 0) -> Tensor:
        """Images (n, C, H, W) in [0, 1]; image k depends on this fit, `seed` and k only."""
        network = copy.deepcopy(self.decoder_).cpu().eval()
        # In whole chunks, as they are drawn: the same numbers for every n.
        h = self.prior_.sample(math.ceil(n / CHUNK) * CHUNK, seed=seed)
        return torch.sigmoid(torch.cat([network(chunk) for chunk in h.split(CHUNK)])[:n])


def convolutions(
    image_shape: Shape, channels: Sequence[int], n_outputs: int, *, seed: int, first_norm: bool
) -> nn.Sequential:
    """Convolutions that halve the grid, rounding down, and a linear layer; `channels` begin with the coarsest grid."""
    height, width = (side >> len(channels) for side in image_shape[1:])
    layers: list[nn.Module] = []
    for i, (fan_in, fan_out) in enumerate(pairwise([image_shape[0], *reversed(channels)])):
        normed = i > 0 or first_norm
        layers.append(nn.utils.skip_init(nn.Conv2d, fan_in, fan_out, 4, stride=2, padding=1, bias=not normed))
        layers += [nn.BatchNorm2d(fan_out), nn.LeakyReLU(0.2)] if normed else [nn.LeakyReLU(0.2)]
    _initialize(layers, 2 * seed)
    last = nets.fully_connected([channels[0] * height * width, n_outputs], seed=2 * seed + 1)
    return nn.Sequential(*layers, nn.Flatten(), *last)


def transposed_convolutions(n_inputs: int, image_shape: Shape, channels: Sequence[int], *, seed: int) -> nn.Sequential:
    """A linear layer and transposed convolutions that double the grid, to the size that halving came from."""
    _, height, width = image_shape
    coarsest, *finer = [(height >> i, width >> i) for i in range(len(channels), -1, -1)]
    first = nn.utils.skip_init(nn.Linear, n_inputs, channels[0] * math.prod(coarsest), bias=False)
    layers: list[nn.Module] = [first, nn.Unflatten(1, (channels[0], *coarsest))]
    for (fan_in, fan_out), (rows, columns) in zip(pairwise([*channels, image_shape[0]]), finer, strict=True):
        layers += [nn.BatchNorm2d(fan_in), nn.ReLU(), nn.utils.skip_init(
            nn.ConvTranspose2d, fan_in, fan_out, 4, stride=2, padding=1, output_padding=(rows % 2, columns % 2),
            bias=(rows, columns) == image_shape[1:],
        )]  # fmt: skip
    _initialize(layers, seed)
    return nn.Sequential(*layers)


def _initialize(layers: Sequence[nn.Module], seed: int) -> None:
    """DCGAN's N(0, 0.02²) weights, without the global random state."""
    generator = torch.Generator().manual_seed(seed)
    for layer in layers:
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.normal_(layer.weight, 0.0, 0.02, generator=generator)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
