"""Training speed of the MNIST decoder against the same network of PyTorch's own layers, in one run.

    python benchmarks/decoder.py [--batch-size 32] [--seconds 8]

Prints images per second of complete training steps (forward, backward, Adam) and the largest
difference of the two networks' outputs for the same weights.
"""

import argparse
import time

import torch
from torch import Tensor, nn

from scattergen import Decoder
from scattergen.display.machine import machine
from scattergen.training.loop import bfloat16_is_fast


def reference(decoder: Decoder) -> nn.Sequential:
    """The same generator with the same weights, by upsampling, padding and convolution."""
    layers: list[nn.Module] = [nn.Linear(*decoder.linear.shape, bias=False), nn.Unflatten(1, (*decoder.start_grid, -1))]
    with torch.no_grad():
        layers[0].weight.copy_(decoder.linear.T)
    body: list[nn.Module] = []
    for i, (norm, convolution) in enumerate(zip(decoder.norms, decoder.convolutions, strict=False)):
        out, channels, k, _ = convolution.weight.shape
        layer = nn.Conv2d(channels, out, k, padding=k // 2, padding_mode="reflect", bias=False)
        layer.weight.data.copy_(convolution.weight)
        body += [nn.BatchNorm2d(norm.num_features, eps=norm.eps, momentum=norm.momentum), nn.ReLU()]
        if i < len(decoder.convolutions) - 1:
            body.append(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False))
        body.append(layer)
    body += [nn.BatchNorm2d(decoder.norms[-1].num_features, eps=decoder.norms[-1].eps), nn.Tanh()]
    return nn.Sequential(*layers, _ChannelsFirst(), *body).to(memory_format=torch.channels_last)


class _ChannelsFirst(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 3, 1, 2)


def images_per_second(network: nn.Module, batch: int, bfloat16: bool, seconds: float) -> float:
    z, x = torch.randn(batch, 512), torch.rand(batch, 1, 28, 28)
    adam = torch.optim.Adam(network.parameters(), 1e-3, fused=True)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            images = network(z)
        loss = (images.float() - x).abs().mean()
        adam.zero_grad()
        loss.backward()
        adam.step()

    for _ in range(5):
        step()
    start, steps = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        step()
        steps += 1
    return steps * batch / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=8.0, help="per measurement")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    decoder = Decoder(512, (1, 28, 28), channels=(128, 64, 32))
    plain = reference(decoder)
    z = torch.randn(16, 512)
    with torch.no_grad():
        difference = (decoder.eval()(z) - plain.eval()(z)).abs().max().item()
    decoder.train()
    plain.train()
    print(", ".join(f"{name} {value}" for name, value in machine().items()))
    print(f"largest difference of outputs for equal weights: {difference:.1e}")
    print(f"{'precision':>10} {'PyTorch layers':>16} {'this decoder':>14} {'ratio':>6}  (images/s)")
    for bfloat16 in (False, True) if bfloat16_is_fast("cpu") else (False,):
        rates = [images_per_second(n, arguments.batch_size, bfloat16, arguments.seconds) for n in (plain, decoder)]
        name = "bfloat16" if bfloat16 else "float32"
        print(f"{name:>10} {rates[0]:16.0f} {rates[1]:14.0f} {rates[1] / rates[0]:6.2f}")


if __name__ == "__main__":
    main()
