"""The encoder: shapes, the order of its features, whiteness, and independence of batches."""

import pytest
import torch

from scattergen import encoder as encoder_module
from scattergen.encoder import ScatteringEncoder
from scattergen.errors import InputError
from scattergen.progress import Progress
from scattergen.scattering import Scattering2D


def images(n, C=1, H=12, W=16, seed=0):
    return torch.rand(n, C, H, W, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def fitted():
    x = images(200)
    return ScatteringEncoder((1, 12, 16), J=2, L=4, n_components=20).fit(x), x


def test_codes_are_white_on_the_training_images(fitted):
    encoder, x = fitted
    z = encoder.transform(x).double()
    assert z.shape == (200, 20)
    # Float32 codes of values up to 4: sums of 200 products are exact to 1e-5; the projections are
    # differences of coefficients of about 1, divided by deviations of 0.01 and more: 1e-5 again.
    torch.testing.assert_close(z.mean(0), torch.zeros(20).double(), rtol=0, atol=1e-4)
    torch.testing.assert_close(z.T @ z / 200, torch.eye(20).double(), rtol=0, atol=1e-4)


def test_features_are_the_flattened_coefficients_channel_by_channel():
    x = images(5, C=3)
    encoder = ScatteringEncoder((3, 12, 16), J=2, L=3, max_order=1, n_components=2)
    scattering = Scattering2D(J=2, shape=(12, 16), L=3, max_order=1)
    s = encoder.features(x)
    assert encoder.n_features == 3 * 7 * 3 * 4
    assert s.shape == (5, encoder.n_features)
    per_channel = torch.stack([scattering(x[:, channel]) for channel in range(3)], 1)
    # Another batch size may take other kernels: some roundings of values of about 1.
    torch.testing.assert_close(s, per_channel.flatten(1), rtol=1e-6, atol=1e-6)


def test_colour_images_and_other_arguments():
    x = images(60, C=3)
    encoder = ScatteringEncoder((3, 12, 16), J=1, L=3, max_order=1, n_components=10).fit(x)
    assert encoder.transform(x[:7]).shape == (7, 10)
    assert encoder.transform(x[:0]).shape == (0, 10)
    assert encoder.whitening.components_.shape == (10, 3 * 4 * 6 * 8)


def test_the_size_of_batches_does_not_matter(fitted, monkeypatch):
    encoder, x = fitted
    z = encoder.transform(x)
    monkeypatch.setattr(encoder_module, "_BATCH_FLOATS", 7 * encoder.n_features)
    assert encoder.batch_size == 7
    again = ScatteringEncoder((1, 12, 16), J=2, L=4, n_components=20).fit(x)
    # Rounding of the features, 1e-7, is divided by deviations of 0.01 and more and by the relative
    # gaps between eigenvalues, here about 1/50.
    torch.testing.assert_close(encoder.transform(x), z, rtol=0, atol=1e-4)
    torch.testing.assert_close(again.transform(x), z, rtol=0, atol=5e-3)


def test_batches_are_bounded_by_memory_and_hold_an_image_at_least(fitted, monkeypatch):
    encoder, _ = fitted
    assert encoder.batch_size == 1024
    monkeypatch.setattr(encoder_module, "_BATCH_FLOATS", 1)
    assert encoder.batch_size == 1


def test_only_batches_are_read_from_a_source(fitted, monkeypatch):
    encoder, x = fitted
    monkeypatch.setattr(encoder_module, "_BATCH_FLOATS", 30 * encoder.n_features)
    read = []

    class Source:
        shape, labels, fingerprint = (1, 12, 16), None, ""

        def __len__(self):
            return len(x)

        def __getitem__(self, index):
            part = x[index]
            read.append(len(part))
            return part

    torch.testing.assert_close(encoder.transform(Source()), encoder.transform(x))
    assert read == [30] * 6 + [20]


def test_no_gradients_are_recorded(fitted):
    encoder, x = fitted
    assert not encoder.transform(x[:2].clone().requires_grad_()).requires_grad


def test_progress_counts_images(fitted):
    encoder, x = fitted
    stages = []

    class Counting(Progress):
        def task(self, description, total):
            stages.append((description, total))
            return super().task(description, total)

    encoder.transform(x, progress=Counting(show=False))
    assert stages == [("encode", 200)]


@pytest.mark.parametrize("shape", [(5, 1, 16, 12), (5, 3, 12, 16), (5, 12, 16), (1, 12, 16)])
def test_images_of_another_shape(fitted, shape):
    encoder, _ = fitted
    with pytest.raises(InputError, match=r"\(N, 1, 12, 16\)") as error:
        encoder.features(torch.zeros(shape))
    assert str(shape) in str(error.value)


@pytest.mark.parametrize(("n", "most"), [(0, 1), (1, 1), (20, 19)])
def test_too_few_images(n, most):
    encoder = ScatteringEncoder((1, 12, 16), n_components=20)
    with pytest.raises(InputError, match=f"asked of {n} images") as error:
        encoder.fit(images(n))
    assert f"at most {most} " in str(error.value)


def test_more_components_than_coefficients():
    encoder = ScatteringEncoder((1, 4, 4), max_order=0, n_components=2)
    assert encoder.n_features == 1
    with pytest.raises(InputError, match=r"with 1 coefficients each: .* at most 1 "):
        encoder.fit(images(9, H=4, W=4))


def test_equal_images():
    x = images(1).expand(1100, -1, -1, -1)  # two batches, whose features differ by rounding
    with pytest.raises(InputError, match="All 1100 images give the same features"):
        ScatteringEncoder((1, 12, 16), n_components=2).fit(x)


def test_a_transform_that_does_not_fit_the_images():
    with pytest.raises(InputError, match="J=4 does not fit images of 12x16"):
        ScatteringEncoder((1, 12, 16), J=4)


def test_encoding_before_fitting():
    with pytest.raises(InputError, match="call fit first"):
        ScatteringEncoder((1, 12, 16), n_components=2).transform(images(3))


def test_a_stored_encoder_gives_the_same_codes(fitted):
    encoder, x = fitted
    restored = ScatteringEncoder(**encoder.hyperparameters)
    restored.load_state_dict(encoder.state_dict())
    assert torch.equal(restored.transform(x), encoder.transform(x))
    assert restored.whitening.n_samples_ == 200
