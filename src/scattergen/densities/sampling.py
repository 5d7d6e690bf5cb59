"""Drawing codes so that each depends on its own number only."""

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scattergen.calls.keywords import check_seed, whole_number
from scattergen.calls.state import usual_state
from scattergen.densities.protocol import Density
from scattergen.errors import InputError

Labels = int | str | Sequence[int | str] | Tensor | NDArray[Any]
"""One class for all codes or one for each: numbers, or names as strings."""

CHUNK = 256
"""Codes that are drawn from one generator; part of what a seed means, so it never changes."""


@dataclass
class Noise:
    """All randomness of one chunk of codes.

    Numbers are float64, and what is computed from them should be, until `draw_in_chunks` rounds the codes: the last
    bits, which depend on the number of threads, then hardly ever survive. The temperature is a factor of the normal
    numbers only; distributions that are not here may use the generator.

    Example:
        >>> Noise(np.random.default_rng(0), temperature=0.0).normal(2, 3).abs().max().item()
        0.0
    """

    generator: np.random.Generator
    temperature: float = 1.0

    def normal(self, size: int, n_features: int) -> Tensor:
        """Independent N(0, T²) numbers at temperature T, (size, n_features)."""
        return torch.from_numpy(self.temperature * self.generator.standard_normal((size, n_features)))

    def uniform(self, size: int) -> Tensor:
        """Independent numbers of [0, 1), (size,)."""
        return torch.from_numpy(self.generator.random(size))

    def choice(self, weights: Tensor, size: int) -> Tensor:
        """Numbers 0 … K - 1, chosen with probabilities proportional to weights (K,): (size,)."""
        w = weights.double().numpy()
        return torch.from_numpy(self.generator.choice(len(w), size, p=w / w.sum()))


@usual_state(gradients=False)
def draw_in_chunks(n: int, seed: int, draw: Callable[[Noise, int], Tensor], temperature: float = 1.0) -> Tensor:
    """Draw codes (n, d), float32, of which number k depends on the density, the seed and k only.

    Chunk c, the codes 256c … 256c + 255, has a generator of its own, seeded by (seed, c), and is always drawn as a
    whole: the same numbers pass through the same operations whatever `n` is. The generator is NumPy's, since PyTorch's
    on the CPU keeps only 32 bits of its seed: some chunks of large samples would be equal. `draw` draws so many codes,
    (size, d), with all randomness from the noise; n, seed and temperature are as in `Density.sample`, else refused.

    Example:
        >>> draw = lambda noise, size: noise.normal(size, 2)
        >>> bool((draw_in_chunks(300, 0, draw)[:10] == draw_in_chunks(10, 0, draw)).all())
        True
    """
    n, seed, temperature = whole_number("n", n), check_seed(seed), check_temperature(temperature)
    count = max(1, math.ceil(n / CHUNK))  # n = 0 needs the number of columns too
    noises = (Noise(np.random.default_rng([seed, chunk]), temperature) for chunk in range(count))
    return torch.cat([draw(noise, CHUNK).float() for noise in noises])[:n].clone()


def check_temperature(temperature: Any) -> float:
    """The temperature, if it is a number from 0 to 1000."""
    is_number = isinstance(temperature, int | float | np.number)
    if not is_number or isinstance(temperature, bool) or not 0 <= temperature <= 1000:
        remedy = "give a number of at least 0 and at most 1000, such as 0.8; 1 draws from the fitted density as it is"
        raise InputError(f"temperature={temperature!r}: {remedy}.")
    return float(temperature)


def takes(method: Callable[..., Any], argument: str) -> bool:
    """Whether a method of a density, perhaps a user's own, has a parameter of that name (**keywords do not count)."""
    return argument in inspect.signature(method).parameters


def sample_density(
    density: Density, n: int, *, seed: int = 0, temperature: float = 1.0, labels: Labels | None = None
) -> Tensor:
    """Draw codes (n, d) from any fitted density, also one whose `sample` knows neither temperature nor classes.

    An `InputError` refuses a temperature other than 1, or labels, that it cannot use.

    Example:
        >>> from scattergen.densities import Gaussian
        >>> sample_density(Gaussian().fit(torch.randn(20, 2)), 3, temperature=0.5).shape
        torch.Size([3, 2])
    """
    keywords: dict[str, Any] = {} if check_temperature(temperature) == 1 else {"temperature": temperature}
    if labels is not None:
        keywords["labels"] = labels
    lacks = {
        "temperature": "has no temperature: leave it out, or give its method sample a keyword temperature, which "
        "draw_in_chunks takes.",
        "labels": "is not class-conditional: fit one that is, with `scattergen density RUN NAME --by-class` or "
        "ClassConditional.",
    }
    for name in keywords:
        if not takes(density.sample, name):
            raise InputError(f"The density {type(density).__name__} {lacks[name]}")
    return density.sample(n, seed=seed, **keywords)


def hold_out(N: int, generator: np.random.Generator, share: float = 0.1) -> Tensor:
    """Which of N codes a fit does not see, (N,): a random share of them, at least one and at most 5,000."""
    held_out = torch.zeros(N, dtype=torch.bool)
    held_out[torch.from_numpy(generator.choice(N, max(1, min(int(share * N), 5000)), replace=False))] = True
    return held_out
