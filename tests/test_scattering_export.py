"""The transform as a program of PyTorch's: exported, saved, loaded, and compiled."""

import warnings

import torch

from scattergen.scattering import Scattering2D, filter_bank, transform


def uniform(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def test_an_exported_transform_is_saved_loaded_and_takes_any_batch(tmp_path):
    for cache in (transform._shared_constants, filter_bank):
        cache.cache_clear()  # what the exporter makes is for all transforms
    scattering = Scattering2D(2, (16, 12), L=2)
    batch = torch.export.Dim("batch")
    program = torch.export.export(scattering, (uniform(4, 1, 16, 12),), dynamic_shapes=({0: batch},))
    torch.export.save(program, tmp_path / "scattering.pt2")
    loaded = torch.export.load(tmp_path / "scattering.pt2").module()
    for n in (1, 7):
        x = uniform(n, 1, 16, 12, seed=n)
        # The compiled kernel and PyTorch's operations: float32 rounding of values up to 1.
        torch.testing.assert_close(loaded(x), scattering(x), rtol=1e-5, atol=1e-6)
    assert not program.state_dict


def test_a_compiled_transform_equals_the_module():
    scattering = Scattering2D(2, (16, 12), L=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that PyTorch looks behind a cache
        compiled = torch.compile(scattering, backend="eager")
        x = uniform(3, 16, 12)
        torch.testing.assert_close(compiled(x), scattering(x), rtol=1e-5, atol=1e-6)
