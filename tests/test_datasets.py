"""MNIST, arrays, subsets and open_dataset; the decoding of folders has a test file of its own."""

import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from scattergen.datasets import ImageArray, ImageSource, Subset, arrays, mnist, open_dataset
from scattergen.datasets.containers import Stored
from scattergen.datasets.source import positions
from scattergen.errors import InputError


def grey_levels(n=12, height=6, width=5, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, height, width), dtype=np.uint8)


# MNIST


def test_mnist_is_canonical():
    digits = mnist()
    assert (digits.name, len(digits.train), len(digits.test)) == ("mnist", 60_000, 10_000)
    assert digits.train.shape == digits.test.shape == (1, 28, 28)
    assert digits.test.labels[:5].tolist() == [7, 2, 1, 0, 4]
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert torch.bincount(digits.train.labels).tolist() == counts
    # float32 division errs by at most 2^-24 relative, 33.3 * 6e-8 = 2e-6 in the mean; the
    # published mean is rounded at the sixth decimal, 5e-7.
    mean = digits.train[:].double().mean().item() * 255
    assert mean == pytest.approx(33.318421, abs=2.5e-6)
    assert digits.train.fingerprint != digits.test.fingerprint


def test_mnist_is_upright():
    # The first training digit, a 5, has its bar at the top right and its bowl's end at the left.
    five = mnist().train[:1][0, 0]
    assert five[5, 14:24].mean() > 0.4
    assert five[5, :10].max() == 0
    assert five[23, 4:12].mean() > 0.4
    assert five[23, 18:].max() == 0


def test_damaged_or_missing_mnist_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(sys.modules["scattergen.datasets.published"], "files", lambda _: tmp_path)
    with pytest.raises(InputError, match=r"mnist\.npz cannot be read .*einstall"):
        mnist.__wrapped__()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mnist.npz").write_bytes(b"not the digits")
    with pytest.raises(InputError, match=r"mnist\.npz is damaged or .* its SHA-256 is .*; reinstall"):
        mnist.__wrapped__()


# Indexing and subsets


@settings(deadline=None)  # a loaded machine is no failure
@given(n=st.integers(1, 20), data=st.data())
def test_positions_select_like_a_list(n, data):
    index = data.draw(st.slices(n))
    assert positions(index, n).tolist() == list(range(n))[index]
    numbers = data.draw(st.lists(st.integers(-n, n - 1)))
    expected = [list(range(n))[i] for i in numbers]
    assert positions(torch.tensor(numbers, dtype=torch.int64), n).tolist() == expected


@pytest.mark.parametrize("index", [0, [0, 1], torch.tensor(1), torch.tensor([True]), torch.tensor([[0]])])
def test_other_indices_are_type_errors(index):
    images = ImageArray(grey_levels())
    for source in (images, Subset(images, slice(3))):
        with pytest.raises(TypeError, match="slice or a 1-D LongTensor"):
            source[index]


def test_numbers_out_of_range_are_index_errors():
    images = ImageArray(grey_levels(n=4))
    for source in (images, Subset(images, slice(None))):
        with pytest.raises(IndexError):
            source[torch.tensor([4])]


@settings(deadline=None)  # a loaded machine is no failure
@given(data=st.data())
def test_subset_is_the_source_at_its_positions(data):
    images = ImageArray(grey_levels(n=9), np.arange(9))
    outer = torch.tensor(data.draw(st.lists(st.integers(-9, 8), min_size=1)))
    inner = data.draw(st.slices(len(outer)))
    subset = Subset(images, outer)
    assert isinstance(subset, ImageSource)
    assert len(subset) == len(outer)
    assert subset.shape == images.shape
    assert torch.equal(subset[inner], images[outer[positions(inner, len(outer))]])
    assert torch.equal(subset.labels, images.labels[outer])


def test_subset_fingerprint_depends_on_source_and_selection():
    one, two = ImageArray(grey_levels(seed=1)), ImageArray(grey_levels(seed=2))
    prints = {Subset(images, part).fingerprint for images in (one, two) for part in SLICES}
    assert len(prints) == 2 * len(SLICES)
    assert Subset(one, slice(3)).fingerprint == Subset(one, torch.arange(3)).fingerprint


SLICES = [slice(3), slice(4), slice(None, None, -1)]


# Arrays


@settings(deadline=None)  # a loaded machine is no failure
@given(
    pixels=hnp.arrays(np.uint8, hnp.array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=8)),
    channels=st.sampled_from([1, 3]),
    layout=st.sampled_from(["NHW", "NHWC", "NCHW"]),
    data=st.data(),
)
def test_uint8_batches_are_levels_over_255_in_every_layout(pixels, channels, layout, data):
    n = len(pixels)
    planes = np.stack([pixels // (k + 1) for k in range(1 if layout == "NHW" else channels)], 1)
    given_as = {"NHW": planes[:, 0], "NCHW": planes, "NHWC": np.ascontiguousarray(planes.transpose(0, 2, 3, 1))}[layout]
    images = ImageArray(given_as, layout=layout)
    index = data.draw(st.slices(n))
    batch = images[index]
    assert (len(images), images.shape) == (n, planes.shape[1:])
    assert batch.dtype == torch.float32
    assert batch.is_contiguous()
    # Exactly: both round the quotient of two exactly represented integers to float32 once.
    assert np.array_equal(batch.numpy(), planes[index].astype(np.float32) / np.float32(255))
    assert torch.equal(images[torch.from_numpy(positions(index, n))], batch)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((5, 8, 9), (1, 8, 9)),
        ((5, 8, 9, 1), (1, 8, 9)),
        ((5, 8, 9, 3), (3, 8, 9)),
        ((5, 1, 8, 9), (1, 8, 9)),
        ((5, 3, 8, 9), (3, 8, 9)),
        ((1, 3, 3), None),
        ((8, 9), None),
        ((8, 9, 3), None),
        ((8, 9, 1), None),
        ((5, 3, 8, 3), None),
        ((5, 8, 9, 4), None),
        ((5, 4, 8, 9), None),
        ((8,), None),
        ((2, 2, 3, 8, 9), None),
        ((0, 8, 9), None),
        ((5, 0, 9), None),
    ],
)
def test_layout_follows_from_the_shape_or_is_refused(shape, expected):
    levels = np.zeros(shape, np.uint8)
    if expected is None:
        with pytest.raises(InputError, match=rf"^faces\.npy has shape \({shape[0]},"):
            ImageArray(levels, name="faces.npy")
    else:
        assert ImageArray(levels).shape == expected


def test_ambiguous_layout_can_be_given_and_must_fit():
    levels = np.arange(5 * 3 * 8 * 3, dtype=np.uint8).reshape(5, 3, 8, 3)
    with pytest.raises(InputError, match=r"layout='NCHW'"):
        ImageArray(levels)
    assert ImageArray(levels, layout="NCHW").shape == (3, 8, 3)
    assert ImageArray(levels, layout="NHWC").shape == (3, 3, 8)
    for wrong in ("NHW", "HWC"):
        with pytest.raises(InputError, match="does not fit layout"):
            ImageArray(levels, layout=wrong)
    with pytest.raises(InputError, match="8 channels: expected 1"):
        ImageArray(levels.transpose(0, 2, 1, 3), layout="NCHW")


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4", ">f8"])
def test_floats_are_kept(dtype):
    values = np.linspace(0, 1, 5 * 8 * 9).reshape(5, 8, 9).astype(dtype)
    images = ImageArray(values)
    assert images[:].dtype == torch.float32
    assert np.array_equal(images[:].numpy()[:, 0], values.astype(np.float32))


def test_tensors_are_accepted_and_not_aliased():
    values = torch.linspace(0, 1, 4 * 3 * 8 * 9).reshape(4, 3, 8, 9)
    images = ImageArray(values, labels=torch.tensor([0, 1, 0, 1]))
    batch = images[:2]
    batch.zero_()
    assert torch.equal(images[:], values)
    # bfloat16, which NumPy does not know, is exact in float32.
    assert torch.equal(ImageArray(values.bfloat16())[:], values.bfloat16().float())


@pytest.mark.parametrize("dtype", ["int64", "uint16", "int8", "complex64", "object"])
def test_other_dtypes_are_refused_with_the_remedy(dtype):
    with pytest.raises(InputError, match=r"^x holds .* expected uint8 .*astype\('uint8'\)"):
        ImageArray(np.zeros((2, 4, 5), dtype), name="x")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.nan, "Image 7 of x holds NaN or infinite"),
        (np.inf, "Image 7 of x holds NaN or infinite"),
        (-np.inf, "Image 7 of x holds NaN or infinite"),
        (255.0, r"Image 7 of x has values from 0 to 255: .*by 255"),
        (-1.0, r"Image 7 of x has values from -1 to 0: .*\(x \+ 1\) / 2"),
    ],
)
def test_bad_floats_name_the_first_bad_image(value, message, monkeypatch):
    # 20 bytes: one image of 2 × 2 float32 a piece, so that numbering across pieces is tested.
    monkeypatch.setattr(arrays, "_PIECE_BYTES", 20)
    values = np.zeros((10, 2, 2), np.float32)
    values[7, 1, 1] = values[9, 0, 0] = value
    with pytest.raises(InputError, match=message):
        ImageArray(values, name="x")


@pytest.mark.parametrize("labels", [np.zeros(11, int), np.zeros(12), np.zeros((12, 10), int), np.array(["a"] * 12)])
def test_labels_must_be_one_integer_per_image(labels):
    with pytest.raises(InputError, match=r"labels of x .*expected one integer for each"):
        ImageArray(grey_levels(n=12), labels, name="x")


def test_fingerprint_is_of_the_content(monkeypatch):
    levels = np.random.default_rng(0).integers(0, 256, (6, 8, 9, 3), dtype=np.uint8)
    first = ImageArray(levels).fingerprint
    monkeypatch.setattr(arrays, "_PIECE_BYTES", 8 * 9 * 3 * 2)
    assert ImageArray(levels.copy()).fingerprint == first
    assert ImageArray(levels.transpose(0, 3, 1, 2)).fingerprint == first
    changed = levels.copy()
    changed[5, 7, 8, 2] ^= 1
    others = [
        ImageArray(changed),
        ImageArray(levels[:5]),
        ImageArray(levels, np.zeros(6, int)),
        ImageArray(levels.reshape(6, 9, 8, 3)),
    ]
    assert len({first, *(other.fingerprint for other in others)}) == 5
    floats = np.linspace(0, 1, 60).reshape(3, 4, 5)
    swapped = ImageArray(floats.astype(">f8")).fingerprint
    assert swapped == ImageArray(floats).fingerprint


# open_dataset: arrays


def test_open_mnist_by_name():
    assert open_dataset("mnist") is mnist()
    assert open_dataset("mnist", size=28, mode="L") is mnist()


def test_npy_is_read_as_needed_and_its_last_tenth_is_the_test_set(tmp_path):
    levels = grey_levels(n=25)
    np.save(tmp_path / "shapes.npy", levels)
    dataset = open_dataset(tmp_path / "shapes.npy")
    assert dataset.name == "shapes"
    assert isinstance(dataset.train.source._images, Stored)
    expected = ImageArray(levels)[:]
    assert torch.equal(dataset.train[:], expected[:23])
    assert torch.equal(dataset.test[:], expected[23:])
    assert dataset.train.labels is None


@pytest.mark.parametrize(("n", "fraction", "n_test"), [(1, 0.1, 0), (2, 0.1, 1), (19, 0.1, 1), (20, 0.1, 2), (9, 0, 0)])
def test_size_of_the_test_set(tmp_path, n, fraction, n_test):
    np.save(tmp_path / "x.npy", grey_levels(n=n))
    dataset = open_dataset(tmp_path / "x.npy", test_fraction=fraction)
    assert len(dataset.train) == n - n_test
    assert (dataset.test is None) if n_test == 0 else (len(dataset.test) == n_test)


def test_test_set_has_at_most_10000_images(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((100_020, 2, 2), np.uint8))
    assert len(open_dataset(tmp_path / "x.npy").test) == 10_000


@pytest.mark.parametrize("fraction", [-0.1, 1.0, float("nan")])
def test_test_fraction_must_be_a_share(fraction):
    with pytest.raises(InputError, match=r"test_fraction=.* give 0 ≤ share < 1"):
        open_dataset("mnist", test_fraction=fraction)


def test_npz_with_its_own_split(tmp_path):
    train, test = grey_levels(n=9, seed=1), grey_levels(n=4, seed=2)
    path = tmp_path / "split.npz"
    np.savez_compressed(path, x_train=train, y_train=np.arange(9, dtype=np.uint8), x_test=test, y_test=np.arange(4))
    dataset = open_dataset(str(path))
    assert torch.equal(dataset.train[:], ImageArray(train)[:])
    assert torch.equal(dataset.test[:], ImageArray(test)[:])
    assert dataset.train.labels.tolist() == list(range(9))
    assert dataset.train.labels.dtype == torch.int64
    np.savez(path, x_train=train, x_test=test)
    assert open_dataset(path).test.labels is None
    np.savez(path, x_train=train, y_train=np.arange(9))
    assert open_dataset(path).test.labels.tolist() == [8]


@pytest.mark.parametrize(
    ("keys", "labels"), [(["images", "labels"], True), (["x", "y"], True), (["x", "z"], False), (["faces"], False)]
)
def test_npz_with_one_image_array(tmp_path, keys, labels):
    levels = grey_levels(n=10)
    np.savez(tmp_path / "one.npz", **{keys[0]: levels}, **{key: np.arange(10) for key in keys[1:]})
    dataset = open_dataset(tmp_path / "one.npz")
    assert torch.equal(dataset.train[:], ImageArray(levels)[:9])
    assert (dataset.train.labels is not None) == labels


def test_npz_errors_name_the_file_and_the_array(tmp_path):
    path = tmp_path / "odd.npz"
    np.savez(path, a=grey_levels(), b=grey_levels())
    with pytest.raises(InputError, match=r"odd\.npz holds a, b: expected x_train and x_test"):
        open_dataset(path)
    np.savez(path)
    with pytest.raises(InputError, match=r"odd\.npz holds no arrays"):
        open_dataset(path)
    np.savez(path, images=grey_levels().astype(np.int64))
    with pytest.raises(InputError, match=r"odd\.npz\[images\] holds int64"):
        open_dataset(path)
    np.savez(path, x_train=grey_levels(width=5), x_test=grey_levels(width=7))
    with pytest.raises(InputError, match=r"odd\.npz: training images have shape \(1, 6, 5\)"):
        open_dataset(path)


def write_objects(path):
    np.save(path.with_suffix(".npy"), np.array([{}, None], dtype=object), allow_pickle=True)
    np.savez(path.with_suffix(".npz"), images=np.array([{}, None], dtype=object))


def write_empty(path):
    for suffix in (".npy", ".npz"):
        path.with_suffix(suffix).write_bytes(b"")


def write_text(path):
    for suffix in (".npy", ".npz"):
        path.with_suffix(suffix).write_text("pixels, but not these")


def write_swapped(path):
    np.savez(path.with_suffix(".npz"), grey_levels())
    path.with_suffix(".npz").rename(path.with_suffix(".npy"))
    with open(path.with_suffix(".npz"), "wb") as file:
        np.save(file, grey_levels())


def write_truncated(path):
    np.save(path.with_suffix(".npy"), grey_levels(n=100))
    np.savez_compressed(path.with_suffix(".npz"), images=grey_levels(n=100))
    for suffix in (".npy", ".npz"):
        content = path.with_suffix(suffix).read_bytes()
        path.with_suffix(suffix).write_bytes(content[: len(content) // 2])


def write_corrupted(path):
    write_truncated(path)
    np.savez_compressed(path.with_suffix(".npz"), images=grey_levels(n=100))
    content = bytearray(path.with_suffix(".npz").read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.with_suffix(".npz").write_bytes(content)


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
@pytest.mark.parametrize(
    "write", [write_objects, write_empty, write_text, write_swapped, write_truncated, write_corrupted]
)
def test_bad_array_files_are_one_sentence_with_the_name(tmp_path, write, suffix):
    path = tmp_path / "bad"
    write(path)
    with pytest.raises(InputError) as caught:
        open_dataset(path.with_suffix(suffix))
    message = str(caught.value)
    assert message.startswith(f"{path}{suffix} cannot be read as a {suffix} file (")
    assert "\n" not in message


def test_arrays_are_neither_resized_nor_converted(tmp_path):
    np.save(tmp_path / "x.npy", grey_levels())
    with pytest.raises(InputError, match=r"holds 5×6 images, which size=32 cannot change"):
        open_dataset(tmp_path / "x.npy", size=32)
    with pytest.raises(InputError, match=r"1 channels, which mode='RGB' cannot change"):
        open_dataset("mnist", mode="RGB")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere", "nowhere does not exist"),
        ("nowhere.npy", r"nowhere\.npy does not exist"),
        ("table.csv", r"table\.csv has an unknown type \(extension \.csv\)"),
        ("bare", r"bare has an unknown type \(extension none\)"),
        ("a\0b", "does not exist"),
        ("x" * 5000, "does not exist"),
    ],
)
def test_other_sources_are_refused(tmp_path, name, message):
    for existing in ("table.csv", "bare"):
        (tmp_path / existing).write_text("x")
    with pytest.raises(InputError, match=message):
        open_dataset(tmp_path / name)


def test_the_home_folder_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    np.save(tmp_path / "x.npy", grey_levels())
    assert open_dataset("~/x.npy").name == "x"


# CIFAR and what is like it


def write_cifar(folder, *, hundred=False):
    """Three training images of two files (one of CIFAR-100's) and a test image, their class i."""
    pixels = grey_levels(n=4 * 3, height=32, width=32).reshape(4, 3, 32, 32)
    front = [[9, i] if hundred else [i] for i in range(4)]
    rows = [bytes(labels) + x.tobytes() for labels, x in zip(front, pixels, strict=True)]
    files = {"data_batch_1.bin": rows[:2], "data_batch_2.bin": rows[2:3], "test_batch.bin": rows[3:]}
    if hundred:
        files = {"train.bin": rows[:3], "test.bin": rows[3:]}
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(b"".join(content))
    return pixels


@pytest.mark.parametrize("hundred", [False, True])
def test_cifars_binary_version(tmp_path, hundred):
    pixels = write_cifar(tmp_path / "cifar", hundred=hundred)
    names = "fine_label_names.txt" if hundred else "batches.meta.txt"
    (tmp_path / "cifar" / names).write_text("cat\ndog\nowl\nrat\n\n")
    dataset = open_dataset(tmp_path / "cifar")
    assert dataset.name == "cifar"
    assert torch.equal(dataset.train[:], torch.from_numpy(pixels[:3]).float() / 255)
    assert torch.equal(dataset.test[:], torch.from_numpy(pixels[3:]).float() / 255)
    assert dataset.train.labels.tolist() == [0, 1, 2]
    assert dataset.test.classes == ("cat", "dog", "owl", "rat")
    (tmp_path / "cifar" / names).unlink()
    assert open_dataset(tmp_path / "cifar").train.classes is None


def test_cut_off_cifar_is_refused(tmp_path):
    write_cifar(tmp_path / "cifar")
    file = tmp_path / "cifar" / "data_batch_2.bin"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"data_batch_2\.bin has 3072 bytes, .* 3073 per image"):
        open_dataset(tmp_path / "cifar")
    write_cifar(tmp_path / "whole")
    with pytest.raises(InputError, match="which size=16 cannot change"):
        open_dataset(tmp_path / "whole", size=16)


def test_npz_with_the_names_of_medmnist(tmp_path):
    levels = grey_levels(n=9)
    np.savez(
        tmp_path / "med.npz",
        train_images=levels[:5],
        train_labels=np.arange(5)[:, None],
        val_images=levels[5:7],
        val_labels=np.arange(2)[:, None],
        test_images=levels[7:],
        test_labels=np.arange(2)[:, None],
    )
    dataset = open_dataset(tmp_path / "med.npz")
    assert torch.equal(dataset.train[:], ImageArray(levels[:5])[:])
    assert torch.equal(dataset.test[:], ImageArray(levels[7:])[:])
    assert dataset.train.labels.tolist() == [0, 1, 2, 3, 4]


def test_names_of_classes_are_a_list(tmp_path):
    np.savez(tmp_path / "a.npz", images=np.zeros((4, 8, 8), np.uint8), labels=[0, 1, 0, 1], classes=[["a"], ["b"]])
    with pytest.raises(InputError, match=r"\[classes\] has shape \(2, 1\)"):
        open_dataset(tmp_path / "a.npz")
