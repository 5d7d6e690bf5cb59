"""Files that are complete or absent: atomic writes of bytes, JSON and tensors (safetensors)."""

import errno
import hashlib
import json
import math
import os
import shutil
import stat
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from scattergen.errors import RunFolderError, ScattergenError

_TEMPORARY = ".writing-"
_LONGEST_TEXT = 1 << 24  # of JSON in one file; that of real runs has some thousand letters
_DEEPEST = 50  # objects and lists within each other


def open_regular(path: Path, mode: str = "rb") -> IO[Any]:
    """Open a file, but not what it links to, nor a device or pipe, which might never end.

    Args:
        path: The file; folders above it may be links.
        mode: As of `open`.

    Returns:
        The open file.

    Raises:
        RunFolderError: If it is a link, a device or a pipe.

    Example:
        >>> open_regular(Path("/dev/zero"))
        Traceback (most recent call last):
        ...
        scattergen.errors.RunFolderError: /dev/zero is a link, a device or a pipe where a file ...
    """
    refusal = RunFolderError(
        f"{path} is a link, a device or a pipe where a file is needed: put the file itself there, "
        "or delete it and copy the run folder again as a whole."
    )

    def opener(name: str, flags: int) -> int:
        # Without waiting for the other end of a pipe.
        descriptor = os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
        kind = os.fstat(descriptor).st_mode
        if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):  # of a folder `open` tells
            os.close(descriptor)
            raise refusal
        return descriptor

    try:
        return open(path, mode, opener=opener)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):  # a link; a pipe or socket without reader
            raise refusal from error
        raise


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Say in a sentence why a file cannot be written."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        if isinstance(error, SafetensorError) and "I/O" not in str(error):
            raise
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else error
        full = not isinstance(error, OSError) or error.errno in (errno.ENOSPC, errno.EDQUOT)
        remedy = (
            "Free some space or choose another place, then run the same command again"
            if full
            else "Change its permissions or choose another place"
        )
        raise ScattergenError(
            f"Cannot write {path}: {reason}. {remedy}; nothing that was there before has been "
            "changed."
        ) from error


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that replaces it when the block ends without an error.

    The data reach the disk before the name does, so that neither a kill nor a power cut leaves a
    partial file under `path`.

    Args:
        path: Final path; its folder is created.

    Yields:
        The path to write to.

    Raises:
        ScattergenError: If the folder cannot be written or the disk is full.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "hello.txt"
        >>> with atomic_path(target) as temporary:
        ...     _ = temporary.write_text("hello")
        >>> target.read_text()
        'hello'
    """
    temporary: Path | None = None
    try:
        with _writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            # The suffix stays, since some writers choose the format by it; they know small letters.
            suffix = path.suffix.lower()
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=_TEMPORARY, suffix=suffix)
            os.close(handle)
            temporary = Path(name)
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            os.chmod(temporary, 0o666 & ~_umask())
            os.replace(temporary, path)
            sync_folder(path.parent)
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def move_file(source: Path, path: Path) -> None:
    """Give a file another name, perhaps that of another one, for good: a power cut leaves it.

    Args:
        source: The file, whose content has reached the disk.
        path: Its new name, in an existing folder.

    Raises:
        ScattergenError: If the folder cannot be written or the disk is full.
    """
    with _writing(path):
        os.replace(source, path)
        sync_folder(path.parent)


def remove_temporaries(folder: Path) -> None:
    """Delete what interrupted writes left in a folder and below, when nobody else is writing there.

    Args:
        folder: The folder.
    """
    for path in folder.rglob(f"{_TEMPORARY}*"):
        path.unlink(missing_ok=True)


def temporary_path(path: Path) -> Path:
    """A name beside a file that `remove_temporaries` knows.

    Args:
        path: A file.

    Returns:
        Its name with a prefix.
    """
    return path.with_name(_TEMPORARY + path.name)


def is_temporary(path: Path) -> bool:
    """Whether a file is one that an interrupted write left.

    Args:
        path: A file.

    Returns:
        True for names that only `atomic_path` gives.
    """
    return path.name.startswith(_TEMPORARY)


def free_bytes(path: Path) -> int:
    """Free space where a file or folder is, or would be made.

    Args:
        path: It need not exist.

    Returns:
        Bytes.
    """
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def gigabytes(size: int) -> str:
    """A size as messages have it.

    Args:
        size: Bytes.

    Returns:
        The number with its unit.

    Example:
        >>> gigabytes(2_500_000_000)
        '2.50 GB'
    """
    return f"{size / 1e9:.2f} GB"


def check_space(path: Path, needed: int) -> None:
    """Refuse to begin what a disk has no room for.

    Args:
        path: Where it would be written.
        needed: Bytes.

    Raises:
        ScattergenError: If fewer are free.
    """
    free = free_bytes(path)
    if free < needed:
        raise ScattergenError(
            f"{path} will take {gigabytes(needed)} or more, but {gigabytes(free)} are free: free "
            "some space, or choose another place (--out)."
        )


def _umask() -> int:
    # The process's mask can only be read by setting it.
    mask = os.umask(0)
    os.umask(mask)
    return mask


def sync_folder(folder: Path) -> None:
    """Let the names in a folder reach the disk.

    Args:
        folder: The folder.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file atomically, indented for people.

    Args:
        path: Destination.
        content: Anything that `json` can write; NaN and infinities are refused.
    """
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Content of a JSON file of at most 16 MiB, whoever wrote it.

    Args:
        path: A file.

    Returns:
        The content.

    Raises:
        OSError: If it is missing or cannot be read.
        ValueError: If it is not JSON, too long, or nested too deeply.
        RunFolderError: If it is a link, a device or a pipe.

    Example:
        >>> path = Path(tempfile.mkdtemp()) / "file.json"
        >>> write_json(path, {"a": [1]})
        >>> read_json(path)
        {'a': [1]}
    """
    with open_regular(path) as file:
        text: bytes = file.read(_LONGEST_TEXT + 1)
    return _parse(text.decode())


def _parse(text: str) -> Any:
    """JSON that is neither too long nor nested so deeply that nobody could go through it."""
    if len(text) > _LONGEST_TEXT:
        raise ValueError("it is too long")
    try:
        content = json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    level = [content]
    for _ in range(_DEEPEST):
        level = [
            part
            for one in level
            if isinstance(one, dict | list)
            for part in (one.values() if isinstance(one, dict) else one)
        ]
    if level:
        raise ValueError("it is nested too deeply")
    return content


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Any = None) -> None:
    """Write named tensors and JSON metadata as one safetensors file, atomically.

    A checksum of all of it is kept too, by which `read_tensors` finds damage.

    Args:
        path: Destination.
        tensors: Name to tensor, on any device.
        metadata: Anything that `json` can write.
    """
    # Copies, because safetensors refuses tensors that share memory, such as tied weights.
    plain = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    text = json.dumps(metadata)
    with atomic_path(path) as temporary:
        save_file(plain, temporary, metadata={"json": text, "crc32": _checksum(plain, text)})


def _checksum(tensors: Mapping[str, Tensor], text: str) -> str:
    # CRC-32 finds damage as well as a cryptographic hash does, at the speed of the disk.
    crc = zlib.crc32(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        crc = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), crc)
        crc = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, crc)
    return f"{crc:08x}"


def read_metadata(path: Path) -> Any:
    """Metadata of a file made by `write_tensors`, without its tensors.

    Args:
        path: A safetensors file.

    Returns:
        The metadata.

    Raises:
        RunFolderError: If the file is missing, truncated or not a safetensors file.
    """
    with _opened(path) as (_, kept):
        return _parse(kept.get("json", "null"))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], Any]:
    """Tensors and metadata of a file made by `write_tensors`; no code is executed.

    Args:
        path: A safetensors file.

    Returns:
        Name to tensor (on the CPU), and the metadata.

    Raises:
        RunFolderError: If the file is missing, damaged or not a safetensors file.
    """
    with _opened(path) as (file, kept):
        text = kept.get("json", "null")
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        # Version 0.1 kept no checksum.
        if kept.get("crc32") not in (None, _checksum(tensors, text)):
            raise ValueError("its content does not match its checksum")
        return tensors, _parse(text)


def read_tensors_if_whole(path: Path) -> tuple[dict[str, Tensor], Any] | None:
    """As `read_tensors`, of a file that can be made again.

    Args:
        path: A safetensors file.

    Returns:
        Name to tensor, and the metadata; None if the file is missing or damaged.
    """
    try:
        return read_tensors(path)
    except RunFolderError:
        return None


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, dict[str, str]]]:
    """A safetensors file, and the texts in its header."""
    try:
        open_regular(path).close()
        with safe_open(path, framework="pt") as file:
            yield file, file.metadata() or {}
    except FileNotFoundError as error:
        raise RunFolderError(
            f"{path} is missing: copy the run folder again as a whole, or fit it again."
        ) from error
    except OSError as error:
        raise RunFolderError(
            f"{path} cannot be read ({error.strerror}): check its permissions and the disk, or "
            "copy the run folder again as a whole."
        ) from error
    # PyTorch raises a RuntimeError for sizes that no tensor can have.
    except (SafetensorError, ValueError, RuntimeError) as error:
        raise RunFolderError(
            f"{path} is damaged ({error}): copy the run folder again as a whole, or fit it again."
        ) from error


def sha256(path: Path) -> str:
    """Hash of a file's content.

    Args:
        path: A file.

    Returns:
        64 hexadecimal digits.
    """
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]


def flatten_state(prefix: str, state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Tensors of a nested state as one flat mapping with "/" between the names.

    Args:
        prefix: Put before every name.
        state: Nested mappings whose leaves are tensors or numbers.

    Returns:
        Flat name to tensor.

    Example:
        >>> flatten_state("a", {"b": {"c": torch.zeros(2)}})
        {'a/b/c': tensor([0., 0.])}
    """
    flat: dict[str, Tensor] = {}
    for name, value in state.items():
        key = f"{prefix}/{name}"
        if isinstance(value, Mapping):
            flat |= flatten_state(key, value)
        else:
            flat[key] = torch.as_tensor(value)
    return flat


def check_shapes(
    what: str, tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]
) -> None:
    """Refuse stored tensors that are not those of what they are loaded into.

    Args:
        what: It is, for the message.
        tensors: Name to tensor.
        shapes: Name to the shape that is needed.

    Raises:
        RunFolderError: If a tensor is missing, unknown, has another shape, does not hold real
            numbers, or is no variance where one is needed.

    Example:
        >>> import torch
        >>> check_shapes("line", {"slope": torch.zeros(2)}, {"slope": (2,)})
    """
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
        raise RunFolderError(
            f'The stored {what} does not fit its options: "{name}" is {found} where {wanted} is '
            "expected; fit the run again with --overwrite."
        )


# Of variances; a component that images vary in less is never kept.
_LEAST = {"running_var": 0.0, "explained_variance": 1e-30}


def take_state(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The part of a flat mapping below `prefix`, with the prefix removed.

    Args:
        tensors: Made by `flatten_state`.
        prefix: Its prefix.

    Returns:
        Remaining name to tensor.
    """
    start = prefix + "/"
    return {name[len(start) :]: t for name, t in tensors.items() if name.startswith(start)}
