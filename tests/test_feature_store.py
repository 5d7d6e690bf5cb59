"""The store of features: what is computed when, damaged chunks, full disks, rounding, resuming."""

import errno
import shutil
from collections import namedtuple

import pytest
import torch

from scattergen.display.progress import SILENT
from scattergen.encoder import ScatteringEncoder, feature_store
from scattergen.encoder.feature_store import FeatureStore
from scattergen.errors import ScattergenError
from scattergen.files import tensors
from scattergen.runs import Result, RunFolder, Stages
from scattergen.scattering.filters import filter_bank

N, D, CHUNK = 50, 8, 7
N_CHUNKS = 8

Usage = namedtuple("Usage", "total used free")


def features(seed=0):
    return torch.rand(N, D, generator=torch.Generator().manual_seed(seed))


class Counting:
    """Computes features and notes which."""

    def __init__(self, seed=0):
        self.s, self.computed = features(seed), []

    def __call__(self, rows):
        self.computed.append(rows.start // CHUNK)
        return self.s[rows].clone()


def store(compute=None, **keywords):
    return FeatureStore(compute or Counting(), N, D, CHUNK, **keywords)


def everything(store):
    """One pass, as features."""
    return torch.cat([deviation for _, deviation in store.deviations()]) + store.shift()


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "codes" / "store"


def on_disk(folder, compute=None, **keywords):
    return store(compute, keep="disk", folder=folder, identity=lambda _: "a", **keywords)


def test_chunks_hold_all_samples_in_order():
    chunks = store()
    assert chunks.n_chunks == N_CHUNKS
    rows = [row for row, _ in chunks.deviations()]
    assert rows == list(range(0, N, CHUNK))
    assert torch.equal(torch.cat([chunks.chunk(i) for i in range(N_CHUNKS)]), features())
    # A difference and a sum of numbers below 1: two roundings of 2^-25 at most each.
    torch.testing.assert_close(everything(chunks), features(), rtol=0, atol=2**-23)


@pytest.mark.parametrize(("keep", "times"), [("memory", 1), ("disk", 1), ("recompute", 3)])
def test_features_that_are_kept_are_computed_once(keep, times, folder):
    compute = Counting()
    chunks = store(compute, keep=keep, folder=folder)
    passes = [everything(chunks) for _ in range(3)]
    assert torch.equal(passes[0], passes[1])
    assert torch.equal(passes[0], passes[2])
    # The first chunk is computed for the shift once more where it is not kept.
    assert sorted(compute.computed) == sorted([*range(N_CHUNKS)] * times + [0] * (times > 1))


def test_another_process_finds_what_is_on_the_disk(folder):
    first = everything(on_disk(folder))
    compute = Counting()
    again = on_disk(folder, compute)
    again.reopen()
    assert torch.equal(torch.cat([again.chunk(i) for i in range(N_CHUNKS)]), first)
    assert torch.equal(everything(again), first)
    assert compute.computed == []
    again.remove()
    assert not folder.exists()


def test_reading_chunks_alone_writes_nothing(folder):
    chunks = on_disk(folder)
    chunks.reopen()
    assert torch.equal(chunks.chunk(2), features()[14:21])
    assert not folder.exists()


def test_the_rest_of_an_interrupted_pass_is_computed(folder):
    stream = on_disk(folder).deviations()
    for _ in range(3):
        next(stream)
    compute = Counting()
    torch.testing.assert_close(everything(on_disk(folder, compute)), features(), rtol=0, atol=1e-3)
    assert compute.computed == [3, 4, 5, 6, 7]


class Rank:
    """One of two processes: rank 0 notes what it tells the other one, which is told the same."""

    world_size = 2

    def __init__(self, rank, said):
        self.rank, self.said, self.heard = rank, said, 0

    def broadcast(self, value):
        if self.rank == 0:
            self.said.append(value)
        self.heard += 1
        return self.said[self.heard - 1]


@pytest.mark.parametrize("missing", [0, 1])
def test_processes_wait_for_each_other_equally_often_whoever_lacks_chunks(folder, missing):
    """A rank that was killed later than the other one has all of its chunks on the disk."""
    list(on_disk(folder).deviations())
    for file in folder.glob("0*.safetensors"):
        if int(file.name[:8]) % 2 == missing and int(file.name[:8]) > 1:
            file.unlink()
    said = []
    ranks = [Rank(0, said), Rank(1, said)]
    for rank in ranks:  # one after the other: nothing but `broadcast` is between them
        list(on_disk(folder, processes=rank).deviations())
    assert ranks[0].heard == ranks[1].heard == len(said) > 0


def test_float32_on_disk_loses_nothing(folder):
    chunks = on_disk(folder, precision="float32")
    in_memory = everything(store(keep="memory"))
    assert torch.equal(everything(chunks), in_memory)
    assert torch.equal(torch.cat([chunks.chunk(i) for i in range(N_CHUNKS)]), features())


def test_float16_rounds_the_deviations(folder):
    chunks = on_disk(folder)
    exact = features() - features()[:CHUNK].mean(0)
    rounded = torch.cat([deviation for _, deviation in chunks.deviations()])
    # Half a unit in the last of 11 binary places, or of the subnormal numbers, 2^-24; and the
    # float32 rounding of the difference.
    bound = exact.abs() * 2**-11 + 2**-25 + 2**-24
    assert ((rounded - exact).abs() <= bound).all()
    assert not torch.equal(rounded, exact)
    size = sum(file.stat().st_size for file in folder.iterdir())
    assert size < 4 * N * D + 400 * (N_CHUNKS + 1)  # headers of the files


@pytest.mark.parametrize("precision", ["float16", "float32"])
@pytest.mark.parametrize("lost", [[], [0], [2, 5], range(N_CHUNKS)])
def test_codes_made_again_have_the_same_bits(folder, monkeypatch, precision, lost):
    """Their coefficients are rounded as those on the disk were, whether these are still there or not."""
    encoder = ScatteringEncoder((1, 8, 8), J=1, L=2, n_components=3, store="disk", store_dtype=precision)
    monkeypatch.setattr(ScatteringEncoder, "batch_size", CHUNK)
    images = torch.rand(N, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    first = encoder.open_features(images, folder)
    codes = encoder.fit(images, features=first).transform(first)
    for i in lost:
        (folder / f"{i:08d}-{precision}.safetensors").unlink()
    if len(lost) == N_CHUNKS:
        first.remove()
    assert torch.equal(encoder.transform(encoder.open_features(images, folder)), codes)


@pytest.mark.parametrize(("side", "J"), [(36, 2), (80, 3), (160, 4)])
def test_coefficients_are_far_from_the_largest_float16(side, J):
    # |x * h| <= max |x| times the sum of |h|, layer by layer; subsampling takes values away.
    bank = filter_bank((side, side), J, 8)
    phi = torch.outer(bank.phi_rows, bank.phi_columns)
    low_pass = torch.fft.ifft2(phi).abs().sum().item()
    wavelet = torch.fft.ifft2(bank.psi).abs().sum((-2, -1)).max().item()
    assert max(1, wavelet) ** 2 * low_pass < 100 < torch.finfo(torch.float16).max


def flip_last_byte(file):
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def rewritten(change):
    """Writes a file again with another tensor, but with its own metadata and a right checksum."""

    def damage(file):
        found, metadata = tensors.read_tensors(file)
        tensors.write_tensors(file, change(found["values"]), metadata)

    return damage


DAMAGES = {
    "a flipped bit": flip_last_byte,
    "a truncated file": lambda file: file.write_bytes(file.read_bytes()[:-5]),
    "an empty file": lambda file: file.write_bytes(b""),
    "another file": lambda file: file.write_text("hello"),
    "other tensors": lambda file: tensors.write_tensors(file, {"values": torch.zeros(3)}),
    "a tensor of another name": rewritten(lambda values: {"other": values}),
    "another type": rewritten(lambda values: {"values": values.double()}),
    "not a number": rewritten(lambda values: {"values": values * torch.nan}),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["00000003-float16", "shift"])
def test_a_damaged_file_is_made_again(folder, name, damage):
    first = everything(on_disk(folder))
    file = folder / f"{name}.safetensors"
    DAMAGES[damage](file)
    compute = Counting()
    chunks = on_disk(folder, compute)
    with pytest.warns(UserWarning, match=f"{name}.* is damaged: it is made again"):
        assert torch.equal(everything(chunks), first)
    assert compute.computed == [0 if name == "shift" else 3]
    assert torch.equal(everything(on_disk(folder, compute)), first)  # without a warning
    assert len(compute.computed) == 1


@pytest.mark.filterwarnings("ignore:.*belongs to other images")
def test_chunks_are_not_used_with_another_shift_than_they_were_taken_from(folder):
    everything(on_disk(folder))
    rewritten(lambda values: {"values": values + 1})(folder / "shift.safetensors")
    compute = Counting()
    # Half a unit in the last of 11 binary places, of deviations up to 2.
    torch.testing.assert_close(everything(on_disk(folder, compute)), features(), rtol=0, atol=1e-3)
    assert compute.computed == [*range(N_CHUNKS)]


def test_a_chunk_in_the_place_of_another_is_not_used(folder):
    first = everything(on_disk(folder))
    shutil.copy(folder / "00000002-float16.safetensors", folder / "00000003-float16.safetensors")
    with pytest.warns(UserWarning, match="00000003.* belongs to other images"):
        assert torch.equal(everything(on_disk(folder)), first)


@pytest.mark.filterwarnings("ignore:.*belongs to other images")
def test_chunks_of_other_images_are_not_used(folder):
    everything(on_disk(folder))
    compute = Counting(seed=1)
    other = store(compute, keep="disk", folder=folder, identity=lambda _: "b")
    torch.testing.assert_close(everything(other), features(seed=1), rtol=0, atol=1e-3)
    assert compute.computed == [*range(N_CHUNKS)]


def test_another_precision_may_be_chosen_when_going_on(folder):
    everything(on_disk(folder))
    compute = Counting()
    assert torch.equal(everything(on_disk(folder, compute, precision="float32")), everything(store()))
    assert len(compute.computed) == N_CHUNKS
    assert not [*folder.glob("*float16*")]


def test_only_chunks_are_ever_deleted(folder):
    beside, inside = folder.with_name("mine") / "notes.txt", folder / "mine-float32.safetensors"
    for path in (beside, inside):
        path.parent.mkdir(parents=True)
        path.write_text("mine")
    everything(on_disk(folder, precision="float32"))
    store = on_disk(folder)
    everything(store)
    assert not [*folder.glob("0*-float32*")]
    store.remove()
    assert [file.name for file in folder.iterdir()] == [inside.name]
    assert beside.read_text() == "mine"


def test_what_a_stage_kept_is_deleted_once_it_is_made_or_no_longer_of_use(tmp_path):
    run = RunFolder.start(tmp_path / "run", {})
    stages = Stages(run, SILENT)
    first, second, third = (stages.key("codes", {"J": J}) for J in (1, 2, 3))
    for key in (first, second):
        with stages.working("codes", key) as folder:
            everything(on_disk(folder))
    with stages.working("codes", first) as folder:
        compute = Counting()
        everything(on_disk(folder, compute))
        assert compute.computed == []
    stages.get("codes", {"J": 2}, lambda _: Result({}))
    assert [one.name for one in (run.path / "work").iterdir()] == [first]
    with stages.working("codes", third) as folder:
        everything(on_disk(folder))
        run.note("report", "0" * 16, {}, ["codes"])  # which ends a fit
        assert [one.name for one in (run.path / "work").iterdir()] == [third]  # it is in use


def test_where_features_are_kept_by_themselves(folder):
    fits = {"cache_bytes": 4 * N * D, "folder": folder}
    assert store(**fits).place == "memory"
    assert store(**(fits | {"cache_bytes": 4 * N * D - 1})).place == "disk"
    assert store(cache_bytes=0).place == "recompute"
    with pytest.raises(ScattergenError, match='store="disk" needs a run folder'):
        store(keep="disk").place  # noqa: B018


def test_too_little_space_is_found_out_before_any_work(folder, monkeypatch):
    needed = 2 * N * D + feature_store._SPARE_BYTES
    monkeypatch.setattr(shutil, "disk_usage", lambda place: Usage(0, 0, needed - 1))
    with pytest.warns(UserWarning, match=r"need 0.00 GB in .*computed anew in every pass"):
        assert store(cache_bytes=0, folder=folder).place == "recompute"
    compute = Counting()
    with pytest.raises(ScattergenError, match=r"free some space .*encoder.store=recompute") as error:
        everything(on_disk(folder, compute))
    assert str(folder) in str(error.value)
    assert compute.computed == []
    monkeypatch.setattr(shutil, "disk_usage", lambda place: Usage(0, 0, needed))
    assert on_disk(folder).place == "disk"


def test_chunks_that_are_there_need_no_more_space(folder, monkeypatch):
    everything(on_disk(folder))
    monkeypatch.setattr(shutil, "disk_usage", lambda place: Usage(0, 0, 0))
    assert on_disk(folder).place == "disk"


def test_a_disk_that_fills_up_loses_nothing(folder, monkeypatch):
    save = tensors.save_file

    def full(tensors, file, metadata):
        if len([*folder.glob("0*")]) == 4:
            raise OSError(errno.ENOSPC, "no space")
        save(tensors, file, metadata)

    monkeypatch.setattr(tensors, "save_file", full)
    with pytest.raises(ScattergenError, match=r"is full.*need 0.00 GB more.*same command") as error:
        everything(on_disk(folder))
    assert str(folder) in str(error.value)
    monkeypatch.undo()
    compute = Counting()
    torch.testing.assert_close(everything(on_disk(folder, compute)), features(), rtol=0, atol=1e-3)
    assert compute.computed == [4, 5, 6, 7]


def test_a_folder_that_cannot_be_written_is_said_to_be_that(folder):
    folder.parent.mkdir()
    folder.write_text("a file")
    with pytest.raises(ScattergenError, match="Cannot write") as error:
        everything(on_disk(folder))
    assert "full" not in str(error.value)
