"""Mirrored and held-out images, and the number of components that they choose."""

import pytest
import torch

from scattergen.datasets import WithMirrored
from scattergen.display.progress import SILENT
from scattergen.encoder import PCAWhitening, ScatteringEncoder, scattering_encoder
from scattergen.errors import InputError
from scattergen.runs import Stages
from scattergen.stages.fit import fit_encoder


def scenes(n: int, ways: int, noise: float = 0.05, seed: int = 0) -> torch.Tensor:
    """Images that vary in some ways, by smooth patterns, and by noise in each pixel."""
    generator = torch.Generator().manual_seed(seed)
    patterns = torch.randn(ways, 1, 4, 4, generator=torch.Generator().manual_seed(99))
    patterns = torch.nn.functional.interpolate(patterns, size=(16, 16), mode="bilinear")[:, 0]
    x = torch.einsum("nk,khw->nhw", torch.randn(n, ways, generator=generator), patterns)
    x = 0.5 + 0.1 * x[:, None]
    return (x + noise * torch.randn(x.shape, generator=generator)).clamp(0, 1)


def test_the_number_is_that_of_what_images_share():
    """Without a choice there would be 118 components, most of them accidents of 120 images."""
    encoder = ScatteringEncoder((1, 16, 16), J=2, L=4, n_components=100, held_out=0.2)
    x = scenes(150, ways=6, noise=0.15)
    encoder.fit(x)
    chosen = encoder.whitening.n_components
    assert 6 <= chosen <= 32
    unseen = encoder.transform(scenes(200, ways=6, noise=0.15, seed=1))
    assert 0.8 < unseen.square().mean().sqrt() < 1.1
    all_of_them = ScatteringEncoder((1, 16, 16), J=2, L=4, n_components=100).fit(x)
    too_many = all_of_them.transform(scenes(200, ways=6, noise=0.15, seed=1))
    assert too_many.square().mean().sqrt() > 1.15


def test_more_images_allow_more_components():
    chosen = [
        ScatteringEncoder((1, 16, 16), J=2, L=4, n_components=90, held_out=0.1)
        .fit(scenes(n, ways=15, noise=0.15))
        .whitening.n_components
        for n in (30, 600)
    ]
    assert chosen[0] < chosen[1]


def test_a_part_of_many_images_chooses_as_all_of_them_do(monkeypatch):
    """Codes of a part have means, which must not count as what images share."""
    x = scenes(1200, ways=20, noise=0.1)
    chosen = []
    for most in (8192, 500):
        monkeypatch.setattr(scattering_encoder, "_MOST_FITTED", most)
        encoder = ScatteringEncoder((1, 16, 16), J=2, L=4, n_components=60, held_out=0.1)
        monkeypatch.setattr(ScatteringEncoder, "batch_size", 100)
        chosen.append(encoder.fit(x).whitening.n_components)
    # Least squares of fewer images overfit more: they choose half as many at the least.
    assert chosen[0] / 2 <= chosen[1] <= chosen[0]


def test_held_out_images_have_no_part_in_the_components():
    x = scenes(100, ways=6)
    other = torch.cat([x[:90], scenes(10, ways=6, seed=5)])
    a, b = (ScatteringEncoder((1, 16, 16), J=2, L=4, n_components=4, held_out=0.1).fit(y) for y in (x, other))
    # Sums are of deviations from the mean of the first chunk, of whatever it holds: they round
    # otherwise.
    assert torch.allclose(a.whitening.mean_, b.whitening.mean_, atol=1e-6)
    few = min(a.whitening.n_components, b.whitening.n_components)
    ours, theirs = a.whitening.components_[:few], b.whitening.components_[:few]
    assert torch.allclose(ours, theirs, atol=1e-3)


def test_mirrored_images_count_as_much_as_the_others():
    x = scenes(60, ways=6)
    ours = ScatteringEncoder((1, 16, 16), J=2, L=4, n_components=10, flips=True).fit(x)
    both = torch.cat([x, x.flip(3)])
    theirs = ScatteringEncoder((1, 16, 16), J=2, L=4, n_components=10).fit(both)
    assert torch.equal(ours.whitening.components_, theirs.whitening.components_)


def test_a_fit_keeps_the_codes_of_mirrored_images():
    x = scenes(60, ways=6)
    options = {"J": 2, "L": 4, "n_components": 10, "flips": True, "held_out": 0.1}
    encoder, codes, mirrored = fit_encoder(x, options, Stages(None, SILENT))
    # The same products in batches of other sizes.
    assert torch.allclose(codes, encoder.transform(x), atol=1e-4)
    assert torch.allclose(mirrored, encoder.transform(x.flip(3)), atol=1e-4)


@pytest.mark.parametrize("mirrored", [True, False])
@pytest.mark.parametrize("n_held_out", [0, 3])
def test_rows_come_back_to_their_images(mirrored, n_held_out):
    x = torch.arange(14.0).view(7, 1, 1, 2)
    arranged = WithMirrored(x, n_held_out, mirrored)
    plain, flipped = arranged.split(arranged[:].flatten(1))
    assert torch.equal(plain, x.flatten(1))
    assert (flipped is None) == (not mirrored)
    if mirrored:
        assert torch.equal(flipped, x.flip(3).flatten(1))
    seen = arranged[: arranged.n_fit].flatten(1)
    assert seen.max() == 13 - 2 * n_held_out
    assert arranged.shape == (1, 1, 2)
    as_it_is = not mirrored and n_held_out == 0
    assert (arranged.fingerprint == WithMirrored(x, 0, False).fingerprint) == as_it_is


def test_bad_shares_and_numbers_are_named():
    with pytest.raises(InputError, match=r"held_out=0\.7: hold out at most half"):
        ScatteringEncoder((1, 8, 8), J=1, held_out=0.7)
    whitening = PCAWhitening(3).fit(lambda: [torch.randn(20, 5)])
    with pytest.raises(InputError, match="n_components=4: give a whole number of at most 3"):
        whitening.keep(4)
    encoder = ScatteringEncoder((1, 16, 16), J=2, L=4, n_components=4, flips=True)
    with pytest.raises(InputError, match="pass these, and the features too"):
        encoder.fit(encoder.open_features(scenes(20, 3)))
