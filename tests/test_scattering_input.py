"""Input that cannot be transformed is refused with one sentence that says what to do."""

import warnings

import numpy as np
import pytest
import torch

from scattergen.errors import InputError
from scattergen.scattering import Scattering2D, transform


@pytest.mark.parametrize(
    ("arguments", "culprit", "remedy"),
    [
        ({"J": 0}, "J=0", "between 1 and 4"),
        ({"J": 5}, "J=5 does not fit images of 31x20", "between 1 and 4"),
        ({"J": -1}, "J=-1", "between 1 and 4"),
        ({"J": 1, "shape": (1, 8)}, "1x8", "at least 2"),
        ({"J": 1, "shape": (8, 0)}, "8x0", "at least 2"),
        ({"J": 2, "L": 0}, "L=0", "at least 1"),
        ({"J": 2, "max_order": 3}, "max_order=3", "0, 1 or 2"),
        ({"J": 2, "max_order": -1}, "max_order=-1", "0, 1 or 2"),
        ({"J": 2.0}, "J=2.0", "whole numbers"),
        ({"J": 2, "L": "8"}, "L='8'", "whole numbers"),
        ({"J": 2, "shape": 28}, "shape=28", "height and width"),
        ({"J": 2, "shape": (3, 28, 28)}, "shape=(3, 28, 28)", "height and width"),
        ({"J": 2, "shape": (28.0, 28.0)}, "shape=(28.0, 28.0)", "whole numbers"),
    ],
)
def test_arguments_out_of_range(arguments, culprit, remedy):
    with pytest.raises(InputError) as error:
        Scattering2D(**({"shape": (31, 20)} | arguments))
    assert culprit in str(error.value)
    assert remedy in str(error.value)


@pytest.mark.parametrize("shape", [(20, 31), (5, 31, 21), (31,), (31, 20, 1), ()])
def test_images_of_another_shape(shape):
    scattering = Scattering2D(J=2, shape=(31, 20), L=2)
    with pytest.raises(InputError, match="31x20") as error:
        scattering(torch.zeros(shape))
    assert str(tuple(shape)) in str(error.value)


@pytest.mark.parametrize(
    ("x", "culprit", "remedy"),
    [
        (torch.zeros(8, 8, dtype=torch.uint8), "torch.uint8", "x.float() / 255"),
        (torch.zeros(8, 8, dtype=torch.int64), "torch.int64", "x.float() / 255"),
        (torch.zeros(8, 8, dtype=torch.bool), "torch.bool", "numbers, x.float(), 0 and 1."),
        (torch.zeros(8, 8, dtype=torch.complex64), "torch.complex64", "x.abs()"),
        (np.zeros((8, 8), np.float32), "ndarray", "torch.as_tensor"),
        (np.zeros((8, 8), np.uint8), "ndarray", "torch.as_tensor"),
        ([[0.0] * 8] * 8, "list", "torch.as_tensor"),
        (None, "NoneType", "torch.as_tensor"),
    ],
)
def test_input_of_another_type(x, culprit, remedy):
    scattering = Scattering2D(J=1, shape=(8, 8), L=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # PyTorch warns when it drops an imaginary part
        with pytest.raises(InputError) as error:
            scattering(x)
    assert culprit in str(error.value)
    assert remedy in str(error.value)


def test_what_the_message_proposes_works():
    scattering = Scattering2D(J=1, shape=(8, 8), L=2)
    levels = torch.arange(64, dtype=torch.uint8).reshape(8, 8)
    expected = scattering(levels.float() / 255)
    array = (levels.numpy() / 255).astype(np.float32)
    assert torch.equal(scattering(torch.as_tensor(array, dtype=torch.float32)), expected)
    broken = levels.float() / 255
    broken[3, 4] = torch.nan
    assert torch.isfinite(scattering(broken.nan_to_num())).all()


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_pixels_that_are_not_finite(monkeypatch, compiled, value, dtype):
    if not compiled:
        monkeypatch.setattr(transform, "compiled_kernels", lambda: None)
    scattering = Scattering2D(J=1, shape=(8, 8), L=2)
    x = torch.zeros(3, 8, 8, dtype=dtype)
    scattering(x)
    x[2, 7, 0] = value
    for images in (x, x.clone().requires_grad_(), x.transpose(-1, -2)):
        with pytest.raises(InputError, match="NaN or infinite"):
            scattering(images)


def test_large_finite_pixels_are_not_refused():
    scattering = Scattering2D(J=1, shape=(8, 8), L=2)
    # The largest half-precision number and its negative, whose difference is not finite there.
    x = torch.full((8, 8), 65504.0, dtype=torch.float16)
    x[0] = -65504.0
    assert torch.isfinite(scattering(x)).all()
