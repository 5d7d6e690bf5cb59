"""The first two stages of a fit: the encoder, and the codes of its training images."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from scattergen.datasets import ImageSource, class_labels, fingerprint_of
from scattergen.encoder import ScatteringEncoder
from scattergen.options import build
from scattergen.processes import ALONE, Processes
from scattergen.progress import SILENT, Progress
from scattergen.runs import Stages


def fit_encoder(
    images: ImageSource | Tensor,
    options: Mapping[str, Any],
    stages: Stages,
    *,
    device: str = "cpu",
    processes: Processes = ALONE,
    progress: Progress = SILENT,
) -> tuple[ScatteringEncoder, Tensor]:
    """Fit an encoder and encode the images it is fitted to, scattering each of them once.

    The coefficients that the fit keeps, in memory or in the run folder, serve the codes too, and
    are deleted once the codes are stored.  What `stages` holds already is not computed again.

    Args:
        images: Source of N images, or a tensor (N, C, H, W).
        options: Keywords of `ScatteringEncoder`.
        stages: Keep the results and the state of unfinished work.
        device: Where scattering is computed.
        processes: Those that share the work; all call this together.
        progress: Where to report.

    Returns:
        The encoder, and the codes (N, d).

    Raises:
        InputError: If the images or options cannot be used.
        ScattergenError: If there is too little space on the disk.

    Example:
        >>> import torch
        >>> images = torch.rand(20, 1, 8, 8)
        >>> encoder, codes = fit_encoder(images, {"J": 1, "n_components": 4}, Stages(None, SILENT))
        >>> codes.shape
        torch.Size([20, 4])
    """
    channels, height, width = images.shape[-3:]
    encoder = build("encoder", ScatteringEncoder, options, (channels, height, width), device=device)
    identity = {}
    if stages.run is not None:
        identity = {**encoder.hyperparameters, "images": fingerprint_of(images), "n": len(images)}
    features = encoder.open_features(images, stages.folder("codes", identity), processes)
    if not stages.restore("encoder", encoder.load_state_dict):
        with stages.timed("encoder") as done:
            encoder.fit(features, progress, checkpoint=stages.checkpoint("encoder", identity))
            done(encoder.state_dict(), encoder.hyperparameters, {"n": len(images)})
    stored: dict[str, Tensor] = {}
    if not stages.restore("codes", stored.update):
        with stages.timed("codes") as done:
            stored["codes"] = encoder.transform(features, progress)
            classes, metadata = class_labels(images), {}
            if classes is not None:
                stored["labels"], metadata = classes.labels, {"classes": classes.classes}
            done(stored, metadata, {"n": len(images)})
    return encoder, stored["codes"]
