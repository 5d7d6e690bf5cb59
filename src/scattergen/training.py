"""The one training loop, which trains the decoder and every density that is fitted by gradients."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from scattergen.datasets import prefetched
from scattergen.errors import InputError
from scattergen.processes import ALONE, Processes, make_fabric
from scattergen.progress import SILENT, Progress
from scattergen.training_state import History, Metrics, TrainingState

Batch = tuple[Tensor, ...]
Loss = Callable[[Mapping[str, nn.Module], Batch, torch.Generator], Tensor]
"""Scalar loss of (modules, batch, generator); all randomness must come from the generator."""


class Batches(Protocol):
    """Training data: `len(data)` examples, `data[index]` a tuple of tensors for a LongTensor."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Tensor, /) -> Batch: ...


def one_cycle(progress: float, warm_up: float = 0.2) -> float:
    """Learning-rate factor that rises linearly and falls to zero as a cosine.

    Args:
        progress: Part of the training done, in [0, 1].
        warm_up: Part of the training in which it rises.

    Returns:
        Factor of the peak learning rate, in [0, 1].

    References:
        Smith, Topin, "Super-convergence", 2018.

    Example:
        >>> one_cycle(0.2), round(one_cycle(0.6), 6), one_cycle(1.0)
        (1.0, 0.5, 0.0)
    """
    if progress < warm_up:
        return 0.04 + 0.96 * progress / warm_up
    return 0.5 * (1 + math.cos(math.pi * (progress - warm_up) / (1 - warm_up)))


def constant(progress: float) -> float:
    """Learning-rate factor 1 throughout."""
    return 1.0


SCHEDULES: dict[str, Callable[[float], float]] = {"one_cycle": one_cycle, "constant": constant}
_PRECISIONS = {"float32": "32-true", "bfloat16": "bf16-mixed"}  # ours to Fabric's


def train(
    modules: Mapping[str, nn.Module],
    losses: Mapping[str, Loss],
    data: Batches,
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    schedule: str = "one_cycle",
    betas: tuple[float, float] = (0.9, 0.999),
    clip_norm: float | None = None,
    validate: Callable[[], Metrics] | None = None,
    patience: int | None = None,
    from_start: bool = False,
    max_seconds: float | None = None,
    seed: int = 0,
    precision: str = "float32",
    device: str = "cpu",
    prefetch: bool = False,
    processes: Processes = ALONE,
    checkpoint: Path | None = None,
    checkpoint_seconds: float = 20.0,
    on_step: Callable[[float], None] | None = None,
    on_epoch: Callable[[History], None] | None = None,
    progress: Progress = SILENT,
    description: str = "train",
) -> History:
    """Train modules by Adam, one optimizer and one loss each, alternating on every batch.

    With a checkpoint, a training that was stopped at any moment continues from it and ends, on the
    same machine with the same number of threads, with the same bits as one that was never stopped.

    Several processes share every batch and average their gradients (distributed data parallelism):
    process r of w takes the r-th w-th part.  All call this function with the same arguments and end
    with the same modules; rank 0 validates, reports and writes the checkpoints, which any number of
    processes can continue from.  Batch normalisation uses the statistics of each process's part on
    CPUs, and of the whole batch on GPUs.

    Args:
        modules: Name to module; those without a loss are used but not trained.
        losses: Name to the loss of that module's parameters, in the order of their updates.
        data: Training examples.
        epochs: Passes over the data; an incomplete last batch is left out.
        batch_size: Examples per step; at most the number of examples is used.
        learning_rate: Peak of Adam's step size.
        schedule: A name in `SCHEDULES`.
        betas: Adam's decay rates.
        clip_norm: Largest norm of one module's gradient; longer ones are shortened to it.
        validate: Called with the modules in evaluation mode after each epoch; its "loss" is what
            early stopping watches.
        patience: Stop after so many epochs without a lower validation loss; the best parameters are
            restored.  None never stops early and keeps the last ones.
        from_start: Whether the parameters as given may be the best ones, too.
        max_seconds: Stop at the first step after so many seconds of training, interruptions not
            counted, if that is before the last epoch.  The schedule then follows whichever is
            further, the steps or the seconds, so that what is trained depends on the machine's
            speed.
        seed: Of the order of the data and of everything random in the losses.
        precision: "float32", "bfloat16" (mixed), or "auto": bfloat16 where the processor has it.
        device: "cpu", "cuda", "cuda:1" …
        prefetch: Read the next batches while one is computed with; pays if they come from files.
        processes: Those that train together; several train one module only.
        checkpoint: File to save progress in and to continue from; removed by whoever owns it.
        checkpoint_seconds: Time between two checkpoints.
        on_step: Called after each step with the seconds of training so far, which it does not add
            to.
        on_epoch: Called after each epoch with the metrics of all epochs so far.
        progress: Where to report.
        description: Name of the stage in reports.

    Returns:
        One dictionary per epoch, the last perhaps cut short by `max_seconds`: "epoch", "seconds"
        (of training, interruptions not counted),
        "loss" or "loss/NAME" for several, "learning_rate", and "validation/…" of `validate`.

    Raises:
        InputError: If an argument is out of range.
        ScattergenError: If a loss is not finite.
        RunFolderError: If the checkpoint belongs to other settings or is damaged.

    Example:
        >>> from torch.utils.data import TensorDataset
        >>> x = torch.linspace(-1, 1, 64)[:, None]
        >>> line = {"line": nn.Linear(1, 1)}
        >>> def squared_error(modules, batch, generator):
        ...     return (modules["line"](batch[0]) - batch[1]).square().mean()
        >>> data = TensorDataset(x, 3 * x)
        >>> history = train(
        ...     line, {"line": squared_error}, data, epochs=50, batch_size=16, learning_rate=0.1
        ... )
        >>> round(line["line"].weight.item(), 1)
        3.0
    """
    if len(data) == 0:
        raise InputError("There is nothing to train on: give at least one example.")
    batch_size = min(batch_size, len(data))
    settings: dict[str, Any] = {
        "epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate,
        "schedule": schedule, "betas": list(betas), "clip_norm": clip_norm, "patience": patience,
    }  # fmt: skip
    if max_seconds is not None:
        settings["max_seconds"] = max_seconds
    check_settings(**settings, precision=precision)
    if patience is not None and validate is None:
        raise InputError(f"patience={patience} watches the validation loss: give validate too.")
    check_shares(batch_size, processes.world_size)
    if processes.world_size > 1 and (len(losses) != 1 or len(modules) != 1):
        raise InputError("Several processes can train one module with one loss, not more.")
    steps_per_epoch = len(data) // batch_size
    rank, world_size = processes.rank, processes.world_size
    share = slice(rank * batch_size // world_size, (rank + 1) * batch_size // world_size)
    weight = (share.stop - share.start) / batch_size
    settings |= {"seed": seed, "n": len(data), "parts": list(losses)}
    if precision == "auto":
        precision = "bfloat16" if bfloat16_is_fast(device) else "float32"
    fabric = make_fabric(device, _PRECISIONS[precision], processes)
    wrapped: dict[str, Any] = {}
    optimizers: dict[str, Any] = {}
    for name, module in modules.items():
        if world_size > 1 and fabric.device.type == "cuda":
            module = nn.SyncBatchNorm.convert_sync_batchnorm(module)
        if name in losses:
            adam = torch.optim.Adam(module.parameters(), learning_rate, betas, fused=True)
            wrapped[name], optimizers[name] = fabric.setup(module, adam)
        else:
            wrapped[name] = fabric.setup_module(module)
    generator = torch.Generator().manual_seed(seed)
    state = TrainingState(modules, optimizers, generator, settings, checkpoint)
    state.resume()
    processes.barrier()  # none writes a checkpoint before all have read it

    def validated() -> Metrics:
        for module in wrapped.values():
            module.eval()
        with torch.no_grad():
            return processes.broadcast(validate() if rank == 0 and validate is not None else {})

    if from_start and patience is not None and state.step == 0:
        state.watch(validated()["loss"], patience)

    start = last_saved = time.monotonic()
    before = seconds = state.seconds
    total = epochs * steps_per_epoch

    def part_done() -> float:
        part = state.step / total
        return part if max_seconds is None else max(part, min(1.0, seconds / max_seconds))

    # With a limit, progress counts seconds: the steps may be far more than will be done.
    shown = total if max_seconds is None else math.ceil(max_seconds)
    with progress.task(description, shown) as task:
        task.advance(state.step if max_seconds is None else int(part_done() * shown))
        while state.step < total and not state.stopped:
            epoch, first = divmod(state.step, steps_per_epoch)
            order = torch.randperm(
                len(data), generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch)
            )
            for name, module in wrapped.items():
                module.train(name in losses)
            parts = (
                data[order[i * batch_size : (i + 1) * batch_size][share]]
                for i in range(first, steps_per_epoch)
            )
            batches = enumerate(prefetched(parts) if prefetch else parts, first)
            for position, read in batches:
                if world_size > 1:
                    # By the step and the rank, so that a checkpoint of rank 0 is one for all.
                    generator.manual_seed((seed * 1_000_003 + state.step) * 1_000_003 + rank)
                batch = tuple(fabric.to_device(part) for part in read)
                rate = learning_rate * SCHEDULES[schedule](part_done())
                for name, loss_of in losses.items():
                    optimizer = optimizers[name]
                    optimizer.param_groups[0]["lr"] = rate
                    loss = loss_of(wrapped, batch, generator)
                    # Before the gradients: all processes stop together if it is not finite in one.
                    mean = processes.all_reduce(loss.detach() * weight).item()
                    state.add_loss(name, mean, learning_rate)
                    optimizer.zero_grad()
                    # The processes' gradients will be averaged with equal weights.
                    fabric.backward(loss * (weight * world_size))
                    if clip_norm is not None:
                        fabric.clip_gradients(
                            wrapped[name], optimizer, max_norm=clip_norm, error_if_nonfinite=False
                        )
                    optimizer.step()
                state.step += 1
                now = time.monotonic()
                seconds = before + now - start
                more = 1 if max_seconds is None else int(part_done() * shown) - task.completed
                task.advance(more, f"loss {state.running_loss():.4f}")
                if on_step is not None:
                    on_step(seconds)
                    start += time.monotonic() - now
                if max_seconds is not None:
                    seconds = processes.broadcast(seconds)
                if max_seconds is not None and seconds >= max_seconds:
                    state.stopped = True
                    break
                due = rank == 0 and now - last_saved > checkpoint_seconds
                if due and position < steps_per_epoch - 1:
                    state.seconds = seconds
                    state.save()
                    last_saved = now
            state.seconds = before + time.monotonic() - start
            metrics = state.end_epoch(epoch + 1, rate)
            if validate is not None:
                metrics |= {f"validation/{name}": value for name, value in validated().items()}
                if patience is not None:
                    state.watch(metrics["validation/loss"], patience)
            if rank == 0:
                state.save()
                last_saved = time.monotonic()
                if on_epoch is not None:
                    on_epoch(state.history)
        state.finish()
    for module in modules.values():
        for buffer in module.buffers():  # such as running means, which differ between parts
            buffer.copy_(processes.broadcast(buffer))
    state.check_parameters(learning_rate)
    for module in modules.values():
        module.eval()
    return state.history


def check_settings(
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    schedule: str = "one_cycle",
    betas: Sequence[float] = (0.9, 0.999),
    clip_norm: float | None = None,
    patience: int | None = None,
    max_seconds: float | None = None,
    precision: str = "float32",
) -> None:
    """Refuse settings of `train` that cannot be used.

    Args:
        epochs: At least 1, as are `batch_size` and `patience`.
        batch_size: See `train`.
        learning_rate: Positive, as is `clip_norm`.
        schedule: A name in `SCHEDULES`.
        betas: At least 0 and below 1.
        clip_norm: See `train`.
        patience: See `train`.
        max_seconds: Positive.
        precision: "float32", "bfloat16" or "auto".

    Raises:
        InputError: If a setting is out of its range.

    Example:
        >>> check_settings(epochs=0, batch_size=64, learning_rate=0.01)
        Traceback (most recent call last):
        ...
        scattergen.errors.InputError: epochs=0: give a whole number of at least 1.
    """
    for name, count in {"epochs": epochs, "batch_size": batch_size, "patience": patience}.items():
        if count is not None and (not isinstance(count, int) or count < 1):
            raise InputError(f"{name}={count}: give a whole number of at least 1.")
    sizes = {"learning_rate": learning_rate, "clip_norm": clip_norm, "max_seconds": max_seconds}
    for name, size in sizes.items():
        if size is not None and not 0 < size < math.inf:
            raise InputError(f"{name}={size}: give a number above 0.")
    if not all(0 <= beta < 1 for beta in betas):
        raise InputError(f"betas={tuple(betas)}: give decay rates of at least 0 and below 1.")
    if schedule not in SCHEDULES:
        raise InputError(f'schedule="{schedule}" is unknown: choose one of {", ".join(SCHEDULES)}.')
    if precision not in (*_PRECISIONS, "auto"):
        raise InputError(f'precision="{precision}": choose "float32", "bfloat16" or "auto".')


def check_shares(batch_size: int, n_processes: int) -> None:
    """Refuse batches that leave nothing for some of the processes.

    Args:
        batch_size: Examples per step, of all processes together.
        n_processes: That train together.

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
            f"Batches of {batch_size} examples leave nothing for some of {n_processes} processes: "
            "use fewer processes or larger batches (--set training.batch_size=NUMBER)."
        )


def bfloat16_is_fast(device: str) -> bool:
    """Whether bfloat16 products are faster than float32 ones on a device.

    Args:
        device: "cpu", "cuda" …

    Returns:
        True on processors with AVX-512 BF16 or AMX instructions and on GPUs that support bfloat16.
    """
    if torch.device(device).type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported()
