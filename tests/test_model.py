"""GenerativeScatteringNetwork in Python: fit, use, save, load; presets; augmentation; grids."""

import copy
import json
import math
import re
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import scattergen as sg
from scattergen import InputError, RunFolderError, ScattergenError
from scattergen.datasets import ClassLabels, Dataset, ImageArray, mnist, open_dataset
from scattergen.decoder import Decoder
from scattergen.decoder import fit as decoder_fit
from scattergen.decoder.fit import DecoderTraining, OverfittingWarning, _warn_of_overfitting, augment
from scattergen.densities import DENSITIES, Gaussian, GaussianMixture, draw_in_chunks, needs_labels
from scattergen.diagnostics import component_grid
from scattergen.display.progress import SILENT
from scattergen.encoder import ScatteringEncoder
from scattergen.model import GenerativeScatteringNetwork
from scattergen.runs import RunFolder, Stages
from scattergen.stages.density import fit_density
from scattergen.stages.fit import fit_parts
from scattergen.stages.options import build, check_options
from scattergen.stages.presets import override, preset

KEY = "0123456789abcdef"
OPTIONS = {
    "encoder": {"J": 1, "n_components": 8},
    "decoder": {"channels": [8, 4], "momentum": 0.5},
    "training": {"epochs": 2, "batch_size": 16},
    "densities": {"gaussian": {}, "mixture": {"n_components": 2}},
}


@pytest.fixture(scope="module")
def images():
    return mnist().train[:120][:, :, 6:22, 6:22]


@pytest.fixture(scope="module")
def model(images):
    """A small fitted model, not to be changed."""
    return GenerativeScatteringNetwork.fit(images, options=OPTIONS)


def same_state(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def same_model(a, b):
    return (
        same_state(a.encoder, b.encoder)
        and same_state(a.decoder, b.decoder)
        and a.densities.keys() == b.densities.keys()
        and all(torch.equal(a.sample_codes(9, k), b.sample_codes(9, k)) for k in a.densities)
    )


# Fit


def test_a_fit_holds_what_the_options_say(model, images):
    assert model.options == OPTIONS
    assert model.encoder.hyperparameters["n_components"] == 8
    assert model.decoder.hyperparameters["channels"] == [8, 4]
    assert model.decoder.image_shape == (1, 16, 16)
    assert not model.decoder.training
    assert list(model.densities) == ["gaussian", "mixture"]
    assert len(model.densities["mixture"].weights_) == 2
    z = model.encode(images)
    # float32 codes of variance 1: sums of 120 squares err by less than 120 * 6e-8; the whitening
    # by float32 components and features by about 1e-5 of variances that differ by a factor 100.
    assert torch.allclose(z.T @ z / len(z), torch.eye(8), atol=1e-3)


def test_a_fit_depends_on_its_seed_and_not_on_the_callers(model, images):
    state = torch.manual_seed(123).get_state()
    again = GenerativeScatteringNetwork.fit(images, options=OPTIONS)
    again.sample(5)
    again.resample(images[:2], 0, 3)
    assert torch.equal(torch.get_rng_state(), state)
    assert same_model(again, model)
    other = GenerativeScatteringNetwork.fit(images, options=OPTIONS, seed=1)
    assert same_state(other.encoder, model.encoder)  # nothing in it is random
    assert not same_state(other.decoder, model.decoder)


def test_every_density_leaves_the_callers_random_numbers_alone(model, images):
    small = {name: {"epochs": 1} for name in ("vae", "gan", "flow")}
    z = model.encode(images)
    for name in DENSITIES:
        state = torch.manual_seed(5).get_state()
        labels = torch.arange(len(z)) % 2 if needs_labels(name) else None
        model.fit_density(name, z, labels, keywords=small.get(name), stored_as="temporary")
        model.sample(3, "temporary")
        assert torch.equal(torch.get_rng_state(), state), name
    del model.densities["temporary"]


def test_a_source_and_a_tensor_are_the_same(model, images):
    assert same_model(GenerativeScatteringNetwork.fit(ImageArray(images), options=OPTIONS), model)


@pytest.mark.parametrize(
    ("bad", "culprit"),
    [
        (lambda x: x[:, 0, 0], r"shape \(120, 16\), which looks like a single image"),
        (lambda x: (x * 255).long(), "int64"),
        (lambda x: x.numpy()[:, 0, 0], r"shape \(120, 16\)"),
        (lambda x: x.numpy() * 255, "divide grey levels"),
        (lambda x: Dataset("both", x, x), r"give one part, such as data\.train"),
        (lambda x: 255 * x, "Image 0 of the tensor of images has values from 0 to 25.*divide"),
        (lambda x: x - 1, "values from -1 to"),
        (lambda x: x.log().nan_to_num(neginf=math.nan), "Image 0 of the tensor of images holds NaN"),
        (lambda x: x[:8], "8 components were asked of 8 training images"),
    ],
)
def test_unusable_images(images, bad, culprit):
    with pytest.raises(InputError, match=culprit):
        GenerativeScatteringNetwork.fit(bad(images), options=OPTIONS)


def test_incomplete_options(images):
    with pytest.raises(InputError, match='need a section "training"'):
        check_options({k: v for k, v in OPTIONS.items() if k != "training"}, (1, 16, 16), len(images))


# Codes and images


def test_decode_and_reconstruct(model, images):
    z = model.encode(images)
    decoded = model.decode(z)
    assert z.shape == (120, 8)
    assert decoded.shape == images.shape
    assert 0 <= decoded.min() <= decoded.max() <= 1
    assert torch.equal(model.reconstruct(images), decoded)
    assert model.decode(z[:0]).shape == (0, 1, 16, 16)
    # Each of three layers sums at most 8 * 9 float32 products, in another order in other batches.
    assert torch.allclose(model.decode(z, batch_size=7), decoded, rtol=0, atol=3 * 72 * 6e-8)
    with pytest.raises(InputError, match="batch_size=0"):
        model.decode(z, batch_size=0)
    with pytest.raises(InputError, match=r"\(N, 8\) but got \(120, 7\)"):
        model.decode(z[:, :7])
    with pytest.raises(InputError, match="NaN"):
        model.decode(torch.full((2, 8), math.nan))
    with pytest.raises(InputError, match=r"\(N, 1, 16, 16\) but got \(120, 1, 15, 16\)"):
        model.encode(images[:, :, 1:])


def test_sample(model):
    first = model.sample(20, "gaussian", seed=3)
    assert first.shape == (20, 1, 16, 16)
    assert torch.equal(first, model.decode(model.densities["gaussian"].sample(20, seed=3)))
    assert torch.equal(model.sample_codes(300, seed=3)[:5], model.sample_codes(5, "mixture", seed=3))
    assert model.sample(0).shape == (0, 1, 16, 16)
    with pytest.raises(InputError, match="it has gaussian, mixture"):
        model.sample(1, "vae")
    with pytest.raises(InputError, match="n=-1: give a whole number of at least 0"):
        model.sample(-1)
    bare = GenerativeScatteringNetwork(model.encoder, model.decoder)
    with pytest.raises(InputError, match="has no density"):
        bare.sample(1)
    assert GenerativeScatteringNetwork(model.encoder, model.decoder, sharpen=0.5).sharpen == 0  # there is none
    bare.densities["mine"] = model.densities["gaussian"]
    assert torch.equal(bare.sample(2), model.sample(2, "gaussian"))


def test_interpolate(model, images):
    line = model.interpolate(images[3], images[4:5], steps=5)
    assert line.shape == (5, 1, 16, 16)
    z = model.encode(images[3:5])
    # Codes of the same images in other batches differ by rounding: sums of 600 float32 products
    # over standard deviations above 0.05 err by less than 600 * 6e-8 / 0.05 = 7e-4.
    assert torch.allclose(line[[0, -1]], model.decode(z), rtol=0, atol=1e-3)
    assert torch.allclose(line[2:3], model.decode(z.mean(0, keepdim=True)), rtol=0, atol=1e-3)
    with pytest.raises(InputError, match="steps=1"):
        model.interpolate(images[0], images[1], steps=1)
    with pytest.raises(InputError, match="3 images were given"):
        model.interpolate(images[:2], images[2])
    with pytest.raises(InputError, match="but got"):
        model.interpolate(images[0], images[1, :, 1:])


def test_resample_replaces_its_components_only(model, images, monkeypatch):
    decoded = []
    monkeypatch.setattr(model, "decode", lambda z: decoded.append(z) or z)
    model.resample(images, 2, 5, seed=1)
    model.resample(images[:4], 2, 5, seed=1)
    model.resample(images, 2, 5, seed=2)
    model.resample(images, 0, 8)
    z = model.encode(images)
    first, few, other, whole = decoded
    kept = [0, 1, 5, 6, 7]
    assert torch.equal(first[:, kept], z[:, kept])
    noise = draw_in_chunks(120, 1, lambda noise, size: noise.normal(size, 3))
    assert torch.equal(first[:, 2:5], noise)
    assert torch.equal(few[:, 2:5], noise[:4])
    assert not torch.isclose(other[:, 2:5], noise).any(1).all()
    assert not torch.isclose(whole, z).any(1).all()


@pytest.mark.parametrize(("start", "stop"), [(-1, 3), (3, 3), (5, 2), (0, 9)])
def test_components_out_of_range(model, images, start, stop):
    with pytest.raises(InputError, match=f"{start}:{stop} are not a range within 0:8|start=-1"):
        model.resample(images, start, stop)


# Save and load


class Constant:
    """A user's density: one code."""

    def __init__(self, value: float = 0.5) -> None:
        self.value = value

    @property
    def description(self) -> str:
        return "one code"

    def fit(self, z, *, seed=0, progress=None, device="cpu", checkpoint=None):
        self.n_features_, self.history_ = z.shape[1], [{"epoch": 1, "seconds": 0.0}]
        return self

    def sample(self, n, *, seed=0):
        return torch.full((n, self.n_features_), self.value)

    def state_dict(self):
        return {"n_features": torch.tensor(self.n_features_)}

    def load_state_dict(self, tensors):
        self.n_features_ = int(tensors["n_features"])


@pytest.fixture
def own(model, monkeypatch):
    """The model with a density of the user's."""
    monkeypatch.setitem(DENSITIES, "constant", Constant)
    copy = GenerativeScatteringNetwork(model.encoder, model.decoder, model.densities)
    copy.options = model.options
    copy.fit_density("constant", torch.zeros(2, 8), keywords={"value": 0.25}, stored_as="mine")
    return copy


def test_save_and_load(own, images, tmp_path):
    own.save(tmp_path / "run")
    loaded = sg.load(tmp_path / "run")
    assert same_model(loaded, own)
    assert loaded.options == OPTIONS
    assert isinstance(loaded.densities["mine"], Constant)
    assert loaded.densities["mine"].value == 0.25
    assert torch.equal(loaded.reconstruct(images), own.reconstruct(images))
    assert json.loads((tmp_path / "run" / "run.json").read_text())["options"] == OPTIONS
    assert not list(tmp_path.rglob("*.pt")) + list(tmp_path.rglob("*.pkl"))


def test_an_unregistered_density_is_refused_at_loading(own, tmp_path, monkeypatch):
    own.save(tmp_path / "run")
    monkeypatch.delitem(DENSITIES, "constant")
    with pytest.raises(RunFolderError, match=r'density mine of .* no density "constant".*register'):
        sg.load(tmp_path / "run")
    others = GenerativeScatteringNetwork.load(tmp_path / "run", densities=["gaussian"])
    assert torch.equal(others.sample(2), own.sample(2, "gaussian"))


@pytest.mark.parametrize(
    ("key", "density", "message"),
    [
        ("new", Gaussian(), "has not been fitted"),
        ("new", Constant(), "is not registered"),
        ("../new", None, "cannot be the name of a file"),
    ],
)
def test_a_model_that_cannot_be_saved_destroys_nothing(model, tmp_path, key, density, message):
    model.save(tmp_path / "run")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    density = density or model.densities["gaussian"]
    bad = GenerativeScatteringNetwork(model.encoder, model.decoder, {key: density})
    bad.options = model.options
    with pytest.raises(InputError, match=message):
        bad.save(tmp_path / "run", overwrite=True)
    assert {path: path.read_bytes() for path in before} == before


def test_saving_again(model, own, tmp_path):
    bare = GenerativeScatteringNetwork(model.encoder, model.decoder, {})
    bare.options = OPTIONS
    bare.save(tmp_path / "run")
    model.save(tmp_path / "run")  # only adds to it
    model.save(tmp_path / "run")
    assert same_model(sg.load(tmp_path / "run"), model)
    for other, culprit in [
        (bare, "holds densities/gaussian, which this model lacks"),
        (_with_another_decoder(model), "holds another decoder than this model"),
    ]:
        other.options = OPTIONS
        with pytest.raises(RunFolderError, match=culprit):
            other.save(tmp_path / "run")
        assert same_model(sg.load(tmp_path / "run"), model)
    bare.options = {**OPTIONS, "training": {"epochs": 9}}
    with pytest.raises(RunFolderError, match=r"training\.epochs=2 there, 9 now"):
        bare.save(tmp_path / "run")
    (tmp_path / "run" / "notes.txt").write_text("precious")
    bare.save(tmp_path / "run", overwrite=True)
    assert sg.load(tmp_path / "run").densities == {}
    assert (tmp_path / "run" / "notes.txt").read_text() == "precious"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file.txt").write_text("precious")
    with pytest.raises(RunFolderError, match=r"holds file\.txt: name another folder"):
        model.save(tmp_path / "mine", overwrite=True)


def _with_another_decoder(model):
    decoder = copy.deepcopy(model.decoder)
    with torch.no_grad():
        next(decoder.parameters()).mul_(2)
    return GenerativeScatteringNetwork(model.encoder, decoder, model.densities)


def test_saving_anew_does_not_continue_an_unfinished_replacement(model, tmp_path):
    model.save(tmp_path / "run")
    other = {**model.options, "seed": 1}
    begun = RunFolder.start(tmp_path / "run", other, overwrite=True)
    begun.write("decoder", KEY, {"wrong": torch.ones(2)}, {})
    begun.write("codes", KEY, {"codes": torch.ones(2)}, {})
    model.save(tmp_path / "run", overwrite=True)
    assert same_model(sg.load(tmp_path / "run"), model)
    assert not RunFolder.open(tmp_path / "run").has("codes")


def test_arrays_are_images_too(model, images):
    z = model.encode(images)
    assert torch.equal(model.encode(images.numpy()), z)
    bytes_ = (images * 255).round().to(torch.uint8)
    expected = model.encode(bytes_.float() / 255)
    assert torch.equal(model.encode(bytes_), expected)
    assert torch.equal(model.encode(bytes_[:, 0].numpy()), expected)


def test_float64_images_and_other_forms_of_codes(model, images):
    z = model.encode(images)
    assert torch.equal(model.encode(images.double()), z)
    assert torch.equal(model.decode(z[:2].numpy()), model.decode(z[:2]))
    assert torch.equal(model.decode(z[:2].tolist()), model.decode(z[:2]))


@pytest.mark.parametrize(
    "use",
    [
        lambda model, x: model.decode(model.encode(x), batch_size=1.5),
        lambda model, x: model.interpolate(x[0], x[1], steps=2.5),
        lambda model, x: model.resample(x, 1.0, 4.0),
        lambda model, x: GenerativeScatteringNetwork.fit(x, options="auto"),
    ],
)
def test_arguments_of_the_wrong_type(model, images, use):
    with pytest.raises(InputError):
        use(model, images)


class Diverged(Constant):
    """Says that it was fitted, and draws NaN."""

    def sample(self, n, *, seed=0):
        return torch.full((n, 8), math.nan)


@pytest.mark.parametrize("width", [5, 20])
def test_codes_of_another_model_are_refused(model, width):
    codes = torch.randn(50, width)
    with pytest.raises(InputError, match=rf"Expected codes of shape \(N, 8\) but got \(50, {width}\)"):
        model.fit_density("gaussian", codes, stored_as="other")
    assert "other" not in model.densities


def test_a_density_of_too_many_components_is_not_cut(model):
    wide = copy.copy(model)
    wide.densities = {"wide": Gaussian().fit(torch.randn(50, 20))}
    with pytest.raises(InputError, match='"wide" draws codes of 20 components, not 8: fit it to encode'):
        wide.sample_codes(2)


class Arrays:
    """Parts of one's own that compute with NumPy."""

    n_components, image_shape = 8, (1, 16, 16)

    def transform(self, images, progress=SILENT):
        return np.asarray(images[:])[:, 0, 0, :8]

    def decode(self, z):
        return np.full((len(z), 1, 16, 16), 0.5, np.float32)

    def sample(self, n, *, seed=0):
        return np.zeros((n, 8), np.float32)


def test_a_decoder_of_ones_own_that_makes_nan():
    broken = Arrays()
    broken.decode = lambda z: torch.full((len(z), 1, 16, 16), math.nan)
    with pytest.raises(ScattergenError, match="made images that hold NaN"):
        GenerativeScatteringNetwork(Arrays(), broken, {"arrays": Arrays()}).sample(2)


def test_parts_of_ones_own_may_give_arrays(images):
    own = GenerativeScatteringNetwork(Arrays(), Arrays(), {"arrays": Arrays()})
    assert torch.equal(own.encode(images), images[:, 0, 0, :8])
    assert own.interpolate(images[0], images[1], steps=3).shape == (3, 1, 16, 16)
    assert own.sample(2).shape == (2, 1, 16, 16)


def test_a_line_between_images_of_any_form(model, images):
    expected = model.interpolate(images[0], images[1:2])
    eight_bits = (images[:2, 0] * 255).round().to(torch.uint8).numpy()
    for ends in (images[:2].numpy(), images[:2, 0].numpy(), images[:2, 0].tolist(), images[:2].double()):
        torch.testing.assert_close(model.interpolate(ends[0], ends[1]), expected)
    sources = [ImageArray(image[None]) for image in eight_bits]
    torch.testing.assert_close(model.interpolate(*sources), expected)
    # MNIST's are multiples of 1/255.
    torch.testing.assert_close(model.interpolate(*map(Image.fromarray, eight_bits)), expected)


@pytest.mark.parametrize("device", ["tpu", "cuda:99", "cuda:x", "meta"])
def test_devices_that_are_not_there(model, images, tmp_path, device):
    model.save(tmp_path / "run")
    uses = (
        lambda: GenerativeScatteringNetwork.fit(images, options=OPTIONS, device=device),
        lambda: model.fit_density("gaussian", torch.randn(50, 8), device=device),
        lambda: GenerativeScatteringNetwork.load(tmp_path / "run", device),
    )
    for use in uses:
        with pytest.raises(InputError, match=f'The device "{device}" cannot be used here .*: choose another'):
            use()


def test_what_was_measured_is_saved_too(model, tmp_path):
    model.save(tmp_path / "run")
    assert model.psnr is not None
    loaded = GenerativeScatteringNetwork.load(tmp_path / "run", torch.device("cpu", 0), densities="gaussian")
    assert loaded.psnr == model.psnr
    assert [*loaded.densities] == ["gaussian"]
    model.save(tmp_path / "run")  # it is the same model
    measured = copy.copy(model)
    for psnr, run, stored in ((20.0, "again", 20), (torch.tensor(21.0), "again", 21), (math.inf, "other", None)):
        measured.psnr = psnr
        measured.save(tmp_path / run, overwrite=True)
        assert GenerativeScatteringNetwork.load(tmp_path / run).psnr == stored
    assert f"{model.psnr:.2f} dB" in str(RunFolder.open(tmp_path / "run"))
    with pytest.raises(RunFolderError, match='has no densities "zz": it has gaussian, mixture'):
        GenerativeScatteringNetwork.load(tmp_path / "run", densities="zz")


def test_images_that_come_back_exactly_count_as_100_db(images, monkeypatch):
    monkeypatch.setattr("scattergen.model.psnr", lambda *_: torch.tensor([math.inf, 20.0]))
    assert GenerativeScatteringNetwork.fit(images, options=OPTIONS, epochs=1, densities="gaussian").psnr == 60


def test_numbers_of_numpy_are_options(images):
    short = GenerativeScatteringNetwork.fit(
        images, options=OPTIONS, epochs=np.int64(1), learning_rate=np.float32(0.01), seed=np.int64(0),
        densities={"mixture": {"n_components": np.int64(2)}},
    )  # fmt: skip
    assert short.options["training"]["epochs"] == 1
    json.dumps(short.options)


def test_a_density_that_draws_nan_is_not_kept(images, model, tmp_path, monkeypatch):
    monkeypatch.setitem(DENSITIES, "diverged", Diverged)
    options = {**OPTIONS, "densities": {"diverged": {}}}
    run = RunFolder.start(tmp_path / "run", options)
    with pytest.raises(ScattergenError, match="density diverged draws infinite or NaN codes"):
        fit_parts(images, options, Stages(run, SILENT))
    assert run.has("decoder")
    assert not run.has("densities/diverged")


def test_a_density_of_other_codes_is_not_saved(model, tmp_path):
    other = GenerativeScatteringNetwork(model.encoder, model.decoder)
    other.densities["wide"] = Gaussian().fit(torch.randn(20, 9))
    with pytest.raises(InputError, match="wide is of codes with 9 components"):
        other.save(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_hyperparameters_that_are_numpy_numbers_are_saved(model, images, tmp_path):
    mixture = GaussianMixture(n_components=np.int64(2), shrinkage=np.float32(4))
    model = GenerativeScatteringNetwork(model.encoder, model.decoder)
    model.densities["mixture"] = mixture.fit(model.encode(images))
    model.save(tmp_path / "run")
    assert sg.load(tmp_path / "run").densities["mixture"].n_components == 2


@pytest.mark.parametrize("seed", [1.5, -1, "1", True, 2**32])
def test_seeds_that_are_no_whole_numbers(model, images, seed):
    for use in (
        lambda: model.sample(2, seed=seed),
        lambda: GenerativeScatteringNetwork.fit(images, options=OPTIONS, seed=seed),
        lambda: model.fit_density("gaussian", torch.randn(20, 8), seed=seed),
    ):
        with pytest.raises(InputError, match=f"seed={seed!r}: give a whole number"):
            use()


def test_a_fit_in_a_folder_continues(images, model, tmp_path):
    run = RunFolder.start(tmp_path / "run", OPTIONS)
    fit_parts(images, OPTIONS, Stages(run, SILENT))
    run.file("decoder").unlink()
    shutil.rmtree(tmp_path / "run" / "densities")
    with pytest.warns(UserWarning, match="is missing or damaged: it is made again") as warned:
        again = GenerativeScatteringNetwork(**vars(fit_parts(images, OPTIONS, Stages(run, SILENT))))
    assert len(warned) == 3
    assert same_model(again, model)
    assert same_model(sg.load(tmp_path / "run"), model)


@pytest.mark.parametrize("with_codes", [False, True])
def test_a_density_kept_in_a_run_is_that_of_the_codes_it_is_given(model, images, tmp_path, with_codes):
    own = GenerativeScatteringNetwork(model.encoder, model.decoder)
    z, labels = model.encode(images), torch.arange(len(images)) % 2
    run = RunFolder.start(tmp_path / "run", OPTIONS)
    if with_codes:
        fit_parts(images, OPTIONS, Stages(run, SILENT))
    else:
        own.save(tmp_path / "run", overwrite=True)
        run = RunFolder.open(tmp_path / "run")
    for some in ((z[:60], None), (z[60:], None), (z, labels), (z, ClassLabels(1 - labels, ("1", "0")))):
        kept = fit_density("gaussian", "mine", *some, Stages(run, SILENT), overwrite=True)
        assert torch.equal(kept.sample(5), own.fit_density("gaussian", *some).sample(5))
        assert torch.equal(sg.load(tmp_path / "run").sample_codes(5, "mine"), kept.sample(5))
        again = fit_density("gaussian", "mine", *some, Stages(run, SILENT))
        assert torch.equal(again.sample(5), kept.sample(5))


def test_tensors_of_another_model_are_refused(model, tmp_path):
    """As after files of two runs were mixed with their hashes made to fit."""
    model.save(tmp_path / "run")
    run = RunFolder.open(tmp_path / "run")
    tensors, keywords = run.read("encoder")
    run.write("encoder", run.key("encoder"), tensors, {**keywords, "n_components": 9})
    with pytest.raises(RunFolderError, match=r"does not fit its options.*--overwrite"):
        sg.load(tmp_path / "run")


def test_nothing_is_ever_unpickled():
    """But compiled kernels, and weights of a package whose hash is known, by a reader that knows tensors only."""
    forbidden = re.compile(
        r"import pickle|torch\.load\((?!.*weights_only=True)|torch\.save\(|allow_pickle=True|"
        r"(?<![.\w])(?:eval|exec)\("
    )
    for path in Path(sg.__file__).parent.rglob("*.py"):
        found = forbidden.findall(path.read_text())
        assert found == (["import pickle"] if path.name == "kernel_cache.py" else []), path


# Presets and options


@pytest.mark.parametrize(
    ("shape", "n", "J", "n_components"),
    [
        ((1, 28, 28), 60_000, 2, 512),
        ((3, 32, 32), 450, 2, 448),
        ((1, 37, 50), 513, 2, 511),
        ((3, 64, 64), 5000, 3, 512),
        ((3, 128, 128), 5000, 4, 512),
        ((1, 8, 8), 20, 1, 18),
        ((1, 8, 8), 3, 1, 1),
        ((1, 9, 300), 1000, 1, 512),
        ((1, 8, 8), 5000, 1, 144),  # (1 + 8) coefficients at 4 x 4 positions
    ],
)
def test_auto_fits_every_shape(shape, n, J, n_components):
    options = preset("auto", shape, n)
    check_options(options, shape, n)
    assert options["encoder"]["J"] == J
    assert options["encoder"]["n_components"] == n_components
    assert len(options["decoder"]["channels"]) == J + 1
    assert ("vae-improved" in options["densities"]) == (n >= 24)


def test_auto_works_with_very_few_images(images):
    few = GenerativeScatteringNetwork.fit(
        images[:4], options=override(preset("auto", (1, 16, 16), 4), {"training.epochs": 2})
    )
    assert few.sample(3).shape == (3, 1, 16, 16)
    assert list(few.densities) == ["gaussian", "mixture"]


def test_the_mnist_preset_is_the_papers():
    options = preset("mnist", (1, 28, 28), 60_000)
    assert options["encoder"] == {"J": 2, "L": 8, "max_order": 2, "n_components": 512}
    assert options["decoder"]["channels"] == [128, 64, 32]
    assert list(options["densities"]) == ["gaussian", "mixture", "vae", "vae-improved"]
    options["encoder"]["J"] = 9
    assert preset("mnist", (1, 28, 28), 60_000)["encoder"]["J"] == 2  # a copy


@pytest.mark.parametrize(
    ("name", "shape", "n", "message"),
    [
        ("celebrities", (3, 64, 64), 100, 'no preset "celebrities": choose "mnist", "celeba", "celeba-light", '),
        ("auto", (1, 7, 100), 100, "7x100 pixels are too small"),
        ("auto", (1, 28, 28), 2, "2 training images are too few"),
    ],
)
def test_presets_that_do_not_exist_or_fit(name, shape, n, message):
    with pytest.raises(InputError, match=message):
        preset(name, shape, n)


def test_override_changes_a_copy():
    options = {"encoder": {"J": 2}, "densities": {"vae": {}}}
    changed = override(options, {"encoder.J": 3, "densities.vae.beta": 0.1, "densities.gan": {}})
    assert changed == {"encoder": {"J": 3}, "densities": {"vae": {"beta": 0.1}, "gan": {}}}
    assert options == {"encoder": {"J": 2}, "densities": {"vae": {}}}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("J", "SECTION.NAME"),
        ("decoder.J", "SECTION.NAME"),
        ("encoder.J.x", "SECTION.NAME"),
        ("densities.vae", r"densities\.vae\.beta=0\.01"),
        ("densities.gan.epochs", r'"gan" is not among the densities to fit \(vae\)'),
    ],
)
def test_overrides_that_name_no_option(name, message):
    with pytest.raises(InputError, match=message):
        override({"encoder": {"J": 2}, "densities": {"vae": {}}}, {name: 3})


def test_build_knows_the_users_options_only():
    assert build("encoder", ScatteringEncoder, {"J": 1}, (1, 8, 8), device="cpu").scattering.J == 1
    for own in ("device", "image_shape"):
        with pytest.raises(InputError, match=f'The encoder has no option "{own}": its options are'):
            build("encoder", ScatteringEncoder, {own: 1}, (1, 8, 8), device="cpu")
    with pytest.raises(InputError, match="J='one' does not suit the encoder: give a whole number"):
        build("encoder", ScatteringEncoder, {"J": "one"}, (1, 8, 8))


# The decoder's fit


def test_augment_is_reproducible_and_moves_by_whole_pixels():
    x = torch.arange(6 * 2 * 5 * 7.0).reshape(6, 2, 5, 7)

    def moved(seed, **how):
        return augment(x, torch.Generator().manual_seed(seed), **how)

    assert torch.equal(moved(0), x)
    assert torch.equal(moved(0, flips=True, shifts=2), moved(0, flips=True, shifts=2))
    assert not torch.equal(moved(0, flips=True, shifts=2), moved(1, flips=True, shifts=2))
    flipped = moved(0, flips=True)
    mirrored = [torch.equal(a, b.flip(-1)) for a, b in zip(flipped, x, strict=True)]
    assert any(mirrored)
    assert not all(mirrored)
    assert all(torch.equal(a, b.flip(-1) if m else b) for a, b, m in zip(flipped, x, mirrored, strict=True))
    padded = torch.nn.functional.pad(x, (2, 2, 2, 2), mode="replicate")
    windows = [padded[:, :, i : i + 5, j : j + 7] for i in range(5) for j in range(5)]
    for i, image in enumerate(moved(3, shifts=2)):
        assert any(torch.equal(image, window[i]) for window in windows)


def test_augmented_training_needs_the_encoder_and_is_reproducible(model, images):
    z = model.encode(images)

    def fitted(encoder, **how):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            decoder = Decoder(8, (1, 16, 16), channels=(8, 4))
        DecoderTraining(epochs=1, **how).fit(decoder, z, images, encoder=encoder)
        return decoder

    with pytest.raises(InputError, match="pass the encoder too"):
        fitted(None, flips=True)
    first = fitted(model.encoder, flips=True, shifts=1)
    assert same_state(first, fitted(model.encoder, flips=True, shifts=1))
    assert not same_state(first, fitted(model.encoder))


def test_training_on_mirrored_images_draws_one_of_each_pair(model, images, monkeypatch):
    plain, swapped = model.encode(images), model.encode(images.flip(3))
    shares = []

    def exact(z):
        """The image in [-1, 1] that a code is of."""
        # Squared distances are differences of numbers near 10 with float32's rounding: 0.003.
        near, far = (torch.cdist(z, codes) < 0.01 for codes in (plain, swapped))
        assert (near.sum(1) + far.sum(1) == 1).all()
        shares.append(far.any(1).float().mean().item())
        return 2 * (near.float() @ images.flatten(1) + far.float() @ images.flip(3).flatten(1)) - 1

    def look(modules, losses, data, *_, **__):
        batch = data[torch.arange(len(data))]
        decoder = {"decoder": lambda z: exact(z).view(-1, *images.shape[1:])}
        error = losses["decoder"](decoder, batch, torch.Generator().manual_seed(0))
        assert error.item() < 1e-6  # no sum of rounded terms: one image is multiplied by 1
        return []

    monkeypatch.setattr(decoder_fit, "train", look)
    decoder = Decoder(8, (1, 16, 16), channels=(8, 4))
    DecoderTraining(flips=True).fit(decoder, plain, images, encoder=model.encoder)
    assert 0.2 < shares[0] < 0.8  # of some fifty fair coins


def test_mirrored_images_are_encoded_once(model, images, tmp_path, monkeypatch):
    encode, counts = model.encoder.transform, []
    monkeypatch.setattr(model.encoder, "transform", lambda x, *a, **how: counts.append(len(x)) or encode(x, *a, **how))
    codes, checkpoint = encode(images), tmp_path / "decoder.safetensors"

    def fitted(checkpoint=None, stop_after=None, **how):
        def stop(history):
            if len(history) == stop_after:
                raise KeyboardInterrupt

        with torch.random.fork_rng():
            torch.manual_seed(0)
            decoder = Decoder(8, (1, 16, 16), channels=(8, 4))
        training = DecoderTraining(epochs=2, n_validation=3, **how)
        keep = {"checkpoint": checkpoint, "on_epoch": stop}
        training.fit(decoder, codes, images, encoder=model.encoder, **keep)
        return decoder

    whole = fitted(flips=True)
    with pytest.raises(KeyboardInterrupt):
        fitted(checkpoint, stop_after=1, flips=True)
    assert counts == [len(images) - 3] * 2  # those held out stay as they are
    assert same_state(fitted(checkpoint, flips=True), whole)
    assert len(counts) == 2
    (tmp_path / "mirrored.safetensors").write_bytes(b"damaged")
    checkpoint.unlink()
    with pytest.warns(UserWarning, match=r"mirrored.safetensors is damaged: it is made again"):
        assert same_state(fitted(checkpoint, flips=True), whole)
    assert len(counts) == 3


def test_a_growing_gap_is_warned_about_once(images):
    decoder = Decoder(64, (1, 16, 16), channels=(32, 16), momentum=0.5)
    codes = torch.randn(40, 64, generator=torch.Generator().manual_seed(0))  # nothing to generalise
    with pytest.warns(OverfittingWarning, match=r"dB better than validation images.*shifts") as found:
        DecoderTraining(epochs=40, batch_size=8).fit(decoder, codes, images[:40])
    assert len(found) == 1


def test_overfitting_is_judged_over_all_epochs_so_far():
    """Of a resumed training, too: the history comes from its checkpoint. It is said once."""

    def warned(gaps):
        history = [{"validation/train_psnr": 20 + gap, "validation/psnr": 20} for gap in gaps]
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            _warn_of_overfitting(history)
        return len(found)

    growing = [0.5, 1.0, 1.5, 2.5, 3.0, 3.5]
    assert [warned(growing[:n]) for n in range(7)] == [0, 0, 0, 0, 1, 0, 0]
    assert warned([0.5, 1.0, 1.5, 1.9]) == 0  # small
    assert warned([2.0, 3.0, 2.9, 3.5]) == 0  # not growing all the time


def test_a_decoder_that_generalises_is_not_warned_about():
    decoder = Decoder(2, (1, 16, 16), channels=(8, 4), momentum=0.5)
    codes = torch.randn(400, 2, generator=torch.Generator().manual_seed(0))
    brightness = codes[:, :1].sigmoid()[:, :, None, None].expand(-1, 1, 16, 16).contiguous()
    DecoderTraining(epochs=6, batch_size=16).fit(decoder, codes, brightness)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_validation": 0}, "hold out at least 1"),
        ({"n_validation": 9}, "leave 1 to train on"),
        ({"shifts": -1}, "0 or more pixels"),
        ({"epochs": 0}, "epochs=0"),
    ],
)
def test_training_options_out_of_range(options, message):
    with pytest.raises(InputError, match=message):
        DecoderTraining(**options).check(10)


def test_as_many_codes_as_images(model, images):
    with pytest.raises(InputError, match="119 codes"):
        DecoderTraining().fit(model.decoder, torch.zeros(119, 8), images)


# The visualisation matrix


def test_component_grid():
    variance = torch.tensor([100.0, 25.0, 4.0])
    z = component_grid(variance, [-10.0, 5.0])
    expected = [[-1.0, -2.0, 0], [-1.0, 1.0, 0], [0.5, -2.0, 0], [0.5, 1.0, 0]]
    assert z.tolist() == expected
    sigma = component_grid(variance, [-1.0, 2.0], (2, 0), in_sigma=True)
    assert sigma.tolist() == [[-1, 0, -1], [2, 0, -1], [-1, 0, 2], [2, 0, 2]]
    for components in ((0, 3), (-1, 0)):
        with pytest.raises(InputError, match="do not exist among 0 … 2"):
            component_grid(variance, [1.0], components)


@pytest.mark.parametrize("by_class", [False, True])
def test_a_density_with_keywords_of_another_version_says_what_to_do(model, images, tmp_path, by_class):
    z = model.encode(images)
    model.fit_density("mixture", z, torch.arange(len(z)) % 2 if by_class else None, stored_as="old")
    model.save(tmp_path / "run")
    run = RunFolder.open(tmp_path / "run")
    tensors, metadata = run.read("densities/old")
    keywords = metadata["hyperparameters"]
    (keywords["keywords"] if by_class else keywords).update(covariance="low_rank")
    run.write("densities/old", run.key("densities/old"), tensors, metadata)
    with pytest.raises(RunFolderError, match=r'no option "covariance".*scattergen density'):
        sg.load(tmp_path / "run")
    del model.densities["old"]


def test_a_model_saved_with_its_data_has_codes_for_commands(scattergen, tmp_path, monkeypatch):
    x = mnist().train[:130][:, :, 6:22, 6:22]
    labels = torch.arange(130) % 2
    np.savez(tmp_path / "x.npz", x_train=x.numpy(), y_train=labels.numpy(), classes=np.array([b"a\xc3\xa9", b"b"]))
    data = open_dataset(tmp_path / "x.npz")
    model = GenerativeScatteringNetwork.fit(data.train, options=OPTIONS)
    model.save(tmp_path / "plain")
    for words in (["diagnose"], ["density", "gaussian"], ["nearest"]):
        command = [words[0], tmp_path / "plain", *words[1:]]
        assert "save(RUN, data=data, overwrite=True)" in scattergen(*command, "-q", code=2).err
    run = tmp_path / "run"
    model.save(run, data=data)
    assert torch.equal(RunFolder.open(run).read("codes")[0]["codes"], model.encode(data.train))
    assert RunFolder.open(run).finished
    scattergen("density", run, "gaussian", "--by-class", "-q")
    scattergen("sample", run, "--label", "a\u00e9", "-n", 2, "--out", tmp_path / "a.png", "-q")
    scattergen("diagnose", run, "-n", 40, "--components", 2, "--simulations", 19, "-q")
    scattergen("nearest", run, "--images", tmp_path / "x.npz", "--out", tmp_path / "b.png", "-q")
    scattergen("density", run, "vae", "--set", "epochs=1", "-q")  # which is measured in seconds
    opened = RunFolder.open(run)
    assert opened.finished
    assert opened.options["data"]["n"] == len(data.train)
    assert "130" not in scattergen("list", tmp_path).out
    assert "117 of x" in scattergen("list", tmp_path).out
    other = draw_other(tmp_path)
    assert (
        "does not hold the images"
        in scattergen("nearest", run, "--images", other, "--out", tmp_path / "c.png", code=2).err
    )
    model.save(tmp_path / "again", data=data)
    model.fit_density("gaussian", model.encode(data.train), stored_as="later")
    model.save(tmp_path / "again")  # which keeps what it knows of its data
    assert "later" in sg.load(tmp_path / "again").densities
    assert RunFolder.open(tmp_path / "again").options["data"]["n"] == len(data.train)
    assert "was not made by `scattergen fit`" in scattergen("report", run, code=2).err
    with pytest.raises(RunFolderError, match="--overwrite to replace it"):
        model.save(tmp_path / "plain", data=data)
    model.save(tmp_path / "plain", data=data, overwrite=True)
    scattergen("diagnose", tmp_path / "plain", "-n", 40, "--components", 2, "--simulations", 19, "-q")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("mine")
    with monkeypatch.context() as patch:
        patch.setattr(ScatteringEncoder, "transform", None)  # is not called before
        with pytest.raises(RunFolderError, match="mine"):
            model.save(tmp_path / "mine", data=data)
    with pytest.raises(InputError, match="holds no source of images"):
        model.save(tmp_path / "b", data=data.train)
    with pytest.raises(InputError, match="holds no source of images"):
        model.save(tmp_path / "b", data=Dataset("x", x))


def draw_other(folder):
    np.savez(folder / "other.npz", x_train=mnist().train[200:330][:, :, 6:22, 6:22].numpy())
    return folder / "other.npz"
