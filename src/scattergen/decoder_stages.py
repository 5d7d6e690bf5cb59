"""The stages of a fit that need the decoder: its training, and what new images are made from."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from scattergen.datasets import ImageSource
from scattergen.decoder.fit import fit_decoder
from scattergen.decoder.generator import Decoder
from scattergen.decoder.linear import LinearDecoder
from scattergen.decoder.local import LocalDecoder
from scattergen.encoder.scattering_encoder import ScatteringEncoder
from scattergen.evaluation import default_features
from scattergen.leading_choice import choose_leading
from scattergen.model_files import decoder_metadata
from scattergen.options import build
from scattergen.previewing import Preview
from scattergen.processes import ALONE, Processes
from scattergen.progress import SILENT, Progress
from scattergen.runs import Stages
from scattergen.training_state import History

PREVIEW = Path("pictures", "preview.png")
"""Where a fit shows its decoder after each epoch, in the run folder."""


def fit_decoder_stage(
    decoder: Decoder | LocalDecoder,
    options: Mapping[str, Any],
    codes: Tensor,
    images: ImageSource | Tensor,
    stages: Stages,
    *,
    encoder: ScatteringEncoder,
    mirrored: Tensor | None,
    linear: LinearDecoder,
    seed: int = 0,
    device: str = "cpu",
    processes: Processes = ALONE,
    progress: Progress = SILENT,
) -> None:
    """Train a decoder, unless it is among the finished stages, with a picture after each epoch.

    Args:
        decoder: Trained afterwards.
        options: Of the fit.
        codes: (N, d).
        images: The N images.
        stages: Keep the result and the state of unfinished work.
        encoder: Made the codes.
        mirrored: Codes of the mirrored images, or None.
        linear: Least squares, for the picture.
        seed: Of everything random.
        device: Where to compute.
        processes: Those that train together.
        progress: Where to report.

    Raises:
        InputError: If the options cannot be used.
        ScattergenError: If the training diverges.
    """
    if stages.restore("decoder", decoder.load_state_dict):
        return
    with stages.timed("decoder") as done:
        preview = None
        if stages.run is not None and processes.rank == 0:
            preview = Preview(stages.run.path / PREVIEW, images, codes, linear, device)
            if not preview.path.exists():  # else that of the training to be resumed
                preview(decoder)
            progress.message(f"  first pictures, after each epoch: {preview.path}")
        log = stages.log_epoch("decoder")

        def after_epoch(history: History) -> None:
            if log is not None:
                log(history)
            if preview is not None:
                preview(decoder)

        history = build(
            "training",
            fit_decoder,
            options["training"],
            decoder,
            codes,
            images,
            encoder=encoder,
            mirrored=mirrored,
            seed=seed,
            device=device,
            processes=processes,
            checkpoint=stages.checkpoint(
                "decoder", {name: options[name] for name in ("decoder", "training")}
            ),
            on_epoch=after_epoch,
            progress=progress,
        )
        facts = {"history": history, "seconds": history[-1]["seconds"]}
        done(decoder.state_dict(), decoder_metadata(decoder), facts)


def choose_leading_stage(
    decoder: Decoder | LocalDecoder,
    options: Mapping[str, Any],
    codes: Tensor,
    images: ImageSource | Tensor,
    stages: Stages,
    *,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress = SILENT,
) -> int | None:
    """Number of leading components that densities are fitted to, as the options say or as is best.

    Args:
        decoder: Trained.
        options: Of the fit; without a section "sampling" nothing is chosen.
        codes: (N, d).
        images: The N images.
        stages: Keep the number.
        seed: Of the trials.
        device: Where the decoder is.
        progress: Where to report.

    Returns:
        The number, or None for all.
    """
    if "sampling" not in options:
        return None
    run = stages.run
    if run is not None and "sampling" in run.stages:
        known: int = run.stages["sampling"]["n_components"]
        return known
    start = time.monotonic()
    progress.message("sampling")
    wanted, facts = options["sampling"].get("n_components"), dict[str, Any]()
    if wanted == "auto":
        extract = default_features(decoder.image_shape)
        choice = choose_leading(
            decoder, codes, images, extract, device=device, seed=seed, progress=progress
        )
        chosen = choice.n_components
        facts["features"] = [extract.name, extract.version]
        facts["kernel"] = {str(m): value for m, value in choice.kernel.items()}
    else:
        chosen = codes.shape[1] if wanted is None else min(int(wanted), codes.shape[1])
    if run is not None:
        facts |= {"n_components": chosen, "seconds": time.monotonic() - start}
        run.finish_stage("sampling", facts)
        run.log({"stage": "sampling", **facts})
    return chosen
