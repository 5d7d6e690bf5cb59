"""pythae's RAE-L2 with its mixture sampler, trained within a time budget; peers.py runs it.

    python benchmarks/_pythae_rae.py IMAGES.npz RESULT.npz --work DIR --seconds 900 --seed 0

The model, the convolutional networks for MNIST, the loss, the two Adam optimizers with their rates
and the sampler are pythae's with its defaults; latent dimension 16.  Only its trainer is not used:
it calls backward twice per step on the same loss, which halves the speed without changing what
Adam does, and cannot continue an interrupted training.
"""

import argparse
import itertools
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pythae.data.datasets import DatasetOutput
from pythae.models import RAE_L2, RAE_L2_Config
from pythae.models.nn.benchmarks.mnist import Decoder_Conv_AE_MNIST, Encoder_Conv_AE_MNIST
from pythae.samplers import GaussianMixtureSampler
from pythae.trainers import CoupledOptimizerTrainerConfig
from torch import Tensor

N = 10_000  # samples, and images that the mixture is fitted to
CHECKPOINT_SECONDS = 30.0


def sample(model: RAE_L2, images: Tensor, seed: int) -> tuple[np.ndarray, float]:
    """Fit the mixture and draw: images (N, 28, 28) uint8, and the seconds that it took."""
    start = time.monotonic()
    np.random.seed(seed)  # scikit-learn's mixture draws from the global generator
    model.eval()
    sampler = GaussianMixtureSampler(model)
    sampler.fit(images[:N])
    with torch.no_grad():
        x = torch.cat([sampler.sample(500) for _ in range(N // 500)])
    model.train()
    samples = (255 * x[:, 0]).round().to(torch.uint8).numpy()
    return samples, time.monotonic() - start


def seconds_to_sample(model: RAE_L2, images: Tensor) -> float:
    """Estimate of what `sample` takes: two batches, and a fifth for the mixture."""
    model.eval()
    batch = DatasetOutput(data=images[:100])
    with torch.no_grad():
        model(batch)
        start = time.monotonic()
        for _ in range(2):
            model.decoder(model(batch).z)
    model.train()
    return 1.2 * (time.monotonic() - start) / 200 * N


def write(path: Path, content: Any) -> None:
    temporary = path.with_name(".writing-" + path.name)
    torch.save(content, temporary)
    os.replace(temporary, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", type=Path)
    parser.add_argument("result", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=900)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--snapshots", type=float, nargs="*", default=[])
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    with np.load(arguments.images) as arrays:
        images = torch.from_numpy(arrays["x_train"])[:, None].float() / 255

    torch.manual_seed(arguments.seed)
    config = RAE_L2_Config(input_dim=(1, 28, 28), latent_dim=16)
    model = RAE_L2(config, Encoder_Conv_AE_MNIST(config), Decoder_Conv_AE_MNIST(config))
    training = CoupledOptimizerTrainerConfig()
    parts = {
        "model": model,
        "encoder": torch.optim.Adam(model.encoder.parameters(), training.encoder_learning_rate),
        "decoder": torch.optim.Adam(
            model.decoder.parameters(), training.decoder_learning_rate, weight_decay=config.reg_weight
        ),
    }
    batch_size = training.per_device_train_batch_size
    step, spent = 0, 0.0
    snapshots: list[tuple[float, np.ndarray]] = []
    checkpoint = arguments.work / "checkpoint.pt"
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(saved[name])
        step, spent, reserve = saved["step"], saved["spent"], saved["reserve"]
        snapshots = [(s, x.numpy()) for s, x in saved["snapshots"]]
    else:
        reserve = seconds_to_sample(model, images)

    budget = max(arguments.seconds - reserve, 0.0)
    per_epoch = len(images) // batch_size
    start, last_saved, last_shown = time.monotonic() - spent, time.monotonic(), 0.0
    model.train()
    parent = os.getppid()
    for number in itertools.count(step):
        epoch, position = divmod(number, per_epoch)
        if number == step or position == 0:
            generator = torch.Generator().manual_seed(1000 * arguments.seed + epoch)
            order = torch.randperm(len(images), generator=generator)
        rows = order[position * batch_size : (position + 1) * batch_size]
        output = model(DatasetOutput(data=images[rows]))
        for name in ("encoder", "decoder"):
            parts[name].zero_grad()
        output.loss.backward()
        for name in ("encoder", "decoder"):
            parts[name].step()
        now = time.monotonic()
        spent = now - start
        if os.getppid() != parent:
            sys.exit("peers.py was stopped: run it again to continue.")
        if spent > last_shown + 15:
            print(f"  rae: step {number + 1:,}, {spent:.0f} of {budget:.0f} s", flush=True)
            last_shown = spent
        due = [s for s in arguments.snapshots if s < arguments.seconds]
        # A snapshot is what a run that stopped here would have given.
        if len(snapshots) < len(due) and spent + reserve >= due[len(snapshots)]:
            x, seconds = sample(model, images, arguments.seed)
            snapshots.append((spent + seconds, x))
            start += time.monotonic() - now
        if spent >= budget:
            break
        if time.monotonic() > last_saved + CHECKPOINT_SECONDS:
            state = {name: part.state_dict() for name, part in parts.items()}
            state |= {"step": number + 1, "spent": spent, "reserve": reserve}
            state["snapshots"] = [(s, torch.from_numpy(x)) for s, x in snapshots]
            write(checkpoint, state)
            last_saved = time.monotonic()
    x, seconds = sample(model, images, arguments.seed)
    passes = (number + 1) * batch_size / len(images)
    np.savez_compressed(
        arguments.result,
        images=x,
        seconds=spent + seconds,
        threads=torch.get_num_threads(),
        description=f"pythae RAE-L2, H = {config.latent_dim}, 10-component mixture; "
        f"{sum(p.numel() for p in model.parameters()):,} parameters, {passes:.2f} epochs",
        snapshot_seconds=np.array([s for s, _ in snapshots]),
        snapshots=np.array([x for _, x in snapshots]).reshape(-1, N, 28, 28),
    )


if __name__ == "__main__":
    main()
