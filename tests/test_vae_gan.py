"""What the densities trained by gradients learn: moments, latent variables in use, stability."""

import math

import pytest
import torch

from scattergen.densities import GenerativeAdversarialNetwork, VariationalAutoencoder
from scattergen.densities.networks import fully_connected
from scattergen.errors import ScattergenError


def normal(n, std, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, len(std), generator=generator) * torch.tensor(std)


def test_latent_variables_in_use_are_those_of_the_theory():
    # For normal codes the optimum is probabilistic PCA with noise σ² = βd/(2H): a direction of
    # variance λ is coded if λ > σ², with divergence ½ log(λ/σ²). Here σ² = 0.25·16/(2·8) = 0.25,
    # and four directions of 16 have λ = 4, the others 0.01.
    z = normal(3000, [2.0] * 4 + [0.1] * 12)
    vae = VariationalAutoencoder(
        n_latent=8, beta=0.25, widths=(64,), epochs=25, batch_size=50, learning_rate=1e-2
    ).fit(z)
    last = vae.history_[-1]
    assert last["validation/active"] == 4
    # 25 epochs of stochastic training reach the optimum to about a tenth.
    assert last["validation/divergence"] == pytest.approx(4 * 0.5 * math.log(4 / 0.25), rel=0.1)
    # The same theory: σ² remains of each coded direction, the others remain whole.
    assert last["validation/squared_error"] == pytest.approx((4 * 0.25 + 12 * 0.01) / 16, rel=0.15)


def test_at_the_papers_beta_every_latent_variable_stays_in_use():
    # Whitened codes: all directions alike. σ² = 0.001·32/(2·8) = 0.002, far below their variance 1.
    vae = VariationalAutoencoder(n_latent=8, widths=(64,), epochs=10).fit(normal(3000, [1.0] * 32))
    assert vae.history_[-1]["validation/active"] == 8


def test_too_large_a_beta_collapses_as_the_theory_says():
    # σ² = 8·4/(2·4) = 4 exceeds the variance 0.25 of every direction.
    vae = VariationalAutoencoder(
        n_latent=4, beta=8.0, widths=(16,), epochs=10, batch_size=50, learning_rate=1e-2
    )
    assert vae.fit(normal(3000, [0.5] * 4)).history_[-1]["validation/active"] == 0


def test_vae_recovers_the_moments_of_a_normal_distribution():
    std = [3.0, 1.0]
    vae = VariationalAutoencoder(
        n_latent=2, beta=0.1, widths=(64,), epochs=15, batch_size=50, learning_rate=1e-2
    )
    codes = vae.fit(normal(3000, std)).sample(10_000)
    # The decoder's mean lacks σ² = 0.05 of variance, 2.5 % of the smaller standard deviation; the
    # rest is how well ReLU networks reach the tails in 15 epochs.
    torch.testing.assert_close(codes.mean(0), torch.zeros(2), atol=0.3, rtol=0)
    torch.testing.assert_close(codes.std(0), torch.tensor(std), rtol=0.25, atol=0)


def test_gan_recovers_the_moments_of_a_normal_distribution():
    std = [2.0, 1.0]
    gan = GenerativeAdversarialNetwork(
        n_latent=4,
        widths=(32,),
        discriminator_widths=(32,),
        epochs=25,
        learning_rate=1e-3,
        batch_size=50,
    )
    codes = gan.fit(normal(2000, std) + 1).sample(10_000)
    # Two players circle around the optimum; these bounds exclude a generator that has collapsed
    # (no variance) or has not moved (mean 0).
    torch.testing.assert_close(codes.mean(0), torch.tensor([1.0, 1.0]), atol=0.5, rtol=0)
    torch.testing.assert_close(codes.std(0), torch.tensor(std), rtol=0.4, atol=0)


def test_early_stopping_restores_the_best_parameters():
    # 40 codes are learnt by heart, after which the held-out loss rises.
    z = normal(40, [1.0] * 8)
    vae = VariationalAutoencoder(
        n_latent=8, widths=(128,), epochs=100, patience=3, learning_rate=1e-2
    ).fit(z)
    losses = [row["validation/loss"] for row in vae.history_]
    assert len(losses) < 100
    assert losses.index(min(losses)) == len(losses) - 1 - 3
    shorter = VariationalAutoencoder(
        n_latent=8, widths=(128,), epochs=100, patience=None, learning_rate=1e-2
    )
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
