"""The generative adversarial network of the founding paper, and a stable variant."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import scattergen.densities.networks as nets
from scattergen.calls.keywords import check_seed
from scattergen.densities.display import DisplayedDensity
from scattergen.densities.leading import LeadingComponents
from scattergen.densities.mixture import GaussianMixture
from scattergen.densities.protocol import File, check_codes, check_fitted, history_state, take_history, take_tensor
from scattergen.densities.sampling import Noise, draw_in_chunks
from scattergen.display.progress import SILENT, Progress
from scattergen.errors import InputError
from scattergen.files.tensors import flatten_state
from scattergen.training import Batch, Loss, TrainingSettings, train


@dataclass(eq=False, repr=False)
class GenerativeAdversarialNetwork(DisplayedDensity):
    r"""Fully connected generative adversarial network.

    The generator g maps noise $h \sim N(0, I_H)$ to codes, the discriminator D gives the logit of "real". On every
    batch first D minimises $-E \log s(D(z)) - E \log s(-D(g(h)))$, then g minimises $-E \log s(D(g(h)))$, with $s$ the
    logistic function (Goodfellow et al., 2014; Radford et al., 2015; Ziomek, Farrahi, 2022, the founding paper; the
    widths are ours). Keywords make of it what does not collapse; `IMPROVED_GAN` has good values of all. With the
    relativistic loss and $\Delta = D(z) - D(g(h))$, D minimises $E\, \mathrm{softplus}(-\Delta)$ and g
    $E\, \mathrm{softplus}(\Delta)$ (Jolicoeur-Martineau, 2018). `gradient_penalty` γ adds $\tfrac\gamma2 E\|\nabla
    D(z)\|^2 + \tfrac\gamma2 E\|\nabla D(g(h))\|^2$ to D's loss (Mescheder et al., 2018; both: Huang et al., 2024).
    Keywords out of range raise an `InputError`.

    Args:
        n_latent: Number H of noise variables.
        widths: Hidden layers of the generator.
        discriminator_widths: Hidden layers of the discriminator.
        epochs, batch_size, learning_rate, clip_norm, betas, schedule: As in `training.TrainingSettings`.
        loss: "non_saturating" or "relativistic".
        gradient_penalty: Its weight γ.
        batch_norm: Whether the generator normalises batches; without, its ReLUs are leaky.
        dropout: Part of the discriminator's hidden features that is set to 0 in a step.
        initialization: Of the weights: "uniform", ±fan_in^-1/2, or "he", normal with variance 2/fan_in.
        decay: Of the average of the generator over its steps that draws samples: below 1; 0 takes the last step.
        leading: Number m of components that are generated, None: all; the rest follow by regression.
        n_components: Of the mixture behind the regressions of the rest; None takes one per 275 codes, at most 200.

    Attributes:
        generator_, discriminator_: H -> widths -> m (or d), m (or d) -> discriminator_widths -> 1.
        leading_: Standardization, and p(trailing | leading); None if all are generated.
        history_: One row per epoch: "epoch", "seconds", "loss/discriminator", "loss/generator", "learning_rate".

    Example:
        >>> gan = GenerativeAdversarialNetwork(n_latent=2, widths=(16,), epochs=1)
        >>> gan.fit(torch.randn(600, 4)).sample(3, seed=0).shape
        torch.Size([3, 4])
    """

    n_latent: int = 64
    widths: Sequence[int] = (256, 512)
    discriminator_widths: Sequence[int] = (256, 128)
    epochs: int = 30
    batch_size: int = 256
    learning_rate: float = 5e-4
    clip_norm: float = 1.0
    betas: Sequence[float] = (0.5, 0.999)
    loss: Literal["non_saturating", "relativistic"] = "non_saturating"
    gradient_penalty: float = 0.0
    batch_norm: bool = False
    dropout: float = 0.3
    initialization: Literal["uniform", "he"] = "uniform"
    decay: float = 0.0
    leading: int | None = None
    n_components: int | None = None
    schedule: Literal["constant", "one_cycle"] = "constant"

    def __post_init__(self) -> None:
        nets.check_options(self, n_latent=1, gradient_penalty=0)
        self.widths, self.discriminator_widths = tuple(self.widths), tuple(self.discriminator_widths)
        self.betas = tuple(self.betas)
        for name in ("decay", "dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)}: give a number of at least 0 and below 1.")
        if len(self.betas) != 2:
            raise InputError(f"betas={list(self.betas)}: give Adam's two decay rates.")
        if self.batch_norm and self.batch_size < 2:
            raise InputError(f"batch_size={self.batch_size}: batch normalisation needs 2 or more.")

    @property
    def description(self) -> str:
        """One line for reports."""
        fitted = hasattr(self, "n_features_")
        m = min(self.leading or self.n_features_, self.n_features_) if fitted else self.leading or "d"
        up, down = ("-".join(map(str, w)) for w in (self.widths, self.discriminator_widths))
        text = f"generator {self.n_latent}-{up}-{m}, discriminator {m}-{down}-1; H = {self.n_latent}"
        text += ", relativistic" if self.loss == "relativistic" else ""
        text += f", gradient penalty {self.gradient_penalty:g}" if self.gradient_penalty > 0 else ""
        if fitted:
            text += f"; {nets.count_parameters(self.generator_, self.discriminator_):,} parameters"
            if self.leading_ is not None:
                text += f"; {self.leading_.description}"
        return text

    def fit(
        self, z: Tensor, *, seed: int = 0, progress: Progress = SILENT, device: str = "cpu", checkpoint: File = None
    ) -> Self:
        """Train generator and discriminator in turns, as `Density.fit` says."""
        z, seed = check_codes(z, self).detach().float().cpu(), check_seed(seed)
        x, leading = z, None
        if self.leading is not None:
            leading = LeadingComponents.fit(z, self.leading, self.n_components, seed, mixture=False)
            x = leading.standardize(z)
        generator, discriminator = self._build(x.shape[1], seed)
        modules: dict[str, nn.Module] = {"discriminator": discriminator, "generator": generator}
        average = nets.AverageNetwork(generator, self.decay)
        if self.decay > 0:
            modules["average"] = average

        def generator_loss(modules: Mapping[str, nn.Module], batch: Batch, source: torch.Generator) -> Tensor:
            if self.decay > 0:
                average.update(generator)
            fake_logit = self._logits(modules, self._fake(modules, batch[0], source), source)
            if self.loss == "relativistic":
                with torch.no_grad():
                    real_logit = self._logits(modules, batch[0], source)
                return F.softplus(real_logit - fake_logit).mean()
            return F.softplus(-fake_logit).mean()

        losses: dict[str, Loss] = {"discriminator": self._discriminator_loss, "generator": generator_loss}
        settings = TrainingSettings.of(self, seed=seed, device=device, description="gan")
        self.history_ = train(modules, losses, TensorDataset(x), settings, checkpoint=checkpoint, progress=progress)
        nets.set_dropout_generator(discriminator, None)
        self.generator_ = (average.average if self.decay > 0 else generator).cpu()
        self.discriminator_, self.leading_, self.n_features_ = discriminator.cpu(), leading, z.shape[1]
        return self

    def _build(self, m: int, seed: int) -> tuple[nn.Module, nn.Module]:
        """The untrained generator of m components and its discriminator."""
        network = partial(nets.fully_connected, initialization=self.initialization)
        up, down = [self.n_latent, *self.widths, m], [m, *self.discriminator_widths, 1]
        slope = 0.0 if self.batch_norm else 0.2
        generator = network(up, seed=2 * seed, batch_norm=self.batch_norm, slope=slope)
        return generator, network(down, seed=2 * seed + 1, slope=0.2, dropout=self.dropout)

    def _fake(self, modules: Mapping[str, nn.Module], z: Tensor, generator: torch.Generator) -> Tensor:
        return modules["generator"](torch.randn(len(z), self.n_latent, generator=generator).to(z))

    def _logits(self, modules: Mapping[str, nn.Module], z: Tensor, generator: torch.Generator) -> Tensor:
        nets.set_dropout_generator(modules["discriminator"], generator)
        return modules["discriminator"](z)

    def _discriminator_loss(self, modules: Mapping[str, nn.Module], batch: Batch, generator: torch.Generator) -> Tensor:
        (z,) = batch
        with torch.no_grad():
            fake = self._fake(modules, z, generator)
        both = torch.cat([z, fake]).requires_grad_(self.gradient_penalty > 0)
        logits = self._logits(modules, both, generator)
        real_logit, fake_logit = logits.chunk(2)
        if self.loss == "relativistic":
            loss = F.softplus(fake_logit - real_logit).mean()
        else:
            loss = F.softplus(-real_logit).mean() + F.softplus(fake_logit).mean()  # -log s(x) = softplus(-x)
        if self.gradient_penalty > 0:
            # Rows do not mix in D, so the gradient of the sum is that of every row.
            (slope,) = torch.autograd.grad(logits.sum(), both, create_graph=True)
            # The mean is over twice as many rows as there are codes, hence γ and not γ/2.
            loss = loss + self.gradient_penalty * slope.square().sum(1).mean()
        return loss

    def sample(self, n: int, *, seed: int = 0, temperature: float = 1.0) -> Tensor:
        """Generate codes (n, d) from noise, as `Density.sample` says."""
        check_fitted(self)
        network = nets.in_float64(self.generator_)

        def draw(noise: Noise, size: int) -> Tensor:
            x = network(noise.normal(size, self.n_latent))
            return x if self.leading_ is None else self.leading_.complete(x, noise)

        return draw_in_chunks(n, seed, draw, temperature)

    def check_count(self, n: int) -> None:
        """Refuse fewer codes than the training needs."""
        if self.leading is not None:
            GaussianMixture(self.n_components).check_count(n)

    def state_dict(self) -> dict[str, Tensor]:
        """Everything fitted, as named tensors."""
        check_fitted(self)
        networks = flatten_state("generator", self.generator_.state_dict())
        networks |= flatten_state("discriminator", self.discriminator_.state_dict())
        if self.leading_ is not None:
            networks |= self.leading_.state()
        return networks | history_state(self.history_)

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Become the fitted density that `state_dict` was taken from."""
        m = take_tensor(tensors, "discriminator/0.weight", (self.discriminator_widths[0], None)).shape[1]
        self.leading_ = None if self.leading is None else LeadingComponents.from_state(tensors, m)
        self.generator_, self.discriminator_ = self._build(m, seed=0)
        nets.load_network(self.generator_, tensors, "generator")
        nets.load_network(self.discriminator_, tensors, "discriminator")
        self.n_features_ = m if self.leading_ is None else self.leading_.n_features
        self.history_ = take_history(tensors)


IMPROVED_GAN: dict[str, Any] = {
    "widths": [512, 512], "discriminator_widths": [256, 256], "learning_rate": 4e-3,
    "schedule": "one_cycle", "betas": [0.0, 0.99], "clip_norm": 100.0, "loss": "relativistic",
    "gradient_penalty": 0.3, "dropout": 0.0, "initialization": "he", "decay": 0.999, "leading": 32,
}  # fmt: skip
"""Keywords of `GenerativeAdversarialNetwork` for good samples: chosen on held-out MNIST codes."""
