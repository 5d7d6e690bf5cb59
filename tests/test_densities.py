"""One contract for every registered density, and for one that a user registers."""

import json
import math
import re
import subprocess
import sys
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import Protocol

import numpy as np
import pytest
import torch

from scattergen import densities
from scattergen.densities import (
    DENSITIES,
    Density,
    Flow,
    Gaussian,
    GaussianMixture,
    GenerativeAdversarialNetwork,
    LikelihoodDensity,
    ManifoldParzen,
    VariationalAutoencoder,
    draw_in_chunks,
    hyperparameters,
    make,
    names,
    registered_name,
    registry,
    sample_density,
)
from scattergen.errors import InputError, RunFolderError, ScattergenError
from scattergen.files.tensors import read_tensors, write_tensors
from scattergen.training import TrainingSettings
from scattergen.training.loop import train
from small_densities import GRADIENT, SMALL, D, fit
from small_densities import codes as small_codes


@pytest.fixture(scope="module")
def z():
    return small_codes()


@pytest.fixture(scope="module")
def fitted(z):
    return {name: fit(make(name, **SMALL[name]), z, seed=3) for name in SMALL}


@pytest.fixture(params=list(DENSITIES))
def name(request):
    return request.param


def same(a, b):
    return a.dtype == b.dtype and a.numpy().tobytes() == b.numpy().tobytes()


def test_every_registered_density_is_covered():
    assert set(SMALL) == set(DENSITIES)


def test_it_satisfies_the_protocol(name, fitted):
    density = fitted[name]
    assert isinstance(density, Density)
    assert registered_name(density) == name
    assert density.n_features_ == D
    assert str(D) in density.description
    assert make(name).description  # before the fit too
    assert "\n" not in density.description
    assert [row["epoch"] for row in density.history_] == list(range(1, len(density.history_) + 1))
    assert all(row["seconds"] >= 0 for row in density.history_)


def test_samples_are_finite_codes(name, fitted):
    for n in (0, 1, 257):
        codes = fitted[name].sample(n, seed=1)
        assert codes.shape == (n, D)
        assert codes.dtype == torch.float32
        assert codes.device.type == "cpu"
        assert torch.isfinite(codes).all()
        assert not codes.requires_grad


def test_code_k_depends_on_the_seed_and_k_only(name, fitted):
    density = fitted[name]
    all_codes = density.sample(600, seed=7)
    for n in (1, 64, 256, 257, 599):
        assert same(density.sample(n, seed=7), all_codes[:n])
    assert not torch.isclose(all_codes, density.sample(600, seed=8)).any(1).all()
    # Different chunks are different, and no code occurs twice.
    assert len(all_codes.unique(dim=0)) == 600


def test_samples_do_not_depend_on_the_number_of_threads(name, fitted):
    torch.set_num_threads(1)
    one = fitted[name].sample(300, seed=2)
    torch.set_num_threads(3)
    assert same(one, fitted[name].sample(300, seed=2))


def test_fits_repeat_and_leave_the_global_random_state_alone(name, z, fitted):
    torch.manual_seed(11)
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    again = fit(make(name, **SMALL[name]), z, seed=3)
    assert same(again.sample(50), fitted[name].sample(50))
    assert torch.equal(torch.get_rng_state(), before)
    assert (np.random.get_state()[1] == numpy_before).all()


def test_codes_may_have_a_history_of_autograd(name, z, fitted):
    again = fit(make(name, **SMALL[name]), z.clone().requires_grad_(), seed=3)
    assert same(again.sample(20), fitted[name].sample(20))


def test_fitting_leaves_the_codes_alone(name, z):
    codes = z.clone()
    fit(make(name, **SMALL[name]), codes)
    assert torch.equal(codes, z)


def test_it_returns_from_a_file_unchanged(name, fitted, tmp_path):
    density = fitted[name]
    metadata = {"name": registered_name(density), "options": hyperparameters(density)}
    write_tensors(tmp_path / "density.safetensors", density.state_dict(), metadata)
    tensors, metadata = read_tensors(tmp_path / "density.safetensors")
    loaded = make(metadata["name"], **metadata["options"])
    loaded.load_state_dict(tensors)
    assert same(loaded.sample(300, seed=5), density.sample(300, seed=5))
    assert loaded.history_ == density.history_
    assert loaded.description == density.description
    assert loaded.n_features_ == D


def test_hyperparameters_survive_json(name):
    options = hyperparameters(make(name, **SMALL[name]))
    again = make(name, **json.loads(json.dumps(options)))
    assert hyperparameters(again) == options
    assert set(SMALL[name]) <= set(options)


def test_a_state_with_missing_or_other_tensors_is_refused(name, fitted):
    state = fitted[name].state_dict()
    # PyTorch fills in a missing count of batches, which only averaging without a momentum uses.
    optional = ("history/", "num_batches_tracked")
    for key in (key for key in state if not any(part in key for part in optional)):
        with pytest.raises(RunFolderError, match="fit"):
            make(name, **SMALL[name]).load_state_dict({k: t for k, t in state.items() if k != key})
        with pytest.raises(RunFolderError, match="fit"):
            make(name, **SMALL[name]).load_state_dict(state | {key: torch.zeros(2, 2, 2, 2)})


def test_an_unfitted_density_says_so(name):
    density = make(name)
    for use in (lambda: density.sample(1), density.state_dict):
        with pytest.raises(InputError, match=r"not been fitted: call fit"):
            use()
    if isinstance(density, LikelihoodDensity):
        with pytest.raises(InputError, match="not been fitted"):
            density.log_prob(torch.zeros(1, D))


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (torch.full((100, D), torch.nan), "Code 0 holds NaN"),
        (torch.zeros(100, D).index_fill(0, torch.tensor([41]), torch.inf), "Code 41 holds"),
        (torch.zeros(100), r"shape \(100,\) cannot be used: give a table"),
        (torch.zeros(100, 0), "give a table"),
        (torch.zeros(10, 1, 28, 28), "give a table"),
        (torch.zeros(100, D, dtype=torch.int64), "floating-point numbers, not torch.int64"),
        (np.zeros((100, D), int), "floating-point numbers, not torch.int64"),
        (torch.zeros(1, D), "1 codes are too few"),
    ],
)
def test_unusable_codes_are_refused(name, codes, message):
    with pytest.raises(InputError, match=message):
        make(name).fit(codes)


@pytest.mark.parametrize(("n", "seed"), [(-1, 0), (1, -1)])
def test_negative_numbers_are_refused(name, fitted, n, seed):
    with pytest.raises(InputError, match="at least 0"):
        fitted[name].sample(n, seed=seed)


def test_temperature_scales_the_noise(name, fitted):
    density = fitted[name]
    default = density.sample(600, seed=4)
    assert same(density.sample(600, seed=4, temperature=1), default)
    cold = density.sample(600, seed=4, temperature=0.0)
    # Without noise only choices are left, of a component and of a regression; 1e-4 is far above
    # the rounding of values of order 1 and far below what tells two choices apart.
    choices = SMALL["parzen"]["max_codes"] + 1 if name == "parzen" else 20
    assert len((cold * 1e4).round().unique(dim=0)) < choices
    moved = [(density.sample(600, seed=4, temperature=t) - cold).norm(dim=1).mean().item() for t in (0.3, 1.0, 2.0)]
    assert 0 < moved[0] < moved[1] < moved[2]
    assert same(density.sample(600, seed=4, temperature=0.3)[:7], density.sample(7, seed=4, temperature=0.3))


@pytest.mark.parametrize("name", ["gaussian", "mixture", "class_conditional"])
def test_the_spread_of_gaussians_is_proportional_to_the_temperature(name, fitted):
    cold, half, warm = (fitted[name].sample(600, temperature=t).double() for t in (0, 0.5, 1))
    # Rounding to float32 of values below 16: 3 values, each to 2^-21.
    torch.testing.assert_close(half - cold, 0.5 * (warm - cold), atol=3 * 2**-21, rtol=0)


@pytest.mark.parametrize("temperature", [-0.1, math.nan, math.inf, 1e30, "hot", True, None])
def test_temperatures_that_are_none_are_refused(name, fitted, temperature):
    with pytest.raises(InputError, match=rf"temperature={re.escape(repr(temperature))}: give a number of at least"):
        fitted[name].sample(1, temperature=temperature)


def test_likelihoods_integrate_to_one(name, z):
    density = fit(make(name, **SMALL[name]), z[:, :2])
    if not isinstance(density, LikelihoodDensity):
        pytest.skip(f"{name} has no exact likelihood")
    # The trapezoidal rule over ±8 standard deviations: the tails hold < 1e-10, and for densities
    # as smooth as these, on steps below half a standard deviation, the rule's error is < 1e-6.
    centre, reach = z[:, :2].mean(0), 8 * z[:, :2].std(0)
    axes = [torch.linspace(-1, 1, 801, dtype=torch.float64) * r + c for r, c in zip(reach, centre, strict=True)]
    grid = torch.cartesian_prod(*axes)
    step = (axes[0][1] - axes[0][0]) * (axes[1][1] - axes[1][0])
    before = {key: tensor.clone() for key, tensor in density.state_dict().items()}
    assert density.log_prob(grid).exp().sum() * step == pytest.approx(1, abs=1e-5)
    assert all(same(tensor, before[key]) for key, tensor in density.state_dict().items())  # in float32, as before
    assert density.log_prob(z[:7, :2]).dtype == torch.float32
    with pytest.raises(InputError, match="fitted on 2"):
        density.log_prob(z)


class KilledError(Exception):
    pass


@pytest.mark.parametrize("name", GRADIENT)
def test_an_interrupted_fit_continues_to_the_same_density(name, z, tmp_path, monkeypatch, fitted):
    checkpoint = tmp_path / "checkpoint.safetensors"
    module = sys.modules[type(fitted[name]).__module__]

    def killed(*args, **keywords):
        def after(metrics):
            raise KilledError

        return train(*args, **keywords, on_epoch=after)

    with monkeypatch.context() as patched:
        patched.setattr(module, "train", killed)
        with pytest.raises(KilledError):
            make(name, **SMALL[name]).fit(z, seed=3, checkpoint=checkpoint)
    assert checkpoint.exists()
    continued = make(name, **SMALL[name]).fit(z, seed=3, checkpoint=checkpoint)
    assert same(continued.sample(100), fitted[name].sample(100))
    with pytest.raises(RunFolderError, match="other settings"):
        make(name, **SMALL[name]).fit(z, seed=4, checkpoint=checkpoint)


def test_unknown_names_and_options_are_refused():
    with pytest.raises(InputError, match=r"choose one of gaussian, .*, class_conditional .docs/own-parts"):
        make("diffusion")
    with pytest.raises(InputError, match=r'"vae" has no option "gamma": its options are n_latent'):
        make("vae", gamma=1)
    with pytest.raises(InputError, match="its options are n_effective, covariance"):
        make("gaussian", mean=0)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("vae", {"beta": "small"}, r"beta='small'.*give a number, such as 0.001"),
        ("vae", {"epochs": 1.5}, r"epochs=1.5.*give a whole number, such as 31"),
        ("vae", {"epochs": True}, r"epochs=True.*give a whole number"),
        ("vae", {"widths": [16, "x"]}, r"widths=.*give a list, each element a whole number"),
        ("vae", {"widths": 16}, r"widths=16.*give a list"),
        ("mixture", {"n_components": "many"}, "give a whole number or one of 'auto' or null, such as None"),
        ("vae", {"beta": -1.0}, "at least 0"),
        ("vae", {"n_latent": 0}, "at least 1"),
        ("vae", {"widths": []}, "at least one hidden layer"),
        ("gan", {"n_latent": 0}, "at least 1"),
        ("gan", {"widths": [8, 0]}, "at least one hidden layer"),
        ("mixture", {"n_components": 0}, "at least 1"),
        ("parzen", {"n_neighbors": 0}, "at least 1"),
        ("parzen", {"max_codes": 4}, "max_codes=4 leaves fewer than n_neighbors=4 others"),
        ("flow", {"leading": 0}, "at least 1"),
        ("flow", {"n_components": 0}, "at least 1"),
        ("flow", {"layers": 0}, "layers=0: give a number of at least 1"),
        ("flow", {"bins": 1}, "bins=1: give a number of at least 2"),
        ("flow", {"base": "uniform"}, r"give one of 'normal', 'mixture'"),
        ("mixture", {"shrinkage": -1}, "at least 0"),
        ("mixture", {"max_iterations": 0}, "at least 1"),
        ("mixture", {"n_components": 2**40}, "n_components=1099511627776 does not suit"),
        ("vae", {"beta": math.inf}, "beta=inf does not suit"),
    ],
)
def test_unusable_values_are_refused(name, options, message):
    with pytest.raises(InputError, match=message):
        make(name, **options)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (GaussianMixture, {"n_components": 2.5}, "n_components=2.5: give a whole number or one of 'auto' or null"),
        (GaussianMixture, {"n_components": True}, "n_components=True: give a whole number"),
        (GaussianMixture, {"shrinkage": [1]}, r"shrinkage=\[1\]: give a number or one of 'auto'"),
        (GaussianMixture, {"tolerance": -1.0}, "tolerance=-1.0: give a number of at least 0"),
        (Gaussian, {"n_effective": 2.5}, "give a whole number or null"),
        (ManifoldParzen, {"n_neighbors": 2.5}, "give a whole number"),
        (VariationalAutoencoder, {"widths": 16}, "widths=16: give a list, each element a whole number"),
        (VariationalAutoencoder, {"learning_rate": "x"}, "learning_rate='x': give a number"),
        (VariationalAutoencoder, {"learning_rate": math.nan}, "learning_rate=nan: give a number above 0"),
        (GaussianMixture, {"shrinkage": math.nan}, "shrinkage=nan: give a number of at least 0"),
        (GenerativeAdversarialNetwork, {"betas": 0.5}, "betas=0.5: give a list"),
        (Flow, {"bins": 2.5}, "bins=2.5: give a whole number"),
    ],
)
def test_classes_refuse_values_of_other_types(kind, options, message):
    with pytest.raises(InputError, match=message):
        kind(**options)


def test_numbers_of_numpy_become_pythons():
    mixture = GaussianMixture(np.int64(3), shrinkage=np.float32(0.5), batch_size=np.int32(16))
    assert [type(value) for value in (mixture.n_components, mixture.shrinkage, mixture.batch_size)] == [int, float, int]
    assert mixture.fit(torch.randn(50, 3), seed=np.int64(3)).sample(2, seed=np.int64(1)).shape == (2, 3)
    vae = VariationalAutoencoder(epochs=np.int64(1), learn_variance=np.True_, widths=np.array([16, 8]))
    assert (vae.epochs, vae.learn_variance, vae.widths) == (1, True, (16, 8))
    assert VariationalAutoencoder(widths=[np.int64(16)]).widths == (16,)
    assert GenerativeAdversarialNetwork(betas=np.array([0.5, 0.75])).betas == (0.5, 0.75)
    json.dumps([hyperparameters(density) for density in (mixture, vae)])
    assert make("vae", epochs=np.int64(1), widths=np.array([16, 8])).widths == (16, 8)
    settings = TrainingSettings(epochs=np.int64(1), batch_size=1, learning_rate=np.float32(0.5))
    assert (type(settings.epochs), type(settings.learning_rate)) == (int, float)


def test_infinite_and_large_numbers_are_numbers():
    assert GaussianMixture(tolerance=math.inf, batch_size=sys.maxsize).fit(torch.randn(50, 3)).n_features_ == 3
    assert ManifoldParzen(max_codes=sys.maxsize).max_codes == sys.maxsize


def test_a_subclass_may_have_other_keywords():
    class Texts(GaussianMixture):
        def __init__(self, n_components: str = "3", weights: Protocol | None = None, seed0: int = 2**40):
            self.weights, self.seed0, self.array = weights, seed0, np.ones(3)
            super().__init__(int(n_components))

    density = Texts()
    assert (density.n_components, density.seed0) == (3, 2**40)
    assert isinstance(density.array, np.ndarray)


def test_seeds_of_fits(name, z, fitted):
    if name == "gaussian":
        pytest.skip("nothing in it is random")
    density = make(name, **SMALL[name])
    with pytest.raises(InputError, match="seed=-1: give a whole number of at least 0"):
        fit(density, z, seed=-1)
    assert same(fit(density, z, seed=np.int64(3)).sample(5), fitted[name].sample(5))


def test_integers_and_null_are_good_where_a_number_or_nothing_is_wanted():
    assert make("vae", beta=1, patience=None).beta == 1
    assert make("mixture", n_components=None).n_components is None


class Uniform:
    """A user's density: uniform in the bounding box of the codes."""

    def __init__(self, margin: float = 0.0) -> None:
        self.margin = margin

    @property
    def description(self):
        return "uniform"

    def fit(self, z, **_):
        self.low_, self.high_ = z.amin(0) - self.margin, z.amax(0) + self.margin
        self.n_features_, self.history_ = z.shape[1], [{"epoch": 1, "seconds": 0.0}]
        return self

    def sample(self, n, *, seed=0):
        def draw(noise, size):
            unit = torch.from_numpy(noise.generator.random((size, self.n_features_)))
            return self.low_ + (self.high_ - self.low_) * unit

        return draw_in_chunks(n, seed, draw)

    def state_dict(self):
        return {"low": self.low_, "high": self.high_}

    def load_state_dict(self, tensors):
        self.low_, self.high_ = tensors["low"], tensors["high"]
        self.n_features_ = len(self.low_)


def test_a_users_density_plugs_in_by_assignment(z, monkeypatch):
    with pytest.raises(InputError, match=r'call DENSITIES\["uniform"\] = Uniform first'):
        registered_name(Uniform())
    monkeypatch.setitem(DENSITIES, "mine", Uniform)
    density = make("mine", margin=1).fit(z)
    assert isinstance(density, Density)
    assert not isinstance(density, LikelihoodDensity)
    assert "mine" in names()
    assert registered_name(density) == "mine"
    assert hyperparameters(density) == {"margin": 1}
    assert same(density.sample(300)[:5], density.sample(5))
    with pytest.raises(InputError, match="give a number"):
        make("mine", margin="wide")
    assert same(sample_density(density, 5, temperature=1.0), density.sample(5))
    with pytest.raises(InputError, match=r"Uniform has no temperature: leave it out"):
        sample_density(density, 5, temperature=0.5)
    with pytest.raises(InputError, match=r"Uniform is not class-conditional: fit one"):
        sample_density(density, 5, labels=0)


def test_a_packages_density_is_imported_when_it_is_used(monkeypatch):
    points = EntryPoints(
        [
            EntryPoint("counter", "collections:Counter", registry._GROUP),
            EntryPoint("broken", "no_such_package_here:Density", registry._GROUP),
        ]
    )
    monkeypatch.setattr(registry, "entry_points", lambda group: points.select(group=group))
    monkeypatch.setattr(registry, "DENSITIES", dict(DENSITIES))
    assert set(names()[-2:]) == {"counter", "broken"}
    assert densities.density_class("counter").__name__ == "Counter"
    with pytest.raises(InputError, match=r"no_such_package_here.*cannot be imported"):
        make("broken")
    with pytest.raises(ScattergenError, match='no density "another"'):
        make("another")


def test_chunks_have_generators_of_their_own():
    codes = draw_in_chunks(512, 1, lambda noise, size: noise.normal(size, 2))
    expected = np.random.default_rng([1, 1]).standard_normal((256, 2))
    assert same(codes[256:], torch.from_numpy(expected).float())
    # A sample of one chunk owns its memory, not that of the whole chunk.
    one = draw_in_chunks(1, 1, lambda noise, size: noise.normal(size, 2))
    assert one.untyped_storage().nbytes() == 8


def test_the_example_of_an_own_density_runs():
    example = Path(__file__).parent.parent / "examples" / "own_density.py"
    done = subprocess.run([sys.executable, "-W", "error", example], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "(3, 8)" in done.stdout


def test_the_gaussians_likelihood_is_that_of_torch_distributions(z, fitted):
    oracle = torch.distributions.Normal(z.mean(0), z.std(0, correction=0))
    # float32 sums of 500 codes and of 5 terms of at most some 10.
    torch.testing.assert_close(fitted["gaussian"].log_prob(z), oracle.log_prob(z).sum(1), rtol=1e-4, atol=1e-4)
    with pytest.raises(InputError, match="Component 1 of the codes is constant"):
        make("gaussian").fit(torch.stack([z[:, 0], torch.full((500,), 0.1)], dim=1))
