"""Does scattering matter?  The same generator on other codes of MNIST's images.

    python benchmarks/codes.py [--rows runs/codes.jsonl] [--codes scattering,pixels] [--seeds 1]
        [--epochs 2] [--seconds 600]

Each code is whitened principal components of some features, 512 of them unless the name says
otherwise. To each belongs a decoder, trained in the same way with the same seed, and the default
Gaussian and mixture are fitted to the codes of the training images (and a mixture whose EM sees 64
leading components instead of 32).  10,000 decoded samples of each, and 10,000 decoded codes of
training images, which is what a perfect density would score, are compared with the test images.

Every part (codes, decoder, density) is kept in a file of JSON lines as soon as it is measured: the
benchmark can be stopped, or told by --seconds to start nothing more, and continues. What parts
that are still missing need is kept in a folder beside that file. Tables are printed at the end, of
what is there.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from math import inf
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _random_filters import RandomScattering2D
from sklearn.linear_model import LogisticRegressionCV
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from scattergen.datasets import ImageSource, mnist
from scattergen.decoder import Decoder
from scattergen.decoder.fit import DecoderTraining
from scattergen.densities import Density, hyperparameters, make
from scattergen.diagnostics import correlation_of_squares, effect_sizes, pairwise_dependence, radial
from scattergen.display.machine import machine
from scattergen.display.progress import Progress
from scattergen.encoder import PCAWhitening
from scattergen.evaluation import DigitFeatures, frechet_distance
from scattergen.files.tensors import read_tensors, write_tensors
from scattergen.image_quality import psnr, ssim
from scattergen.scattering import Scattering2D

SHAPE = (28, 28)
SAMPLES = 10_000
DIAGNOSED, LEADING = 5_000, 64  # codes and components that the diagnostics see
LABELS = 5_000
EM_LEADING = 32  # components that the EM of the default mixture sees
BATCH = 512
DECODER: dict[str, Any] = {"channels": (128, 64, 32), "kernel_size": 3}  # of the preset "mnist"
# Label to a registered density and its options. The mixture's were chosen on scattering codes; the
# leading components of others hold less of the variance, so that EM may need to see more of them.
DENSITIES: dict[str, tuple[str, dict[str, Any]]] = {
    "gaussian": ("gaussian", {}),
    "mixture": ("mixture", {}),
    "mixture_64": ("mixture", {"leading": 64}),
}

# Name to what its features are; "components" only where they are not 512.
CODES: dict[str, dict[str, Any]] = {
    "scattering": {"J": 2, "max_order": 2},
    "pixels": {},
    "order_1": {"J": 2, "max_order": 1},
    "random_filters": {"J": 2, "max_order": 2, "filters": "band"},
    "J=1": {"J": 1, "max_order": 2},  # which has no paths of order 2
    "J=3": {"J": 3, "max_order": 2},
    "white_filters": {"J": 2, "max_order": 2, "filters": "white"},
    "pixels_256": {"components": 256},
}

Row = dict[str, Any]


def features_of(name: str, seed: int) -> Callable[[Tensor], Tensor]:
    """Images (N, 1, 28, 28) to features (N, D)."""
    options = CODES[name]
    if "J" not in options:
        return lambda images: images.flatten(1)
    J, max_order = options["J"], options["max_order"]
    if "filters" in options:
        transform: Scattering2D = RandomScattering2D(J, SHAPE, max_order, options["filters"], seed)
    else:
        transform = Scattering2D(J, SHAPE, max_order=max_order)
    return lambda images: transform(images).flatten(1)


class Bench:
    """The data, the budget, and where rows and what they are made of are kept."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        data = mnist()
        assert data.test is not None
        assert data.train.labels is not None
        assert data.test.labels is not None
        n = arguments.n
        self.train: ImageSource | Tensor = data.train if n == len(data.train) else data.train[:n]
        self.test = data.test[: min(SAMPLES, n)]
        self.labels = (data.train.labels[:n], data.test.labels[: len(self.test)])
        self.n_validation = min(5000, n // 10)
        self.components, self.epochs = arguments.components, arguments.epochs
        self.path, self.folder = arguments.rows, arguments.rows.with_suffix("")
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        self.rows: dict[str, Row] = {row["key"]: row for row in map(json.loads, lines)}
        self.progress = Progress()
        self.stop_at = time.monotonic() + arguments.seconds

    def d(self, name: str) -> int:
        """Number of components of a code."""
        return min(CODES[name].get("components", 512), self.components)

    def key(self, part: str, name: str, seed: int) -> str:
        """Everything that a row depends on, as text."""
        facts: Row = {
            "part": part, "name": name, "features": CODES[name], "d": self.d(name),
            "n": len(self.train), "seed": seed, "measure": DigitFeatures.version,
        }  # fmt: skip
        if part == "codes" and "filters" not in CODES[name]:
            facts["seed"] = None
        if part != "codes":
            facts |= {"epochs": self.epochs, "decoder": DECODER}
        if part in DENSITIES:
            facts["density"] = hyperparameters(make_density(part))
        return json.dumps(facts, sort_keys=True)

    def add(self, part: str, name: str, seed: int, row: Row) -> None:
        """Keep a row, on disk too."""
        facts = {"key": self.key(part, name, seed), "name": name, "seed": seed}
        row = facts | row | {"threads": torch.get_num_threads()}
        self.rows[row["key"]] = row
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")

    def found(self, part: str, name: str) -> Iterator[Row]:
        """Rows of a part, of all seeds."""
        keys = dict.fromkeys(self.key(part, name, seed) for seed in range(100))
        return (self.rows[key] for key in keys if key in self.rows)

    @property
    def in_time(self) -> bool:
        """Whether another part may start."""
        return time.monotonic() < self.stop_at

    def measure(self, name: str, seed: int) -> None:
        """Measure the parts that are missing, one after the other, while there is time."""
        parts = ("codes", "decoder", *DENSITIES)
        missing = [part for part in parts if self.key(part, name, seed) not in self.rows]
        if not missing or not self.in_time:
            return
        self.progress.message(f"{name}, seed {seed}: {', '.join(missing)}")
        kinds = ("codes", "decoder", "checkpoint")
        start = f"{name}-n{len(self.train)}-d{self.d(name)}-e{self.epochs}-seed{seed}"
        files = {kind: self.folder / f"{start}-{kind}.safetensors" for kind in kinds}
        if files["codes"].exists():
            codes = read_tensors(files["codes"])[0]
        else:
            codes, facts = self.encode(name, seed)
            if "codes" in missing:
                facts |= diagnose(codes["train"]) | classify(codes, self.labels)
                self.add("codes", name, seed, facts)
            write_tensors(files["codes"], codes)
        if not self.in_time:
            return
        torch.manual_seed(seed)  # the decoder's first weights
        decoder = Decoder(self.d(name), (1, *SHAPE), **DECODER)
        if files["decoder"].exists():
            decoder.load_state_dict(read_tensors(files["decoder"])[0])
        else:
            row = self.fit_decoder(decoder, codes, seed, files["checkpoint"])
            if "decoder" in missing:
                self.add("decoder", name, seed, row)
            write_tensors(files["decoder"], decoder.state_dict())
        for density in DENSITIES:
            if density in missing and self.in_time:
                self.add(density, name, seed, self.fit_density(density, decoder, codes, seed))
        if all(self.key(part, name, seed) in self.rows for part in parts):
            for file in files.values():
                file.unlink(missing_ok=True)

    def encode(self, name: str, seed: int) -> tuple[dict[str, Tensor], Row]:
        """Codes of training and test images, and facts about them."""
        features = features_of(name, seed)
        whitening = PCAWhitening(self.d(name))
        n = len(self.train)
        start = time.perf_counter()

        def batches() -> Iterator[Tensor]:
            return (features(self.train[i : i + BATCH]) for i in range(0, n, BATCH))

        whitening.fit(batches)
        fitted = time.perf_counter()
        parts = [whitening.transform(batch) for batch in batches()]
        encoded = time.perf_counter()
        test = torch.cat([whitening.transform(features(part)) for part in self.test.split(BATCH)])
        values, shares = whitening.explained_variance_, whitening.explained_variance_ratio_
        return {"train": torch.cat(parts), "test": test}, {
            "n_features": len(whitening.mean_), "d": self.d(name),
            "fit_seconds": fitted - start, "encode_seconds": encoded - fitted,
            "variance_kept": shares.sum().item(),
            "variance_leading": shares[:EM_LEADING].sum().item(),
            "smallest_to_largest": (values[-1] / values[0]).item(),
        }  # fmt: skip

    def fit_decoder(self, decoder: Decoder, codes: dict[str, Tensor], seed: int, checkpoint: Path) -> Row:
        """Train it in place; what test images and training codes look like through it."""
        training = DecoderTraining(epochs=self.epochs, n_validation=self.n_validation)
        history = training.fit(
            decoder, codes["train"], self.train, seed=seed, checkpoint=checkpoint, progress=self.progress
        )
        seen = torch.randperm(len(self.train) - self.n_validation, generator=torch.Generator().manual_seed(seed))[
            : len(self.test)
        ]
        images = decode(decoder, codes["test"])
        return {
            "seconds": history[-1]["seconds"],
            "curve": [row["validation/psnr"] for row in history],
            "psnr": psnr(self.test, images).mean().item(),
            "ssim": ssim(self.test, images).mean().item(),
            "frechet": self.distance(decode(decoder, codes["train"][seen])),
        }

    def fit_density(self, name: str, decoder: Decoder, codes: dict[str, Tensor], seed: int) -> Row:
        """Fit a density and score its samples."""
        start = time.perf_counter()
        density = make_density(name).fit(codes["train"], seed=seed, progress=self.progress)
        seconds = time.perf_counter() - start
        samples = decode(decoder, density.sample(len(self.test), seed=seed))
        return {"seconds": seconds, "frechet": self.distance(samples)}

    def distance(self, images: Tensor) -> float:
        """Fréchet distance of images to the test images."""
        extract = DigitFeatures()
        return frechet_distance(extract(self.test), extract(images))


def make_density(label: str) -> Density:
    name, options = DENSITIES[label]
    return make(name, **options)


def decode(decoder: Decoder, codes: Tensor) -> Tensor:
    return torch.cat([decoder.decode(part) for part in codes.split(BATCH)])


def diagnose(codes: Tensor) -> Row:
    """Effects of the diagnostics; p-values would be the smallest possible ones throughout."""
    order = torch.randperm(len(codes), generator=torch.Generator().manual_seed(0))
    some = codes[order[:DIAGNOSED]].double().numpy()
    leading = some[:, :LEADING]
    pairs = pairwise_dependence(leading, n_simulations=19)
    correlation = pairs.correlation[np.triu_indices(leading.shape[1], 1)]
    skewness, kurtosis = (np.abs(values) for values in effect_sizes(some))
    return {
        "length": radial(some).effect,
        "length_leading": radial(leading).effect,
        "squares": correlation_of_squares(leading, n_simulations=19).effect,
        "dependence": float(correlation.mean()),
        "strongest": float(correlation.max()),
        "skewness": [float(np.median(part)) for part in (skewness[:LEADING], skewness)],
        "kurtosis": [float(np.median(part)) for part in (kurtosis[:LEADING], kurtosis)],
        "largest_kurtosis": float(kurtosis.max()),
    }


def classify(codes: dict[str, Tensor], labels: tuple[Tensor, Tensor]) -> Row:
    """Accuracy on test images of classifiers that see few labels."""
    z, y = codes["train"][:LABELS].numpy(), labels[0][:LABELS].numpy()
    z_test, y_test = codes["test"].numpy(), labels[1].numpy()
    # Whitened codes need a strong penalty: their trailing components are mostly noise to labels.
    logistic = LogisticRegressionCV(
        Cs=np.logspace(-4, 2, 7), cv=3, l1_ratios=(0,), use_legacy_attributes=False, scoring="accuracy", max_iter=300
    ).fit(z, y)
    nearest = KNeighborsClassifier(1).fit(z[:, :EM_LEADING], y)
    return {
        "logistic": float(logistic.score(z_test, y_test)),
        "inverse_penalty": float(logistic.C_),
        "nearest": float(nearest.score(z_test[:, :EM_LEADING], y_test)),
    }


def spread(values: list[float], digits: int) -> str:
    if not values:
        return ""
    text = f"{statistics.mean(values):.{digits}f}"
    return text if len(set(values)) == 1 else f"{text} ± {statistics.stdev(values):.{digits}f}"


# A heading and a part, the value of its row or the row's entry of that name, and digits.
Column = tuple[str, str, str | Callable[[Row], float], int]
TABLES: dict[str, tuple[Column, ...]] = {
    "Reconstruction of the test images, and Fréchet distances to them": (
        ("features", "codes", "n_features", 0),
        ("components", "codes", "d", 0),
        ("variance kept", "codes", "variance_kept", 4),
        ("PSNR", "decoder", "psnr", 2),
        ("SSIM", "decoder", "ssim", 4),
        ("Gaussian", "gaussian", "frechet", 2),
        ("mixture", "mixture", "frechet", 2),
        ("mixture, 64", "mixture_64", "frechet", 2),
        ("training codes", "decoder", "frechet", 2),
    ),
    f"{DIAGNOSED:,} training codes, leading {LEADING} components unless all are named": (
        ("length, all", "codes", "length", 2),
        ("length", "codes", "length_leading", 2),
        ("squares", "codes", "squares", 3),
        ("pairs, mean", "codes", "dependence", 3),
        ("pairs, strongest", "codes", "strongest", 2),
        ("\\|skewness\\|", "codes", lambda row: row["skewness"][0], 2),
        ("all", "codes", lambda row: row["skewness"][1], 2),
        ("\\|excess kurtosis\\|", "codes", lambda row: row["kurtosis"][0], 2),
        ("all", "codes", lambda row: row["kurtosis"][1], 2),
        ("largest", "codes", "largest_kurtosis", 0),
    ),
    f"Classifiers of {LABELS:,} training codes, accuracy on test codes": (
        ("logistic, all components", "codes", "logistic", 4),
        (f"nearest neighbour, leading {EM_LEADING}", "codes", "nearest", 4),
        (f"variance in these {EM_LEADING}", "codes", "variance_leading", 3),
        ("smallest to largest eigenvalue", "codes", "smallest_to_largest", 6),
    ),
    "Seconds, and validation PSNR": (
        ("fit", "codes", "fit_seconds", 0),
        ("encode", "codes", "encode_seconds", 0),
        ("decoder", "decoder", "seconds", 0),
        ("mixture", "mixture", "seconds", 0),
        ("PSNR, first epoch", "decoder", lambda row: row["curve"][0], 2),
        ("last epoch", "decoder", lambda row: row["curve"][-1], 2),
    ),
}


def print_tables(bench: Bench) -> None:
    print(", ".join(f"{name} {value}" for name, value in machine().items()))
    print(f"{len(bench.train):,} training images, {len(bench.test):,} test images and samples")
    print(f"decoder: {bench.epochs} epochs")
    for title, columns in TABLES.items():
        print(f"\n{title}:\n")
        print(f"| codes | seeds | {' | '.join(heading for heading, *_ in columns)} |")
        print("|---" * (len(columns) + 2) + "|")
        for name in CODES:
            cells = []
            for _, part, value, digits in columns:
                read = value if callable(value) else itemgetter(value)
                cells.append(spread([read(row) for row in bench.found(part, name)], digits))
            if any(cells):
                seeds = max(len([*bench.found(part, name)]) for _, part, *_ in columns)
                print(f"| {name} | {seeds} | {' | '.join(cells)} |")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=Path, default=Path("runs/codes.jsonl"))
    parser.add_argument("--codes", help="names, separated by commas")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=2, help="of the decoder")
    parser.add_argument("--n", type=int, default=60_000, help="training images")
    parser.add_argument("--components", type=int, default=512, help="at most")
    parser.add_argument("--seconds", type=float, default=inf, help="start no part after so many")
    arguments = parser.parse_args(argv)
    names = arguments.codes.split(",") if arguments.codes else list(CODES)
    unknown = [name for name in names if name not in CODES]
    if unknown:
        parser.error(f"{unknown[0]} is none of {', '.join(CODES)}")
    bench = Bench(arguments)
    bench.folder.mkdir(parents=True, exist_ok=True)
    for seed in range(arguments.seeds):
        for name in names:
            bench.measure(name, seed)
    print_tables(bench)


if __name__ == "__main__":
    main()
