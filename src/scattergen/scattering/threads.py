"""The threads that share a batch: PyTorch's, which otherwise wait for their next loop in the way of any others."""

import ctypes
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch  # noqa: F401  loads the OpenMP runtime that is looked for

_Work = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_process = os.getpid()


def _openmp_parallel() -> Callable[[object, None, int, int], None] | None:
    """What begins a parallel region of PyTorch's OpenMP runtime, or None where that has no GNU interface."""
    try:
        parallel = ctypes.CDLL(None).GOMP_parallel
    except (AttributeError, OSError, TypeError):
        return None
    parallel.argtypes, parallel.restype = (_Work, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint), None
    return parallel


_parallel = _openmp_parallel()


def in_threads(work: Callable[[], None], n: int) -> None:
    """Call `work` in n threads at once, of which this is one; what one of them raises is raised here, after all ended.

    PyTorch's threads look for new work for up to 4 ms before they sleep. On a machine that they fill, other threads
    had to share its processors with them: training steps with the scattering loss took up to half as long again.
    """
    if n == 1:
        work()
    elif _parallel is None or os.getpid() != _process:  # a fork has the runtime, but not its threads
        with ThreadPoolExecutor(n - 1) as pool:
            helpers = [pool.submit(work) for _ in range(n - 1)]
            work()
            for helper in helpers:
                helper.result()
    else:
        raised: list[BaseException] = []

        def guarded(_: object) -> None:
            try:
                work()
            except BaseException as error:  # which no C code would pass on
                raised.append(error)

        _parallel(_Work(guarded), None, n, 0)
        if raised:
            raise raised[0]
