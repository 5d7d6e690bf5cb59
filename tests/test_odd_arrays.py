"""Arrays in files that change or are cut while they are used, odd orders, and labels that do not fit."""

import os

import numpy as np
import pytest
import torch

from scattergen.datasets import ImageArray, open_dataset
from scattergen.datasets.arrays import ArrayFile
from scattergen.datasets.image_files import read_codes
from scattergen.datasets.source import class_labels
from scattergen.errors import InputError

WORDS = r"x\.npy has been changed or cut off since it was opened: .*start again"


def levels(shape=(30, 6, 5, 3)):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", [(30, 6, 5), (30, 6, 5, 3), (30, 3, 6, 5), (1, 6, 5), (30, 1, 6, 5)])
@pytest.mark.parametrize("dtype", ["u1", "<f4", ">f8", "<f2"])
def test_a_file_gives_what_its_array_gives(tmp_path, shape, order, dtype):
    values = levels(shape) if dtype == "u1" else levels(shape).astype(dtype) / np.array(255, dtype)
    values = np.asarray(values.astype(dtype), order=order)
    np.save(tmp_path / "x.npy", values)
    expected, found = ImageArray(values), ImageArray(ArrayFile(tmp_path / "x.npy"))
    n = len(values)
    for index in (slice(None), slice(None, None, -3), slice(5, 5), torch.tensor([n - 1, 0, 0, n // 2])):
        assert torch.equal(found[index], expected[index])
    assert (found.fingerprint, found.shape) == (expected.fingerprint, expected.shape)


def truncated(path):
    os.truncate(path, os.path.getsize(path) - 1)


def emptied(path):
    os.truncate(path, 0)


def grown(path):
    with open(path, "ab") as file:
        file.write(b"more")


def other_pixels(path):
    state = os.stat(path)
    with open(path, "r+b") as file:
        file.seek(-20, os.SEEK_END)
        file.write(bytes(20))
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns + 1_000_000))


def replaced(path):
    np.save(path.with_suffix(".new.npy"), levels()[::-1])
    os.utime(path.with_suffix(".new.npy"), ns=(0, 0))
    os.replace(path.with_suffix(".new.npy"), path)


@pytest.mark.parametrize("change", [truncated, emptied, grown, other_pixels, replaced])
@pytest.mark.parametrize("order", ["C", "F"])
def test_a_file_that_changes_while_it_is_used_is_refused(tmp_path, change, order):
    path = tmp_path / "x.npy"
    np.save(path, np.asarray(levels(), order=order))
    images = open_dataset(path).train
    assert images[:2].shape == (2, 3, 6, 5)
    change(path)
    for use in (lambda: images[:], lambda: images[torch.tensor([3, 1])], lambda: images.fingerprint):
        with pytest.raises(InputError, match=WORDS):
            use()


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_file_that_is_cut_off_during_a_read_is_refused(tmp_path, monkeypatch, order):
    path = tmp_path / "x.npy"
    np.save(path, np.asarray(levels(), order=order))
    images, read = ImageArray(ArrayFile(path)), np.fromfile

    def read_after_cut(*args):
        emptied(path)
        return read(*args)

    monkeypatch.setattr(np, "fromfile", read_after_cut)
    with pytest.raises(InputError, match=WORDS):
        images[torch.tensor([0, 20])]


def test_a_file_that_vanishes_is_named(tmp_path):
    np.save(tmp_path / "x.npy", levels())
    images = open_dataset(tmp_path / "x.npy").train
    (tmp_path / "x.npy").unlink()
    with pytest.raises(InputError, match=r"x\.npy cannot be read any more \(No such file"):
        images[:1]


def test_a_file_that_only_stays_is_read_again_and_again(tmp_path):
    np.save(tmp_path / "x.npy", levels())
    images = open_dataset(tmp_path / "x.npy").train
    os.utime(tmp_path / "x.npy", ns=(0, os.stat(tmp_path / "x.npy").st_mtime_ns))  # read by someone
    assert torch.equal(images[:], images[:])


@pytest.mark.parametrize("order", ["C", "F"])
def test_codes_come_back_from_a_file(tmp_path, order):
    codes = np.asarray(np.random.default_rng(0).normal(size=(7, 4)), order=order)
    np.save(tmp_path / "codes.npy", codes)
    assert np.array_equal(read_codes(tmp_path / "codes.npy"), codes.astype(np.float32))


@pytest.mark.parametrize("name", ["c.npy", "c.npz"])
def test_a_pipe_is_refused_and_not_waited_for(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(InputError, match=rf"{name} cannot be read as a .* file \(it is no regular file\): save"):
        read_codes(tmp_path / name)
    with pytest.raises(InputError, match=rf"{name} is a pipe, a socket or a device: give"):
        open_dataset(tmp_path / name)


@pytest.mark.parametrize(
    "values",
    [np.float32(1), np.array(["a", "b"]), np.zeros((2, 3, 3), complex), np.zeros(0), np.zeros((0, 4, 4), np.uint8),
     np.zeros((2, 0, 4), np.uint8), np.zeros(3, [("a", "u1")]), np.zeros((2, 3, 3), "M8[s]")],
    ids=["one number", "texts", "complex", "nothing", "no images", "no pixels", "records", "times"],
)  # fmt: skip
def test_arrays_that_are_no_images_are_refused_by_name(tmp_path, values):
    np.save(tmp_path / "x.npy", values)
    with pytest.raises(InputError, match=r"x\.npy"):
        open_dataset(tmp_path / "x.npy")


@pytest.mark.parametrize("label", [2**63, 2**64 - 1, 2**63 + 5])
@pytest.mark.parametrize("others", [0, 2**62])
def test_labels_above_the_largest_are_refused(tmp_path, label, others):
    labels = np.array([others, label, others, others], np.uint64)
    words = rf"labels of .* reach {label}, more than the largest, {2**63 - 1}: number the classes from 0"
    with pytest.raises(InputError, match=words):
        ImageArray(levels((4, 6, 5)), labels)
    with pytest.raises(InputError, match=words):
        ImageArray(levels((4, 6, 5)), labels[:, None])
    np.savez(tmp_path / "x.npz", x=levels((4, 6, 5)), y=labels)
    with pytest.raises(InputError, match=words):
        open_dataset(tmp_path / "x.npz")

    class Source:
        shape, fingerprint = (1, 6, 5), ""
        labels = torch.from_numpy(np.array([others, label, others, others], np.uint64))

        def __len__(self):
            return 4

    with pytest.raises(InputError, match=words):
        class_labels(Source())


def test_the_largest_labels_are_kept():
    labels = np.array([2**63 - 1, 0], np.uint64)
    assert ImageArray(levels((2, 6, 5)), labels).labels.tolist() == [2**63 - 1, 0]
