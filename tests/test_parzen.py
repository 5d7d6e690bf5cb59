"""Manifold Parzen windows against closed forms and neighbours found one by one."""

import numpy as np
import pytest
import torch

from scattergen.densities import ManifoldParzen
from scattergen.errors import InputError, RunFolderError


@pytest.fixture(scope="module")
def z():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(300, 6, generator=generator) * torch.arange(1, 7)


def test_neighbours_are_those_at_the_smallest_angles(z):
    codes = torch.cat([z, z[:1] * 2])  # one at no angle to another, which is a neighbour of it but not of itself
    found = ManifoldParzen(n_neighbors=3).fit(codes).neighbors_.numpy()
    x = codes.double().numpy()
    for i, row in enumerate(x):
        angles = np.arccos(np.clip(x @ row / np.linalg.norm(x, axis=1) / np.linalg.norm(row), -1, 1))
        angles[i] = np.inf
        assert set(found[i]) == set(np.argsort(angles)[:3]), i
    assert 300 in found[0]
    assert 0 in found[300]


def test_mean_and_covariance_are_those_of_the_mixture(z):
    density = ManifoldParzen(n_neighbors=4).fit(z)
    near = z[torch.cat([torch.arange(300)[:, None], density.neighbors_], 1)].double().numpy()
    means = near.mean(1)
    within = np.mean([np.cov(group, rowvar=False) for group in near], axis=0)
    wanted = within + np.cov(means, rowvar=False, bias=True)
    codes = density.sample(200_000, seed=1).double().numpy()
    # Variances are of order 1 to 36; the error of a covariance of n codes is σ_i σ_j √(κ / n), κ below 9 here.
    size = np.sqrt(np.outer(np.diag(wanted), np.diag(wanted)))
    assert (np.abs(np.cov(codes, rowvar=False) - wanted) < 5 * size * np.sqrt(9 / 200_000)).all()
    spread = np.sqrt(np.diag(wanted) / 200_000)
    assert (np.abs(codes.mean(0) - means.mean(0)) < 5 * spread).all()


def test_a_sample_lies_in_the_plane_of_a_code_and_its_neighbours():
    z = torch.randn(50, 20, generator=torch.Generator().manual_seed(0))
    density = ManifoldParzen(n_neighbors=3).fit(z)
    for code in density.sample(20, seed=0).double():
        left = []
        for i in range(50):
            near = z[[i, *density.neighbors_[i].tolist()]].double()
            directions = (near[1:] - near[0]).T
            offset = code - near[0]
            left.append((offset - directions @ torch.linalg.lstsq(directions, offset).solution).norm().item())
        assert min(left) < 1e-5  # rounding of codes of norm 5 to float32
        assert sorted(left)[1] > 1e-2  # and in no other


def test_codes_are_not_shrunk_towards_the_origin():
    """As they would be with Euclidean neighbours, half of which are the few codes of small norm."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(2000, 64, generator=generator) * torch.rand(2000, 1, generator=generator)
    samples = ManifoldParzen().fit(z).sample(2000)
    assert samples.square().sum(1).mean() > 0.9 * z.square().sum(1).mean()


def test_of_many_codes_some_are_kept_at_random(z):
    first, again, other = (ManifoldParzen(max_codes=40).fit(z, seed=seed) for seed in (0, 0, 1))
    assert len(first.codes_) == 40
    assert torch.equal(first.codes_, again.codes_)
    assert not torch.equal(first.codes_, other.codes_)
    assert all((z == code).all(1).any() for code in first.codes_)


def test_of_few_codes_all_others_are_neighbours(z):
    density = ManifoldParzen().fit(z[:3])
    assert density.neighbors_.sort(1).values.tolist() == [[1, 2], [0, 2], [0, 1]]
    # Every window is the Gaussian of all three.
    codes = density.sample(20_000)
    torch.testing.assert_close(codes.mean(0), z[:3].mean(0), rtol=0, atol=0.05)  # 5 standard errors of deviations of 1
    torch.testing.assert_close(codes.T.cov(), z[:3].T.cov(), rtol=0.1, atol=0.05)  # of which variances have 1 %
    again = ManifoldParzen()
    again.load_state_dict(density.state_dict())
    assert torch.equal(again.sample(5), density.sample(5))
    with pytest.raises(InputError, match="1 codes are too few: at least 2"):
        ManifoldParzen().fit(z[:1])


@pytest.mark.parametrize("rows", [torch.full((300, 4), 300), torch.full((300, 4), -1), torch.zeros(300, 4)])
def test_stored_neighbours_that_are_no_rows_are_refused(z, rows):
    density = ManifoldParzen().fit(z)
    with pytest.raises(RunFolderError, match="no rows of the codes: fit the density again"):
        ManifoldParzen().load_state_dict(density.state_dict() | {"neighbors": rows})
