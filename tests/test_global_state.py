"""What a program has set in PyTorch and NumPy changes no number, and is set as before afterwards."""

import subprocess
import sys
import threading
import warnings
from contextlib import ExitStack, contextmanager, nullcontext

import numpy as np
import pytest
import torch
from small_densities import GRADIENT, SMALL, codes
from small_densities import fit as fit_small

import scattergen as sg
from scattergen.datasets import mnist
from scattergen.decoder import Decoder
from scattergen.densities import DENSITIES, make
from scattergen.encoder import PCAWhitening, reconstruct_codes
from scattergen.evaluation import (
    PerceptualFeatures,
    ScatteringFeatures,
    classifier_two_sample_test,
    default_features,
    different_bins,
    evaluate,
)
from scattergen.global_state import usual_state
from scattergen.model import GenerativeScatteringNetwork


@contextmanager
def set_to(getter, setter, value):
    before = getter()
    setter(value)
    try:
        yield
    finally:
        setter(before)


def default_type(dtype):
    return set_to(torch.get_default_dtype, torch.set_default_dtype, dtype)


@contextmanager
def all_at_once():
    with ExitStack() as stack:
        for name in ("float64", "numpy raises", "device meta", "autocast", "inference"):
            stack.enter_context(STATES[name]())
        yield


@contextmanager
def warnings_are_errors():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


STATES = {
    "float64": lambda: default_type(torch.float64),
    "float16": lambda: default_type(torch.float16),
    "bfloat16": lambda: default_type(torch.bfloat16),
    "no gradients": torch.no_grad,
    "inference": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "autocast to float16": lambda: torch.autocast("cpu", torch.float16),
    "numpy raises": lambda: np.errstate(all="raise"),
    "numpy calls": lambda: np.errstate(all="call", call=lambda *_: 1 / 0),
    "device meta": lambda: set_to(lambda: None, torch.set_default_device, "meta"),
    "inside of device meta": lambda: torch.device("meta"),
    "deterministic": lambda: set_to(
        torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms, True
    ),
    "anomalies detected": lambda: torch.autograd.set_detect_anomaly(True),
    "matmul of medium precision": lambda: set_to(
        torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "medium"
    ),
    "another seed": lambda: set_to(torch.initial_seed, torch.manual_seed, 123),
    "printed otherwise": lambda: np.printoptions(precision=1, legacy="1.13"),
    "warnings are errors": warnings_are_errors,
    "all at once": all_at_once,
}


def everything_set():
    return (
        torch.get_default_dtype(),
        torch.get_default_device(),
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.get_autocast_dtype("cpu"),
        np.geterr(),
    )


def tensors_of(value):
    """All tensors and numbers in a result, but seconds."""
    if isinstance(value, dict):
        return [t for name, one in value.items() if "seconds" not in name for t in tensors_of(one)]
    if isinstance(value, list | tuple):
        return [t for one in value for t in tensors_of(one)]
    if isinstance(value, torch.Tensor):
        return [value]
    return [] if isinstance(value, str) else [torch.from_numpy(np.asarray(value))]


OPTIONS = {
    "encoder": {"J": 2, "n_components": 6, "flips": True, "held_out": 0.2},
    "decoder": {"kind": "local", "channels": [8, 4]},
    "training": {"epochs": 1, "loss": "scattering", "batch_size": 16},
    "sampling": {"n_components": None, "sharpen": 0.5},
    "densities": {"gaussian": {}, "vae": {**SMALL["vae"], "n_latent": 2}},
}
IMAGES = mnist().train[:40]
LABELS = mnist().train.labels[:40]


def fit():
    return GenerativeScatteringNetwork.fit(IMAGES, options=OPTIONS)


def state_of(model):
    densities = {name: density.state_dict() for name, density in model.densities.items()}
    return {
        "encoder": model.encoder.state_dict(),
        "decoder": dict(model.decoder.state_dict()),
        "linear": model.linear.state_dict(),
        "gains": model.sharpening.gains,
        **densities,
    }


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "model"
    fit().save(folder)
    return folder


def used(folder):
    """What a loaded model makes."""
    model = sg.load(folder)
    z = model.encode(IMAGES[:4].numpy())
    found = [z, model.decode(z), model.decode(z.tolist()), model.reconstruct(IMAGES[:2])]
    found += [model.sample(3, name, seed=1, temperature=0.8) for name in model.densities]
    found += [model.interpolate(IMAGES[0], IMAGES[1], 3), model.resample(IMAGES[:2], 1, 3)]
    found += [model.linear.decode(z), model.encoder.features(IMAGES[:2])]
    found += [reconstruct_codes(z[:1], model.encoder, n_starts=1, max_iterations=3).images]
    by_class = model.fit_density("gaussian", z.repeat(4, 1), [0, 1] * 8)
    return [*found, by_class.sample(4, labels=1), state_of(model)]


def of_features():
    """Scattering by itself, its inversion, whitening, and a decoder."""
    scattering = sg.Scattering2D(2, (16, 16))
    x = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float32, device="cpu")
    s = scattering(x)
    found = sg.scattering.reconstruct(s[:1], scattering, n_starts=1, max_iterations=3)
    bank = sg.scattering.filter_bank((20, 24), 2, 8)
    whitening = PCAWhitening(2).fit(lambda: [s.flatten(1)])
    z = whitening.transform(s.flatten(1))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        decoder = Decoder(2, (1, 16, 16), channels=[4, 2], momentum=0.5)
    bounds = [sg.scattering.lipschitz_constant(bank), sg.scattering.littlewood_paley(bank)]
    return [s, found.images, bank.psi, z, whitening.inverse_transform(z), decoder.decode(z), bounds]


def of_densities():
    """All densities, fitted, drawn from, asked, and loaded."""
    found = []
    with usual_state():
        z = codes()
    for name, keywords in SMALL.items():
        density = fit_small(make(name, **keywords), z, seed=2)
        state = density.state_dict()
        loaded = make(name, **keywords)
        loaded.load_state_dict(state)
        found += [state, density.sample(5, seed=3), loaded.sample(5, seed=3)]
        if hasattr(density, "log_prob"):
            found.append(density.log_prob(z))
    return found


def of_statistics():
    """Measures of images, and diagnostics of codes."""
    a, b = IMAGES[:20], IMAGES[20:].flip(3)
    features = ScatteringFeatures((1, 28, 28))
    x, y = features(a), features(b)
    evaluation = sg.evaluation
    found = [x, evaluation.psnr(a, b), evaluation.ssim(a, b), evaluation.sharpness(a)]
    found += [evaluation.frechet_distance(x, y), vars(evaluation.kernel_distance(x, y))]
    found += [evaluation.k_means(x, 3), vars(different_bins(x, y, 3)), vars(classifier_two_sample_test(x, y))]
    found += [default_features((1, 28, 28), digits=True)(a)]
    z = sg.diagnostics
    wild = np.random.default_rng(0).normal(size=(120, 3)) * [1e-160, 1, 1e150]
    ordinary = np.random.default_rng(0).normal(size=(120, 3))
    found += [z.effect_sizes(wild), vars(z.dagostino_k2(ordinary)), vars(z.jarque_bera(ordinary**3))]
    tests = [z.marginal_normality(ordinary, n_simulations=19), z.correlation_of_squares(ordinary, n_simulations=19)]
    tests += [*z.sliced_normality(ordinary, n_simulations=19), z.radial(ordinary)]
    return [*found, *map(vars, tests), z.component_grid(torch.ones(4, device="cpu"), [-1.0, 1.0])]


WORK = {"fit": lambda _: state_of(fit()), "use": used, "features": lambda _: of_features()}
WORK |= {"densities": lambda _: of_densities(), "statistics": lambda _: of_statistics()}


# For what takes longer.
MOST_TELLING = ("float64", "inference", "autocast", "numpy raises", "device meta", "all at once")


@pytest.fixture(scope="module")
def expected(saved):
    """Everything in the usual state."""
    return {name: tensors_of(work(saved)) for name, work in WORK.items()}


@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled")
@pytest.mark.parametrize(
    ("state", "work"),
    [(state, work) for work in WORK for state in STATES if work in ("fit", "use", "features") or state in MOST_TELLING],
)
def test_no_number_depends_on_what_a_program_has_set(saved, expected, state, work):
    with STATES[state]():
        before = everything_set()
        found = WORK[work](saved)
        assert everything_set() == before
    found = tensors_of(found)
    assert len(found) == len(expected[work])
    for one, other in zip(found, expected[work], strict=True):
        assert one.dtype == other.dtype
        assert one.device.type == "cpu"
        assert not one.is_inference()
        assert torch.equal(one.nan_to_num(7), other.nan_to_num(7))
