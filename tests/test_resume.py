"""Interrupted runs: the same command ends with the same model, and two processes do not meet."""

import fcntl
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from functools import wraps
from pathlib import Path

import numpy as np
import pytest
import torch

import scattergen as sg
from scattergen.decoder.fit import DecoderTraining
from scattergen.densities import VariationalAutoencoder
from scattergen.encoder import ScatteringEncoder
from scattergen.encoder.feature_store import FeatureStore
from scattergen.errors import RunFolderError
from scattergen.pipeline import report
from scattergen.runs import RunFolder, remains
from scattergen.training.loop import TrainingState

COMMAND = "from scattergen import cli; cli.main()"
# Kills itself at the N-th file of the run whose name matches, before or after it gets this name.
DYING_COMMAND = """
import os, re, signal, sys
from scattergen import cli
pattern, left, when = sys.argv.pop(1), int(sys.argv.pop(1)), sys.argv.pop(1)
run, replace = sys.argv[sys.argv.index("--out") + 1], os.replace
def counted(source, target):
    global left
    left -= re.match(pattern, os.path.relpath(target, run)) is not None
    if left == 0 and when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
os.replace = counted
cli.main()
"""


OLD, NEW = "0" * 16, "1" * 16  # keys of stages
EVALUATE = ["evaluate", "-q", "-n", 40, "--density", "gaussian"]
DIAGNOSE = ["diagnose", "-q", "-n", 120, "--simulations", 19, "--components", 4]


class Stop(BaseException):
    """Stands for an interruption that nothing catches."""


@pytest.fixture
def fit(digits, tiny, tmp_path):
    """Arguments of a fit whose threads are those of this process: sums depend on their number."""
    threads = ["--threads", str(torch.get_num_threads())]
    return ["fit", str(digits), "--out", str(tmp_path / "run"), "--quiet", *threads, *tiny]


def start(code, *arguments):
    return subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def contents(run):
    """Every file of a run; not the locks, which hold nothing."""
    return {
        path.relative_to(run).as_posix(): path.read_bytes()
        for path in run.rglob("*")
        if path.is_file() and path.name not in (".scattergen-lock", "lock")
    }


@pytest.fixture
def assert_complete(assert_nothing_left):
    def check(run):
        content = RunFolder.open(run)
        content.check()
        assert "report" in content.stages
        assert (run / "report.html").is_file()
        assert_nothing_left(run)
        for line in (run / "metrics.jsonl").read_text().splitlines():
            json.loads(line)

    return check


@pytest.mark.slow
def test_a_fit_killed_at_its_files_ends_with_the_same_model(
    fit, fitted, forks, assert_same_model, assert_complete, tmp_path
):
    run = tmp_path / "run"
    for pattern, number, when, there in [
        ("encoder-", 1, "after", "encoder-*"),  # which run.json does not know yet
        ("work/.*/checkpoint", 2, "after", "linear-*"),  # in the decoder, after the second epoch
        ("pictures/preview", 1, "before", "work/*/checkpoint*"),  # after its last epoch
        ("densities/gan", 1, "before", "work/*/result*"),  # which is all of it but its name
        ("work/.*/pictures", 5, "after", "densities/gan-*"),  # in the report
        ("report.html", 1, "after", "work/*/pictures/*"),  # the first of its files in its place
    ]:
        process = forks.start(DYING_COMMAND, pattern, str(number), when, *fit)
        output = process.communicate(timeout=120)[0].decode()
        assert process.returncode == -signal.SIGKILL, output
        assert list(run.glob(there)), pattern
        assert "report" not in RunFolder.open(run).stages
    process = forks.start(COMMAND, *fit)
    assert "Unseen images come back" in process.communicate(timeout=120)[0].decode()
    assert_complete(run)
    assert_same_model(run, fitted)


@pytest.mark.slow
def test_the_preset_auto_killed_at_its_files_ends_with_the_same_model(
    digits, forks, assert_same_model, assert_complete, tmp_path
):
    threads = ["--threads", str(torch.get_num_threads())]
    few = ["--set", "training.epochs=2", "--set", "decoder.channels=[16,8,8]"]
    auto = ["--quiet", *threads, "--densities", "mixture", *few]
    whole, run = tmp_path / "whole", tmp_path / "run"
    process = forks.start(COMMAND, "fit", str(digits), "--out", str(whole), *auto)
    assert process.communicate(timeout=200)[0] is not None
    assert process.returncode == 0
    fit = ["fit", str(digits), "--out", str(run), *auto]
    for pattern, number, stages in [
        ("linear", 1, ["encoder", "codes"]),  # least squares, which run.json does not know yet
        ("work/.*/checkpoint", 1, ["encoder", "codes", "linear"]),  # after the first epoch
        ("densities/mixture", 1, ["encoder", "codes", "linear", "decoder", "sampling"]),
    ]:
        process = forks.start(DYING_COMMAND, pattern, str(number), "after", *fit)
        output = process.communicate(timeout=200)[0].decode()
        assert process.returncode == -signal.SIGKILL, output
        assert list(RunFolder.open(run).stages) == stages
    process = forks.start(COMMAND, *fit)
    output = process.communicate(timeout=200)[0].decode()
    assert process.returncode == 0, output
    assert_complete(run)
    assert_same_model(run, whole)
    chosen = [RunFolder.open(path).stages["sampling"] for path in (run, whole)]
    assert chosen[0]["n_components"] == chosen[1]["n_components"]
    assert chosen[0]["kernel"] == chosen[1]["kernel"]


@pytest.mark.slow
def test_a_fit_killed_at_any_time_ends_with_the_same_model(
    fit, fitted, forks, assert_same_model, assert_complete, tmp_path
):
    run, generator, deaths = tmp_path / "run", random.Random(0), 0
    while deaths < 2:
        process = forks.start(COMMAND, *fit)
        while not (run / "run.json").exists() and process.poll() is None:
            time.sleep(0.005)
        time.sleep(generator.uniform(0.0, 1.5))  # of about 3 s of fitting; import not counted
        process.kill()
        process.communicate(timeout=120)
        if process.returncode == 0:
            break
        deaths += 1
    process = forks.start(COMMAND, *fit)
    output = process.communicate(timeout=120)[0].decode()
    assert process.returncode == 0, output
    assert deaths > 0
    assert_complete(run)
    assert_same_model(run, fitted)


def test_remains_of_killed_writes_are_removed(scattergen, digits, tiny, run_copy, assert_complete):
    before = contents(run_copy)
    remains = [
        run_copy / ".writing-1.json",
        run_copy / "densities" / ".writing-2.safetensors",
        run_copy / "pictures" / ".writing-3.png",
        run_copy / "work" / NEW / ".writing-4.safetensors",
        run_copy / "work" / NEW / "lock",
        # All of a stage was written and run.json was not, or what was left of it not deleted.
        run_copy / f"decoder-{NEW}.safetensors",
        run_copy / "work" / RunFolder.open(run_copy).key("decoder") / "checkpoint.safetensors",
    ]
    for path in remains:
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_bytes(b"half")
    with (run_copy / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "dec')
    scattergen("fit", digits, "--out", run_copy, "-q", *tiny)
    assert_complete(run_copy)
    assert contents(run_copy) == before


def stop_at_checkpoint(monkeypatch, number):
    save, count = TrainingState.save, 0

    def stopping(state):
        nonlocal count
        save(state)
        count += state.path is not None
        if count == number:
            raise Stop

    monkeypatch.setattr(TrainingState, "save", stopping)


def test_an_interrupted_density_continues(scattergen, digits, tiny, run_copy, assert_complete, monkeypatch):
    """Whatever else is made in the run meanwhile."""
    args = ["density", run_copy, "vae", "-q", "--set", "epochs=4", "--set", "widths=[32,16]", "--as"]
    scattergen(*args, "whole")
    with monkeypatch.context() as patch, pytest.raises(Stop):  # noqa: PT012
        stop_at_checkpoint(patch, 2)
        scattergen(*args, "parts")
    assert not RunFolder.open(run_copy).has("densities/parts")
    scattergen("density", run_copy, "gaussian", "-q", "--as", "other")
    scattergen(*EVALUATE, run_copy, "--images", digits)
    scattergen("fit", digits, "--out", run_copy, "-q", *tiny)  # which has nothing to do
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


def test_a_density_does_not_continue_one_with_other_options(scattergen, run_copy, assert_complete, monkeypatch):
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


# Two processes


def refused(run, stage=None):
    what = "" if stage is None else f" (it makes {stage})"
    return f"error: Another process is writing to {run}{what}: wait for it to finish, or stop it.\n"


@pytest.mark.parametrize(
    ("place", "name", "stage"),
    [
        (ScatteringEncoder, "fit", "codes"),  # whose coefficients the encoder is fitted to
        (DecoderTraining, "fit", "decoder"),
        (report, "write_fit_report", "report"),
    ],
    ids=["encoder", "decoder", "report"],
)
def test_the_second_of_two_fits_is_refused_at_once(
    scattergen, fit, fitted, assert_same_model, assert_complete, monkeypatch, place, name, stage
):
    """Wherever the first is, which goes on; with the same options, and with others, too."""
    run, work = Path(fit[3]), getattr(place, name)

    @wraps(work)
    def second(*arguments, **keywords):
        begun = time.monotonic()
        before = contents(run)
        assert scattergen(*fit, code=2).err == refused(run, stage)
        assert scattergen(*fit, "--seed", 1, "--overwrite", code=2).err == refused(run)
        assert time.monotonic() - begun < remains._PATIENCE / 2
        assert contents(run) == before
        return work(*arguments, **keywords)

    monkeypatch.setattr(place, name, second)
    scattergen(*fit)
    assert_complete(run)
    assert_same_model(run, fitted)


def test_a_run_that_is_being_replaced_is_kept_from_others(scattergen, small_fit, run_copy, monkeypatch):
    """Only what would end the fit that replaces it is refused."""
    train = DecoderTraining.fit

    @wraps(train)
    def second(*arguments, **keywords):
        assert scattergen(*small_fit, code=2).err == refused(run_copy, "decoder")
        other = [*small_fit, "--set", "training.epochs=2"]
        assert scattergen(*other, code=2).err == refused(run_copy)
        scattergen("density", run_copy, "gaussian", "-q", "--as", "mine")
        scattergen("sample", run_copy, "-q", "--density", "mine", "--out", run_copy.parent / "a")
        return train(*arguments, **keywords)

    monkeypatch.setattr(DecoderTraining, "fit", second)
    scattergen(*small_fit)
    assert sg.load(run_copy).decoder.image_shape == (1, 16, 16)


def test_the_old_fit_command_leaves_a_run_that_replaces_it(
    scattergen, digits, tiny, small_fit, run_copy, assert_complete, monkeypatch
):
    def stop(*_, **__):
        raise Stop

    with monkeypatch.context() as patch, pytest.raises(Stop):  # noqa: PT012
        patch.setattr(report, "write_run_report", stop)
        scattergen(*small_fit)
    old = ["fit", digits, "--out", run_copy, *tiny]
    before = contents(run_copy)
    assert "nothing to do" in scattergen(*old).out
    assert contents(run_copy) == before
    with monkeypatch.context() as patch:
        patch.setattr(DecoderTraining, "fit", stop)  # as it is trained already
        scattergen(*small_fit)
    assert_complete(run_copy)
    assert sg.load(run_copy).decoder.image_shape == (1, 16, 16)


def test_a_run_that_replaces_another_one_is_given_up_for_the_old_options(
    scattergen, digits, tiny, small_fit, run_copy, assert_complete, monkeypatch
):
    before = contents(run_copy)

    def stop(*_, **__):
        raise Stop

    with monkeypatch.context() as patch, pytest.raises(Stop):  # noqa: PT012
        patch.setattr(report, "write_run_report", stop)
        scattergen(*small_fit)
    old = ["fit", digits, "--out", run_copy, "--overwrite", *tiny]
    assert "nothing to do" in scattergen(*old).out
    assert_complete(run_copy)
    assert contents(run_copy) == before


def test_two_different_densities_are_fitted_at_once(scattergen, run_copy, assert_complete, monkeypatch):
    vae = ["density", run_copy, "vae", "-q", "--set", "epochs=2", "--set", "widths=[32,16]"]
    fit = VariationalAutoencoder.fit

    def second(*arguments, **keywords):
        error = scattergen(*vae, "--as", "first", code=2).err
        assert error == refused(run_copy, "densities/first")
        scattergen("density", run_copy, "mixture", "-q", "--as", "second")
        return fit(*arguments, **keywords)

    monkeypatch.setattr(VariationalAutoencoder, "fit", second)
    scattergen(*vae, "--as", "first")
    assert RunFolder.open(run_copy).names("densities")[-2:] == ["second", "first"]
    for name in ("first", "second"):
        assert (run_copy / "pictures" / f"density-{name}.png").is_file()
    assert_complete(run_copy)


def test_a_run_is_evaluated_and_diagnosed_while_something_is_made(
    scattergen, digits, run_copy, assert_complete, monkeypatch
):
    fit = VariationalAutoencoder.fit

    def meanwhile(*arguments, **keywords):
        scattergen(*EVALUATE, run_copy, "--images", digits)
        scattergen(*DIAGNOSE, run_copy, "--density", "gaussian")
        return fit(*arguments, **keywords)

    monkeypatch.setattr(VariationalAutoencoder, "fit", meanwhile)
    scattergen("density", run_copy, "vae", "-q", "--set", "epochs=2", "--as", "new")
    assert RunFolder.open(run_copy).has("densities/new")
    for name in ("evaluation.json", "diagnosis-gaussian.json", "pictures/evaluation.png"):
        assert (run_copy / name).is_file()
    assert_complete(run_copy)


def test_readers_need_no_lock_and_writers_wait_for_it(scattergen, digits, tiny, run_copy, monkeypatch, tmp_path):
    before = contents(run_copy)
    fit = ["fit", digits, "--out", run_copy, "-q", *tiny]
    with (run_copy / ".scattergen-lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        scattergen("info", run_copy)
        scattergen("sample", run_copy, "-q", "--out", tmp_path / "a.png")
        monkeypatch.setattr(remains, "_PATIENCE", 0.2)
        for arguments in (fit, [*fit, "--overwrite"], ["density", run_copy, "gaussian", "--as", "n"]):
            begun = time.monotonic()
            assert scattergen(*arguments, code=2).err == refused(run_copy)
            assert time.monotonic() - begun > remains._PATIENCE
    assert contents(run_copy) == before
    monkeypatch.undo()
    process = start(HOLDING, str(run_copy), "1")
    process.stdout.readline()
    scattergen("density", run_copy, "gaussian", "--as", "new", "-q")  # after that second
    process.communicate()


HOLDING = """
import fcntl, sys, time
with open(sys.argv[1] + "/.scattergen-lock") as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    print(1, flush=True)
    time.sleep(float(sys.argv[2]))
"""
MAKING = f"""
import sys, time
from scattergen.runs import RunFolder
with RunFolder.open(sys.argv[1]).working("densities/new", {NEW!r}):
    print(1, flush=True)
    time.sleep(60)
"""


def test_a_lock_ends_with_its_process(run_copy):
    process = start(MAKING, str(run_copy))
    process.stdout.readline()
    run = RunFolder.open(run_copy)
    with pytest.raises(RunFolderError, match="Another process"), run.working("densities/new", NEW):
        pass
    with run.working("densities/new", OLD):  # another one
        pass
    process.kill()
    process.communicate()
    with run.working("densities/new", NEW):
        pass


# A run that takes the place of another one


def make(run, key, text):
    """All stages of a run but the last one."""
    content = {"w": torch.full((2,), float(key[0]))}
    run.write("weights", key, content, None)
    run.write(f"densities/{text}", key, content, None, {"seconds": 1.0}, {"weights": key})
    run.log({"of": text})


def make_report(run, key, text):
    with run.working("report", key) as folder:
        pages = {name: folder / name for name in ("report.html", f"pictures/samples-{text}.png")}
        for page in pages.values():
            page.parent.mkdir(exist_ok=True)
            page.write_text(text)
        run.note("report", key, {"seconds": 1.0}, ["weights", f"densities/{text}"], pages)


def interrupt(run, name):
    """Work that was begun and not finished."""
    with run.working(name, "2" * 16) as folder:
        (folder / "checkpoint.safetensors").write_text("half")


def replaced(place):
    """A run with a finished one that is about to take its place."""
    old = RunFolder.start(place, {"seed": 0})
    make(old, OLD, "old")
    make_report(old, OLD, "old")
    old.finish()
    interrupt(old, "densities/other")
    (place / "notes.txt").write_text("mine")
    (place / "pictures" / "holiday.png").write_text("mine")
    new = RunFolder.start(place, {"seed": 1}, overwrite=True)
    make(new, NEW, "new")
    make_report(new, NEW, "new")
    return old, new


def killed(monkeypatch, number, action):
    """Whether something dies where the N-th file gets another name or is deleted."""
    left = number

    def dying(step):
        def counted(*arguments, **keywords):
            nonlocal left
            left -= 1
            if left <= 0:  # what a process cleans up, one that was killed does not
                raise Stop
            return step(*arguments, **keywords)

        return counted

    with monkeypatch.context() as patch:
        for name in ("replace", "unlink", "rmdir"):
            patch.setattr(os, name, dying(getattr(os, name)))
        try:
            action()
        except Stop:
            return True
    return left <= 0


def assert_new(place):
    run = RunFolder.open(place)
    run.check()
    assert run.options == {"seed": 1}
    assert run.names("densities") == ["new"]
    assert run.finished
    found = contents(place)
    assert found.keys() == {
        "run.json", f"weights-{NEW}.safetensors", f"densities/new-{NEW}.safetensors",
        "report.html", "pictures/samples-new.png", "metrics.jsonl", "notes.txt",
        "pictures/holiday.png",
    }  # fmt: skip
    assert found["report.html"] == b"new"
    assert found["metrics.jsonl"] == b'{"of": "new"}\n'


def test_a_run_takes_the_place_of_another_one(tmp_path):
    old, new = replaced(tmp_path / "run")
    assert RunFolder.open(tmp_path / "run").options == {"seed": 0}
    assert RunFolder.begun(tmp_path / "run").replaces
    new.finish()
    assert_new(tmp_path / "run")
    assert not RunFolder.begun(tmp_path / "run").replaces
    who_wrote_before = old.working("densities/more", OLD)
    with pytest.raises(RunFolderError, match="seed=1 there, 0 now"), who_wrote_before:
        pass
    assert_new(tmp_path / "run")
    assert old.refresh()
    assert old.options == {"seed": 1}


def test_a_run_killed_while_it_takes_the_place_of_another_one_is_completed(tmp_path, monkeypatch):
    """At every file that gets another name or is deleted, there is one whole run."""
    seeds = []
    for number in range(1, 40):
        place = tmp_path / f"run-{number}"
        died = killed(monkeypatch, number, replaced(place)[1].finish)
        run = RunFolder.open(place)
        run.check()
        assert run.finished
        seeds.append(run.options["seed"])
        assert run.names("densities") == ["new" if seeds[-1] else "old"]
        again = RunFolder.start(place, {"seed": 1}, overwrite=True)  # as the same command does
        assert again.has("weights")
        again.finish() if again.replaces else again.tidy()
        assert_new(place)
        if not died:
            break
    assert not died  # all steps have been tried
    assert seeds == sorted(seeds)
    assert {*seeds} == {0, 1}


def test_a_run_killed_at_its_end_is_completed(tmp_path, monkeypatch, assert_nothing_left):
    """Nothing is left, whatever was begun with other options before."""
    finished = []
    for number in range(1, 40):
        place = tmp_path / f"run-{number}"
        begun = RunFolder.start(place, {"seed": 0})
        make(begun, OLD, "old")
        interrupt(begun, "densities/other")
        run = RunFolder.start(place, {"seed": 1}, overwrite=True)
        make(run, NEW, "new")

        def end(run=run):
            make_report(run, NEW, "new")
            run.finish()

        died = killed(monkeypatch, number, end)
        again = RunFolder.start(place, {"seed": 1}, overwrite=True)
        again.check()
        assert again.names("densities") == ["new"]
        finished.append(again.finished)
        if again.finished:
            again.tidy()
        else:
            make_report(again, NEW, "new")
            again.finish()
        assert_nothing_left(place)
        assert contents(place).keys() == {
            "run.json", f"weights-{NEW}.safetensors", f"densities/new-{NEW}.safetensors",
            "report.html", "pictures/samples-new.png", "metrics.jsonl",
        }  # fmt: skip
        if not died:
            break
    assert not died
    assert finished == sorted(finished)
    assert {*finished} == {False, True}


def test_a_run_that_was_killed_at_its_end_is_not_made_again(tmp_path):
    place = tmp_path / "run"
    replaced(place)
    run = RunFolder.start(place, {"seed": 1}, overwrite=True)
    assert run.replaces
    assert run.finished
    assert run.read("weights")[0]["w"].tolist() == [1, 1]
    run.finish()
    assert_new(place)


def test_a_run_that_replaces_another_one_continues_only_with_the_same_options(tmp_path):
    new = replaced(tmp_path / "run")[1]
    assert RunFolder.start(tmp_path / "run", {"seed": 1}, overwrite=True).has("weights")
    other = RunFolder.start(tmp_path / "run", {"seed": 2}, overwrite=True)
    assert not other.has("weights")
    assert other.find("weights", NEW)  # though what depends on none of them is the same
    with pytest.raises(RunFolderError, match="seed=2 there, 1 now"):
        new.finish()
    RunFolder.open(tmp_path / "run").check()


@pytest.mark.parametrize(
    "change",
    [
        lambda following: following["stages"].update({"../../x": following["stages"]["weights"]}),
        lambda following: following["stages"]["report"]["products"].append("../notes.txt"),
        lambda following: following["stages"]["report"].pop("key"),
        lambda following: following.pop("options"),
    ],
    ids=["stage elsewhere", "product elsewhere", "no key", "no options"],
)
def test_a_run_that_replaces_another_one_and_is_damaged_deletes_nothing(tmp_path, change):
    place = tmp_path / "run"
    new = replaced(place)[1]
    index = json.loads((place / "run.json").read_text())
    change(index["next"])
    content = {name: value for name, value in index.items() if name not in ("digest", "format")}
    text = json.dumps(content, sort_keys=True)
    index["digest"] = hashlib.sha256(text.encode()).hexdigest()
    (place / "run.json").write_text(json.dumps(index))
    before = contents(tmp_path)
    for use in (lambda: RunFolder.open(place), lambda: RunFolder.start(place, {"seed": 1}), new.finish):
        with pytest.raises(RunFolderError, match=r"run\.json is damaged"):
            use()
    assert contents(tmp_path) == before


def test_a_damaged_stage_of_a_run_that_replaces_another_one_is_made_again(
    scattergen, small_fit, run_copy, assert_complete, monkeypatch
):
    def stop(*_, **__):
        raise Stop

    with monkeypatch.context() as patch, pytest.raises(Stop):  # noqa: PT012
        patch.setattr(report, "write_run_report", stop)
        scattergen(*small_fit)
    decoder = RunFolder.begun(run_copy).file("decoder")
    assert decoder != RunFolder.open(run_copy).file("decoder")
    decoder.write_bytes(decoder.read_bytes()[:-10])
    err = scattergen(*small_fit, showing_warnings=True).err
    assert f"{decoder} is missing or damaged: it is made again." in err
    assert_complete(run_copy)
    assert sg.load(run_copy).decoder.image_shape == (1, 16, 16)


@pytest.fixture
def small_fit(run_copy, tmp_path):
    """Arguments of a fit to other images, which replaces the run."""
    images = tmp_path / "small.npy"
    np.save(images, np.random.default_rng(0).integers(0, 256, (60, 16, 16), dtype=np.uint8))
    options = ["encoder.n_components=4", "decoder.channels=[8,4]", "training.epochs=1"]
    sets = [word for option in options for word in ("--set", option)]
    fit = ["fit", images, "--out", run_copy, "--overwrite", "-q", "--densities", "gaussian"]
    return [*fit, *sets]


# What is kept


def test_stored_coefficients_are_not_lost_to_other_options(scattergen, fit, assert_complete, monkeypatch):
    """Scattering of large sets takes hours: what a stopped fit stored is kept."""
    disk = [*fit, "--set", "encoder.store=disk"]

    def stop(*_, **__):
        raise Stop

    with monkeypatch.context() as patch:
        patch.setattr("scattergen.encoder.scattering_encoder.ScatteringEncoder.state_dict", stop)
        with pytest.raises(Stop):
            scattergen(*disk)
    run = Path(fit[fit.index("--out") + 1])
    stored = set((run / "work").glob("*/*-float16.safetensors"))
    assert stored
    for other in (["--set", "encoder.L=3"], ["--seed", "5"]):
        err = scattergen(*disk, *other, code=2).err
        assert "--overwrite" in err
    assert set((run / "work").glob("*/*-float16.safetensors")) == stored
    keep = FeatureStore._keep_chunk

    def unstored(store, i, features):
        assert store.folder is None  # as of test images; those of the training are there
        return keep(store, i, features)

    monkeypatch.setattr(FeatureStore, "_keep_chunk", unstored)
    scattergen(*disk)
    assert_complete(run)


def test_a_run_in_which_nothing_was_stored_gives_way(tmp_path):
    RunFolder.start(tmp_path / "run", {"seed": 0})
    run = RunFolder.start(tmp_path / "run", {"seed": 1})
    run.write("weights", NEW, {"w": torch.ones(2)}, None)
    with pytest.raises(RunFolderError, match="seed=1 there, 2 now"):
        RunFolder.start(tmp_path / "run", {"seed": 2})


def test_files_that_the_index_does_not_know_do_not_exist(scattergen, run_copy):
    source = RunFolder.open(run_copy).file("densities/gan")
    foreign = run_copy / "densities" / "foreign.safetensors"
    foreign.write_bytes(source.read_bytes())
    (run_copy / "densities" / f"another-{NEW}.safetensors").write_bytes(source.read_bytes())
    assert list(sg.load(run_copy).densities) == ["gaussian", "mixture", "vae", "gan"]
    scattergen("density", run_copy, "gaussian", "-q", "--as", "new")
    assert foreign.read_bytes() == source.read_bytes()  # of somebody else
