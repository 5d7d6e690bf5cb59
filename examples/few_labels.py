"""Digits from few labels: wavelet scattering and a linear classifier against a small CNN.

    python examples/few_labels.py [--labels 300 1000 5000 60000] [--out few_labels.png]

Bruna & Mallat's point, on MNIST: scattering is not learnt, so that few labels go a long way.
docs/notes/few_labels.md explains what is compared and holds the figures.
"""

import argparse
import math
import time
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from scattergen import PCAWhitening, Scattering2D
from scattergen.datasets import mnist
from scattergen.display.machine import machine
from scattergen.display.progress import Progress
from scattergen.training.loop import train
from scattergen.training.settings import TrainingSettings

N_CLASSES = 10
# Coefficients of strokes lie between 0.001 and 1; the logarithm evens out thick and thin ones.
OFFSET = 1e-3
DIMENSIONS = (2, 5, 10, 15, 20, 30, 40, 60, 80, 100, 120, 140, 160, 200)
PENALTIES = tuple(10.0 ** (k / 2) for k in range(-12, 3))


class Result(NamedTuple):
    """What one classifier did: test error as a part of 1, seconds of its fit, and its choice."""

    error: float
    seconds: float
    choice: str


def scattering_features(images: Tensor, J: int, progress: Progress) -> Tensor:
    """Logarithms of order-2 scattering coefficients, (N, D)."""
    scattering = Scattering2D(J, (images.shape[-2], images.shape[-1]))
    features = torch.empty(len(images), images.shape[1] * math.prod(scattering.output_shape))
    with torch.no_grad(), progress.task("scattering", len(images)) as task:
        for i in range(0, len(images), 500):
            s = scattering(images[i : i + 500]).flatten(1)
            features[i : i + len(s)] = s.clamp_min(0).add(OFFSET).log()
            task.advance(len(s))
    return features


def balanced_subset(labels: Tensor, n: int, seed: int) -> Tensor:
    """Indices of n random images, equally many of each class where possible; classes alternate."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    rank = torch.empty(len(labels), dtype=torch.int64)
    for c in range(N_CLASSES):
        of_class = order[labels[order] == c]
        rank[of_class] = torch.arange(len(of_class))
    return torch.argsort(rank * N_CLASSES + labels)[:n]


def affine_distances(x: Tensor, y: Tensor, points: Tensor) -> Tensor:
    """Squared distances of points to the classes' affine spaces, (N, dimensions, classes).

    A class's space goes through its mean along its leading principal components.
    """
    distances = []
    for c in range(N_CLASSES):
        members = x[y == c]
        d = min(DIMENSIONS[-1], len(members) - 1)
        space = PCAWhitening(d).fit(lambda members=members: members.split(1000))
        offsets = points - space.mean_
        along = (offsets @ space.components_.T).square().cumsum(1)
        # A class of few images has fewer dimensions than the others.
        columns = [min(k, d) - 1 for k in DIMENSIONS]
        distances.append(offsets.square().sum(1, keepdim=True) - along[:, columns])
    return torch.stack(distances, 2)


def affine_classifier(x: Tensor, y: Tensor, x_test: Tensor, y_test: Tensor) -> Result:
    """The nearest class space; its dimension is chosen on held-out labels, by five folds if few."""
    start = time.perf_counter()
    fold = torch.arange(len(y)) // N_CLASSES % 5
    hits = torch.zeros(len(DIMENSIONS))
    for k in range(5 if len(y) <= 5000 else 1):
        held = fold == k
        nearest = affine_distances(x[~held], y[~held], x[held]).argmin(2)
        hits += (nearest == y[held, None]).sum(0)
    best = int(hits.argmax())
    predicted = affine_distances(x, y, x_test)[:, best].argmin(1)
    seconds = time.perf_counter() - start
    return Result(_error(predicted, y_test), seconds, f"d = {DIMENSIONS[best]}")


def ridge_classifier(x: Tensor, y: Tensor, x_test: Tensor, y_test: Tensor) -> Result:
    r"""Least squares to ±1 with the penalty of least leave-one-out error, all in closed form.

    With $X = U \Sigma V^\top$ centred, the hat matrix is $H = 11^\top / n + U \Sigma^2 (\Sigma^2 +
    \alpha)^{-1} U^\top$, and the residual of a sample that was left out is that of the fit to all
    divided by 1 - H_ii.
    """
    start = time.perf_counter()
    n, mean = len(x), x.mean(0)
    targets = 2 * F.one_hot(y, N_CLASSES).float() - 1
    centred, offset = x - mean, targets.mean(0)
    # Eigenvectors on the smaller side; float64 because the penalties reach 1e-6 of the variance.
    if n <= x.shape[1]:
        values, left = torch.linalg.eigh((centred @ centred.T).double())
        keep = values > 1e-6 * values[-1]
        values, left = values[keep], left[:, keep].float()
    else:
        values, right = torch.linalg.eigh((centred.T @ centred).double())
        keep = values > 1e-6 * values[-1]
        values, right = values[keep], right[:, keep].float()
        left = centred @ (right / values.sqrt().float())
    projected = left.T @ (targets - offset)
    best = (math.inf, 0.0, torch.empty(0))
    for penalty in PENALTIES:
        shrink = (values / (values + penalty * values.mean())).float()
        residual = targets - offset - left @ (shrink[:, None] * projected)
        leverage = 1 / n + left.square() @ shrink
        loss = (residual / (1 - leverage)[:, None].clamp_min(1e-6)).square().mean().item()
        if loss < best[0]:
            best = (loss, penalty, shrink)
    _, penalty, shrink = best
    dual = left @ ((shrink / values.float())[:, None] * projected)
    predicted = ((x_test - mean) @ (centred.T @ dual) + offset).argmax(1)
    seconds = time.perf_counter() - start
    return Result(_error(predicted, y_test), seconds, f"penalty {penalty:.0e}")


def small_cnn() -> nn.Sequential:
    """Two convolutions and two linear layers, with batch normalisation and dropout."""

    def block(inputs: int, outputs: int) -> list[nn.Module]:
        convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        return [convolution, nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2)]

    head = [nn.Flatten(), nn.Linear(64 * 7 * 7, 128), nn.ReLU(), nn.Dropout(), nn.Linear(128, 10)]
    return nn.Sequential(*block(1, 32), *block(32, 64), *head)


def cnn_epochs(n: int) -> int:
    """Passes over n labelled images: 10 + 40,000 / n, but 6 to 100 and few for many images."""
    return max(6, min(100, 10 + math.ceil(40_000 / n), math.ceil(100_000 / n)))


def cnn_classifier(x: Tensor, y: Tensor, x_test: Tensor, y_test: Tensor, seed: int, progress: Progress) -> Result:
    """The CNN trained on all labels by Adam, one-cycle schedule, no augmentation."""
    start = time.perf_counter()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # initial weights and dropout
        network = small_cnn()

        def cross_entropy(modules, batch, generator):  # type: ignore[no-untyped-def]
            return F.cross_entropy(modules["cnn"](batch[0]), batch[1])

        epochs, batch_size = cnn_epochs(len(y)), 32 if len(y) < 5000 else 64
        settings = TrainingSettings(
            epochs=epochs, batch_size=batch_size, learning_rate=3e-3, seed=seed,
            description=f"CNN on {len(y):,} labels",
        )  # fmt: skip
        data = TensorDataset(x, y)
        train({"cnn": network}, {"cnn": cross_entropy}, data, settings, progress=progress)
    with torch.no_grad():
        predicted = torch.cat([network(part).argmax(1) for part in x_test.split(1000)])
    return Result(_error(predicted, y_test), time.perf_counter() - start, f"{epochs} epochs")


def _error(predicted: Tensor, labels: Tensor) -> float:
    return (predicted != labels).float().mean().item()


def compare(
    sizes: list[int], J: int, n_test: int, seeds: int, progress: Progress
) -> dict[str, dict[int, list[Result]]]:
    """Results by classifier and number of labels, one per random subset."""
    data = mnist()
    labels = data.train.labels
    subsets = {(n, seed): balanced_subset(labels, n, seed) for n in sizes for seed in range(seeds if n <= 5000 else 1)}
    used = torch.cat(list(subsets.values())).unique()  # sorted; only these are scattered
    images = data.train[used]
    test, test_labels = data.test[:n_test], data.test.labels[:n_test]
    start = time.perf_counter()
    features = scattering_features(images, J, progress)
    test_features = scattering_features(test, J, progress)
    seconds = time.perf_counter() - start
    print(
        f"scattering (J={J}, order 2, {features.shape[1]:,} coefficients) of "
        f"{len(images) + len(test):,} images: {seconds:.0f} s"
    )
    names = ("scattering, affine", "scattering, ridge", "CNN")
    results: dict[str, dict[int, list[Result]]] = {name: {n: [] for n in sizes} for name in names}
    for (n, seed), chosen in subsets.items():
        place = torch.searchsorted(used, chosen)
        x, y = features[place], labels[chosen]
        on_features = (x, y, test_features, test_labels)
        found = (
            affine_classifier(*on_features),
            ridge_classifier(*on_features),
            cnn_classifier(images[place], y, test, test_labels, seed, progress),
        )
        for name, result in zip(names, found, strict=True):
            results[name][n].append(result)
    return results


def summary(results: list[Result]) -> tuple[float, float, float]:
    """Mean and standard deviation of the errors in percent, and mean seconds."""
    errors = 100 * torch.tensor([result.error for result in results])
    seconds = sum(result.seconds for result in results) / len(results)
    spread = errors.std().item() if len(errors) > 1 else math.nan
    return errors.mean().item(), spread, seconds


def print_table(results: dict[str, dict[int, list[Result]]]) -> None:
    for name, by_size in results.items():
        print(f"\n{name}\n{'labels':>8} {'subsets':>8} {'test error':>16} {'seconds':>8}  chosen")
        for n, rows in by_size.items():
            mean, spread, seconds = summary(rows)
            error = f"{mean:.2f} %" if math.isnan(spread) else f"{mean:.2f} ± {spread:.2f} %"
            choices = ", ".join(dict.fromkeys(row.choice for row in rows))
            print(f"{n:8,} {len(rows):8} {error:>16} {seconds:8.1f}  {choices}")


def plot(results: dict[str, dict[int, list[Result]]], path: Path) -> None:
    """Test error against the number of labels, both logarithmic."""
    figure = Figure(figsize=(6, 4.2), layout="constrained")
    axes = figure.subplots()
    for (name, by_size), style in zip(results.items(), ("o-", "s--", "^:"), strict=True):
        values = [summary(rows) for rows in by_size.values()]
        spreads = [0 if math.isnan(spread) else spread for _, spread, _ in values]
        means = [mean for mean, _, _ in values]
        axes.errorbar(list(by_size), means, yerr=spreads, fmt=style, capsize=3, label=name)
    axes.set(xscale="log", yscale="log", xlabel="labelled training images", ylabel="test error (%)")
    sizes = list(next(iter(results.values())))
    axes.set_xticks(sizes, [f"{n:,}" for n in sizes])
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")
    axes.minorticks_on()
    axes.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)
    axes.grid(which="both", alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=150)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--labels", type=int, nargs="+", default=[300, 1000, 5000, 60000])
    parser.add_argument("--J", type=int, default=3, help="scale of the scattering transform")
    parser.add_argument("--seeds", type=int, default=3, help="random subsets of up to 5,000 labels")
    parser.add_argument("--test-images", type=int, default=10000)
    parser.add_argument("--out", type=Path, default=Path("few_labels.png"))
    chosen = parser.parse_args(arguments)
    if not all(30 <= n <= 60_000 for n in chosen.labels):
        parser.error("--labels: give numbers from 30 (three per class) to 60000")
    print(", ".join(f"{name} {value}" for name, value in machine().items()))
    start = time.perf_counter()
    results = compare(sorted(chosen.labels), chosen.J, chosen.test_images, chosen.seeds, Progress())
    print_table(results)
    plot(results, chosen.out)
    print(f"\n{time.perf_counter() - start:.0f} s in all; plot in {chosen.out}")


if __name__ == "__main__":
    main()
