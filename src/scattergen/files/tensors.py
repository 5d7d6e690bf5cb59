"""Tensors as safetensors files with a checksum, and as flat mappings of names to tensors."""

import json
import math
import re
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from scattergen.errors import RunFolderError
from scattergen.files import atomic_path, open_regular, parse_json

# Of variances; a component that images vary in less is never kept.
_LEAST = {"running_var": 0.0, "explained_variance": 1e-30}


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Any = None) -> None:
    """Write named tensors and JSON metadata as one safetensors file, atomically, with a checksum of all of it."""
    # Copies, because safetensors refuses tensors that share memory, such as tied weights.
    plain = {name: t.detach().cpu().clone(memory_format=torch.contiguous_format) for name, t in tensors.items()}
    text = json.dumps(metadata)
    with atomic_path(path) as temporary:
        try:
            save_file(plain, temporary, metadata={"json": text, "crc32": _checksum(plain, text)})
        except SafetensorError as error:
            number = re.search(r"\(os error (\d+)\)", str(error))
            raise OSError(int(number[1]), str(error)) if number else error from error


def _checksum(tensors: Mapping[str, Tensor], text: str) -> str:
    # CRC-32 finds damage as well as a cryptographic hash does, at the speed of the disk.
    crc = zlib.crc32(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        crc = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), crc)
        crc = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, crc)
    return f"{crc:08x}"


def read_metadata(path: Path) -> Any:
    """Metadata of a file made by `write_tensors`, without reading its tensors."""
    with _opened(path) as (_, kept):
        return parse_json(kept.get("json", "null"))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], Any]:
    """Tensors by name, on the CPU, and metadata of a file made by `write_tensors`; no code is executed."""
    with _opened(path) as (file, kept):
        text = kept.get("json", "null")
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if kept.get("crc32") != _checksum(tensors, text):
            raise ValueError("its content does not match its checksum")
        return tensors, parse_json(text)


def read_tensors_if_whole(path: Path) -> tuple[dict[str, Tensor], Any] | None:
    """As `read_tensors`, of a file that can be made again: None if it is missing or damaged."""
    with suppress(RunFolderError):
        return read_tensors(path)
    return None


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, dict[str, str]]]:
    """A safetensors file, and the texts in its header."""
    again = "copy the run folder again as a whole, or fit it again"
    try:
        with open_regular(path) as held:
            utf8 = str(path) if str(path).isprintable() else f"/dev/fd/{held.fileno()}"
            with safe_open(utf8, framework="pt") as file:
                yield file, file.metadata() or {}
    except FileNotFoundError as error:
        raise RunFolderError(f"{path} is missing: {again}.") from error
    except OSError as error:
        remedy = "check its permissions and the disk, or copy the run folder again as a whole"
        raise RunFolderError(f"{path} cannot be read ({error.strerror}): {remedy}.") from error
    # PyTorch raises a RuntimeError for sizes that no tensor can have.
    except (SafetensorError, ValueError, RuntimeError) as error:
        raise RunFolderError(f"{path} is damaged ({error}): {again}.") from error


def flatten_state(prefix: str, state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Tensors of nested mappings as one flat mapping with "/" between the names, and the prefix before all of them."""
    flat: dict[str, Tensor] = {}
    for name, value in state.items():
        key = f"{prefix}/{name}"
        flat |= flatten_state(key, value) if isinstance(value, Mapping) else {key: torch.as_tensor(value)}
    return flat


def check_shapes(what: str, tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse stored tensors of `what` that are not real numbers of the expected shapes, or too small for variances."""
    for name in [*shapes, *(tensors.keys() - shapes)]:
        wanted, tensor = shapes.get(name, "nothing"), tensors.get(name)
        found: Any = "missing" if tensor is None else tuple(tensor.shape)
        if tensor is not None and found == wanted:
            count = found == () and not tensor.is_complex()
            if not (count or tensor.is_floating_point()):
                found = tensor.dtype
            elif (tensor < _LEAST.get(name.rpartition(".")[2], -math.inf)).any():
                found = "too small"
            else:
                continue
        problem = f'The stored {what} does not fit its options: "{name}" is {found} where {wanted} is expected'
        raise RunFolderError(f"{problem}; fit the run again with --overwrite.")


def take_state(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The part of a flat mapping below `prefix`, with the prefix removed."""
    start = prefix + "/"
    return {name[len(start) :]: t for name, t in tensors.items() if name.startswith(start)}
