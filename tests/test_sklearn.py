"""Estimators of scikit-learn: its own checks, and use in pipelines and searches, on NumPy arrays."""

import pickle
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("sklearn", reason="scikit-learn is not installed")

from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import check_estimator

from scattergen import InputError
from scattergen.datasets import mnist
from scattergen.densities import DENSITIES, GaussianMixture, VariationalAutoencoder
from scattergen.scattering import Scattering2D
from scattergen.sklearn import (
    DensityEstimator,
    FlowDensity,
    GaussianDensity,
    GaussianMixtureDensity,
    GenerativeAdversarialNetworkDensity,
    ManifoldParzenDensity,
    ScatteringTransformer,
    VariationalAutoencoderDensity,
    WhitenedPCA,
)

DOCS = Path(__file__).parent.parent / "docs"
VAE = {"epochs": 1, "widths": (8,), "n_latent": 2}
NETWORKS = (
    VariationalAutoencoderDensity(**VAE),
    GenerativeAdversarialNetworkDensity(epochs=1, widths=(8,), discriminator_widths=(8,), n_latent=2),
    FlowDensity(epochs=1, layers=1, widths=(4,), n_components=1),
)


def skip_flow_without_zuko(estimator):
    if isinstance(estimator, FlowDensity):
        pytest.importorskip("zuko", reason="zuko is not installed")


@pytest.fixture(scope="module")
def digits():
    """Pixels of 200 digits of 16×16, (200, 256)."""
    return mnist().train[:200][:, 0, 6:22, 6:22].reshape(200, -1).numpy()


@pytest.mark.parametrize(
    "estimator",
    [
        ScatteringTransformer(J=1, L=2),
        ScatteringTransformer(),
        WhitenedPCA(),
        GaussianDensity(),
        GaussianMixtureDensity(n_components=2),
        ManifoldParzenDensity(n_neighbors=1),
        NETWORKS[1],
    ],
    ids=lambda estimator: type(estimator).__name__,
)
def test_scikit_learns_own_checks(estimator):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of rows that are no images, of few samples
        found = check_estimator(estimator, on_fail=None, on_skip=None)
    failed = {one["check_name"]: str(one["exception"]) for one in found if one["status"] == "failed"}
    assert not failed
    assert len(found) > 35


# The checks give 10 to 21 rows; networks that stop by held-out codes need 24.
TOO_FEW = {
    f"check_{name}": "it gives fewer than 24 rows"
    for name in (
        *("estimators_overwrite_params", "dont_overwrite_parameters", "estimators_fit_returns_self", "fit2d_1feature"),
        *("readonly_memmap_input", "n_features_in_after_fitting", "estimators_dtypes", "estimators_nan_inf"),
        *("f_contiguous_array_estimator", "methods_sample_order_invariance", "methods_subset_invariance"),
        *("dict_unchanged", "fit2d_predict1d"),
    )
}


@pytest.mark.parametrize("estimator", NETWORKS[::2], ids=lambda estimator: type(estimator).__name__)
def test_scikit_learns_own_checks_of_networks(estimator):
    skip_flow_without_zuko(estimator)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = check_estimator(estimator, expected_failed_checks=TOO_FEW, on_fail=None, on_skip=None)
    assert not [one["check_name"] for one in found if one["status"] == "failed"]
    failed = {one["check_name"]: str(one["exception"]) for one in found if one["status"] == "xfail"}
    assert failed.keys() == TOO_FEW.keys()
    assert all("codes are too few" in message for message in failed.values())


def test_scattering_is_that_of_the_library(digits):
    found = ScatteringTransformer(J=2).fit_transform(digits)
    wanted = Scattering2D(2, (16, 16))(torch.from_numpy(digits).view(-1, 1, 16, 16)).flatten(1)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted.numpy(), rtol=0, atol=1e-6)
    colour = np.random.default_rng(0).random((3, 3 * 8 * 16))
    transformer = ScatteringTransformer((3, 8, 16), J=1, L=4).fit(colour)
    wanted = Scattering2D(1, (8, 16), L=4)(torch.from_numpy(colour).view(3, 3, 8, 16)).flatten(1)
    np.testing.assert_allclose(transformer.transform(colour), wanted.numpy(), rtol=0, atol=1e-12)
    assert len(transformer.get_feature_names_out()) == wanted.shape[1]


def test_rows_that_are_no_images():
    x = np.random.default_rng(0).random((3, 75))
    with pytest.warns(UserWarning, match="Rows of 75 features are no images of 1×9×9 and are filled up with zeros"):
        filled = ScatteringTransformer(J=1).fit_transform(x)
    padded = np.pad(x, ((0, 0), (0, 6)))
    np.testing.assert_array_equal(ScatteringTransformer(J=1).fit_transform(padded), filled)
    with pytest.raises(InputError, match="Rows of 75 features are no images of 3×4×5: give their image_shape"):
        ScatteringTransformer((3, 4, 5)).fit(x)
    with pytest.raises(InputError, match="J"):  # of the transform: 2^J is larger than a side
        ScatteringTransformer((3, 5, 5), J=3).fit(x)


def test_images_that_are_smaller_than_the_scale():
    x = np.random.default_rng(0).random((3, 64))
    for given in ({}, {"image_shape": (8, 8)}, {"image_shape": (1, 8, 8)}):
        with pytest.raises(InputError, match=r"J=4 needs images of at least 16×16 .* 8×8: choose J=3 or less, or give"):
            ScatteringTransformer(J=4, **given).fit(x)
    with pytest.warns(UserWarning, match="filled up with zeros"):  # features, of which few are a square by chance
        ScatteringTransformer().fit(x[:, :4])


def test_image_shapes():
    x = np.random.default_rng(0).random((3, 8 * 12))
    grey = ScatteringTransformer((8, 12)).fit(x)
    assert grey.image_shape_ == (1, 8, 12)
    np.testing.assert_array_equal(grey.transform(x), ScatteringTransformer((1, 8, 12)).fit_transform(x))
    for shape in (8, (96,), (8.0, 12), (0, 8, 12), (1, 1, 8, 12), "8x12"):
        with pytest.raises(InputError, match=r"image_shape=.*: give \(C, H, W\)"):
            ScatteringTransformer(shape).fit(x)


def test_components_are_those_of_scikit_learn(digits):
    ours, theirs = WhitenedPCA(5).fit(digits), PCA(5, whiten=True, svd_solver="full").fit(digits)
    # Its whitening divides by the variance of n - 1, ours of n; signs are arbitrary.
    signs = np.sign((ours.components_ * theirs.components_).sum(1))
    scale = np.sqrt(len(digits) / (len(digits) - 1))
    np.testing.assert_allclose(ours.transform(digits) * signs, theirs.transform(digits) * scale, atol=2e-3)
    np.testing.assert_allclose(
        ours.explained_variance_ratio_, theirs.explained_variance_ratio_, rtol=1e-4
    )  # of features in float32
    back = ours.inverse_transform(ours.transform(digits))
    np.testing.assert_allclose(back, theirs.inverse_transform(theirs.transform(digits)), atol=1e-3)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_codes_of_components_and_back(digits, dtype):
    pca = WhitenedPCA(5).fit(digits.astype(dtype))
    codes = pca.transform(digits.astype(dtype))
    assert codes.dtype == pca.inverse_transform(codes).dtype == dtype
    assert pca.inverse_transform(codes[:0]).shape == (0, digits.shape[1])
    with pytest.raises(InputError, match="Codes of 4 components are none of these 5"):
        pca.inverse_transform(codes[:, :4])
    with pytest.raises(ValueError, match="NaN"):
        pca.inverse_transform(codes * np.nan)


def test_components_of_rows_far_from_zero():
    x = 1e6 + 0.5 * np.random.default_rng(0).standard_normal((400, 6))
    with pytest.warns(UserWarning, match="vary in 6 ways only"):
        codes = WhitenedPCA().fit_transform(np.concatenate([x, np.full((400, 1), 1e7)], axis=1))
    assert codes.shape == (400, 6)
    # Rows of float64 at 1e6 have an error of 1e-10, components in float32 one of 1e-7.
    np.testing.assert_allclose(codes.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(np.cov(codes.T, bias=True), np.eye(6), atol=1e-4)


def test_parameters_of_numpy_in_a_search():
    x = np.random.default_rng(0).standard_normal((60, 3))
    found = GridSearchCV(
        GaussianMixtureDensity(n_components=1), {"max_iterations": np.array([2, 3])}, error_score="raise"
    ).fit(x)
    assert found.best_params_["max_iterations"] in (2, 3)


def test_a_density_is_that_of_the_library():
    z = np.random.default_rng(0).standard_normal((120, 3)).astype(np.float32)
    estimator = GaussianMixtureDensity(n_components=2, random_state=np.random.RandomState(3)).fit(z)
    seed = np.random.RandomState(3).randint(2**31 - 1)
    density = GaussianMixture(n_components=2).fit(torch.from_numpy(z), seed=int(seed))
    wanted = density.log_prob(torch.from_numpy(z).double()).numpy()
    np.testing.assert_array_equal(estimator.score_samples(z), wanted)
    assert estimator.score(z) == pytest.approx(wanted.mean())
    first, more = (estimator.sample(n, random_state=7) for n in (5, 300))
    np.testing.assert_array_equal(first, more[:5])
    assert not np.array_equal(first, estimator.sample(5, random_state=8))


def test_parameters_are_the_keywords_of_the_density():
    estimator = VariationalAutoencoderDensity(**VAE)
    assert estimator.get_params()["widths"] == (8,)
    assert estimator.get_params()["beta"] == VariationalAutoencoder().beta
    assert "epochs=1" in repr(estimator)
    again = clone(estimator).set_params(beta=0.5)
    assert again.get_params() == {**estimator.get_params(), "beta": 0.5}
    with pytest.raises(TypeError, match="betta"):
        VariationalAutoencoderDensity(betta=1)
    with pytest.raises(InputError, match="n_components=0"):  # when it is fitted, as scikit-learn has it
        GaussianMixtureDensity(n_components=0).fit(np.eye(9))
    assert not hasattr(estimator, "score_samples")
    assert not hasattr(ManifoldParzenDensity(), "score_samples")
    assert hasattr(GaussianDensity(), "score")


def test_every_density_of_the_registry_has_an_estimator():
    kinds = {one.kind for one in DensityEstimator.__subclasses__() if one.__module__ == "scattergen.sklearn"}
    assert kinds == {DENSITIES[name] for name in DENSITIES if name != "class_conditional"}


@pytest.mark.parametrize("estimator", NETWORKS, ids=lambda estimator: type(estimator).__name__)
def test_networks_fit_and_sample(estimator):
    skip_flow_without_zuko(estimator)
    z = np.random.default_rng(0).standard_normal((150, 3))
    assert estimator.fit(z).sample(4, random_state=0).shape == (4, 3)
    copy = pickle.loads(pickle.dumps(estimator))
    np.testing.assert_array_equal(copy.sample(4, random_state=0), estimator.sample(4, random_state=0))


class Own(DensityEstimator, kind=GaussianMixture):
    """As a user would declare it."""


def test_ones_own_class():
    estimator = Own(n_components=2, random_state=0).fit(np.random.default_rng(0).standard_normal((50, 2)))
    assert clone(estimator).n_components == 2
    assert pickle.loads(pickle.dumps(estimator)).sample(3).shape == (3, 2)


def test_a_search_through_a_pipeline(digits):
    pipeline = make_pipeline(ScatteringTransformer(J=2, L=4), WhitenedPCA(4), GaussianMixtureDensity(random_state=0))
    search = GridSearchCV(pipeline, {"gaussianmixturedensity__n_components": [1, 3]}, cv=2).fit(digits)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    best = search.best_estimator_
    assert best.score_samples(digits).shape == (200,)
    codes = best[-1].sample(3)
    assert best[1].inverse_transform(codes).shape == best[0].transform(digits[:3]).shape


def test_the_page_about_it():
    """Its snippets run, one after another, on fewer digits."""
    text = (
        (DOCS / "scikit-learn.md").read_text().replace("[:2000]", "[:300]").replace("n_components=64", "n_components=8")
    )
    names = {}
    for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(code, names)
    assert names["search"].best_params_["density__n_components"] in (1, 5, 20)
    assert 0 < names["accuracy"] <= 1


def test_without_scikit_learn():
    code = "import sys; sys.modules['sklearn'] = None\nimport scattergen.sklearn"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    last = done.stderr.strip().splitlines()[-1]
    assert last.endswith('scattergen.sklearn needs scikit-learn: run pip install "scattergen[sklearn]".')
