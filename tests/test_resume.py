"""Interrupted runs: the same command ends with the same model, and two processes do not meet."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import scattergen as sg
from scattergen.errors import RunFolderError
from scattergen.runs import RunFolder, place
from scattergen.training_state import TrainingState

COMMAND = "from scattergen import cli; cli.main()"
# Kills itself at the N-th file of the run, before or after the file gets its name.
DYING_COMMAND = """
import os, signal, sys
from scattergen import cli
left, when, replace = int(sys.argv.pop(1)), sys.argv.pop(1), os.replace
run = sys.argv[sys.argv.index("--out") + 1]
def counted(source, target):
    global left
    left -= str(target).startswith(run)
    if left == 0 and when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
os.replace = counted
cli.main()
"""


class Stop(BaseException):
    """Stands for an interruption that nothing catches."""


@pytest.fixture
def fit(digits, tiny, tmp_path):
    """Arguments of a fit whose threads are those of this process: sums depend on their number."""
    threads = ["--threads", str(torch.get_num_threads())]
    return ["fit", str(digits), "--out", str(tmp_path / "run"), "--quiet", *threads, *tiny]


def start(code, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def assert_complete(run):
    assert "report" in RunFolder.open(run).stages
    assert (run / "report.html").is_file()
    assert not list(run.rglob(".writing-*"))
    assert not list((run / "checkpoints").rglob("*.safetensors"))
    for line in (run / "metrics.jsonl").read_text().splitlines():
        json.loads(line)


@pytest.mark.slow
def test_a_fit_killed_at_its_files_ends_with_the_same_model(
    fit, fitted, assert_same_model, tmp_path
):
    run = tmp_path / "run"
    for number, when, there in [
        (3, "before", "encoder"),  # which run.json does not know yet
        (11, "after", "linear"),  # in the decoder, after the second epoch
        (19, "after", "densities/gan"),  # in the report
    ]:
        process = start(DYING_COMMAND, str(number), when, *fit)
        output = process.communicate(timeout=120)[0].decode()
        assert process.returncode == -signal.SIGKILL, output
        assert (run / f"{there}.safetensors").exists()
        assert "report" not in RunFolder.open(run).stages
    process = start(COMMAND, *fit)
    assert "Unseen images come back" in process.communicate(timeout=120)[0].decode()
    assert_complete(run)
    assert_same_model(run, fitted)


@pytest.mark.slow
def test_the_preset_auto_killed_at_its_files_ends_with_the_same_model(
    digits, assert_same_model, tmp_path
):
    threads = ["--threads", str(torch.get_num_threads())]
    auto = ["--quiet", *threads, "--densities", "mixture", "--set", "training.epochs=2"]
    whole, run = tmp_path / "whole", tmp_path / "run"
    process = start(COMMAND, "fit", str(digits), "--out", str(whole), *auto)
    assert process.communicate(timeout=200)[0] is not None
    assert process.returncode == 0
    fit = ["fit", str(digits), "--out", str(run), *auto]
    for number, stages in [
        (6, ["encoder", "codes"]),  # least squares, which run.json does not know yet
        (5, ["encoder", "codes", "linear"]),  # in the decoder, after its first epoch
        (6, ["encoder", "codes", "linear", "decoder", "sampling"]),  # the number is chosen
    ]:
        process = start(DYING_COMMAND, str(number), "after", *fit)
        output = process.communicate(timeout=200)[0].decode()
        assert process.returncode == -signal.SIGKILL, output
        assert list(RunFolder.open(run).stages)[: len(stages)] == stages
    process = start(COMMAND, *fit)
    output = process.communicate(timeout=200)[0].decode()
    assert process.returncode == 0, output
    assert_complete(run)
    assert_same_model(run, whole)
    chosen = [RunFolder.open(path).stages["sampling"] for path in (run, whole)]
    assert chosen[0]["n_components"] == chosen[1]["n_components"]
    assert chosen[0]["kernel"] == chosen[1]["kernel"]


@pytest.mark.slow
def test_a_fit_killed_at_any_time_ends_with_the_same_model(
    fit, fitted, assert_same_model, tmp_path
):
    run, generator, deaths = tmp_path / "run", random.Random(0), 0
    while deaths < 2:
        process = start(COMMAND, *fit)
        while not (run / "run.json").exists() and process.poll() is None:
            time.sleep(0.005)
        time.sleep(generator.uniform(0.0, 1.5))  # of about 3 s of fitting; import not counted
        process.kill()
        process.communicate(timeout=120)
        if process.returncode == 0:
            break
        deaths += 1
    process = start(COMMAND, *fit)
    output = process.communicate(timeout=120)[0].decode()
    assert process.returncode == 0, output
    assert deaths > 0
    assert_complete(run)
    assert_same_model(run, fitted)


def test_remains_of_killed_writes_are_removed(scattergen, digits, tiny, run_copy):
    remains = [
        run_copy / ".writing-1.json",
        run_copy / "densities" / ".writing-2.safetensors",
        run_copy / "pictures" / ".writing-3.png",
    ]
    for path in remains:
        path.write_bytes(b"half")
    with (run_copy / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "dec')
    scattergen("fit", digits, "--out", run_copy, "-q", *tiny)
    assert_complete(run_copy)


def stop_at_checkpoint(monkeypatch, number):
    save, count = TrainingState.save, 0

    def stopping(state):
        nonlocal count
        save(state)
        count += state.path is not None
        if count == number:
            raise Stop

    monkeypatch.setattr(TrainingState, "save", stopping)


def test_an_interrupted_density_continues(scattergen, run_copy, monkeypatch):
    args = [
        "density",
        run_copy,
        "vae",
        "-q",
        "--set",
        "epochs=4",
        "--set",
        "widths=[32,16]",
        "--as",
    ]
    scattergen(*args, "whole")
    with monkeypatch.context() as patch, pytest.raises(Stop):  # noqa: PT012
        stop_at_checkpoint(patch, 2)
        scattergen(*args, "parts")
    assert not RunFolder.open(run_copy).has("densities/parts")
    epochs = []
    end_epoch = TrainingState.end_epoch

    def counted(state, epoch, rate):
        epochs.append(epoch)
        return end_epoch(state, epoch, rate)

    monkeypatch.setattr(TrainingState, "end_epoch", counted)
    scattergen(*args, "parts")
    assert epochs == [3, 4]
    model = sg.load(run_copy)
    whole, parts = (model.densities[name].state_dict() for name in ("whole", "parts"))
    for name in whole.keys() - {"history/seconds"}:
        assert torch.equal(whole[name], parts[name])
    assert_complete(run_copy)


def test_a_density_does_not_continue_one_with_other_options(scattergen, run_copy, monkeypatch):
    args = ["density", run_copy, "vae", "-q", "--set", "epochs=2", "--as", "new"]
    with monkeypatch.context() as patch, pytest.raises(Stop):  # noqa: PT012
        stop_at_checkpoint(patch, 1)
        scattergen(*args, "--set", "beta=0.5")
    scattergen(*args, "--set", "beta=0.01")
    scattergen(*args, "--set", "beta=0.01", "--overwrite", "--as", "alone")
    model = sg.load(run_copy)
    new, alone = (model.densities[name].state_dict() for name in ("new", "alone"))
    assert all(torch.equal(new[name], alone[name]) for name in new if name != "history/seconds")
    assert_complete(run_copy)


def test_a_second_process_is_refused(scattergen, digits, tiny, run_copy):
    before = {path: path.read_bytes() for path in run_copy.rglob("*") if path.is_file()}
    fit = ["fit", digits, "--out", run_copy, "-q", *tiny]
    with RunFolder.open(run_copy).locked():
        for arguments in (fit, [*fit, "--overwrite"], ["density", run_copy, "gan", "--as", "new"]):
            error = scattergen(*arguments, code=2).err
            assert error == (
                f"error: Another process is writing to {run_copy}: wait for it to finish, or "
                "stop it.\n"
            )
        scattergen("info", run_copy)  # reading is no conflict
    assert {path: path.read_bytes() for path in before} == before
    scattergen("density", run_copy, "gaussian", "--as", "new", "-q")


def test_a_lock_ends_with_its_process(run_copy):
    code = "import sys, time\nfrom scattergen.runs import RunFolder\n"
    code += "with RunFolder.open(sys.argv[1]).locked():\n    print(1, flush=True); time.sleep(60)"
    process = start(code, str(run_copy))
    process.stdout.readline()
    run = RunFolder.open(run_copy)
    with pytest.raises(RunFolderError, match="Another process"), run.locked():
        pass
    process.kill()
    process.communicate()
    with run.locked():
        pass


def replaced(place):
    """A run with a finished replacement that is about to take its place."""
    old = RunFolder.start(place, {"seed": 0})
    old.write("weights", {"w": torch.zeros(2)}, None)
    old.write("densities/old", {"w": torch.zeros(2)}, None)
    (place / "report.html").write_text("old")
    (place / "notes.txt").write_text("mine")
    new = RunFolder.start(place, {"seed": 1}, overwrite=True)
    new.write("weights", {"w": torch.ones(2)}, None)
    new.write("densities/new", {"w": torch.ones(2)}, None)
    return old, new


def assert_new(place):
    run = RunFolder.open(place)
    run.check()
    assert run.options == {"seed": 1}
    assert run.names("densities") == ["new"]
    names = {path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file()}
    assert names == {
        ".scattergen-lock", "run.json", "weights.safetensors", "densities/new.safetensors",
        "notes.txt",
    }  # fmt: skip


def test_a_run_that_another_process_replaced_is_not_written_to(tmp_path):
    old, new = replaced(tmp_path / "run")
    new.take_place()
    assert_new(tmp_path / "run")
    with pytest.raises(RunFolderError, match="seed=1 there, 0 now"), old.locked():
        pass


def test_a_replacement_killed_while_it_takes_its_place_is_completed(tmp_path, monkeypatch):
    steps, replace, rmtree = 0, os.replace, shutil.rmtree

    def dying(action):
        def step(*arguments, **keywords):
            nonlocal steps
            steps -= 1
            if steps == 0:
                raise Stop
            return action(*arguments, **keywords)

        return step

    for death in range(1, 9):
        place, steps = tmp_path / f"run-{death}", death
        new = replaced(place)[1]
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", dying(replace))
            patch.setattr(shutil, "rmtree", dying(rmtree))
            try:
                new.take_place()
            except Stop:
                died = True
            else:
                died = False
        if death == 1:  # before it was said to be ready
            assert RunFolder.open(place).options == {"seed": 0}
        else:
            assert_new(place)
    assert not died  # all steps have been tried


@pytest.mark.parametrize("listed", ['["../../x"]', "{", '["run.json", "gone.safetensors"]', "[]"])
def test_a_replacement_that_is_not_whole_deletes_nothing(tmp_path, listed):
    old = replaced(tmp_path / "run")[0]
    hidden = tmp_path / "run" / ".replacement"
    (hidden / ".ready").write_text(listed)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(RunFolderError, match=r"\.replacement is damaged: delete that folder"):
        RunFolder.open(old.place)
    assert {path: path.read_bytes() for path in before} == before
    shutil.rmtree(hidden)
    RunFolder.open(old.place).check()


def test_a_replacement_that_was_killed_at_its_end_is_not_made_again(tmp_path):
    place_ = tmp_path / "run"
    replaced(place_)
    place.mark_ready(place_)
    run = RunFolder.start(place_, {"seed": 1}, overwrite=True)
    assert run.path == place_
    assert run.has("weights")
    assert_new(place_)


def test_a_replacement_continues_only_with_the_same_options(tmp_path):
    new = replaced(tmp_path / "run")[1]
    assert RunFolder.start(tmp_path / "run", {"seed": 1}, overwrite=True).has("weights")
    assert not RunFolder.start(tmp_path / "run", {"seed": 2}, overwrite=True).has("weights")
    with pytest.raises(RunFolderError, match="seed=2 there, 1 now"), new.locked():
        pass


def test_stored_coefficients_are_not_lost_to_other_options(scattergen, fit, monkeypatch):
    """Scattering of large sets takes hours: what a stopped fit stored is kept."""
    disk = [*fit, "--set", "encoder.store=disk"]

    def stop(*_, **__):
        raise Stop

    with monkeypatch.context() as patch:
        patch.setattr("scattergen.encoder.scattering_encoder.ScatteringEncoder.state_dict", stop)
        with pytest.raises(Stop):
            scattergen(*disk)
    run = Path(fit[fit.index("--out") + 1])
    stored = set((run / "checkpoints" / "codes").rglob("*.safetensors"))
    assert stored
    for other in (["--set", "encoder.L=3"], ["--seed", "5"]):
        err = scattergen(*disk, *other, code=2).err
        assert "--overwrite" in err
    assert set((run / "checkpoints" / "codes").rglob("*.safetensors")) == stored
    scattergen(*disk)
    assert not (run / "checkpoints").exists()


def test_a_run_in_which_nothing_was_stored_gives_way(tmp_path):
    RunFolder.start(tmp_path / "run", {"seed": 0})
    run = RunFolder.start(tmp_path / "run", {"seed": 1})
    run.write("weights", {"w": torch.ones(2)}, None)
    with pytest.raises(RunFolderError, match="seed=1 there, 2 now"):
        RunFolder.start(tmp_path / "run", {"seed": 2})


def test_files_that_the_index_does_not_know_do_not_exist(run_copy):
    source = run_copy / "densities" / "gan.safetensors"
    (run_copy / "densities" / "foreign.safetensors").write_bytes(source.read_bytes())
    assert "foreign" not in sg.load(run_copy).densities
    assert os.listdir(run_copy / "densities").count("foreign.safetensors") == 1
