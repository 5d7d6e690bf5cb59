"""Speed of the scattering transform against Kymatio's, in one run.

    python benchmarks/scattering.py [--seconds 5] [--threads 2]

Prints images per second of both, their ratio, and the largest relative difference of their outputs.
"""

import argparse
import time
from collections.abc import Callable

import scipy.special
import torch
from torch import Tensor

# Kymatio 0.3.0 imports a function that SciPy 1.17 has renamed; its 2-D part does not use it.
if not hasattr(scipy.special, "sph_harm"):
    scipy.special.sph_harm = scipy.special.sph_harm_y

from kymatio.torch import Scattering2D as Kymatio

from scattergen import Scattering2D
from scattergen.report.run_report import machine

CASES = [
    ("28x28, J=2", (64, 28, 28), 2),
    ("64x64x3, J=3", (4, 3, 64, 64), 3),
    ("128x128x3, J=4", (2, 3, 128, 128), 4),
]


def images_per_second(transform: Callable[[Tensor], Tensor], x: Tensor, seconds: float) -> float:
    transform(x)
    start, images = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        transform(x)
        images += len(x)
    return images / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=5.0, help="per measurement")
    parser.add_argument("--threads", type=int, default=None)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    print(", ".join(f"{name} {value}" for name, value in machine().items()))
    print(f"{'case':>16} {'Kymatio':>9} {'scattergen':>11} {'ratio':>6} {'difference':>11}")
    for name, shape, J in CASES:
        x = torch.rand(shape, generator=torch.Generator().manual_seed(0))
        ours, peer = Scattering2D(J, shape[-2:]), Kymatio(J, shape[-2:])
        a, b = ours(x), peer(x)
        difference = ((a - b).norm() / b.norm()).item()
        slow = images_per_second(peer, x, arguments.seconds)
        fast = images_per_second(ours, x, arguments.seconds)
        print(f"{name:>16} {slow:9.1f} {fast:11.1f} {fast / slow:6.2f} {difference:11.1e}")


if __name__ == "__main__":
    main()
