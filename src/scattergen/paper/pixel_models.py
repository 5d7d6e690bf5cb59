"""End-to-end models of pixels, which scattering networks are compared with: a convolutional GAN and a VAE."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import StackDataset

import scattergen.densities.networks as nets
from scattergen.calls.keywords import whole_number
from scattergen.datasets import ImageSource, as_images
from scattergen.densities.mixture import GaussianMixture
from scattergen.densities.protocol import History, history_state, take_history, take_tensor
from scattergen.densities.sampling import CHUNK, Noise, draw_in_chunks
from scattergen.display.progress import SILENT, Progress
from scattergen.errors import InputError
from scattergen.files.tensors import flatten_state, take_state
from scattergen.training.loop import Batch, Batches, Loss, train
from scattergen.training.settings import TrainingSettings

Images = ImageSource | Tensor | NDArray[Any]  # a source, or (N, C, H, W) in [0, 1]
Shape = tuple[int, int, int]
Latent = Callable[[Noise, int], Tensor]  # draws so many latent variables
_BOUND = 10.0  # of log-variances


class _PixelModel(ABC):
    """What both do alike: train two networks on images, keep them, and load them."""

    image_shape_: Shape
    history_: History
    _title: str
    _names: tuple[str, str]  # of the networks, each in an attribute with a trailing underscore

    def __init__(self, n_latent: int, kind: str, channels: Sequence[int], epochs: int, batch_size: int) -> None:
        if n_latent < 1:
            raise InputError(f"n_latent={n_latent}: use at least 1 {kind} variable.")
        if len(channels) == 0 or min(channels) < 1:
            raise InputError(f"channels={list(channels)}: give one positive width per grid.")
        if batch_size < 2:
            raise InputError(f"batch_size={batch_size}: batch normalisation needs 2 or more.")
        self.n_latent, self.channels = n_latent, tuple(channels)
        self.epochs, self.batch_size = epochs, batch_size
        TrainingSettings.of(self)  # which refuses the rest

    def fit(
        self, images: Images, *, seed: int = 0, progress: Progress = SILENT, checkpoint: Path | None = None,
        device: str = "cpu", max_seconds: float | None = None, on_step: Callable[[float], None] | None = None,
    ) -> Self:  # fmt: skip
        """Train both networks on 2 images or more; then fit the prior, if there is one to be fitted.

        Progress is saved in `checkpoint`, and continued from. `max_seconds` end the training if `epochs` have not done
        so. `on_step` is called after each step with the seconds so far, to which it does not add; it may call `sample`.
        """
        data, image_shape = _examples(images)
        trained = self._begin(len(data), image_shape, seed)
        self.image_shape_ = image_shape
        settings = TrainingSettings.of(self, seed=seed, device=device, max_seconds=max_seconds, description=self._title)
        self.history_ = train(*trained, data, settings, checkpoint=checkpoint, on_step=on_step, progress=progress)
        for name in self._names:
            getattr(self, f"{name}_").cpu()
        return self.fit_prior(images, seed=seed)

    def fit_prior(self, images: Images, *, seed: int = 0) -> Self:
        """Fit the prior of the present networks to the images of the training, if there is one to be fitted."""
        return self

    @abstractmethod
    def _begin(self, n: int, image_shape: Shape, seed: int) -> tuple[dict[str, nn.Module], dict[str, Loss]]:
        """What is trained on n images, and its losses."""

    @abstractmethod
    def _build(self, image_shape: Shape, seed: int) -> tuple[nn.Module, nn.Module]:
        """The untrained networks, in the order of their names."""

    def _in_words(self, details: str) -> str:
        """Kind, sizes and these details; after the fit, sizes of images and networks, too."""
        text = f"{self._title}, H = {self.n_latent}, channels {'-'.join(map(str, self.channels))}{details}"
        if not hasattr(self, "image_shape_"):
            return text
        parameters = nets.count_parameters(*(getattr(self, f"{name}_") for name in self._names))
        return f"{text}; {'×'.join(map(str, self.image_shape_))} images; {parameters:,} parameters"

    def _check_fitted(self) -> None:
        if not hasattr(self, "image_shape_"):
            raise InputError(f"This {type(self).__name__} has not been fitted: call fit(images) or load a fitted one.")

    def _draw(self, n: int, seed: int, network: nn.Module, latent: Latent | None = None) -> Tensor:
        """What a network makes, in evaluation mode, of latent variables, by default of normal ones."""
        network = copy.deepcopy(network).cpu().eval()
        latent = latent or partial(Noise.normal, n_features=self.n_latent)
        return draw_in_chunks(n, seed, lambda noise, size: network(latent(noise, size).float()))

    def state_dict(self) -> dict[str, Tensor]:
        """Everything fitted, as named tensors."""
        self._check_fitted()
        state = {"image_shape": torch.tensor(self.image_shape_), **history_state(self.history_)}
        for name in self._names:
            state |= flatten_state(name, getattr(self, f"{name}_").state_dict())
        return state

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Become the fitted model that `state_dict` was taken from."""
        channels, height, width = take_tensor(tensors, "image_shape", (3,)).tolist()
        for name, network in zip(self._names, self._build((channels, height, width), seed=0), strict=True):
            nets.load_network(network, tensors, name)
            setattr(self, f"{name}_", network)
        self.image_shape_, self.history_ = (channels, height, width), take_history(tensors)


def _examples(images: Images) -> tuple[Batches, Shape]:
    """Images as examples for `train`, and their shape."""
    source: Any = as_images(images)
    if len(source) < 2:  # which batch normalisation needs
        raise InputError(f"{len(source)} images are too few: at least 2 are needed.")
    channels, height, width = source.shape[-3:]
    return StackDataset(source), (channels, height, width)


class DCGAN(_PixelModel):
    r"""Deep convolutional generative adversarial network of pixels.

    The generator g maps noise $h \sim N(0, I_H)$ to images in [-1, 1], the discriminator D gives the logit of "real".
    On every batch first D minimises $-E \log s(D(x)) - E \log s(-D(g(h)))$, then g minimises $-E \log s(D(g(h)))$,
    with $s$ the logistic function. The recipe is Radford's: strided convolutions, batch normalisation everywhere but in
    the first layer of D and the last of g, ReLUs in g, leaky ReLUs of slope 0.2 in D, weights from N(0, 0.02²), and
    Adam with β₁ = 0.5; but samples come from an exponential moving average of g, good after a short training.

    Args:
        n_latent: Number H of noise variables.
        channels: Features of the grids of g, the coarsest first, and of D in reverse; each grid has half the next one's
            side, and the last one half the image's.
        learning_rate: Adam's step size, or its peak.
        schedule: Of the step size: "constant" or "one_cycle".
        beta1: Adam's first decay rate; the second is 0.999.
        decay: Of the average of the generator, per step: below 1; 0 takes the last step.
        precision: "float32", "bfloat16" or "auto": bfloat16 where the processor has it.

    References:
        Radford, Metz, Chintala, "Unsupervised representation learning with deep convolutional generative adversarial
            networks", 2015.
        Goodfellow et al., "Generative adversarial nets", 2014.
        Yazıcı et al., "The unusual effectiveness of averaging in GAN training", 2018.
    """

    generator_: nn.Module  # H numbers to images before the tanh; the average, unless `decay` is 0
    discriminator_: nn.Module  # images in [-1, 1] to a logit
    _title, _names = "DCGAN", ("generator", "discriminator")

    def __init__(
        self, n_latent: int = 100, channels: Sequence[int] = (128, 64), epochs: int = 20, batch_size: int = 128,
        learning_rate: float = 2e-4, schedule: str = "constant", beta1: float = 0.5, decay: float = 0.999,
        precision: str = "auto",
    ) -> None:  # fmt: skip
        if not 0 <= decay < 1:
            raise InputError(f"decay={decay}: give a number of at least 0 and below 1.")
        self.learning_rate, self.schedule, self.beta1, self.betas = learning_rate, schedule, beta1, (beta1, 0.999)
        self.decay, self.precision = decay, precision
        super().__init__(n_latent, "noise", channels, epochs, batch_size)

    @property
    def description(self) -> str:
        """One line for reports."""
        return self._in_words(f", average of the generator ({self.decay:g})" if self.decay > 0 else "")

    def _begin(self, n: int, image_shape: Shape, seed: int) -> tuple[dict[str, nn.Module], dict[str, Loss]]:
        self.generator_, self.discriminator_ = self._build(image_shape, seed)
        modules = {"discriminator": self.discriminator_, "generator": self.generator_}
        self._average = nets.AverageNetwork(self.generator_, self.decay) if self.decay > 0 else None
        if self._average is not None:
            modules["average"], self.generator_ = self._average, self._average.average
        return modules, {"discriminator": self._discriminator_loss, "generator": self._generator_loss}

    def _build(self, image_shape: Shape, seed: int) -> tuple[nn.Module, nn.Module]:
        generator = transposed_convolutions(self.n_latent, image_shape, self.channels, seed=2 * seed)
        return generator, convolutions(image_shape, self.channels, 1, seed=2 * seed + 1, first_norm=False)

    def _discriminator_loss(self, modules: Mapping[str, nn.Module], batch: Batch, generator: torch.Generator) -> Tensor:
        """Of real and generated images, each batch normalised for itself."""
        (x,) = batch
        noise = torch.randn(len(x), self.n_latent, generator=generator).to(x)
        self._fake = torch.tanh(modules["generator"](noise))
        real = F.softplus(-modules["discriminator"](2 * x - 1)).mean()  # -log s(x) = softplus(-x)
        return real + F.softplus(modules["discriminator"](self._fake.detach())).mean()

    def _generator_loss(self, modules: Mapping[str, nn.Module], batch: Batch, generator: torch.Generator) -> Tensor:
        """Of the same images, before the updated discriminator; the average follows the previous step."""
        if self._average is not None:
            self._average.update(modules["generator"])
        loss = F.softplus(-modules["discriminator"](self._fake)).mean()
        del self._fake
        return loss

    def sample(self, n: int, *, seed: int = 0) -> Tensor:
        """Images (n, C, H, W) in [0, 1]; image k depends on this fit, `seed` and k only."""
        self._check_fitted()
        return (torch.tanh(self._draw(n, seed, self.generator_)) + 1) / 2


class PixelVAE(_PixelModel):
    r"""Convolutional variational autoencoder of pixels.

    The encoder gives $q(h|x) = N(m(x), \mathrm{diag}\, v(x))$, the decoder an image g(h), and the prior is $p(h) = N(0,
    I_H)$. Training minimises the negative evidence lower bound in nats per image,

    $$-\log p(x|h) + \beta \sum_{j=1}^{H} \tfrac12 \left(m_j^2 + v_j - \log v_j - 1\right), \qquad h \sim q(h|x)$$

    Args:
        n_latent: Number H of latent variables.
        channels, precision: As of `DCGAN`.
        beta: Weight β of the divergence.
        likelihood: "bernoulli", for drawings: grey value x is the probability of a white pixel, and the first term, for
            images binarised so, the cross-entropy $-\sum_i x_i \log g_i + (1 - x_i) \log(1 - g_i)$. "gaussian":
            $p(x|h) = N(g(h), \sigma^2 I)$ with one σ for all pixels, in every batch its optimal value, the root mean
            squared error; the first term is then $\tfrac{D}{2} \log \sigma^2$ up to a constant.
        prior: Of h in samples g(h), which are without the decoder's noise, as is usual: "normal", or "mixture", fitted
            after the training to draws h ~ q(h|x) of all images.
        n_components: Of the mixture.
        learning_rate: Peak of the one-cycle schedule.

    References:
        Kingma, Welling, "Auto-encoding variational Bayes", 2013.
        Higgins et al., "beta-VAE", 2017.
        Ghosh et al., "From variational to deterministic autoencoders", 2019 (density of h fitted afterwards).
        Rybkin, Daniilidis, Levine, "Simple and effective VAE training with calibrated decoders", 2020.
    """

    encoder_: nn.Module  # images to means and log-variances (these are then bounded by ±10)
    decoder_: nn.Module  # H numbers to images before the logistic function
    prior_: GaussianMixture | None  # None for "normal"
    _title, _names = "pixel VAE", ("encoder", "decoder")

    def __init__(
        self, n_latent: int = 16, channels: Sequence[int] = (64, 32), beta: float = 1.0,
        likelihood: Literal["bernoulli", "gaussian"] = "bernoulli", prior: Literal["normal", "mixture"] = "normal",
        n_components: int = 50, epochs: int = 20, batch_size: int = 128, learning_rate: float = 2e-3,
        precision: str = "auto",
    ) -> None:  # fmt: skip
        if beta < 0:
            raise InputError(f"beta={beta}: the weight of the divergence cannot be negative.")
        if likelihood not in ("bernoulli", "gaussian"):
            raise InputError(f'likelihood="{likelihood}" is unknown: choose "bernoulli" or "gaussian".')
        if prior not in ("normal", "mixture"):
            raise InputError(f'prior="{prior}" is unknown: choose "normal" or "mixture".')
        if n_components < 1:
            raise InputError(f"n_components={n_components}: use at least 1.")
        self.beta, self.likelihood, self.prior, self.n_components = beta, likelihood, prior, n_components
        self.learning_rate, self.precision = learning_rate, precision
        super().__init__(n_latent, "latent", channels, epochs, batch_size)

    @property
    def description(self) -> str:
        """One line for reports."""
        prior = f", prior of {self.n_components} Gaussians" if self.prior == "mixture" else ""
        return self._in_words(f", {self.likelihood}, β = {self.beta:g}{prior}")

    def _begin(self, n: int, image_shape: Shape, seed: int) -> tuple[dict[str, nn.Module], dict[str, Loss]]:
        if self.prior == "mixture":
            self._new_prior().check_count(n)
        self.encoder_, self.decoder_ = self._build(image_shape, seed)
        self.prior_ = None
        networks = nets.VariationalNetworks(self.encoder_, self.decoder_, bound=_BOUND)
        return {"vae": networks}, {"vae": self._loss}

    def fit_prior(self, images: Images, *, seed: int = 0) -> Self:
        """Fit the prior of the present networks to the images of the training, if it is a mixture."""
        self._check_fitted()
        if self.prior == "normal":
            return self
        (data, _), generator = _examples(images), torch.Generator().manual_seed(seed)
        encoder = copy.deepcopy(self.encoder_).cpu().eval()
        draws = []
        with torch.no_grad():
            for rows in torch.arange(len(data)).split(1000):
                mean, log_variance = nets.posterior(encoder, data[rows][0], _BOUND)
                draws.append(mean + (0.5 * log_variance).exp() * torch.randn(mean.shape, generator=generator))
        self.prior_ = self._new_prior().fit(torch.cat(draws), seed=seed)
        return self

    def _new_prior(self) -> GaussianMixture:
        return GaussianMixture(self.n_components, leading=None)

    def _build(self, image_shape: Shape, seed: int) -> tuple[nn.Module, nn.Module]:
        encoder = convolutions(image_shape, self.channels, 2 * self.n_latent, seed=2 * seed, first_norm=True)
        return encoder, transposed_convolutions(self.n_latent, image_shape, self.channels, seed=2 * seed + 1)

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

    def sample(self, n: int, *, seed: int = 0) -> Tensor:
        """Images (n, C, H, W) in [0, 1]; image k depends on this fit, `seed` and k only."""
        self._check_fitted()
        if self.prior_ is None:
            return torch.sigmoid(self._draw(n, seed, self.decoder_))
        # Codes are decoded in the chunks that they are drawn in: the same numbers for every n.
        count = max(1, -(-whole_number("n", n) // CHUNK))
        chunks = iter(self.prior_.sample(count * CHUNK, seed=seed).split(CHUNK))
        return torch.sigmoid(self._draw(n, seed, self.decoder_, lambda noise, size: next(chunks)))

    def state_dict(self) -> dict[str, Tensor]:
        """Everything fitted, as named tensors."""
        state = super().state_dict()
        return state if self.prior_ is None else state | flatten_state("prior", self.prior_.state_dict())

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Become the fitted model that `state_dict` was taken from."""
        super().load_state_dict(tensors)
        self.prior_ = None
        if self.prior == "mixture":
            self.prior_ = self._new_prior()
            self.prior_.load_state_dict(take_state(tensors, "prior"))


def convolutions(
    image_shape: Shape, channels: Sequence[int], n_outputs: int, *, seed: int, first_norm: bool
) -> nn.Sequential:
    """Convolutions that halve the grid, rounding down, and a linear layer; `channels` begin with the coarsest grid."""
    height, width = _grids(image_shape, len(channels))[0]
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
    (height, width), *finer = _grids(image_shape, len(channels))
    first = nn.utils.skip_init(nn.Linear, n_inputs, channels[0] * height * width, bias=False)
    layers: list[nn.Module] = [first, nn.Unflatten(1, (channels[0], height, width))]
    for (fan_in, fan_out), (rows, columns) in zip(pairwise([*channels, image_shape[0]]), finer, strict=True):
        layers += [nn.BatchNorm2d(fan_in), nn.ReLU(), nn.utils.skip_init(
            nn.ConvTranspose2d, fan_in, fan_out, 4, stride=2, padding=1, output_padding=(rows % 2, columns % 2),
            bias=(rows, columns) == image_shape[1:],
        )]  # fmt: skip
    _initialize(layers, seed)
    return nn.Sequential(*layers)


def _grids(image_shape: Shape, n: int) -> list[tuple[int, int]]:
    """Sizes from the coarsest of n grids of features to the image."""
    _, height, width = image_shape
    if min(height, width) < 2**n:
        remedy = "give fewer channels (grids) or larger images"
        raise InputError(f"Images of {height}x{width} pixels are too small to be halved {n} times: {remedy}.")
    return [(height >> i, width >> i) for i in range(n, -1, -1)]


def _initialize(layers: Sequence[nn.Module], seed: int) -> None:
    """DCGAN's N(0, 0.02²) weights, without the global random state."""
    generator = torch.Generator().manual_seed(seed)
    for layer in layers:
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.normal_(layer.weight, 0.0, 0.02, generator=generator)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
