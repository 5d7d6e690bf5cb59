"""The threads that share a batch: PyTorch's, which otherwise wait for their next loop in the way of any others."""

import ctypes
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import torch  # which loads the OpenMP runtime that is looked for

_Work = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_process = os.getpid()
_parallel: Any = None  # what begins a parallel region of PyTorch's OpenMP runtime, where that has a GNU interface
with suppress(AttributeError, OSError, TypeError):
    _parallel = ctypes.CDLL(None).GOMP_parallel
    _parallel.argtypes, _parallel.restype = (_Work, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint), None


def in_threads(work: Callable[[], None], n: int) -> None:
    """Call `work` in n threads at once, of which this is one; what one of them raises is raised here, after all ended.

    PyTorch's threads look for new work for up to 4 ms before they sleep. On a machine that they fill, other threads
    had to share its processors with them: training steps with the scattering loss took up to half as long again.
    """
    if n == 1:
        work()
    elif _parallel is None or os.getpid() != _process:  # a fork has the runtime, but not its threads
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # for products of matrices, in new threads, too, as within a team
        try:
            with ThreadPoolExecutor(n - 1) as pool:
                helpers = [pool.submit(work) for _ in range(n - 1)]
                work()
                for helper in helpers:
                    helper.result()
        finally:
            torch.set_num_threads(threads)
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
