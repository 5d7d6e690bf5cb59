"""The transform under what traces and transforms functions: exported, saved, loaded, compiled, differentiated."""

import warnings

import pytest
import torch

from scattergen.scattering import Scattering2D, filter_bank, transform

SCATTERING = Scattering2D(2, (16, 12), L=2)


def uniform(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def program():
    for cache in (transform._shared_constants, filter_bank):
        cache.cache_clear()  # what is made while the exporter traces is for all transforms
    batch = torch.export.Dim("batch")
    return torch.export.export(SCATTERING, (uniform(4, 1, 16, 12),), dynamic_shapes=({0: batch},))


def assert_equals_the_module(function):
    for n in (1, 7):
        x = uniform(n, 1, 16, 12, seed=n)
        # By the compiled kernel here and by other operations there: float32 rounding of values up to 1.
        torch.testing.assert_close(function(x), SCATTERING(x), rtol=1e-5, atol=1e-6)


def test_an_exported_transform_is_saved_loaded_and_takes_any_batch(program, tmp_path):
    torch.export.save(program, tmp_path / "scattering.pt2")
    assert_equals_the_module(torch.export.load(tmp_path / "scattering.pt2").module())
    assert not program.state_dict


def test_an_exported_transform_runs_in_onnx_runtime(program, tmp_path):
    pytest.importorskip("onnxscript", reason="what torch.onnx.export needs is not installed")
    onnxruntime = pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        onnx = torch.onnx.export(program, (uniform(4, 1, 16, 12),), dynamo=True, verbose=False)
    onnx.save(tmp_path / "scattering.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "scattering.onnx", providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    assert_equals_the_module(lambda x: torch.from_numpy(session.run(None, {name: x.numpy()})[0]))


def test_a_compiled_transform_equals_the_module():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that PyTorch looks behind a cache
        assert_equals_the_module(torch.compile(SCATTERING, backend="eager"))


def test_function_transforms_may_be_the_first_to_ask_for_filters():
    for cache in (transform._shared_constants, filter_bank):
        cache.cache_clear()
    x = uniform(3, 1, 16, 12)
    gradient = torch.func.grad(lambda x: SCATTERING(x).sum())(x)
    # S(cx) = c S(x) for c > 0, so along x the derivative is S(x) itself; some roundings of float32 sums.
    torch.testing.assert_close((gradient * x).sum(), SCATTERING(x).sum(), rtol=1e-5, atol=0)
