"""Damage runs, kill commands and let disks fail, thousands of times, and see whether scattergen stands it.

    python benchmarks/campaign.py [--mutations 100] [--disk 3] [--kills 200]
        [--parts kill,disk,fuzz] [--rows runs/campaign.jsonl]

A small model is fitted once. Then, each trial on a copy of its run or in a folder of its own:

fuzz   one file of a finished or interrupted run is damaged as Hypothesis says (_damage.py), `--mutations` times for
       each file; one command that reads the run and one that writes to it follow.
disk   calls of the operating system fail for files below the place that is written to (_disk_trouble.py): every kind
       `--disk` times in a fit, at a call drawn from all, and once in each of three other commands; then the same
       command again.
kill   commands are ended by SIGKILL at random moments, up to five times each, and then run to their end.

A command must end with exit code 0, or with 2 and one sentence; never hang; run no code from data, and write nothing
outside the run; files of the user, in the run and beside it, stay as they are. What ends with 0 must give the bits
that an undisturbed command gives (unless somebody also made the hashes fit, and so made another model). Commands run in
forks of this process, with figures of matplotlib left empty, which take most of a small fit's time.

Each trial is a row of `--rows`; with the same file (and `--place`) an interrupted campaign goes on. Exit code 1 if any
trial failed.
"""

import argparse
import importlib
import json
import os
import pkgutil
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import _damage
import _disk_trouble
import torch
from _trials import KILLED, READERS, STATES, WRITERS, Trials
from _watched import begin_watching, drop_privileges, in_child
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

import scattergen
from scattergen.display.machine import machine
from scattergen.evaluation import PerceptualFeatures

_SLOWEST = 120  # seconds of one trial


def quicken() -> None:
    """Load all modules, leave figures empty, and judge images by scattering features."""
    for module in pkgutil.walk_packages(scattergen.__path__, "scattergen."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    FigureCanvasAgg.print_png = lambda _, file, **__: Image.new("L", (8, 8)).save(file, format="PNG")
    PerceptualFeatures.installed = staticmethod(lambda: False)
    torch.set_num_threads(1)


class Rows:
    """Outcomes of trials, one a line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)

    def read(self) -> dict[str, dict[str, Any]]:
        """All that are complete, by name."""
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        return {row["trial"]: row for row in map(json.loads, lines)}

    def add(self, part: str, trial: str, kind: str, faults: list[str], **facts: Any) -> None:
        """Append one, and tell of faults."""
        row = {"part": part, "trial": trial, "kind": kind, "faults": faults, **facts}
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        if faults:
            print(f"{trial}: {'; '.join(faults)[:1500]}", flush=True)


def files_of(run: Path) -> list[str]:
    """All files of a run."""
    return sorted(path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file())


def fuzz(trials: Trials, rows: Rows, n: int) -> None:
    """Damage every file of every state of a run so many times; a process that dies or hangs is a fault."""
    plans: list[tuple[str, dict[str, Any]]] = []
    values = _damage.draw_values(300)
    for state in STATES:
        names = files_of(trials.templates / state / "run")
        if state != "finished":
            names = [name for name in names if name == "run.json" or name.startswith("work/")]
        for name in names:
            drawn = _damage.plans(state, name, n, values, READERS, WRITERS)
            plans += [(f"{state}, {name}, {number}", plan) for number, plan in enumerate(drawn)]
    random.Random(0).shuffle(plans)  # so that one that is stopped has seen all files

    def work(left: list[tuple[str, dict[str, Any]]]) -> int:
        begin_watching()
        drop_privileges()
        for trial, plan in left:
            start = time.monotonic()
            faults = trials.fuzz(plan)
            rows.add("fuzz", trial, plan["kind"], faults, file=plan["file"], seconds=time.monotonic() - start)
        return 0

    while True:
        done = rows.read()
        left = [one for one in plans if one[0] not in done][:100]
        if not left:
            return
        ended = in_child(lambda left=left: work(left), seconds=100 * _SLOWEST)
        if ended != 0:
            trial, plan = next(one for one in left if one[0] not in rows.read())
            rows.add("fuzz", trial, plan["kind"], [f"the process {ended}"], file=plan["file"], plan=plan)


def disk(trials: Trials, rows: Rows, n: int) -> None:
    """Let the disk fail in every way, at moments drawn from all."""
    counts = {name: trials.count(name) for name in ("fit", "density", "evaluate", "folder")}
    done = rows.read()
    for kind in _disk_trouble.KINDS:
        for name, number in [*(("fit", one) for one in range(n)), ("density", 0), ("evaluate", 0), ("folder", 0)]:
            trial = f"{kind.name}, {name}, {number}"
            if trial in done or not counts[name][kind.operation]:
                continue
            k = random.Random(trial).randrange(counts[name][kind.operation])
            rows.add("disk", trial, kind.name, trials.trouble(name, kind, k), at=k)


def kill(trials: Trials, rows: Rows, n: int) -> None:
    """Kill commands, so many times in all."""
    done = rows.read()
    kills = sum(row["kills"] for row in done.values() if row["part"] == "kill")
    number = 0
    while kills < n:
        name = ("fit", "overwrite", "fit", *KILLED)[number % 8]
        trial = f"kills {number}, {name}"
        number += 1
        if trial not in done:
            found, faults = trials.kill(name, random.Random(trial), 5)
            rows.add("kill", trial, name, faults, kills=found)
            kills += found


def table(rows: Rows) -> bool:
    """Print how many trials there were of each kind; whether none failed."""
    found = [*rows.read().values()]
    tried: Counter[tuple[str, str]] = Counter()
    failed: Counter[tuple[str, str]] = Counter()
    for row in found:
        group = row["kind"]
        if row["part"] == "fuzz":
            group = next(name for name, kinds in _damage.GROUPS.items() if group in kinds)
        for one in ((row["part"], group), (row["part"], "all")):
            tried[one] += row.get("kills", 1)
            failed[one] += bool(row["faults"])
    print(f"{'':6}{'kind':34}{'tried':>8}{'failed':>8}")
    for part, kind in sorted(tried, key=lambda one: (one[0], one[1] == "all", one[1])):
        print(f"{part:6}{kind:34}{tried[part, kind]:8,}{failed[part, kind]:8,}")
    files = {row["file"] for row in found if row["part"] == "fuzz"}
    kinds = {row["kind"] for row in found if row["part"] == "disk"}
    print(f"{len(files)} files were damaged; there were {len(kinds)} kinds of disk trouble.")
    return not any(failed.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mutations", type=int, default=100, help="of each file")
    parser.add_argument("--disk", type=int, default=3, help="trials of a fit for each kind of disk trouble")
    parser.add_argument("--kills", type=int, default=200, help="in all")
    parser.add_argument("--parts", default="kill,disk,fuzz", help="what to do, and in which order")
    parser.add_argument("--rows", type=Path, default=Path("runs/campaign.jsonl"))
    parser.add_argument("--place", type=Path, help="where, to be kept for the next time; else a temporary folder")
    arguments = parser.parse_args()
    rows = Rows(arguments.rows)
    with tempfile.TemporaryDirectory() as name:
        place = Path(name if arguments.place is None else arguments.place).resolve()
        place.mkdir(parents=True, exist_ok=True)
        if not _disk_trouble.is_loaded():
            library = _disk_trouble.compiled(place)
            if library is None:
                print("Disks cannot be made to fail, since there is no C compiler (cc).")
            else:
                command = [sys.executable, *sys.argv]
                sys.exit(os.spawnve(os.P_WAIT, command[0], command, os.environ | {"LD_PRELOAD": str(library)}))
        quicken()
        print(", ".join(f"{key} {value}" for key, value in machine().items()), flush=True)
        trials = Trials(place)
        trials.prepare()
        parts = {"kill": (kill, arguments.kills), "disk": (disk, arguments.disk), "fuzz": (fuzz, arguments.mutations)}
        if not _disk_trouble.is_loaded():
            del parts["disk"]
        for part, n in (parts[one] for one in arguments.parts.split(",") if one in parts):
            start = time.monotonic()
            part(trials, rows, n)
            print(f"{part.__name__}: {time.monotonic() - start:.0f} s", flush=True)
        good = table(rows)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
