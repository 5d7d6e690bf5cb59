"""How soon the command line answers what needs no computing, and what `import scattergen` costs beyond PyTorch.

    python benchmarks/starting.py [--starts 5]

Processor seconds of processes of their own, the median of --starts, after one that is not counted, as it may compile
Python's files.
"""

import argparse
import resource
import statistics
import subprocess
import sys

from scattergen.display.machine import machine

COMMAND = [sys.executable, "-m", "scattergen"]
ASKED = {
    "scattergen --version": [*COMMAND, "--version"],
    "scattergen --help": [*COMMAND, "--help"],
    "scattergen fit --help": [*COMMAND, "fit", "--help"],
    "a mistyped command": [*COMMAND, "fti"],
    "a mistyped option": [*COMMAND, "fit", "--sede"],
    "a mistyped value": [*COMMAND, "fit", "mnist", "--limit", "x"],
    "import torch": [sys.executable, "-c", "import torch"],
    "import torch, scattergen": [sys.executable, "-c", "import torch, scattergen"],
}


def seconds(command: list[str]) -> float:
    """Processor seconds of a process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, capture_output=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--starts", type=int, default=5)
    starts = parser.parse_args().starts
    print(machine())
    for name, command in ASKED.items():
        seconds(command)
        print(f"{name:28}{statistics.median(seconds(command) for _ in range(starts)):6.2f} s")


if __name__ == "__main__":
    main()
