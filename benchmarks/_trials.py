"""Trials of a campaign: a damaged run, a failing disk, a killed command; what each gives beside what it should give."""

import json
import os
import random
import shutil
import stat
import sys
import time
from pathlib import Path
from typing import Any

import _damage
import _disk_trouble
import numpy as np
import torch
from _disk_trouble import Trouble
from _watched import Said, call, in_child
from kills import faults, fitted

from scattergen.errors import ScattergenError
from scattergen.runs import RunFolder

OPTIONS = {
    "encoder.n_components": "6", "encoder.J": "2", "encoder.store": "disk", "encoder.flips": "false",
    "decoder.kind": "generator", "decoder.channels": "[8,4]", "training.loss": "pixels", "training.epochs": "3",
    "training.flips": "false", "training.shortened": "0", "training.patience": "null", "sampling.n_components": "null",
    "sampling.sharpen": "0", "densities.vae.epochs": "2", "densities.vae.widths": "[32,16]",
    "densities.gan.epochs": "2", "densities.gan.widths": "[16,32]",
}  # fmt: skip
COMMANDS = ("fit", "overwrite", "density", "evaluate", "diagnose", "sample", "folder", "encode", "decode")
READERS = ("sample", "sample", "sample", "info", "encode", "decode")
WRITERS = (*["fit"] * 14, *["density"] * 3, "overwrite", "evaluate", "diagnose")
KILLED = ("fit", "overwrite", "density", "evaluate", "folder")
STATES = {"finished": "", "killed in the encoder": "encoder", "killed in the decoder": "decoder"}
_FOLDERS = ("pictures", "densities", "work")
_PLANTED = ("run/notes.txt", *(f"run/{one}/notes.txt" for one in _FOLDERS), "run/pictures/holiday.png", "thesis.txt")
_WORDS = "years of work"


class Trials:
    """What all trials share: images, runs to be copied, and what undisturbed commands give.

    The process that holds this computes with one thread, so that it can be forked.
    """

    def __init__(self, place: Path) -> None:
        self.place, self.templates = place, place / "templates"
        self.seconds: dict[str, float] = {}
        pixels = np.random.default_rng(0).integers(0, 255, (120, 4, 4)).repeat(4, 1).repeat(4, 2).astype(np.uint8)
        labels = np.arange(120) % 2
        parts = {"x_train": pixels[:90], "x_test": pixels[90:], "y_train": labels[:90], "y_test": labels[90:]}
        np.savez(place / "images.npz", **parts)

    def arguments(self, name: str, home: Path) -> list[str]:
        """A command for the run in a folder; its output is beside the run."""
        run, out, images = str(home / "run"), home / "out", str(self.place / "images.npz")
        options = [word for one, value in OPTIONS.items() for word in ("--set", f"{one}={value}")]
        fit = ["fit", images, "--out", run, "--densities", "gaussian,mixture,vae,gan", *options]
        found = {
            "fit": fit, "overwrite": [*fit, "--overwrite", "--set", "encoder.n_components=5"],
            "density": ["density", run, "gaussian", "--as", "new"],
            "evaluate": ["evaluate", run, "--images", images, "-n", "30"],
            "diagnose": ["diagnose", run, "--components", "2", "-n", "40", "--simulations", "19"],
            "sample": ["sample", run, "--out", str(out / "samples.npz"), "-n", "4"],
            "folder": ["sample", run, "--out", str(out / "samples"), "-n", "12"],
            "encode": ["encode", run, images, "--out", str(out / "codes.npz")],
            "decode": ["decode", run, str(self.place / "codes.npz"), "--out", str(out / "images.npz")],
            "info": ["info", run],
        }  # fmt: skip
        return [*found[name], "-q", "--threads", "1"]

    def call(self, name: str, home: Path) -> Said:
        """Run a command on the run of a folder."""
        return call(self.arguments(name, home), [home / "run", home / "out"])

    def begin(self, name: str, template: str | None) -> Path:
        """A folder of its own for a trial, with a copy of a run, and something of the user's."""
        home = self.place / name
        remove(home)
        home.mkdir()
        if template is not None:
            shutil.copytree(self.templates / template / "run", home / "run")
        (home / "thesis.txt").write_text(_WORDS)
        return home

    def prepare(self) -> None:
        """Make the runs that trials begin with or end with, by commands that nobody disturbs."""
        ready = self.place / "seconds.json"
        if ready.exists():
            self.seconds = json.loads(ready.read_text())
            self._warm_up()
            return
        self.templates.mkdir()
        self.call("fit", self.begin("warming up", None))  # so that no fork has to load and compile
        for name, stage in STATES.items():
            if stage:
                home = self.begin(f"templates/{name}", None)
                in_child(lambda home=home, stage=stage: self._die_in(stage, home))
        for name in COMMANDS:
            home = self.begin(f"templates/{name}", _BEGUN.get(name, "fit"))
            start = time.monotonic()
            said = in_child(lambda name=name, home=home: self.call(name, home))
            self.seconds[name] = time.monotonic() - start
            if not isinstance(said, list) or said[0] or said[3]:
                sys.exit(f"{name}, which nobody disturbed: {said}")
            if name == "encode":
                shutil.copy(home / "out" / "codes.npz", self.place)
        home = self.begin("templates/finished", "evaluate")
        in_child(lambda: self.call("diagnose", home))
        ready.write_text(json.dumps(self.seconds))
        self._warm_up()

    def _warm_up(self) -> None:
        """Let PyTorch load what evaluations need and make its folder for compiled code, before anybody watches."""
        for name in ("encode", "evaluate"):
            self.call(name, self.begin("warming up", "fit"))

    def _die_in(self, stage: str, home: Path) -> None:
        """Fit until the second time that a stage puts something by."""
        replace, seen = os.replace, []

        def replacing(source: Any, target: Any) -> None:
            replace(source, target)
            folder = next((one for one in Path(target).parents if one.parent.name == "work"), None)
            if folder is not None and (folder / "lock").read_text() == stage and "result" not in Path(target).name:
                seen.append(target)
                if len(seen) == 2:
                    os.kill(os.getpid(), 9)

        os.replace = replacing
        self.call("fit", home)

    # A damaged run

    def fuzz(self, plan: dict[str, Any]) -> list[str]:
        """Damage a run, read it, write to it; what is wrong with how that ends."""
        home = self.begin("trial", plan["state"])
        (home / "out").mkdir()
        (home / "victim").mkdir()
        (home / "victim" / Path(plan["file"]).name).write_text(_WORDS)
        for name in _PLANTED:
            (home / name).parent.mkdir(exist_ok=True)
            (home / name).write_text(_WORDS)
        sealed = _damage.do(plan, home / "run", home / "victim")
        users = [home / one for one in _PLANTED] + [*home.rglob("thesis.txt")] + [*(home / "victim").iterdir()]
        beside = {path.name for path in home.iterdir()}
        found: list[str] = []
        for name in (plan["read"], plan["write"]):
            said = self.call(name, home)
            problems = said.faults
            if said.code == 0 and not problems and not sealed:
                problems = self.differences(name, home)
            found += [f"{name}: {one}" for one in problems]
        found += [f"gone or changed: {one}" for one in users if not _holds(one, _WORDS)]
        return found + [f"made: {one}" for one in {path.name for path in home.iterdir()} - beside]

    def differences(self, name: str, home: Path) -> list[str]:
        """Where what a command has made is not what it makes when nobody disturbs it."""
        template = self.templates / name
        try:
            run = RunFolder.open(home / "run")
            if name in ("fit", "overwrite"):
                run.check()
                mine, other = fitted(home / "run"), fitted(template / "run")
                wrong = [key for key, one in other.items() if key not in mine or not torch.equal(mine[key], one)]
                return [f"differs: {key}" for key in wrong] + ([] if run.finished else ["it is not finished"])
            if name == "density":
                tensors, stored = (
                    run.read("densities/new")[0],
                    RunFolder.open(template / "run").read("densities/new")[0],
                )
                alike = all(torch.equal(tensors[key], one) for key, one in stored.items() if "seconds" not in key)
                return [] if alike else ["differs: the density"]
            if name == "info":
                run.check()
        except ScattergenError as error:
            return [f"it ended with 0, but: {error}"]
        return differences_of_output(home / "out", template / "out") if (template / "out").exists() else []

    # A disk that fails

    def count(self, name: str) -> dict[str, int]:
        """How many calls of each kind a command makes on files below its folder."""

        def counting() -> dict[str, int]:
            home = self.begin("trial", _BEGUN.get(name, "fit"))
            _disk_trouble.arm(None, 0, home)
            self.call(name, home)
            return _disk_trouble.disarm()

        return in_child(counting)

    def trouble(self, name: str, kind: Trouble, k: int) -> list[str]:
        """Run a command on a disk that fails at the k-th call, then on one that works; what is wrong."""
        home = self.begin("trial", _BEGUN.get(name, "fit"))

        def work() -> list[str]:
            _disk_trouble.arm(kind, k, home)
            said = self.call(name, home)
            _disk_trouble.disarm()
            found = said.faults
            if kind.harmless and said.code:
                found.append(f"not survived: {said.err.strip()}")
            return [f"{one} (in trouble)" for one in found] + self._completed(name, home)

        found = in_child(work)
        return found if isinstance(found, list) else [str(found)]

    def _completed(self, name: str, home: Path) -> list[str]:
        """What is wrong with a run that a command left, and with how the same command ends now."""
        found = whole(home / "run")
        said = self.call(name, home)
        found += [f"{one} (afterwards)" for one in said.faults]
        if said.code:
            return [*found, f"exit code {said.code} afterwards: {said.err.strip()}"]
        template = self.templates / name
        found += faults(home / "run", template / "run")
        found += differences_of_output(home / "out", template / "out")
        return found + ([] if _holds(home / "thesis.txt", _WORDS) else ["gone or changed: thesis.txt"])

    # A kill

    def kill(self, name: str, chance: random.Random, most: int) -> tuple[int, list[str]]:
        """Kill a command at random moments, at most so many times; how many kills, and what is wrong in the end."""
        home = self.begin("trial", _BEGUN.get(name, "fit"))
        kills, found = 0, []
        for _ in range(most):
            after = chance.uniform(0, self.seconds[name])
            said = in_child(lambda: self.call(name, home), kill_after=after)
            if said is not None:  # it was faster
                found += said[3] if isinstance(said, list) else [str(said)]
                break
            kills += 1
            found += whole(home / "run")
        ended = in_child(lambda: self._completed(name, home))
        return kills, found + (ended if isinstance(ended, list) else [str(ended)])


_BEGUN = {"fit": None}


def whole(run: Path) -> list[str]:
    """Why a run that is there, or has been begun, is damaged, if so."""
    if not (run / "run.json").exists():
        return []
    try:
        RunFolder.open(run).check()
    except ScattergenError as error:
        return [f"damaged: {error}"]
    return []


def differences_of_output(mine: Path, wanted: Path) -> list[str]:
    """Where a folder of images and arrays is not the same as another one."""
    if not wanted.exists():
        return []
    names = {path.relative_to(wanted).as_posix() for path in wanted.rglob("*") if path.is_file()}
    there = {path.relative_to(mine).as_posix() for path in mine.rglob("*") if path.is_file()}
    found = [f"left over: {one}" for one in sorted(there - names) if "/" in one or one.startswith(".")]
    for name in sorted(names):
        if name not in there:
            found.append(f"missing: {name}")
        elif not name.endswith(".npz"):
            found += [] if (mine / name).read_bytes() == (wanted / name).read_bytes() else [f"differs: {name}"]
        else:
            with np.load(mine / name) as one, np.load(wanted / name) as other:
                same = one.files == other.files and all(np.array_equal(one[key], other[key]) for key in one.files)
            found += [] if same else [f"differs: {name}"]
    return found


def remove(folder: Path) -> None:
    """Delete what a trial has left, whatever its permissions."""
    for place, folders, _ in os.walk(folder):
        for one in folders:
            path = Path(place, one)
            if not path.is_symlink():
                path.chmod(0o700)
    shutil.rmtree(folder, ignore_errors=True)


def _holds(path: Path, words: str) -> bool:
    try:
        return stat.S_ISREG(path.lstat().st_mode) and path.read_text() == words
    except OSError:
        return False
