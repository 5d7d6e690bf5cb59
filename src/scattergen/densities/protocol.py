"""What a density is, and the pieces that every density shares: checks, hyper-parameters, state."""

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Self, runtime_checkable

import torch
from torch import Tensor

from scattergen.calls.keywords import json_value
from scattergen.datasets.containers import as_tensor
from scattergen.display.progress import SILENT, Progress
from scattergen.errors import InputError, RunFolderError
from scattergen.files.tensors import take_state

History = list[dict[str, float]]
File = Path | None  # where a fit keeps its progress, if it does

_LONGEST_HISTORY = 1_000_000  # rows; far more epochs than anybody trains


@runtime_checkable
class Density(Protocol):
    """A model of the distribution of codes, as a plain class, without a base class.

    The keywords of its `__init__` are its hyper-parameters: values that JSON can hold, kept in attributes of the same
    names (see `hyperparameters`). What `fit` finds are attributes with a trailing underscore.

    Attributes:
        n_features_: Dimension d of the codes.
        history_: One dictionary per epoch or iteration, with at least "epoch" and "seconds" (from the start of `fit`).
        all_components: Optional: True to be given all components of codes where others get a number of leading ones.

    Example:
        >>> from scattergen.densities import Gaussian
        >>> isinstance(Gaussian(), Density)
        True
    """

    @property
    def description(self) -> str:
        """One line for reports: sizes, layer widths, number of parameters."""

    def fit(
        self, z: Tensor, *, seed: int = 0, progress: Progress = SILENT, device: str = "cpu", checkpoint: File = None
    ) -> Self:
        """Fit to codes (N, d), and return this object.

        `seed` is that of everything random in the fit, `device` where to compute, although the fitted density is on the
        CPU, and `checkpoint` the file in which a long fit saves its progress and from which it continues. A
        `ScattergenError` if a training diverges; an `InputError` if the codes are too few or cannot be used.
        """

    def sample(self, n: int, *, seed: int = 0, temperature: float = 1.0) -> Tensor:
        """Draw n ≥ 0 codes, (n, d), float32, on the CPU; code k depends on the fitted density, `seed` ≥ 0 and k only.

        The temperature, 0 or more, scales all normal noise, but changes no random choice: below 1 samples are closer to
        the modes and more alike. A density may lack this argument.
        """

    def state_dict(self) -> dict[str, Tensor]:
        """Everything fitted, as named tensors."""

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Become the fitted density that `state_dict` was taken from."""


@runtime_checkable
class LikelihoodDensity(Density, Protocol):
    """A density whose likelihood is exact.

    Example:
        >>> from scattergen.densities import Gaussian, VariationalAutoencoder
        >>> isinstance(Gaussian(), LikelihoodDensity), isinstance(VariationalAutoencoder(), LikelihoodDensity)
        (True, False)
    """

    def log_prob(self, z: Tensor) -> Tensor:
        """Logarithm of the density at codes `z` (N, d), in nats: (N,), with the type and device of `z`."""


def hyperparameters(density: Density) -> dict[str, Any]:
    """Keywords with which a density was made, read from its attributes of the same names, as values that JSON can hold.

    Example:
        >>> from scattergen.densities import VariationalAutoencoder
        >>> hyperparameters(VariationalAutoencoder(beta=0.01))["beta"]
        0.01
    """
    return {name: json_value(getattr(density, name)) for name in inspect.signature(type(density)).parameters}


def check_count(density: Density, n: int) -> None:
    """Refuse fewer codes than a density needs, 2 or what its method `check_count(n)` says, before they are there.

    Example:
        >>> from scattergen.densities import GaussianMixture
        >>> check_count(GaussianMixture(n_components=30), 60)
    """
    if n < 2:
        raise InputError(f"{n} codes are too few: at least 2 are needed.")
    if hasattr(density, "check_count"):
        density.check_count(n)


def check_codes(z: Any, density: Density | None = None, *, minimum: int = 1, n_features: int | None = None) -> Tensor:
    """Codes (N, d) of any container: finite floats, N ≥ `minimum` and enough for `density`, d as given."""
    z = as_tensor(z, "codes")
    if not z.is_floating_point():
        remedy = "use encode(images), or torch.as_tensor(codes, dtype=torch.float32)"
        raise InputError(f"Codes must be floating-point numbers, not {z.dtype}: {remedy}.")
    if z.ndim != 2 or z.numel() == 0:
        raise InputError(f"Codes of shape {tuple(z.shape)} cannot be used: give a table (N, d), a code per row.")
    if n_features is not None and z.shape[1] != n_features:
        problem = f"Codes with {z.shape[1]} components do not belong to a density fitted on {n_features}"
        raise InputError(f"{problem}: use codes of the same encoder, or fit again.")
    if len(z) < minimum:
        raise InputError(f"{len(z)} codes are too few: at least {minimum} are needed, so encode more images.")
    if density is not None:
        check_count(density, len(z))
    if not torch.isfinite(z).all():
        row = int((~torch.isfinite(z)).any(1).nonzero()[0])
        raise InputError(f"Code {row} holds NaN or an infinity: look at its image, or leave it out.")
    return z.clone() if z.is_inference() else z  # autograd cannot keep what is for inference only


def check_fitted(density: Density) -> None:
    """Refuse to use a density that has neither been fitted nor loaded."""
    if not hasattr(density, "n_features_"):
        raise InputError(f"This {type(density).__name__} has not been fitted: call fit(z) or load a fitted one.")


def take_tensor(tensors: Mapping[str, Tensor], name: str, shape: Sequence[int | None]) -> Tensor:
    """One tensor of a stored state; refused if missing, of another shape (None is any size), or impossible weights."""
    if name not in tensors:
        problem = f'The stored density has no tensor "{name}"'
        raise RunFolderError(f"{problem}: it belongs to another kind of density or is incomplete; fit it again.")
    found = tuple(tensors[name].shape)
    if len(found) != len(shape) or any(want not in (None, have) for want, have in zip(shape, found, strict=True)):
        wanted = " × ".join("any" if size is None else str(size) for size in shape)
        problem = f'The tensor "{name}" of the stored density has shape {found} instead of {wanted}'
        raise RunFolderError(f"{problem}: it does not belong to these hyper-parameters; fit the density again.")
    if name.rpartition("/")[2] == "weights" and not ((tensors[name] >= 0).all() and tensors[name].sum() > 0):
        problem = f'The tensor "{name}" of the stored density holds weights below 0, or none above'
        raise RunFolderError(f"{problem}: fit the density again.")
    return tensors[name]


def history_state(history: History) -> dict[str, Tensor]:
    """A history as a float64 tensor "history/KEY" per column, so that it travels with a density's state."""
    columns = history[0] if history else {}
    return {f"history/{name}": torch.tensor([row[name] for row in history], dtype=torch.float64) for name in columns}


def take_history(tensors: Mapping[str, Tensor]) -> History:
    """The history that `history_state` stored."""
    columns = take_state(tensors, "history")
    epochs = columns.get("epoch", torch.empty(()))
    alike = all(column.shape == epochs.shape and column.dtype == torch.float64 for column in columns.values())
    if columns and not (alike and epochs.ndim == 1 and len(epochs) <= _LONGEST_HISTORY and epochs.isfinite().all()):
        problem = "The history of the stored density is no table with a column of epochs"
        raise RunFolderError(f"{problem}: fit the density again.")
    values = zip(*(column.tolist() for column in columns.values()), strict=True)
    rows = (dict(zip(columns, row, strict=True)) for row in values)
    return [row | {"epoch": int(row["epoch"])} for row in rows]
