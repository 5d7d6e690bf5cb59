"""Deep convolutional generative adversarial network of pixels, trained end to end."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scattergen.densities.networks import AverageNetwork, load_network
from scattergen.densities.protocol import History, history_state, take_history
from scattergen.errors import InputError
from scattergen.paper.pixel_models import networks
from scattergen.progress import SILENT, Progress
from scattergen.tensor_files import flatten_state
from scattergen.training.loop import Batch, train
from scattergen.training.settings import TrainingSettings


class DCGAN:
    r"""Deep convolutional generative adversarial network of pixels.

    The generator g maps noise $h \sim N(0, I_H)$ to images in [-1, 1], the discriminator D gives the logit of "real".
    On every batch first D minimises $-E \log s(D(x)) - E \log s(-D(g(h)))$, then g minimises $-E \log s(D(g(h)))$,
    with $s$ the logistic function.

    The recipe is Radford's: strided convolutions, no pooling and no hidden fully connected layer, batch normalisation
    everywhere but in the first layer of D and the last of g, ReLUs in g, leaky ReLUs of slope 0.2 in D, weights from
    N(0, 0.02²), and Adam with β₁ = 0.5. It was made for 64×64 pixels and four grids of features; here there are as many
    as `channels`. One thing is added: samples come from an exponential moving average of g, which is what makes them
    good after a short training; `decay=0` takes the last step.

    Args:
        n_latent: Number H of noise variables.
        channels: Features of the grids of g, the coarsest first, and of D in reverse; each grid has half the next one's
            side, and the last one half the image's.
        learning_rate: Adam's step size, or its peak.
        schedule: Of the step size: "constant" or "one_cycle".
        beta1: Adam's first decay rate; the second is 0.999.
        decay: Of the average of the generator, per step: below 1.
        precision: "float32", "bfloat16" or "auto": bfloat16 where the processor has it.

    Attributes:
        generator_: H numbers to images before the tanh; the average, unless `decay` is 0.
        discriminator_: Images in [-1, 1] to a logit.
        image_shape_: (C, H, W).
        history_: One row per epoch: "epoch", "seconds", "loss/discriminator", "loss/generator", "learning_rate".

    References:
        Radford, Metz, Chintala, "Unsupervised representation learning with deep convolutional generative adversarial
            networks", 2015.
        Goodfellow et al., "Generative adversarial nets", 2014.
        Yazıcı et al., "The unusual effectiveness of averaging in GAN training", 2018.
    """

    generator_: nn.Module
    discriminator_: nn.Module
    image_shape_: networks.Shape
    history_: History

    def __init__(
        self,
        n_latent: int = 100,
        channels: Sequence[int] = (128, 64),
        epochs: int = 20,
        batch_size: int = 128,
        learning_rate: float = 2e-4,
        schedule: str = "constant",
        beta1: float = 0.5,
        decay: float = 0.999,
        precision: str = "auto",
    ) -> None:
        if n_latent < 1:
            raise InputError(f"n_latent={n_latent}: use at least 1 noise variable.")
        if not 0 <= decay < 1:
            raise InputError(f"decay={decay}: give a number of at least 0 and below 1.")
        if batch_size < 2:
            raise InputError(f"batch_size={batch_size}: batch normalisation needs 2 or more.")
        self.n_latent, self.channels = n_latent, networks.check_channels(channels)
        self.epochs, self.batch_size = epochs, batch_size
        self.learning_rate, self.schedule = learning_rate, schedule
        self.beta1, self.betas = beta1, (beta1, 0.999)
        self.decay, self.precision = decay, precision
        TrainingSettings.of(self)  # which refuses the rest

    @property
    def description(self) -> str:
        """One line for reports."""
        widths = "-".join(map(str, self.channels))
        text = f"DCGAN, H = {self.n_latent}, channels {widths}"
        if self.decay > 0:
            text += f", average of the generator ({self.decay:g})"
        if hasattr(self, "image_shape_"):
            text += networks.in_words(self.image_shape_, self.generator_, self.discriminator_)
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
        """Train generator and discriminator in turns.

        Args:
            images: A source, or (N, C, H, W) in [0, 1]; at least 2.
            seed: Of the initial weights, the order of the images and the noise.
            progress: Where to report.
            device: Where to compute.
            checkpoint: File to save progress in and to continue from.
            max_seconds: Stop after so many seconds of training, if `epochs` are not over by then.
            on_step: Called after each step with the seconds of training so far, which it does not add to; it may call
                `sample`.
        """
        data = networks.Images(images)
        generator, discriminator = self._build(data.shape, seed)
        average = AverageNetwork(generator, self.decay) if self.decay > 0 else None
        modules = {"discriminator": discriminator, "generator": generator}
        self.generator_, self.discriminator_, self.image_shape_ = generator, discriminator, data.shape
        if average is not None:
            modules["average"], self.generator_ = average, average.average
        step = _Step(self.n_latent, average)
        self.history_ = train(
            modules,
            {"discriminator": step.discriminator_loss, "generator": step.generator_loss},
            data,
            TrainingSettings.of(self, seed=seed, device=device, max_seconds=max_seconds, description="DCGAN"),
            checkpoint=checkpoint,
            on_step=on_step,
            progress=progress,
        )
        self.generator_.cpu()
        self.discriminator_.cpu()
        return self

    def _build(self, image_shape: networks.Shape, seed: int) -> tuple[nn.Module, nn.Module]:
        generator = networks.transposed_convolutions(self.n_latent, image_shape, self.channels, seed=2 * seed)
        discriminator = networks.convolutions(image_shape, self.channels, 1, seed=2 * seed + 1, first_norm=False)
        return generator, discriminator

    def sample(self, n: int, *, seed: int = 0) -> Tensor:
        """Images (n, C, H, W) in [0, 1]; image k depends on this fit, `seed` and k only."""
        networks.check_fitted(self)
        return (torch.tanh(networks.draw_images(n, seed, self.generator_, self.n_latent)) + 1) / 2

    def state_dict(self) -> dict[str, Tensor]:
        """Everything fitted, as named tensors."""
        networks.check_fitted(self)
        state = flatten_state("generator", self.generator_.state_dict())
        state |= flatten_state("discriminator", self.discriminator_.state_dict())
        return state | {"image_shape": torch.tensor(self.image_shape_)} | history_state(self.history_)

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Become the fitted model that `state_dict` was taken from."""
        image_shape = networks.take_shape(tensors)
        self.generator_, self.discriminator_ = self._build(image_shape, seed=0)
        load_network(self.generator_, tensors, "generator")
        load_network(self.discriminator_, tensors, "discriminator")
        self.image_shape_, self.history_ = image_shape, take_history(tensors)


class _Step:
    """Losses of the two networks, which share the generated images of a step."""

    def __init__(self, n_latent: int, average: AverageNetwork | None) -> None:
        self.n_latent, self.average = n_latent, average
        self._fake: Tensor | None = None

    def discriminator_loss(self, modules: Mapping[str, nn.Module], batch: Batch, generator: torch.Generator) -> Tensor:
        """Of real and generated images, each batch normalised for itself."""
        (x,) = batch
        noise = torch.randn(len(x), self.n_latent, generator=generator).to(x)
        self._fake = torch.tanh(modules["generator"](noise))
        # -log s(x) = softplus(-x)
        real = F.softplus(-modules["discriminator"](2 * x - 1)).mean()
        return real + F.softplus(modules["discriminator"](self._fake.detach())).mean()

    def generator_loss(self, modules: Mapping[str, nn.Module], batch: Batch, generator: torch.Generator) -> Tensor:
        """Of the same images, before the updated discriminator; the average follows the previous step."""
        assert self._fake is not None
        fake, self._fake = self._fake, None
        if self.average is not None:
            self.average.update(modules["generator"])
        return F.softplus(-modules["discriminator"](fake)).mean()
