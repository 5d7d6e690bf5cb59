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
    """The label of every code or image, if they can be used.

    Args:
        labels: (n,) whole numbers of at least 0.
        n: How many there must be.

    Returns:
        (n,), int64, on the CPU.

    Raises:
        InputError: If they are missing, or of another form.

    Example:
        >>> check_labels([0, 2, 1], 3)
        tensor([0, 2, 1])
    """
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
    """Numbers of the classes that a user asks for.

    Args:
        labels: One for all or one for each; a string is a name, or else the number of a class.
        n: How many.
        classes: Names in the order of their numbers.

    Returns:
        (n,), int64.

    Raises:
        InputError: If there is no such class, or the labels are not n.

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
    known: dict[Any, int] = {}
    for label in labels:  # type: ignore[union-attr]
        if label not in known:
            known[label] = _number(label, classes)
    return torch.tensor([known[label] for label in labels], dtype=torch.int64)  # type: ignore[union-attr]


def _number(label: Any, classes: Sequence[str]) -> int:
    if isinstance(label, str):
        if label in classes:
            return list(classes).index(label)
        # Where names are numbers, the position of a class would be mistaken for one of them.
        is_number = label.isdecimal() and not any(name.isdecimal() for name in classes)
        number = int(label) if is_number else -1
    else:
        is_number = isinstance(label, int | np.integer) and not isinstance(label, bool)
        number = int(label) if is_number else -1
    if not 0 <= number < len(classes):
        shown = ", ".join(classes[:20]) + (" …" if len(classes) > 20 else "")
        raise InputError(
            f"There is no class {label!r}: choose among {shown} (as text), or a number from 0 to {len(classes) - 1}."
        )
    return number
