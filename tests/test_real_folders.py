"""Folders of images as people have them: copied to other disks, mended, split into parts, with what programs leave."""

import json
import os
import shutil
import signal
import socket

import numpy as np
import pytest
import torch
from PIL import Image

import scattergen as sg
from scattergen.datasets import ImageFolder, WithMirrored, folder, limit, mnist, open_dataset
from scattergen.datasets.recognition import marks_of, recognise, what_changed
from scattergen.display.progress import Progress
from scattergen.encoder import ScatteringEncoder
from scattergen.encoder.feature_store import FeatureStore
from scattergen.errors import InputError
from scattergen.runs import RunFolder

N, HELD_OUT = 30, 3
SMALL = {
    "encoder.n_components": 4, "encoder.flips": "false", "encoder.J": 1, "encoder.L": 2, "decoder.kind": "generator",
    "decoder.channels": "[4,4]", "training.loss": "pixels", "training.epochs": 1, "training.shortened": 0,
    "sampling.n_components": "null", "sampling.sharpen": 0,
}  # fmt: skip


class StopError(Exception):
    """Where a fit was interrupted."""


@pytest.fixture(autouse=True)
def _no_endless_reading():
    """A read that never ends is a failure and no wait."""

    def stop(*_):
        raise TimeoutError("reading did not end")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, 120)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def draw(folder, names, first=0, suffix="bmp"):
    """Digits in files of one length."""
    digits = (mnist().train[first : first + len(names)][:, 0] * 255).round().byte().numpy()
    for name, digit in zip(names, digits, strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(digit[::2, ::2].copy()).save(folder / f"{name}.{suffix}")
    return folder


def numbered(n=N):
    return [f"{i:02}" for i in range(n)]


def command(images, run, *more):
    options = [word for name, value in SMALL.items() for word in ("--set", f"{name}={value}")]
    return ["fit", images, "--out", run, "--densities", "gaussian", "-q", *options, *more]


def redraw(file):
    """Another image in a file of the same length and time."""
    before = file.stat()
    pixels = np.asarray(Image.open(file))
    Image.fromarray(pixels.T.copy()).save(file)
    assert file.stat().st_size == before.st_size
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def training_files(folder):
    train = open_dataset(folder).train
    return [train.source.files[number] for number in train.numbers]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return draw(tmp_path_factory.mktemp("home") / "photos", numbered())


@pytest.fixture(scope="module")
def run(scattergen, photos, tmp_path_factory):
    """A finished run of the photos, not to be changed."""
    out = tmp_path_factory.mktemp("runs") / "run"
    scattergen(*command(photos, out))
    return out


@pytest.fixture
def stopping(scattergen, monkeypatch):
    """Runs a fit until the codes are stored."""

    def stop(*_, **__):
        raise StopError

    def fit(words):
        with monkeypatch.context() as patch:
            patch.setattr("scattergen.stages.fit.fit_linear", stop)
            with pytest.raises(StopError):
                scattergen(*words)

    return fit


@pytest.fixture
def copied(photos, run, tmp_path):
    """Copies of the photos and their run, with times of their own."""
    shutil.copytree(photos, tmp_path / "photos", copy_function=shutil.copyfile)
    shutil.copytree(run, tmp_path / "run")
    return tmp_path / "photos", tmp_path / "run"


# What later commands know


def test_later_commands_read_a_folder_as_its_fit_did(scattergen, photos, tmp_path):
    scattergen(*command(photos, run := tmp_path / "run", "--size", 12, "--mode", "RGB"))
    one = training_files(photos)[5]
    shown = scattergen("nearest", run, one, "--images", photos, "-k", 2, "-q", "--json")
    found = json.loads(shown.out)
    files = [training_files(photos)[row].name for row in found["nearest"][0]]
    assert found["files"][0] == files
    assert files[0] == one.name
    scattergen("reconstruct", run, photos, "--part", "test", "--out", tmp_path / "held-out.npy", "-q")
    assert np.load(tmp_path / "held-out.npy").shape == (3, 3, 12, 12)


# Identical images with other times


def touch_all(folder):
    for i, file in enumerate(sorted(folder.iterdir())):
        os.utime(file, ns=(i, i))
    return folder


def touch_one(folder):
    os.utime(folder / "07.bmp", (2e9, 2e9))
    return folder


def rename(folder):
    return folder.rename(folder.parent / "scratch-4711")


def link(folder):
    (folder.parent / "photos-here").symlink_to(folder)
    return folder.parent / "photos-here"


def link_each(folder):
    elsewhere = folder.rename(folder.parent / "store")
    folder.mkdir()
    for file in elsewhere.iterdir():
        (folder / file.name).symlink_to(file)
    return folder


def write_protect(folder):
    for file in folder.iterdir():
        file.chmod(0o444)
    return folder


@pytest.mark.parametrize("change", [touch_all, touch_one, rename, link, link_each, write_protect])
def test_a_run_goes_on_with_copies_of_its_images(scattergen, copied, change):
    folder, run = copied
    folder = change(folder)
    assert "nothing to do" in scattergen(*command(folder, run)).out
    # Of the right images, but too few.
    error = scattergen("evaluate", run, "--images", folder, "-n", 20, "-q", code=2).err
    assert "has 3 test images, and 20 are needed" in error


@pytest.mark.parametrize("change", [touch_all, touch_one])
def test_an_interrupted_fit_goes_on_with_copies(scattergen, photos, tmp_path, stopping, change):
    folder, run = shutil.copytree(photos, tmp_path / "photos"), tmp_path / "run"
    stopping(command(folder, run))
    key, before = RunFolder.open(run).key("codes"), (run / "run.json").read_bytes()
    change(folder)
    stopping(command(folder, run))
    assert RunFolder.open(run).key("codes") == key
    assert (run / "run.json").read_bytes() == before


@pytest.mark.parametrize("places", [[0], [13], [26], [4, 5, 20]])
def test_a_changed_file_of_equal_name_length_and_time_is_named(scattergen, copied, places):
    folder, run = copied
    changed = [training_files(folder)[place] for place in places]
    for file in changed:
        redraw(file)
    for words in (command(folder, run), ["diagnose", run, "--images", folder, "--part", "test", "-q"]):
        err = scattergen(*words, code=2).err
        assert f"{changed[0]} is not the image that {run} was fitted to" in err
        assert (f"({len(places)} have changed)" in err) == (len(places) > 1)
        assert "data.fingerprint" not in err


def test_other_images_are_no_changed_ones(scattergen, copied, tmp_path):
    _, run = copied
    others = draw(tmp_path / "others" / "photos", numbered(), first=500)
    assert "other options (data.fingerprint=" in scattergen(*command(others, run), code=2).err
    words = ["diagnose", run, "--images", others, "--part", "test", "-q"]
    assert "does not hold the images" in scattergen(*words, code=2).err


def test_another_size_is_said_as_before(scattergen, copied):
    folder, run = copied
    err = scattergen(*command(folder, run, "--size", 12), code=2).err
    assert "data.fingerprint" in err
    assert "12 now" in err
    assert "marks" not in err


def test_another_size_may_be_chosen_while_there_are_coefficients_only(scattergen, photos, tmp_path, monkeypatch):
    fit = ScatteringEncoder.fit

    def failing(*arguments, **keywords):
        fit(*arguments, **keywords)
        raise InputError("It ends here.")

    on_disk = command(photos, tmp_path / "run", "--set", "encoder.store=disk")
    with monkeypatch.context() as patch:
        patch.setattr(ScatteringEncoder, "fit", failing)
        assert "It ends here." in scattergen(*on_disk, code=2).err
    assert RunFolder.open(tmp_path / "run").has_work()
    scattergen(*on_disk, "--size", 12)
    assert RunFolder.open(tmp_path / "run").options["data"]["size"] == 12


@pytest.mark.parametrize("how", [[], ["--json"]])
def test_marks_of_files_are_not_shown(scattergen, run, how):
    marks = RunFolder.open(run).options["data"]["marks"]
    assert len(marks) == 4 * (N - HELD_OUT)
    shown = scattergen("info", run, *how).out
    assert "fingerprint" in shown
    for text in (shown, (run / "report.html").read_text()):
        assert marks not in text
        assert "marks" not in text


# Coefficients of a mended file


@pytest.mark.parametrize("flips", [False, True])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("place", [0, 9, 26])
def test_a_mended_file_discards_its_own_coefficients(tmp_path, monkeypatch, place, dtype, flips):
    monkeypatch.setattr(ScatteringEncoder, "batch_size", 4)
    draw(tmp_path / "photos", numbered())
    encoder = ScatteringEncoder((1, 14, 14), J=1, L=2, n_components=4, store="disk", store_dtype=dtype)

    def computed():
        images = WithMirrored(open_dataset(tmp_path / "photos").train, 0, flips)
        store, ranges = encoder.open_features(images, tmp_path / "store"), []
        compute = store.compute
        store.compute = lambda rows: ranges.append(rows) or compute(rows)
        parts = {start: values for start, values in store.deviations()}
        return {rows.start // 4 for rows in ranges}, parts

    everything, before = computed()
    assert len(everything) == len(before) == (14 if flips else 7)
    assert computed()[0] == set()
    redraw(training_files(tmp_path / "photos")[place])
    wanted = {place // 4, (place + 27) // 4} if flips else {place // 4}
    with pytest.warns(UserWarning, match="belongs to other images or options: it is made again"):
        again, after = computed()
    assert again == wanted
    same = {start // 4 for start in before if before[start].equal(after[start])}
    assert same == everything - wanted


def test_coefficients_of_wholly_other_images_give_what_none_would(tmp_path, monkeypatch):
    monkeypatch.setattr(ScatteringEncoder, "batch_size", 4)
    encoder = ScatteringEncoder((1, 14, 14), J=1, L=2, n_components=4, store="disk")
    for first in (0, 100):
        draw(tmp_path / "photos", numbered(), first=first)
        store = encoder.open_features(ImageFolder(tmp_path / "photos"), tmp_path / "store")
        if first == 0:
            assert len(list(store.deviations())) == 8
    with pytest.warns(UserWarning, match="belongs to other images"):
        found = [values for _, values in store.deviations()]
    afresh = encoder.open_features(ImageFolder(tmp_path / "photos"), tmp_path / "other").deviations()
    assert all(a.equal(b) for a, (_, b) in zip(found, afresh, strict=True))


def test_an_interrupted_fit_keeps_the_coefficients_of_the_other_files(
    scattergen, photos, tmp_path, monkeypatch, stopping
):
    monkeypatch.setattr(ScatteringEncoder, "batch_size", 4)
    folder, run = shutil.copytree(photos, tmp_path / "photos"), tmp_path / "run"
    disk = ("--set", "encoder.store=disk")
    bad = training_files(folder)[9]
    whole = bad.read_bytes()
    bad.write_bytes(whole[:-20])
    assert bad.name in scattergen(*command(folder, run, *disk), code=2).err
    assert len([*run.glob("work/*/0*-float16.safetensors")]) == 2
    bad.write_bytes(whole)
    kept = []
    keep = FeatureStore._keep_chunk
    monkeypatch.setattr(FeatureStore, "_keep_chunk", lambda *a: kept.append(a[1]) or keep(*a))
    stopping(command(folder, run, *disk))
    assert min(kept) == 2
    assert not (run / "work").exists()
    stopping(command(folder, tmp_path / "other", *disk))
    one, other = (RunFolder.open(path).read("codes")[0]["codes"] for path in (run, tmp_path / "other"))
    assert one.equal(other)


# Parts


TRAIN = ["train", "Train", "TRAIN", "training"]
TEST = ["test", "Test", "testing", "val", "VAL", "Val", "valid", "Valid", "validation", "Validation", "dev", "eval"]


@pytest.mark.parametrize("by_class", [False, True])
@pytest.mark.parametrize(("train", "test"), [*((TRAIN[i % 4], name) for i, name in enumerate(TEST))])
def test_sub_folders_of_training_and_test_images_are_parts(tmp_path, train, test, by_class):
    inner = ["a/", "b/"] if by_class else [""]
    draw(tmp_path, [f"{train}/{one}{i}" for one in inner for i in range(3)])
    draw(tmp_path, [f"{test}/{one}{i}" for one in inner for i in range(2)], first=50)
    draw(tmp_path, ["more/x"], first=90)
    data = open_dataset(tmp_path)
    assert (len(data.train), len(data.test)) == (3 * len(inner), 2 * len(inner))
    assert data.train.root == tmp_path / train
    assert data.test.root == tmp_path / test
    assert data.train.classes == data.test.classes == (("a", "b") if by_class else None)


@pytest.mark.parametrize(
    "names", [("train", "val", "test"), ("Training", "Valid", "Test", "dev"), ("train", "valid", "val")]
)
def test_a_part_that_is_not_used_is_named(tmp_path, names):
    for i, name in enumerate(names):
        draw(tmp_path, [f"{name}/0", f"{name}/1"], first=2 * i)
    used = "Test" if "Test" in names else "test" if "test" in names else "valid"
    with pytest.warns(UserWarning, match=f"test images are those in {used}; not used: "):
        data = open_dataset(tmp_path)
    assert (len(data.train), len(data.test)) == (2, 2)


@pytest.mark.parametrize(
    "names",
    [("val", "test"), ("train", "Train", "val"), ("train", "training"), ("train", "val", "Val"), ("Test", "dev")],
)
def test_parts_that_leave_open_which_is_which_are_refused(tmp_path, names):
    draw(tmp_path, [f"{name}/0" for name in names])
    with pytest.raises(InputError, match="but expected one folder train and one folder test or val: rename") as caught:
        open_dataset(tmp_path)
    assert all(name in str(caught.value) for name in names)


@pytest.mark.parametrize(
    "names", [("cats", "dogs"), ("train", "trams"), ("trainers", "tests"), ("test", "tested"), ("train_test", "trams")]
)
def test_other_sub_folders_are_classes_as_before(tmp_path, names):
    draw(tmp_path, [f"{name}/{i}" for name in names for i in range(5)])
    assert ImageFolder(tmp_path).classes == tuple(sorted(names))
    assert len(open_dataset(tmp_path).train) == 9


LIKE_PARTS = [
    "train2017 val2017", "training_set test_set", "seg_train seg_test", "train_images test_images", "trainset testset",
    "train-set val-set", "01_train 02_val", "train holdout", "images/train images/val", "a/Train a/test b/Train b/test",
    "TrainImages TestImages", "imagesTrain imagesVal",
]  # fmt: skip


@pytest.mark.parametrize("names", [names.split() for names in LIKE_PARTS])
def test_parts_further_below_or_of_other_names_are_mixed_with_a_warning(tmp_path, names):
    draw(tmp_path, [f"{name}/{i}" for name in names for i in range(5)])
    with pytest.warns(UserWarning, match="look like parts of a dataset, not classes.*give the folder that holds"):
        assert len(open_dataset(tmp_path).train) == 9 * len(names) / 2


# What programs keep beside photos

KEPT = [
    "@eaDir", "@EADIR", "#recycle", "$RECYCLE.BIN", "$Recycle.Bin", ".thumbnails", "__MACOSX", "@Recycle", "@__thumb",
    ".Trash-1000", "System Volume Information", "RECYCLER", "lost+found", "found.000", "Previews.lrdata", "#snapshot",
    ".picasaoriginals", "[Originals]", "~snapshot", ".@__thumb", "LOST.DIR", "files_trashbin", ".ipynb_checkpoints",
    "RECYCLED",
]  # fmt: skip


@pytest.mark.parametrize("name", KEPT)
def test_folders_of_programs_are_left_out_and_counted(tmp_path, name):
    draw(tmp_path, ["x", "y", "sub/z"])
    draw(tmp_path, [f"{name}/x.bmp/S", f"{name}/T", f"sub/{name}/deep/er/U"], first=40)
    (tmp_path / name / "index.db").touch()
    with pytest.warns(UserWarning, match=r"^Left out of .*: files that programs keep there: 3, such as "):
        images = ImageFolder(tmp_path)
    assert [file.stem for file in images.files] == ["z", "x", "y"]


@pytest.mark.parametrize("name", ["._x", ".x", "SYNOPHOTO_THUMB_XL", "SYNOFILE_THUMB_M"])
def test_files_of_programs_are_left_out_and_counted(tmp_path, name):
    draw(tmp_path, ["x", "y", name, f"sub/{name}"])
    (tmp_path / ".DS_Store").touch()
    with pytest.warns(UserWarning, match=r"files that programs keep there: 2, such as "):
        assert len(ImageFolder(tmp_path)) == 2


@pytest.mark.parametrize(
    "name",
    [
        "thumbnails",
        "recycle",
        "@anna",
        "#1",
        "$100",
        "originals",
        "eaDir",
        "snapshot",
        "macosx",
        "recycled",
        "Recycler",
    ],
)
def test_what_may_be_a_class_stays(tmp_path, name):
    draw(tmp_path, [f"{name}/0", "other/0"])
    assert ImageFolder(tmp_path).classes == tuple(sorted((name, "other")))


# What is no file


def pipe(path):
    os.mkfifo(path)


def bound_socket(path):
    before = os.getcwd()
    os.chdir(path.parent)  # whose path may be too long for a socket
    try:
        socket.socket(socket.AF_UNIX).bind(path.name)
    finally:
        os.chdir(before)


def link_to_a_pipe(path):
    os.mkfifo(path.with_suffix(".pipe"))
    path.symlink_to(path.with_suffix(".pipe"))


def link_to_a_device(path):
    path.symlink_to("/dev/zero")


ODD = [pipe, bound_socket, link_to_a_pipe, link_to_a_device]


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("make", ODD)
@pytest.mark.parametrize("strict", [True, False])
def test_what_is_no_regular_file_is_left_out_and_counted(tmp_path, make, strict):
    draw(tmp_path, ["a", "b"])
    (tmp_path / "link.bmp").symlink_to(tmp_path / "a.bmp")
    make(tmp_path / "x.png")
    with pytest.warns(UserWarning, match=r"^Left out of .*: pipes, sockets or devices: 1, such as x\.png\.$"):
        images = ImageFolder(tmp_path, strict=strict)
    assert [file.name for file in images.files] == ["a.bmp", "b.bmp", "link.bmp"]
    assert len(images.fingerprint) == 64


def test_encode_passes_over_a_pipe(scattergen, copied, tmp_path):
    folder, run = copied
    os.mkfifo(folder / "x.png")
    done = scattergen("encode", run, folder, "--out", tmp_path / "codes.npy", "-q", showing_warnings=True)
    assert "pipes, sockets or devices: 1, such as x.png" in done.err
    assert len(np.load(tmp_path / "codes.npy")) == N


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("make", [*ODD, lambda path: draw(path.parent / "@eaDir", ["x"])])
def test_a_folder_of_such_things_alone_is_one_sentence(tmp_path, make):
    make(tmp_path / "x.png")
    with pytest.raises(
        InputError, match=r"^There are no images in .*; left out are .*: 1, such as .*: give a folder"
    ) as caught:
        open_dataset(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_link_to_nothing_is_named(tmp_path):
    draw(tmp_path, ["a", "b"])
    (tmp_path / "x.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(InputError, match=r"x\.png cannot be read as an image \(No such file"):
        ImageFolder(tmp_path)
    assert len(ImageFolder(tmp_path, strict=False)) == 2


def test_reading_many_files_to_know_them_is_shown_once(photos, monkeypatch):
    class Told(Progress):
        def task(self, description, total):
            told.append((description, total))
            return super().task(description, total)

    told = []
    monkeypatch.setattr(folder, "MANY", 5)
    images = ImageFolder(photos, progress=Told(show=False))
    few = images.fingerprint_of(range(5))
    assert told == []
    images.fingerprint, images.fingerprint_of(range(9))
    assert told == [("know files by content", len(images))]
    assert images.fingerprint_of(range(5)) == few


@pytest.mark.parametrize("n", [20, 26])
def test_a_limited_choice_is_recognised_and_its_changed_file_named(photos, tmp_path, n):
    folder = shutil.copytree(photos, tmp_path / "photos")
    before = limit(open_dataset(folder), n)
    known = {"fingerprint": before.train.fingerprint, "limit": before.limit, "n": n, **marks_of(before.train)}
    touch_all(folder)
    again = limit(open_dataset(folder), n)
    assert recognise(again, known)
    changed = again.train.source.source.files[int(again.train.source.numbers[again.train.numbers[n // 2]])]
    redraw(changed)
    again = limit(open_dataset(folder), n)
    assert not recognise(again, known)
    assert str(changed) in what_changed(again, known, tmp_path / "run")


@pytest.mark.parametrize(
    ("act", "counts"),
    [
        (lambda files: files[4].unlink(), None),
        (lambda files: [file.unlink() for file in files[4:8]], None),
        (lambda files: files[4].rename(files[4].with_name("zz.bmp")), None),
        (
            lambda files: draw(files[4].parent, ["aaa", "zzz"], first=200),
            "missing: 0, new or from the test images: 2, such as ",
        ),
    ],
)
def test_no_untouched_file_is_said_to_have_changed(tmp_path, act, counts):
    draw(tmp_path, [f"p/{i:02}" for i in range(60)])
    before = open_dataset(tmp_path)
    known = {"fingerprint": before.train.fingerprint, "n": len(before.train), **marks_of(before.train)}
    assert what_changed(before, known, tmp_path / "run") is None
    act(before.train.source.files)
    after = open_dataset(tmp_path)
    assert not recognise(after, known)
    said = what_changed(after, known, tmp_path / "run")
    assert said.startswith(
        f"{tmp_path} holds other training images than {tmp_path}/run was fitted to ({counts or 'missing: '}"
    )
    assert what_changed(limit(after, 40), known, tmp_path / "run") is None


# Parts of a fit's images, and commands that need not be told what they are


def test_parts_are_those_of_a_fit_to_some_of_the_images(scattergen, photos, tmp_path):
    run = tmp_path / "run"
    scattergen(*command(photos, run, "--limit", 12))
    fitted_to = limit(open_dataset(photos), 12)
    for part, images in (("train", fitted_to.train), ("test", fitted_to.test)):
        scattergen("encode", run, photos, "--part", part, "--out", tmp_path / "codes.npy", "-q")
        codes = torch.from_numpy(np.load(tmp_path / "codes.npy"))
        # Batches of other sizes, whose sums differ in their last bits.
        torch.testing.assert_close(codes, sg.load(run).encode(images), rtol=1e-4, atol=1e-4)


def test_other_images_are_not_limited_as_those_of_the_fit(scattergen, photos, tmp_path):
    run, others = tmp_path / "run", draw(tmp_path / "others", numbered(40), first=100)
    scattergen(*command(photos, run, "--limit", 12))
    scattergen("encode", run, others, "--part", "train", "--out", tmp_path / "codes.npy", "-q")
    assert len(np.load(tmp_path / "codes.npy")) == 36


def test_reconstruct_says_how_many_images_the_model_was_trained_on(scattergen, photos, run, tmp_path):
    trained_on = {*training_files(photos)}
    first = open_dataset(photos, test_fraction=0).train.files[:10]
    number = sum(file in trained_on for file in first)
    assert 0 < number < 10
    shown = scattergen("reconstruct", run, photos, "-n", 10, "--out", tmp_path / "a.png", "-q").out
    assert f"trained on {number} of these; --part test" in shown
    shown = scattergen("reconstruct", run, photos, "--part", "test", "--out", tmp_path / "b.png", "-q").out
    assert "trained on" not in shown
    others = draw(tmp_path / "others", numbered(4), first=100)
    told = scattergen("reconstruct", run, others, "--out", tmp_path / "c.png", "-q", "--json").out
    assert "trained_on" not in json.loads(told)  # which is not known


def test_images_in_the_current_folder_are_found_by_their_name(scattergen, photos, run, tmp_path, monkeypatch):
    nearest = ["nearest", run, "-n", 2, "-k", 1, "--out", tmp_path / "a.png", "-q"]
    monkeypatch.chdir(tmp_path)
    assert "name them by --images" in scattergen(*nearest, code=2).err
    monkeypatch.chdir(photos.parent)
    assert json.loads(scattergen(*nearest, "--json").out)["files"]
    draw(tmp_path / "photos", numbered(), first=200)
    monkeypatch.chdir(tmp_path)
    assert "does not hold the images" in scattergen(*nearest, code=2).err
    named = ["nearest", run, "--images", tmp_path / "photos", "-n", 2, "-k", 1, "-q"]
    assert "does not hold the images" in scattergen(*named, code=2).err


def test_a_folder_named_like_a_dataset_of_the_hub_is_a_folder(scattergen, photos, run, tmp_path, monkeypatch):
    (tmp_path / "hf:x").symlink_to(photos)
    monkeypatch.chdir(tmp_path)
    options = RunFolder.open(run).options
    monkeypatch.setattr(RunFolder, "options", {**options, "data": {**options["data"], "name": "hf:x"}})
    assert json.loads(scattergen("nearest", run, "-n", 2, "-k", 1, "--out", tmp_path / "a.png", "--json", "-q").out)[
        "files"
    ]


@pytest.mark.parametrize("name", ["", ".", "..", "~", "a/b", "/", "hf:x"])
def test_the_name_of_the_images_is_no_path(scattergen, run, tmp_path, monkeypatch, name):
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a")
    monkeypatch.setattr(RunFolder, "options", {**RunFolder.open(run).options, "data": {"name": name}})
    assert "name them by --images" in scattergen("nearest", run, "--out", tmp_path / "a.png", code=2).err


def test_a_morph_between_files(scattergen, photos, run, tmp_path):
    morph = ["interpolate", run, photos, "--out", tmp_path / "a.png", "-q"]
    assert json.loads(scattergen(*morph, "--from", "07.bmp", "--to", "2", "--json").out)["rows"] == [7, 2]
    shown = ["--from", photos / "07.bmp", "--to", "2", "--json"]
    assert json.loads(scattergen(*morph, *shown).out)["rows"] == [7, 2]
    assert 'has no image "7.bmp"' in scattergen(*morph, "--from", "7.bmp", code=2).err
    assert "such as 00.bmp" in scattergen(*morph, "--to", "-1", code=2).err
    assert "has the images 0 to 29" in scattergen(*morph, "--to", "30", code=2).err


def test_a_run_inside_its_images_is_refused_wherever_home_is(scattergen, photos, monkeypatch):
    monkeypatch.setenv("HOME", str(photos.parent))
    assert "lies inside" in scattergen(*command("~/photos", photos / "run"), code=2).err
    assert not (photos / "run").exists()


def test_images_made_grey_are_made_grey_again(scattergen, tmp_path):
    (tmp_path / "colour").mkdir()
    for row in range(12):
        pixels = np.random.default_rng(row).integers(0, 256, (14, 14, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "colour" / f"{row}.png")
    scattergen(*command(tmp_path / "colour", tmp_path / "run", "--mode", "L"))
    (tmp_path / "fit.toml").write_text(scattergen("info", tmp_path / "run", "--config").out)
    again = ["fit", tmp_path / "colour", "--out", tmp_path / "run", "--config", tmp_path / "fit.toml", "-q", "--json"]
    assert json.loads(scattergen(*again).out)["finished_before"]
