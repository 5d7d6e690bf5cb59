"""What several processes of one fit do together, as seen from one of them."""

from typing import Protocol, TypeVar

from torch import Tensor

T = TypeVar("T")


class Processes(Protocol):
    """The processes that fit one model together; all call the methods in the same order."""

    rank: int  # number of this process, 0 for the one that writes the run's files
    world_size: int

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """Sum of the tensors of all processes, the same in each; may overwrite `tensor`."""
        ...

    def broadcast(self, value: T) -> T:
        """The value (a tensor or anything that can be pickled) of the process of rank 0."""
        ...

    def barrier(self) -> None:
        """Wait until every process is here."""
        ...

    def leave(self) -> None:
        """End the work together: no other method may be called any more."""
        ...


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
