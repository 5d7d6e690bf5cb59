"""Gradients of both implementations: against finite differences and against each other."""

import threading

import pytest
import torch

from scattergen.scattering import Scattering2D, transform

# Shape, J, L, max_order; as for the kernel itself: all factors of sides, empty lanes, no order 2.
CASES = [
    ((28, 28), 2, 8, 2),
    ((64, 64), 3, 8, 2),
    ((20, 33), 2, 8, 2),
    ((31, 17), 3, 5, 2),
    ((30, 41), 1, 12, 1),
    ((24, 16), 2, 16, 2),
    ((48, 50), 1, 3, 2),
    ((70, 72), 1, 2, 1),
    ((32, 32), 5, 4, 2),
    ((128, 128), 4, 8, 2),
    ((4, 7), 2, 1, 2),
    ((2, 2), 1, 2, 1),
    ((9, 12), 2, 4, 0),
]


def uniform(*shape, dtype=torch.float32, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def by_torch(monkeypatch):
    monkeypatch.setattr(transform, "compiled_kernels", lambda: None)


@pytest.fixture
def kernel_calls(monkeypatch):
    """How many images each call of the kernel's gradient has got."""
    kernels, calls = transform.compiled_kernels(), []
    if kernels is None:
        pytest.skip("Numba, which compiles the kernel, is not installed")
    counted = kernels._replace(gradient=lambda x, g, plan: calls.append(len(x)) or kernels.gradient(x, g, plan))
    monkeypatch.setattr(transform, "compiled_kernels", lambda: counted)
    return calls


def gradient(scattering, x, of_s, **keywords):
    x = x.detach().requires_grad_()
    return torch.autograd.grad(scattering(x), x, of_s, **keywords)[0]


@pytest.mark.parametrize(
    ("shape", "J", "L", "max_order"),
    [((5, 4), 2, 2, 2), ((6, 9), 1, 3, 2), ((8, 8), 3, 1, 2), ((4, 5), 1, 9, 1), ((4, 4), 1, 1, 0)],
)
def test_gradients_equal_finite_differences(algorithm, shape, J, L, max_order):
    scattering = Scattering2D(J, shape, L, max_order)
    x = uniform(2, *shape, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(scattering, x)


def test_second_derivatives_equal_finite_differences(algorithm):
    scattering = Scattering2D(J=2, shape=(5, 4), L=2)
    x = uniform(2, 5, 4, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradgradcheck(scattering, x)


def test_the_gradient_at_a_black_image_is_finite(algorithm):
    scattering = Scattering2D(J=2, shape=(12, 12), L=4)
    for dtype in (torch.float32, torch.float64):
        x = torch.zeros(12, 12, dtype=dtype, requires_grad=True)
        s = scattering(x)
        (of_moduli,) = torch.autograd.grad(s[1:].sum(), x, retain_graph=True)
        assert torch.equal(of_moduli, torch.zeros_like(x))
        (of_mean,) = torch.autograd.grad(s[0].sum(), x)
        assert torch.isfinite(of_mean).all()
        assert (of_mean > 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("shape", "J", "L", "max_order"), CASES)
def test_the_kernels_gradient_equals_the_torch_paths(kernel_calls, monkeypatch, shape, J, L, max_order, dtype):
    scattering = Scattering2D(J, shape, L, max_order)
    x = uniform(3, *shape, dtype=dtype)
    of_s = uniform(3, *scattering.output_shape, dtype=dtype, seed=1) - 0.5
    found = gradient(scattering, x, of_s)
    assert kernel_calls == [3]
    by_torch(monkeypatch)
    expected = gradient(scattering, x, of_s)
    assert kernel_calls == [3]
    # Some ten roundings on either side as for the coefficients, but for the phases z / |z|: z has
    # an error of some roundings of its largest values, and is small itself where a coarse wavelet
    # sees hardly any variation, up to ten times as small on average in the largest J here.
    tolerance = 20 * 10 * torch.finfo(dtype).eps
    assert (found - expected).norm() <= tolerance * expected.norm()


def test_neither_batch_nor_threads_nor_layout_change_a_bit(kernel_calls, monkeypatch):
    scattering = Scattering2D(J=2, shape=(28, 20))
    x = uniform(50, 28, 20)
    of_s = uniform(50, *scattering.output_shape, seed=1)
    whole = gradient(scattering, x, of_s)
    for number in (0, 1, 17, 49):
        assert torch.equal(gradient(scattering, x[number], of_s[number]), whole[number])
    for n_threads in (1, 2, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda n=n_threads: n)
        assert torch.equal(gradient(scattering, x, of_s), whole)
        assert torch.equal(gradient(scattering, x[3:], of_s[3:]), whole[3:])
    strided = of_s.mT.contiguous().mT
    assert not strided.is_contiguous()
    assert torch.equal(gradient(scattering, x.mT.contiguous().mT, strided), whole)
    assert len(kernel_calls) == 12


def test_a_sum_and_a_broadcast_gradient(kernel_calls, monkeypatch):
    scattering = Scattering2D(J=2, shape=(16, 16), L=4)
    x = uniform(2, 16, 16, dtype=torch.float64)
    found = gradient(lambda x: scattering(x).sum(), x, None)  # expands one number
    by_torch(monkeypatch)
    expected = gradient(lambda x: scattering(x).sum(), x, None)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)  # sums of 1e3 float64


def test_gradients_add_up_over_uses_and_through_other_operations(kernel_calls, monkeypatch):
    scattering = Scattering2D(J=1, shape=(12, 12), L=4)
    x = uniform(2, 3, 12, 12, dtype=torch.float64)

    def loss(x):
        return (scattering(x.square()) * scattering(1 - x)).sum() + scattering(x[0]).square().sum()

    found = gradient(loss, x, None)
    assert sorted(kernel_calls) == [3, 6, 6]
    by_torch(monkeypatch)
    torch.testing.assert_close(found, gradient(loss, x, None), rtol=1e-10, atol=1e-12)


def test_no_gradient_is_recorded_unless_asked_for(kernel_calls):
    scattering = Scattering2D(J=2, shape=(16, 16), L=4)
    x = uniform(2, 16, 16).requires_grad_()
    assert scattering(x).requires_grad
    assert not scattering(x.detach()).requires_grad
    with torch.no_grad():
        assert not scattering(x).requires_grad
    with torch.inference_mode():
        assert not scattering(uniform(2, 16, 16)).requires_grad
    assert kernel_calls == []


def test_values_do_not_depend_on_whether_gradients_are_recorded(algorithm):
    x = uniform(2, 16, 16)
    scattering = Scattering2D(J=2, shape=(16, 16))
    assert torch.equal(scattering(x.clone().requires_grad_()), scattering(x))


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # of vmap
def test_batched_gradients_and_function_transforms(algorithm):
    scattering = Scattering2D(J=1, shape=(6, 6), L=2)
    x = uniform(6, 6, dtype=torch.float64)
    one_by_one = torch.autograd.functional.jacobian(scattering, x)
    vectorized = torch.autograd.functional.jacobian(scattering, x, vectorize=True)
    transformed = torch.func.jacrev(scattering)(x)
    # Sums of 1e2 terms below 1 in float64.
    torch.testing.assert_close(vectorized, one_by_one, rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(transformed, one_by_one, rtol=1e-10, atol=1e-13)


def test_autocast_does_not_lower_the_precision(algorithm):
    scattering = Scattering2D(J=2, shape=(16, 16))
    x, of_s = uniform(2, 16, 16), uniform(2, *scattering.output_shape, seed=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = gradient(scattering, x, of_s)
    assert torch.equal(found, gradient(scattering, x, of_s))
    low = gradient(scattering, x.bfloat16(), of_s)
    assert low.dtype == torch.bfloat16


def test_the_image_may_not_change_before_the_gradient(kernel_calls):
    scattering = Scattering2D(J=1, shape=(8, 8), L=2)
    x = uniform(8, 8).requires_grad_()
    s = scattering(x)
    with torch.no_grad():
        x += 1  # which the gradient would be computed at
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        s.sum().backward()


def test_concurrent_gradients(kernel_calls):
    scattering = Scattering2D(J=2, shape=(28, 28))
    x = uniform(4, 16, 28, 28)
    of_s = uniform(4, 16, *scattering.output_shape, seed=1)
    results = [None] * 4

    def work(number):
        results[number] = gradient(scattering, x[number], of_s[number])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torch.equal(torch.stack(results), gradient(scattering, x, of_s))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("shape", "J", "L", "max_order"), CASES[:4])
def test_a_gpu_gives_the_same_gradients(shape, J, L, max_order):
    scattering = Scattering2D(J, shape, L, max_order)
    x = uniform(3, *shape, dtype=torch.float64)
    of_s = uniform(3, *scattering.output_shape, dtype=torch.float64, seed=1)
    found = gradient(scattering, x.cuda(), of_s.cuda())
    # As above, in float64.
    expected = gradient(scattering, x, of_s)
    assert (found.cpu() - expected).norm() <= 200 * 2.2e-16 * expected.norm()
