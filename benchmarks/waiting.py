"""How long threads should wait for each other before they give the processor back, alone and beside other work.

    python benchmarks/waiting.py [--steps 60] [--repeats 3] [--counts 300000 50000 20000 5000 0]

Milliseconds of a step of MNIST's decoder, the median of --steps, in processes of their own, each with another
GOMP_SPINCOUNT: how often a thread looks whether the others are there before it sleeps. PyTorch's default is 300,000,
about four milliseconds. "beside" is the same with one other process that computes without end. The settings take turns,
--repeats times, and the median is printed.
"""

import argparse
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from scattergen.display.machine import machine

STEPS = """
import statistics, sys
import torch
from torch.utils.data import TensorDataset
from scattergen.decoder import Decoder
from scattergen.stages.presets import preset
from scattergen.training import TrainingSettings, train
options, n = preset("mnist", (1, 28, 28), 60_000), int(sys.argv[1])
size = options["training"]["batch_size"]
decoder = Decoder(512, (1, 28, 28), **options["decoder"])
data, seconds = TensorDataset(torch.randn(n * size, 512), torch.rand(n * size, 1, 28, 28)), []
loss = lambda modules, batch, _: (modules["decoder"](batch[0]) - batch[1]).abs().mean()
settings = TrainingSettings(epochs=1, batch_size=size, learning_rate=1e-3)
train({"decoder": decoder}, {"decoder": loss}, data, settings, on_step=seconds.append)
print(1000 * statistics.median(b - a for a, b in zip(seconds, seconds[1:])))
"""


@contextmanager
def other_work(there: bool) -> Iterator[None]:
    """A process that computes without end, or none; in a session of its own, as another user's would be."""
    if not there:
        yield
        return
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"], start_new_session=True)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def milliseconds(count: int, n: int) -> float:
    """A step's time."""
    environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"} | {"GOMP_SPINCOUNT": str(count)}
    command = [sys.executable, "-c", STEPS, str(n)]
    return float(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    """Measure, and print a row for each setting."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--counts", type=int, nargs="*", default=[300_000, 50_000, 20_000, 5_000, 0])
    arguments = parser.parse_args()
    found: dict[tuple[int, bool], list[float]] = {}
    for _ in range(arguments.repeats):
        for there in (False, True):
            with other_work(there):
                for count in arguments.counts:
                    found.setdefault((count, there), []).append(milliseconds(count, arguments.steps))
    print(f"{'GOMP_SPINCOUNT':>14}{'alone':>9}{'beside':>9}   ms for a step")
    for count in arguments.counts:
        alone, beside = (statistics.median(found[count, there]) for there in (False, True))
        print(f"{count:14,}{alone:9.1f}{beside:9.1f}")
    print(machine())


if __name__ == "__main__":
    main()
