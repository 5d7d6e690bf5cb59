"""What varies between complete fits to MNIST, and what codes of unit norm do for the decoder.

    python benchmarks/fits.py [--folder runs/fits] [--seeds 3] [--seconds 3600] [--only LABEL]

For every seed the preset's densities are fitted to the codes, and decoders are trained with that
seed: the preset's, and the same with 6 epochs, on codes of unit norm and on codes as they are. The
encoder has nothing random in it (it is fitted once), so density and decoder are what varies; none
of them knows of the other.  10,000 samples of each density are drawn with the seed and compared
with the 10,000 test images through each decoder. The first row of the table is three complete fits
of `scattergen fit mnist`, with seeds 0, 1 and 2.

Every decoder and density is kept in the folder as soon as it is made: the benchmark can be stopped,
or told by --seconds to start nothing more, and continues.
"""

import argparse
import hashlib
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scattergen.datasets import mnist
from scattergen.decoder import Decoder
from scattergen.decoder.fit import DecoderTraining
from scattergen.densities import make
from scattergen.display.machine import machine
from scattergen.display.progress import Progress
from scattergen.encoder import ScatteringEncoder
from scattergen.evaluation import DigitFeatures, frechet_distance, kernel_distance
from scattergen.files.tensors import read_tensors_if_whole, write_tensors
from scattergen.image_quality import psnr
from scattergen.paper.material import code_digest
from scattergen.stages.density import choice_of_key
from scattergen.stages.presets import preset

N = 10_000
PRESET = preset("mnist", (1, 28, 28), 60_000)
LONG = 6  # epochs
# Label to keywords of the decoder and of its training, over the preset's.
DECODERS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "preset": ({}, {}),
    "unit norm, 6 epochs": ({"unit_norm": True}, {"epochs": LONG}),
    "as they are, 6 epochs": ({"unit_norm": False}, {"epochs": LONG}),
}
PERFECT = "decoded training codes"
CODE = code_digest()  # another text of what computes a result may give another one


class Bench:
    """The data, what is made of it, and where that is kept."""

    def __init__(self, folder: Path, seconds: float) -> None:
        self.folder, self.stop_at = folder, time.monotonic() + seconds
        self.progress, self.data = Progress(), mnist()
        found = read_tensors_if_whole(folder / "codes.safetensors")
        if found is None:
            encoder = ScatteringEncoder((1, 28, 28), **PRESET["encoder"])
            features = encoder.open_features(self.data.train)
            encoder.fit(features, self.progress)
            codes = {"train": encoder.transform(features, self.progress)}
            codes["test"] = encoder.transform(self.data.test, self.progress)
            self.keep("codes", codes)
            found = codes, {}
        self.codes = found[0]
        self.extract = DigitFeatures()
        self.real = self.extract(self.data.test)

    def keep(self, name: str, tensors: dict[str, Tensor], facts: Any = None) -> None:
        """Write what was made."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_tensors(self.folder / f"{name}.safetensors", tensors, {"facts": facts})

    def found(self, name: str) -> tuple[dict[str, Tensor], Any] | None:
        """What was kept; None if it is missing."""
        kept = read_tensors_if_whole(self.folder / f"{name}.safetensors")
        return None if kept is None else (kept[0], kept[1]["facts"])

    def samples(self, key: str, seed: int) -> tuple[Tensor, float] | None:
        """Samples of a density, and the seconds of its fit; None if there is no time left."""
        choice = choice_of_key(key, PRESET["densities"][key])
        name = f"samples-{key}-{seed}-{digest([choice.name, choice.keywords, CODE])}"
        if self.found(name) is None and time.monotonic() < self.stop_at:
            start = time.monotonic()
            density = make(choice.name, **choice.keywords)
            density.fit(self.codes["train"], seed=seed, progress=self.progress)
            seconds = time.monotonic() - start
            self.keep(name, {"codes": density.sample(N, seed=seed)}, seconds)
        found = self.found(name)
        return None if found is None else (found[0]["codes"], found[1])

    def decoder(self, label: str, seed: int) -> tuple[Decoder, dict[str, float]] | None:
        """A decoder, its PSNR and the seconds of its training; None if there is no time left."""
        keywords = PRESET["decoder"] | DECODERS[label][0]
        training = PRESET["training"] | DECODERS[label][1]
        name = f"decoder-{seed}-{digest([keywords, training, CODE])}"
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # as a fit does
            decoder = Decoder(self.codes["train"].shape[1], (1, 28, 28), **keywords)
        found = self.found(name)
        if found is None and time.monotonic() < self.stop_at:
            start = time.monotonic()
            DecoderTraining(**training).fit(
                decoder, self.codes["train"], self.data.train, seed=seed, progress=self.progress
            )
            facts = {"seconds": time.monotonic() - start, "psnr": self.psnr(decoder)}
            self.keep(name, decoder.state_dict(), facts)
            found = self.found(name)
        if found is None:
            return None
        decoder.load_state_dict(found[0])
        return decoder.eval(), found[1]

    def psnr(self, decoder: Decoder) -> float:
        """Mean over the test images."""
        test, values = self.codes["test"], []
        for i in range(0, len(test), 500):
            values.append(psnr(self.data.test[i : i + 500], decoder.decode(test[i : i + 500])))
        return torch.cat(values).clamp(max=100).mean().item()

    def scores(self, decoder: Decoder, codes: Tensor) -> dict[str, float]:
        """Distances of decoded codes to the test images."""
        parts = [self.extract(decoder.decode(part)) for part in codes.split(500)]
        features = torch.cat(parts)
        return {
            "frechet": frechet_distance(self.real, features),
            "kernel": 1000 * kernel_distance(self.real, features).value,
        }


def digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]


def spread(values: list[float], digits: int = 2) -> str:
    text = f"{statistics.mean(values):.{digits}f}"
    return text if len(values) < 2 else f"{text} ± {statistics.stdev(values):.{digits}f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("runs/fits"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3600.0, help="start nothing more after")
    parser.add_argument("--only", choices=DECODERS, help="train no other decoders")
    arguments = parser.parse_args()
    bench = Bench(arguments.folder, arguments.seconds)
    keys = [PERFECT, *PRESET["densities"]]
    table: dict[str, dict[str, list[float]]] = {}
    fitting: dict[str, list[float]] = {}
    for seed in range(arguments.seeds):
        samples = {}
        for key in PRESET["densities"]:
            found = bench.samples(key, seed)
            if found is not None:
                samples[key] = found[0]
                fitting.setdefault(key, []).append(found[1])
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.randperm(len(bench.codes["train"]), generator=generator)[:N]
        samples[PERFECT] = bench.codes["train"][chosen]
        for label in [arguments.only] if arguments.only else DECODERS:
            trained = bench.decoder(label, seed)
            if trained is None:
                continue
            decoder, facts = trained
            columns = table.setdefault(label, {})
            for name, value in facts.items():
                columns.setdefault(name, []).append(value)
            for key, codes in samples.items():
                scores = bench.scores(decoder, codes)
                columns.setdefault(key, []).append(scores["frechet"])
                columns.setdefault(f"{key}, kernel", []).append(scores["kernel"])
                print(f"{label}, seed {seed}, {key}: {scores}", flush=True)
    print(", ".join(f"{name} {value}" for name, value in machine().items()))
    print("Fréchet distance (kernel distance × 1,000) of 10,000 samples to 10,000 test images")
    print(" | ".join(["decoder", "seeds", "PSNR, dB", "seconds", *keys]))
    for label, columns in table.items():
        cells = [label, str(len(columns["psnr"])), spread(columns["psnr"])]
        cells.append(spread(columns["seconds"], 0))
        for key in keys:
            kernel = spread(columns.get(f"{key}, kernel", [float("nan")]), 1)
            cells.append(f"{spread(columns.get(key, [float('nan')]))} ({kernel})")
        print(" | ".join(cells))
    print("seconds of the densities' fits: ", end="")
    print(", ".join(f"{key} {spread(values, 1)}" for key, values in fitting.items()))


if __name__ == "__main__":
    main()
