"""What several processes cost and gain on this machine, and whether they find the same encoder.

    python benchmarks/distributed.py [--processes 1,2,4] [--n 5000] [--threads 2]

Fits an encoder (32×32×3 images, 15,552 coefficients, 512 components by four passes of subspace iteration), encodes the
images, and trains a generator for some steps: in one process that has all threads, and in several that share them and
talk through gloo on the loopback interface. Bytes are those that the interface counted, divided by the number of
processes; nothing else should use it meanwhile. Takes about two minutes on two cores.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from scattergen import Decoder, ScatteringEncoder
from scattergen.datasets import ImageArray
from scattergen.decoder.fit import DecoderTraining
from scattergen.display.machine import machine
from scattergen.files.tensors import read_tensors, write_tensors
from scattergen.processes import ALONE, Layout, Processes, errors_reported, join, supervise

SHAPE = (3, 32, 32)
STEPS, BATCH = 40, 32  # of the decoder
SECONDS = ("encoder, s", "codes, s", "decoder step, ms")  # whose speed is told against the first number of processes
COUNTER = Path("/proc/net/dev")  # where Linux counts the bytes of network interfaces


def images(n: int) -> ImageArray:
    """Sums of random waves, whose coefficients vary in more ways than there are components."""
    generator = torch.Generator().manual_seed(0)
    waves = torch.randn(n, 3, 8, 8, generator=generator)
    smooth = torch.nn.functional.interpolate(waves, SHAPE[1:], mode="bicubic")
    noise = 0.1 * torch.randn(n, *SHAPE, generator=generator)
    return ImageArray(((0.5 + 0.15 * smooth + noise).clamp(0, 1) * 255).byte())


def bytes_sent() -> int:
    """Bytes that the loopback interface has sent so far; 0 where nobody counts them."""
    if not COUNTER.exists():
        return 0
    (line,) = (line for line in COUNTER.read_text().splitlines() if line.strip().startswith("lo:"))
    return int(line.split(":")[1].split()[8])


def measured(processes: Processes, work: Callable[[], Any]) -> tuple[Any, float, float]:
    """Result, seconds, and bytes sent per process."""
    processes.barrier()
    sent, start = bytes_sent(), time.perf_counter()
    result = work()
    processes.barrier()
    return result, time.perf_counter() - start, (bytes_sent() - sent) / processes.world_size


def work(processes: Processes, n: int, folder: Path) -> None:
    """Fit, encode, train and add up tensors; the first process writes what it measured."""
    data = images(n)
    encoder = ScatteringEncoder(SHAPE, J=2, n_components=512)
    features = encoder.open_features(data, None, processes)
    encoder.features(data[:8])  # compiles the kernel
    facts: dict[str, float] = {}
    _, facts["encoder, s"], sent = measured(processes, lambda: encoder.fit(features))
    facts["sent per pass, MB"] = sent / encoder.whitening.n_passes / 1e6
    codes, facts["codes, s"], _ = measured(processes, lambda: encoder.transform(features))

    decoder = Decoder(encoder.whitening.n_components, SHAPE, channels=(128, 64, 32))
    used = STEPS * BATCH + 1
    shown = ImageArray(data[:used].mul(255).byte())
    training = DecoderTraining(epochs=1, batch_size=BATCH, n_validation=1, precision="float32")
    history, _, sent = measured(processes, lambda: training.fit(decoder, codes[:used], shown, processes=processes))
    facts["decoder step, ms"] = history[-1]["seconds"] / STEPS * 1e3  # without imports
    facts["sent per step, MB"] = sent / STEPS / 1e6
    facts["decoder parameters, MB"] = sum(p.numel() for p in decoder.parameters()) * 4 / 1e6

    width = len(encoder.whitening.components_) + 64
    sketch = torch.zeros(encoder.n_features, width)
    processes.all_reduce(sketch)
    _, seconds, _ = measured(processes, lambda: [processes.all_reduce(sketch) for _ in range(5)])
    if processes.world_size > 1:
        facts["all-reduce of a sketch, GB/s"] = 5 * 4 * sketch.numel() / seconds / 1e9
    number = torch.zeros(1)
    _, seconds, _ = measured(processes, lambda: [processes.all_reduce(number) for _ in range(200)])
    if processes.world_size > 1:
        facts["all-reduce of a number, ms"] = seconds / 200 * 1e3
    if processes.rank == 0:
        write_tensors(folder / "results", {**encoder.state_dict(), "codes": codes}, facts)


def deviation(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> dict[str, float]:
    """Largest differences of two encoders and of their codes."""
    variances = expected["explained_variance"]
    bases = [torch.linalg.qr(e["components"].double().T)[0] for e in (found, expected)]
    # The sine, since the cosine of a small angle is 1 up to rounding.
    outside = bases[0] - bases[1] @ (bases[1].T @ bases[0])
    change = (found["explained_variance"] - variances).abs()
    codes = found["codes"] - expected["codes"]
    return {
        "variances, relative": (change / variances).max().item(),
        "captured variance, relative": change.sum().item() / variances.sum().item(),
        "largest principal angle, rad": torch.linalg.matrix_norm(outside, 2).item(),
        "leading 64 codes, rms": codes[:, :64].square().mean().sqrt().item(),
        "all codes, rms": codes.square().mean().sqrt().item(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--processes", default="1,2,4")
    parser.add_argument("--n", type=int, default=5000, help="images")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of all processes")
    parser.add_argument("--results", type=Path, help=argparse.SUPPRESS)  # inside a process
    arguments = parser.parse_args()
    layout = Layout.of_environment()
    if layout is not None:
        with errors_reported(layout, lambda error: None):
            processes = ALONE if layout.world_size == 1 else join(layout, "cpu")
            work(processes, arguments.n, arguments.results)
            processes.leave()
        return
    print(", ".join(f"{name} {value}" for name, value in machine().items()))
    counts = [int(count) for count in arguments.processes.split(",")]
    tables, encoders = {}, {}
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, __file__, "--n", str(arguments.n), "--results", folder]
            supervise(command, Layout(count), arguments.threads)
            encoders[count], tables[count] = read_tensors(Path(folder, "results"))
        tables[count] |= {f"{name}: speed": tables[counts[0]][name] / tables[count][name] for name in SECONDS}
        tables[count] |= deviation(encoders[count], encoders[counts[0]])
    print(f"\n{'processes':<32}" + "".join(f"{count:>12}" for count in counts))
    for name in tables[counts[-1]]:
        values = (tables[count].get(name) for count in counts)
        row = (f"{'-':>12}" if value is None else f"{value:>12.3g}" for value in values)
        print(f"{name:<32}" + "".join(row))
    print(f"\nDeviations are from the encoder of {counts[0]}.")


if __name__ == "__main__":
    main()
