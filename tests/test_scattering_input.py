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
        ({"J": 0}, "J=0", "at least 1"),
        ({"J": 5}, "J=5 does not fit images of 31x20", "between 1 and 4"),
        ({"J": -1}, "J=-1", "at least 1"),
        ({"J": 1, "shape": (1, 8)}, "height=1", "at least 2"),
        ({"J": 1, "shape": (8, 0)}, "width=0", "at least 2"),
        ({"J": 2, "L": 0}, "L=0", "at least 1"),
        ({"J": 2, "max_order": 3}, "max_order=3", "at most 2"),
        ({"J": 2, "max_order": -1}, "max_order=-1", "at least 0"),
        ({"J": 2, "padding": "wrap"}, "padding='wrap'", "'reflect', 'periodic' or 'zero'"),
        ({"J": 2, "padding": None}, "padding=None", "'reflect', 'periodic' or 'zero'"),
        ({"J": 3, "padding": "periodic"}, "multiples of 2^J = 8, not 31x20 pixels", "crop the images to 24x16"),
        ({"J": 2.0}, "J=2.0", "whole number"),
        ({"J": 2, "L": "8"}, "L='8'", "whole number"),
        ({"J": 2, "shape": 28}, "shape=28", "height and width"),
        ({"J": 2, "shape": (3, 28, 28)}, "shape=(3, 28, 28)", "height and width"),
        ({"J": 2, "shape": (28.0, 28.0)}, "height=28.0", "whole number"),
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
        (np.zeros((8, 8), np.uint8), "uint8", "x / 255"),
        (np.zeros((8, 8), bool), "bool", "floating-point"),
        (np.zeros((8, 8), complex), "complex128", "floating-point"),
        (np.zeros((8, 8), np.longdouble), "float128", "64 bits"),
        (np.full((8, 8), "0"), "<U1", "floating-point"),
        (np.ma.masked_equal(np.zeros((8, 8)), 0), "masked", "floating-point"),
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


def test_an_array_for_an_array():
    scattering = Scattering2D(J=2, shape=(12, 8), L=2)
    x = np.random.default_rng(0).random((3, 2, 12, 8))
    for dtype, found in (("f4", "f4"), ("f8", "f8"), ("f2", "f4"), (">f4", "f4"), (">f8", "f8")):
        images = x.astype(dtype)
        before = images.copy()
        s = scattering(images)
        assert type(s) is np.ndarray
        assert s.dtype == found
        expected = scattering(torch.from_numpy(images.astype(images.dtype.newbyteorder("="))))
        assert np.array_equal(s, expected.numpy())
        assert np.array_equal(images, before)


def test_arrays_of_any_layout(tmp_path):
    scattering = Scattering2D(J=1, shape=(8, 6), L=2)
    x = np.random.default_rng(0).random((4, 8, 6), dtype=np.float32)
    expected = scattering(x)
    np.save(tmp_path / "x.npy", x)
    read_only = x.copy()
    read_only.flags.writeable = False
    layouts = [np.asfortranarray(x), read_only, np.load(tmp_path / "x.npy", mmap_mode="r"), np.ma.masked_array(x)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # PyTorch warns of memory that may not be written to
        for images in layouts:
            assert np.array_equal(scattering(images), expected)
        assert np.array_equal(scattering(x[::-1, ::-1, ::-1]), scattering(x[::-1, ::-1, ::-1].copy()))
        assert scattering(x[:0]).shape == (0, *scattering.output_shape)


def test_an_array_is_checked_as_a_tensor_is():
    scattering = Scattering2D(J=1, shape=(8, 8), L=2)
    x = np.zeros((8, 8), np.float32)
    with pytest.raises(InputError, match=r"8x8.*\(8, 7\)"):
        scattering(x[:, 1:])
    x[3, 4] = np.nan
    with pytest.raises(InputError, match="NaN or infinite"):
        scattering(x)


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
