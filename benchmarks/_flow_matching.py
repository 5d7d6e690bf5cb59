"""torchcfm's flow matching of pixels, trained within a time budget; own_peers.py runs it.

    python benchmarks/_flow_matching.py IMAGES.npy RESULT.npz --work DIR --seconds 1800 --seed 0

Matcher and U-Net are torchcfm's, with the widths of its CIFAR example halved or quartered, for two
processor cores: the budget is some thousands of steps. Adam, an average of the weights, bfloat16
where the processor has it, mirrored images, and samples by Heun's method.
"""

import argparse
import copy
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchcfm.conditional_flow_matching import ConditionalFlowMatcher
from torchcfm.models.unet.unet import UNetModelWrapper

DECAY = 0.999
CHECKPOINT_SECONDS = 60.0


class Velocity:
    """The network, called in bfloat16 where that is fast."""

    def __init__(self, network: UNetModelWrapper) -> None:
        self.network = network
        self.half = torch.cpu.get_capabilities().get("amx_bf16", False)

    def __call__(self, t: Tensor, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.half):
            velocity: Tensor = self.network(t, x)
        return velocity.float()


def sample(velocity: Velocity, shape: tuple[int, ...], n: int, steps: int, seed: int) -> Tensor:
    """Images in [0, 1] by Heun's method in `steps` steps of equal length."""
    generator, made = torch.Generator().manual_seed(seed), []
    with torch.no_grad():
        for start in range(0, n, 50):
            x = torch.randn(min(50, n - start), *shape, generator=generator)
            for i in range(steps):
                t, dt = torch.full((len(x),), i / steps), 1 / steps
                first = velocity(t, x)
                second = velocity(t + dt, x + dt * first)
                x = x + dt * (first + second) / 2
            made.append(((x + 1) / 2).clamp(0, 1))
    return torch.cat(made)


def write(path: Path, content: Any) -> None:
    temporary = path.with_name(".writing-" + path.name)
    torch.save(content, temporary)
    os.replace(temporary, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", type=Path, help="uint8, (N, C, H, W)")
    parser.add_argument("result", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=1800)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-n", type=int, default=1000)
    parser.add_argument("--channels", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--steps", type=int, default=20, help="of Heun's method")
    arguments = parser.parse_args()
    images = torch.from_numpy(np.load(arguments.images))
    shape = tuple(images.shape[1:])

    torch.manual_seed(arguments.seed)
    network = UNetModelWrapper(
        dim=shape, num_channels=arguments.channels, num_res_blocks=1, channel_mult=[1, 2, 2, 4],
        num_heads=4, num_head_channels=32, attention_resolutions="16",
    )  # fmt: skip
    average, matcher = copy.deepcopy(network), ConditionalFlowMatcher(sigma=0.0)
    optimizer = torch.optim.Adam(network.parameters(), arguments.learning_rate)
    velocity, parts = Velocity(network), {"network": network, "average": average}
    step, spent, checkpoint = 0, 0.0, arguments.work / "checkpoint.pt"
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(saved[name])
        optimizer.load_state_dict(saved["optimizer"])
        step, spent = saved["step"], saved["spent"]
    begin = time.monotonic()
    sample(velocity, shape, 50, 1, 0)
    begin = time.monotonic()
    sample(velocity, shape, 50, 1, 0)
    reserve = 1.1 * (time.monotonic() - begin) * arguments.steps * arguments.n / 50

    start = last_saved = time.monotonic()
    start, last_shown, parent, total = start - spent, 0.0, os.getppid(), 0.0
    while spent < arguments.seconds - reserve:
        generator = torch.Generator().manual_seed(10**6 * arguments.seed + step)
        rows = torch.randint(len(images), (arguments.batch_size,), generator=generator)
        x = images[rows].float() / 127.5 - 1
        mirrored = torch.rand(len(x), generator=generator) < 0.5
        x = torch.where(mirrored[:, None, None, None], x.flip(3), x)
        noise = torch.randn(x.shape, generator=generator)
        t, middle, wanted = matcher.sample_location_and_conditional_flow(noise, x)
        loss = (velocity(t, middle) - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        # Up in 200 steps.
        for group in optimizer.param_groups:
            group["lr"] = arguments.learning_rate * min(1, (step + 1) / 200)
        optimizer.step()
        with torch.no_grad():  # an average of fewer steps at first
            weight = max(1 - DECAY, 1 / (1 + step / 10))
            for mean, value in zip(average.parameters(), network.parameters(), strict=True):
                mean.lerp_(value, weight)
        step, total = step + 1, 0.99 * total + 0.01 * loss.item()
        spent = time.monotonic() - start
        if os.getppid() != parent:
            sys.exit("own_peers.py was stopped: run it again to continue.")
        if spent > last_shown + 15:
            end = arguments.seconds - reserve
            print(f"  flow matching: step {step:,}, {spent:.0f} of {end:.0f} s, {total:.3f}", flush=True)
            last_shown = spent
        if time.monotonic() > last_saved + CHECKPOINT_SECONDS:
            state = {name: part.state_dict() for name, part in parts.items()}
            write(checkpoint, state | {"optimizer": optimizer.state_dict(), "step": step, "spent": spent})
            last_saved = time.monotonic()
    begin = time.monotonic()
    x = sample(Velocity(average.eval()), shape, arguments.n, arguments.steps, arguments.seed)
    parameters = sum(p.numel() for p in network.parameters())
    np.savez_compressed(
        arguments.result,
        images=(255 * x).round().to(torch.uint8).numpy(),
        seconds=spent + time.monotonic() - begin,
        description=f"torchcfm flow matching, U-Net of {parameters:,} parameters, "
        f"{step:,} steps of {arguments.batch_size}, {arguments.steps} steps of Heun's method",
    )


if __name__ == "__main__":
    main()
