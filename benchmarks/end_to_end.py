"""What a whole fit spends, stage by stage, beside what its arithmetic needs, by this code and by an earlier commit's.

    python benchmarks/end_to_end.py [--before COMMIT] [--folder runs/end-to-end] [-- OPTION …]

Runs `scattergen fit mnist OPTION …` by both, one after the other, in processes of their own that are watched from
outside: a stage ends when run.json names it. Seconds, processor seconds and the most memory of each stage; `preview` is
when the first new images could be seen. Last, the seconds that the multiplications and additions of a stage need at the
speed of this machine's product of matrices (of two float32 matrices of order 4,096, measured first; half of that in
float64): scattering as in benchmarks/scattering.py, covariance, its eigenvectors (10/3 D³, in float64), codes, least
squares, training steps of the decoder (counted by PyTorch) and of VAEs (six for each weight and code). Each fit that
ended is kept: the benchmark can be stopped, and continues. At the end, how fast this code's model encodes, decodes and
samples, which takes as much arithmetic as decoding.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _environment import ROOT
from before_after import run_by, source_of
from scattering import required_work
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from scattergen import GenerativeScatteringNetwork, load
from scattergen.datasets import mnist
from scattergen.decoder.fit import DecoderTraining
from scattergen.densities.networks import STOPPING_SHARE
from scattergen.display.machine import machine
from scattergen.errors import RunFolderError
from scattergen.evaluation import DigitFeatures, frechet_distance, psnr
from scattergen.files import write_json
from scattergen.scattering import Scattering2D

_LOOK = 0.1  # seconds between two looks
_TICK = os.sysconf("SC_CLK_TCK")

PARTS = """
import sys
import numpy as np
import scattergen
from scattergen.datasets import mnist
model, test = scattergen.load(sys.argv[1]), mnist().test[:]
parts = {"reconstructions": model.decode(model.encode(test))}
parts |= {key: model.sample(len(test), key, seed=0) for key in model.densities}
np.savez(sys.argv[2], **{name: (255 * x).round().byte().numpy() for name, x in parts.items()})
"""


def used(pid: int) -> tuple[float, float]:
    """Processor seconds that a process and its dead children have had, and MiB that it has now."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / _TICK, int(fields[21]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def watched_fit(source: Path, run: Path, options: list[str]) -> dict[str, Any]:
    """Fit, and tell of each stage its seconds, processor seconds and the most memory."""
    start = time.monotonic()
    command = [sys.executable, "-m", "scattergen", "fit", "mnist", "--out", str(run), *options]
    process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(source)}, cwd=ROOT)
    stages: dict[str, list[float]] = {}
    before, most, preview = [0.0, 0.0], 0.0, None
    while process.poll() is None:
        time.sleep(_LOOK)
        try:
            processor, memory = used(process.pid)
            now, most = [time.monotonic() - start, processor], max(most, memory)
            if preview is None and (run / "pictures" / "preview.png").exists():
                preview = now[0]
            names = json.loads((run / "run.json").read_text())["stages"]
        except (OSError, ValueError, KeyError):  # not there yet, or not any more
            continue
        if new := [name for name in names if name not in stages]:
            stages |= {name: [b - a for a, b in zip(before, now, strict=True)] + [most] for name in new[-1:]}
            stages |= {name: [0.0, 0.0, most] for name in new[:-1]}
            before, most = now, 0.0
    if process.returncode:
        raise SystemExit(f"{command} failed")
    return {"stages": stages, "preview": preview, "seconds": time.monotonic() - start}


def speed(order: int = 4096) -> float:
    """Multiplications and additions per second in a product of float32 matrices, the best of three."""
    a, b, best = torch.rand(order, order), torch.rand(order, order), float("inf")
    for _ in range(3):
        start = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - start)
    return 2 * order**3 / best


def count_decoding(model: GenerativeScatteringNetwork, n: int, train: bool) -> float:
    """Multiplications and additions that decoding n codes takes, or also their gradients, as PyTorch counts them."""
    decoder = model.decoder.eval()  # whose products are all counted; in training a kernel has some
    with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(train):
        images = decoder(torch.randn(n, model.encoder.whitening.n_components))
        if train:
            images.sum().backward()
    return counter.get_total_flops()


def print_use(run: Path, per_second: float) -> None:
    """Print how fast the model encodes the test images, decodes their codes and samples as many, and what it needs."""
    model, images = load(run), mnist().test
    n, (channels, height, width) = len(images), model.encoder.image_shape
    scattering = channels * required_work(Scattering2D(model.encoder.scattering.J, (height, width)))[0]
    counts = {
        "encode": scattering + 2.0 * model.encoder.n_features * model.encoder.whitening.n_components,
        "decode": count_decoding(model, 64, train=False) / 64,
    }
    model.decode(model.encode(images[:64]))
    codes: list[Tensor] = []
    works: dict[str, Callable[[], object]] = {
        "encode": lambda: codes.append(model.encode(images)), "decode": lambda: model.decode(codes[0]),
        **{f"sample {key}": lambda key=key: model.sample(n, key, seed=0) for key in model.densities},
    }  # fmt: skip
    print(f"\n{f'{n:,} images':26}{'seconds':>9}{'images/s':>11}{'arithmetic':>12}")
    for name, work in works.items():
        start = time.perf_counter()
        work()
        seconds, count = time.perf_counter() - start, counts["encode" if name == "encode" else "decode"]
        print(f"{name:26}{seconds:9.1f}{n / seconds:11.0f}{n * count / per_second:12.1f}")


def arithmetic(run: Path) -> dict[str, float]:
    """Multiplications and additions of stages, those of float64 counted twice."""
    model, facts = load(run), json.loads((run / "run.json").read_text())["stages"]
    n, (channels, height, width) = facts["encoder"]["facts"]["n"], model.encoder.image_shape
    D, d = model.encoder.n_features, model.encoder.whitening.n_components
    scattering = n * channels * required_work(Scattering2D(model.encoder.scattering.J, (height, width)))[0]
    found = {
        "encoder": scattering + n * D**2 + 2 * 10 / 3 * D**3,
        "codes": 2.0 * n * D * d,  # coefficients are kept in memory
        "linear": n * d * (d + 2.0 * channels * height * width),
    }
    training = json.loads((run / "run.json").read_text())["options"]["training"]
    epochs, size = len(facts["decoder"]["facts"]["history"]), training["batch_size"]
    step = count_decoding(model, size, train=True)
    found["decoder"] = epochs * ((n - DecoderTraining().held_out(n)) // size) * step
    for name, stage in facts.items():
        if name.startswith("densities/vae"):
            state = model.densities[name.partition("/")[2]].state_dict()
            weights = sum(t.numel() for key, t in state.items() if key.startswith(("encoder/", "decoder/")))
            found[name] = 6.0 * weights * (1 - STOPPING_SHARE) * n * stage["facts"]["epochs"]
    return found


def worth(source: Path, run: Path) -> str:
    """PSNR of the test images, and the Fréchet distances of samples."""
    parts = run.with_name(f"{run.name}.npz")
    if not parts.exists():
        run_by(source, "-c", PARTS, run, parts)
    test, features = mnist().test[:], DigitFeatures()
    real, told = features(test), []
    with np.load(parts) as made:
        for name in made.files:
            images = torch.from_numpy(made[name]).float() / 255
            if name == "reconstructions":
                told.append(f"{psnr(test, images).mean():.2f} dB")
            told.append(f"{name} {frechet_distance(real, features(images)):.2f}")
    return ", ".join(told)


def main() -> None:
    """Fit by both, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", metavar="COMMIT", help="to compare with")
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "end-to-end")
    parser.add_argument("options", nargs="*", help="of both fits, after --")
    arguments = parser.parse_args()
    folder, per_second = arguments.folder.absolute(), speed()
    sources = {"now": ROOT / "src"}
    if arguments.before is not None:
        sources = {"before": source_of(arguments.before, folder), **sources}
    for name, source in sources.items():
        kept = folder / f"{name}.json"
        if not kept.exists():
            kept.parent.mkdir(parents=True, exist_ok=True)
            write_json(kept, watched_fit(source, folder / f"run-{name}", arguments.options))
        found = json.loads(kept.read_text())
        try:
            counts = arithmetic(folder / f"run-{name}")
        except RunFolderError:  # of a format that this code does not read
            counts = {}
        needed = {stage: count / per_second for stage, count in counts.items()}
        print(f"\n{name:26}{'seconds':>9}{'processor':>11}{'MiB':>7}{'arithmetic':>12}")
        for stage, (seconds, processor, memory) in found["stages"].items():
            least = f"{needed[stage]:12.1f}" if stage in needed else ""
            print(f"{stage:26}{seconds:9.1f}{processor:11.1f}{memory:7.0f}{least}")
        preview = "none" if found["preview"] is None else f"after {found['preview']:.0f} s"
        print(f"{'all':26}{found['seconds']:9.1f}   first new images: {preview}")
        if not arguments.options:  # such as fewer images
            print(f"worth: {worth(source, folder / f'run-{name}')}")
    with suppress(RunFolderError):  # as above
        print_use(folder / "run-now", per_second)
    print(f"\nproduct of matrices: {per_second / 1e9:.0f} GFLOP/s; before: {arguments.before}; {machine()}")


if __name__ == "__main__":
    main()
