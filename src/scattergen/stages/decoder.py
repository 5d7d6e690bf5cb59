"""The stage of a fit that trains the decoder, with pictures of what it makes."""

import warnings
from pathlib import Path

import torch
from torch import Tensor

from scattergen.decoder.fit import DecoderTraining
from scattergen.decoder.linear import LinearDecoder
from scattergen.densities import make
from scattergen.encoder.scattering_encoder import ScatteringEncoder
from scattergen.image_grid import save_image_grid
from scattergen.runs import Result, Stages
from scattergen.stages.model_parts import decoder_metadata
from scattergen.stages.options import AnyDecoder, Images, build
from scattergen.stages.presets import Options
from scattergen.training.state import History

_PREVIEW_COLUMNS = 8
_PREVIEW_CODES = 4000  # at most, that its density is fitted to in a second


def fit_decoder(
    decoder: AnyDecoder,
    options: Options,
    codes: Tensor,
    images: Images,
    stages: Stages,
    *,
    encoder: ScatteringEncoder,
    mirrored: Tensor | None,
    linear: LinearDecoder,
    seed: int,
    device: str,
) -> None:
    """Train a decoder on codes (N, d) of images and of the mirrored ones, unless it is finished already.

    After each epoch a picture is drawn of its images beside those of least squares.
    """
    training = build("training", DecoderTraining, options["training"])

    def train(work: Path | None) -> Result:
        preview = None
        if stages.run is not None and stages.processes.rank == 0:
            preview = Preview(stages.run.preview, images, codes, linear)
            if not preview.path.exists():  # else that of the training to be resumed
                preview(decoder)
            stages.progress.message(f"  first pictures, after each epoch: {preview.path}")
        log = stages.log_epoch("decoder")

        def after_epoch(history: History) -> None:
            if log is not None:
                log(history)
            if preview is not None:
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


class Preview:
    """A picture, replaced after every epoch, of what a decoder makes of the last tenth of images and of new codes.

    Its rows are: held-out images; least squares from their codes; the decoder's images of these; and two rows of new
    images, from a density that is fitted in a second and drawn with one seed.
    """

    def __init__(self, path: Path, images: Images, codes: Tensor, linear: LinearDecoder) -> None:
        n = min(_PREVIEW_COLUMNS, len(codes))
        rows = torch.linspace(len(codes) * 9 // 10, len(codes) - 1, n).round().long()
        self.shown = torch.cat([images[rows], linear.decode(codes[rows])])
        some = codes[torch.linspace(0, len(codes) - 1, min(len(codes), _PREVIEW_CODES)).long()]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a mixture of few codes; it is but a preview
            drawn = make("mixture" if len(some) >= 100 else "gaussian").fit(some).sample(2 * n)
        self.path, self.codes, self.columns = path, torch.cat([codes[rows], drawn]), n

    def __call__(self, decoder: AnyDecoder) -> None:
        """Draw the picture anew."""
        images = decoder.decode(self.codes.to(decoder.device)).cpu()
        save_image_grid(torch.cat([self.shown, images]), self.path, columns=self.columns)
