"""The first stages of a fit: the encoder, the codes of its training images, and least squares."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from scattergen.datasets import class_labels, fingerprint_of
from scattergen.decoder.linear import LinearDecoder
from scattergen.encoder.scattering_encoder import ScatteringEncoder
from scattergen.runs import Result, Stages
from scattergen.stages.options import Images, build


def fit_encoder(
    images: Images, options: Mapping[str, Any], stages: Stages, *, device: str = "cpu"
) -> tuple[ScatteringEncoder, Tensor, Tensor | None]:
    """Fit an encoder to N images and encode them, scattering each once, unless both are finished already.

    Returned are the encoder, codes (N, d), and those of the mirrored images if it has `flips`.
    """
    channels, height, width = images.shape[-3:]
    encoder = build("encoder", ScatteringEncoder, options, (channels, height, width), device=device)
    depends = {
        **encoder.hyperparameters, "images": fingerprint_of(images), "n": len(images),
        "flips": encoder.flips, "held_out": encoder.held_out,
    }  # fmt: skip
    classes = class_labels(images)
    labels = None if classes is None else hashlib.sha256(classes.labels.numpy().data).hexdigest()
    named = {"labels": labels, "classes": None if classes is None else classes.classes}
    arranged = encoder.arrange(images)
    stages.key("encoder", depends)
    # The coefficients, in memory or in the run folder, serve both stages: they are kept until the codes are stored.
    with stages.working("codes", stages.key("codes", named, ["encoder"])) as folder:
        features = encoder.open_features(arranged, folder, stages.processes)

        def fit(work: Path | None) -> Result:
            checkpoint = None if work is None else work / "checkpoint.safetensors"
            encoder.fit(images, stages.progress, features=features, checkpoint=checkpoint)
            return Result(encoder.state_dict(), encoder.hyperparameters, {"n": len(images)})

        def encode(_: Path | None) -> Result:
            codes, mirrored = arranged.split(encoder.transform(features, stages.progress))
            tensors = {"codes": codes.contiguous()}
            if mirrored is not None:
                tensors["mirrored"] = mirrored.contiguous()
            if classes is not None:
                tensors["labels"] = classes.labels
            facts: dict[str, Any] = {"n": len(images)}
            if encoder.held_out > 0:
                unseen = tensors["codes"][arranged.n_fit // arranged.times :]
                facts["held_out_rms"] = unseen.square().mean().sqrt().item()
            return Result(tensors, {} if classes is None else {"classes": classes.classes}, facts)

        result = stages.get("encoder", depends, fit)
        if result.found:
            encoder.load_state_dict(result.tensors)
        stored = stages.get("codes", named, encode, ["encoder"]).tensors
    return encoder, stored["codes"], stored.get("mirrored")


def fit_linear(
    encoder: ScatteringEncoder, codes: Tensor, mirrored: Tensor | None, images: Images, stages: Stages
) -> LinearDecoder:
    """Fit least squares from codes (N, d) to images, and from those of the mirrored ones, unless they are finished.

    All processes call this together and get the same map, which the first computes.
    """
    processes = stages.processes
    linear = LinearDecoder.of(encoder)

    def fit(_: Path | None) -> Result:
        fitted = {}
        if processes.rank == 0:
            n_fit = encoder.arrange(images).n_fit // (1 if mirrored is None else 2)
            fitted = linear.fit(codes, images, mirrored, n=n_fit, progress=stages.progress).state_dict()
        return Result(processes.broadcast(fitted), linear.hyperparameters)

    linear.load_state_dict(stages.get("linear", {}, fit, ["codes"]).tensors)
    return linear
