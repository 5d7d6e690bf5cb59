"""Speed of the scattering transform against Kymatio's, in one run.

    python benchmarks/scattering.py [--rounds 5] [--threads 2] [--skip-memory]
    python benchmarks/scattering.py --stability

Kymatio, our torch path and our compiled kernel take turns, so that other load on the machine meets
all of them; the fastest of the rounds counts. One thread is timed by the processor time that it
has got, several by the clock. Differences are ‖a - b‖ / ‖b‖ to Kymatio's output. With --stability
it measures instead how coefficients change with images, against the bounds.
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
import torch.nn.functional as F
from torch import Tensor

# Kymatio 0.3.0 imports a function that SciPy 1.17 has renamed; its 2-D part does not use it.
if not hasattr(scipy.special, "sph_harm"):
    scipy.special.sph_harm = scipy.special.sph_harm_y

from kymatio.torch import Scattering2D as Kymatio

from scattergen.datasets import mnist
from scattergen.display.machine import machine
from scattergen.scattering import Scattering2D, filter_bank, lipschitz_constant, littlewood_paley, transform
from scattergen.scattering.filters import padding_sources

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
    clock = time.process_time if torch.get_num_threads() == 1 and not x.is_cuda else time.perf_counter
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


def with_gradient(compute: Transform) -> Transform:
    """The transform and the gradient of a linear function of its coefficients."""

    def differentiate(x: Tensor) -> Tensor:
        x = x.detach().requires_grad_()
        s = compute(x)
        return torch.autograd.grad(s, x, torch.ones_like(s))[0]

    return differentiate


def gradients(threads: int, rounds: int) -> None:
    torch.set_num_threads(threads)
    print(f"\nImages per second, transform and gradient, threads: {threads}")
    print(f"{'case':>15} {'Kymatio':>8} {'torch':>8} {'kernel':>8} {'kernel/torch':>12}")
    for name, shape, J, *_ in CASES[:3]:
        x = torch.rand(shape, generator=torch.Generator().manual_seed(0))
        ours, peer = Scattering2D(J, shape[-2:]), Kymatio(J, shape[-2:])
        transforms = [with_gradient(compute) for compute in (peer, torch_path(ours), ours)]
        slow, plain, fast = (len(x) / seconds for seconds in fastest(transforms, x, rounds))
        print(f"{name:>15} {slow:8.1f} {plain:8.1f} {fast:8.1f} {fast / plain:12.1f}")


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
    not vanish; a modulus 4; the low-pass its two matrix products. Bytes: image and coefficients.
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
    print(f"\nOne core: product of matrices {peak / 1e9:.0f} GFLOP/s, copy {bandwidth / 1e9:.1f} GB/s")
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


def norms(x: Tensor) -> Tensor:
    return x.flatten(1).norm(dim=1)


def energy_and_distances() -> None:
    print("2^J ‖Sx - Sy‖ / ‖x - y‖ on the padded grid; Littlewood-Paley: bounds of its sum")
    print(f"{'case':>14} {'Littlewood-Paley':>17} {'bound':>6} {'digits':>7} {'y = 0':>7} {'noise':>7} {'ascent':>7}")
    generator = torch.Generator().manual_seed(0)
    digits = mnist().test[:256][:, 0].double()
    for side, J in ((28, 2), (28, 3), (64, 3)):
        scattering = Scattering2D(J, (side, side))
        rows, columns = padding_sources(scattering.shape, scattering.padded_shape, "reflect")

        def stretch(x: Tensor, y: Tensor) -> Tensor:
            padded = (x - y)[..., rows[:, None], columns]  # noqa: B023
            return 2**J * norms(scattering(x) - scattering(y)) / norms(padded)  # noqa: B023

        bank = filter_bank(scattering.padded_shape, J, 8)
        images = F.interpolate(digits[:, None], size=(side, side), mode="bilinear")[:, 0]
        of_digits = stretch(images[:128], images[128:]).max()
        of_energy = stretch(images, torch.zeros_like(images)).max()
        noise = torch.rand(2, 16, side, side, generator=generator, dtype=torch.float64)
        pair = [noise[0, :4].clone().requires_grad_()]
        start = 0.1 * torch.randn(4, side, side, generator=generator, dtype=torch.float64)
        pair += [(noise[0, :4] + start).requires_grad_()]
        ascent = torch.optim.Adam(pair, lr=0.03, maximize=True)
        for _ in range(300):
            ascent.zero_grad()
            stretch(*pair).sum().backward()
            ascent.step()
        with torch.no_grad():
            found = [of_digits, of_energy, stretch(*noise).max(), stretch(*pair).max()]
        low, high = littlewood_paley(bank)
        print(
            f"{f'{side}x{side}, J={J}':>14} {f'{low:.3f} to {high:.3f}':>17} "
            f"{lipschitz_constant(bank):6.3f} " + " ".join(f"{value:7.3f}" for value in found)
        )


def translations() -> None:
    print("\n256 MNIST digits in 64x64 pixels, moved: 2^J ‖S(Tx) - Sx‖ / ‖x‖, at most (bound)")
    x = torch.zeros(256, 64, 64, dtype=torch.float64)
    x[:, 18:46, 18:46] = mnist().test[:256][:, 0].double()
    moves = (1, 2, 4, 8)
    print(f"{'':>8} " + " ".join(f"{f'{pixels} px':>15}" for pixels in moves))
    changes = [(norms(x.roll(pixels, 2) - x) / norms(x)).max() for pixels in moves]
    print(f"{'pixels':>8} " + " ".join(f"{value:7.3f}        " for value in changes))
    for J in (1, 2, 3, 4):
        scattering = Scattering2D(J, (64, 64))
        constant = lipschitz_constant(filter_bank(scattering.padded_shape, J, 8))
        s, cells = scattering(x), []
        for pixels in moves:
            change = (2**J * norms(scattering(x.roll(pixels, 2)) - s) / norms(x)).max()
            bound = constant * pixels / (0.8 * 2 ** (J - 1) * math.sqrt(math.e))
            cells.append(f"{change:7.3f} ({bound:5.3f})")
        print(f"{f'J={J}':>8} " + " ".join(cells))


def deformations() -> None:
    print("\nA wave of 2.2 rad/pixel in a window, deformed by ε = 0.02: ‖f(Dx) - f(x)‖ / ε‖f(x)‖")
    print(f"{'window':>8} {'deformation':>12} {'pixels':>8} {'|Fourier|':>9} {'scattering':>10}")
    strain = 0.02
    for side, window in ((64, 8.0), (128, 16.0)):
        u = torch.arange(side, dtype=torch.float64) - (side - 1) / 2
        ripple = side / (4 * math.pi) * torch.sin(4 * math.pi * u / side)
        scattering = Scattering2D(4, (side, side))

        def wave(rows: Tensor, columns: Tensor) -> Tensor:
            envelope = torch.exp(-(rows**2 + columns**2) / (2 * window**2))  # noqa: B023
            return envelope * torch.cos(2.2 * (math.cos(0.4) * rows + math.sin(0.4) * columns))

        x = wave(u[:, None], u[None])
        for name, y in (
            ("dilation", wave((1 - strain) * u[:, None], (1 - strain) * u[None])),
            ("ripple", wave(u[:, None] - strain * ripple[None], u[None])),
        ):
            changes = [
                ((f(y) - f(x)).norm() / f(x).norm() / strain).item()
                for f in (lambda z: z, lambda z: torch.fft.fft2(z).abs(), scattering)
            ]
            print(f"{window:8.0f} {name:>12} {changes[0]:8.2f} {changes[1]:9.2f} {changes[2]:10.2f}")


def run(code: str, **environment: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, check=True
    )
    return result.stdout.strip()


def first_call() -> None:
    with tempfile.TemporaryDirectory() as empty:
        print("First call of a process, compiling:", run(FIRST_CALL, NUMBA_CACHE_DIR=empty))
        print("First call of a process, cached:   ", run(FIRST_CALL, NUMBA_CACHE_DIR=empty))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="per measurement")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--skip-memory", action="store_true", help="no run over 1,000 images")
    parser.add_argument("--stability", action="store_true", help="bounds and changes, not speed")
    arguments = parser.parse_args()
    if arguments.stability:
        energy_and_distances()
        translations()
        deformations()
        return
    print(", ".join(f"{name} {value}" for name, value in machine().items()))
    kernels = transform.compiled_kernels()
    print("compiled kernel:", "in use" if kernels else "not available, 'kernel' is the torch path")
    for threads in sorted({1, arguments.threads}):
        compare(threads, arguments.rounds)
        gradients(threads, arguments.rounds)
    latency(arguments.rounds)
    if kernels:
        roofline(arguments.rounds)
        torch.set_num_threads(arguments.threads)
    construction()
    if kernels:
        first_call()
    if not arguments.skip_memory:
        print("Peak memory, 1,000 images of 128x128x3 in a call:", run(PEAK_MEMORY), "(bar 1.5)")


if __name__ == "__main__":
    main()
