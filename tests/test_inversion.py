"""Inversion: known images come back, starts only help, and images do not disturb each other."""

import pytest
import torch

from scattergen.datasets import mnist
from scattergen.display.progress import Progress
from scattergen.encoder import ScatteringEncoder, reconstruct_codes
from scattergen.errors import InputError
from scattergen.scattering import Scattering2D, reconstruct
from scattergen.scattering.inversion import minimize_in_box

TRANSFORM = Scattering2D(J=2, shape=(16, 12), L=4)


def strokes(n, C=1, seed=0):
    """Images of (16, 12) with a blank background, as digits have."""
    noise = torch.rand(n, C, 4, 3, generator=torch.Generator().manual_seed(seed))
    smooth = torch.nn.functional.interpolate(noise, size=(16, 12), mode="bicubic")
    return (2.5 * (smooth - 0.5)).clamp(0, 1)


@pytest.fixture(scope="module")
def solved():
    x = strokes(6)
    return x, reconstruct(TRANSFORM(x), TRANSFORM)


def test_images_come_back_from_their_coefficients(solved):
    x, found = solved
    assert found.images.shape == x.shape
    assert found.error.shape == found.iterations.shape == (6, 1)
    assert found.images.min() >= 0
    assert found.images.max() <= 1
    assert (found.error <= 1e-3).all()  # local minima end above it, and four starts avoid them
    # A direction of images may hide behind an error of 1e-3 by a factor of about 100, for order 2
    # is a hundredth of order 0; images that differ by 0.1 everywhere would be other images.
    assert (found.images - x).square().mean().sqrt() < 0.02


def test_the_error_is_that_of_the_images_by_its_definition(solved):
    x, found = solved
    s = TRANSFORM(x).double()
    difference = Scattering2D(2, (16, 12), 4)(found.images.double()) - s
    order = torch.tensor([path.order for path in TRANSFORM.paths])
    above, below = torch.zeros(6).double(), torch.zeros(6).double()
    for m in range(3):
        part = s[:, :, order == m].flatten(1)
        weight = 1 / part.square().mean(1).sqrt()
        above += weight * difference[:, :, order == m].flatten(1).square().sum(1)
        below += weight * part.square().sum(1)
    # Float32 rounding of coefficients of about 1 is 1e-7, a hundredth of an error of 1e-5.
    torch.testing.assert_close((above / below).sqrt().float(), found.error[:, 0], rtol=0.02, atol=0)


def test_float64_stays_float64_and_a_smaller_tolerance_is_reached():
    s = TRANSFORM(strokes(1, seed=2).double())
    found = reconstruct(s, TRANSFORM, tolerance=1e-5, max_iterations=1000)
    assert found.images.dtype == found.error.dtype == torch.float64
    assert found.error.item() <= 1e-5


def test_the_same_seed_gives_the_same_images_and_another_does_not():
    s = TRANSFORM(strokes(2))
    first, again, other = (
        reconstruct(s, TRANSFORM, n_starts=1, max_iterations=5, seed=seed).images for seed in (3, 3, 4)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_global_generator_is_left_alone():
    s = TRANSFORM(strokes(1))
    torch.manual_seed(0)
    before = torch.get_rng_state()
    reconstruct(s, TRANSFORM, n_starts=2, max_iterations=2)
    assert torch.equal(torch.get_rng_state(), before)


def test_an_image_does_not_depend_on_the_others():
    x = strokes(5).double()
    x[3] = 0  # solved by the first iterations, so that the batch shrinks while others go on
    keywords = {"n_starts": 2, "max_iterations": 15, "tolerance": 1e-3}
    together = reconstruct(TRANSFORM(x), TRANSFORM, **keywords)
    reversed_ = reconstruct(TRANSFORM(x.flip(0)), TRANSFORM, **keywords)
    alone = reconstruct(TRANSFORM(x[2:3]), TRANSFORM, **keywords)
    # Rounding in float64 (1e-16) depends on the size of batches, and iterations amplify it; with a
    # factor of at most 4 each, which the curvature of well-conditioned directions allows, 15 of
    # them leave 1e-16 * 4^15 = 1e-7.
    torch.testing.assert_close(together.images, reversed_.images.flip(0), rtol=0, atol=1e-6)
    torch.testing.assert_close(together.images[2:3], alone.images, rtol=0, atol=1e-6)
    assert torch.equal(together.iterations[2:3], alone.iterations)


def test_batches_of_bounded_memory_change_nothing(monkeypatch):
    s = TRANSFORM(strokes(5).double())
    keywords = {"n_starts": 1, "max_iterations": 15}
    whole = reconstruct(s, TRANSFORM, **keywords)
    monkeypatch.setattr("scattergen.scattering.inversion._BATCH_FLOATS", 1)
    parts = reconstruct(s, TRANSFORM, **keywords)
    torch.testing.assert_close(whole.images, parts.images, rtol=0, atol=1e-6)  # as above


def test_more_starts_are_never_worse_and_recover_more():
    transform = Scattering2D(J=2, shape=(28, 28))
    s = transform(mnist().test[6:10])
    one, three = (reconstruct(s, transform, n_starts=n, max_iterations=120).error for n in (1, 3))
    assert (three <= one).all()
    assert (one > 1e-3).any()  # local minima exist ...
    assert (three <= 1e-3).sum() > (one <= 1e-3).sum()  # ... and other starts avoid them


def test_solved_images_are_not_started_again():
    s = TRANSFORM(strokes(4))
    one = reconstruct(s, TRANSFORM, n_starts=1, tolerance=0.005)
    three = reconstruct(s, TRANSFORM, n_starts=3, tolerance=0.005)
    done = one.error <= 0.05
    assert done.any()
    assert torch.equal(one.iterations[done], three.iterations[done])
    assert torch.equal(one.images[done], three.images[done])


def test_it_stops_at_a_solution():
    found = reconstruct(TRANSFORM(strokes(1)), TRANSFORM, max_iterations=10_000)
    assert found.iterations.item() < 1000
    # A blank image is found by the box alone.
    blank = reconstruct(TRANSFORM(torch.zeros(1, 1, 16, 12)), TRANSFORM)
    assert blank.error.item() <= 1e-4
    assert blank.iterations.item() <= 20


def test_channels_are_problems_of_their_own():
    x = strokes(1, C=3)
    keywords = {"n_starts": 1, "max_iterations": 10}
    colour = reconstruct(TRANSFORM(x), TRANSFORM, **keywords)
    plain = reconstruct(TRANSFORM(x[0]), TRANSFORM, **keywords)
    assert colour.images.shape == (1, 3, 16, 12)
    assert colour.error.shape == (1, 3)
    assert torch.equal(colour.images[0], plain.images)


def test_progress_reaches_its_end():
    stages = []

    class Recording(Progress):
        def task(self, description, total):
            manager = super().task(description, total)

            class Keep:
                def __enter__(self):
                    stages.append(manager.__enter__())
                    return stages[-1]

                def __exit__(self, *error):
                    return manager.__exit__(*error)

            return Keep()

    progress = Recording(show=False)
    reconstruct(TRANSFORM(strokes(3)), TRANSFORM, n_starts=2, progress=progress)
    (task,) = stages
    assert task.description == "inversion"
    assert task.completed == task.total == 2 * 200
    assert task.note.endswith("of 3 solved")


@pytest.fixture(scope="module")
def encoder():
    return ScatteringEncoder((1, 16, 12), J=2, L=4, n_components=60).fit(strokes(400, seed=5))


def test_codes_are_matched(encoder):
    x = strokes(6, seed=6)
    z = encoder.transform(x)
    found = reconstruct_codes(z, encoder)
    assert found.images.shape == x.shape
    assert (found.error <= 1e-3).sum() >= 5
    # The error is the difference of codes weighted by the components' deviations.
    deviations = encoder.whitening.explained_variance_.sqrt()
    difference = (encoder.transform(found.images) - z).double()
    expected = (difference.square() @ deviations / deviations.sum()).sqrt()
    # Coefficients of about 1 are exact to 1e-7 in float32. Divided by a deviation D and weighted by
    # its root, that is 1e-7 / sqrt(D), at most 1e-5 of the error for D of 1e-4 and more.
    torch.testing.assert_close(expected.float(), found.error, rtol=0.05, atol=2e-5)


def test_matching_codes_beats_matching_the_coefficients_they_project_back_to(encoder):
    x = strokes(3, seed=6)
    z = encoder.transform(x)
    s = encoder.whitening.inverse_transform(z).reshape(3, 1, *encoder.scattering.output_shape)
    matched = reconstruct_codes(z, encoder).images
    projected = reconstruct(s, encoder.scattering).images
    assert (matched - x).square().mean() < (projected - x).square().mean()


def test_a_code_that_no_image_has_gives_a_finite_image(encoder):
    z = 5 * torch.randn(2, 60, generator=torch.Generator().manual_seed(0))
    found = reconstruct_codes(z, encoder, n_starts=1, max_iterations=20)
    assert torch.isfinite(found.images).all()
    assert (found.error > 0.1).all()


def test_coefficients_of_another_shape():
    with pytest.raises(InputError, match=r"\(\.\.\., 25, 4, 3\).*\(1, 1, 25, 3, 4\)"):
        reconstruct(torch.zeros(1, 1, 25, 3, 4), TRANSFORM)
    with pytest.raises(InputError, match=r"\(4, 3\)"):
        reconstruct(torch.zeros(4, 3), TRANSFORM)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_coefficients_and_codes_that_are_not_finite(value, encoder):
    s = TRANSFORM(strokes(1))
    s[0, 0, 5, 1, 1] = value
    with pytest.raises(InputError, match="coefficients hold NaN or infinite"):
        reconstruct(s, TRANSFORM)
    z = torch.zeros(1, 60)
    z[0, 3] = value
    with pytest.raises(InputError, match="codes hold NaN or infinite"):
        reconstruct_codes(z, encoder)


def test_integer_coefficients():
    with pytest.raises(InputError, match=r"torch\.int64"):
        reconstruct(torch.zeros(1, 1, *TRANSFORM.output_shape, dtype=torch.int64), TRANSFORM)


def test_codes_of_another_width(encoder):
    with pytest.raises(InputError, match=r"\(N, 60\) but got \(2, 59\)"):
        reconstruct_codes(torch.zeros(2, 59), encoder)


@pytest.mark.parametrize(
    ("keyword", "value"), [("n_starts", 0), ("max_iterations", 0), ("tolerance", -1.0), ("tolerance", torch.nan)]
)
def test_arguments_out_of_range(keyword, value):
    with pytest.raises(InputError, match=f"{keyword}="):
        reconstruct(TRANSFORM(strokes(1)), TRANSFORM, **{keyword: value})


def test_no_images():
    found = reconstruct(TRANSFORM(strokes(1))[:0], TRANSFORM)
    assert found.images.shape == (0, 1, 16, 12)
    assert found.error.shape == (0, 1)


def test_the_minimum_in_a_box_satisfies_the_optimality_conditions():
    generator = torch.Generator().manual_seed(0)
    factor = torch.randn(3, 8, 8, generator=generator, dtype=torch.float64)
    matrix = factor @ factor.mT + 0.1 * torch.eye(8)
    centre = 2 * torch.rand(3, 8, generator=generator, dtype=torch.float64) - 0.5

    def quadratic(x, rows):
        offset = x - centre[rows]
        gradient = (matrix[rows] @ offset[..., None])[..., 0]
        return 0.5 * (offset * gradient).sum(1), gradient

    x, value, _ = minimize_in_box(quadratic, torch.full_like(centre, 0.5), max_iterations=500, target=-1.0)
    assert torch.equal(value, quadratic(x, torch.arange(3))[0])
    gradient = quadratic(x, torch.arange(3))[1]
    at_bound = (x == 0) | (x == 1)
    assert at_bound.any()
    # It stops when 20 iterations gain less than 1 %; at the linear rate of L-BFGS on 8 coordinates
    # that is far below a gradient of 1e-3, beside entries of the matrix of about 10.
    assert gradient[~at_bound].abs().max() < 1e-3
    assert (gradient[x == 0] > 0).all()
    assert (gradient[x == 1] < 0).all()
