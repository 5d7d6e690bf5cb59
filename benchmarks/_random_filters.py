"""A scattering transform with random filters instead of wavelets, for benchmarks/codes.py."""

from functools import cache

import torch

from scattergen.scattering import Scattering2D
from scattergen.scattering.filters import SIGMA, FilterBank, filter_bank, gaussian
from scattergen.scattering.plan import Plan, build_plan
from scattergen.scattering.transform import Constants


def random_bank(shape: tuple[int, int], J: int, L: int, kind: str, seed: int) -> FilterBank:
    """Random filters in the place of the wavelets.

    The spectrum of each is real, as a wavelet's is, and white noise: in the frequencies of its
    scale's wavelets ("band": times the root of their mean energy over orientations and signs) or
    everywhere ("white"). In space it is then multiplied by a round Gaussian window of the area of
    the wavelet's envelope, made to have mean zero by subtracting a multiple of this window, and
    scaled to the mean energy of its scale's wavelets. The low-pass stays.
    """
    wavelets = filter_bank(shape, J, L)
    generator = torch.Generator().manual_seed(seed)
    psi = torch.randn(wavelets.psi.shape, generator=generator, dtype=torch.float64)
    energy = wavelets.psi.square().mean(1, keepdim=True)  # (J, 1, M, N)
    if kind == "band":
        psi *= (energy + energy.flip(-2, -1).roll((1, 1), (-2, -1))).div(2).sqrt()
    for j in range(J):
        # The envelope is σ wide along and σL/4 across the wave.
        width = SIGMA * 2**j * (L / 4) ** 0.5
        window_hat = torch.outer(gaussian(shape[0], width), gaussian(shape[1], width))
        window = torch.fft.ifft2(window_hat).real
        psi[j] = torch.fft.fft2(torch.fft.ifft2(psi[j]) * window).real
        psi[j] -= psi[j, :, :1, :1] / window_hat[0, 0] * window_hat
    psi *= (energy.sum((-2, -1), True) / psi.square().sum((-2, -1), True)).sqrt()
    return FilterBank(psi, wavelets.phi_rows, wavelets.phi_columns)


class RandomScattering2D(Scattering2D):
    """The transform with the filters of `random_bank`."""

    def __init__(self, J: int, shape: tuple[int, int], max_order: int, kind: str, seed: int) -> None:
        super().__init__(J, shape, max_order=max_order)
        self.bank = random_bank(self.padded_shape, J, self.L, kind, seed)

    @cache  # noqa: B019 - the transform lives as long as its tables are needed
    def _plan_for(self, dtype: torch.dtype) -> Plan:
        return build_plan(self.bank, self.shape, self.padding, self.output_shape, self.max_order, dtype)

    @cache  # noqa: B019
    def _constants_for(self, dtype: torch.dtype, device: torch.device) -> Constants:
        return Constants(self.bank, self.shape, self.padding, dtype, device)
