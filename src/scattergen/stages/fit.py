"""All stages of a fit, from images to the parts of a model."""

import hashlib
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from scattergen.datasets import class_labels, fingerprint_of
from scattergen.datasets.image_files import save_image_grid
from scattergen.decoder.fit import DecoderTraining, fewest_leading
from scattergen.decoder.local import LinearDecoder
from scattergen.decoder.sharpening import Sharpening
from scattergen.densities import make
from scattergen.display.progress import SILENT, Progress
from scattergen.encoder.scattering_encoder import ScatteringEncoder
from scattergen.evaluation import FeatureExtractor, default_features, kernel_distance
from scattergen.runs import Result, Stages
from scattergen.stages.density import choice_of_key, fit_density
from scattergen.stages.model_parts import Parts, decoder_metadata, stored_codes
from scattergen.stages.options import AnyDecoder, Images, build, make_decoder
from scattergen.stages.presets import Options
from scattergen.training.loop import History

_PREVIEW_COLUMNS = 8
_PREVIEW_CODES = 4000  # at most, that its density is fitted to in a second
_SHARPENING_IMAGES = 1000  # that the power of frequencies is measured on
_MOST_SAMPLES, _LEAST_SAMPLES, _MOST_IMAGES = 400, 100, 1000
_MOST_CODES = 10_000  # that the trial densities are fitted to
_FEWEST_CODES = 100


def fit_parts(images: Images, options: Options, stages: Stages, *, seed: int = 0, device: str = "cpu") -> Parts:
    """Fit encoder, decoder and densities with complete, checked options, or find them in `stages`.

    The processes of `stages` fit encoder and decoder together and then leave the group; rank 0 alone fits the rest.
    """
    encoder, codes, mirrored = fit_encoder(images, options["encoder"], stages, device=device)
    linear = fit_linear(encoder, codes, mirrored, images, stages)
    decoder = _fit_decoder(options, codes, mirrored, images, stages, encoder, linear, seed, device)
    stages.processes.leave()
    parts = Parts(encoder, decoder, linear=linear, options=options)
    if stages.processes.rank > 0:
        return parts
    stages = Stages(stages.run, stages.progress)
    parts.sharpen = options.get("sampling", {}).get("sharpen", 0.0)
    parts.n_leading, parts.sharpening = fit_sampling(decoder, options, codes, images, stages, seed=seed)
    for key, keywords in options["densities"].items():
        choice = choice_of_key(key, keywords)
        labels = class_labels(images) if choice.by_class else None
        parts.densities[key] = fit_density(
            choice.name, key, codes, labels, stages, n_leading=parts.n_leading,
            keywords=choice.keywords, seed=seed, device=device,
        )  # fmt: skip
    return parts


def fit_encoder(
    images: Images, options: Mapping[str, Any], stages: Stages, *, device: str = "cpu"
) -> tuple[ScatteringEncoder, Tensor, Tensor | None]:
    """An encoder fitted to N images, their codes (N, d), and those of the mirrored images if it has `flips`."""
    channels, height, width = images.shape[-3:]
    encoder = build("encoder", ScatteringEncoder, options, (channels, height, width), device=device)
    arranged_as = {"n": len(images), "flips": encoder.flips, "held_out": encoder.held_out}
    depends = {**encoder.hyperparameters, **arranged_as, "images": fingerprint_of(images)}
    classes = class_labels(images)
    labels = None if classes is None else hashlib.sha256(classes.labels.numpy().data).hexdigest()
    named = {"labels": labels, "classes": None if classes is None else classes.classes}
    arranged = encoder.arrange(images)
    stages.key("encoder", depends)
    # The coefficients, in memory or in the run folder, serve both stages: they are kept until the codes are stored.
    # They know their images chunk by chunk, so that of a file that was mended only its own are made again.
    with stages.working("codes", stages.key("coefficients", {**depends, "images": ""})) as folder:
        features = encoder.open_features(arranged, folder, stages.processes)

        def fit(work: Path | None) -> Result:
            checkpoint = None if work is None else work / "checkpoint.safetensors"
            encoder.fit(images, stages.progress, features=features, checkpoint=checkpoint)
            return Result(encoder.state_dict(), encoder.hyperparameters, {"n": len(images)})

        def encode(_: Path | None) -> Result:
            codes, mirrored = arranged.split(encoder.transform(features, stages.progress))
            tensors, metadata = stored_codes(codes, images)
            if mirrored is not None:
                tensors["mirrored"] = mirrored.contiguous()
            facts: dict[str, Any] = {"n": len(images)}
            if encoder.held_out > 0:
                unseen = tensors["codes"][arranged.n_fit // arranged.times :]
                facts["held_out_rms"] = unseen.square().mean().sqrt().item()
            return Result(tensors, metadata, facts)

        result = stages.get("encoder", depends, fit)
        if result.found:
            encoder.load_state_dict(result.tensors)
        stored = stages.get("codes", named, encode, ["encoder"]).tensors
        features.remove()
    return encoder, stored["codes"], stored.get("mirrored")


def fit_linear(
    encoder: ScatteringEncoder, codes: Tensor, mirrored: Tensor | None, images: Images, stages: Stages
) -> LinearDecoder:
    """Least squares from codes (N, d), perhaps also of mirrored images, which the first process computes for all."""
    linear = LinearDecoder.of(encoder)

    def fit(_: Path | None) -> Result:
        fitted = {}
        if stages.processes.rank == 0:
            n_fit = encoder.arrange(images).n_fit // (1 if mirrored is None else 2)
            fitted = linear.fit(codes, images, mirrored, n=n_fit, progress=stages.progress).state_dict()
        return Result(stages.processes.broadcast(fitted), linear.hyperparameters)

    linear.load_state_dict(stages.get("linear", {}, fit, ["codes"]).tensors)
    return linear


def _fit_decoder(
    options: Options, codes: Tensor, mirrored: Tensor | None, images: Images, stages: Stages,
    encoder: ScatteringEncoder, linear: LinearDecoder, seed: int, device: str,
) -> AnyDecoder:  # fmt: skip
    """A decoder trained on codes (N, d) of images and of the mirrored ones, unless it is finished already."""
    decoder = make_decoder(options["decoder"], linear, seed).to(device)
    training, run = build("training", DecoderTraining, options["training"]), stages.run

    def train(work: Path | None) -> Result:
        preview = None
        if run is not None and stages.processes.rank == 0:
            preview = Preview(run.preview, images, codes, linear)
            if not preview.path.exists():  # else that of the training to be resumed
                preview()
            stages.progress.message(f"  first new images, better ones after each epoch: {preview.path}")

        def after_epoch(history: History) -> None:
            if run is not None and preview is not None:
                run.log({"stage": "decoder", **history[-1]})
                preview(decoder)

        history = training.fit(
            decoder, codes, images, encoder=encoder, mirrored=mirrored, seed=seed, device=device,
            processes=stages.processes, checkpoint=None if work is None else work / "checkpoint.safetensors",
            on_epoch=after_epoch, progress=stages.progress,
        )  # fmt: skip
        facts = {"history": history, "seconds": history[-1]["seconds"]}
        return Result(decoder.state_dict(), decoder_metadata(decoder), facts)

    depends = {"decoder": options["decoder"], "training": options["training"], "seed": seed}
    result = stages.get("decoder", depends, train, ["codes", "linear"])
    if result.found:
        decoder.load_state_dict(result.tensors)
    return decoder


class Preview:
    """A picture, replaced after every epoch: held-out images, decoded by least squares and a decoder, and new ones."""

    def __init__(self, path: Path, images: Images, codes: Tensor, linear: LinearDecoder) -> None:
        n = min(_PREVIEW_COLUMNS, len(codes))
        rows = torch.linspace(len(codes) * 9 // 10, len(codes) - 1, n).round().long()
        self.shown = torch.cat([images[rows], linear.decode(codes[rows])])
        some = codes[torch.linspace(0, len(codes) - 1, min(len(codes), _PREVIEW_CODES)).long()]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a mixture of few codes; it is but a preview
            new = make("mixture" if len(some) >= 100 else "gaussian").fit(some).sample(2 * n)
        self.path, self.codes, self.columns, self.linear = path, torch.cat([codes[rows], new]), n, linear

    def __call__(self, decoder: AnyDecoder | None = None) -> None:
        """Draw the picture anew; new images by least squares as long as no decoder is trained."""
        images = self.linear.decode(self.codes) if decoder is None else _decoded(decoder, self.codes)
        save_image_grid(torch.cat([self.shown, images]), self.path, columns=self.columns)


def fit_sampling(
    decoder: AnyDecoder, options: Options, codes: Tensor, images: Images, stages: Stages, *, seed: int
) -> tuple[int | None, Sharpening | None]:
    """The number of leading components that new images are made from, as asked or best, and sharpening, or None."""
    if "sampling" not in options:
        return None, None
    asked = options["sampling"].get("n_components")
    sharpened = options["sampling"].get("sharpen", 0) > 0

    def choose(_: Path | None) -> Result:
        gains = {}
        if sharpened:
            some = torch.linspace(0, len(codes) - 1, min(len(codes), _SHARPENING_IMAGES)).round().long()
            gains["gains"] = Sharpening.fit(images[some], _decoded(decoder, codes[some])).gains
        if asked != "auto":
            n = codes.shape[1] if asked is None else min(int(asked), codes.shape[1])
            return Result(gains, facts={"n_components": n})
        extract = default_features(decoder.image_shape)
        n, kernel = choose_leading(decoder, codes, images, extract, seed, stages.progress)
        found = {"features": [extract.name, extract.version], "kernel": {str(m): value for m, value in kernel.items()}}
        return Result(gains, facts={"n_components": n, **found})

    depends = {"n_components": asked, "seed": seed, "sharpened": sharpened}
    result = stages.get("sampling", depends, choose, ["decoder"])
    return result.facts["n_components"], Sharpening(result.tensors["gains"]) if sharpened else None


def _decoded(decoder: AnyDecoder, codes: Tensor) -> Tensor:
    return torch.cat([decoder.decode(part.to(decoder.device)).cpu() for part in codes.split(100)])


def choose_leading(
    decoder: AnyDecoder, codes: Tensor, images: Images, extract: FeatureExtractor, seed: int = 0,
    progress: Progress = SILENT,
) -> tuple[int, dict[int, float]]:  # fmt: skip
    """The number of leading components of codes (N, d) from which a mixture makes the best images, and their scores.

    A density does better with fewer to model, an image with more that its decoder is told; the judge is the last tenth
    of the images, and the score of each number that is tried the kernel distance (times 1,000) from these.
    """
    n, d = codes.shape
    numbers, n_held_out, n_samples = trial_sizes(n, d)
    if not numbers:
        return d, {}
    held_out = torch.linspace(n - max(1, n // 10), n - 1, n_held_out).long()
    real = extract(images[held_out])
    some = codes[torch.linspace(0, n - 1, min(n, _MOST_CODES)).long()]
    found = {}
    with progress.task("choose leading components", len(numbers)) as task:
        for m in numbers:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of trials
                drawn = make("mixture").fit(some[:, :m], seed=seed).sample(n_samples, seed=seed)
            distance = kernel_distance(real, extract(_decoded(decoder, functional.pad(drawn, (0, d - m)))))
            found[m] = (1000 * distance.value, 1000 * distance.standard_error)
            task.advance(1, f"{m}: {1000 * distance.value:.0f}")
    best, error = min(found.values(), key=lambda score: score[0])
    chosen = min(m for m, (value, _) in found.items() if value <= best + error / 2)
    progress.message(f"  densities are fitted to the {chosen} leading components of {d}")
    return chosen, {m: value for m, (value, _) in found.items()}


def trial_sizes(n: int, d: int) -> tuple[list[int], int, int]:
    """Numbers of leading components to try for n codes of d, and how many held-out images and samples are compared."""
    if n < _FEWEST_CODES:
        return [], 0, 0
    n_held_out = min(max(1, n // 10), _MOST_IMAGES)
    numbers = sorted({min(fewest_leading(d) * 2**k, d) for k in range(12)})
    return numbers, n_held_out, min(_MOST_SAMPLES, max(_LEAST_SAMPLES, n_held_out))
