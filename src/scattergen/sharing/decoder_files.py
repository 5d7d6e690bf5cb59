"""A decoder as a file that runs without scattergen: an ONNX model, or a program of torch.export."""

import copy
import logging
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scattergen.calls.state import usual_state
from scattergen.decoder.sharpening import sharpened
from scattergen.errors import InputError, ScattergenError, one_line
from scattergen.files import atomic_path
from scattergen.model import GenerativeScatteringNetwork

ENDINGS = {"onnx": ".onnx", "torch": ".pt2"}
_LARGEST_DIFFERENCE = 1e-3  # of pixels in [0, 1]: a quarter of one of 256 levels


class _ToImages(nn.Module):
    """Codes (N, d) to images (N, C, H, W) in [0, 1], as `GenerativeScatteringNetwork.decode` makes them."""

    def __init__(self, model: GenerativeScatteringNetwork, sharpen: float) -> None:
        super().__init__()
        self.decoder = copy.deepcopy(model.decoder).requires_grad_(False)  # else the program asks for no_grad
        self.matrices: tuple[Tensor, ...] = ()
        if sharpen > 0 and model.sharpening is not None:
            self.matrices = model.sharpening.matrices(*model.decoder.image_shape[1:], sharpen)

    def forward(self, codes: Tensor) -> Tensor:
        images = ((self.decoder(codes) + 1) * 0.5).clamp(0, 1)
        return sharpened(images, *self.matrices) if self.matrices else images


@usual_state(gradients=False)
def export_decoder(model: GenerativeScatteringNetwork, path: Path, to: str, *, sharpen: float = 0.0) -> float | None:
    """Write the decoder of a model on the CPU as "onnx" or "torch", for any number N of codes at a time.

    The file maps "codes", (N, d) float32, to "images", (N, C, H, W) in [0, 1], sharpened if that is asked. It is run at
    once on a few codes: the largest difference from the model's own images is returned, or None if there is no ONNX
    Runtime. An `InputError` if a package is missing, the ending is not `.onnx` or `.pt2`, or there is no sharpening.
    """
    if path.suffix.lower() != ENDINGS[to] or path.is_dir():
        raise InputError(f"{path} is no name for such a file: give one that ends in {ENDINGS[to]}.")
    if to == "onnx" and find_spec("onnxscript") is None:
        remedy = "install them by pip install 'scattergen[onnx]', or export --to torch"
        raise InputError(f"ONNX files are written by the packages onnx and onnxscript: {remedy}.")
    model.check_sharpening(sharpen)
    codes = torch.randn(5, model.decoder.n_components, generator=torch.Generator().manual_seed(0))
    with atomic_path(path) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of PyTorch about itself
        # Of two codes, since one would be taken for the number of codes that there always is.
        any_number = ({0: torch.export.Dim("N")},)
        try:
            program = torch.export.export(_ToImages(model, sharpen).eval(), (codes[:2],), dynamic_shapes=any_number)
        except Exception as error:  # of PyTorch's compiler, of many kinds
            problem = f"PyTorch {torch.__version__} cannot export this decoder ({one_line(error).partition('. ')[0]})"
            raise ScattergenError(f"{problem}: try another version, or export --to folder.") from error
        decode = (_as_onnx if to == "onnx" else _as_torch)(program, temporary)
        if decode is None:
            return None
        found = [(decode(z) - model.decode(z, sharpen=sharpen)).abs().max().item() for z in (codes, codes[:1])]
        if not max(found) <= _LARGEST_DIFFERENCE:
            problem = f"{path} is not kept, since its images differ from the model's by {max(found):.2g} (of 1)"
            raise ScattergenError(f"{problem}: try another version of PyTorch, or --to {min(ENDINGS.keys() - {to})}.")
    return max(found)


def _as_torch(program: torch.export.ExportedProgram, path: Path) -> Callable[[Tensor], Tensor]:
    """Write a program, and open it again."""
    torch.export.save(program, path)
    return torch.export.load(path).module()


def _as_onnx(program: torch.export.ExportedProgram, path: Path) -> Callable[[Tensor], Tensor] | None:
    """Write an ONNX model, and open it again, if there is ONNX Runtime."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it misses torchvision, whose operations nobody uses
    how: dict[str, Any] = {"dynamo": True, "external_data": False, "verbose": False}
    torch.onnx.export(program, (), path, input_names=["codes"], output_names=["images"], **how)
    if find_spec("onnxruntime") is None:
        return None
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda codes: torch.from_numpy(session.run(None, {"codes": codes.numpy()})[0])
