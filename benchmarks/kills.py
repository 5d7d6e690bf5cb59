"""Kill `scattergen fit` at random moments, again and again, and compare what it ends with.

    python benchmarks/kills.py [--trials 20] [--kills 5] [--seed 0] [--store disk|memory|recompute]
        [--overwrite]

A folder of generated images is fitted once without interruption. Then each trial fits it anew and
is ended by SIGKILL: in a stage drawn from the next three, when a random part of the time has gone
by that the stage takes. The same command then goes on until it is killed again,
`--kills` times or to the end of the fit. With --overwrite, each trial replaces a finished run that
was fitted with other options, which must be whole as long as it is there.
Printed are the moments and stages of the kills; at the end of a trial every file of the run must
have the hash that was recorded, nothing may be left over, and everything fitted must be equal, bit
by bit, to that of the fit which was never interrupted. Exit code 1 if any trial fails.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from scattergen.display.machine import machine
from scattergen.errors import ScattergenError
from scattergen.runs import RunFolder

# Chunks of some 70 images and subspace iteration, as for large sets, so that there are chunks and
# passes to be killed in.
LAUNCHER = """
from scattergen.encoder import scattering_encoder as encoder
from scattergen.encoder import principal_components
encoder._BATCH_FLOATS = 2**20
principal_components._MOST_FOR_GRAM = principal_components._MOST_FOR_COVARIANCE = 0
from scattergen.cli import main
main()
"""

SMALL = {
    "encoder.n_components": "48",
    "decoder.channels": "[32,16,8]",
    "training.epochs": "6",
    "densities.vae-improved.epochs": "8",
    "densities.gan.epochs": "4",
}
OTHER = {"encoder.n_components": "40"}  # of the run that is replaced


def draw_images(folder: Path, n: int, seed: int) -> None:
    """Two coloured discs on a ramp; the whole is deterministic."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:32, :32]
    folder.mkdir()
    for number in range(n):
        image = np.outer(rng.random(3), (rows + columns).ravel() / 62).reshape(3, 32, 32)
        for _ in range(2):
            centre, radius, colour = rng.uniform(4, 28, 2), rng.uniform(3, 10), rng.random(3)
            inside = (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < radius**2
            image[:, inside] = colour[:, None]
        pixels = (image.transpose(1, 2, 0) * 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:04}.png")


def command(images: Path, out: Path, options: list[str]) -> list[str]:
    return [sys.executable, "-c", LAUNCHER, "fit", str(images), "--out", str(out),
            "--densities", "gaussian,mixture,vae-improved,gan", "--threads", "1",
            *options]  # fmt: skip


def words_of(options: dict[str, str]) -> list[str]:
    return [word for name, value in options.items() for word in ("--set", f"{name}={value}")]


def record(out: Path, replacing: bool) -> dict[str, Any] | None:
    """What run.json says of the fit; None before it has begun."""
    try:
        content: dict[str, Any] = json.loads((out / "run.json").read_text())
    except FileNotFoundError:
        return None
    old = content["options"]["encoder"]["n_components"] == int(OTHER["encoder.n_components"])
    return content.get("next") if replacing and old else content


def finished(out: Path, replacing: bool = False) -> dict[str, float]:
    """Seconds of the stages that a run folder holds."""
    found = record(out, replacing)
    stages = {} if found is None else found["stages"]
    return {name: entry["facts"]["seconds"] for name, entry in stages.items()}


def fit(arguments: list[str], kill: Callable[[], bool] = lambda: False) -> tuple[int, str]:
    """Exit code (or −signal) and what it said; killed once `kill` says so."""
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(
            arguments, stdout=said, stderr=said, start_new_session=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
        )
        while process.poll() is None:
            if kill():
                os.killpg(process.pid, signal.SIGKILL)
            time.sleep(0.002)
        said.seek(0)
        return process.returncode, said.read()


def within(out: Path, stage: str, after: float, stages: list[str], replacing: bool) -> Callable[[], bool]:
    """Whether a stage began so many seconds ago; the first begins with the run folder."""
    begun: list[float] = []
    before = stages[stages.index(stage) - 1] if stages.index(stage) else None

    def kill() -> bool:
        there = record(out, replacing) is not None if before is None else before in finished(out, replacing)
        if there and not begun:
            begun.append(time.monotonic())
        return bool(begun) and time.monotonic() - begun[0] >= after

    return kill


def place_of_kill(out: Path, stages: list[str], replacing: bool) -> str:
    """The stage that was being made, and what it had put by for its next life."""
    done = finished(out, replacing)
    stage = next((name for name in stages if name not in done), "the end")
    files = [path for path in (out / "work").glob("*/**/*") if path.is_file()]
    names = [path.name for path in files if path.name != "lock"]
    return f"{stage}, {len(names)} files put by" if names else stage


def broken(out: Path) -> list[str]:
    """Why a finished run cannot be used, if so."""
    try:
        run = RunFolder.open(out)
        run.check()
        return [] if run.finished else ["it is not finished"]
    except ScattergenError as error:
        return [str(error)]


def fitted(out: Path) -> dict[str, torch.Tensor]:
    """Everything that was fitted; seconds are shared by no two fits."""
    run = RunFolder.open(out)
    names = ["encoder", "codes", "decoder", *(f"densities/{n}" for n in run.names("densities"))]
    tensors = {f"{name}: {key}": t for name in names for key, t in run.read(name)[0].items()}
    return {key: t for key, t in tensors.items() if not key.endswith("history/seconds")}


def faults(out: Path, expected: Path) -> list[str]:
    """What is wrong with a finished run."""
    found = broken(out)
    names = {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()}
    wanted = {p.relative_to(expected).as_posix() for p in expected.rglob("*") if p.is_file()}
    found += [f"left over: {name}" for name in sorted(names - wanted)]
    found += [f"missing: {name}" for name in sorted(wanted - names)]
    mine, other = fitted(out), fitted(expected)
    different = [k for k in other if k not in mine or not torch.equal(mine[k], other[k])]
    return found + [f"differs: {name}" for name in different]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--kills", type=int, default=5, help="in each trial")
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--store", default="disk", help="where the encoder keeps coefficients")
    parser.add_argument("--overwrite", action="store_true", help="replace a finished run")
    arguments = parser.parse_args()
    options = words_of(SMALL | {"encoder.store": arguments.store})
    replacing = arguments.overwrite
    print(", ".join(f"{name} {value}" for name, value in machine().items()))
    moments = random.Random(arguments.seed)
    failed = killed = 0
    with tempfile.TemporaryDirectory() as place:
        images, whole, old = Path(place, "images"), Path(place, "whole"), Path(place, "old")
        draw_images(images, arguments.images, arguments.seed)
        start = time.monotonic()
        code, said = fit(command(images, whole, options))
        if code:
            sys.exit(f"The fit that nobody interrupts ended with code {code}:\n{said}")
        seconds = time.monotonic() - start
        if replacing:
            code, said = fit(command(images, old, words_of(SMALL | OTHER)))
            if code:
                sys.exit(f"The fit of the run to be replaced ended with code {code}:\n{said}")
            options.append("--overwrite")
        took = finished(whole)
        stages = list(took)
        print(f"{arguments.images} images of 3x32x32, coefficients kept: {arguments.store}")
        print(f"uninterrupted fit: {seconds:.1f} s; its stages:")
        each = ", ".join(f"{name} {s:.1f} s" for name, s in took.items())
        print(textwrap.fill(each, 100, initial_indent="  ", subsequent_indent="  ") + "\n")
        for trial in range(arguments.trials):
            out = Path(place, f"trial-{trial}")
            print(f"trial {trial + 1}")
            problems: list[str] = []
            if replacing:
                shutil.copytree(old, out)
            for _ in range(arguments.kills):
                left = [name for name in stages if name not in finished(out, replacing)]
                if not left:
                    break
                stage = moments.choice(left[:3])
                after = moments.uniform(0, took[stage])
                kill = within(out, stage, after, stages, replacing)
                code, said = fit(command(images, out, options), kill)
                problems += broken(out) if replacing else []
                if code != -signal.SIGKILL:
                    problems += [] if code == 0 else [f"exit code {code}: {said}"]
                    print(f"  ended before {after:.2f} s of {stage}")
                    continue
                killed += 1
                where = place_of_kill(out, stages, replacing)
                print(f"  killed {after:5.2f} s into {stage}: {where}")
            code, said = fit(command(images, out, options))
            problems += [f"exit code {code}: {said}"] if code else faults(out, whole)
            failed += bool(problems)
            print("  " + ("; ".join(problems) or "hashes hold, nothing left over, same bits"))
            sys.stdout.flush()
            shutil.rmtree(out)
    good = arguments.trials - failed
    print(f"\n{killed} kills; {good} of {arguments.trials} trials as they should be")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
