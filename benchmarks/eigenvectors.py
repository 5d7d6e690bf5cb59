"""Leading eigenvectors, passes of the sketch, and the encoder of MNIST beside that of an earlier commit.

    python benchmarks/eigenvectors.py [--n 20000] [--before COMMIT] [--folder runs/eigenvectors]

The matrix is the covariance of the coefficients of n digits, 3,969 of them; eigenvectors are found by what the encoder
uses, and by LAPACK's evr, in turns. Residuals are parts of the least eigenvalue. A pass adds `x.T @ (x @ basis)` for a
chunk of random features, beside a product of square matrices. With a commit, the encoder is fitted to all 60,000 digits
and encodes them, twice by each, in processes of their own, with kernels compiled before.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from _environment import ROOT
from before_after import source_of
from scipy.linalg import eigh
from torch import Tensor

from scattergen.datasets import mnist
from scattergen.display.machine import machine
from scattergen.encoder import ScatteringEncoder
from scattergen.encoder.eigenvectors import leading_eigenvectors

COLUMNS = 576  # of the sketch of 512 components
ENCODER = """
import time
from scattergen.datasets import mnist
from scattergen.encoder import ScatteringEncoder
images = mnist().train
ScatteringEncoder((1, 28, 28), J=2, n_components=8).fit(images[:64])
start = time.perf_counter()
encoder = ScatteringEncoder((1, 28, 28), J=2, n_components=512)
features = encoder.open_features(images)
encoder.fit(features)
fitted = time.perf_counter()
encoder.transform(features)
print(f"fit {fitted - start:.1f} s, to codes {time.perf_counter() - start:.1f} s")
"""


def covariance(n: int) -> Tensor:
    """Of the coefficients of the first n digits, (3969, 3969) in float64."""
    encoder, images = ScatteringEncoder((1, 28, 28), J=2, n_components=512), mnist().train
    rows = torch.cat([encoder.features(images[i : i + 1000]) for i in range(0, n, 1000)]).double()
    return (rows - rows.mean(0)).T @ (rows - rows.mean(0)) / len(rows)


def by_lapack(matrix: Tensor, d: int) -> tuple[Tensor, Tensor]:
    D = len(matrix)
    values, vectors = eigh(matrix.numpy(), driver="evr", subset_by_index=(D - d, D - 1), check_finite=False)
    return torch.from_numpy(values).flip(0), torch.from_numpy(vectors).flip(1)


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def against_lapack(matrix: Tensor) -> None:
    """Print the seconds of both, twice each in turns, and the residuals of ours."""
    for d in (32, 64, 128, 256, 512, 640):
        took: dict[str, list[float]] = {"ours": [], "LAPACK": []}
        for _ in range(2):
            copy = matrix.clone()
            one, (values, vectors) = seconds(lambda copy=copy, d=d: leading_eigenvectors(copy, d))
            took["ours"].append(one)
            took["LAPACK"].append(seconds(lambda d=d: by_lapack(matrix, d))[0])
        residual = (matrix @ vectors - vectors * values).norm(dim=0).max() / values[-1]
        told = (f"{name} {', '.join(f'{one:.1f}' for one in each)} s" for name, each in took.items())
        print(f"{d:4} of {len(matrix):,}: {'; '.join(told)}; largest residual {residual:.0e}", flush=True)


def speed_of_passes() -> None:
    """Print the speed of a pass of the sketch beside that of a product of matrices."""
    square = torch.randn(3000, 3000)
    for n, D in ((805, 41_664), (419, 80_064)):
        x, basis, image = torch.randn(n, D), torch.randn(D, COLUMNS), torch.zeros(D, COLUMNS)
        works = {"pass": lambda x=x, b=basis, image=image: image.addmm_(x.T, x @ b), "product": lambda: square @ square}
        amounts = {"pass": 4 * n * D * COLUMNS, "product": 2 * len(square) ** 3}
        best = {name: min(seconds(work)[0] for _ in range(5)) for name, work in works.items()}
        told = (f"{name} {amounts[name] / best[name] / 1e9:.0f} GFLOP/s" for name in works)
        print(f"{n} images of {D:,} features: {', '.join(told)}", flush=True)


def main() -> None:
    """Measure all of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=20_000)
    parser.add_argument("--before", metavar="COMMIT")
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "eigenvectors")
    arguments = parser.parse_args()
    against_lapack(covariance(arguments.n))
    speed_of_passes()
    if arguments.before is not None:
        sources = {arguments.before: source_of(arguments.before, arguments.folder.absolute()), "now": ROOT / "src"}
        for name, source in (*sources.items(), *sources.items()):
            command, found = [sys.executable, "-c", ENCODER], os.environ | {"PYTHONPATH": str(source)}
            told = subprocess.run(command, env=found, check=True, capture_output=True, text=True).stdout
            print(f"encoder, {name}: {told.strip()}", flush=True)
    print(machine())


if __name__ == "__main__":
    main()
