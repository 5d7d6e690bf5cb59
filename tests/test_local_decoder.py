"""The local decoder: least squares to begin with, better after training, and local."""

import pytest
import torch
from PIL import Image

from scattergen.decoder.fit import DecoderTraining, fewest_leading, shortening
from scattergen.decoder.local import LinearDecoder, LocalDecoder
from scattergen.encoder import ScatteringEncoder
from scattergen.errors import InputError
from scattergen.image_quality import psnr
from scattergen.stages.fit import Preview


def discs(n: int, size: tuple[int, int] = (16, 16), seed: int = 0) -> torch.Tensor:
    """Colour images of one disc each."""
    generator = torch.Generator().manual_seed(seed)
    H, W = size
    rows, columns = torch.arange(H)[:, None], torch.arange(W)
    centre = torch.rand(n, 2, 1, 1, generator=generator) * torch.tensor([H, W]).view(2, 1, 1) / 2
    centre = centre + torch.tensor([H, W]).view(2, 1, 1) / 4
    distance = ((rows - centre[:, :1]) ** 2 + (columns - centre[:, 1:]) ** 2).sqrt()
    inside = (4 - distance).clamp(0, 1)
    colours = torch.rand(n, 3, 1, 1, generator=generator)
    return 0.2 + 0.7 * inside * colours


def made(n: int = 200, size: tuple[int, int] = (16, 16), J: int = 2, channels=(16, 8, 8)):
    x = discs(n, size)
    encoder = ScatteringEncoder((3, *size), J=J, L=4, n_components=40).fit(x)
    z = encoder.transform(x)
    linear = LinearDecoder.of(encoder, 32).fit(z, x)
    torch.manual_seed(0)
    return x, encoder, z, LocalDecoder(linear, channels)


@pytest.mark.parametrize("size", [(16, 16), (18, 13), (20, 9)])
def test_untrained_it_is_least_squares_at_any_size(size):
    _, _, z, decoder = made(60, size)
    # The same product in float32, in the range [-1, 1] and back.
    assert torch.allclose(decoder.decode(z), decoder.linear.decode(z), atol=1e-6)


@pytest.mark.parametrize("loss", ["pixels", "scattering"])
def test_training_beats_least_squares_on_images_that_it_has_not_seen(loss):
    x, encoder, z, decoder = made()
    training = DecoderTraining(
        epochs=20, batch_size=16, learning_rate=1e-2, loss=loss, flips=True, patience=20, precision="float32"
    )
    history = training.fit(decoder, z, x, encoder=encoder)
    unseen = discs(100, seed=1)
    codes = encoder.transform(unseen)
    ours = psnr(unseen, decoder.decode(codes)).mean()
    assert ours > psnr(unseen, decoder.linear.decode(codes)).mean() + 1
    assert len(history) == 20


def test_it_ends_no_worse_than_it_began():
    """A learning rate that ruins it leaves least squares."""
    x, _, z, decoder = made(60)
    training = DecoderTraining(epochs=2, batch_size=16, learning_rate=30.0, patience=2, precision="float32")
    training.fit(decoder, z, x)
    assert torch.allclose(decoder.decode(z), decoder.linear.decode(z), atol=1e-6)


def test_an_image_does_not_depend_on_the_others_of_its_batch():
    x, _, z, decoder = made(60)
    DecoderTraining(epochs=1, batch_size=16, precision="float32").fit(decoder, z, x)
    alone = torch.cat([decoder.decode(z[i : i + 1]) for i in range(5)])
    # Products of other sizes round otherwise.
    assert torch.allclose(decoder.decode(z)[:5], alone, atol=1e-5)


def test_no_codes_give_no_images():
    _, _, _, decoder = made(60)
    assert decoder.decode(torch.empty(0, decoder.n_components)).shape == (0, *decoder.image_shape)


def test_the_correction_is_local():
    """What a place of the estimates says is felt as far as the filters reach, and no further."""
    _, _, _, decoder = made(60, (32, 32), channels=(8, 8))
    torch.nn.init.normal_(decoder.last.weight)
    decoder.eval()
    z = torch.zeros(1, 40)
    before = decoder.decode(z)
    with torch.no_grad():
        decoder.mean_image.view(3, 32, 32)[:, 2, 2] += 1.0
    changed = (decoder.decode(z) - before).abs().sum(dim=(0, 1)) > 0
    assert changed[2, 2]
    # One position of the coarse grid (2 pixels), its bilinear upsampling (2 more on each side) and
    # two 3×3 filters.
    assert not changed[10:].any()
    assert not changed[:, 10:].any()


def test_half_precision_is_near():
    _, _, z, decoder = made(60)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        rounded = decoder.eval()(z)
    # bfloat16 has 8 bits: factors are off by up to 1/256 each, of values up to about 2.
    assert (rounded - decoder(z)).abs().max() < 0.05


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({"channels": ()}, "one positive width per grid"),
        ({"channels": (8, 0)}, "one positive width per grid"),
        ({"kernel_size": 4}, "odd number"),
        ({"channels": (8,) * 6}, "do not fit a grid"),
    ],
)
def test_bad_arguments_are_named(keywords, words):
    linear = made(60)[3].linear
    with pytest.raises(InputError, match=words):
        LocalDecoder(linear, **keywords)


def test_codes_of_another_model_are_refused():
    decoder = made(60)[3]
    with pytest.raises(InputError, match=r"\(N, 40\) but got \(2, 7\)"):
        decoder(torch.zeros(2, 7))


def test_shortened_codes_keep_leading_components_only():
    generator = torch.Generator().manual_seed(0)
    kept = shortening(4000, 64, 0.5, generator)
    counts = kept.sum(1)
    assert torch.equal(kept, torch.arange(64) < counts[:, None])  # ones, then zeros
    assert counts.min() == fewest_leading(64)
    # Half are shortened, but for the one in hundreds that keeps all 64 by chance: five deviations.
    assert (counts < 64).float().mean() == pytest.approx(0.5, abs=5 * (0.25 / 4000) ** 0.5 + 0.01)
    # As often in each of the octaves from 4 to 64.
    octaves = torch.histc(counts[counts < 64].float().log2(), 4, 2, 6)
    assert octaves.min() > 0.7 * octaves.max()


def test_a_decoder_of_shortened_codes_is_better_on_few_components():
    x, encoder, z, plain = made()
    shortened = LocalDecoder(plain.linear, (16, 8, 8))
    shortened.load_state_dict(plain.state_dict())
    for decoder, share in ((plain, 0.0), (shortened, 0.7)):
        training = DecoderTraining(
            epochs=15, batch_size=16, learning_rate=1e-2, loss="scattering", shortened=share, precision="float32"
        )
        training.fit(decoder, z, x)
    unseen = discs(100, seed=1)
    few = encoder.transform(unseen) * (torch.arange(40) < 6)
    errors = [(unseen - decoder.decode(few)).abs().mean() for decoder in (plain, shortened)]
    assert errors[1] < 0.95 * errors[0]


def test_a_preview_shows_the_decoder_as_far_as_it_is_trained(tmp_path):
    x, _, z, decoder = made(60)
    preview = Preview(tmp_path / "preview.png", x, z, decoder.linear)
    preview()
    before = (tmp_path / "preview.png").read_bytes()
    with Image.open(tmp_path / "preview.png") as picture:
        high = round(picture.height / 5)
        rows = [picture.crop((0, top * high, picture.width, top * high + high - 2)) for top in (1, 2)]
    assert rows[0].tobytes() == rows[1].tobytes()  # least squares, and the decoder as long as there is none
    DecoderTraining(epochs=1, batch_size=16, precision="float32").fit(decoder, z, x)
    preview(decoder)
    assert (tmp_path / "preview.png").read_bytes() != before
    with Image.open(tmp_path / "preview.png") as picture:
        width, height = picture.size
    # Held-out images, least squares, the decoder, and two rows of new images, eight in each; the
    # space around them is what makes the sides differ from 8 to 5 by some pixels.
    assert width / 8 == pytest.approx(height / 5, rel=0.05)
