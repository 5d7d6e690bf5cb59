"""The generative adversarial network of the founding paper."""

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
from scattergen.training import Batch, check_settings, train


class GenerativeAdversarialNetwork:
    r"""Fully connected generative adversarial network with the non-saturating loss.

    The generator g maps noise $h \sim N(0, I_H)$ to codes, the discriminator D gives the logit of
    "real". On every batch first D minimises $-E \log s(D(z)) - E \log s(-D(g(h)))$, then g
    minimises $-E \log s(D(g(h)))$, with $s$ the logistic function.

    The paper gives H and the number of epochs, but its layer widths only in a figure that is not
    available; those here are ours. Nothing is added to the plain recipe but what keeps it stable:
    batch normalisation in the generator, leaky ReLUs in the discriminator, Adam with β₁ = 0.5 (all
    three from DCGAN), and gradients shortened to `clip_norm`.

    Args:
        n_latent: Number H of noise variables.
        widths: Hidden layers of the generator.
        discriminator_widths: Hidden layers of the discriminator.
        epochs: Passes over the codes.
        batch_size: Codes per step.
        learning_rate: Adam's step size.
        clip_norm: Largest norm of the gradient of either network.

    Attributes:
        generator_: H -> widths -> d.
        discriminator_: d -> discriminator_widths -> 1.
        n_features_: d.
        history_: One row per epoch: "epoch", "seconds", "loss/discriminator", "loss/generator",
            "learning_rate".

    Raises:
        InputError: If an argument is out of range.

    References:
        Ziomek, Farrahi, "Modelling nonlinear dependencies in the latent space of inverse
            scattering".
        Goodfellow et al., "Generative adversarial nets", 2014.
        Radford, Metz, Chintala, "Unsupervised representation learning with DCGANs", 2015.

    Example:
        >>> gan = GenerativeAdversarialNetwork(n_latent=2, widths=(16,), epochs=1)
        >>> gan.fit(torch.randn(600, 4)).sample(3, seed=0).shape
        torch.Size([3, 4])
    """

    generator_: nn.Module
    discriminator_: nn.Module
    n_features_: int
    history_: History

    def __init__(
        self,
        n_latent: int = 64,
        widths: Sequence[int] = (256, 512),
        discriminator_widths: Sequence[int] = (256, 128),
        epochs: int = 30,
        batch_size: int = 256,
        learning_rate: float = 2e-4,
        clip_norm: float = 1.0,
    ) -> None:
        if n_latent < 1:
            raise InputError(f"n_latent={n_latent}: use at least 1 noise variable.")
        if batch_size < 2:
            raise InputError(f"batch_size={batch_size}: batch normalisation needs 2 or more.")
        self.n_latent, self.widths = n_latent, check_widths("widths", widths)
        self.discriminator_widths = check_widths("discriminator_widths", discriminator_widths)
        self.epochs, self.batch_size = epochs, batch_size
        self.learning_rate, self.clip_norm = learning_rate, clip_norm
        check_settings(
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            clip_norm=clip_norm,
        )

    @property
    def description(self) -> str:
        """One line for reports."""
        d = self.n_features_ if hasattr(self, "n_features_") else "d"
        up, down = ("-".join(map(str, w)) for w in (self.widths, self.discriminator_widths))
        text = (
            f"generator {self.n_latent}-{up}-{d}, discriminator {d}-{down}-1; H = {self.n_latent}"
        )
        if hasattr(self, "n_features_"):
            text += f"; {count_parameters(self.generator_, self.discriminator_):,} parameters"
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
        """Train generator and discriminator in turns.

        Args:
            z: Codes, (N, d), at least 2.
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
        z = check_codes(z, minimum=2).float().cpu()  # batch normalisation needs two codes
        generator, discriminator = self._build(z.shape[1], seed)
        self.history_ = train(
            {"discriminator": discriminator, "generator": generator},
            {"discriminator": self._discriminator_loss, "generator": self._generator_loss},
            TensorDataset(z),
            epochs=self.epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            schedule="constant",
            betas=(0.5, 0.999),
            clip_norm=self.clip_norm,
            seed=seed,
            device=device,
            checkpoint=checkpoint,
            progress=progress,
            description="gan",
        )
        self.generator_, self.discriminator_ = generator.cpu(), discriminator.cpu()
        self.n_features_ = z.shape[1]
        return self

    def _build(self, d: int, seed: int) -> tuple[nn.Module, nn.Module]:
        generator = fully_connected(
            [self.n_latent, *self.widths, d], seed=2 * seed, batch_norm=True
        )
        discriminator = fully_connected(
            [d, *self.discriminator_widths, 1], seed=2 * seed + 1, slope=0.2
        )
        return generator, discriminator

    def _fake(
        self, modules: Mapping[str, nn.Module], z: Tensor, generator: torch.Generator
    ) -> Tensor:
        return modules["generator"](torch.randn(len(z), self.n_latent, generator=generator).to(z))

    def _discriminator_loss(
        self, modules: Mapping[str, nn.Module], batch: Batch, generator: torch.Generator
    ) -> Tensor:
        (z,) = batch
        with torch.no_grad():
            fake = self._fake(modules, z, generator)
        real_logit, fake_logit = modules["discriminator"](torch.cat([z, fake])).chunk(2)
        # -log s(x) = softplus(-x)
        return F.softplus(-real_logit).mean() + F.softplus(fake_logit).mean()

    def _generator_loss(
        self, modules: Mapping[str, nn.Module], batch: Batch, generator: torch.Generator
    ) -> Tensor:
        fake = self._fake(modules, batch[0], generator)
        return F.softplus(-modules["discriminator"](fake)).mean()

    def sample(self, n: int, *, seed: int = 0) -> Tensor:
        """Generate codes from noise; code k depends on this fit, `seed` and k only.

        Args:
            n: Number of codes.
            seed: 0 or more.

        Returns:
            Codes, (n, d), float32.
        """
        check_fitted(self)
        network = in_float64(self.generator_)
        return draw_in_chunks(
            n,
            seed,
            lambda generator, size: network(standard_normal(generator, size, self.n_latent)),
        )

    def state_dict(self) -> dict[str, Tensor]:
        """Everything fitted, as named tensors."""
        check_fitted(self)
        networks = flatten_state("generator", self.generator_.state_dict())
        networks |= flatten_state("discriminator", self.discriminator_.state_dict())
        return networks | history_state(self.history_)

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Become the fitted density that `state_dict` was taken from."""
        d = take_tensor(
            tensors, "discriminator/0.weight", (self.discriminator_widths[0], None)
        ).shape[1]
        self.generator_, self.discriminator_ = self._build(d, seed=0)
        load_network(self.generator_, tensors, "generator")
        load_network(self.discriminator_, tensors, "discriminator")
        self.n_features_, self.history_ = d, take_history(tensors)
