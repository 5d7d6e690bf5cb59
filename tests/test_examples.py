"""Examples that no other test covers, on sizes that take seconds."""

import runpy
from pathlib import Path

import pytest
import torch

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture(scope="module")
def few_labels():
    return runpy.run_path(str(EXAMPLES / "few_labels.py"))


def test_few_labels_prints_its_tables_and_draws_its_plot(few_labels, tmp_path, capsys):
    plot = tmp_path / "errors.png"
    few_labels["main"](f"--labels 60 30 --seeds 2 --J 2 --test-images 200 --out {plot}".split())
    output = capsys.readouterr().out
    for name in ("scattering, affine", "scattering, ridge", "CNN"):
        table = output.partition(f"\n{name}\n")[2].splitlines()
        assert [row.split()[:2] for row in table[1:3]] == [["30", "2"], ["60", "2"]]
        # Chance is 90 %; thirty labels are enough for half of that.
        assert all(float(row.split()[2]) < 45 for row in table[1:3])
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_few_labels_refuses_too_few(few_labels, capsys):
    with pytest.raises(SystemExit) as stopped:
        few_labels["main"](["--labels", "20"])
    assert stopped.value.code == 2
    assert "from 30" in capsys.readouterr().err


def test_subsets_are_balanced_and_differ_by_seed(few_labels):
    labels = torch.arange(1000) % 10
    first, second = (few_labels["balanced_subset"](labels, 95, seed) for seed in (0, 1))
    counts = torch.bincount(labels[first], minlength=10)
    assert counts.min() == 9
    assert counts.max() == 10
    assert len(first.unique()) == 95
    assert not torch.equal(first, second)


def test_the_leave_one_out_error_chooses_a_penalty_as_refitting_would(few_labels):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 5, generator=generator)
    y = (x[:, 0] + 0.5 * torch.randn(40, generator=generator) > 0).long()
    features = torch.cat([x, torch.randn(40, 60, generator=generator)], 1)
    penalties, chosen = few_labels["PENALTIES"], {}
    for name, inputs in {"tall": x, "wide": features}.items():
        result = few_labels["ridge_classifier"](inputs, y, inputs, y)
        targets = 2 * torch.nn.functional.one_hot(y, 10).double() - 1
        centred = (inputs - inputs.mean(0)).double()
        # The eigenvalues' mean is the example's unit of penalties.
        gram = centred @ centred.T if inputs.shape[1] >= 40 else centred.T @ centred
        values = torch.linalg.eigvalsh(gram)
        unit = values[values > 1e-6 * values[-1]].mean()
        losses = []
        for penalty in penalties:
            residuals = []
            for i in range(40):
                rest = torch.arange(40) != i
                # The penalised problem around its own mean, but with the features' full mean kept:
                # the intercept absorbs the difference.
                design = torch.cat([centred[rest], torch.ones(39, 1).double()], 1)
                penal = penalty * unit * torch.eye(design.shape[1]).double()
                penal[-1, -1] = 0
                weights = torch.linalg.solve(design.T @ design + penal, design.T @ targets[rest])
                row = torch.cat([centred[i], torch.ones(1).double()])
                residuals.append(targets[i] - row @ weights)
            losses.append(torch.stack(residuals).square().mean())
        best = penalties[int(torch.stack(losses).argmin())]
        chosen[name] = (result.choice, f"penalty {best:.0e}")
    assert all(ours == refitted for ours, refitted in chosen.values()), chosen
