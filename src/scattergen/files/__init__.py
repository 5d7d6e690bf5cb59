"""Files: complete or absent, read with care; tensors in them are in `files.tensors`, which needs PyTorch."""

from scattergen.files.atomic import (
    FULL,
    atomic_path,
    check_space,
    flush,
    free_bytes,
    gigabytes,
    is_temporary,
    lock,
    move_file,
    temporary_path,
    write_json,
    writing,
)
from scattergen.files.untrusted import open_regular, parse_json, read_json, read_known, sha256

__all__ = [
    "FULL", "atomic_path", "check_space", "flush", "free_bytes", "gigabytes", "is_temporary", "lock", "move_file",
    "open_regular", "parse_json", "read_json", "read_known", "sha256", "temporary_path", "write_json", "writing",
]  # fmt: skip
