"""Features of digits: the penultimate layer of a small classifier of MNIST that is shipped."""

import functools
from collections.abc import Mapping
from importlib.resources import files

import torch
from safetensors.torch import load
from torch import Tensor, nn

from scattergen.datasets import ImageSource
from scattergen.display.progress import SILENT, Progress
from scattergen.evaluation.features import check_images, in_batches
from scattergen.files import read_known

VERSION = "1"
FILE = f"mnist-classifier-{VERSION}.safetensors"
SHA256 = "1a0bda9832405b4b1efbb42d968e9e6dfaef82217d12f27399639cbed930f86e"
_BATCH = 32  # activations of more images leave a core's cache: half the speed


class DigitClassifier(nn.Module):
    """Three convolutions and two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for channels, wider in ((1, 32), (32, 64), (64, 96)):
            pool = nn.MaxPool2d(2, ceil_mode=True)  # 28 -> 14 -> 7 -> 4
            layers += [nn.Conv2d(channels, wider, 3, padding=1, bias=False), nn.BatchNorm2d(wider), nn.ReLU(), pool]
        # Batch normalisation keeps every feature alive and all of them on one scale, on which the kernel distance
        # depends; dropout keeps them from becoming indicators of ten classes.
        layers += [nn.Flatten(), nn.Linear(96 * 4 * 4, 128, bias=False), nn.BatchNorm1d(128)]
        self.features = nn.Sequential(*layers, nn.ReLU())
        self.logits = nn.Sequential(nn.Dropout(0.3), nn.Linear(128, 10))

    def forward(self, x: Tensor) -> Tensor:
        """Logits, (N, 10), of digits (N, 1, 28, 28) in [0, 1]."""
        return self.logits(self.features(x))


class DigitFeatures:
    """Features of 28×28 grey images: 128 activations of a classifier of MNIST that is shipped.

    `tools/train_mnist_classifier.py` trained it (see `docs/evaluation.md`). Distances are comparable only within one
    `version`. An `InputError` if the installed file of weights is missing or is not the one that was shipped.

    Example:
        >>> DigitFeatures()(torch.rand(3, 1, 28, 28)).shape
        torch.Size([3, 128])
    """

    name = "mnist-classifier"
    version = VERSION

    def __init__(self) -> None:
        self.classifier = DigitClassifier().eval()
        self.classifier.load_state_dict(_weights())
        self.classifier.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def __call__(self, images: ImageSource | Tensor, progress: Progress = SILENT) -> Tensor:
        """Features (N, 128), float32, not negative, of images (N, 1, 28, 28) in [0, 1]; an `InputError` for others."""
        return in_batches(check_images(images, (1, 28, 28)), self._features, 128, _BATCH, progress)

    def _features(self, batch: Tensor) -> Tensor:
        return self.classifier.features(batch.to("cpu", memory_format=torch.channels_last))


@functools.cache
def _weights() -> Mapping[str, Tensor]:
    return load(read_known(files("scattergen.evaluation") / "data" / FILE, SHA256, "reinstall scattergen"))
