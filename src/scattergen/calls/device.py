"""The device that somebody asks to compute on."""

import re

import torch

from scattergen.errors import InputError


def check_device(device: str | torch.device) -> str:
    """The name of a device, such as "cpu", "cuda:1" or "mps", if it can be used here; else an `InputError`."""
    name, reason = str(device), "it is none of cpu, cuda, cuda:NUMBER and mps"
    if re.fullmatch(r"(cpu|cuda|mps|xpu)(:\d+)?", name):
        try:
            torch.empty(0, device=name)
            return name
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0].rstrip(".")
    raise InputError(f'The device "{name}" cannot be used here ({reason}): choose another, such as "cpu".')
