"""The generative scattering network: encoder, decoder and densities of the codes."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from scattergen.calls.device import check_device
from scattergen.calls.keywords import check_seed, whole_number
from scattergen.calls.state import guard
from scattergen.datasets import ClassLabels, Dataset, ImageSource, as_images, class_labels
from scattergen.datasets.containers import as_tensor, holds_numbers
from scattergen.decoder.fit import DecoderTraining
from scattergen.decoder.generator import CodeDecoder
from scattergen.decoder.local import LinearDecoder, LocalDecoder
from scattergen.decoder.sharpening import Sharpening
from scattergen.densities import Density, draw_in_chunks, sample_density
from scattergen.densities.protocol import check_codes
from scattergen.densities.sampling import Labels
from scattergen.display.machine import memory
from scattergen.display.notebook import Card, Displayed, strip
from scattergen.display.progress import SILENT, Progress
from scattergen.encoder.scattering_encoder import ScatteringEncoder
from scattergen.errors import InputError, ScattergenError
from scattergen.image_quality import psnr
from scattergen.runs import RunFolder, Stages
from scattergen.stages import presets
from scattergen.stages.density import default_by_class, default_density, density_key, fit_density
from scattergen.stages.fit import fit_parts
from scattergen.stages.model_parts import Parts, read_parts, save_parts
from scattergen.stages.options import AnyDecoder, check_options, options_of

DECODING_BATCH = 256
_SHOWN = 8  # samples in a notebook
_MEASURED = 100  # images that the decoder was not trained on
LARGEST_CODE = 1e6  # of codes with variance 1: far beyond all real ones, and far from overflow in a decoder

Images = ImageSource | Tensor | NDArray[Any] | Sequence[Any]
"""Images as `scattergen.datasets.as_images` takes them: a source, or what `ImageArray` does: tensors, arrays, lists."""


@runtime_checkable
class EncoderLike(Protocol):
    """Images to codes: what a model needs of an encoder, a plain class without a base class.

    Codes should be white, or nearly so: of mean 0 and variance 1, as densities and `decode` assume.
    """

    def transform(self, images: ImageSource | Tensor, progress: Progress = SILENT) -> Tensor:
        """Codes (N, d), float32 on the CPU, of N images, of which `images[i:j]` are (n, C, H, W) in [0, 1]."""


@runtime_checkable
class DecoderLike(Protocol):
    """Codes, of `n_components` d, to images of `image_shape` (C, H, W): what a model needs of a decoder.

    If there is an attribute `device`, codes are put there first.
    """

    n_components: int
    image_shape: tuple[int, int, int]

    def decode(self, z: Tensor) -> Tensor:
        """Images (N, C, H, W) in [0, 1] of codes (N, d), float32."""


class GenerativeScatteringNetwork(Displayed):
    """Images to codes, codes to images, and models of the codes that make new ones.

    After Angles, Mallat, "Generative networks as inverse problems with scattering transforms", 2018; Ziomek, Farrahi,
    "Modelling nonlinear dependencies in the latent space of inverse scattering", 2022.

    Args and attributes:
        encoder: Fitted; maps images to codes. Your own is any `EncoderLike`.
        decoder: Trained; maps codes to images. Your own is any `DecoderLike`.
        densities: Name to fitted density; add more at any time.
        linear: Least squares from codes to images, to compare with; that of a local decoder by default.
        options: What the model was fitted with, if `fit` or `load` made it.
        best: Key of the density with the best samples, if that was measured.
        n_leading: Leading components that new densities are fitted to, None for all; the others are zero in samples.
        sharpening: Gives new images the power of real ones at each frequency, or None.
        sharpen: Its strength in `sample`, from 0 (none) to 1.
        psnr: Mean PSNR in dB of reconstructed images that the decoder was not trained on, if it was measured.

    Example:
        >>> x = torch.rand(100, 1, 16, 16)
        >>> model = GenerativeScatteringNetwork.fit(x, n_components=8, channels=[8, 4], epochs=1, densities="gaussian")
        >>> model.sample(3, density="gaussian", seed=0).shape
        torch.Size([3, 1, 16, 16])
    """

    def __init__(
        self, encoder: ScatteringEncoder | EncoderLike, decoder: AnyDecoder | DecoderLike,
        densities: Mapping[str, Density] | None = None, linear: LinearDecoder | None = None, *,
        options: presets.Options | None = None, best: str | None = None, n_leading: int | None = None,
        sharpening: Sharpening | None = None, sharpen: float = 0.0, psnr: float | None = None,
    ) -> None:  # fmt: skip
        # By type those of a run; of one's own only what the protocols have is used here.
        self.encoder, self.decoder = cast(ScatteringEncoder, encoder), cast(AnyDecoder, decoder)
        if isinstance(decoder, torch.nn.Module):
            decoder.eval()
        self.densities: dict[str, Density] = dict(densities or {})
        self.linear = decoder.linear if isinstance(decoder, LocalDecoder) else linear
        self.options: presets.Options = options or {}
        self.best, self.n_leading = best, n_leading
        self.sharpening, self.sharpen, self.psnr = sharpening, 0.0 if sharpening is None else sharpen, psnr

    @classmethod
    def fit(
        cls, images: Images, preset: str = "auto", *, options: Mapping[str, Any] | None = None,
        densities: str | Iterable[str] | Mapping[str, Mapping[str, Any]] | None = None, seed: int = 0,
        device: str = "cpu", progress: Progress | None = None, **keywords: Any,
    ) -> "GenerativeScatteringNetwork":  # fmt: skip
        """Fit encoder, decoder and densities to N images; `scattergen.pipeline.fit.fit_run` does so in a run folder.

        Args:
            images: What `scattergen.datasets.as_images` takes.
            preset: Where the options come from that are not given (see `scattergen.stages.presets.preset`).
            options: Some of them, as `{"training.epochs": 3}` or `{"training": {"epochs": 3}}`, or complete ones: if
                all of the sections encoder, decoder, training and densities are there, the preset is not asked.
            densities: Names of those to fit, or keywords by name; those of the options by default.
            seed: Of everything random.
            device: Where to compute.
            progress: By default shown in a notebook or an interactive Python, and nowhere in a script.
            keywords: Options of encoder, decoder or training by the last part of their names: `epochs=3` is
                `{"training.epochs": 3}`. Where several have one of that name, as `flips`, it has to be given in full.

        Raises:
            InputError: If the images or options cannot be used.
        """
        images, seed, device = as_images(images), check_seed(seed), check_device(device)
        channels, height, width = images.shape[-3:]
        shape, n = (channels, height, width), len(images)
        complete = options_of(preset, shape, n, {} if options is None else options, keywords, densities)
        check_options(complete, shape, n, class_labels(images))
        progress = Progress.where_somebody_watches() if progress is None else progress
        model = cls(**vars(fit_parts(images, complete, Stages(None, progress), seed=seed, device=device)))
        unseen = images[n - min(_MEASURED, DecoderTraining(**complete["training"]).held_out(n)) :]
        model.psnr = psnr(unseen, model.reconstruct(unseen)).clamp(max=100).mean().item()
        return model

    def fit_density(
        self, name: str, codes: Tensor | NDArray[Any],
        labels: ClassLabels | Tensor | NDArray[Any] | Sequence[int] | None = None, *,
        keywords: Mapping[str, Any] | None = None, stored_as: str | None = None, seed: int = 0, device: str = "cpu",
        progress: Progress = SILENT,
    ) -> Density:  # fmt: skip
        """Fit one density to codes (N, d), such as `encode(images)`, or one per class, and add it to the model.

        A density of the registry with these hyper-parameters, `keywords`, models the `n_leading` first components, or
        all if it asks for them. With `labels`, the class of every code, (N,) whole numbers from 0, perhaps with the
        classes' names, every class gets one (see `scattergen.densities.ClassConditional`). `stored_as` is its key in
        `densities`, by default the name, with "-by-class" if there are labels. An `InputError` if the name or a keyword
        is unknown, the codes are too few, or the labels cannot be used.
        """
        key = density_key(name, by_class=labels is not None) if stored_as is None else stored_as
        codes = check_codes(codes)
        CodeDecoder.check_codes(self.decoder, codes)  # which one's own lacks
        self.densities[key] = fit_density(
            name, key, codes, labels, Stages(None, progress), n_leading=self.n_leading,
            keywords=keywords, seed=check_seed(seed), device=check_device(device),
        )  # fmt: skip
        return self.densities[key]

    def encode(self, images: Images, progress: Progress = SILENT) -> Tensor:
        """Whitened codes (N, d) of N images."""
        return as_tensor(self.encoder.transform(as_images(images), progress), "codes")

    def decode(
        self, z: Tensor | NDArray[Any] | Sequence[Any], batch_size: int = DECODING_BATCH, progress: Progress = SILENT,
        *, sharpen: float = 0.0,
    ) -> Tensor:  # fmt: skip
        """Images (N, C, H, W) in [0, 1] of codes z, (N, d), `batch_size` at a time, which affects time and memory only.

        `sharpen` is the strength, from 0 to 1, of the model's sharpening. An `InputError` if that is out of range or
        the model has none, or the codes do not have d components, are not finite, or are beyond ±1,000,000.
        """
        self.check_sharpening(sharpen)
        batch_size = whole_number("batch_size", batch_size, least=1)
        z = as_tensor(z, "codes").detach()
        CodeDecoder.check_codes(self.decoder, z)  # which one's own lacks
        if z.is_complex() or z.dtype == torch.bool:
            raise InputError(f"The codes hold {z.dtype} values: give real numbers, such as encode(images) makes.")
        if not torch.isfinite(z).all():
            raise InputError("The codes hold NaN or infinite values: check where they come from.")
        for i in (z.abs() > LARGEST_CODE).any(1).nonzero()[:1].flatten().tolist():
            found = f"Code {i} reaches {z[i].abs().max():.3g}, but codes have variance 1 and are never beyond"
            raise InputError(f"{found} {LARGEST_CODE:,.0f}: use codes that this model's encoder made.")
        images = torch.empty(len(z), *self.decoder.image_shape)
        with progress.task("decode", len(z)) as task:
            for i in range(0, len(z), batch_size):
                batch = z[i : i + batch_size].float().to(getattr(self.decoder, "device", "cpu"))
                decoded = as_tensor(self.decoder.decode(batch), "decoded images").detach().cpu()
                if decoded.shape != images[i : i + len(batch)].shape:
                    wanted = (len(batch), *self.decoder.image_shape)
                    raise InputError(f"The decoder made images of shape {tuple(decoded.shape)}: {wanted} is expected.")
                if not torch.isfinite(decoded).all():
                    raise ScattergenError("The decoder made images that hold NaN or infinities: look at its weights.")
                if self.sharpening is not None:
                    decoded = self.sharpening(decoded, sharpen)
                images[i : i + len(batch)] = decoded
                task.advance(len(batch))
        return images

    def check_sharpening(self, strength: float) -> None:
        """Refuse to sharpen if the model has no sharpening."""
        if strength and self.sharpening is None:
            raise InputError("This model has no sharpening, which only the preset auto fits: leave out --sharpen.")

    def check_memory(self, n: int) -> None:
        """Refuse more new images than memory can hold together with their codes while those are drawn."""
        needed = 4 * n * (math.prod(self.decoder.image_shape) + 3 * self.decoder.n_components)
        there = memory()
        if needed > there:
            what = f"{n:,} images take {needed / 2**30:,.0f} GiB of memory and this machine has {there / 2**30:,.0f}"
            raise InputError(f"{what}: make fewer (-n), or parts, each with another --seed.")

    def reconstruct(self, images: Images) -> Tensor:
        """Images encoded and decoded again, (N, C, H, W)."""
        return self.decode(self.encode(images))

    def sample_codes(
        self, n: int, density: str | None = None, seed: int = 0, temperature: float = 1.0, labels: Labels | None = None
    ) -> Tensor:
        """Codes (n, d) drawn from a density; code k depends on the model, the seed and k only.

        The density is by default the best that was measured, else "mixture", else the last one, and with labels the
        best or the first that is class-conditional; an `InputError` if the model has none of that key. A `temperature`
        below 1 makes samples smoother and more alike. `labels` are the class of all codes or of each, (n,), numbers or
        names: code k then depends on its class, and the number of codes of that class before it.
        """
        if density is None:
            densities = self.densities
            density = (
                default_density([*densities], self.best) if labels is None else default_by_class(densities, self.best)
            )
        if density not in self.densities:
            problem = f'This model has no density "{density}": it has {", ".join(self.densities)}'
            raise InputError(f"{problem}; fit another with `scattergen density RUN NAME`, or by fit_density.")
        own = self.densities[density]
        drawn = as_tensor(sample_density(own, n, seed=seed, temperature=temperature, labels=labels), "codes")
        if drawn.shape[1] > self.decoder.n_components:
            found = f'The density "{density}" draws codes of {drawn.shape[1]} components'
            raise InputError(f"{found}, not {self.decoder.n_components}: fit it to encode(images) of this model.")
        return functional.pad(drawn, (0, self.decoder.n_components - drawn.shape[1]))

    def sample(
        self, n: int, density: str | None = None, seed: int = 0, batch_size: int = DECODING_BATCH,
        progress: Progress = SILENT, *, temperature: float = 1.0, labels: Labels | None = None,
        sharpen: float | None = None,
    ) -> Tensor:  # fmt: skip
        """New images (n, C, H, W) in [0, 1]; image k depends on the model, the seed and k only.

        The arguments are those of `sample_codes` and `decode`; `sharpen` is by default the model's own strength.
        """
        self.check_memory(whole_number("n", n))
        codes = self.sample_codes(n, density, seed, temperature, labels)
        return self.decode(codes, batch_size, progress, sharpen=self.sharpen if sharpen is None else sharpen)

    def interpolate(self, start: Any, stop: Any, steps: int = 8) -> Tensor:
        r"""Images (steps, C, H, W) along the straight line between the codes of two images ("morphing").

        $x_t = G((1 - t)\, z_0 + t\, z_1)$ for t = 0 … 1, both ends included; images are of any form that `encode`
        takes, one each. An `InputError` if there are fewer than 2 steps, or more than 2 images.
        """
        steps = whole_number("steps", steps, least=2)
        images = (as_tensor(x, "images") if holds_numbers(x) else x[:] for x in (start, stop))
        ends = torch.cat([self.encode(x[None] if x.ndim < 4 else x) for x in images])
        if len(ends) != 2:
            raise InputError(f"A line has 2 ends, but {len(ends)} images were given: give one each.")
        return self.decode(torch.lerp(ends[:1], ends[1:], torch.linspace(0, 1, steps)[:, None]))

    def resample(self, images: Images, start: int, stop: int, seed: int = 0) -> Tensor:
        """N images (N, C, H, W) whose components `start` to `stop` (one past the last) are replaced by white noise.

        An `InputError` if the range does not lie in 0 … d.
        """
        z = self.encode(images)
        start, stop, d = whole_number("start", start), whole_number("stop", stop), z.shape[1]
        if not 0 <= start < stop <= d:
            raise InputError(f"Components {start}:{stop} are not a range within 0:{d}.")
        z[:, start:stop] = draw_in_chunks(len(z), seed, lambda noise, size: noise.normal(size, stop - start))
        return self.decode(z)

    def save(self, path: Path | str, *, data: Dataset | None = None, overwrite: bool = False) -> None:
        """Write the model as a run folder; to a run that holds it already, only densities that it lacks are added.

        If it is given the `data` to whose training part the model was fitted, the run also holds their codes, which the
        commands `density`, `diagnose` and `nearest` work on. With `overwrite` it replaces a run that is there, with its
        codes and report. An `InputError` if a density is not fitted or not registered, or its name cannot be a file's;
        a `RunFolderError` if the folder holds something else.
        """
        parts = Parts(**{part.name: getattr(self, part.name) for part in fields(Parts)})
        save_parts(parts, path, data, overwrite=overwrite)

    def _card(self) -> Card:
        encoder, decoder = self.encoder, self.decoder
        facts = {name: type(part).__name__ for name, part in (("encoder", encoder), ("decoder", decoder))}
        if isinstance(encoder, ScatteringEncoder):
            J, L, order = (encoder.hyperparameters[name] for name in ("J", "L", "max_order"))
            facts["encoder"] = f"scattering, J={J}, L={L}, order {order}; {encoder.whitening.n_components} components"
        if isinstance(decoder, torch.nn.Module):
            facts["decoder"] += f", {sum(weights.numel() for weights in decoder.parameters()):,} weights"
        facts["reconstruction"] = "not measured" if self.psnr is None else f"{self.psnr:.2f} dB PSNR of unseen images"
        keys = [*self.densities]
        facts["densities"] = ", ".join(keys) or "none"
        title = f"GenerativeScatteringNetwork of {'×'.join(map(str, decoder.image_shape))} images"
        if not keys:
            return Card(title, facts)
        shown = default_density(keys, self.best)
        return Card(title, facts, f"samples of {shown}", lambda: strip(self.sample(_SHOWN, shown)))

    @classmethod
    def load(
        cls, path: Path | str | RunFolder, device: str = "cpu", densities: str | Collection[str] | None = None
    ) -> "GenerativeScatteringNetwork":
        """The model of a run folder or an opened run, with all densities or those of keys; executes nothing in it.

        A `RunFolderError` if it is incomplete, damaged, changed or of a newer format, or a density of an unknown kind.
        """
        keys = [densities] if isinstance(densities, str) else densities
        return cls(**vars(read_parts(path, check_device(device), keys)))


_DOORS = ("fit", "fit_density", "encode", "decode", "sample_codes", "interpolate", "resample", "save", "load")
guard(GenerativeScatteringNetwork, *_DOORS)
