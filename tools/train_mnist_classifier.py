"""Train the classifier whose penultimate layer gives the features of digits, and write its weights.

    python tools/train_mnist_classifier.py weights.safetensors

Trained on the first 55,000 training images of MNIST, shifted by up to two pixels; the epoch is
chosen by the loss on the last 5,000. The test images are looked at once, at the end. To ship other
weights, raise VERSION in scattergen/evaluation/digit_classifier.py, write the SHA-256 that is
printed here beside it, and put the file in the place of the old one.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from scattergen.datasets import mnist
from scattergen.evaluation.digit_classifier import DigitClassifier
from scattergen.files import sha256
from scattergen.files.tensors import write_tensors
from scattergen.training.loop import History, train
from scattergen.training.settings import TrainingSettings

N_VALIDATION = 5000
LARGEST_SHIFT = 2


def shifted(x: Tensor, generator: torch.Generator) -> Tensor:
    """Every image (N, 1, H, W) moved by its own number of pixels, filled up with 0."""
    count, _, height, width = x.shape
    padded = functional.pad(x[:, 0], [LARGEST_SHIFT] * 4)
    offsets = torch.randint(0, 2 * LARGEST_SHIFT + 1, (2, count, 1), generator=generator)
    rows, columns = offsets[0] + torch.arange(height), offsets[1] + torch.arange(width)
    image = torch.arange(count)[:, None, None]
    return padded[image, rows[:, :, None], columns[:, None, :]][:, None]


def loss(modules: Mapping[str, nn.Module], batch: tuple[Tensor, ...], generator: torch.Generator) -> Tensor:
    """Cross-entropy of a batch of shifted images."""
    x, y = batch
    return functional.cross_entropy(modules["classifier"](shifted(x, generator)), y)


@torch.no_grad()
def score(classifier: nn.Module, x: Tensor, y: Tensor) -> dict[str, float]:
    """Mean cross-entropy and accuracy."""
    logits = torch.cat([classifier(batch) for batch in x.split(500)])
    correct = logits.argmax(1) == y
    return {"loss": functional.cross_entropy(logits, y).item(), "accuracy": correct.double().mean().item()}


def show(history: History) -> None:
    """Print the metrics of the last epoch."""
    row = history[-1]
    print(
        f"epoch {row['epoch']}: {row['seconds']:.0f} s, loss {row['loss']:.4f}, held out "
        f"{row['validation/loss']:.4f}, {row['validation/accuracy']:.2%}",
        flush=True,
    )


def main() -> None:
    """Train, test and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="file to write, .safetensors")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, default=5e-3)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    settings = {name: getattr(arguments, name) for name in ("epochs", "batch_size", "learning_rate", "seed")}
    digits = mnist()
    x, y = digits.train[:], digits.train.labels
    held_out = x[-N_VALIDATION:], y[-N_VALIDATION:]
    torch.manual_seed(arguments.seed)
    classifier = DigitClassifier().to(memory_format=torch.channels_last)
    history = train(
        {"classifier": classifier},
        {"classifier": loss},
        TensorDataset(x[:-N_VALIDATION], y[:-N_VALIDATION]),
        # So patient that it never stops early, but keeps the best epoch.
        TrainingSettings(**settings, patience=arguments.epochs),
        validate=lambda: score(classifier, *held_out),
        on_epoch=show,
    )
    facts = {
        "trained_on": f"{digits.name}[train][:-{N_VALIDATION}]",
        "settings": settings,
        "history": history,
        "validation": score(classifier, *held_out),
        "test": score(classifier, digits.test[:], digits.test.labels),
    }
    write_tensors(arguments.out, classifier.state_dict(), facts)
    print(f"validation {facts['validation']}\ntest {facts['test']}")
    print(f"SHA-256 {sha256(arguments.out)}")


if __name__ == "__main__":
    main()
