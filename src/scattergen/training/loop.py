"""The one training loop, which trains the decoder and every density fitted by gradients, and its checkpoints."""

import json
import math
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from scattergen.calls.state import usual_state
from scattergen.datasets import prefetched
from scattergen.display.progress import SILENT, Progress, Task
from scattergen.errors import InputError, RunFolderError, ScattergenError
from scattergen.files.tensors import flatten_state, read_tensors_if_whole, take_state, write_tensors
from scattergen.processes import ALONE, Processes, make_fabric
from scattergen.training.recording import record
from scattergen.training.settings import SCHEDULES, TrainingSettings

Metrics = dict[str, float]
History = list[Metrics]
Batch = tuple[Tensor, ...]
Loss = Callable[[Mapping[str, nn.Module], Batch, torch.Generator], Tensor]
"""Scalar loss of (modules, batch, generator); all randomness must come from the generator."""

# What a checkpoint holds of the training's progress.
_PROGRESS = ("step", "seconds", "stopped", "history", "sums", "count", "best_loss", "epochs_since_best")


class Batches(Protocol):
    """Training data: `len(data)` examples, `data[index]` a tuple of tensors for a LongTensor."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Tensor, /) -> Batch: ...


@usual_state(gradients=True)
def train(
    modules: Mapping[str, nn.Module], losses: Mapping[str, Loss], data: Batches, settings: TrainingSettings, *,
    validate: Callable[[], Metrics] | None = None, processes: Processes = ALONE, checkpoint: Path | None = None,
    on_step: Callable[[float], None] | None = None, on_epoch: Callable[[History], None] | None = None,
    progress: Progress = SILENT,
) -> History:  # fmt: skip
    """Train modules by Adam, one optimizer and one loss each, alternating on every batch.

    Stopped at any moment, a training continues from its checkpoint and ends, on the same machine with the same number
    of threads, with the same bits as one that was never stopped. Several processes, which all call this function with
    the same arguments, share every batch, average their gradients and end with the same modules; rank 0 validates,
    reports and writes the checkpoints, from which any number of processes can continue. Batch normalisation uses the
    statistics of each process's part on CPUs, and of the whole batch on GPUs.

    The result is one dictionary per epoch, the last perhaps cut short by `max_seconds`: "epoch", "seconds" (of
    training), "loss" or "loss/NAME" for several, "learning_rate", and "validation/…" of `validate`. An `InputError` if
    there are no data or the settings do not suit the other arguments; a `ScattergenError` if a loss is not finite; a
    `RunFolderError` if the checkpoint belongs to other settings or is damaged.

    Args:
        modules: Name to module; those without a loss are used but not trained.
        losses: Name to the loss of that module's parameters, in the order of their updates.
        data: Training examples.
        settings: Epochs, step sizes, seed, device …
        validate: Called with the modules in evaluation mode after each epoch; early stopping watches its "loss".
        processes: Those that train together; several train one module only.
        checkpoint: File to save progress in and to continue from; removed by whoever owns it.
        on_step: Called after each step with the seconds of training so far; its own time is not counted.
        on_epoch: Called after each epoch with the metrics of all epochs so far.
        progress: Where to report.

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
    return _Training(modules, losses, data, settings, validate, processes, checkpoint, on_step, on_epoch).run(progress)


@dataclass
class _Training:
    """A training under way; `train` explains the arguments."""

    modules: Mapping[str, nn.Module]
    losses: Mapping[str, Loss]
    data: Batches
    settings: TrainingSettings
    validate: Callable[[], Metrics] | None
    processes: Processes
    checkpoint: Path | None
    on_step: Callable[[float], None] | None
    on_epoch: Callable[[History], None] | None

    def __post_init__(self) -> None:
        settings, size = self.settings, self.settings.batch_size
        rank, world_size = self.processes.rank, self.processes.world_size
        self.steps_per_epoch = len(self.data) // size
        self.n_steps = settings.epochs * self.steps_per_epoch
        # This process's part of every batch.
        self.share = slice(rank * size // world_size, (rank + 1) * size // world_size)
        self.weight = (self.share.stop - self.share.start) / size
        half = settings.precision == "bfloat16" or (settings.precision == "auto" and bfloat16_is_fast(settings.device))
        self.fabric = make_fabric(settings.device, "bf16-mixed" if half else "32-true", self.processes)
        self.wrapped: dict[str, Any] = {}
        self.optimizers: dict[str, Any] = {}
        for name, module in self.modules.items():
            if world_size > 1 and self.fabric.device.type == "cuda":
                module = nn.SyncBatchNorm.convert_sync_batchnorm(module)
            if name in self.losses:
                adam = torch.optim.Adam(module.parameters(), settings.learning_rate, settings.betas, fused=True)
                self.wrapped[name], self.optimizers[name] = self.fabric.setup(module, adam)
            else:
                self.wrapped[name] = self.fabric.setup_module(module)
        self.generator = torch.Generator().manual_seed(settings.seed)
        depends = settings.depends() | {"n": len(self.data), "parts": list(self.losses)}
        self.state = TrainingState(self.modules, self.optimizers, self.generator, depends, self.checkpoint)

    def run(self, progress: Progress) -> History:
        """Train to the end, from the checkpoint if there is one; the metrics of all epochs."""
        state, settings = self.state, self.settings
        state.resume()
        self.processes.barrier()  # none writes a checkpoint before all have read it
        if settings.from_start and settings.patience is not None and state.step == 0:
            state.watch(self._validated()["loss"], settings.patience)
        # When the last step was done, after how many seconds of training, and when the last checkpoint was written.
        self.now = self.saved_at = time.monotonic()
        self.seconds, self.start = state.seconds, self.now - state.seconds
        # With a limit, progress counts seconds: there may be far more steps than will be done.
        total = self.n_steps if settings.max_seconds is None else math.ceil(settings.max_seconds)
        with progress.task(settings.description, total) as task:
            task.advance(self._not_shown(task))
            while state.step < self.n_steps and not state.stopped:
                epoch = state.step // self.steps_per_epoch
                self._end_epoch(epoch, self._steps(epoch, task))
        if state.best and state.epochs_since_best > 0:
            state.load_parameters(state.best)
        for module in self.modules.values():
            for buffer in module.buffers():  # such as running means, which differ between parts
                buffer.copy_(self.processes.broadcast(buffer))
            module.eval()
        state.check_parameters()
        return state.history

    def _steps(self, epoch: int, task: Task) -> float:
        """Take the steps of an epoch that are left, or that there is time for; the last one's learning rate."""
        state, limit = self.state, self.settings.max_seconds
        for name, module in self.wrapped.items():
            module.train(name in self.losses)
        for batch in self._batches(epoch):
            rate = self._step(batch)
            self.now = time.monotonic()
            self.seconds = self.now - self.start
            task.advance(self._not_shown(task), f"loss {state.running_loss():.4f}")
            if self.on_step is not None:
                self.on_step(self.seconds)
                self.start += time.monotonic() - self.now
            if limit is not None:
                self.seconds = self.processes.broadcast(self.seconds)
                if self.seconds >= limit:
                    state.stopped = True
                    break
            due = self.now - self.saved_at > self.settings.checkpoint_seconds
            # The end of the epoch has a checkpoint of its own.
            if due and self.processes.rank == 0 and state.step % self.steps_per_epoch > 0:
                state.seconds, self.saved_at = self.seconds, self.now
                state.save()
        return rate

    def _batches(self, epoch: int) -> Iterable[Batch]:
        """This process's parts of the batches of an epoch that are left."""
        settings, size = self.settings, self.settings.batch_size
        generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + epoch)
        order = torch.randperm(len(self.data), generator=generator)
        left = range(self.state.step % self.steps_per_epoch, self.steps_per_epoch)
        parts = (self.data[order[i * size : (i + 1) * size][self.share]] for i in left)
        return prefetched(parts) if settings.prefetch else parts

    def _step(self, read: Batch) -> float:
        """Update every module that is trained; the learning rate of the updates."""
        settings, state = self.settings, self.state
        if self.processes.world_size > 1:
            # Seeded by step and rank, so that rank 0's checkpoint does for all.
            number = (settings.seed * 1_000_003 + state.step) * 1_000_003 + self.processes.rank
            self.generator.manual_seed(number % 2**64)
        batch = tuple(self.fabric.to_device(part) for part in read)
        rate = settings.learning_rate * SCHEDULES[settings.schedule](self._part_done())
        for name, loss_of in self.losses.items():
            optimizer = self.optimizers[name]
            optimizer.param_groups[0]["lr"] = rate
            loss = loss_of(self.wrapped, batch, self.generator)
            # Before the gradients, so that all processes stop together if it is not finite in one.
            mean = self.processes.all_reduce(loss.detach() * self.weight).item()
            state.add_loss(name, mean)
            optimizer.zero_grad()
            # Fabric averages the processes' gradients with equal weights.
            self.fabric.backward(loss * (self.weight * self.processes.world_size))
            if (norm := settings.clip_norm) is not None:
                self.fabric.clip_gradients(self.wrapped[name], optimizer, max_norm=norm, error_if_nonfinite=False)
            optimizer.step()
        state.step += 1
        return rate

    def _end_epoch(self, epoch: int, rate: float) -> None:
        """Validate, save and report."""
        state, patience = self.state, self.settings.patience
        state.seconds = time.monotonic() - self.start
        metrics = state.end_epoch(epoch + 1, rate)
        if self.validate is not None:
            metrics |= {f"validation/{name}": value for name, value in self._validated().items()}
            if patience is not None:
                state.watch(metrics["validation/loss"], patience)
        if self.processes.rank == 0:
            state.save()
            self.saved_at = time.monotonic()
            record(metrics, state.step)
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
        return part if limit is None else max(part, min(1.0, self.seconds / limit))

    def _not_shown(self, task: Task) -> int:
        """Progress not yet reported, in steps, or in seconds if there is a limit."""
        done = self.state.step if self.settings.max_seconds is None else int(self._part_done() * task.total)
        return done - task.completed


class TrainingState:
    """Everything that a checkpoint holds, with the settings that it must have been made with."""

    def __init__(
        self, modules: Mapping[str, nn.Module], optimizers: Mapping[str, Any], generator: torch.Generator,
        settings: dict[str, Any], path: Path | None,
    ) -> None:  # fmt: skip
        self.modules, self.optimizers, self.generator = modules, optimizers, generator
        shapes = {name: list(tensor.shape) for name, tensor in self._parameters().items()}
        self.settings, self.path = settings | {"shapes": shapes}, path
        self.step, self.seconds, self.stopped = 0, 0.0, False
        self.history: History = []
        self.sums, self.count = dict.fromkeys(optimizers, 0.0), 0
        self.best_loss, self.epochs_since_best = math.inf, 0
        self.best: dict[str, Tensor] = {}

    def add_loss(self, name: str, value: float) -> None:
        """Count the loss of a step, if it is finite."""
        if not math.isfinite(value):
            raise self._diverged(f"loss of the {name} became {value} in step {self.step + 1}")
        self.sums[name] += value
        if name == next(reversed(self.sums)):
            self.count += 1

    def check_parameters(self) -> None:
        """Refuse a network whose last steps diverged."""
        for name, tensor in self._parameters().items():
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                raise self._diverged(f"parameters {name} became infinite or NaN")

    def _diverged(self, what: str) -> ScattergenError:
        remedy = f"lower the learning rate (now {self.settings['learning_rate']:g}) and run the command again"
        return ScattergenError(f"The training diverged (the {what}): {remedy}; finished stages are kept.")

    def running_loss(self) -> float:
        """Mean loss of the epoch so far, summed over all modules."""
        return sum(self.sums.values()) / max(self.count, 1)

    def end_epoch(self, epoch: int, rate: float) -> Metrics:
        """Begin another epoch; the metrics of the one that ended, now in the history."""
        means = {name: total / max(self.count, 1) for name, total in self.sums.items()}
        losses = {"loss" if len(means) == 1 else f"loss/{name}": mean for name, mean in means.items()}
        self.history.append({"epoch": epoch, "seconds": self.seconds, **losses, "learning_rate": rate})
        self.sums, self.count = dict.fromkeys(self.sums, 0.0), 0
        return self.history[-1]

    def watch(self, loss: float, patience: int) -> None:
        """Keep the best parameters, and stop after too many epochs without better ones."""
        if loss < self.best_loss:
            self.best_loss, self.epochs_since_best = loss, 0
            self.best = {name: t.clone() for name, t in self._parameters().items()}
        else:
            self.epochs_since_best += 1
            self.stopped |= self.epochs_since_best >= patience

    def _parameters(self) -> dict[str, Tensor]:
        return flatten_state("modules", {name: module.state_dict() for name, module in self.modules.items()})

    def load_parameters(self, tensors: Mapping[str, Tensor]) -> None:
        """Take the parameters of all modules."""
        for name, module in self.modules.items():
            module.load_state_dict(take_state(tensors, f"modules/{name}"))

    def save(self) -> None:
        """Write the checkpoint, if there is a place for it."""
        if self.path is None:
            return
        tensors = self._parameters() | {"generator": self.generator.get_state()}
        for name, optimizer in self.optimizers.items():
            tensors |= flatten_state(f"optimizers/{name}", optimizer.state_dict()["state"])
        tensors |= {f"best/{name}": tensor for name, tensor in self.best.items()}
        progress = {name: getattr(self, name) for name in _PROGRESS}
        progress["best_loss"] = self.best_loss if self.best else None
        write_tensors(self.path, tensors, {"settings": self.settings, "progress": progress})

    def resume(self) -> None:
        """Take over the state of the checkpoint, if there is one."""
        if self.path is None or not self.path.exists():
            return
        found = read_tensors_if_whole(self.path)
        if found is None:
            warnings.warn(f"{self.path} is damaged: this training starts anew.", stacklevel=2)
            return
        tensors, metadata = found
        settings = metadata.get("settings") if isinstance(metadata, dict) else None
        if settings != json.loads(json.dumps(self.settings)):
            problem = "is the checkpoint of a training with other settings or another network"
            raise RunFolderError(f"{self.path} {problem}: use those again, or delete it.")
        try:
            self._adopt(tensors, metadata["progress"])
        # The file is whole, but not a checkpoint of this version.
        except (LookupError, TypeError, ValueError, RuntimeError) as error:
            problem = f"{self.path} is not a whole checkpoint ({type(error).__name__})"
            raise RunFolderError(f"{problem}: delete it and run the same command again.") from error

    def _adopt(self, tensors: Mapping[str, Tensor], progress: dict[str, Any]) -> None:
        self.load_parameters(tensors)
        self.generator.set_state(tensors["generator"])
        for name, optimizer in self.optimizers.items():
            state: dict[int, dict[str, Tensor]] = {}
            for key, tensor in take_state(tensors, f"optimizers/{name}").items():
                index, entry = key.split("/")
                shape = () if entry == "step" else optimizer.param_groups[0]["params"][int(index)].shape
                state.setdefault(int(index), {})[entry] = tensor.view(shape)  # a RuntimeError if it has another size
            optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
        self.best = take_state(tensors, "best")
        for name in _PROGRESS:
            setattr(self, name, progress[name])
        if self.best_loss is None:
            self.best_loss = math.inf


def check_shares(batch_size: int, n_processes: int) -> None:
    """Refuse batches, of all processes together, that leave nothing for some of the processes."""
    if batch_size < n_processes:
        problem = f"Batches of {batch_size} examples leave nothing for some of {n_processes} processes"
        raise InputError(f"{problem}: use fewer processes or larger batches (--set training.batch_size=NUMBER).")


def bfloat16_is_fast(device: str) -> bool:
    """Whether bfloat16 products are faster than float32 ones: on CPUs with AVX-512 BF16 or AMX, and on newer GPUs."""
    if torch.device(device).type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported()
