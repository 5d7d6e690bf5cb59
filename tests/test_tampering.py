"""Run folders that somebody tampered with: one sentence, and nothing outside is read or changed.

The run in `golden/run` was fitted by `scattergen fit` to 50 random 8x8 images of two classes (J=1,
L=2, 4 components, two epochs); its report and pictures are left out. Hashes are made to fit, as
somebody who tampers would.
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
from scattergen.densities import Gaussian, make
from scattergen.errors import InputError, RunFolderError
from scattergen.files import atomic, sha256
from scattergen.files.tensors import _checksum, read_tensors, write_tensors
from scattergen.pipeline.evaluate import diagnose_run
from scattergen.runs import RunFolder, layout, schema

GOLDEN = Path(__file__).parent / "golden" / "run"
KEY, OTHER = "0123456789abcdef", "fedcba9876543210"
pytestmark = pytest.mark.timeout(60)  # what hangs shall not hang for long


@pytest.fixture
def run(tmp_path):
    """A finished run, to be tampered with."""
    return shutil.copytree(GOLDEN, tmp_path / "above" / "run")


def index(run):
    content = json.loads((run / "run.json").read_text())
    return {name: value for name, value in content.items() if name not in ("format", "digest")}


def seal(run, content):
    version = json.loads((run / "run.json").read_text())["format"]
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    (run / "run.json").write_text(json.dumps({"format": version, **content, "digest": digest}))


def change(content, at, value):
    """Change what is at a place, such as "options data limit"."""
    *names, last = at.split(" ")
    for name in names:
        content = content[name]
    content[last] = value


def file_of(run, name):
    return RunFolder.open(run).file(name)


def rewrite(run, name, tensors=None, metadata=...):
    """Other tensors or metadata, with hashes that fit."""
    path = file_of(run, name)
    old, kept = read_tensors(path)
    if metadata is not ...:
        kept = {**kept, "content": metadata}
    write_tensors(path, old if tensors is None else tensors, kept)
    rehash(run)


def rehash(run):
    content = index(run)
    for name, entry in content["stages"].items():
        if entry["sha256"] is not None:
            entry["sha256"] = sha256(run / layout.file_of(name, entry["key"]))
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


def write(run):
    """Change a run."""
    RunFolder.open(run).note("diagnosis", KEY, {}, ["codes"])


def test_a_run_opens_and_is_as_it_was(run):
    before = contents(run)
    use_all(run)
    assert contents(run) == before
    assert not (run / ".scattergen-lock").exists()
    model = sg.load(run)
    assert list(model.densities) == ["gaussian", "mixture", "vae", "gan", "gaussian-by-class"]
    assert torch.isfinite(model.encode(torch.rand(3, 1, 8, 8))).all()


def test_a_diagnosis_goes_with_its_density(run):
    found = diagnose_run(run, density="gaussian", components=2, n=50, n_simulations=19)
    others = diagnose_run(run, components=2, n=50, n_simulations=19)
    assert found.scores.is_file()
    drawn = {picture.name for picture in (run / "pictures").glob("diagnosis*")}
    opened = RunFolder.open(run)
    stored = opened.read("densities/gaussian")
    opened.write("densities/gaussian", KEY, *stored, after={"codes": opened.key("codes")})
    assert not found.scores.exists()
    assert others.scores.is_file()
    kept = {picture.name for picture in (run / "pictures").glob("diagnosis*")}
    assert kept == {name for name in drawn if not name.startswith("diagnosis-gaussian")} != drawn


# Links, devices and pipes


@pytest.fixture
def victim(run, tmp_path):
    """A folder of somebody's, in the form of a run."""
    folder = shutil.copytree(run, tmp_path / "victim")
    for name in (f"work/{KEY}/checkpoint.safetensors", f"{KEY}/lock", "thesis.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("years of work")
    return folder


def writers(run):
    """Everything that changes a run."""
    options = RunFolder.open(GOLDEN).options

    def work():
        with RunFolder.open(run).working("evaluation", KEY):
            pass

    return (
        lambda: write(run), work, lambda: RunFolder.open(run).tidy(),
        lambda: RunFolder.open(run).finish(), lambda: RunFolder.start(run, options),
        lambda: RunFolder.start(run, {**options, "seed": 1}, overwrite=True),
    )  # fmt: skip


def readers(run):
    return (lambda: RunFolder.open(run), lambda: RunFolder.begun(run), lambda: sg.load(run))


KINDS = ("pipe", "device", "link")


def put(path, kind, target):
    """Something that is no file in the place of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero" if kind == "device" else target)


@pytest.mark.parametrize("folder", ["work", f"work/{KEY}", "densities", "pictures", "paper"])
def test_a_sub_folder_that_is_a_link_is_not_entered(run, victim, folder):
    if (run / folder).exists():
        shutil.rmtree(run / folder)
    (run / folder).parent.mkdir(exist_ok=True)
    (run / folder).symlink_to(victim)
    before = contents(victim)
    for use in (*readers(run), *writers(run)):
        refused(use, f"{folder} is a link", "delete the link")
    assert contents(victim) == before


def test_a_folder_that_becomes_a_link_is_not_written_to(run, victim):
    opened = RunFolder.open(run)
    with opened.working("evaluation", KEY) as folder:
        (folder / "evaluation.png").write_text("a picture")
        (run / "pictures").symlink_to(victim)
        before = contents(victim)
        products = {"pictures/evaluation.png": folder / "evaluation.png"}
        refused(lambda: opened.note("evaluation", KEY, {}, [], products), "pictures is a link")
    assert contents(victim) == before


@pytest.mark.parametrize("kind", KINDS)
def test_a_lock_that_is_no_file_is_not_opened(run, victim, scattergen, tmp_path, kind):
    put(run / ".scattergen-lock", kind, victim / "thesis.txt")
    for use in writers(run):
        refused(use, ".scattergen-lock is a link, a device or a pipe")
    error = scattergen("density", run, "gaussian", "--as", "new", "-q", code=2).err
    assert ".scattergen-lock is a link" in error
    use_all(run)  # reading needs no lock
    scattergen("sample", run, "--out", tmp_path / "a.npz", "-q")
    assert (victim / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("kind", KINDS)
def test_a_lock_of_work_that_is_no_file_is_not_opened(run, victim, kind):
    lock = run / "work" / OTHER / "lock"
    put(lock, kind, victim / "thesis.txt")

    def work():
        with RunFolder.open(run).working("evaluation", OTHER):
            pass

    refused(work, "lock is a link, a device or a pipe")
    write(run)
    RunFolder.open(run).tidy()
    assert os.path.lexists(lock)  # nobody knows whether somebody works there
    assert (victim / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("kind", KINDS)
def test_metrics_that_are_no_file_are_not_written_to(run, victim, kind):
    put(run / "metrics.jsonl", kind, victim / "thesis.txt")
    refused(lambda: RunFolder.open(run).log({"epoch": 1}), "metrics.jsonl is a link, a device or")
    begun = RunFolder.start(run, {"seed": 1}, overwrite=True)
    put(run / "work" / "metrics.jsonl", kind, victim / "thesis.txt")
    refused(lambda: begun.log({"epoch": 1}), "metrics.jsonl is a link, a device or a pipe")
    begun.write("weights", KEY, {"w": torch.ones(2)}, None)
    begun.finish()
    assert (victim / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("name", ["run.json", "decoder", "densities/vae"])
@pytest.mark.parametrize("kind", KINDS)
def test_no_file_of_a_run_is_a_link_a_device_or_a_pipe(run, victim, name, kind):
    path = run / name if name == "run.json" else file_of(run, name)
    put(path, kind, victim / path.relative_to(run))
    before = contents(victim)
    words = f"{path} is a link, a device or a pipe", "copy the run folder"
    refused(lambda: use_all(run), *words)
    if name == "run.json":
        for use in (*readers(run), *writers(run)):
            refused(use, *words)
    assert contents(victim) == before


@pytest.mark.parametrize("kind", KINDS)
def test_unfinished_work_that_is_no_file_is_not_gone_on_with(run, victim, kind):
    opened, before = RunFolder.open(run), contents(victim)
    with opened.working("densities/new", OTHER) as folder:
        checkpoint = folder / "checkpoint.safetensors"
        put(checkpoint, kind, victim / "work" / KEY / "checkpoint.safetensors")
        density = make("vae", epochs=2, widths=[8], n_latent=2)
        with pytest.warns(UserWarning, match=r"checkpoint.safetensors is damaged"):
            density.fit(opened.read("codes")[0]["codes"], checkpoint=checkpoint)
        assert checkpoint.is_file()
        assert not checkpoint.is_symlink()
    assert contents(victim) == before


def test_a_link_in_the_place_of_a_result_is_replaced_and_not_written_through(run, tmp_path):
    thesis = tmp_path / "thesis.txt"
    thesis.write_text("years of work")
    opened = RunFolder.open(run)
    stored = opened.read("densities/vae")
    for target in (f"densities/vae-{KEY}.safetensors", "pictures/density-vae.png"):
        put(run / target, "link", thesis)
    opened.write("densities/vae", KEY, *stored, after={"codes": opened.key("codes")})
    with opened.working("densities/vae", KEY) as folder:
        (folder / "picture.png").write_text("a picture")
        opened.illustrate("densities/vae", {"pictures/density-vae.png": folder / "picture.png"})
    use_all(run)
    assert (run / "pictures" / "density-vae.png").read_text() == "a picture"
    assert thesis.read_text() == "years of work"


def test_the_run_folder_may_be_a_link(run, tmp_path):
    (tmp_path / "link").symlink_to(run)
    use_all(tmp_path / "link")
    write(tmp_path / "link")
    assert "diagnosis" in index(run)["stages"]


# Paths


NAMES = (
    "densities/../../y", "../y", "/y", "a/b", "densities/a/b", "", "densities/-x", "a\nb",
    "pictures/y", "work/y", ".y", "x" * 10**5, "densities/" + "x" * 240,
)  # fmt: skip


def entry(**changes):
    """A stage in run.json."""
    return {"key": KEY, "sha256": "0" * 64, "after": {}, "products": [], "facts": {}, **changes}


RECORDS = ("", "next ")  # the run, and the one that shall take its place


def tampered(run, at, value):
    """Change run.json at a place in one of its records."""
    content = index(run)
    content["next"] = index(run)
    change(content, at, value)
    seal(run, content)


@pytest.mark.parametrize("record", RECORDS)
@pytest.mark.parametrize("name", NAMES, ids=lambda name: name[:20])
def test_names_of_stages_that_are_none_are_refused(run, record, name):
    content = index(run)
    content["next"] = index(run)
    (content["next"] if record else content)["stages"][name] = entry()
    seal(run, content)
    refused(lambda: RunFolder.open(run), "run.json is damaged", "copy the run folder again")


def test_a_measurement_that_is_no_number_is_refused(tmp_path):
    model, run = sg.load(GOLDEN), tmp_path / "run"
    model.psnr = 20.0
    model.save(run)
    content = index(run)
    change(content, "stages decoder facts psnr", "high")
    seal(run, content)
    refused(lambda: RunFolder.open(run), "run.json is damaged", "stages.decoder.facts.psnr")


def test_a_measurement_that_a_fit_has_is_not_missing(run_copy):
    content = index(run_copy)
    content["stages"]["sampling"]["facts"] = {}
    seal(run_copy, content)
    refused(lambda: RunFolder.open(run_copy), "run.json is damaged", "stages.sampling.facts")


@pytest.mark.parametrize("record", RECORDS)
@pytest.mark.parametrize("key", ["../y", "0" * 15, "0" * 17, KEY.upper(), f"{KEY}\n", "/" * 16])
def test_keys_that_are_none_are_refused(run, record, key):
    for at, value in (("key", key), ("after", {"encoder": key})):
        tampered(run, f"{record}stages decoder {at}", value)
        refused(lambda: RunFolder.open(run), "run.json is damaged", "copy the run folder again")
        seal(run, {name: part for name, part in index(run).items() if name != "next"})


@pytest.mark.parametrize("record", RECORDS)
@pytest.mark.parametrize(
    "product",
    [
        "../x", "/etc/passwd", "data/thesis.txt", "thesis.txt", "run.json", ".scattergen-lock",
        "pictures/../../x.png", "pictures/holiday.png", "pictures/samples-vae.png/..", "pictures",
        f"work/{KEY}/lock", f"encoder-{KEY}.safetensors", "", f"pictures/density-{'x' * 250}.png",
    ],
    ids=lambda product: product[:20],
)  # fmt: skip
def test_products_that_are_none_are_refused(run, record, product):
    tampered(run, f"{record}stages report products", ["report.html", product])
    refused(lambda: RunFolder.open(run), "run.json is damaged", "copy the run folder again")


def test_a_diagnosis_is_written_nowhere_else(run, scattergen, tmp_path):
    shutil.copy(file_of(run, "densities/gaussian"), tmp_path / f"y-{KEY}.safetensors")
    content = index(run)
    content["stages"]["densities/../../../y"] = entry(sha256=sha256(tmp_path / f"y-{KEY}.safetensors"))
    seal(run, content)
    before = contents(tmp_path)
    command = ["diagnose", run, "--density", "../../../y", "--components", 2, "--simulations", 19]
    assert "is damaged" in scattergen(*command, "-q", code=2).err
    assert contents(tmp_path) == before


def test_names_are_checked_where_they_become_paths(run, tmp_path):
    opened, before = RunFolder.open(run), contents(tmp_path)
    (run / "x").write_text("a product")
    for use in (
        lambda: opened.write("../y", KEY, {}, {}),
        lambda: opened.write("densities/../../y", KEY, {}, {}),
        lambda: opened.write("y", "../y", {}, {}),
        lambda: opened.write("y", "", {}, {}),
        lambda: opened.note("../y", KEY, {}, []),
        lambda: opened.note("y", KEY, {}, [], {"../y": run / "x"}),
        lambda: opened.illustrate("encoder", {"pictures/../../y": run / "x"}),
    ):
        with pytest.raises(InputError, match="cannot be the name of a file"):
            use()
    (run / "x").unlink()
    assert contents(tmp_path) == before


OURS = (
    "pictures/samples-vae.png", "pictures/density-mine.png", "pictures/rejections-k2.png",
    "pictures/diagnosis-vae-pairs.png", "diagnosis-vae.json", "evaluation.json", "reproduction.html", "report.html",
    "pictures/densities-2.png",
    "codes-0123456789abcdef.safetensors", "densities/mine-0123456789abcdef.safetensors",
    "paper/latent_prior-0123456789abcdef.safetensors",
)  # fmt: skip
OUR_WORK = (
    "work/0123456789abcdef/lock", "work/0123456789abcdef/checkpoint.safetensors",
    "work/0123456789abcdef/parts/00000000-float16.safetensors", "work/preview.png",
)  # fmt: skip
THEIRS = (
    "pictures/holiday.png", "pictures/2026/beach.png", "densities/mine.safetensors",
    "checkpoints/weights.pt", "checkpoints/decoder/best.safetensors", "data/thesis.txt",
    "notes.txt", "reproduction/notes.txt", "pictures/samples-vae.jpg", "paper/draft.txt",
    "paper/mine.safetensors", "weights.safetensors", "codes-0123.safetensors",
    "densities/mine-0123456789ABCDEF.safetensors", "data/codes-0123456789abcdef.safetensors",
    "work/notes.txt", "work/mine/thesis.txt", "work/codes-0123456789abcdef.safetensors",
)  # fmt: skip


@pytest.fixture
def lived_in(run):
    """A run beside whose files are those of a person."""
    for name in OURS + OUR_WORK + THEIRS:
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text(name)
    return run


def assert_theirs_are_left(run):
    for name in THEIRS:
        assert (run / name).read_text() == name


def replace(run, **keywords):
    """Another run in the place of one."""
    new = RunFolder.start(run, {"seed": 1}, overwrite=True, **keywords)
    new.write("model", KEY, {"w": torch.ones(2)}, None)
    with new.working("model", KEY) as folder:
        (folder / "a.png").write_text("new")
        new.illustrate("model", {"pictures/preview.png": folder / "a.png"})
    new.finish()


@pytest.mark.parametrize("afresh", [False, True])
def test_a_replaced_run_takes_no_files_of_the_user_with_it(lived_in, afresh):
    replace(lived_in, afresh=afresh)
    assert_theirs_are_left(lived_in)
    left = contents(lived_in).keys() - THEIRS
    assert left == {"run.json", f"model-{KEY}.safetensors", "pictures/preview.png"}
    assert RunFolder.open(lived_in).options == {"seed": 1}
    assert not (lived_in / "work" / KEY).exists()


@pytest.mark.parametrize("how", ["sealed", "changed"])
@pytest.mark.parametrize("afresh", [False, True])
def test_neither_does_one_whose_index_is_damaged(lived_in, afresh, how):
    content = index(lived_in)
    content["stages"]["report"]["products"] = ["data/thesis.txt", "notes.txt"]
    if how == "sealed":
        seal(lived_in, content)
    else:
        path = lived_in / "run.json"
        path.write_text(path.read_text().replace('"seed": 0', '"seed": 7'))
    refused(lambda: RunFolder.start(lived_in, {"seed": 1}), "run.json", "fit")
    replace(lived_in, afresh=afresh)
    assert_theirs_are_left(lived_in)
    left = contents(lived_in).keys() - THEIRS
    assert left == {"run.json", f"model-{KEY}.safetensors", "pictures/preview.png"}


def test_an_abandoned_run_takes_no_files_of_the_user_with_it(tmp_path):
    run = RunFolder.start(tmp_path / "run", {"seed": 0})
    kept, theirs = OURS[-3:], THEIRS[:-3]
    for name in (*OURS, OUR_WORK[0], *theirs):
        (run.path / name).parent.mkdir(parents=True, exist_ok=True)
        (run.path / name).write_text(name)
    before = contents(run.path)
    run.discard_if_empty()  # no, since there are files of stages
    assert contents(run.path) == before
    for name in kept:
        (run.path / name).unlink()
    run.discard_if_empty()
    assert contents(run.path).keys() == {*theirs}


def test_an_abandoned_replacement_leaves_the_run_as_it_was(lived_in):
    shutil.rmtree(lived_in / "work")
    options, before = RunFolder.open(lived_in).options, contents(lived_in)
    new = RunFolder.start(lived_in, {"seed": 1}, overwrite=True)
    with pytest.raises(ValueError, match="refused"), new.working("encoder", KEY):
        raise ValueError("refused")
    new.discard_if_empty()
    assert contents(lived_in).keys() == before.keys()
    opened = RunFolder.open(lived_in)
    assert opened.options == options
    assert not RunFolder.begun(lived_in).replaces
    opened.check()


def test_a_change_deletes_what_is_no_longer_named_and_nothing_else(lived_in):
    for name in OUR_WORK[:3]:  # of another one that is being made, and of one that is not
        (lived_in / name.replace(KEY, OTHER)).parent.mkdir(parents=True, exist_ok=True)
        (lived_in / name.replace(KEY, OTHER)).write_text(name)
    opened = RunFolder.open(lived_in)
    with RunFolder.open(lived_in).working("densities/other", OTHER):
        stored = opened.read("densities/vae")
        opened.write("densities/more", KEY, *stored, after={"codes": opened.key("codes")})
        assert (lived_in / "work" / OTHER / "checkpoint.safetensors").exists()
    assert not (lived_in / "work" / KEY).exists()
    assert not (lived_in / f"codes-{KEY}.safetensors").exists()
    assert_theirs_are_left(lived_in)
    use_all(lived_in)
    # Pages and pictures that no stage names stay until the run is replaced.
    assert (lived_in / "report.html").exists()
    assert (lived_in / "pictures" / "samples-vae.png").exists()


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


@pytest.mark.parametrize("record", RECORDS)
@pytest.mark.parametrize(
    ("at", "value"),
    [
        ("scattergen", None), ("options", None), ("options", []), ("options data", "digits"),
        ("options data limit", "all"), ("options training", 3), ("options densities", ["vae"]),
        ("options densities vae", None), ("options sampling", []), ("options encoder", DEEP),
        ("options preset", []), ("stages", None), ("stages", []), ("stages decoder", 3),
        ("stages decoder", {"key": KEY}), ("stages decoder more", 3), ("stages decoder key", None),
        ("stages decoder sha256", 3), ("stages decoder sha256", ["0", "1"]),
        ("stages decoder after", []), ("stages decoder after codes", None),
        ("stages decoder products", {}), ("stages decoder products", [3]),
        ("stages decoder facts", None), ("stages encoder facts seconds", "long"),
        ("stages encoder facts seconds", 10**400), ("stages decoder facts history", [{"epoch": 1}]),
        ("stages sampling facts", {}), ("stages report facts judgement", {}),
        ("stages report facts judgement rows decoder", None),
        ("stages report facts judgement best", "none"), ("stages report facts best", 3),
        ("stages report facts psnr", True), ("next", {}),
    ],
    ids=lambda value: str(value)[:30],
)  # fmt: skip
def test_an_index_of_another_form(run, record, at, value):
    tampered(run, record + at, value)
    refused(lambda: RunFolder.open(run), "run.json is damaged", "copy the run folder again")


@pytest.mark.parametrize("value", [None, [], {}, 3, "next", {"stages": {}}])
def test_a_next_run_that_is_none(run, value):
    seal(run, {**index(run), "next": value})
    before = contents(run)
    for use in (*readers(run), *writers(run)[:-1]):
        refused(use, "run.json is damaged", "copy the run folder again")
    assert contents(run) == before


@pytest.mark.parametrize("version", [0, 1, 3, True, "2", None, 2.5, [2]])
def test_an_index_of_another_format(run, version):
    content = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**content, "format": version}))
    remedy = "fit its images again in another folder" if version in (0, 1) else "update scattergen"
    refused(lambda: RunFolder.open(run), f"run format {version!r}", f"reads 2: {remedy}")


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
    kept = RunFolder.open(run).read(name)[1]
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
    kept = RunFolder.open(run).read(f"densities/{key}")[1]
    kept["hyperparameters"] |= change
    rewrite(run, f"densities/{key}", metadata=kept)
    start = time.monotonic()
    refused(lambda: use_all(run))
    assert time.monotonic() - start < 20


def test_metadata_that_are_nested_deeply(run):
    path = file_of(run, "encoder")
    stored = read_tensors(path)[0]
    save_file(stored, path, metadata={"json": NESTED, "crc32": _checksum(stored, NESTED)})
    rehash(run)
    refused(lambda: sg.load(run), f"{path} is damaged", "nested too deeply")
    refused(lambda: RunFolder.open(run).metadata("encoder"), "nested too deeply")
    shutil.copy(path, run / f"model-{KEY}.safetensors")
    assert RunFolder.open(run).find("model", KEY) is None


OTHERS = {
    "another stage": {"stage": "linear"}, "another key": {"key": OTHER}, "no name": {"stage": 3},
    "more": {"more": 3}, "no facts": {"facts": None}, "odd facts": {"facts": {"seconds": "long"}},
    "odd stages": {"after": ["codes"]}, "odd keys": {"after": {"codes": "../codes"}},
}  # fmt: skip


@pytest.mark.parametrize("how", [*OTHERS, "none", "the content alone"])
def test_a_file_of_another_stage_is_neither_read_nor_found(run, how):
    opened = RunFolder.open(run)
    key, path = opened.key("decoder"), opened.file("decoder")
    tensors, kept = read_tensors(path)
    others = {"none": None, "the content alone": kept["content"]}
    write_tensors(path, tensors, others[how] if how in others else {**kept, **OTHERS[how]})
    rehash(run)
    opened = RunFolder.open(run)
    for use in (lambda: opened.read("decoder"), lambda: opened.metadata("decoder")):
        refused(use, f"{path} is damaged", "is not what scattergen writes")
    # As one that a fit which was given up has left.
    content = index(run)
    del content["stages"]["decoder"]
    seal(run, content)
    assert RunFolder.open(run).find("decoder", key) is None
    write_tensors(path, tensors, kept)
    assert RunFolder.open(run).find("decoder", key).sha256 == sha256(path)
    use_all(run)


def test_a_stage_that_was_made_from_others_is_not_found(run):
    opened = RunFolder.open(run)
    path = opened.file("decoder")
    tensors, kept = read_tensors(path)
    content = index(run)
    del content["stages"]["decoder"]
    seal(run, content)
    before = (run / "run.json").read_text()
    for after in ({"codes": OTHER}, {"gone": OTHER}):
        write_tensors(path, tensors, {**kept, "after": after})
        refused(lambda: RunFolder.open(run).find("decoder", kept["key"]), "has replaced")
    assert (run / "run.json").read_text() == before


PARTS = ("encoder", "linear", "decoder", "codes", "densities/mixture", "densities/gan")


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_tensors_with_nan_are_refused(run, name, bad):
    tensors = read_tensors(file_of(run, name))[0]
    key = next(key for key, t in tensors.items() if t.is_floating_point() and "history" not in key)
    tensors[key].view(-1)[0] = bad
    rewrite(run, name, tensors)
    refused(lambda: use_all(run), f"{file_of(run, name)} holds NaN", key)


@pytest.mark.parametrize("name", PARTS)
def test_tensors_that_are_missing_or_of_another_shape(run, name):
    whole = read_tensors(file_of(run, name))[0]
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
        whole = read_tensors(file_of(run, name))[0]
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
    tensors = read_tensors(file_of(run, "densities/gaussian"))[0]
    rewrite(run, "densities/gaussian", tensors | change)
    refused(lambda: use_all(run), "history", "fit the density again")


def test_labels_that_name_no_class(run):
    tensors, path = read_tensors(file_of(run, "codes"))[0], file_of(run, "codes")
    for labels in (tensors["labels"] + 1, tensors["labels"][1:], tensors["labels"].float()):
        rewrite(run, "codes", {**tensors, "labels": labels})
        refused(lambda: RunFolder.open(run).read("codes"), f"{path} is damaged")


def test_a_tampered_run_ends_a_command_with_a_sentence(run, scattergen, tmp_path):
    tensors = read_tensors(file_of(run, "decoder"))[0]
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
    before, opening, uses = contents(run), os.open, [*readers(run), *writers(run)]

    def failing(name, *arguments, **keywords):
        if str(name).endswith("run.json"):
            raise OSError(number, os.strerror(number), str(name))
        return opening(name, *arguments, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(atomic.os, "open", failing)
        for use in uses:
            with pytest.raises(RunFolderError) as error:
                use()
            assert f"run.json cannot be read ({os.strerror(number)})" in str(error.value)
            assert "delete" not in str(error.value)
    assert contents(run) == before


def test_a_new_name_reaches_the_disk_before_the_index_forgets_the_old_file(run, monkeypatch):
    opened, steps = RunFolder.open(run), []
    stored = opened.read("densities/gaussian")
    fsync, replace = os.fsync, os.replace

    def synced(descriptor):
        steps.append(f"sync {Path(os.readlink(f'/proc/self/fd/{descriptor}')).name}")
        fsync(descriptor)

    def replaced(source, target):
        steps.append(f"replace {Path(target).name}")
        replace(source, target)

    monkeypatch.setattr(atomic.os, "fsync", synced)
    monkeypatch.setattr(atomic.os, "replace", replaced)
    opened.write("densities/more", KEY, *stored, after={"codes": opened.key("codes")})
    assert steps[0].startswith("sync .writing-")  # the content
    moved = steps.index(f"replace more-{KEY}.safetensors")
    assert "sync densities" in steps[moved : steps.index("replace run.json", moved)]
    begun = RunFolder.start(run, {"seed": 1}, overwrite=True)
    begun.write("model", KEY, {"w": torch.ones(2)}, None)
    begun.log({"epoch": 1})
    steps.clear()
    remove = layout.remove

    def removing(path, names):
        names = [*names]
        steps.extend(f"remove {name}" for name in names if name.endswith("safetensors"))
        remove(path, names)

    monkeypatch.setattr(layout, "remove", removing)
    begun.finish()
    # The files of the old run are there until the new one has taken its place for good.
    done = steps.index("replace run.json")
    assert steps[done + 1] == f"sync {run.name}"
    assert not [step for step in steps[:done] if step.startswith("remove")]
    assert len([step for step in steps[done:] if step.startswith("remove")]) >= 9


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
