"""What the scattering loss costs a training step, against the error of pixels alone, in one run.

    python benchmarks/losses.py [--seconds 1] [--rounds 21]

For each kind of image and decoder the two losses take turns, each for a second, as the speed of a shared machine
changes within minutes; printed are milliseconds of complete steps (forward, loss, backward, Adam; batch 16, bfloat16
where the processor has it) and their ratio, medians over the rounds. The local decoders are those of `auto`; the
generators are Angles & Mallat's, which no preset trains with this loss.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from scattergen.datasets import ImageArray
from scattergen.decoder import Decoder, LocalDecoder, ScatteringLoss
from scattergen.display.machine import machine
from scattergen.display.progress import SILENT
from scattergen.runs import Stages
from scattergen.stages.fit import fit_encoder, fit_linear
from scattergen.stages.presets import preset
from scattergen.training.loop import bfloat16_is_fast

N, BATCH, WEIGHT = 200, 16, 0.25
SHAPES = {"grey 28×28": (1, 28, 28), "colour 32×32": (3, 32, 32), "colour 64×64": (3, 64, 64)}

CHANNELS = {28: (128, 64, 32), 32: (128, 64, 32, 16), 64: (192, 128, 64, 32, 16)}

Network = Decoder | LocalDecoder


def prepared(shape: tuple[int, int, int]) -> tuple[Tensor, Tensor, LocalDecoder]:
    """Images, their codes, and a local decoder, as `auto` makes them."""
    pixels = torch.randint(0, 256, (N, *shape), dtype=torch.uint8)
    images = ImageArray(pixels.numpy(), name="noise")
    auto, stages = preset("auto", shape, 7000), Stages(None, SILENT)
    encoder, codes, mirrored = fit_encoder(images, auto["encoder"] | {"n_components": 150, "held_out": 0}, stages)
    linear = fit_linear(encoder, codes, mirrored, images, stages)
    return images[:], codes, LocalDecoder(linear, auto["decoder"]["channels"])


def stepper(network: Network, z: Tensor, x: Tensor, scattering: bool) -> Callable[[], None]:
    """One training step of a network."""
    adam = torch.optim.Adam(network.parameters(), 1e-3, fused=True)
    loss = ScatteringLoss(network.image_shape).fit(2 * x - 1)
    generator, half = torch.Generator().manual_seed(0), bfloat16_is_fast("cpu")

    def step() -> None:
        rows = torch.randint(len(z), (BATCH,), generator=generator)
        wanted = 2 * x[rows] - 1
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            output = network(z[rows])
        output = output.float()
        error = (output - wanted).abs().mean()
        if scattering:
            error = error + WEIGHT * loss(output, wanted, generator)
        adam.zero_grad()
        error.backward()
        adam.step()

    return step


def milliseconds(step: Callable[[], None], seconds: float) -> float:
    """Mean time of a step."""
    for _ in range(3):
        step()
    start, steps = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        step()
        steps += 1
    return 1000 * (time.perf_counter() - start) / steps


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=1, help="per measurement")
    parser.add_argument("--rounds", type=int, default=21)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    print(", ".join(f"{name} {value}" for name, value in machine().items()))
    print(f"{'images':14}{'decoder':12}{'pixels':>9}{'scattering':>12}{'ratio':>7}  (ms per step)")
    for label, shape in SHAPES.items():
        x, z, local = prepared(shape)
        generator = Decoder(z.shape[1], shape, channels=CHANNELS[shape[1]])
        networks: dict[str, Network] = {"local": local, "generator": generator}
        for kind, network in networks.items():
            steps = [stepper(network.train(), z, x, scattering) for scattering in (False, True)]
            rounds = [[milliseconds(step, arguments.seconds) for step in steps] for _ in range(arguments.rounds)]
            pixels, both = (statistics.median(times) for times in zip(*rounds, strict=True))
            ratio = statistics.median(scattering / pixels for pixels, scattering in rounds)
            print(f"{label:14}{kind:12}{pixels:9.1f}{both:12.1f}{ratio:7.2f}")


if __name__ == "__main__":
    main()
