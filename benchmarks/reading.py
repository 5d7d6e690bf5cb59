"""Our reading of image files beside PyTorch's DataLoader, with the same decoder.

    python benchmarks/reading.py [--n 4000] [--side 178] [--size 64] [--work 20]

Makes JPEG files of noise that looks like photographs, and reads them resized. `in order` reads all in batches of 256,
as an encoder does; `training` reads random batches of 16 from a thread or processes, while this process multiplies
matrices for WORK milliseconds per batch, and says by how much this is slower than the multiplications alone. Each row
is a new process, whose memory is that of its children, too (Linux only).
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from scattergen.datasets import ImageFolder, prefetched
from scattergen.datasets.reading import decode
from scattergen.display.machine import machine

WAYS = {"threads": 0, "2 processes": 2, "DataLoader, 2 processes": 2}
BATCH, TRAINED_BATCH, STEPS = 256, 16, 150


class Decoded(torch.utils.data.Dataset[Tensor]):
    """One image after another, for a DataLoader."""

    def __init__(self, files: list[Path], size: int) -> None:
        self.files, self.size = files, size

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: int) -> Tensor:
        return torch.from_numpy(decode(self.files[number], "RGB", self.size).astype(np.float32) / 255)


def make_files(folder: Path, n: int, side: int) -> None:
    """Noise with the spectrum of photographs, 1 / frequency."""
    rng = np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)) + 1 / side
    for number in range(n):
        spectrum = np.fft.rfft2(rng.standard_normal((3, side, side))) / frequency
        pixels = np.fft.irfft2(spectrum, (side, side)).transpose(1, 2, 0)
        pixels = 128 + 50 * pixels / pixels.std()
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number:06}.jpg", quality=85)


def batches(way: str, folder: Path, size: int, order: list[Tensor]) -> Iterator[Tensor]:
    """The images of each batch of numbers."""
    if way.startswith("DataLoader"):
        files = sorted(folder.iterdir())
        yield from DataLoader(
            Decoded(files, size), batch_sampler=[rows.tolist() for rows in order], num_workers=WAYS[way],
            multiprocessing_context="forkserver",  # a fork would copy threads and an accelerator's state
        )  # fmt: skip
    else:
        images = ImageFolder(folder, size=size, cache_bytes=0, workers=WAYS[way])
        yield from prefetched(images[rows] for rows in order)


def megabytes(process: int) -> float:
    """Memory of a process and its children, what they share divided among them."""
    folder = Path("/proc", str(process))
    own = next(line for line in (folder / "smaps_rollup").read_text().splitlines() if line.startswith("Pss:"))
    children = [int(child) for file in folder.glob("task/*/children") for child in file.read_text().split()]
    return int(own.split()[1]) / 1000 + sum(map(megabytes, children))


def measure(way: str, task: str, folder: Path, size: int, work: float) -> dict[str, float]:
    """Seconds to the first batch, images per second after it, megabytes of all processes, and a checksum."""
    n = len(list(folder.iterdir()))
    generator = torch.Generator().manual_seed(0)
    if task == "training":
        order = list(torch.randint(n, (STEPS, TRAINED_BATCH), generator=generator))
    else:
        order = list(torch.arange(n).split(BATCH))
    matrix = torch.randn(1000, 1000)

    def multiply(times: int) -> None:
        for _ in range(times):
            matrix @ matrix

    multiply(20)
    begin = time.perf_counter()
    multiply(50)
    times = round(work / 1000 / ((time.perf_counter() - begin) / 50)) if task == "training" else 0
    begin = time.perf_counter()
    for _ in range(20):
        multiply(times)
    alone = (time.perf_counter() - begin) / 20

    start, first, total, memory = time.perf_counter(), 0.0, 0.0, 0.0
    for number, images in enumerate(batches(way, folder, size, order)):
        if not number:
            first = time.perf_counter() - start
            memory = megabytes(os.getpid())
        total += images.double().sum().item()
        multiply(times)
    seconds = time.perf_counter() - start - first
    slower = seconds / ((len(order) - 1) * alone) if times else 0.0
    return {"first": first, "rate": (n if not times else STEPS * TRAINED_BATCH) / seconds, "slower": slower,
            "memory": memory, "sum": total}  # fmt: skip


def main() -> None:
    """One line for each task and way."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=4000)
    parser.add_argument("--side", type=int, default=178)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--work", type=float, default=20, help="milliseconds of computing per training batch")
    parser.add_argument("--one", nargs=3, metavar=("WAY", "TASK", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        way, task, folder = arguments.one
        print(json.dumps(measure(way, task, Path(folder), arguments.size, arguments.work)))
        return
    with tempfile.TemporaryDirectory() as folder:
        make_files(Path(folder), arguments.n, arguments.side)
        print(f"{', '.join(machine().values())}; {arguments.n} JPEG, {arguments.side} pixels wide, to {arguments.size}")
        print(f"{'task':10}{'read by':26}{'first batch':>12}{'images/s':>10}{'step':>9}{'memory':>10}{'sum':>14}")
        for task in ("in order", "training"):
            for way in WAYS:
                command = [sys.executable, __file__, *sys.argv[1:], "--one", way, task, folder]
                found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
                slower = f"× {found['slower']:.2f}" if task == "training" else ""
                print(f"{task:10}{way:26}{found['first']:10.2f} s{found['rate']:10.0f}{slower:>9}"
                      f"{found['memory']:7.0f} MB{found['sum']:14.1f}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
