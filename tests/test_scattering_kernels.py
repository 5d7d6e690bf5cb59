"""The compiled CPU kernel against the torch path, which is tested against Kymatio.

Its gradient is in test_scattering_gradients.py.
"""

import builtins
import os
import subprocess
import sys
import threading
from functools import lru_cache, partial

import pytest
import torch
from torch.autograd import forward_ad

from scattergen.scattering import Scattering2D, threads, transform

pytest.importorskip("numba", reason="the compiled kernel needs Numba, scattergen's extra 'fast'")

# Shape, J, L, max_order. Padded sides have all kinds of factors.
CASES = [
    ((28, 28), 2, 8, 2),  # 36 = 4·3·3
    ((64, 64), 3, 8, 2),  # 80 = 4·4·5
    ((20, 33), 2, 8, 2),  # not square, an odd side; 28 = 4·7
    ((31, 17), 3, 5, 2),  # lanes that hold no orientation
    ((30, 41), 1, 12, 1),  # two groups of lanes; 32 and 44 = 4·11
    ((24, 16), 2, 16, 2),  # two full groups at order 2
    ((48, 50), 1, 3, 2),  # 50 = 2·5·5 and 52 = 4·13
    ((70, 72), 1, 2, 1),  # 74 = 2·37 and 76 = 4·19
    ((32, 32), 5, 4, 2),  # the largest J
    ((128, 128), 4, 8, 2),
    ((4, 7), 2, 1, 2),  # one orientation, sides smaller than a vector
    ((2, 2), 1, 2, 1),
    ((9, 12), 2, 4, 0),
]


def uniform(*shape, dtype=torch.float32, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.fixture
def kernel_calls(monkeypatch):
    """How many images each call of the kernel has got."""
    kernels, calls = transform.compiled_kernels(), []
    counted = kernels._replace(transform=lambda x, plan: calls.append(len(x)) or kernels.transform(x, plan))
    monkeypatch.setattr(transform, "compiled_kernels", lambda: counted)
    return calls


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("shape", "J", "L", "max_order"), CASES)
def test_the_kernel_equals_the_torch_path(kernel_calls, shape, J, L, max_order, dtype):
    scattering = Scattering2D(J, shape, L, max_order)
    x = uniform(3, *shape, dtype=dtype)
    s = scattering(x)
    assert kernel_calls == [3]
    assert s.dtype == dtype
    expected = scattering._by_torch(x)
    assert kernel_calls == [3]
    order = torch.tensor([path.order for path in scattering.paths])
    for m in order.unique():
        # A 2-D FFT of at most 160² samples is 15 stages, and two of them and two averages of up to
        # 160 terms follow each other per order: about sqrt(100) roundings of the largest value on
        # each side, if they are independent. Wavelets are cut at a sixteenth of one. What is
        # rounded is what an order is computed from: the image, or coefficients of the order before.
        difference = (s - expected)[:, order == m].abs().max()
        before = expected[:, order == m - 1] if m > 1 else x
        assert difference <= 20 * torch.finfo(dtype).eps * before.abs().max()


def test_neither_batch_nor_threads_nor_place_change_a_bit(monkeypatch):
    scattering = Scattering2D(J=2, shape=(28, 20))
    x = uniform(50, 28, 20)
    whole = scattering(x)
    for number in (0, 1, 17, 49):
        assert torch.equal(scattering(x[number]), whole[number])
    for n_threads in (1, 2, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda n=n_threads: n)
        assert torch.equal(scattering(x), whole)
        assert torch.equal(scattering(x[3:]), whole[3:])


@pytest.fixture(params=["PyTorch's threads", "threads of their own"])
def in_threads(request, monkeypatch):
    """Both kinds of threads, two of them."""
    if request.param == "threads of their own":
        monkeypatch.setattr(threads, "_parallel", None)
    elif threads._parallel is None:
        pytest.skip("PyTorch's OpenMP has no GNU interface here")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(torch, "set_num_threads", lambda n: None)  # which would last


@pytest.mark.parametrize("n", [2, 64])
def test_threads_share_the_work_and_pass_on_errors(monkeypatch, in_threads, n):
    from scattergen.scattering import kernels

    scattering = Scattering2D(J=2, shape=(28, 28))
    x = uniform(n, 28, 28)
    both = threading.Barrier(2, timeout=30)
    workers, original = set(), kernels._scatter

    def meet(*arguments):
        if threading.get_ident() not in workers:
            workers.add(threading.get_ident())
            both.wait()  # fails unless two threads work at the same time
        original(*arguments)

    monkeypatch.setattr(kernels, "_scatter", meet)
    scattering(x)
    assert len(workers) == 2
    assert threading.get_ident() in workers

    this, failed = threading.get_ident(), threading.Event()

    def fail_elsewhere(*arguments):
        if threading.get_ident() == this:
            failed.wait(timeout=30)
            return
        failed.set()
        raise ValueError("broken")

    monkeypatch.setattr(kernels, "_scatter", fail_elsewhere)
    with pytest.raises(ValueError, match="broken"):
        scattering(x)


def test_each_of_the_threads_computes_products_alone(monkeypatch, request):
    """As in PyTorch's: last bits depend on how many threads compute a product."""
    monkeypatch.setattr(threads, "_parallel", None)
    request.addfinalizer(partial(torch.set_num_threads, torch.get_num_threads()))
    torch.set_num_threads(3)
    all_three, seen = threading.Barrier(3, timeout=30), []

    def work():
        all_three.wait()
        seen.append(torch.get_num_threads())

    threads.in_threads(work, 3)
    assert seen == [1, 1, 1]
    assert torch.get_num_threads() == 3


def test_all_of_a_batch_is_taken_however_small(in_threads):
    scattering = Scattering2D(J=2, shape=(16, 16))
    x = uniform(5, 16, 16)
    alone = torch.cat([scattering(one[None]) for one in x])
    for n in range(1, 6):
        assert torch.equal(scattering(x[:n]), alone[:n])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks are of Unix")
def test_a_fork_of_a_process_that_has_threads():
    """A fork has none of its parent's threads, and would wait for them without end."""
    code = """
import os, torch
from scattergen.scattering import Scattering2D
torch.set_num_threads(2)
scattering, x = Scattering2D(J=2, shape=(16, 16)), torch.rand(8, 16, 16)
parents = scattering(x)
child = os.fork()
if child == 0:
    os._exit(0 if torch.equal(scattering(x), parents) else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout == "0\n", done.stderr


def test_concurrent_calls():
    scattering = Scattering2D(J=2, shape=(28, 28))
    x = uniform(4, 16, 28, 28)
    results = [None] * 4

    def work(number):
        results[number] = scattering(x[number])

    callers = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert torch.equal(torch.stack(results), scattering(x))


@pytest.mark.parametrize(
    "layout",
    [
        lambda x: x.transpose(-1, -2),
        lambda x: x.flip(-1)[..., ::2, :],
        lambda x: x[:1].expand(5, -1, -1),
        lambda x: x.double(),
        lambda x: x.requires_grad_().detach(),
    ],
)
def test_any_layout(kernel_calls, layout):
    x = layout(uniform(5, 24, 24))
    scattering = Scattering2D(J=2, shape=tuple(x.shape[-2:]), L=4)
    assert torch.equal(scattering(x), scattering(x.clone(memory_format=torch.contiguous_format)))
    assert len(kernel_calls) == 2


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # of vmap, for addcmul_
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # which jvp uses
def test_function_transforms_take_the_torch_path(kernel_calls):
    scattering = Scattering2D(J=2, shape=(12, 12), L=4)
    x, v = uniform(3, 12, 12, dtype=torch.float64), uniform(3, 12, 12, dtype=torch.float64, seed=1)
    expected = scattering(x)
    tangent = (scattering(x + 1e-6 * v) - scattering(x - 1e-6 * v)) / 2e-6
    calls = len(kernel_calls)
    # Values of about 1 in float64; a central difference of step 1e-6 errs by 1e-16 / 1e-6.
    torch.testing.assert_close(torch.func.vmap(scattering)(x), expected, rtol=0, atol=1e-13)
    torch.testing.assert_close(torch.func.jvp(scattering, (x,), (v,))[1], tangent, rtol=1e-6, atol=1e-8)
    with forward_ad.dual_level():
        dual = scattering(forward_ad.make_dual(x, v))
        torch.testing.assert_close(forward_ad.unpack_dual(dual).tangent, tangent, rtol=1e-6, atol=1e-8)
    assert len(kernel_calls) == calls


def test_without_numba_the_torch_path_computes_the_same(monkeypatch, kernel_calls):
    scattering = Scattering2D(J=2, shape=(16, 16))
    x = uniform(2, 16, 16)
    expected = scattering._by_torch(x)
    monkeypatch.setattr(transform, "compiled_kernels", lambda: None)
    assert torch.equal(scattering(x), expected)
    assert kernel_calls == []


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (ModuleNotFoundError("No module named 'numba'", name="numba"), "pip install 'scattergen[fast]' adds it."),
        (ImportError("Numba needs NumPy 2.5 or less"), "Numba, its compiler, says: Numba needs NumPy 2.5 or less."),
        (RuntimeError("no LLVM"), "says: no LLVM."),
    ],
)
def test_a_missing_or_broken_numba_is_told_once(monkeypatch, error, remedy):
    original = builtins.__import__

    def refuse(name, *arguments, **keywords):
        if name.startswith("scattergen.scattering") and "kernels" in (arguments[2] or ()):
            raise error
        return original(name, *arguments, **keywords)

    scattering, x = Scattering2D(J=1, shape=(8, 8), L=2), uniform(8, 8)
    expected = scattering._by_torch(x[None])[0]
    monkeypatch.setattr(builtins, "__import__", refuse)
    # As in a process that has not asked for the kernel yet.
    monkeypatch.setattr(transform, "compiled_kernels", lru_cache(transform.compiled_kernels.__wrapped__))
    with pytest.warns(UserWarning, match="five times faster") as told:  # noqa: PT031
        assert torch.equal(scattering(x), expected)
        assert torch.equal(scattering(x), expected)
    assert len(told) == 1
    assert str(told[0].message).endswith(remedy)
