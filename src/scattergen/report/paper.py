"""The numbers of the paper’s tables, which a report shows beside ours."""

from collections.abc import Sequence
from typing import NamedTuple

from scattergen.diagnostics import RejectionRate


class Results(NamedTuple):
    """What the paper, Ziomek & Farrahi, reports of one data set."""

    name: str
    title: str
    rejections: dict[str, dict[float, int]]  # Table 1: of the 512 components, by test and level
    training: dict[str, tuple[int, str]]  # Tables 2 (VAE) and 3 (GAN): epochs and wall time, in whole minutes
    beta: float  # of the VAE
    figure: str  # that shows samples
    decoding: str | None = None  # Table 4: time of the decoder’s training, if it says


MNIST = Results(
    "mnist", "MNIST", {"K2": {0.05: 41, 0.01: 12}, "JB": {0.05: 35, 0.01: 16}},
    {"vae": (31, "9 min"), "gan": (30, "5 min")}, beta=0.001, figure="Figure 2",
)  # fmt: skip
CELEBA = Results(
    "celeba", "CelebA", {"K2": {0.05: 46, 0.01: 19}, "JB": {0.05: 51, 0.01: 24}},
    {"vae": (96, "17 min"), "gan": (38, "10 min")}, beta=0.0025, figure="Figure 3", decoding="27 h 45 min",
)  # fmt: skip


def exceeded_at(rates: Sequence[RejectionRate], rejections: dict[str, dict[float, int]]) -> int | None:
    """The smallest of the sample sizes, if already there every count is above the paper's."""
    smallest = min(rate.n for rate in rates)
    there = [rate for rate in rates if rate.n == smallest and rate.level in rejections.get(rate.test, {})]
    above = [rate.observed > rejections[rate.test][rate.level] for rate in there]
    return smallest if above and all(above) else None
