"""Whitened principal components against scikit-learn, across batch splits, and at their edges."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch

from scattergen.display.progress import Progress
from scattergen.encoder import PCAWhitening, principal_components
from scattergen.errors import InputError
from scattergen.processes import ALONE

N, D = 400, 30


def features(n=N, D=D, seed=0, decay=0.85):
    """Correlated features whose k-th principal deviation is decay^k, as float32."""
    rng = np.random.default_rng(seed)
    rotation = np.linalg.qr(rng.standard_normal((D, D)))[0]
    s = rng.standard_normal((n, D)) * decay ** np.arange(D) @ rotation
    return torch.from_numpy(s).float()


def fit(s, n_components, batch=100):
    return PCAWhitening(n_components, n_passes=5).fit(lambda: s.split(batch))


@pytest.fixture(params=["covariance", "samples", "subspace iteration"])
def method(request, monkeypatch):
    """The ways of finding components: these features would take the first one.

    The second serves fewer samples than features, the third more than 10,000 features.
    """
    if request.param == "samples":
        by_gram = principal_components._from_gram
        monkeypatch.setattr(principal_components, "_method", lambda n, D: by_gram)
    if request.param == "subspace iteration":
        monkeypatch.setattr(principal_components, "_MOST_FOR_COVARIANCE", 1)
        monkeypatch.setattr(principal_components, "_OVERSAMPLING", 8)
    return request.param


def test_equals_scikit_learn_up_to_signs(method):
    decomposition = pytest.importorskip("sklearn.decomposition", reason="scikit-learn is missing")
    s, d = features(), 6
    ours = fit(s, d)
    theirs = decomposition.PCA(d, whiten=True, svd_solver="full").fit(s.double().numpy())
    # Products of one batch are float32 (6e-8, N terms of mixed sign: 1e-6); eigenvectors amplify
    # this by the inverse relative gap, here 1 / (1 - 0.85²) = 4.  Subspace iteration keeps 14
    # vectors: each of 4 products multiplies the error of the 6th by 0.85^(2·9), which leaves 8e-6.
    np.testing.assert_allclose(ours.mean_, theirs.mean_, atol=1e-6)
    variance = theirs.explained_variance_ * (N - 1) / N  # theirs is the unbiased estimate
    np.testing.assert_allclose(ours.explained_variance_, variance, rtol=1e-5)
    np.testing.assert_allclose(ours.explained_variance_ratio_, theirs.explained_variance_ratio_, rtol=1e-5)
    signs = (ours.components_.numpy() * theirs.components_).sum(1).round()
    assert set(np.abs(signs)) == {1}
    np.testing.assert_allclose(ours.components_, signs[:, None] * theirs.components_, atol=2e-5)
    codes = theirs.transform(s.double().numpy()) * np.sqrt(N / (N - 1)) * signs
    np.testing.assert_allclose(ours.transform(s), codes, atol=2e-4)  # codes reach about 4


@pytest.mark.parametrize("tile", [1, 5, 6, 13, 20])
def test_products_in_tiles_are_those_of_the_whole(monkeypatch, tile):
    """Tiles that divide the 13 rows or not, and one that holds them all."""
    monkeypatch.setattr(principal_components, "_TILE", tile)
    rows = torch.randn(13, 7, generator=torch.Generator().manual_seed(0))
    before = torch.randn(13, 13, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    products = before.clone()
    principal_components._add_upper(products, rows)
    # Sums of seven float32 products.
    torch.testing.assert_close(products.triu(), (before + rows.double() @ rows.T.double()).triu(), rtol=0, atol=1e-5)


def test_codes_are_white_and_in_decreasing_order(method):
    s, d = features(), 10
    pca = fit(s, d)
    z = pca.transform(s).double()
    assert z.shape == (N, d)
    # Codes are float32: sums of N products have an error of about 1e-6.
    torch.testing.assert_close(z.mean(0), torch.zeros(d, dtype=z.dtype), rtol=0, atol=1e-5)
    torch.testing.assert_close(z.T @ z / N, torch.eye(d, dtype=z.dtype), rtol=0, atol=2e-5)
    variance = pca.explained_variance_
    assert (variance[:-1] > variance[1:]).all()
    ratio = pca.explained_variance_ratio_
    assert 0.9 < ratio.sum() < 1
    torch.testing.assert_close(ratio, variance / s.double().var(0, correction=0).sum(), rtol=1e-5, atol=0)


def test_the_entry_of_largest_magnitude_is_positive(method):
    for s in (features(seed=1), -features(seed=1)):
        components = fit(s, 8).components_
        largest = components.gather(1, components.abs().argmax(1, keepdim=True))
        assert (largest > 0).all()


@pytest.mark.parametrize("batch", [1, 7, 64, N - 1])
def test_the_split_into_batches_does_not_matter(method, batch):
    s = features()
    one_shot, streamed = fit(s, 6, N), fit(s, 6, batch)
    assert streamed.n_samples_ == N
    # Sums across batches are float64, those within are float32 and depend on the split, as above.
    torch.testing.assert_close(streamed.mean_, one_shot.mean_, rtol=0, atol=1e-6)
    torch.testing.assert_close(streamed.explained_variance_, one_shot.explained_variance_, rtol=1e-5, atol=0)
    torch.testing.assert_close(streamed.components_, one_shot.components_, rtol=0, atol=2e-5)


def test_the_same_fit_twice_gives_the_same_bits(method):
    a, b = fit(features(), 6), fit(features(), 6)
    assert torch.equal(a.components_, b.components_)
    assert torch.equal(a.explained_variance_, b.explained_variance_)


def test_inverse_transform(method):
    s = features()
    pca = fit(s, 8)
    z = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    # Rows of components are orthonormal to 1e-6 and divided by deviations from 1 to 0.85^7 = 0.3.
    torch.testing.assert_close(pca.transform(pca.inverse_transform(z)), z, rtol=0, atol=3e-5)
    in_span = pca.inverse_transform(pca.transform(s))
    # What is lost lies outside the span and has the rest of the variance.
    lost = (s - in_span).double().square().sum(1).mean()
    total = s.double().var(0, correction=0).sum()
    expected = 1 - pca.explained_variance_ratio_.sum()
    assert (lost / total).item() == pytest.approx(expected.item(), rel=1e-4)
    again = pca.inverse_transform(pca.transform(in_span))
    torch.testing.assert_close(again, in_span, rtol=0, atol=1e-5)


def test_all_components_lose_nothing():
    s = features(decay=0.95)
    pca = fit(s, D)
    assert pca.explained_variance_ratio_.sum().item() == pytest.approx(1, abs=1e-6)
    # Whitening divides float32 values of about 1 by deviations down to 0.95^29 = 0.2.
    torch.testing.assert_close(pca.inverse_transform(pca.transform(s)), s, rtol=0, atol=2e-5)


def test_a_large_mean_costs_no_digits_of_the_variance(method):
    # 2^17 plus multiples of 2^-6 are exact in float32, so the two fits see the same deviations;
    # plain sums of squares in float32 would lose all digits of the variance.
    s = (features() * 64).round() / 64
    plain, shifted = fit(s, 6), fit(s + 2.0**17, 6)
    torch.testing.assert_close(shifted.explained_variance_, plain.explained_variance_, rtol=1e-5, atol=0)
    torch.testing.assert_close(shifted.components_, plain.components_, rtol=0, atol=2e-5)
    # The mean is rounded to float32, whose spacing at 2^17 is 2^-6: codes move by it at most.
    offset = (shifted.mean_.double() - 2.0**17 - plain.mean_.double()).abs()
    assert offset.max() <= 2.0**-7


@pytest.mark.parametrize("n", [2, D - 5, D, D + 1])
def test_about_as_many_samples_as_features(n):
    s = features(n)
    d = min(n - 1, D)
    decomposition = pytest.importorskip("sklearn.decomposition", reason="scikit-learn is missing")
    theirs = decomposition.PCA(d, svd_solver="full").fit(s.double().numpy())
    ours = fit(s, d, 7)
    # The smallest of 30 eigenvalues of about as many samples is about 1e-6 of the largest one: an
    # error of 1e-7 of the latter, which is that of float32 products, is a tenth of it.
    variance = theirs.explained_variance_ * (n - 1) / n
    np.testing.assert_allclose(ours.explained_variance_, variance, rtol=1e-5, atol=2e-7)
    overlap = (ours.components_.numpy() * theirs.components_).sum(1)
    np.testing.assert_allclose(np.abs(overlap[: d // 2]), 1, atol=1e-6)
    np.testing.assert_allclose(ours.components_ @ ours.components_.T, np.eye(d), atol=1e-5)


def test_subspace_iteration_equals_the_exact_method(monkeypatch):
    s, d = features(n=300, D=200, decay=0.95), 10
    exact = fit(s, d)
    monkeypatch.setattr(principal_components, "_MOST_FOR_COVARIANCE", 100)
    approximate = fit(s, d)
    # 74 vectors: each of 4 products multiplies the error of the 10th by 0.95^(2·65) = 1.3e-3; only
    # float32 rounding is left, amplified by the inverse relative gap 1 / (1 - 0.95²) = 10.
    torch.testing.assert_close(approximate.explained_variance_, exact.explained_variance_, rtol=1e-5, atol=0)
    torch.testing.assert_close(approximate.components_, exact.components_, rtol=0, atol=5e-5)
    assert approximate.explained_variance_ratio_.sum() == pytest.approx(
        exact.explained_variance_ratio_.sum().item(), rel=1e-5
    )


def test_subspace_iteration_needs_its_passes(monkeypatch):
    monkeypatch.setattr(principal_components, "_MOST_FOR_COVARIANCE", 1)
    monkeypatch.setattr(principal_components, "_OVERSAMPLING", 0)
    s = features(decay=0.95)
    passes = []

    def explained(n_passes):
        passes.clear()
        pca = PCAWhitening(5, n_passes, cache_bytes=0).fit(lambda: passes.append(1) or s.split(100))
        assert len(passes) == n_passes + 1  # and one to count the samples
        return pca.explained_variance_.sum()

    assert explained(1) < explained(3) < explained(10)


def test_features_kept_in_memory_are_read_once_and_give_the_same_bits(monkeypatch):
    monkeypatch.setattr(principal_components, "_MOST_FOR_COVARIANCE", 1)
    s = features()
    passes, fits = [], {}
    for cache_bytes in (s.nbytes, s.nbytes - 1):
        passes.clear()
        pca = PCAWhitening(5, 3, cache_bytes)
        fits[cache_bytes] = pca.fit(lambda: passes.append(1) or s.split(100))
        assert len(passes) == (1 if cache_bytes == s.nbytes else 4)
    kept, read_again = fits.values()
    assert torch.equal(kept.components_, read_again.components_)
    assert torch.equal(kept.explained_variance_, read_again.explained_variance_)


def test_features_of_double_precision_are_accepted():
    s = features()
    torch.testing.assert_close(fit(s.double(), 5).components_, fit(s, 5).components_, rtol=0, atol=2e-5)


def test_fewer_components_where_there_are_no_more(method):
    s = features()[:, :4].repeat(1, 5)
    with pytest.warns(UserWarning, match="vary in 4 ways only: codes have 4 components, not 6"):
        pca = PCAWhitening(6, n_passes=5, allow_fewer=True).fit(lambda: s.split(100))
    expected = fit(s, 4)
    assert pca.n_components == 4
    assert pca.transform(s).shape == (N, 4)
    # In subspace iteration of other widths, as between two splits into batches.
    torch.testing.assert_close(pca.components_, expected.components_, rtol=0, atol=2e-5)
    torch.testing.assert_close(pca.explained_variance_ratio_.sum().item(), 1.0, rtol=0, atol=1e-6)


def test_too_few_components():
    with pytest.raises(InputError, match="n_components=0"):
        PCAWhitening(0)


@pytest.mark.parametrize(
    ("s", "n_components", "culprit", "remedy"),
    [
        (features(5), 5, "5 components were asked of 5 samples", "at most 4"),
        (features(100), 31, "31 components", "at most 30"),
        (features(1), 1, "same features", "images that differ"),
        (torch.full((50, D), 0.3), 2, "All samples have the same features", "images that differ"),
        (features()[:, :3] @ torch.ones(3, D), 2, "vary in 1 way only", "at most 1"),
        (features()[:, :4].repeat(1, 5), 6, "vary in 4 ways only", "at most 4"),
    ],
)
def test_too_little_variation(method, s, n_components, culprit, remedy):
    with pytest.raises(InputError) as error:
        fit(s, n_components)
    assert culprit in str(error.value)
    assert remedy in str(error.value)


def test_rounding_noise_is_no_variation(method):
    s = torch.full((200, D), 0.5)
    s += torch.randint(-1, 2, s.shape, generator=torch.Generator().manual_seed(0)) * 2.0**-24
    with pytest.raises(InputError, match="same features"):
        fit(s, 2)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("row", [0, N - 1])
def test_values_that_are_not_finite(method, value, row):
    s = features()
    s[row, 3] = value
    with pytest.raises(InputError, match="NaN or infinite"):
        fit(s, 4)


@pytest.mark.parametrize("batches", [[], [torch.empty(0, D)]])
def test_no_samples(batches):
    with pytest.raises(InputError, match="no samples"):
        PCAWhitening(4).fit(lambda: iter(batches))


def test_arrays_of_another_width():
    pca = fit(features(), 4)
    for s in (torch.zeros(5, D + 1), torch.zeros(D), torch.zeros(2, 3, D)):
        with pytest.raises(InputError, match=rf"\(N, {D}\)"):
            pca.transform(s)
    for z in (torch.zeros(5, 3), torch.zeros(4), torch.zeros(5, D)):
        with pytest.raises(InputError, match=r"\(N, 4\)"):
            pca.inverse_transform(z)
    with pytest.raises(InputError, match="call fit first"):
        PCAWhitening(4).transform(features())


def test_no_rows_give_no_rows():
    pca = fit(features(), 4)
    assert pca.transform(torch.empty(0, D)).shape == (0, 4)
    assert pca.inverse_transform(torch.empty(0, 4)).shape == (0, D)


class Stop(BaseException):
    """Stands for an interruption that nothing catches."""


class Chunks:
    """Samples in chunks of 90, with an interruption before the `last`-th reading of one."""

    processes, n_features = ALONE, D

    def __init__(self, s, last=10**9):
        self.s, self.n_samples, self.left = s, len(s), last

    def shift(self):
        return self.s[:90].mean(0)

    def deviations(self, start=0):
        for row in range(90 * start, len(self.s), 90):
            if self.left == 0:
                raise Stop
            self.left -= 1
            yield row, self.s[row : row + 90] - self.shift()


def test_the_total_variance_of_one_large_batch():
    """A norm of so many numbers at once, in float32, would be off by 4e-4."""
    s = torch.randn(4200, 1000, generator=torch.Generator().manual_seed(0)) + 3
    pca = PCAWhitening(2).fit(lambda: [s])
    total = s.double().var(0, correction=0).sum()
    found = pca.explained_variance_ / pca.explained_variance_ratio_
    torch.testing.assert_close(found, total.expand(2).to(found), rtol=2e-6, atol=0)  # some roundings of float32


def fit_chunks(samples, checkpoint=None):
    pca = PCAWhitening(6, n_passes=4)
    return pca.fit_samples(samples, checkpoint=checkpoint, checkpoint_seconds=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_finds_the_same_components(method, tmp_path):
    s = features()
    expected = PCAWhitening(6, n_passes=4).fit_samples(Chunks(s))
    ours = PCAWhitening(6, n_passes=4)
    ours.fit_samples(Chunks(s), checkpoint=tmp_path / "state", checkpoint_seconds=0, device="cuda")
    assert not ours.components_.is_cuda
    # As between two splits into batches: products are float32 in another order.
    torch.testing.assert_close(ours.components_, expected.components_, rtol=0, atol=2e-5)
    torch.testing.assert_close(ours.explained_variance_, expected.explained_variance_, rtol=1e-5, atol=0)
    codes = ours.transform(s.cuda())
    assert codes.is_cuda
    torch.testing.assert_close(codes.cpu(), ours.transform(s), rtol=0, atol=2e-5)


@pytest.fixture
def saving_always(monkeypatch):
    monkeypatch.setattr(principal_components, "_PART_OF_TIME_WRITING", float("inf"))


def assert_equal(a, b):
    for name in ("mean_", "components_", "explained_variance_", "explained_variance_ratio_"):
        assert torch.equal(getattr(a, name), getattr(b, name)), name


def test_a_fit_stopped_before_any_chunk_goes_on_with_the_same_bits(method, saving_always, tmp_path):
    whole = fit_chunks(Chunks(features()))
    readings = {"covariance": 5, "samples": 10, "subspace iteration": 20}[method]
    for last in range(readings):
        checkpoint = tmp_path / f"{last}.safetensors"
        with pytest.raises(Stop):
            fit_chunks(Chunks(features(), last), checkpoint)
        # The rows of few samples are not saved within the first pass.
        kept = 0 if method == "samples" and last < 5 else last
        rest = Chunks(features(), readings - kept)
        assert_equal(fit_chunks(rest, checkpoint), whole)
        assert rest.left == 0


def test_a_fit_stopped_many_times_goes_on_with_the_same_bits(method, saving_always, tmp_path):
    checkpoint, stops, fitted = tmp_path / "state.safetensors", 0, None
    steps = 6 if method == "samples" else 1  # in one go through what is not saved
    while fitted is None:
        try:
            fitted = fit_chunks(Chunks(features(), steps), checkpoint)
        except Stop:
            stops += 1
    assert stops >= {"covariance": 4, "samples": 1, "subspace iteration": 19}[method]
    assert_equal(fitted, fit_chunks(Chunks(features())))


def test_short_fits_write_no_checkpoint(method, tmp_path):
    fit_chunks(Chunks(features()), tmp_path / "state.safetensors")
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("damage", ["truncated", "one bit", "half zeros", "other settings"])
def test_a_checkpoint_that_cannot_be_used(method, saving_always, damage, tmp_path):
    checkpoint = tmp_path / "state.safetensors"
    whole = fit_chunks(Chunks(features()), checkpoint)
    assert checkpoint.exists()
    content = checkpoint.read_bytes()
    if damage == "truncated":
        checkpoint.write_bytes(content[:-9])
    elif damage == "one bit":  # in the last of the numbers
        checkpoint.write_bytes(content[:-2] + bytes([content[-2] ^ 1]) + content[-1:])
    elif damage == "half zeros":
        half = len(content) // 2
        checkpoint.write_bytes(content[:half] + bytes(len(content) - half))
    else:
        fit_chunks(Chunks(features()[:300]), tmp_path / "other.safetensors")
        (tmp_path / "other.safetensors").rename(checkpoint)
    with pytest.warns(UserWarning, match="are begun anew"):
        assert_equal(fit_chunks(Chunks(features()), checkpoint), whole)


def test_progress_counts_the_samples_of_all_passes(method):
    tasks = []

    class Counting(Progress):
        @contextmanager
        def task(self, description, total):
            with super().task(description, total) as task:
                tasks.append(task)
                yield task

    PCAWhitening(6).fit_samples(Chunks(features()), progress=Counting(show=False))
    passes = {"covariance": 1, "samples": 2, "subspace iteration": 4}[method]
    assert [(task.total, task.completed) for task in tasks] == [(passes * N, passes * N)]
    assert tasks[0].note == f"pass {passes} of {passes}"


def test_the_way_to_the_components_follows_from_the_sizes():
    def name(n, d):
        return principal_components._method(n, d).__name__

    assert name(4096, 41_664) == name(2000, 3969) == name(2497, 80_064) == "_from_gram"
    assert name(60_000, 3969) == name(5000, 4999) == "_from_covariance"
    assert name(4097, 41_664) == name(2500, 80_064) == "_by_subspace_iteration"
