"""The cost of fits from constants measured here, for more images and machines than there are here.

    python benchmarks/scale.py [--size 128] [--passes 4] [--bytes 2]

Measures the speeds that the encoder and the decoder depend on, one after another, in about two
minutes: scattering, the matrix products of a pass over the coefficients, the orthonormalisation
between passes, disk, all-reduce between two processes, and steps of the decoder. Then prints
what fits of 200 thousand, 10 million and a billion images would take on 1, 16 and 1,024 machines
like this one by the formulas of docs/notes/scale.md. Those rows are computed, not measured.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from scattergen import Decoder, ScatteringEncoder
from scattergen.datasets import ImageArray
from scattergen.decoder.fit import DecoderTraining
from scattergen.display.machine import machine
from scattergen.stages.presets import preset

N_COMPONENTS, OVERSAMPLING = 512, 64
IMAGES = (200_000, 10_000_000, 1_000_000_000)
MACHINES = (1, 16, 1024)
GIB = 2**30


def seconds_of(work: Callable[[], object], least: float = 5.0) -> float:
    """Seconds per call, of calls for at least so many seconds after a first one."""
    work()
    start, calls = time.perf_counter(), 0
    while time.perf_counter() - start < least:
        work()
        calls += 1
    return (time.perf_counter() - start) / calls


def products(rows: int, n_features: int, width: int) -> float:
    """Floating-point operations per second of one chunk's part of a pass."""
    deviations, basis = torch.randn(rows, n_features), torch.randn(n_features, width)
    total = torch.zeros(n_features, width)

    def work() -> None:
        total.addmm_(deviations.T, deviations @ basis)

    return 4 * rows * n_features * width / seconds_of(work)


def disk(n_bytes: int) -> tuple[float, float]:
    """Bytes per second written and read, past the memory in which the system keeps files."""
    content = os.urandom(n_bytes)
    with tempfile.TemporaryDirectory(dir=".") as folder:
        file = Path(folder, "chunk")
        start = time.perf_counter()
        with file.open("wb") as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())
        written = time.perf_counter() - start
        with file.open("rb") as stored:
            os.posix_fadvise(stored.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            start = time.perf_counter()
            stored.read()
        return n_bytes / written, n_bytes / (time.perf_counter() - start)


def all_reduce(n_bytes: int) -> float:
    """Bytes per second that one of two processes sends while they add up a tensor."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_reduce, (folder, n_bytes), nprocs=2)
        return n_bytes / float(Path(folder, "seconds").read_text())


def _reduce(rank: int, folder: str, n_bytes: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/store", world_size=2, rank=rank)
    tensor = torch.zeros(n_bytes // 4)
    dist.all_reduce(tensor)
    start = time.perf_counter()
    for _ in range(3):
        dist.all_reduce(tensor)
    if rank == 0:
        Path(folder, "seconds").write_text(str((time.perf_counter() - start) / 3))
    dist.destroy_process_group()


def decoder_images_per_second(size: int) -> tuple[float, int]:
    """Images per second of training steps of the preset for faces, and the decoder's parameters."""
    options = preset("celeba", (3, size, size), 10_000)
    decoder = Decoder(N_COMPONENTS, (3, size, size), **options["decoder"])
    settings = options["training"] | {"epochs": 2, "n_validation": 2, "batch_size": 32}
    n = 2 + 2 * settings["batch_size"]
    images = ImageArray(torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8))
    codes, mirrored = torch.randn(2, n, N_COMPONENTS)
    history = DecoderTraining(**settings).fit(decoder, codes, images, mirrored=mirrored)
    seconds = history[1]["seconds"] - history[0]["seconds"]  # the first epoch warms up
    return (n - 2) / seconds, sum(p.numel() for p in decoder.parameters())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", type=int, choices=(64, 128), default=128, help="of the images")
    parser.add_argument("--passes", type=int, default=4, help="of the subspace iteration")
    parser.add_argument("--bytes", type=int, choices=(2, 4), default=2, help="per coefficient")
    arguments = parser.parse_args()
    size, passes = arguments.size, arguments.passes
    options = preset("celeba", (3, size, size), 10_000)
    J, batch_size = options["encoder"]["J"], options["training"]["batch_size"]
    encoder = ScatteringEncoder((3, size, size), J, n_components=N_COMPONENTS)
    D, width = encoder.n_features, N_COMPONENTS + OVERSAMPLING
    print(", ".join(f"{name} {value}" for name, value in machine().items()))
    print(f"{size}×{size}×3, J = {J}: D = {D:,} coefficients, width k = {width}\n")

    batch = torch.rand(encoder.batch_size // 4, 3, size, size)
    scattering = len(batch) / seconds_of(lambda: encoder.features(batch))
    flops = products(encoder.batch_size, D, width)
    tall = torch.randn(D, width)
    orthonormalisation = seconds_of(lambda: torch.linalg.qr(tall), least=0.1)
    written, read = disk(1 << 29)
    wire = all_reduce(4 * D * width)
    training, n_parameters = decoder_images_per_second(size)
    print(f"scattering                    {scattering:,.0f} images/s")
    print(f"products of a pass            {flops / 1e9:,.0f} GFLOP/s")
    print(f"orthonormalisation of D × k   {orthonormalisation:.1f} s")
    print(f"disk, written and read        {written / 1e9:.2f} and {read / 1e9:.2f} GB/s")
    print(f"all-reduce of D × k, 2 ranks  {wire / 1e9:.2f} GB/s")
    print(f"decoder, training             {training:,.1f} images/s, {n_parameters:,} parameters")
    print(f"batch                         {batch_size} images of all machines together\n")

    print(f"{'images':>13} {'machines':>8} {'scattering':>18} {'principal comp.':>18}", end="")
    print(f" {'decoder, epoch':>18} {'disk each':>11} {'sent each':>11} {'codes':>11}")
    for n in IMAGES:
        for machines in MACHINES:
            share = n / machines
            stored = share * D * arguments.bytes
            # A ring all-reduce of the sum, and the basis that comes back.
            sketch = 4 * D * width * (2 * (machines - 1) / machines + (machines > 1))
            one_pass = max(4 * share * D * width / flops, stored / read) + sketch / wire
            encoding = max(share / scattering, stored / written)
            # The batch stays what it is, so that no more machines than it has images can help.
            used = min(machines, batch_size)
            gradient = 4 * n_parameters * 2 * (used - 1) / used
            step = batch_size / used / training + gradient / wire
            print(
                f"{n:>13,} {machines:>8,} {duration(encoding):>18} "
                f"{duration(passes * (one_pass + orthonormalisation)):>18} "
                f"{duration(n / batch_size * step):>18} {stored / GIB:>7,.0f} GiB "
                f"{passes * sketch / GIB:>7,.1f} GiB {n * N_COMPONENTS * 4 / GIB:>7,.1f} GiB"
            )


def duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


if __name__ == "__main__":
    main()
