"""Least squares from codes, against scikit-learn, and the coefficients that they keep."""

import pytest
import torch
from sklearn.linear_model import LinearRegression

from scattergen.decoder.local import LinearDecoder
from scattergen.encoder import ScatteringEncoder
from scattergen.errors import InputError, RunFolderError


@pytest.fixture(scope="module")
def fitted():
    x = torch.rand(80, 3, 16, 12, generator=torch.Generator().manual_seed(0))
    encoder = ScatteringEncoder((3, 16, 12), J=2, L=4, n_components=30).fit(x)
    z = encoder.transform(x)
    return x, encoder, z, LinearDecoder.of(encoder, n_channels=40).fit(z, x)


def test_it_is_the_regression_of_scikit_learn(fitted):
    x, _, z, linear = fitted
    theirs = LinearRegression().fit(z.numpy(), x.flatten(1).numpy()).predict(z.numpy())
    ours = linear.decode(z).flatten(1)
    # Sums in float32 over 80 images, and a ridge of 1e-6 of the codes' variance.
    assert torch.allclose(ours, torch.from_numpy(theirs).clamp(0, 1), atol=2e-5)


def test_mirrored_images_count_as_much(fitted):
    x, encoder, z, _ = fitted
    mirrored = encoder.transform(x.flip(3))
    both = LinearDecoder.of(encoder).fit(z, x, mirrored)
    stacked = LinearDecoder.of(encoder).fit(torch.cat([z, mirrored]), torch.cat([x, x.flip(3)]))
    # The same sums in another order.
    assert torch.allclose(both.weight, stacked.weight, atol=1e-5)
    assert torch.allclose(both.mean, stacked.mean, atol=1e-6)


def test_only_the_first_images_are_used_if_asked(fitted):
    x, encoder, z, _ = fitted
    first = LinearDecoder.of(encoder).fit(z, x, n=50)
    alone = LinearDecoder.of(encoder).fit(z[:50], x[:50])
    assert torch.equal(first.weight, alone.weight)


def test_all_channels_keep_what_whitening_keeps(fitted):
    """With as many channels as coefficients, the map is that of whitening in other axes."""
    _, encoder, z, _ = fitted
    K = 3 * encoder.scattering.output_shape[0]
    linear = LinearDecoder.of(encoder, n_channels=K)
    ours = torch.einsum("nd,dchw->nchw", z, linear.coefficients)
    whitening = encoder.whitening
    theirs = (whitening.inverse_transform(z) - whitening.mean_).view(len(z), K, *linear.grid)
    scale = theirs.square().mean(dim=(0, 2, 3), keepdim=True).sqrt()
    # Rotations and scalings of channels: the span over samples and places is one.
    a = ours.permute(0, 2, 3, 1).reshape(-1, K).double()
    b = (theirs / scale).permute(0, 2, 3, 1).reshape(-1, K).double()
    residual = b - a @ torch.linalg.lstsq(a, b).solution
    assert residual.square().mean() < 1e-6 * b.square().mean()


def test_channels_are_standardised(fitted):
    _, _, z, linear = fitted
    s = torch.einsum("nd,dchw->nchw", z, linear.coefficients)
    power = s.square().mean(dim=(0, 2, 3))
    # Codes are white over the images of the fit but for (n - 1) / n.
    assert torch.allclose(power, torch.full_like(power, 79 / 80), atol=0.02)


def test_state_round_trip_and_its_errors(fitted):
    _, encoder, z, linear = fitted
    again = LinearDecoder(30, (3, 16, 12), linear.grid, 40)
    again.load_state_dict(linear.state_dict())
    assert torch.equal(again.decode(z), linear.decode(z))
    with pytest.raises(RunFolderError, match='"weight" is missing'):
        again.load_state_dict({"mean": linear.mean})
    with pytest.raises(InputError, match="79 codes do not fit 80 images"):
        LinearDecoder.of(encoder).fit(z[1:], torch.rand(80, 3, 16, 12))


def test_fewer_images_than_components_have_a_solution():
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(5, 9, generator=generator)
    x = torch.rand(5, 1, 4, 4, generator=generator)
    linear = LinearDecoder(9, (1, 4, 4), (1, 1), 1)
    linear.coefficients = torch.zeros(9, 1, 1, 1)
    # Five images in general position are restored but for the ridge.
    assert torch.allclose(linear.fit(z, x).decode(z), x, atol=1e-3)
