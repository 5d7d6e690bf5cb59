# mypy: ignore-errors
# Numba has no Python types.
"""Compiled kernels kept on the disk, since compiling takes some ten seconds (needs Numba).

A damaged file of machine code can end the process without a word, so each begins with a hash of the rest, and whatever
is wrong with a file or its folder costs a compilation and one warning. The folder is the one that Numba chooses.
"""

import hashlib
import inspect
import pickle
import sys
import warnings
from importlib import resources
from pathlib import Path

import numba
from numba.core.caching import CompileResultCacheImpl, NullCache
from numba.core.serialize import dumps

from scattergen.files import atomic_path, open_regular

_AGAIN = "compiled again, which takes some ten seconds"
_REMEDY = "name a folder that can be written to, on a disk with space, in the variable NUMBA_CACHE_DIR"
_told: list[str] = []  # in this process


def kept(function):
    """Compile a function for many threads, or find what an earlier process compiled."""
    dispatcher = numba.njit(nogil=True, error_model="numpy", no_cfunc_wrapper=True)(function)
    try:
        dispatcher._cache = _KernelCache(function)
    except RuntimeError:  # none of Numba's folders can be written to
        folder = Path(function.__code__.co_filename).parent / "__pycache__"
        where = f"neither {folder} nor the user's cache can be written to"
        _tell(f"Compiled code cannot be kept, since {where}; each command has it {_AGAIN}: {_REMEDY}.")
    return dispatcher


class _KernelCache(NullCache):
    """A file for each combination of types and processor: hash of the rest, stamp, and what Numba makes of a kernel."""

    def __init__(self, function) -> None:
        self._numba = CompileResultCacheImpl(function)
        sources = [one for one in resources.files(__package__).iterdir() if one.name.endswith(".py")]
        texts = [one.read_bytes() for one in sorted(sources, key=lambda one: one.name)]
        own = inspect.getsource(sys.modules[function.__module__]).encode()
        self._stamp = hashlib.sha256(b"".join([numba.__version__.encode(), own, *texts])).digest()

    def _file(self, signature, codegen) -> Path:
        kind = hashlib.sha256(repr((signature, codegen.magic_tuple())).encode()).hexdigest()[:16]
        return Path(self._numba.locator.get_cache_path(), f"{self._numba.filename_base}.{kind}.nbc")

    def load_overload(self, sig, target_context):
        """What was compiled for these types, or None."""
        target_context.refresh()
        file = self._file(sig, target_context.codegen())
        try:
            with open_regular(file) as opened:
                content = opened.read()
            if hashlib.sha256(content[32:]).digest() != content[:32]:
                raise ValueError("it is damaged")
            if content[32:64] == self._stamp:
                return self._numba.rebuild(target_context, pickle.loads(content[64:]))
        except FileNotFoundError:
            pass
        except Exception as error:  # whatever it is, compiling helps
            _tell(f"{file} cannot be used ({_reason(error)}): its code is {_AGAIN}.")
        return None

    def save_overload(self, sig, data) -> None:
        """Keep what was compiled, if that is possible."""
        file = self._file(sig, data.codegen)
        try:
            content = self._stamp + dumps(self._numba.reduce(data))
            with atomic_path(file) as temporary:
                temporary.write_bytes(hashlib.sha256(content).digest() + content)
        except Exception as error:  # the code is there, and computes
            _tell(f"{file} cannot be written ({_reason(error)}); each command has its code {_AGAIN}: {_REMEDY}.")


def _reason(error: Exception) -> str:
    return getattr(error.__cause__ or error, "strerror", None) or str(error)


def _tell(sentence: str) -> None:
    if not _told:
        _told.append(sentence)
        warnings.warn(sentence, stacklevel=3)
