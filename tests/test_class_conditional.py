"""One density per class, of every registered kind."""

import math

import numpy as np
import pytest
import torch

from scattergen.densities import (
    DENSITIES,
    ClassConditional,
    Density,
    LikelihoodDensity,
    draw_in_chunks,
    hyperparameters,
    make,
    make_for_classes,
    needs_labels,
)
from scattergen.densities import class_conditional as module
from scattergen.densities.class_conditional import label_numbers
from scattergen.errors import InputError, RunFolderError
from small_densities import SMALL, D, codes

KINDS = [name for name in SMALL if name != "class_conditional"]
FAR = 200.0  # between the classes; codes of one are within some 20 of its centre


@pytest.fixture(scope="module")
def labels():
    return torch.arange(500) % 5 // 3  # 300 and 200


@pytest.fixture(scope="module")
def z(labels):
    return codes() + FAR * labels[:, None]


@pytest.fixture(scope="module")
def fitted(z, labels):
    return {kind: ClassConditional(kind, SMALL[kind], ["low", "high"]).fit(z, labels, seed=3) for kind in KINDS}


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def same(a, b):
    return a.dtype == b.dtype and a.numpy().tobytes() == b.numpy().tobytes()


def test_each_class_has_the_density_of_its_codes_alone(kind, fitted, z, labels):
    density = fitted[kind]
    assert density.weights_.tolist() == pytest.approx([0.6, 0.4])
    seeds = [module._seed_of_class(3, c) for c in range(2)]
    assert len({3, *seeds}) == 3
    for c, seed in enumerate(seeds):
        alone = make(kind, **SMALL[kind]).fit(z[labels == c], seed=seed)
        assert same(density.densities_[c].sample(20), alone.sample(20))
    assert "2 classes (low, high)" in density.description
    assert [row["epoch"] for row in density.history_] == list(range(1, len(density.history_) + 1))
    assert {row["class"] for row in density.history_} == {0, 1}
    seconds = [row["seconds"] for row in density.history_]
    assert seconds == sorted(seconds)


@pytest.mark.parametrize("kind", ["gaussian", "mixture", "flow"])
def test_samples_lie_in_their_class(kind, fitted):
    drawn = [fitted[kind].sample(300, labels=c, seed=1).mean(1) for c in range(2)]
    assert (drawn[0] < FAR / 2).all()
    assert (drawn[1] > FAR / 2).all()


def test_code_k_is_a_draw_of_its_class(kind, fitted):
    density = fitted[kind]
    low, high = (density.sample(300, seed=5, labels=c) for c in (0, 1))
    assert not torch.isclose(low, high).any(1).all()
    asked = torch.tensor([1, 0, 0, 1, 0])
    expected = torch.stack([high[0], low[0], low[1], high[1], low[2]])
    assert same(density.sample(5, seed=5, labels=asked), expected)
    assert same(density.sample(3, seed=5, labels=asked.numpy()[:3]), expected[:3])
    names = ["high", "low", "low", "high", "low"]
    assert same(density.sample(5, seed=5, labels=names), expected)
    assert same(density.sample(300, seed=5, labels="high"), high)
    cold = density.sample(5, seed=5, labels=asked, temperature=0.5)
    assert same(cold[1], density.densities_[0].sample(1, seed=module._seed_of_class(5, 0), temperature=0.5)[0])
    assert density.sample(0, labels=0).shape == (0, D)


def test_without_labels_classes_are_drawn_by_their_shares(kind, fitted):
    density = fitted[kind]
    chosen = density.sample_labels(4000, seed=2)
    # Four standard deviations of a share of 4,000.
    assert chosen.double().mean().item() == pytest.approx(0.4, abs=4 * math.sqrt(0.24 / 4000))
    some = density.sample(300, seed=2)
    assert same(some, density.sample(300, seed=2, labels=chosen[:300]))
    assert same(some[:20], density.sample(20, seed=2))


def test_likelihoods_are_those_of_the_classes(kind, fitted, z, labels):
    density = fitted[kind]
    assert isinstance(density, Density)
    assert isinstance(density, LikelihoodDensity) == hasattr(DENSITIES[kind], "log_prob")
    if not isinstance(density, LikelihoodDensity):
        assert not hasattr(density, "log_prob")
        return
    of_class = torch.stack([one.log_prob(z) for one in density.densities_])
    chosen = of_class.gather(0, labels[None])[0]
    torch.testing.assert_close(density.log_prob(z, labels), chosen)
    torch.testing.assert_close(density.log_prob(z, "high"), of_class[1])
    # The classes are so far apart that only one term of p(z) is not negligible.
    shares = torch.tensor([0.6, 0.4])[labels].log()
    torch.testing.assert_close(density.log_prob(z), chosen + shares)


def test_it_returns_from_its_state(kind, fitted):
    density = fitted[kind]
    loaded = make("class_conditional", **hyperparameters(density))
    loaded.load_state_dict(density.state_dict())
    assert same(loaded.sample(50, labels="low"), density.sample(50, labels="low"))
    assert loaded.history_ == density.history_
    assert loaded.classes_ == ("low", "high")
    with pytest.raises(RunFolderError, match='"weights"'):
        ClassConditional(kind, SMALL[kind], ["a", "b", "c"]).load_state_dict(density.state_dict())


class KilledError(Exception):
    pass


@pytest.mark.parametrize("kind", ["mixture", "vae", "flow"])
def test_an_interrupted_fit_goes_on_with_the_class_it_was_in(kind, fitted, z, labels, tmp_path, monkeypatch):
    checkpoint = tmp_path / "checkpoint.safetensors"
    density_class = DENSITIES[kind]
    fit, fits = density_class.fit, []

    def counted(self, codes, **keywords):
        fits.append(len(codes))
        if len(fits) == 2:
            raise KilledError
        return fit(self, codes, **keywords)

    monkeypatch.setattr(density_class, "fit", counted)

    def density():
        return ClassConditional(kind, SMALL[kind], ["low", "high"])

    with pytest.raises(KilledError):
        density().fit(z, labels, seed=3, checkpoint=checkpoint)
    continued = density().fit(z, labels, seed=3, checkpoint=checkpoint)
    assert fits == [300, 200, 200]  # the first class only once
    assert same(continued.sample(50), fitted[kind].sample(50))
    for other in (
        lambda: density().fit(z, labels, seed=4, checkpoint=checkpoint),
        lambda: density().fit(z + 1, labels, seed=3, checkpoint=checkpoint),
        lambda: ClassConditional(kind, SMALL[kind]).fit(z, labels, seed=3, checkpoint=checkpoint),
    ):
        with pytest.raises(RunFolderError, match="finished class of a fit with other settings"):
            other()
    kept = tmp_path / "checkpoint-0-fitted.safetensors"
    kept.write_bytes(kept.read_bytes()[:100])
    with pytest.warns(UserWarning, match="is damaged: its class is fitted anew"):
        again = density().fit(z, labels, seed=3, checkpoint=checkpoint)
    assert same(again.sample(50), fitted[kind].sample(50))


def test_a_killed_training_of_a_class_continues_within_it(z, labels, tmp_path, monkeypatch, fitted):
    from scattergen.densities import vae
    from scattergen.training.loop import train

    starts = []

    def killed(*arguments, **keywords):
        def after(history):
            starts.append(history[-1]["epoch"])
            if len(starts) == 3:  # after the first epoch of the second class
                raise KilledError

        return train(*arguments, **keywords, on_epoch=after)

    monkeypatch.setattr(vae, "train", killed)
    keep = {"seed": 3, "checkpoint": tmp_path / "checkpoint.safetensors"}
    with pytest.raises(KilledError):
        ClassConditional("vae", SMALL["vae"]).fit(z, labels, **keep)
    continued = ClassConditional("vae", SMALL["vae"]).fit(z, labels, **keep)
    assert starts == [1, 2, 1, 2]
    assert same(continued.sample(50), fitted["vae"].sample(50))


@pytest.mark.parametrize(
    ("given", "classes", "message"),
    [
        (None, None, r"needs labels: call fit\(z, labels\)"),
        (torch.zeros(499, dtype=torch.int64), None, r"int64 of shape \(499,\): expected one"),
        (torch.zeros(500), None, r"float32 of shape \(500,\): expected one integer"),
        (torch.zeros(500, 1, dtype=torch.int64), None, r"shape \(500, 1\): expected"),
        (["cat"] * 500, None, "expected one integer"),
        (torch.arange(500) - 1, None, "Label -1 of code 0 is negative: number the classes from 0"),
        (torch.arange(500) % 2 * 2, None, "No code has label 1: leave out"),
        (torch.full((500,), 10**15), None, "No code has label 0: leave out"),
        (torch.arange(500) % 3, ["a", "b"], "Label 2 of code 2 is none of the 2 classes a, b"),
        (torch.arange(500) % 2, ["a", "b", "c"], r'No code is of class "c": leave out'),
        ((torch.arange(500) > 498).long(), ["a", "b"], 'Class "b": 1 codes are too few'),
    ],
)
def test_labels_that_cannot_be_used(z, given, classes, message):
    with pytest.raises(InputError, match=message):
        ClassConditional("gaussian", classes=classes).fit(z, given)


def test_a_class_with_too_few_codes_is_named_before_the_fit(z, monkeypatch):
    monkeypatch.setattr(DENSITIES["mixture"], "fit", None)
    labels = (torch.arange(500) > 490).long()
    with pytest.raises(InputError, match=r'Class "rare": 9 codes to fit to are too few for n_components=20'):
        ClassConditional("mixture", {"n_components": 20}, ["usual", "rare"]).fit(z, labels)


@pytest.mark.parametrize(
    ("kind", "keywords", "count"),
    [
        ("gaussian", {}, 1),
        ("mixture", {}, 1),
        ("gan", {}, 1),
        ("gan", {"leading": 2, "n_components": 20}, 39),
        ("vae", {}, 23),
        ("flow", {"n_components": 20}, 42),
    ],
)
def test_every_kind_counts_before_any_class_is_fitted(z, monkeypatch, kind, keywords, count):
    monkeypatch.setattr(DENSITIES[kind], "fit", None)
    labels = (torch.arange(500) >= 500 - count).long()
    with pytest.raises(InputError, match=r'Class "rare": .* too few'):
        ClassConditional(kind, keywords, ["usual", "rare"]).fit(z, labels)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (2, r"no class 2: choose among low, high \(as text\), or a number from 0 to 1"),
        (-1, "no class -1"),
        (True, "no class True"),
        (0.0, "no class 0.0"),
        ("middle", "no class 'middle'"),
        ([0, 1], r"3 codes were asked for, but labels of shape \(2,\)"),
        ([0, 1, 7], "no class 7"),
        (torch.zeros(3), "no class"),
    ],
)
def test_classes_that_there_are_not(fitted, asked, message):
    with pytest.raises(InputError, match=message):
        fitted["gaussian"].sample(3, labels=asked)


def test_a_number_as_text_is_a_name_first():
    assert label_numbers("3", 1, ["5", "3"]).tolist() == [1]
    assert label_numbers("1", 1, ["cat", "dog"]).tolist() == [1]
    with pytest.raises(InputError, match="no class '1'"):  # it could be meant as a name
        label_numbers("1", 1, ["5", "3"])
    assert label_numbers(np.int64(1), 2, ["5", "3"]).tolist() == [1, 1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"density": "class_conditional"}, "give the kind of the density of one class"),
        ({"density": "diffusion"}, "no density"),
        ({"density": "vae", "keywords": {"gamma": 1}}, '"vae" has no option "gamma"'),
        ({"keywords": 3}, "keywords=3 .*give an object of names and values or null"),
        ({"classes": ["a", "a"]}, "give different names"),
        ({"classes": []}, "at least one"),
    ],
)
def test_unusable_keywords(options, message):
    with pytest.raises(InputError, match=message):
        make("class_conditional", **options)


class Box:
    """A user's density, without history or temperature: uniform in the codes' bounding box."""

    def __init__(self, margin: float = 0.0) -> None:
        self.margin = margin

    @property
    def description(self):
        return "box"

    def fit(self, z, **_):
        self.low_, self.high_ = z.amin(0) - self.margin, z.amax(0) + self.margin
        self.n_features_ = z.shape[1]
        return self

    def sample(self, n, *, seed=0):
        def draw(noise, size):
            unit = noise.uniform(size * self.n_features_).view(size, -1)
            return self.low_ + (self.high_ - self.low_) * unit

        return draw_in_chunks(n, seed, draw)

    def state_dict(self):
        return {"low": self.low_, "high": self.high_}

    def load_state_dict(self, tensors):
        self.low_, self.high_ = tensors["low"], tensors["high"]
        self.n_features_ = len(self.low_)


def test_a_users_density_by_class(z, labels, monkeypatch):
    monkeypatch.setitem(DENSITIES, "box", Box)
    assert not needs_labels("box")
    density = make_for_classes("box", {"margin": 1}, ["low", "high"]).fit(z, labels)
    assert hyperparameters(density) == {"density": "box", "keywords": {"margin": 1}, "classes": ["low", "high"]}
    assert (density.sample(100, labels="high") > FAR / 2).all()
    with pytest.raises(InputError, match="Box has no temperature"):
        density.sample(3, temperature=0.5)
    loaded = make("class_conditional", **hyperparameters(density))
    loaded.load_state_dict(density.state_dict())
    assert same(loaded.sample(30), density.sample(30))


class Shifted(Box):
    """A user's density that is class-conditional by itself."""

    def fit(self, z, labels=None, **_):
        self.classes_ = tuple(str(c) for c in labels.unique().tolist())
        return super().fit(z)

    def sample(self, n, *, seed=0, labels=None):
        return super().sample(n, seed=seed) + (0 if labels is None else 1000 * labels)


def test_a_users_class_conditional_density_is_used_as_it_is(monkeypatch):
    monkeypatch.setitem(DENSITIES, "shifted", Shifted)
    assert needs_labels("shifted")
    assert isinstance(make_for_classes("shifted", None, ["a", "b"]), Shifted)


def test_one_label_may_be_a_tensor_or_an_array(z):
    labels = torch.arange(500) % 2
    density = ClassConditional("gaussian", classes=[5, 6]).fit(z, labels)
    expected = density.sample(3, labels=1)
    for label in (torch.tensor(1), np.array(1), "6"):
        assert torch.equal(density.sample(3, labels=label), expected)
