"""How many processes a fit has, and which of them this one is."""

import os
from dataclasses import dataclass

import torch

from scattergen.errors import InputError

# What every launcher sets, and where some put the number of the machine.
_BY_LAUNCHER = ("LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_MACHINE = ("GROUP_RANK", "NODE_RANK")
_REMEDY = "unset LOCAL_RANK, or start all processes by torchrun"


@dataclass(frozen=True)
class Layout:
    """Processes of a fit: so many on each of so many machines.

    Attributes:
        devices: Processes on each machine, one for each GPU if they compute on GPUs.
        nodes: Machines.
        local_rank: Number of this process on its machine; None before the processes are started.
        node_rank: Number of its machine.

    Example:
        >>> Layout(devices=4, nodes=2, local_rank=1, node_rank=1).rank
        5
    """

    devices: int = 1
    nodes: int = 1
    local_rank: int | None = None
    node_rank: int = 0

    @property
    def world_size(self) -> int:
        """Number of processes."""
        return self.devices * self.nodes

    @property
    def rank(self) -> int:
        """Number of this process; of the machine's first one before the processes are started."""
        return self.node_rank * self.devices + (self.local_rank or 0)

    @classmethod
    def of_environment(cls) -> "Layout | None":
        """Where the launcher that started this process put it; None without a launcher.

        `torchrun` sets LOCAL_RANK and others, and so does our own supervisor.  Without LOCAL_RANK
        the others say nothing of this process: some clusters set them for what will be launched.

        Raises:
            InputError: If the environment is none that a launcher makes.
        """
        check_ranks()
        if "LOCAL_RANK" not in os.environ:
            return None
        missing = [name for name in _BY_LAUNCHER if not os.environ.get(name)]
        if missing:
            raise InputError(
                f"LOCAL_RANK={os.environ['LOCAL_RANK']} in the environment says that a launcher "
                f"started this process, but {', '.join(missing)} "
                f"{'is' if len(missing) == 1 else 'are'} not set: {_REMEDY}."
            )
        _number("MASTER_PORT")
        local_rank, world_size, devices = (_number(name) for name in _BY_LAUNCHER[:3])
        node_rank = next((_number(name) for name in _MACHINE if name in os.environ), 0)
        if devices < 1 or world_size % devices or local_rank >= devices:
            raise InputError(
                f"The environment contradicts itself: WORLD_SIZE={world_size} processes are not "
                f"LOCAL_WORLD_SIZE={devices} on each machine, or LOCAL_RANK={local_rank} is not "
                f"the number of one: {_REMEDY}."
            )
        if node_rank * devices >= world_size:
            raise InputError(
                f"The environment contradicts itself: there is no machine of number {node_rank} "
                f"(GROUP_RANK or NODE_RANK) among {world_size // devices}: {_REMEDY}."
            )
        return cls(devices, world_size // devices, local_rank, node_rank)

    @classmethod
    def asked_for(cls, devices: int | None, nodes: int | None, device: str) -> "Layout":
        """The processes that a user asked for, or those that a launcher has started.

        Args:
            devices: Processes on each machine; by default one, or the launcher's number.
            nodes: Machines; likewise.
            device: "cpu", "cuda", "cuda:1" …

        Returns:
            The layout.

        Raises:
            InputError: If the launcher started another number, or the devices are not there.

        Example:
            >>> Layout.asked_for(2, None, "cpu").world_size
            2
        """
        found = cls.of_environment()
        layout = found or cls(devices or 1, nodes or 1)
        for option, asked, there in (("devices", devices, layout.devices), ("nodes", nodes, layout.nodes)):
            if asked is not None and asked != there:
                raise InputError(
                    f"--{option} {asked} contradicts the launcher, which started this as one of "
                    f"{layout.devices} processes on each of {layout.nodes} machines: leave out "
                    f"--{option}."
                )
        if layout.world_size > 1:
            _check_device(device, layout.devices)
        return layout

    def device_of_rank(self, device: str) -> str:
        """The device of this process.

        Args:
            device: What the user asked for.

        Returns:
            The GPU of this process's number on its machine for "cuda", else `device`.
        """
        if device == "cuda" and self.local_rank is not None and self.world_size > 1:
            return f"cuda:{self.local_rank}"
        return device


def check_ranks() -> None:
    """Refuse an environment in which the number of this process is no number.

    Raises:
        InputError: If it is something else.

    Example:
        >>> check_ranks()
    """
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
