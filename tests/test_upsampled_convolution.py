"""The fused convolution against interpolation, padding and convolution by PyTorch."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from scattergen.decoder import upsampled_convolution
from scattergen.decoder.upsampled_convolution import UpsampledConv2d, tap_matrices
from scattergen.scattering import threads

# In- and output channels, on both sides of the limits below which all taps are one product. With (30, 3), at equal
# sizes, they are fewer than the channels. The kernel takes 44 as four vectors, one and four numbers.
CHANNELS = [(8, 16), (3, 6), (5, 1), (1, 16), (4, 3), (30, 3), (2, 44)]
DOUBLED = [((7, 7), (14, 14)), ((4, 6), (8, 12)), ((6, 5), (6, 5))]
OTHER_FACTORS = [((5, 4), (9, 7)), ((3, 5), (6, 9)), ((4, 4), (13, 10)), ((8, 2), (9, 7))]


@pytest.fixture(autouse=True, params=["matrices", "sums"])
def algorithm(request, monkeypatch):
    """What holds for products with whole matrices, and for the compiled kernel, which skips their zeros."""
    if request.param == "matrices":
        monkeypatch.setattr(upsampled_convolution, "_kernel", lambda: None)
    elif upsampled_convolution._kernel() is None:
        pytest.skip("Numba, which compiles the kernel, is not installed")
    return request.param


def reference(x, weight, output_size):
    """Channels-last in and out, like the layer."""
    x = F.interpolate(x.permute(0, 3, 1, 2), output_size, mode="bilinear", align_corners=False)
    radius = weight.shape[-1] // 2
    padded = F.pad(x, (radius,) * 4, mode="reflect")
    return F.conv2d(padded, weight).permute(0, 2, 3, 1)


def layer_and_input(channels, kernel_size, size, output_size, dtype=torch.float64):
    torch.manual_seed(0)
    layer = UpsampledConv2d(*channels, kernel_size, size, output_size).to(dtype)
    return layer, torch.randn(3, *size, channels[0], dtype=dtype)


def value_and_gradients(function, x, weight):
    x, weight = x.detach().requires_grad_(), weight.detach().requires_grad_()
    y = function(x, weight)
    cotangent = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=y.dtype)
    return y, *torch.autograd.grad(y, (x, weight), cotangent)


def compare(layer, x, output_size, tolerance):
    ours = value_and_gradients(
        lambda x, weight: torch.func.functional_call(layer, {"weight": weight}, (x,)), x, layer.weight
    )
    expected = value_and_gradients(lambda x, weight: reference(x, weight, output_size), x, layer.weight)
    for a, b in zip(ours, expected, strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        assert (a - b).abs().max() < tolerance * b.abs().max()


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("kernel_size", [1, 3, 5, 7])
@pytest.mark.parametrize(("size", "output_size"), DOUBLED)
def test_value_and_gradients_in_float64(channels, kernel_size, size, output_size):
    layer, x = layer_and_input(channels, kernel_size, size, output_size)
    # Interpolation weights are quarters: only float64 sums of some 400 products are rounded.
    compare(layer, x, output_size, 1e-13)


@pytest.mark.parametrize(("limit", "n_parts"), [(1, 3), (8 * 14 * 7 * 3 * 16 * 2, 2), (10**9, 1)])
def test_a_batch_in_parts_is_that_batch(monkeypatch, limit, n_parts):
    layer, x = layer_and_input((8, 16), 3, (7, 7), (14, 14))
    monkeypatch.setattr(upsampled_convolution, "_PART_BYTES", limit)
    assert len(upsampled_convolution._parts(x, 14 * 7 * 3 * 16)) == n_parts  # of a batch of 3
    compare(layer, x, (14, 14), 1e-13)


def test_an_empty_batch():
    layer, x = layer_and_input((8, 16), 3, (7, 7), (14, 14))
    y = layer(x[:0].requires_grad_())
    assert y.shape == (0, 14, 14, 16)
    y.sum().backward()
    assert not layer.weight.grad.any()


@pytest.mark.parametrize("team", [True, False], ids=["PyTorch's threads", "others"])
@pytest.mark.parametrize("n", [1, 2, 4])
@pytest.mark.parametrize("cached", [1, 10**9])
def test_shares_and_parts_of_the_kernel(monkeypatch, request, algorithm, n, cached, team):
    if algorithm == "matrices":
        pytest.skip("they share out nothing")
    monkeypatch.setattr(upsampled_convolution._kernel(), "_CACHED_BYTES", cached)
    request.addfinalizer(partial(torch.set_num_threads, torch.get_num_threads()))
    torch.set_num_threads(n)
    if not team:
        monkeypatch.setattr(threads, "_parallel", None)
    layer, _ = layer_and_input((8, 16), 3, (7, 7), (14, 14))
    x = torch.randn(5, 7, 7, 8, dtype=torch.float64)  # of which four threads get two, one, one and one
    compare(layer, x, (14, 14), 1e-13)
    for _ in range(2):
        layer(x).square().sum().backward()
    once, layer.weight.grad = layer.weight.grad / 2, None
    layer(x).square().sum().backward()
    assert torch.equal(layer.weight.grad, once)
    assert torch.get_num_threads() == n


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("kernel_size", [1, 3, 5])
@pytest.mark.parametrize(("size", "output_size"), OTHER_FACTORS)
def test_other_factors_than_two(channels, kernel_size, size, output_size):
    layer, x = layer_and_input(channels, kernel_size, size, output_size)
    # Interpolation weights were rounded to float32 when the layer was made: positions up to 10
    # pixels have an error of 10 · 6e-8.
    compare(layer, x, output_size, 2e-6)


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize(("size", "output_size"), [*DOUBLED, OTHER_FACTORS[0]])
def test_float32(channels, size, output_size):
    layer, x = layer_and_input(channels, 3, size, output_size, torch.float32)
    # Some ten roundings of 6e-8 of the largest terms.
    compare(layer, x, output_size, 2e-6)


@pytest.mark.parametrize(
    ("channels", "size", "output_size"),
    [((2, 6), (3, 2), (5, 4)), ((2, 2), (3, 2), (5, 4)), ((10, 1), (4, 3), (4, 3)), ((2, 2), (4, 3), (4, 3))],
)
def test_gradients_equal_finite_differences(channels, size, output_size):
    layer, x = layer_and_input(channels, 3, size, output_size)
    assert torch.autograd.gradcheck(
        lambda x, weight: torch.func.functional_call(layer, {"weight": weight}, (x,)),
        (x.requires_grad_(), layer.weight),
    )


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("output_size", [(4, 6), (8, 12)])
def test_layout_and_batch_size_of_the_input(channels, output_size):
    layer, x = layer_and_input(channels, 3, (4, 6), output_size)
    y = layer(x)
    strided = x.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    torch.testing.assert_close(layer(strided), y, rtol=0, atol=1e-12)  # float64 sums of 72 products
    torch.testing.assert_close(layer(x[:1]), y[:1], rtol=0, atol=1e-12)
    assert layer(x[:0]).shape == (0, *output_size, channels[1])


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("to", [torch.Tensor.clone, lambda y: y.permute(0, 3, 1, 2).contiguous().tanh()])
def test_layout_of_the_gradient(channels, to):
    """That of a sum is one number for all pixels; after other layouts it is strided."""
    layer, x = layer_and_input(channels, 3, (4, 6), (8, 12))
    for ours, theirs in zip(
        torch.autograd.grad(to(layer(x.requires_grad_())).sum(), (x, layer.weight)),
        torch.autograd.grad(to(reference(x, layer.weight, (8, 12))).sum(), (x, layer.weight)),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)  # float64 sums of some 400 terms


@pytest.mark.parametrize("channels", CHANNELS)
def test_autocast_computes_in_bfloat16(channels):
    layer, x = layer_and_input(channels, 3, (7, 7), (14, 14), torch.float32)

    def ours(x, weight):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = torch.func.functional_call(layer, {"weight": weight}, (x,))
        assert y.dtype == torch.bfloat16
        return y.float()

    low = value_and_gradients(ours, x, layer.weight)
    full = value_and_gradients(lambda x, w: reference(x, w, (14, 14)), x, layer.weight)
    for a, b in zip(low, full, strict=True):
        assert a.dtype == torch.float32
        # Four roundings of 2^-9 each in sums of terms that are at most twice the largest sum.
        assert (a - b).abs().max() < 8 * 2**-9 * b.abs().max()


@pytest.fixture
def calls(monkeypatch):
    """What is asked of the kernel."""
    kernel, calls = upsampled_convolution._kernel(), []

    def counted(name, function):
        def count(*arguments):
            calls.append(name)
            return function(*arguments)

        return count

    for name in ("convolve", "gradients") if kernel else ():
        monkeypatch.setattr(kernel, name, counted(name, getattr(kernel, name)))
    return calls


class Subclass(torch.Tensor):
    """A tensor that may not be one of numbers at hand, as of `torch.compile`."""


def step(layer, x):
    layer(x).float().square().sum().backward()


def test_the_kernel_trains(algorithm, calls):
    layer, x = layer_and_input((8, 16), 3, (7, 7), (14, 14))
    step(layer, x)
    assert calls == (["convolve", "gradients"] if algorithm == "sums" else [])


def test_first_derivatives_that_are_to_be_differentiated():
    """As of gradient penalties, which are refused when they ask for the second ones."""
    layer, x = layer_and_input((8, 16), 3, (7, 7), (14, 14))
    (expected,) = torch.autograd.grad(layer(x).square().sum(), layer.weight)
    y = layer(x.requires_grad_())
    (slope,) = torch.autograd.grad(y.square().sum(), layer.weight, create_graph=True)
    torch.testing.assert_close(slope, expected)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()


@pytest.mark.parametrize("why", ["evaluation", "autocast", "few images", "many weights", "float64", "x", "weight"])
def test_the_kernel_is_for_what_it_is_fast_at(why, calls, monkeypatch):
    layer, x = layer_and_input((8, 16), 3, (7, 7), (14, 14), torch.float32)
    expected = reference(x, layer.weight, (14, 14))
    if why == "evaluation":
        layer.eval()
    if why == "few images":
        monkeypatch.setattr(torch, "get_num_threads", lambda: len(x) + 1)
    if why == "many weights":
        monkeypatch.setattr(upsampled_convolution, "_MOST_WEIGHTS", layer.weight.numel() - 1)
    if why == "float64":  # whereas the weights are float32
        x = x.double()
    if why == "x":
        x = x.as_subclass(Subclass)
    if why == "weight":
        layer = partial(torch.func.functional_call, layer, {"weight": layer.weight.as_subclass(Subclass)})
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=why == "autocast"):
        step(layer, x)
        y = layer(x).float().as_subclass(torch.Tensor)
    # Sums of 72 products of order 1; with autocast, of factors that are rounded by 2^-9.
    torch.testing.assert_close(y, expected, rtol=0, atol=0.1 if why == "autocast" else 1e-5)
    assert calls == []


@pytest.mark.parametrize("shape", [(3, 8, 7, 8), (3, 7, 7, 9)])
def test_inputs_of_another_shape_are_refused(shape):
    layer, _ = layer_and_input((8, 16), 3, (7, 7), (14, 14))
    with pytest.raises(RuntimeError):
        layer(torch.zeros(shape, dtype=torch.float64))


def test_the_positions_are_no_parameters():
    layer = UpsampledConv2d(2, 3, 3, (4, 4), (8, 8))
    assert list(layer.state_dict()) == ["weight"]
    assert [name for name, _ in layer.named_parameters()] == ["weight"]


def test_tap_matrices_sum_to_one_and_shift_by_one():
    matrices = tap_matrices(5, 10, 3)
    assert matrices.shape == (3, 10, 5)
    # Weights are multiples of 1/4 and exact.
    assert torch.equal(matrices.sum(2), torch.ones(3, 10))
    assert torch.equal(matrices[0, 1:], matrices[1, :-1])
    assert torch.equal(matrices[2, :-1], matrices[1, 1:])
    assert torch.equal(matrices[0, 0], matrices[1, 1])  # reflection without the edge
    assert torch.equal(matrices[2, -1], matrices[1, -2])
