"""The generative adversarial network of the founding paper, and a stable variant."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from scattergen.densities.leading import LeadingComponents, check_leading, check_leading_count
from scattergen.densities.networks import (
    AverageNetwork,
    check_widths,
    count_parameters,
    fully_connected,
    in_float64,
    load_network,
    set_dropout_generator,
)
from scattergen.densities.protocol import check_codes, check_fitted, history_state, take_history, take_tensor
from scattergen.densities.sampling import Noise, draw_in_chunks
from scattergen.errors import InputError
from scattergen.progress import SILENT, Progress
from scattergen.tensor_files import flatten_state
from scattergen.training.loop import Batch, train
from scattergen.training.settings import TrainingSettings


class GenerativeAdversarialNetwork:
    r"""Fully connected generative adversarial network.

    The generator g maps noise $h \sim N(0, I_H)$ to codes, the discriminator D gives the logit of "real". On every
    batch first D minimises $-E \log s(D(z)) - E \log s(-D(g(h)))$, then g minimises $-E \log s(D(g(h)))$, with $s$ the
    logistic function. The widths are ours: the paper has them only in a figure that is not available.

    Keywords make of it what does not collapse; `IMPROVED_GAN` has good values of all, docs/densities.md the reasons.

    * `loss="relativistic"`: D compares pairs. With $\Delta = D(z) - D(g(h))$ it minimises
      $E\, \mathrm{softplus}(-\Delta)$, and g minimises $E\, \mathrm{softplus}(\Delta)$.
    * `gradient_penalty` γ adds $\tfrac\gamma2 E\|\nabla D(z)\|^2 + \tfrac\gamma2 E\|\nabla D(g(h))\|^2$ to D's loss.
    * `decay`: samples come from an average of the generator over its last steps.
    * `leading`: only so many components, standardized, are generated, and the rest drawn given these (see
      `LeadingComponents`): trailing components of whitened codes are nearly noise.

    Args:
        n_latent: Number H of noise variables.
        widths: Hidden layers of the generator.
        discriminator_widths: Hidden layers of the discriminator.
        epochs: Passes over the codes.
        batch_size: Codes per step.
        learning_rate: Adam's step size, or its peak.
        clip_norm: Largest norm of the gradient of either network.
        betas: Adam's decay rates.
        loss: "non_saturating" or "relativistic".
        gradient_penalty: Its weight γ.
        batch_norm: Whether the generator normalises batches; without, its ReLUs are leaky.
        dropout: Part of the discriminator's hidden features that is set to 0 in a step.
        initialization: Of the weights: "uniform" or "he" (see `networks.fully_connected`).
        decay: Of the average of the generator, per step: below 1; 0 takes the last step.
        leading: Number m of leading components that are generated; None generates all d.
        n_components: Of the mixture behind the regressions of the others; None takes one per 275 codes, at most 200.
        schedule: Of the step size: "constant" or "one_cycle".

    Attributes:
        generator_: H -> widths -> m, or d.
        discriminator_: m or d -> discriminator_widths -> 1.
        leading_: Standardization, and p(trailing | leading); None if all are generated.
        history_: One row per epoch: "epoch", "seconds", "loss/discriminator", "loss/generator", "learning_rate".

    Raises:
        InputError: If an argument is out of range.

    References:
        Ziomek, Farrahi, "Modelling nonlinear dependencies in the latent space of inverse scattering", 2022.
        Goodfellow et al., "Generative adversarial nets", 2014.
        Radford, Metz, Chintala, "Unsupervised representation learning with DCGANs", 2015.
        Mescheder, Geiger, Nowozin, "Which training methods for GANs do actually converge?", 2018.
        Jolicoeur-Martineau, "The relativistic discriminator", 2018.
        Huang, Gokaslan, Kuleshov, Tompkin, "The GAN is dead; long live the GAN!", 2024.

    Example:
        >>> gan = GenerativeAdversarialNetwork(n_latent=2, widths=(16,), epochs=1)
        >>> gan.fit(torch.randn(600, 4)).sample(3, seed=0).shape
        torch.Size([3, 4])
    """

    def __init__(
        self,
        n_latent: int = 64,
        widths: Sequence[int] = (256, 512),
        discriminator_widths: Sequence[int] = (256, 128),
        epochs: int = 30,
        batch_size: int = 256,
        learning_rate: float = 5e-4,
        clip_norm: float = 1.0,
        betas: Sequence[float] = (0.5, 0.999),
        loss: Literal["non_saturating", "relativistic"] = "non_saturating",
        gradient_penalty: float = 0.0,
        batch_norm: bool = False,
        dropout: float = 0.3,
        initialization: Literal["uniform", "he"] = "uniform",
        decay: float = 0.0,
        leading: int | None = None,
        n_components: int | None = None,
        schedule: Literal["constant", "one_cycle"] = "constant",
    ) -> None:
        if n_latent < 1:
            raise InputError(f"n_latent={n_latent}: use at least 1 noise variable.")
        if loss not in ("non_saturating", "relativistic"):
            raise InputError(f'loss="{loss}": choose "non_saturating" or "relativistic".')
        if gradient_penalty < 0:
            raise InputError(f"gradient_penalty={gradient_penalty}: a weight cannot be negative.")
        if not 0 <= decay < 1:
            raise InputError(f"decay={decay}: give a number of at least 0 and below 1.")
        if not 0 <= dropout < 1:
            raise InputError(f"dropout={dropout}: give a part of at least 0 and below 1.")
        if initialization not in ("uniform", "he"):
            raise InputError(f'initialization="{initialization}": choose "uniform" or "he".')
        if len(betas) != 2:
            raise InputError(f"betas={list(betas)}: give Adam's two decay rates.")
        check_leading(leading, n_components)
        if batch_norm and batch_size < 2:
            raise InputError(f"batch_size={batch_size}: batch normalisation needs 2 or more.")
        self.n_latent, self.widths = n_latent, check_widths("widths", widths)
        self.discriminator_widths = check_widths("discriminator_widths", discriminator_widths)
        self.epochs, self.batch_size = epochs, batch_size
        self.learning_rate, self.schedule, self.betas = learning_rate, schedule, (betas[0], betas[1])
        self.clip_norm, self.loss, self.gradient_penalty = clip_norm, loss, gradient_penalty
        self.batch_norm, self.dropout, self.initialization = batch_norm, dropout, initialization
        self.decay, self.leading, self.n_components = decay, leading, n_components
        TrainingSettings.of(self)  # which refuses the rest

    @property
    def description(self) -> str:
        """One line for reports."""
        d = self.n_features_ if hasattr(self, "n_features_") else "d"
        up, down = ("-".join(map(str, w)) for w in (self.widths, self.discriminator_widths))
        m = d if self.leading is None else min(self.leading, d) if d != "d" else self.leading
        text = f"generator {self.n_latent}-{up}-{m}, discriminator {m}-{down}-1; H = {self.n_latent}"
        if self.loss == "relativistic":
            text += ", relativistic"
        if self.gradient_penalty > 0:
            text += f", gradient penalty {self.gradient_penalty:g}"
        if hasattr(self, "n_features_"):
            text += f"; {count_parameters(self.generator_, self.discriminator_):,} parameters"
            if self.leading_ is not None:
                text += f"; {self.leading_.description}"
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
        """Train generator and discriminator in turns, as `Density.fit` says.

        The seed decides the initial weights, the order of the codes, the noise and the mixture.

        Raises:
            InputError: If the codes cannot be used or are fewer than two.
            ScattergenError: If the training diverges.
        """
        z = check_codes(z).float().cpu()
        self.check_count(len(z))
        leading = None
        if self.leading is not None:
            leading = LeadingComponents.fit(z, self.leading, self.n_components, seed, mixture=False)
        x = z if leading is None else leading.standardize(z)
        generator, discriminator = self._build(x.shape[1], seed)
        modules = {"discriminator": discriminator, "generator": generator}
        average = AverageNetwork(generator, self.decay)

        def generator_loss(*arguments: Any) -> Tensor:
            if self.decay > 0:
                average.update(generator)
            return self._generator_loss(*arguments)

        self.history_ = train(
            modules | ({"average": average} if self.decay > 0 else {}),
            {"discriminator": self._discriminator_loss, "generator": generator_loss},
            TensorDataset(x),
            TrainingSettings.of(self, seed=seed, device=device, description="gan"),
            checkpoint=checkpoint,
            progress=progress,
        )
        self.generator_ = (average.average if self.decay > 0 else generator).cpu()
        set_dropout_generator(discriminator, None)
        self.discriminator_, self.leading_ = discriminator.cpu(), leading
        self.n_features_ = z.shape[1]
        return self

    def _build(self, m: int, seed: int) -> tuple[nn.Module, nn.Module]:
        """The untrained generator of m components and its discriminator."""
        generator = fully_connected(
            [self.n_latent, *self.widths, m],
            seed=2 * seed,
            batch_norm=self.batch_norm,
            slope=0.0 if self.batch_norm else 0.2,
            initialization=self.initialization,
        )
        discriminator = fully_connected(
            [m, *self.discriminator_widths, 1],
            seed=2 * seed + 1,
            slope=0.2,
            dropout=self.dropout,
            initialization=self.initialization,
        )
        return generator, discriminator

    def _fake(self, modules: Mapping[str, nn.Module], z: Tensor, generator: torch.Generator) -> Tensor:
        return modules["generator"](torch.randn(len(z), self.n_latent, generator=generator).to(z))

    def _logits(self, modules: Mapping[str, nn.Module], z: Tensor, generator: torch.Generator) -> Tensor:
        set_dropout_generator(modules["discriminator"], generator)
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

    def _generator_loss(self, modules: Mapping[str, nn.Module], batch: Batch, generator: torch.Generator) -> Tensor:
        fake_logit = self._logits(modules, self._fake(modules, batch[0], generator), generator)
        if self.loss == "relativistic":
            with torch.no_grad():
                real_logit = self._logits(modules, batch[0], generator)
            return F.softplus(real_logit - fake_logit).mean()
        return F.softplus(-fake_logit).mean()

    def sample(self, n: int, *, seed: int = 0, temperature: float = 1.0) -> Tensor:
        """Generate codes (n, d) from noise, as `Density.sample` says."""
        check_fitted(self)
        network = in_float64(self.generator_)

        def draw(noise: Noise, size: int) -> Tensor:
            x = network(noise.normal(size, self.n_latent))
            return x if self.leading_ is None else self.leading_.complete(x, noise)

        return draw_in_chunks(n, seed, draw, temperature)

    def check_count(self, n: int) -> None:
        """Refuse fewer codes than the training needs (see `densities.check_count`)."""
        if n < 2:
            raise InputError(f"{n} codes are too few for a GAN: at least 2 are needed.")
        if self.leading is not None:
            check_leading_count(n, self.n_components)

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
        first = (self.discriminator_widths[0], None)
        m = take_tensor(tensors, "discriminator/0.weight", first).shape[1]
        self.leading_ = None if self.leading is None else LeadingComponents.from_state(tensors)
        if self.leading_ is not None:
            take_tensor(tensors, "leading/shift", (m,))
        self.generator_, self.discriminator_ = self._build(m, seed=0)
        load_network(self.generator_, tensors, "generator")
        load_network(self.discriminator_, tensors, "discriminator")
        self.n_features_ = m if self.leading_ is None else self.leading_.n_features
        self.history_ = take_history(tensors)


IMPROVED_GAN: dict[str, Any] = {
    "widths": [512, 512], "discriminator_widths": [256, 256], "learning_rate": 4e-3,
    "schedule": "one_cycle", "betas": [0.0, 0.99], "clip_norm": 100.0, "loss": "relativistic",
    "gradient_penalty": 0.3, "dropout": 0.0, "initialization": "he", "decay": 0.999, "leading": 32,
}  # fmt: skip
"""Keywords of `GenerativeAdversarialNetwork` for good samples: chosen on held-out MNIST codes."""
