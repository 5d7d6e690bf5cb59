"""What the densities trained by gradients learn: moments, latent variables in use, stability."""

import json
import math
import sys

import numpy as np
import pytest
import torch
from torch import nn

from scattergen.densities import IMPROVED, GenerativeAdversarialNetwork, VariationalAutoencoder, hyperparameters, make
from scattergen.densities.networks import AverageNetwork, Dropout, fully_connected, posterior
from scattergen.densities.sampling import hold_out
from scattergen.errors import InputError, RunFolderError, ScattergenError
from scattergen.training.loop import train

# A short training that ends at the optimum.
QUICK = {"epochs": 20, "batch_size": 50, "learning_rate": 1e-2, "schedule": "one_cycle", "initialization": "he"}


def normal(n, std, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, len(std), generator=generator) * torch.tensor(std)


def test_latent_variables_in_use_are_those_of_the_theory():
    # For normal codes the optimum is probabilistic PCA with noise σ² = βd/2: a direction of
    # variance λ is coded if λ > σ², with divergence ½ log(λ/σ²). Here σ² = 0.25 with d = 16, and
    # four directions of 16 have λ = 4, the others 0.01.
    z = normal(3000, [2.0] * 4 + [0.1] * 12)
    vae = VariationalAutoencoder(n_latent=8, beta=2 * 0.25 / 16, widths=(64,), **QUICK | {"epochs": 25}).fit(z)
    last = vae.history_[-1]
    assert last["validation/active"] == 4
    # 25 epochs of stochastic training reach the optimum to about a tenth.
    assert last["validation/divergence"] == pytest.approx(4 * 0.5 * math.log(4 / 0.25), rel=0.1)
    # The same theory: σ² remains of each coded direction, the others remain whole.
    assert last["validation/squared_error"] == pytest.approx((4 * 0.25 + 12 * 0.01) / 16, rel=0.15)


def test_at_the_papers_beta_every_latent_variable_stays_in_use():
    # Whitened codes: all directions alike. σ² = 0.001·32/2 = 0.016, far below their variance 1.
    vae = VariationalAutoencoder(n_latent=8, widths=(64,), **QUICK | {"epochs": 10})
    vae.fit(normal(3000, [1.0] * 32))
    assert vae.history_[-1]["validation/active"] == 8


def test_the_start_decides_whether_the_papers_beta_collapses():
    # Ten clusters in 256 white dimensions, at the paper's σ² = βd/2 = 0.256.
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(10, 256, generator=generator)
    labels = torch.randint(10, (8000,), generator=generator)
    z = centres[labels] + torch.randn(8000, 256, generator=generator)
    values, vectors = torch.linalg.eigh(z.T.cov())
    z = (z - z.mean(0)) @ vectors / values.sqrt()
    options = {"n_latent": 16, "beta": 0.002, "epochs": 13, "batch_size": 64, "patience": None}
    last = VariationalAutoencoder(**options).fit(z).history_[-1]
    collapsed = VariationalAutoencoder(**options, initialization="he").fit(z).history_[-1]
    # Which cluster it is takes log 10 = 2.3 nats; a collapsed q(h|z) says nothing.
    assert last["validation/divergence"] > 2.3
    assert collapsed["validation/divergence"] < 1
    assert last["validation/loss"] < collapsed["validation/loss"]


def test_training_starts_from_narrow_posteriors():
    vae = VariationalAutoencoder(n_latent=3, widths=(8,))
    encoder, _ = vae._build(5, seed=0)
    _, log_variance = posterior(encoder, 100 * torch.randn(50, 5))
    # -4 but for the bound, 20 tanh(-4/20).
    torch.testing.assert_close(log_variance, torch.full((50, 3), 20 * math.tanh(-0.2)))
    assert encoder[0].weight.abs().max() <= 5**-0.5


def test_log_variances_are_bounded():
    encoder = nn.Linear(1, 2, bias=False)
    nn.init.ones_(encoder.weight)
    _, log_variance = posterior(encoder, torch.tensor([[1e6], [-1e6], [1.0]]))
    assert log_variance.flatten().tolist() == pytest.approx([20, -20, 20 * math.tanh(1 / 20)])


def test_too_large_a_beta_collapses_as_the_theory_says():
    # σ² = 2·4/2 = 4 exceeds the variance 0.25 of every direction.
    vae = VariationalAutoencoder(n_latent=4, beta=2.0, widths=(16,), **QUICK | {"epochs": 10})
    assert vae.fit(normal(3000, [0.5] * 4)).history_[-1]["validation/active"] == 0


def test_vae_recovers_the_moments_of_a_normal_distribution():
    std = [3.0, 1.0]
    vae = VariationalAutoencoder(n_latent=2, beta=0.05, widths=(64,), **QUICK | {"epochs": 15})
    codes = vae.fit(normal(3000, std)).sample(10_000)
    # The decoder's mean lacks σ² = 0.05 of variance, 2.5 % of the smaller standard deviation; the
    # rest is how well ReLU networks reach the tails in 15 epochs.
    torch.testing.assert_close(codes.mean(0), torch.zeros(2), atol=0.3, rtol=0)
    torch.testing.assert_close(codes.std(0), torch.tensor(std), rtol=0.25, atol=0)


def test_gan_recovers_the_moments_of_a_normal_distribution():
    std = [2.0, 1.0]
    gan = GenerativeAdversarialNetwork(
        n_latent=4, widths=(32,), discriminator_widths=(32,), epochs=25, learning_rate=1e-3, batch_size=50
    )
    codes = gan.fit(normal(2000, std) + 1).sample(10_000)
    # Two players circle around the optimum; these bounds exclude a generator that has collapsed
    # (no variance) or has not moved (mean 0).
    torch.testing.assert_close(codes.mean(0), torch.tensor([1.0, 1.0]), atol=0.5, rtol=0)
    torch.testing.assert_close(codes.std(0), torch.tensor(std), rtol=0.4, atol=0)


def test_early_stopping_restores_the_best_parameters():
    # 40 codes are learnt by heart, after which the held-out loss rises.
    z = normal(40, [1.0] * 8)
    vae = VariationalAutoencoder(n_latent=8, widths=(128,), epochs=100, patience=3, learning_rate=1e-2).fit(z)
    losses = [row["validation/loss"] for row in vae.history_]
    assert len(losses) < 100
    assert losses.index(min(losses)) == len(losses) - 1 - 3
    shorter = VariationalAutoencoder(n_latent=8, widths=(128,), epochs=100, patience=None, learning_rate=1e-2)
    assert len(shorter.fit(z).history_) == 100


def test_a_diverging_training_says_what_to_do():
    # The squares of codes near the largest float32 overflow.
    with pytest.raises(ScattergenError, match="lower the learning rate"):
        VariationalAutoencoder(n_latent=2, widths=(8,)).fit(normal(200, [1e30] * 4))


@pytest.mark.parametrize("kind", [VariationalAutoencoder, GenerativeAdversarialNetwork])
def test_outliers_and_codes_of_any_scale_give_finite_samples(kind):
    z = normal(200, [1.0] * 4)
    z[0] = 1e3  # an outlier
    for scale in (1e-3, 1.0, 1e3):
        density = kind(n_latent=2, widths=(8,), epochs=3)
        assert torch.isfinite(density.fit(z * scale).sample(10)).all()


def test_networks_have_the_described_layers():
    network = fully_connected([3, 5, 7, 2], seed=1, slope=0.2, batch_norm=True)
    kinds = [type(layer).__name__ for layer in network]
    assert kinds == ["Linear", "BatchNorm1d", "LeakyReLU"] * 2 + ["Linear"]
    wide = fully_connected([400, 300, 200], seed=0)
    # A sample standard deviation of m numbers errs by 1/sqrt(2m), here 0.2 and 0.3 %.
    assert wide[0].weight.std().item() == pytest.approx((2 / 400) ** 0.5, rel=0.01)
    assert wide[2].weight.std().item() == pytest.approx((1 / 300) ** 0.5, rel=0.015)
    assert torch.equal(wide[0].weight, fully_connected([400, 300, 200], seed=0)[0].weight)
    assert not torch.equal(wide[0].weight, fully_connected([400, 300, 200], seed=1)[0].weight)
    uniform = fully_connected([400, 300, 200], seed=0, initialization="uniform")
    for fan_in, layer in zip((400, 300), uniform[::2], strict=True):
        for parameter in layer.parameters():
            assert parameter.abs().max() <= fan_in**-0.5
            # Of 200 and more uniform numbers the largest is below 0.95 with probability 4e-5.
            assert parameter.abs().max() > 0.95 * fan_in**-0.5
        assert layer.weight.std().item() == pytest.approx((1 / 3 / fan_in) ** 0.5, rel=0.01)


def test_dropout_is_that_of_its_generator_and_keeps_the_mean():
    layer, x = Dropout(0.25), torch.ones(400, 100)
    layer.generator = torch.Generator().manual_seed(0)
    y = layer(x)
    assert y.unique().tolist() == pytest.approx([0, 4 / 3])
    # 40,000 draws: the mean errs by sqrt(1/3/40,000) = 0.003; five of it.
    assert y.mean().item() == pytest.approx(1, abs=0.015)
    layer.generator.manual_seed(0)
    assert torch.equal(layer(x), y)
    assert torch.equal(layer.eval()(x), x)


def test_a_fitted_gan_keeps_no_source_of_randomness():
    gan = GenerativeAdversarialNetwork(n_latent=2, widths=(8,), epochs=1).fit(normal(50, [1.0] * 3))
    dropouts = [m for m in gan.discriminator_.modules() if isinstance(m, Dropout)]
    assert len(dropouts) == 2
    assert all(layer.generator is None for layer in dropouts)


def test_diagonal_noise_restores_the_variances_that_the_decoder_leaves_out():
    # Probabilistic PCA again: σ² = 0.25 remains of the four coded directions (λ = 4), and all of
    # the others (0.01). With it samples have the variances of the codes; without it 4 - σ² and 0.
    std = [2.0] * 4 + [0.1] * 12
    vae = VariationalAutoencoder(
        n_latent=8, beta=2 * 0.25 / 16, widths=(64,), noise="diagonal", **QUICK | {"epochs": 25}
    ).fit(normal(3000, std))
    remaining = vae.residual_[1].square()
    # As precise as the training, see above; the others' variance by 3000 codes errs by 3 %.
    torch.testing.assert_close(remaining[:4], torch.full((4,), 0.25), rtol=0.25, atol=0)
    torch.testing.assert_close(remaining[4:], torch.full((12,), 0.01), rtol=0.15, atol=0)
    codes = vae.sample(10_000)
    torch.testing.assert_close(codes.std(0), torch.tensor(std), rtol=0.15, atol=0)


@pytest.mark.parametrize("prior", ["normal", "mixture"])
def test_full_noise_restores_the_covariance(prior):
    # One strong direction for h, and noise that is correlated.
    strong, noise = normal(3000, [3.0]), normal(3000, [0.5, 0.5], seed=1)
    z = torch.cat([strong, noise[:, :1], noise.sum(1, keepdim=True)], dim=1)
    vae = VariationalAutoencoder(
        n_latent=1, beta=0.1, widths=(32,), prior=prior, noise="full", n_components=1, **QUICK | {"epochs": 30}
    ).fit(z)
    found, wanted = vae.sample(20_000).T.cov(), z.T.cov()
    # Sampling errs by 1 % of the variances; the rest is how far q(h) is from normal: 20 % for the
    # strong direction, of which the decoder's tails are the larger part.
    scale = wanted.diagonal().sqrt()
    error = (found - wanted) / (scale[:, None] * scale)
    assert error[1:, 1:].abs().max() < 0.05
    assert error.abs().max() < 0.2


def test_learnt_variances_are_those_of_factor_analysis():
    # z = Λh + e with variances ψ of e. The exact posterior of h is normal with constant variance,
    # so the best bound (β = 1/d) is the likelihood: ½ log det(ΛΛᵀ + ψ) + d/2 for the loss times d.
    psi = torch.tensor([0.04, 0.09, 0.16, 0.25, 0.01, 0.04])
    loadings = torch.tensor([[1.0, 1.0, -1.0, 2.0, 0.5, 0.0]])
    z = normal(6000, [1.0]) @ loadings + normal(6000, psi.sqrt().tolist(), seed=1)
    vae = VariationalAutoencoder(
        n_latent=2, beta=1 / 6, widths=(32,), learn_variance=True, noise="diagonal",
        **QUICK | {"epochs": 30, "learning_rate": 5e-3},
    ).fit(z)  # fmt: skip
    best = 0.5 * torch.logdet(loadings.T @ loadings + psi.diag()).item() + 3
    # 500 held-out codes determine half a squared norm of 6 components to sqrt(6/2/500) = 0.08.
    assert 6 * vae.history_[-1]["validation/loss"] == pytest.approx(best, abs=0.25)
    # What h tells of z: ½ log(1 + Λᵀψ⁻¹Λ) nats. Its estimate varies with h²/2, by 0.7 / sqrt(500) = 0.03.
    information = 0.5 * torch.log1p((loadings.square() / psi).sum()).item()
    assert vae.history_[-1]["validation/divergence"] == pytest.approx(information, abs=0.1)
    torch.testing.assert_close(vae.residual_[1].square(), psi, rtol=0.25, atol=0.005)


def two_clusters(n):
    sides = torch.where(torch.rand(n, generator=torch.Generator().manual_seed(2)) < 0.3, -1.0, 1.0)
    return torch.cat([4 * sides[:, None], sides[:, None] * 0], 1) + normal(n, [0.5, 0.5])


def test_a_mixture_prior_leaves_gaps_empty():
    vae = VariationalAutoencoder(
        n_latent=2, widths=(32,), prior="mixture", noise="full", n_components=2, **QUICK | {"epochs": 10}
    ).fit(two_clusters(3000))
    x = vae.sample(10_000)[:, 0]
    # The clusters end five standard deviations from 1.5. A continuous decoder of N(0, I) draws
    # cannot avoid the gap; two Gaussians of h can, up to their tails.
    assert (x.abs() < 1.5).float().mean() < 0.01
    assert (x < 0).float().mean().item() == pytest.approx(0.3, abs=0.03)


def test_the_stable_gan_covers_eight_modes_with_their_shares():
    generator = torch.Generator().manual_seed(0)
    angles = torch.arange(8) * math.pi / 4
    centres = 2 * torch.stack([angles.cos(), angles.sin()], dim=1)
    chosen = torch.randint(8, (4000,), generator=generator)
    z = centres[chosen] + 0.1 * torch.randn(4000, 2, generator=generator)
    gan = GenerativeAdversarialNetwork(
        n_latent=4, widths=(64, 64), discriminator_widths=(64, 64), epochs=30, batch_size=100,
        learning_rate=2e-3, batch_norm=False, loss="relativistic", gradient_penalty=0.1, decay=0.99,
    ).fit(z)  # fmt: skip
    distances, nearest = torch.cdist(gan.sample(4000), centres).min(1)
    shares = torch.bincount(nearest[distances < 0.5], minlength=8) / 4000
    # Each mode has an eighth. A collapsed generator leaves modes with nothing.
    assert shares.min() > 0.05
    assert shares.max() < 0.25


def test_gradient_penalty_of_a_linear_discriminator():
    # The gradient of aᵀz + b is a everywhere: γ/2 |a|² for the codes and as much for the samples.
    linear = nn.Linear(3, 1)
    modules = {"discriminator": linear, "generator": fully_connected([2, 4, 3], seed=0)}
    z, values = normal(5, [1.0] * 3), []
    for weight in (0.0, 0.7):
        gan = GenerativeAdversarialNetwork(n_latent=2, gradient_penalty=weight)
        noise = torch.Generator().manual_seed(0)
        values.append(gan._discriminator_loss(modules, (z,), noise).item())
    assert values[1] - values[0] == pytest.approx(0.7 * linear.weight.square().sum().item(), 1e-4)


def test_average_of_a_network():
    network = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(network.weight)
    average = AverageNetwork(network, decay=0.5)
    nn.init.ones_(network.weight)
    for n in range(1, 5):
        average.update(network)
        # The decays n/(n + 9) of the first steps are 0.1, 2/11, 3/12 and 4/13, below 0.5.
        left = math.prod(k / (k + 9) for k in range(1, n + 1))
        assert average.average.weight.item() == pytest.approx(1 - left, abs=1e-6)


SMALL = {"widths": (16,), "n_latent": 3, "epochs": 2, "batch_size": 64}
VARIANTS = [
    ("vae", {"noise": "diagonal"}),
    ("vae", {"noise": "full", "learn_variance": True}),
    ("vae", {"prior": "mixture", "n_components": 2}),
    ("vae", {"prior": "mixture", "noise": "diagonal", "n_components": 2}),
    ("vae", {"prior": "mixture", "noise": "full", "n_components": 2}),
    ("gan", {"leading": 3, "n_components": 2, "decay": 0.9}),
    ("gan", {"loss": "relativistic", "gradient_penalty": 1.0, "batch_norm": False}),
]


@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_variants_return_from_their_state_and_continue(name, options, tmp_path, monkeypatch):
    z = normal(300, [1.0, 2.0, 0.5, 1.0, 0.1])
    options = SMALL | options
    density = make(name, **options).fit(z, seed=3)
    codes = density.sample(300, seed=1)
    assert codes.shape == (300, 5)
    assert torch.isfinite(codes).all()
    assert torch.equal(density.sample(10, seed=1), codes[:10])

    again = make(name, **json.loads(json.dumps(hyperparameters(density))))
    again.load_state_dict(density.state_dict())
    assert torch.equal(again.sample(300, seed=1), codes)
    assert again.description == density.description
    state = density.state_dict()
    optional = ("history/", "num_batches_tracked")
    for key in (key for key in state if not any(part in key for part in optional)):
        with pytest.raises(RunFolderError, match="fit"):
            make(name, **options).load_state_dict({k: t for k, t in state.items() if k != key})
        with pytest.raises(RunFolderError, match="fit"):
            make(name, **options).load_state_dict(state | {key: torch.zeros(2, 2, 2, 2)})

    class KilledError(Exception):
        pass

    def kill(history):
        raise KilledError

    checkpoint = tmp_path / "checkpoint.safetensors"
    with monkeypatch.context() as patched:
        module = sys.modules[type(density).__module__]
        patched.setattr(module, "train", lambda *a, **k: train(*a, **k, on_epoch=kill))
        with pytest.raises(KilledError):
            make(name, **options).fit(z, seed=3, checkpoint=checkpoint)
    continued = make(name, **options).fit(z, seed=3, checkpoint=checkpoint)
    assert torch.equal(continued.sample(300, seed=1), codes)


def test_the_generated_components_carry_the_rest_with_them():
    x = normal(2000, [2.0, 1.0])
    z = torch.cat([x, x.sum(1, keepdim=True) + normal(2000, [0.1], seed=1)], dim=1)
    gan = GenerativeAdversarialNetwork(
        n_latent=4, widths=(32,), discriminator_widths=(32,), epochs=3, leading=2, n_components=1
    )
    codes = gan.fit(z).sample(2000)
    # However bad the generator, the third component is the sum of its two, with noise 0.1. The
    # slopes, determined to 0.1/sqrt(2000), hardly add to that.
    assert (codes[:, 2] - codes[:, 0] - codes[:, 1]).std().item() == pytest.approx(0.1, rel=0.1)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("vae", {"prior": "flat"}, "one of 'normal', 'mixture'"),
        ("vae", {"noise": None}, "one of 'none', 'diagonal', 'full'"),
        ("vae", {"n_latent": None}, "n_latent=None: give a whole number"),
        ("vae", {"beta": None}, "beta=None: give a number"),
        ("vae", {"initialization": "zero"}, "one of 'uniform', 'he'"),
        ("vae", {"schedule": "cosine"}, "schedule='cosine': give one of"),
        ("vae", {"n_components": 0}, "at least 1"),
        ("gan", {"loss": "hinge"}, "relativistic"),
        ("gan", {"gradient_penalty": -1.0}, "at least 0"),
        ("gan", {"decay": 1.0}, "below 1"),
        ("gan", {"leading": 0}, "at least 1"),
        ("gan", {"dropout": 1.0}, "at least 0 and below 1"),
        ("gan", {"initialization": "zero"}, "one of 'uniform', 'he'"),
        ("gan", {"betas": [0.9]}, "two decay rates"),
        ("gan", {"schedule": "cosine"}, "give one of"),
    ],
)
def test_bad_keywords_of_the_variants_are_refused(name, options, message):
    with pytest.raises(InputError, match=message):
        (VariationalAutoencoder if name == "vae" else GenerativeAdversarialNetwork)(**options)


def test_more_components_than_codes_can_carry_are_refused_before_the_training():
    vae = VariationalAutoencoder(prior="mixture", n_components=20, epochs=10**6)
    with pytest.raises(InputError, match="use at most 15"):
        vae.fit(normal(30, [1.0] * 4))


def test_the_improved_keywords_are_valid():
    for name, options in IMPROVED.items():
        assert {key: hyperparameters(make(name, **options))[key] for key in options} == options


def test_early_stopping_looks_at_codes_of_all_positions():
    """Every twelfth code lies far off: a random twelfth has few of these, and training sees most of them."""
    z = normal(1200, [1.0, 1.0])
    z[11::12, 0] += 20
    vae = VariationalAutoencoder(n_latent=1, widths=(8,), **QUICK | {"epochs": 1}).fit(z)
    # Codes as they are have mean squares of 1 + 400/24 = 18 on average, and of 201 if all lay far off. The number of
    # such codes among 100 random ones is 8 ± 3, so that three standard deviations reach 1 + 200 · 0.17 = 35.
    assert vae.history_[-1]["validation/squared_error"] < 40


def test_what_is_held_out_is_random_and_follows_the_seed():
    first, again, other = (hold_out(60_000, np.random.default_rng(seed), 1 / 12) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.sum() == 5000
    # Of 5,000 random codes 417 ± 20 have each remainder by twelve.
    counts = first.nonzero()[:, 0].remainder(12).bincount(minlength=12)
    assert (counts - 417).abs().max() < 100


@pytest.mark.parametrize(("n_latent", "d", "noise"), [(3, 4, "full"), (2, 5, "full"), (2, 4, "none")])
def test_a_mixture_of_other_latent_variables_or_codes_is_refused(n_latent, d, noise):
    options = {"widths": (8,), "epochs": 1, "prior": "mixture", "n_components": 2}
    vae = VariationalAutoencoder(n_latent=2, noise="full", **options).fit(normal(60, [1.0] * 4))
    other = VariationalAutoencoder(n_latent=n_latent, noise=noise, **options).fit(normal(60, [1.0] * d))
    mixture = {name: tensor for name, tensor in other.state_dict().items() if name.startswith("leading/")}
    with pytest.raises(RunFolderError, match="leading/"):
        vae.load_state_dict({**vae.state_dict(), **mixture})
