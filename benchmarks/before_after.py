"""The same fit by the code of an earlier commit and by this one: seconds, memory, and what differs.

    python benchmarks/before_after.py COMMIT [--folder runs/before-after] [-- OPTION …]

Runs `scattergen fit mnist OPTION …` by both, one after the other, in processes of their own; then codes of the first
1,000 test images, their reconstructions and 1,000 samples of every density that both have are compared. Each fit that
ended is kept: the benchmark can be stopped, and continues.
"""

import argparse
import io
import json
import os
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
from _environment import ROOT

from scattergen.display.machine import machine
from scattergen.files import write_json

PARTS = """
import sys
import numpy as np
import scattergen
from scattergen.datasets import mnist
model = scattergen.load(sys.argv[1])
codes = model.encode(mnist().test[:1000])
parts = {"codes": codes, "reconstructions": model.decode(codes)}
parts |= {f"samples of {key}": model.sample(1000, key, seed=0) for key in sorted(model.densities)}
np.savez(sys.argv[2], **{name: part.numpy() for name, part in parts.items()})
"""


def run_by(source: Path, *command: str | Path) -> dict[str, float]:
    """Run Python on the package in a folder; wall and processor seconds, and the peak of memory in MiB."""
    start = time.monotonic()
    process = subprocess.Popen([sys.executable, *command], env=os.environ | {"PYTHONPATH": str(source)}, cwd=ROOT)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command} failed")
    seconds = time.monotonic() - start
    return {"seconds": seconds, "processor": used.ru_utime + used.ru_stime, "memory": used.ru_maxrss / 1024}


def fit(source: Path, folder: Path, options: list[str]) -> dict[str, float]:
    """What a fit took, and its parts beside it."""
    facts, parts = folder / "used.json", folder / "parts.npz"
    if not facts.exists():
        used = run_by(source, "-m", "scattergen", "fit", "mnist", "--out", folder / "run", *options)
        write_json(facts, used)
    if not parts.exists():
        run_by(source, "-c", PARTS, folder / "run", parts)
    kept: dict[str, float] = json.loads(facts.read_text())
    return kept


def source_of(commit: str, folder: Path) -> Path:
    """The package as it was at a commit."""
    before = folder / f"source-{commit}"
    if not before.exists():
        archive = subprocess.run(["git", "archive", commit, "src"], cwd=ROOT, check=True, capture_output=True)
        with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
            tar.extractall(before, filter="data")
    return before / "src"


def main() -> None:
    """Fit by both, and compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("commit")
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "before-after")
    parser.add_argument("options", nargs="*", help="of both fits, after --")
    arguments = parser.parse_args()
    folder = arguments.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    sources = {"before": source_of(arguments.commit, folder), "now": ROOT / "src"}
    for name, source in sources.items():
        (folder / name).mkdir(exist_ok=True)
        used = fit(source, folder / name, arguments.options)
        print(
            f"{name:8}{used['seconds']:8.0f} s{used['processor']:8.0f} s of processors{used['memory']:8.0f} MiB at most"
        )
    with np.load(folder / "before" / "parts.npz") as old, np.load(folder / "now" / "parts.npz") as new:
        print(f"{'largest difference':36}{'root mean square':>18}{'of values of r.m.s.':>21}")
        for part in (part for part in old.files if part in new.files):
            a, b = old[part].astype(float), new[part].astype(float)
            apart = a - b
            print(f"{part:28}{np.abs(apart).max():8.1e}{(apart**2).mean() ** 0.5:18.1e}{(a**2).mean() ** 0.5:21.2f}")
    print(f"before: {arguments.commit}; {machine()}")


if __name__ == "__main__":
    main()
