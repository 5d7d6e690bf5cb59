"""Codes in which only two components vary: the founding paper's visualisation matrix."""

from collections.abc import Sequence

import torch
from torch import Tensor

from scattergen.errors import InputError

PAPER_VALUES = (-10.0, -5.0, 5.0, 10.0)  # of the two leading components in the paper's Figure 1
SIGMA_VALUES = (-2.0, -1.0, 1.0, 2.0)  # within the data, in standard deviations


def component_grid(
    explained_variance: Tensor, values: Sequence[float], components: tuple[int, int] = (0, 1), *, in_sigma: bool = False
) -> Tensor:
    r"""Codes, (len(values)², d), whose two components take every pair of values, the second fastest; all others are 0.

    A value v of an unwhitened component k, with variance $\lambda_k$ in `explained_variance` (d,), is the whitened
    $v / \sqrt{\lambda_k}$; `in_sigma`, values are standard deviations. As in Figure 1 of Ziomek, Farrahi, "Modelling
    nonlinear dependencies in the latent space of inverse scattering", 2022. An `InputError` if there is no component.

    Example:
        >>> component_grid(torch.tensor([4.0, 1.0, 0.5]), [-1.0, 1.0])[0]
        tensor([-0.5000, -1.0000,  0.0000])
    """
    d = len(explained_variance)
    if not all(0 <= component < d for component in components):
        raise InputError(f"Components {components} do not exist among 0 … {d - 1}.")
    grid = torch.cartesian_prod(torch.tensor(values), torch.tensor(values))
    z = torch.zeros(len(grid), d)
    for column, component in enumerate(components):
        scale = 1.0 if in_sigma else explained_variance[component].sqrt().item()
        z[:, component] = grid[:, column] / scale
    return z
