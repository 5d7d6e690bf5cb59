"""Scattering, whitened components and densities as scikit-learn's estimators, on NumPy arrays whose rows are samples.

A row has the pixels of an image in the order (C, H, W), a code, or any features (docs/scikit-learn.md).
"""

try:
    from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, DensityMixin, TransformerMixin
    from sklearn.utils import check_array, check_random_state
    from sklearn.utils.metaestimators import available_if
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as error:
    raise ImportError('scattergen.sklearn needs scikit-learn: run pip install "scattergen[sklearn]".') from error

import inspect
import math
import operator
import warnings
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray

from scattergen import densities
from scattergen.calls.keywords import whole_number
from scattergen.calls.state import usual_state
from scattergen.densities import Density
from scattergen.encoder.whitening import PCAWhitening
from scattergen.errors import InputError
from scattergen.scattering import Scattering2D

__all__ = [
    "DensityEstimator", "FlowDensity", "GaussianDensity", "GaussianMixtureDensity",
    "GenerativeAdversarialNetworkDensity", "ManifoldParzenDensity", "ScatteringTransformer",
    "VariationalAutoencoderDensity", "WhitenedPCA",
]  # fmt: skip

Rows = NDArray[Any]
Shape = tuple[int, int, int]

_BATCH_FLOATS = 1 << 25  # of coefficients that are computed at once
_FLOATS = (np.float64, np.float32)
_FEWEST_PIXELS = 16  # smaller squares are no images but features, such as scikit-learn's own checks give


class _Transformer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Rows to rows of the same precision."""

    _n_features_out: int

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


class ScatteringTransformer(_Transformer):
    """Images to their scattering coefficients, (n, C·K·H'·W'), by `scattergen.scattering.Scattering2D`.

    Args:
        image_shape: (C, H, W), or (H, W) of grey images, kept as `image_shape_`, (C, H, W). By default rows are square
            grey images; others, and those of fewer than 16 features, are filled up with zeros to such ones, with a
            warning.
        J, L, max_order: Scale, number of orientations and highest order. Images need sides of at least 2^J.

    Example:
        >>> images = np.random.default_rng(0).random((5, 28 * 28))
        >>> ScatteringTransformer(J=2).fit_transform(images).shape
        (5, 3969)
    """

    def __init__(
        self, image_shape: Shape | tuple[int, int] | None = None, *, J: int = 2, L: int = 8, max_order: int = 2
    ) -> None:
        self.image_shape, self.J, self.L, self.max_order = image_shape, J, L, max_order

    @usual_state()
    def fit(self, X: Any, y: Any = None) -> Self:
        """Find the shape of the images; nothing is learned from them.

        An `InputError` if the rows do not have that shape, or a side is smaller than 2^J.
        """
        J = whole_number("J", self.J, least=1)
        n, least, remedy = _checked(self, X).shape[1], 2**J, "give their image_shape, (C, H, W)"
        side = math.isqrt(n - 1) + 1
        C, H, W = (1, side, side) if self.image_shape is None else _image_shape(self.image_shape)
        are_images = self.image_shape is not None or side**2 == n >= _FEWEST_PIXELS
        if are_images and min(H, W) < least:
            what = f"J={self.J} needs images of at least {least}×{least} pixels, and these have {H}×{W}"
            raise InputError(f"{what}: choose J={min(H, W).bit_length() - 1} or less, or {remedy}.")
        if self.image_shape is None:
            H = W = max(side, least)
        self.image_shape_ = (C, H, W)
        if n != C * H * W:
            problem = f"Rows of {n} features are no images of {C}×{H}×{W}"
            if self.image_shape is not None:
                raise InputError(f"{problem}: {remedy}.")
            warnings.warn(f"{problem} and are filled up with zeros: {remedy}, if they have one.", stacklevel=3)
        self._n_features_out = C * math.prod(self._scattering().output_shape)
        return self

    @usual_state(gradients=False)
    def transform(self, X: Any) -> Rows:
        """Coefficients of rows (n, C·H·W)."""
        X, scattering = _checked(self, X, fitted=True), self._scattering()
        found = np.empty((len(X), self._n_features_out), X.dtype)
        step = max(1, _BATCH_FLOATS // self._n_features_out)
        for i in range(0, len(X), step):
            rows = X[i : i + step]
            images = np.zeros((len(rows), *self.image_shape_), X.dtype)
            images.reshape(len(rows), -1)[:, : X.shape[1]] = rows
            found[i : i + step] = scattering(torch.from_numpy(images)).flatten(1).numpy()
        return found

    def _scattering(self) -> Scattering2D:
        return Scattering2D(self.J, self.image_shape_[1:], self.L, self.max_order)


class WhitenedPCA(_Transformer):
    """Whitened principal components by `scattergen.PCAWhitening`, whose fitted attributes it has as arrays.

    Args:
        n_components: Number d of components; by default as many as the samples have.

    Example:
        >>> X = np.random.default_rng(0).standard_normal((100, 20))
        >>> np.abs(np.cov(WhitenedPCA(n_components=2).fit_transform(X).T)).round(2).tolist()
        [[1.01, 0.0], [0.0, 1.01]]
    """

    def __init__(self, n_components: int | None = None) -> None:
        self.n_components = n_components

    @usual_state()
    def fit(self, X: Any, y: Any = None) -> Self:
        """Find the components of rows (n, D), at least 2."""
        X = _checked(self, X, least=2)
        d = min(len(X) - 1, X.shape[1]) if self.n_components is None else self.n_components
        centre = X.mean(0, dtype=np.float64)  # which float32 would round, and what varies little about it
        whitening = PCAWhitening(d, allow_fewer=self.n_components is None).fit(X - centre)
        self.mean_: Rows = centre + whitening.mean_.double().numpy()
        self.components_: Rows = whitening.components_.double().numpy()
        self.explained_variance_: Rows = whitening.explained_variance_.double().numpy()
        self.explained_variance_ratio_: Rows = whitening.explained_variance_ratio_.double().numpy()
        self._n_features_out = len(self.components_)
        return self

    def transform(self, X: Any) -> Rows:
        """Codes (n, d), white on the rows of the fit, of rows (n, D)."""
        X = _checked(self, X, fitted=True)
        return ((X - self.mean_) @ self.components_.T / np.sqrt(self.explained_variance_)).astype(X.dtype)

    def inverse_transform(self, X: Any) -> Rows:
        """Rows (n, D), in the span of the components, of codes (n, d)."""
        check_is_fitted(self)
        X, d = check_array(X, dtype=_FLOATS, ensure_min_samples=0), len(self.components_)
        if X.shape[1] != d:
            raise InputError(
                f"Codes of {X.shape[1]} components are none of these {d}: give those that transform makes."
            )
        return (self.mean_ + X * np.sqrt(self.explained_variance_) @ self.components_).astype(X.dtype)


class DensityEstimator(DensityMixin, BaseEstimator):
    """A density of codes, `density_` once it is fitted; its parameters are the density's keywords and `random_state`.

    A sub-class names the density, one's own, too: `class Windows(DensityEstimator, kind=ParzenWindows): ...`.
    """

    kind: ClassVar[type[Density]]
    density_: Any

    def __init_subclass__(cls, kind: type[Density] | None = None, **rest: Any) -> None:
        super().__init_subclass__(**rest)
        if kind is None:  # it is the parent's
            return
        seed = inspect.Parameter("random_state", inspect.Parameter.KEYWORD_ONLY, default=None)
        keywords = [one.replace(kind=seed.kind) for one in inspect.signature(kind).parameters.values()]
        signature = inspect.Signature([*keywords, seed])

        def initialize(self: DensityEstimator, **given: Any) -> None:
            bound = signature.bind(**given)
            bound.apply_defaults()
            self.__dict__.update(bound.arguments)

        # By which scikit-learn knows the parameters.
        own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
        initialize.__signature__ = signature.replace(parameters=[own, *keywords, seed])  # type: ignore[attr-defined]
        cls.kind, cls.__init__ = kind, initialize  # type: ignore[assignment]

    def fit(self, X: Any, y: Any = None) -> Self:
        """Fit to codes (n, d), at least 2."""
        X, keywords = _checked(self, X, least=2), self.get_params(deep=False)
        seed = _seed(keywords.pop("random_state"))
        self.density_ = self.kind(**keywords).fit(torch.tensor(X, dtype=torch.float32), seed=seed)
        return self

    def sample(self, n_samples: int = 1, random_state: Any = None) -> Rows:
        """New codes (n_samples, d), float32; those of one seed begin alike, however many there are."""
        check_is_fitted(self)
        seed = _seed(self.random_state if random_state is None else random_state)
        return densities.sample_density(self.density_, n_samples, seed=seed).numpy()

    @available_if(lambda self: hasattr(self.kind, "log_prob"))
    def score_samples(self, X: Any) -> Rows:
        """Logarithm of the density at codes (n, d), in nats: (n,), if it has an exact one."""
        X = _checked(self, X, fitted=True)
        found: Rows = self.density_.log_prob(torch.tensor(X, dtype=torch.float64)).numpy()
        return found

    @available_if(lambda self: hasattr(self.kind, "log_prob"))
    def score(self, X: Any, y: Any = None) -> float:
        """Mean of `score_samples`, by which `GridSearchCV` chooses."""
        return float(self.score_samples(X).mean())


class GaussianDensity(DensityEstimator, kind=densities.Gaussian):
    """`scattergen.densities.Gaussian`."""


class GaussianMixtureDensity(DensityEstimator, kind=densities.GaussianMixture):
    """`scattergen.densities.GaussianMixture`."""


class ManifoldParzenDensity(DensityEstimator, kind=densities.ManifoldParzen):
    """`scattergen.densities.ManifoldParzen`."""


class VariationalAutoencoderDensity(DensityEstimator, kind=densities.VariationalAutoencoder):
    """`scattergen.densities.VariationalAutoencoder`."""


class GenerativeAdversarialNetworkDensity(DensityEstimator, kind=densities.GenerativeAdversarialNetwork):
    """`scattergen.densities.GenerativeAdversarialNetwork`."""


class FlowDensity(DensityEstimator, kind=densities.Flow):
    """`scattergen.densities.Flow`."""


def _image_shape(given: Any) -> Shape:
    """(C, H, W) of what a user gave, perhaps without the one channel of grey images."""
    try:
        shape = [*map(operator.index, given)]
    except TypeError:
        shape = []
    if len(shape) not in (2, 3) or min(shape) < 1:
        raise InputError(f"image_shape={given!r}: give (C, H, W), such as (3, 32, 32), or (H, W) of grey images.")
    *channels, height, width = shape
    return (*(channels or [1]), height, width)  # type: ignore[return-value]


def _checked(estimator: Any, X: Any, *, fitted: bool = False, least: int = 1) -> Rows:
    """Rows of finite floats, with as many features as before if the estimator has to be fitted."""
    if fitted:
        check_is_fitted(estimator)
    found: Rows = validate_data(estimator, X, reset=not fitted, dtype=_FLOATS, ensure_min_samples=least)
    return found


def _seed(random_state: Any) -> int:
    return int(check_random_state(random_state).randint(2**31 - 1))
