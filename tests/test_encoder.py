"""The encoder: shapes, the order of its features, whiteness, and independence of batches."""

import copy
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from scattergen.display.progress import Progress
from scattergen.encoder import ScatteringEncoder, principal_components
from scattergen.encoder import scattering_encoder as encoder_module
from scattergen.errors import InputError
from scattergen.files.tensors import read_tensors
from scattergen.scattering import Scattering2D


def images(n, C=1, H=12, W=16, seed=0):
    return torch.rand(n, C, H, W, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def fitted():
    x = images(200)
    return ScatteringEncoder((1, 12, 16), J=2, L=4, n_components=20).fit(x), x


def test_codes_are_white_on_the_training_images(fitted):
    encoder, x = fitted
    z = encoder.transform(x).double()
    assert z.shape == (200, 20)
    # Float32 codes of values up to 4: sums of 200 products are exact to 1e-5; the projections are
    # differences of coefficients of about 1, divided by deviations of 0.01 and more: 1e-5 again.
    torch.testing.assert_close(z.mean(0), torch.zeros(20).double(), rtol=0, atol=1e-4)
    torch.testing.assert_close(z.T @ z / 200, torch.eye(20).double(), rtol=0, atol=1e-4)


def test_features_are_the_flattened_coefficients_channel_by_channel():
    x = images(5, C=3)
    encoder = ScatteringEncoder((3, 12, 16), J=2, L=3, max_order=1, n_components=2)
    scattering = Scattering2D(J=2, shape=(12, 16), L=3, max_order=1)
    s = encoder.features(x)
    assert encoder.n_features == 3 * 7 * 3 * 4
    assert s.shape == (5, encoder.n_features)
    per_channel = torch.stack([scattering(x[:, channel]) for channel in range(3)], 1)
    # Another batch size may take other kernels: some roundings of values of about 1.
    torch.testing.assert_close(s, per_channel.flatten(1), rtol=1e-6, atol=1e-6)


def test_colour_images_and_other_arguments():
    x = images(60, C=3)
    encoder = ScatteringEncoder((3, 12, 16), J=1, L=3, max_order=1, n_components=10).fit(x)
    assert encoder.transform(x[:7]).shape == (7, 10)
    assert encoder.transform(x[:0]).shape == (0, 10)
    assert encoder.whitening.components_.shape == (10, 3 * 4 * 6 * 8)


def test_the_size_of_batches_does_not_matter(fitted, monkeypatch):
    encoder, x = fitted
    z = encoder.transform(x)
    monkeypatch.setattr(encoder_module, "_BATCH_FLOATS", 7 * encoder.n_features)
    assert encoder.batch_size == 7
    again = ScatteringEncoder((1, 12, 16), J=2, L=4, n_components=20).fit(x)
    # Rounding of the features, 1e-7, is divided by deviations of 0.01 and more and by the relative
    # gaps between eigenvalues, here about 1/50.
    torch.testing.assert_close(encoder.transform(x), z, rtol=0, atol=1e-4)
    torch.testing.assert_close(again.transform(x), z, rtol=0, atol=5e-3)


def test_batches_are_bounded_by_memory_and_hold_an_image_at_least(fitted, monkeypatch):
    encoder, _ = fitted
    assert encoder.batch_size == 1024
    monkeypatch.setattr(encoder_module, "_BATCH_FLOATS", 1)
    assert encoder.batch_size == 1


def test_only_batches_are_read_from_a_source(fitted, monkeypatch):
    encoder, x = fitted
    monkeypatch.setattr(encoder_module, "_BATCH_FLOATS", 30 * encoder.n_features)
    read = []

    class Source:
        shape, labels, fingerprint = (1, 12, 16), None, ""

        def __len__(self):
            return len(x)

        def __getitem__(self, index):
            part = x[index]
            read.append(len(part))
            return part

    torch.testing.assert_close(encoder.transform(Source()), encoder.transform(x))
    assert read == [30] * 6 + [20]


def test_no_gradients_are_recorded(fitted):
    encoder, x = fitted
    assert not encoder.transform(x[:2].clone().requires_grad_()).requires_grad


def test_progress_counts_images(fitted):
    encoder, x = fitted
    stages = []

    class Counting(Progress):
        def task(self, description, total):
            stages.append((description, total))
            return super().task(description, total)

    encoder.transform(x, progress=Counting(show=False))
    assert stages == [("encode", 200)]


@pytest.mark.parametrize("shape", [(5, 1, 16, 12), (5, 3, 12, 16), (5, 12, 16), (1, 12, 16)])
def test_images_of_another_shape(fitted, shape):
    encoder, _ = fitted
    with pytest.raises(InputError, match=r"\(N, 1, 12, 16\)") as error:
        encoder.features(torch.zeros(shape))
    assert str(shape) in str(error.value)


@pytest.mark.parametrize(
    ("n", "culprit", "remedy"),
    [
        (0, "0 training image", "at least 2"),
        (1, "1 training image", "at least 2"),
        (20, "asked of 20 training images", "at most 19 "),
    ],
)
def test_too_few_images(n, culprit, remedy):
    encoder = ScatteringEncoder((1, 12, 16), n_components=20)
    with pytest.raises(InputError, match=culprit) as error:
        encoder.fit(images(n))
    assert remedy in str(error.value)


def test_more_components_than_coefficients():
    encoder = ScatteringEncoder((1, 4, 4), max_order=0, n_components=2)
    assert encoder.n_features == 1
    with pytest.raises(InputError, match=r"with 1 coefficients each: .* at most 1 "):
        encoder.fit(images(9, H=4, W=4))


def test_equal_images():
    x = images(1).expand(1100, -1, -1, -1)  # two batches, whose features differ by rounding
    with pytest.raises(InputError, match="All samples have the same features"):
        ScatteringEncoder((1, 12, 16), n_components=2).fit(x)


def test_a_transform_that_does_not_fit_the_images():
    with pytest.raises(InputError, match="J=4 does not fit images of 12x16"):
        ScatteringEncoder((1, 12, 16), J=4)


def test_images_of_any_precision():
    x = (torch.rand(60, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 16).round() / 16
    single, double = (ScatteringEncoder((1, 16, 16), J=1, n_components=4).fit(one) for one in (x, x.double()))
    assert double.transform(x.double()).dtype == torch.float32
    # Coefficients of float64 are rounded to float32, and components of variance above 1e-3 turn by less than 1e-3.
    torch.testing.assert_close(double.transform(x.double()), single.transform(x), rtol=0, atol=1e-2)


def test_state_before_fitting():
    with pytest.raises(InputError, match="has not been fitted yet"):
        ScatteringEncoder((1, 16, 16), J=1, n_components=4).state_dict()


def test_encoding_before_fitting():
    with pytest.raises(InputError, match="call fit first"):
        ScatteringEncoder((1, 12, 16), n_components=2).transform(images(3))


def test_a_stored_encoder_gives_the_same_codes(fitted):
    encoder, x = fitted
    restored = ScatteringEncoder(**encoder.hyperparameters)
    restored.load_state_dict(encoder.state_dict())
    assert torch.equal(restored.transform(x), encoder.transform(x))
    assert restored.whitening.n_samples_ == 200


def small_batches(monkeypatch, encoder, size=30):
    monkeypatch.setattr(encoder_module, "_BATCH_FLOATS", size * encoder.n_features)


@pytest.mark.parametrize(("store", "dtype"), [("memory", "float16"), ("disk", "float32")])
def test_codes_from_kept_coefficients_are_those_of_the_images(fitted, monkeypatch, tmp_path, store, dtype):
    _, x = fitted
    encoder = ScatteringEncoder((1, 12, 16), L=4, n_components=20, store=store, store_dtype=dtype)
    small_batches(monkeypatch, encoder)
    features = encoder.open_features(x, tmp_path / "store")
    encoder.fit(features)
    expected = encoder.transform(x)
    monkeypatch.setattr(encoder, "features", None)  # no image is scattered again
    assert torch.equal(encoder.transform(features), expected)


def test_codes_from_float16_on_disk_differ_by_its_rounding(fitted, monkeypatch, tmp_path):
    _, x = fitted
    encoder = ScatteringEncoder((1, 12, 16), L=4, n_components=20, store="disk")
    small_batches(monkeypatch, encoder)
    features = encoder.open_features(x, tmp_path / "store")
    z = encoder.fit(features).transform(features)
    difference = (z - encoder.transform(x)).abs()
    # Deviations below 1/2 are rounded by 2^-11 of themselves, 2^-12.8 in root mean square of a
    # uniform error; a component sums D of them with weights of unit length, and is divided by its
    # own deviation. Six times that is not met by chance.
    s = encoder.features(x)
    rounding = (s - s.mean(0)).square().mean(0) * 2**-25.6
    components, variances = encoder.whitening.components_, encoder.whitening.explained_variance_
    expected = (components.square() @ rounding / variances).sqrt()
    assert (difference.square().mean(0).sqrt() < 6 * expected).all()
    assert difference.max() > 0


def test_where_coefficients_are_kept_is_no_part_of_the_encoder(fitted):
    encoder = ScatteringEncoder((1, 12, 16), n_components=20, store="recompute")
    assert "store" not in encoder.hyperparameters
    assert encoder.hyperparameters.keys() == fitted[0].hyperparameters.keys()


def test_images_that_will_never_do_leave_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(principal_components, "_PART_OF_TIME_WRITING", float("inf"))
    x = images(1).expand(60, -1, -1, -1)
    encoder = ScatteringEncoder((1, 12, 16), n_components=2, store="disk")
    features = encoder.open_features(x, tmp_path / "store")
    with pytest.raises(InputError, match="the same features"):
        encoder.fit(features, checkpoint=tmp_path / "state.safetensors")
    assert not [*tmp_path.iterdir()]


class Threads:
    """Processes that are threads of this one."""

    def __init__(self, rank, world_size, barrier, board):
        self.rank, self.world_size = rank, world_size
        self._barrier, self._board = barrier, board

    def barrier(self):
        self._barrier.wait(60)

    def _exchange(self, value):
        self._board[self.rank] = value
        self.barrier()
        values = copy.deepcopy(self._board)
        self.barrier()
        return values

    def all_reduce(self, tensor):
        return sum(self._exchange(tensor))

    def broadcast(self, value):
        return self._exchange(value)[0]


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("method", ["_from_gram", "_from_covariance", "_by_subspace_iteration"])
def test_several_processes_find_the_encoder_of_one(fitted, monkeypatch, tmp_path, method, world_size):
    _, x = fitted
    monkeypatch.setattr(principal_components, "_method", lambda n, D: getattr(principal_components, method))
    arguments = {"L": 4, "n_components": 20, "store": "disk"}
    one = ScatteringEncoder((1, 12, 16), **arguments)
    small_batches(monkeypatch, one)
    expected = one.fit(one.open_features(x, tmp_path / "one")).transform(x)
    barrier, board = threading.Barrier(world_size), [None] * world_size

    def fit(rank):
        processes = Threads(rank, world_size, barrier, board)
        encoder = ScatteringEncoder((1, 12, 16), **arguments)
        features = encoder.open_features(x, tmp_path / "several", processes)
        encoder.fit(features, checkpoint=tmp_path / "state.safetensors")
        return encoder, encoder.transform(features)

    with ThreadPoolExecutor(world_size) as pool:
        results = list(pool.map(fit, range(world_size)))
    assert len([*(tmp_path / "several").glob("0*")]) == 7  # every chunk once
    for encoder, codes in results:
        for name, tensor in encoder.state_dict().items():
            assert torch.equal(tensor, results[0][0].state_dict()[name]), name
        assert torch.equal(codes, results[0][1])
        # Sums of float32 in another order, amplified by the relative gaps between eigenvalues
        # (about 1/50) and divided by deviations of 0.01 and more, as for batches of another size;
        # float16 on one side only adds its rounding.
        torch.testing.assert_close(codes, expected, rtol=0, atol=2e-2)


FIT = """
import os, signal, sys
import torch
from scattergen.files import tensors
from scattergen.encoder import scattering_encoder as encoder_module
from scattergen.encoder import principal_components
from scattergen.encoder import ScatteringEncoder
folder, last = sys.argv[1], int(sys.argv[2])
torch.set_num_threads(1)
principal_components._PART_OF_TIME_WRITING = float("inf")
principal_components._MOST_FOR_GRAM = principal_components._MOST_FOR_COVARIANCE = 1
x = torch.rand(200, 1, 12, 16, generator=torch.Generator().manual_seed(0))
encoder = ScatteringEncoder((1, 12, 16), L=4, n_components=20, store="disk")
encoder_module._BATCH_FLOATS = 30 * encoder.n_features
replace = os.replace
def counted(source, target):
    global last
    last -= 1
    if last == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(source, target)
os.replace = counted
from pathlib import Path
features = encoder.open_features(x, Path(folder, "codes"))
encoder.whitening.fit_samples(
    features, checkpoint=Path(folder, "state.safetensors"), checkpoint_seconds=0
)
tensors.write_tensors(
    Path(folder, "result.safetensors"),
    encoder.state_dict() | {"codes": encoder.transform(features)},
)
"""


@pytest.mark.slow
def test_a_killed_fit_goes_on_with_the_same_bits(forks, tmp_path):
    def run(name, last):
        process = forks.start(FIT, str(tmp_path / name), str(last))
        return process.communicate(timeout=120)[0].decode(), process.returncode

    # Files: the shift, then 7 chunks each with a state after it, 3 passes with 7 states and one
    # more at the end of the first three, and the result.
    assert run("whole", 0) == ("", 0)
    for last in (5, 12, 20):  # among the chunks; among the states of the second and third pass
        assert run("killed", last) == ("", -signal.SIGKILL)
    assert run("killed", 0) == ("", 0)
    whole, _ = read_tensors(tmp_path / "whole" / "result.safetensors")
    resumed, _ = read_tensors(tmp_path / "killed" / "result.safetensors")
    for name, tensor in whole.items():
        assert torch.equal(resumed[name], tensor), name


def test_kept_coefficients_of_other_images_are_not_used(fitted, monkeypatch, tmp_path):
    encoder, x = fitted
    small_batches(monkeypatch, encoder)
    monkeypatch.setattr(encoder, "store", "disk")
    for _ in encoder.open_features(x, tmp_path / "kept").deviations():
        pass
    other = x.clone()
    other[-1] = 1 - other[-1]  # the first chunk, and with it the shift, are the same
    with pytest.warns(UserWarning, match="belongs to other images"):
        codes = encoder.transform(encoder.open_features(other, tmp_path / "kept"))
    assert torch.equal(codes, encoder.transform(encoder.open_features(other, tmp_path / "none")))
