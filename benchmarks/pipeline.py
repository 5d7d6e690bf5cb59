"""Images per second of every stage, on the CPU and, where there is one, on a CUDA device.

    python benchmarks/pipeline.py [--shapes mnist,64,128] [--seconds 3] [--workers 0,2]

Decoding (JPEG files of 28×28, 89×109 and 178×218 pixels, cropped as CelebA's are), scattering, one
pass of the principal components, encoding (scattering and projection), training steps of the
decoder and decoding of codes. The last column says which share of a stage's time the decoding of
its images would take if it were not done ahead: above 1, decoding starves the stage. The decoder
for 128×128 is that of the preset celeba-light, on CUDA that of celeba.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from scattergen import Decoder
from scattergen.datasets import ImageFolder, prefetched
from scattergen.display.machine import machine
from scattergen.encoder import ScatteringEncoder
from scattergen.stages.presets import preset
from scattergen.training.loop import bfloat16_is_fast

# Channels, side, (width, height) of files, central crop, preset on the CPU and on CUDA.
SETTINGS = {
    "mnist": ((1, 28, 28), (28, 28), None, "mnist", "mnist"),
    "64": ((3, 64, 64), (89, 109), 64, "celeba-light", "celeba-2019"),
    "128": ((3, 128, 128), (178, 218), 128, "celeba-light", "celeba"),
}
_BATCH = 32


def draw_files(folder: Path, n: int, size: tuple[int, int], channels: int) -> None:
    """JPEG files of smooth random colours with some noise, about as large as CelebA's."""
    rng = np.random.default_rng(0)
    for number in range(n):
        coarse = rng.integers(0, 256, (8, 7, channels), dtype=np.uint8)
        image = Image.fromarray(coarse[..., 0] if channels == 1 else coarse).resize(size)
        pixels = np.asarray(image).astype(int)
        pixels += rng.integers(-8, 9, pixels.shape)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number:04}.jpg", quality=92)


def rate(work: Callable[[], int], seconds: float, device: str) -> float:
    """Images per second of what returns its number of images."""
    work()
    _wait(device)
    start, n = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        n += work()
        _wait(device)
    return n / (time.perf_counter() - start)


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def stages(images: Tensor, name: str, device: str, seconds: float) -> dict[str, float]:
    """Images per second of everything behind the decoding of files."""
    shape = (images.shape[1], images.shape[2], images.shape[3])
    options = preset(name, shape, 65_536)
    encoder = ScatteringEncoder(shape, **options["encoder"] | {"n_components": 16}, device=device)
    encoder.fit(images[:32])
    n = min(encoder.batch_size, len(images))
    batch = images[:n]
    # As of 512 components with the oversampling of subspace iteration: one pass is two products.
    features, basis = encoder.features(batch), torch.randn(encoder.n_features, 576)
    projection = torch.randn(encoder.n_features, 512)
    found = {"scattering": rate(lambda: len(encoder.features(batch)), seconds, device)}

    def one_pass() -> int:
        torch.mm(features.T, features @ basis)
        return n

    found["PCA, one pass"] = rate(one_pass, seconds, "cpu")

    def encode() -> int:
        return len(encoder.features(batch) @ projection)

    found["encoding"] = rate(encode, seconds, device)
    decoder = Decoder(512, shape, **options["decoder"]).to(device)
    adam = torch.optim.Adam(decoder.parameters(), 1e-3, fused=True)
    codes, targets = torch.randn(_BATCH, 512, device=device), images[:_BATCH].to(device)
    kind, fast = torch.device(device).type, bfloat16_is_fast(device)

    def step() -> int:
        with torch.autocast(kind, torch.bfloat16, enabled=fast):
            decoded = decoder(codes)
        loss = (decoded.float() - (2 * targets - 1)).abs().mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        return _BATCH

    found["decoder training"] = rate(step, seconds, device)
    found["sampling"] = rate(lambda: len(decoder.decode(codes)), seconds, device)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", default=",".join(SETTINGS))
    parser.add_argument("--files", type=int, default=400)
    parser.add_argument("--seconds", type=float, default=3.0, help="per measurement")
    parser.add_argument("--workers", default="0,2", help="processes that decode; 0 for threads")
    arguments = parser.parse_args()
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    torch.manual_seed(0)
    print(", ".join(f"{name} {value}" for name, value in machine().items()))
    print(f"processors {os.cpu_count()}, devices {', '.join(devices)}; images per second\n")
    for key in arguments.shapes.split(","):
        shape, size, crop, *names = SETTINGS[key]
        with tempfile.TemporaryDirectory() as place:
            draw_files(Path(place), arguments.files, size, shape[0])
            print(f"{shape[0]}x{shape[1]}x{shape[2]}")
            best, images = 0.0, torch.empty(0)
            for workers in map(int, arguments.workers.split(",")):
                folder = ImageFolder(place, crop=crop, cache_bytes=0, workers=workers)
                n = len(folder)
                images = folder[:]

                def read(folder: ImageFolder = folder, n: int = n) -> int:
                    return sum(len(x) for x in prefetched(folder[i : i + 64] for i in range(0, n, 64)))

                decoded = rate(read, arguments.seconds, "cpu")
                best = max(best, decoded)
                how = f"{workers} processes" if workers else "threads"
                print(f"  decoding files, {how:>16} {decoded:10.0f}")
        for device, name in zip(devices, names, strict=False):
            for stage, value in stages(images, name, device, arguments.seconds).items():
                share = "" if stage in ("PCA, one pass", "sampling") else f"{value / best:10.2f}"
                print(f"  {device:>4} {stage:>26} {value:10.0f} {share}", flush=True)


if __name__ == "__main__":
    main()
