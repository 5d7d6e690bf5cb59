"""The decoder against Angles & Mallat's generator written with PyTorch's own layers."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from scattergen.decoder import Decoder
from scattergen.decoder.fit import DecoderTraining
from scattergen.errors import InputError
from scattergen.stages.presets import CELEBA_PRESETS, preset


class Generator(nn.Module):
    """Angles & Mallat's generator, layer by layer as published, with the weights of a decoder."""

    def __init__(self, decoder, channels, grids, kernel_size):
        super().__init__()
        self.start = (channels[0], *grids[0])
        n_features = channels[0] * grids[0][0] * grids[0][1]
        self.linear = nn.Linear(decoder.n_components, n_features, bias=False)
        # The decoder's features are in the order (row, column, channel).
        weight = decoder.linear.detach().unflatten(1, (*grids[0], channels[0])).permute(3, 1, 2, 0)
        self.linear.weight = nn.Parameter(weight.flatten(0, 2).contiguous())
        layers = [nn.BatchNorm2d(channels[0], eps=1e-3), nn.ReLU()]
        widths = [*channels, decoder.image_shape[0]]
        for i, convolution in enumerate(decoder.convolutions):
            if i < len(grids) - 1:
                doubles = grids[i + 1] == (2 * grids[i][0], 2 * grids[i][1])
                scale = {"scale_factor": 2} if doubles else {"size": grids[i + 1]}
                layers.append(nn.Upsample(**scale, mode="bilinear", align_corners=False))
            conv = nn.Conv2d(widths[i], widths[i + 1], kernel_size, bias=False)
            conv.weight = nn.Parameter(convolution.weight.detach().clone())
            last = i == len(decoder.convolutions) - 1
            layers += [nn.ReflectionPad2d(kernel_size // 2), conv]
            layers += [nn.BatchNorm2d(widths[i + 1], eps=1e-3), nn.Tanh() if last else nn.ReLU()]
        self.layers = nn.Sequential(*layers)

    def forward(self, z):
        return self.layers(self.linear(z).unflatten(1, self.start))

    def norms(self):
        return [layer for layer in self.layers if isinstance(layer, nn.BatchNorm2d)]

    def convolutions(self):
        return [layer for layer in self.layers if isinstance(layer, nn.Conv2d)]


MNIST = ((1, 28, 28), (128, 64, 32), [(7, 7), (14, 14), (28, 28)], 3)
# With narrower layers, which c = 32 scales up.
ANGLES_2018 = ((3, 128, 128), (32, 16, 8, 4, 2, 1), [(4, 4), (8, 8), (16, 16), (32, 32), (64, 64), (128, 128)], 7)
ANGLES_2019 = ((3, 64, 64), (32, 16, 8, 4, 2), [(4, 4), (8, 8), (16, 16), (32, 32), (64, 64)], 5)
ODD = ((2, 37, 50), (8, 6, 5, 4), [(5, 7), (10, 13), (19, 25), (37, 50)], 3)
ONE_GRID = ((1, 5, 4), (3,), [(5, 4)], 3)
VARIANTS = pytest.mark.parametrize(
    ("image_shape", "channels", "grids", "kernel_size"),
    [MNIST, ANGLES_2018, ANGLES_2019, ODD, ONE_GRID],
    ids=["MNIST", "2018", "2019", "odd", "one grid"],
)


def codes(n, d, dtype=torch.float32, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def small(**keywords):
    torch.manual_seed(0)
    return Decoder(6, (1, 8, 12), **({"channels": (8, 4)} | keywords))


@VARIANTS
def test_equals_the_published_generator(image_shape, channels, grids, kernel_size):
    torch.manual_seed(0)
    decoder = Decoder(10, image_shape, channels, kernel_size).double()
    for norm in decoder.norms:  # away from the values that they start with
        nn.init.normal_(norm.weight, 1, 0.1)
        nn.init.normal_(norm.bias, 0, 0.1)
    generator = Generator(decoder, channels, grids, kernel_size).double()
    for ours, published in zip(decoder.norms, generator.norms(), strict=True):
        published.load_state_dict(ours.state_dict())
        published.momentum = ours.momentum
    z = codes(4, 10, torch.float64)
    # In float64; grids that do not double have interpolation weights of float32, whose positions of
    # up to 50 pixels have errors of 50 · 6e-8; batch normalisation divides by deviations above 0.1.
    tolerance = 1e-4 if grids == ODD[2] else 1e-9

    x, expected = decoder(z), generator(z)  # with batch statistics
    assert x.shape == expected.shape == (4, *image_shape)
    torch.testing.assert_close(x, expected, rtol=0, atol=tolerance)

    target = torch.linspace(-1, 1, x.numel(), dtype=torch.float64).view_as(x)
    for output in (x, expected):
        (output - target).square().mean().backward()
    pairs = list(zip(decoder.norms, generator.norms(), strict=True))
    pairs += zip(decoder.convolutions, generator.convolutions(), strict=True)
    gradients = [(a.weight.grad, b.weight.grad) for a, b in pairs]
    published = generator.linear.weight.grad.unflatten(0, generator.start).permute(3, 1, 2, 0)
    gradients.append((decoder.linear.grad, published.flatten(1)))
    for a, b in gradients:
        assert (a - b).abs().max() < 10 * tolerance * b.abs().max()

    decoder.eval(), generator.eval()  # with the running statistics of that one batch
    torch.testing.assert_close(decoder(z), generator(z), rtol=0, atol=10 * tolerance)


@pytest.mark.parametrize("n", [2, 15, 16, 128, 129])  # both ways of multiplying the codes, and where they change
def test_the_first_layer_of_batches_of_all_sizes(n):
    decoder, z = small(unit_norm=True).double(), codes(n, 6, torch.float64)
    decoder.train()(z).square().sum().backward()
    gradients = {name: parameter.grad.clone() for name, parameter in decoder.named_parameters()}

    decoder.zero_grad()
    decoder.train()
    features = (nn.functional.normalize(z, dim=1) @ decoder.linear).unflatten(1, (*decoder.start_grid, -1))
    for norm, convolution in zip(decoder.norms, decoder.convolutions, strict=False):
        features = convolution(torch.relu(norm(features.permute(0, 3, 1, 2))).permute(0, 2, 3, 1))
    torch.tanh(decoder.norms[-1](features.permute(0, 3, 1, 2))).square().sum().backward()
    for name, parameter in decoder.named_parameters():
        # Sums of 6 products in another order, in float64, through layers that keep the size of what they get.
        torch.testing.assert_close(parameter.grad, gradients[name], rtol=1e-9, atol=1e-9, msg=name)
    assert decoder.linear.grad.is_contiguous()


@VARIANTS
def test_number_of_parameters(image_shape, channels, grids, kernel_size):
    decoder = Decoder(10, image_shape, channels, kernel_size)
    widths = [*channels, image_shape[0]]
    expected = 10 * grids[0][0] * grids[0][1] * channels[0] + 2 * sum(widths)
    expected += kernel_size**2 * sum(a * b for a, b in pairwise(widths))
    assert sum(p.numel() for p in decoder.parameters()) == expected


def test_number_of_parameters_of_the_papers_mnist_generator():
    decoder = Decoder(512, (1, 28, 28))
    expected = 512 * 49 * 128 + 9 * (128 * 64 + 64 * 32 + 32) + 2 * (128 + 64 + 32 + 1)
    assert sum(p.numel() for p in decoder.parameters()) == expected == 3_304_162


@VARIANTS
def test_grids(image_shape, channels, grids, kernel_size):
    decoder = Decoder(3, image_shape, channels, kernel_size)
    seen = []
    for convolution in decoder.convolutions:
        convolution.register_forward_hook(lambda _, __, y: seen.append(tuple(y.shape[1:3])))
    decoder(codes(2, 3))
    assert decoder.start_grid == grids[0]
    assert seen == [*grids[1:], grids[-1]]


def test_another_start_grid():
    torch.manual_seed(0)
    decoder = Decoder(5, (1, 28, 28), (6, 5, 4, 3), start_grid=(4, 4))
    assert decoder.start_grid == (4, 4)
    seen = []
    for convolution in decoder.convolutions:
        convolution.register_forward_hook(lambda _, __, y: seen.append(tuple(y.shape[1:3])))
    assert decoder(codes(2, 5)).shape == (2, 1, 28, 28)
    assert seen == [(8, 8), (16, 16), (28, 28), (28, 28)]


def test_float32_is_close_to_float64():
    decoder = small()
    z = codes(16, 6)
    with torch.no_grad():
        x, exact = decoder(z), decoder.double()(z.double())
    # Some ten roundings of 6e-8 in each of three layers.
    torch.testing.assert_close(x.double(), exact, rtol=0, atol=1e-5)


def test_mixed_precision_gives_float32_images():
    decoder = small()
    z = codes(64, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        x = decoder(z)
    assert x.dtype == torch.float32
    # Normalised features of deviation 1 carry some five roundings of 2^-9 from each of 3 layers.
    difference = (x - decoder(z)).abs()
    assert difference.mean() < 15 * 2**-9
    assert difference.max() > 1e-4  # it did compute in bfloat16


def test_unit_norm():
    z = codes(5, 6)
    decoder = small(unit_norm=True).eval()
    # A rounding of the norm and of the quotient, some 1e-7, in tanh's argument of about 1.
    torch.testing.assert_close(decoder(7.3 * z), decoder(z), rtol=0, atol=1e-5)
    plain = small().eval()
    torch.testing.assert_close(decoder(z), plain(F.normalize(z)), rtol=0, atol=1e-5)
    assert (plain(7.3 * z) - plain(z)).abs().max() > 1e-3


@pytest.mark.parametrize("training", [True, False])
def test_decoding_changes_nothing_and_needs_no_batch(training):
    decoder, z = small(), codes(9, 6)
    decoder(codes(50, 6, seed=1))  # running statistics
    decoder.train(training)
    before = {name: tensor.clone() for name, tensor in decoder.state_dict().items()}
    x = decoder.decode(z)
    assert decoder.training is training
    assert all(module.training is training for module in decoder.modules())
    assert not x.requires_grad
    for name, tensor in decoder.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert x.dtype == torch.float32
    assert 0 <= x.min() < x.max() <= 1
    torch.testing.assert_close(x, (decoder.eval()(z) + 1) / 2)
    for k in range(9):  # another batch size may take other kernels: some roundings of 6e-8
        torch.testing.assert_close(decoder.decode(z[k : k + 1])[0], x[k], rtol=0, atol=2e-6)


def test_no_codes_give_no_images():
    assert small().decode(torch.empty(0, 6)).shape == (0, 1, 8, 12)


@pytest.mark.parametrize("momentum", [0.1, 0.9])
def test_momentum_is_pytorchs(momentum):
    decoder, z = small(momentum=momentum), codes(32, 6)
    decoder(z)
    first = (z @ decoder.linear).detach().unflatten(1, (*decoder.start_grid, -1))
    # The statistics start at 0 and 1; float32 means of 32 · 24 values.
    torch.testing.assert_close(decoder.norms[0].running_mean, momentum * first.mean((0, 1, 2)), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(
        decoder.norms[0].running_var, 1 - momentum + momentum * first.var((0, 1, 2), correction=1), rtol=1e-4, atol=1e-6
    )


def test_original_initialization():
    torch.manual_seed(0)
    decoder = Decoder(64, (1, 28, 28), (128, 64, 32), initialization="normal")
    for weight in (decoder.linear, decoder.convolutions[0].weight, decoder.convolutions[1].weight):
        # Five standard errors σ/√n of a mean and σ/√2n of a deviation.
        assert abs(weight.mean()) < 5 * 0.02 / weight.numel() ** 0.5
        assert abs(weight.std() - 0.02) < 5 * 0.02 / (2 * weight.numel()) ** 0.5
    scales = torch.cat([norm.weight for norm in decoder.norms])
    assert abs(scales.mean() - 1) < 5 * 0.02 / len(scales) ** 0.5
    assert abs(scales.std() - 0.02) < 5 * 0.02 / (2 * len(scales)) ** 0.5
    assert not torch.cat([norm.bias for norm in decoder.norms]).any()


def test_hyperparameters_and_state_restore_a_decoder():
    decoder = small(kernel_size=5, unit_norm=True, initialization="normal", momentum=0.3)
    decoder(codes(20, 6))
    restored = Decoder(**decoder.hyperparameters)
    restored.load_state_dict(decoder.state_dict())
    z = codes(3, 6, seed=2)
    assert torch.equal(restored.decode(z), decoder.decode(z))
    assert restored.hyperparameters == decoder.hyperparameters


def test_the_smallest_grids_that_filters_fit():
    assert Decoder(6, (1, 3, 8), channels=(4,), kernel_size=5)(codes(2, 6)).shape == (2, 1, 3, 8)
    with pytest.raises(InputError, match="Filters of side 5 do not fit a grid of 2 pixels"):
        Decoder(6, (1, 2, 8), channels=(4,), kernel_size=5)


@pytest.mark.parametrize(
    ("keywords", "culprit", "remedy"),
    [
        ({"channels": ()}, "channels=()", "one positive width"),
        ({"channels": (8, 0)}, "channels=(8, 0)", "one positive width"),
        ({"kernel_size": 4}, "kernel_size=4", "odd"),
        ({"kernel_size": -1}, "kernel_size=-1", "odd"),
        ({"kernel_size": 0}, "kernel_size=0", "odd"),
        ({"initialization": "xavier"}, "xavier", '"kaiming" or "normal"'),
        ({"channels": (4,) * 6, "kernel_size": 7}, "a grid of 1 pixels", "fewer channels"),
        ({"start_grid": (9, 4)}, "start_grid=(9, 4)", "8x12"),
        ({"start_grid": (0, 4)}, "start_grid=(0, 4)", "at least 1"),
        ({"start_grid": (4,)}, "start_grid=(4,)", "a height and a width"),
        ({"start_grid": (4, 6), "channels": (4,)}, "start_grid=(4, 6)", "more channels"),
    ],
)
def test_arguments_out_of_range(keywords, culprit, remedy):
    with pytest.raises(InputError) as error:
        small(**keywords)
    assert culprit in str(error.value)
    assert remedy in str(error.value)


@pytest.mark.parametrize("shape", [(3, 7), (6,), (2, 3, 6)])
def test_codes_of_another_width(shape):
    decoder = small()
    with pytest.raises(InputError, match=r"\(N, 6\)") as error:
        decoder.decode(torch.zeros(shape))
    assert str(shape) in str(error.value)
    assert decoder.training


# The presets


class StopError(Exception):
    """In place of a kill."""


# Parameters by the published architectures: the layer from 512 codes, filters, batch normalisation.
PUBLISHED = {
    ("mnist", 28): 3_304_162,
    ("celeba", 128): 512 * 16 * 1024
    + 49 * (1024 * 512 + 512 * 256 + 256 * 128 + 128 * 64 + 64 * 32 + 32 * 3)
    + 2 * (1024 + 512 + 256 + 128 + 64 + 32 + 3),
    ("celeba-2019", 64): 512 * 16 * 512
    + 25 * (512 * 256 + 256 * 128 + 128 * 64 + 64 * 32 + 32 * 3)
    + 2 * (512 + 256 + 128 + 64 + 32 + 3),
    # Not published: two cores train these.
    ("celeba", 64): 512 * 16 * 192
    + 9 * (192 * 128 + 128 * 64 + 64 * 32 + 32 * 16 + 16 * 3)
    + 2 * (192 + 128 + 64 + 32 + 16 + 3),
    ("celeba-light", 128): 512 * 16 * 192
    + 9 * (192 * 128 + 128 * 64 + 64 * 32 + 32 * 16 + 16 * 8 + 8 * 3)
    + 2 * (192 + 128 + 64 + 32 + 16 + 8 + 3),
}


@pytest.mark.parametrize(("name", "side"), PUBLISHED)
def test_presets_have_the_published_generators(name, side):
    shape = (1 if name == "mnist" else 3, side, side)
    options = preset(name, shape, 65_536)
    decoder = Decoder(options["encoder"]["n_components"], shape, **options["decoder"])
    assert sum(p.numel() for p in decoder.parameters()) == PUBLISHED[name, side]
    assert decoder.start_grid == ((7, 7) if name == "mnist" else (4, 4))
    assert decoder.unit_norm == (name != "celeba-2019")  # whose authors removed it
    assert decoder.norms[0].momentum == options["decoder"].get("momentum", 0.1)


def test_celeba_of_half_the_resolution_is_the_light_preset():
    assert preset("celeba", (3, 64, 64), 7000) == preset("celeba-light", (3, 64, 64), 7000)
    for name in CELEBA_PRESETS:
        with pytest.raises(InputError, match=f'"{name}" is for images of 3×.*not of 3×32×32'):
            preset(name, (3, 32, 32), 7000)
    with pytest.raises(InputError, match="images of 3×64×64, not of 3×128×128"):
        preset("celeba-2019", (3, 128, 128), 65_536)


@pytest.mark.parametrize(("name", "side"), PUBLISHED)
def test_presets_train_and_resume(name, side, tmp_path):
    """Two epochs of two steps at an eighth of the width, stopped after the first epoch."""
    shape = (1 if name == "mnist" else 3, side, side)
    options = preset(name, shape, 65_536)
    options["decoder"]["channels"] = [max(c // 8, 1) for c in options["decoder"]["channels"]]
    how = {**options["training"], "epochs": 2, "batch_size": 4, "n_validation": 2, "flips": False}
    z, x = codes(10, 16), torch.rand(10, *shape, generator=torch.Generator().manual_seed(1))

    def new():
        torch.manual_seed(0)
        return Decoder(16, shape, **options["decoder"])

    def stop(history):
        raise StopError

    whole = new()
    training = DecoderTraining(**how)
    history = training.fit(whole, z, x)
    assert history[-1]["loss"] < history[0]["loss"]
    with pytest.raises(StopError):
        training.fit(new(), z, x, checkpoint=tmp_path / "c", on_epoch=stop)
    resumed = new()
    training.fit(resumed, z, x, checkpoint=tmp_path / "c")
    for key, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[key]), key
    images = whole.decode(z[:2])
    assert images.shape == (2, *shape)
    assert 0 <= images.min() <= images.max() <= 1


def test_the_full_generator_of_128_pixels_makes_a_step():
    options = preset("celeba", (3, 128, 128), 65_536)
    torch.manual_seed(0)
    decoder = Decoder(512, (3, 128, 128), **options["decoder"])
    adam = torch.optim.Adam(decoder.parameters(), options["training"]["learning_rate"])
    before = decoder.linear.detach().clone()
    images = decoder(codes(2, 512))
    assert images.shape == (2, 3, 128, 128)
    (images - 0.5).abs().mean().backward()
    adam.step()
    assert all(p.grad.isfinite().all() for p in decoder.parameters())
    # Adam's first step moves every weight by its rate, but for gradients near its ε.
    moved = (decoder.linear - before).abs()
    assert 0.9e-3 < moved.median() <= 1.001e-3
