"""Disks as people have them: of networks, sticks and virtual machines, which lack calls, and full or broken ones.

Some tests are of what held before: broken disks are named, files appear whole, images need no locks.
"""

import errno
import fcntl
import json
import os
import stat
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import scattergen as sg
from scattergen.datasets import image_files
from scattergen.datasets.image_files import save_image_grid, write_codes, write_images
from scattergen.errors import RunFolderError, ScattergenError
from scattergen.files import atomic, write_json
from scattergen.files.tensors import read_tensors, write_tensors
from scattergen.model import GenerativeScatteringNetwork
from scattergen.runs import RunFolder, remains

MISSING = ["EINVAL", "EPERM", "EACCES", "ENOTSUP", "EOPNOTSUPP", "ENOSYS", "ENOTTY", "EBADF", "EISDIR"]
BROKEN = ["ENOSPC", "EDQUOT", "EIO", "EROFS", "ESTALE"]
FULL = ("ENOSPC", "EDQUOT", "EFBIG")

IMAGES = torch.linspace(0, 1, 3 * 64).reshape(3, 1, 8, 8)
# Every way in which files come to a disk.
WRITERS = {
    "file.json": lambda path: write_json(path, [1]),
    "file.safetensors": lambda path: write_tensors(path, {"a": torch.ones(3)}),
    "images.npz": lambda path: write_images(path, IMAGES),
    "images.npy": lambda path: write_images(path, IMAGES),
    "grid.png": lambda path: write_images(path, IMAGES),
    "samples.png": lambda path: save_image_grid(IMAGES, path),
    "codes.npy": lambda path: write_codes(path, torch.ones(2, 3)),
    "0.png": lambda path: write_images(path.parent, IMAGES),
}


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def failing(number):
    number = getattr(errno, number)

    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    return fail


def on_folders(call, number):
    """A call on a descriptor that fails for folders only."""

    def on_descriptor(descriptor):
        return failing(number)() if stat.S_ISDIR(os.fstat(descriptor).st_mode) else call(descriptor)

    return on_descriptor


# Without fsync and chmod ---------------------------------------------------------------------------


@pytest.mark.parametrize("number", MISSING)
@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("where", ["folders", "everything"])
def test_disks_without_fsync_take_files(tmp_path, monkeypatch, name, number, where):
    monkeypatch.setattr(atomic.os, "fsync", failing(number) if where == "everything" else on_folders(os.fsync, number))
    WRITERS[name](tmp_path / name)
    assert name in names(tmp_path)
    assert not [one for one in names(tmp_path) if one.startswith(".")]


@pytest.mark.parametrize("number", ["EACCES", "EPERM", "EISDIR", "EINVAL"])
def test_folders_that_may_not_be_opened_take_files(tmp_path, monkeypatch, number):
    """As those that others may put files into but not list."""
    opened = os.open
    monkeypatch.setattr(
        atomic.os, "open", lambda path, *a, **k: failing(number)() if path == tmp_path else opened(path, *a, **k)
    )
    write_json(tmp_path / "file.json", [1])
    assert json.loads((tmp_path / "file.json").read_text()) == [1]


@pytest.mark.parametrize("number", MISSING)
@pytest.mark.parametrize("name", WRITERS)
def test_disks_without_chmod_take_files(tmp_path, monkeypatch, name, number):
    path = tmp_path / name
    for _ in range(2):
        monkeypatch.setattr(atomic.os, "chmod", failing(number))
        WRITERS[name](path)
        monkeypatch.undo()
        path.chmod(0o444)  # which the second file cannot be given
    assert path.stat().st_size > 0


@pytest.mark.parametrize("number", BROKEN)
@pytest.mark.parametrize("call", ["fsync", "chmod", "replace"])
@pytest.mark.parametrize("name", WRITERS)
def test_broken_and_full_disks_are_told_with_the_name_of_the_file(tmp_path, monkeypatch, name, call, number):
    path = tmp_path / name
    path.write_text("old")
    path.chmod(0o444)
    monkeypatch.setattr(atomic.os, call, failing(number))
    with pytest.raises(ScattergenError, match="Cannot write") as error:
        WRITERS[name](path)
    monkeypatch.undo()
    sentence = str(error.value)
    assert str(path.parent) in sentence
    assert os.strerror(getattr(errno, number)) in sentence
    assert ("Free some space" in sentence) == (number in FULL)
    assert not [one for one in names(tmp_path) if one.startswith(".")]
    assert path.read_text() == "old"


@pytest.mark.parametrize("number", ["ENOSPC", "EDQUOT", "EIO", "ESTALE"])
def test_a_name_that_may_not_have_reached_the_disk_is_told_as_such(tmp_path, monkeypatch, number):
    path = tmp_path / "file.json"
    path.write_text("old")
    monkeypatch.setattr(atomic.os, "fsync", on_folders(os.fsync, number))
    with pytest.raises(ScattergenError, match=r"file\.json.*the file is there") as error:
        write_json(path, "new")
    assert "has been changed" not in str(error.value)
    assert json.loads(path.read_text()) == "new"


@pytest.mark.parametrize("number", [*BROKEN, "EFBIG", "EACCES"])
def test_errors_of_safetensors_are_told_apart(tmp_path, monkeypatch, number):
    """It has exceptions of its own, with the number in their text."""
    from safetensors import SafetensorError

    from scattergen.files import tensors

    code = getattr(errno, number)

    def fail(*_, **__):
        raise SafetensorError(f"Error while serializing: I/O error: {os.strerror(code)} (os error {code})")

    monkeypatch.setattr(tensors, "save_file", fail)
    with pytest.raises(ScattergenError, match=r"Cannot write .*file\.safetensors") as error:
        WRITERS["file.safetensors"](tmp_path / "file.safetensors")
    assert ("Free some space" in str(error.value)) == (number in FULL)
    assert os.strerror(code) in str(error.value)


# Modes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644, 0o660, 0o664, 0o666, 0o400, 0o444, 0o755, 0o700])
@pytest.mark.parametrize("name", WRITERS)
def test_a_file_that_is_replaced_keeps_its_mode(tmp_path, name, mode):
    path = tmp_path / name
    path.write_text("old")
    path.chmod(mode)
    WRITERS[name](path)
    assert path.stat().st_mode & 0o777 == mode
    assert path.read_bytes() != b"old"


@pytest.mark.parametrize("umask", [0o000, 0o002, 0o022, 0o027, 0o077])
@pytest.mark.parametrize("name", WRITERS)
def test_new_files_follow_the_umask_which_is_never_changed(tmp_path, monkeypatch, name, umask):
    before = os.umask(umask)
    try:
        monkeypatch.setattr(atomic.os, "umask", failing("EPERM"))  # other threads make files, too
        WRITERS[name](tmp_path / name)
    finally:
        monkeypatch.undo()
        os.umask(before)
    assert (tmp_path / name).stat().st_mode & 0o777 == 0o666 & ~umask


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o400])
def test_what_others_may_not_read_they_cannot_read_while_it_is_written(tmp_path, mode):
    path = tmp_path / "secret.json"
    path.write_text("old")
    path.chmod(mode)
    with atomic.atomic_path(path) as temporary:
        assert temporary.stat().st_mode & 0o077 & ~mode == 0
        temporary.write_text("new")


def test_a_link_to_a_file_lends_its_mode(tmp_path):
    (tmp_path / "target.json").write_text("old")
    (tmp_path / "target.json").chmod(0o640)
    (tmp_path / "link.json").symlink_to("target.json")
    (tmp_path / "dangling.json").symlink_to("nowhere")
    for name in ("link.json", "dangling.json"):
        write_json(tmp_path / name, 1)
    assert (tmp_path / "link.json").lstat().st_mode & 0o777 == 0o640
    assert (tmp_path / "target.json").read_text() == "old"
    assert json.loads((tmp_path / "dangling.json").read_text()) == 1


# Folders of pictures ----------------------------------------------------------------------------------


@pytest.fixture
def watched(monkeypatch):
    """What reaches the disk: each file that gets its name must have reached it as a whole."""
    seen = SimpleNamespace(files=set(), folders=0, named=[])
    fsync, replace = os.fsync, os.replace

    def watch_fsync(descriptor):
        found = os.fstat(descriptor)
        if stat.S_ISDIR(found.st_mode):
            seen.folders += 1
        else:
            assert found.st_size > 0
            seen.files.add(found.st_ino)
        fsync(descriptor)

    def watch_replace(source, path):
        assert os.stat(source).st_ino in seen.files
        with Image.open(source) as picture:
            picture.load()
        seen.named.append(path.name)
        replace(source, path)

    monkeypatch.setattr(atomic.os, "fsync", watch_fsync)
    monkeypatch.setattr(atomic.os, "replace", watch_replace)
    return seen


@pytest.mark.parametrize(("n", "at_once", "folders"), [(1, 500, 1), (7, 500, 1), (8, 4, 2), (9, 4, 3), (3, 1, 3)])
def test_pictures_reach_the_disk_once_and_before_their_names(tmp_path, monkeypatch, watched, n, at_once, folders):
    monkeypatch.setattr(image_files, "_AT_ONCE", at_once)
    images = torch.rand(n, 3, 8, 8)
    write_images(tmp_path / "new", images)
    assert len(watched.files) == n
    assert watched.folders == folders
    assert sorted(watched.named) == names(tmp_path / "new")
    for i, name in enumerate(names(tmp_path / "new")):
        found = np.asarray(Image.open(tmp_path / "new" / name))
        assert (found == (images[i] * 255).round().byte().movedim(0, -1).numpy()).all()


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("at", [0, 1, 3])
def test_a_disk_that_gets_full_leaves_whole_pictures_only(tmp_path, monkeypatch, watched, call, at):
    calls, original = [], getattr(os, call)

    def fill_up(*arguments):
        calls.append(arguments)
        return failing("ENOSPC")() if len(calls) > at else original(*arguments)

    monkeypatch.setattr(atomic.os, call, fill_up)
    with pytest.raises(ScattergenError, match=r"Cannot write .*\.png: No space left"):
        write_images(tmp_path / "new", torch.rand(5, 1, 8, 8))
    assert names(tmp_path / "new") == sorted(watched.named)


# Without locks ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model():
    options = {
        "encoder": {"J": 1, "n_components": 4},
        "decoder": {"channels": [4, 4]},
        "training": {"epochs": 1},
        "densities": {"gaussian": {}},
    }
    return GenerativeScatteringNetwork.fit(torch.rand(40, 1, 8, 8), options=options)


@pytest.mark.parametrize("number", [*MISSING, "ENOLCK"])
def test_runs_on_disks_without_locks_are_written_with_one_warning(tmp_path, monkeypatch, model, number):
    """And without anything else that such disks may lack."""
    path = tmp_path / "run"
    monkeypatch.setattr(fcntl, "flock", failing(number))
    monkeypatch.setattr(atomic.os, "fsync", on_folders(os.fsync, number))
    monkeypatch.setattr(atomic.os, "chmod", failing(number))
    with pytest.warns(UserWarning, match="no locks") as told:  # noqa: PT031
        model.save(path)
        run = RunFolder.open(path)
        run.log({"loss": 1})
        with run.working("decoder", "0" * 16) as folder:
            write_json(folder / "checkpoint.json", 1)
        assert run.has_work()
        run.tidy()
    assert len(told) == 1
    assert str(path) in str(told[0].message)
    assert sg.load(path).sample(2).shape == (2, 1, 8, 8)
    assert json.loads((path / "metrics.jsonl").read_text()) == {"loss": 1}
    assert remains.is_free(path / "work" / ("0" * 16) / "lock")


@pytest.mark.parametrize("number", ["EIO", "ENOSPC", "ESTALE", "EDQUOT"])
def test_locks_that_fail_are_told_with_the_name_of_the_run(tmp_path, monkeypatch, model, number):
    monkeypatch.setattr(fcntl, "flock", failing(number))
    with pytest.raises(ScattergenError, match="Cannot write") as error:
        model.save(tmp_path / "run")
    assert str(tmp_path / "run") in str(error.value)
    assert os.strerror(getattr(errno, number)) in str(error.value)


@pytest.mark.parametrize("number", ["EAGAIN", "EWOULDBLOCK"])
def test_a_lock_that_another_process_has_is_no_missing_one(tmp_path, monkeypatch, model, number):
    monkeypatch.setattr(fcntl, "flock", failing(number))
    monkeypatch.setattr(remains, "_PATIENCE", 0.0)
    with pytest.raises(RunFolderError, match="Another process is writing"):
        model.save(tmp_path / "run")
    (tmp_path / "lock").write_text("")
    assert not remains.is_free(tmp_path / "lock")


@pytest.mark.parametrize("number", ["EIO", "ENOSPC", "EDQUOT", "EROFS", "EACCES"])
def test_metrics_that_cannot_be_written_are_named(tmp_path, monkeypatch, model, number):
    model.save(tmp_path / "run")
    run = RunFolder.open(tmp_path / "run")
    monkeypatch.setattr("scattergen.runs.folder.open_regular", failing(number))
    with pytest.raises(ScattergenError, match=r"Cannot write .*metrics\.jsonl") as error:
        run.log({"loss": 1})
    assert ("Free some space" in str(error.value)) == (number in FULL)


@pytest.mark.parametrize("number", [*MISSING, "ENOLCK", "EIO"])
@pytest.mark.parametrize("name", ["images.npz", "grid.png", "0.png"])
def test_images_need_no_locks(tmp_path, monkeypatch, name, number):
    """They only tell whether what is half written belongs to a process that lives; without, it stays."""
    left = tmp_path / ".writing-abc.png"
    left.write_text("half of a picture")
    monkeypatch.setattr(fcntl, "flock", failing(number))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        WRITERS[name](tmp_path / name)
    assert left.exists()
    assert name in names(tmp_path)


def test_tensors_on_such_disks_come_back(tmp_path, monkeypatch):
    """All of it at once."""
    for call in ("fsync", "chmod"):
        monkeypatch.setattr(atomic.os, call, failing("ENOTSUP"))
    tensors = {"a": torch.rand(5), "b": torch.arange(3)}
    write_tensors(tmp_path / "a.safetensors", tensors, {"step": 1})
    found, metadata = read_tensors(tmp_path / "a.safetensors")
    assert metadata == {"step": 1}
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
