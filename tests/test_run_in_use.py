"""Runs in use: readers and writers beside each other, and what becomes of results and damage."""

import errno
import json
import os
import shutil
import subprocess
import sys
import time

import pytest
import torch

import scattergen as sg
from scattergen.datasets import open_dataset
from scattergen.densities import Gaussian, GaussianMixture
from scattergen.errors import RunFolderError
from scattergen.model import GenerativeScatteringNetwork
from scattergen.pipeline.evaluate import diagnose_run, evaluate_run
from scattergen.runs import RunFolder, remains

OPTIONS = {
    "encoder": {"J": 1, "n_components": 4},
    "decoder": {"channels": [4, 4]},
    "training": {"epochs": 1},
    "densities": {"gaussian": {}},
}
KEPT = ("evaluation.json", "pictures/evaluation.png")


def small_model(seed):
    """A model that is fitted in a moment."""
    images = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
    return GenerativeScatteringNetwork.fit(images, options=OPTIONS, seed=seed)


def codes_of(model):
    return model.sample_codes(3, "gaussian"), model.decode(torch.ones(1, 4))


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(codes_of(a), codes_of(b), strict=True))


def files(run):
    return {
        path.relative_to(run).as_posix(): path.read_bytes()
        for path in sorted(run.rglob("*"))
        if path.is_file() and path.name != ".scattergen-lock"
    }


# Readers


def test_a_reader_loads_the_run_that_has_taken_the_place_of_the_one_it_opened(tmp_path):
    first, second = small_model(0), small_model(1)
    second.options = {**second.options, "seed": 1}
    first.save(tmp_path / "run")
    opened = RunFolder.open(tmp_path / "run")
    second.save(tmp_path / "run", overwrite=True)
    with pytest.raises(RunFolderError, match="is missing"):
        opened.read("encoder")
    loaded = GenerativeScatteringNetwork.load(opened)
    assert same(loaded, second)
    assert loaded.options["seed"] == opened.options["seed"] == 1
    (tmp_path / "run" / opened.file("decoder").name).unlink()  # which nobody has replaced
    with pytest.raises(RunFolderError, match="is missing"):
        GenerativeScatteringNetwork.load(opened)


@pytest.mark.parametrize("after", ["encoder", "decoder"])
def test_a_run_that_is_replaced_while_it_is_read_is_read_again(tmp_path, monkeypatch, after):
    first, second = small_model(0), small_model(1)
    first.save(tmp_path / "run")
    read = RunFolder.read

    def replacing(run, name):
        found = read(run, name)
        if name == after:
            monkeypatch.undo()
            second.save(tmp_path / "run", overwrite=True)
        return found

    monkeypatch.setattr(RunFolder, "read", replacing)
    assert same(sg.load(tmp_path / "run"), second)


@pytest.mark.slow
def test_a_reader_never_sees_parts_of_two_runs(tmp_path):
    """While another process replaces one by the other, again and again."""
    models = [small_model(seed) for seed in (0, 1)]
    for seed, model in enumerate(models):
        model.options = {**model.options, "seed": seed}
        model.save(tmp_path / str(seed))
    models[0].save(tmp_path / "run")
    code = (
        "import sys, scattergen as sg\n"
        "models = [sg.load(path) for path in sys.argv[1:3]]\n"
        "print(flush=True)\n"
        "for k in range(10**6):\n"
        "    models[k % 2].save(sys.argv[3], overwrite=True)\n"
    )
    arguments = [tmp_path / "1", tmp_path / "0", tmp_path / "run"]
    process = subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE)
    try:
        process.stdout.readline()
        seen, start = [], time.monotonic()
        # For three seconds, or until both were seen, on a machine that does other things.
        while (seconds := time.monotonic() - start) < 3 or (len({*seen}) < 2 and seconds < 60):
            loaded = sg.load(tmp_path / "run")
            seen.append(loaded.options["seed"])
            assert same(loaded, models[seen[-1]])
    finally:
        process.kill()
        process.communicate()
    assert {*seen} == {0, 1}
    assert same(sg.load(tmp_path / "run"), models[RunFolder.open(tmp_path / "run").options["seed"]])


def test_a_model_saved_over_itself_changes_no_file_and_may_be_killed(tmp_path, monkeypatch):
    model = small_model(0)
    model.save(tmp_path / "run")
    before, finish = files(tmp_path / "run"), RunFolder.finish

    def die(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(RunFolder, "finish", die)
    with pytest.raises(KeyboardInterrupt):
        model.save(tmp_path / "run", overwrite=True)
    RunFolder.open(tmp_path / "run").check()
    assert same(sg.load(tmp_path / "run"), model)
    monkeypatch.setattr(RunFolder, "finish", finish)
    model.save(tmp_path / "run", overwrite=True)
    assert files(tmp_path / "run") == before


# Writers


def nested(monkeypatch, kind, action):
    """Do something in the middle of the first fit of a density that shall be kept."""
    fit = kind.fit

    def acting(self, *arguments, **keywords):
        if keywords.get("checkpoint") is not None:
            monkeypatch.setattr(kind, "fit", fit)
            action()
        return fit(self, *arguments, **keywords)

    monkeypatch.setattr(kind, "fit", acting)


def run_twice_at_once(forks, code, run):
    """Run code in two processes, which are given the run and a name each, "a" and "b"."""
    processes = [forks.start(code, str(run), name) for name in ("a", "b")]
    said = [process.communicate(timeout=200)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said


@pytest.mark.slow
def test_many_processes_that_fit_densities_at_once_lose_none(run_copy, forks, assert_nothing_left):
    code = (
        "import sys\n"
        "from scattergen.pipeline.fit import fit_density_run\n"
        "for k in range(2):\n"
        "    fit_density_run(sys.argv[1], 'gaussian', stored_as=f'{sys.argv[2]}-{k}')\n"
    )
    run_twice_at_once(forks, code, run_copy)
    run = RunFolder.open(run_copy)
    assert {f"{name}-{k}" for name in "ab" for k in range(2)} <= {*run.names("densities")}
    run.check()
    assert_nothing_left(run_copy)


@pytest.mark.slow
def test_many_stages_that_are_entered_at_once_are_all_kept(run_copy, forks):
    """Nothing but the lock of run.json keeps these from undoing each other: each reads it, and writes it anew."""
    code = (
        "import sys, torch\n"
        "from scattergen.runs import RunFolder\n"
        "run = RunFolder.open(sys.argv[1])\n"
        "for k in range(40):\n"
        "    with run.working(f'densities/{sys.argv[2]}-{k}', f'{k:015x}{sys.argv[2]}'):\n"
        "        run.write(f'densities/{sys.argv[2]}-{k}', f'{k:015x}{sys.argv[2]}', {'x': torch.ones(1)}, {})\n"
    )
    run_twice_at_once(forks, code, run_copy)
    assert {f"{name}-{k}" for name in "ab" for k in range(40)} <= {*RunFolder.open(run_copy).names("densities")}


def test_a_density_of_codes_that_have_been_replaced_is_not_kept(scattergen, run_copy, monkeypatch):
    def replace_codes():
        run = RunFolder.open(run_copy)
        key = "0123456789abcdef"
        after = {"encoder": run.key("encoder")}
        run.write("codes", key, *run.read("codes"), run.stages["codes"], after)

    nested(monkeypatch, Gaussian, replace_codes)
    error = scattergen("density", run_copy, "gaussian", "--as", "new", "-q", code=2).err
    assert error == (
        f"error: Another process has replaced codes of {run_copy} meanwhile: run the same command again.\n"
    )
    assert not RunFolder.open(run_copy).has("densities/new")


def test_a_picture_of_a_density_that_has_been_replaced_is_not_kept(run_copy, tmp_path):
    run = RunFolder.open(run_copy)
    after = {"codes": run.key("codes")}
    stored = run.read("densities/gaussian")
    run.write("densities/new", "0" * 16, *stored, {}, after)
    RunFolder.open(run_copy).write("densities/new", "1" * 16, *stored, {}, after)
    (tmp_path / "picture.png").write_text("of the first")
    with pytest.raises(RunFolderError, match="has replaced densities/new"):
        run.illustrate("densities/new", {"pictures/density-new.png": tmp_path / "picture.png"})
    assert not (run_copy / "pictures" / "density-new.png").exists()
    assert RunFolder.open(run_copy).key("densities/new") == "1" * 16
    RunFolder.open(run_copy).check()


# Evaluations and diagnoses


@pytest.fixture
def evaluate(digits):
    """Evaluates a run of the digits by its densities, all by default."""

    def call(run, *densities):
        chosen = densities or None
        data = open_dataset(digits)
        return evaluate_run(run, data, densities=chosen, n=40, features="digits")

    return call


def diagnose(run, density=None):
    return diagnose_run(run, density=density, components=2, n=60, n_simulations=19)


@pytest.mark.filterwarnings("error")
def test_runs_are_evaluated_and_diagnosed_beside_a_running_fit(
    scattergen, digits, tiny, tmp_path, monkeypatch, evaluate, assert_nothing_left
):
    run = tmp_path / "run"
    fit = ["fit", digits, "--out", run, "-q", *tiny]

    def look():
        assert evaluate(run, "gaussian").kept
        assert diagnose(run, "gaussian").scores.is_file()
        assert (run / "evaluation.json").is_file()

    nested(monkeypatch, GaussianMixture, look)
    scattergen(*fit)
    opened = RunFolder.open(run)
    assert opened.finished
    assert list(opened.stages)[-1] == "report"
    assert all((run / name).is_file() for name in (*KEPT, "diagnosis-gaussian.json"))
    seed = json.loads((run / "evaluation.json").read_text())["seed"]
    assert seed == 0

    # The one that is there, while another one is made that shall take its place.
    nested(monkeypatch, GaussianMixture, look)
    scattergen(*fit, "--overwrite", "--seed", 1)
    assert RunFolder.open(run).options["seed"] == 1
    assert not any((run / name).exists() for name in (*KEPT, "diagnosis-gaussian.json"))
    assert_nothing_left(run)


def read_only(monkeypatch):
    """As on a disk of which nobody may change anything."""
    opening = remains.open_regular

    def refusing(path, mode="rb"):
        if mode != "rb":
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return opening(path, mode)

    monkeypatch.setattr(remains, "open_regular", refusing)


def full(monkeypatch):
    def refusing(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", refusing)


@pytest.mark.parametrize("disk", [read_only, full])
def test_what_cannot_be_kept_is_told_nevertheless(scattergen, digits, run_copy, monkeypatch, evaluate, disk):
    before = files(run_copy)
    with monkeypatch.context() as patch:
        disk(patch)
        with pytest.warns(UserWarning, match="The scores are not kept with the run. Cannot write"):
            scores = evaluate(run_copy, "gaussian")
        with pytest.warns(UserWarning, match="The tests are not kept with the run. Cannot write"):
            tests = diagnose(run_copy, "gaussian")
        assert not scores.kept
        assert "gaussian" in scores.rows
        assert tests.scores is None
        small = ["--images", digits, "-n", 40, "--features", "digits", "--density", "gaussian"]
        shown = scattergen("evaluate", run_copy, *small, "-q", showing_warnings=True)
        assert "gaussian" in shown.out
        assert "Scores:" not in shown.out
        assert "warning: The scores are not kept with the run." in shown.err
        small = ["--components", 2, "-n", 60, "--simulations", 19]
        shown = scattergen("diagnose", run_copy, *small, "-q", showing_warnings=True)
        assert "Scores:" not in shown.out
        assert "warning: The tests are not kept with the run." in shown.err
    assert files(run_copy) == before
    RunFolder.open(run_copy).check()


def test_results_go_with_the_density_that_they_are_about(scattergen, run_copy, evaluate, assert_nothing_left):
    fit = ["density", run_copy, "vae", "--as", "mine", "-q", "--set", "widths=[16]"]
    scattergen(*fit, "--set", "epochs=1")
    evaluate(run_copy, "mine", "gaussian")
    for density in ("mine", "gaussian", None):
        diagnose(run_copy, density)
    scattergen(*fit, "--set", "epochs=1", "--overwrite")  # the same again
    assert all((run_copy / name).is_file() for name in (*KEPT, "diagnosis-mine.json"))
    scattergen(*fit, "--set", "epochs=2", "--overwrite")
    assert not any((run_copy / name).exists() for name in (*KEPT, "diagnosis-mine.json"))
    assert not list((run_copy / "pictures").glob("diagnosis-mine-*"))
    stages = json.loads((run_copy / "run.json").read_text())["stages"]
    assert {*stages} & {"evaluation", "diagnosis-mine"} == set()
    assert {"diagnosis", "diagnosis-gaussian", "report"} <= {*stages}
    for stem in ("diagnosis", "diagnosis-gaussian"):
        assert (run_copy / f"{stem}.json").is_file()
        assert (run_copy / "pictures" / f"{stem}-pairs.png").is_file()
    assert_nothing_left(run_copy)


def test_results_go_with_the_model_that_they_are_about(run_copy, evaluate, assert_nothing_left):
    (run_copy / "notes.txt").write_text("mine")
    evaluate(run_copy, "gaussian")
    diagnose(run_copy)
    sg.load(run_copy, densities=["gaussian"]).save(run_copy, overwrite=True)
    left = {name for name in files(run_copy) if not name.endswith(".safetensors")}
    assert left == {"run.json", "notes.txt"}
    assert_nothing_left(run_copy)


@pytest.mark.parametrize("evaluated_before", [False, True])
def test_an_evaluation_of_a_density_that_is_replaced_meanwhile_is_not_kept(
    scattergen, run_copy, monkeypatch, evaluate, evaluated_before
):
    fit = ["density", run_copy, "vae", "--as", "mine", "-q", "--set", "widths=[16]"]
    scattergen(*fit, "--set", "epochs=1")
    if evaluated_before:
        evaluate(run_copy, "mine")
    sample = GenerativeScatteringNetwork.sample_codes

    def replacing(*arguments, **keywords):
        monkeypatch.undo()
        scattergen(*fit, "--set", "epochs=2", "--overwrite")
        return sample(*arguments, **keywords)

    monkeypatch.setattr(GenerativeScatteringNetwork, "sample_codes", replacing)
    with pytest.warns(UserWarning, match="not kept .* has replaced densities/mine"):
        assert not evaluate(run_copy, "mine").kept
    assert not any((run_copy / name).exists() for name in KEPT)


def test_a_fit_whose_disk_is_full_leaves_the_finished_run(scattergen, digits, tiny, run_copy, monkeypatch):
    before = files(run_copy)
    with monkeypatch.context() as patch:
        full(patch)
        error = scattergen("fit", digits, "--out", run_copy, "-q", *tiny, "--overwrite", "--seed", 1, code=2).err
    assert "No space left on device" in error
    assert files(run_copy) == before


# Damage


@pytest.mark.parametrize(
    ("names", "how"), [(["linear", "sampling"], "other"), (["codes", "decoder", "densities/gan"], "missing")], ids=str
)
def test_the_same_fit_makes_again_what_is_damaged(
    scattergen, digits, tiny, fitted, run_copy, names, how, assert_same_model, assert_nothing_left
):
    run = RunFolder.open(run_copy)
    keys = {name: run.key(name) for name in run.stages if name != "report"}  # which names the place of its run
    fit = ["fit", digits, "--out", run_copy, *tiny, "-q"]
    for name in names:
        run.file(name).unlink()
        if how == "other":
            shutil.copy(run.file("encoder"), run.file(name))
    for command in (["info", run_copy], [*fit, "--seed", 1]):
        assert scattergen(*command, code=2).err.count("\n") == 1
    for name in names:
        with pytest.raises(RunFolderError):
            run.read(name)
    warned = scattergen(*fit, showing_warnings=True).err
    for name in names:
        assert f"warning: {run.file(name)} is missing or damaged: it is made again." in warned
    again = RunFolder.open(run_copy)
    again.check()
    assert again.finished
    assert {name: again.key(name) for name in keys} == keys
    assert_same_model(run_copy, fitted)
    assert_nothing_left(run_copy)
    assert scattergen(*fit, showing_warnings=True).err == ""  # nothing is left to do
