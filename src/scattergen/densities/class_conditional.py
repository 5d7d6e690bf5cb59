"""One density per class, whatever the kind of density."""

import hashlib
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scattergen.calls.keywords import check_seed, whole_number
from scattergen.datasets.source import as_numpy
from scattergen.datasets.source import check_labels as check_integers
from scattergen.densities.display import DisplayedDensity
from scattergen.densities.protocol import Density, check_codes, check_count, check_fitted, hyperparameters, take_tensor
from scattergen.densities.registry import DENSITIES, density_class, make
from scattergen.densities.sampling import Labels, draw_in_chunks, sample_density, takes
from scattergen.display.progress import SILENT, Progress
from scattergen.errors import InputError, RunFolderError
from scattergen.files.tensors import flatten_state, read_tensors_if_whole, take_state, write_tensors

NAME = "class_conditional"


class ClassConditional(DisplayedDensity):
    r"""A density of every class, $p(z) = \sum_c p(c)\, p(z|c)$.

    The p(z|c) are densities of one kind with the same keywords, each fitted to the codes of its class; p(c) is the
    share of the class. `log_prob(z, labels=None)`, of p(z), or of p(z|c) with labels, exists if the kind has it.

    Args:
        density: Name of the kind.
        keywords: Its options; unknown ones are refused.
        classes: Names of the classes in the order of their labels 0 … C - 1; by default the labels.

    Attributes:
        densities_, weights_, classes_: The p(z|c), C of them; p(c), (C,), float32; names of the classes.
        history_: Rows of all densities in turn, with "class", "epoch" counted on and "seconds" summed up.

    Example:
        >>> z = torch.cat([torch.randn(100, 2) - 9, torch.randn(300, 2) + 9])
        >>> labels = torch.tensor([0] * 100 + [1] * 300)
        >>> by_class = ClassConditional("gaussian", classes=["low", "high"]).fit(z, labels)
        >>> by_class.sample(4, labels="high").min().item() > 0
        True
    """

    def __init__(
        self, density: str = "mixture", keywords: Mapping[str, Any] | None = None, classes: Sequence[str] | None = None
    ) -> None:
        if density == NAME:
            raise InputError(f'density="{density}": give the kind of the density of one class.')
        self.density = density
        # All of them, so that a stored density stays the same if a default changes.
        self.keywords = hyperparameters(make(density, **(keywords or {})))
        self.classes = None if classes is None else tuple(map(str, classes))
        if self.classes is not None and len(set(self.classes)) < max(len(self.classes), 1):
            raise InputError(f"classes={list(self.classes)}: give different names, at least one.")
        self.all_components = getattr(density_class(density), "all_components", False)
        # An attribute of the object, not of the class, as `LikelihoodDensity` asks for.
        if hasattr(density_class(density), "log_prob"):
            self.log_prob = self._log_prob

    def _make(self) -> Density:
        return make(self.density, **self.keywords)

    @property
    def description(self) -> str:
        """One line for reports."""
        if not hasattr(self, "n_features_"):
            return f"one density per class: {self._make().description}"
        names = ", ".join(self.classes_[:10]) + (" …" if len(self.classes_) > 10 else "")
        each = f"each with a density of its own; the first: {self.densities_[0].description}"
        return f"{len(self.classes_)} classes ({names}), {each}"

    def check_count(self, n: int) -> None:
        """Refuse fewer codes than one class needs."""
        check_count(self._make(), n)

    def fit(
        self, z: Tensor, labels: Tensor | NDArray[Any] | Sequence[int] | None = None, *, seed: int = 0,
        progress: Progress = SILENT, device: str = "cpu", checkpoint: Path | None = None,
    ) -> Self:  # fmt: skip
        """Fit the density of every class, as `Density.fit` says, to codes of which each 0 … C - 1 is a label, (N,).

        Finished classes are kept beside `checkpoint`; those of another fit are refused with a `RunFolderError`.
        """
        z, seed = check_codes(z, self).detach().cpu(), check_seed(seed)
        numbers = check_labels(labels, len(z))
        names = self._class_names(numbers)
        counts = torch.bincount(numbers).tolist()
        for name, count in zip(names, counts, strict=True):
            with _in_class(name):
                self.check_count(count)
        rows = numbers.argsort(stable=True).split(counts)
        densities = [self._make() for _ in names]
        for c, density in enumerate(densities):
            codes = z[rows[c]]
            kept = None if checkpoint is None else _Kept(checkpoint, c, self, seed, codes)
            if kept is not None and kept.restore(density):
                continue
            start = time.monotonic()
            progress.message(f"  class {names[c]} ({c + 1} of {len(names)})")
            own_seed, file = _seed_of_class(seed, c), None if kept is None else kept.training
            with _in_class(names[c]):
                density.fit(codes, seed=own_seed, progress=progress, device=device, checkpoint=file)
            if not getattr(density, "history_", None):  # which a user's density may lack
                density.history_ = [{"epoch": 1, "seconds": time.monotonic() - start}]  # type: ignore[attr-defined]
            if kept is not None:
                kept.write(density)
        self._adopt(torch.tensor(counts) / len(z), densities, names)
        return self

    def _class_names(self, numbers: Tensor) -> tuple[str, ...]:
        """Names of the classes, each of which must have a code."""
        there = numbers.unique().tolist()
        names = self.classes or tuple(map(str, there))
        if self.classes is not None and there[-1] >= len(names):
            problem = f"Label {there[-1]} of code {int(numbers.argmax())} is none of the {len(names)} classes"
            raise InputError(f"{problem} {', '.join(names[:10])}: give all their names in the order of the labels.")
        missing = next((c for c in range(len(names)) if c not in there), None)
        if missing is not None:
            which = f"has label {missing}" if self.classes is None else f'is of class "{names[missing]}"'
            problem = f"No code {which}: leave out classes without codes"
            raise InputError(f"{problem}, and number the others by labels.unique(return_inverse=True)[1].")
        return names

    def _adopt(self, weights: Tensor, densities: list[Density], names: tuple[str, ...]) -> None:
        self.weights_, self.densities_, self.classes_ = weights, densities, names
        self.n_features_ = densities[0].n_features_  # type: ignore[attr-defined]
        self.history_: list[dict[str, float]] = []
        for c, density in enumerate(densities):
            before = self.history_[-1]["seconds"] if self.history_ else 0.0
            for row in getattr(density, "history_", []):
                counted = {"epoch": len(self.history_) + 1, "seconds": before + row["seconds"]}
                self.history_.append({"class": c, **row, **counted})

    def sample(self, n: int, *, seed: int = 0, temperature: float = 1.0, labels: Labels | None = None) -> Tensor:
        """Draw codes (n, d) of given classes, or of classes drawn by their shares, as `Density.sample` says.

        Code k depends on `seed` and the labels up to k only: the class of all codes, or of each, (n,), number or name.
        """
        check_fitted(self)
        n, seed = whole_number("n", n), check_seed(seed)
        numbers = self.sample_labels(n, seed=seed) if labels is None else label_numbers(labels, n, self.classes_)
        codes = torch.empty(n, self.n_features_)
        for c, density in enumerate(self.densities_):
            rows = (numbers == c).nonzero()[:, 0]
            if len(rows) or c == 0:  # which checks the temperature in any case
                codes[rows] = sample_density(density, len(rows), seed=_seed_of_class(seed, c), temperature=temperature)
        return codes

    def sample_labels(self, n: int, *, seed: int = 0) -> Tensor:
        """The classes that `sample` draws without labels, (n,), int64."""
        check_fitted(self)
        return draw_in_chunks(n, seed, lambda noise, size: noise.choice(self.weights_, size)[:, None])[:, 0].long()

    def _log_prob(self, z: Tensor, labels: Labels | None = None) -> Tensor:
        """Exact logarithm of p(z), or with labels of p(z|c), in nats: (N,), with the type and device of `z`."""
        check_fitted(self)
        z = check_codes(z, n_features=self.n_features_)
        numbers = None if labels is None else label_numbers(labels, len(z), self.classes_)
        total = torch.full_like(z[:, 0], -torch.inf)
        weights = self.weights_.double() / self.weights_.double().sum()
        for c, (weight, density) in enumerate(zip(weights, self.densities_, strict=True)):
            if numbers is None:
                logs = density.log_prob(z)  # type: ignore[attr-defined]
                total = torch.logaddexp(total, weight.log().to(z) + logs)
            elif (numbers == c).any():
                rows = (numbers == c).to(z.device)
                total[rows] = density.log_prob(z[rows])  # type: ignore[attr-defined]
        return total

    def state_dict(self) -> dict[str, Tensor]:
        """Everything fitted, as named tensors: those of class c begin with "c/"."""
        check_fitted(self)
        state = {"weights": self.weights_}
        for c, density in enumerate(self.densities_):
            state |= flatten_state(str(c), density.state_dict())
        return state

    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Become the fitted density that `state_dict` was taken from."""
        weights = take_tensor(tensors, "weights", (None if self.classes is None else len(self.classes),))
        names = self.classes or tuple(map(str, range(len(weights))))
        densities = [self._make() for _ in names]
        for c, density in enumerate(densities):
            density.load_state_dict(take_state(tensors, str(c)))
        self._adopt(weights, densities, names)


DENSITIES[NAME] = ClassConditional


def needs_labels(name: str) -> bool:
    """Whether a registered density is class-conditional by itself: its `fit` takes labels.

    Example:
        >>> needs_labels("class_conditional"), needs_labels("mixture")
        (True, False)
    """
    return takes(density_class(name).fit, "labels")


def make_for_classes(name: str, keywords: Mapping[str, Any] | None, classes: Sequence[str] | None) -> Density:
    """Make one unfitted density per class as `ClassConditional` does, or a density that is class-conditional itself.

    Example:
        >>> make_for_classes("vae", {"beta": 0.01}, ["cat", "dog"]).keywords["beta"]
        0.01
    """
    if not needs_labels(name):
        return ClassConditional(name, keywords, classes)
    keywords = dict(keywords or {})
    if takes(density_class(name), "classes"):
        keywords.setdefault("classes", classes)
    return make(name, **keywords)


class _Kept:
    """The files beside a checkpoint in which one class of an unfinished fit is kept."""

    def __init__(self, checkpoint: Path, c: int, owner: ClassConditional, seed: int, codes: Tensor) -> None:
        self.training = checkpoint.with_name(f"{checkpoint.stem}-{c}{checkpoint.suffix}")
        self.finished = checkpoint.with_name(f"{checkpoint.stem}-{c}-fitted{checkpoint.suffix}")
        digest = hashlib.sha256(np.ascontiguousarray(codes.numpy()).data).hexdigest()
        self.belongs_to = {"hyperparameters": hyperparameters(owner), "seed": seed, "codes": digest}

    def restore(self, density: Density) -> bool:
        """Load the class if it is finished."""
        if not self.finished.exists():
            return False
        found = read_tensors_if_whole(self.finished)
        if found is None:
            warnings.warn(f"{self.finished} is damaged: its class is fitted anew.", stacklevel=2)
            return False
        if found[1] != self.belongs_to:
            problem = f"{self.finished} is the finished class of a fit with other settings or codes"
            raise RunFolderError(f"{problem}: use those again, or delete it.")
        density.load_state_dict(found[0])
        return True

    def write(self, density: Density) -> None:
        """Keep the finished class, and not its training any longer."""
        write_tensors(self.finished, density.state_dict(), self.belongs_to)
        self.training.unlink(missing_ok=True)


def _seed_of_class(seed: int, c: int) -> int:
    return int(np.random.SeedSequence([seed, c]).generate_state(1)[0])


@contextmanager
def _in_class(name: str) -> Iterator[None]:
    """Say the name of a class that something is refused for."""
    try:
        yield
    except InputError as error:
        raise InputError(f'Class "{name}": {error}') from error


def check_labels(labels: Any, n: int) -> Tensor:
    """The labels as int64 (n,) on the CPU, if they are `n` whole numbers of at least 0."""
    if labels is None:
        raise InputError("A class-conditional density needs labels: call fit(z, labels) with one for every code.")
    values = as_numpy(labels)
    check_integers(values, n, "the codes")
    if n and values.min() < 0:
        problem = f"Label {values.min()} of code {values.argmin()} is negative"
        raise InputError(f"{problem}: number the classes from 0, and leave out codes without a class.")
    return torch.from_numpy(values.astype(np.int64))


def label_numbers(labels: Labels, n: int, classes: Sequence[str]) -> Tensor:
    """Numbers (n,), int64, of the classes that a user asks for: one for all or one for each, by name or number."""
    values = np.asarray(labels.detach().cpu().numpy() if isinstance(labels, Tensor) else labels, dtype=object)
    if values.ndim == 0:
        return torch.full((n,), _number(values.item(), classes))
    if values.shape != (n,):
        problem = f"{n} codes were asked for, but labels of shape {values.shape} given"
        raise InputError(f"{problem}: give one label for all, or one for each.")
    numbers = {label: _number(label, classes) for label in dict.fromkeys(values)}
    return torch.tensor([numbers[label] for label in values], dtype=torch.int64)


def _number(label: Any, classes: Sequence[str]) -> int:
    """The number of one class, given by its name, or by its number as a whole number or as text."""
    if isinstance(label, str) and label in classes:
        return list(classes).index(label)
    if isinstance(label, str):
        # Where names are numbers, the position of a class would be mistaken for one of them.
        is_number = label.isdecimal() and not any(name.isdecimal() for name in classes)
    else:
        is_number = isinstance(label, int | np.integer) and not isinstance(label, bool)
    number = int(label) if is_number else -1
    if not 0 <= number < len(classes):
        shown = ", ".join(classes[:20]) + (" …" if len(classes) > 20 else "")
        problem = f"There is no class {label!r}"
        raise InputError(f"{problem}: choose among {shown} (as text), or a number from 0 to {len(classes) - 1}.")
    return number
