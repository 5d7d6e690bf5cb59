"""What a program has set in PyTorch and NumPy for purposes of its own, put aside while scattergen computes."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from threading import Lock
from typing import Any

import numpy as np
import torch

# PyTorch's default type is that of all threads: as each call under way found it, the program's own first.
_default_types: list[torch.dtype] = []
_lock = Lock()


@contextmanager
def usual_state(gradients: bool | None = None) -> Iterator[None]:
    """PyTorch's and NumPy's states as they are at first, in a block or, as a decorator, in every call of a function.

    New tensors are float32 and on the CPU, none is for inference only, autocast rounds nothing and NumPy raises no
    errors. `gradients` says whether they are recorded, None that this is the caller's choice.
    """
    recorded = torch.is_grad_enabled() if gradients is None else gradients
    with ExitStack() as stack:
        with _lock:
            _default_types.append(torch.get_default_dtype())
            torch.set_default_dtype(torch.float32)
        stack.callback(_leave)
        stack.enter_context(np.errstate(divide="warn", over="warn", under="ignore", invalid="warn"))
        if torch.get_default_device().type != "cpu":  # else each operation would take longer for nothing
            stack.enter_context(torch.device("cpu"))
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))  # which records gradients
        stack.enter_context(torch.set_grad_enabled(recorded))
        for kind in ("cpu", "cuda", "mps"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Let PyTorch's generator of the CPU, from which new layers draw their weights, begin with a seed, for a while."""
    with torch.random.fork_rng(devices=[]):  # leaves the caller's generator as it was
        torch.default_generator.manual_seed(seed)  # not torch.manual_seed, which would seed those of GPUs, too
        yield


def _leave() -> None:
    with _lock:
        first = _default_types[0]
        _default_types.pop()
        if not _default_types:
            torch.set_default_dtype(first)


def guard(owner: Any, *names: str) -> None:
    """Give functions or methods of a module or class the usual state; names that it lacks, and classes, stay."""
    for name in names:
        found = vars(owner).get(name)
        function = getattr(found, "__func__", found)  # of a class method
        if callable(function) and not isinstance(function, type):
            usual = usual_state()(function)
            setattr(owner, name, usual if function is found else classmethod(usual))
