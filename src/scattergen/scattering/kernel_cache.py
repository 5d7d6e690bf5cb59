# mypy: ignore-errors
# Numba has no Python types.
"""Compiled kernels kept on the disk, since compiling takes some ten seconds (needs Numba).

A damaged file of machine code can end the process without a word, so each file begins with a hash of the rest, and
whatever is wrong with a file or its folder costs a compilation and one warning. The folder is the one that Numba
chooses: NUMBA_CACHE_DIR, or __pycache__ beside the source, or the user's cache.
"""

import hashlib
import pickle
import warnings
from functools import cache
from importlib import resources
from pathlib import Path

import numba
from llvmlite import __version__ as llvmlite_version
from numba.core.caching import CompileResultCacheImpl, NullCache
from numba.core.serialize import dumps

from scattergen.files import atomic_path, open_regular

_SOURCES = ("kernel_gradient.py", "kernels.py", "plan.py", "simd.py")
_AGAIN = "compiled again, which takes some ten seconds"
_REMEDY = "name a folder that can be written to, on a disk with space, in the variable NUMBA_CACHE_DIR"


def kept(function):
    """Compile a function for many threads, or find what an earlier process compiled."""
    dispatcher = numba.njit(nogil=True, error_model="numpy", no_cfunc_wrapper=True)(function)
    dispatcher._cache = _KernelCache(function)
    return dispatcher


@cache
def _stamp() -> bytes:
    """Hash of all that compiled code depends on but its types and the processor."""
    here = resources.files(__package__)
    digests = [hashlib.sha256((here / name).read_bytes()).hexdigest() for name in _SOURCES]
    return hashlib.sha256(" ".join([numba.__version__, llvmlite_version, *digests]).encode()).digest()


class _KernelCache(NullCache):
    """A file for each combination of types and processor: hash of the rest, stamp, and what Numba makes of a kernel."""

    told = False  # by any kernel of this process

    def __init__(self, function) -> None:
        self._source = function.__code__.co_filename
        try:
            self._numba = CompileResultCacheImpl(function)
        except RuntimeError:  # none of its folders can be written to
            self._numba = None

    def _file(self, signature, codegen) -> Path:
        kind = hashlib.sha256(repr((signature, codegen.magic_tuple())).encode()).hexdigest()[:16]
        return Path(self._numba.locator.get_cache_path(), f"{self._numba.filename_base}.{kind}.nbc")

    def load_overload(self, sig, target_context):
        """What was compiled for these types, or None."""
        target_context.refresh()
        if self._numba is None:
            where = f"neither {Path(self._source).parent / '__pycache__'} nor the user's cache can be written to"
            self._tell(f"Compiled code cannot be kept, since {where}; each command has it {_AGAIN}: {_REMEDY}.")
            return None
        file = self._file(sig, target_context.codegen())
        try:
            with open_regular(file) as opened:
                content = opened.read()
            if hashlib.sha256(content[32:]).digest() != content[:32]:
                raise ValueError("it is damaged")
            if content[32:64] != _stamp():
                return None
            return self._numba.rebuild(target_context, pickle.loads(content[64:]))
        except FileNotFoundError:
            return None
        except Exception as error:  # whatever it is, compiling helps
            self._tell(f"{file} cannot be used ({_reason(error)}): its code is {_AGAIN}.")
            return None

    def save_overload(self, sig, data) -> None:
        """Keep what was compiled, if that is possible."""
        if self._numba is None or not self._numba.check_cachable(data):
            return
        file = self._file(sig, data.codegen)
        try:
            content = _stamp() + dumps(self._numba.reduce(data))
            with atomic_path(file) as temporary:
                temporary.write_bytes(hashlib.sha256(content).digest() + content)
        except Exception as error:  # the code is there, and computes
            problem = f"{file} cannot be written ({_reason(error)})"
            self._tell(f"{problem}, so that each command has its code {_AGAIN}: {_REMEDY}.")

    @classmethod
    def _tell(cls, sentence: str) -> None:
        if not cls.told:
            cls.told = True
            warnings.warn(sentence, stacklevel=2)


def _reason(error: Exception) -> str:
    cause = error.__cause__ or error
    return getattr(cause, "strerror", None) or str(cause)
