"""The settings of a training: what its result depends on, and how the work is done."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from scattergen.calls.keywords import json_value, whole_number
from scattergen.errors import InputError


def one_cycle(progress: float, warm_up: float = 0.2) -> float:
    """Learning-rate factor that rises linearly and falls to zero as a cosine (Smith, Topin, 2018)."""
    if progress < warm_up:
        return 0.04 + 0.96 * progress / warm_up
    return 0.5 * (1 + math.cos(math.pi * (progress - warm_up) / (1 - warm_up)))


def constant(progress: float) -> float:
    """Learning-rate factor 1 throughout."""
    return 1.0


# Each maps the part of the training done, in [0, 1], to a factor of the peak learning rate.
SCHEDULES: dict[str, Callable[[float], float]] = {"one_cycle": one_cycle, "constant": constant}
_HYPERPARAMETERS = ("epochs", "batch_size", "learning_rate", "schedule", "betas", "clip_norm", "patience", "precision")


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """How modules are trained; settings out of range raise an `InputError`.

    Args:
        epochs: Passes over the data; an incomplete last batch is left out.
        batch_size: Examples per step; at most the number of examples is used.
        learning_rate: Peak of Adam's step size.
        schedule: Of the step size: "one_cycle", up and then down to zero, or "constant".
        betas: Adam's decay rates.
        clip_norm: Largest norm of one module's gradient; longer ones are shortened to it.
        patience: Stop after so many epochs without a lower validation loss, and go back to the best parameters.
        from_start: Whether the parameters as given may be the best ones, too.
        max_seconds: Stop at the first step after so many seconds of training, interruptions not counted. The schedule
            then follows the steps or the seconds, whichever are further, so that the result depends on the machine.
        seed: Of the order of the data and of everything random in the losses.
        precision: "float32", "bfloat16" (mixed), or "auto": bfloat16 where the processor has it.
        device: "cpu", "cuda", "cuda:1" …
        description: Name of the stage in reports.
        prefetch: Read the next batches while one is computed with; pays if they come from files.
        checkpoint_seconds: Between two checkpoints within an epoch; its end has one anyway.

    Example:
        >>> TrainingSettings(epochs=2, batch_size=64, learning_rate=0.01).schedule
        'one_cycle'
    """

    epochs: int
    batch_size: int
    learning_rate: float
    schedule: str = "one_cycle"
    betas: tuple[float, float] = (0.9, 0.999)
    clip_norm: float | None = None
    patience: int | None = None
    from_start: bool = False
    max_seconds: float | None = None
    seed: int = 0
    precision: str = "float32"
    device: str = "cpu"
    prefetch: bool = False
    checkpoint_seconds: float = 20.0
    description: str = "train"

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "patience"):
            if (count := getattr(self, name)) is not None:
                object.__setattr__(self, name, whole_number(name, count, least=1))
        for name in ("learning_rate", "clip_norm", "max_seconds"):
            size = json_value(getattr(self, name))
            if size is not None and not (isinstance(size, int | float) and 0 < size < math.inf):
                raise InputError(f"{name}={size!r}: give a number above 0.")
            object.__setattr__(self, name, size)
        if not all(0 <= beta < 1 for beta in self.betas):
            raise InputError(f"betas={tuple(self.betas)}: give decay rates of at least 0 and below 1.")
        if self.schedule not in SCHEDULES:
            raise InputError(f'schedule="{self.schedule}" is unknown: choose one of {", ".join(SCHEDULES)}.')
        if self.precision not in ("float32", "bfloat16", "auto"):
            raise InputError(f'precision="{self.precision}": choose "float32", "bfloat16" or "auto".')

    @classmethod
    def of(cls, model: object, **others: Any) -> "TrainingSettings":
        """The settings that a model has as attributes, and others that no model has, such as the seed."""
        return cls(**{name: getattr(model, name) for name in _HYPERPARAMETERS if hasattr(model, name)}, **others)

    def depends(self) -> dict[str, Any]:
        """What a training and the checkpoint that it continues from must share, for JSON."""
        names = [name for name in _HYPERPARAMETERS if name != "precision"]
        if self.max_seconds is not None:  # without a limit, as in checkpoints from before there were any
            names.append("max_seconds")
        return {name: getattr(self, name) for name in [*names, "seed"]} | {"betas": list(self.betas)}
