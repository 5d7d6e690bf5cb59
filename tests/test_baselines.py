"""One contract for the end-to-end baselines of pixels."""

import math

import numpy as np
import pytest
import torch

from scattergen.datasets import ImageArray, mnist
from scattergen.errors import InputError
from scattergen.paper.pixel_models import DCGAN, PixelVAE, convolutions, transposed_convolutions

SMALL = {
    PixelVAE: {"n_latent": 3, "channels": (8, 4), "epochs": 2, "batch_size": 32, "n_components": 3},
    DCGAN: {"n_latent": 3, "channels": (8, 4), "epochs": 2, "batch_size": 32},
}
# bfloat16 where the processor has it would make these tests differ between machines.
SMALL = {kind: options | {"precision": "float32"} for kind, options in SMALL.items()}
SHAPE = (1, 12, 10)


@pytest.fixture(scope="module")
def images():
    """White squares on black, at random places."""
    x = torch.zeros(100, *SHAPE)
    corners = torch.randint(0, 6, (100, 2), generator=torch.Generator().manual_seed(0))
    for image, (i, j) in zip(x, corners.tolist(), strict=True):
        image[0, i : i + 4, j : j + 4] = 1.0
    return x


@pytest.fixture(params=list(SMALL), ids=lambda kind: kind.__name__)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def fitted(images):
    return {kind: kind(**options).fit(images, seed=3) for kind, options in SMALL.items()}


def same(a, b):
    return a.dtype == b.dtype and a.numpy().tobytes() == b.numpy().tobytes()


def without_seconds(history):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in history]


def test_samples_are_images(kind, fitted):
    for n in (0, 1, 257):
        x = fitted[kind].sample(n, seed=1)
        assert x.shape == (n, *SHAPE)
        assert x.dtype == torch.float32
        assert not x.requires_grad
        assert ((x >= 0) & (x <= 1)).all()


def test_image_k_depends_on_the_seed_and_k_only(kind, fitted):
    x = fitted[kind].sample(300, seed=7)
    for n in (1, 256, 257):
        assert same(fitted[kind].sample(n, seed=7), x[:n])
    assert not torch.equal(x, fitted[kind].sample(300, seed=8))
    assert len(x.unique(dim=0)) == 300


def test_fits_repeat_and_leave_the_global_random_state_alone(kind, images, fitted):
    torch.manual_seed(11)
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    again = kind(**SMALL[kind]).fit(images.clone(), seed=3)
    assert same(again.sample(20), fitted[kind].sample(20))
    other = kind(**SMALL[kind]).fit(images, seed=4)
    assert not torch.equal(other.sample(20), again.sample(20))
    assert torch.equal(torch.get_rng_state(), before)
    assert (np.random.get_state()[1] == numpy_before).all()


def test_sources_and_arrays_of_images_do_too(kind, images, fitted):
    grey = (255 * images[:, 0]).to(torch.uint8).numpy()  # 0 and 255: exactly the same images
    for given in (grey, ImageArray(grey)):
        again = kind(**SMALL[kind]).fit(given, seed=3)
        assert same(again.sample(20), fitted[kind].sample(20))


@pytest.mark.parametrize("shape", [(3, 9, 14), (1, 4, 4), (2, 7, 5)])
def test_any_size_and_number_of_channels(kind, shape):
    x = torch.rand(8, *shape, generator=torch.Generator().manual_seed(0))
    model = kind(**(SMALL[kind] | {"epochs": 1, "batch_size": 8})).fit(x)
    assert model.sample(2).shape == (2, *shape)
    assert model.image_shape_ == shape


def test_networks_of_other_depths():
    for channels in [(4,), (4, 3, 2)]:
        down = convolutions((1, 13, 8), channels, 5, seed=0, first_norm=True)
        up = transposed_convolutions(5, (1, 13, 8), channels, seed=0)
        assert up(down(torch.zeros(2, 1, 13, 8))).shape == (2, 1, 13, 8)


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_the_bound_of_the_vae_rises_and_its_samples_resemble_the_images(images, likelihood):
    options = SMALL[PixelVAE] | {"epochs": 30, "learning_rate": 1e-2, "likelihood": likelihood}
    vae = PixelVAE(**options).fit(images)
    losses = [row["loss"] for row in vae.history_]
    assert losses[-1] < 0.7 * losses[0] if likelihood == "bernoulli" else losses[-1] < losses[0] - 50
    # The squares cover 16 of 120 pixels; an untrained network gives grey images of mean 1/2.
    assert vae.sample(256).mean().item() == pytest.approx(16 / 120, abs=0.05)


@pytest.mark.slow
def test_the_gan_learns_where_the_images_are_black(images):
    gan = DCGAN(**(SMALL[DCGAN] | {"epochs": 120, "learning_rate": 2e-3, "decay": 0.9})).fit(images)
    # No square reaches the last row and column; untrained samples are grey, 1/2, there too.
    border = torch.cat([gan.sample(256)[..., -1, :].flatten(), gan.sample(256)[..., -1].flatten()])
    assert border.mean() < 0.1
    assert 0.05 < gan.sample(256).mean() < 0.3


def test_the_bernoulli_bound_is_that_of_binarised_images(images):
    # E over binarised b of -log p(b|g) is the cross-entropy of x, since it is linear in b.
    vae = PixelVAE(**(SMALL[PixelVAE] | {"beta": 0.0})).fit(images, seed=1)
    grey = torch.full((4, *SHAPE), 0.25)
    logits = torch.linspace(-2, 2, grey.numel()).view_as(grey)
    modules = {"vae": lambda x, noise: (None, logits, torch.zeros(4, 3))}
    loss = vae._loss(modules, (grey,), torch.Generator())
    g = torch.sigmoid(logits)
    expected = -(0.25 * g.log() + 0.75 * (1 - g).log()).sum() / 4
    # About 500 float32 terms of size 1: relative rounding errors of 1e-7 √500.
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_mixture_has_the_moments_of_the_latent_draws(images, fitted):
    vae = fitted[PixelVAE]
    with torch.no_grad():
        output = vae.encoder_(images)
    # Of 100 draws and 20,000 samples; the spread of h is about 1, so its mean has an error of 0.1.
    h = vae.prior_.sample(20_000)
    torch.testing.assert_close(h.mean(0), output[:, :3].mean(0), rtol=0, atol=0.4)
    assert vae.prior_.weights_.shape == (3,)


def test_latent_variances_are_bounded(images):
    vae = PixelVAE(**SMALL[PixelVAE])
    vae.image_shape_ = SHAPE
    modules, _ = vae._begin(seed=0)
    last = vae.encoder_[-1]
    with torch.no_grad():  # an encoder that says h ~ N(0, exp(1000)) of every image
        last.weight.zero_()
        last.bias.copy_(torch.tensor([0.0, 1000.0]).repeat_interleave(3))
        h, _, divergence = modules["vae"](images, torch.ones(len(images), 3))
    torch.testing.assert_close(h, torch.full_like(h, math.exp(5)))
    torch.testing.assert_close(divergence, torch.full_like(divergence, 0.5 * (math.exp(10) - 11)))
    # The deviation of 300 numbers has an error of 4 %; five of them.
    assert vae.fit_prior(images).prior_.sample(20_000).std().item() == pytest.approx(math.exp(5), rel=0.2)


def test_an_interrupted_fit_continues_to_the_same_model(kind, images, fitted, tmp_path):
    checkpoint = tmp_path / "checkpoint"
    steps = iter(range(4))  # of the 6 of both epochs: the first epoch is in the checkpoint

    def stop(seconds):
        if next(steps, None) is None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        kind(**SMALL[kind]).fit(images, seed=3, checkpoint=checkpoint, on_step=stop)
    seen = []
    resumed = kind(**SMALL[kind]).fit(images, seed=3, checkpoint=checkpoint, on_step=seen.append)
    assert len(seen) == 3
    assert same(resumed.sample(50), fitted[kind].sample(50))
    assert without_seconds(resumed.history_) == without_seconds(fitted[kind].history_)


def test_samples_during_the_training_are_of_its_present_state_and_change_nothing(kind, images, fitted):
    model, samples = kind(**SMALL[kind]), []
    model.fit(images, seed=3, on_step=lambda seconds: samples.append(model.fit_prior(images).sample(20)))
    assert len(samples) == 6
    assert not torch.equal(samples[0], samples[-1])
    assert same(model.sample(20), fitted[kind].sample(20))


def test_seconds_end_the_training(kind, images):
    model = kind(**(SMALL[kind] | {"epochs": 10**6})).fit(images, max_seconds=0.2)
    assert 0.2 <= model.history_[-1]["seconds"] < 20  # a step takes milliseconds, the rest is slack


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (torch.full((8, *SHAPE), 2.0), r"values from 2 to 2: expected floats in \[0, 1\]"),
        (torch.zeros(12, 10), "looks like a single image"),
        (mnist(), "give one part"),
        ("digits", "str cannot be used as images"),
    ],
    ids=["range", "axes", "dataset", "text"],
)
def test_unusable_images_are_refused(kind, given, message):
    with pytest.raises(InputError, match=message):
        kind(**SMALL[kind]).fit(given)
