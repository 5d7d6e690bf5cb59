"""Run folders that somebody tampered with: one sentence, and nothing outside is read or changed.

The run in `golden/run` was fitted before files had checksums, by `scattergen fit` to 50 random 8x8
images of two classes (J=1, L=2, 4 components, two epochs); its report and pictures are left out.
Hashes are made to fit, as somebody who tampers would.
"""

import errno
import hashlib
import json
import math
import os
import shutil
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import scattergen as sg
from scattergen import files
from scattergen.densities import Gaussian
from scattergen.errors import InputError, RunFolderError
from scattergen.files import sha256
from scattergen.progress import SILENT
from scattergen.runs import RunFolder, Stages, place, schema
from scattergen.tensor_files import read_tensors, write_tensors

GOLDEN = Path(__file__).parent / "golden" / "run"
pytestmark = pytest.mark.timeout(60)  # what hangs shall not hang for long


@pytest.fixture
def run(tmp_path):
    """A finished run, to be tampered with."""
    return shutil.copytree(GOLDEN, tmp_path / "above" / "run")


def index(run):
    content = json.loads((run / "run.json").read_text())
    return {name: value for name, value in content.items() if name not in ("format", "digest")}


def seal(run, content):
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    (run / "run.json").write_text(json.dumps({"format": 1, **content, "digest": digest}))


def rewrite(run, name, tensors=None, metadata=...):
    """Other tensors or metadata, with hashes that fit."""
    path = run / f"{name}.safetensors"
    old, kept = read_tensors(path)
    write_tensors(path, old if tensors is None else tensors, kept if metadata is ... else metadata)
    rehash(run)


def rehash(run):
    content = index(run)
    content["files"] = {file: sha256(run / file) for file in content["files"]}
    seal(run, content)


def contents(folder):
    """Every file below a folder; not the lock, which holds nothing, nor links."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink() and path.name != ".scattergen-lock"
    }


def refused(use, *words):
    """The error of a run, which is one sentence with these words."""
    with pytest.raises(RunFolderError) as error:
        use()
    text = str(error.value)
    assert text.endswith(".")
    assert "\n" not in text
    assert len(text) < 1000
    for word in words:
        assert word in text


def use_all(run):
    """What a run's files are read for."""
    opened = RunFolder.open(run)
    opened.check()
    opened.read("codes")
    model = sg.load(run)
    for key in model.densities:
        model.sample(1, key)


def test_a_run_of_version_0_1_opens_and_is_as_it_was(run):
    before = contents(run)
    use_all(run)
    with RunFolder.open(run).locked():
        pass
    assert contents(run) == before
    model = sg.load(run)
    assert list(model.densities) == ["gaussian", "mixture", "vae", "gan", "gaussian-by-class"]
    assert torch.isfinite(model.encode(torch.rand(3, 1, 8, 8))).all()
    opened = RunFolder.open(run)
    opened.write("densities/gaussian", *opened.read("densities/gaussian"))
    use_all(run)


# Links, devices and pipes


@pytest.fixture
def victim(tmp_path):
    """A folder of somebody's, in the form of a finished replacement."""
    folder = shutil.copytree(GOLDEN, tmp_path / "victim")
    (folder / ".ready").write_text('["run.json", "encoder.safetensors"]')
    (folder / "thesis.txt").write_text("years of work")
    return folder


def tries(run):
    """Everything that opens or changes a run."""
    options = RunFolder.open(GOLDEN).options

    def write():
        with RunFolder.open(run).locked():
            pass

    return (
        lambda: RunFolder.open(run), lambda: sg.load(run), write,
        lambda: RunFolder.start(run, options),
        lambda: RunFolder.start(run, {**options, "seed": 1}, overwrite=True),
    )  # fmt: skip


def test_a_replacement_that_is_a_link_moves_nothing(run, victim):
    before = contents(victim), contents(run)
    (run / ".replacement").symlink_to(victim)
    for use in tries(run):
        refused(use, ".replacement is a link", "delete the link")
    assert (contents(victim), contents(run)) == before


@pytest.mark.parametrize("folder", ["densities", "pictures", "checkpoints", "checkpoints/decoder"])
def test_a_sub_folder_that_is_a_link_is_not_entered(run, victim, folder):
    if (run / folder).exists():
        shutil.rmtree(run / folder)
    (run / folder).parent.mkdir(exist_ok=True)
    (run / folder).symlink_to(victim)
    before = contents(victim)
    for use in tries(run):
        refused(use, f"{folder} is a link")
    assert contents(victim) == before


def test_a_lock_that_is_a_link_empties_no_file(run, victim, scattergen, tmp_path):
    new = shutil.copytree(GOLDEN, run / ".replacement")  # so that `open` takes the lock, too
    (new / ".ready").write_text(json.dumps(sorted(os.listdir(new))))
    (run / ".scattergen-lock").unlink(missing_ok=True)
    (run / ".scattergen-lock").symlink_to(victim / "thesis.txt")
    for use in tries(run):
        refused(use, ".scattergen-lock is a link")
    for command in (["info", run], ["sample", run, "--out", tmp_path / "a.npz"]):
        assert ".scattergen-lock is a link" in scattergen(*command, code=2).err
    assert (victim / "thesis.txt").read_text() == "years of work"


def test_metrics_that_are_a_link_cut_off_nothing(run, victim):
    (run / "metrics.jsonl").unlink()
    (run / "metrics.jsonl").symlink_to(victim / "thesis.txt")
    opened = RunFolder.open(run)

    def lock():
        with opened.locked():
            pass

    refused(lock, "metrics.jsonl is a link")
    refused(lambda: opened.log({"epoch": 1}), "metrics.jsonl is a link")
    assert (victim / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("file", ["run.json", "decoder.safetensors", "densities/vae.safetensors"])
@pytest.mark.parametrize("kind", ["pipe", "device", "link"])
def test_no_file_of_a_run_is_a_link_a_device_or_a_pipe(run, victim, file, kind):
    path = run / file
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero" if kind == "device" else victim / file)
    refused(lambda: use_all(run), f"{path} is a link, a device or a pipe", "copy the run folder")


@pytest.mark.parametrize("file", [".scattergen-lock", "metrics.jsonl"])
def test_pipes_that_would_be_written_to(run, file):
    (run / file).unlink(missing_ok=True)
    os.mkfifo(run / file)
    refused(tries(run)[2], f"{file} is a link, a device or a pipe")


def test_the_run_folder_may_be_a_link(run, tmp_path):
    (tmp_path / "link").symlink_to(run)
    use_all(tmp_path / "link")
    with RunFolder.open(tmp_path / "link").locked():
        pass


# Paths


@pytest.mark.parametrize(
    "name",
    [
        "densities/../../y.safetensors", "../y.safetensors", "/y.safetensors", "a/b.safetensors",
        "densities/a/b.safetensors", "thesis.txt", ".safetensors", "densities/-x.safetensors",
        "a\nb.safetensors", "x" * 10**5,
    ],
)  # fmt: skip
def test_names_of_files_that_are_none_are_refused(run, name):
    content = index(run)
    content["files"][name] = "0" * 64
    seal(run, content)
    refused(lambda: RunFolder.open(run), "run.json is damaged", "copy the run folder again")


def test_a_diagnosis_is_written_nowhere_else(run, scattergen, tmp_path):
    shutil.copy(run / "densities" / "gaussian.safetensors", tmp_path / "y.safetensors")
    content = index(run)
    content["files"]["densities/../../../y.safetensors"] = sha256(tmp_path / "y.safetensors")
    seal(run, content)
    before = contents(tmp_path)
    command = ["diagnose", run, "--density", "../../../y", "--components", 2, "--simulations", 19]
    assert "is damaged" in scattergen(*command, "-q", code=2).err
    assert contents(tmp_path) == before


def test_names_are_checked_where_they_become_paths(run):
    opened = RunFolder.open(run)
    for use in (opened.checkpoint, opened.remove_checkpoints, opened.forget):
        with pytest.raises(InputError, match="cannot be the name of a file"):
            use("densities/../../y")
    with pytest.raises(InputError, match="cannot be the name of a file"):
        opened.write("../y", {}, {})


OURS = (
    "pictures/samples-vae.png", "pictures/density-mine.png", "pictures/rejections-k2.png",
    "pictures/diagnosis-vae-pairs.png", "checkpoints/decoder/0123456789abcdef.safetensors",
    "checkpoints/decoder/mirrored.safetensors", "diagnosis-vae.json", "evaluation.json",
    "checkpoints/densities/vae/0123456789abcdef-3-fitted.safetensors", "reproduction.html",
    "checkpoints/codes/0123456789abcdef/00000000-float16.safetensors", "report.html",
    "reproduction/quick/latent_prior.safetensors", "pictures/densities-2.png",
    "reproduction/full/unfinished/pixel_vae/0123456789abcdef/snapshot-000300.0.json",
)  # fmt: skip
THEIRS = (
    "pictures/holiday.png", "pictures/2026/beach.png", "densities/mine.safetensors",
    "checkpoints/weights.pt", "checkpoints/decoder/best.safetensors", "data/thesis.txt",
    "notes.txt", "reproduction/notes.txt", "pictures/samples-vae.jpg",
)  # fmt: skip


@pytest.fixture
def lived_in(run):
    """A run beside whose files are those of a person."""
    for name in OURS + THEIRS:
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text(name)
    return run


def assert_theirs_are_left(run):
    for name in THEIRS:
        assert (run / name).read_text() == name


@pytest.mark.parametrize("tampered", [False, True])
def test_a_replaced_run_takes_no_files_of_the_user_with_it(lived_in, tampered):
    if tampered:
        content = index(lived_in)
        content["files"] |= {name: "0" * 64 for name in ("data/thesis.txt", "notes.txt")}
        seal(lived_in, content)
    new = RunFolder.start(lived_in, {"seed": 1}, overwrite=True, afresh=True)
    new.write("weights", {"w": torch.ones(2)}, None)
    (new.path / "pictures").mkdir()
    (new.path / "pictures" / "preview.png").write_text("new")
    new.take_place()
    assert_theirs_are_left(lived_in)
    left = contents(lived_in).keys() - THEIRS
    assert left == {"run.json", "weights.safetensors", "pictures/preview.png"}
    assert RunFolder.open(lived_in).options == {"seed": 1}


def test_a_replacement_that_version_0_1_was_moving_is_completed(run):
    """It listed folders; some of them had been moved."""
    old = index(run)
    new = shutil.copytree(run, run / ".replacement")
    content = index(new) | {"options": {**old["options"], "seed": 1}}
    seal(new, content)
    (run / "pictures").mkdir()
    (run / "pictures" / "samples-vae.png").write_text("old")
    listed = ["codes.safetensors", "decoder.safetensors", "densities", "encoder.safetensors"]
    (new / ".ready").write_text(json.dumps([*listed, "linear.safetensors", "run.json"]))
    shutil.rmtree(run / "densities")
    os.replace(new / "densities", run / "densities")
    use_all(run)
    assert RunFolder.open(run).options["seed"] == 1
    assert not (run / ".replacement").exists()
    assert not (run / "pictures").exists()


def test_an_abandoned_run_takes_no_files_of_the_user_with_it(tmp_path):
    run = RunFolder.start(tmp_path / "run", {"seed": 0})
    for name in OURS[:4] + THEIRS[:3]:
        (run.path / name).parent.mkdir(parents=True, exist_ok=True)
        (run.path / name).write_text(name)
    run.discard_if_empty()
    assert contents(run.path).keys() == set(THEIRS[:3])


def test_finished_stages_delete_their_own_checkpoints_only(lived_in):
    run = RunFolder.open(lived_in)
    stages = Stages(run, SILENT)
    kept = stages.folder("codes", "other options")
    assert not (lived_in / "checkpoints" / "codes").exists()
    run.remove_checkpoints("decoder")
    run.remove_checkpoints("densities/vae")
    assert_theirs_are_left(lived_in)
    assert kept.parent == lived_in / "checkpoints" / "codes"
    assert set(contents(lived_in / "checkpoints")) == {"weights.pt", "decoder/best.safetensors"}


def test_a_fit_to_pictures_of_the_run_that_it_replaces_is_refused(run, scattergen):
    folder = run / "pictures"
    folder.mkdir()
    for i in range(20):
        Image.new("L", (16, 16), i).save(folder / f"samples-{i}.png")
    before = contents(run)
    for source in (folder, folder / "samples-3.png"):
        error = scattergen("fit", source, "--out", run, "--overwrite", "-q", code=2).err
        assert f"{source} lies inside {run}" in error
        assert error.count("\n") == 1
    assert contents(run) == before


# Types


NESTED = "[" * 200_000 + "]" * 200_000
DEEP = json.loads("[" * 60 + "]" * 60)


@pytest.mark.parametrize("text", ["null", "[]", "3", '"text"', NESTED, '{"format": 1}', "{" * 9])
def test_an_index_that_is_no_table(run, text):
    (run / "run.json").write_text(text)
    refused(lambda: RunFolder.open(run), "run.json is damaged", "copy the run folder again")
    refused(lambda: RunFolder.start(run, {}), "run.json is damaged", "nothing in it")


def test_an_index_without_end(run):
    with (run / "run.json").open("a") as file:
        file.write(" " * 2**24)
    refused(lambda: RunFolder.open(run), "run.json is damaged")


@pytest.mark.parametrize(
    ("at", "value"),
    [
        ("scattergen", None), ("options", None), ("options", []), ("options data", "digits"),
        ("options data limit", "all"), ("options training", 3), ("options densities", ["vae"]),
        ("options densities vae", None), ("options sampling", []), ("options encoder", DEEP),
        ("options preset", []), ("files", []), ("files decoder\x00", "0"),
        ("files encoder.safetensors", None), ("files encoder.safetensors", []),
        ("stages", None), ("stages decoder", 3), ("stages encoder seconds", "long"),
        ("stages encoder seconds", 10**400), ("stages decoder history", [{"epoch": 1}]),
        ("stages [/x]", {}), ("stages sampling", {}), ("stages report judgement", {}),
        ("stages report judgement rows decoder", None), ("stages report judgement best", "none"),
        ("stages report best", 3), ("stages report psnr", True),
    ],
    ids=lambda value: str(value)[:30],
)  # fmt: skip
def test_an_index_of_another_form(run, at, value):
    content = index(run)
    part, names = content, at.split(" ")
    for name in names[:-1]:
        part = part[name]
    part[names[-1]] = value
    seal(run, content)
    refused(lambda: RunFolder.open(run), "run.json is damaged", "copy the run folder again")


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("encoder", {"image_shape": None}), ("encoder", {"image_shape": [1, 8]}),
        ("encoder", {"J": "2"}), ("encoder", {"J": 30, "L": 10**6}), ("encoder", {"L": -1}),
        ("encoder", {"n_components": 10**7}), ("encoder", {"device": "cuda"}), ("encoder", []),
        ("linear", None), ("linear", {"n_components": 10**7}), ("linear", {"grid": [4]}),
        ("decoder", 3), ("decoder", {"channels": 8}), ("decoder", {"channels": [10**5, 10**5]}),
        ("decoder", {"channels": [1] * 10**5}), ("decoder", {"kind": "generator"}),
        ("decoder", {"kernel_size": 50_001}), ("decoder", {"linear": None}),
        ("decoder", {"momentum": "much"}), ("codes", {"classes": 3}), ("codes", {"classes": []}),
        ("densities/vae", "vae"), ("densities/vae", {"name": None}),
        ("densities/vae", {"hyperparameters": []}), ("densities/gan", {"name": "vae"}),
        ("densities/gaussian", {"name": "diffusion"}), ("densities/mixture", {"seed": "x"}),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_metadata_of_another_form(run, name, change):
    kept = read_tensors(run / f"{name}.safetensors")[1]
    rewrite(run, name, metadata={**kept, **change} if isinstance(change, dict) else change)
    start = time.monotonic()
    refused(lambda: use_all(run))
    assert time.monotonic() - start < 20  # nothing of that size was made


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("vae", {"widths": [8, 10**7]}), ("vae", {"widths": [8, *[1] * 10**5]}),
        ("vae", {"n_latent": 10**7}), ("gan", {"discriminator_widths": [8, 10**7]}),
        ("gan", {"widths": [30_000, 30_000]}), ("gaussian", {"covariance": 3}),
        ("gaussian-by-class", {"classes": ["a"] * 2}), ("gaussian-by-class", {"density": "vae"}),
        ("gaussian-by-class", {"keywords": {"colour": 1}}), ("mixture", {"n_components": DEEP}),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_hyperparameters_that_the_tensors_do_not_have(run, key, change):
    kept = read_tensors(run / "densities" / f"{key}.safetensors")[1]
    kept["hyperparameters"] |= change
    rewrite(run, f"densities/{key}", metadata=kept)
    start = time.monotonic()
    refused(lambda: use_all(run))
    assert time.monotonic() - start < 20


def test_metadata_that_are_nested_deeply(run):
    path = run / "encoder.safetensors"
    save_file(read_tensors(path)[0], path, metadata={"json": NESTED})
    rehash(run)
    refused(lambda: sg.load(run), "encoder.safetensors is damaged", "nested too deeply")
    refused(lambda: RunFolder.open(run).metadata("encoder"), "nested too deeply")


PARTS = ("encoder", "linear", "decoder", "codes", "densities/mixture", "densities/gan")


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_tensors_with_nan_are_refused(run, name, bad):
    tensors = read_tensors(run / f"{name}.safetensors")[0]
    key = next(key for key, t in tensors.items() if t.is_floating_point() and "history" not in key)
    tensors[key].view(-1)[0] = bad
    rewrite(run, name, tensors)
    refused(lambda: use_all(run), f"{name}.safetensors holds NaN", key)


@pytest.mark.parametrize("name", PARTS)
def test_tensors_that_are_missing_or_of_another_shape(run, name):
    whole = read_tensors(run / f"{name}.safetensors")[0]
    # A history may lack columns, and codes of mirrored images may not be there.
    for key in [key for key in whole if not key.startswith(("history/", "mirrored"))]:
        tensor = whole[key]
        rewrite(run, name, {k: t for k, t in whole.items() if k != key})
        refused(lambda: use_all(run))
        rewrite(run, name, whole | {key: torch.cat([tensor.reshape(-1)] * 3)[None, None]})
        refused(lambda: use_all(run))


def test_variances_and_weights_that_are_none(run):
    for name, key in (
        ("encoder", "explained_variance"), ("decoder", "norms.0.running_var"),
        ("densities/mixture", "weights"), ("densities/gaussian-by-class", "weights"),
    ):  # fmt: skip
        whole = read_tensors(run / f"{name}.safetensors")[0]
        rewrite(run, name, whole | {key: -whole[key]})
        refused(lambda: use_all(run), key)
        rewrite(run, name, whole)
    use_all(run)


def test_a_density_of_wider_codes_is_refused(run):
    density = Gaussian().fit(torch.randn(20, 5))
    rewrite(run, "densities/gaussian", density.state_dict())
    refused(lambda: use_all(run), "gaussian", "5 components", "model have 4")


@pytest.mark.parametrize(
    "change",
    [
        {"history/seconds": torch.zeros(7).double()}, {"history/epoch": torch.zeros(3)},
        {"history/epoch": torch.tensor([math.nan]).double()}, {"history/x": torch.zeros(1, 1)},
        {"history/epoch": torch.zeros(()).double(), "history/seconds": torch.zeros(()).double()},
        {name: torch.zeros(2_000_000).double() for name in ("history/epoch", "history/seconds")},
    ],
    ids=["longer", "single precision", "NaN", "matrix", "numbers", "endless"],
)  # fmt: skip
def test_a_history_that_is_no_table(run, change):
    tensors = read_tensors(run / "densities" / "gaussian.safetensors")[0]
    rewrite(run, "densities/gaussian", tensors | change)
    refused(lambda: use_all(run), "history", "fit the density again")


def test_labels_that_name_no_class(run):
    tensors = read_tensors(run / "codes.safetensors")[0]
    for labels in (tensors["labels"] + 1, tensors["labels"][1:], tensors["labels"].float()):
        rewrite(run, "codes", {**tensors, "labels": labels})
        refused(lambda: RunFolder.open(run).read("codes"), "codes.safetensors is damaged")


def test_a_tampered_run_ends_a_command_with_a_sentence(run, scattergen, tmp_path):
    tensors = read_tensors(run / "decoder.safetensors")[0]
    rewrite(run, "decoder", {name: t * math.nan for name, t in tensors.items()})
    for command in (
        ["sample", run, "--out", tmp_path / "a.npz"],
        ["density", run, "gaussian", "--as", "new"],
        ["diagnose", run, "--simulations", 19],
    ):
        error = scattergen(*command, "-q", code=2).err
        assert error.startswith("error: ")
        assert error.count("\n") == 1


# What cannot be read, or is lost


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
def test_an_index_that_cannot_be_read_is_not_called_damaged(run, monkeypatch, number):
    before, opening, uses = contents(run), os.open, [*tries(run)[:2], *tries(run)[3:]]

    def failing(name, *arguments, **keywords):
        if str(name).endswith("run.json"):
            raise OSError(number, os.strerror(number), str(name))
        return opening(name, *arguments, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "open", failing)
        for use in uses:
            with pytest.raises(RunFolderError) as error:
                use()
            assert f"run.json cannot be read ({os.strerror(number)})" in str(error.value)
            assert "delete" not in str(error.value)
    assert contents(run) == before


def test_a_new_name_reaches_the_disk_before_the_index_forgets_the_old_file(run, monkeypatch):
    opened, steps = RunFolder.open(run), []
    fsync, replace = os.fsync, os.replace

    def synced(descriptor):
        steps.append(f"sync {Path(os.readlink(f'/proc/self/fd/{descriptor}')).name}")
        fsync(descriptor)

    def replaced(source, target):
        steps.append(f"replace {Path(target).name}")
        replace(source, target)

    monkeypatch.setattr(files.os, "fsync", synced)
    monkeypatch.setattr(files.os, "replace", replaced)
    opened.write("densities/gaussian", *opened.read("densities/gaussian"))
    moved = steps.index("replace gaussian.safetensors")
    assert "sync densities" in steps[moved : steps.index("replace run.json", moved)]
    steps.clear()
    new = RunFolder.start(run, {"seed": 1}, overwrite=True, afresh=True)
    new.write("densities/gaussian", *opened.read("densities/gaussian"))
    place.mark_ready(run)
    steps.clear()
    new.take_place()
    moved = steps.index("replace gaussian.safetensors")
    assert "sync densities" in steps[moved : steps.index("replace run.json", moved)]


def test_forms():
    assert schema.misfit([1, 2.5], [int | float]) is None
    assert schema.misfit([1, "x"], [int]) == ""
    assert schema.misfit([], [int]) is None
    assert schema.misfit([1, 2], (int, int)) is None
    assert schema.misfit([1], (int, int)) == ""
    assert schema.misfit({"a": 1}, {"a": int, "b?": int}) is None
    assert schema.misfit({"a": 1, "c": None}, {"a": int, "*": int}) == ".c"
    assert schema.misfit({}, {"a": int}) == ".a"
    assert schema.misfit(True, int) == ""
    assert schema.misfit(2**70, int) == ""
