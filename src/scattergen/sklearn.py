"""Scattering, whitened components and densities as estimators of scikit-learn, on NumPy arrays (docs/scikit-learn.md).

Rows are samples, as everywhere in scikit-learn: images as pixels in the order (C, H, W), codes, or any features.
"""

try:
    from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, DensityMixin, TransformerMixin
    from sklearn.utils import check_random_state
    from sklearn.utils.metaestimators import available_if
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as error:
    raise ImportError('scattergen.sklearn needs scikit-learn: run pip install "scattergen[sklearn]".') from error

import inspect
import math
import warnings
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray

from scattergen import densities
from scattergen.densities import Density
from scattergen.encoder.whitening import PCAWhitening
from scattergen.errors import InputError
from scattergen.global_state import usual_state
from scattergen.scattering import Scattering2D

Rows = NDArray[Any]
Shape = tuple[int, int, int]

_FLOATS = (np.float64, np.float32)
_BATCH_FLOATS = 1 << 25  # of coefficients that are computed at once


class ScatteringTransformer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Images to their scattering coefficients, (n, C·K·H'·W'), by `scattergen.scattering.Scattering2D`.

    Args:
        image_shape: (C, H, W) of the images in the rows. By default rows are square grey images; others are filled up
            with zeros to such ones, with a warning.
        J, L, max_order: Scale, number of orientations and highest order.
        device: Where to compute.

    Attributes:
        image_shape_: (C, H, W) as used.
        n_features_in_: Pixels of a row.

    Example:
        >>> images = np.random.default_rng(0).random((5, 28 * 28))
        >>> ScatteringTransformer(J=2).fit_transform(images).shape
        (5, 3969)
    """

    def __init__(
        self, image_shape: Shape | None = None, *, J: int = 2, L: int = 8, max_order: int = 2, device: str = "cpu"
    ) -> None:
        self.image_shape, self.J, self.L, self.max_order, self.device = image_shape, J, L, max_order, device

    @usual_state()
    def fit(self, X: Any, y: Any = None) -> Self:
        """Find the shape of the images; nothing is learned from them."""
        n = _checked(self, X).shape[1]
        side = max(math.isqrt(n - 1) + 1, 2**self.J)
        self.image_shape_ = (1, side, side) if self.image_shape is None else tuple(self.image_shape)
        if math.prod(self.image_shape_) != n:
            problem = f"Rows of {n} features are no images of {'×'.join(map(str, self.image_shape_))}"
            remedy = "give their image_shape, (C, H, W)"
            if self.image_shape is not None:
                raise InputError(f"{problem}: {remedy}.")
            warnings.warn(f"{problem} and are filled up with zeros: {remedy}, if they have one.", stacklevel=3)
        self._n_features_out = self.image_shape_[0] * math.prod(self._scattering().output_shape)
        return self

    @usual_state(gradients=False)
    def transform(self, X: Any) -> Rows:
        """Coefficients of rows (n, C·H·W), in their precision."""
        check_is_fitted(self)
        X, (C, H, W) = _checked(self, X, fitted=True), self.image_shape_
        images = np.zeros((len(X), C * H * W), X.dtype)
        images[:, : X.shape[1]] = X
        scattering, found = self._scattering().to(self.device), np.empty((len(X), self._n_features_out), X.dtype)
        step = max(1, _BATCH_FLOATS // self._n_features_out)
        for i in range(0, len(X), step):
            batch = torch.from_numpy(images[i : i + step]).view(-1, C, H, W).to(self.device)
            found[i : i + step] = scattering(batch).flatten(1).cpu().numpy()
        return found

    def _scattering(self) -> Scattering2D:
        return Scattering2D(self.J, self.image_shape_[1:], self.L, self.max_order)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


class WhitenedPCA(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Whitened principal components by `scattergen.PCAWhitening`, and back.

    Args:
        n_components: Number d of components; by default as many as the samples have.

    Attributes:
        mean_, components_: (D,) and (d, D).
        explained_variance_, explained_variance_ratio_: (d,), in decreasing order.

    Example:
        >>> X = np.random.default_rng(0).standard_normal((100, 20))
        >>> np.cov(WhitenedPCA(n_components=2).fit_transform(X).T).round(2).tolist()
        [[1.01, 0.0], [0.0, 1.01]]
    """

    def __init__(self, n_components: int | None = None) -> None:
        self.n_components = n_components

    @usual_state()
    def fit(self, X: Any, y: Any = None) -> Self:
        """Find the components of rows (n, D), at least 2."""
        X = _checked(self, X, least=2)
        d = min(len(X) - 1, X.shape[1]) if self.n_components is None else self.n_components
        whitening = PCAWhitening(d, allow_fewer=self.n_components is None)
        whitening.fit(torch.from_numpy(np.ascontiguousarray(X)))
        for name in ("mean_", "components_", "explained_variance_", "explained_variance_ratio_"):
            setattr(self, name, getattr(whitening, name).double().numpy())
        self._n_features_out = len(self.components_)
        return self

    def transform(self, X: Any) -> Rows:
        """Codes (n, d), white on the rows of the fit, of rows (n, D)."""
        check_is_fitted(self)
        X = _checked(self, X, fitted=True)
        return ((X - self.mean_) @ self.components_.T / np.sqrt(self.explained_variance_)).astype(X.dtype)

    def inverse_transform(self, X: Any) -> Rows:
        """Rows (n, D), in the span of the components, of codes (n, d)."""
        check_is_fitted(self)
        return self.mean_ + np.asarray(X) * np.sqrt(self.explained_variance_) @ self.components_

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


def _has_likelihood(estimator: "DensityEstimator") -> bool:
    return hasattr(estimator.kind, "log_prob")


class DensityEstimator(DensityMixin, BaseEstimator):  # type: ignore[misc]
    """A density of the codes as an estimator, whose parameters are the density's keywords, and `random_state`.

    A sub-class names the density, which may be one's own: `class Windows(DensityEstimator, kind=ParzenWindows): ...`.

    Attributes:
        density_: The fitted density.
        n_features_in_: Dimension d of the codes.
    """

    kind: ClassVar[type[Density]]

    def __init__(self, **parameters: Any) -> None:
        bound = inspect.signature(type(self)).bind(**parameters)
        bound.apply_defaults()
        vars(self).update(bound.arguments)

    def __init_subclass__(cls, kind: type[Density] | None = None, **rest: Any) -> None:
        super().__init_subclass__(**rest)
        if kind is None:
            return
        cls.kind = kind

        def initialize(self: DensityEstimator, **parameters: Any) -> None:
            DensityEstimator.__init__(self, **parameters)

        own = [inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)]
        keywords = {one.name: one for one in inspect.signature(kind).parameters.values()}
        keywords["random_state"] = inspect.Parameter("random_state", inspect.Parameter.KEYWORD_ONLY, default=None)
        own += [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in keywords.values()]
        initialize.__signature__ = inspect.Signature(own)  # type: ignore[attr-defined]
        cls.__init__ = initialize  # type: ignore[method-assign]

    def fit(self, X: Any, y: Any = None) -> Self:
        """Fit to codes (n, d), at least 2."""
        X = _checked(self, X, least=2)
        parameters = self.get_params(deep=False)
        seed = _seed(parameters.pop("random_state"))
        self.density_ = self.kind(**parameters).fit(torch.from_numpy(X).float(), seed=seed)
        return self

    def sample(self, n_samples: int = 1, random_state: Any = None) -> Rows:
        """New codes (n_samples, d), float32; those of one seed begin alike, however many there are."""
        check_is_fitted(self)
        seed = _seed(self.random_state if random_state is None else random_state)
        return densities.sample_density(self.density_, n_samples, seed=seed).numpy()

    @available_if(_has_likelihood)
    def score_samples(self, X: Any) -> Rows:
        """Logarithm of the density at codes (n, d), in nats: (n,), if it has an exact one."""
        check_is_fitted(self)
        return self.density_.log_prob(torch.from_numpy(_checked(self, X, fitted=True)).double()).numpy()

    @available_if(_has_likelihood)
    def score(self, X: Any, y: Any = None) -> float:
        """Mean of `score_samples`, by which `GridSearchCV` chooses."""
        return float(self.score_samples(X).mean())


class GaussianDensity(DensityEstimator, kind=densities.Gaussian):
    """`scattergen.densities.Gaussian`."""


class GaussianMixtureDensity(DensityEstimator, kind=densities.GaussianMixture):
    """`scattergen.densities.GaussianMixture`.

    Example:
        >>> z = np.random.default_rng(0).standard_normal((200, 3))
        >>> mixture = GaussianMixtureDensity(n_components=2, random_state=0).fit(z)
        >>> mixture.sample(5).shape, mixture.score_samples(z).shape
        ((5, 3), (200,))
    """


class ManifoldParzenDensity(DensityEstimator, kind=densities.ManifoldParzen):
    """`scattergen.densities.ManifoldParzen`."""


class VariationalAutoencoderDensity(DensityEstimator, kind=densities.VariationalAutoencoder):
    """`scattergen.densities.VariationalAutoencoder`."""


class GenerativeAdversarialNetworkDensity(DensityEstimator, kind=densities.GenerativeAdversarialNetwork):
    """`scattergen.densities.GenerativeAdversarialNetwork`."""


class FlowDensity(DensityEstimator, kind=densities.Flow):
    """`scattergen.densities.Flow`."""


def _checked(estimator: Any, X: Any, *, fitted: bool = False, least: int = 1) -> Rows:
    """Rows of finite floats, with as many features as before if the estimator is fitted."""
    found: Rows = validate_data(estimator, X, reset=not fitted, dtype=_FLOATS, ensure_min_samples=least)
    return found


def _seed(random_state: Any) -> int:
    return int(check_random_state(random_state).randint(2**31 - 1))
