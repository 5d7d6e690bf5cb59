"""Compiled kernels on the disk: whatever is wrong costs a compilation, and one warning that names the file."""

import errno
import hashlib
import os
import pickle
import shutil
import warnings
from pathlib import Path

import pytest

numba = pytest.importorskip("numba", reason="the compiled kernel needs Numba, scattergen's extra 'fast'")

from numba.core import caching  # noqa: E402

from scattergen.decoder import upsampling_kernel  # noqa: E402
from scattergen.files import atomic  # noqa: E402
from scattergen.scattering import kernel_cache, kernel_distance, kernel_gradient, kernels  # noqa: E402
from scattergen.scattering.kernel_cache import _KernelCache, kept  # noqa: E402


def twice(x):
    return x + x


def square(x):
    return x * x


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Where kernels are kept, in a process that has told nothing yet."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(kernel_cache, "_told", [])
    return tmp_path


def in_new_process(function=twice):
    """Compile or load a function, as a process does that has just begun; whether it was loaded."""
    kernel = kept(function)
    assert kernel(3) == function(3)
    return sum(kernel.stats.cache_hits.values()) == 1


@pytest.fixture
def file(folder):
    """The file of a kernel that another process has compiled."""
    assert not in_new_process()
    (file,) = folder.rglob("*.nbc")
    return file


def test_a_kernel_is_compiled_once_for_all_processes(file):
    assert in_new_process()
    assert not [one for one in file.parent.iterdir() if one != file]


@pytest.mark.parametrize("kernel", [
    kernels._scatter, kernel_gradient._differentiate, kernel_distance._measure, upsampling_kernel._upsample,
    upsampling_kernel._gather,
])  # fmt: skip
def test_all_kernels_are_kept_so(kernel):
    assert isinstance(kernel._cache, _KernelCache)


def hashed(content):
    return hashlib.sha256(content).digest() + content


def flipped(content, at):
    content = bytearray(content)
    content[at] ^= 16
    return bytes(content)


DAMAGES = {
    "empty": lambda whole: b"",
    "one byte": lambda whole: whole[:1],
    "half a hash": lambda whole: whole[:20],
    "a hash alone": lambda whole: whole[:32],
    "hash and stamp alone": lambda whole: whole[:64],
    "half": lambda whole: whole[: len(whole) // 2],
    "without its last byte": lambda whole: whole[:-1],
    "a byte more": lambda whole: whole + b"\0",
    "zeros, as after a power cut": lambda whole: bytes(len(whole)),
    "zeros at the end": lambda whole: whole[:4096] + bytes(len(whole) - 4096),
    "garbage": lambda whole: hashlib.shake_128(whole).digest(len(whole)),
    "text": lambda whole: b"<html>404 Not Found</html>",
    "a bit of the hash": lambda whole: flipped(whole, 5),
    "a bit of the stamp": lambda whole: flipped(whole, 40),
    "a bit of the code": lambda whole: flipped(whole, len(whole) // 2),
    "the last bit": lambda whole: flipped(whole, -1),
    "no pickle": lambda whole: hashed(whole[32:64] + b"garbage"),
    "another pickle": lambda whole: hashed(whole[32:64] + pickle.dumps({"a": 1})),
    "an empty pickle": lambda whole: hashed(whole[32:64]),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_named_once_and_made_again(file, damage):
    file.write_bytes(DAMAGES[damage](file.read_bytes()))
    with pytest.warns(UserWarning, match=r"cannot be used .* compiled again") as told:
        assert not in_new_process()
    assert len(told) == 1
    assert str(file) in str(told[0].message)
    assert in_new_process()  # and warns no more


def place_folder(file):
    file.mkdir()


def place_pipe(file):
    os.mkfifo(file)


def place_link(file):
    file.symlink_to(file.with_name("nowhere"))


def place_loop(file):
    file.symlink_to(file)


@pytest.mark.parametrize("place", [place_folder, place_pipe, place_link, place_loop])
def test_what_is_no_file_is_named_and_never_waited_for(file, place):
    file.unlink()
    place(file)
    with pytest.warns(UserWarning, match="cannot be used") as told:  # noqa: PT031
        assert not in_new_process()
        assert in_new_process() == (place is not place_folder)  # the others have been replaced
    assert len(told) == 1
    assert str(file) in str(told[0].message)


def failing(number):
    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    return fail


ERRORS = [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM, errno.ESTALE]


@pytest.mark.parametrize("number", ERRORS)
def test_a_file_that_cannot_be_read(file, monkeypatch, number):
    monkeypatch.setattr(kernel_cache, "open_regular", failing(number))
    with pytest.warns(UserWarning, match="cannot be used") as told:
        assert not in_new_process()
    assert str(file) in str(told[0].message)
    assert os.strerror(number) in str(told[0].message)


# Without fsync for lack of permission the file is whole all the same.
@pytest.mark.parametrize(
    ("call", "number"),
    [(call, number) for call in ("open", "replace") for number in ERRORS]
    + [("fsync", number) for number in ERRORS if number not in (errno.EACCES, errno.EPERM)],
)
def test_a_disk_that_takes_no_file_is_told_once_for_all_kernels(folder, monkeypatch, call, number):
    opened = os.open

    def open_to_read(path, flags, *mode):
        return failing(number)() if flags & os.O_CREAT else opened(path, flags, *mode)

    monkeypatch.setattr(atomic.os, call, open_to_read if call == "open" else failing(number))
    with pytest.warns(UserWarning, match=r"cannot be written .*each command .*NUMBA_CACHE_DIR") as told:  # noqa: PT031
        assert not in_new_process()
        assert not in_new_process(square)
    monkeypatch.undo()
    assert len(told) == 1
    assert str(folder) in str(told[0].message)
    assert os.strerror(number) in str(told[0].message)
    assert not [one for one in folder.rglob("*") if one.is_file()]


def test_without_any_place_it_is_said_once_and_the_kernels_compute(monkeypatch):
    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [])
    with pytest.warns(UserWarning, match=r"cannot be kept.*__pycache__.*NUMBA_CACHE_DIR") as told:  # noqa: PT031
        assert not in_new_process()
        assert not in_new_process(square)
    assert len(told) == 1


@pytest.mark.parametrize("what", ["a source that has changed", "a new source", "its own source", "another Numba"])
def test_code_of_another_version_is_replaced_in_silence(file, monkeypatch, tmp_path_factory, what):
    before = file.read_bytes()
    if what == "another Numba":
        monkeypatch.setattr(kernel_cache.numba, "__version__", "0.999")
    elif what == "its own source":
        monkeypatch.setattr(kernel_cache.inspect, "getsource", lambda module: f"# changed {module.__name__}")
    else:
        other = shutil.copytree(Path(kernel_cache.__file__).parent, tmp_path_factory.mktemp("source") / "scattering")
        with (other / ("simd.py" if what == "a source that has changed" else "new.py")).open("a") as source:
            source.write("# changed")
        monkeypatch.setattr(kernel_cache.resources, "files", lambda _: other)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not in_new_process()
        assert file.read_bytes() != before
        assert in_new_process()
    assert len(list(file.parent.iterdir())) == 1
