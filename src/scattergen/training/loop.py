"""The one training loop, which trains the decoder and every density that is fitted by gradients."""

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from scattergen.datasets import prefetched
from scattergen.errors import InputError
from scattergen.processes import ALONE, Processes, make_fabric
from scattergen.progress import SILENT, Progress, Task
from scattergen.training.settings import SCHEDULES, TrainingSettings
from scattergen.training.state import History, Metrics, TrainingState

Batch = tuple[Tensor, ...]
Loss = Callable[[Mapping[str, nn.Module], Batch, torch.Generator], Tensor]
"""Scalar loss of (modules, batch, generator); all randomness must come from the generator."""


class Batches(Protocol):
    """Training data: `len(data)` examples, `data[index]` a tuple of tensors for a LongTensor."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Tensor, /) -> Batch: ...


_PRECISIONS = {"float32": "32-true", "bfloat16": "bf16-mixed"}  # ours to Fabric's


def train(
    modules: Mapping[str, nn.Module],
    losses: Mapping[str, Loss],
    data: Batches,
    settings: TrainingSettings,
    *,
    validate: Callable[[], Metrics] | None = None,
    processes: Processes = ALONE,
    checkpoint: Path | None = None,
    on_step: Callable[[float], None] | None = None,
    on_epoch: Callable[[History], None] | None = None,
    progress: Progress = SILENT,
) -> History:
    """Train modules by Adam, one optimizer and one loss each, alternating on every batch.

    A training that was stopped at any moment continues from its checkpoint and ends, on the same
    machine with the same number of threads, with the same bits as one that was never stopped.

    Several processes share every batch and average their gradients (distributed data parallelism):
    process r of w takes the r-th w-th part.  All call this function with the same arguments and end
    with the same modules; rank 0 validates, reports and writes the checkpoints, from which any number
    of processes can continue.  Batch normalisation uses the statistics of each process's part on CPUs,
    and of the whole batch on GPUs.

    Args:
        modules: Name to module; those without a loss are used but not trained.
        losses: Name to the loss of that module's parameters, in the order of their updates.
        data: Training examples.
        settings: Epochs, batches, step sizes, seed, device …
        validate: Called with the modules in evaluation mode after each epoch; early stopping watches its "loss".
        processes: Those that train together; several train one module only.
        checkpoint: File to save progress in and to continue from; removed by whoever owns it.
        on_step: Called after each step with the seconds of training so far; its own time is not counted.
        on_epoch: Called after each epoch with the metrics of all epochs so far.
        progress: Where to report.

    Returns:
        One dictionary per epoch, the last perhaps cut short by `max_seconds`: "epoch", "seconds" (of
        training), "loss" or "loss/NAME" for several, "learning_rate", and "validation/…" of `validate`.

    Raises:
        InputError: If there are no data, or the settings do not suit them or the other arguments.
        ScattergenError: If a loss is not finite.
        RunFolderError: If the checkpoint belongs to other settings or is damaged.

    Example:
        >>> from torch.utils.data import TensorDataset
        >>> x = torch.linspace(-1, 1, 64)[:, None]
        >>> line = {"line": nn.Linear(1, 1)}
        >>> def squared_error(modules, batch, generator):
        ...     return (modules["line"](batch[0]) - batch[1]).square().mean()
        >>> settings = TrainingSettings(epochs=50, batch_size=16, learning_rate=0.1)
        >>> history = train(line, {"line": squared_error}, TensorDataset(x, 3 * x), settings)
        >>> round(line["line"].weight.item(), 1)
        3.0
    """
    if len(data) == 0:
        raise InputError("There is nothing to train on: give at least one example.")
    settings = replace(settings, batch_size=min(settings.batch_size, len(data)))
    if settings.patience is not None and validate is None:
        raise InputError(f"patience={settings.patience} watches the validation loss: give validate too.")
    check_shares(settings.batch_size, processes.world_size)
    if processes.world_size > 1 and (len(losses) != 1 or len(modules) != 1):
        raise InputError("Several processes can train one module with one loss, not more.")
    training = _Training(modules, losses, data, settings, validate, processes, checkpoint, on_step, on_epoch)
    return training.run(progress)


class _Clock:
    """Seconds of training, without interruptions and what is called in between."""

    def __init__(self, seconds: float) -> None:
        self._before = self.seconds = seconds  # at the last `tick`; then those of rank 0, if there is a limit
        self._start = self.now = time.monotonic()  # of the last `tick`

    def tick(self) -> None:
        """Take the time after a step."""
        self.now = time.monotonic()
        self.seconds = self._before + self.now - self._start

    def leave_out(self) -> None:
        """Do not count the time since the last `tick`."""
        self._start += time.monotonic() - self.now

    def total(self) -> float:
        """Seconds of training until this moment."""
        return self._before + time.monotonic() - self._start


class _Training:
    """A training under way; `train` explains the arguments."""

    clock: _Clock  # runs as soon as steps are taken
    saved_at: float  # its time at the last checkpoint

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        losses: Mapping[str, Loss],
        data: Batches,
        settings: TrainingSettings,
        validate: Callable[[], Metrics] | None,
        processes: Processes,
        checkpoint: Path | None,
        on_step: Callable[[float], None] | None,
        on_epoch: Callable[[History], None] | None,
    ) -> None:
        self.modules, self.losses, self.data, self.settings = modules, losses, data, settings
        self.validate, self.on_step, self.on_epoch = validate, on_step, on_epoch
        self.processes = processes
        rank, world_size, batch_size = processes.rank, processes.world_size, settings.batch_size
        self.steps_per_epoch = len(data) // batch_size
        self.n_steps = settings.epochs * self.steps_per_epoch
        # This process's part of every batch.
        self.share = slice(rank * batch_size // world_size, (rank + 1) * batch_size // world_size)
        self.weight = (self.share.stop - self.share.start) / batch_size
        self.fabric = _fabric(settings, processes)
        self.wrapped: dict[str, Any] = {}
        self.optimizers: dict[str, Any] = {}
        for name, module in modules.items():
            self._set_up(name, module)
        self.generator = torch.Generator().manual_seed(settings.seed)
        depends = settings.depends() | {"n": len(data), "parts": list(losses)}
        self.state = TrainingState(modules, self.optimizers, self.generator, depends, checkpoint)

    def _set_up(self, name: str, module: nn.Module) -> None:
        """Bring a module to the device, and make its optimizer if it is trained."""
        if self.processes.world_size > 1 and self.fabric.device.type == "cuda":
            module = nn.SyncBatchNorm.convert_sync_batchnorm(module)
        if name not in self.losses:
            self.wrapped[name] = self.fabric.setup_module(module)
            return
        rate, betas = self.settings.learning_rate, self.settings.betas
        adam = torch.optim.Adam(module.parameters(), rate, betas, fused=True)
        self.wrapped[name], self.optimizers[name] = self.fabric.setup(module, adam)

    def run(self, progress: Progress) -> History:
        """Train to the end, from the checkpoint if there is one; the metrics of all epochs."""
        state, settings = self.state, self.settings
        state.resume()
        self.processes.barrier()  # none writes a checkpoint before all have read it
        if settings.from_start and settings.patience is not None and state.step == 0:
            state.watch(self._validated()["loss"], settings.patience)
        self.clock = _Clock(state.seconds)
        self.saved_at = self.clock.now
        limit = settings.max_seconds
        # With a limit, progress counts seconds: there may be far more steps than will be done.
        total = self.n_steps if limit is None else math.ceil(limit)
        with progress.task(settings.description, total) as task:
            task.advance(self._not_shown(task))
            while state.step < self.n_steps and not state.stopped:
                epoch = state.step // self.steps_per_epoch
                rate = self._steps(epoch, task)
                self._end_epoch(epoch, rate)
            state.finish()
        for module in self.modules.values():
            for buffer in module.buffers():  # such as running means, which differ between parts
                buffer.copy_(self.processes.broadcast(buffer))
        state.check_parameters(settings.learning_rate)
        for module in self.modules.values():
            module.eval()
        return state.history

    def _steps(self, epoch: int, task: Task) -> float:
        """Take the steps of an epoch that are left; the last one's learning rate."""
        state = self.state
        for name, module in self.wrapped.items():
            module.train(name in self.losses)
        for batch in self._batches(epoch):
            rate = self._step(batch)
            self._after_step(task)
            if state.stopped:
                break
            due = self.clock.now - self.saved_at > self.settings.checkpoint_seconds
            # The end of the epoch has a checkpoint of its own.
            if due and self.processes.rank == 0 and state.step % self.steps_per_epoch > 0:
                state.seconds = self.clock.seconds
                state.save()
                self.saved_at = self.clock.now
        return rate

    def _batches(self, epoch: int) -> Iterable[Batch]:
        """This process's parts of the batches of an epoch that are left."""
        settings, size = self.settings, self.settings.batch_size
        generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + epoch)
        order = torch.randperm(len(self.data), generator=generator)
        first = self.state.step - epoch * self.steps_per_epoch
        parts = (self.data[order[i * size : (i + 1) * size][self.share]] for i in range(first, self.steps_per_epoch))
        return prefetched(parts) if settings.prefetch else parts

    def _step(self, read: Batch) -> float:
        """Update every module that is trained; the learning rate of the updates."""
        settings, state = self.settings, self.state
        if self.processes.world_size > 1:
            # Seeded by step and rank, so that rank 0's checkpoint does for all.
            seed = (settings.seed * 1_000_003 + state.step) * 1_000_003 + self.processes.rank
            self.generator.manual_seed(seed)
        batch = tuple(self.fabric.to_device(part) for part in read)
        rate = settings.learning_rate * SCHEDULES[settings.schedule](self._part_done())
        for name in self.losses:
            self._update(name, batch, rate)
        state.step += 1
        return rate

    def _update(self, name: str, batch: Batch, rate: float) -> None:
        """Take a step of one module's optimizer."""
        optimizer, settings = self.optimizers[name], self.settings
        optimizer.param_groups[0]["lr"] = rate
        loss = self.losses[name](self.wrapped, batch, self.generator)
        # Before the gradients, so that all processes stop together if it is not finite in one.
        mean = self.processes.all_reduce(loss.detach() * self.weight).item()
        self.state.add_loss(name, mean, settings.learning_rate)
        optimizer.zero_grad()
        # Fabric averages the processes' gradients with equal weights.
        self.fabric.backward(loss * (self.weight * self.processes.world_size))
        if settings.clip_norm is not None:
            self.fabric.clip_gradients(
                self.wrapped[name], optimizer, max_norm=settings.clip_norm, error_if_nonfinite=False
            )
        optimizer.step()

    def _after_step(self, task: Task) -> None:
        """Take the time, report, and stop if the time is over."""
        clock, limit = self.clock, self.settings.max_seconds
        clock.tick()
        task.advance(self._not_shown(task), f"loss {self.state.running_loss():.4f}")
        if self.on_step is not None:
            self.on_step(clock.seconds)
            clock.leave_out()
        if limit is not None:
            clock.seconds = self.processes.broadcast(clock.seconds)
            self.state.stopped = clock.seconds >= limit

    def _end_epoch(self, epoch: int, rate: float) -> None:
        """Validate, save and report."""
        state, patience = self.state, self.settings.patience
        state.seconds = self.clock.total()
        metrics = state.end_epoch(epoch + 1, rate)
        if self.validate is not None:
            metrics |= {f"validation/{name}": value for name, value in self._validated().items()}
            if patience is not None:
                state.watch(metrics["validation/loss"], patience)
        if self.processes.rank == 0:
            state.save()
            self.saved_at = time.monotonic()
            if self.on_epoch is not None:
                self.on_epoch(state.history)

    def _validated(self) -> Metrics:
        """What rank 0 measures, broadcast to all processes."""
        for module in self.wrapped.values():
            module.eval()
        validate = self.validate if self.processes.rank == 0 else None
        with torch.no_grad():
            return self.processes.broadcast({} if validate is None else validate())

    def _part_done(self) -> float:
        """The part of the training that is done, in [0, 1], by steps or by seconds."""
        part, limit = self.state.step / self.n_steps, self.settings.max_seconds
        return part if limit is None else max(part, min(1.0, self.clock.seconds / limit))

    def _not_shown(self, task: Task) -> int:
        """Progress not yet reported, in steps, or in seconds if there is a limit."""
        limited = self.settings.max_seconds is not None
        done = int(self._part_done() * task.total) if limited else self.state.step
        return done - task.completed


def _fabric(settings: TrainingSettings, processes: Processes) -> Any:
    """Fabric for the chosen device and precision."""
    precision = settings.precision
    if precision == "auto":
        precision = "bfloat16" if bfloat16_is_fast(settings.device) else "float32"
    return make_fabric(settings.device, _PRECISIONS[precision], processes)


def check_shares(batch_size: int, n_processes: int) -> None:
    """Refuse batches, of all processes together, that leave nothing for some of the processes.

    Raises:
        InputError: If there are more processes than examples.

    Example:
        >>> check_shares(batch_size=4, n_processes=8)
        Traceback (most recent call last):
        ...
        scattergen.errors.InputError: Batches of 4 examples leave nothing for some of 8 ...
    """
    if batch_size < n_processes:
        raise InputError(
            f"Batches of {batch_size} examples leave nothing for some of {n_processes} processes: use fewer processes "
            "or larger batches (--set training.batch_size=NUMBER)."
        )


def bfloat16_is_fast(device: str) -> bool:
    """Whether bfloat16 products are faster than float32 ones: on CPUs with AVX-512 BF16 or AMX, and on newer GPUs."""
    if torch.device(device).type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported()
