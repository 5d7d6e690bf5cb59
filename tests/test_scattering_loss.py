"""The scattering loss: its gradient, what it forgives and what it does not."""

import pytest
import torch
from torch.nn import functional

from scattergen.decoder import scattering_loss
from scattergen.decoder.scattering_loss import ScatteringLoss
from scattergen.errors import InputError


def textures(n: int, channels: int = 3, size: int = 32, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, channels, size, size, generator=torch.Generator().manual_seed(seed))


def blurred(x: torch.Tensor) -> torch.Tensor:
    return functional.avg_pool2d(functional.pad(x, (2, 2, 2, 2), mode="reflect"), 5, 1)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_moved_detail_costs_less_than_a_missing_one(channels):
    """By pixels it is the other way round, which is why they make blurs."""
    x = textures(40, channels)
    loss = ScatteringLoss(x.shape[1:]).fit(x)
    moved, missing = x.roll((1, 1), (2, 3)), blurred(x)
    generators = (torch.Generator().manual_seed(1) for _ in range(2))
    assert loss(moved, x, next(generators)) < 0.7 * loss(missing, x, next(generators))
    assert (moved - x).abs().mean() > (missing - x).abs().mean()


def test_colours_that_come_apart_are_noticed():
    """Moduli of each channel by itself would be the same."""
    x = textures(40, 1).expand(-1, 3, -1, -1).contiguous()
    apart = torch.stack([x[:, 0], x[:, 1].roll(2, 1), x[:, 2].roll(-2, 1)], 1)
    loss = ScatteringLoss(x.shape[1:]).fit(x)
    together = x.roll(2, 3)
    a = loss(apart, x, torch.Generator().manual_seed(0))
    b = loss(together, x, torch.Generator().manual_seed(0))
    assert a > 1.5 * b


def test_its_gradient_is_that_of_finite_differences():
    x = textures(2, 2, 8).double()
    loss = ScatteringLoss((2, 8, 8), J=1, L=2).fit(textures(8, 2, 8))
    y = textures(2, 2, 8, seed=1).double().requires_grad_()
    # Absolute values and moduli have kinks, which these values do not touch.
    assert torch.autograd.gradcheck(lambda y: loss(y, x, torch.Generator().manual_seed(0)), y)


def value_and_gradient(loss, y, x):
    y = y.clone().requires_grad_()
    value = loss(y, x, torch.Generator().manual_seed(3))
    (2 * value).backward()
    return value.detach(), y.grad / 2


# 7 and 5 positions along a side, which regions of 4 do not divide; few positions; one image; many images.
@pytest.mark.parametrize(("n", "shape", "J"), [(16, (1, 28, 28), 2), (3, (3, 20, 40), 2), (1, (2, 12, 8), 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_compiled_kernel_computes_what_pytorch_does(monkeypatch, n, shape, J, dtype):
    pytest.importorskip("numba")
    generator = torch.Generator().manual_seed(0)
    x, noise = (torch.rand(n, *shape, generator=generator, dtype=dtype) for _ in range(2))
    y = x + 0.1 * noise
    y[0, :, : shape[1] // 2] = x[0, :, : shape[1] // 2]  # positions where nothing differs
    loss = ScatteringLoss(shape, J=J).fit(torch.rand(40, *shape, generator=generator))
    value, gradient = value_and_gradient(loss, y, x)
    monkeypatch.setattr(scattering_loss, "compiled_kernels", lambda: None)
    wanted, wanted_gradient = value_and_gradient(loss, y, x)
    # Sums over 81 paths and all positions, in another order.
    few = 100 * torch.finfo(dtype).eps
    torch.testing.assert_close(value, wanted, rtol=few, atol=0)
    assert (gradient - wanted_gradient).norm() < few * wanted_gradient.norm()


def by_both(monkeypatch, compute):
    """What is computed by the kernel, and what by PyTorch."""
    ours = compute()
    monkeypatch.setattr(scattering_loss, "compiled_kernels", lambda: None)
    return ours, compute()


def test_second_derivatives_are_those_of_pytorch(monkeypatch):
    x, y = textures(2, 1, 24).double(), textures(2, 1, 24, seed=1).double().requires_grad_()
    loss = ScatteringLoss(x.shape[1:]).fit(textures(8, 1, 24))

    def second():
        value = loss(y, x, torch.Generator().manual_seed(0))
        (first,) = torch.autograd.grad(value, y, create_graph=True)
        return torch.autograd.grad(first.square().sum(), y)[0]

    ours, wanted = by_both(monkeypatch, second)
    assert (ours - wanted).norm() < 1e-12 * wanted.norm()  # the same operations in float64, but for the gradient


def test_function_transforms_go_by_pytorch(monkeypatch):
    x, y = textures(2, 1, 24), textures(2, 1, 24, seed=1)
    loss = ScatteringLoss(x.shape[1:]).fit(textures(8, 1, 24))
    gradient = torch.func.grad(lambda y: loss(y, x, torch.Generator().manual_seed(3)))(y)
    _, wanted = value_and_gradient(loss, y, x)
    assert (gradient - wanted).norm() < 1e-5 * wanted.norm()  # float32, in another order


@pytest.mark.parametrize(
    "kind", [(6, 1, torch.float32), (2, 2, torch.bfloat16), (2, 2, torch.float16), (0, 0, torch.float32)], ids=str
)
def test_odd_images_are_compared_as_by_pytorch(monkeypatch, kind):
    n, n_wanted, dtype = kind  # one target for six outputs; low precision; an empty batch
    loss = ScatteringLoss((1, 24, 24)).fit(textures(8, 1, 24))
    y, x = textures(6, 1, 24)[:n].to(dtype), textures(6, 1, 24, seed=1)[:n_wanted]
    ours, wanted = by_both(monkeypatch, lambda: loss(y, x, torch.Generator().manual_seed(0)))
    torch.testing.assert_close(ours, wanted, rtol=1e-5, atol=0, equal_nan=True)  # both sum in float32


def test_an_image_that_is_right_has_no_gradient():
    x = textures(4)
    loss = ScatteringLoss(x.shape[1:]).fit(x)
    value, gradient = value_and_gradient(loss, x, x)
    assert value == 0
    assert (gradient == 0).all()


def test_the_number_of_threads_changes_no_bit():
    x, y = textures(7), textures(7, seed=1)
    loss, before, found = ScatteringLoss(x.shape[1:]).fit(x), torch.get_num_threads(), []
    try:
        for n in (1, 2, 3):
            torch.set_num_threads(n)
            found.append(value_and_gradient(loss, y, x))
    finally:
        torch.set_num_threads(before)
    for value, gradient in found[1:]:
        assert value == found[0][0]
        assert torch.equal(gradient, found[0][1])


def test_directions_are_drawn_from_the_generator_alone():
    x, y = textures(4), textures(4, seed=1)
    loss = ScatteringLoss(x.shape[1:]).fit(x)
    values = [loss(y, x, torch.Generator().manual_seed(seed)).item() for seed in (0, 0, 1)]
    assert values[0] == values[1] != values[2]


def test_relative_errors_are_of_order_one():
    """Independent images of one kind are about as far apart as their coefficients are large."""
    x = textures(60)
    loss = ScatteringLoss(x.shape[1:]).fit(x)
    value = loss(x[:30], x[30:], torch.Generator().manual_seed(0)).item()
    assert 0.1 < value < 2


def test_means_over_regions_forgive_a_texture_that_is_elsewhere():
    """Independent draws of one texture are closer than a blurred one of the right phases is."""
    x, y = textures(60), textures(60, seed=1)
    loss = ScatteringLoss(x.shape[1:]).fit(x)
    generators = (torch.Generator().manual_seed(2) for _ in range(2))
    assert loss(y, x, next(generators)) < 0.7 * loss(blurred(x), x, next(generators))


def test_every_corner_counts_as_much():
    """28×28 images have 7×7 positions, which 4×4 regions do not divide."""
    x = torch.full((1, 1, 28, 28), 0.5)
    loss = ScatteringLoss((1, 28, 28)).fit(textures(40, 1, 28))
    values = []
    for corner in ((slice(2, 6), slice(2, 6)), (slice(22, 26), slice(22, 26))):
        y = x.clone()
        y[0, 0][corner] = 1
        values.append(loss(y, x, torch.Generator().manual_seed(0)).item())
    # The last region of each axis has three positions, not four, and so more weight for each.
    assert values[0] < 1.5 * values[1]
    assert values[1] < 1.5 * values[0]


def test_tiny_images_have_a_smaller_scale():
    x = textures(8, 1, 3)
    assert ScatteringLoss((1, 3, 3)).fit(x)(x, x, torch.Generator()).item() == 0


def test_images_of_zeros_are_refused():
    with pytest.raises(InputError, match="All images are zero"):
        ScatteringLoss((1, 8, 8)).fit(torch.zeros(4, 1, 8, 8))
