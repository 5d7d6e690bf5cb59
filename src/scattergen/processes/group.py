"""The processes of a fit: this one alone, or several that Lightning Fabric joins over torch.distributed."""

import logging
import os
import socket
import warnings
from datetime import timedelta
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, distributed

from scattergen.processes.layout import Layout, check_ranks

T = TypeVar("T")

# How long a process waits for the others in one collective call.  The death of a process is noticed
# at once, since its connections close; this is for a machine that vanished from the network, and
# longer than anything rank 0 does alone in between (a validation, a QR, writing a stage).
_TIMEOUT = timedelta(minutes=30)


class Processes(Protocol):
    """The processes that fit one model together; all call the methods in the same order."""

    rank: int  # number of this process, 0 for the one that writes the run's files
    world_size: int

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """Sum of the tensors of all processes, the same in each; may overwrite `tensor`."""

    def broadcast(self, value: T) -> T:
        """The value (a tensor or anything that can be pickled) of the process of rank 0."""

    def barrier(self) -> None:
        """Wait until every process is here."""

    def leave(self) -> None:
        """End the work together: no other method may be called any more."""


class _Alone:
    rank = 0
    world_size = 1

    def all_reduce(self, tensor: Tensor) -> Tensor:
        return tensor

    def broadcast(self, value: T) -> T:
        return value

    def barrier(self) -> None:
        return

    def leave(self) -> None:
        return


ALONE: Processes = _Alone()


class ProcessGroup:
    """The processes of a launched Fabric; rank 0 gets `threads` threads once it goes on alone."""

    def __init__(self, fabric: Any, threads: int | None = None) -> None:
        self._fabric, self._threads = fabric, threads
        self.rank: int = fabric.global_rank
        self.world_size: int = fabric.world_size

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """Sum of the tensors of all processes."""
        shared = tensor.detach().to(self._fabric.device).contiguous()
        # Not fabric.all_reduce, which waits at a barrier first: that doubles the latency.
        distributed.all_reduce(shared)
        return shared.to(tensor.device)

    def broadcast(self, value: T) -> T:
        """The value of rank 0; others need not know that a tensor will come, nor its shape."""
        # Tensors are not pickled, which would take memory several times.
        sent: Any = value
        is_tensor = isinstance(sent, Tensor)
        form = (sent.shape, sent.dtype, sent.device.type) if is_tensor else sent
        is_tensor, form = self._fabric.broadcast((is_tensor, form))
        if self.rank == 0:
            if is_tensor:
                distributed.broadcast(sent.detach().to(self._fabric.device).contiguous(), 0)
            return value
        if not is_tensor:
            return form
        shape, dtype, kind = form
        shared = torch.empty(shape, dtype=dtype, device=self._fabric.device)
        distributed.broadcast(shared, 0)
        received: Any = shared.cpu() if kind == "cpu" else shared
        return received

    def barrier(self) -> None:
        """Wait until every process is here."""
        self._fabric.barrier()

    def leave(self) -> None:
        """End the work together."""
        self.barrier()
        distributed.destroy_process_group()
        if self.rank == 0 and self._threads is not None:
            torch.set_num_threads(self._threads)


def join(layout: Layout, device: str, threads: int | None = None) -> ProcessGroup:
    """Join the other processes of a fit, which a launcher has started too, on "cpu" or "cuda"."""
    for name in [name for name in os.environ if name.startswith("LT_")]:
        del os.environ[name]  # `fabric run` sets these, and Fabric would hold our arguments to them
    # Warned about filters with one output channel, whose stride along that axis means nothing.
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
    return ProcessGroup(_launched(layout, device), threads)


def make_fabric(device: str, precision: str, processes: Processes = ALONE) -> Any:
    """A `lightning_fabric.Fabric` for training in this process, or with distributed data parallelism in several."""
    if processes.world_size > 1:
        layout = Layout.of_environment()
        assert layout is not None, "a group is made from the environment"
        return _launched(layout, device, precision)
    check_ranks()  # which Fabric reads while it is imported
    from lightning_fabric import Fabric  # takes a second, which sampling and encoding need not wait for

    _quiet()
    where = torch.device(device)
    devices: Any = [where.index] if where.index is not None else 1
    return Fabric(accelerator=where.type, devices=devices, precision=precision)  # type: ignore[arg-type]


def _launched(layout: Layout, device: str, precision: str = "32-true") -> Any:
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.environments.lightning import LightningEnvironment
    from lightning_fabric.strategies.ddp import DDPStrategy

    _quiet()
    os.environ["NODE_RANK"] = str(layout.node_rank)  # which torchrun calls GROUP_RANK
    if layout.nodes == 1:
        _stay_on_this_machine()
    fabric = Fabric(
        accelerator=torch.device(device).type,
        devices=layout.devices,
        num_nodes=layout.nodes,
        # No network has unused parameters.  But unless DDP looks for them, it sums gradients in another order
        # after the first step, so that a resumed training would end with other bits.
        # Buffers are running means, which rank 0 gives to all at the end, and fixed maps.
        strategy=DDPStrategy(timeout=_TIMEOUT, find_unused_parameters=True, broadcast_buffers=False),
        # Named, since Fabric would take a single process inside a Slurm job for one of Slurm's ranks.
        plugins=[LightningEnvironment()],
        precision=precision,  # type: ignore[arg-type]
    )
    fabric.launch()
    return fabric


def _stay_on_this_machine() -> None:
    """Keep gloo and NCCL on the loopback interface, unless the user chose a network."""
    loopback = {"lo", "lo0"}.intersection(name for _, name in socket.if_nameindex())
    for name in loopback:  # Linux and macOS have one of the two
        os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
        os.environ.setdefault("NCCL_SOCKET_IFNAME", f"={name}")  # = stands for exactly this name


def _quiet() -> None:
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it announces every precision


def is_lost_connection(error: BaseException) -> bool:
    """Whether an error (of gloo, NCCL or their store) says only that another process cannot be reached."""
    return isinstance(error, distributed.DistError) or (
        isinstance(error, RuntimeError)
        and any(word in str(error) for word in ("gloo", "NCCL", "Connection closed by peer"))
    )
