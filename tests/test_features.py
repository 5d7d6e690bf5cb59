"""Feature extractors: the shipped classifier, scattering, and Inception's absence."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from scattergen.datasets import ImageArray, mnist
from scattergen.errors import InputError
from scattergen.evaluation import (
    DigitFeatures,
    FeatureExtractor,
    InceptionFeatures,
    ScatteringFeatures,
    digit_classifier,
    frechet_distance,
)
from scattergen.scattering import Scattering2D

SCRIPT = Path(__file__).resolve().parent.parent / "tools" / "train_mnist_classifier.py"


@pytest.fixture(scope="module")
def digits():
    return mnist().test


@pytest.fixture(scope="module")
def features():
    return DigitFeatures()


def test_the_shipped_classifier_is_accurate(digits, features):
    with torch.no_grad():
        logits = features.classifier.logits(features(digits))
    # As reported by the training script; a rounding may turn one close decision.
    assert (logits.argmax(1) == digits.labels).sum().item() == pytest.approx(9954, abs=1)


def test_features_of_this_version_stay_as_they_are(digits, features):
    x = features(digits[:200])
    assert (features.name, features.version) == ("mnist-classifier", "1")
    # Nine layers of float32 in another order on other processors: 1e-5 relative at most.
    assert x.double().mean().item() == pytest.approx(0.5444768, rel=1e-4)
    assert x[0, :4].tolist() == pytest.approx([0.9622761, 1.3567797, 0, 0], rel=1e-4, abs=1e-5)
    assert x.min() == 0
    assert (x.max(0).values > 0).all()  # no feature is dead


def test_features_tell_real_digits_from_noise(digits, features):
    real, other = features(digits[:1000]), features(digits[1000:2000])
    noise = features(torch.rand(1000, 1, 28, 28, generator=torch.Generator().manual_seed(0)))
    assert 20 * frechet_distance(real, other) < frechet_distance(real, noise)


def test_a_source_and_its_images_have_the_same_features(digits, features):
    assert torch.equal(features(ImageArray(digits[:70])), features(digits[:70]))
    # Convolution may sum in another order for another batch: float32.
    torch.testing.assert_close(features(digits[64:67]), features(digits[:67])[64:], atol=1e-5, rtol=0)
    assert features(digits[:0]).shape == (0, 128)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [("SHA256", "0" * 64, "damaged.*reinstall"), ("FILE", "gone.safetensors", "cannot be read")],
)
def test_weights_that_are_not_the_shipped_ones_are_refused(monkeypatch, name, value, message):
    digit_classifier._weights.cache_clear()
    monkeypatch.setattr(digit_classifier, name, value)
    with pytest.raises(InputError, match=message):
        DigitFeatures()


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(2, 1, 32, 32), "1 × 28 × 28, not of 1 × 32 × 32.*ScatteringFeatures"),
        (torch.zeros(2, 28, 28), "not of 28 × 28"),
        (torch.zeros(2, 1, 28, 28, dtype=torch.uint8), "divide 8-bit"),
        (torch.full((2, 1, 28, 28), 255.0), "from 255 to 255: divide 8-bit"),
        (torch.full((2, 1, 28, 28), torch.nan), "from nan"),
    ],
)
@pytest.mark.parametrize("kind", [DigitFeatures, lambda: ScatteringFeatures((1, 28, 28))])
def test_unusable_images_are_refused(kind, images, message):
    with pytest.raises(InputError, match=message):
        kind()(images)


@pytest.mark.parametrize("kind", [DigitFeatures, lambda: ScatteringFeatures((1, 28, 28))])
def test_images_in_any_precision_and_container(kind):
    images = (torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(0)) * 16).round() / 16
    expected = kind()(images)
    for same in (images.double(), images.half(), images.numpy(), images.tolist()):
        assert torch.equal(kind()(same), expected)


def test_scattering_features_are_logarithms_of_mean_coefficients():
    images = torch.rand(5, 3, 33, 20, generator=torch.Generator().manual_seed(0))
    extractor = ScatteringFeatures((3, 33, 20))
    assert isinstance(extractor, FeatureExtractor)
    assert extractor.version == "1 J=1 L=8 grid=1 images=3x33x20"
    coefficients = Scattering2D(1, (33, 20))(images)  # (5, 3, 9, H', W')
    expected = torch.log1p(255 * coefficients.mean((3, 4))).flatten(1)
    # Means of a few hundred float32 numbers in another order.
    torch.testing.assert_close(extractor(images), expected, rtol=1e-4, atol=1e-5)
    assert extractor.dimension == expected.shape[1] == 27


def test_regions_of_scattering_features_see_their_part_of_the_image():
    image = torch.zeros(1, 1, 64, 64)
    image[..., 40:60, 40:60] = 1
    extractor = ScatteringFeatures((1, 64, 64), J=3, grid=2)
    means = extractor(image).reshape(-1, 2, 2)
    assert (means[:, 1, 1] >= means.flatten(1).amax(1)).all()
    assert means[0, 0, 0] < 1e-3 * means[0, 1, 1]  # the tail of the low-pass alone reaches there


@pytest.mark.parametrize(
    ("options", "message"), [({"grid": 8}, "1 to 7 regions"), ({"grid": 0}, "1 to 7"), ({"J": 9}, "J=9 does not fit")]
)
def test_scattering_features_that_do_not_fit_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        ScatteringFeatures((1, 28, 28), **options)


def test_inception_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(InputError, match=r"pip install torch-fidelity.*ScatteringFeatures"):
        InceptionFeatures()


def fake_fidelity(monkeypatch, network):
    module = ModuleType("torch_fidelity.feature_extractor_inceptionv3")
    module.FeatureExtractorInceptionV3 = network
    monkeypatch.setitem(sys.modules, "torch_fidelity", ModuleType("torch_fidelity"))
    monkeypatch.setitem(sys.modules, module.__name__, module)


def test_inception_gets_8_bit_colour_images(monkeypatch):
    class Network(torch.nn.Module):
        def __init__(self, name, layers):
            super().__init__()
            assert (name, layers) == ("inception-v3-compat", ["2048"])

        def forward(self, x):
            assert x.dtype == torch.uint8
            return (x.float().mean((2, 3)).repeat(1, 683)[:, :2048],)

    fake_fidelity(monkeypatch, Network)
    found = InceptionFeatures()(torch.full((3, 1, 8, 8), 0.5))
    assert torch.equal(found, torch.full((3, 2048), 128.0))
    with pytest.raises(InputError, match=r"1 or 3, H, W"):
        InceptionFeatures()(torch.zeros(3, 2, 8, 8))


def test_weights_of_inception_that_cannot_be_downloaded(monkeypatch):
    def network(name, layers):
        raise OSError("no route to host")

    fake_fidelity(monkeypatch, network)
    with pytest.raises(InputError, match=r"no route to host.*connect to the network"):
        InceptionFeatures()


@pytest.mark.skipif(not SCRIPT.exists(), reason="the source distribution holds no tools")
def test_training_images_are_moved_by_at_most_two_pixels():
    specification = importlib.util.spec_from_file_location("train_mnist_classifier", SCRIPT)
    script = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(script)
    x = torch.zeros(500, 1, 28, 28)
    x[:, 0, 10, 15] = 1
    rows, columns = script.shifted(x, torch.Generator().manual_seed(0))[:, 0].nonzero()[:, 1:].T
    assert len(rows) == 500
    assert rows.unique().tolist() == [8, 9, 10, 11, 12]
    assert columns.unique().tolist() == [13, 14, 15, 16, 17]
    assert len(torch.stack([rows, columns]).unique(dim=1).T) == 25
