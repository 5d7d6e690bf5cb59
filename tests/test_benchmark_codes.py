"""The benchmark of codes: its random filters, and a tiny run that is stopped and continued."""

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch

from scattergen.scattering import Scattering2D
from scattergen.scattering.filters import filter_bank, padding_sources

BENCHMARK = Path(__file__).parent.parent / "benchmarks" / "codes.py"


@pytest.fixture(scope="module")
def codes():
    pytest.importorskip("sklearn", reason="scikit-learn is missing")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARK.parent)  # as it is for a script
        return runpy.run_path(str(BENCHMARK))


@pytest.fixture
def random_filters(codes):
    return sys.modules["_random_filters"]


@pytest.mark.parametrize("kind", ["band", "white"])
def test_random_filters_are_zero_mean_and_as_strong_and_wide_as_the_wavelets(random_filters, kind):
    wavelets = filter_bank((36, 36), 2, 8)
    bank = random_filters.random_bank((36, 36), 2, 8, kind, 0)
    # The mean is subtracted in float64; filters have maxima of about 1.
    assert bank.psi[:, :, 0, 0].abs().max() < 1e-14
    energy, expected = (some.psi.square().sum((1, 2, 3)) for some in (bank, wavelets))
    torch.testing.assert_close(energy, expected)
    distance = torch.minimum(torch.arange(36), 36 - torch.arange(36)).square()
    distance = (distance[:, None] + distance).double()

    def support(psi):
        squares = torch.fft.ifft2(psi).abs().square().sum(1)
        return ((squares * distance).sum((1, 2)) / squares.sum((1, 2))).sqrt()

    # Window and envelope have equal areas, but a round one has the smaller second moment: 2·(√2 σ)²
    # against (1 + 4) σ², a root ratio of 0.89; the rest is the draw of eight filters.
    ratio = support(bank.psi) / support(wavelets.psi)
    assert ratio.min() > 0.8
    assert ratio.max() < 1.05
    other = random_filters.random_bank((36, 36), 2, 8, kind, 1)
    assert not torch.allclose(bank.psi, other.psi, atol=0.1)


def test_random_filters_go_through_the_same_transform(random_filters):
    x = torch.rand(3, 28, 28, generator=torch.Generator().manual_seed(0))
    transform = random_filters.RandomScattering2D(2, (28, 28), 2, "band", 0)
    s = transform(x)
    assert s.shape == Scattering2D(2, (28, 28))(x).shape
    # Order 1 by convolution at full resolution: the first filter of the finest scale is not
    # subsampled before the average.
    bank, (rows, columns) = transform.bank, padding_sources(transform.shape, transform.padded_shape, "reflect")
    padded = x[:, rows[:, None], columns].double()
    modulus = torch.fft.ifft2(torch.fft.fft2(padded) * bank.psi[0, 0]).abs()
    phi = torch.outer(bank.phi_rows, bank.phi_columns)
    average = torch.fft.ifft2(torch.fft.fft2(modulus) * phi).real[:, 4:32:4, 4:32:4]
    # float32 rounding of values below 1 through two FFTs and a low-pass.
    torch.testing.assert_close(s[:, 1].double(), average, rtol=0, atol=1e-5)


def test_a_stopped_run_continues_without_measuring_again(codes, tmp_path, capsys):
    path = tmp_path / "rows.jsonl"
    tiny = f"--rows {path} --n 400 --components 16 --epochs 1 --codes pixels,random_filters"
    codes["main"](f"{tiny} --codes pixels --seconds 0".split())
    assert not path.exists()  # nothing may start
    codes["main"](f"{tiny} --codes pixels".split())
    first = path.read_text()
    assert len(first.splitlines()) == 5
    # As if it had been killed before the last mixture and its folder removed.
    path.write_text("".join(first.splitlines(keepends=True)[:4]))
    codes["main"](tiny.split())
    again = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(again) == 10
    assert path.read_text().startswith("".join(first.splitlines(keepends=True)[:4]))
    lost, measured = json.loads(first.splitlines()[4]), again[4]
    # Codes and decoder were made again from the same seeds; threads may order their sums otherwise.
    assert measured["frechet"] == pytest.approx(lost["frechet"], rel=1e-3)
    assert list((tmp_path / "rows").iterdir()) == []
    output = capsys.readouterr().out
    assert output.count("| pixels | 1 | 784 | 16 |") == 2
    assert output.count("| random_filters | 1 | 3969 | 16 |") == 1


def test_it_names_an_unknown_code(codes, capsys):
    with pytest.raises(SystemExit):
        codes["main"](["--codes", "pixels,wavelets"])
    assert "wavelets is none of scattering, pixels" in capsys.readouterr().err
