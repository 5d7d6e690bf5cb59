"""What a program has set in PyTorch and NumPy changes no number, and is set as before afterwards."""

import subprocess
import sys
import textwrap
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

import scattergen as sg
from scattergen.calls.state import usual_state
from scattergen.datasets import mnist
from scattergen.decoder import Decoder, DecoderTraining, LinearDecoder, LocalDecoder, upsampled_convolution
from scattergen.densities import make
from scattergen.encoder import PCAWhitening, reconstruct_codes
from scattergen.encoder.feature_store import FeatureStore
from scattergen.evaluation import ScatteringFeatures, classifier_two_sample_test, default_features, different_bins
from scattergen.model import GenerativeScatteringNetwork
from scattergen.scattering import filters, plan, transform
from small_densities import SMALL, codes
from small_densities import fit as fit_small


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
        assert work == "features" or not one.is_inference()  # `Scattering2D` is a module like any other
        assert torch.equal(one.nan_to_num(7), other.nan_to_num(7))


# What is made in one state is used in another ----------------------------------------------------


@pytest.mark.parametrize("kernel", ["compiled", "torch"])
def test_what_was_made_for_inference_is_differentiated_later(monkeypatch, kernel):
    """Filters and plans are kept for all transforms, whatever made them first."""
    if kernel == "torch":
        monkeypatch.setattr(transform, "compiled_kernels", lambda: None)
    x = torch.rand(2, 13, 11)
    for cache in (transform._shared_constants, filters.filter_bank, plan.build_plan):
        cache.cache_clear()
    with torch.inference_mode():
        before = sg.Scattering2D(1, (13, 11), L=3)(x)
    x.requires_grad_()
    after = sg.Scattering2D(1, (13, 11), L=3)(x)
    after.sum().backward()
    assert torch.equal(before, after)
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("state", ["float64", "bfloat16", "device meta"])
def test_filters_are_the_same_whatever_made_them_first(state):
    x = torch.rand(2, 13, 11)
    found = []
    for around in (usual_state, STATES[state]):
        for cache in (transform._shared_constants, filters.filter_bank, plan.build_plan):
            cache.cache_clear()
        with around():
            scattering = sg.Scattering2D(1, (13, 11), L=3)
            found += [scattering(x), scattering._by_torch(x)]
    assert torch.equal(found[0], found[2])
    assert torch.equal(found[1], found[3])


@pytest.mark.parametrize("state", ["float64", "bfloat16", "device meta"])
def test_terms_of_upsampling_are_the_same_whatever_made_them_first(state):
    found = []
    for around in (usual_state, STATES[state]):
        for terms in (upsampled_convolution._terms, upsampled_convolution._gradient_terms):
            terms.cache_clear()
        with around():
            found += [*upsampled_convolution._terms(5, 9, 3, torch.float32, (4, 2))]
            found += [*upsampled_convolution._gradient_terms(5, 9, 3, torch.float32, 4)]
    assert all(map(np.array_equal, found[:6], found[6:]))


@pytest.mark.parametrize("name", SMALL)
def test_densities_are_fitted_to_codes_made_for_inference(name):
    z = codes()
    with torch.inference_mode():
        for_inference = z.clone()
    assert for_inference.is_inference()
    expected, found = (fit_small(make(name, **SMALL[name]), some).sample(3) for some in (z, for_inference))
    assert torch.equal(found, expected)


def test_a_model_is_fitted_to_images_made_for_inference(expected):
    with torch.inference_mode():
        images = IMAGES.clone()
    found = tensors_of(state_of(GenerativeScatteringNetwork.fit(images, options=OPTIONS)))
    assert all(map(torch.equal, found, expected["fit"]))


@pytest.mark.parametrize("make_decoder", [Decoder, lambda *args, **kw: make_local()], ids=["generator", "local"])
def test_a_decoder_made_for_inference_is_trained(make_decoder):
    with torch.inference_mode(), default_type(torch.float64):
        decoder = make_decoder(6, (1, 28, 28), channels=[4, 2])
    z = torch.randn(40, 6)
    DecoderTraining(epochs=1, batch_size=16).fit(decoder, z, IMAGES)
    assert decoder.decode(z).dtype == torch.float32


def make_local():
    encoder = sg.ScatteringEncoder((1, 28, 28), n_components=6).fit(IMAGES)
    return LocalDecoder(LinearDecoder.of(encoder, 8).fit(encoder.transform(IMAGES), IMAGES), channels=[4, 2])


# What a program wants of gradients ---------------------------------------------------------------


def graph_of(name):
    """A result that gradients are wanted of, and what it is made from."""
    if name == "scattering":
        x = torch.rand(2, 8, 8, requires_grad=True)
        return sg.Scattering2D(1, (8, 8))(x), x
    x = torch.randn(30, 4, requires_grad=True)
    if name in ("transform", "inverse_transform"):
        whitening = PCAWhitening(4).fit(lambda: [x.detach()])
        return getattr(whitening, name)(x), x
    if name == "decoder":
        return Decoder(4, (1, 8, 8), channels=[4, 2])(x), x
    return make(name).fit(torch.randn(100, 4)).log_prob(x), x


DIFFERENTIABLE = ["scattering", "transform", "inverse_transform", "decoder", "gaussian", "mixture"]


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradients_are_kept_where_a_program_wants_them(name):
    found, x = graph_of(name)
    found.sum().backward()
    assert x.grad.isfinite().all()
    with torch.no_grad():
        assert not graph_of(name)[0].requires_grad


@pytest.mark.parametrize("state", ["inference", "no gradients", "autocast", "all at once"])
def test_codes_and_samples_can_be_used_further(saved, state):
    with STATES[state]():
        model = sg.load(saved)
        z, images = model.encode(IMAGES[:2]), model.sample(2, "gaussian")
    for found in (z, images, model.encoder.whitening.components_):
        weight = torch.ones(found.shape[-1], requires_grad=True)
        (found * weight).sum().backward()
        found += 1
        assert weight.grad is not None


# The context itself ------------------------------------------------------------------------------


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("gradients", [None, False, True])
def test_states_are_usual_within_and_as_before_after(state, gradients):
    @usual_state(gradients)
    def inner():
        """Docs."""
        return everything_set()

    with STATES[state]():
        before = everything_set()
        *usual, recorded, for_inference, by_autocast, _, numpy = inner()
        assert usual == [torch.float32, torch.device("cpu")]
        assert (for_inference, by_autocast) == (False, False)
        assert recorded == (torch.is_grad_enabled() if gradients is None else gradients)
        assert numpy == {"divide": "warn", "over": "warn", "under": "ignore", "invalid": "warn"}
        assert everything_set() == before
        with pytest.raises(sg.InputError):
            make("gaussian").fit("no codes")
        assert everything_set() == before
    assert (inner.__name__, inner.__doc__) == ("inner", "Docs.")


def test_threads_that_overlap_leave_the_default_type_as_it_was():
    first_in, second_out = threading.Event(), threading.Event()

    def first():
        with usual_state():
            first_in.set()
            second_out.wait(10)
            return torch.get_default_dtype()

    with default_type(torch.float64), ThreadPoolExecutor(1) as pool:
        task = pool.submit(first)
        first_in.wait(10)
        with usual_state():
            assert torch.get_default_dtype() == torch.float32
        second_out.set()
        assert task.result() == torch.float32
        assert torch.get_default_dtype() == torch.float64


def test_other_threads_keep_their_own_states(saved):
    """What belongs to a thread is changed in none but the one that computes."""
    model = sg.load(saved)
    expected = model.encode(IMAGES[:4])
    with ThreadPoolExecutor(4) as pool:
        names = ["autocast", "inference", "numpy raises", "device meta"]

        def encode(name):
            with STATES[name]():
                before = everything_set()[1:]
                return [(model.encode(IMAGES[:4]), everything_set()[1:] == before) for _ in range(5)]

        for results in pool.map(encode, names):
            assert all(torch.equal(z, expected) and same for z, same in results)


@pytest.mark.parametrize("way", ["fit", "fit_samples of an encoder"])
def test_a_warning_points_at_the_line_that_was_called(way):
    x = torch.randn(50, 2, generator=torch.Generator().manual_seed(0)) @ torch.ones(2, 5)
    store = FeatureStore(lambda rows: x[rows], 50, 5, 10)
    whitening = PCAWhitening(4, allow_fewer=True)
    with pytest.warns(UserWarning, match="codes have 1 components, not 4") as caught:
        whitening.fit_samples(store) if way != "fit" else whitening.fit(lambda: [x])
    assert Path(caught[0].filename).name == ("whitening.py" if way == "fit" else Path(__file__).name)


# A program of its own ----------------------------------------------------------------------------


@pytest.mark.slow
def test_without_docstrings_numbers_are_the_same(saved, tmp_path):
    """`python -OO`; nothing is trained, since all that Lightning imports is often compiled anew for it."""
    code = """
        import contextlib, hashlib, io, sys
        import numpy as np, torch
        import scattergen as sg
        from scattergen import cli

        def digest_of(model, images):
            z = model.encode(images)
            found = [z, model.decode(z), *(model.sample(3, name) for name in model.densities)]
            found.append(model.fit_density("gaussian", z).sample(3))
            return hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in found)).hexdigest()

        if __name__ == "__main__":
            assert False, "which -O leaves out"
            torch.set_num_threads(int(sys.argv[3]))
            print(digest_of(sg.load(sys.argv[1]), np.load(sys.argv[2])))
            for arguments in (["fit", "--help"], ["info", sys.argv[1]], ["info", "nowhere"]):
                sys.argv[1:] = arguments
                with contextlib.suppress(SystemExit):
                    cli.main()
    """
    script, images = tmp_path / "script.py", tmp_path / "images.npy"
    script.write_text(textwrap.dedent(code))
    np.save(images, IMAGES[:4].numpy())
    names = {}
    exec(script.read_text(), names)
    arguments = [script, saved, images, str(torch.get_num_threads())]
    done = subprocess.run(
        [sys.executable, "-OO", "-W", "error", *arguments], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.stderr.startswith("error: There is no run folder nowhere")
    assert done.stderr.count("\n") == 1
    assert done.stdout.startswith(names["digest_of"](sg.load(saved), np.load(images)) + "\n")
    assert "Usage" in done.stdout
    assert "files intact" in done.stdout
