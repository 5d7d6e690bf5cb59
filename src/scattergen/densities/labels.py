"""Labels: the classes of codes, by number or by name."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scattergen.errors import InputError

Labels = int | str | Sequence[int | str] | Tensor | NDArray[Any]
"""One class for all codes or one for each: numbers, or names as strings."""


def check_labels(labels: Any, n: int) -> Tensor:
    """The labels as int64 (n,) on the CPU, if they are `n` whole numbers of at least 0."""
    if labels is None:
        raise InputError(
            "A class-conditional density needs labels: call fit(z, labels) with a whole number for every code."
        )
    values = labels.detach().cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    if values.shape != (n,) or not np.issubdtype(values.dtype, np.integer):
        raise InputError(
            f"The labels are {values.dtype} of shape {values.shape}: expected one integer for each, shape ({n},)."
        )
    if n and values.min() < 0:
        raise InputError(
            f"Label {values.min()} of code {values.argmin()} is negative: number the classes from "
            "0, and leave out codes without a class."
        )
    return torch.from_numpy(values.astype(np.int64))


def label_numbers(labels: Labels, n: int, classes: Sequence[str]) -> Tensor:
    """Numbers (n,), int64, of the classes that a user asks for: one for all or one for each, by name or number.

    Example:
        >>> label_numbers(["cat", 1], 2, ["dog", "cat"])
        tensor([1, 1])
    """
    if isinstance(labels, Tensor):
        labels = labels.detach().cpu().numpy()
    if isinstance(labels, np.ndarray) and labels.ndim == 0:
        labels = labels.item()
    if isinstance(labels, str) or np.ndim(labels) == 0:
        return torch.full((n,), _number(labels, classes))
    if np.shape(labels) != (n,):
        raise InputError(
            f"{n} codes were asked for, but labels of shape {np.shape(labels)} given: give one "
            "label for all, or one for each."
        )
    numbers = {label: _number(label, classes) for label in dict.fromkeys(labels)}  # type: ignore[arg-type]
    return torch.tensor([numbers[label] for label in labels], dtype=torch.int64)  # type: ignore[union-attr]


def _number(label: Any, classes: Sequence[str]) -> int:
    """The number of one class, given by its name, or by its number as a whole number or as text."""
    if isinstance(label, str) and label in classes:
        return list(classes).index(label)
    if isinstance(label, str):
        # Where names are numbers, the position of a class would be mistaken for one of them.
        is_number = label.isdecimal() and not any(name.isdecimal() for name in classes)
    else:
        is_number = isinstance(label, int | np.integer) and not isinstance(label, bool)
    number = int(label) if is_number else -1
    if not 0 <= number < len(classes):
        shown = ", ".join(classes[:20]) + (" …" if len(classes) > 20 else "")
        raise InputError(
            f"There is no class {label!r}: choose among {shown} (as text), or a number from 0 to {len(classes) - 1}."
        )
    return number
