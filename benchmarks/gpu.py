"""What a GPU makes of it: the transform against Kymatio, the encoder, the generator of 2018 and sampling, in one run.

    python benchmarks/gpu.py [--small]

benchmarks/gpu.sh runs it after the tests. Without a GPU, or with --small, everything is small and on the processor,
which checks the script and measures nothing. The transform's rates stand beside what its operations and bytes need at
the speed of this device's product of matrices and copy (both float32, TF32 off, measured first).
"""

import argparse
import subprocess
import time
from collections.abc import Callable

import torch
from encoder import Textures
from scale import seconds_of
from scattering import Kymatio, fastest, required_work

from scattergen import Decoder, ScatteringEncoder
from scattergen.datasets import ImageArray
from scattergen.decoder.fit import DecoderTraining
from scattergen.densities import Gaussian
from scattergen.display.machine import machine
from scattergen.display.progress import Progress
from scattergen.scattering import Scattering2D
from scattergen.stages.presets import preset

CASES = [((28, 28), 1, 2), ((64, 64), 3, 3), ((128, 128), 3, 4)]  # shape, channels, J
PAPER = 50 * 65_536  # images that the generator of 2018 sees in a whole training
TEXTURES = 500  # that are drawn; the others are these, mirrored and turned


class Device:
    """Where it runs, and how large."""

    def __init__(self, small: bool) -> None:
        self.name = "cuda" if torch.cuda.is_available() else "cpu"
        self.small = small or self.name == "cpu"

    def seconds(self, work: Callable[[], object]) -> float:
        """Seconds per call, of calls for at least a second after a first one."""
        return seconds_of(lambda: (work(), self.wait()), 0.001 if self.small else 1.0)

    def wait(self) -> None:
        """Until all that was asked of the device is done."""
        if self.name == "cuda":
            torch.cuda.synchronize()

    def peak_gib(self) -> str:
        """The most memory of the device since the last call."""
        if self.name == "cpu":
            return "-"
        most = torch.cuda.max_memory_allocated() / 2**30
        torch.cuda.reset_peak_memory_stats()
        return f"{most:.1f} GiB"


def about(device: Device) -> tuple[float, float]:
    """Print the device; operations per second of its product of matrices, and bytes of its copies."""
    facts = machine()
    if device.name == "cuda":
        query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
        facts["GPU"] = subprocess.run(query, capture_output=True, text=True).stdout.strip()
        facts["CUDA"] = torch.version.cuda or ""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    print(", ".join(f"{name} {value}" for name, value in facts.items()), f"commit {commit or 'unknown'}", sep=", ")
    order = 512 if device.small else 8192
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        a = torch.rand(order, order, device=device.name, dtype=dtype)
        found[dtype] = 2 * order**3 / device.seconds(lambda a=a: a @ a)
    big = torch.rand(2**20 if device.small else 2**28, device=device.name)
    copy = torch.empty_like(big)
    bandwidth = 2 * big.nbytes / device.seconds(lambda: copy.copy_(big))
    print(
        f"product of matrices: float32 {found[torch.float32] / 1e9:,.0f} and bfloat16 "
        f"{found[torch.bfloat16] / 1e9:,.0f} GFLOP/s; copy: {bandwidth / 1e9:.0f} GB/s\n"
    )
    return found[torch.float32], bandwidth


def transform(device: Device, per_second: float, bandwidth: float) -> None:
    """Images per second of the transform, beside Kymatio's and what operations and bytes allow."""
    print("| transform | batch | Kymatio, images/s | ours | ratio (bar 8) | operations allow | bytes | difference |")
    print("|---|---|---|---|---|---|---|---|")
    for shape, channels, J in CASES:
        for batch in (2,) if device.small else (64, 256):
            x = torch.rand(batch, channels, *shape, device=device.name)
            ours, peer = Scattering2D(J, shape), Kymatio(J, shape).to(device.name)
            a, b = ours(x), peer(x)
            difference = ((a - b).norm() / b.norm()).item()
            del a, b
            slow, fast = (batch / seconds for seconds in fastest([peer, ours], x, 1 if device.small else 5))
            operations, moved = (channels * each for each in required_work(ours))
            print(
                f"| {shape[0]}×{shape[1]}×{channels}, J = {J} | {batch} | {slow:,.0f} | {fast:,.0f} | "
                f"{fast / slow:.1f} | {per_second / operations:,.0f} | {bandwidth / moved:,.0f} | {difference:.0e} |"
            )


def encoder(device: Device) -> None:
    """Seconds of the components and codes of textures."""
    n, side, J, d = (60, 32, 2, 16) if device.small else (20_000, 128, 4, 512)
    drawn = Textures(min(n, TEXTURES), side)[:]
    eight = [turned for x in (drawn, drawn.flip(3)) for turned in (x, x.mT, x.flip(2), x.mT.flip(2))]
    pixels = (255 * torch.cat(eight)).round().byte()
    # Moved by up to a quarter, each by its own amount, so that no two are equal.
    generator = torch.Generator().manual_seed(0)
    moves = torch.randint(-side // 4, side // 4, (n, 2), generator=generator).tolist()
    images = ImageArray(torch.stack([pixels[i % len(pixels)].roll((a, b), (1, 2)) for i, (a, b) in enumerate(moves)]))
    model = ScatteringEncoder((3, side, side), J, n_components=d, device=device.name, store="memory")
    model.features(images[:2])  # filters are made once
    device.peak_gib()
    start = time.perf_counter()
    features = model.open_features(images)
    model.fit(features, Progress())
    fitted = time.perf_counter()
    codes = model.transform(features, Progress())
    ended = time.perf_counter()
    white = (codes.T @ codes / n - torch.eye(d)).abs().max().item()
    batch = images[: model.batch_size]
    rate = len(batch) / device.seconds(lambda: model.features(batch))
    print(
        f"\nencoder: {n:,} images of {side}×{side}×3, {model.n_features:,} coefficients, {d} components: fitted in "
        f"{fitted - start:.1f} s, codes in {ended - fitted:.1f} s, white to {white:.0e}; scattering alone, with its "
        f"way to and from the device, {rate:,.0f} images/s; memory of the device {device.peak_gib()}"
    )


def generator(device: Device) -> None:
    """Training steps and images of the generator of 2018, of the preset "celeba"."""
    options = preset("celeba", (3, 128, 128), 65_536)
    side, batch, steps, d = (32, 4, 2, 16) if device.small else (128, options["training"]["batch_size"], 40, 512)
    hyperparameters = options["decoder"] | ({"channels": [16, 8], "kernel_size": 3} if device.small else {})
    n = 2 + batch * steps
    images = ImageArray(torch.randint(0, 256, (n, 3, side, side), dtype=torch.uint8))
    codes = torch.randn(n, d)
    for precision in ("float32", "bfloat16"):
        decoder = Decoder(d, (3, side, side), **hyperparameters)
        settings = options["training"] | {"epochs": 2, "n_validation": 2, "precision": precision, "batch_size": batch}
        device.peak_gib()
        history = DecoderTraining(**settings).fit(decoder, codes, images, device=device.name)
        rate = batch * steps / (history[1]["seconds"] - history[0]["seconds"])  # the first epoch warms up
        print(
            f"generator of 2018, {side}×{side}, batch {batch}, {precision}: training {rate:,.0f} images/s, so "
            f"{PAPER / rate / 3600:.2f} h for 50 epochs of 65,536 (goal 1); memory of the device {device.peak_gib()}"
        )
    density, decoder = Gaussian().fit(codes), decoder.to(device.name).eval()
    with torch.no_grad():
        seconds = device.seconds(lambda: decoder(density.sample(batch, seed=0).to(device.name)).cpu())
    print(f"sampling by it, codes of a Gaussian, float32: {batch / seconds:,.0f} images/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="check the script in a minute")
    device = Device(parser.parse_args().small)
    torch.set_float32_matmul_precision("highest")
    per_second, bandwidth = about(device)
    transform(device, per_second, bandwidth)
    encoder(device)
    generator(device)


if __name__ == "__main__":
    main()
