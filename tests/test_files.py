"""Files that are complete or absent: what stays after an error, a full disk or damage."""

import hashlib
import json
import os
import pickle
import resource
import signal

import pytest
import torch
from safetensors.torch import save_file

from scattergen.errors import RunFolderError, ScattergenError
from scattergen.files import atomic, atomic_path, sha256, write_json
from scattergen.files.tensors import flatten_state, read_tensors, read_tensors_if_whole, take_state, write_tensors


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def full_disk():
    """Every file of this process ends at 64 KiB, as on a disk with so much space left."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, handler)


def test_the_file_appears_at_the_end_of_the_block(tmp_path):
    target = tmp_path / "new folder" / "image.png"
    with atomic_path(target) as temporary:
        assert temporary.parent == target.parent  # a rename within one file system
        assert temporary.suffix == ".png"
        temporary.write_bytes(b"content")
        assert not target.exists()
    assert target.read_bytes() == b"content"
    assert names(target.parent) == ["image.png"]


@pytest.mark.parametrize("error", [ValueError("bad"), KeyboardInterrupt(), SystemExit(1)])
def test_an_error_in_the_block_keeps_the_old_file(tmp_path, error):
    target = tmp_path / "file.txt"
    target.write_text("old")
    with pytest.raises(type(error)), atomic_path(target) as temporary:  # noqa: PT012
        temporary.write_text("half of the new")
        raise error
    assert target.read_text() == "old"
    assert names(tmp_path) == ["file.txt"]


def test_an_error_without_an_old_file_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), atomic_path(tmp_path / "file.txt") as temporary:
        temporary.write_text(str(1 / 0))
    assert names(tmp_path) == []


def test_contents_reach_the_disk_before_the_name_and_the_name_before_the_return(tmp_path, monkeypatch):
    calls = []

    def watch(name):
        function = getattr(os, name)

        def watched(*arguments):
            calls.append(name)
            return function(*arguments)

        monkeypatch.setattr(atomic.os, name, watched)

    watch("fsync")
    watch("replace")
    write_json(tmp_path / "file.json", {})
    assert calls == ["fsync", "replace", "fsync"]


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_permissions_follow_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        write_json(tmp_path / "file.json", {})
        assert os.umask(umask) == umask  # which writing left as it was
    finally:
        os.umask(before)
    assert (tmp_path / "file.json").stat().st_mode & 0o777 == 0o666 & ~umask


def test_a_full_disk_is_reported_and_keeps_the_old_file(tmp_path, full_disk):
    weights, text = tmp_path / "weights.safetensors", tmp_path / "file.json"
    write_tensors(weights, {"a": torch.zeros(10)}, "old")
    write_json(text, "old")
    with pytest.raises(ScattergenError, match=r"Cannot write .*weights\.safetensors.*space") as error:
        write_tensors(weights, {"a": torch.zeros(2**16)})
    assert "nothing that was there before has been changed" in str(error.value)
    with pytest.raises(ScattergenError, match=r"Cannot write .*file\.json: File too large"):
        write_json(text, "x" * 2**17)
    assert names(tmp_path) == ["file.json", "weights.safetensors"]
    assert read_tensors(weights)[1] == "old"
    assert json.loads(text.read_text()) == "old"


@pytest.mark.parametrize("write", [write_json, write_tensors])
def test_places_that_cannot_be_written(tmp_path, write):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.json").mkdir()
    # Root may write to read-only folders, but nobody below a file or over a folder.
    for target in (tmp_path / "file" / "below.json", tmp_path / "folder.json"):
        with pytest.raises(ScattergenError, match="Cannot write") as error:
            write(target, {})
        assert str(target) in str(error.value)
    assert names(tmp_path) == ["file", "folder.json"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(ScattergenError, match="Permission denied"):
        write_json(tmp_path / "file.json", {})


def test_json_is_readable_and_strict(tmp_path):
    path = tmp_path / "file.json"
    write_json(path, {"a": [1, "é"], "b": None})
    assert json.loads(path.read_text()) == {"a": [1, "é"], "b": None}
    assert path.read_text().count("\n") > 3
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"a": float("nan")})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text())["b"] is None
    assert names(tmp_path) == ["file.json"]


def test_tensors_come_back_with_their_types_shapes_and_bits(tmp_path):
    path = tmp_path / "a.safetensors"
    tensors = {
        "float32": torch.randn(3, 4),
        "float64": torch.randn(5, dtype=torch.float64),
        "bfloat16": torch.randn(2, 2).bfloat16(),
        "int64": torch.tensor([-(2**62), 3]),
        "uint8": torch.arange(256, dtype=torch.uint8),
        "bool": torch.tensor([True, False]),
        "scalar": torch.tensor(1.5),
        "empty": torch.empty(0, 3),
        "strided": torch.randn(4, 3).T,
        "parameter": torch.nn.Parameter(torch.randn(2)),
        "nan": torch.tensor([float("nan"), float("inf")]),
    }
    metadata = {"version": 1, "nested": {"list": [0.1, None, "ü"]}}
    write_tensors(path, tensors, metadata)
    found, found_metadata = read_tensors(path)
    assert found_metadata == metadata
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert not found[name].requires_grad
        torch.testing.assert_close(found[name], tensor.detach(), rtol=0, atol=0, equal_nan=True)


def test_tensors_that_share_memory(tmp_path):
    path, whole = tmp_path / "a.safetensors", torch.arange(10.0)
    write_tensors(path, {"tied": whole, "whole": whole, "part": whole[3:], "other": whole[:5]})
    found, metadata = read_tensors(path)
    assert metadata is None
    assert torch.equal(found["tied"], whole)
    assert torch.equal(found["whole"], whole)
    assert torch.equal(found["part"], whole[3:])
    assert torch.equal(found["other"], whole[:5])


def test_a_missing_file(tmp_path):
    with pytest.raises(RunFolderError, match=r"none\.safetensors is missing"):
        read_tensors(tmp_path / "none.safetensors")


@pytest.mark.parametrize("kept", [0, 1, 7, 8, 40, -1])
def test_a_truncated_file(tmp_path, kept):
    path = tmp_path / "a.safetensors"
    write_tensors(path, {"a": torch.zeros(100)})
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(RunFolderError, match=r"a\.safetensors is damaged") as error:
        read_tensors(path)
    assert "fit it again" in str(error.value)


def test_damage_to_the_header_or_the_metadata(tmp_path):
    path = tmp_path / "a.safetensors"
    write_tensors(path, {"a": torch.zeros(100)}, {"b": 1})
    content = path.read_bytes()
    longer = content + b"\0"
    not_json = content.replace(b'{\\"b\\": 1}', b'{\\"b\\": 1;')
    huge_header = b"\xff" * 8 + content[8:]
    for damaged in (longer, not_json, huge_header):
        assert damaged != content
        path.write_bytes(damaged)
        with pytest.raises(RunFolderError, match="is damaged"):
            read_tensors(path)


def test_every_byte_is_under_the_checksum(tmp_path):
    path = tmp_path / "a.safetensors"
    tensors = {"a": torch.randn(5), "b": torch.tensor([3, 4]), "c": torch.tensor(True)}
    write_tensors(path, tensors, {"step": 7})
    whole = path.read_bytes()
    noticed = 0
    for i in range(len(whole)):
        damaged = bytearray(whole)
        damaged[i] ^= 1
        path.write_bytes(damaged)
        found = read_tensors_if_whole(path)
        noticed += found is None
        if found is not None:  # the name of the checksum, or a space that fills up the header
            assert found[1] == {"step": 7}
            assert found[0].keys() == tensors.keys()
            assert all(torch.equal(found[0][name], tensors[name]) for name in tensors)
    assert len(whole) - noticed < 20
    path.write_bytes(whole[: len(whole) - 8] + bytes(8))
    with pytest.raises(RunFolderError, match="does not match its checksum"):
        read_tensors(path)


def test_a_file_without_a_checksum_is_not_read(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file({"a": torch.ones(2)}, path, metadata={"json": '{"step": 7}'})
    assert read_tensors_if_whole(path) is None


def test_no_pickle_is_executed(tmp_path):
    canary, path = tmp_path / "canary", tmp_path / "a.safetensors"

    class Attack:
        def __reduce__(self):
            return os.mkdir, (str(canary),)

    path.write_bytes(pickle.dumps(Attack()))
    with pytest.raises(RunFolderError, match="is damaged"):
        read_tensors(path)
    torch.save(Attack(), path)
    with pytest.raises(RunFolderError, match="is damaged"):
        read_tensors(path)
    assert not canary.exists()


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(RunFolderError):
        read_tensors(tmp_path)


def test_sha256(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    # The example of FIPS 180-2.
    assert sha256(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    content = os.urandom(3 * 2**20)
    path.write_bytes(content)
    assert sha256(path) == hashlib.sha256(content).hexdigest()


def test_states_survive_flattening():
    network = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    flat = flatten_state("net", network.state_dict()) | flatten_state("network", {"other": 1})
    assert flat["network/other"].item() == 1
    taken = take_state(flat, "net")  # but not what begins with the same letters
    assert taken.keys() == network.state_dict().keys()
    nested = flatten_state("a", {0: {"step": torch.tensor(3.0)}, 1: {"step": 4.0}})
    assert {name: t.item() for name, t in nested.items()} == {"a/0/step": 3.0, "a/1/step": 4.0}
    assert take_state(nested, "a/1") == {"step": torch.tensor(4.0)}
