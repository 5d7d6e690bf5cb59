"""The encoder: images to codes by scattering and whitened principal components; and codes inverted to images."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from scattergen.calls.state import usual_state
from scattergen.datasets import ImageSource, WithMirrored, fingerprint_of
from scattergen.datasets.containers import as_tensor
from scattergen.datasets.recognition import files_of
from scattergen.display.notebook import Card, Displayed
from scattergen.display.progress import SILENT, Progress
from scattergen.encoder.feature_store import FeatureStore, Keep, Precision
from scattergen.encoder.whitening import PCAWhitening
from scattergen.errors import BadImageError, InputError
from scattergen.files.tensors import check_shapes
from scattergen.processes import ALONE, Processes
from scattergen.scattering import Scattering2D
from scattergen.scattering.inversion import Reconstruction, check_finite, multi_start

_BATCH_FLOATS = 2**25  # of scattering coefficients that one batch may hold (128 MiB)
# Images that least squares are fitted to and tested on: more would not change the choice.
_MOST_FITTED, _MOST_HELD_OUT = 8192, 2048
_INDIFFERENCE = 0.01  # part by which the error may be larger if fewer components are taken
_FITTED = {  # what of the principal components is stored
    "mean": torch.float32, "components": torch.float32,
    "explained_variance": torch.float64, "explained_variance_ratio": torch.float64,
}  # fmt: skip


class ScatteringEncoder(Displayed):
    """Images, scattered channel by channel, to whitened principal components, untrained (Angles & Mallat 2018).

    Args:
        image_shape: (C, H, W) of the images.
        J: Scale of the scattering transform, which averages over 2^J pixels.
        L: Number of its orientations.
        max_order: Its highest order, 1 or 2.
        n_components: Dimension d of the codes.
        allow_fewer: Let the codes have fewer components, with a warning, if the images vary in fewer ways.
        flips: Fit the components to the mirrored images, too, which makes up for few images.
        held_out: Part of the images, the last ones, that components are not fitted to but choose how many are kept, of
            `n_components` at most, if it is not 0: those from which least squares restore these best.
        device: Where scattering, components and codes are computed.
        store: Where coefficients are kept between passes of the fit: "memory", "disk" (the run folder), "recompute" for
            nowhere, or "auto": in memory up to 2 GiB, else on the disk if there is space, else nowhere.
        store_dtype: Precision of coefficients on the disk, "float16" or "float32".

    Attributes:
        scattering: The transform.
        whitening: The principal components; fitted by `fit`.
        n_features: Number of scattering coefficients of one image.

    Raises:
        InputError: If the transform does not fit the images.

    Example:
        >>> encoder = ScatteringEncoder((1, 8, 8), J=1, n_components=16).fit(torch.rand(50, 1, 8, 8))
        >>> encoder.transform(torch.rand(3, 1, 8, 8)).shape
        torch.Size([3, 16])
    """

    def __init__(
        self, image_shape: tuple[int, int, int], J: int = 2, L: int = 8, max_order: int = 2, n_components: int = 512,
        allow_fewer: bool = False, flips: bool = False, held_out: float = 0.0, device: str = "cpu",
        store: Keep = "auto", store_dtype: Precision = "float16",
    ) -> None:  # fmt: skip
        if not 0 <= held_out <= 0.5:
            raise InputError(f"held_out={held_out}: hold out at most half of the images, as 0.1.")
        self.image_shape = (image_shape[0], image_shape[1], image_shape[2])
        self.flips, self.held_out = flips, held_out
        self.scattering = Scattering2D(J, self.image_shape[1:], L, max_order)
        self.n_features = self.image_shape[0] * math.prod(self.scattering.output_shape)
        self.whitening = PCAWhitening(n_components, allow_fewer=allow_fewer)
        self.device, self.store, self.store_dtype = device, store, store_dtype
        # Of the components and their products: "mps" has no float64.
        self._products_device = "cpu" if torch.device(device).type == "mps" else device
        self._features_keywords = {"image_shape": list(self.image_shape), "J": J, "L": L, "max_order": max_order}

    def _card(self) -> Card:
        made_with = ", ".join(f"{name}={value}" for name, value in self.hyperparameters.items())
        fitted = hasattr(self.whitening, "explained_variance_")
        return Card(f"{type(self).__name__}({made_with})", {"fitted": "yes" if fitted else "not yet"})

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """Keywords of the constructor that make an encoder like this one."""
        return {**self._features_keywords, "n_components": self.whitening.n_components}

    @property
    def batch_size(self) -> int:
        """Images per batch, so that a batch of coefficients takes bounded memory."""
        return max(1, min(1024, _BATCH_FLOATS // self.n_features))

    def features(self, images: Tensor) -> Tensor:
        """Flattened scattering coefficients (N, C·K·H'·W') of images (N, C, H, W), float32 in [0, 1]."""
        if images.ndim != 4 or tuple(images.shape[1:]) != self.image_shape:
            expected = "Expected images of shape (N, {}, {}, {})".format(*self.image_shape)
            remedy = "resize or convert them, or fit a model to images of this shape"
            if tuple(images.shape) == (3, 1, *self.image_shape[1:]):
                remedy = f"if that is one colour image, add the axis N in front with images[None]; else {remedy}"
            raise InputError(f"{expected} but got {tuple(images.shape)}: {remedy}.")
        with torch.no_grad():
            return self.scattering(images.to(self.device)).flatten(1).float().cpu()

    def open_features(
        self, images: ImageSource | Tensor, folder: Path | None = None, processes: Processes = ALONE
    ) -> FeatureStore:
        """Coefficients of images in chunks, none of which is computed yet; they may be kept in a folder."""
        files = files_of(images)
        whole = fingerprint_of(images) if files is None and folder is not None else ""

        def identity(rows: slice) -> str:
            part = whole if files is None else files[0].fingerprint_of(files[1][rows].tolist())
            return json.dumps({**self._features_keywords, "images": part})

        return FeatureStore(
            lambda rows: self.features(images[rows]), len(images), self.n_features, self.batch_size,
            keep=self.store, precision=self.store_dtype, cache_bytes=self.whitening.cache_bytes,
            folder=folder, identity=identity, processes=processes,
        )  # fmt: skip

    def fit(
        self, images: ImageSource | Tensor | FeatureStore, progress: Progress = SILENT, *,
        features: FeatureStore | None = None, checkpoint: Path | None = None,
    ) -> Self:  # fmt: skip
        """Fit the principal components to a source of N images, a tensor (N, C, H, W), or what `open_features` made.

        `features` are what `open_features` made of `arrange(images)`, so that they are kept; if it was told of several
        processes, all call this together and get the same encoder. Progress is saved in the file `checkpoint`, which
        whoever owns it removes, and continued from. Images that vary too little are warned of if `allow_fewer` is set.

        Raises:
            InputError: If the images are too few, or vary too little.
            ScattergenError: If there is too little space on the disk.
        """
        if isinstance(images, FeatureStore):
            if self.flips or self.held_out > 0:
                raise InputError("Components are chosen by images: pass these, and the features too.")
            features, arranged, n_fit = images, None, images.n_samples
        else:
            arranged = self.arrange(images)
            features, n_fit = features or self.open_features(arranged), arranged.n_fit
        self.check_count(n_fit)
        if self.held_out > 0:
            self.whitening.n_components = min(self.whitening.n_components, n_fit - 1, self.n_features)
        try:
            self.whitening.fit_samples(
                features, n_fit, checkpoint=checkpoint, device=self._products_device, progress=progress
            )
        except BadImageError:  # whose file may be mended, so that those of the others are kept
            raise
        except InputError:  # these images will never do
            features.remove()
            if checkpoint is not None and features.processes.rank == 0:
                checkpoint.unlink(missing_ok=True)
            raise
        if arranged is not None and n_fit < features.n_samples:
            first = features.processes.rank == 0
            best = _best_number_of_components(self.whitening, features, arranged, progress) if first else 0
            self.whitening.keep(features.processes.broadcast(best))
        return self

    def arrange(self, images: ImageSource | Tensor) -> WithMirrored:
        """Images, with mirrored ones if it has `flips`, in the order of `fit`: those to fit to, then those held out."""
        n, n_held_out = len(images), 0
        if self.held_out > 0:  # a hair more, for products like 0.29 · 100
            n_held_out = min(max(1, int(self.held_out * n + 1e-6)), max(n - 2, 0))
        return WithMirrored(images, n_held_out, self.flips)

    def check_count(self, n: int) -> None:
        """Refuse to fit to fewer images than the components need: two, if held-out images choose their number."""
        d, most = self.whitening.n_components, min(n - 1, self.n_features)
        if n < 2:
            raise InputError(f"{n} training image(s) have no components: give at least 2.")
        if self.held_out == 0 and d > most:  # with images held out, the number is but a limit
            asked = f"{d} components were asked of {n} training images (those held out for tests do not count)"
            remedy = f"use more than {d} images or set n_components to at most {most}"
            each = f"with {self.n_features} coefficients each"
            raise InputError(f"{asked} {each}: {remedy} (--set encoder.n_components={most}).")

    def transform(
        self, images: ImageSource | Tensor | FeatureStore, progress: Progress = SILENT, *, processes: Processes = ALONE
    ) -> Tensor:
        """Codes (N, d) of all images, float32 on the CPU; the arguments are as of `fit`."""
        if not isinstance(images, FeatureStore):
            images = self.open_features(images, processes=processes)
        images.reopen()
        if images.folder is not None and images.place == "disk":  # so that codes made again are the same, bit for bit
            images.shift()
        codes = torch.zeros(images.n_samples, self.whitening.n_components)
        with progress.task("encode", len(codes)) as task:
            for i in images.own():
                rows = images.rows(i)
                codes[rows] = self.whitening.transform(images.chunk(i).to(self._products_device))
                task.advance(rows.stop - task.completed)
        return images.processes.all_reduce(codes)

    def state_dict(self) -> dict[str, Tensor]:
        """Everything fitted, as named tensors; with `hyperparameters` it restores the encoder."""
        if not hasattr(self.whitening, "components_"):
            raise InputError("The encoder has not been fitted yet: call fit first.")
        fitted = {name: getattr(self.whitening, f"{name}_") for name in _FITTED}
        return {**fitted, "n_samples": torch.tensor(self.whitening.n_samples_)}

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Become the fitted encoder that `state_dict` was taken from; others' tensors are a `RunFolderError`."""
        whitening = self.whitening
        if (whitening.allow_fewer or self.held_out > 0) and "components" in tensors:
            whitening.n_components = min(whitening.n_components, len(tensors["components"]))
        d, D = whitening.n_components, self.n_features
        shapes = dict(zip(_FITTED, ((D,), (d, D), (d,), (d,)), strict=True))
        check_shapes("encoder", tensors, {**shapes, "n_samples": ()})
        for name, dtype in _FITTED.items():
            setattr(whitening, f"{name}_", tensors[name].to(dtype))
        whitening.n_samples_ = int(tensors["n_samples"])


def _best_number_of_components(
    whitening: PCAWhitening, features: FeatureStore, images: WithMirrored, progress: Progress
) -> int:
    """The least number of components, of two per octave, from which least squares restore held-out images best."""
    most, n_fit, step = whitening.n_components, images.n_fit, features.chunk_size
    steps = [size for k in range(1, 12) for size in (2**k, 3 * 2 ** (k - 1))]
    grid = [size for size in sorted(steps) if size < most] + [most]
    chunks = [features.rows(i) for i in range(features.n_chunks)]
    fitted = _spread([i for i, rows in enumerate(chunks) if rows.start < n_fit], _MOST_FITTED, step)
    held_out = _spread([i for i, rows in enumerate(chunks) if rows.stop > n_fit], _MOST_HELD_OUT, step)
    size = images[:1].numel()
    products, gram, codes, count = torch.zeros(most, size), torch.zeros(most, most), torch.zeros(most), 0
    total, errors = torch.zeros(size, dtype=torch.float64), torch.zeros(len(grid), dtype=torch.float64)
    with progress.task("choose components", len(fitted) + len(held_out)) as task:
        for i in fitted:
            start, stop = chunks[i].start, min(chunks[i].stop, n_fit)
            z = whitening.transform(features.chunk(i)[: stop - start])
            x = images[start:stop].flatten(1)
            gram += z.T @ z
            codes += z.sum(0)
            products += z.T @ x
            total += x.sum(0, dtype=torch.float64)
            count += len(x)
            task.advance()
        mean, z_mean = (total / count).float(), codes / count
        # Codes are white over all images of the fit, and nearly so over some of them: yet the products with images,
        # which are far from zero, need their means.
        products -= torch.outer(codes, mean)
        gram -= torch.outer(codes, z_mean)
        gram.diagonal().add_(1e-6 * count)  # fewer images than components have many solutions
        weights = [torch.linalg.solve(gram[:d, :d], products[:d]) for d in grid]
        for i in held_out:
            start, stop = max(chunks[i].start, n_fit), chunks[i].stop
            z = whitening.transform(features.chunk(i)[start - chunks[i].start :]) - z_mean
            x = images[start:stop].flatten(1) - mean
            for k, d in enumerate(grid):
                errors[k] += (x - z[:, :d] @ weights[k]).square().sum(dtype=torch.float64)
            task.advance()
    # The error falls and rises again, as further components are accidents of the images that they were fitted to.
    enough = errors <= (1 + _INDIFFERENCE) * errors.min()
    best = grid[int(enough.int().argmax())]
    progress.message(f"  {best} components: held-out images are restored no better from more")
    return best


def _spread(numbers: list[int], most: int, chunk_size: int) -> list[int]:
    """Chunks that hold at most about so many samples, evenly spread."""
    return numbers[:: max(1, -(-len(numbers) // max(1, most // chunk_size)))]


@usual_state()
def reconstruct_codes(
    z: Tensor | Any, encoder: ScatteringEncoder, *, n_starts: int = 4, max_iterations: int = 200,
    tolerance: float = 1e-4, seed: int = 0, progress: Progress = SILENT,
) -> Reconstruction:  # fmt: skip
    r"""Images (N, C, H, W) from whitened codes, without a decoder, by projected L-BFGS from several starts.

    Each image minimises, over pixels in [0, 1],
    $\epsilon^2 = \sum_i \sqrt{\lambda_i}\, (z_i(x) - z_i)^2 \big/ \sum_i \sqrt{\lambda_i}$, the error of its code
    relative to the size of a typical one, with λ the variances of the components (compare Angles, Mallat, "Generative
    networks as inverse problems with scattering transforms", 2018). Only what the code knows is matched: asking for
    `PCAWhitening.inverse_transform(z)` costs 30 dB on MNIST (docs/notes/log.md). Of a code that no image has, such as
    one drawn from a density, the nearest that was found is given; its error says how near.

    `z` are codes (N, d) of a fitted encoder, whose device computes; the other arguments are as of
    `scattergen.scattering.reconstruct`.

    Raises:
        InputError: If `z` does not fit the encoder or is not finite, or an argument is out of range.

    Example:
        >>> images = torch.rand(60, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        >>> encoder = ScatteringEncoder((1, 8, 8), J=1, L=4, n_components=50).fit(images)
        >>> reconstruct_codes(encoder.transform(images[:2]), encoder).images.shape
        torch.Size([2, 1, 8, 8])
    """
    whitening, transform, device = encoder.whitening, encoder.scattering, encoder.device
    z = as_tensor(z, "codes")
    check_finite(z, "codes")
    s = whitening.inverse_transform(z.float()).reshape(-1, encoder.image_shape[0], *transform.output_shape).to(device)
    deviations = whitening.explained_variance_.sqrt()
    weights = (deviations / deviations.sum()).sqrt().to(device, torch.float32)
    mean = whitening.mean_.to(device)
    # transform() of the encoder leaves no gradient, and its product is cheaper with the weights in.
    projection = (whitening.components_.T / deviations.float()).to(device) * weights
    wanted = z.to(device, torch.float32) * weights

    def residual(x: Tensor, rows: Tensor) -> Tensor:
        return (transform(x).flatten(1) - mean) @ projection - wanted[rows]

    found = multi_start(
        residual, s, transform, n_starts=n_starts, max_iterations=max_iterations,
        tolerance=tolerance, seed=seed, progress=progress,
    )  # fmt: skip
    return Reconstruction(found.images.cpu(), found.error.cpu(), found.iterations.cpu())
