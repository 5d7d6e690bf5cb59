"""Classes of images: labels as numbers without gaps, and the classes' names."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from scattergen.datasets.source import ImageSource
from scattergen.errors import InputError


class ClassLabels(NamedTuple):
    """Classes of images.

    Attributes:
        labels: Class of every image, (N,) int64, from 0 to C - 1, each of which occurs.
        classes: Names of the C classes.
    """

    labels: Tensor
    classes: tuple[str, ...]


def class_labels(images: ImageSource | Tensor) -> ClassLabels | None:
    """The classes of images, if they have labels.

    Args:
        images: A source; its attribute `classes`, if there is one, names the classes in the order
            of their labels. Without it, the labels are the names.

    Returns:
        Labels and names; classes without an image are left out. None for images without labels.

    Raises:
        InputError: If the labels are not one integer per image, or have no name.

    Example:
        >>> from scattergen.datasets import mnist
        >>> class_labels(mnist().train).classes[:3]
        ('0', '1', '2')
    """
    labels = None if isinstance(images, Tensor) else getattr(images, "labels", None)
    if labels is None:
        return None
    values = labels.detach().cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    if values.shape != (len(images),) or not np.issubdtype(values.dtype, np.integer):
        raise InputError(
            f"The labels of the images are {values.dtype} of shape {values.shape}: expected one "
            f"integer per image, shape ({len(images)},)."
        )
    there, numbers = np.unique(values, return_inverse=True)
    names = getattr(images, "classes", None)
    if names is None:
        names = {value: str(value) for value in there.tolist()}
    else:
        unnamed = [value for value in there.tolist() if not 0 <= value < len(names)]
        if unnamed:
            raise InputError(
                f"Label {unnamed[0]} of the images has no name, since there are {len(names)} "
                "classes: name them all, in the order of their labels from 0."
            )
    return ClassLabels(torch.from_numpy(numbers), tuple(str(names[v]) for v in there.tolist()))
