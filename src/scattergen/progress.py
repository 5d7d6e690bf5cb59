"""Progress of long stages: a bar with time left on a terminal, a line now and then in a log."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from scattergen.terminal import visible

_LOG_EVERY = 15.0  # seconds between two lines when the output is not a terminal


class Task:
    """One stage whose steps are counted; made by `Progress.task`."""

    def __init__(self, description: str, total: int) -> None:
        self.description, self.total, self.completed, self.note = description, total, 0, ""

    def advance(self, steps: int = 1, note: str | None = None) -> None:
        """Count `steps` more steps done and show `note`, such as the current loss."""
        self.completed += steps
        self.note = self.note if note is None else visible(note)


class _BarTask(Task):
    def __init__(self, bars: Bars, description: str, total: int) -> None:
        super().__init__(description, total)
        self._bars, self._id = bars, bars.add_task(description, total=total, note="")

    def advance(self, steps: int = 1, note: str | None = None) -> None:
        super().advance(steps, note)
        self._bars.update(self._id, advance=steps, note=self.note)


class _LogTask(Task):
    def __init__(self, progress: "Progress", description: str, total: int) -> None:
        super().__init__(description, total)
        self._progress, self._start = progress, time.monotonic()
        self._next = self._start + _LOG_EVERY
        self._first: int | None = None

    def advance(self, steps: int = 1, note: str | None = None) -> None:
        super().advance(steps, note)
        now = time.monotonic()
        # A resumed stage starts with many steps at once, so the rate is that of the later ones.
        if self._first is None:
            self._first, self._start = self.completed, now
        if now >= self._next and self._first < self.completed < self.total:
            done = self.completed - self._first
            left = (now - self._start) / done * (self.total - self.completed)
            count, eta = f"{self.completed:,}/{self.total:,}", timedelta(seconds=round(left))
            self._progress.message(f"  {self.description}: {count}, {eta} left  {self.note}")
            self._next = now + _LOG_EVERY


class Progress:
    """Where stages report to.

    Args:
        show: True shows progress on standard error; False is silent.

    Example:
        >>> with Progress(show=False).task("encode", total=3) as task:
        ...     for _ in range(3):
        ...         task.advance()
        >>> task.completed
        3
    """

    def __init__(self, show: bool = True) -> None:
        self.show = show
        self.console = Console(file=sys.stderr, quiet=not show, soft_wrap=True)

    def message(self, text: str) -> None:
        """Print one line, whatever names in it hold."""
        self.console.print(visible(text), highlight=False, markup=False, emoji=False)

    @contextmanager
    def task(self, description: str, total: int) -> Iterator[Task]:
        """A stage of `total` steps."""
        start, description = time.monotonic(), visible(description)
        if not self.show:
            task = Task(description, total)
            yield task
            return
        if self.console.is_terminal:
            columns = (
                TextColumn("  {task.description}", markup=False), BarColumn(), MofNCompleteColumn(),
                TimeElapsedColumn(), TimeRemainingColumn(),
                TextColumn("{task.fields[note]}", markup=False),
            )  # fmt: skip
            with Bars(*columns, console=self.console, transient=True) as bars:
                task = _BarTask(bars, description, total)
                yield task
        else:
            task = _LogTask(self, description, total)
            yield task
        self.message(f"  {description}: {time.monotonic() - start:.1f} s  {task.note}")


SILENT = Progress(show=False)
"""Reports nothing."""
