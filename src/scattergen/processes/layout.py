"""How many processes a fit has, and which of them this one is."""

import os
from dataclasses import dataclass

import torch

from scattergen.errors import InputError

# What every launcher sets, and variables for the number of the machine.
_BY_LAUNCHER = ("LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_MACHINE = ("GROUP_RANK", "NODE_RANK")
_REMEDY = "unset LOCAL_RANK, or start all processes by torchrun"


@dataclass(frozen=True)
class Layout:
    """Processes of a fit: so many on each of so many machines."""

    devices: int = 1  # processes on each machine, one for each GPU if they compute on GPUs
    nodes: int = 1  # machines
    local_rank: int | None = None  # number of this process on its machine; None before the processes are started
    node_rank: int = 0  # number of its machine

    @property
    def world_size(self) -> int:
        """Number of processes."""
        return self.devices * self.nodes

    @property
    def rank(self) -> int:
        """Number of this process, or of the machine's first one before any are started."""
        return self.node_rank * self.devices + (self.local_rank or 0)

    @classmethod
    def of_environment(cls) -> "Layout | None":
        """Where `torchrun` or our own supervisor put this process; None without a launcher.

        Without LOCAL_RANK the other variables say nothing of this process: some clusters set them for
        what will be launched.
        """
        check_ranks()
        if "LOCAL_RANK" not in os.environ:
            return None
        missing = [name for name in _BY_LAUNCHER if not os.environ.get(name)]
        if missing:
            raise InputError(
                f"LOCAL_RANK={os.environ['LOCAL_RANK']} in the environment says that a launcher started this process, "
                f"but {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not set: {_REMEDY}."
            )
        _number("MASTER_PORT")
        local_rank, world_size, devices = (_number(name) for name in _BY_LAUNCHER[:3])
        node_rank = next((_number(name) for name in _MACHINE if name in os.environ), 0)
        if devices < 1 or world_size % devices or local_rank >= devices:
            raise InputError(
                f"The environment contradicts itself: WORLD_SIZE={world_size} processes are not LOCAL_WORLD_SIZE="
                f"{devices} on each machine, or LOCAL_RANK={local_rank} is not the number of one: {_REMEDY}."
            )
        if node_rank * devices >= world_size:
            raise InputError(
                f"The environment contradicts itself: there is no machine of number {node_rank} "
                f"(GROUP_RANK or NODE_RANK) among {world_size // devices}: {_REMEDY}."
            )
        return cls(devices, world_size // devices, local_rank, node_rank)

    @classmethod
    def asked_for(cls, devices: int | None, nodes: int | None, device: str) -> "Layout":
        """The processes that a launcher has started, or else those that a user asked for, by default one."""
        layout = cls.of_environment() or cls(devices or 1, nodes or 1)
        for option, asked, there in (("devices", devices, layout.devices), ("nodes", nodes, layout.nodes)):
            if asked is not None and asked != there:
                raise InputError(
                    f"--{option} {asked} contradicts the launcher, which started this as one of {layout.devices} "
                    f"processes on each of {layout.nodes} machines: leave out --{option}."
                )
        if layout.world_size > 1:
            _check_device(device, layout.devices)
        return layout

    def device_of_rank(self, device: str) -> str:
        """The device of this process: for "cuda" the GPU with its number on its machine."""
        if device == "cuda" and self.local_rank is not None and self.world_size > 1:
            return f"cuda:{self.local_rank}"
        return device


def check_ranks() -> None:
    """Refuse an environment in which the rank of this process is not a number."""
    for name in ("RANK", "LOCAL_RANK"):
        if name in os.environ:
            _number(name)


def _number(name: str) -> int:
    value = os.environ[name]
    if not value.isdecimal():
        raise InputError(
            f'{name}="{value}" in the environment is no number: unset it, or start all processes by torchrun.'
        )
    return int(value)


def _check_device(device: str, devices: int) -> None:
    if device == "mps":
        raise InputError(
            'Several processes cannot share the device "mps": leave out --devices and --nodes, or compute on the cpu.'
        )
    if device.startswith("cuda:"):
        raise InputError(f'"{device}" names one GPU, but several processes need one each: write --device cuda.')
    if device == "cuda" and devices > torch.cuda.device_count():
        raise InputError(
            f"--devices {devices} asks for {devices} GPUs, but there are "
            f"{torch.cuda.device_count()} here: give at most that number, or compute on the cpu."
        )
