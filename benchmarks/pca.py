"""Principal components of scattering coefficients: this project's, scikit-learn's two, and exact.

    python benchmarks/pca.py [--set mnist|textures|all] [--n N] [--threads 2]

Every method gets the same features, in a file of its own process, so that its peak memory counts:
"mnist" is 12,000 digits (3,969 features), where subspace iteration is compared too, although the
covariance would be used; "textures" is 3,000 procedural textures of 64x64x3 (41,664 features).
Captured variance is relative to the exact components; the angles are the largest and the median one
between the two subspaces; the error is that of features which the components project on their span,
relative to that of the exact ones. PSNR is that of 500 other images whose codes are decoded by
least squares (fitted to the codes and images of the samples), so that it compares what the
components hold of the images and not how a network was trained. Memory is what is added to that of
the imports; pages of the mapped features count while they are in use.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from encoder import Textures
from sklearn.decomposition import PCA, IncrementalPCA
from torch import Tensor

from scattergen.datasets import mnist
from scattergen.display.machine import machine
from scattergen.encoder import PCAWhitening, ScatteringEncoder, principal_components
from scattergen.image_quality import psnr

D_CODES = 512
N_TEST = 500  # images at the end that nothing is fitted to
CHUNK = 1024  # rows that are in memory at a time, where a method streams
METHODS = (
    "exact", "subspace 2", "subspace 3", "subspace 4", "subspace 5", "subspace 6", "IncrementalPCA",
    "randomised PCA",
)  # fmt: skip


def make_features(name: str, n: int | None, file: Path) -> Tensor:
    """Write the features of samples and of N_TEST more images; the images, (N, C·H·W)."""
    if name == "mnist":
        images: Any = mnist().train[: (n or 12_000) + N_TEST]
        encoder = ScatteringEncoder((1, 28, 28), J=2)
    else:
        images = Textures((n or 3000) + N_TEST, 64)
        encoder = ScatteringEncoder(images.shape, J=3)
    s = np.lib.format.open_memmap(file, "w+", np.float32, (len(images), encoder.n_features))
    for start in range(0, len(images), 500):
        rows = slice(start, min(start + 500, len(images)))
        s[rows] = encoder.features(images[rows])
    s.flush()
    return images[:].flatten(1)


def fit(method: str, s: Any) -> tuple[Any, Any]:
    """Mean (D,) and components (512, D); `s` is mapped, not in memory."""
    if method == "IncrementalPCA":
        found = IncrementalPCA(D_CODES, batch_size=CHUNK).fit(s)
        return found.mean_, found.components_
    if method == "randomised PCA":
        found = PCA(D_CODES, svd_solver="randomized", random_state=0).fit(np.array(s))
        return found.mean_, found.components_
    if method == "exact":
        n_passes = 1
        if len(s) <= s.shape[1]:
            principal_components._MOST_FOR_GRAM = len(s)
            principal_components._LARGEST_GRAM_INPUT = s.size
    else:
        principal_components._MOST_FOR_GRAM = principal_components._MOST_FOR_COVARIANCE = 0
        n_passes = int(method.split()[1])

    def batches() -> Any:
        return (torch.from_numpy(np.array(s[i : i + CHUNK])) for i in range(0, len(s), CHUNK))

    ours = PCAWhitening(D_CODES, n_passes, cache_bytes=0).fit(batches)
    return ours.mean_.numpy(), ours.components_.numpy()


def memory_gib(kind: str) -> float:
    """Memory now ("VmRSS") or at most ("VmHWM"); getrusage would count the parent's before exec."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(kind)).split()[1]) / 2**20


def run_one(method: str, file: Path, out: Path, threads: int) -> None:
    torch.set_num_threads(threads)
    s = np.load(file, mmap_mode="r")[:-N_TEST]
    s[:1].copy()
    before = memory_gib("VmRSS")
    start = time.perf_counter()
    mean, components = fit(method, s)
    facts = {"seconds": time.perf_counter() - start, "peak": memory_gib("VmHWM") - before}
    np.savez(out, mean=mean, components=components)
    print(json.dumps(facts))


def quality(s: Any, mean: Tensor, components: Tensor) -> tuple[float, float]:
    """Variance in the span of orthonormal components, and squared error of the projection."""
    captured = error = 0.0
    for i in range(0, len(s), CHUNK):
        x = torch.from_numpy(np.array(s[i : i + CHUNK])) - mean
        z = x @ components.T
        captured += z.double().square().sum().item()
        error += (x - z @ components).double().square().sum().item()
    return captured, error


def decoded_psnr(s: Any, images: Tensor, mean: Tensor, components: Tensor) -> float:
    """Mean PSNR, dB, of the last images, decoded by least squares from their codes."""
    z = torch.cat(
        [(torch.from_numpy(np.array(s[i : i + CHUNK])) - mean) @ components.T for i in range(0, len(s), CHUNK)]
    )
    z = torch.cat([z / z.std(0), torch.ones(len(z), 1)], 1).double()
    fitted, x = z[:-N_TEST], images[:-N_TEST].double()
    weights = torch.linalg.solve(fitted.T @ fitted, fitted.T @ x)
    decoded = (z[-N_TEST:] @ weights).clamp(0, 1)
    return psnr(images[-N_TEST:, None, None].double(), decoded[:, None, None]).mean().item()


def compare(name: str, n: int | None, threads: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "features.npy")
        images = make_features(name, n, file)
        every = np.load(file, mmap_mode="r")
        s = every[:-N_TEST]
        print(f"\n{name}: {len(s):,} samples of {s.shape[1]:,} features ({s.nbytes / 1e9:.2f} GB)")
        print(
            f"{'method':>16} {'passes':>7} {'time':>8} {'memory':>9} {'captured':>10} "
            f"{'largest':>8} {'median':>8} {'error':>9} {'PSNR':>9}"
        )
        exact: Tensor | None = None
        for method in METHODS:
            out = Path(folder, "out.npz")
            command = [sys.executable, __file__, "--one", method, str(file), str(out)]
            printed = subprocess.run([*command, "--threads", str(threads)], check=True, stdout=subprocess.PIPE)
            facts = json.loads(printed.stdout)
            found = np.load(out)
            mean = torch.from_numpy(found["mean"]).float()
            v = torch.linalg.qr(torch.from_numpy(found["components"]).float().T)[0]
            captured, error = quality(s, mean, v.T.contiguous())
            if exact is None:
                exact, reference = v, (captured, error)
            cosines = torch.linalg.svdvals(exact.T.double() @ v.double()).clamp(max=1)
            largest, median = (math.degrees(math.acos(c)) for c in (cosines[-1], cosines[256]))
            passes = method.split()[1] if method.startswith("subspace") else ""
            print(
                f"{method:>16} {passes:>7} {facts['seconds']:6.1f} s {facts['peak']:5.2f} GiB "
                f"{captured / reference[0]:10.6f} {largest:7.2f}° {median:7.3f}° "
                f"{error / reference[1]:9.5f} "
                f"{decoded_psnr(every, images, mean, v.T.contiguous()):6.2f} dB",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--set", default="all", choices=["mnist", "textures", "all"])
    parser.add_argument("--n", type=int, help="samples")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)  # method, features, result
    arguments = parser.parse_args()
    if arguments.one:
        method, file, out = arguments.one
        run_one(method, Path(file), Path(out), arguments.threads)
        return
    print(", ".join(f"{name} {value}" for name, value in machine().items()))
    for name in ("mnist", "textures") if arguments.set == "all" else (arguments.set,):
        compare(name, arguments.n, arguments.threads)


if __name__ == "__main__":
    main()
