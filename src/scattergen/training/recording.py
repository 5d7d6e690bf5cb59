"""Metrics of trainings told to a logger of Lightning Fabric while they go on, if anybody wants that."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from scattergen.errors import InputError

STAGE: ContextVar[str] = ContextVar("stage", default="training")  # what names of metrics begin with
_LOGGER: ContextVar[Any] = ContextVar("logger", default=None)


@contextmanager
def recording(kind: str | None, folder: Path) -> Iterator[None]:
    """Tell a logger of a kind, "tensorboard", which writes into a folder, of all trainings in the block; or none."""
    if kind is None:
        yield
        return
    from lightning_fabric.loggers.tensorboard import TensorBoardLogger

    try:
        logger = TensorBoardLogger(folder, name="", version="")
    except ModuleNotFoundError as error:
        raise InputError("TensorBoard is not installed: pip install 'scattergen[tensorboard]'.") from error
    before = _LOGGER.set(logger)
    try:
        yield
    finally:
        _LOGGER.reset(before)
        logger.finalize("done")


def record(metrics: Mapping[str, float], step: int) -> None:
    """Tell the logger, if there is one, what was measured after so many steps."""
    if (logger := _LOGGER.get()) is not None:
        logger.log_metrics({f"{STAGE.get()}/{name}": value for name, value in metrics.items()}, step)
