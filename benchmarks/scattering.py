"""Speed of the scattering transform against Kymatio's, in one run.

    python benchmarks/scattering.py [--rounds 5] [--threads 2] [--skip-memory]

Kymatio, our torch path and our compiled kernel take turns, so that other load on the machine meets
all of them; the fastest of the rounds counts.  One thread is timed by the processor time that it
has got, several by the clock.  Differences are ‖a - b‖ / ‖b‖ to Kymatio's output.
"""

import argparse
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import scipy.special
import torch
from torch import Tensor

# Kymatio 0.3.0 imports a function that SciPy 1.17 has renamed; its 2-D part does not use it.
if not hasattr(scipy.special, "sph_harm"):
    scipy.special.sph_harm = scipy.special.sph_harm_y

from kymatio.torch import Scattering2D as Kymatio

from scattergen.report.run_report import machine
from scattergen.scattering import Scattering2D, filter_bank, transform

CASES = [
    ("28x28, J=2", (64, 28, 28), 2, 6.0, 10.0),
    ("64x64x3, J=3", (8, 3, 64, 64), 3, 7.0, 12.0),
    ("128x128x3, J=4", (2, 3, 128, 128), 4, 8.0, 15.0),
    ("224x224x3, J=5", (1, 3, 224, 224), 5, None, None),
]

PEAK_MEMORY = """
import re, torch
from scattergen import Scattering2D
transform = Scattering2D(4, (128, 128))
transform(torch.rand(8, 3, 128, 128))
x = torch.rand(1000, 3, 128, 128)
# Linux; getrusage would tell the peak of the parent process.
peak = lambda: int(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1]) / 2**20
before = peak()
s = transform(x)
print(f"{peak() - before - s.numel() * 4 / 2**30:.2f} GiB beyond input and output")
"""

FIRST_CALL = """
import time, torch
from scattergen import Scattering2D
x = torch.rand(1, 28, 28)
start = time.perf_counter()
Scattering2D(2, (28, 28))(x)
print(f"{time.perf_counter() - start:.1f} s")
"""

Transform = Callable[[Tensor], Tensor]


@contextmanager
def without_kernel() -> Iterator[None]:
    original = transform.compiled_kernels
    transform.compiled_kernels = lambda: None
    try:
        yield
    finally:
        transform.compiled_kernels = original


def torch_path(ours: Scattering2D) -> Transform:
    def compute(x: Tensor) -> Tensor:
        with without_kernel():
            return ours(x)

    return compute


def fastest(transforms: list[Transform], x: Tensor, rounds: int) -> list[float]:
    """Seconds per call, the transforms taking turns."""
    clock = (
        time.process_time if torch.get_num_threads() == 1 and not x.is_cuda else time.perf_counter
    )
    best = [float("inf")] * len(transforms)
    for _ in range(rounds + 1):  # the first one warms up
        for index, compute in enumerate(transforms):
            calls, start = 0, clock()
            while calls == 0 or clock() - start < 0.2:
                compute(x)
                if x.is_cuda:
                    torch.cuda.synchronize()
                calls += 1
            best[index] = min(best[index], (clock() - start) / calls)
    return best


def compare(threads: int, rounds: int) -> None:
    torch.set_num_threads(threads)
    print(f"\nImages per second, threads: {threads}; fastest of {rounds + 1} rounds")
    print(
        f"{'case':>15} {'Kymatio':>8} {'torch':>8} {'kernel':>8} {'torch/K':>8} {'kernel/K':>8} "
        f"{'bar, goal':>9} {'difference':>10}"
    )
    for name, shape, J, bar, goal in CASES:
        x = torch.rand(shape, generator=torch.Generator().manual_seed(0))
        ours, peer = Scattering2D(J, shape[-2:]), Kymatio(J, shape[-2:])
        a, b = ours(x), peer(x)
        difference = ((a - b).norm() / b.norm()).item()
        times = fastest([peer, torch_path(ours), ours], x, rounds)
        slow, plain, fast = (len(x) / seconds for seconds in times)
        wanted = f"{bar:.0f}, {goal:.0f}" if bar else "-"
        print(
            f"{name:>15} {slow:8.1f} {plain:8.1f} {fast:8.1f} {plain / slow:8.1f} "
            f"{fast / slow:8.1f} {wanted:>9} {difference:10.1e}"
        )


def latency(rounds: int) -> None:
    print("\nMilliseconds for one image: Kymatio, torch path, kernel")
    for name, shape, J, *_ in CASES:
        x = torch.rand(shape[1:])
        ours, peer = Scattering2D(J, shape[-2:]), Kymatio(J, shape[-2:])
        times = fastest([peer, torch_path(ours), ours], x, rounds)
        print(f"{name:>15}", " ".join(f"{1e3 * seconds:8.2f}" for seconds in times))


def construction() -> None:
    filter_bank.cache_clear()
    start = time.perf_counter()
    scattering = Scattering2D(4, (128, 128))
    scattering(torch.rand(1, 128, 128))
    ours = time.perf_counter() - start
    start = time.perf_counter()
    Kymatio(4, (128, 128))
    peer = time.perf_counter() - start
    print(f"\nConstruction, 128x128, J=4: {ours:.3f} s with a first image (bar 0.5), {peer:.3f} s")


def required_work(scattering: Scattering2D) -> tuple[float, float]:
    """Floating-point operations and bytes per image that the definition forces on this algorithm.

    An FFT of n samples counts 5 n log2 n, half of it if real; a filter product the weights that do
    not vanish; a modulus 4; the low-pass its two matrix products.  Bytes: image and coefficients.
    """
    J, L = scattering.J, scattering.L
    K, height, width = scattering.output_shape
    plan = scattering._plan_for(torch.float32)
    sizes = [tuple(side >> level for side in scattering.padded_shape) for level in range(J)]

    def fft(level: int) -> float:
        samples = sizes[level][0] * sizes[level][1]
        return 5 * samples * math.log2(samples)

    def path(level: int) -> float:
        rows, columns = sizes[level]
        low_pass = 2 * height * columns * (rows + width)
        return fft(level) + 4 * rows * columns + low_pass

    operations = fft(0) / 2 + 2 * height * sizes[0][1] * (sizes[0][0] + width)
    operations += sum(L * path(j) + (L * fft(j) / 2 if j < J - 1 else 0) for j in range(J))
    operations += sum(L * L * j2 * path(j2) for j2 in range(J))  # j2 scales are finer
    weights = plan.products.weights.size
    first = sum(
        int(plan.products.rows[start : start + sizes[j][0], :2].sum()) * sizes[j][1] * L
        for j, start in enumerate(plan.products.first.tolist())
    )
    operations += 4 * (first + (weights - first) * L)
    samples = scattering.shape[0] * scattering.shape[1] + K * height * width
    return operations, 4 * samples


def roofline(rounds: int) -> None:
    """What one core could do, and what the kernel does."""
    torch.set_num_threads(1)
    a, b = torch.rand(1024, 1024), torch.rand(1024, 1024)
    seconds = fastest([lambda x: torch.mm(x, b)], a, rounds)[0]
    peak = 2 * 1024**3 / seconds
    big, copy = torch.rand(2**25), torch.empty(2**25)
    bandwidth = 2 * 4 * 2**25 / fastest([copy.copy_], big, rounds)[0]
    print(
        f"\nOne core: product of matrices {peak / 1e9:.0f} GFLOP/s, copy {bandwidth / 1e9:.1f} GB/s"
    )
    for name, shape, J, *_ in CASES:
        scattering = Scattering2D(J, shape[-2:])
        x = torch.rand(8, *shape[-2:])
        seconds = fastest([scattering], x, rounds)[0] / len(x)
        operations, moved = required_work(scattering)
        print(
            f"{name:>15}: {operations / 1e6:8.2f} MFLOP and {moved / 1e3:7.1f} kB per channel, at "
            f"least {1e6 * operations / peak:7.1f} and {1e6 * moved / bandwidth:5.1f} us; takes "
            f"{1e6 * seconds:7.1f} us, {operations / seconds / 1e9:.1f} GFLOP/s"
        )


def run(code: str, **environment: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return result.stdout.strip()


def first_call() -> None:
    with tempfile.TemporaryDirectory() as empty:
        print("First call of a process, compiling:", run(FIRST_CALL, NUMBA_CACHE_DIR=empty))
        print("First call of a process, cached:   ", run(FIRST_CALL, NUMBA_CACHE_DIR=empty))


def gpu(rounds: int) -> None:
    if not torch.cuda.is_available():
        print("CUDA: no device here")
        return
    x = torch.rand(64, 3, 128, 128, device="cuda")
    ours, peer = Scattering2D(4, (128, 128)), Kymatio(4, (128, 128)).cuda()
    slow, fast = (len(x) / seconds for seconds in fastest([peer, ours], x, rounds))
    print(f"CUDA, 128x128x3, J=4, batch 64: {slow:.0f} -> {fast:.0f}/s, {fast / slow:.1f} (bar 8)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="per measurement")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--skip-memory", action="store_true", help="no run over 1,000 images")
    arguments = parser.parse_args()
    print(", ".join(f"{name} {value}" for name, value in machine().items()))
    kernels = transform.compiled_kernels()
    print("compiled kernel:", "in use" if kernels else "not available, 'kernel' is the torch path")
    for threads in sorted({1, arguments.threads}):
        compare(threads, arguments.rounds)
    latency(arguments.rounds)
    if kernels:
        roofline(arguments.rounds)
        torch.set_num_threads(arguments.threads)
    construction()
    if kernels:
        first_call()
    if not arguments.skip_memory:
        print("Peak memory, 1,000 images of 128x128x3 in a call:", run(PEAK_MEMORY), "(bar 1.5)")
    gpu(arguments.rounds)


if __name__ == "__main__":
    main()
