"""A small sample of the campaign (benchmarks/campaign.py), and that it would notice what it looks for."""

import json
import os
import runpy
import shutil
import subprocess
import sys
import time
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from scattergen import cli

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture(scope="module")
def campaign():
    """The modules of the benchmark."""
    pytest.importorskip("hypothesis", reason="Hypothesis is missing")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)  # as it is for a script
        modules = {name: runpy.run_path(str(BENCHMARKS / f"_{name}.py")) for name in ("damage", "watched")}
        yield SimpleNamespace(**{name: SimpleNamespace(**one) for name, one in modules.items()})


@pytest.fixture(scope="module")
def call(campaign):
    """Runs a command and says what is wrong with how it ends."""
    campaign.watched.begin_watching()
    return campaign.watched.call


# What would be noticed


def traceback(_):
    raise RuntimeError("nobody expected this")


def two_sentences(_):
    print("error: one.\nerror: two.", file=sys.stderr)
    sys.exit(2)


def silence(_):
    sys.exit(2)


def chatter(_):
    print("an innocent remark", file=sys.stderr)


def other_code(_):
    print("error: one.", file=sys.stderr)
    sys.exit(1)


def hang(_):
    time.sleep(20)


def write_outside(place):
    (place / "thesis.txt").write_text("")


def write_through_a_linked_folder(place):
    (place / "run" / "link").symlink_to(place / "victim")
    (place / "run" / "link" / "thesis.txt").write_text("")


def delete_outside(place):
    (place / "victim" / "thesis.txt").unlink()


def move_outside(place):
    os.replace(place / "victim" / "thesis.txt", place / "run" / "thesis.txt")


def make_a_folder_outside(place):
    (place / "more").mkdir()


def run_something(_):
    os.system("true")


BAD = {
    traceback: "nobody expected this", two_sentences: "2 sentences", silence: "0 sentences", chatter: "innocent remark",
    other_code: "exit code 1", hang: "still running", write_outside: "outside: open",
    write_through_a_linked_folder: "victim/thesis.txt", delete_outside: "outside: os.remove",
    move_outside: "outside: os.rename", make_a_folder_outside: "outside: os.mkdir", run_something: "os.system",
}  # fmt: skip


@pytest.fixture
def place(tmp_path):
    for name in ("run", "victim"):
        (tmp_path / name).mkdir()
    (tmp_path / "victim" / "thesis.txt").write_text("years of work")
    return tmp_path


@pytest.mark.parametrize("does", BAD, ids=lambda one: one.__name__)
def test_what_a_command_must_not_do_is_noticed(call, place, monkeypatch, does):
    monkeypatch.setattr(cli, "main", lambda: does(place))
    found = call([], [place / "run"], seconds=0.2 if does is hang else 60).faults
    assert any(BAD[does] in one for one in found), found


def test_what_a_command_may_do_is_no_fault(call, place, monkeypatch):
    def good():
        (place / "run" / "a.txt").write_text("a")
        os.replace(place / "run" / "a.txt", place / "run" / "b.txt")
        warnings.warn("something", stacklevel=1)
        print("warning: something.\nerror: one sentence.", file=sys.stderr)
        (place / "victim" / "thesis.txt").read_text()
        sys.exit(2)

    monkeypatch.setattr(warnings, "showwarning", lambda *_, **__: None)
    monkeypatch.setattr(cli, "main", good)
    assert call([], [place / "run"]).faults == []
    (place / "after.txt").write_text("nobody watches any more")


@pytest.mark.parametrize("how", ["returns", "raises", "killed", "hangs"])
def test_how_a_process_ends(campaign, how):
    works = {"returns": lambda: [1], "raises": lambda: 1 / 0, "killed": lambda: os.kill(os.getpid(), 9)}
    found = campaign.watched.in_child(works.get(how, lambda: time.sleep(20)), seconds=0.5 if how == "hangs" else 60)
    expected = {"returns": [1], "raises": "ended with status 256", "killed": "ended with status 9"}
    assert found == expected.get(how, "still running after 0 s")


# Damage

FILES = ("run.json", "report.html", "encoder", "sampling", "densities/gaussian")


def test_plans_are_always_the_same_and_hold_all_kinds(campaign):
    damage, names = campaign.damage, ("run.json", "codes.safetensors", "report.html")
    values = damage.draw_values(5)
    assert json.dumps(values) == json.dumps(damage.draw_values(5))
    for name in names:
        first, more = (damage.plans("finished", name, n, values, ("info",), ("fit",)) for n in (40, 60))
        assert json.dumps(first) == json.dumps(more[:40])
        assert len({json.dumps(one) for one in more}) == 60
        assert {one["kind"] for one in first} == {*damage.kinds_for(name)}
    assert {*damage.kinds_for("a.json")} == {*damage.BYTES, *damage.PLACES, *damage.JSON}


@pytest.fixture(scope="module")
def samples(scattergen, fitted, tmp_path_factory):
    """What an undamaged run gives."""
    path = tmp_path_factory.mktemp("samples") / "samples.npz"
    scattergen("sample", fitted, "-n", 4, "--out", path, "-q")
    with np.load(path) as arrays:
        return dict(arrays)


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file(campaign, call, fitted, samples, tmp_path, name):
    """Each kind of damage once: refused in a sentence, or the same samples; the user's files stay."""
    file = next(path.relative_to(fitted).as_posix() for path in fitted.rglob("*") if path.match(f"{name}*"))
    victim = tmp_path / "victim"
    victim.mkdir()
    for number, kind in enumerate(campaign.damage.kinds_for(file)):
        run = shutil.copytree(fitted, tmp_path / str(number))
        (victim / Path(file).name).write_text("years of work")
        (run / "pictures" / "holiday.png").write_text("years of work")
        plan = {"file": file, "kind": kind, "at": number, "value": {"../x": [None]}, "sealed": number % 2 == 0}
        sealed = campaign.damage.do(plan, run, victim)
        out = tmp_path / f"{number}.npz"
        commands = [["info", run], ["sample", run, "-n", 4, "--out", out]]
        commands += [] if number % 6 else [["density", run, "gaussian", "--as", "x"]]
        for command in commands:
            said = call([*command, "-q"], [run, out.parent])
            assert said.faults == [], kind
        if out.exists() and not sealed:
            with np.load(out) as arrays:
                assert all(np.array_equal(arrays[key], one) for key, one in samples.items()), kind
        for one in (victim / Path(file).name, run / "pictures" / "holiday.png"):
            assert one.read_text() == "years of work", kind


# Disks that fail

PROGRAM = """
import json, os, sys
from pathlib import Path
import _disk_trouble as disk
from scattergen.errors import ScattergenError
from scattergen.files import read_json, write_json

def outcome(kind, k, place):
    place.mkdir()
    write_json(place / "a.json", "before")
    disk.arm(kind, k, place)
    try:
        write_json(place / "a.json", ["after"] * 3000)
        said = "done"
    except (ScattergenError, OSError) as error:
        said = f"{type(error).__name__}: {error}"
    disk.disarm()
    holds = read_json(place / "a.json")
    return said, "before" if holds == "before" else "after" if holds == ["after"] * 3000 else "damage"

place = Path(sys.argv[1])
print(json.dumps({kind.name: outcome(kind, 0, place / str(n)) for n, kind in enumerate(disk.KINDS)}))
"""


@pytest.fixture(scope="module")
def troubles(tmp_path_factory):
    """Every kind of trouble while a small file is replaced: what was said, and what the file holds then."""
    disk = SimpleNamespace(**runpy.run_path(str(BENCHMARKS / "_disk_trouble.py")))
    library = disk.compiled(tmp_path_factory.mktemp("library"))
    if library is None:
        pytest.skip("there is no C compiler (cc)")
    surroundings = os.environ | {"LD_PRELOAD": str(library), "PYTHONPATH": str(BENCHMARKS)}
    command = [sys.executable, "-c", PROGRAM, str(tmp_path_factory.mktemp("disk"))]
    done = subprocess.run(command, env=surroundings, capture_output=True, text=True, check=True)
    return disk, json.loads(done.stdout)


def test_a_file_on_a_disk_that_fails_is_the_old_or_the_new_one(troubles):
    disk, found = troubles
    assert len(found) >= 40
    assert {holds for _, holds in found.values()} == {"before", "after"}
    for kind in disk.KINDS:
        said, holds = found[kind.name]
        if kind.harmless or said == "done":
            assert (said, holds) == ("done", "after"), kind.name
        if kind.operation in ("write", "rename") and not kind.harmless:
            assert holds == "before", kind.name
            assert said.startswith("ScattergenError: Cannot write"), (kind.name, said)
