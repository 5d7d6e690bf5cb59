"""From images to codes in bounded memory: time and its split, peak memory, size of the store.

    python benchmarks/encoder.py [--n 2000] [--size 128] [--store disk] [--threads 2]
    python benchmarks/encoder.py --images FOLDER [--J 3]

Without a folder the images are procedural textures, generated when they are read and stored
nowhere. They are fitted and encoded as a run does it; of the first 2,000 textures the exact
components are found too, from their Gram matrix, and what the subspace iteration captures of the
variance is compared with them.
"""

import argparse
import hashlib
import math
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scattergen.datasets import ImageSource, open_dataset
from scattergen.display.machine import machine
from scattergen.display.progress import Progress
from scattergen.encoder import PCAWhitening, ScatteringEncoder, feature_store, principal_components

EXACT = 2000  # images whose exact components are found


class Textures:
    """Colour textures: sums of gratings, edges and blobs; image i depends on i alone.

    Args:
        n: Their number.
        size: Height and width.
    """

    labels = None

    def __init__(self, n: int, size: int) -> None:
        self.n, self.shape = n, (3, size, size)
        self.seconds = 0.0
        axis = np.linspace(-1, 1, size, dtype=np.float32)
        self._y, self._x = axis[:, None], axis[None]

    @property
    def fingerprint(self) -> str:
        """Changes when the textures do."""
        return hashlib.sha256(f"textures {self.n} {self.shape}".encode()).hexdigest()

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: slice | Tensor) -> Tensor:
        start = time.perf_counter()
        numbers = range(self.n)[index] if isinstance(index, slice) else index.tolist()
        images = torch.from_numpy(np.stack([self._image(i) for i in numbers]))
        self.seconds += time.perf_counter() - start
        return images

    def _image(self, i: int) -> Any:
        rng = np.random.default_rng(i)
        image = np.zeros(self.shape, np.float32)
        for _ in range(rng.integers(2, 6)):
            angle, cycles = rng.uniform(0, math.pi), 2 ** rng.uniform(0, 4.5)
            along = math.cos(angle) * self._x + math.sin(angle) * self._y + rng.uniform(-0.7, 0.7)
            wave = along * (math.pi * cycles)
            layer = np.sin(wave + rng.uniform(0, 7)) if rng.random() < 0.6 else np.tanh(4 * wave)
            if rng.random() < 0.7:  # within a blob
                x, y = self._x - rng.uniform(-1, 1), self._y - rng.uniform(-1, 1)
                layer = layer * np.exp(-(x * x + y * y) * 2 ** rng.uniform(0, 5))
            image += rng.uniform(-1, 1, (3, 1, 1)).astype(np.float32) * layer
        return 0.5 + 0.5 * np.tanh(image)


class Clock:
    """Adds up the time that calls of a function take."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function, self.seconds = function, 0.0

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        """Call the function."""
        start = time.perf_counter()
        try:
            return self.function(*arguments, **keywords)
        finally:
            self.seconds += time.perf_counter() - start


def peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def timed_fit(encoder: ScatteringEncoder, images: ImageSource, folder: Path) -> None:
    writing = feature_store.write_tensors = Clock(feature_store.write_tensors)
    saving = principal_components.write_tensors = Clock(principal_components.write_tensors)
    reading_images = Clock(images.__getitem__)
    start = time.perf_counter()
    features = encoder.open_features(images, folder / "store")
    computing = features.compute = Clock(lambda rows: encoder.features(reading_images(rows)))
    encoder.fit(features, Progress(), checkpoint=folder / "state.safetensors")
    fitted = time.perf_counter()
    size = sum(file.stat().st_size for file in (folder / "store").glob("*"))
    codes = encoder.transform(features, Progress())
    seconds = time.perf_counter() - start
    fit = fitted - start
    other = fit - computing.seconds - writing.seconds - saving.seconds
    d = encoder.whitening.n_components
    print(
        f"{len(images):,} images of {'x'.join(map(str, images.shape))}, "
        f"{encoder.n_features:,} features, {d} components, coefficients: {features.place}"
    )
    print(f"  images {reading_images.seconds:8.1f} s")
    print(f"  scattering {computing.seconds - reading_images.seconds:4.1f} s")
    print(f"  writing the store {writing.seconds:.1f} s ({size / 1e9:.2f} GB)")
    print(f"  writing checkpoints {saving.seconds:.1f} s")
    print(f"  principal components {other:.1f} s (with reading the store)")
    print(f"  codes {seconds - fit:.1f} s (with reading the store)")
    print(f"  in all {seconds:.1f} s, {len(images) / seconds:.0f} images/s")
    print(f"  peak memory {peak_gib():.2f} GiB")
    ratio = encoder.whitening.explained_variance_ratio_.sum().item()
    white = (codes.T @ codes / len(codes) - torch.eye(d)).abs().max().item()
    print(f"  captured variance {ratio:.5f}, codes white to {white:.1e}")
    features.remove()


def against_exact(encoder: ScatteringEncoder, images: ImageSource) -> None:
    """Captured variance of the first images by subspace iteration, relative to exact."""
    n = min(EXACT, len(images))
    s = torch.cat([encoder.features(images[i : min(i + 200, n)]) for i in range(0, n, 200)])
    d, batches = encoder.whitening.n_components, list(s.split(encoder.batch_size))
    exact = PCAWhitening(d, cache_bytes=1 << 40).fit(lambda: batches)
    principal_components._MOST_FOR_GRAM = principal_components._MOST_FOR_COVARIANCE = 0
    ours = PCAWhitening(d, cache_bytes=1 << 40).fit(lambda: batches)
    parts = [x.explained_variance_ratio_.sum().item() for x in (ours, exact)]
    print(
        f"the first {n:,} images: captured {parts[0]:.6f} of the variance, exact {parts[1]:.6f}, "
        f"ratio {parts[0] / parts[1]:.6f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--images", help="folder or file of images instead of textures")
    parser.add_argument("--J", type=int, help="by default 4 from 128 pixels on, else 3")
    parser.add_argument("--components", type=int, default=512)
    parser.add_argument("--store", default="disk")
    parser.add_argument("--dtype", default="float16")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--folder", help="where to keep the store; a temporary folder by default")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    images: ImageSource = Textures(arguments.n, arguments.size)
    if arguments.images:
        images = open_dataset(arguments.images).train
    J = arguments.J or (4 if min(images.shape[1:]) >= 128 else 3)
    encoder = ScatteringEncoder(
        images.shape,
        J,
        n_components=min(arguments.components, len(images) - 1),
        store=arguments.store,
        store_dtype=arguments.dtype,
    )
    print(", ".join(f"{name} {value}" for name, value in machine().items()))
    encoder.features(images[:1])  # compiles the transform
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        timed_fit(encoder, images, Path(folder))
    if not arguments.images:
        against_exact(encoder, images)


if __name__ == "__main__":
    main()
