"""The state of a training: what its checkpoints hold, and its early stopping."""

import json
import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scattergen.errors import RunFolderError, ScattergenError
from scattergen.tensor_files import flatten_state, read_tensors_if_whole, take_state, write_tensors

Metrics = dict[str, float]
History = list[Metrics]
_PROGRESS = ("step", "seconds", "stopped", "history", "sums", "count", "best_loss", "epochs_since_best")


def _diverged(what: str, learning_rate: float) -> ScattergenError:
    return ScattergenError(
        f"The training diverged (the {what}): lower the learning rate (now {learning_rate:g}) and "
        "run the command again; finished stages are kept."
    )


class TrainingState:
    """Everything that a checkpoint holds, with the settings that it must have been made with."""

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        optimizers: Mapping[str, Any],
        generator: torch.Generator,
        settings: dict[str, Any],
        path: Path | None,
    ) -> None:
        self.modules, self.optimizers, self.generator = modules, optimizers, generator
        shapes = {name: list(tensor.shape) for name, tensor in self._parameters().items()}
        self.settings, self.path = settings | {"shapes": shapes}, path
        self.step, self.seconds, self.stopped = 0, 0.0, False
        self.history: History = []
        self.sums = {name: 0.0 for name in optimizers}
        self.count = 0
        self.best_loss, self.epochs_since_best = math.inf, 0
        self.best: dict[str, Tensor] = {}

    def add_loss(self, name: str, value: float, learning_rate: float) -> None:
        """Count the loss of a step, if it is finite."""
        if not math.isfinite(value):
            raise _diverged(f"loss of the {name} became {value} in step {self.step + 1}", learning_rate)
        self.sums[name] += value
        if name == next(reversed(self.sums)):
            self.count += 1

    def check_parameters(self, learning_rate: float) -> None:
        """Refuse a network whose last steps diverged."""
        for name, tensor in self._parameters().items():
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                raise _diverged(f"parameters {name} became infinite or NaN", learning_rate)

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
            raise RunFolderError(
                f"{self.path} is the checkpoint of a training with other settings or another network: "
                "use those again, or delete it."
            )
        try:
            self._adopt(tensors, metadata["progress"])
        # The file is whole, but not a checkpoint of this version.
        except (LookupError, TypeError, ValueError, RuntimeError) as error:
            raise RunFolderError(
                f"{self.path} is not a whole checkpoint ({type(error).__name__}): delete it and run the same command "
                "again."
            ) from error

    def _adopt(self, tensors: Mapping[str, Tensor], progress: dict[str, Any]) -> None:
        self.load_parameters(tensors)
        self.generator.set_state(tensors["generator"])
        for name, optimizer in self.optimizers.items():
            state: dict[int, dict[str, Tensor]] = {}
            for key, tensor in take_state(tensors, f"optimizers/{name}").items():
                index, entry = key.split("/")
                state.setdefault(int(index), {})[entry] = tensor
            optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
        self.best = take_state(tensors, "best")
        for name in _PROGRESS:
            setattr(self, name, progress[name])
        if self.best_loss is None:
            self.best_loss = math.inf
