"""Fully connected networks, and what the densities made of them share."""

import copy
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from scattergen.errors import InputError, RunFolderError
from scattergen.storage import take_state


def fully_connected(
    widths: Sequence[int], *, seed: int, slope: float = 0.0, batch_norm: bool = False
) -> nn.Sequential:
    """Linear layers with leaky ReLUs between them.

    Weights are drawn from N(0, 2/fan_in) (He), those of the last layer from N(0, 1/fan_in); biases
    are 0. The global random state is neither used nor changed.

    Args:
        widths: Of input, hidden layers and output.
        seed: Of the initial weights.
        slope: Of the leaky ReLU for negative inputs; 0 is the ReLU.
        batch_norm: Normalise batches after every hidden layer.

    Returns:
        The network, (N, widths[0]) -> (N, widths[-1]).

    References:
        He, Zhang, Ren, Sun, "Delving deep into rectifiers", 2015.

    Example:
        >>> fully_connected([4, 8, 2], seed=0)(torch.zeros(3, 4))
        tensor([[0., 0.],
                [0., 0.],
                [0., 0.]], grad_fn=<AddmmBackward0>)
    """
    generator = torch.Generator().manual_seed(seed)
    layers: list[nn.Module] = []
    for i, (fan_in, fan_out) in enumerate(pairwise(widths)):
        is_last = i == len(widths) - 2
        linear = nn.utils.skip_init(nn.Linear, fan_in, fan_out)
        nn.init.normal_(
            linear.weight, 0.0, math.sqrt((1 if is_last else 2) / fan_in), generator=generator
        )
        nn.init.zeros_(linear.bias)
        layers.append(linear)
        if not is_last:
            if batch_norm:
                layers.append(nn.BatchNorm1d(fan_out))
            layers.append(nn.LeakyReLU(slope) if slope else nn.ReLU())
    return nn.Sequential(*layers)


def check_widths(name: str, widths: Sequence[int]) -> tuple[int, ...]:
    """Widths of hidden layers as a tuple.

    Args:
        name: Of the keyword.
        widths: Given by the user.

    Returns:
        The widths.

    Raises:
        InputError: If there is none or one is not positive.
    """
    if len(widths) == 0 or min(widths) < 1:
        raise InputError(f"{name}={list(widths)}: give the width of at least one hidden layer.")
    return tuple(widths)


def load_network(module: nn.Module, tensors: Mapping[str, Tensor], name: str) -> None:
    """Load a part of a stored state into a module.

    Args:
        module: Of the right architecture.
        tensors: State of a density.
        name: Prefix of the module's tensors.

    Raises:
        RunFolderError: If tensors are missing or have other shapes.
    """
    try:
        module.load_state_dict(take_state(tensors, name))
    except RuntimeError as error:
        raise RunFolderError(
            f'The stored tensors "{name}/…" do not belong to a network of these hyper-parameters: '
            "fit the density again."
        ) from error
    module.eval()


def in_float64(module: nn.Module) -> nn.Module:
    """A copy of a network for sampling; see `sampling.standard_normal` for the reason.

    Args:
        module: Any module.

    Returns:
        Its copy, in evaluation mode.
    """
    return copy.deepcopy(module).double().eval()


def count_parameters(*modules: nn.Module) -> int:
    """Number of trained numbers.

    Args:
        *modules: Networks.

    Returns:
        The sum over all of them.
    """
    return sum(parameter.numel() for module in modules for parameter in module.parameters())
