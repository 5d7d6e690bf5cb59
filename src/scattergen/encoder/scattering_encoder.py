"""The encoder: scattering and whitened principal components, which map images to codes."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from scattergen.datasets import ImageSource, WithMirrored, fingerprint_of
from scattergen.encoder.component_choice import FirstSamples, best_number_of_components
from scattergen.encoder.feature_store import FeatureStore, Keep, Precision
from scattergen.encoder.whitening import PCAWhitening
from scattergen.errors import InputError
from scattergen.processes import ALONE, Processes
from scattergen.progress import SILENT, Progress
from scattergen.scattering import Scattering2D
from scattergen.tensor_files import check_shapes

# Floats of scattering coefficients that one batch may hold (128 MiB).
_BATCH_FLOATS = 2**25


class ScatteringEncoder:
    """Images to whitened scattering coefficients; nothing is trained.

    Each image is scattered channel by channel; the flattened coefficients are projected on their leading principal
    components and scaled to unit variance.

    Args:
        image_shape: (C, H, W) of the images.
        J: Scale of the scattering transform.
        L: Its number of orientations.
        max_order: Its highest order.
        n_components: Dimension d of the codes.
        allow_fewer: Let the codes have fewer components, with a warning, if the images vary in fewer ways.
        flips: Fit the components to the mirrored images, too, which makes up for few images.
        held_out: Part of the images, the last ones, that components are not fitted to; if it is not 0, those are kept,
            of `n_components` at most, from which least squares restore the held-out images best.
        device: Where scattering, components and codes are computed.
        store: Where the coefficients of training images are kept between the passes of the fit: "memory", "disk" (the
            run folder), nowhere ("recompute"), or "auto": in memory up to 2 GiB, else on the disk if there is space,
            else nowhere.
        store_dtype: Precision of coefficients on the disk, "float16" or "float32".

    Attributes:
        scattering: The transform.
        whitening: The principal components; fitted by `fit`.

    Raises:
        InputError: If the transform does not fit the images.

    References:
        Angles, Mallat, "Generative networks as inverse problems with scattering transforms", 2018.

    Example:
        >>> from scattergen.datasets import mnist
        >>> images = mnist().test
        >>> encoder = ScatteringEncoder((1, 28, 28), n_components=16).fit(images[:100])
        >>> encoder.transform(images[:3]).shape
        torch.Size([3, 16])
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        J: int = 2,
        L: int = 8,
        max_order: int = 2,
        n_components: int = 512,
        allow_fewer: bool = False,
        flips: bool = False,
        held_out: float = 0.0,
        device: str = "cpu",
        store: Keep = "auto",
        store_dtype: Precision = "float16",
    ) -> None:
        if not 0 <= held_out <= 0.5:
            raise InputError(f"held_out={held_out}: hold out at most half of the images, as 0.1.")
        self.image_shape = (image_shape[0], image_shape[1], image_shape[2])
        self.flips, self.held_out = flips, held_out
        self.scattering = Scattering2D(J, self.image_shape[1:], L, max_order)
        self.whitening = PCAWhitening(n_components, allow_fewer=allow_fewer)
        self.device = device
        self.store, self.store_dtype = store, store_dtype
        keywords: dict[str, Any] = {"image_shape": list(self.image_shape), "J": J, "L": L, "max_order": max_order}
        self._features_keywords = keywords

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """Keywords of the constructor that make an encoder like this one."""
        return {**self._features_keywords, "n_components": self.whitening.n_components}

    @property
    def n_features(self) -> int:
        """Number of scattering coefficients of one image."""
        K, height, width = self.scattering.output_shape
        return self.image_shape[0] * K * height * width

    @property
    def _products_device(self) -> str:
        """Where the components and their products are computed: "mps" has no float64."""
        return "cpu" if torch.device(self.device).type == "mps" else self.device

    @property
    def batch_size(self) -> int:
        """Images per batch, so that a batch of coefficients takes bounded memory."""
        return max(1, min(1024, _BATCH_FLOATS // self.n_features))

    def features(self, images: Tensor) -> Tensor:
        """Flattened scattering coefficients.

        Args:
            images: (N, C, H, W) float32 in [0, 1].

        Returns:
            Coefficients, (N, C·K·H'·W').

        Raises:
            InputError: If the images do not have the shape given at construction.
        """
        if images.ndim != 4 or tuple(images.shape[1:]) != self.image_shape:
            C, H, W = self.image_shape
            raise InputError(
                f"Expected images of shape (N, {C}, {H}, {W}) but got {tuple(images.shape)}: "
                "resize or convert them, or fit a model to images of this shape."
            )
        with torch.no_grad():
            return self.scattering(images.to(self.device)).flatten(1).cpu()

    def open_features(
        self, images: ImageSource | Tensor, folder: Path | None = None, processes: Processes = ALONE
    ) -> FeatureStore:
        """Coefficients of images in chunks, to fit to and to encode without scattering twice.

        Args:
            images: Source of N images, or a tensor (N, C, H, W).
            folder: Where they may be kept on disk; chunks of other images are made again.
            processes: Those that share the work; all open the same folder.

        Returns:
            The chunks; nothing is computed yet.
        """
        identity = dict(self._features_keywords)
        if folder is not None:
            identity["images"] = fingerprint_of(images)
        return FeatureStore(
            lambda rows: self.features(images[rows]), len(images), self.n_features, self.batch_size,
            keep=self.store, precision=self.store_dtype, cache_bytes=self.whitening.cache_bytes,
            folder=folder, identity=json.dumps(identity), processes=processes,
        )  # fmt: skip

    def fit(
        self,
        images: ImageSource | Tensor | FeatureStore,
        progress: Progress = SILENT,
        *,
        features: FeatureStore | None = None,
        processes: Processes = ALONE,
        checkpoint: Path | None = None,
    ) -> Self:
        """Fit the principal components to images.

        Args:
            images: Source of N images, a tensor (N, C, H, W), or what `open_features` made of them.
            progress: Where to report.
            features: What `open_features` made of `arrange(images)`, so that they are kept.
            processes: Those that share the work; all call this together and get the same encoder.
            checkpoint: File to save progress in and to continue from; removed by whoever owns it.

        Raises:
            InputError: If the images are too few or do not vary enough for `n_components`.
            ScattergenError: If there is too little space on the disk.

        Warns:
            UserWarning: If they do not vary enough and `allow_fewer` is set.
        """
        if isinstance(images, FeatureStore):
            if self.flips or self.held_out > 0:
                raise InputError("Components are chosen by images: pass these, and the features too.")
            features, arranged, n_fit = images, None, images.n_samples
        else:
            arranged = self.arrange(images)
            features, n_fit = features or self.open_features(arranged, processes=processes), arranged.n_fit
        self.check_count(n_fit)
        if self.held_out > 0:
            self.whitening.n_components = min(self.whitening.n_components, n_fit - 1, self.n_features)
        try:
            self.whitening.fit_samples(
                FirstSamples(features, n_fit), checkpoint=checkpoint, device=self._products_device, progress=progress
            )
        except InputError:  # these images will never do
            features.remove()
            if checkpoint is not None and features.processes.rank == 0:
                checkpoint.unlink(missing_ok=True)
            raise
        if arranged is not None and n_fit < features.n_samples:
            first = features.processes.rank == 0
            best = best_number_of_components(self.whitening, features, arranged, progress) if first else 0
            self.whitening.keep(features.processes.broadcast(best))
        return self

    def arrange(self, images: ImageSource | Tensor) -> WithMirrored:
        """Images in the order in which `fit` looks at them, with mirrored ones if it has `flips`.

        Args:
            images: Source of N images, or a tensor (N, C, H, W).

        Returns:
            Those that components are fitted to, then those that are held out.
        """
        n, n_held_out = len(images), 0
        if self.held_out > 0:  # a hair more, for products like 0.29 · 100
            n_held_out = min(max(1, int(self.held_out * n + 1e-6)), max(n - 2, 0))
        return WithMirrored(images, n_held_out, self.flips)

    def check_count(self, n: int) -> None:
        """Refuse to fit to fewer images than the components need: two, if held-out images choose their number.

        Args:
            n: Number of images.

        Raises:
            InputError: If they, or their coefficients, are not enough for `n_components`.
        """
        d, most = self.whitening.n_components, min(n - 1, self.n_features)
        if n < 2:
            raise InputError(f"{n} training image(s) have no components: give at least 2.")
        if self.held_out == 0 and d > most:  # with images held out, the number is but a limit
            raise InputError(
                f"{d} components were asked of {n} training images (those held out for tests do "
                f"not count) with {self.n_features} coefficients each: use more than {d} images or "
                f"set n_components to at most {most} (--set encoder.n_components={most})."
            )

    def transform(
        self, images: ImageSource | Tensor | FeatureStore, progress: Progress = SILENT, *, processes: Processes = ALONE
    ) -> Tensor:
        """Codes of images.

        Args:
            images: As of `fit`.
            progress: Where to report.
            processes: Those that share the work; all call this together.

        Returns:
            Codes of all images, (N, d) float32, on the CPU.
        """
        if not isinstance(images, FeatureStore):
            images = self.open_features(images, processes=processes)
        images.reopen()
        codes = torch.zeros(images.n_samples, self.whitening.n_components)
        with progress.task("encode", len(codes)) as task:
            for i in images.own():
                rows = images.rows(i)
                codes[rows] = self.whitening.transform(images.chunk(i).to(self._products_device))
                task.advance(rows.stop - task.completed)
        return images.processes.all_reduce(codes)

    def state_dict(self) -> dict[str, Tensor]:
        """Everything fitted, as named tensors; with `hyperparameters` it restores the encoder."""
        whitening = self.whitening
        return {
            "mean": whitening.mean_,
            "components": whitening.components_,
            "explained_variance": whitening.explained_variance_,
            "explained_variance_ratio": whitening.explained_variance_ratio_,
            "n_samples": torch.tensor(whitening.n_samples_),
        }

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Become the fitted encoder that `state_dict` was taken from.

        Args:
            tensors: Name to tensor.

        Raises:
            RunFolderError: If a tensor is missing or does not fit this encoder.
        """
        whitening = self.whitening
        if (whitening.allow_fewer or self.held_out > 0) and "components" in tensors:
            whitening.n_components = min(whitening.n_components, len(tensors["components"]))
        d, D = whitening.n_components, self.n_features
        check_shapes("encoder", tensors, {
            "mean": (D,), "components": (d, D), "explained_variance": (d,), "explained_variance_ratio": (d,),
            "n_samples": (),
        })  # fmt: skip
        whitening.mean_ = tensors["mean"].float()
        whitening.components_ = tensors["components"].float()
        whitening.explained_variance_ = tensors["explained_variance"].double()
        whitening.explained_variance_ratio_ = tensors["explained_variance_ratio"].double()
        whitening.n_samples_ = int(tensors["n_samples"])
