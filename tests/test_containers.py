"""Images, codes and features in the containers that people have: they work, or one sentence says what to do.

h5py, zarr, pandas, xarray and JAX are not needed: small classes have the same protocols.
"""

import re
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset

import scattergen as sg
from scattergen import InputError
from scattergen.datasets import Dataset, ImageArray, as_images, mnist, open_dataset
from scattergen.densities import Gaussian, GaussianMixture
from scattergen.encoder import PCAWhitening, ScatteringEncoder
from scattergen.encoder.scattering_encoder import reconstruct_codes
from scattergen.model import GenerativeScatteringNetwork
from scattergen.pipeline.evaluate import evaluate_run

OPTIONS = {
    "encoder": {"J": 1, "L": 4, "n_components": 6},
    "decoder": {"channels": [8, 4], "momentum": 0.5},
    "training": {"epochs": 1, "batch_size": 16},
    "densities": {"gaussian": {}},
}


class AsArray:
    """As a JAX array, an xarray.DataArray or a pandas.DataFrame: an array for who asks, and a name for its type."""

    def __init__(self, values):
        self.values = np.asarray(values)
        self.shape, self.dtype = self.values.shape, self.values.dtype

    def __len__(self):
        return len(self.values)

    def __array__(self, dtype=None, copy=None):
        return np.array(self.values, dtype=dtype)

    def __getitem__(self, index):
        raise TypeError(f"{index!r} is a label")

    def keys(self):
        return ["pixel 0", "pixel 1"]


class OnDisk(AsArray):
    """As a dataset of h5py: rows by slices forwards, and by increasing numbers, each once."""

    chunks = None

    def __getitem__(self, index):
        if isinstance(index, slice):
            assert index.step in (None, 1)
            assert 0 <= (index.start or 0) <= index.stop <= len(self)
        else:
            assert list(index) == sorted(set(index))
        return self.values[index]

    def __array__(self, dtype=None, copy=None):
        raise MemoryError("all of it, at once")


class SlicesOnly(OnDisk):
    """As an array of an early zarr, or what reads a file and is no array at all."""

    __array__ = None
    chunks = (2, 16, 16)

    def __getitem__(self, index):
        assert isinstance(index, slice)
        return super().__getitem__(index)


del SlicesOnly.__array__


class Interface:
    def __init__(self, values):
        self.__array_interface__, self._values = values.__array_interface__, values


class Capsule:
    """As an array of CuPy, but in this machine's memory."""

    def __init__(self, values):
        self._values = values

    def __dlpack__(self, **how):
        return self._values.__dlpack__(**how)

    def __dlpack_device__(self):
        return self._values.__dlpack_device__()


def pictures(levels, mode):
    return [Image.fromarray(one).convert(mode) for one in levels]


def objects(items):
    array = np.empty(len(items), object)
    array[:] = items
    return array


@pytest.fixture(scope="module")
def levels():
    return (mnist().train[:40][:, 0, 6:22, 6:22] * 255).round().byte().numpy()


@pytest.fixture(scope="module")
def model(levels):
    """A small fitted model, not to be changed."""
    return GenerativeScatteringNetwork.fit(ImageArray(levels), options=OPTIONS)


FLOATS = {
    "float tensor NCHW": lambda x: x,
    "float tensor NHW": lambda x: x[:, 0],
    "float tensor NHWC": lambda x: x.movedim(1, 3),
    "float64 tensor": torch.Tensor.double,
    "float16 tensor": torch.Tensor.half,
    "bfloat16 tensor": torch.Tensor.bfloat16,
    "tensor with gradients": lambda x: x.clone().requires_grad_(),
    "sparse tensor": torch.Tensor.to_sparse,
    "tensor of channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "float array": lambda x: x.numpy(),
    "float64 array": lambda x: x.double().numpy(),
    "float16 array": lambda x: x.half().numpy(),
    "longdouble array": lambda x: x.numpy().astype(np.longdouble),
    "big-endian array": lambda x: x.numpy().astype(">f4"),
    "Fortran order": lambda x: np.asfortranarray(x.numpy()),
    "negative strides": lambda x: np.flip(np.flip(x.numpy(), (0, 2)).copy(), (0, 2)),
    "nested lists": torch.Tensor.tolist,
    "list of float tensors": list,
    "DLPack": lambda x: Capsule(x),
    "stored floats": lambda x: OnDisk(x.numpy()),
}
LEVELS = {
    "uint8 array NHW": lambda x: x,
    "uint8 array NHWC": lambda x: x[..., None],
    "uint8 array NCHW": lambda x: x[:, None],
    "uint8 tensor NHW": torch.from_numpy,
    "uint8 tensor NHWC": lambda x: torch.from_numpy(x)[..., None],
    "read-only array": lambda x: np.frombuffer(x.tobytes(), np.uint8).reshape(x.shape),
    "memory map": lambda x: x.view(np.memmap),
    "array without masked values": np.ma.MaskedArray,
    "memoryview": memoryview,
    "list of arrays": list,
    "list of arrays HWC": lambda x: list(x[..., None]),
    "tuple of tensors": lambda x: tuple(torch.from_numpy(x)[:, None]),
    "array of objects": lambda x: objects(list(x)),
    "grey pictures": lambda x: pictures(x, "L"),
    "pictures with a palette of greys": lambda x: [p.quantize(256).convert("L") for p in pictures(x, "L")],
    "pictures with transparency": lambda x: pictures(x, "LA"),
    "array interface": Interface,
    "JAX array, xarray": AsArray,
    "h5py dataset": OnDisk,
    "h5py dataset NHWC": lambda x: OnDisk(x[..., None]),
    "zarr array": SlicesOnly,
}


@pytest.mark.parametrize("kind", [*FLOATS, *LEVELS])
def test_images_in_any_container(model, levels, kind):
    x = ImageArray(levels)[:]
    expected = x
    if "float16" in kind:
        expected = (x.bfloat16() if kind.startswith("b") else x.half()).float()
    container = LEVELS[kind](levels) if kind in LEVELS else FLOATS[kind](x)
    source = as_images(container)
    assert tuple(source.shape[-3:]) == (1, 16, 16)
    assert torch.equal(source[:], expected)
    rows = torch.tensor([7, 3, 3, 39, 4])
    assert torch.equal(source[rows], expected[rows])
    assert len(source[5:5]) == len(source[rows[:0]]) == 0
    assert torch.equal(model.encode(container), model.encode(expected))
    if kind in LEVELS:  # a run knows its images by this, whatever they came in
        assert source.fingerprint == ImageArray(levels).fingerprint


@pytest.mark.parametrize("kind", ["nested lists", "list of float tensors", "h5py dataset", "JAX array, xarray"])
def test_a_fit_and_a_reconstruction_are_those_of_the_images(model, levels, kind):
    container = LEVELS[kind](levels) if kind in LEVELS else FLOATS[kind](ImageArray(levels)[:])
    again = GenerativeScatteringNetwork.fit(container, options=OPTIONS)
    assert torch.equal(again.sample(3), model.sample(3))
    assert torch.equal(again.reconstruct(container), model.reconstruct(levels))


def test_pictures_in_colour_are_upright_and_on_white(levels):
    deep = Image.fromarray(np.full((4, 6), 128 * 257, np.uint16))
    assert as_images([deep])[:].unique().tolist() == [torch.tensor(128 / 255).item()]
    turned = Image.fromarray(np.arange(24, dtype=np.uint8).reshape(4, 6))
    turned.getexif()[0x0112] = 3
    assert torch.equal(as_images([turned])[:] * 255, torch.arange(23.0, -1, -1).reshape(1, 1, 4, 6))
    clear = Image.new("RGBA", (6, 4), (255, 0, 0, 0))
    assert (as_images([clear])[:] == 1).all()
    palette = Image.new("RGB", (6, 4), (10, 200, 30)).quantize(4)
    assert as_images(palette)[:].amax((0, 2, 3)).mul(255).round().tolist() == [10, 200, 30]


@pytest.mark.parametrize("as_tensor", [False, True])
def test_bool_images_are_0_and_1(model, levels, as_tensor):
    bits = levels > 127
    container = torch.from_numpy(bits) if as_tensor else bits
    assert torch.equal(model.encode(container), model.encode(bits.astype(np.float32)))
    with pytest.raises(InputError, match=r"torch.bool: give floating-point numbers, x.float\(\), 0 and 1\.$"):
        model.encoder.scattering(torch.from_numpy(bits))


def test_a_stored_array_is_read_in_parts_only(levels):
    """Of one that has NaN, too, the image is named; and a shuffled batch is a read of every run of rows."""
    stored = OnDisk(levels)
    reads = []
    read = OnDisk.__getitem__
    stored.__class__ = type("Counting", (OnDisk,), {"__getitem__": lambda s, i: reads.append(i) or read(s, i)})
    images = ImageArray(stored)
    assert reads == []  # nothing of 8-bit values is to be checked
    assert torch.equal(images[torch.tensor([9, 3, 8, 4, 3])], ImageArray(levels)[torch.tensor([9, 3, 8, 4, 3])])
    assert reads == [slice(3, 5), slice(8, 10)]
    broken = levels / np.float32(255)
    broken[33, 2, 2] = np.nan
    with pytest.raises(InputError, match=r"Image 33 of the .+ holds NaN"):
        as_images(OnDisk(broken))


def one_sentence(error):
    text = str(error)
    assert "\n" not in text
    assert text.endswith(".")
    assert not re.search(r"\. [A-Z]", text)
    return text


NO_IMAGES = [
    (lambda x: (one for one in x), "generator cannot be used as images: it can be gone over only once"),
    (lambda x: iter(x), "make it a list"),
    (lambda x: map(torch.from_numpy, x), "make it a list"),
    (lambda x: "digits/", r"open_dataset\(path\)"),
    (lambda x: Path("digits.npz"), r"open_dataset\(path\)"),
    (lambda x: ["a.png", "b.png"], r"open_dataset\(path\)"),
    (lambda x: [Path("a.png"), Path("b.png")], r"open_dataset\(path\)"),
    (lambda x: b"\x89PNG", r"open_dataset\(path\)"),
    (lambda x: {"x": x, "y": x}, "dict cannot be used as images: choose one of its arrays, x, y"),
    (lambda x: OrderedDict(a=x), "choose one of its arrays, a"),
    (lambda x: None, "NoneType cannot be used as images: give"),
    (lambda x: 5, "int cannot be used as images: give"),
    (lambda x: {1, 2}, "set cannot be used as images: give"),
    (lambda x: object(), "object cannot be used as images: give"),
    (lambda x: np.uint8(3), r"shape \(\): expected"),
    (lambda x: torch.tensor(0.5), r"shape \(\): expected"),
    (lambda x: [], r"shape \(0,\): expected"),
    (lambda x: x[:0], "no pixels: give at least one image"),
    (lambda x: [x[0], x[0, :8]], r"items have the shapes \(16, 16\) and \(8, 16\)"),
    (lambda x: [Image.new("L", (8, 8)), Image.new("RGB", (8, 8))], r"shapes \(8, 8\) and \(8, 8, 3\)"),
    (lambda x: (torch.rand(1, 16, 16), 7), r"items have the shapes \(1, 16, 16\) and \(\)"),
    (lambda x: [(one, 7) for one in x], "setting an array element.*of one shape and no labels"),
    (lambda x: [None, None], "its values are object"),
    (lambda x: np.array([["a"] * 4] * 4), "its values are <U1"),
    (lambda x: np.ma.MaskedArray(x, x > 3), r"MaskedArray.*masked, so fill them first, such as by filled\(0\)"),
    (lambda x: TensorDataset(torch.from_numpy(x)), r"torch.stack\(\[x for x, _ in data\]\)"),
    (lambda x: DataLoader(TensorDataset(torch.from_numpy(x))), r"torch.cat\(\[x for x, _ in data\]\)"),
    (lambda x: Dataset("both", ImageArray(x), ImageArray(x)), r"give one part, such as data\.train"),
    (lambda x: torch.zeros(12, 1, 16, 16, device="meta"), "Tensor cannot be used as images.*: give a tensor"),
    (lambda x: torch.nested.nested_tensor([torch.rand(4, 4), torch.rand(5, 4)]), "Tensor cannot be used as images"),
    (lambda x: torch.zeros(12, 16, 16, dtype=torch.complex64), "complex64 values"),
    (lambda x: x.astype(int).tolist(), r"int64 values.*numpy.asarray\(images\).astype\('uint8'\)"),
    (lambda x: AsArray(x.reshape(40, 256)), r"\(40, 256\).*reshape\(N, H, W\)"),
    (lambda x: Image.new("F", (16, 16)), "32-bit values have no fixed white"),
    (lambda x: np.repeat(x[..., None], 4, 3), "expected"),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize(("make", "words"), NO_IMAGES)
def test_what_holds_no_images_is_refused_in_one_sentence(model, levels, make, words):
    for use in (model.encode, model.reconstruct, lambda x: GenerativeScatteringNetwork.fit(x, options=OPTIONS)):
        with pytest.raises(InputError, match=words) as error:
            use(make(levels))
        one_sentence(error.value)


def test_one_image_of_a_source_is_asked_for_as_a_slice(levels):
    """As before."""
    with pytest.raises(TypeError, match=r"image i alone is images\[i : i \+ 1\]"):
        ImageArray(levels)[0]


# Codes and features


CODES = {
    "array": lambda z: z.numpy(),
    "float64 array": lambda z: z.double().numpy(),
    "float16 array": lambda z: z.half().numpy(),
    "longdouble array": lambda z: z.numpy().astype(np.longdouble),
    "big-endian array": lambda z: z.numpy().astype(">f4"),
    "read-only array": lambda z: np.frombuffer(z.numpy().tobytes(), np.float32).reshape(z.shape),
    "Fortran order": lambda z: np.asfortranarray(z.numpy()),
    "negative strides": lambda z: np.flip(np.flip(z.numpy()).copy()),
    "memoryview": lambda z: memoryview(z.numpy()),
    "nested lists": torch.Tensor.tolist,
    "tuple of arrays": lambda z: tuple(z.numpy()),
    "list of tensors": list,
    "pandas frame": lambda z: AsArray(z.numpy()),
    "h5py dataset": lambda z: OnDisk(z.numpy()),
    "DLPack": Capsule,
    "tensor with gradients": lambda z: z.clone().requires_grad_(),
    "sparse tensor": torch.Tensor.to_sparse,
    "bfloat16 tensor": torch.Tensor.bfloat16,
}


@pytest.mark.parametrize("kind", CODES)
def test_codes_in_any_container(model, levels, kind):
    z = model.encode(levels)
    given = CODES[kind](z)
    if "float16" in kind:
        z = (z.bfloat16() if kind.startswith("b") else z.half()).float()
    images = model.decode(z)
    assert torch.equal(model.decode(given), images)
    assert not images.requires_grad
    own = GenerativeScatteringNetwork(model.encoder, model.decoder)
    density = own.fit_density("gaussian", given)
    # Sums of float64 codes and of float32 ones are rounded otherwise, and those of 16 bits may be.
    expected = Gaussian().fit(z)
    assert torch.allclose(density.mean_, expected.mean_, atol=1e-2 if "float16" in kind else 1e-6)
    assert not density.mean_.requires_grad
    mixture = GaussianMixture(n_components=2).fit(given)
    assert torch.allclose(mixture.means_, GaussianMixture(n_components=2).fit(z).means_, atol=1e-4)
    logs = density.log_prob(given)
    assert torch.allclose(logs.float(), expected.log_prob(z), atol=0.5 if "float16" in kind else 1e-4)


@pytest.mark.parametrize("kind", [kind for kind in CODES if "float16" not in kind])
def test_features_in_any_container(kind):
    s = torch.randn(60, 8, generator=torch.Generator().manual_seed(0)) * torch.arange(1.0, 9)
    expected = PCAWhitening(3).fit(lambda: [s])
    given = CODES[kind](s)
    for batches in (given, lambda: [given], lambda: [CODES[kind](part) for part in s.split(25)]):
        found = PCAWhitening(3).fit(batches)
        # Products of 60 float32 terms, in other parts.
        assert torch.allclose(found.components_, expected.components_, atol=1e-4)
        assert not found.mean_.requires_grad
    assert torch.allclose(found.transform(given).float(), expected.transform(s), atol=1e-3)
    z = expected.transform(s)
    assert torch.allclose(found.inverse_transform(CODES[kind](z)).float(), expected.inverse_transform(z), atol=1e-3)


NO_CODES = [
    (lambda z: None, "NoneType cannot be used as codes: give a tensor"),
    (lambda z: "codes.npz", "str cannot be used as codes: read the files first"),
    (lambda z: {"codes": z}, "choose one of its arrays, codes"),
    (lambda z: (row for row in z), "make it a list"),
    (lambda z: [[1.0, 2.0], [3.0]], r"shapes \(2,\) and \(1,\)"),
    (lambda z: z[0], r"\(6,\)"),
    (lambda z: z[None], r"\(1, 40, 6\)"),
    (lambda z: z * torch.nan, "NaN"),
    (lambda z: z.to("meta"), "Tensor cannot be used as codes"),
    (lambda z: np.array([["a"] * 6]), "its values are <U1"),
]


@pytest.mark.parametrize(("make", "words"), NO_CODES)
def test_what_holds_no_codes_is_refused_in_one_sentence(model, levels, make, words):
    z = model.encode(levels)
    for use in (
        model.decode,
        lambda z: model.fit_density("gaussian", z, stored_as="none"),
        GaussianMixture(n_components=2).fit,
        lambda z: reconstruct_codes(z, model.encoder),
    ):
        with pytest.raises(InputError, match=words) as error:
            use(make(z))
        one_sentence(error.value)
    assert "none" not in model.densities


@pytest.mark.parametrize(
    "given", [None, "features.npy", [torch.zeros(3, 4), torch.zeros(2, 4)], torch.zeros(3), {"s": 1}]
)
def test_what_holds_no_features_is_refused_in_one_sentence(given):
    for batches in (given, lambda: [given]):
        with pytest.raises(InputError, match="features") as error:
            PCAWhitening(1).fit(batches)
        one_sentence(error.value)


@pytest.mark.parametrize("value", [3e38, -3e38, 1e30, 1.1e6, 1e300])
@pytest.mark.parametrize("row", [0, 7, 39])
def test_codes_that_are_none_are_refused_by_their_row(model, levels, value, row):
    z = model.encode(levels).double()
    z[row, 3] = value
    with pytest.raises(InputError, match=rf"Code {row} reaches .*never beyond 1,000,000: use codes") as error:
        model.decode(z)
    one_sentence(error.value)
    z[row, 3] = 999_999
    assert torch.isfinite(model.decode(z)).all()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda z: z > 0, "The codes hold torch.bool values: give real numbers"),
        (lambda z: z + 0j, "The codes hold torch.complex64 values: give real numbers"),
        (lambda z: torch.quantize_per_tensor(z, 0.1, 0, torch.qint8), r"as codes: turn it into floats .* dequantize"),
    ],
)
@pytest.mark.filterwarnings("ignore")  # quantised tensors will go
def test_codes_that_are_no_real_numbers_are_refused(model, levels, change, words):
    with pytest.raises(InputError, match=words) as error:
        model.decode(change(model.encode(levels)))
    one_sentence(error.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x: x + 0j, "array holds complex64 values"),
        (lambda x: (x + 0j).conj(), "array holds complex64 values"),
        (lambda x: x.to(torch.complex32), "array holds complex64 values"),
        (lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.quint8), r"as images: turn it into floats .* dequant"),
        (lambda x: x[0], r"got \(3, 1, 16, 16\): if that is one colour image, add the axis N in front"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_tensors_that_hold_no_images_are_refused_in_a_sentence(change, words):
    encoder = ScatteringEncoder((3, 16, 16), J=1, n_components=4)
    with pytest.raises(InputError, match=words) as error:
        encoder.features(as_images(change(torch.rand(2, 3, 16, 16)))[:])
    one_sentence(error.value)


@pytest.mark.parametrize("n", [10**12, 2**62])
def test_more_images_than_memory_holds(model, n):
    with pytest.raises(InputError, match=r"GiB of memory.*make fewer \(-n\), or parts"):
        model.sample(n)


# Images of another kind than a run's


@pytest.mark.parametrize(
    ("size", "mode", "options", "words"),
    [
        ((32, 32), "RGB", (), "made grey and resized from 32×32 to 28×28"),
        ((28, 28), "RGB", (), "made grey, as those"),
        ((40, 30), "L", (), "are resized from 40×30 to 28×28"),
        ((28, 28), "P", (), "made grey, as those"),
        ((28, 28), "L", (), None),
        ((28, 28), "LA", (), None),
        ((32, 32), "RGB", ("--size", 28, "--mode", "L"), None),
        ((32, 32), "RGB", ("--size", 28), "made grey, as those"),
        ((32, 32), "RGB", ("--mode", "L"), "are resized from 32×32 to 28×28"),
        ((32, 32), "L", ("--crop", 28), None),
    ],
)
@pytest.mark.parametrize("command", ["encode", "reconstruct"])
def test_files_of_another_kind_are_converted_with_a_warning(
    scattergen, fitted, tmp_path, command, size, mode, options, words
):
    (tmp_path / "images").mkdir()
    for name in "ab":
        picture = Image.new("RGB", size, (200, 40, 90))
        picture = picture.quantize(4) if mode == "P" else picture.convert(mode)
        picture.save(tmp_path / "images" / f"{name}.png")
    use = [command, fitted, tmp_path / "images", "--out", tmp_path / "out.npz", *options]
    err = scattergen(*use, "-q", showing_warnings=True).err
    assert err.count("warning: ") == (words is not None)
    assert words is None or words in err
    assert sg.load(fitted).decoder.image_shape == (1, 28, 28)


@pytest.mark.parametrize(
    "make", [lambda x: x, torch.from_numpy, ImageArray, lambda x: Dataset("mine", x), lambda x: "mnist"]
)
def test_an_evaluation_is_of_datasets(fitted, digits, levels, make):
    given = make(levels)
    for data, reference in ((given, None), (open_dataset(digits), given)):
        with pytest.raises(InputError, match="holds no source of images: give what open_dataset opens") as error:
            evaluate_run(fitted, data, reference=reference)
        one_sentence(error.value)
