"""Iterative Gaussianization by sliced transport, without gradients."""

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Self

import numpy as np
import torch
from torch import Tensor

from scattergen.densities.leading import LeadingComponents, check_leading, check_leading_count
from scattergen.densities.protocol import (
    History,
    check_codes,
    check_fitted,
    history_state,
    take_history,
    take_tensor,
)
from scattergen.densities.sampling import Noise, draw_in_chunks
from scattergen.densities.splines import Splines
from scattergen.errors import InputError
from scattergen.progress import SILENT, Progress

_EVERY = 12  # one code in twelve is held out
_DIRECTION_CODES = 8192  # that the directions are found with
_DIRECTION_STEPS = 8
_REACH = 3.0  # the outer knots are at the quantiles of ±3 standard deviations


class SlicedTransport:
    r"""Iterative Gaussianization: rotations and monotone maps of the marginals, in closed form.

    The first m components x of the codes, standardized, are moved layer by layer towards N(0, I).
    With R orthogonal, a layer is

    $$x \leftarrow R^T\, T(R x), \qquad T_i \approx (1 - \alpha)\,\mathrm{id} + \alpha\,
    \Phi^{-1} \circ F_i$$

    where F_i is the distribution function of component i of R x: the optimal transport between that
    marginal and a Gaussian, as a rational quadratic spline through `knots` quantiles. The rows of R
    are the directions in which x is least Gaussian, found by the fixed point of independent
    component analysis. Before the layers, Rosenblatt's transform of a Gaussian mixture may do what
    many layers would take long for.

    Plain iterations overfit in many dimensions. One code in twelve is held out: a T_i that does not
    raise the likelihood of these is replaced by the identity, and the layers end where it is
    highest. All of it inverts, so that likelihoods are exact and sampling is one pass.

    Args:
        leading: Number m of leading components that are transported; the rest follow by regressions
            (see `LeadingComponents`). None transports all.
        base: "mixture" starts from Rosenblatt's transform of a mixture, "normal" from the codes.
        n_components: Of the mixture; None takes one per 275 codes, at most 200.
        layers: Most layers.
        patience: Layers without a higher held-out likelihood after which the fit stops.
        knots: Quantiles per marginal, at least 4.
        strength: α, above 0 and at most 1.

    Attributes:
        leading_: Standardization, mixture, and p(trailing | leading).
        rotations_: (layers, m, m).
        splines_: Knots, values and slopes, (3, layers, m, knots).
        n_features_: d.
        history_: One row per layer: "epoch", "seconds", "log_likelihood" and
            "validation/log_likelihood" (means per code, in nats, of the transported components),
            "validation/changed" (part of the marginals that were).

    Raises:
        InputError: If an argument is out of range.

    References:
        Rosenblatt, "Remarks on a multivariate transformation", 1952.
        Hyvärinen, "Fast and robust fixed-point algorithms for independent component analysis",
            1999.
        Laparra, Camps-Valls, Malo, "Iterative Gaussianization: from ICA to random rotations", 2011.
        Dai, Seljak, "Sliced iterative normalizing flows", 2021.

    Example:
        >>> z = torch.rand(3000, 2, generator=torch.Generator().manual_seed(0))
        >>> sliced = SlicedTransport(base="normal").fit(z)
        >>> inside = (sliced.sample(1000) - 0.5).abs().amax(1) < 0.55
        >>> bool(inside.float().mean() > 0.9)
        True
    """

    leading_: LeadingComponents
    rotations_: Tensor
    splines_: Tensor
    n_features_: int
    history_: History

    def __init__(
        self,
        leading: int | None = 32,
        base: Literal["normal", "mixture"] = "mixture",
        n_components: int | None = None,
        layers: int = 150,
        patience: int = 30,
        knots: int = 32,
        strength: float = 1.0,
    ) -> None:
        check_leading(leading, n_components, base)
        if layers < 1 or patience < 1:
            raise InputError(f"layers={layers}, patience={patience}: give at least 1 of both.")
        if knots < 4:
            raise InputError(f"knots={knots}: a monotone map needs at least 4.")
        if not 0 < strength <= 1:
            raise InputError(f"strength={strength}: give a number above 0 and at most 1.")
        self.leading, self.base, self.n_components = leading, base, n_components
        self.layers, self.patience, self.knots, self.strength = layers, patience, knots, strength

    @property
    def description(self) -> str:
        """One line for reports."""
        text = f"sliced transport, {self.base} base, {self.knots} knots"
        if hasattr(self, "n_features_"):
            numbers = self.rotations_.numel() + self.splines_.numel()
            text += f", {len(self.rotations_)} layers, {numbers:,} parameters; "
            text += self.leading_.description
        return text

    def check_count(self, n: int) -> None:
        """Refuse fewer codes than fit and validation need (see `densities.check_count`)."""
        if n < 2 * _EVERY:
            raise InputError(f"{n} codes are too few: at least {2 * _EVERY} are needed.")
        check_leading_count(n - n // _EVERY, self.n_components)

    def fit(
        self,
        z: Tensor,
        *,
        seed: int = 0,
        progress: Progress = SILENT,
        device: str = "cpu",
        checkpoint: Path | None = None,
    ) -> Self:
        """Add layers until the held-out likelihood stops rising.

        Args:
            z: Codes, (N, d), at least 24.
            seed: Of the mixture and the directions.
            progress: Where to report.
            device: Not used: sorting dominates, and the processor does it.
            checkpoint: Not used: an interrupted fit is faster repeated than stored.

        Returns:
            This object.

        Raises:
            InputError: If the codes cannot be used.
        """
        start = time.monotonic()
        z = check_codes(z).float().cpu()
        self.check_count(len(z))
        held_out = torch.zeros(len(z), dtype=torch.bool)
        held_out[_EVERY - 1 :: _EVERY] = True
        leading = LeadingComponents.fit(
            z[~held_out], self.leading, self.n_components, seed, self.base == "mixture"
        )
        (x, logs), (v, logs_held_out) = (
            self._start(leading, leading.standardize(z[part])) for part in (~held_out, held_out)
        )
        m, generator = len(x), np.random.default_rng([seed, 1])
        rotations: list[Tensor] = []
        maps: list[Splines] = []
        history: History = []
        best, kept = (logs_held_out + _normal_log_prob(v)).mean().item(), 0
        with progress.task("sliced", total=self.layers) as task:
            for layer in range(1, self.layers + 1):
                rotation = _directions(_random_rotation(generator, m), x, generator)
                splines, changed = self._marginal_maps(rotation @ x, rotation @ v)
                x, added = _forward(rotation, splines, x)
                v, added_held_out = _forward(rotation, splines, v)
                logs, logs_held_out = logs + added, logs_held_out + added_held_out
                rotations.append(rotation)
                maps.append(splines)
                value = (logs_held_out + _normal_log_prob(v)).mean().item()
                history.append(
                    {
                        "epoch": layer, "seconds": time.monotonic() - start,
                        "log_likelihood": (logs + _normal_log_prob(x)).mean().item(),
                        "validation/log_likelihood": value, "validation/changed": changed,
                    }
                )  # fmt: skip
                task.advance(1, f"held-out log-likelihood {value:.2f}")
                if value > best:
                    best, kept = value, layer
                elif layer - kept >= self.patience:
                    break
        self.leading_ = leading
        self.rotations_ = torch.stack(rotations)[:kept].clone()
        self.splines_ = torch.stack([torch.stack(s.parts) for s in maps], dim=1)[:, :kept].clone()
        self.n_features_, self.history_ = z.shape[1], history
        return self

    def _start(self, leading: LeadingComponents, x: Tensor) -> tuple[Tensor, Tensor]:
        """What the layers begin with, (m, N), and the logarithms of the Jacobian so far, (N,)."""
        if self.base == "normal":
            return x.T.contiguous(), torch.zeros_like(x[:, 0])
        y = leading.to_normal(x).T.contiguous()
        return y, leading.mixture_log_prob(x) - _normal_log_prob(y)

    def _marginal_maps(self, x: Tensor, v: Tensor) -> tuple[Splines, float]:
        """Maps of the marginals of x, and the part of them that v's likelihood lets stand."""
        at = torch.linspace(-_REACH, _REACH, self.knots, dtype=torch.float64)
        source = _quantiles(x, torch.special.ndtr(at))
        goal = at.float().expand_as(source).contiguous()
        splines = Splines.through(source, torch.lerp(source, goal, self.strength))
        after, logs = splines(v)
        keep = (logs - 0.5 * (after.square() - v.square())).mean(1) > 0
        chosen = [
            torch.where(keep[:, None], new, old)
            for new, old in zip(splines.parts, (goal, goal, torch.ones_like(goal)), strict=True)
        ]
        return Splines(*chosen), keep.float().mean().item()

    def _layers(self) -> list[tuple[Tensor, Splines]]:
        maps = [Splines(*parts) for parts in self.splines_.unbind(1)]
        return list(zip(self.rotations_, maps, strict=True))

    def sample(self, n: int, *, seed: int = 0, temperature: float = 1.0) -> Tensor:
        """Draw from the base and go back through the layers.

        Args:
            n: Number of codes.
            seed: 0 or more; code k depends on the fitted density, `seed` and k only.
            temperature: Factor of the noise, 0 or more.

        Returns:
            Codes, (n, d), float32.
        """
        check_fitted(self)
        m = len(self.leading_.shift)
        layers = [(r.double(), s.to(r.double())) for r, s in reversed(self._layers())]

        def draw(noise: Noise, size: int) -> Tensor:
            y = noise.normal(size, m).T.contiguous()
            for rotation, splines in layers:
                y = rotation.T @ splines.inverse(rotation @ y)
            x = y.T.contiguous()
            if self.base == "mixture":
                x = self.leading_.from_normal(x)
            return self.leading_.complete(x, noise)

        return draw_in_chunks(n, seed, draw, temperature)

    def log_prob(self, z: Tensor) -> Tensor:
        """Exact logarithm of the density, in nats.

        Args:
            z: Codes, (N, d).

        Returns:
            (N,), with the type and device of `z`.
        """
        check_fitted(self)
        check_codes(z, n_features=self.n_features_)
        y, logs = self._start(self.leading_, self.leading_.standardize(z))
        for rotation, splines in self._layers():
            y, added = _forward(rotation.to(y), splines.to(y), y)
            logs = logs + added
        return logs + _normal_log_prob(y) + self.leading_.log_prob_rest(z)

    def state_dict(self) -> dict[str, Tensor]:
        """Everything fitted, as named tensors."""
        check_fitted(self)
        layers = {"rotations": self.rotations_, "splines": self.splines_}
        return layers | self.leading_.state() | history_state(self.history_)

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Become the fitted density that `state_dict` was taken from."""
        self.leading_ = LeadingComponents.from_state(tensors)
        m = len(self.leading_.shift)
        self.rotations_ = take_tensor(tensors, "rotations", (None, m, m))
        shape = (3, len(self.rotations_), m, self.knots)
        self.splines_ = take_tensor(tensors, "splines", shape)
        self.n_features_, self.history_ = self.leading_.n_features, take_history(tensors)


def _forward(rotation: Tensor, splines: Splines, x: Tensor) -> tuple[Tensor, Tensor]:
    """One layer: transported components (m, N) and logarithms of its determinants (N,)."""
    y, logs = splines(rotation @ x)
    return rotation.T @ y, logs.sum(0)


def _normal_log_prob(y: Tensor) -> Tensor:
    """Logarithm of N(0, I): (m, N) -> (N,)."""
    return -0.5 * (y.square().sum(0) + len(y) * math.log(2 * math.pi))


def _quantiles(x: Tensor, probabilities: Tensor) -> Tensor:
    """Quantiles of every row, (m, N) -> (m, J), interpolated between order statistics."""
    ordered = torch.from_numpy(np.sort(x.numpy(), axis=1))  # three times as fast as PyTorch's
    N = x.shape[1]
    position = (probabilities * N - 0.5).clamp(0, N - 1)
    below = position.floor().long().clamp(max=N - 2)
    return torch.lerp(ordered[:, below], ordered[:, below + 1], (position - below).to(x))


def _nearest_rotation(matrix: Tensor) -> Tensor:
    u, _, v = torch.linalg.svd(matrix.double())
    return (u @ v).float()


def _random_rotation(generator: np.random.Generator, m: int) -> Tensor:
    return _nearest_rotation(torch.from_numpy(generator.standard_normal((m, m))))


def _directions(rotation: Tensor, x: Tensor, generator: np.random.Generator) -> Tensor:
    """Orthogonal directions of little Gaussianity: fixed-point steps for the contrast log cosh."""
    n = min(_DIRECTION_CODES, x.shape[1])
    some = x[:, torch.from_numpy(generator.choice(x.shape[1], n, replace=False))]
    for _ in range(_DIRECTION_STEPS):
        bent = (rotation @ some).tanh()
        curvature = (1 - bent.square()).mean(1, keepdim=True)
        rotation = _nearest_rotation(bent @ some.T / n - curvature * rotation)
    return rotation
