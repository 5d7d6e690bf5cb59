"""The processes of a fit: this one alone, or several that Lightning Fabric joins over torch.distributed."""

import logging
import os
import socket
import warnings
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

from scattergen.errors import InputError

T = TypeVar("T")

# How long a process waits for the others in one collective call: for a machine that vanished from the network (deaths
# of processes are noticed at once), and longer than what rank 0 does alone (a validation, a QR, writing a stage).
_TIMEOUT = timedelta(minutes=30)
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
        """Where a launcher put this process; None without LOCAL_RANK, as clusters set the others for later jobs."""
        _check_ranks()
        if "LOCAL_RANK" not in os.environ:
            return None
        missing = [name for name in _BY_LAUNCHER if not os.environ.get(name)]
        if missing:
            says = f"LOCAL_RANK={os.environ['LOCAL_RANK']} in the environment says that a launcher started this process"
            raise InputError(f"{says}, but without {', '.join(missing)}: {_REMEDY}.")
        _number("MASTER_PORT")
        local_rank, world_size, devices = map(_number, _BY_LAUNCHER[:3])
        node_rank = next((_number(name) for name in _MACHINE if name in os.environ), 0)
        if devices < 1 or world_size % devices or local_rank >= devices or node_rank * devices >= world_size:
            found = f"WORLD_SIZE={world_size}, LOCAL_WORLD_SIZE={devices}, LOCAL_RANK={local_rank}"
            found = f"{found}, {' or '.join(_MACHINE)}={node_rank}"
            raise InputError(f"The environment contradicts itself ({found}): {_REMEDY}.")
        return cls(devices, world_size // devices, local_rank, node_rank)

    @classmethod
    def asked_for(cls, devices: int | None, nodes: int | None, device: str) -> "Layout":
        """The processes that a launcher has started, or else those that a user asked for, by default one."""
        layout = cls.of_environment() or cls(devices or 1, nodes or 1)
        for option, asked, there in (("devices", devices, layout.devices), ("nodes", nodes, layout.nodes)):
            if asked is not None and asked != there:
                started = f"started this as one of {layout.devices} processes on each of {layout.nodes} machines"
                raise InputError(f"--{option} {asked} contradicts the launcher, which {started}: leave out --{option}.")
        several = layout.world_size > 1
        if several and device not in ("cpu", "cuda"):
            remedy = "write --device cuda, which gives each a GPU of its own, or compute on the cpu"
            raise InputError(f'Several processes cannot share the device "{device}": {remedy}.')
        if several and device == "cuda" and layout.devices > (there := torch.cuda.device_count()):
            what = f"--devices {layout.devices} asks for {layout.devices} GPUs, but there are {there} here"
            raise InputError(f"{what}: give at most that number, or compute on the cpu.")
        return layout

    def device_of_rank(self, device: str) -> str:
        """The device of this process: for "cuda" the GPU with its number on its machine."""
        several = self.local_rank is not None and self.world_size > 1
        return f"cuda:{self.local_rank}" if device == "cuda" and several else device


def _check_ranks() -> None:
    """Refuse an environment in which the rank of this process is not a number."""
    for name in ("RANK", "LOCAL_RANK"):
        if name in os.environ:
            _number(name)


def _number(name: str) -> int:
    value = os.environ[name]
    if not value.isdecimal():
        remedy = "unset it, or start all processes by torchrun"
        raise InputError(f'{name}="{value}" in the environment is no number: {remedy}.')
    return int(value)


class Processes:
    """The processes that fit one model together, here this one alone; all call the methods in the same order."""

    rank = 0  # number of this process, 0 for the one that writes the run's files
    world_size = 1

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """Sum of the tensors of all processes, the same in each; may overwrite `tensor`."""
        return tensor

    def broadcast(self, value: T) -> T:
        """The value (a tensor or anything that can be pickled) of the process of rank 0."""
        return value

    def barrier(self) -> None:
        """Wait until every process is here."""

    def leave(self) -> None:
        """End the work together: no other method may be called any more."""


ALONE = Processes()


class _Group(Processes):
    """The processes of a launched Fabric; rank 0 gets `threads` threads once it goes on alone."""

    def __init__(self, fabric: Any, threads: int | None) -> None:
        self._fabric, self._threads = fabric, threads
        self.rank, self.world_size = fabric.global_rank, fabric.world_size

    def all_reduce(self, tensor: Tensor) -> Tensor:
        shared = tensor.detach().to(self._fabric.device).contiguous()
        # Not fabric.all_reduce, which waits at a barrier first: that doubles the latency.
        distributed.all_reduce(shared)
        return shared.to(tensor.device)

    def broadcast(self, value: T) -> T:
        # Tensors are not pickled, which would take memory several times. The others learn that one comes, and its form.
        sent: Any = value
        is_tensor = isinstance(sent, Tensor)
        form: Any = (sent.shape, sent.dtype, sent.device.type) if is_tensor else sent
        is_tensor, form = self._fabric.broadcast((is_tensor, form))
        if is_tensor:
            shape, dtype, kind = form
            shared = sent if self.rank == 0 else torch.empty(shape, dtype=dtype, device=self._fabric.device)
            shared = shared.detach().to(self._fabric.device).contiguous()
            distributed.broadcast(shared, 0)
            form = shared.cpu() if kind == "cpu" else shared
        return value if self.rank == 0 else form

    def barrier(self) -> None:
        self._fabric.barrier()

    def leave(self) -> None:
        self.barrier()
        distributed.destroy_process_group()
        if self.rank == 0 and self._threads is not None:
            torch.set_num_threads(self._threads)


def join(layout: Layout, device: str, threads: int | None = None) -> Processes:
    """Join the other processes of a fit, which a launcher has started too, on "cpu" or "cuda"."""
    # Warned about filters with one output channel, whose stride along that axis means nothing.
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
    # New in PyTorch 2.13; the name that it proposes is not in earlier ones.
    warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated")
    if layout.rank > 0:  # rank 0 says the same
        warnings.filterwarnings("ignore", "Scattering runs up to five times faster")
    return _Group(_launched(layout, device), threads)


def make_fabric(device: str, precision: str, processes: Processes = ALONE) -> Any:
    """A `lightning_fabric.Fabric` for training in this process, or with distributed data parallelism in several."""
    if processes.world_size > 1:
        layout = Layout.of_environment()
        assert layout is not None, "a group is made from the environment"
        return _launched(layout, device, precision)
    where = torch.device(device)
    return _fabric(where.type, 1 if where.index is None else [where.index], precision)


def _launched(layout: Layout, device: str, precision: str = "32-true") -> Any:
    from lightning_fabric.strategies.ddp import DDPStrategy

    os.environ["NODE_RANK"] = str(layout.node_rank)  # which torchrun calls GROUP_RANK
    if layout.nodes == 1:  # keep gloo and NCCL on the loopback interface, unless the user chose a network
        for name in {"lo", "lo0"}.intersection(name for _, name in socket.if_nameindex()):  # as Linux or macOS call it
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
            os.environ.setdefault("NCCL_SOCKET_IFNAME", f"={name}")  # = stands for exactly this name
    # No network has unused parameters. But unless DDP looks for them, it sums gradients in another order
    # after the first step, so that a resumed training would end with other bits.
    # Buffers are running means, which rank 0 gives to all at the end, and fixed maps.
    strategy = DDPStrategy(timeout=_TIMEOUT, find_unused_parameters=True, broadcast_buffers=False)
    return _fabric(torch.device(device).type, layout.devices, precision, num_nodes=layout.nodes, strategy=strategy)


def _fabric(kind: str, devices: int | list[int], precision: str, **several: Any) -> Any:
    """A Fabric made of its arguments alone, whatever a job of a cluster or `fabric run` left in the environment."""
    _check_ranks()
    hidden = {name: os.environ.pop(name) for name in [*os.environ] if name.startswith(("LT_", "SLURM_", "JSM_"))}
    try:
        from lightning_fabric import Fabric  # takes a second, which sampling and encoding need not wait for
        from lightning_fabric.plugins.environments.lightning import LightningEnvironment

        logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it announces every precision
        # Named, since Fabric would take a single process inside a job of Slurm, LSF or MPI for one of the job's ranks.
        where: dict[str, Any] = {"accelerator": kind, "devices": devices, "precision": precision}
        fabric = Fabric(**where, plugins=[LightningEnvironment()], **several)
        if several:
            fabric.launch()
        return fabric
    finally:
        os.environ.update(hidden)


def is_lost_connection(error: BaseException) -> bool:
    """Whether an error (of gloo, NCCL or their store) says only that another process cannot be reached."""
    words = ("gloo", "NCCL", "Connection closed by peer")
    said = isinstance(error, RuntimeError) and any(word in str(error) for word in words)
    return said or isinstance(error, distributed.DistError)
